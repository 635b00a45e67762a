package admission

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

func placedNode() *corev1.Node {
	n := &corev1.Node{ObjectMeta: meta("", "n")}
	n.Labels = map[string]string{corev1.LabelTopologyZone: "z", corev1.LabelTopologyRegion: "r", corev1.LabelHostname: "n"}
	n.Status.Allocatable = amount("cpu", "2", "memory", "1Gi")
	return n
}

func TestTopologyLabels(t *testing.T) {
	w := newWorld(t, namespace("a"), account("a", "default"), placedNode())
	bound := simplePod("a", "p")
	bound.Spec.NodeName = "n"
	bound.Labels = map[string]string{"mine": "x", corev1.LabelTopologyZone: "elsewhere"}
	want(t, w.admit(create(kinds.Pod, bound)), 0, "")
	free := simplePod("a", "q")
	want(t, w.admit(create(kinds.Pod, free)), 0, "")
	binding := &corev1.Binding{ObjectMeta: meta("a", "q"), Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}
	want(t, w.admit(&Request{Operation: Create, Ref: kinds.Ref{Kind: kinds.Pod, Namespace: "a", Name: "q", Sub: "binding"}, Object: binding}), 0, "")
	for what, labels := range map[string]map[string]string{"pod": bound.Labels, "binding": binding.Labels} {
		if labels[corev1.LabelTopologyZone] != "z" || labels[corev1.LabelTopologyRegion] != "r" || labels[corev1.LabelHostname] != "" {
			t.Errorf("%s: %v", what, labels)
		}
	}
	if bound.Labels["mine"] != "x" || len(free.Labels) != 0 {
		t.Errorf("%v and %v", bound.Labels, free.Labels)
	}
}

func TestUpdatesThatNodesCannotFollow(t *testing.T) {
	node := placedNode()
	w := newWorld(t, namespace("a"), account("a", "default"), node)
	on := func(node, cpu string, edit ...func(*corev1.Pod)) *corev1.Pod {
		p := simplePod("a", "p")
		p.Spec.NodeName, p.Generation = node, 1
		p.Spec.Containers[0].Resources.Requests = amount("cpu", cpu)
		for _, e := range edit {
			e(p)
		}
		return p
	}
	next := func(p *corev1.Pod) { p.Generation = 2 }
	whole := func(p *corev1.Pod) { p.Spec.Resources = &corev1.ResourceRequirements{Requests: amount("cpu", "1")} }
	windows := placedNode()
	windows.Name = "w"
	windows.Labels[corev1.LabelOSStable] = "windows"
	w.set(windows)
	for _, tt := range []struct {
		name     string
		old, now *corev1.Pod
		part     string
		cause    string
	}{
		{"fits", on("n", "1"), on("n", "2", next), "", ""},
		{"too much", on("n", "1"), on("n", "3", next), "node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000", "NodeCapacity"},
		{"another system", on("w", "1"), on("w", "2", next), `pod resize is only supported on linux nodes, node "w" is "windows"`, "UnsupportedPlatform"},
		{"no node yet", on("", "1"), on("", "3", next), "", ""},
		{"nothing changes", on("n", "3"), on("n", "3"), "", ""},
		{"lost node", on("x", "1"), on("x", "2", next), `node "x" not found`, ""},
		{"the pod's own resources", on("n", "1"), on("n", "1", next, whole), "pod update requires features InPlacePodLevelResourcesVerticalScaling which are not available on node \"n\"", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := w.admit(&Request{Operation: Update, Ref: kinds.Ref{Kind: kinds.Pod, Namespace: "a", Name: "p", Sub: "resize"}, Object: tt.now, Old: tt.old})
			code := int32(0)
			if tt.part != "" {
				code = 403
			}
			want(t, err, code, tt.part)
			if tt.cause != "" && !apierrors.HasStatusCause(err, metav1.CauseType(tt.cause)) {
				t.Errorf("%v without the cause %s", err, tt.cause)
			}
		})
	}
}
