package apiserver

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/kinds"
)

// Client is the pipeline for a component in this process: authorized, admitted
// and validated like anybody, without HTTP and codec. It implements
// client.Client.
type Client struct {
	s    *Server
	user user.Info
}

// Client acts as u.
func (s *Server) Client(u user.Info) *Client { return &Client{s: s, user: u} }

// start authorizes one request of the component.
func (c *Client) start(ctx context.Context, verb string, ref kinds.Ref) (*call, error) {
	k := ref.Kind
	if !serves(k, ref.Sub, verb) {
		return nil, statusError(405, metav1.StatusReasonMethodNotAllowed, "the server does not allow %s on %s", verb, ref)
	}
	a := authorizer.AttributesRecord{User: c.user, Verb: verb, Namespace: ref.Namespace, APIGroup: k.GVK.Group, APIVersion: k.GVK.Version,
		Resource: k.Resource, Subresource: ref.Sub, Name: ref.Name, ResourceRequest: true}
	if k == kinds.Namespace {
		a.Namespace = ref.Name
	}
	if err := c.s.authorize(ctx, a); err != nil {
		return nil, err
	}
	return &call{ctx: ctx, user: c.user, ref: ref, verb: verb}, nil
}

// fail gives components the error type that remote ones see.
func fail(err error) error {
	if err == nil {
		return nil
	}
	return &apierrors.StatusError{ErrStatus: *statusOf(err)}
}

// Get implements client.Client. It asks the store: components read from their
// view, and come here when they must know.
func (c *Client) Get(ctx context.Context, ref kinds.Ref) (runtime.Object, error) {
	call, err := c.start(ctx, "get", ref)
	if err != nil {
		return nil, fail(err)
	}
	cur, err := c.s.lookup(call.ctx, ref, true)
	if err != nil {
		return nil, fail(err)
	}
	obj := c.s.shown(ref.Kind, cur.obj)
	if sub := ref.Kind.Subresources[ref.Sub]; sub.Scale != nil {
		return scaleOf(sub.Scale, obj), nil
	}
	return obj, nil
}

// List implements client.Client.
func (c *Client) List(ctx context.Context, k *kinds.Kind, namespace string, o metav1.ListOptions) (runtime.Object, error) {
	if _, err := c.start(ctx, "list", kinds.Ref{Kind: k, Namespace: namespace}); err != nil {
		return nil, fail(err)
	}
	in := &info{fields: fields.Everything(), labels: labels.Everything()}
	if o.FieldSelector != "" {
		in.fields, in.fieldErr = fields.ParseSelector(o.FieldSelector)
	}
	if o.LabelSelector != "" {
		in.labels, in.labelErr = labels.Parse(o.LabelSelector)
	}
	sel, err := checkSelection(k, in)
	if err != nil {
		return nil, fail(err)
	}
	l, err := c.s.list(ctx, k, namespace, o, sel)
	if err != nil {
		return nil, fail(err)
	}
	items := make([]runtime.Object, len(l.items))
	for i, it := range l.items {
		items[i] = it.Object()
	}
	out := k.NewList()
	if err := meta.SetList(out, items); err != nil {
		return nil, fail(err)
	}
	m, err := meta.ListAccessor(out)
	if err != nil {
		return nil, fail(err)
	}
	lm := l.meta()
	m.SetResourceVersion(lm.ResourceVersion)
	m.SetContinue(lm.Continue)
	m.SetRemainingItemCount(lm.RemainingItemCount)
	return out, nil
}

// Create implements client.Client.
func (c *Client) Create(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	if ref.Sub == "" {
		ref.Name = ""
	}
	call, err := c.start(ctx, "create", ref)
	if err != nil {
		return nil, fail(err)
	}
	if !ref.Kind.Stored() && ref.Kind.StoredAs == nil || ref.Sub != "" {
		out, err := c.s.ask(call, obj.DeepCopyObject())
		return out, fail(err)
	}
	o, ok := obj.(kinds.Object)
	if !ok {
		return nil, fail(fmt.Errorf("%T is no object", obj))
	}
	out, err := c.s.create(call, o.DeepCopyObject().(kinds.Object))
	return result(out, err)
}

// result keeps a nil object from becoming a non-nil interface.
func result(obj kinds.Object, err error) (runtime.Object, error) {
	if err != nil {
		return nil, fail(err)
	}
	return obj, nil
}

// Update implements client.Client.
func (c *Client) Update(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	call, err := c.start(ctx, "update", ref)
	if err != nil {
		return nil, fail(err)
	}
	if sub := ref.Kind.Subresources[ref.Sub]; sub.Scale != nil {
		out, err := c.s.updateScale(call, sub.Scale, func(runtime.Object) (runtime.Object, error) { return obj, nil })
		return out, fail(err)
	}
	o, ok := obj.(kinds.Object)
	if !ok {
		return nil, fail(fmt.Errorf("%T is no object", obj))
	}
	out, _, err := c.s.replace(call, o.DeepCopyObject().(kinds.Object))
	return result(out, err)
}

// Patch implements client.Client.
func (c *Client) Patch(ctx context.Context, ref kinds.Ref, t types.PatchType, data []byte) (runtime.Object, error) {
	call, err := c.start(ctx, "patch", ref)
	if err != nil {
		return nil, fail(err)
	}
	out, err := c.s.patch(call, t, data, metav1.FieldValidationStrict)
	if err != nil {
		return nil, fail(err)
	}
	return out, nil
}

// Delete implements client.Client.
func (c *Client) Delete(ctx context.Context, ref kinds.Ref, o metav1.DeleteOptions) (runtime.Object, error) {
	call, err := c.start(ctx, "delete", ref)
	if err != nil {
		return nil, fail(err)
	}
	call.dryRun = len(o.DryRun) > 0
	out, _, err := c.s.delete(call, &o)
	return result(out, err)
}
