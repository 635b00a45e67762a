package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
)

// A stored object that cannot be read any more, its key being lost or its bytes
// spoilt, can be neither shown nor deleted as others are. Who may, deletes it
// blindly: nobody is asked, and what its finalizers wait for does not happen.

const (
	unsafeVerb = "unsafe-delete-ignore-read-errors"
	unsafeNote = "apiserver.k8s.io/unsafe-delete-ignore-read-error"
	unsafeName = "ignoreStoreReadErrorWithClusterBreakingPotential"
)

func isUnsafe(o *metav1.DeleteOptions) bool {
	return o.IgnoreStoreReadErrorWithClusterBreakingPotential != nil && *o.IgnoreStoreReadErrorWithClusterBreakingPotential
}

// checkUnsafe refuses to delete a collection blindly.
func checkUnsafe(o *metav1.DeleteOptions) error {
	if !isUnsafe(o) {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "DeleteOptions"}, "", field.ErrorList{
		field.Invalid(field.NewPath(unsafeName), true, "is not allowed with DELETECOLLECTION, try again after removing the option")})
}

// deleteUnreadable deletes what cannot be read, and nothing else.
func (s *Server) deleteUnreadable(c *call) error {
	c.in.audit.Annotate(unsafeNote, "")
	if err := s.mayBreak(c); err != nil {
		return err
	}
	k := storedKind(c.ref.Kind)
	key := k.Key(c.ref.Namespace, c.ref.Name)
	page, err := s.cfg.Store.List(c.ctx, key, store.ListOptions{Limit: 1}) // leaves as it is what Get could not read
	if err != nil {
		return err
	}
	if len(page.KVs) == 0 || page.KVs[0].Key != key {
		return notFound(c.ref)
	}
	kv := page.KVs[0]
	if s.readable(c, k, kv) {
		return apierrors.NewConflict(c.ref.Kind.GroupResource(), c.ref.Name, errors.New("unsafe deletion is not allowed because the object is decodable from storage"))
	}
	if c.dryRun {
		return nil
	}
	var conflict *store.Conflict
	_, err = s.cfg.Store.Delete(c.ctx, key, kv.Rev)
	if errors.As(err, &conflict) {
		return modified(c.ref)
	}
	return err
}

// readable: a custom object that a webhook does not convert at the moment is.
func (s *Server) readable(c *call, k *kinds.Kind, kv store.KV) bool {
	if k.Load != nil {
		return json.Valid(kv.Value)
	}
	_, err := codec.Load(c.ctx, k, kv.Value, kv.Rev)
	return err == nil
}

func (s *Server) mayBreak(c *call) error {
	a := c.in.attributes(c.user)
	a.Verb = unsafeVerb
	decision, reason, err := s.cfg.Authz.Authorize(c.ctx, a)
	switch {
	case err != nil:
		err = fmt.Errorf("error while checking permission for %q, %w", unsafeVerb, err)
	case decision == authorizer.DecisionAllow:
		return nil
	default:
		err = fmt.Errorf("not permitted to do %q, reason: %s", unsafeVerb, reason)
	}
	return apierrors.NewForbidden(c.ref.Kind.GroupResource(), c.ref.Name, err)
}

// deletedBlindly answers for an object that nobody has seen.
func deletedBlindly(ref kinds.Ref) *metav1.Status {
	return &metav1.Status{TypeMeta: success().TypeMeta, Status: metav1.StatusSuccess, Code: http.StatusOK,
		Details: &metav1.StatusDetails{Name: ref.Name, Kind: ref.Kind.GVK.Kind}}
}
