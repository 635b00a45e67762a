// Package supervisor speaks to the process that is the parent of a node's
// containers: it holds their stdio, writes their logs and knows how they ended,
// and it outlives knarr. The process itself is in server/; engine/ is what it
// runs containers with.
//
// One connection to its socket carries one request and its answer: a line of
// JSON each, with descriptors where the operation passes some. So every
// operation may block without holding up another, and whoever hangs up cancels.
package supervisor

import (
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Operations.
const (
	OpHello   = "hello"   // who answers
	OpRun     = "run"     // a container, from an OCI bundle
	OpSignal  = "signal"  // to a container's or an exec's first process
	OpUpdate  = "update"  // limits of a container that runs
	OpDelete  = "delete"  // what is left of one that has ended
	OpExec    = "exec"    // one more process in a container, with three descriptors
	OpWait    = "wait"    // for the end of a container or an exec
	OpAttach  = "attach"  // to a container's streams, with a descriptor
	OpResize  = "resize"  // a container's terminal
	OpReopen  = "reopen"  // a container's log, after a rotation
	OpEvents  = "events"  // every container, and then every change, until hung up
	OpReplace = "replace" // the supervisor by the executable whose descriptor is passed
)

// Bounds of what goes over the socket.
const (
	// MaxMessage bounds a request or an answer: the environment of a process
	// can have megabytes (ARG_MAX is 2 MiB with an 8 MiB stack).
	MaxMessage = 4 << 20
	// MaxFiles is how many descriptors an operation passes at most.
	MaxFiles = 3
)

// Request for an operation.
type Request struct {
	Op string `json:"op"`
	ID string `json:"id,omitempty"`
	// Exec is the caller's name for a process that is not the first.
	Exec string `json:"exec,omitempty"`

	Run       *Run                  `json:"run,omitempty"`
	Process   *specs.Process        `json:"process,omitempty"`
	Resources *specs.LinuxResources `json:"resources,omitempty"`
	Signal    int                   `json:"signal,omitempty"`
	Size      *Size                 `json:"size,omitempty"`
	Attach    *Attach               `json:"attach,omitempty"`
}

// Run says how a container is run. What it runs, and whether that has a
// terminal, stands in Bundle/config.json.
type Run struct {
	Bundle string `json:"bundle"`
	// Log is the file that CRI's lines are appended to; none if empty.
	Log string `json:"log,omitempty"`
	// Stdin keeps the container's standard input open for who attaches; Once
	// closes it when the first of them goes.
	Stdin bool `json:"stdin,omitempty"`
	Once  bool `json:"once,omitempty"`
	// Handler runs the container; nil is the supervisor's own engine.
	Handler *Handler `json:"handler,omitempty"`
}

// Size of a terminal, in characters.
type Size struct {
	Width  uint16 `json:"width"`
	Height uint16 `json:"height"`
}

// Attach says which of the three descriptors that come along are used.
type Attach struct {
	Stdin  bool `json:"stdin,omitempty"`
	Stdout bool `json:"stdout,omitempty"`
	Stderr bool `json:"stderr,omitempty"`
}

// Container as the supervisor knows it.
type Container struct {
	ID  string `json:"id"`
	PID int    `json:"pid"`
	// Ticks is when the process started, in clock ticks since boot (field 22
	// of /proc/PID/stat): with the PID it names one process for good.
	Ticks   uint64    `json:"ticks"`
	Started time.Time `json:"started"`
	Exit    *Exit     `json:"exit,omitempty"`
	// Gone is told once, when a container was deleted.
	Gone bool `json:"gone,omitempty"`
}

// Exit of a process.
type Exit struct {
	// Code is what it returned, or 128 plus the signal that ended it. If it is
	// not known, because nobody who could be told was there, Known is false.
	Code  int       `json:"code"`
	Known bool      `json:"known"`
	At    time.Time `json:"at"`
	// OOM says that the kernel killed in the container for want of memory.
	OOM bool `json:"oom,omitempty"`
}

// Hello says who answers.
type Hello struct {
	PID int `json:"pid"`
	// Build is the SHA-256 of the executable.
	Build   string    `json:"build"`
	Started time.Time `json:"started"`
}

// Reply to a request. Of the events there are many.
type Reply struct {
	Error     *Error     `json:"error,omitempty"`
	Hello     *Hello     `json:"hello,omitempty"`
	Container *Container `json:"container,omitempty"`
	PID       int        `json:"pid,omitempty"`
	Exit      *Exit      `json:"exit,omitempty"`
	// Synced stands after the containers that are there when events begin.
	Synced bool `json:"synced,omitempty"`
}

// Kind of an error that callers tell apart.
type Kind string

// Kinds of errors.
const (
	NotFound Kind = "not found"
	Exists   Kind = "exists"
	Invalid  Kind = "invalid"
	State    Kind = "wrong state" // running or ended, and should not be
	Failed   Kind = "failed"
)

// Error as it goes over the socket.
type Error struct {
	Kind    Kind   `json:"kind"`
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }

// Errorf makes an error of a kind.
func Errorf(k Kind, format string, args ...any) *Error {
	return &Error{k, fmt.Sprintf(format, args...)}
}

// Is reports whether err, or one that it wraps, is of the kind.
func Is(err error, k Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == k
}

// CheckID refuses what is no name of a container or an exec: it becomes a
// directory's.
func CheckID(id string) error {
	if len(id) == 0 || len(id) > 128 {
		return Errorf(Invalid, "a name of %d characters; 1 to 128 are allowed", len(id))
	}
	for i, r := range id {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !alnum && (i == 0 || r != '-' && r != '_' && r != '.') {
			return Errorf(Invalid, "name %q: letters, digits, and after the first also '-', '_' and '.' are allowed", id)
		}
	}
	return nil
}
