package apiserver

import (
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

// apply is a server-side apply: the configuration's fields become those of its
// manager, and what that no longer names goes.
func (s *Server) apply(c *call, data []byte, v fieldPolicy) (out runtime.Object, created bool, err error) {
	config, strict, err := codec.DecodeMap(codec.YAML, data)
	if err != nil {
		return nil, false, badRequest("error decoding patch: %v", err)
	}
	if len(strict) > 0 { // upstream reads JSON here as YAML, too, and says where a key is there twice
		if _, err := yaml.YAMLToJSONStrict(data); err != nil {
			strict = []error{fmt.Errorf("error converting YAML to JSON: %w", err)}
		}
	}
	refuse := func(string) error { return badRequest("error strict decoding patch: %v", errors.Join(strict...)) }
	c.owned = true
	if sub := c.ref.Kind.Subresources[c.ref.Sub]; sub.Scale != nil {
		out, err = s.updateScale(c, sub.Scale, func(old runtime.Object) (runtime.Object, error) {
			obj, err := s.configure(c, old.(kinds.Object), config)
			if err != nil {
				return nil, err
			}
			return obj, v.judge(strict, c.warn, refuse)
		})
		return out, false, err
	}
	next := func(live kinds.Object) (kinds.Object, error) {
		obj, err := s.configure(c, live, config)
		if err != nil {
			return nil, err
		}
		if err := v.judge(strict, c.warn, refuse); err != nil {
			return nil, err
		}
		return obj, checkName(c.ref, obj)
	}
	for range conflictTries {
		out, err = s.update(c, next)
		if !apierrors.IsNotFound(err) || c.ref.Sub != "" {
			return out, false, err
		}
		out, err = s.createApplied(c, next)
		if !apierrors.IsAlreadyExists(err) { // else somebody else was faster
			return out, true, err
		}
	}
	return nil, false, err
}

// createApplied stores what a configuration alone makes.
func (s *Server) createApplied(c *call, next func(live kinds.Object) (kinds.Object, error)) (kinds.Object, error) {
	obj, err := next(nil)
	if err != nil {
		return nil, err
	}
	if uid := obj.GetUID(); uid != "" {
		return nil, apierrors.NewConflict(c.ref.Kind.GroupResource(), c.ref.Name,
			fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", uid))
	}
	if err := s.mayCreate(c); err != nil {
		return nil, err
	}
	obj.SetResourceVersion("")
	return s.create(c, obj)
}

// configure is live with the configuration applied. What the library refuses
// without a status is told in its words and with upstream's code.
func (s *Server) configure(c *call, live kinds.Object, config map[string]any) (kinds.Object, error) {
	obj, err := s.fields.Apply(c.ctx, s.writeOf(c), live, &unstructured.Unstructured{Object: config}, c.force)
	var status apierrors.APIStatus
	if err != nil && !errors.As(err, &status) {
		err = statusError(http.StatusInternalServerError, metav1.StatusReasonUnknown, "%v", err)
	}
	return obj, err
}

// mayCreate: an update that creates needs that permission too.
func (s *Server) mayCreate(c *call) error {
	in := &info{verb: "create", resource: true, gvr: c.ref.Kind.GroupVersionResource(), ns: c.ref.Namespace, name: c.ref.Name}
	return s.authorize(c.ctx, in, in.attributes(c.user))
}
