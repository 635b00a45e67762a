package apiserver

import (
	"context"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/client/remote"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/security/audit"
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

// do authorizes one request of the component, runs it and writes it down.
func (c *Client) do(ctx context.Context, verb string, ref kinds.Ref, run func(*call) (runtime.Object, error)) (runtime.Object, error) {
	return c.ask(ctx, &info{verb: verb}, ref, run)
}

// ask is do with what a request selects.
func (c *Client) ask(ctx context.Context, in *info, ref kinds.Ref, run func(*call) (runtime.Object, error)) (runtime.Object, error) {
	if ref.Kind.Now != nil { // as the view names custom objects
		k := ref.Kind.Now()
		if k == nil {
			return nil, apierrors.NewServiceUnavailable(ref.Kind.String() + " is not served at the moment")
		}
		ref.Kind = k
	}
	k := ref.Kind
	in.resource, in.gvr, in.ns, in.name, in.sub = true, k.GroupVersionResource(), ref.Namespace, ref.Name, ref.Sub
	began := c.s.now()
	ctx, end := c.s.tracing.own(ctx, in)
	call := &call{ctx: ctx, user: c.user, ref: ref, verb: in.verb, manager: managerName(c.user), warn: func(string) {}, in: in}
	out, err := c.recorded(call, run)
	end(err)
	code := http.StatusOK
	if err != nil {
		st := statusOf(err)
		code, out, err = int(st.Code), nil, &apierrors.StatusError{ErrStatus: *st}
	}
	c.s.metrics.observe(in, code, unsent, c.s.now().Sub(began))
	return out, err
}

// recorded runs the request and writes down that it did.
func (c *Client) recorded(call *call, run func(*call) (runtime.Object, error)) (out runtime.Object, err error) {
	in := call.in
	if c.s.cfg.Audit == nil {
		return c.run(call, run)
	}
	in.audit = c.s.cfg.Audit.New("")
	call.ctx = audit.With(call.ctx, in.audit)
	q := audit.Request{At: c.s.now(), URI: remote.Path(call.ref), UserAgent: ownAgent, Sources: []string{ownAddress}}
	if err := in.audit.Received(in.attributes(c.user), q); err != nil {
		return nil, err
	}
	defer func() {
		if p := recover(); p != nil {
			in.audit.Panicked(p)
			panic(p)
		}
		ended(in.audit, call.verb, out, err)
	}()
	return c.run(call, run)
}

// How components in this process appear in the audit log: upstream's come over
// the loopback.
const (
	ownAgent   = "knarr"
	ownAddress = "::1"
)

func (c *Client) run(call *call, run func(*call) (runtime.Object, error)) (runtime.Object, error) {
	in := call.in
	if !serves(call.ref.Kind, call.ref.Sub, call.verb) {
		return nil, methodNotAllowed()
	}
	defer c.s.leave(in)
	if err := c.s.enter(call.ctx, in, c.user, 1); err != nil {
		return nil, err
	}
	if err := c.s.authorize(call.ctx, in, in.attributes(c.user)); err != nil {
		return nil, err
	}
	return run(call)
}

// Get implements client.Client. It asks the store: components read from their
// view, and come here when they must know.
func (c *Client) Get(ctx context.Context, ref kinds.Ref) (runtime.Object, error) {
	return c.do(ctx, "get", ref, func(call *call) (runtime.Object, error) {
		ref := call.ref
		if ref.Kind.Measured {
			it, err := c.s.measure(call.ctx, ref)
			if err != nil {
				return nil, err
			}
			return it.Object(), nil
		}
		cur, err := c.s.lookup(call.ctx, ref, true)
		if err != nil {
			return nil, err
		}
		obj := c.s.shown(ref.Kind, cur.obj)
		if sub := ref.Kind.Subresources[ref.Sub]; sub.Scale != nil {
			return scaleOf(sub.Scale, obj), nil
		}
		return obj, nil
	})
}

// List implements client.Client.
func (c *Client) List(ctx context.Context, k *kinds.Kind, namespace string, o metav1.ListOptions) (runtime.Object, error) {
	// The authorizer looks at what is selected, too.
	in := &info{verb: "list", fields: fields.Everything(), labels: labels.Everything()}
	if o.FieldSelector != "" {
		in.fields, in.fieldErr = fields.ParseSelector(o.FieldSelector)
	}
	if o.LabelSelector != "" {
		in.labels, in.labelErr = labels.Parse(o.LabelSelector)
	}
	return c.ask(ctx, in, kinds.Ref{Kind: k, Namespace: namespace}, func(call *call) (runtime.Object, error) {
		k := call.ref.Kind
		sel, err := checkSelection(k, in)
		if err != nil {
			return nil, err
		}
		l, err := c.s.list(call.ctx, k, namespace, o, sel)
		if err != nil {
			return nil, err
		}
		return l.object(call.ctx, k)
	})
}

// object is the listing as an object; its items share what the cache holds.
func (l *listing) object(ctx context.Context, k *kinds.Kind) (runtime.Object, error) {
	items := make([]runtime.Object, len(l.items))
	for i, it := range l.items {
		obj, err := it.Load(ctx)
		if err != nil {
			return nil, err
		}
		items[i] = obj
	}
	out := k.NewList()
	if err := meta.SetList(out, items); err != nil {
		return nil, err
	}
	m, err := meta.ListAccessor(out)
	if err != nil {
		return nil, err
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
	return c.do(ctx, "create", ref, func(call *call) (runtime.Object, error) {
		ref := call.ref
		call.requested(obj)
		if !ref.Kind.Stored() && ref.Kind.StoredAs == nil || ref.Sub != "" {
			return c.s.ask(call, obj.DeepCopyObject())
		}
		o, err := copyOf(obj)
		if err != nil {
			return nil, err
		}
		return c.s.create(call, o)
	})
}

// copyOf is an object that the pipeline may change.
func copyOf(obj runtime.Object) (kinds.Object, error) {
	o, ok := obj.DeepCopyObject().(kinds.Object)
	if !ok {
		return nil, badRequest("%T is no object", obj)
	}
	return o, nil
}

// Update implements client.Client.
func (c *Client) Update(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	return c.do(ctx, "update", ref, func(call *call) (runtime.Object, error) {
		ref := call.ref
		call.requested(obj)
		if sub := ref.Kind.Subresources[ref.Sub]; sub.Scale != nil {
			return c.s.updateScale(call, sub.Scale, func(runtime.Object) (runtime.Object, error) { return obj, nil })
		}
		o, err := copyOf(obj)
		if err != nil {
			return nil, err
		}
		out, _, err := c.s.replace(call, o)
		return out, err
	})
}

// Patch implements client.Client.
func (c *Client) Patch(ctx context.Context, ref kinds.Ref, t types.PatchType, data []byte) (runtime.Object, error) {
	return c.do(ctx, "patch", ref, func(call *call) (runtime.Object, error) {
		call.force = true // a component decides about what it applies
		call.in.apply = t == types.ApplyPatchType
		call.patched(t, data)
		out, _, err := c.s.patch(call, t, data, metav1.FieldValidationStrict)
		return out, err
	})
}

// Delete implements client.Client.
func (c *Client) Delete(ctx context.Context, ref kinds.Ref, o metav1.DeleteOptions) (runtime.Object, error) {
	return c.do(ctx, "delete", ref, func(call *call) (runtime.Object, error) {
		call.dryRun = len(o.DryRun) > 0
		call.requested(&o)
		out, _, err := c.s.delete(call, &o)
		return out, err
	})
}
