package kubelet

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	kplan "knarr.dev/knarr/internal/plan"
)

// toldNode is what events have said of the node: the view may show it as it was
// before the last write.
type toldNode struct {
	uid        types.UID
	cordoned   bool
	conditions map[corev1.NodeConditionType]corev1.ConditionStatus
}

// reasons of events, as upstream has them, when a condition becomes true and
// when it no longer is.
var nodeReasons = []struct {
	condition corev1.NodeConditionType
	is, isNot string
}{
	{corev1.NodeReady, "NodeReady", "NodeNotReady"},
	{corev1.NodeMemoryPressure, "NodeHasInsufficientMemory", "NodeHasSufficientMemory"},
	{corev1.NodeDiskPressure, "NodeHasDiskPressure", "NodeHasNoDiskPressure"},
	{corev1.NodePIDPressure, "NodeHasInsufficientPID", "NodeHasSufficientPID"},
}

// tell returns the events about what becomes of a node with its next status,
// and remembers them as told.
func (t *toldNode) tell(n *corev1.Node, next *corev1.NodeStatus) (events []kplan.Event) {
	say := func(reason, message string) {
		events = append(events, kplan.Event{Regarding: kinds.RefTo(kinds.Node, n), UID: n.UID, Type: corev1.EventTypeNormal, Reason: reason, Message: message})
	}
	state := func(reason string) { say(reason, "Node "+n.Name+" status is now: "+reason) }
	if t.uid != n.UID {
		*t = toldNode{uid: n.UID, conditions: map[corev1.NodeConditionType]corev1.ConditionStatus{}}
		say("Starting", "Starting kubelet.")
	}
	for _, r := range nodeReasons {
		was, is := statusOf(&n.Status, r.condition), statusOf(next, r.condition)
		told := t.conditions[r.condition]
		t.conditions[r.condition] = is
		switch {
		case was == is, told == is && was != corev1.ConditionUnknown: // only others make it unknown
		case is == corev1.ConditionTrue:
			state(r.is)
		case was != "":
			state(r.isNot)
		}
	}
	if n.Spec.Unschedulable != t.cordoned {
		t.cordoned = n.Spec.Unschedulable
		state(map[bool]string{true: "NodeNotSchedulable", false: "NodeSchedulable"}[t.cordoned])
	}
	return events
}

func statusOf(st *corev1.NodeStatus, t corev1.NodeConditionType) corev1.ConditionStatus {
	for i := range st.Conditions {
		if st.Conditions[i].Type == t {
			return st.Conditions[i].Status
		}
	}
	return ""
}
