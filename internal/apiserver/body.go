package apiserver

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

// listOptions reads the parameters of a list or a watch.
func listOptions(q url.Values) (metav1.ListOptions, error) {
	var o metav1.ListOptions
	if err := metav1.Convert_url_Values_To_v1_ListOptions(&q, &o, nil); err != nil {
		return o, badRequest("%v", err)
	}
	if o.Watch && o.SendInitialEvents == nil && o.ResourceVersionMatch == "" && (o.ResourceVersion == "" || o.ResourceVersion == "0") {
		yes := true // as upstream: with bookmarks, such a watch says when the present objects are all sent
		o.SendInitialEvents, o.ResourceVersionMatch = &yes, metav1.ResourceVersionMatchNotOlderThan
	}
	return o, nil
}

// body reads the request's body within its bounds of size and time: it holds a
// place among the requests in flight.
func (s *Server) body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, statusError(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType, "Content-Encoding %q is not supported", enc)
	}
	if r.ContentLength == 0 {
		return nil, nil
	}
	tooLarge := apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
	if r.ContentLength > maxBody {
		return nil, tooLarge
	}
	bodyUntil(w, time.Now().Add(s.bodyTimeout))
	var buf bytes.Buffer
	if r.ContentLength > 0 {
		buf.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	if _, err := buf.ReadFrom(io.LimitReader(r.Body, maxBody+1)); err != nil {
		return nil, badRequest("cannot read the body: %v", err)
	}
	bodyUntil(w, time.Time{})
	if buf.Len() > maxBody {
		return nil, tooLarge
	}
	return buf.Bytes(), nil
}

// decode reads the body into obj, which must be of the kind that the URL names.
func (s *Server) decode(w http.ResponseWriter, r *http.Request, obj runtime.Object, warn func(string)) error {
	data, err := s.body(w, r)
	if err != nil {
		return err
	}
	f, err := bodyFormat(r)
	if err != nil {
		return err
	}
	policy := fieldValidation(r.URL.Query())
	want, err := gvkOf(obj)
	if err != nil {
		return err
	}
	unknown, err := codec.DecodeBody(f, data, obj)
	if err != nil {
		return undecodable(err, data, obj, want)
	}
	pruned, err := prune(s.cfg.Kinds.ByGVK(want), obj)
	if err != nil {
		return badRequest("%s in version %q cannot be handled as a %s: %v", want.Kind, want.Version, want.Kind, err)
	}
	unknown = append(unknown, pruned...)
	return policy.judge(unknown, warn, func(text string) error {
		return badRequest("%s in version %q cannot be handled as a %s: %s", want.Kind, want.Version, want.Kind, text)
	})
}

// undecodable says why a body is not what the URL asks for, in upstream's words.
func undecodable(cause error, data []byte, into runtime.Object, want schema.GroupVersionKind) error {
	var lost *codec.Unrecognized
	var wrong *codec.WrongKind
	got := into.GetObjectKind().GroupVersionKind()
	switch {
	case errors.As(cause, &lost), runtime.IsMissingKind(cause):
		return badRequest("the object provided is unrecognized (must be of type %s): %v (%s)", want.Kind, cause, summary(data))
	case !errors.As(cause, &wrong):
		return badRequest("%s in version %q cannot be handled as a %s: %v", cmp.Or(got.Kind, want.Kind), cmp.Or(got.Version, want.Version), want.Kind, cause)
	case wrong.Got.Kind == want.Kind && isCustom(into), wrong.Got.Kind == want.Kind && codec.Scheme().Recognizes(wrong.Got):
		return badRequest("the API version in the data (%s) does not match the expected API version (%s)", wrong.Got.GroupVersion(), want.GroupVersion())
	default:
		return badRequest("%s in version %q cannot be handled as a %s: no kind %q is registered for version %q",
			wrong.Got.Kind, wrong.Got.Version, want.Kind, wrong.Got.Kind, wrong.Got.GroupVersion())
	}
}

// summary of a body that may be binary.
func summary(data []byte) string {
	const shown = 30 // bytes
	form := "%x"
	switch {
	case len(data) == 0:
		return "<empty>"
	case data[0] == '{':
		form = "%s"
	}
	if len(data) > shown {
		return fmt.Sprintf(form+" ...", data[:shown])
	}
	return fmt.Sprintf(form, data)
}

func isCustom(o runtime.Object) bool {
	_, ok := o.(*unstructured.Unstructured)
	return ok
}

// prune takes out of a custom resource what its kind does not have.
func prune(k *kinds.Kind, o runtime.Object) (unknown []error, err error) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok || k == nil || k.Prune == nil {
		return nil, nil
	}
	paths, err := k.Prune(u.Object)
	for _, path := range paths {
		unknown = append(unknown, fmt.Errorf("unknown field %q", path))
	}
	return unknown, err
}

// deleteOptions come in the body, or without one in the query. A dry run that
// only the query of a request with a body asks for is one, too: upstream would
// delete.
func (s *Server) deleteOptions(w http.ResponseWriter, r *http.Request) (*metav1.DeleteOptions, error) {
	o := &metav1.DeleteOptions{}
	data, err := s.body(w, r)
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	if len(data) > 0 {
		f, err := bodyFormat(r)
		if err != nil {
			return nil, err
		}
		if _, err := codec.DecodeBody(f, data, o); err != nil {
			return nil, badRequest("%v", err)
		}
	} else if err := metav1.Convert_url_Values_To_v1_DeleteOptions(&q, o, nil); err != nil {
		return nil, badRequest("%v", err)
	}
	if len(o.DryRun) == 0 {
		o.DryRun = q["dryRun"]
	}
	return o, checkDeleteOptions(o)
}
