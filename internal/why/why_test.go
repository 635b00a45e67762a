package why

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/internal/kinds"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// thing is an object and its kind.
type thing struct {
	kind *kinds.Kind
	obj  kinds.Object
}

// cluster is a Source that holds things, and lets some kinds not be read.
type cluster struct {
	things  []thing
	refused []*kinds.Kind
	reads   int
}

func (c *cluster) may(k *kinds.Kind) error {
	c.reads++
	if slices.Contains(c.refused, k) {
		return apierrors.NewForbidden(k.GroupResource(), "", errors.New("no"))
	}
	return nil
}

func (c *cluster) Get(_ context.Context, ref kinds.Ref) (runtime.Object, error) {
	if err := c.may(ref.Kind); err != nil {
		return nil, err
	}
	for _, x := range c.things {
		if x.kind == ref.Kind && x.obj.GetName() == ref.Name && x.obj.GetNamespace() == ref.Namespace {
			return x.obj, nil
		}
	}
	return nil, apierrors.NewNotFound(ref.Kind.GroupResource(), ref.Name)
}

func (c *cluster) List(_ context.Context, k *kinds.Kind, namespace string, o metav1.ListOptions) (runtime.Object, error) {
	if err := c.may(k); err != nil {
		return nil, err
	}
	s, err := labels.Parse(o.LabelSelector)
	if err != nil {
		return nil, err
	}
	var items []runtime.Object
	for _, x := range c.things {
		e, isEvent := x.obj.(*corev1.Event)
		if x.kind == k && (namespace == "" || x.obj.GetNamespace() == namespace) && s.Matches(labels.Set(x.obj.GetLabels())) &&
			(!isEvent || "involvedObject.uid="+string(e.InvolvedObject.UID) == o.FieldSelector) {
			items = append(items, x.obj)
		}
	}
	list := k.NewList()
	return list, meta.SetList(list, items)
}

func named(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}
}

func event(about, kind, reason, message string) thing {
	return thing{kinds.Event, &corev1.Event{ObjectMeta: named(about + reason), InvolvedObject: corev1.ObjectReference{UID: types.UID(about)},
		Type: kind, Reason: reason, Message: message, LastTimestamp: metav1.NewTime(now)}}
}

func aPod(name string, change func(*corev1.Pod)) thing {
	p := &corev1.Pod{ObjectMeta: named(name), Spec: corev1.PodSpec{NodeName: "n", SchedulerName: corev1.DefaultSchedulerName, RestartPolicy: corev1.RestartPolicyAlways,
		Containers: []corev1.Container{{Name: "c", Image: "i"}}}, Status: corev1.PodStatus{Phase: corev1.PodPending, StartTime: &metav1.Time{Time: now}}}
	change(p)
	return thing{kinds.Pod, p}
}

func pending(message string, volumes ...corev1.Volume) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.NodeName, p.Spec.Volumes = "", volumes
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: message}}
	}
}

func ofClaim(name string) corev1.Volume {
	return corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}
}

// claiming is a pod without a node that names a claim to devices.
func claiming(name, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		pending(message)(p)
		p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "dev", ResourceClaimName: &name}}
	}
}

func asking(name corev1.ResourceName, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		pending(message)(p)
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{name: resource.MustParse("1")}
	}
}

func devices(name, class string) thing {
	c := &resourcev1.ResourceClaim{ObjectMeta: named(name)}
	c.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: class}}}
	return thing{kinds.ResourceClaim, c}
}

func aClaim(change func(*corev1.PersistentVolumeClaim)) thing {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: named("data"), Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	change(c)
	return thing{kinds.PersistentVolumeClaim, c}
}

func refusedSet(message string) thing {
	rs := &appsv1.ReplicaSet{ObjectMeta: named("web"), Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](2), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}}
	rs.Status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: message}}
	return thing{kinds.ReplicaSet, rs}
}

func scaler(t autoscalingv2.HorizontalPodAutoscalerConditionType, reason, message string) thing {
	h := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: named("web")}
	h.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}
	h.Status.Conditions = []autoscalingv2.HorizontalPodAutoscalerCondition{{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: message}}
	return thing{kinds.HorizontalPodAutoscaler, h}
}

// limited is an autoscaler that works, within a limit.
func limited(reason string) thing {
	x := scaler(autoscalingv2.ScalingLimited, reason, "")
	h := x.obj.(*autoscalingv2.HorizontalPodAutoscaler)
	h.Spec.MaxReplicas, h.Status.Conditions[0].Status = 4, corev1.ConditionTrue
	return x
}

func aBudget(want, expected, healthy int32) thing {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: named("pdb"), Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}}
	b.Status = policyv1.PodDisruptionBudgetStatus{DesiredHealthy: want, ExpectedPods: expected, CurrentHealthy: healthy, DisruptionsAllowed: max(0, healthy-want)}
	return thing{kinds.PodDisruptionBudget, b}
}

// ended is a container that has come to a bad end.
func ended(container string, restarts int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: container, RestartCount: restarts, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3}}}}
	}
}

func aDeployment(replicas, available int32) thing {
	d := &appsv1.Deployment{ObjectMeta: named("web"), Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}}
	d.Status = appsv1.DeploymentStatus{Replicas: replicas, UpdatedReplicas: replicas, AvailableReplicas: available}
	return thing{kinds.Deployment, d}
}

func aNode(change func(*corev1.Node)) thing {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "n"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
	change(n)
	return thing{kinds.Node, n}
}

func waits(reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}
	}
}

func TestRules(t *testing.T) {
	const unbound = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."
	hook := func(w ...string) thing {
		c := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "guards"}}
		for _, name := range w {
			c.Webhooks = append(c.Webhooks, admissionv1.ValidatingWebhook{Name: name})
		}
		return thing{kinds.ValidatingWebhookConfiguration, c}
	}
	class := func(change func(*storagev1.StorageClass)) thing {
		c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Provisioner: "example.com/p"}
		change(c)
		return thing{kinds.StorageClass, c}
	}
	fast := func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = ptr.To("fast") }
	for _, tt := range []struct {
		name    string
		things  []thing // the first is asked about
		refused []*kinds.Kind
		want    []string // each link, as OBJECT: part of what is said
		remedy  string   // of the first
	}{
		{name: "missing claim to devices", things: []thing{aPod("p", claiming("gpu", `could not find ResourceClaim "ns/gpu"`))},
			want: []string{"ResourceClaim ns/gpu: it does not exist", `Pod ns/p: could not find`}, remedy: "create it"},
		{name: "missing template", things: []thing{aPod("p", func(p *corev1.Pod) {
			p.Spec.NodeName, p.Spec.ResourceClaims = "", []corev1.PodResourceClaim{{Name: "dev", ResourceClaimTemplateName: ptr.To("t")}}
		})}, want: []string{"ResourceClaimTemplate ns/t: it does not exist", "Pod ns/p: it waits for its claim dev"}, remedy: "create it"},
		{name: "a claim that cannot be made", things: []thing{aPod("p", func(p *corev1.Pod) {
			p.Spec.NodeName, p.Spec.ResourceClaims = "", []corev1.PodResourceClaim{{Name: "dev", ResourceClaimTemplateName: ptr.To("t")}}
		}), {kinds.ResourceClaimTemplate, &resourcev1.ResourceClaimTemplate{ObjectMeta: named("t")}}, event("p", "Warning", "FailedResourceClaimCreation", "PodResourceClaim dev: no quota")},
			want: []string{"Pod ns/p: PodResourceClaim dev: no quota", "Pod ns/p: it waits for its claim dev"}},
		{name: "missing class of devices", things: []thing{aPod("p", claiming("gpu", "0/1 nodes are available: request r: device class big does not exist.")), devices("gpu", "big")},
			want: []string{"DeviceClass big: it does not exist", "ResourceClaim ns/gpu: it asks for devices of a class that is not there", "Pod ns/p: 0/1 nodes"}, remedy: "install the driver"},
		{name: "no devices", things: []thing{aPod("p", claiming("gpu", "0/1 nodes are available: 1 cannot allocate all claims. It would fit on n with devices for the requests of its claim gpu: r (class big).")), devices("gpu", "big"),
			{kinds.DeviceClass, &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "big"}}}},
			want: []string{"ResourceSlice *: there is none: no driver offers devices", "Pod ns/p: 0/1 nodes are available: 1 cannot allocate all claims."}, remedy: "install the driver"},
		{name: "devices, but not those", things: []thing{aPod("p", claiming("gpu", "0/1 nodes are available: 1 cannot allocate all claims. It would fit on n with devices for the requests of its claim gpu: r (class big).")), devices("gpu", "big"),
			{kinds.DeviceClass, &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "big"}}}, {kinds.ResourceSlice, &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}}}}, refused: []*kinds.Kind{kinds.Node},
			want: []string{"Pod ns/p: 0/1 nodes are available: 1 cannot allocate all claims."}, remedy: "it would fit on n with devices for the requests of its claim gpu: r (class big)"},
		{name: "an extended resource, but no devices", things: []thing{aPod("p", asking("x.y/gpu", "0/1 nodes are available: 1 cannot allocate all claims. still not schedulable"))},
			want: []string{"ResourceSlice *: there is none: no driver offers devices", "Pod ns/p: 0/1 nodes are available: 1 cannot allocate all claims."}, remedy: "install the driver"},
		{name: "an extended resource of a missing class", things: []thing{aPod("p", asking("deviceclass.resource.kubernetes.io/big", "0/1 nodes are available: 1 Insufficient deviceclass.resource.kubernetes.io/big."))},
			want: []string{"DeviceClass big: it does not exist", "Pod ns/p: 0/1 nodes are available: 1 Insufficient"}, remedy: "install the driver"},
		{name: "an extended resource that nobody has", things: []thing{aPod("p", asking("x.y/gpu", "0/1 nodes are available: 1 Insufficient x.y/gpu.")), aNode(func(n *corev1.Node) { n.Status.Allocatable = corev1.ResourceList{"pods": resource.MustParse("9")} })},
			want: []string{"Pod ns/p: 0/1 nodes are available: 1 Insufficient x.y/gpu."}, remedy: "it would fit on n with 1 x.y/gpu from a device plugin or a DeviceClass with this extendedResourceName"},
		{name: "missing claim", things: []thing{aPod("p", pending(`persistentvolumeclaim "data" not found`, ofClaim("data")))},
			want: []string{"PersistentVolumeClaim ns/data: it does not exist", `Pod ns/p: persistentvolumeclaim "data" not found`}, remedy: "create it"},
		{name: "unbound claim of a missing class", things: []thing{aPod("p", pending(unbound, ofClaim("data"))), aClaim(fast)},
			want: []string{"StorageClass fast: it does not exist", "PersistentVolumeClaim ns/data: it is not bound", "Pod ns/p: " + unbound}},
		{name: "failed provisioning", things: []thing{aPod("p", pending(unbound, ofClaim("data"))), aClaim(fast), class(func(*storagev1.StorageClass) {}), event("data", "Warning", "ProvisioningFailed", "out of space")},
			want: []string{"PersistentVolumeClaim ns/data: no volume is made for it: out of space", "Pod ns/p: 0/1"}},
		{name: "late binding and a pod without a node", things: []thing{aClaim(fast), class(func(c *storagev1.StorageClass) {
			c.VolumeBindingMode = ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)
		}), aPod("p", pending("0/1 nodes are available: 1 Insufficient cpu. preemption: none. It would fit on n with 1 less cpu requested.", ofClaim("data")))}, refused: []*kinds.Kind{kinds.Node},
			want: []string{"Pod ns/p: 0/1 nodes are available: 1 Insufficient cpu", "PersistentVolumeClaim ns/data: it is bound when pod p has a node"}, remedy: "it would fit on n with 1 less cpu requested"},
		{name: "late binding and no volume", things: []thing{aClaim(fast), class(func(c *storagev1.StorageClass) {
			c.VolumeBindingMode = ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)
		}), aPod("p", pending("0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind. preemption: none. It would fit on n with 1 PersistentVolume of class fast with 1Gi.", ofClaim("data")))}, refused: []*kinds.Kind{kinds.Node},
			want: []string{"Pod ns/p: 0/1 nodes are available: 1 node(s) didn't find", "PersistentVolumeClaim ns/data: it is bound when pod p has a node"}, remedy: "it would fit on n with 1 PersistentVolume of class fast with 1Gi"},
		{name: "a volume that is not made", things: []thing{aPod("p", pending(`running PreBind plugin "VolumeBinding": binding volumes: context deadline exceeded`, ofClaim("data"))), class(func(c *storagev1.StorageClass) {
			c.VolumeBindingMode = ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)
		}), aClaim(func(c *corev1.PersistentVolumeClaim) {
			fast(c)
			c.Annotations = map[string]string{selectedNode: "n"}
		})},
			want: []string{"PersistentVolumeClaim ns/data: it waits for the provisioner", "Pod ns/p: it is going to node n, and waits for its volumes"}},
		{name: "late binding and no pod", things: []thing{aClaim(fast), class(func(c *storagev1.StorageClass) {
			c.VolumeBindingMode = ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)
		})}, want: []string{"PersistentVolumeClaim ns/data: it is bound when the first pod uses it"}},
		{name: "lost claim", things: []thing{aClaim(func(c *corev1.PersistentVolumeClaim) { c.Status.Phase, c.Spec.VolumeName = corev1.ClaimLost, "pv" })},
			want: []string{"PersistentVolume pv: it does not exist", "PersistentVolumeClaim ns/data: its volume is lost"}},
		{name: "claim in use", things: []thing{aClaim(func(c *corev1.PersistentVolumeClaim) {
			c.DeletionTimestamp, c.Finalizers = &metav1.Time{Time: now}, []string{"kubernetes.io/pvc-protection"}
		}), aPod("p", func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{ofClaim("data")} })},
			want: []string{"Pod ns/p: it uses the claim data", "PersistentVolumeClaim ns/data: it is being deleted, and waits until no pod uses it"}},
		{name: "webhook refuses", things: []thing{refusedSet(`admission webhook "w.example.com" denied the request: not on Fridays`), hook("v.example.com", "w.example.com")},
			want: []string{"ValidatingWebhookConfiguration guards: its webhook w.example.com refuses the pods: not on Fridays", "ReplicaSet ns/web: it cannot make its pods"}},
		{name: "webhook away", things: []thing{refusedSet(`Internal error occurred: failed calling webhook "w.example.com": failed to call webhook: connection refused`), hook("w.example.com")},
			want: []string{"ValidatingWebhookConfiguration guards: its webhook w.example.com cannot be asked: failed to call webhook: connection refused", "ReplicaSet ns/web: it cannot make"}, remedy: "see to the service behind it; or set its failurePolicy to Ignore"},
		{name: "policy", things: []thing{refusedSet(`pods "x" is forbidden: ValidatingAdmissionPolicy 'no-pods' with binding 'b' denied request: no pods here`)},
			want: []string{"ValidatingAdmissionPolicy no-pods: it refuses the pods: no pods here", "ReplicaSet ns/web"}},
		{name: "mutating policy", things: []thing{refusedSet(`pods "x" is forbidden: policy 'labels' with binding 'b' denied request: no such field`)},
			want: []string{"MutatingAdmissionPolicy labels: it refuses the pods: no such field", "ReplicaSet ns/web"}},
		{name: "quota, twice", things: []thing{refusedSet(`pods "x" is forbidden: exceeded quota: q, requested: cpu=500m,pods=1, used: cpu=900m,pods=3, limited: cpu=1,pods=3`)},
			want: []string{"ResourceQuota ns/q: it leaves no room", "ReplicaSet ns/web"}, remedy: "raise its spec.hard (cpu by 400m, pods by 1), or free as much"},
		{name: "namespace that ends", things: []thing{refusedSet(`pods "x" is forbidden: unable to create new content in namespace ns because it is being terminated`)},
			want: []string{"Namespace ns: it is being deleted", "ReplicaSet ns/web"}},
		{name: "refused as such", things: []thing{refusedSet(`Pod "x" is invalid: spec.containers: Required value`)},
			want: []string{`ReplicaSet ns/web: it cannot make its pods: Pod "x" is invalid`}},
		{name: "autoscaler of nothing", things: []thing{scaler(autoscalingv2.AbleToScale, "FailedGetScale", `deployments.apps "web" not found`)},
			want: []string{"Deployment ns/web: it does not exist", "HorizontalPodAutoscaler ns/web: it does not scale (FailedGetScale)"}},
		{name: "autoscaler without requests", things: []thing{scaler(autoscalingv2.ScalingActive, "FailedGetResourceMetric", "the HPA was unable to compute the replica count: missing request for cpu in container c of Pod web-1"), aDeployment(2, 2)},
			want: []string{"Deployment ns/web: container c of its pods requests no cpu", "HorizontalPodAutoscaler ns/web"}, remedy: "set resources.requests.cpu of container c"},
		{name: "autoscaler of what does not run", things: []thing{scaler(autoscalingv2.ScalingActive, "FailedGetResourceMetric", "no metrics returned from resource metrics API"), aDeployment(2, 0)},
			want: []string{"Deployment ns/web: 0 of 2 pods are available", "HorizontalPodAutoscaler ns/web"}},
		{name: "autoscaler of what is off", things: []thing{scaler(autoscalingv2.ScalingActive, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero"), aDeployment(0, 0)},
			want: []string{"Deployment ns/web: it is scaled to zero", "HorizontalPodAutoscaler ns/web"}},
		{name: "cordoned node", things: []thing{aNode(func(n *corev1.Node) { n.Spec.Unschedulable = true })}, want: []string{"Node n: it is cordoned"}, remedy: "`kubectl uncordon n`"},
		{name: "node under pressure", things: []thing{aNode(func(n *corev1.Node) {
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue, Message: "little is left"})
		})}, want: []string{"Node n: DiskPressure: little is left"}},
		{name: "healthy node", things: []thing{aNode(func(*corev1.Node) {})}},
		{name: "pod on no node", things: []thing{aPod("p", func(p *corev1.Pod) { p.Status.StartTime = nil })}, want: []string{"Node n: it does not exist", "Pod ns/p: it is bound to node n, which does not exist"}},
		{name: "sandbox without its runtime", things: []thing{aPod("p", func(p *corev1.Pod) {
			p.Spec.RuntimeClassName = ptr.To("kata")
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse}}
		}), event("p", "Warning", "FailedCreatePodSandBox", `Failed to create pod sandbox: no runtime handler "kata" configured`)},
			want: []string{"RuntimeClass kata: its handler is not one", "Pod ns/p: its sandbox cannot be made: no runtime handler"}},
		{name: "resize", things: []thing{aPod("p", func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: "Deferred", Message: "no cpu"}}
		})}, want: []string{"Pod ns/p: it runs, but its resize waits (Deferred): no cpu"}},
		{name: "advice is told once", things: []thing{aPod("p", pending("0/1 nodes are available: 1 Insufficient cpu. preemption: none. It would fit on n with 1 less cpu requested."))}, refused: []*kinds.Kind{kinds.Node},
			want: []string{"Pod ns/p: 0/1 nodes are available: 1 Insufficient cpu."}, remedy: "it would fit on n with 1 less cpu requested"},
		{name: "first run", things: []thing{aPod("p", ended("c", 0))}, want: []string{"Pod ns/p: container c ended with exit code 3"}, remedy: "see `kubectl logs -n ns p -c c`"},
		{name: "later run", things: []thing{aPod("p", func(p *corev1.Pod) {
			ended("c", 2)(p)
			s := &p.Status.ContainerStatuses[0]
			s.LastTerminationState, s.State = s.State, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
		})}, want: []string{"Pod ns/p: container c ended with exit code 3 (restarted 2 times)"}, remedy: "see `kubectl logs -n ns p -c c --previous`"},
		{name: "a crash beside what is not ready", things: []thing{aPod("p", func(p *corev1.Pod) {
			ended("c", 0)(p)
			p.Status.ContainerStatuses = append([]corev1.ContainerStatus{{Name: "a", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}, p.Status.ContainerStatuses...)
		})}, want: []string{"Pod ns/p: container c ended with exit code 3"}},
		{name: "host path", things: []thing{aPod("p", func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse}}
		}), event("p", "Warning", "FailedMount", `MountVolume.SetUp failed for volume "v" : hostPath type check failed: stat /no: no such file or directory`)},
			want: []string{"Pod ns/p: its volumes cannot be set up"}, remedy: "make that path on node n"},
		{name: "autoscaler at its end", things: []thing{limited("TooManyReplicas")}, want: []string{"HorizontalPodAutoscaler ns/web: its metrics ask for more pods than its maxReplicas, 4, allow"}, remedy: "raise spec.maxReplicas"},
		{name: "autoscaler at its least", things: []thing{limited("TooFewReplicas")}},
		{name: "two autoscalers", things: []thing{scaler(autoscalingv2.ScalingActive, "AmbiguousSelector", "more than one"), aDeployment(2, 2)},
			want: []string{"HorizontalPodAutoscaler ns/web: it does not scale (AmbiguousSelector)"}, remedy: "leave one autoscaler"},
		{name: "budget with room", things: []thing{aBudget(2, 3, 3)}},
		{name: "budget of nothing", things: []thing{aBudget(1, 0, 0)}, want: []string{"PodDisruptionBudget ns/pdb: it guards nothing"}, remedy: "correct spec.selector"},
		{name: "budget of all", things: []thing{aBudget(2, 2, 2)}, want: []string{"PodDisruptionBudget ns/pdb: it never allows an eviction: all of its 2 pods"}, remedy: "lower minAvailable"},
		{name: "budget of the sick", things: []thing{aBudget(1, 1, 0), aPod("p", func(p *corev1.Pod) { ended("c", 0)(p); p.Labels = map[string]string{"a": "b"} })},
			want: []string{"Pod ns/p: container c ended with exit code 3", "PodDisruptionBudget ns/pdb: it allows no eviction: 0 of 1 pods are healthy, and 1 have to be so"}},
		{name: "budget in use", things: []thing{func() thing {
			b := aBudget(2, 3, 3)
			b.obj.(*policyv1.PodDisruptionBudget).Status.DisruptionsAllowed = 0
			return b
		}()}},
		{name: "budget of the ownerless", things: []thing{func() thing {
			b := aBudget(0, 3, 0)
			b.obj.(*policyv1.PodDisruptionBudget).Status.Conditions = []metav1.Condition{{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason, Message: "no controllers"}}
			return b
		}()}, want: []string{"PodDisruptionBudget ns/pdb: it allows no eviction, since what it asks for cannot be worked out: no controllers"}},
		{name: "policy that nobody enforces", things: []thing{{kinds.NetworkPolicy, &networkingv1.NetworkPolicy{ObjectMeta: named("np")}}},
			want: []string{"NetworkPolicy ns/np: this version of knarr stores NetworkPolicy objects but does not act on them yet"}},
		{name: "ingress that nobody serves", things: []thing{{kinds.Ingress, &networkingv1.Ingress{ObjectMeta: named("i")}}},
			want: []string{"Ingress ns/i: this version of knarr stores Ingress"}},
		{name: "ingress of another controller", things: []thing{{kinds.Ingress, &networkingv1.Ingress{ObjectMeta: named("i"),
			Status: networkingv1.IngressStatus{LoadBalancer: networkingv1.IngressLoadBalancerStatus{Ingress: []networkingv1.IngressLoadBalancerIngress{{IP: "192.0.2.1"}}}}}}}},
		{name: "events that may not be read", things: []thing{aPod("p", waits("ContainerCreating", ""))}, refused: []*kinds.Kind{kinds.Event},
			want: []string{"Event ns/*: you may not read events", "Pod ns/p: container c is being made"}},
		{name: "old pods that stay", things: []thing{func() thing {
			d := aDeployment(1, 1)
			d.obj.(*appsv1.Deployment).Status.Replicas = 2
			return d
		}()}, want: []string{"Deployment ns/web: 1 of 1 pods are available; 1 of an older template are not replaced yet"}},
		{name: "pods that may not be read", things: []thing{aDeployment(2, 0)}, refused: []*kinds.Kind{kinds.ReplicaSet},
			want: []string{"ReplicaSet ns/*: you may not read replicasets", "Deployment ns/web: 0 of 2"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &cluster{things: tt.things, refused: tt.refused}
			links, err := Ask(t.Context(), c, now, tt.things[0].kind, tt.things[0].obj)
			if err != nil {
				t.Fatal(err)
			}
			ok := len(links) == len(tt.want)
			for i := range min(len(links), len(tt.want)) {
				ok = ok && strings.HasPrefix(links[i].Object.String()+": "+links[i].What, tt.want[i])
			}
			if !ok || tt.remedy != "" && !strings.HasPrefix(links[0].Remedy, tt.remedy) {
				t.Errorf("got  %+v\nwant %q, %s", links, tt.want, tt.remedy)
			}
			for _, l := range links {
				if l.Remedy != "" && strings.Contains(strings.ToLower(l.What), strings.ToLower(l.Remedy)) {
					t.Errorf("its remedy is told twice: %+v", l)
				}
			}
			if c.reads > 30 {
				t.Errorf("%d reads", c.reads)
			}
		})
	}
}

func TestConditionsOfOthers(t *testing.T) {
	k := &kinds.Kind{GVK: schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Widget"}, Resource: "widgets", Namespaced: true}
	widget := func(conditions ...any) *unstructured.Unstructured {
		u := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "w", "namespace": "ns"}, "status": map[string]any{"conditions": conditions}}}
		return u
	}
	c := func(kind, status, message string) any {
		return map[string]any{"type": kind, "status": status, "reason": "R", "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"}
	}
	for _, tt := range []struct {
		obj  *unstructured.Unstructured
		want string
	}{
		{widget(c("Ready", "True", "")), ""},
		{widget(c("Ready", "False", "no disk")), "its condition Ready is False: R: no disk"},
		{widget(c("Ready", "False", "sum"), c("Synced", "False", "no rights")), "its condition Synced is False: R: no rights"},
		{widget(c("Stalled", "True", "stuck")), "its condition Stalled is True: R: stuck"},
		{widget(c("Sunny", "False", "rain")), ""},
		{widget("odd"), ""},
		{&unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"conditions": "odd"}}}, ""},
	} {
		links, wants := Explain(&Facts{Now: now}, k, tt.obj)
		got := ""
		if len(links) > 0 {
			got = links[0].What
		}
		if got != tt.want || len(wants) > 0 {
			t.Errorf("%v: %q, want %q", tt.obj.Object, got, tt.want)
		}
	}
}

func TestImageCause(t *testing.T) {
	for said, want := range map[string]string{
		`failed to resolve reference "x": x: not found`:                                    "does not exist in its registry",
		`unexpected status from HEAD request to https://r/v2/x: 401 Unauthorized`:          "is refused by its registry",
		`dial tcp 192.0.2.1:443: i/o timeout`:                                              "cannot be pulled, for its registry cannot be reached",
		`tls: failed to verify certificate: x509: certificate signed by unknown authority`: "cannot be pulled, for its registry's certificate is not trusted",
		`http: server gave HTTP response to HTTPS client`:                                  "cannot be pulled, for its registry speaks plain HTTP",
		`toomanyrequests: You have reached your pull rate limit`:                           "cannot be pulled now, for its registry allows no more pulls",
		`write /var/lib/x: no space left on device`:                                        "cannot be pulled, for the node's disk is full",
		`no match for platform in manifest`:                                                "is not made for the node's platform",
		`something else`:                                                                   "cannot be pulled",
	} {
		if why, _ := imageCause("ErrImagePull", said); why != want {
			t.Errorf("%s: %s, want %s", said, why, want)
		}
	}
}

// Most pods have one symptom: that one is explained, by a pod that is always the same.
func TestWorst(t *testing.T) {
	crash := func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1}}}}
	}
	var pods []*corev1.Pod
	for name, change := range map[string]func(*corev1.Pod){
		"e": waits("ImagePullBackOff", ""), "b": waits("ErrImagePull", ""), "d": waits("ErrImagePull", ""), "a": crash, "c": waits("CrashLoopBackOff", ""),
		"f": func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} },
	} {
		pods = append(pods, aPod(name, change).obj.(*corev1.Pod))
	}
	if p, n := worst(pods); p.Name != "b" || n != 3 {
		t.Errorf("%s, %d alike", p.Name, n)
	}
	if p, _ := worst(nil); p != nil {
		t.Error("a pod of none")
	}
}

// However long the words are, a chain and its links are bounded.
func TestBounds(t *testing.T) {
	x := refusedSet(strings.Repeat("long ", 2000))
	links, _ := Explain(&Facts{Now: now}, x.kind, x.obj)
	if len(links) != 1 || len(links[0].What) > maxWhat {
		t.Errorf("%d links of %d bytes", len(links), len(links[0].What))
	}
}
