package apiserver

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/internal/kinds"
)

const (
	// maxDisrupted pods of a budget may be on their way out at once: what its
	// controller has not yet seen is remembered in the status.
	maxDisrupted = 2000
	// evictTries bounds how often a pod that changes meanwhile is looked at again.
	evictTries = 20
	// evictAgain is when to ask again, in seconds, while a budget is being counted.
	evictAgain = 10
	budgetsOf  = "kube-apiserver" // the manager of what an eviction writes into a budget

	notEvicted = "Cannot evict pod as it would violate the pod's disruption budget."
)

// evict deletes a pod if its disruption budget allows it.
func (s *Server) evict(c *call, e *policyv1.Eviction) (runtime.Object, error) {
	if e.Name != c.ref.Name {
		return nil, badRequest("name in URL does not match name in Eviction object")
	}
	opts := e.DeleteOptions
	if opts == nil {
		opts = &metav1.DeleteOptions{}
	}
	if isUnsafe(opts) {
		return nil, apierrors.NewInvalid(policyv1.SchemeGroupVersion.WithKind("Eviction").GroupKind(), c.ref.Name, field.ErrorList{field.Invalid(
			field.NewPath("deleteOptions", unsafeName), true, "can not be set for pod eviction, try after removing the option")})
	}
	one := *c
	one.ref.Sub, one.admitted = "", true
	one.dryRun = c.dryRun || len(opts.DryRun) > 0
	exact := opts.Preconditions != nil && opts.Preconditions.ResourceVersion != nil
	pod, gone, err := s.evictUnguarded(&one, opts, exact)
	if err != nil {
		return nil, err
	}
	if gone {
		return success(), nil
	}
	budget, spared, err := s.askBudget(&one, pod)
	if err != nil {
		return nil, err
	}
	if spared { // for as long as it is not healthy
		opts = at(opts, pod.ResourceVersion, exact)
	}
	if err := s.disrupt(&one, opts); err != nil {
		if spared && !exact && apierrors.IsConflict(err) {
			return nil, beingProcessed(budget)
		}
		return nil, err
	}
	return success(), nil
}

// at deletes nothing but that version, unless the client has named one.
func at(opts *metav1.DeleteOptions, version string, exact bool) *metav1.DeleteOptions {
	if exact {
		return opts
	}
	opts = opts.DeepCopy()
	if opts.Preconditions == nil {
		opts.Preconditions = &metav1.Preconditions{}
	}
	opts.Preconditions.ResourceVersion = &version
	return opts
}

// evictUnguarded deletes a pod that no budget guards, because it has not
// started or has ended or is being deleted. Else it returns the pod.
func (s *Server) evictUnguarded(c *call, opts *metav1.DeleteOptions, exact bool) (pod *corev1.Pod, gone bool, err error) {
	for range evictTries {
		cur, err := s.lookup(c.ctx, c.ref, true)
		if err != nil {
			return nil, false, err
		}
		pod := cur.obj.(*corev1.Pod)
		over := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil
		if !over && pod.Status.Phase != corev1.PodPending {
			return pod, false, nil
		}
		mine := opts
		if !over { // it may start any moment, and be guarded then
			mine = at(opts, pod.ResourceVersion, exact)
		}
		err = s.disrupt(c, mine)
		if err == nil || exact || !apierrors.IsConflict(err) {
			return nil, err == nil, err
		}
	}
	return nil, false, modified(c.ref)
}

// disrupt says on the pod why it goes, and deletes it.
func (s *Server) disrupt(c *call, opts *metav1.DeleteOptions) error {
	if !c.dryRun {
		obj, _, err := s.modify(c, func(old kinds.Object) (change, error) {
			if err := preconditions(c.ref, old, opts.Preconditions); err != nil {
				return change{}, err
			}
			pod := old.DeepCopyObject().(*corev1.Pod)
			setDisrupted(pod, metav1.NewTime(s.now().Truncate(time.Second)))
			return change{obj: pod}, nil
		})
		if err != nil {
			return err
		}
		if p := opts.Preconditions; p != nil && p.ResourceVersion != nil {
			opts = at(opts, obj.GetResourceVersion(), false) // it is this request that has changed it
		}
	}
	_, _, err := s.delete(c, opts)
	return err
}

func setDisrupted(pod *corev1.Pod, now metav1.Time) {
	want := corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting", LastTransitionTime: now}
	i := slices.IndexFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == want.Type })
	if i < 0 {
		pod.Status.Conditions = append(pod.Status.Conditions, want)
		return
	}
	have := &pod.Status.Conditions[i]
	if have.Status == want.Status {
		want.LastTransitionTime = have.LastTransitionTime
	}
	want.LastProbeTime, want.ObservedGeneration = have.LastProbeTime, have.ObservedGeneration
	*have = want
}

// askBudget takes one disruption from the budget of a running pod, if there is
// one. spared: the pod counts for nothing and the budget is left as it is.
func (s *Server) askBudget(c *call, pod *corev1.Pod) (name string, spared bool, err error) {
	budgets, err := s.budgets(c, pod)
	if err != nil || len(budgets) == 0 {
		return "", false, err
	}
	if len(budgets) > 1 {
		return "", false, statusError(http.StatusInternalServerError, metav1.StatusReasonUnknown,
			"This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.")
	}
	b := budgets[0]
	if !podReady(pod) {
		policy := b.Spec.UnhealthyPodEvictionPolicy
		if policy != nil && *policy == policyv1.AlwaysAllow || b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0 {
			return b.Name, true, nil
		}
	}
	one := *c
	one.ref, one.manager = kinds.RefTo(kinds.PodDisruptionBudget, b).WithSub("status"), budgetsOf
	_, _, err = s.modify(&one, func(old kinds.Object) (change, error) {
		next := old.DeepCopyObject().(*policyv1.PodDisruptionBudget)
		if err := takeDisruption(next, pod.Name, metav1.NewTime(s.now().Truncate(time.Second))); err != nil {
			return change{}, err
		}
		s.own(&one, old, next)
		return change{obj: next}, nil
	})
	if apierrors.IsConflict(err) {
		err = apierrors.NewTimeoutError(fmt.Sprintf("couldn't update PodDisruptionBudget %q due to conflicts", b.Name), evictAgain)
	}
	return b.Name, false, err
}

func podReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// budgets that select a pod, as they stand in the store.
func (s *Server) budgets(c *call, pod *corev1.Pod) ([]*policyv1.PodDisruptionBudget, error) {
	l, err := s.list(c.ctx, kinds.PodDisruptionBudget, pod.Namespace, metav1.ListOptions{}, selection{})
	if err != nil {
		return nil, err
	}
	var out []*policyv1.PodDisruptionBudget
	for _, it := range l.items {
		obj, err := it.Load(c.ctx)
		if err != nil {
			return nil, err
		}
		b := obj.(*policyv1.PodDisruptionBudget)
		if sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && sel.Matches(labels.Set(pod.Labels)) {
			out = append(out, b)
		}
	}
	return out, nil
}

// because refuses with the cause that clients of evictions look for.
func because(err *apierrors.StatusError, format string, args ...any) error {
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: fmt.Sprintf(format, args...)})
	return err
}

func beingProcessed(budget string) error {
	return because(apierrors.NewTooManyRequests(notEvicted, evictAgain), "The disruption budget %s is still being processed by the server.", budget)
}

// takeDisruption counts one pod less that may be evicted, until the budget's
// controller counts anew, and notes whose turn it was.
func takeDisruption(b *policyv1.PodDisruptionBudget, pod string, now metav1.Time) error {
	st := &b.Status
	forbidden := func(why string) *apierrors.StatusError {
		return apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), b.Name, errors.New(why))
	}
	switch {
	case st.ObservedGeneration < b.Generation:
		return beingProcessed(b.Name)
	case st.DisruptionsAllowed < 0:
		return because(forbidden("pdb disruptions allowed is negative"), "The disruption budget %s does not allow evicting pods currently: pdb disruptions allowed is negative", b.Name)
	case len(st.DisruptedPods) > maxDisrupted:
		return because(forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller"),
			"The disruption budget %s does not allow evicting pods currently: too many pending evictions not confirmed by PDB controller", b.Name)
	case st.DisruptionsAllowed == 0:
		return because(apierrors.NewTooManyRequests(notEvicted, 0), "%s", whyNone(b))
	}
	st.DisruptionsAllowed--
	if st.DisruptionsAllowed == 0 {
		meta.SetStatusCondition(&st.Conditions, metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse,
			Reason: policyv1.InsufficientPodsReason, ObservedGeneration: st.ObservedGeneration, LastTransitionTime: now})
	}
	if st.DisruptedPods == nil {
		st.DisruptedPods = map[string]metav1.Time{}
	}
	st.DisruptedPods[pod] = now
	return nil
}

// whyNone says why no pod may be evicted. The counts mean nothing while the
// controller cannot count.
func whyNone(b *policyv1.PodDisruptionBudget) string {
	st := &b.Status
	c := meta.FindStatusCondition(st.Conditions, policyv1.DisruptionAllowedCondition)
	told := c != nil && c.Status == metav1.ConditionFalse && c.Message != ""
	switch {
	case told && c.Reason == policyv1.SyncFailedReason:
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently because it failed sync: %s", b.Name, c.Message)
	case st.CurrentHealthy <= st.DesiredHealthy:
		return fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, st.DesiredHealthy, st.CurrentHealthy)
	case told:
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently (%s): %s", b.Name, c.Reason, c.Message)
	}
	return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", b.Name)
}
