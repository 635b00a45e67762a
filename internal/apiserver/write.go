package apiserver

import (
	"context"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/kinds"
)

// call is one authorized request on its way to the store, from HTTP or from a
// component.
type call struct {
	ctx    context.Context
	user   user.Info
	ref    kinds.Ref
	dryRun bool
	warn   func(string)
	verb   string
	in     *info

	manager string       // of the fields that are written
	said    string       // the manager that the client has named
	force   bool         // apply: take fields from others
	owned   bool         // whoever plans the change has seen to the managed fields
	scale   *kinds.Scale // the update is one of the scale, and admitted as such

	admitted bool // a deletion that was ordered by an eviction, and admitted as such
}

// shown converts from the stored form to the one that was asked for.
func (s *Server) shown(k *kinds.Kind, obj kinds.Object) kinds.Object {
	if k.FromStored != nil {
		rv := obj.GetResourceVersion()
		obj = k.FromStored(obj)
		obj.SetResourceVersion(rv)
	}
	return obj
}

// checkName compares what an update is called with what it is to replace.
func checkName(ref kinds.Ref, obj kinds.Object) error {
	switch name, ns := obj.GetName(), obj.GetNamespace(); {
	case name == "":
		return badRequest("the name of the object (%s based on URL) was undeterminable: name must be provided", ref.Name)
	case name != ref.Name:
		return badRequest("the name of the object (%s) does not match the name on the URL (%s)", name, ref.Name)
	case ref.Kind.Namespaced && ns != "" && ns != ref.Namespace:
		return badRequest("the namespace of the object (%s) does not match the namespace on the request (%s)", ns, ref.Namespace)
	}
	return checkScope(ref, obj)
}

// checkScope makes the object's namespace that of the URL, or refuses.
func checkScope(ref kinds.Ref, obj kinds.Object) error {
	if !ref.Kind.Namespaced {
		obj.SetNamespace("") // as upstream: it has none, whatever the client thinks
		return nil
	}
	if ref.Namespace == "" {
		return badRequest("an empty namespace may not be set during creation")
	}
	if ns := obj.GetNamespace(); ns != "" && ns != ref.Namespace {
		return errNamespace()
	}
	obj.SetNamespace(ref.Namespace)
	return nil
}

func (s *Server) mutate(ctx context.Context, r *admission.Request) error {
	defer keepValid(r)()
	began := time.Now()
	err := admission.Mutate(ctx, s.plugins, r)
	s.metrics.step(r, admit, time.Since(began), err)
	return err
}

func (s *Server) validate(ctx context.Context, r *admission.Request) error {
	began := time.Now()
	err := admission.Validate(ctx, s.plugins, r)
	s.metrics.step(r, validate, time.Since(began), err)
	return err
}

func (s *Server) warnings(c *call, k *kinds.Kind, obj, old kinds.Object) {
	if k.Warnings == nil || c.warn == nil {
		return
	}
	for _, w := range k.Warnings(obj, old) {
		c.warn(w)
	}
}
