package prepare

import (
	"reflect"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func ptr[T any](v T) *T { return &v }

func TestPodCreate(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Generation: 7, DeletionTimestamp: &metav1.Time{}},
		Spec: corev1.PodSpec{
			SchedulingGates: []corev1.PodSchedulingGate{{Name: "g"}},
			Containers:      []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1")}}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "1.2.3.4"},
	}
	PodCreate(pod)
	if pod.Generation != 1 || pod.DeletionTimestamp != nil || pod.Status.Phase != corev1.PodPending || pod.Status.PodIP != "" || pod.Status.QOSClass != corev1.PodQOSBurstable {
		t.Errorf("got %+v", pod)
	}
	if c := pod.Status.Conditions; len(c) != 1 || c[0].Reason != "SchedulingGated" {
		t.Errorf("conditions: %+v", c)
	}
}

func TestOldAppArmor(t *testing.T) {
	unconfined := &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	byDefault := &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	for _, tt := range []struct {
		said      string
		all, want *corev1.AppArmorProfile
	}{
		{"", nil, nil}, {"else", nil, nil}, {"localhost/", nil, nil}, {"localhost/ mine", nil, nil},
		{"unconfined", nil, unconfined}, {"runtime/default", nil, byDefault},
		{"localhost/mine", nil, &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: ptr("mine")}},
		{"runtime/default", byDefault, nil}, {"unconfined", byDefault, unconfined},
	} {
		said, want := tt.said, tt.want
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{
				corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + "a":     said,
				corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + "field": said,
			}},
			Spec: corev1.PodSpec{
				SecurityContext: &corev1.PodSecurityContext{AppArmorProfile: tt.all},
				InitContainers:  []corev1.Container{{Name: "field", SecurityContext: &corev1.SecurityContext{AppArmorProfile: unconfined}}},
				Containers:      []corev1.Container{{Name: "a"}, {Name: "b"}},
			},
		}
		PodCreate(pod)
		var got *corev1.AppArmorProfile
		if sc := pod.Spec.Containers[0].SecurityContext; sc != nil {
			got = sc.AppArmorProfile
		}
		if !reflect.DeepEqual(got, want) || pod.Spec.Containers[1].SecurityContext != nil || pod.Spec.InitContainers[0].SecurityContext.AppArmorProfile != unconfined {
			t.Errorf("%q: %+v in %+v", said, got, pod.Spec)
		}
	}
}

func TestPodUpdates(t *testing.T) {
	old := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{UID: "u", Generation: 3, CreationTimestamp: metav1.Unix(1, 0), OwnerReferences: []metav1.OwnerReference{{Name: "rs"}}, Labels: map[string]string{"a": "b"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, QOSClass: corev1.PodQOSBestEffort, ObservedGeneration: 2,
			Conditions: []corev1.PodCondition{{Type: "a", ObservedGeneration: 1}, {Type: "a", ObservedGeneration: 2}}},
	}
	changed := func() *corev1.Pod {
		p := old.DeepCopy()
		p.UID, p.Generation, p.OwnerReferences = "", 99, nil
		p.Spec.Containers[0].Image = "j"
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{}}
		p.Status.Phase, p.Status.QOSClass = corev1.PodFailed, ""
		return p
	}
	p := changed()
	if PodUpdate(p, old); p.Status.Phase != corev1.PodRunning || p.Generation != 4 || p.UID != "u" || p.Spec.Containers[0].Image != "j" {
		t.Errorf("update: %+v", p)
	}
	p = changed()
	if PodStatusUpdate(p, old); p.Status.Phase != corev1.PodFailed || p.Status.QOSClass != corev1.PodQOSBestEffort || p.Generation != 3 || p.Spec.Containers[0].Image != "i" || len(p.OwnerReferences) != 1 {
		t.Errorf("status: %+v", p)
	}
	p = changed()
	p.Status.ObservedGeneration, p.Status.Conditions = 0, []corev1.PodCondition{{Type: "b"}, {Type: "a"}, {Type: "a", ObservedGeneration: 3}}
	PodStatusUpdate(p, old)
	if c := p.Status.Conditions; p.Status.ObservedGeneration != 2 || c[0].ObservedGeneration != 0 || c[1].ObservedGeneration != 1 || c[2].ObservedGeneration != 3 {
		t.Errorf("generations that were left out: %+v", p.Status)
	}
	p = changed()
	p.Labels = nil
	if PodEphemeralUpdate(p, old); len(p.Spec.EphemeralContainers) != 1 || p.Spec.Containers[0].Image != "i" || p.Labels["a"] != "b" || p.Status.Phase != corev1.PodRunning || p.Generation != 4 {
		t.Errorf("ephemeral: %+v", p)
	}
	p = changed()
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("1")}
	if PodResizeUpdate(p, old); p.Spec.Containers[0].Image != "i" || p.Spec.Containers[0].Resources.Requests.Cpu().Value() != 1 || p.Spec.EphemeralContainers != nil {
		t.Errorf("resize: %+v", p)
	}
}

func TestPodGrace(t *testing.T) {
	for name, tc := range map[string]struct {
		node  string
		phase corev1.PodPhase
		spec  int64
		opts  *metav1.DeleteOptions
		want  int64
	}{
		"its own":          {node: "n", spec: 30, want: 30},
		"asked":            {node: "n", spec: 30, opts: &metav1.DeleteOptions{GracePeriodSeconds: ptr(int64(5))}, want: 5},
		"at once":          {node: "n", spec: 30, opts: &metav1.DeleteOptions{GracePeriodSeconds: ptr(int64(0))}, want: 0},
		"nothing asked":    {node: "n", spec: 30, opts: &metav1.DeleteOptions{}, want: 30},
		"negative":         {node: "n", spec: 30, opts: &metav1.DeleteOptions{GracePeriodSeconds: ptr(int64(-1))}, want: 1},
		"not scheduled":    {spec: 30, want: 0},
		"already finished": {node: "n", phase: corev1.PodFailed, spec: 30, want: 0},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{NodeName: tc.node, TerminationGracePeriodSeconds: &tc.spec}, Status: corev1.PodStatus{Phase: tc.phase}}
		if got := PodGrace(pod, tc.opts); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
}

func TestLabelKeys(t *testing.T) {
	term := corev1.PodAffinityTerm{LabelSelector: &metav1.LabelSelector{}, MatchLabelKeys: []string{"rev", "absent"}, MismatchLabelKeys: []string{"team"}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"rev": "1", "team": "x"}}, Spec: corev1.PodSpec{
		Affinity: &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}},
	}}
	PodCreate(pod)
	got := pod.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].LabelSelector.MatchExpressions
	want := []metav1.LabelSelectorRequirement{{Key: "rev", Operator: "In", Values: []string{"1"}}, {Key: "team", Operator: "NotIn", Values: []string{"x"}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestDeployment(t *testing.T) {
	old := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Generation: 2, Labels: map[string]string{"a": "b"}}, Spec: appsv1.DeploymentSpec{Replicas: ptr(int32(1))}, Status: appsv1.DeploymentStatus{Replicas: 1}}
	d := old.DeepCopy()
	d.Status.Replicas, d.Labels = 9, nil
	if DeploymentUpdate(d, old); d.Status.Replicas != 1 || d.Generation != 2 {
		t.Errorf("labels only: %+v", d)
	}
	d.Spec.Replicas = ptr(int32(2))
	if DeploymentUpdate(d, old); d.Generation != 3 {
		t.Errorf("spec: generation %d", d.Generation)
	}
	d = old.DeepCopy()
	d.Annotations = map[string]string{"x": "y"}
	if DeploymentUpdate(d, old); d.Generation != 3 {
		t.Errorf("annotations: generation %d", d.Generation)
	}
	d = old.DeepCopy()
	d.Spec.Replicas, d.Status.Replicas, d.Labels = ptr(int32(5)), 5, nil
	if DeploymentStatusUpdate(d, old); *d.Spec.Replicas != 1 || d.Status.Replicas != 5 || d.Labels["a"] != "b" {
		t.Errorf("status: %+v", d)
	}
}

func TestNamespace(t *testing.T) {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}}
	NamespaceCreate(ns)
	NamespaceCreate(ns)
	if len(ns.Spec.Finalizers) != 1 || ns.Spec.Finalizers[0] != "kubernetes" || ns.Status.Phase != corev1.NamespaceActive || ns.Labels[corev1.LabelMetadataName] != "n" {
		t.Errorf("got %+v", ns)
	}
	freed := ns.DeepCopy()
	freed.Spec.Finalizers, freed.Status.Phase = nil, corev1.NamespaceTerminating
	if NamespaceFinalizeUpdate(freed, ns); len(freed.Spec.Finalizers) != 0 || freed.Status.Phase != corev1.NamespaceActive {
		t.Errorf("finalize: %+v", freed)
	}
	freed.Spec.Finalizers = nil
	if NamespaceUpdate(freed, ns); len(freed.Spec.Finalizers) != 1 {
		t.Errorf("update: %+v", freed)
	}
}

func service(do func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7"}, ExternalTrafficPolicy: "Cluster",
		IPFamilies: []corev1.IPFamily{"IPv4"}, IPFamilyPolicy: ptr(corev1.IPFamilyPolicySingleStack),
		Ports: []corev1.ServicePort{{Name: "a", Port: 80, NodePort: 30080, Protocol: "TCP"}, {Name: "b", Port: 81, NodePort: 30081, Protocol: "TCP"}},
	}}
	if do != nil {
		do(&s.Spec)
	}
	return s
}

func TestServiceUpdate(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*corev1.ServiceSpec)
		check  func(*corev1.ServiceSpec) bool
	}{
		"address left out": {
			func(s *corev1.ServiceSpec) { s.ClusterIP, s.ClusterIPs = "", nil },
			func(s *corev1.ServiceSpec) bool { return s.ClusterIP == "10.96.0.7" && len(s.ClusterIPs) == 1 },
		},
		"address cleared in the old field": {
			func(s *corev1.ServiceSpec) { s.ClusterIP = "" },
			func(s *corev1.ServiceSpec) bool { return s.ClusterIP == "10.96.0.7" && len(s.ClusterIPs) == 1 },
		},
		"address changed in the old field": {
			func(s *corev1.ServiceSpec) { s.ClusterIP = "10.96.0.8" },
			func(s *corev1.ServiceSpec) bool { return s.ClusterIPs[0] == "10.96.0.8" },
		},
		"node ports left out": {
			func(s *corev1.ServiceSpec) { s.Ports[0].NodePort, s.Ports[1].NodePort = 0, 0 },
			func(s *corev1.ServiceSpec) bool { return s.Ports[0].NodePort == 30080 && s.Ports[1].NodePort == 30081 },
		},
		"node port given to another port": {
			func(s *corev1.ServiceSpec) { s.Ports[0].NodePort, s.Ports[1].NodePort = 0, 30080 },
			func(s *corev1.ServiceSpec) bool { return s.Ports[0].NodePort == 0 && s.Ports[1].NodePort == 30080 },
		},
		"to a cluster service": {
			func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeClusterIP },
			func(s *corev1.ServiceSpec) bool {
				return s.Ports[0].NodePort == 0 && s.ExternalTrafficPolicy == "" && s.ClusterIP == "10.96.0.7"
			},
		},
		"to a cluster service with a new node port": {
			func(s *corev1.ServiceSpec) { s.Type, s.Ports[0].NodePort = corev1.ServiceTypeClusterIP, 30099 },
			func(s *corev1.ServiceSpec) bool { return s.Ports[0].NodePort == 30099 },
		},
		"to an external name": {
			func(s *corev1.ServiceSpec) { s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "a.example" },
			func(s *corev1.ServiceSpec) bool {
				return s.ClusterIP == "" && s.ClusterIPs == nil && s.IPFamilies == nil && s.Ports[0].NodePort == 0
			},
		},
	} {
		svc, old := service(tc.change), service(nil)
		old.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "1.2.3.4"}}
		if ServiceUpdate(svc, old); !tc.check(&svc.Spec) {
			t.Errorf("%s: %+v", name, svc.Spec)
		}
		if len(svc.Status.LoadBalancer.Ingress) != 1 {
			t.Errorf("%s: status lost", name)
		}
	}
	fresh := service(func(s *corev1.ServiceSpec) { s.ClusterIPs = nil })
	if ServiceCreate(fresh); len(fresh.Spec.ClusterIPs) != 1 {
		t.Errorf("create: %+v", fresh.Spec)
	}
}

func TestCertificateSigningRequest(t *testing.T) {
	old := &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{Username: "node"}, Status: certificatesv1.CertificateSigningRequestStatus{Certificate: []byte("x")}}
	changed := func() *certificatesv1.CertificateSigningRequest {
		c := old.DeepCopy()
		c.Spec.Username = "admin"
		c.Status.Certificate = nil
		c.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: "Approved"}}
		return c
	}
	c := changed()
	if CertificateSigningRequestUpdate(c, old); c.Spec.Username != "node" || c.Status.Certificate == nil || c.Status.Conditions != nil {
		t.Errorf("update: %+v", c)
	}
	c = changed()
	if CertificateSigningRequestApprovalUpdate(c, old); c.Spec.Username != "node" || c.Status.Certificate == nil || len(c.Status.Conditions) != 1 {
		t.Errorf("approval: %+v", c)
	}
	c = changed()
	if CertificateSigningRequestStatusUpdate(c, old); c.Spec.Username != "node" || c.Status.Certificate != nil {
		t.Errorf("status: %+v", c)
	}
}

func TestKeep(t *testing.T) {
	deleted := metav1.NewTime(time.Unix(5, 0))
	old := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{UID: "u", Generation: 1, CreationTimestamp: metav1.Unix(1, 0), DeletionTimestamp: &deleted, DeletionGracePeriodSeconds: ptr(int64(3))}}
	c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Generation: 9}}
	Keep(c, old)
	if c.UID != "u" || c.Generation != 1 || !c.CreationTimestamp.Equal(&old.CreationTimestamp) || !c.DeletionTimestamp.Equal(&deleted) || *c.DeletionGracePeriodSeconds != 3 {
		t.Errorf("got %+v", c.ObjectMeta)
	}
	other := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{UID: "v"}}
	if Keep(other, old); other.UID != "v" {
		t.Error("a wrong uid must reach validation")
	}
}

func TestPersistentVolumePhase(t *testing.T) {
	made, later := metav1.Unix(1, 0), metav1.Unix(9, 0)
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: made}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound}}
	PersistentVolumeCreate(pv)
	if s := pv.Status; s.Phase != corev1.VolumePending || !s.LastPhaseTransitionTime.Equal(&made) {
		t.Errorf("created: %+v", s)
	}
	for _, tc := range []struct {
		name  string
		phase corev1.PersistentVolumePhase
		at    *metav1.Time
		want  metav1.Time
	}{
		{"same phase, no time", corev1.VolumePending, nil, made},
		{"other phase, no time", corev1.VolumeBound, nil, later},
		{"other phase, old time", corev1.VolumeBound, &made, later},
		{"other phase, own time", corev1.VolumeBound, ptr(metav1.Unix(5, 0)), metav1.Unix(5, 0)},
	} {
		next := pv.DeepCopy()
		next.Status.Phase, next.Status.LastPhaseTransitionTime = tc.phase, tc.at
		PersistentVolumeStamp(next, pv, later)
		if got := next.Status.LastPhaseTransitionTime; !got.Equal(&tc.want) {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestClaimSources(t *testing.T) {
	ref := func(group, kind string) *corev1.TypedLocalObjectReference {
		return &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: kind, Name: "x"}
	}
	pvc := func(src *corev1.TypedLocalObjectReference) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{DataSource: src}}
	}
	other := ref("a.example", "Copy")
	c := pvc(other)
	if PersistentVolumeClaimCreate(c); c.Spec.DataSource != nil || c.Spec.DataSourceRef != nil {
		t.Errorf("an unknown source stays: %+v", c.Spec)
	}
	c = pvc(ref("snapshot.storage.k8s.io", "VolumeSnapshot"))
	if PersistentVolumeClaimCreate(c); c.Spec.DataSource == nil || c.Spec.DataSourceRef.Kind != "VolumeSnapshot" {
		t.Errorf("a snapshot: %+v", c.Spec)
	}
	old := pvc(nil)
	old.Spec.DataSourceRef = &corev1.TypedObjectReference{APIGroup: other.APIGroup, Kind: other.Kind, Name: other.Name}
	PersistentVolumeClaimCreate(old)
	if old.Spec.DataSource.Kind != "Copy" {
		t.Errorf("by the newer field: %+v", old.Spec)
	}
	c = pvc(other) // an old client writes back what it knows
	if PersistentVolumeClaimUpdate(c, old); c.Spec.DataSourceRef == nil || c.Spec.DataSourceRef.Kind != "Copy" {
		t.Errorf("an update by the older field: %+v", c.Spec)
	}
}

func TestStorageStatus(t *testing.T) {
	old := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{UID: "u", Labels: map[string]string{"a": "b"}}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "n"}}
	va := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Finalizers: []string{"x/y"}}, Status: storagev1.VolumeAttachmentStatus{Attached: true}}
	status := va.DeepCopy()
	if VolumeAttachmentStatusUpdate(status, old); !status.Status.Attached || status.Spec.NodeName != "n" || status.Finalizers != nil || status.Labels["a"] != "b" {
		t.Errorf("status: %+v", status)
	}
	if VolumeAttachmentUpdate(va, old); va.Status.Attached || len(va.Finalizers) != 1 {
		t.Errorf("update: %+v", va)
	}
	d := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Generation: 4}, Spec: storagev1.CSIDriverSpec{PodInfoOnMount: ptr(true)}}
	if CSIDriverUpdate(d, &storagev1.CSIDriver{}); d.Generation != 1 {
		t.Errorf("driver: %+v", d)
	}
	n := &storagev1.CSINode{Status: storagev1.CSINodeStatus{StorageHealth: []storagev1.StorageHealth{{Name: "d"}}}}
	if CSINodeStatusUpdate(n, &storagev1.CSINode{}); n.Status.StorageHealth != nil {
		t.Errorf("node: %+v", n)
	}
}

func TestResourceClaimStatus(t *testing.T) {
	old := &resourcev1.ResourceClaim{Status: resourcev1.ResourceClaimStatus{Allocation: &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{
		Results: []resourcev1.DeviceRequestAllocationResult{{Driver: "d", Pool: "p", Device: "a"}, {Driver: "d", Pool: "p", Device: "b"}},
	}}}}
	said := []resourcev1.AllocatedDeviceStatus{{Driver: "d", Pool: "p", Device: "a"}, {Driver: "d", Pool: "p", Device: "b"}, {Driver: "d", Pool: "p", Device: "never"}}
	c := old.DeepCopy()
	c.Status.Devices = said
	c.Status.Allocation.Devices.Results = c.Status.Allocation.Devices.Results[:1]
	c.Status.Allocation.Devices.Results[0].SkipNodeOperations = []resourcev1.SkipNodeOperation{"*"}
	ResourceClaimStatusUpdate(c, old)
	if d := c.Status.Devices; len(d) != 2 || d[0].Device != "a" || d[1].Device != "never" || c.Status.Allocation.Devices.Results[0].SkipNodeOperations != nil {
		t.Errorf("one given back: %+v", c.Status)
	}
	c.Status.Allocation, c.Status.Devices = nil, said[:2]
	if ResourceClaimStatusUpdate(c, old); c.Status.Devices != nil {
		t.Errorf("all given back: %+v", c.Status)
	}
	if said[0].Device != "a" || said[1].Device != "b" {
		t.Error("the client's list was changed in place")
	}
}

func TestDeviceTaintTimes(t *testing.T) {
	made, now := metav1.Unix(1, 0), metav1.Unix(9, 0)
	old := &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: made}, Spec: resourcev1.DeviceTaintRuleSpec{Taint: resourcev1.DeviceTaint{Key: "k", Effect: "NoSchedule"}}}
	if DeviceTaintRuleCreate(old); !old.Spec.Taint.TimeAdded.Equal(&made) || old.Generation != 1 {
		t.Fatalf("created: %+v", old)
	}
	for _, tc := range []struct {
		name       string
		effect     resourcev1.DeviceTaintEffect
		at         *metav1.Time
		want       metav1.Time
		generation int64
	}{
		{"same", "NoSchedule", &made, made, 1},
		{"left out", "NoSchedule", nil, now, 2},
		{"another effect", "NoExecute", &made, now, 2},
		{"another effect and time", "NoExecute", ptr(metav1.Unix(5, 0)), metav1.Unix(5, 0), 2},
	} {
		r := old.DeepCopy()
		r.Spec.Taint.Effect, r.Spec.Taint.TimeAdded = tc.effect, tc.at
		DeviceTaintRuleUpdate(r, old)
		DeviceTaintRuleStamp(r, old, now)
		if !r.Spec.Taint.TimeAdded.Equal(&tc.want) || r.Generation != tc.generation {
			t.Errorf("%s: %v, generation %d", tc.name, r.Spec.Taint.TimeAdded, r.Generation)
		}
	}
	s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: made}, Spec: resourcev1.ResourceSliceSpec{
		PartitionTypeAttribute: ptr(resourcev1.FullyQualifiedName("a/b")),
		Devices:                []resourcev1.Device{{Taints: []resourcev1.DeviceTaint{{Key: "k"}}, Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"x": {IntValues: []int64{1}}}}},
	}}
	ResourceSliceCreate(s)
	if d := s.Spec.Devices[0]; !d.Taints[0].TimeAdded.Equal(&made) || d.Attributes["x"].IntValues != nil || s.Spec.PartitionTypeAttribute != nil {
		t.Errorf("slice: %+v", s)
	}
	next := s.DeepCopy()
	next.Spec.Devices[0].Taints = append(next.Spec.Devices[0].Taints, resourcev1.DeviceTaint{Key: "l"})
	ResourceSliceUpdate(next, s)
	if ResourceSliceStamp(next, s, now); !next.Spec.Devices[0].Taints[1].TimeAdded.Equal(&now) || next.Generation != 2 {
		t.Errorf("changed slice: %+v", next)
	}
}

func TestPodCreateCompletesResources(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		l := corev1.ResourceList{}
		for name, q := range map[corev1.ResourceName]string{"cpu": cpu, "memory": memory} {
			if q != "" {
				l[name] = resource.MustParse(q)
			}
		}
		return l
	}
	same := func(a, b corev1.ResourceList) bool {
		return len(a) == len(b) && a.Cpu().Cmp(*b.Cpu()) == 0 && a.Memory().Cmp(*b.Memory()) == 0
	}
	for name, tc := range map[string]struct {
		pod, a, b, want corev1.ResourceRequirements
	}{
		"requests of what is limited": {pod: corev1.ResourceRequirements{Limits: list("2", "")}, want: corev1.ResourceRequirements{Requests: list("2", ""), Limits: list("2", "")}},
		"what the containers ask for": {pod: corev1.ResourceRequirements{Limits: list("4", "")}, a: corev1.ResourceRequirements{Requests: list("1", "1Gi")}, b: corev1.ResourceRequirements{Requests: list("1", "")},
			want: corev1.ResourceRequirements{Requests: list("2", "1Gi"), Limits: list("4", "")}},
		"what all containers are limited to": {pod: corev1.ResourceRequirements{Requests: list("1", "")}, a: corev1.ResourceRequirements{Limits: list("1", "")}, b: corev1.ResourceRequirements{Limits: list("2", "")},
			want: corev1.ResourceRequirements{Requests: list("1", ""), Limits: list("3", "")}},
		"no less than what the pod asks for": {pod: corev1.ResourceRequirements{Requests: list("5", "")}, a: corev1.ResourceRequirements{Limits: list("1", "")}, b: corev1.ResourceRequirements{Limits: list("2", "")},
			want: corev1.ResourceRequirements{Requests: list("5", ""), Limits: list("5", "")}},
		"nothing": {a: corev1.ResourceRequirements{Requests: list("1", "")}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Resources: &tc.pod, Containers: []corev1.Container{{Name: "a", Resources: tc.a}, {Name: "b", Resources: tc.b}}}}
			PodCreate(pod)
			if r := pod.Spec.Resources; !same(r.Requests, tc.want.Requests) || !same(r.Limits, tc.want.Limits) {
				t.Errorf("got %v, want %v", r, tc.want)
			}
			PodCreate(pod)
			if r := pod.Spec.Resources; !same(r.Requests, tc.want.Requests) || !same(r.Limits, tc.want.Limits) {
				t.Errorf("again: %v", r)
			}
			if pod.Status.QOSClass == "" {
				t.Error("no class")
			}
		})
	}
}

func TestDaemonSetCountsItsTemplates(t *testing.T) {
	const key = appsv1.DeprecatedTemplateGeneration
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"a": "b"}}}
	DaemonSetCreate(ds)
	if ds.Annotations[key] != "1" || ds.Annotations["a"] != "b" {
		t.Errorf("created: %v", ds.Annotations)
	}
	next := ds.DeepCopy()
	next.Annotations, next.Spec.MinReadySeconds = nil, 3
	DaemonSetUpdate(next, ds)
	if next.Annotations[key] != "1" || next.Generation != 2 {
		t.Errorf("another spec: %v, generation %d", next.Annotations, next.Generation)
	}
	again := next.DeepCopy()
	again.Annotations[key], again.Spec.Template.Labels = "7", map[string]string{"c": "d"}
	DaemonSetUpdate(again, next)
	if again.Annotations[key] != "2" || next.Annotations[key] != "1" {
		t.Errorf("another template: %v", again.Annotations)
	}
}
