package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	reviewv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	upstream "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/kinds"
)

var errReviewVersions = errors.New("webhook does not accept known AdmissionReview versions (v1, v1beta1)")

// question is a request as webhooks and policies see it. What they are shown is
// made once for each kind, as a copy that says what it is.
type question struct {
	c         *Config
	r         *Request
	namespace string // of a namespace: its own name
	forms     map[*kinds.Kind]form
}

type form struct{ object, old runtime.Object }

func (c *Config) question(r *Request) *question {
	q := &question{c: c, r: r, namespace: r.Ref.Namespace, forms: map[*kinds.Kind]form{}}
	if r.Ref.Kind == kinds.Namespace {
		q.namespace = r.Ref.Name
	}
	return q
}

// gvk of the body, which a subresource may have of its own.
func (q *question) gvk(k *kinds.Kind) schema.GroupVersionKind {
	if sub := k.Subresources[q.r.Ref.Sub]; !sub.GVK.Empty() {
		return sub.GVK
	}
	return k.GVK
}

// whole: the request is about the object itself or a part that has its form.
func (q *question) whole(k *kinds.Kind) bool { return q.gvk(k) == k.GVK }

func (q *question) shown(k *kinds.Kind) form {
	f, ok := q.forms[k]
	if !ok {
		f = form{q.show(k, q.r.Object), q.show(k, q.r.Old)}
		q.forms[k] = f
	}
	return f
}

func (q *question) show(k *kinds.Kind, o runtime.Object) runtime.Object {
	if o == nil {
		return nil
	}
	if obj, ok := o.(kinds.Object); ok && q.whole(k) {
		return shownAs(k, obj, k.GVK)
	}
	o = o.DeepCopyObject()
	o.GetObjectKind().SetGroupVersionKind(q.gvk(k))
	return o
}

// shownAs is a copy of a stored object in the form of k, which says what it is.
func shownAs(k *kinds.Kind, o kinds.Object, gvk schema.GroupVersionKind) kinds.Object {
	if k.FromStored != nil {
		rv := o.GetResourceVersion()
		o = k.FromStored(o)
		o.SetResourceVersion(rv)
	} else {
		o = o.DeepCopyObject().(kinds.Object)
	}
	o.GetObjectKind().SetGroupVersionKind(gvk)
	return o
}

// prepare makes the form of another version of a custom resource, which a
// webhook may have to convert.
func (q *question) prepare(ctx context.Context, k *kinds.Kind) error {
	own := q.r.Ref.Kind
	if k == nil || k == own || k.Load == nil || !q.whole(k) {
		return nil
	}
	if _, ok := q.forms[k]; ok {
		return nil
	}
	var f form
	for _, side := range []struct{ from, to *runtime.Object }{{&q.r.Object, &f.object}, {&q.r.Old, &f.old}} {
		if o, ok := (*side.from).(kinds.Object); ok {
			out, err := converted(ctx, own, k, o)
			if err != nil {
				return err
			}
			*side.to = out
		}
	}
	q.forms[k] = f
	return nil
}

// converted goes by way of the stored form, as a write and a read would.
func converted(ctx context.Context, from, to *kinds.Kind, o kinds.Object) (kinds.Object, error) {
	data, err := from.Save(ctx, o)
	if err != nil {
		return nil, err
	}
	out, err := to.Load(ctx, data)
	if err == nil {
		out.SetResourceVersion(o.GetResourceVersion())
	}
	return out, err
}

// options of the request, in the form of its operation.
func (q *question) options() runtime.Object {
	var dry []string
	if q.r.DryRun {
		dry = []string{metav1.DryRunAll}
	}
	named := func(kind string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: metav1.SchemeGroupVersion.String(), Kind: kind}
	}
	switch q.r.Operation {
	case Create:
		return &metav1.CreateOptions{TypeMeta: named("CreateOptions"), DryRun: dry, FieldManager: q.r.FieldManager}
	case Update:
		return &metav1.UpdateOptions{TypeMeta: named("UpdateOptions"), DryRun: dry, FieldManager: q.r.FieldManager}
	case Delete:
		out := &metav1.DeleteOptions{}
		if q.r.Delete != nil {
			out = q.r.Delete.DeepCopy()
		}
		out.TypeMeta = named("DeleteOptions")
		return out
	}
	return nil
}

// attributes are what expressions look at.
func (q *question) attributes(k *kinds.Kind) *upstream.VersionedAttributes {
	f, own := q.shown(k), q.r.Ref.Kind
	return &upstream.VersionedAttributes{
		Attributes: upstream.NewAttributesRecord(f.object, f.old, q.gvk(own), q.namespace, q.r.Ref.Name, own.GroupVersionResource(), q.r.Ref.Sub,
			upstream.Operation(q.r.Operation), q.options(), q.r.DryRun, q.r.User),
		VersionedObject: upstream.NewLazyObject(f.object), VersionedOldObject: upstream.NewLazyObject(f.old), VersionedKind: q.gvk(k),
	}
}

// review is what a webhook is sent, in the first version that both know.
func (q *question) review(k *kinds.Kind, versions []string) (body []byte, uid types.UID, version string, err error) {
	i := slices.IndexFunc(versions, func(v string) bool { return v == "v1" || v == "v1beta1" })
	if i < 0 {
		return nil, "", "", errReviewVersions
	}
	version, uid = versions[i], uuid.NewUUID()
	own, f := q.r.Ref.Kind, q.shown(k)
	ownKind, kind := metav1.GroupVersionKind(q.gvk(own)), metav1.GroupVersionKind(q.gvk(k))
	ownResource, resource := metav1.GroupVersionResource(own.GroupVersionResource()), metav1.GroupVersionResource(k.GroupVersionResource())
	body, err = json.Marshal(reviewv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: reviewv1.GroupName + "/" + version, Kind: "AdmissionReview"},
		Request: &reviewv1.AdmissionRequest{
			UID: uid, Kind: kind, Resource: resource, SubResource: q.r.Ref.Sub,
			RequestKind: &ownKind, RequestResource: &ownResource, RequestSubResource: q.r.Ref.Sub,
			Name: q.r.Ref.Name, Namespace: q.namespace, Operation: reviewv1.Operation(q.r.Operation), UserInfo: userInfo(q.r.User),
			Object: runtime.RawExtension{Object: f.object}, OldObject: runtime.RawExtension{Object: f.old},
			DryRun: &q.r.DryRun, Options: runtime.RawExtension{Object: q.options()},
		},
	})
	return body, uid, version, err
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	out := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups(), Extra: map[string]authenticationv1.ExtraValue{}}
	for k, v := range u.GetExtra() {
		out.Extra[k] = v
	}
	return out
}

// reply is what a webhook said.
type reply struct {
	allowed   bool
	result    *metav1.Status
	patch     []byte
	patchType string
	warnings  []string
	notes     map[string]string // for the audit log
}

func readReply(data []byte, uid types.UID, version string, mutating bool) (*reply, error) {
	var review reviewv1.AdmissionReview
	if err := json.Unmarshal(data, &review); err != nil {
		return nil, err
	}
	a := review.Response
	if a == nil {
		return nil, errors.New("webhook response was absent")
	}
	out := &reply{allowed: a.Allowed, result: a.Result, patch: a.Patch, warnings: a.Warnings, notes: a.AuditAnnotations}
	if a.PatchType != nil {
		out.patchType = string(*a.PatchType)
	}
	if version == "v1beta1" { // which never was strict
		if !mutating {
			out.patch = nil
		}
		out.patchType = string(reviewv1.PatchTypeJSONPatch)
		return out, nil
	}
	want := reviewv1.SchemeGroupVersion.WithKind("AdmissionReview")
	switch got := review.GroupVersionKind(); {
	case a.UID != uid:
		return nil, fmt.Errorf("expected response.uid=%q, got %q", uid, a.UID)
	case got != want:
		return nil, fmt.Errorf("expected webhook response of %v, got %v", want, got)
	case !mutating && len(a.Patch) > 0:
		return nil, errors.New("validating webhook may not return response.patch")
	case !mutating && a.PatchType != nil:
		return nil, errors.New("validating webhook may not return response.patchType")
	case len(a.Patch) > 0 && a.PatchType == nil:
		return nil, errors.New("webhook returned response.patch but not response.patchType")
	case len(a.Patch) == 0 && a.PatchType != nil:
		return nil, errors.New("webhook returned response.patchType but not response.patch")
	case a.PatchType != nil && *a.PatchType == "":
		return nil, fmt.Errorf("webhook returned invalid response.patchType of %q", *a.PatchType)
	}
	return out, nil
}
