package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	componentresource "k8s.io/component-helpers/resource"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// limitNote is the annotation that tells users where values come from that they
// did not write.
const limitNote = "kubernetes.io/limit-ranger"

// limitRanger fills in a namespace's default requests and limits, and refuses
// pods and claims outside of its bounds.
type limitRanger struct{ c *Config }

func (limitRanger) Name() string { return "LimitRanger" }

func (p limitRanger) Mutate(_ context.Context, r *Request) error {
	pod, ok := created[*corev1.Pod](r, kinds.Pod)
	if !ok {
		return nil
	}
	var notes []string
	for _, lr := range p.ranges(r) {
		requests, limits := containerDefaults(lr)
		if len(requests)+len(limits) == 0 {
			continue
		}
		for i := range pod.Spec.Containers {
			notes = append(notes, complete(&pod.Spec.Containers[i], "container", requests, limits)...)
		}
		for i := range pod.Spec.InitContainers {
			notes = append(notes, complete(&pod.Spec.InitContainers[i], "init container", requests, limits)...)
		}
	}
	if len(notes) == 0 {
		return nil
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[limitNote] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
	kinds.Pod.Default(pod) // requests follow limits
	return nil
}

func (p limitRanger) ranges(r *Request) []*corev1.LimitRange {
	if !p.c.View.Has(kinds.LimitRange) || r.Ref.Namespace == "" {
		return nil
	}
	return view.NowList[*corev1.LimitRange](p.c.View, kinds.LimitRange, r.Ref.Namespace)
}

func containerDefaults(lr *corev1.LimitRange) (requests, limits corev1.ResourceList) {
	requests, limits = corev1.ResourceList{}, corev1.ResourceList{}
	for _, l := range lr.Spec.Limits {
		if l.Type != corev1.LimitTypeContainer {
			continue
		}
		for name, q := range l.DefaultRequest {
			requests[name] = q.DeepCopy()
		}
		for name, q := range l.Default {
			limits[name] = q.DeepCopy()
		}
	}
	return requests, limits
}

// complete fills what the container leaves open, and notes it.
func complete(c *corev1.Container, sort string, requests, limits corev1.ResourceList) []string {
	var notes []string
	fill := func(have *corev1.ResourceList, from corev1.ResourceList, what string) {
		var set []string
		for name, q := range from {
			if _, ok := (*have)[name]; ok {
				continue
			}
			if *have == nil {
				*have = corev1.ResourceList{}
			}
			(*have)[name] = q.DeepCopy()
			set = append(set, string(name))
		}
		if len(set) > 0 {
			slices.Sort(set)
			notes = append(notes, fmt.Sprintf("%s %s for %s %s", strings.Join(set, ", "), what, sort, c.Name))
		}
	}
	fill(&c.Resources.Requests, requests, "request")
	fill(&c.Resources.Limits, limits, "limit")
	return notes
}

func (p limitRanger) Validate(_ context.Context, r *Request) error {
	if r.Ref.Sub != "" && (r.Ref.Kind != kinds.Pod || r.Ref.Sub != "resize") {
		return nil
	}
	if old, ok := r.Old.(kinds.Object); ok && old.GetDeletionTimestamp() != nil {
		return nil // it only may be let go
	}
	var errs []error
	switch o := r.Object.(type) {
	case *corev1.Pod:
		if r.Operation != Create && r.Ref.Sub != "resize" {
			return nil // what is limited does not change
		}
		for _, lr := range p.ranges(r) {
			errs = append(errs, podLimits(lr, o)...)
		}
	case *corev1.PersistentVolumeClaim:
		for _, lr := range p.ranges(r) {
			errs = append(errs, claimLimits(lr, o)...)
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return forbid(r, utilerrors.NewAggregate(errs))
}

func claimLimits(lr *corev1.LimitRange, pvc *corev1.PersistentVolumeClaim) []error {
	var errs []error
	for _, l := range lr.Spec.Limits {
		if l.Type != corev1.LimitTypePersistentVolumeClaim {
			continue
		}
		b := bounds{sort: string(l.Type), requests: pvc.Spec.Resources.Requests}
		for name, q := range l.Min {
			errs = append(errs, b.min(name, q))
		}
		for name, q := range l.Max {
			errs = append(errs, b.maxRequest(name, q))
		}
	}
	return sorted(errs)
}

func podLimits(lr *corev1.LimitRange, pod *corev1.Pod) []error {
	var errs []error
	for _, l := range lr.Spec.Limits {
		switch l.Type {
		case corev1.LimitTypeContainer:
			for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
				errs = append(errs, within(&l, c.Resources.Requests, c.Resources.Limits)...)
			}
		case corev1.LimitTypePod:
			o := componentresource.PodResourcesOptions{ExcludeOverhead: true}
			errs = append(errs, within(&l, componentresource.PodRequests(pod, o), componentresource.PodLimits(pod, o))...)
		}
	}
	return sorted(errs)
}

func within(l *corev1.LimitRangeItem, requests, limits corev1.ResourceList) []error {
	b := bounds{string(l.Type), requests, limits}
	var errs []error
	for name, q := range l.Min {
		errs = append(errs, b.min(name, q))
	}
	for name, q := range l.Max {
		errs = append(errs, b.max(name, q))
	}
	for name, q := range l.MaxLimitRequestRatio {
		errs = append(errs, b.ratio(name, q))
	}
	return errs
}

// sorted drops what is nil and makes the order of the answer stable.
func sorted(errs []error) []error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errs
}

// bounds compares a container, pod or claim with one limit.
type bounds struct {
	sort             string
	requests, limits corev1.ResourceList
}

func (b bounds) min(name corev1.ResourceName, want resource.Quantity) error {
	req, ok := b.requests[name]
	lim, limited := b.limits[name]
	switch head := fmt.Sprintf("minimum %s usage per %s is %s", name, b.sort, want.String()); {
	case !ok:
		return errors.New(head + ".  No request is specified")
	case req.Cmp(want) < 0:
		return fmt.Errorf("%s, but request is %s", head, req.String())
	case limited && lim.Cmp(want) < 0:
		return fmt.Errorf("%s, but limit is %s", head, lim.String())
	}
	return nil
}

func (b bounds) max(name corev1.ResourceName, want resource.Quantity) error {
	req, ok := b.requests[name]
	lim, limited := b.limits[name]
	switch head := fmt.Sprintf("maximum %s usage per %s is %s", name, b.sort, want.String()); {
	case !limited:
		return errors.New(head + ".  No limit is specified")
	case lim.Cmp(want) > 0:
		return fmt.Errorf("%s, but limit is %s", head, lim.String())
	case ok && req.Cmp(want) > 0:
		return fmt.Errorf("%s, but request is %s", head, req.String())
	}
	return nil
}

func (b bounds) maxRequest(name corev1.ResourceName, want resource.Quantity) error {
	req, ok := b.requests[name]
	switch head := fmt.Sprintf("maximum %s usage per %s is %s", name, b.sort, want.String()); {
	case !ok:
		return errors.New(head + ".  No request is specified")
	case req.Cmp(want) > 0:
		return fmt.Errorf("%s, but request is %s", head, req.String())
	}
	return nil
}

func (b bounds) ratio(name corev1.ResourceName, want resource.Quantity) error {
	req, ok := b.requests[name]
	lim, limited := b.limits[name]
	head := fmt.Sprintf("%s max limit to request ratio per %s is %s", name, b.sort, want.String())
	switch {
	case !ok || req.IsZero():
		return errors.New(head + ", but no request is specified or request is 0")
	case !limited || lim.IsZero():
		return errors.New(head + ", but no limit is specified or limit is 0")
	}
	if got := lim.AsApproximateFloat64() / req.AsApproximateFloat64(); got > want.AsApproximateFloat64() {
		return fmt.Errorf("%s, but provided ratio is %f", head, got)
	}
	return nil
}
