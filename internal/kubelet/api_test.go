package kubelet_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/view"
)

// api is a small API server in memory: what a kubelet needs of one, with the
// same errors, feeding a view.
type api struct {
	view *view.View

	mu      sync.Mutex
	rev     int64
	objects map[kinds.Ref]kinds.Object
	watches map[kinds.Ref][]func()
	events  []plan.Event
	tokens  int
	pulse   chan struct{} // closed and replaced at every change
}

func newAPI() *api {
	a := &api{
		view:    view.New([]*kinds.Kind{kinds.Pod, kinds.Node, kinds.Service}, view.PodsByNode),
		objects: map[kinds.Ref]kinds.Object{}, watches: map[kinds.Ref][]func(){}, pulse: make(chan struct{}),
	}
	for _, k := range a.view.Kinds() {
		a.view.Replace(k, nil, 0)
	}
	return a
}

func (a *api) Emit(e plan.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, e)
	a.beat()
}

func (a *api) beat() {
	close(a.pulse)
	a.pulse = make(chan struct{})
}

func (a *api) put(k *kinds.Kind, ref kinds.Ref, o kinds.Object) kinds.Object {
	a.rev++
	o.SetResourceVersion(strconv.FormatInt(a.rev, 10))
	if o.GetUID() == "" {
		o.SetUID(types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012d", a.rev)))
	}
	if k.Default != nil {
		k.Default(o)
	}
	a.objects[ref] = o
	if a.view.Has(k) {
		a.view.Apply(view.Change{Kind: k, New: o, Rev: a.rev})
	}
	for _, fn := range a.watches[ref] {
		fn()
	}
	a.beat()
	return o
}

func (a *api) remove(ref kinds.Ref, o kinds.Object) {
	a.rev++
	delete(a.objects, ref)
	if a.view.Has(ref.Kind) {
		a.view.Apply(view.Change{Kind: ref.Kind, Old: o, Rev: a.rev})
	}
	a.beat()
}

// add an object as a user would.
func (a *api) add(k *kinds.Kind, o kinds.Object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.put(k, kinds.RefTo(k, o), o)
}

func (a *api) Get(_ context.Context, ref kinds.Ref) (runtime.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o, ok := a.objects[ref]
	if !ok {
		return nil, apierrors.NewNotFound(ref.Kind.GroupResource(), ref.Name)
	}
	return o, nil
}

// List the slices of devices of a node; a kubelet lists nothing else.
func (a *api) List(_ context.Context, k *kinds.Kind, _ string, o metav1.ListOptions) (runtime.Object, error) {
	if k != kinds.ResourceSlice {
		return nil, apierrors.NewMethodNotSupported(k.GroupResource(), "list")
	}
	selector, err := fields.ParseSelector(o.FieldSelector)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	out := &resourcev1.ResourceSliceList{}
	for ref, obj := range a.objects {
		if ref.Kind != k {
			continue
		}
		s := obj.(*resourcev1.ResourceSlice)
		if selector.Matches(fields.Set{"spec.nodeName": *s.Spec.NodeName, "spec.driver": s.Spec.Driver}) {
			out.Items = append(out.Items, *s)
		}
	}
	return out, nil
}

func (a *api) Create(_ context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	switch o := obj.(type) {
	case *authenticationv1.TokenRequest:
		out := o.DeepCopy()
		a.mu.Lock()
		a.tokens++
		out.Status.Token = fmt.Sprintf("token-%d-of-%s", a.tokens, ref.Name)
		a.mu.Unlock()
		out.Status.ExpirationTimestamp = metav1.NewTime(time.Now().Add(time.Hour))
		return out, nil
	case *authenticationv1.TokenReview:
		out := o.DeepCopy()
		if o.Spec.Token == "good" {
			out.Status.Authenticated, out.Status.User = true, authenticationv1.UserInfo{Username: "reader"}
		}
		return out, nil
	case *authorizationv1.SubjectAccessReview:
		out := o.DeepCopy()
		at := o.Spec.ResourceAttributes
		out.Status.Allowed = o.Spec.User == "kube-apiserver-kubelet-client" || o.Spec.User == "reader" && at.Subresource == "stats" || o.Spec.User == "scraper" && at.Subresource == "metrics"
		return out, nil
	}
	o := obj.DeepCopyObject().(kinds.Object)
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.put(ref.Kind, kinds.RefTo(ref.Kind, o), o), nil
}

func (a *api) Update(_ context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := obj.DeepCopyObject().(kinds.Object)
	if cur := a.objects[ref]; cur == nil || cur.GetResourceVersion() != o.GetResourceVersion() {
		return nil, apierrors.NewConflict(ref.Kind.GroupResource(), ref.Name, nil)
	}
	return a.put(ref.Kind, ref, o), nil
}

func (a *api) Patch(_ context.Context, ref kinds.Ref, t types.PatchType, data []byte) (runtime.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ref.Sub = ""
	cur := a.objects[ref]
	if cur == nil {
		return nil, apierrors.NewNotFound(ref.Kind.GroupResource(), ref.Name)
	}
	before, err := json.Marshal(cur)
	if err != nil {
		return nil, err
	}
	var after []byte
	if t == types.StrategicMergePatchType {
		after, err = strategicpatch.StrategicMergePatch(before, data, ref.Kind.New())
	} else {
		after, err = jsonpatch.MergePatch(before, data)
	}
	if err != nil {
		return nil, err
	}
	o := ref.Kind.New()
	if err := json.Unmarshal(after, o); err != nil {
		return nil, err
	}
	if o.GetUID() != cur.GetUID() {
		return nil, apierrors.NewConflict(ref.Kind.GroupResource(), ref.Name, fmt.Errorf("the UID in the precondition differs"))
	}
	return a.put(ref.Kind, ref, o), nil
}

func (a *api) Delete(_ context.Context, ref kinds.Ref, opts metav1.DeleteOptions) (runtime.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	cur := a.objects[ref]
	if cur == nil {
		return nil, apierrors.NewNotFound(ref.Kind.GroupResource(), ref.Name)
	}
	if p := opts.Preconditions; p != nil && p.UID != nil && *p.UID != cur.GetUID() {
		return nil, apierrors.NewConflict(ref.Kind.GroupResource(), ref.Name, nil)
	}
	pod, ok := cur.(*corev1.Pod)
	if !ok || opts.GracePeriodSeconds != nil && *opts.GracePeriodSeconds == 0 {
		a.remove(ref, cur)
		return cur, nil
	}
	pod = pod.DeepCopy()
	grace := *pod.Spec.TerminationGracePeriodSeconds
	if opts.GracePeriodSeconds != nil {
		grace = *opts.GracePeriodSeconds
	}
	now := metav1.NewTime(time.Now().Add(time.Duration(grace) * time.Second))
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &now, &grace
	return a.put(ref.Kind, ref, pod), nil
}

// objects by reference, as the kubelet's Objects.
type objects struct{ a *api }

func (o objects) Get(ctx context.Context, k *kinds.Kind, namespace, name string) (kinds.Object, error) {
	obj, err := o.a.Get(ctx, kinds.Ref{Kind: k, Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	return obj.(kinds.Object), nil
}

func (o objects) Watch(k *kinds.Kind, namespace, name string, changed func()) func() {
	o.a.mu.Lock()
	defer o.a.mu.Unlock()
	ref := kinds.Ref{Kind: k, Namespace: namespace, Name: name}
	o.a.watches[ref] = append(o.a.watches[ref], changed)
	return func() {}
}

func (a *api) pod(name string) *corev1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.objects[kinds.Ref{Kind: kinds.Pod, Namespace: "default", Name: name}]; o != nil {
		return o.(*corev1.Pod)
	}
	return nil
}

func (a *api) said(reason string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.events {
		if e.Reason == reason {
			return true
		}
	}
	return false
}

// told lists the events.
func (a *api) told() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var b strings.Builder
	for _, e := range a.events {
		fmt.Fprintln(&b, e.Regarding.Name, e.Reason, e.Message)
	}
	return b.String()
}

// patience with real containers on a machine that is busy.
const patience = 5 * time.Minute

// until waits for a condition, looking at every change of the API.
func (a *api) until(ok func() bool) bool {
	deadline := time.After(patience)
	for {
		a.mu.Lock()
		pulse := a.pulse
		a.mu.Unlock()
		if ok() {
			return true
		}
		select {
		case <-pulse:
		case <-time.After(50 * time.Millisecond): // for files, which tell nobody
		case <-deadline:
			return ok()
		}
	}
}
