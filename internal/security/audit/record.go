package audit

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	k8saudit "k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Header names a request for all servers that see it.
const Header = audit.HeaderAuditID

// Upstream's bound of a user agent, and what it puts in place of the rest.
const (
	maxUserAgent = 1024
	cutUserAgent = "...TRUNCATED"
)

// truncated marks events that lack an object that was too long.
const truncated = "audit.k8s.io/truncated"

// Record is what is known of one request. All methods do nothing on nil, and
// for requests of which the policy wants nothing. They may be called by many.
type Record struct {
	a *Auditor

	mu       sync.Mutex
	rules    k8saudit.RequestAuditConfig
	decided  bool // rules hold
	long     bool // it has a stage of its own when the answer begins
	started  bool // that stage is written
	answered bool // the answer has a status code
	refused  bool // nobody was identified: that is its only stage
	over     bool // the last stage is written
	event    auditv1.Event
}

// New begins a record of a request that says its ID, or does not.
func (a *Auditor) New(id string) *Record {
	if id == "" {
		id = a.cfg.ID()
	}
	r := &Record{a: a}
	r.event.Kind, r.event.APIVersion, r.event.AuditID = "Event", "audit.k8s.io/v1", types.UID(id)
	return r
}

// ID of the request; empty for none.
func (r *Record) ID() string {
	if r == nil {
		return ""
	}
	return string(r.event.AuditID)
}

// Request is what a record says of a request besides its attributes.
type Request struct {
	At             time.Time
	URI, UserAgent string
	Sources        []string // addresses
	Long           bool     // a watch or a stream
}

// Received asks the policy about the request, whose attributes have the user
// that authentication found, and writes that it was received. ErrNotStored: it
// must not go on.
func (r *Record) Received(at authorizer.Attributes, q Request) error {
	if !r.decide(at, q) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stage(auditv1.StageRequestReceived) {
		return nil
	}
	r.a.metrics.rejected.Inc()
	r.rules.Level = audit.LevelNone // upstream says nothing of it any more
	return ErrNotStored
}

// Unidentified is Received for a request whose credentials do not hold: only
// its answer is written.
func (r *Record) Unidentified(at authorizer.Attributes, q Request) {
	q.Long = true
	if r.decide(at, q) {
		r.refused = true
	}
}

// decide fills in what is known, and says whether anything is to be written.
func (r *Record) decide(at authorizer.Attributes, q Request) bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = (*r.a.cfg.Policy.rules.Load()).EvaluatePolicyRule(at)
	r.decided = true
	r.a.metrics.levels.WithLabelValues(string(r.rules.Level)).Inc()
	if r.rules.Level == audit.LevelNone {
		return false
	}
	e := &r.event
	r.long = q.Long
	e.Level, e.Verb, e.RequestURI = auditv1.Level(r.rules.Level), at.GetVerb(), q.URI
	e.RequestReceivedTimestamp, e.SourceIPs, e.UserAgent = metav1.NewMicroTime(q.At), q.Sources, q.UserAgent
	if len(e.UserAgent) > maxUserAgent {
		e.UserAgent = e.UserAgent[:maxUserAgent] + cutUserAgent
	}
	if u := at.GetUser(); u != nil {
		e.User = userInfo(u)
	}
	if at.IsResourceRequest() {
		e.ObjectRef = &auditv1.ObjectReference{Namespace: at.GetNamespace(), Name: at.GetName(), Resource: at.GetResource(), Subresource: at.GetSubresource(),
			APIGroup: at.GetAPIGroup(), APIVersion: at.GetAPIVersion()}
	}
	return true
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	out := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for k, v := range u.GetExtra() {
		if out.Extra == nil {
			out.Extra = map[string]authenticationv1.ExtraValue{}
		}
		out.Extra[k] = v
	}
	return out
}

// Wants says whether the policy wants what belongs to the level.
func (r *Record) Wants(level auditv1.Level) bool {
	return r != nil && r.decided && r.rules.Level.GreaterOrEqual(audit.Level(level))
}

// OmitManagedFields says whether objects are to be written without them.
func (r *Record) OmitManagedFields() bool { return r != nil && r.rules.OmitManagedFields }

// lock if there is anything to say.
func (r *Record) lock() bool {
	if r == nil || r.decided && r.rules.Level == audit.LevelNone {
		return false
	}
	r.mu.Lock()
	return true
}

// Annotator is Annotate, or nil if nobody will read it.
func (r *Record) Annotator() func(key, value string) {
	if r == nil || r.decided && r.rules.Level == audit.LevelNone {
		return nil
	}
	return r.Annotate
}

// ContentAnnotator is Annotator for notes that show parts of objects, which
// belong where the policy wants the objects, too.
func (r *Record) ContentAnnotator() func(key, value string) {
	if !r.Wants(auditv1.LevelRequest) {
		return nil
	}
	return r.Annotate
}

// Annotate adds a note of a plugin. The first one of a key stands.
func (r *Record) Annotate(key, value string) {
	if !r.lock() {
		return
	}
	defer r.mu.Unlock()
	r.note(key, value)
}

func (r *Record) note(key, value string) {
	if _, ok := r.event.Annotations[key]; ok {
		return
	}
	if r.event.Annotations == nil {
		r.event.Annotations = map[string]string{}
	}
	r.event.Annotations[key] = value
}

// Impersonates says as whom the user acts, and the verb that allowed it if that
// was a constrained one.
func (r *Record) Impersonates(u user.Info, constraint string) {
	if !r.lock() {
		return
	}
	defer r.mu.Unlock()
	as := userInfo(u)
	r.event.ImpersonatedUser = &as
	if constraint != "" {
		r.event.AuthenticationMetadata = &auditv1.AuthenticationMetadata{ImpersonationConstraint: constraint}
	}
}

// Target completes the reference from the object that was sent.
func (r *Record) Target(o metav1.Object) {
	if !r.lock() {
		return
	}
	defer r.mu.Unlock()
	ref := r.event.ObjectRef
	if ref == nil {
		return
	}
	fill := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	fill(&ref.Namespace, o.GetNamespace())
	fill(&ref.Name, o.GetName())
	fill((*string)(&ref.UID), string(o.GetUID()))
	fill(&ref.ResourceVersion, o.GetResourceVersion())
}

// RequestObject keeps the JSON that was sent; nil if it was too long.
func (r *Record) RequestObject(data []byte) {
	if !r.lock() {
		return
	}
	defer r.mu.Unlock()
	r.event.RequestObject = r.object(data)
}

// ResponseObject keeps the JSON of the answer; nil if it was too long.
func (r *Record) ResponseObject(data []byte) {
	if !r.lock() {
		return
	}
	defer r.mu.Unlock()
	r.event.ResponseObject = r.object(data)
}

func (r *Record) object(data []byte) *runtime.Unknown {
	if data == nil || len(data) > MaxObject {
		r.note(truncated, "true")
		return nil
	}
	return &runtime.Unknown{Raw: data, ContentType: runtime.ContentTypeJSON}
}

// Status is what the answer says if it is a Status.
func (r *Record) Status(s *metav1.Status) {
	if !r.lock() {
		return
	}
	defer r.mu.Unlock()
	r.event.ResponseStatus = &metav1.Status{Status: s.Status, Message: s.Message, Reason: s.Reason, Details: s.Details, Code: s.Code}
}

// Started says that the answer begins.
func (r *Record) Started(code int) {
	if !r.lock() {
		return
	}
	defer r.mu.Unlock()
	r.begin(int32(code))
}

func (r *Record) begin(code int32) {
	if r.event.ResponseStatus == nil {
		r.event.ResponseStatus = &metav1.Status{}
	}
	r.event.ResponseStatus.Code = code
	r.answered = true
	if r.decided && r.long && !r.started && !r.over {
		r.started = true
		r.stage(auditv1.StageResponseStarted)
	}
}

// Completed says that the request is over. One that never had an answer has
// been given up by its client.
func (r *Record) Completed() {
	if !r.lock() {
		return
	}
	defer r.mu.Unlock()
	if !r.decided || r.refused || r.over {
		return
	}
	if !r.answered {
		r.event.ResponseStatus = &metav1.Status{Status: metav1.StatusSuccess, Message: "Connection closed early"}
		r.begin(http.StatusOK)
	}
	r.over = true
	r.stage(auditv1.StageResponseComplete)
}

// Panicked says that the request has ended so.
func (r *Record) Panicked(p any) {
	if !r.lock() {
		return
	}
	defer r.mu.Unlock()
	if !r.decided || r.refused || r.over {
		return
	}
	r.over = true
	r.event.ResponseStatus = &metav1.Status{Code: http.StatusInternalServerError, Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError,
		Message: fmt.Sprintf("APIServer panic'd: %v", p)}
	r.stage(auditv1.StagePanic)
}

// stage writes the event as it stands. It reports whether it was written, if it
// had to be.
func (r *Record) stage(s auditv1.Stage) bool {
	if slices.Contains(r.rules.OmitStages, audit.Stage(s)) {
		return true
	}
	e := &r.event
	e.Stage, e.StageTimestamp = s, e.RequestReceivedTimestamp
	if s != auditv1.StageRequestReceived {
		e.StageTimestamp = metav1.NewMicroTime(r.a.now())
	}
	return r.a.emit(e)
}

type key struct{}

// With puts the record where Annotate finds it.
func With(ctx context.Context, r *Record) context.Context { return context.WithValue(ctx, key{}, r) }

// Annotate adds a note to the record of the request that ctx belongs to, if
// there is one.
func Annotate(ctx context.Context, k, value string) {
	if r, ok := ctx.Value(key{}).(*Record); ok {
		r.Annotate(k, value)
	}
}
