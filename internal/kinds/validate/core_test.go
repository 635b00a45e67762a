package validate

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/internal/kinds/defaults"
)

func TestNamespace(t *testing.T) {
	good := func() *corev1.Namespace { return &corev1.Namespace{ObjectMeta: named("team", "")} }
	creates(t, good, defaults.Namespace, Namespace, []change[*corev1.Namespace]{
		{"good", nil, nil},
		{"dots", func(n *corev1.Namespace) { n.Name = "a.b" }, []string{"metadata.name Invalid: must not contain dots"}},
		{"in a namespace", func(n *corev1.Namespace) { n.Namespace = "x" }, []string{"metadata.namespace Forbidden: not allowed on this type"}},
		{"finalizer", func(n *corev1.Namespace) { n.Spec.Finalizers = []corev1.FinalizerName{"kubernetes", "mine"} },
			[]string{"spec.finalizers Invalid: name is neither a standard finalizer name nor is it fully qualified"}},
	})
	updates(t, good, defaults.Namespace, NamespaceStatusUpdate, []change[*corev1.Namespace]{
		{"ending too early", func(n *corev1.Namespace) { n.Status.Phase = corev1.NamespaceTerminating }, []string{"status.Phase Invalid: may only be 'Active' if `deletionTimestamp` is empty"}},
	})
	ending := func() *corev1.Namespace {
		n := good()
		n.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
		return n
	}
	updates(t, ending, defaults.Namespace, NamespaceStatusUpdate, []change[*corev1.Namespace]{
		{"active too long", nil, []string{"status.Phase Invalid: may only be 'Terminating' if `deletionTimestamp` is not empty"}},
	})
	updates(t, ending, defaults.Namespace, NamespaceUpdate, []change[*corev1.Namespace]{
		{"new finalizer", func(n *corev1.Namespace) { n.Finalizers = []string{"a.example/b"} }, []string{"metadata.finalizers Forbidden: no new finalizers can be added if the object is being deleted"}},
	})
}

func TestSecret(t *testing.T) {
	good := func() *corev1.Secret {
		return &corev1.Secret{ObjectMeta: named("s", "default"), Data: map[string][]byte{"k": []byte("hidden")}}
	}
	typed := func(typ corev1.SecretType) func(*corev1.Secret) { return func(s *corev1.Secret) { s.Type = typ } }
	creates(t, good, defaults.Secret, Secret, []change[*corev1.Secret]{
		{"good", nil, nil},
		{"key", func(s *corev1.Secret) { s.Data["a b"] = nil }, []string{"data[a b] Invalid: a valid config key must consist of"}},
		{"size", func(s *corev1.Secret) { s.Data["k"] = make([]byte, 1<<20+1) }, []string{"data TooLong: may not be more than 1048576 bytes"}},
		{"token without account", typed(corev1.SecretTypeServiceAccountToken), []string{"metadata.annotations[kubernetes.io/service-account.name] Required"}},
		{"docker", typed(corev1.SecretTypeDockerConfigJson), []string{"data[.dockerconfigjson] Required"}},
		{"docker not JSON", func(s *corev1.Secret) {
			s.Type, s.Data[".dockerconfigjson"] = corev1.SecretTypeDockerConfigJson, []byte("hidden")
		},
			[]string{"data[.dockerconfigjson] Invalid"}},
		{"basic", typed(corev1.SecretTypeBasicAuth), []string{"data[username] Required", "data[password] Required"}},
		{"ssh", typed(corev1.SecretTypeSSHAuth), []string{"data[ssh-privatekey] Required"}},
		{"tls", typed(corev1.SecretTypeTLS), []string{"data[tls.crt] Required", "data[tls.key] Required"}},
		{"own type", typed("example.com/x"), nil},
	})
	updates(t, good, defaults.Secret, SecretUpdate, []change[*corev1.Secret]{
		{"data", func(s *corev1.Secret) { s.Data["k"] = nil }, nil},
		{"type", typed("example.com/x"), []string{"type Invalid: field is immutable"}},
	})
	frozen := func() *corev1.Secret { s := good(); s.Immutable = ptr(true); return s }
	updates(t, frozen, defaults.Secret, SecretUpdate, []change[*corev1.Secret]{
		{"data", func(s *corev1.Secret) { s.Data["k"] = nil }, []string{"data Forbidden: field is immutable when `immutable` is set"}},
		{"thaw", func(s *corev1.Secret) { s.Immutable = nil }, []string{"immutable Forbidden"}},
		{"label", func(s *corev1.Secret) { s.Labels = map[string]string{"a": "b"} }, nil},
	})
}

// TestSecretsStaySecret: what a secret holds is in no error.
func TestSecretsStaySecret(t *testing.T) {
	s := &corev1.Secret{ObjectMeta: named("S", "default"), Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{".dockerconfigjson": []byte("{hunter2")}}
	other := s.DeepCopy()
	other.Immutable, other.Data["x"] = ptr(true), []byte("hunter2")
	for _, errs := range []field.ErrorList{Secret(s), SecretUpdate(s, other)} {
		if len(errs) == 0 {
			t.Fatal("no error")
		}
		for _, e := range errs {
			if msg := e.Error(); strings.Contains(msg, "hunter2") {
				t.Errorf("told: %s", msg)
			}
		}
	}
}

func TestConfigMap(t *testing.T) {
	good := func() *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: named("c", "default"), Data: map[string]string{"k": "v"}}
	}
	creates(t, good, nothing, ConfigMap, []change[*corev1.ConfigMap]{
		{"good", nil, nil},
		{"twice", func(c *corev1.ConfigMap) { c.BinaryData = map[string][]byte{"k": nil} }, []string{"data[k] Invalid: duplicate of key present in binaryData"}},
		{"size", func(c *corev1.ConfigMap) { c.BinaryData = map[string][]byte{"b": make([]byte, 1<<20)} }, []string{"[] TooLong"}},
		{"key", func(c *corev1.ConfigMap) { c.Data[".."] = "" }, []string{"data[..] Invalid: must not be '..'"}},
	})
	frozen := func() *corev1.ConfigMap { c := good(); c.Immutable = ptr(true); return c }
	updates(t, frozen, nothing, ConfigMapUpdate, []change[*corev1.ConfigMap]{
		{"both", func(c *corev1.ConfigMap) { c.Data["k"] = ""; c.BinaryData = map[string][]byte{"b": {1}} }, []string{"data Forbidden", "binaryData Forbidden"}},
	})
}

func TestNode(t *testing.T) {
	good := func() *corev1.Node {
		return &corev1.Node{ObjectMeta: named("n1", ""), Spec: corev1.NodeSpec{PodCIDR: "10.244.1.0/24", ProviderID: "x"},
			Status: corev1.NodeStatus{Capacity: quantities("cpu", "2")}}
	}
	taint := corev1.Taint{Key: "a", Effect: "NoSchedule"}
	creates(t, good, defaults.Node, Node, []change[*corev1.Node]{
		{"good", nil, nil},
		{"taints", func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{taint, taint, {Key: "b", Value: "x y"}} },
			[]string{"metadata.taints[1] Duplicate: taints must be unique by key and effect pair", "metadata.taints[2].value Invalid", "metadata.taints[2].effect Required"}},
		{"capacity", func(n *corev1.Node) { n.Status.Capacity = quantities("pods", "500m", "memory", "-1") }, []string{"status.capacity.pods Invalid: must be an integer", "status.capacity.memory Invalid"}},
		{"networks", func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"10.244.1.0/24", "10.244.2.0/24"} }, []string{"spec.podCIDRs Invalid: may specify no more than one CIDR for each IP family"}},
		{"network", func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"x"} }, []string{"spec.podCIDRs[0] Invalid"}},
	})
	updates(t, good, defaults.Node, NodeUpdate, []change[*corev1.Node]{
		{"cordon", func(n *corev1.Node) { n.Spec.Unschedulable = true }, nil},
		{"network", func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"10.244.2.0/24"} }, []string{"spec.podCIDRs Forbidden: node updates may not change podCIDR except from \"\" to valid"}},
		{"provider", func(n *corev1.Node) { n.Spec.ProviderID = "y" }, []string{"spec.providerID Forbidden: node updates may not change providerID except from \"\" to valid"}},
		{"address", func(n *corev1.Node) {
			a := corev1.NodeAddress{Type: "InternalIP", Address: "1"}
			n.Status.Addresses = []corev1.NodeAddress{a, a}
		}, []string{"status.addresses[1] Duplicate"}},
	})
	bare := func() *corev1.Node { n := good(); n.Spec = corev1.NodeSpec{}; return n }
	updates(t, bare, defaults.Node, NodeUpdate, []change[*corev1.Node]{
		{"gets a network", func(n *corev1.Node) { n.Spec.PodCIDR, n.Spec.PodCIDRs = "10.244.1.0/24", []string{"10.244.1.0/24"} }, nil},
	})
}

func TestLimitRange(t *testing.T) {
	good := func() *corev1.LimitRange {
		return &corev1.LimitRange{ObjectMeta: named("l", "default"), Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
			{Type: corev1.LimitTypeContainer, Min: quantities("cpu", "100m"), Max: quantities("cpu", "2"), Default: quantities("cpu", "1"), DefaultRequest: quantities("cpu", "500m")},
		}}}
	}
	item := func(do func(*corev1.LimitRangeItem)) func(*corev1.LimitRange) {
		return func(l *corev1.LimitRange) { do(&l.Spec.Limits[0]) }
	}
	const at = "spec.limits[0]"
	creates(t, good, defaults.LimitRange, LimitRange, []change[*corev1.LimitRange]{
		{"good", nil, nil},
		{"type", item(func(i *corev1.LimitRangeItem) { i.Type = "Disk" }), []string{at + ".type Invalid: must be a standard limit type or fully qualified"}},
		{"min over max", item(func(i *corev1.LimitRangeItem) { i.Min = quantities("cpu", "3") }), []string{
			at + ".min[cpu] Invalid: min value 3 is greater than max value 2", at + ".defaultRequest[cpu] Invalid: min value 3 is greater than default request value 500m", at + ".default[cpu] Invalid: min value 3 is greater than default value 1"}},
		{"ratio", item(func(i *corev1.LimitRangeItem) { i.MaxLimitRequestRatio = quantities("cpu", "500m") }), []string{at + ".maxLimitRequestRatio[cpu] Invalid: ratio 500m is less than 1"}},
		{"pod defaults", item(func(i *corev1.LimitRangeItem) { i.Type = corev1.LimitTypePod }), []string{at + ".default Forbidden: may not be specified when `type` is 'Pod'", at + ".defaultRequest Forbidden"}},
		{"claim", item(func(i *corev1.LimitRangeItem) {
			*i = corev1.LimitRangeItem{Type: corev1.LimitTypePersistentVolumeClaim}
		}), []string{at + ".limits Required: either minimum or maximum storage value is required"}},
		{"twice", func(l *corev1.LimitRange) { l.Spec.Limits = append(l.Spec.Limits, l.Spec.Limits[0]) }, []string{"spec.limits[1].type Duplicate"}},
	})
}

func TestResourceQuota(t *testing.T) {
	good := func() *corev1.ResourceQuota {
		return &corev1.ResourceQuota{ObjectMeta: named("q", "default"), Spec: corev1.ResourceQuotaSpec{Hard: quantities("pods", "5", "requests.cpu", "2", "count/deployments.apps", "3", "requests.example.com/gpu", "1")}}
	}
	type quota = corev1.ResourceQuota
	creates(t, good, defaults.ResourceQuota, ResourceQuota, []change[*quota]{
		{"good", nil, nil},
		{"name", func(q *quota) { q.Spec.Hard = quantities("disk", "1") }, []string{"spec.hard[disk] Invalid: must be a standard resource type", "spec.hard[disk] Invalid: must be a standard resource for quota"}},
		{"half a pod", func(q *quota) { q.Spec.Hard = quantities("pods", "500m") }, []string{"spec.hard[pods] Invalid: must be an integer"}},
		{"scope", func(q *quota) { q.Spec.Scopes = []corev1.ResourceQuotaScope{"Odd"} }, []string{"spec.scopes[0] Invalid: unsupported scope"}},
		{"scope of pods only", func(q *quota) { q.Spec.Scopes = []corev1.ResourceQuotaScope{"BestEffort"} }, []string{"spec.scopes[0] Invalid: unsupported scope applied to resource"}},
		{"conflict", func(q *quota) {
			q.Spec.Hard = quantities("pods", "1")
			q.Spec.Scopes = []corev1.ResourceQuotaScope{"BestEffort", "NotBestEffort"}
		}, []string{"spec.scopes Invalid: conflicting scopes"}},
		{"selector", func(q *quota) {
			q.Spec.ScopeSelector = &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{{ScopeName: "PriorityClass", Operator: "In"}}}
		}, []string{"spec.scopeSelector.matchExpressions.values Required"}},
	})
	updates(t, good, defaults.ResourceQuota, ResourceQuotaUpdate, []change[*quota]{
		{"scopes", func(q *quota) { q.Spec.Scopes = []corev1.ResourceQuotaScope{"Terminating"} }, []string{"spec.scopes Invalid: field is immutable"}},
	})
}
