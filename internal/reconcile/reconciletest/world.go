// Package reconciletest is a small world for tests of controllers: objects in
// a map behind client.Client, feeding a view, at once or when the test says
// so. It knows the parts of the API that plans rely on (UIDs, revisions,
// generations, preconditions, finalizers, status); the simulation in sim/ runs
// the same controllers on the real apiserver.
package reconciletest

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/view"
)

// World is a cluster of objects only. Its methods are safe for concurrent use.
type World struct {
	View *view.View
	Now  time.Time
	// Lag keeps changes from the view until Deliver.
	Lag bool
	// Hook, if set, sees every write first; its error is the answer.
	Hook func(verb plan.Verb, ref kinds.Ref, obj runtime.Object) error

	mu      sync.Mutex
	rev     int64
	uids    int
	objects map[string]kinds.Object
	queued  []view.Change
	prompt  bool     // all kinds of the view are at the present revision
	Writes  []string // "verb resource name[/sub]", in order
}

// New makes an empty world whose view holds ks.
func New(ks []*kinds.Kind, indexes ...*view.Index) *World {
	w := &World{View: view.New(ks, indexes...), Now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), objects: map[string]kinds.Object{}}
	for _, k := range ks {
		w.View.Replace(k, nil, 0)
	}
	return w
}

// Put creates or overwrites an object, whatever it says, and returns what is
// stored: with a UID, a revision and a creation time where obj has none.
func (w *World) Put(k *kinds.Kind, obj kinds.Object) kinds.Object {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := obj.DeepCopyObject().(kinds.Object)
	w.complete(o)
	return w.store(k, o)
}

// Remove deletes an object at once, finalizers or not.
func (w *World) Remove(k *kinds.Kind, namespace, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ref := kinds.Ref{Kind: k, Namespace: namespace, Name: name}
	if o := w.objects[ref.String()]; o != nil {
		w.drop(k, o)
	}
}

// Object returns what is stored, or nil.
func (w *World) Object(k *kinds.Kind, namespace, name string) kinds.Object {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.objects[kinds.Ref{Kind: k, Namespace: namespace, Name: name}.String()]
}

// Objects of a kind, by namespace and name.
func (w *World) Objects(k *kinds.Kind) []kinds.Object {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []kinds.Object
	for _, o := range w.objects {
		if reflect.TypeOf(o) == reflect.TypeOf(k.New()) {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b kinds.Object) int {
		if c := compare(a.GetNamespace(), b.GetNamespace()); c != 0 {
			return c
		}
		return compare(a.GetName(), b.GetName())
	})
	return out
}

func compare(a, b string) int {
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}

// Deliver hands the queued changes of a kind (nil: of all kinds) to the view.
func (w *World) Deliver(k *kinds.Kind) {
	w.mu.Lock()
	var now, later []view.Change
	for _, c := range w.queued {
		if k == nil || c.Kind == k {
			now = append(now, c)
		} else {
			later = append(later, c)
		}
	}
	w.queued = later
	w.mu.Unlock()
	for _, c := range now {
		w.View.Apply(c)
	}
}

func (w *World) complete(o kinds.Object) {
	if o.GetUID() == "" {
		w.uids++
		o.SetUID(types.UID(fmt.Sprintf("uid-%d", w.uids)))
	}
	if t := o.GetCreationTimestamp(); t.IsZero() {
		o.SetCreationTimestamp(metav1.NewTime(w.Now))
	}
	if o.GetGeneration() == 0 {
		o.SetGeneration(1)
	}
}

func (w *World) store(k *kinds.Kind, o kinds.Object) kinds.Object {
	if o.GetDeletionTimestamp() != nil && len(o.GetFinalizers()) == 0 && !hasSpecFinalizers(o) {
		w.drop(k, o)
		return o
	}
	w.rev++
	o.SetResourceVersion(strconv.FormatInt(w.rev, 10))
	w.objects[kinds.RefTo(k, o).String()] = o
	w.publish(view.Change{Kind: k, New: o, Rev: w.rev})
	return o
}

func (w *World) drop(k *kinds.Kind, o kinds.Object) {
	w.rev++
	delete(w.objects, kinds.RefTo(k, o).String())
	w.publish(view.Change{Kind: k, Old: o, Rev: w.rev})
}

func (w *World) publish(c view.Change) {
	if w.Lag {
		w.queued = append(w.queued, c)
		return
	}
	w.View.Apply(c)
	if w.prompt {
		w.View.ProgressAll(w.rev)
	}
}

// hasSpecFinalizers: a namespace that still has some is not gone.
func hasSpecFinalizers(o kinds.Object) bool {
	var x struct {
		Spec struct{ Finalizers []string }
	}
	b, err := json.Marshal(o)
	return err == nil && json.Unmarshal(b, &x) == nil && len(x.Spec.Finalizers) > 0
}

// begin logs a write and asks the hook.
func (w *World) begin(verb plan.Verb, ref kinds.Ref, obj runtime.Object) error {
	w.mu.Lock()
	w.Writes = append(w.Writes, fmt.Sprintf("%s %s", verb, ref))
	w.mu.Unlock()
	if w.Hook != nil {
		return w.Hook(verb, ref, obj)
	}
	return nil
}

// Get implements client.Client.
func (w *World) Get(_ context.Context, ref kinds.Ref) (runtime.Object, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.get(ref)
}

func (w *World) get(ref kinds.Ref) (kinds.Object, error) {
	o := w.objects[ref.WithSub("").String()]
	if o == nil {
		return nil, apierrors.NewNotFound(ref.Kind.GroupResource(), ref.Name)
	}
	return o, nil
}

// List implements client.Client.
func (w *World) List(_ context.Context, k *kinds.Kind, namespace string, _ metav1.ListOptions) (runtime.Object, error) {
	list := k.NewList()
	var items []runtime.Object
	for _, o := range w.Objects(k) {
		if namespace == "" || o.GetNamespace() == namespace {
			items = append(items, o)
		}
	}
	return list, meta.SetList(list, items)
}

// Create implements client.Client.
func (w *World) Create(_ context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	o, ok := obj.DeepCopyObject().(kinds.Object)
	if !ok {
		return nil, apierrors.NewBadRequest("not an object")
	}
	if err := w.begin(plan.Create, kinds.Ref{Kind: ref.Kind, Namespace: o.GetNamespace(), Name: o.GetName()}, obj); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.get(kinds.RefTo(ref.Kind, o)); err == nil {
		return nil, apierrors.NewAlreadyExists(ref.Kind.GroupResource(), o.GetName())
	}
	o.SetUID("")
	w.complete(o)
	if o.GetName() == "" {
		o.SetName(o.GetGenerateName() + string(o.GetUID()))
	}
	return w.store(ref.Kind, o), nil
}

// Update implements client.Client.
func (w *World) Update(_ context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	if err := w.begin(plan.Update, ref, obj); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.update(ref, obj.DeepCopyObject().(kinds.Object))
}

func (w *World) update(ref kinds.Ref, o kinds.Object) (runtime.Object, error) {
	old, err := w.get(ref)
	if err != nil {
		return nil, err
	}
	if rv := o.GetResourceVersion(); rv != "" && rv != old.GetResourceVersion() || o.GetUID() != old.GetUID() {
		return nil, apierrors.NewConflict(ref.Kind.GroupResource(), ref.Name, fmt.Errorf("the object has been modified"))
	}
	next := o
	if sc := ref.Kind.Subresources[ref.Sub].Scale; sc != nil {
		next = old.DeepCopyObject().(kinds.Object)
		sc.Set(next, o.(*autoscalingv1.Scale).Spec.Replicas)
	} else if ref.Sub != "" {
		next = old.DeepCopyObject().(kinds.Object)
		field := map[string]string{"status": "Status", "finalize": "Spec"}[ref.Sub]
		if field == "" {
			return nil, apierrors.NewBadRequest("unknown subresource " + ref.Sub)
		}
		reflect.ValueOf(next).Elem().FieldByName(field).Set(reflect.ValueOf(o).Elem().FieldByName(field))
	} else if status := reflect.ValueOf(next).Elem().FieldByName("Status"); status.IsValid() {
		status.Set(reflect.ValueOf(old).Elem().FieldByName("Status"))
		if spec := reflect.ValueOf(next).Elem().FieldByName("Spec"); !reflect.DeepEqual(spec.Interface(), reflect.ValueOf(old).Elem().FieldByName("Spec").Interface()) {
			next.SetGeneration(old.GetGeneration() + 1)
		}
	}
	if reflect.DeepEqual(next, old) {
		return old, nil // as the server does: nothing changes, no revision
	}
	return w.store(ref.Kind, next), nil
}

// Patch implements client.Client.
func (w *World) Patch(_ context.Context, ref kinds.Ref, t types.PatchType, data []byte) (runtime.Object, error) {
	if err := w.begin(plan.Patch, ref, nil); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	old, err := w.get(ref)
	if err != nil {
		return nil, err
	}
	before, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	var after []byte
	switch t {
	case types.MergePatchType:
		after, err = jsonpatch.MergePatch(before, data)
	case types.StrategicMergePatchType:
		after, err = strategicpatch.StrategicMergePatch(before, data, ref.Kind.New())
	case types.JSONPatchType:
		ops, bad := jsonpatch.DecodePatch(data)
		if bad != nil {
			return nil, apierrors.NewBadRequest(bad.Error())
		}
		if after, bad = ops.Apply(before); bad != nil {
			return nil, apierrors.NewInvalid(ref.Kind.GVK.GroupKind(), ref.Name, nil)
		}
	default:
		err = fmt.Errorf("unknown patch type %s", t)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	o := ref.Kind.New()
	if err := json.Unmarshal(after, o); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return w.update(ref, o)
}

// Delete implements client.Client.
func (w *World) Delete(_ context.Context, ref kinds.Ref, opts metav1.DeleteOptions) (runtime.Object, error) {
	if err := w.begin(plan.Delete, ref, nil); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	old, err := w.get(ref)
	if err != nil {
		return nil, err
	}
	if p := opts.Preconditions; p != nil && (p.UID != nil && *p.UID != old.GetUID() ||
		p.ResourceVersion != nil && *p.ResourceVersion != old.GetResourceVersion()) {
		return nil, apierrors.NewConflict(ref.Kind.GroupResource(), ref.Name, fmt.Errorf("precondition failed"))
	}
	o := old.DeepCopyObject().(kinds.Object)
	if p := opts.PropagationPolicy; p != nil {
		switch *p {
		case metav1.DeletePropagationForeground:
			o.SetFinalizers(append(o.GetFinalizers(), metav1.FinalizerDeleteDependents))
		case metav1.DeletePropagationOrphan:
			o.SetFinalizers(append(o.GetFinalizers(), metav1.FinalizerOrphanDependents))
		}
	}
	if o.GetDeletionTimestamp() == nil {
		t := metav1.NewTime(w.Now)
		o.SetDeletionTimestamp(&t)
	}
	if reflect.DeepEqual(o, old) {
		return old, nil
	}
	return w.store(ref.Kind, o), nil
}
