package job

import (
	"encoding/json"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// claim adopts orphans that match and disowns pods that do not match any more.
// Adopted pods count from this pass on, and are tracked.
func (o *Observed) claim(selector labels.Selector) (mine []*corev1.Pod, actions []plan.Action) {
	leaving := o.Job.DeletionTimestamp != nil
	for _, pod := range o.Owned {
		switch {
		case selector.Matches(labels.Set(pod.Labels)):
			mine = append(mine, pod)
		case !leaving:
			actions = append(actions, patchPod(pod, map[string]any{
				"ownerReferences":                     []any{map[string]string{"$patch": "delete", "uid": string(o.Job.UID)}},
				"$deleteFromPrimitiveList/finalizers": []string{batchv1.JobTrackingFinalizer},
			}))
		case tracked(pod):
			actions = append(actions, release(pod)) // or both wait for each other
		}
	}
	if leaving {
		return mine, actions
	}
	for _, pod := range o.Orphans {
		if pod.DeletionTimestamp != nil || !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		if len(actions) >= burst {
			break
		}
		a := patchPod(pod, map[string]any{
			"ownerReferences": []any{metav1.NewControllerRef(o.Job, kinds.Job.GVK)}, "finalizers": []string{batchv1.JobTrackingFinalizer}})
		// Live: an orphan of a job that is being deleted must stay one.
		a.Live = []plan.Live{{Want: plan.Alive, Ref: kinds.RefTo(kinds.Job, o.Job), UID: o.Job.UID}}
		actions = append(actions, a)
		adopted := pod.DeepCopy()
		if !tracked(adopted) {
			adopted.Finalizers = append(adopted.Finalizers, batchv1.JobTrackingFinalizer)
		}
		mine = append(mine, adopted)
	}
	return mine, actions
}

// release lets one pod go.
func release(pod *corev1.Pod) plan.Action {
	return patchPod(pod, map[string]any{"$deleteFromPrimitiveList/finalizers": []string{batchv1.JobTrackingFinalizer}})
}

// patchPod changes the metadata of the pod that was seen.
func patchPod(pod *corev1.Pod, metadata map[string]any) plan.Action {
	data, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		panic("job: " + err.Error()) // strings and references always marshal
	}
	return plan.Action{Verb: plan.Patch, Ref: kinds.RefTo(kinds.Pod, pod), UID: pod.UID, PatchType: types.StrategicMergePatchType,
		Data: data, Parallel: true, Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound}}
}
