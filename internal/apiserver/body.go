package apiserver

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

func listOptions(q url.Values) (metav1.ListOptions, error) {
	o := metav1.ListOptions{ResourceVersion: q.Get("resourceVersion"), ResourceVersionMatch: metav1.ResourceVersionMatch(q.Get("resourceVersionMatch")), Continue: q.Get("continue")}
	var err error
	number := func(name string) int64 {
		v := q.Get(name)
		if v == "" || err != nil {
			return 0
		}
		n, perr := strconv.ParseInt(v, 10, 64)
		if perr != nil {
			err = badRequest("%s: Invalid value: %q: %v", name, v, perr)
		}
		return n
	}
	o.Limit = number("limit")
	if t := number("timeoutSeconds"); t > 0 {
		o.TimeoutSeconds = &t
	}
	o.AllowWatchBookmarks = truth(q, "allowWatchBookmarks")
	if q.Has("sendInitialEvents") {
		b := truth(q, "sendInitialEvents")
		o.SendInitialEvents = &b
	}
	return o, err
}

// body reads the request's body within its bound.
func body(r *http.Request) ([]byte, error) {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, statusError(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType, "Content-Encoding %q is not supported", enc)
	}
	if r.ContentLength > maxBody {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return nil, badRequest("cannot read the body: %v", err)
	}
	if len(data) > maxBody {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
	}
	return data, nil
}

// decode reads the body into obj, which must be of the kind that the URL names.
func decode(r *http.Request, obj runtime.Object, k *kinds.Kind, warn func(string)) error {
	data, err := body(r)
	if err != nil {
		return err
	}
	f, err := bodyFormat(r)
	if err != nil {
		return err
	}
	policy, err := fieldValidation(r.URL.Query())
	if err != nil {
		return err
	}
	unknown, err := codec.DecodeBody(f, data, obj)
	if err != nil {
		return badRequest("%s in version %q cannot be handled as a %s: %v", k.GVK.Kind, k.GVK.Version, k.GVK.Kind, err)
	}
	if got := obj.GetObjectKind().GroupVersionKind(); !got.Empty() {
		if want, err := gvkOf(obj); err == nil && got != want {
			return badRequest("%s in version %q cannot be handled as a %s: no kind %q is registered for version %q", got.Kind, got.GroupVersion(), want.Kind, got.Kind, want.GroupVersion())
		}
	}
	return policy.judge(unknown, warn)
}

// deleteOptions come in the body, or without one in the query.
func deleteOptions(r *http.Request) (*metav1.DeleteOptions, error) {
	o := &metav1.DeleteOptions{}
	data, err := body(r)
	if err != nil {
		return nil, err
	}
	if len(data) > 0 {
		f, err := bodyFormat(r)
		if err != nil {
			return nil, err
		}
		if _, err := codec.DecodeBody(f, data, o); err != nil {
			return nil, badRequest("cannot decode DeleteOptions: %v", err)
		}
		return o, nil
	}
	q := r.URL.Query()
	if v := q.Get("gracePeriodSeconds"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return nil, badRequest("gracePeriodSeconds: Invalid value: %q: %v", v, err)
		}
		o.GracePeriodSeconds = &n
	}
	if v := q.Get("propagationPolicy"); v != "" {
		p := metav1.DeletionPropagation(v)
		o.PropagationPolicy = &p
	}
	if q.Has("orphanDependents") {
		b := truth(q, "orphanDependents")
		o.OrphanDependents = &b
	}
	return o, nil
}
