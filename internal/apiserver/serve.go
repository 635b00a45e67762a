package apiserver

import (
	"net/http"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
)

func (s *Server) serveGet(w *recorder, r *http.Request, c *call, a accepted) error {
	it, err := s.item(c.ctx, c.ref, r.URL.Query().Get("resourceVersion"))
	if err != nil {
		return err
	}
	sub := c.ref.Kind.Subresources[c.ref.Sub]
	if sub.Scale == nil && a.shape == whole && !a.pretty {
		data, err := it.Bytes(c.ctx, a.format)
		return s.write(w, http.StatusOK, a, data, err)
	}
	obj, err := it.Load(c.ctx)
	if err != nil {
		return err
	}
	if sub.Scale != nil {
		data, err := encode(a, scaleOf(sub.Scale, obj))
		return s.write(w, http.StatusOK, a, data, err)
	}
	data, err := s.render(a, c.ref.Kind, obj, r.URL.Query().Get("includeObject"))
	return s.write(w, http.StatusOK, a, data, err)
}

func (s *Server) serveList(w *recorder, r *http.Request, in *info, k *kinds.Kind, a accepted) error {
	o, err := listOptions(r.URL.Query())
	if err != nil {
		return err
	}
	if in.verb == "watch" {
		return s.watch(w, r, k, in, a, o)
	}
	sel, err := checkSelection(k, in)
	if err != nil {
		return err
	}
	l, err := s.list(r.Context(), k, in.ns, o, sel)
	if err != nil {
		return err
	}
	return s.writeList(r.Context(), w, a, k, l, r.URL.Query().Get("includeObject"))
}

func (s *Server) serveCreate(w *recorder, r *http.Request, c *call, a accepted) error {
	k := c.ref.Kind
	if !k.Stored() && k.StoredAs == nil || c.ref.Sub != "" {
		into := k.NewBody
		if c.ref.Sub != "" {
			into = k.Subresources[c.ref.Sub].New
		}
		if a.shape != whole { // a question has no metadata to show
			return notAcceptable()
		}
		obj := into()
		if err := s.decode(w, r, obj, c.warn); err != nil {
			return err
		}
		c.requested(obj)
		out, err := s.ask(c, obj)
		if err != nil {
			return err
		}
		c.statusIs(out)
		data, err := encode(a, out)
		return s.write(w, http.StatusCreated, a, data, err)
	}
	obj := k.New()
	if err := s.decode(w, r, obj, c.warn); err != nil {
		return err
	}
	c.requested(obj)
	out, err := s.create(c, obj)
	if err != nil {
		return err
	}
	data, err := s.render(a, k, out, r.URL.Query().Get("includeObject"))
	return s.write(w, http.StatusCreated, a, data, err)
}

func (s *Server) serveUpdate(w *recorder, r *http.Request, c *call, a accepted) error {
	k := c.ref.Kind
	if sub := k.Subresources[c.ref.Sub]; sub.Scale != nil {
		obj := sub.New()
		if err := s.decode(w, r, obj, c.warn); err != nil {
			return err
		}
		c.requested(obj)
		out, err := s.updateScale(c, sub.Scale, func(runtime.Object) (runtime.Object, error) { return obj, nil })
		if err != nil {
			return err
		}
		data, err := encode(a, out)
		return s.write(w, http.StatusOK, a, data, err)
	}
	obj := k.New()
	if err := s.decode(w, r, obj, c.warn); err != nil {
		return err
	}
	c.requested(obj)
	out, created, err := s.replace(c, obj)
	if err != nil {
		return err
	}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	data, err := s.render(a, k, out, r.URL.Query().Get("includeObject"))
	return s.write(w, code, a, data, err)
}

func (s *Server) servePatch(w *recorder, r *http.Request, c *call, a accepted) error {
	data, err := s.body(w, r)
	if err != nil {
		return err
	}
	kind := patchType(r)
	c.in.apply = kind == types.ApplyPatchType
	c.patched(kind, data)
	out, created, err := s.patch(c, kind, data, fieldValidation(r.URL.Query()))
	if err != nil {
		return err
	}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	data, err = s.render(a, c.ref.Kind, out, r.URL.Query().Get("includeObject"))
	return s.write(w, code, a, data, err)
}

func (s *Server) serveDelete(w *recorder, r *http.Request, in *info, c *call, a accepted) error {
	opts, err := s.deleteOptions(w, r)
	if err != nil {
		return err
	}
	if r.ContentLength != 0 {
		c.requested(opts)
	}
	if c.dryRun = len(opts.DryRun) > 0; c.dryRun {
		in.dryRun = metav1.DryRunAll
	}
	if in.verb == "deletecollection" {
		if err := checkUnsafe(opts); err != nil {
			return err
		}
		return s.serveDeleteCollection(w, r, in, c, opts, a)
	}
	obj, removed, err := s.delete(c, opts)
	if err != nil {
		return err
	}
	var out runtime.Object = obj
	code := http.StatusOK
	switch {
	case obj == nil:
		out = deletedBlindly(c.ref)
		c.statusIs(out)
	case removed && !returnsObject(c.ref.Kind):
		out = deletedStatus(c.ref.Kind, obj)
		c.statusIs(out)
	case !removed && waits(opts):
		code = http.StatusAccepted
	}
	data, err := s.render(a, c.ref.Kind, out, "")
	return s.write(w, code, a, data, err)
}

// waits: the client asked, in the old way, for a deletion that takes the
// dependents along; upstream says by the code that it goes on for this one only.
func waits(o *metav1.DeleteOptions) bool { return o.OrphanDependents != nil && !*o.OrphanDependents }

// deleteWorkers work at one deletecollection: enough for the store to write
// many at once.
const deleteWorkers = 16

func (s *Server) serveDeleteCollection(w *recorder, r *http.Request, in *info, c *call, opts *metav1.DeleteOptions, a accepted) error {
	o, err := listOptions(r.URL.Query())
	if err != nil {
		return err
	}
	sel, err := checkSelection(c.ref.Kind, in)
	if err != nil {
		return err
	}
	l, err := s.list(r.Context(), c.ref.Kind, in.ns, o, sel)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(c.ctx)
	g.SetLimit(deleteWorkers)
	for _, it := range l.items {
		g.Go(func() error {
			one := *c
			one.ctx, one.warn = ctx, func(string) {} // headers cannot be written by many
			one.ref.Namespace, one.ref.Name = it.Namespace, it.Name
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if _, _, err := s.delete(&one, opts); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return s.writeList(c.ctx, w, a, c.ref.Kind, l, "")
}
