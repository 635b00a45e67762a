package defaults

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// as compares what became of an object written in YAML with what is wanted.
func as[T any](t *testing.T, name, in string, fill func(*T), want string) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		var got, exp T
		if err := yaml.UnmarshalStrict([]byte(in), &got); err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict([]byte(want), &exp); err != nil {
			t.Fatal(err)
		}
		fill(&got)
		if !equality.Semantic.DeepEqual(got, exp) {
			text, err := yaml.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			t.Errorf("got:\n%s", text)
		}
	})
}

func TestPod(t *testing.T) {
	as(t, "everything", `
metadata: {name: p}
spec:
  serviceAccount: sa
  hostNetwork: true
  initContainers: [{name: i, image: x@sha256:abc}]
  containers:
  - name: c
    image: web
    ports: [{containerPort: 80}]
    resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 0.0001}}
    env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    livenessProbe: {httpGet: {port: 80}}
    readinessProbe: {grpc: {port: 1}, periodSeconds: 5}
    lifecycle: {preStop: {httpGet: {port: 80, path: /bye}}}
  volumes:
  - {name: nothing}
  - {name: s, secret: {secretName: x}}
  - {name: c, configMap: {name: x, defaultMode: 0400}}
  - {name: h, hostPath: {path: /x}}
  - {name: d, downwardAPI: {items: [{path: x, fieldRef: {fieldPath: metadata.labels}}]}}
  - {name: p, projected: {sources: [{serviceAccountToken: {path: t}}]}}
status: {podIP: 10.0.0.1}
`, Pod, `
metadata: {name: p}
spec:
  serviceAccount: sa
  serviceAccountName: sa
  hostNetwork: true
  restartPolicy: Always
  dnsPolicy: ClusterFirst
  schedulerName: default-scheduler
  terminationGracePeriodSeconds: 30
  enableServiceLinks: true
  securityContext: {}
  initContainers: [{name: i, image: x@sha256:abc, imagePullPolicy: IfNotPresent, terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File}]
  containers:
  - name: c
    image: web
    imagePullPolicy: Always
    terminationMessagePath: /dev/termination-log
    terminationMessagePolicy: File
    ports: [{containerPort: 80, hostPort: 80, protocol: TCP}]
    resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 1m, memory: 1Gi}}
    env: [{name: A, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.name}}}]
    livenessProbe: {httpGet: {port: 80, path: /, scheme: HTTP}, timeoutSeconds: 1, periodSeconds: 10, successThreshold: 1, failureThreshold: 3}
    readinessProbe: {grpc: {port: 1, service: ""}, timeoutSeconds: 1, periodSeconds: 5, successThreshold: 1, failureThreshold: 3}
    lifecycle: {preStop: {httpGet: {port: 80, path: /bye, scheme: HTTP}}}
  volumes:
  - {name: nothing, emptyDir: {}}
  - {name: s, secret: {secretName: x, defaultMode: 0644}}
  - {name: c, configMap: {name: x, defaultMode: 0400}}
  - {name: h, hostPath: {path: /x, type: ""}}
  - {name: d, downwardAPI: {defaultMode: 0644, items: [{path: x, fieldRef: {apiVersion: v1, fieldPath: metadata.labels}}]}}
  - {name: p, projected: {defaultMode: 0644, sources: [{serviceAccountToken: {path: t, expirationSeconds: 3600}}]}}
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}
`)
}

func TestPullPolicy(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"web": corev1.PullAlways, "web:latest": corev1.PullAlways, "web:1": corev1.PullIfNotPresent,
		"registry.example:5000/web": corev1.PullAlways, "registry.example:5000/web:1": corev1.PullIfNotPresent,
		"web@sha256:00": corev1.PullIfNotPresent, "web:latest@sha256:00": corev1.PullIfNotPresent,
	} {
		c := corev1.Container{Image: image}
		v := corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: image}}
		container(&c)
		volume(&v)
		if c.ImagePullPolicy != want || v.Image.PullPolicy != want {
			t.Errorf("%s: %s and %s, want %s", image, c.ImagePullPolicy, v.Image.PullPolicy, want)
		}
	}
}

// TestTemplate: a template keeps what only a pod gets.
func TestTemplate(t *testing.T) {
	spec := corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{
		Ports:     []corev1.ContainerPort{{ContainerPort: 80}},
		Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("1")}},
	}}}
	PodSpec(&spec)
	if spec.EnableServiceLinks != nil || spec.Containers[0].Ports[0].HostPort != 0 || spec.Containers[0].Resources.Requests != nil {
		t.Errorf("got %+v", spec)
	}
}

func TestService(t *testing.T) {
	as(t, "cluster", `
spec: {ports: [{port: 80}], selector: {app: web}}
`, Service, `
spec:
  type: ClusterIP
  sessionAffinity: None
  internalTrafficPolicy: Cluster
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  selector: {app: web}
  ports: [{port: 80, protocol: TCP, targetPort: 80}]
`)
	as(t, "balanced with affinity", `
spec: {type: LoadBalancer, sessionAffinity: ClientIP, ports: [{port: 80, targetPort: web}]}
status: {loadBalancer: {ingress: [{ip: 1.2.3.4}]}}
`, Service, `
spec:
  type: LoadBalancer
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 10800}}
  internalTrafficPolicy: Cluster
  externalTrafficPolicy: Cluster
  allocateLoadBalancerNodePorts: true
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  ports: [{port: 80, protocol: TCP, targetPort: web}]
status: {loadBalancer: {ingress: [{ip: 1.2.3.4, ipMode: VIP}]}}
`)
	as(t, "headless", `
spec: {clusterIP: None, selector: {app: web}}
`, Service, `
spec: {type: ClusterIP, clusterIP: None, selector: {app: web}, sessionAffinity: None, internalTrafficPolicy: Cluster, ipFamilies: [IPv4], ipFamilyPolicy: SingleStack}
`)
	as(t, "headless without selector", `
spec: {clusterIP: None}
`, Service, `
spec: {type: ClusterIP, clusterIP: None, sessionAffinity: None, internalTrafficPolicy: Cluster, ipFamilies: [IPv4, IPv6], ipFamilyPolicy: RequireDualStack}
`)
	as(t, "external", `
spec: {type: ExternalName, externalName: a.example}
`, Service, `
spec: {type: ExternalName, externalName: a.example, sessionAffinity: None}
`)
}

func TestApps(t *testing.T) {
	d := &appsv1.Deployment{}
	Deployment(d)
	quarter := intstr.FromString("25%")
	if *d.Spec.Replicas != 1 || *d.Spec.RevisionHistoryLimit != 10 || *d.Spec.ProgressDeadlineSeconds != 600 ||
		d.Spec.Strategy.Type != "RollingUpdate" || *d.Spec.Strategy.RollingUpdate.MaxSurge != quarter || *d.Spec.Strategy.RollingUpdate.MaxUnavailable != quarter ||
		d.Spec.Template.Spec.RestartPolicy != "Always" {
		t.Errorf("deployment: %+v", d.Spec)
	}
	recreate := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Strategy: appsv1.DeploymentStrategy{Type: "Recreate"}}}
	if Deployment(recreate); recreate.Spec.Strategy.RollingUpdate != nil {
		t.Error("recreate in steps")
	}
	ds := &appsv1.DaemonSet{}
	if DaemonSet(ds); ds.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.IntVal != 1 || ds.Spec.UpdateStrategy.RollingUpdate.MaxSurge.IntVal != 0 {
		t.Errorf("daemon set: %+v", ds.Spec)
	}
	sts := &appsv1.StatefulSet{}
	if StatefulSet(sts); sts.Spec.PodManagementPolicy != "OrderedReady" || *sts.Spec.UpdateStrategy.RollingUpdate.Partition != 0 ||
		sts.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled != "Retain" || *sts.Spec.Replicas != 1 {
		t.Errorf("stateful set: %+v", sts.Spec)
	}
}

func TestReplicationController(t *testing.T) {
	labels := map[string]string{"app": "web"}
	rc := &corev1.ReplicationController{Spec: corev1.ReplicationControllerSpec{Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}}}}
	ReplicationController(rc)
	rc.Spec.Selector["new"] = "x"
	if rc.Labels["app"] != "web" || rc.Spec.Selector["app"] != "web" || *rc.Spec.Replicas != 1 {
		t.Errorf("got %+v", rc)
	}
	if labels["new"] != "" || rc.Labels["new"] != "" {
		t.Error("selector, labels and template share a map")
	}
}

func TestOthers(t *testing.T) {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}
	if Namespace(ns); ns.Labels["kubernetes.io/metadata.name"] != "team" || ns.Status.Phase != "Active" {
		t.Errorf("namespace: %+v", ns)
	}
	s := &corev1.Secret{Data: map[string][]byte{"a": []byte("old"), "b": nil}, StringData: map[string]string{"a": "new"}}
	if Secret(s); s.Type != "Opaque" || string(s.Data["a"]) != "new" || s.StringData != nil || len(s.Data) != 2 {
		t.Errorf("secret: %+v", s)
	}
	n := &corev1.Node{Spec: corev1.NodeSpec{PodCIDR: "10.0.0.0/24"}, Status: corev1.NodeStatus{Capacity: corev1.ResourceList{"cpu": resource.MustParse("2")}}}
	Node(n)
	n.Status.Allocatable["cpu"] = resource.MustParse("1")
	if n.Spec.PodCIDRs[0] != "10.0.0.0/24" || n.Status.Capacity.Cpu().Value() != 2 {
		t.Errorf("node: %+v", n)
	}
	np := &networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{Egress: []networkingv1.NetworkPolicyEgressRule{{Ports: []networkingv1.NetworkPolicyPort{{}}}}}}
	if NetworkPolicy(np); len(np.Spec.PolicyTypes) != 2 || *np.Spec.Egress[0].Ports[0].Protocol != "TCP" {
		t.Errorf("policy: %+v", np.Spec)
	}
	rb := &rbacv1.RoleBinding{Subjects: []rbacv1.Subject{{Kind: "User"}, {Kind: "ServiceAccount"}}}
	if RoleBinding(rb); rb.RoleRef.APIGroup != rbacv1.GroupName || rb.Subjects[0].APIGroup != rbacv1.GroupName || rb.Subjects[1].APIGroup != "" {
		t.Errorf("binding: %+v", rb)
	}
	cpu := func(v string) corev1.ResourceList { return corev1.ResourceList{"cpu": resource.MustParse(v)} }
	lr := &corev1.LimitRange{Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{Type: "Container", Max: cpu("2")}, {Type: "Container", Min: cpu("1")}, {Type: "Pod", Max: cpu("2")}}}}
	LimitRange(lr)
	if l := lr.Spec.Limits; l[0].Default.Cpu().Value() != 2 || l[0].DefaultRequest.Cpu().Value() != 2 || len(l[1].Default) != 0 || l[1].DefaultRequest.Cpu().Value() != 1 || l[2].Default != nil {
		t.Errorf("limits: %+v", l)
	}
	pvc := &corev1.PersistentVolumeClaim{}
	if PersistentVolumeClaim(pvc); *pvc.Spec.VolumeMode != "Filesystem" || pvc.Status.Phase != "Pending" {
		t.Errorf("claim: %+v", pvc)
	}
}

func TestStorage(t *testing.T) {
	as(t, "class", "provisioner: p", StorageClass, "{provisioner: p, reclaimPolicy: Delete, volumeBindingMode: Immediate}")
	as(t, "driver", "spec: {podInfoOnMount: true}", CSIDriver, `
spec:
  attachRequired: true
  podInfoOnMount: true
  storageCapacity: false
  fsGroupPolicy: ReadWriteOnceWithFSType
  volumeLifecycleModes: [Persistent]
  requiresRepublish: false
  seLinuxMount: false
  preventPodSchedulingIfMissing: false
`)
	as(t, "attachment", "spec: {source: {inlineVolumeSpec: {hostPath: {path: /x}}}}", VolumeAttachment, `
spec: {source: {inlineVolumeSpec: {hostPath: {path: /x, type: ""}}}}
`)
}

func TestDevices(t *testing.T) {
	as(t, "claim", `
spec:
  devices:
    requests:
    - {name: a, exactly: {deviceClassName: c, tolerations: [{key: k}]}}
    - {name: b, exactly: {deviceClassName: c, allocationMode: All}}
    - {name: d, firstAvailable: [{name: s, deviceClassName: c, count: 2, tolerations: [{operator: Exists}]}]}
`, ResourceClaim, `
spec:
  devices:
    requests:
    - {name: a, exactly: {deviceClassName: c, allocationMode: ExactCount, count: 1, tolerations: [{key: k, operator: Equal}]}}
    - {name: b, exactly: {deviceClassName: c, allocationMode: All}}
    - {name: d, firstAvailable: [{name: s, deviceClassName: c, allocationMode: ExactCount, count: 2, tolerations: [{operator: Exists}]}]}
`)
}
