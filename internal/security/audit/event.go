package audit

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	k8saudit "k8s.io/apiserver/pkg/audit"
)

// kept is the largest buffer that is used again.
const kept = 64 << 10

func (a *Auditor) buffer() *bytes.Buffer {
	if b, ok := a.buffers.Get().(*bytes.Buffer); ok && b.Cap() <= kept {
		b.Reset()
		return b
	}
	return &bytes.Buffer{}
}

// writer writes JSON objects, as encoding/json would, without reflection where
// every event has something to say: each request waits for two of them.
type writer struct {
	*bytes.Buffer
	err   error
	fresh bool // no field of the object is written yet
}

func (w *writer) key(name string) {
	if !w.fresh {
		w.WriteByte(',')
	}
	w.fresh = false
	w.WriteByte('"')
	w.WriteString(name)
	w.WriteString(`":`)
}

func (w *writer) text(s string) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			w.any(s)
			return
		}
	}
	w.WriteByte('"')
	w.WriteString(s)
	w.WriteByte('"')
}

func (w *writer) any(v any) {
	data, err := json.Marshal(v)
	if err != nil {
		w.err = err
	}
	w.Write(data)
}

// field of a text, which may be left out if it is empty.
func (w *writer) field(name, s string) { w.key(name); w.text(s) }

func (w *writer) some(name, s string) {
	if s != "" {
		w.field(name, s)
	}
}

func (w *writer) list(name string, list []string) {
	if len(list) == 0 {
		return
	}
	w.key(name)
	w.texts(list)
}

func (w *writer) texts(list []string) {
	for i, s := range list {
		if i == 0 {
			w.WriteByte('[')
		} else {
			w.WriteByte(',')
		}
		w.text(s)
	}
	w.WriteByte(']')
}

// name of a field that somebody else chose.
func (w *writer) name(s string) {
	if !w.fresh {
		w.WriteByte(',')
	}
	w.fresh = false
	w.text(s)
	w.WriteByte(':')
}

func (w *writer) open()  { w.WriteByte('{'); w.fresh = true }
func (w *writer) close() { w.WriteByte('}'); w.fresh = false }

func (w *writer) user(u *authenticationv1.UserInfo) {
	w.open()
	w.some("username", u.Username)
	w.some("uid", u.UID)
	w.list("groups", u.Groups)
	if len(u.Extra) > 0 {
		w.key("extra")
		w.open()
		for _, k := range slices.Sorted(maps.Keys(u.Extra)) {
			w.name(k)
			if list := u.Extra[k]; len(list) > 0 {
				w.texts(list)
			} else {
				w.any(list) // null and [] differ
			}
		}
		w.close()
	}
	w.close()
}

func (w *writer) time(name string, t time.Time) {
	w.key(name)
	if t.IsZero() {
		w.WriteString("null")
		return
	}
	w.WriteByte('"')
	w.Write(t.UTC().AppendFormat(w.AvailableBuffer(), "2006-01-02T15:04:05.000000Z07:00"))
	w.WriteByte('"')
}

// encode writes the event as one line.
func encode(to *bytes.Buffer, e *auditv1.Event) error {
	w := &writer{Buffer: to}
	w.open()
	w.some("kind", e.Kind)
	w.some("apiVersion", e.APIVersion)
	w.field("level", string(e.Level))
	w.field("auditID", string(e.AuditID))
	w.field("stage", string(e.Stage))
	w.field("requestURI", e.RequestURI)
	w.field("verb", e.Verb)
	w.key("user")
	w.user(&e.User)
	if e.ImpersonatedUser != nil {
		w.key("impersonatedUser")
		w.user(e.ImpersonatedUser)
	}
	if e.AuthenticationMetadata != nil {
		w.key("authenticationMetadata")
		w.any(e.AuthenticationMetadata)
	}
	w.list("sourceIPs", e.SourceIPs)
	w.some("userAgent", e.UserAgent)
	w.reference(e.ObjectRef)
	w.status(e.ResponseStatus)
	if e.RequestObject != nil {
		w.key("requestObject")
		w.any(e.RequestObject)
	}
	if e.ResponseObject != nil {
		w.key("responseObject")
		w.any(e.ResponseObject)
	}
	w.time("requestReceivedTimestamp", e.RequestReceivedTimestamp.Time)
	w.time("stageTimestamp", e.StageTimestamp.Time)
	w.annotations(e.Annotations)
	w.close()
	w.WriteByte('\n')
	return w.err
}

func (w *writer) status(s *metav1.Status) {
	if s == nil {
		return
	}
	w.key("responseStatus")
	if s.TypeMeta != (metav1.TypeMeta{}) || s.ListMeta != (metav1.ListMeta{}) {
		w.any(s) // no record has them
		return
	}
	w.open()
	w.key("metadata")
	w.WriteString("{}")
	w.some("status", s.Status)
	w.some("message", s.Message)
	w.some("reason", string(s.Reason))
	if s.Details != nil {
		w.key("details")
		w.any(s.Details)
	}
	if s.Code != 0 {
		w.key("code")
		w.Write(strconv.AppendInt(w.AvailableBuffer(), int64(s.Code), 10))
	}
	w.close()
}

func (w *writer) reference(r *auditv1.ObjectReference) {
	if r == nil {
		return
	}
	w.key("objectRef")
	w.open()
	w.some("resource", r.Resource)
	w.some("namespace", r.Namespace)
	w.some("name", r.Name)
	w.some("uid", string(r.UID))
	w.some("apiGroup", r.APIGroup)
	w.some("apiVersion", r.APIVersion)
	w.some("resourceVersion", r.ResourceVersion)
	w.some("subresource", r.Subresource)
	w.close()
}

func (w *writer) annotations(m map[string]string) {
	if len(m) == 0 {
		return
	}
	w.key("annotations")
	w.open()
	for _, k := range slices.Sorted(maps.Keys(m)) {
		w.name(k)
		w.text(m[k])
	}
	w.close()
}

// legacy is the event as a line of text, without its objects.
func legacy(e *auditv1.Event) ([]byte, error) {
	short := *e
	short.RequestObject, short.ResponseObject = nil, nil
	var internal audit.Event
	if err := auditv1.Convert_v1_Event_To_audit_Event(&short, &internal, nil); err != nil {
		return nil, err
	}
	return append([]byte(k8saudit.EventString(&internal)), '\n'), nil
}

// without the objects of the request and the answer; e stays as it is.
func without(e *auditv1.Event) *auditv1.Event {
	short := *e
	short.RequestObject, short.ResponseObject = nil, nil
	if short.Annotations = maps.Clone(e.Annotations); short.Annotations == nil {
		short.Annotations = map[string]string{}
	}
	short.Annotations[truncated] = "true"
	return &short
}
