// Package why explains what is the matter with an object: one chain of causes,
// the first cause first. Explain is a pure function of what is known; what it
// lacks it names, and Ask reads that, with the rights of whoever asks, until
// nothing is lacking. Each rule looks at one object and says what is the matter
// with it and where to look next, or that nothing is.
package why

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

const (
	maxLinks = 16   // of a chain
	maxWhat  = 1200 // bytes of a link's sentence: an event's message and some words
)

// Object names what a link is about.
type Object struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

func (o Object) String() string {
	if o.Namespace == "" {
		return o.Kind + " " + o.Name
	}
	return o.Kind + " " + o.Namespace + "/" + o.Name
}

// Link is one cause, or a consequence of the one before.
type Link struct {
	Object Object `json:"object"`
	What   string `json:"what"`
	// Since is when it began, if that is known.
	Since *metav1.Time `json:"since,omitempty"`
	// Remedy is the smallest change that helps, if there is one.
	Remedy string `json:"remedy,omitempty"`
}

// Explain says what is the matter with an object; no links: nothing. As long as
// it lacks something the links are not to be used: give it what it wants, and
// ask again. Same facts, same answer.
func Explain(f *Facts, k *kinds.Kind, o kinds.Object) ([]Link, []Want) {
	l := &look{facts: f}
	var chain []Link
	var seen []kinds.Object
	for o != nil && !slices.Contains(seen, o) && len(chain) < maxLinks {
		seen = append(seen, o)
		l.refused = nil
		found := l.at(k, o)
		if found == nil {
			if len(chain) == 0 && len(l.refused) > 0 {
				chain = append(chain, withheld(l.refused[0]).Link)
			}
			break
		}
		for ; found != nil && len(chain) < maxLinks; found = found.cause {
			chain = append(chain, found.Link)
			k, o = found.kind, found.next
		}
	}
	slices.Reverse(chain)
	return chain, l.wants
}

// finding is what a rule says.
type finding struct {
	Link
	cause *finding // what is known to be behind it
	// Without a cause: the object that may be behind it, which is looked at next.
	kind *kinds.Kind
	next kinds.Object
}

func about(k *kinds.Kind, o metav1.Object, format string, args ...any) *finding {
	return on(k, o.GetNamespace(), o.GetName(), format, args...)
}

func on(k *kinds.Kind, namespace, name, format string, args ...any) *finding {
	what := strings.TrimSpace(fmt.Sprintf(format, args...))
	if len(what) > maxWhat {
		what = strings.ToValidUTF8(what[:maxWhat-len(" ...")], "") + " ..."
	}
	if !k.Namespaced {
		namespace = ""
	}
	return &finding{Link: Link{Object: Object{k.GVK.Kind, namespace, name}, What: what}}
}

// missing says that an object is not there.
func missing(k *kinds.Kind, namespace, name, remedy string) *finding {
	return on(k, namespace, name, "it does not exist").help("%s", remedy)
}

// withheld says that something may not be read.
func withheld(w Want) *finding {
	what := w.Kind.Resource
	if w.Name == "" && w.Kind.Namespaced && w.Namespace == "" {
		what += " of all namespaces"
	}
	f := on(w.Kind, w.Namespace, w.Name, "you may not read %s, so that what is to be known by them is unknown", what)
	if w.Name == "" {
		f.Object.Name = "*"
	}
	return f
}

func (f *finding) since(t metav1.Time) *finding {
	if !t.IsZero() {
		f.Since = &t
	}
	return f
}

func (f *finding) help(format string, args ...any) *finding {
	f.Remedy = fmt.Sprintf(format, args...)
	return f
}

// because adds a cause, if there is one.
func (f *finding) because(c *finding) *finding {
	f.cause = c
	return f
}

// behind says which object to look at next.
func (f *finding) behind(k *kinds.Kind, o kinds.Object) *finding {
	f.kind, f.next = k, o
	return f
}

// look is one explanation in the making.
type look struct {
	facts   *Facts
	wants   []Want
	refused []Want // by the rule at work
}

// blind adds, to a finding that says little, that what would say more may not
// be read.
func (l *look) blind(f *finding) *finding {
	if f.cause == nil && f.next == nil && len(l.refused) > 0 {
		f.cause = withheld(l.refused[0])
	}
	return f
}
