package horizontalpodautoscaler

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// workers plan that many autoscalers at once, as upstream.
const workers = 5

// Source reads, with the rights of this controller, what no view holds. Its
// methods take a bounded time.
type Source interface {
	// Scale reads the scale of an object.
	Scale(ref kinds.Ref) (*autoscalingv1.Scale, error)
	// Fetch GETs a path of the API as JSON.
	Fetch(path string, q url.Values) ([]byte, error)
}

// Controller scales what autoscalers name, of any kind with a scale.
func Controller(table *kinds.Table, source Source) reconcile.Controller {
	s := &scaler{table: table, source: source, memories: map[reconcile.Key]Memory{}, looks: map[reconcile.Key]*look{}, counts: newCounts()}
	c := reconcile.Controller{
		Name: "horizontal-pod-autoscaler", For: kinds.HorizontalPodAutoscaler, Reads: []*kinds.Kind{kinds.Pod}, Workers: workers, Plan: s.plan,
		Metrics: s.counts.all(), Passed: s.passed,
		Writes: []reconcile.Write{
			{Kind: kinds.HorizontalPodAutoscaler, Sub: "status", Verbs: []plan.Verb{plan.Update}},
			{Kind: kinds.Custom, Sub: "scale", Verbs: []plan.Verb{plan.Update}},
		},
	}
	for _, k := range table.All() {
		if k.Load == nil && k.Subresources["scale"].Scale != nil {
			c.Writes = append(c.Writes, reconcile.Write{Kind: k, Sub: "scale", Verbs: []plan.Verb{plan.Update}})
		}
	}
	return c
}

// scaler remembers what plans leave behind.
type scaler struct {
	table  *kinds.Table
	source Source

	counts *counts

	mu       sync.Mutex
	memories map[reconcile.Key]Memory
	looks    map[reconcile.Key]*look
}

func (s *scaler) plan(in reconcile.Input) plan.Result {
	h := view.Get[*autoscalingv2.HorizontalPodAutoscaler](in.View, kinds.HorizontalPodAutoscaler, in.Key.Namespace, in.Key.Name)
	if h == nil || h.DeletionTimestamp != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.memories, in.Key)
		return plan.Result{}
	}
	m := s.memory(in.Key, h)
	if rest := m.Rests(h, in.Failure != nil, in.Now); rest > 0 {
		return plan.Result{After: rest}
	}
	o, took := s.observe(in, h, m)
	res, next := Plan(o)
	l := &look{computed: next.Computed, took: took}
	if o.Scale != nil {
		l.from = o.Scale.Spec.Replicas
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.memories[in.Key], s.looks[in.Key] = next, l
	return res
}

// memory of an autoscaler; another one of its name begins anew.
func (s *scaler) memory(key reconcile.Key, h *autoscalingv2.HorizontalPodAutoscaler) Memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.memories[key]; m.UID == h.UID {
		return m
	}
	return Memory{}
}

func (s *scaler) observe(in reconcile.Input, h *autoscalingv2.HorizontalPodAutoscaler, m Memory) (o Observed, took []time.Duration) {
	o = Observed{Autoscaler: h, Memory: m, Failure: in.Failure, Now: in.Now}
	if o.Target, o.ScaleErr = s.target(in.View, h); o.ScaleErr == nil {
		if o.Scale, o.ScaleErr = s.source.Scale(o.Target); o.ScaleErr != nil {
			o.Scale, o.ScaleErr = nil, scaleError(o.Target, o.ScaleErr)
		}
	}
	if o.Scale == nil || !o.Wants() {
		return o, nil
	}
	selector, err := labels.Parse(o.Scale.Status.Selector)
	if err != nil || o.Scale.Status.Selector == "" {
		return o, nil // the plan finds out, too
	}
	for p := range view.List[*corev1.Pod](in.View, kinds.Pod, h.Namespace) {
		if selector.Matches(labels.Set(p.Labels)) {
			o.Pods = append(o.Pods, p)
		}
	}
	if o.Rivals = s.rivals(in.Key, selector, o.Pods); len(o.Rivals) <= 1 {
		o.Readings, took = s.read(h, selector)
	}
	return o, took
}

// rivals are the autoscalers whose pods are among these, as far as it is known
// which pods they have.
func (s *scaler) rivals(key reconcile.Key, selector labels.Selector, pods []*corev1.Pod) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for k, m := range s.memories {
		if k == key || k.Namespace != key.Namespace || m.Selector == nil {
			continue
		}
		if slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return m.Selector.Matches(labels.Set(p.Labels)) }) {
			out = append(out, k.String())
		}
	}
	if slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return selector.Matches(labels.Set(p.Labels)) }) {
		out = append(out, key.String())
	}
	slices.Sort(out)
	return out
}

var errNoScale = errors.New("the server could not find the requested resource")

// target is what the autoscaler names; the version that it says does not matter.
func (s *scaler) target(snap *view.Snapshot, h *autoscalingv2.HorizontalPodAutoscaler) (kinds.Ref, error) {
	ref := &h.Spec.ScaleTargetRef
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return kinds.Ref{}, err
	}
	k := s.kind(schema.GroupKind{Group: gv.Group, Kind: ref.Kind})
	switch {
	case k == nil:
		return kinds.Ref{}, noMatch(schema.GroupKind{Group: gv.Group, Kind: ref.Kind})
	case !k.Namespaced || k.Subresources["scale"].Scale == nil:
		return kinds.Ref{}, errNoScale
	case k.Load != nil:
		if k = snap.ByGroupKind(k.GVK.GroupKind()); k == nil {
			return kinds.Ref{}, apierrors.NewServiceUnavailable(ref.Kind + " cannot be read at the moment")
		}
	}
	return kinds.Ref{Kind: k, Namespace: h.Namespace, Name: ref.Name}, nil
}

func noMatch(gk schema.GroupKind) error {
	return fmt.Errorf("no matches for kind %q in group %q", gk.Kind, gk.Group)
}

// kind of that name; of several versions the first one that has a scale.
func (s *scaler) kind(gk schema.GroupKind) *kinds.Kind {
	var found *kinds.Kind
	for _, k := range s.table.All() {
		if k.GVK.GroupKind() == gk && (found == nil || found.Subresources["scale"].Scale == nil) {
			found = k
		}
	}
	return found
}

// scaleError says it as upstream's scales of built-in kinds do.
func scaleError(ref kinds.Ref, err error) error {
	if apierrors.IsNotFound(err) && ref.Kind.Load == nil {
		return apierrors.NewNotFound(schema.GroupResource{Group: ref.Kind.GVK.Group, Resource: ref.Kind.Resource + "/scale"}, ref.Name)
	}
	return err
}
