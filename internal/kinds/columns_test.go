package kinds

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	migrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var clock = metav1.Unix(1_000_000, 0)

func ago(d time.Duration) metav1.Time { return metav1.NewTime(clock.Add(-d)) }

func ptr[T any](v T) *T { return &v }

// line prints what kubectl would, wide columns after a bar.
func line(k *Kind, o Object) string {
	var narrow, wide []string
	for _, c := range k.Columns {
		v := fmt.Sprint(c.Value(o, clock))
		if c.Wide {
			wide = append(wide, v)
		} else {
			narrow = append(narrow, v)
		}
	}
	return strings.TrimSuffix(strings.Join(narrow, " ")+" | "+strings.Join(wide, " "), " | ")
}

func TestHeadings(t *testing.T) {
	want := map[*Kind]string{
		Pod:                       "Name Ready Status Restarts Age +IP +Node +Nominated Node +Readiness Gates",
		Service:                   "Name Type Cluster-IP External-IP Port(s) Age +Selector",
		Node:                      "Name Status Roles Age Version +Internal-IP +External-IP +OS-Image +Kernel-Version +Container-Runtime",
		Event:                     "Last Seen Type Reason Object +Subobject +Source Message +First Seen +Count +Name",
		EventsEvent:               "Last Seen Type Reason Object +Subobject +Source Message +First Seen +Count +Name",
		Deployment:                "Name Ready Up-to-date Available Age +Containers +Images +Selector",
		ReplicaSet:                "Name Desired Current Ready Age +Containers +Images +Selector",
		DaemonSet:                 "Name Desired Current Ready Up-to-date Available Node Selector Age +Containers +Images +Selector",
		StatefulSet:               "Name Ready Age +Containers +Images",
		ControllerRevision:        "Name Controller Revision Age",
		ReplicationController:     "Name Desired Current Ready Age +Containers +Images +Selector",
		PersistentVolume:          "Name Capacity Access Modes Reclaim Policy Status Claim StorageClass VolumeAttributesClass Reason Age +VolumeMode",
		PersistentVolumeClaim:     "Name Status Volume Capacity Access Modes StorageClass VolumeAttributesClass Age +VolumeMode",
		Ingress:                   "Name Class Hosts Address Ports Age",
		IngressClass:              "Name Controller Parameters Age",
		NetworkPolicy:             "Name Pod-Selector Age",
		RoleBinding:               "Name Role Age +Users +Groups +ServiceAccounts",
		ClusterRoleBinding:        "Name Role Age +Users +Groups +ServiceAccounts",
		Role:                      "Name Created At",
		ClusterRole:               "Name Created At",
		LimitRange:                "Name Created At",
		ResourceQuota:             "Name Request Limit Age",
		CertificateSigningRequest: "Name Age SignerName Requestor RequestedDuration Condition",
		Lease:                     "Name Holder Age",
		ServiceCIDR:               "Name CIDRs Age",
		IPAddress:                 "Name ParentRef",
		ClusterTrustBundle:        "Name SignerName",
		PodCertificateRequest:     "Name PodName ServiceAccountName NodeName SignerName State +UnverifiedUserAnnotations",
		EndpointSlice:             "Name AddressType Ports Endpoints Age",
		Endpoints:                 "Name Endpoints Age",
		PriorityClass:             "Name Value Global-Default Age PreemptionPolicy",
		ConfigMap:                 "Name Data Age",
		Secret:                    "Name Type Data Age",
		ServiceAccount:            "Name Secrets Age",
		Namespace:                 "Name Status Age",
		StorageClass:              "Name Provisioner ReclaimPolicy VolumeBindingMode AllowVolumeExpansion Age",
		VolumeAttachment:          "Name Attacher PV Node Attached Age",
		CSIDriver:                 "Name AttachRequired PodInfoOnMount StorageCapacity TokenRequests RequiresRepublish Modes Age",
		CSINode:                   "Name Drivers Age",
		CSIStorageCapacity:        "Name StorageClassName Capacity",
		VolumeAttributesClass:     "Name DriverName Age",
		DeviceClass:               "Name Age",
		ResourceClaim:             "Name State Age",
		ResourceClaimTemplate:     "Name Age",
		ResourceSlice:             "Name Node Driver Pool Age",
		StorageVersionMigration:   "Name Resource Status",
		DeviceTaintRule:           "Name Key Value Effect TimeAdded Age",
		PodTemplate:               "Name Containers Images Pod Labels",
		APIService:                "Name Service Available Age",
		NodeMetrics:               "Name cpu memory Window",
		PodMetrics:                "Name cpu memory Window",
		CustomResourceDefinition:  "Name Created At",

		Job:                              "Name Status Completions Duration Age +Containers +Images +Selector",
		CronJob:                          "Name Schedule Timezone Suspend Active Last Schedule Age +Containers +Images +Selector",
		HorizontalPodAutoscaler:          "Name Reference Targets MinPods MaxPods Replicas Age",
		HorizontalPodAutoscalerV1:        "Name Reference Targets MinPods MaxPods Replicas Age",
		PodDisruptionBudget:              "Name Min Available Max Unavailable Allowed Disruptions Age",
		RuntimeClass:                     "Name Handler Age",
		FlowSchema:                       "Name PriorityLevel MatchingPrecedence DistinguisherMethod Age MissingPL",
		PriorityLevelConfiguration:       "Name Type NominalConcurrencyShares Queues HandSize QueueLengthLimit Age",
		MutatingWebhookConfiguration:     "Name Webhooks Age",
		ValidatingWebhookConfiguration:   "Name Webhooks Age",
		MutatingAdmissionPolicy:          "Name Mutations ParamKind Age",
		MutatingAdmissionPolicyBinding:   "Name PolicyName ParamRef Age",
		ValidatingAdmissionPolicy:        "Name Validations ParamKind Age",
		ValidatingAdmissionPolicyBinding: "Name PolicyName ParamRef Age",
	}
	for _, k := range Builtin().All() {
		if k.New == nil {
			continue
		}
		var names []string
		for _, c := range k.Columns {
			if c.Wide {
				names = append(names, "+"+c.Name)
			} else {
				names = append(names, c.Name)
			}
		}
		if got := strings.Join(names, " "); got != want[k] {
			t.Errorf("%s:\n got %s\nwant %s", k, got, want[k])
		}
	}
}

func TestPodLine(t *testing.T) {
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	waiting := func(why string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: why}}
	}
	ended := func(code, signal int32, why string) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Signal: signal, Reason: why}}
	}
	pod := func(phase corev1.PodPhase, states ...corev1.ContainerState) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", CreationTimestamp: ago(90 * time.Second)}, Status: corev1.PodStatus{Phase: phase}}
		for i, s := range states {
			name := fmt.Sprintf("c%d", i)
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: name})
			p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: name, State: s, Ready: s.Running != nil})
		}
		return p
	}
	with := func(p *corev1.Pod, do func(*corev1.Pod)) *corev1.Pod { do(p); return p }
	initial := func(p *corev1.Pod, states ...corev1.ContainerState) *corev1.Pod {
		for i, s := range states {
			name := fmt.Sprintf("i%d", i)
			p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: name})
			p.Status.InitContainerStatuses = append(p.Status.InitContainerStatuses, corev1.ContainerStatus{Name: name, State: s})
		}
		return p
	}
	const nowhere = " | <none> <none> <none> <none>"
	for _, tc := range []struct {
		name string
		pod  *corev1.Pod
		want string
	}{
		{"pending", with(pod("Pending"), func(p *corev1.Pod) { p.Spec.Containers = make([]corev1.Container, 2) }), "p 0/2 Pending 0 90s" + nowhere},
		{"running", with(pod("Running", running), func(p *corev1.Pod) {
			p.Status.PodIPs, p.Spec.NodeName = []corev1.PodIP{{IP: "10.244.0.2"}}, "n1"
		}), "p 1/1 Running 0 90s | 10.244.0.2 n1 <none> <none>"},
		{"crash loop", with(pod("Running", waiting("CrashLoopBackOff")), func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].RestartCount = 4
			p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{FinishedAt: ago(5 * time.Minute)}
		}), "p 0/1 CrashLoopBackOff 4 (5m ago) 90s" + nowhere},
		{"restarts without a time", with(pod("Running", running), func(p *corev1.Pod) { p.Status.ContainerStatuses[0].RestartCount = 2 }), "p 1/1 Running 2 90s" + nowhere},
		{"completed", pod("Succeeded", ended(0, 0, "Completed")), "p 0/1 Completed 0 90s" + nowhere},
		{"error", pod("Failed", ended(1, 0, "Error")), "p 0/1 Error 0 90s" + nowhere},
		{"exit code", pod("Failed", ended(3, 0, "")), "p 0/1 ExitCode:3 0 90s" + nowhere},
		{"signal", pod("Failed", ended(137, 9, "")), "p 0/1 Signal:9 0 90s" + nowhere},
		{"evicted", with(pod("Failed"), func(p *corev1.Pod) { p.Status.Reason = "Evicted" }), "p 0/0 Evicted 0 90s" + nowhere},
		{"first waits, second runs", pod("Running", waiting("ImagePullBackOff"), running), "p 1/2 ImagePullBackOff 0 90s" + nowhere},
		{"one done, one runs, ready", with(pod("Running", ended(0, 0, "Completed"), running), func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: "Ready", Status: "True"}}
		}), "p 1/2 Running 0 90s" + nowhere},
		{"one done, one runs, not ready", pod("Running", ended(0, 0, "Completed"), running), "p 1/2 NotReady 0 90s" + nowhere},
		{"terminating", with(pod("Running", running), func(p *corev1.Pod) { p.DeletionTimestamp = &clock }), "p 1/1 Terminating 0 90s" + nowhere},
		{"done and deleted", with(pod("Succeeded", ended(0, 0, "Completed")), func(p *corev1.Pod) { p.DeletionTimestamp = &clock }), "p 0/1 Completed 0 90s" + nowhere},
		{"node lost", with(pod("Running", running), func(p *corev1.Pod) { p.DeletionTimestamp, p.Status.Reason = &clock, "NodeLost" }), "p 1/1 Unknown 0 90s" + nowhere},
		{"gated", with(pod("Pending"), func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: "PodScheduled", Status: "False", Reason: "SchedulingGated"}}
		}), "p 0/0 SchedulingGated 0 90s" + nowhere},
		{"first init runs", initial(pod("Pending", waiting("PodInitializing")), running, waiting("PodInitializing")), "p 0/1 Init:0/2 0 90s" + nowhere},
		{"second init waits", initial(pod("Pending", waiting("PodInitializing")), ended(0, 0, "Completed"), waiting("PodInitializing")), "p 0/1 Init:1/2 0 90s" + nowhere},
		{"init fails", initial(pod("Pending", waiting("PodInitializing")), ended(1, 0, "Error")), "p 0/1 Init:Error 0 90s" + nowhere},
		{"init exits", initial(pod("Pending", waiting("PodInitializing")), ended(2, 0, "")), "p 0/1 Init:ExitCode:2 0 90s" + nowhere},
		{"init crash loop", with(initial(pod("Pending", waiting("PodInitializing")), waiting("CrashLoopBackOff")), func(p *corev1.Pod) { p.Status.InitContainerStatuses[0].RestartCount = 3 }),
			"p 0/1 Init:CrashLoopBackOff 3 90s" + nowhere},
		{"init done, its restarts forgotten", with(initial(pod("Running", running), ended(0, 0, "Completed")), func(p *corev1.Pod) { p.Status.InitContainerStatuses[0].RestartCount = 3 }),
			"p 1/1 Running 0 90s" + nowhere},
		{"sidecar", with(initial(pod("Running", running), running), func(p *corev1.Pod) {
			p.Spec.InitContainers[0].RestartPolicy = ptr(corev1.ContainerRestartPolicyAlways)
			p.Status.InitContainerStatuses[0].Started, p.Status.InitContainerStatuses[0].Ready, p.Status.InitContainerStatuses[0].RestartCount = ptr(true), true, 1
		}), "p 2/2 Running 1 90s" + nowhere},
		{"gates and nomination", with(pod("Running", running), func(p *corev1.Pod) {
			p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "a"}, {ConditionType: "b"}}
			p.Status.Conditions = []corev1.PodCondition{{Type: "a", Status: "True"}}
			p.Status.NominatedNodeName = "n2"
		}), "p 1/1 Running 0 90s | <none> <none> n2 1/2"},
	} {
		if got := line(Pod, tc.pod); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, got, tc.want)
		}
	}
}

func TestLines(t *testing.T) {
	m := metav1.ObjectMeta{Name: "x", CreationTimestamp: ago(26 * time.Hour)}
	tmpl := corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "i:1"}, {Name: "b", Image: "j:2"}}}}
	sel := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	svc := func(do func(*corev1.Service)) *corev1.Service {
		s := &corev1.Service{ObjectMeta: m, Spec: corev1.ServiceSpec{Type: "ClusterIP", ClusterIPs: []string{"10.96.0.9"}, Ports: []corev1.ServicePort{{Port: 80, Protocol: "TCP"}}}}
		do(s)
		return s
	}
	for _, tc := range []struct {
		kind *Kind
		obj  Object
		want string
	}{
		{Service, svc(func(*corev1.Service) {}), "x ClusterIP 10.96.0.9 <none> 80/TCP 26h | <none>"},
		{Service, svc(func(s *corev1.Service) {
			s.Spec.Type = "NodePort"
			s.Spec.Ports = []corev1.ServicePort{{Port: 80, NodePort: 30080, Protocol: "TCP"}, {Port: 53, Protocol: "UDP"}}
			s.Spec.Selector = map[string]string{"app": "web", "tier": "front"}
		}), "x NodePort 10.96.0.9 <none> 80:30080/TCP,53/UDP 26h | app=web,tier=front"},
		{Service, svc(func(s *corev1.Service) { s.Spec.Type = "LoadBalancer" }), "x LoadBalancer 10.96.0.9 <pending> 80/TCP 26h | <none>"},
		{Service, svc(func(s *corev1.Service) {
			s.Spec.Type = "LoadBalancer"
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "2.2.2.2"}, {Hostname: "a.example"}}
		}), "x LoadBalancer 10.96.0.9 2.2.2.2,a.example 80/TCP 26h | <none>"},
		{Service, &corev1.Service{ObjectMeta: m, Spec: corev1.ServiceSpec{Type: "ExternalName", ExternalName: "a.example"}}, "x ExternalName <none> a.example <none> 26h | <none>"},
		{Deployment, &appsv1.Deployment{ObjectMeta: m, Spec: appsv1.DeploymentSpec{Replicas: ptr(int32(3)), Template: tmpl, Selector: sel},
			Status: appsv1.DeploymentStatus{ReadyReplicas: 2, UpdatedReplicas: 3, AvailableReplicas: 1}}, "x 2/3 3 1 26h | a,b i:1,j:2 app=web"},
		{ReplicaSet, &appsv1.ReplicaSet{ObjectMeta: m, Spec: appsv1.ReplicaSetSpec{Replicas: ptr(int32(3)), Template: tmpl, Selector: sel},
			Status: appsv1.ReplicaSetStatus{Replicas: 2, ReadyReplicas: 1}}, "x 3 2 1 26h | a,b i:1,j:2 app=web"},
		{DaemonSet, &appsv1.DaemonSet{ObjectMeta: m, Spec: appsv1.DaemonSetSpec{Template: tmpl, Selector: sel}, Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 5, CurrentNumberScheduled: 4, NumberReady: 3, UpdatedNumberScheduled: 2, NumberAvailable: 1}},
			"x 5 4 3 2 1 <none> 26h | a,b i:1,j:2 app=web"},
		{StatefulSet, &appsv1.StatefulSet{ObjectMeta: m, Spec: appsv1.StatefulSetSpec{Replicas: ptr(int32(3)), Template: tmpl}, Status: appsv1.StatefulSetStatus{ReadyReplicas: 2}}, "x 2/3 26h | a,b i:1,j:2"},
		{ControllerRevision, &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: "x", OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "d", Controller: ptr(true)}}}, Revision: 4},
			"x daemonset.apps/d 4 <unknown>"},
		{Node, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "x", CreationTimestamp: m.CreationTimestamp, Labels: map[string]string{"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge"}},
			Spec: corev1.NodeSpec{Unschedulable: true}, Status: corev1.NodeStatus{
				Conditions: []corev1.NodeCondition{{Type: "Ready", Status: "True"}}, Addresses: []corev1.NodeAddress{{Type: "InternalIP", Address: "10.0.0.1"}},
				NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "v1.37.2", KernelVersion: "6"}}},
			"x Ready,SchedulingDisabled control-plane,edge,worker 26h v1.37.2 | 10.0.0.1 <none> <unknown> 6 <unknown>"},
		{Node, &corev1.Node{ObjectMeta: m, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: "Ready", Status: "Unknown"}}}}, "x NotReady <none> 26h  | <none> <none> <unknown> <unknown> <unknown>"},
		{Node, &corev1.Node{ObjectMeta: m}, "x Unknown <none> 26h  | <none> <none> <unknown> <unknown> <unknown>"},
		{Event, &corev1.Event{ObjectMeta: m, Type: "Warning", Reason: "BackOff", Message: " no \n", Count: 3, FirstTimestamp: ago(time.Hour), LastTimestamp: ago(time.Minute),
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "p", FieldPath: "spec.containers{c}"}, Source: corev1.EventSource{Component: "kubelet", Host: "n1"}},
			"60s Warning BackOff pod/p no | spec.containers{c} kubelet, n1 60m 3 x"},
		{EventsEvent, &eventsv1.Event{ObjectMeta: m, Type: "Normal", Reason: "Scheduled", Note: "ok", EventTime: metav1.NewMicroTime(clock.Add(-time.Minute)), Regarding: corev1.ObjectReference{Kind: "Pod", Name: "p"}, ReportingController: "sched"},
			"60s Normal Scheduled pod/p ok |  sched 60s 1 x"},
		{Endpoints, &corev1.Endpoints{ObjectMeta: m, Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "1.1.1.1"}, {IP: "1.1.1.2"}}, Ports: []corev1.EndpointPort{{Port: 80}, {Port: 81}}}}},
			"x 1.1.1.1:80,1.1.1.2:80,1.1.1.1:81 + 1 more... 26h"},
		{EndpointSlice, &discoveryv1.EndpointSlice{ObjectMeta: m, AddressType: "IPv4"}, "x IPv4 <unset> <unset> 26h"},
		{EndpointSlice, &discoveryv1.EndpointSlice{ObjectMeta: m, AddressType: "IPv4", Ports: []discoveryv1.EndpointPort{{Port: ptr(int32(80))}, {}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"1.1.1.1"}}}}, "x IPv4 80,* 1.1.1.1 26h"},
		{ResourceQuota, &corev1.ResourceQuota{ObjectMeta: m, Status: corev1.ResourceQuotaStatus{
			Hard: corev1.ResourceList{"limits.cpu": resource.MustParse("2"), "pods": resource.MustParse("5"), "cpu": resource.MustParse("1")}, Used: corev1.ResourceList{"cpu": resource.MustParse("100m")}}},
			"x cpu: 100m/1, pods: 0/5 limits.cpu: 0/2 26h"},
		{PersistentVolume, &corev1.PersistentVolume{ObjectMeta: m, Spec: corev1.PersistentVolumeSpec{Capacity: corev1.ResourceList{"storage": resource.MustParse("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{"ReadWriteMany", "ReadWriteOnce"},
			PersistentVolumeReclaimPolicy: "Retain", ClaimRef: &corev1.ObjectReference{Namespace: "default", Name: "c"}, StorageClassName: "fast"}, Status: corev1.PersistentVolumeStatus{Phase: "Bound"}},
			"x 1Gi RWO,RWX Retain Bound default/c fast <unset>  26h | <unset>"},
		{PersistentVolumeClaim, &corev1.PersistentVolumeClaim{ObjectMeta: m, Status: corev1.PersistentVolumeClaimStatus{Phase: "Pending"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeMode: ptr(corev1.PersistentVolumeFilesystem)}},
			"x Pending     <unset> 26h | Filesystem"},
		{Ingress, &networkingv1.Ingress{ObjectMeta: m, Spec: networkingv1.IngressSpec{TLS: []networkingv1.IngressTLS{{}}}}, "x <none> *  80, 443 26h"},
		{IngressClass, &networkingv1.IngressClass{ObjectMeta: m, Spec: networkingv1.IngressClassSpec{Controller: "a/b", Parameters: &networkingv1.IngressClassParametersReference{APIGroup: ptr("g"), Kind: "K", Name: "n"}}}, "x a/b K.g/n 26h"},
		{NetworkPolicy, &networkingv1.NetworkPolicy{ObjectMeta: m, Spec: networkingv1.NetworkPolicySpec{}}, "x <none> 26h"},
		{RoleBinding, &rbacv1.RoleBinding{ObjectMeta: m, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "r"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "u"}, {Kind: "User", Name: "v"}, {Kind: "Group", Name: "g"}, {Kind: "ServiceAccount", Namespace: "n", Name: "s"}}},
			"x Role/r 26h | u, v g n/s"},
		{Role, &rbacv1.Role{ObjectMeta: m}, "x 1970-01-11T11:46:40Z"},
		{CertificateSigningRequest, &certificatesv1.CertificateSigningRequest{ObjectMeta: m, Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: "a.example/b", Username: "u", ExpirationSeconds: ptr(int32(3600))},
			Status: certificatesv1.CertificateSigningRequestStatus{Conditions: []certificatesv1.CertificateSigningRequestCondition{{Type: "Approved"}}, Certificate: []byte("x")}}, "x 26h a.example/b u 60m Approved,Issued"},
		{PriorityClass, &schedulingv1.PriorityClass{ObjectMeta: m, Value: 7, PreemptionPolicy: ptr(corev1.PreemptNever)}, "x 7 false 26h Never"},
		{Secret, &corev1.Secret{ObjectMeta: m, Type: "Opaque", Data: map[string][]byte{"a": nil, "b": nil}}, "x Opaque 2 26h"},
		{ConfigMap, &corev1.ConfigMap{ObjectMeta: m, Data: map[string]string{"a": ""}, BinaryData: map[string][]byte{"b": nil}}, "x 2 26h"},
		{PodTemplate, &corev1.PodTemplate{ObjectMeta: m, Template: tmpl}, "x a,b i:1,j:2 <none>"},
		{StorageClass, &storagev1.StorageClass{ObjectMeta: m, Provisioner: "a.example/p", AllowVolumeExpansion: ptr(true)}, "x a.example/p Delete Immediate true 26h"},
		{VolumeAttachment, &storagev1.VolumeAttachment{ObjectMeta: m, Spec: storagev1.VolumeAttachmentSpec{Attacher: "d", NodeName: "n", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr("v")}}}, "x d v n false 26h"},
		{CSIDriver, &storagev1.CSIDriver{ObjectMeta: m}, "x true false false <unset> false <none> 26h"},
		{CSIDriver, &storagev1.CSIDriver{ObjectMeta: m, Spec: storagev1.CSIDriverSpec{AttachRequired: ptr(false), TokenRequests: []storagev1.TokenRequest{{Audience: "a"}, {Audience: "b"}},
			VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{"Persistent", "Ephemeral"}}}, "x false false false a,b false Persistent,Ephemeral 26h"},
		{CSINode, &storagev1.CSINode{ObjectMeta: m, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{}, {}}}}, "x 2 26h"},
		{CSIStorageCapacity, &storagev1.CSIStorageCapacity{ObjectMeta: m, StorageClassName: "c", Capacity: ptr(resource.MustParse("1Gi"))}, "x c 1Gi"},
		{ResourceClaim, &resourcev1.ResourceClaim{ObjectMeta: m}, "x pending 26h"},
		{ResourceClaim, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "x", DeletionTimestamp: &clock}, Status: resourcev1.ResourceClaimStatus{Allocation: &resourcev1.AllocationResult{}, ReservedFor: make([]resourcev1.ResourceClaimConsumerReference, 1)}},
			"x deleted,allocated,reserved <unknown>"},
		{ResourceSlice, &resourcev1.ResourceSlice{ObjectMeta: m, Spec: resourcev1.ResourceSliceSpec{Driver: "d", Pool: resourcev1.ResourcePool{Name: "p"}, NodeName: ptr("n")}}, "x n d p 26h"},
		{DeviceTaintRule, &resourcev1.DeviceTaintRule{ObjectMeta: m, Spec: resourcev1.DeviceTaintRuleSpec{Taint: resourcev1.DeviceTaint{Key: "k", Value: "v", Effect: "NoExecute", TimeAdded: ptr(ago(time.Minute))}}}, "x k v NoExecute 60s 26h"},
		{ServiceCIDR, &networkingv1.ServiceCIDR{ObjectMeta: m, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.0.0.0/24", "fd00::/64"}}}, "x 10.0.0.0/24,fd00::/64 26h"},
		{IPAddress, &networkingv1.IPAddress{ObjectMeta: m}, "x <none>"},
		{IPAddress, &networkingv1.IPAddress{ObjectMeta: m, Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "n", Name: "s"}}}, "x services/n/s"},
		{IPAddress, &networkingv1.IPAddress{ObjectMeta: m, Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Group: "g.io", Resource: "Gateways", Name: "s"}}}, "x gateways.g.io/s"},
		{ClusterTrustBundle, &certificatesv1.ClusterTrustBundle{ObjectMeta: m}, "x <none>"},
		{PodCertificateRequest, &certificatesv1.PodCertificateRequest{ObjectMeta: m, Spec: certificatesv1.PodCertificateRequestSpec{PodName: "p", ServiceAccountName: "a", NodeName: "n", SignerName: "e.io/s"}}, "x p a n e.io/s Pending | <none>"},
		{PodCertificateRequest, &certificatesv1.PodCertificateRequest{ObjectMeta: m, Status: certificatesv1.PodCertificateRequestStatus{Conditions: []metav1.Condition{{Type: "Denied"}}}}, "x     Denied | <none>"},
		{StorageVersionMigration, &migrationv1.StorageVersionMigration{ObjectMeta: m, Spec: migrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Group: "apps", Resource: "deployments"}}}, "x deployments.apps Unknown"},
		{StorageVersionMigration, &migrationv1.StorageVersionMigration{ObjectMeta: m, Status: migrationv1.StorageVersionMigrationStatus{Conditions: []metav1.Condition{{Type: "Running", Status: "True"}, {Type: "Failed", Status: "False"}}}}, "x  Running"},
		{VolumeAttributesClass, &storagev1.VolumeAttributesClass{ObjectMeta: m, DriverName: "d"}, "x d 26h"},
	} {
		if got := line(tc.kind, tc.obj); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.kind, got, tc.want)
		}
	}
}

// TestDefaultStorageClass: a list marks the one class that counts.
func TestDefaultStorageClass(t *testing.T) {
	class := func(name string, age time.Duration, annotation string) Object {
		return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: ago(age), Annotations: map[string]string{annotation: "true"}}}
	}
	const key = "storageclass.kubernetes.io/is-default-class"
	for _, tc := range []struct {
		want string
		list []Object
	}{
		{"", nil},
		{"", []Object{class("a", 0, "other")}},
		{"b", []Object{class("a", 2*time.Hour, key), class("b", time.Hour, key), class("c", 0, "")}},
		{"a", []Object{class("b", time.Hour, key), class("a", time.Hour, "storageclass.beta.kubernetes.io/is-default-class")}},
	} {
		cols := StorageClass.ListColumns(slices.Values(tc.list))
		if len(cols) != len(StorageClass.Columns) {
			t.Fatalf("%d columns", len(cols))
		}
		got := ""
		for _, o := range tc.list {
			if cols[0].Value(o, clock) == o.GetName()+" (default)" {
				got += o.GetName()
			}
		}
		if got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

func TestFields(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{NodeName: "n", HostNetwork: true}, Status: corev1.PodStatus{Phase: "Running", PodIPs: []corev1.PodIP{{IP: "1.1.1.1"}}}}
	event := &corev1.Event{InvolvedObject: corev1.ObjectReference{Name: "p"}, ReportingController: "kubelet", Reason: "Pulled"}
	for _, tc := range []struct {
		kind       *Kind
		obj        Object
		name, want string
	}{
		{Pod, pod, "spec.nodeName", "n"}, {Pod, pod, "status.phase", "Running"}, {Pod, pod, "spec.hostNetwork", "true"}, {Pod, pod, "status.podIP", "1.1.1.1"},
		{Event, event, "involvedObject.name", "p"}, {Event, event, "source", "kubelet"}, {Event, event, "reason", "Pulled"},
		{Node, &corev1.Node{}, "spec.unschedulable", "false"},
		{Namespace, &corev1.Namespace{Status: corev1.NamespaceStatus{Phase: "Active"}}, "status.phase", "Active"},
		{Secret, &corev1.Secret{Type: "Opaque"}, "type", "Opaque"},
		{Service, &corev1.Service{Spec: corev1.ServiceSpec{Type: "NodePort"}}, "spec.type", "NodePort"},
		{PersistentVolume, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}}, "name", "v"},
		{ResourceSlice, &resourcev1.ResourceSlice{}, "spec.nodeName", ""},
		{ResourceSlice, &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{Driver: "d"}}, "spec.driver", "d"},
		{ResourceSlice, &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{Pool: resourcev1.ResourcePool{Name: "p"}}}, "spec.pool.name", "p"},
		{ReplicaSet, &appsv1.ReplicaSet{Status: appsv1.ReplicaSetStatus{Replicas: 3}}, "status.replicas", "3"},
		{CertificateSigningRequest, &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: "s"}}, "spec.signerName", "s"},
	} {
		f := tc.kind.Fields[tc.name]
		if f == nil {
			t.Errorf("%s has no field %s", tc.kind, tc.name)
			continue
		}
		if got := f(tc.obj); got != tc.want {
			t.Errorf("%s %s: got %q, want %q", tc.kind, tc.name, got, tc.want)
		}
	}
}

func TestScale(t *testing.T) {
	d := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: ptr(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}, Status: appsv1.DeploymentStatus{Replicas: 1}}
	s := Deployment.Subresources["scale"].Scale
	if s.Spec(d) != 2 || s.Status(d) != 1 || s.Selector(d) != "app=web" {
		t.Errorf("got %d %d %s", s.Spec(d), s.Status(d), s.Selector(d))
	}
}
