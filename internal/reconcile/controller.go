// Package reconcile is the one controller runtime: it wakes a controller's
// keys on changes of what the controller declared to read, holds a key back
// until the view has seen that controller's last write (read your writes),
// plans it with a pure function, applies the actions and retries with
// back-off. It has two drivers: Run, with goroutines, and Step, one key at a
// time picked by a seed, for the simulation.
package reconcile

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/view"
)

// Key names one object of a controller's For kind.
type Key struct {
	Namespace, Name string
}

func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// KeyOf names o.
func KeyOf(o kinds.Object) Key { return Key{o.GetNamespace(), o.GetName()} }

// Input of one planning pass: everything that a plan may depend on.
type Input struct {
	View *view.Snapshot
	Key  Key
	Now  time.Time
	// Suffix returns a fresh random name suffix of five characters.
	Suffix func() string
	// Failure is what ended this key's last pass, nil after a clean one and
	// after a mere conflict. Plans put it into conditions.
	Failure *Failure
}

// Failure of a write.
type Failure struct {
	Verb    plan.Verb
	Kind    *kinds.Kind
	Reason  metav1.StatusReason
	Message string
}

// Controller is declared, not coded: what it reads, what it writes and the
// pure function between the two. The runtime enforces Reads and Writes, and
// derives the controller's RBAC role from them.
type Controller struct {
	Name string // as in its role: "replicaset-controller"
	// Reporter is the source of its events, where upstream has another name for
	// that than for the role. Empty: Name.
	Reporter string

	For *kinds.Kind // the kind whose objects are the keys; nil for a singleton (the empty Key)
	// Owns: a change of such an object wakes the For object that controls it.
	Owns []*kinds.Kind
	// Watches map changes of other kinds to keys.
	Watches []Watch
	// Reads are kinds that are looked at but do not wake.
	Reads []*kinds.Kind
	// Writes are the only writes that the executor lets through.
	Writes []Write

	// Plan decides. It must be pure.
	Plan func(Input) plan.Result

	// Metrics of its own, of which Passed counts what became of each plan; both
	// are optional.
	Metrics []prometheus.Collector
	Passed  func(Pass)

	// Resync plans every key again after this long without being woken; 0: never.
	Resync time.Duration
	// Workers that plan different keys at once; 0 means 1.
	Workers int
}

// Pass is what became of a plan.
type Pass struct {
	Input
	Result  plan.Result
	Applied []*plan.Action // those that the server has accepted
	Err     error          // what ended the pass early
	Took    time.Duration
}

// Watch wakes keys when an object of Kind changes. c.Old or c.New may be nil.
type Watch struct {
	Kind *kinds.Kind
	Keys func(s *view.Snapshot, c view.Change) []Key
}

// Write is a permission: Verbs on Kind, or on one of its subresources.
type Write struct {
	Kind  *kinds.Kind
	Sub   string
	Verbs []plan.Verb
}

// Pair makes a Plan of a reading half and a deciding half; plan sees nothing
// but what observe picked. observe returns false when there is nothing to do.
func Pair[O any](observe func(Input) (O, bool), decide func(O) plan.Result) func(Input) plan.Result {
	return func(in Input) plan.Result {
		o, ok := observe(in)
		if !ok {
			return plan.Result{}
		}
		return decide(o)
	}
}
