package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/klauspost/compress/gzip"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/warning"

	"knarr.dev/knarr/internal/auth/authz"
	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/security/audit"
)

// requestTimeout ends what is not a watch or a stream, as upstream.
const requestTimeout = time.Minute

// bodyTimeout bounds how long a client may take to send a body: 3 MiB at
// 100 KB/s.
const bodyTimeout = 30 * time.Second

// Handler is the whole pipeline.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.handle(w, r, s.answer) })
}

// handle writes a request down and has it answered, whatever happens.
func (s *Server) handle(w http.ResponseWriter, r *http.Request, answer func(*recorder, *http.Request, *info, time.Time) error) {
	rec, in, began := &recorder{ResponseWriter: w}, parse(r), s.now()
	if r.ContentLength != 0 {
		bodyUntil(rec, time.Now().Add(s.bodyTimeout)) // whoever needs longer says so
	}
	if s.cfg.Audit != nil {
		r = s.record(rec, r, in)
	}
	defer func() {
		p := recover()
		if p != nil {
			rec.audit.Panicked(p) // before what the client is told of it
		}
		broken := s.recovered(p, rec, r, in)
		s.metrics.observe(in, rec.code, rec.size, s.now().Sub(began))
		rec.completed()
		if broken {
			s.metrics.aborted.WithLabelValues(s.metrics.labelsOf(in).labels()[:6]...).Inc()
			panic(http.ErrAbortHandler) // the client must not take half an answer for a whole one
		}
	}()
	if err := answer(rec, r, in, began); err != nil {
		s.fail(rec, r, err)
	}
}

// bodyUntil sets when a body has to have come. Before it answers, the server
// reads what a handler has left of one: without a bound, a body that never comes
// would hold the request's seat.
func bodyUntil(w http.ResponseWriter, at time.Time) {
	_ = http.NewResponseController(w).SetReadDeadline(at) // recorders of tests have none
}

// answer finds out who asks and serves the request.
func (s *Server) answer(w *recorder, r *http.Request, in *info, began time.Time) error {
	if h := s.cfg.Public[r.URL.Path]; h != nil {
		if err := s.received(in, r, nil, began); err != nil {
			return err
		}
		h.ServeHTTP(w, r)
		return nil
	}
	u, err := s.authenticate(w, r)
	if err != nil {
		s.unidentified(in, r, began)
		return err
	}
	if s.tracing != nil {
		s.traced(w, r, in, u, began)
		return nil
	}
	return s.answerTo(w, r, in, u, began)
}

// answerTo serves the request of a user.
func (s *Server) answerTo(w *recorder, r *http.Request, in *info, u user.Info, began time.Time) error {
	if err := s.received(in, r, u, began); err != nil {
		return err
	}
	u, err := s.impersonate(r, in, u)
	if err != nil {
		return err
	}
	return s.serve(w, r, in, u)
}

// recovered answers for a request that has panicked; broken says that an
// answer had begun.
func (s *Server) recovered(p any, w *recorder, r *http.Request, in *info) (broken bool) {
	if p == nil {
		return false
	}
	if p != http.ErrAbortHandler {
		s.log.Error("request panicked", "verb", in.verb, "path", in.path, "panic", p, "stack", string(debug.Stack()))
	}
	if !w.wrote {
		s.fail(w, r, apierrors.NewInternalError(errors.New("the server met an internal error; its log has more")))
		return false
	}
	return true
}

// recorder remembers the status code, whether an answer has begun, and how
// long it has become.
type recorder struct {
	http.ResponseWriter
	code  int
	wrote bool
	size  int64
	audit *audit.Record
	kept  *keeper // of the answer, if the record wants it
}

// begin notes the answer's code.
func (r *recorder) begin(code int) {
	if !r.wrote {
		r.code, r.wrote = code, true
		r.audit.Started(code)
	}
}

func (r *recorder) WriteHeader(code int) {
	if code >= http.StatusOK { // others come before the answer
		r.begin(code)
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(p []byte) (int, error) {
	r.begin(http.StatusOK)
	if r.kept != nil {
		r.kept.keep(p)
	}
	n, err := r.ResponseWriter.Write(p)
	r.size += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController flush and hijack.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// authenticate finds out who asks. Credentials that do not hold are refused,
// never taken for nobody's.
func (s *Server) authenticate(w http.ResponseWriter, r *http.Request) (user.Info, error) {
	asks := r
	if r.Header.Get("Authorization") != "" {
		asks = r.WithContext(warning.WithWarningRecorder(r.Context(), tokenWarner(warner(w))))
	}
	began := s.now()
	resp, ok, err := s.cfg.Authn.AuthenticateRequest(asks)
	now := s.now()
	if err != nil || !ok {
		s.metrics.failed.took(now.Sub(began))
		return nil, apierrors.NewUnauthorized("Unauthorized")
	}
	s.metrics.identified(r, resp.User.GetName(), now.Sub(began), now)
	r.Header.Del("Authorization")
	return resp.User, nil
}

// impersonate finds out as whom the user asks.
func (s *Server) impersonate(r *http.Request, in *info, u user.Info) (user.Info, error) {
	if s.cfg.Impersonate == nil {
		if r.Header.Get("Impersonate-User") != "" {
			return nil, badRequest("impersonation is not supported by this server")
		}
		return u, nil
	}
	as, constraint, err := s.cfg.Impersonate(r.Context(), in.attributes(u), r.Header)
	if as == nil || err != nil {
		return u, err
	}
	in.audit.Impersonates(as, constraint)
	return as, nil
}

// tokenWarner passes on what a token's owner should know about it.
type tokenWarner func(string)

func (warn tokenWarner) AddWarning(_, text string) { warn(text) }

// serve runs an authenticated request.
func (s *Server) serve(w *recorder, r *http.Request, in *info, u user.Info) error {
	r, cancel, err := timed(r, in)
	if err != nil {
		return err
	}
	defer cancel()
	defer s.leave(in)
	ctx, end := s.tracing.step(r.Context(), "priorityandfairness")
	err = s.enter(ctx, in, u, s.width(in, r.URL.Query()))
	end(err)
	in.ticket.Headers(w.Header())
	if err != nil {
		return err
	}
	if err := s.authorize(r.Context(), in, in.attributes(u)); err != nil {
		return err
	}
	if b := s.backend(in); b != nil {
		return s.aggregated(w, r, u, b)
	}
	if !in.resource {
		return s.serveOther(w, r, in)
	}
	k := s.cfg.Kinds.ByResource(in.gvr)
	if k == nil {
		return s.notServed(in)
	}
	return s.serveKind(w, r, in, k, u)
}

// notServed names a whole group that is missing: kubectl prints nothing else.
func (s *Server) notServed(in *info) error {
	v := in.gvr.GroupVersion()
	if s.serves(v) {
		return pathNotFound()
	}
	return statusError(http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource (%s is not served by this version of knarr)", v)
}

// serves reports whether this server has a kind of the group and version.
func (s *Server) serves(v schema.GroupVersion) bool {
	return slices.ContainsFunc(s.cfg.Kinds.All(), func(k *kinds.Kind) bool { return k.GVK.GroupVersion() == v })
}

func pathNotFound() error {
	return statusError(http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
}

func methodNotAllowed() error {
	return statusError(http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "the server does not allow this method on the requested resource")
}

func (s *Server) authorize(ctx context.Context, in *info, a authorizer.AttributesRecord) error {
	began := time.Now()
	ctx, end := s.tracing.step(ctx, "authorization")
	decision, reason, err := s.cfg.Authz.Authorize(ctx, a)
	end(err)
	s.metrics.authorized(decision, err, time.Since(began))
	noteDecision(in.audit, decision, reason, err)
	switch {
	case decision == authorizer.DecisionAllow: // whatever else went wrong
		return nil
	case err == nil:
		return authz.Forbidden(a, reason)
	case in.uri == "":
		return apierrors.NewInternalError(err)
	}
	return authz.Failed(in.uri, err)
}

// serveKind decodes what the request carries and calls the operation.
func (s *Server) serveKind(w *recorder, r *http.Request, in *info, k *kinds.Kind, u user.Info) error {
	sub, known := k.Subresources[in.sub]
	switch {
	case in.sub != "" && !known, in.rest != "" && in.sub != "proxy", !segment(in.ns), !segment(in.name):
		return pathNotFound()
	case in.old && (in.sub != "" || k.Namespaced && in.ns == "" && in.name != ""):
		return pathNotFound()
	case in.old && r.Method != http.MethodGet:
		return methodNotAllowed()
	case k.Namespaced && in.ns == "" && in.name == "" && in.verb != "list" && in.verb != "watch":
		return methodNotAllowed()
	case k.Namespaced && in.ns == "" && in.verb != "list" && in.verb != "watch", !k.Namespaced && in.ns != "":
		// Also for connections: a permission in a namespace must not reach what
		// lies outside of it (CVE-2019-11247).
		return pathNotFound()
	case in.name == "" && (in.verb == "update" || in.verb == "patch"), in.name != "" && in.sub == "" && in.verb == "create":
		return methodNotAllowed()
	case in.verb == "create" && k.Load != nil && !serves(k, in.sub, in.verb):
		return statusError(http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "create not allowed while custom resource definition is terminating")
	case !serves(k, in.sub, in.verb), r.Method == http.MethodHead && !sub.Connect:
		return methodNotAllowed()
	case sub.Connect && r.URL.Query().Has("dryRun"):
		return badRequest("dryRun is not supported")
	case sub.Connect:
		return s.kubelet.serve(w, r, in, k, u)
	}
	a, err := negotiate(r, func(a accepted) bool {
		return a.shape == asTable && len(k.Columns) == 0 || // a question has no rows
			a.shape == whole && a.format == codec.Protobuf && k.Load != nil && sub.Scale == nil // custom kinds have no such form
	})
	if err != nil {
		return err
	}
	warn := warner(w)
	if k.Deprecation != "" {
		warn(k.Deprecation)
		s.metrics.asked(in)
		in.audit.Annotate("k8s.io/deprecated", "true")
	}
	ctx, end := s.tracing.verb(r, in)
	defer end(nil)
	if s.tracing != nil {
		r = r.WithContext(ctx)
	}
	if in.audit.Wants(auditv1.LevelRequestResponse) && in.verb != "watch" {
		w.kept = &keeper{}
	}
	c := &call{ctx: ctx, user: u, ref: in.ref(k), verb: in.verb, warn: warn, in: in}
	switch in.verb {
	case "create", "update", "patch":
		if err := c.writeOptions(r); err != nil {
			return err
		}
	}
	if c.dryRun {
		in.dryRun = metav1.DryRunAll
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
	return methodNotAllowed()
}

// segment reports whether a namespace or name can be one: names are parts of
// keys, so nothing may reach across (CVE-2022-3162).
func segment(name string) bool { return len(path.IsValidPathSegmentName(name)) == 0 }

// write sends an encoded answer.
func (s *Server) write(w http.ResponseWriter, code int, a accepted, data []byte, err error) error {
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", a.contentType(false))
	h.Set("Cache-Control", "no-cache, private")
	if a.gzip && a.format == codec.JSON && len(data) >= gzipFrom {
		if data, err = compress(data); err != nil {
			return err
		}
		h.Set("Content-Encoding", "gzip")
		h.Set("Vary", "Accept-Encoding")
	}
	h.Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(code)
	if len(data) > flushBytes { // less than that is buffered without the client's help
		rc := http.NewResponseController(w)
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout + time.Duration(len(data)/slowest)*time.Second))
		defer func() { _ = rc.SetWriteDeadline(time.Time{}) }()
	}
	_, _ = w.Write(data) // a client that is gone is no error of ours
	return nil
}

const (
	// gzipFrom is upstream's bound: below it the packets are few anyway.
	gzipFrom = 128 << 10
	// slowest client, in bytes per second, that gets a long answer to its end.
	slowest = 64 << 10
)

// compress at the fastest level: it costs less than TLS.
func compress(data []byte) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(len(data) / 6)
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(data); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// fail answers with the error's Status in a format that the client takes.
func (s *Server) fail(w *recorder, r *http.Request, err error) {
	if w.wrote {
		return
	}
	st := statusOf(err)
	w.audit.Status(st)
	if w.audit.Wants(auditv1.LevelRequestResponse) {
		w.kept = &keeper{}
	}
	var told foreign
	if st.Code == http.StatusInternalServerError && !errors.As(err, &told) && !errors.Is(err, audit.ErrNotStored) { // the others are told whom they concern, and mend themselves
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if st.Details != nil && st.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(st.Details.RetryAfterSeconds)))
	}
	a, nerr := negotiate(r, func(accepted) bool { return false })
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
