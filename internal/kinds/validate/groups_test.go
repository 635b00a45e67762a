package validate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/knarr/internal/kinds/defaults"
)

func TestDeployment(t *testing.T) {
	good := func() *appsv1.Deployment {
		return &appsv1.Deployment{ObjectMeta: named("d", "default"), Spec: appsv1.DeploymentSpec{Selector: goodSelector(), Template: goodTemplate()}}
	}
	type deployment = appsv1.Deployment
	const labels = "spec.template.metadata.labels Invalid: `selector` does not match template `labels`"
	creates(t, good, defaults.Deployment, Deployment, []change[*deployment]{
		{"good", nil, nil},
		{"negative", func(d *deployment) { d.Spec.Replicas = ptr(int32(-1)) }, []string{"spec.replicas Invalid: must be greater than or equal to 0"}},
		{"no selector", func(d *deployment) { d.Spec.Selector = nil }, []string{"spec.selector Required", labels}},
		{"empty selector", func(d *deployment) { d.Spec.Selector = &metav1.LabelSelector{} }, []string{"spec.selector Invalid: empty selector is invalid for deployment"}},
		{"other labels", func(d *deployment) { d.Spec.Template.Labels = map[string]string{"app": "db"} }, []string{labels}},
		{"operator", func(d *deployment) {
			d.Spec.Selector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}
		},
			[]string{"spec.selector.matchExpressions[0].operator Invalid: not a valid selector operator", "spec.selector Invalid: invalid label selector"}},
		{"two profiles", func(d *deployment) {
			p := &corev1.Pod{ObjectMeta: d.Spec.Template.ObjectMeta, Spec: d.Spec.Template.Spec}
			appArmor("unconfined", "RuntimeDefault", nil)(p)
			d.Spec.Template.Annotations = p.Annotations
		}, []string{"spec.template.spec.containers[0].securityContext.appArmorProfile.type Forbidden"}},
		{"template", func(d *deployment) { d.Spec.Template.Spec.Containers[0].Image = "" }, []string{"spec.template.spec.containers[0].image Required"}},
		{"restarts", func(d *deployment) { d.Spec.Template.Spec.RestartPolicy = "Never" }, []string{`spec.template.spec.restartPolicy NotSupported: supported values: "Always"`}},
		{"deadline of pods", func(d *deployment) { d.Spec.Template.Spec.ActiveDeadlineSeconds = ptr(int64(1)) }, []string{"spec.template.spec.activeDeadlineSeconds Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported"}},
		{"claim in template", func(d *deployment) {
			d.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}
		}, nil},
		{"driver in template", func(d *deployment) {
			d.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{}}}}
		}, []string{"spec.template.spec.volumes[0].csi Forbidden: not supported by this version"}},
		{"strategy", func(d *deployment) { d.Spec.Strategy = appsv1.DeploymentStrategy{Type: "Swap"} }, []string{`spec.strategy.type NotSupported: "Recreate", "RollingUpdate"`}},
		{"recreate in steps", func(d *deployment) { d.Spec.Strategy.Type = "Recreate" }, []string{"spec.strategy.rollingUpdate Forbidden: may not be specified when strategy `type` is 'Recreate'"}},
		{"no step", func(d *deployment) {
			d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxUnavailable: ptr(intstr.FromInt32(0)), MaxSurge: ptr(intstr.FromString("0%"))}
		}, []string{"spec.strategy.rollingUpdate.maxUnavailable Invalid: may not be 0 when `maxSurge` is 0"}},
		{"more than all", func(d *deployment) { d.Spec.Strategy.RollingUpdate.MaxUnavailable = ptr(intstr.FromString("101%")) }, []string{"spec.strategy.rollingUpdate.maxUnavailable Invalid: must not be greater than 100%"}},
		{"words", func(d *deployment) { d.Spec.Strategy.RollingUpdate.MaxSurge = ptr(intstr.FromString("half")) }, []string{"spec.strategy.rollingUpdate.maxSurge Invalid: a valid percent string"}},
		{"deadline", func(d *deployment) { d.Spec.MinReadySeconds = 600 }, []string{"spec.progressDeadlineSeconds Invalid: must be greater than minReadySeconds"}},
	})
	updates(t, good, defaults.Deployment, DeploymentUpdate, []change[*deployment]{
		{"scale", func(d *deployment) { d.Spec.Replicas = ptr(int32(5)) }, nil},
		{"selector", func(d *deployment) {
			d.Spec.Selector.MatchLabels["tier"], d.Spec.Template.Labels["tier"] = "x", "x"
		}, []string{"spec.selector Invalid: field is immutable"}},
	})
	counted := func() *deployment {
		d := good()
		d.Status = appsv1.DeploymentStatus{Replicas: 2, ReadyReplicas: 2, AvailableReplicas: 1, CollisionCount: ptr(int32(1))}
		return d
	}
	updates(t, counted, defaults.Deployment, DeploymentStatusUpdate, []change[*deployment]{
		{"same", nil, nil},
		{"more ready than there are", func(d *deployment) { d.Status.ReadyReplicas = 3 }, []string{"status.readyReplicas Invalid: cannot be greater than status.replicas"}},
		{"more available than ready", func(d *deployment) { d.Status.AvailableReplicas, d.Status.ReadyReplicas = 2, 1 }, []string{"status.availableReplicas Invalid: cannot be greater than readyReplicas"}},
		{"collisions", func(d *deployment) { d.Status.CollisionCount = nil }, []string{"status.collisionCount Invalid: cannot be decremented"}},
	})
}

func TestOtherSets(t *testing.T) {
	rs := func() *appsv1.ReplicaSet {
		return &appsv1.ReplicaSet{ObjectMeta: named("r", "default"), Spec: appsv1.ReplicaSetSpec{Selector: goodSelector(), Template: goodTemplate()}}
	}
	updates(t, rs, defaults.ReplicaSet, ReplicaSetUpdate, []change[*appsv1.ReplicaSet]{
		{"good", nil, nil},
		{"selector", func(r *appsv1.ReplicaSet) { r.Spec.Selector.MatchLabels["app"] = "db" }, []string{"spec.template.metadata.labels Invalid", "spec.selector Invalid: field is immutable"}},
	})
	ds := func() *appsv1.DaemonSet {
		return &appsv1.DaemonSet{ObjectMeta: named("d", "default"), Spec: appsv1.DaemonSetSpec{Selector: goodSelector(), Template: goodTemplate()}}
	}
	rolling := func(down, up int32) func(*appsv1.DaemonSet) {
		return func(d *appsv1.DaemonSet) {
			d.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxUnavailable: ptr(intstr.FromInt32(down)), MaxSurge: ptr(intstr.FromInt32(up))}
		}
	}
	const at = "spec.updateStrategy.rollingUpdate."
	creates(t, ds, defaults.DaemonSet, DaemonSet, []change[*appsv1.DaemonSet]{
		{"good", nil, nil},
		{"up", rolling(0, 1), nil},
		{"both", rolling(1, 1), []string{at + "maxSurge Invalid: may not be set when maxUnavailable is non-zero"}},
		{"neither", rolling(0, 0), []string{at + "maxUnavailable Invalid: cannot be 0 when maxSurge is 0"}},
		{"strategy", func(d *appsv1.DaemonSet) { d.Spec.UpdateStrategy.Type = "Recreate" }, []string{`spec.updateStrategy NotSupported: "OnDelete", "RollingUpdate"`}},
	})
	sts := func() *appsv1.StatefulSet {
		return &appsv1.StatefulSet{ObjectMeta: named("s", "default"), Spec: appsv1.StatefulSetSpec{Selector: goodSelector(), Template: goodTemplate(), ServiceName: "s"}}
	}
	creates(t, sts, defaults.StatefulSet, StatefulSet, []change[*appsv1.StatefulSet]{
		{"good", nil, nil},
		{"dotted name", func(s *appsv1.StatefulSet) { s.Name = "a.b" }, []string{"metadata.name Invalid: must not contain dots"}},
		{"order", func(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = "Random" }, []string{"spec.podManagementPolicy Invalid: must be 'OrderedReady' or 'Parallel'"}},
		{"strategy", func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.Type = "Recreate" }, []string{"spec.updateStrategy Invalid: must be 'RollingUpdate' or 'OnDelete'"}},
		{"on delete in steps", func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.Type = "OnDelete" }, []string{"spec.updateStrategy.rollingUpdate Invalid: only allowed for updateStrategy 'RollingUpdate'"}},
		{"partition", func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr(int32(-1)) }, []string{"spec.updateStrategy.rollingUpdate.partition Invalid"}},
		{"claims", func(s *appsv1.StatefulSet) {
			s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{claimNamed("data")}
			s.Spec.Template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
		}, nil},
		{"claims in the place of volumes", func(s *appsv1.StatefulSet) {
			s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{claimNamed("data")}
			s.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{}}}}
		}, nil},
		{"claims of nothing", func(s *appsv1.StatefulSet) {
			s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
		}, []string{"spec.volumeClaimTemplates[0].spec.accessModes Required: at least 1 access mode is required", "spec.volumeClaimTemplates[0].spec.resources[storage] Required"}},
		{"mounts of no claim", func(s *appsv1.StatefulSet) {
			s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{claimNamed("data")}
			s.Spec.Template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "other", MountPath: "/data"}}
		}, []string{"spec.template.spec.containers[0].volumeMounts[0].name NotFound"}},
		{"keeping", func(s *appsv1.StatefulSet) { s.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled = "Keep" },
			[]string{`spec.persistentVolumeClaimRetentionPolicy.whenScaled NotSupported: "Delete", "Retain"`}},
	})
	updates(t, sts, defaults.StatefulSet, StatefulSetUpdate, []change[*appsv1.StatefulSet]{
		{"scale", func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr(int32(3)) }, nil},
		{"service", func(s *appsv1.StatefulSet) { s.Spec.ServiceName = "t" }, []string{"spec.serviceName Invalid: field is immutable"}},
		{"claims", func(s *appsv1.StatefulSet) {
			s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{claimNamed("data")}
		}, []string{"spec.volumeClaimTemplates Invalid: field is immutable"}},
		{"the rest", func(s *appsv1.StatefulSet) {
			s.Spec.PodManagementPolicy, s.Spec.RevisionHistoryLimit = appsv1.ParallelPodManagement, ptr[int32](-1)
			s.Spec.Selector.MatchLabels["app"], s.Spec.Template.Labels["app"] = "other", "other"
		}, []string{"spec.podManagementPolicy Invalid: field is immutable", "spec.selector Invalid: field is immutable"}},
	})
	cr := func() *appsv1.ControllerRevision {
		return &appsv1.ControllerRevision{ObjectMeta: named("c", "default"), Data: runtime.RawExtension{Raw: []byte("{}")}}
	}
	creates(t, cr, nothing, ControllerRevision, []change[*appsv1.ControllerRevision]{
		{"good", nil, nil},
		{"no data", func(c *appsv1.ControllerRevision) { c.Data.Raw = nil }, []string{"data Required: data is mandatory"}},
		{"null", func(c *appsv1.ControllerRevision) { c.Data.Raw = []byte("null") }, []string{"data Required: data is mandatory"}},
		{"list", func(c *appsv1.ControllerRevision) { c.Data.Raw = []byte("[]") }, []string{"data Required: data must be a valid JSON object"}},
		{"no JSON", func(c *appsv1.ControllerRevision) { c.Data.Raw, c.Revision = []byte("{"), -1 }, []string{"data Invalid: error parsing data: unexpected end of JSON input", "revision Invalid"}},
	})
	updates(t, cr, nothing, ControllerRevisionUpdate, []change[*appsv1.ControllerRevision]{
		{"revision", func(c *appsv1.ControllerRevision) { c.Revision = 2 }, nil},
		{"data", func(c *appsv1.ControllerRevision) { c.Data.Raw = []byte("{ }") }, []string{"data Invalid: field is immutable"}},
		{"no data", func(c *appsv1.ControllerRevision) { c.Data.Raw = nil }, []string{"data Invalid: field is immutable"}},
	})
	rc := func() *corev1.ReplicationController {
		tmpl := goodTemplate()
		return &corev1.ReplicationController{ObjectMeta: named("r", "default"), Spec: corev1.ReplicationControllerSpec{Template: &tmpl}}
	}
	creates(t, rc, defaults.ReplicationController, ReplicationController, []change[*corev1.ReplicationController]{
		{"good", nil, nil},
		{"no template", func(r *corev1.ReplicationController) { r.Spec.Template = nil }, []string{"spec.template Required"}},
		{"selector", func(r *corev1.ReplicationController) { r.Spec.Selector = map[string]string{"app": "db"} }, []string{"spec.template.metadata.labels Invalid"}},
	})
}

func TestRBAC(t *testing.T) {
	role := func() *rbacv1.Role {
		return &rbacv1.Role{ObjectMeta: named("system:reader", "default"), Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}}
	}
	creates(t, role, nothing, Role, []change[*rbacv1.Role]{
		{"good", nil, nil},
		{"slash", func(r *rbacv1.Role) { r.Name = "a/b" }, []string{"metadata.name Invalid: may not contain '/'"}},
		{"no verbs", func(r *rbacv1.Role) { r.Rules[0].Verbs = nil }, []string{"rules[0].verbs Required: verbs must contain at least one value"}},
		{"nothing", func(r *rbacv1.Role) { r.Rules[0] = rbacv1.PolicyRule{Verbs: []string{"get"}} },
			[]string{"rules[0].apiGroups Required: resource rules must supply at least one api group", "rules[0].resources Required: resource rules must supply at least one resource"}},
		{"urls", func(r *rbacv1.Role) { r.Rules[0].NonResourceURLs = []string{"/metrics"} },
			[]string{"rules[0].nonResourceURLs Invalid: namespaced rules cannot apply to non-resource URLs", "rules[0].nonResourceURLs Invalid: rules cannot apply to both regular resources and non-resource URLs"}},
	})
	cluster := func() *rbacv1.ClusterRole { return &rbacv1.ClusterRole{ObjectMeta: named("c", "")} }
	creates(t, cluster, nothing, ClusterRole, []change[*rbacv1.ClusterRole]{
		{"urls", func(r *rbacv1.ClusterRole) {
			r.Rules = []rbacv1.PolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics"}}}
		}, nil},
		{"aggregation of nothing", func(r *rbacv1.ClusterRole) { r.AggregationRule = &rbacv1.AggregationRule{} },
			[]string{"aggregationRule.clusterRoleSelectors Required: at least one clusterRoleSelector required if aggregationRule is non-nil"}},
	})
	binding := func() *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{ObjectMeta: named("b", "default"), RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "r"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "u"}}}
	}
	creates(t, binding, defaults.RoleBinding, RoleBinding, []change[*rbacv1.RoleBinding]{
		{"good", nil, nil},
		{"kind", func(b *rbacv1.RoleBinding) { b.RoleRef.Kind = "Group" }, []string{`roleRef.kind NotSupported: "ClusterRole", "Role"`}},
		{"group", func(b *rbacv1.RoleBinding) { b.RoleRef.APIGroup = "x" }, []string{`roleRef.apiGroup NotSupported: "rbac.authorization.k8s.io"`}},
		{"name", func(b *rbacv1.RoleBinding) { b.RoleRef.Name = "" }, []string{"roleRef.name Required"}},
		{"subject", func(b *rbacv1.RoleBinding) { b.Subjects[0] = rbacv1.Subject{Kind: "Dog"} }, []string{"subjects[0].name Required", `subjects[0].kind NotSupported: "Group", "ServiceAccount", "User"`}},
		{"account", func(b *rbacv1.RoleBinding) {
			b.Subjects[0] = rbacv1.Subject{Kind: "ServiceAccount", Name: "S", APIGroup: "x"}
		}, []string{"subjects[0].name Invalid", "subjects[0].apiGroup NotSupported"}},
	})
	updates(t, binding, defaults.RoleBinding, RoleBindingUpdate, []change[*rbacv1.RoleBinding]{
		{"subjects", func(b *rbacv1.RoleBinding) { b.Subjects = nil }, nil},
		{"role", func(b *rbacv1.RoleBinding) { b.RoleRef.Name = "other" }, []string{"roleRef Invalid: cannot change roleRef"}},
	})
	crb := func() *rbacv1.ClusterRoleBinding {
		return &rbacv1.ClusterRoleBinding{ObjectMeta: named("b", ""), RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "r"}, Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "s"}}}
	}
	creates(t, crb, defaults.ClusterRoleBinding, ClusterRoleBinding, []change[*rbacv1.ClusterRoleBinding]{
		{"account without namespace", nil, []string{"subjects[0].namespace Required"}},
		{"role", func(b *rbacv1.ClusterRoleBinding) { b.RoleRef.Kind, b.Subjects = "Role", nil }, []string{`roleRef.kind NotSupported: "ClusterRole"`}},
	})
}

func requestPEM(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func certificatePEM(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestCertificateSigningRequest(t *testing.T) {
	request, certificate := requestPEM(t), certificatePEM(t)
	type csr = certificatesv1.CertificateSigningRequest
	good := func() *csr {
		return &csr{ObjectMeta: named("Any Name", ""), Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: request, SignerName: "kubernetes.io/kube-apiserver-client-kubelet", Usages: []certificatesv1.KeyUsage{"client auth"},
		}}
	}
	cond := func(typ certificatesv1.RequestConditionType) certificatesv1.CertificateSigningRequestCondition {
		return certificatesv1.CertificateSigningRequestCondition{Type: typ, Status: corev1.ConditionTrue}
	}
	add := func(types ...certificatesv1.RequestConditionType) func(*csr) {
		return func(c *csr) {
			for _, typ := range types {
				c.Status.Conditions = append(c.Status.Conditions, cond(typ))
			}
		}
	}
	creates(t, good, nothing, CertificateSigningRequest, []change[*csr]{
		{"good", nil, nil},
		{"not PEM", func(c *csr) { c.Spec.Request = []byte("x") }, []string{"spec.request Invalid: PEM block type must be CERTIFICATE REQUEST"}},
		{"usages", func(c *csr) { c.Spec.Usages = nil }, []string{"spec.usages Required"}},
		{"usage", func(c *csr) { c.Spec.Usages = append(c.Spec.Usages, "client auth", "flying") }, []string{"spec.usages[1] Duplicate", "spec.usages[2] NotSupported"}},
		{"no signer", func(c *csr) { c.Spec.SignerName = "" }, []string{"spec.signerName Required"}},
		{"bare signer", func(c *csr) { c.Spec.SignerName = "me" }, []string{"spec.signerName Invalid: must be a fully qualified domain and path of the form 'example.com/signer-name'"}},
		{"short domain", func(c *csr) { c.Spec.SignerName = "com/x" }, []string{"spec.signerName Invalid: should be a domain with at least two segments separated by dots"}},
		{"legacy signer", func(c *csr) { c.Spec.SignerName = "kubernetes.io/legacy-unknown" }, []string{"spec.signerName Invalid: the legacy signerName is not allowed via this API version"}},
		{"long path", func(c *csr) { c.Spec.SignerName = "e.io/" + strings.Repeat("a", 63) + "." + strings.Repeat("b", 253) }, nil},
		{"long domain", func(c *csr) { c.Spec.SignerName = strings.Repeat("a.", 127) + "io/x" }, []string{"spec.signerName TooLong"}},
		{"bad labels", func(c *csr) { c.Spec.SignerName = "A.B.io/C.D" }, []string{`spec.signerName Invalid: validating label "A"`, `spec.signerName Invalid: validating label "C"`}},
		{"short life", func(c *csr) { c.Spec.ExpirationSeconds = ptr(int32(599)) }, []string{"spec.expirationSeconds Invalid: may not specify a duration less than 600 seconds (10 minutes)"}},
	})
	updates(t, good, nothing, CertificateSigningRequestApprovalUpdate, []change[*csr]{
		{"approve", add("Approved"), nil},
		{"both", add("Approved", "Denied"), []string{"status.conditions Invalid: Approved and Denied conditions are mutually exclusive"}},
		{"twice", add("Approved", "Approved"), []string{"status.conditions[1].type Duplicate"}},
		{"false", func(c *csr) { add("Approved")(c); c.Status.Conditions[0].Status = "False" }, []string{`status.conditions[0].status NotSupported: "True"`}},
		{"certificate", func(c *csr) { c.Status.Certificate = certificate }, []string{"status.certificate Forbidden: updates may not set certificate content"}},
	})
	approved := func() *csr { c := good(); add("Approved")(c); return c }
	updates(t, approved, nothing, CertificateSigningRequestStatusUpdate, []change[*csr]{
		{"sign", func(c *csr) { c.Status.Certificate = certificate }, nil},
		{"sign with noise", func(c *csr) { c.Status.Certificate = []byte("x") }, []string{"status.certificate Invalid: must contain one or more PEM blocks"}},
		{"sign with a request", func(c *csr) { c.Status.Certificate = request }, []string{"status.certificate Invalid: only CERTIFICATE PEM blocks are allowed"}},
		{"fail", add("Failed"), nil},
		{"deny", add("Denied"), []string{"status.conditions Invalid", `status.conditions Forbidden: updates may not add a condition of type "Denied"`}},
		{"take back", func(c *csr) { c.Status.Conditions = nil }, []string{`status.conditions Forbidden: updates may not remove a condition of type "Approved"`}},
	})
	signed := func() *csr { c := approved(); c.Status.Certificate = certificate; return c }
	updates(t, signed, nothing, CertificateSigningRequestStatusUpdate, []change[*csr]{
		{"sign again", func(c *csr) {
			c.Status.Certificate = append(certificate[:len(certificate):len(certificate)], certificate...)
		}, []string{"status.certificate Forbidden: updates may not modify existing certificate content"}},
	})
}

func TestNetworking(t *testing.T) {
	type policy = networkingv1.NetworkPolicy
	np := func() *policy {
		return &policy{ObjectMeta: named("n", "default"), Spec: networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{
			From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/8", Except: []string{"10.1.0.0/16"}}}}, Ports: []networkingv1.NetworkPolicyPort{{Port: ptr(intstr.FromInt32(80))}},
		}}}}
	}
	peer := func(do func(*networkingv1.NetworkPolicyPeer)) func(*policy) {
		return func(n *policy) { do(&n.Spec.Ingress[0].From[0]) }
	}
	port := func(do func(*networkingv1.NetworkPolicyPort)) func(*policy) {
		return func(n *policy) { do(&n.Spec.Ingress[0].Ports[0]) }
	}
	const from, prt = "spec.ingress[0].from[0]", "spec.ingress[0].ports[0]"
	creates(t, np, defaults.NetworkPolicy, NetworkPolicy, []change[*policy]{
		{"good", nil, nil},
		{"no peer", peer(func(p *networkingv1.NetworkPolicyPeer) { p.IPBlock = nil }), []string{from + " Required: must specify a peer"}},
		{"both", peer(func(p *networkingv1.NetworkPolicyPeer) { p.PodSelector = &metav1.LabelSelector{} }), []string{from + " Forbidden: may not specify both ipBlock and another peer"}},
		{"cidr", peer(func(p *networkingv1.NetworkPolicyPeer) { p.IPBlock.CIDR = "10.0.0.1" }), []string{from + ".ipBlock.cidr Invalid"}},
		{"except", peer(func(p *networkingv1.NetworkPolicyPeer) { p.IPBlock.Except = []string{"10.0.0.0/8", "11.0.0.0/16"} }),
			[]string{from + ".ipBlock.except[0] Invalid: must be a strict subset of `cidr`", from + ".ipBlock.except[1] Invalid"}},
		{"range", port(func(p *networkingv1.NetworkPolicyPort) { p.EndPort = ptr(int32(79)) }), []string{prt + ".endPort Invalid: must be greater than or equal to `port`"}},
		{"range of a name", port(func(p *networkingv1.NetworkPolicyPort) {
			p.Port, p.EndPort = ptr(intstr.FromString("web")), ptr(int32(79))
		}), []string{prt + ".endPort Invalid: may not be specified when `port` is non-numeric"}},
		{"range of nothing", port(func(p *networkingv1.NetworkPolicyPort) { p.Port, p.EndPort = nil, ptr(int32(79)) }), []string{prt + ".endPort Invalid: must not be specified when `port` is not specified"}},
		{"types", func(n *policy) { n.Spec.PolicyTypes = []networkingv1.PolicyType{"Sideways"} }, []string{`spec.policyTypes[0] NotSupported: "Egress", "Ingress"`}},
	})
	type ingress = networkingv1.Ingress
	ing := func() *ingress {
		return &ingress{ObjectMeta: named("i", "default"), Spec: networkingv1.IngressSpec{Rules: []networkingv1.IngressRule{{Host: "a.example", IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
			Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: ptr(networkingv1.PathTypePrefix), Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "s", Port: networkingv1.ServiceBackendPort{Number: 80}}}}},
		}}}}}}
	}
	path := func(do func(*networkingv1.HTTPIngressPath)) func(*ingress) {
		return func(i *ingress) { do(&i.Spec.Rules[0].HTTP.Paths[0]) }
	}
	const r0, p0 = "spec.rules[0]", "spec.rules[0].http.paths[0]"
	creates(t, ing, nothing, Ingress, []change[*ingress]{
		{"good", nil, nil},
		{"nothing", func(i *ingress) { i.Spec.Rules = nil }, []string{"spec Invalid: either `defaultBackend` or `rules` must be specified"}},
		{"address", func(i *ingress) { i.Spec.Rules[0].Host = "1.2.3.4" }, []string{r0 + ".host Invalid: must be a DNS name, not an IP address"}},
		{"wildcard", func(i *ingress) { i.Spec.Rules[0].Host = "*.example" }, nil},
		{"bad wildcard", func(i *ingress) { i.Spec.Rules[0].Host = "a.*.example" }, []string{r0 + ".host Invalid: a wildcard DNS-1123 subdomain"}},
		{"no type", path(func(h *networkingv1.HTTPIngressPath) { h.PathType = nil }), []string{p0 + ".pathType Required: pathType must be specified"}},
		{"relative", path(func(h *networkingv1.HTTPIngressPath) { h.Path = "x/../y" }), []string{p0 + ".path Invalid: must be an absolute path", p0 + ".path Invalid: must not contain '/../'"}},
		{"encoded", path(func(h *networkingv1.HTTPIngressPath) { h.Path = "/a%2Fb/.." }), []string{p0 + ".path Invalid: must not contain '%2F'", p0 + ".path Invalid: cannot end with '/..'"}},
		{"no backend", path(func(h *networkingv1.HTTPIngressPath) { h.Backend.Service = nil }), []string{p0 + ".backend Invalid: resource or service backend is required"}},
		{"two ports", path(func(h *networkingv1.HTTPIngressPath) { h.Backend.Service.Port.Name = "web" }), []string{p0 + ".backend Invalid: cannot set both port name & port number"}},
		{"class twice", func(i *ingress) {
			i.Annotations = map[string]string{ingressClassAnnotation: "x"}
			i.Spec.IngressClassName = ptr("x")
		},
			[]string{"metadata.annotations.kubernetes.io/ingress.class Invalid: can not be set when the class field is also set"}},
	})
	class := func() *networkingv1.IngressClass {
		return &networkingv1.IngressClass{ObjectMeta: named("c", ""), Spec: networkingv1.IngressClassSpec{Controller: "example.com/c"}}
	}
	updates(t, class, defaults.IngressClass, IngressClassUpdate, []change[*networkingv1.IngressClass]{
		{"controller", func(c *networkingv1.IngressClass) { c.Spec.Controller = "example.com/d" }, []string{"spec.controller Invalid: field is immutable"}},
		{"parameters", func(c *networkingv1.IngressClass) {
			c.Spec.Parameters = &networkingv1.IngressClassParametersReference{Kind: "K", Name: "n", Scope: ptr("Namespace")}
		}, []string{"spec.parameters.namespace Required: `parameters.scope` is set to 'Namespace'"}},
	})
}

func TestMisc(t *testing.T) {
	lease := func() *coordinationv1.Lease { return &coordinationv1.Lease{ObjectMeta: named("l", "default")} }
	creates(t, lease, nothing, Lease, []change[*coordinationv1.Lease]{
		{"good", nil, nil},
		{"duration", func(l *coordinationv1.Lease) { l.Spec.LeaseDurationSeconds = ptr(int32(0)) }, []string{"spec.leaseDurationSeconds Invalid: must be greater than 0"}},
		{"transitions", func(l *coordinationv1.Lease) { l.Spec.LeaseTransitions = ptr(int32(-1)) }, []string{"spec.leaseTransitions Invalid: must be greater than or equal to 0"}},
	})
	class := func() *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{ObjectMeta: named("high", ""), Value: 1000}
	}
	creates(t, class, defaults.PriorityClass, PriorityClass, []change[*schedulingv1.PriorityClass]{
		{"good", nil, nil},
		{"too high", func(p *schedulingv1.PriorityClass) { p.Value = 1_000_000_001 }, []string{"value Forbidden: maximum allowed value of a user defined priority is 1000000000"}},
		{"reserved", func(p *schedulingv1.PriorityClass) { p.Name = "system-mine" }, []string{"metadata.name Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class"}},
		{"system's", func(p *schedulingv1.PriorityClass) { p.Name, p.Value = "system-node-critical", 2_000_001_000 }, nil},
		{"system's at another value", func(p *schedulingv1.PriorityClass) { p.Name = "system-node-critical" }, []string{"metadata.name Forbidden: value of system-node-critical PriorityClass must be 2000001000"}},
	})
	updates(t, class, defaults.PriorityClass, PriorityClassUpdate, []change[*schedulingv1.PriorityClass]{
		{"value", func(p *schedulingv1.PriorityClass) { p.Value++ }, []string{"value Forbidden: may not be changed in an update."}},
		{"default", func(p *schedulingv1.PriorityClass) { p.GlobalDefault = true }, nil},
	})
	event := func() *corev1.Event {
		return &corev1.Event{ObjectMeta: named("e", "default"), InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p"}}
	}
	creates(t, event, nothing, Event, []change[*corev1.Event]{
		{"good", nil, nil},
		{"elsewhere", func(e *corev1.Event) { e.InvolvedObject.Namespace = "other" }, []string{"involvedObject.namespace Invalid: does not match event.namespace"}},
		{"of a node", func(e *corev1.Event) { e.InvolvedObject = corev1.ObjectReference{Kind: "Node", Name: "n"} }, nil},
		{"of a node elsewhere", func(e *corev1.Event) { e.InvolvedObject.Namespace, e.Namespace = "", "other" }, []string{"involvedObject.namespace Invalid"}},
		{"timed", func(e *corev1.Event) { e.EventTime = metav1.NewMicroTime(time.Unix(1, 0)) },
			[]string{"reportingComponent Required", "reportingInstance Required", "action Required", "reason Required"}},
	})
	newer := func() *eventsv1.Event {
		return &eventsv1.Event{ObjectMeta: named("e", "default"), EventTime: metav1.NewMicroTime(time.Unix(1, 0)), ReportingController: "a.example/b", ReportingInstance: "i",
			Action: "a", Reason: "r", Type: "Normal", Regarding: corev1.ObjectReference{Namespace: "default"}}
	}
	creates(t, newer, nothing, EventsEvent, []change[*eventsv1.Event]{
		{"good", nil, nil},
		{"no time", func(e *eventsv1.Event) { e.EventTime = metav1.MicroTime{} }, []string{"eventTime Required"}},
		{"type", func(e *eventsv1.Event) { e.Type = "Odd" }, []string{"type Invalid: has invalid value: Odd"}},
		{"series", func(e *eventsv1.Event) { e.Series = &eventsv1.EventSeries{Count: 1} }, []string{"series.count Invalid: should be at least 2", "series.lastObservedTime Required"}},
		{"old fields", func(e *eventsv1.Event) { e.DeprecatedCount = 1 }, []string{"deprecatedCount Invalid: needs to be unset"}},
	})
	updates(t, newer, nothing, EventsEventUpdate, []change[*eventsv1.Event]{
		{"goes on", func(e *eventsv1.Event) {
			e.Series = &eventsv1.EventSeries{Count: 2, LastObservedTime: metav1.NewMicroTime(time.Unix(2, 0))}
		}, nil},
		{"reason", func(e *eventsv1.Event) { e.Reason = "s" }, []string{"reason Invalid: field is immutable"}},
	})
}

func TestReviews(t *testing.T) {
	attrs := &authorizationv1.ResourceAttributes{Namespace: "default", Verb: "get", Resource: "pods"}
	sar := func() *authorizationv1.SubjectAccessReview {
		return &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: "u", ResourceAttributes: attrs}}
	}
	creates(t, sar, nothing, SubjectAccessReview, []change[*authorizationv1.SubjectAccessReview]{
		{"good", nil, nil},
		{"nobody", func(r *authorizationv1.SubjectAccessReview) { r.Spec.User = "" }, []string{"spec.user Invalid: at least one of user or group must be specified"}},
		{"nothing", func(r *authorizationv1.SubjectAccessReview) { r.Spec.ResourceAttributes = nil }, []string{"spec Invalid: exactly one of nonResourceAttributes or resourceAttributes must be specified"}},
		{"both", func(r *authorizationv1.SubjectAccessReview) {
			r.Spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{}
		}, []string{"spec Invalid: exactly one of nonResourceAttributes or resourceAttributes must be specified"}},
		{"named", func(r *authorizationv1.SubjectAccessReview) { r.Name = "x" }, []string{"metadata Invalid: must be empty"}},
		{"selectors in both forms", func(r *authorizationv1.SubjectAccessReview) {
			a := *attrs
			a.FieldSelector = &authorizationv1.FieldSelectorAttributes{RawSelector: "a=b", Requirements: []metav1.FieldSelectorRequirement{{Key: "a", Operator: "In", Values: []string{"b"}}}}
			a.LabelSelector = &authorizationv1.LabelSelectorAttributes{RawSelector: "a=b", Requirements: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Exists"}}}
			r.Spec.ResourceAttributes = &a
		}, []string{"spec.resourceAttributes.fieldSelector.rawSelector Invalid: may not specified at the same time as requirements", "spec.resourceAttributes.labelSelector.rawSelector Invalid: may not specified at the same time as requirements"}},
		{"selectors in none", func(r *authorizationv1.SubjectAccessReview) {
			a := *attrs
			a.FieldSelector, a.LabelSelector = &authorizationv1.FieldSelectorAttributes{}, &authorizationv1.LabelSelectorAttributes{}
			r.Spec.ResourceAttributes = &a
		}, []string{"spec.resourceAttributes.fieldSelector.requirements Required: when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required",
			"spec.resourceAttributes.labelSelector.requirements Required: when spec.resourceAttributes.labelSelector is specified, requirements or rawSelector is required"}},
		{"requirements that say nothing", func(r *authorizationv1.SubjectAccessReview) {
			a := *attrs
			a.FieldSelector = &authorizationv1.FieldSelectorAttributes{Requirements: []metav1.FieldSelectorRequirement{{Operator: "In"}, {Key: "a", Operator: "OfTheFuture"}}}
			r.Spec.ResourceAttributes = &a
		}, []string{"spec.resourceAttributes.fieldSelector.requirements[0].key Required: must be specified", "spec.resourceAttributes.fieldSelector.requirements[0].values Required"}},
	})
	local := func() *authorizationv1.LocalSubjectAccessReview {
		return &authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: "default"}, Spec: sar().Spec}
	}
	creates(t, local, nothing, LocalSubjectAccessReview, []change[*authorizationv1.LocalSubjectAccessReview]{
		{"good", nil, nil},
		{"elsewhere", func(r *authorizationv1.LocalSubjectAccessReview) { r.Namespace = "other" }, []string{"spec.resourceAttributes.namespace Invalid: must match metadata.namespace"}},
		{"named", func(r *authorizationv1.LocalSubjectAccessReview) { r.Name = "x" }, []string{"metadata Invalid: must be empty except for namespace"}},
		{"about no resource", func(r *authorizationv1.LocalSubjectAccessReview) {
			r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes = nil, &authorizationv1.NonResourceAttributes{Path: "/"}
		}, []string{"spec.nonResourceAttributes Invalid: disallowed on this kind of request"}},
	})
	compare(t, SelfSubjectAccessReview(&authorizationv1.SelfSubjectAccessReview{}), []string{"spec Invalid: exactly one of"})
	compare(t, TokenRequest(&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr(int64(600)), Attestations: map[string]authenticationv1.AttestationValue{"a": nil}}}),
		[]string{"spec.attestations Invalid: attestations may only be specified with a webhook bound object reference"})
	compare(t, TokenRequest(&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr(int64(10))}}), []string{"spec.expirationSeconds Invalid: may not specify a duration less than 10 minutes"})
	compare(t, Binding(&corev1.Binding{Target: corev1.ObjectReference{Kind: "Pod"}}), []string{`target.kind NotSupported: "Node", "<empty>"`, "target.name Required"})
	compare(t, Scale(&autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: -1}}), []string{"spec.replicas Invalid: must be greater than or equal to 0"})
}

func claimNamed(name string) corev1.PersistentVolumeClaim {
	c := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	return c
}
