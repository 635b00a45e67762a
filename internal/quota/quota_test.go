package quota

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// around is a namespace's surroundings, written down.
type around struct {
	classes []*resourcev1.DeviceClass
	pods    []*corev1.Pod
	claims  []*resourcev1.ResourceClaim
}

func (a around) DeviceClasses() []*resourcev1.DeviceClass { return a.classes }
func (a around) Pod(_, name string) *corev1.Pod {
	for _, p := range a.pods {
		if p.Name == name {
			return p
		}
	}
	return nil
}
func (a around) ClaimsOf(_ string, pod types.UID) []*resourcev1.ResourceClaim {
	var out []*resourcev1.ResourceClaim
	for _, c := range a.claims {
		if ref := metav1.GetControllerOf(c); ref != nil && ref.UID == pod {
			out = append(out, c)
		}
	}
	return out
}

func meter(a around) Meter { return Meter{Around: a, Now: noon} }

// list reads "cpu=1,memory=2Gi".
func list(text string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, f := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' }) {
		name, value, _ := strings.Cut(f, "=")
		out[corev1.ResourceName(name)] = resource.MustParse(value)
	}
	return out
}

func show(l corev1.ResourceList) string {
	names := make([]corev1.ResourceName, 0, len(l))
	for n := range l {
		names = append(names, n)
	}
	return amounts(l, names)
}

func pod(req, lim string, opts ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u-p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c",
		Resources: corev1.ResourceRequirements{Requests: list(req), Limits: list(lim)}}}}}
	for _, o := range opts {
		o(p)
	}
	return p
}

func phase(ph corev1.PodPhase) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.Phase = ph }
}

func ending(at time.Time, grace int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: at}, &grace
	}
}

func claim(size string, opts ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}}
	if size != "" {
		c.Spec.Resources.Requests = list("storage=" + size)
	}
	for _, o := range opts {
		o(c)
	}
	return c
}

func svc(t corev1.ServiceType, ports ...int32) *corev1.Service {
	s := &corev1.Service{Spec: corev1.ServiceSpec{Type: t}}
	for _, p := range ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{NodePort: p})
	}
	return s
}

func devicesOf(class string, n int64) *resourcev1.ResourceClaim {
	return &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d"}, Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{
		Requests: []resourcev1.DeviceRequest{{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: n}}}}}}
}

func extendedClass(name, res string) *resourcev1.DeviceClass {
	return &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: &res}}
}

func TestUsage(t *testing.T) {
	gold := func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = ptr.To("gold") }
	either := devicesOf("a", 1)
	either.Spec.Devices.Requests = append(either.Spec.Devices.Requests, resourcev1.DeviceRequest{FirstAvailable: []resourcev1.DeviceSubRequest{
		{DeviceClassName: "a", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 2}, {DeviceClassName: "b", AllocationMode: resourcev1.DeviceAllocationModeAll},
		{DeviceClassName: "a", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 4}}})
	user := pod("example.com/gpu=2", "example.com/gpu=2")
	forPod := devicesOf("a", 3)
	forPod.Annotations = map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"}
	forPod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "u-p", Controller: ptr.To(true)}}
	second := forPod.DeepCopy()
	second.Name = "e"
	quiet := svc(corev1.ServiceTypeLoadBalancer, 0, 30000)
	quiet.Spec.AllocateLoadBalancerNodePorts = ptr.To(false)
	sidecar := pod("cpu=1", "", func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: corev1.ResourceRequirements{Requests: list("cpu=3")}}}
	})
	gpu := around{classes: []*resourcev1.DeviceClass{extendedClass("a", "example.com/gpu")}, pods: []*corev1.Pod{user}, claims: []*resourcev1.ResourceClaim{forPod, second}}
	for _, tt := range []struct {
		name string
		k    *kinds.Kind
		o    kinds.Object
		want string
	}{
		{"pod", kinds.Pod, pod("cpu=500m,memory=1Gi", "cpu=1,ephemeral-storage=1Gi"), "count/pods=1,cpu=500m,limits.cpu=1,limits.ephemeral-storage=1Gi,memory=1Gi,pods=1,requests.cpu=500m,requests.memory=1Gi"},
		{"pod without requests", kinds.Pod, pod("", ""), "count/pods=1,pods=1"},
		{"init containers", kinds.Pod, sidecar, "count/pods=1,cpu=3,pods=1,requests.cpu=3"},
		{"hugepages and extended", kinds.Pod, pod("hugepages-2Mi=4Mi,example.com/gpu=1,kubernetes.io/x=1", ""), "count/pods=1,hugepages-2Mi=4Mi,pods=1,requests.example.com/gpu=1,requests.hugepages-2Mi=4Mi"},
		{"implicit extended", kinds.Pod, pod("deviceclass.resource.kubernetes.io/a=1", ""), "count/pods=1,pods=1,requests.deviceclass.resource.kubernetes.io/a=1"},
		{"ended", kinds.Pod, pod("cpu=1", "", phase(corev1.PodSucceeded)), "count/pods=1"},
		{"ending", kinds.Pod, pod("", "", ending(noon, 30)), "count/pods=1,pods=1"},
		{"should have ended", kinds.Pod, pod("", "", ending(noon.Add(-31*time.Second), 30)), "count/pods=1"},
		{"config map", kinds.ConfigMap, &corev1.ConfigMap{}, "configmaps=1,count/configmaps=1"},
		{"replica set", kinds.ReplicaSet, kinds.ReplicaSet.New(), "count/replicasets.apps=1"},
		{"service", kinds.Service, svc(corev1.ServiceTypeClusterIP, 0), "count/services=1,services.loadbalancers=0,services.nodeports=0,services=1"},
		{"node ports", kinds.Service, svc(corev1.ServiceTypeNodePort, 0, 0), "count/services=1,services.loadbalancers=0,services.nodeports=2,services=1"},
		{"load balancer", kinds.Service, svc(corev1.ServiceTypeLoadBalancer, 0, 0), "count/services=1,services.loadbalancers=1,services.nodeports=2,services=1"},
		{"load balancer without ports", kinds.Service, quiet, "count/services=1,services.loadbalancers=1,services.nodeports=1,services=1"},
		{"claim", kinds.PersistentVolumeClaim, claim("1Gi"), "count/persistentvolumeclaims=1,persistentvolumeclaims=1,requests.storage=1Gi"},
		{"claim with a class", kinds.PersistentVolumeClaim, claim("1500m", gold), "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/requests.storage=2,persistentvolumeclaims=1,requests.storage=2"},
		{"claim that has more", kinds.PersistentVolumeClaim, claim("1Gi", func(c *corev1.PersistentVolumeClaim) { c.Status.AllocatedResources = list("storage=2Gi") }), "count/persistentvolumeclaims=1,persistentvolumeclaims=1,requests.storage=2Gi"},
		{"devices", kinds.ResourceClaim, either, "a.deviceclass.resource.k8s.io/devices=5,b.deviceclass.resource.k8s.io/devices=32,count/resourceclaims.resource.k8s.io=1,requests.deviceclass.resource.kubernetes.io/a=5,requests.deviceclass.resource.kubernetes.io/b=32,requests.example.com/gpu=5"},
		{"devices that the pod paid for", kinds.ResourceClaim, forPod, "a.deviceclass.resource.k8s.io/devices=3,count/resourceclaims.resource.k8s.io=1,requests.deviceclass.resource.kubernetes.io/a=3,requests.example.com/gpu=1"},
		{"a second claim pays itself", kinds.ResourceClaim, second, "a.deviceclass.resource.k8s.io/devices=3,count/resourceclaims.resource.k8s.io=1,requests.deviceclass.resource.kubernetes.io/a=3,requests.example.com/gpu=3"},
	} {
		if got := show(meter(gpu).Usage(tt.k, tt.o)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	// Which of the claims the pod has paid for is told by its status, while the
	// claim that this names is there.
	const paid, full = "requests.example.com/gpu=1", "requests.example.com/gpu=3"
	for _, tt := range []struct{ named, first, second string }{{"d", paid, full}, {"e", full, paid}, {"gone", paid, full}} {
		user.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: tt.named}
		for claim, want := range map[*resourcev1.ResourceClaim]string{forPod: tt.first, second: tt.second} {
			if got := show(meter(gpu).Usage(kinds.ResourceClaim, claim)); !strings.HasSuffix(got, want) {
				t.Errorf("%s, while the pod names %s: %s, want %s", claim.Name, tt.named, got, want)
			}
		}
	}
}

func TestTracks(t *testing.T) {
	m := meter(around{classes: []*resourcev1.DeviceClass{extendedClass("a", "example.com/gpu")}})
	for _, tt := range []struct {
		k       *kinds.Kind
		yes, no string
	}{
		{kinds.Pod, "pods cpu requests.cpu limits.memory ephemeral-storage limits.ephemeral-storage hugepages-2Mi requests.hugepages-2Mi requests.example.com/gpu count/pods requests.deviceclass.resource.kubernetes.io/a", "requests.storage services count/services requests.kubernetes.io/x example.com/gpu"},
		{kinds.Service, "services services.nodeports services.loadbalancers count/services", "pods requests.example.com/gpu"},
		{kinds.PersistentVolumeClaim, "persistentvolumeclaims requests.storage count/persistentvolumeclaims gold.storageclass.storage.k8s.io/requests.storage", "requests.cpu gold.storageclass.storage.k8s.io/x"},
		{kinds.ResourceClaim, "a.deviceclass.resource.k8s.io/devices x.deviceclass.resource.k8s.io/devices requests.example.com/gpu requests.deviceclass.resource.kubernetes.io/a count/resourceclaims.resource.k8s.io", "requests.example.com/other requests.deviceclass.resource.kubernetes.io/x pods"},
		{kinds.Secret, "secrets count/secrets", "configmaps"},
		{kinds.Deployment, "count/deployments.apps", "count/deployments deployments"},
	} {
		for _, name := range strings.Fields(tt.yes) {
			if !m.Tracks(tt.k, corev1.ResourceName(name)) {
				t.Errorf("%s does not use %s", tt.k, name)
			}
		}
		for _, name := range strings.Fields(tt.no) {
			if m.Tracks(tt.k, corev1.ResourceName(name)) {
				t.Errorf("%s uses %s", tt.k, name)
			}
		}
	}
}

func limit(hard, used string, scopes ...corev1.ScopedResourceSelectorRequirement) *corev1.ResourceQuota {
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: list(hard)},
		Status: corev1.ResourceQuotaStatus{Hard: list(hard), Used: list(used)}}
	if len(scopes) > 0 {
		q.Spec.ScopeSelector = &corev1.ScopeSelector{MatchExpressions: scopes}
	}
	return q
}

func scope(name corev1.ResourceQuotaScope, op corev1.ScopeSelectorOperator, values ...string) corev1.ScopedResourceSelectorRequirement {
	return corev1.ScopedResourceSelectorRequirement{ScopeName: name, Operator: op, Values: values}
}

func TestCharge(t *testing.T) {
	small := pod("cpu=1", "")
	classed := func(p *corev1.Pod) { p.Spec.PriorityClassName = "high" }
	short := func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To(int64(5)) }
	far := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{PodAffinityTerm: corev1.PodAffinityTerm{Namespaces: []string{"x"}}}}}}
	}
	silver := func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeAttributesClassName = ptr.To("silver") }
	create := func(k *kinds.Kind, o kinds.Object) *Write { return &Write{Kind: k, Object: o} }
	priority, volumes := corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeVolumeAttributesClass
	for _, tt := range []struct {
		name  string
		quota *corev1.ResourceQuota
		w     *Write
		want  string // what is used afterwards, or why not; empty: as before
	}{
		{"fits", limit("pods=2,cpu=2", "pods=1,cpu=1"), create(kinds.Pod, small), "cpu=2,pods=2"},
		{"exceeds", limit("pods=2,cpu=1500m,memory=1Gi", "pods=1,cpu=1,memory=0"), create(kinds.Pod, pod("cpu=1,memory=1Gi", "")), "exceeded quota: q, requested: cpu=1, used: cpu=1, limited: cpu=1500m"},
		{"exceeds in all", limit("pods=1,cpu=1", "pods=1,cpu=1"), create(kinds.Pod, small), "exceeded quota: q, requested: cpu=1,pods=1, used: cpu=1,pods=1, limited: cpu=1,pods=1"},
		{"over quota already, but not in what is asked for", limit("pods=5,cpu=1", "pods=1,cpu=3"), create(kinds.Pod, pod("cpu=0", "")), "cpu=3,pods=2"},
		{"must say", limit("cpu=1,limits.memory=1Gi", "cpu=0,limits.memory=0"), create(kinds.Pod, pod("", "")), "failed quota: q: must specify cpu for: c; limits.memory for: c"},
		{"need not say what came later", limit("requests.ephemeral-storage=1Gi", "requests.ephemeral-storage=0"), create(kinds.Pod, pod("", "")), ""},
		{"need not say with resources of the pod", limit("cpu=1", "cpu=0"), create(kinds.Pod, pod("", "", func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: list("cpu=1")}
		})), "cpu=1"},
		{"not counted yet", limit("pods=2,cpu=1,services=1", "pods=1"), create(kinds.Pod, small), "status unknown for quota: q, resources: cpu,pods"},
		{"of others", limit("services=1", "services=1"), create(kinds.Pod, small), ""},
		{"negative", limit("cpu=1", "cpu=0"), create(kinds.Pod, pod("cpu=-1", "")), "quota usage is negative for resource(s): cpu,requests.cpu"},
		{"count of custom objects", limit("count/replicasets.apps=1", "count/replicasets.apps=1"), create(kinds.ReplicaSet, kinds.ReplicaSet.New()), "exceeded quota: q, requested: count/replicasets.apps=1, used: count/replicasets.apps=1, limited: count/replicasets.apps=1"},

		{"resize", limit("cpu=2", "cpu=1"), &Write{Kind: kinds.Pod, Sub: "resize", Object: pod("cpu=1500m", ""), Old: small}, "cpu=1500m"},
		{"resize too far", limit("cpu=2", "cpu=1"), &Write{Kind: kinds.Pod, Sub: "resize", Object: pod("cpu=3", ""), Old: small}, "exceeded quota: q, requested: cpu=2, used: cpu=1, limited: cpu=2"},
		{"resize down", limit("cpu=2", "cpu=3"), &Write{Kind: kinds.Pod, Sub: "resize", Object: pod("cpu=500m", ""), Old: small}, ""},
		{"a service gets node ports", limit("services.nodeports=1,services=1", "services.nodeports=0,services=1"), &Write{Kind: kinds.Service, Object: svc(corev1.ServiceTypeNodePort, 0), Old: svc(corev1.ServiceTypeClusterIP, 0)}, "services.nodeports=1,services=1"},
		{"a claim grows", limit("requests.storage=2Gi", "requests.storage=1Gi"), &Write{Kind: kinds.PersistentVolumeClaim, Object: claim("3Gi"), Old: claim("1Gi")}, "exceeded quota: q, requested: requests.storage=2Gi, used: requests.storage=1Gi, limited: requests.storage=2Gi"},
		{"a claim has grown", limit("requests.storage=2Gi", "requests.storage=1Gi"), &Write{Kind: kinds.PersistentVolumeClaim, Sub: "status", Old: claim("1Gi"), Object: claim("1Gi", func(c *corev1.PersistentVolumeClaim) { c.Status.AllocatedResources = list("storage=3Gi") })}, "requests.storage=3Gi"},

		{"terminating", limit("pods=1", "pods=1", scope(corev1.ResourceQuotaScopeTerminating, corev1.ScopeSelectorOpExists)), create(kinds.Pod, small), ""},
		{"terminating: full", limit("pods=1", "pods=1", scope(corev1.ResourceQuotaScopeTerminating, corev1.ScopeSelectorOpExists)), create(kinds.Pod, pod("", "", short)), "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"},
		{"comes into the scope", limit("pods=2", "pods=1", scope(corev1.ResourceQuotaScopeTerminating, corev1.ScopeSelectorOpExists)), &Write{Kind: kinds.Pod, Object: pod("", "", short), Old: small}, "pods=2"},
		{"not terminating", limit("pods=2", "pods=1", scope(corev1.ResourceQuotaScopeNotTerminating, corev1.ScopeSelectorOpExists)), create(kinds.Pod, small), "pods=2"},
		{"best effort", limit("pods=2", "pods=1", scope(corev1.ResourceQuotaScopeBestEffort, corev1.ScopeSelectorOpExists)), create(kinds.Pod, small), ""},
		{"not best effort", limit("pods=2", "pods=1", scope(corev1.ResourceQuotaScopeNotBestEffort, corev1.ScopeSelectorOpExists)), create(kinds.Pod, small), "pods=2"},
		{"priority class", limit("pods=2", "pods=1", scope(priority, corev1.ScopeSelectorOpIn, "high")), create(kinds.Pod, pod("", "", classed)), "pods=2"},
		{"another priority class", limit("pods=2", "pods=1", scope(priority, corev1.ScopeSelectorOpIn, "low")), create(kinds.Pod, pod("", "", classed)), ""},
		{"not that priority class", limit("pods=2", "pods=1", scope(priority, corev1.ScopeSelectorOpNotIn, "low")), create(kinds.Pod, small), "pods=2"},
		{"some priority class", limit("pods=2", "pods=1", scope(priority, corev1.ScopeSelectorOpExists)), create(kinds.Pod, small), ""},
		{"no priority class", limit("pods=2", "pods=1", scope(priority, corev1.ScopeSelectorOpDoesNotExist)), create(kinds.Pod, small), "pods=2"},
		{"affinity elsewhere", limit("pods=0", "pods=0", scope(corev1.ResourceQuotaScopeCrossNamespacePodAffinity, corev1.ScopeSelectorOpExists)), create(kinds.Pod, pod("", "", far)), "exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0"},
		{"all scopes count", limit("pods=2", "pods=1", scope(priority, corev1.ScopeSelectorOpExists), scope(corev1.ResourceQuotaScopeTerminating, corev1.ScopeSelectorOpExists)), create(kinds.Pod, pod("", "", classed)), ""},
		{"volume attributes", limit("persistentvolumeclaims=1", "persistentvolumeclaims=1", scope(volumes, corev1.ScopeSelectorOpIn, "silver")), create(kinds.PersistentVolumeClaim, claim("1", silver)), "exceeded quota: q, requested: persistentvolumeclaims=1, used: persistentvolumeclaims=1, limited: persistentvolumeclaims=1"},
		{"other volume attributes", limit("persistentvolumeclaims=1", "persistentvolumeclaims=1", scope(volumes, corev1.ScopeSelectorOpIn, "gold")), create(kinds.PersistentVolumeClaim, claim("1", silver)), ""},
		{"scopes of pods are not for others", limit("count/secrets=1", "count/secrets=1", scope(priority, corev1.ScopeSelectorOpDoesNotExist)), create(kinds.Secret, &corev1.Secret{}), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := tt.quota.DeepCopy()
			if !Costs(tt.w) {
				t.Error("it is not looked at")
			}
			out, err := meter(around{}).Charge([]*corev1.ResourceQuota{tt.quota}, tt.w)
			got := ""
			if err != nil {
				got = err.Error()
			} else if out[0] != tt.quota {
				got = show(out[0].Status.Used)
			}
			if got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			if show(tt.quota.Status.Used) != show(before.Status.Used) {
				t.Error("the quota itself was changed")
			}
		})
	}
}

func TestCosts(t *testing.T) {
	p := pod("cpu=1", "")
	for _, w := range []*Write{
		{Kind: kinds.Pod, Object: p, Old: p}, {Kind: kinds.Pod, Sub: "status", Object: p, Old: p}, {Kind: kinds.Pod, Sub: "binding", Object: p},
		{Kind: kinds.ConfigMap, Object: &corev1.ConfigMap{}, Old: &corev1.ConfigMap{}}, {Kind: kinds.Service, Sub: "status", Object: svc("")},
	} {
		if Costs(w) {
			t.Errorf("%s/%s (update: %t) costs", w.Kind, w.Sub, w.Old != nil)
		}
	}
	for k, want := range map[*kinds.Kind]bool{kinds.Pod: true, kinds.Event: false, kinds.Node: false, kinds.LocalSubjectAccessReview: false, kinds.Lease: true} {
		if Counted(k) != want {
			t.Errorf("%s is counted: %t", k, !want)
		}
	}
}

func all(objects ...kinds.Object) iter.Seq[kinds.Object] { return slices.Values(objects) }

func TestTotal(t *testing.T) {
	q := limit("pods=9,cpu=9,secrets=9,requests.example.com/gpu=4,count/things.example.com=2", "")
	a := around{classes: []*resourcev1.DeviceClass{extendedClass("a", "example.com/gpu")}}
	used, next, err := meter(a).Total(q, []Content{
		{kinds.Pod, all(pod("cpu=1,example.com/gpu=1", ""), pod("cpu=2", "", phase(corev1.PodFailed)), pod("cpu=500m", "", ending(noon, 30)), pod("", "", ending(noon, 20)))},
		{kinds.Secret, all()}, {kinds.ConfigMap, all(&corev1.ConfigMap{})}, {kinds.ResourceClaim, all(devicesOf("a", 2))},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := show(used), "cpu=1500m,pods=3,requests.example.com/gpu=3,secrets=0"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if !next.Equal(noon.Add(20 * time.Second)) {
		t.Errorf("the next one stops to count at %s", next)
	}
}

func TestChanges(t *testing.T) {
	p, m := pod("cpu=1", ""), meter(around{})
	for _, tt := range []struct {
		name     string
		k        *kinds.Kind
		old, now kinds.Object
		want     bool
	}{
		{"created", kinds.Pod, nil, p, false},
		{"gone", kinds.Secret, &corev1.Secret{}, nil, true},
		{"same", kinds.Pod, p, p.DeepCopy(), false},
		{"has ended", kinds.Pod, p, pod("cpu=1", "", phase(corev1.PodFailed)), true},
		{"begins to end", kinds.Pod, p, pod("cpu=1", "", ending(noon, 30)), true},
		{"resized", kinds.Pod, p, pod("cpu=2", ""), true},
		{"another type", kinds.Service, svc(corev1.ServiceTypeNodePort, 1), svc(corev1.ServiceTypeClusterIP, 0), true},
		{"same type", kinds.Service, svc(corev1.ServiceTypeNodePort, 0), svc(corev1.ServiceTypeNodePort, 30000), false},
		{"another class", kinds.PersistentVolumeClaim, claim("1"), claim("1", func(c *corev1.PersistentVolumeClaim) { c.Status.CurrentVolumeAttributesClassName = ptr.To("x") }), true},
		{"written", kinds.Secret, &corev1.Secret{}, &corev1.Secret{Data: map[string][]byte{"a": nil}}, false},
	} {
		if got := m.Changes(tt.k, tt.old, tt.now); got != tt.want {
			t.Errorf("%s: %t", tt.name, got)
		}
	}
}

// What is charged one after the other is what is counted in the end, whatever
// fits and in whatever order; and nothing is let in beyond the limit.
func TestChargesAddUpToTheTotal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := meter(around{})
		q := limit("pods=5,cpu=3,requests.storage=5Gi,persistentvolumeclaims=3,services.nodeports=2,count/services=4", "pods=0,cpu=0,requests.storage=0,persistentvolumeclaims=0,services.nodeports=0,count/services=0")
		quotas := []*corev1.ResourceQuota{q}
		in := map[*kinds.Kind][]kinds.Object{}
		for range rapid.IntRange(0, 20).Draw(t, "writes") {
			var k *kinds.Kind
			var o kinds.Object
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				k, o = kinds.Pod, pod(fmt.Sprintf("cpu=%dm", rapid.IntRange(0, 1500).Draw(t, "cpu")), "")
			case 1:
				k, o = kinds.PersistentVolumeClaim, claim(fmt.Sprintf("%dMi", rapid.IntRange(1, 3000).Draw(t, "size")))
			default:
				k, o = kinds.Service, svc(rapid.SampledFrom([]corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort}).Draw(t, "type"), 0)
			}
			out, err := m.Charge(quotas, &Write{Kind: k, Object: o})
			if err == nil {
				quotas, in[k] = out, append(in[k], o)
			}
		}
		var content []Content
		for _, k := range []*kinds.Kind{kinds.Service, kinds.Pod, kinds.PersistentVolumeClaim} {
			content = append(content, Content{k, all(in[k]...)})
		}
		total, _, err := m.Total(q, content)
		if err != nil {
			t.Fatal(err)
		}
		if !Same(total, quotas[0].Status.Used) {
			t.Fatalf("charged %s, counted %s", show(quotas[0].Status.Used), show(total))
		}
		for name, used := range total {
			if used.Cmp(q.Spec.Hard[name]) > 0 {
				t.Fatalf("%s: %s of %v", name, used.String(), q.Spec.Hard[name])
			}
		}
	})
}
