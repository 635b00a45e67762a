package main

import (
	"context"
	"maps"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/leader"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/store"
)

// often enough for what comes out only when a process hangs.
const often = 5

// plant is a bug in one component.
type plant struct {
	in string
	do func(*process)
}

// planted are bugs that a run can be given, to see that it finds them. None is
// in the code that is simulated: they sit between it and its world.
var planted = map[string]plant{
	"scheduler-ignores-allocations": {"scheduler", func(p *process) {
		p.change = roomy
	}},
	"scheduler-forgets-devices": {"scheduler", func(p *process) {
		p.change = freed
	}},
	"scheduler-inverts-priorities": {"scheduler", func(p *process) {
		p.change = inverted
	}},
	"gc-forgets": {collector, func(p *process) {
		p.wrap = func(c client.Client) client.Client { return forgetful{c} }
	}},
	"replicaset-ignores-its-writes": {"replicaset-controller", func(p *process) {
		p.wrap = func(c client.Client) client.Client { return amnesiac{c} }
	}},
	"daemonset-ignores-its-writes": {"daemon-set-controller", func(p *process) {
		p.wrap = func(c client.Client) client.Client { return amnesiac{c} }
	}},
	"gc-trusts-its-view": {collector, func(p *process) {
		p.wrap = func(c client.Client) client.Client { return blind{c} }
	}},
	"namespace-trusts-its-view": {"namespace-controller", func(p *process) {
		p.wrap = func(c client.Client) client.Client { return blind{c} }
	}},
	"replicaset-leads-too-early": {"replicaset-controller", func(p *process) {
		p.revision = func(context.Context) (int64, error) { return 1, nil }
	}},
	"replicaset-outlives-its-term": {"replicaset-controller", func(p *process) {
		p.gate = func(_ *leader.Elector, c client.Client) client.Client { return c }
		p.hangs = often
	}},
	"autoscaler-forgets": {scaler, func(p *process) {
		p.declare = forgetting(p.declare)
	}},
	"autoscaler-flaps": {scaler, func(p *process) {
		p.change = hasty
	}},
	"cronjob-ignores-its-jobs": {"cronjob-controller", func(p *process) {
		p.change = ownerless
	}},
	"binder-ignores-revisions": {"persistent-volume-binder", func(p *process) {
		p.wrap = func(c client.Client) client.Client { return forceful{c} }
	}},
	"watch-drops-event": {}, // in plantInWatch
}

func plants() []string { return slices.Sorted(maps.Keys(planted)) }

// favoured is the component with a bug. It gets more turns than others, or the bug
// would have to wait for them.
func (w *world) favoured() bool {
	in := planted[w.plant].in
	if in == "" || w.quiet || w.rng.IntN(3) > 0 {
		return false
	}
	return slices.ContainsFunc(w.processes, func(p *process) bool { return p.name == in && p.work() })
}

func (w *world) plantInProcess(p *process) {
	if x := planted[w.plant]; x.do != nil && x.in == p.name {
		x.do(p)
	}
}

// plantInWatch loses one of a thousand events on the way from the store to the
// cache.
func (w *world) plantInWatch(b *store.Batch) {
	if w.plant == "watch-drops-event" && w.step > 0 && w.rng.IntN(1000) == 0 && len(b.Events) > 0 {
		w.tell("the watch drops %s", b.Events[0].Key)
		b.Events = b.Events[1:]
	}
}

// roomy shows nodes as larger than they are.
func roomy(o kinds.Object) kinds.Object {
	n, ok := o.(*corev1.Node)
	if !ok {
		return o
	}
	n = n.DeepCopy()
	n.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("1000"), corev1.ResourceMemory: resource.MustParse("1Ti"), corev1.ResourcePods: resource.MustParse("1000")}
	return n
}

// freed shows claims as if they had no devices.
func freed(o kinds.Object) kinds.Object {
	c, ok := o.(*resourcev1.ResourceClaim)
	if !ok {
		return o
	}
	c = c.DeepCopy()
	c.Status = resourcev1.ResourceClaimStatus{}
	return c
}

// inverted shows pods of more priority as of less, and the other way round.
func inverted(o kinds.Object) kinds.Object {
	p, ok := o.(*corev1.Pod)
	if !ok || p.Spec.Priority == nil {
		return o
	}
	p = p.DeepCopy()
	*p.Spec.Priority = -*p.Spec.Priority
	return p
}

// hasty shows autoscalers as if they were to scale down at once.
func hasty(o kinds.Object) kinds.Object {
	h, ok := o.(*autoscalingv2.HorizontalPodAutoscaler)
	if !ok {
		return o
	}
	h = h.DeepCopy()
	at := &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: new(int32), Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: 10, PeriodSeconds: 15}}}
	h.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: at, ScaleDown: at}
	return h
}

// ownerless shows jobs as nobody's.
func ownerless(o kinds.Object) kinds.Object {
	j, ok := o.(*batchv1.Job)
	if !ok {
		return o
	}
	j = j.DeepCopy()
	j.OwnerReferences = nil
	return j
}

// forgetting declares controllers that remember nothing from one plan to the next.
func forgetting(declare func() []reconcile.Controller) func() []reconcile.Controller {
	return func() []reconcile.Controller {
		cs := slices.Clone(declare())
		for i := range cs {
			cs[i].Plan = func(in reconcile.Input) plan.Result { return declare()[i].Plan(in) }
		}
		return cs
	}
}

// forgetful says that it has deleted, and has not.
type forgetful struct{ client.Client }

func (f forgetful) Delete(context.Context, kinds.Ref, metav1.DeleteOptions) (runtime.Object, error) {
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// blind finds nothing when it asks the server, so that only the view counts.
type blind struct{ client.Client }

func (b blind) Get(_ context.Context, ref kinds.Ref) (runtime.Object, error) {
	return nil, apierrors.NewNotFound(ref.Kind.GroupResource(), ref.Name)
}

func (b blind) List(_ context.Context, k *kinds.Kind, _ string, _ metav1.ListOptions) (runtime.Object, error) {
	return k.NewList(), nil
}

// forceful writes over what others have written meanwhile.
type forceful struct{ client.Client }

func (f forceful) Update(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	o := obj.DeepCopyObject().(kinds.Object)
	o.SetResourceVersion("")
	return f.Client.Update(ctx, ref, o)
}

// amnesiac hides the revisions of its writes, so that the runtime does not
// wait for the view to show them.
type amnesiac struct{ client.Client }

func (a amnesiac) Create(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	_, err := a.Client.Create(ctx, ref, obj)
	return &metav1.Status{Status: metav1.StatusSuccess}, err
}
