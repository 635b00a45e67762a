// Package admission decides whether a write that is authorized may happen, and
// completes it. Plugins are in-process and read only from the view; their order
// stands in one list in this package.
package admission

import (
	"context"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/kinds"
)

// Operation of a request, in the words of webhooks and policies.
type Operation string

const (
	Create  Operation = "CREATE"
	Update  Operation = "UPDATE"
	Delete  Operation = "DELETE"
	Connect Operation = "CONNECT"
)

// Request is one write on its way to the store. Ref.Name may still be empty
// for a create with generateName.
type Request struct {
	User      user.Info
	Operation Operation
	Verb      string // of an update: "update" or "patch"
	Ref       kinds.Ref
	// Object is the new state (nil for Delete); Mutate may change it. For a
	// subresource with a body of its own (Binding, Eviction, TokenRequest) it
	// is that body.
	Object runtime.Object
	// Old is the stored state for Update and Delete; never changed.
	Old    runtime.Object
	DryRun bool
	Delete *metav1.DeleteOptions
	// FieldManager is who the client says that it is, for a create or update.
	FieldManager string
	// Warn adds a Warning header to the answer.
	Warn func(text string)
	// Annotate adds to the request's record in the audit log; nil: there is none.
	Annotate func(key, value string)
	// AnnotateContent is Annotate for what shows parts of the object: it may
	// only be kept where the body of the request is. nil: it is not.
	AnnotateContent func(key, value string)
	// Waited is told how long webhooks were waited for; may be nil.
	Waited func(time.Duration)
	// Patched says after Mutate that a webhook or policy has changed Object: it
	// may hold what no client could have written.
	Patched bool

	rounds   *rounds // of mutating webhooks; nil: none was asked
	policies *rounds // of mutating policies; nil: none was asked
	second   bool    // the plugins run once more
	noted    map[string]bool
}

// rounds remembers what webhooks or policies did to one request: one that asks
// for it sees the object again if another has changed it since.
type rounds struct {
	invoked, again map[string]bool // by what they are called
	last           runtime.Object  // as they left it
}

func newRounds() *rounds { return &rounds{invoked: map[string]bool{}, again: map[string]bool{}} }

// changed: whoever was asked before is to be asked again.
func (s *rounds) changed() {
	for id := range s.invoked {
		s.again[id] = true
	}
	clear(s.invoked)
}

// waiting begins to wait for webhooks; what it returns ends that.
func (r *Request) waiting() func() {
	if r.Waited == nil {
		return func() {}
	}
	began := time.Now()
	return func() { r.Waited(time.Since(began)) }
}

// Mutate runs the plugins over a request, and once more if a webhook or policy
// changed what the first ones saw.
func Mutate(ctx context.Context, plugins []Plugin, r *Request) error {
	for range 2 {
		for _, p := range plugins {
			if err := p.Mutate(ctx, r); err != nil {
				return err
			}
		}
		if !r.Patched {
			return nil
		}
		r.second = true
	}
	return nil
}

// Validate asks the plugins about a request that is complete.
func Validate(ctx context.Context, plugins []Plugin, r *Request) error {
	for _, p := range plugins {
		if err := p.Validate(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// Plugin is one step. Errors are *apierrors.StatusError, as the client will
// see them; any other error is an internal one.
type Plugin interface {
	Name() string // upstream's plugin name, for example "NodeRestriction"
	// Mutate completes the object. It may run more than once.
	Mutate(ctx context.Context, r *Request) error
	// Validate only looks; it runs after all mutations and validation.
	Validate(ctx context.Context, r *Request) error
}

// note adds to the audit log, what is there stays; a key has a domain, as
// upstream wants it.
func (r *Request) note(to func(key, value string), key, value string) {
	if to == nil || r.noted[key] || !strings.Contains(key, "/") || len(validation.IsQualifiedName(key)) > 0 {
		return
	}
	if r.noted == nil {
		r.noted = map[string]bool{}
	}
	r.noted[key] = true
	to(key, value)
}
