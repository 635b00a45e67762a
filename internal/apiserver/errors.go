package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
)

// statusOf makes of any error what a client sees. Internal errors keep their
// text: components are clients too, and it holds no secrets.
func statusOf(err error) *metav1.Status {
	var s apierrors.APIStatus
	if errors.As(err, &s) {
		st := s.Status()
		st.Kind, st.APIVersion = "Status", "v1"
		if st.Code == 0 {
			st.Code = http.StatusInternalServerError
		}
		return &st
	}
	switch {
	case errors.Is(err, store.ErrNoSpace):
		err = statusError(http.StatusInsufficientStorage, metav1.StatusReasonInternalError, "the store is full: delete objects, or raise its quota")
	case errors.Is(err, store.ErrDiskFull):
		err = statusError(http.StatusInsufficientStorage, metav1.StatusReasonInternalError, "the disk of the store is full: free some space on the server; nothing is lost, and deletes work while there is a little left")
	case errors.Is(err, store.ErrTooLarge):
		err = apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("an object may take %d bytes as it is stored", store.MaxValue))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		err = apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0)
	default:
		err = apierrors.NewInternalError(err)
	}
	return statusOf(err)
}

func notFound(ref kinds.Ref) error { return apierrors.NewNotFound(ref.Kind.GroupResource(), ref.Name) }

func invalid(k *kinds.Kind, name string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(k.GVK.GroupKind(), name, errs)
}

func badRequest(format string, args ...any) error {
	return apierrors.NewBadRequest(fmt.Sprintf(format, args...))
}

// errModified is what clients that update an old version match on.
var errModified = errors.New("the object has been modified; please apply your changes to the latest version and try again")

func modified(ref kinds.Ref) error {
	return apierrors.NewConflict(ref.Kind.GroupResource(), ref.Name, errModified)
}

func expired(format string, args ...any) error {
	return apierrors.NewResourceExpired(fmt.Sprintf(format, args...))
}

// statusError builds a Status that apierrors has no constructor for.
func statusError(code int, reason metav1.StatusReason, format string, args ...any) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: fmt.Sprintf(format, args...)}}
}

func errNamespace() error {
	return badRequest("the namespace of the provided object does not match the namespace sent on the request")
}

func wrongUID(ref kinds.Ref, want, have types.UID) error {
	return apierrors.NewConflict(ref.Kind.GroupResource(), ref.Name, fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", want, have))
}
