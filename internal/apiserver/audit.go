package apiserver

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/klauspost/compress/gzip"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/net"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/security/audit"
)

// Annotations by which upstream's audit log tells what the authorizer said.
const (
	noteOfDecision = "authorization.k8s.io/decision"
	noteOfReason   = "authorization.k8s.io/reason"
)

// record begins the record of a request. Its ID, which the client may choose,
// is that of the answer too.
func (s *Server) record(w *recorder, r *http.Request, in *info) *http.Request {
	in.audit = s.cfg.Audit.New(r.Header.Get(audit.Header))
	w.audit = in.audit
	w.Header().Set(audit.Header, in.audit.ID())
	return r.WithContext(audit.With(r.Context(), in.audit))
}

func (s *Server) asked(in *info, r *http.Request, began time.Time) audit.Request {
	q := audit.Request{At: began, URI: r.URL.RequestURI(), UserAgent: r.UserAgent(), Long: in.longRunning()}
	for _, ip := range net.SourceIPs(r) {
		q.Sources = append(q.Sources, ip.String())
	}
	return q
}

// received writes that the request is there; u is nil for what is public.
func (s *Server) received(in *info, r *http.Request, u user.Info, began time.Time) error {
	if in.audit == nil {
		return nil
	}
	return in.audit.Received(in.attributes(u), s.asked(in, r, began))
}

func (s *Server) unidentified(in *info, r *http.Request, began time.Time) {
	if in.audit != nil {
		in.audit.Unidentified(in.attributes(nil), s.asked(in, r, began))
	}
}

func noteDecision(r *audit.Record, d authorizer.Decision, reason string, err error) {
	switch {
	case r == nil:
		return
	case d == authorizer.DecisionAllow:
		r.Annotate(noteOfDecision, "allow")
	case err != nil: // there is no decision
		reason = "internal error"
	default:
		r.Annotate(noteOfDecision, "forbid")
	}
	r.Annotate(noteOfReason, reason)
}

// completed ends the record.
func (r *recorder) completed() {
	if r.kept != nil && r.wrote {
		r.audit.ResponseObject(answerJSON(r.kept, r.Header(), r.audit.OmitManagedFields()))
	}
	r.audit.Completed()
}

// ended ends the record of a component's request.
func ended(r *audit.Record, verb string, out runtime.Object, err error) {
	code := http.StatusOK
	if verb == "create" {
		code = http.StatusCreated
	}
	if err != nil {
		st := statusOf(err)
		r.Status(st)
		code, out = int(st.Code), st
	}
	if r.Wants(auditv1.LevelRequestResponse) && out != nil {
		r.ResponseObject(objectJSON(out, r.OmitManagedFields()))
	}
	r.Started(code)
	r.Completed()
}

// requested tells the record about the object that was sent, as it was sent.
func (c *call) requested(obj runtime.Object) {
	if !c.in.audit.Wants(auditv1.LevelMetadata) {
		return
	}
	if o, ok := obj.(metav1.Object); ok {
		c.in.audit.Target(o)
	}
	if c.in.audit.Wants(auditv1.LevelRequest) {
		c.in.audit.RequestObject(objectJSON(obj, c.in.audit.OmitManagedFields()))
	}
}

// patched tells it about a patch. An applied configuration becomes JSON; what
// cannot is refused anyway.
func (c *call) patched(t types.PatchType, data []byte) {
	if !c.in.audit.Wants(auditv1.LevelRequest) {
		return
	}
	if t == types.ApplyYAMLPatchType {
		m, _, err := codec.DecodeMap(codec.YAML, data)
		if err != nil {
			return
		}
		if data, err = json.Marshal(m); err != nil {
			return
		}
	}
	if json.Valid(data) {
		c.in.audit.RequestObject(data)
	}
}

// statusIs tells it that the answer is a Status, if it is one.
func (c *call) statusIs(out runtime.Object) {
	if st, ok := out.(*metav1.Status); ok {
		c.in.audit.Status(st)
	}
}

func objectJSON(obj runtime.Object, bare bool) []byte {
	data, err := codec.Encode(codec.JSON, obj)
	if err != nil {
		return nil
	}
	return bared(data, bare)
}

// keeper remembers what is sent, up to what fits in an event.
type keeper struct {
	buf  bytes.Buffer
	long bool
}

func (k *keeper) keep(p []byte) {
	if k.long = k.long || k.buf.Len()+len(p) > audit.MaxObject; !k.long {
		k.buf.Write(p)
	}
}

// answerJSON makes JSON of an answer in whatever form it was sent; nil if it
// cannot be made, or is too long.
func answerJSON(k *keeper, h http.Header, bare bool) []byte {
	if k.long {
		return nil
	}
	data := k.buf.Bytes()
	if h.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil
		}
		if data, err = io.ReadAll(io.LimitReader(z, audit.MaxObject+1)); err != nil || len(data) > audit.MaxObject {
			return nil
		}
	}
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return nil
	}
	switch kind {
	case typeProtobuf:
		obj, err := codec.Decode(codec.Protobuf, data)
		if err != nil {
			return nil
		}
		return objectJSON(obj, bare)
	case typeYAML:
		m, _, err := codec.DecodeMap(codec.YAML, data)
		if err != nil {
			return nil
		}
		if data, err = json.Marshal(m); err != nil {
			return nil
		}
	}
	return bared(data, bare)
}

// bared takes the managed fields out of an object, of the items of a list and
// of the objects in a table, if that is wanted.
func bared(data []byte, wanted bool) []byte {
	if !wanted {
		return data
	}
	var m map[string]any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		return nil
	}
	dropManaged(m)
	for _, list := range []string{"items", "rows"} {
		items, _ := m[list].([]any)
		for _, it := range items {
			one, _ := it.(map[string]any)
			if list == "rows" {
				one, _ = one["object"].(map[string]any)
			}
			dropManaged(one)
		}
	}
	out, err := json.Marshal(m)
	if err != nil {
		return nil
	}
	return out
}

func dropManaged(o map[string]any) {
	if meta, ok := o["metadata"].(map[string]any); ok {
		delete(meta, "managedFields")
	}
}
