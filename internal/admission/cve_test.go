package admission

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

func asNode(name string, r *Request) *Request {
	r.User = nodeUser(name)
	return r
}

// TestCVE2021_25735: what a node may change of itself is judged against the
// object that is stored, not against what the request or a plugin says that
// it was.
func TestCVE2021_25735(t *testing.T) {
	w := newWorld(t)
	tainted := &corev1.Node{ObjectMeta: meta("", "n1"), Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}}}
	tainted.Labels = map[string]string{"node-restriction.kubernetes.io/zone": "a"}
	update := func(sub string, change func(*corev1.Node)) error {
		now := tainted.DeepCopy()
		change(now)
		return w.admit(asNode("n1", &Request{Operation: Update, Ref: kinds.Ref{Kind: kinds.Node, Name: "n1", Sub: sub}, Object: now, Old: tainted}))
	}
	want(t, update("", func(*corev1.Node) {}), 0, "")
	want(t, update("", func(n *corev1.Node) { n.Spec.Taints = nil }), 403, "is not allowed to modify taints")
	want(t, update("", func(n *corev1.Node) { n.Labels = nil }), 403, "is not allowed to modify labels")
	want(t, update("", func(n *corev1.Node) { n.Labels = map[string]string{"node-restriction.kubernetes.io/zone": "b"} }), 403, "is not allowed to modify labels")
	want(t, update("status", func(n *corev1.Node) { n.Labels = nil }), 403, "is not allowed to modify labels")
}

// TestCVE2025_5187: a node that gave itself an owner could be deleted by it, and
// come back without its taints and labels.
func TestCVE2025_5187(t *testing.T) {
	w := newWorld(t)
	owned := &corev1.Node{ObjectMeta: meta("", "n1")}
	owned.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "u"}}
	want(t, w.admit(asNode("n1", create(kinds.Node, owned.DeepCopy()))), 403, "is not allowed to set ownerReferences on itself")
	for _, sub := range []string{"", "status"} {
		r := &Request{Operation: Update, Ref: kinds.Ref{Kind: kinds.Node, Name: "n1", Sub: sub}, Object: owned.DeepCopy(), Old: &corev1.Node{ObjectMeta: meta("", "n1")}}
		want(t, w.admit(asNode("n1", r)), 403, "is not allowed to modify ownerReferences")
	}
}

// TestCVE2025_4563: a mirror pod is a node's own, and gives it no right to the
// devices of others.
func TestCVE2025_4563(t *testing.T) {
	w := nodeWorld(t)
	want(t, w.admit(asNode("n1", create(kinds.Pod, mirror(nil)))), 0, "")
	for what, change := range map[string]func(*corev1.Pod){
		"resourceclaims": func(p *corev1.Pod) { p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu"}} },
		"a mirror pod may not reference secrets": func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
		},
	} {
		want(t, w.admit(asNode("n1", create(kinds.Pod, mirror(change)))), 403, what)
	}
}
