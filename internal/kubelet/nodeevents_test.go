package kubelet

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestNodeEvents(t *testing.T) {
	node := func(uid string, cordoned bool, ready, disk corev1.ConditionStatus) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: types.UID(uid)}, Spec: corev1.NodeSpec{Unschedulable: cordoned}}
		if ready != "" {
			n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}, {Type: corev1.NodeDiskPressure, Status: disk}}
		}
		return n
	}
	const yes, no, unknown = corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown
	var told toldNode
	for _, tt := range []struct { // one after the other
		name     string
		was, now *corev1.Node
		want     []string
	}{
		{"first start", node("u", false, "", ""), node("u", false, no, no), []string{"Starting"}},
		{"ready", node("u", false, no, no), node("u", false, yes, no), []string{"NodeReady"}},
		{"the view lags", node("u", false, no, no), node("u", false, yes, no), nil},
		{"nothing new", node("u", false, yes, no), node("u", false, yes, no), nil},
		{"cordoned, and the disk is full", node("u", true, yes, no), node("u", true, yes, yes), []string{"NodeHasDiskPressure", "NodeNotSchedulable"}},
		{"well again", node("u", false, yes, yes), node("u", false, yes, no), []string{"NodeHasNoDiskPressure", "NodeSchedulable"}},
		{"given up by others", node("u", false, unknown, unknown), node("u", false, yes, no), []string{"NodeReady", "NodeHasNoDiskPressure"}},
		{"the runtime ends", node("u", false, yes, no), node("u", false, no, no), []string{"NodeNotReady"}},
		{"made anew", node("v", true, no, no), node("v", true, yes, no), []string{"Starting", "NodeReady", "NodeNotSchedulable"}},
	} {
		var got []string
		for _, e := range told.tell(tt.was, &tt.now.Status) {
			got = append(got, e.Reason)
			if e.UID != tt.was.UID || e.Regarding.Name != "n" || e.Type != corev1.EventTypeNormal {
				t.Errorf("%s: %+v", tt.name, e)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// A lease goes with its node: it names the node that is there now.
func TestLeaseOwner(t *testing.T) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "new"}}
	of := func(uid types.UID) []metav1.OwnerReference { return []metav1.OwnerReference{{UID: uid}} }
	if got := leaseOwner(nil, nil); got != nil {
		t.Errorf("a node that is not known: %v", got)
	}
	if got := leaseOwner(of("old"), nil); len(got) != 1 || got[0].UID != "old" {
		t.Errorf("while it is not known: %v", got)
	}
	for _, have := range [][]metav1.OwnerReference{nil, of("old")} {
		if got := leaseOwner(have, n); len(got) != 1 || got[0] != (metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "n", UID: "new"}) {
			t.Errorf("%v: %v", have, got)
		}
	}
	if got := leaseOwner(of("new"), n); len(got) != 1 || got[0].Name != "" {
		t.Errorf("what stands is written anew: %v", got)
	}
}
