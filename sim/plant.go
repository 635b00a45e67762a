package main

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/leader"
	"knarr.dev/knarr/internal/store"
)

// planted are bugs that a run can be given, to see that it finds them. None is
// in the code that is simulated: they sit between it and its world.
var planted = map[string]func(*process){
	"scheduler-ignores-allocations": func(p *process) {
		if p.name == "scheduler" {
			p.change = roomy
		}
	},
	"scheduler-inverts-priorities": func(p *process) {
		if p.name == "scheduler" {
			p.change = inverted
		}
	},
	"gc-forgets": func(p *process) {
		if p.name == collector {
			p.wrap = func(c client.Client) client.Client { return forgetful{c} }
		}
	},
	"replicaset-ignores-its-writes": func(p *process) {
		if p.name == "replicaset-controller" {
			p.wrap = func(c client.Client) client.Client { return amnesiac{c} }
		}
	},
	"daemonset-ignores-its-writes": func(p *process) {
		if p.name == "daemon-set-controller" {
			p.wrap = func(c client.Client) client.Client { return amnesiac{c} }
		}
	},
	"gc-trusts-its-view": func(p *process) {
		if p.name == collector {
			p.wrap = func(c client.Client) client.Client { return blind{c} }
		}
	},
	"namespace-trusts-its-view": func(p *process) {
		if p.name == "namespace-controller" {
			p.wrap = func(c client.Client) client.Client { return blind{c} }
		}
	},
	"replicaset-leads-too-early": func(p *process) {
		if p.name == "replicaset-controller" {
			p.revision = func(context.Context) (int64, error) { return 1, nil }
		}
	},
	"replicaset-outlives-its-term": func(p *process) {
		if p.name == "replicaset-controller" {
			p.gate = func(_ *leader.Elector, c client.Client) client.Client { return c }
		}
	},
	"binder-ignores-revisions": func(p *process) {
		if p.name == "persistent-volume-binder" {
			p.wrap = func(c client.Client) client.Client { return forceful{c} }
		}
	},
	"watch-drops-event": nil, // in plantInWatch
}

func plants() []string { return slices.Sorted(maps.Keys(planted)) }

func (w *world) plantInProcess(p *process) {
	if plant := planted[w.plant]; plant != nil {
		plant(p)
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
