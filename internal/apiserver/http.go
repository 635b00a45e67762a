package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"sigs.k8s.io/yaml"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

// requestTimeout ends what is not a watch or a stream, as upstream.
const requestTimeout = time.Minute

// Handler is the whole pipeline.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w}
		in := parse(r)
		began := s.now()
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				s.log.Error("request panicked", "verb", in.verb, "path", in.path, "panic", p, "stack", string(debug.Stack()))
				if !rec.wrote {
					s.fail(rec, r, apierrors.NewInternalError(errors.New("the server met an internal error; its log has more")))
				}
			}
			s.metrics.observe(in, rec.code, s.now().Sub(began))
		}()
		if h := s.cfg.Public[r.URL.Path]; h != nil {
			h.ServeHTTP(rec, r)
			return
		}
		u, err := s.identify(r)
		if err == nil {
			err = s.serve(rec, r.WithContext(context.WithValue(r.Context(), userKey{}, u)), in, u)
		}
		if err != nil {
			s.fail(rec, r, err)
		}
		if s.cfg.Audit != nil {
			s.cfg.Audit(AuditRecord{User: u, Verb: in.verb, Path: in.path, Code: rec.code, At: began, Took: s.now().Sub(began)})
		}
	})
}

type userKey struct{}

// recorder remembers the status code, and whether an answer has begun.
type recorder struct {
	http.ResponseWriter
	code  int
	wrote bool
}

func (r *recorder) WriteHeader(code int) {
	if !r.wrote {
		r.code, r.wrote = code, true
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(p []byte) (int, error) {
	if !r.wrote {
		r.code, r.wrote = http.StatusOK, true
	}
	return r.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController flush and hijack.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// identify finds out who asks. Credentials that do not hold are refused, never
// taken for nobody's.
func (s *Server) identify(r *http.Request) (user.Info, error) {
	resp, ok, err := s.cfg.Authn.AuthenticateRequest(r)
	if err != nil || !ok {
		return nil, apierrors.NewUnauthorized("Unauthorized")
	}
	r.Header.Del("Authorization")
	if s.cfg.Impersonate != nil && r.Header.Get("Impersonate-User") == "" {
		for h := range r.Header {
			if strings.HasPrefix(h, "Impersonate-") {
				return nil, badRequest("requested %s without impersonating a user", h)
			}
		}
	}
	if r.Header.Get("Impersonate-User") == "" {
		return resp.User, nil
	}
	if s.cfg.Impersonate == nil {
		return nil, badRequest("impersonation is not supported by this server")
	}
	return s.cfg.Impersonate(r.Context(), resp.User, r.Header)
}

// limit takes a place among the requests of its sort, or says try later.
func (s *Server) limit(in *info) (release func(), err error) {
	if in.longRunning() || !in.resource {
		return func() {}, nil
	}
	slots := s.writing
	if in.verb == "get" || in.verb == "list" {
		slots = s.reading
	}
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	default:
		return nil, apierrors.NewTooManyRequests("The server is currently unable to handle the request: too many requests in flight, please try again later", 1)
	}
}

// serve runs an authenticated request.
func (s *Server) serve(w *recorder, r *http.Request, in *info, u user.Info) error {
	release, err := s.limit(in)
	if err != nil {
		return err
	}
	defer release()
	if !in.longRunning() {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		r = r.WithContext(ctx)
	}
	if err := s.authorize(r.Context(), in.attributes(u)); err != nil {
		return err
	}
	if !in.resource {
		return s.serveOther(w, r, in)
	}
	k := s.cfg.Kinds.ByResource(in.gvr)
	if k == nil {
		if h := s.extra(in.path); h != nil {
			h.ServeHTTP(w, r)
			return nil
		}
		return pathNotFound()
	}
	return s.serveKind(w, r, in, k, u)
}

func pathNotFound() error {
	return statusError(http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
}

func (s *Server) authorize(ctx context.Context, a authorizer.AttributesRecord) error {
	decision, reason, err := s.cfg.Authz.Authorize(ctx, a)
	if decision == authorizer.DecisionAllow {
		return nil
	}
	if err != nil {
		s.log.Warn("authorization failed", "user", a.User.GetName(), "error", err)
	}
	return forbidden(a, reason)
}

// forbidden says who may not do what, in the words that clients know.
func forbidden(a authorizer.AttributesRecord, reason string) error {
	if !a.ResourceRequest {
		msg := fmt.Sprintf("forbidden: User %q cannot %s path %q", a.User.GetName(), a.Verb, a.Path)
		if reason != "" {
			msg += ": " + reason
		}
		return statusError(http.StatusForbidden, metav1.StatusReasonForbidden, "%s", msg)
	}
	res := a.Resource
	if a.Subresource != "" {
		res += "/" + a.Subresource
	}
	msg := fmt.Sprintf("User %q cannot %s resource %q in API group %q", a.User.GetName(), a.Verb, res, a.APIGroup)
	if a.Namespace != "" {
		msg += fmt.Sprintf(" in the namespace %q", a.Namespace)
	} else {
		msg += " at the cluster scope"
	}
	if reason != "" {
		msg += ": " + reason
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.APIGroup, Resource: a.Resource}, a.Name, errors.New(msg))
}

// serveKind decodes what the request carries and calls the operation.
func (s *Server) serveKind(w *recorder, r *http.Request, in *info, k *kinds.Kind, u user.Info) error {
	if in.sub != "" {
		if sub, ok := k.Subresources[in.sub]; !ok {
			return pathNotFound()
		} else if sub.Connect {
			return s.kubelet.serve(w, r, in, k, u)
		}
	}
	if k.Namespaced && in.ns == "" && (in.verb != "list" && in.verb != "watch") || !k.Namespaced && in.ns != "" {
		return pathNotFound()
	}
	if !serves(k, in.sub, in.verb) {
		return statusError(http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "the server does not allow this method on the requested resource")
	}
	a, err := negotiate(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	c := &call{ctx: r.Context(), user: u, ref: in.ref(k), verb: in.verb, warn: warner(w)}
	if c.dryRun, err = dryRun(q); err != nil {
		return err
	}
	switch in.verb {
	case "get":
		return s.serveGet(w, r, c, a)
	case "list", "watch":
		return s.serveList(w, r, in, k, a)
	case "create":
		return s.serveCreate(w, r, c, a)
	case "update":
		return s.serveUpdate(w, r, c, a)
	case "patch":
		return s.servePatch(w, r, c, a)
	case "delete", "deletecollection":
		return s.serveDelete(w, r, in, c, a)
	}
	return statusError(http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "the server does not allow this method on the requested resource")
}

func dryRun(q url.Values) (bool, error) {
	for _, v := range q["dryRun"] {
		if v != metav1.DryRunAll {
			return false, badRequest("dryRun: Unsupported value: %q: supported values: \"All\"", v)
		}
	}
	return len(q["dryRun"]) > 0, nil
}

// warner adds Warning headers, each text once (RFC 7234, code 299).
func warner(w http.ResponseWriter) func(string) {
	seen := map[string]bool{}
	return func(text string) {
		if seen[text] || len(seen) > 2*maxFieldWarnings {
			return
		}
		seen[text] = true
		text = strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return ' '
			}
			return r
		}, text)
		w.Header().Add("Warning", "299 - "+strconv.Quote(text))
	}
}

func (s *Server) serveGet(w *recorder, r *http.Request, c *call, a accepted) error {
	it, err := s.item(c.ctx, c.ref, r.URL.Query().Get("resourceVersion"))
	if err != nil {
		return err
	}
	if sub := c.ref.Kind.Subresources[c.ref.Sub]; sub.Scale != nil {
		data, err := encode(a, scaleOf(sub.Scale, it.Object()))
		return s.write(w, http.StatusOK, a, data, err)
	}
	if a.shape == whole && !a.pretty {
		data, err := it.Bytes(a.format)
		return s.write(w, http.StatusOK, a, data, err)
	}
	data, err := s.render(a, c.ref.Kind, it.Object(), r.URL.Query().Get("includeObject"))
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
	data, err := s.renderList(a, k, l, r.URL.Query().Get("includeObject"))
	return s.write(w, http.StatusOK, a, data, err)
}

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
	o.AllowWatchBookmarks = truth(q.Get("allowWatchBookmarks"))
	if v := q.Get("sendInitialEvents"); v != "" {
		b := truth(v)
		o.SendInitialEvents = &b
	}
	return o, err
}

func truth(v string) bool { return v == "true" || v == "1" }

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

func (s *Server) serveCreate(w *recorder, r *http.Request, c *call, a accepted) error {
	k := c.ref.Kind
	if !k.Stored() && k.StoredAs == nil || c.ref.Sub != "" {
		into := k.NewBody
		if c.ref.Sub != "" {
			into = k.Subresources[c.ref.Sub].New
		}
		obj := into()
		if err := decode(r, obj, k, c.warn); err != nil {
			return err
		}
		out, err := s.ask(c, obj)
		if err != nil {
			return err
		}
		data, err := encode(a, out)
		return s.write(w, http.StatusCreated, a, data, err)
	}
	obj := k.New()
	if err := decode(r, obj, k, c.warn); err != nil {
		return err
	}
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
		if err := decode(r, obj, k, c.warn); err != nil {
			return err
		}
		out, err := s.updateScale(c, sub.Scale, func(runtime.Object) (runtime.Object, error) { return obj, nil })
		if err != nil {
			return err
		}
		data, err := encode(a, out)
		return s.write(w, http.StatusOK, a, data, err)
	}
	obj := k.New()
	if err := decode(r, obj, k, c.warn); err != nil {
		return err
	}
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
	data, err := body(r)
	if err != nil {
		return err
	}
	policy, err := fieldValidation(r.URL.Query())
	if err != nil {
		return err
	}
	t, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	out, err := s.patch(c, types.PatchType(strings.TrimSpace(t)), data, policy)
	if err != nil {
		return err
	}
	data, err = s.render(a, c.ref.Kind, out, r.URL.Query().Get("includeObject"))
	return s.write(w, http.StatusOK, a, data, err)
}

func (s *Server) serveDelete(w *recorder, r *http.Request, in *info, c *call, a accepted) error {
	opts, err := deleteOptions(r)
	if err != nil {
		return err
	}
	c.dryRun = c.dryRun || len(opts.DryRun) > 0
	if in.verb == "deletecollection" {
		return s.serveDeleteCollection(w, r, in, c, opts, a)
	}
	obj, removed, err := s.delete(c, opts)
	if err != nil {
		return err
	}
	var out runtime.Object = obj
	if removed && !returnsObject(c.ref.Kind) {
		out = deletedStatus(c.ref.Kind, obj)
	}
	data, err := s.render(a, c.ref.Kind, out, "")
	return s.write(w, http.StatusOK, a, data, err)
}

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
	for _, it := range l.items {
		one := *c
		one.ref.Namespace, one.ref.Name = it.Namespace, it.Name
		if _, _, err := s.delete(&one, opts); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	data, err := s.renderList(a, c.ref.Kind, l, "")
	return s.write(w, http.StatusOK, a, data, err)
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
	if v := q.Get("orphanDependents"); v != "" {
		b := truth(v)
		o.OrphanDependents = &b
	}
	return o, nil
}

// write sends an encoded answer.
func (s *Server) write(w http.ResponseWriter, code int, a accepted, data []byte, err error) error {
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", a.contentType(false))
	h.Set("Cache-Control", "no-cache, private")
	h.Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(code)
	_, _ = w.Write(data) // a client that is gone is no error of ours
	return nil
}

// fail answers with the error's Status in a format that the client takes.
func (s *Server) fail(w *recorder, r *http.Request, err error) {
	if w.wrote {
		return
	}
	st := statusOf(err)
	if st.Code >= 500 && st.Reason != metav1.StatusReasonTimeout {
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if st.Details != nil && st.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(st.Details.RetryAfterSeconds)))
	}
	a, nerr := negotiate(r)
	if nerr != nil {
		a = accepted{}
	}
	a.shape = whole
	data, eerr := encode(a, st)
	if werr := s.write(w, int(st.Code), a, data, eerr); werr != nil {
		http.Error(w, st.Message, int(st.Code))
	}
}

func indent(data []byte) ([]byte, error) {
	var out bytes.Buffer
	err := json.Indent(&out, bytes.TrimRight(data, "\n"), "", "  ")
	out.WriteByte('\n')
	return out.Bytes(), err
}

func yamlOf(data []byte) ([]byte, error) { return yaml.JSONToYAML(data) }
