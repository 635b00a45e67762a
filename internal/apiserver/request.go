package apiserver

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/apiserver/fair"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/security/audit"
)

// info is what a URL asks for.
type info struct {
	verb string // get, list, watch, create, update, patch, delete, deletecollection
	path string
	uri  string // as the client wrote it; empty: no client did
	// resource requests only:
	resource bool
	gvr      schema.GroupVersionResource
	ns, name string
	sub      string
	old      bool   // a watch by its path, which upstream deprecates
	rest     string // what follows the subresource, as it was escaped: the path behind proxy
	fields   fields.Selector
	fieldErr error
	labels   labels.Selector
	labelErr error

	dryRun string        // as metrics tell it
	apply  bool          // the patch is an apply
	waited time.Duration // for its turn, and for webhooks

	ticket  fair.Ticket // the right to run
	streams bool        // it holds a place among the streams
	audit   *audit.Record
}

// wait adds to what a request has waited for others.
func (in *info) wait(d time.Duration) { in.waited += d }

var verbOf = map[string]string{
	http.MethodGet: "get", http.MethodHead: "get", http.MethodPost: "create",
	http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete",
}

// parse reads the method and the path; it knows nothing of which kinds exist.
func parse(r *http.Request) *info {
	in := &info{verb: strings.ToLower(r.Method), path: r.URL.Path, uri: r.URL.RequestURI()}
	parts, escaped := segments(r.URL)
	all := len(parts)
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		in.gvr.Version, parts = parts[1], parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		in.gvr.Group, in.gvr.Version, parts = parts[1], parts[2], parts[3:]
	default:
		return in
	}
	verb, ok := verbOf[r.Method]
	if !ok {
		verb = in.verb
	}
	if in.old = parts[0] == "watch" && len(parts) > 1; in.old {
		verb, parts = "watch", parts[1:]
	}
	in.resource, in.verb = true, verb
	if parts[0] == "namespaces" && len(parts) > 1 {
		in.ns = parts[1]
		if len(parts) > 2 && parts[2] != "finalize" && parts[2] != "status" {
			parts = parts[2:]
		} else {
			in.ns = ""
		}
	}
	in.gvr.Resource = parts[0]
	if len(parts) > 1 {
		in.name = parts[1]
	}
	if len(parts) > 2 {
		in.sub = parts[2]
		in.rest = strings.Join(escaped[all-len(parts)+3:], "/")
	}
	in.selectors(r.URL.Query())
	return in
}

// segments splits a path, decoded and as it was escaped; a slash that was
// escaped separates nothing in either. A slash at the end belongs to the last
// segments only behind a proxy, where it is the backend's business.
func segments(u *url.URL) (parts, escaped []string) {
	raw := strings.TrimPrefix(u.EscapedPath(), "/")
	if !strings.Contains(raw, "/proxy/") {
		raw = strings.TrimSuffix(raw, "/")
	}
	escaped = strings.Split(raw, "/")
	parts = make([]string, len(escaped))
	for i, e := range escaped {
		var err error
		if parts[i], err = url.PathUnescape(e); err != nil {
			parts[i] = e // EscapedPath is always valid
		}
	}
	return parts, escaped
}

// selectors belong to the request's identity: the authorizer sees them.
func (in *info) selectors(q url.Values) {
	switch {
	case in.old:
	case in.name != "":
		return
	case in.verb == "get":
		in.verb = "list"
		if truth(q, "watch") {
			in.verb = "watch"
		}
	case in.verb == "delete":
		in.verb = "deletecollection"
	default:
		return
	}
	in.fields, in.labels = fields.Everything(), labels.Everything()
	if s := q.Get("fieldSelector"); s != "" {
		if in.fields, in.fieldErr = fields.ParseSelector(s); in.fieldErr != nil {
			in.fields = fields.Nothing()
		} else if name, ok := in.fields.RequiresExactMatch("metadata.name"); in.old {
			if in.name != "" && name != in.name {
				in.fieldErr = errors.New("fieldSelector metadata.name doesn't match requested name")
			}
		} else if ok && in.verb != "deletecollection" && len(path.IsValidPathSegmentName(name)) == 0 {
			in.name = name // so that a permission on one name covers the watch of it
		}
	} else if in.name != "" {
		in.fields = fields.OneTermEqualSelector("metadata.name", in.name)
	}
	if s := q.Get("labelSelector"); s != "" {
		if in.labels, in.labelErr = labels.Parse(s); in.labelErr != nil {
			in.labels = labels.Nothing()
		}
	}
}

// attributes for the authorizer.
func (in *info) attributes(u user.Info) authorizer.AttributesRecord {
	a := authorizer.AttributesRecord{User: u, Verb: in.verb, Path: in.path, ResourceRequest: in.resource}
	if in.resource {
		a.Namespace, a.APIGroup, a.APIVersion, a.Resource, a.Subresource, a.Name = in.ns, in.gvr.Group, in.gvr.Version, in.gvr.Resource, in.sub, in.name
		if in.gvr.Group == "" && in.gvr.Resource == "namespaces" {
			a.Namespace = in.name // as upstream: a namespace lies in itself
		}
		if in.old { // such a watch may not support selectors, so none gives a right
			return a
		}
		if in.fields != nil && !in.fields.Empty() {
			a.FieldSelectorRequirements, a.FieldSelectorParsingErr = in.fields.Requirements(), in.fieldErr
		}
		if in.labels != nil && !in.labels.Empty() {
			a.LabelSelectorRequirements, _ = in.labels.Requirements()
			a.LabelSelectorParsingErr = in.labelErr
		}
	}
	return a
}

// ref of the request, which has been matched with a kind.
func (in *info) ref(k *kinds.Kind) kinds.Ref {
	return kinds.Ref{Kind: k, Namespace: in.ns, Name: in.name, Sub: in.sub}
}

// serves reports whether the kind, or its subresource, answers the verb.
func serves(k *kinds.Kind, sub, verb string) bool {
	if sub == "" {
		return k.Verbs == nil || slices.Contains(k.Verbs, verb)
	}
	s, ok := k.Subresources[sub]
	return ok && slices.Contains(s.Verbs, verb)
}

// longRunning requests are counted apart and not timed.
func (in *info) longRunning() bool {
	return in.verb == "watch" || slices.Contains([]string{"log", "exec", "attach", "portforward", "proxy"}, in.sub)
}

// truth reads a boolean parameter as apimachinery does: what is there and says
// neither 0 nor false is true.
func truth(q url.Values, name string) bool {
	v, ok := q[name]
	return ok && len(v) > 0 && v[0] != "0" && !strings.EqualFold(v[0], "false")
}
