package authz

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// harmless keeps what a client named from being taken for markup by whatever
// shows it.
var harmless = strings.NewReplacer(`&`, "&amp;", `<`, "&lt;", `>`, "&gt;")

// Failed says that nobody could tell whether a request is allowed, in
// upstream's words; uri is what the client asked for.
func Failed(uri string, err error) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonInternalError,
		Message: harmless.Replace(fmt.Sprintf("Internal Server Error: %q: %v", uri, err)),
	}}
}

// Forbidden says who may not do what, in the words that clients know.
func Forbidden(a authorizer.Attributes, reason string) error {
	msg := fmt.Sprintf("User %q cannot %s path %q", a.GetUser().GetName(), a.GetVerb(), a.GetPath())
	if a.IsResourceRequest() {
		res, where := a.GetResource(), "at the cluster scope"
		if a.GetSubresource() != "" {
			res += "/" + a.GetSubresource()
		}
		if a.GetNamespace() != "" {
			where = fmt.Sprintf("in the namespace %q", a.GetNamespace())
		}
		msg = fmt.Sprintf("User %q cannot %s resource %q in API group %q %s", a.GetUser().GetName(), a.GetVerb(), res, a.GetAPIGroup(), where)
	}
	msg = harmless.Replace(msg)
	if reason != "" {
		msg += ": " + reason
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.GetAPIGroup(), Resource: a.GetResource()}, a.GetName(), errors.New(msg))
}
