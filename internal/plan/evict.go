package plan

import (
	"encoding/json"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
)

// Evict a pod: first its condition DisruptionTarget says why, unless somebody
// else's does, and then it is deleted. event needs a reason and a message only.
func Evict(p *corev1.Pod, now time.Time, reason, message string, event Event) []Action {
	var actions []Action
	if !slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue
	}) {
		mark := corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: message,
			LastTransitionTime: metav1.NewTime(now), ObservedGeneration: p.Generation,
		}
		data, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.PodCondition{mark}}})
		if err != nil {
			panic("plan: " + err.Error()) // API types always marshal
		}
		actions = append(actions, Action{
			Verb: Patch, Ref: kinds.RefTo(kinds.Pod, p).WithSub("status"), PatchType: types.StrategicMergePatchType,
			Data: data, UID: p.UID, Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
		})
	}
	event.Regarding, event.UID, event.Type = kinds.RefTo(kinds.Pod, p), p.UID, corev1.EventTypeNormal
	return append(actions, Action{
		Verb: Delete, Ref: kinds.RefTo(kinds.Pod, p), UID: p.UID, Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound}, Event: &event,
	})
}

// maxSeconds keeps a user's number within what a time can hold: ten years.
const maxSeconds = 10 * 366 * 24 * 3600

// Tolerated is for how long a taint is, by a toleration's seconds: less than
// none is none.
func Tolerated(seconds int64) time.Duration {
	return time.Duration(min(max(seconds, 0), maxSeconds)) * time.Second
}
