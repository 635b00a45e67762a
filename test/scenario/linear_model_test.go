package scenario

import (
	"testing"

	"github.com/anishathalye/porcupine"
)

// The model of one object under concurrent clients: it is there with a value
// at a version, or it is not.
type register struct {
	exists bool
	value  string
	// version is empty after a write of which nobody has read the answer.
	version string
}

type request struct {
	key, verb      string // create, put, cas, delete, get
	value, version string // version: what a cas expects
}

type reply struct {
	kind           string // ok, exists, conflict, absent, lost (no answer came)
	value, version string
}

// next are the states in which the object can be after the request was
// answered so; none: it cannot have been.
func next(s register, in request, out reply) []register {
	same, written := []register{s}, []register{{true, in.value, out.version}}
	when := func(ok bool, then []register) []register {
		if ok {
			return then
		}
		return nil
	}
	could := func(ok bool, then []register) []register { return append(same, when(ok, then)...) }
	fits := s.exists && (s.version == "" || s.version == in.version)
	switch out.kind {
	case "absent":
		return when(!s.exists, same)
	case "exists":
		return when(in.verb == "create" && s.exists, same)
	case "conflict":
		return when(in.verb == "cas" && s.exists && (s.version == "" || s.version != in.version), same)
	case "lost":
		switch in.verb {
		case "create":
			return could(!s.exists, written)
		case "put":
			return could(s.exists, written)
		case "cas":
			return could(fits, written)
		case "delete":
			return could(s.exists, []register{{}})
		}
		return same
	}
	switch in.verb {
	case "create":
		return when(!s.exists, written)
	case "put":
		return when(s.exists, written)
	case "cas":
		return when(fits, written)
	case "delete":
		return when(s.exists, []register{{}})
	default: // get
		return when(s.exists && s.value == out.value && (s.version == "" || s.version == out.version), []register{{true, s.value, out.version}})
	}
}

var registers = porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		by := map[string][]porcupine.Operation{}
		for _, o := range history {
			key := o.Input.(request).key
			by[key] = append(by[key], o)
		}
		var out [][]porcupine.Operation
		for _, part := range by {
			out = append(out, part)
		}
		return out
	},
	Init: func() []any { return []any{register{}} },
	Step: func(state, input, output any) []any {
		var out []any
		for _, s := range next(state.(register), input.(request), output.(reply)) {
			out = append(out, s)
		}
		return out
	},
}

// TestModel: the checker accepts what may happen and refuses what must not, so
// that a history without a finding means something.
func TestModel(t *testing.T) {
	op := func(from, to int64, in request, out reply) porcupine.Operation {
		in.key = "k"
		return porcupine.Operation{Input: in, Call: from, Output: out, Return: to}
	}
	create := func(from, to int64) porcupine.Operation {
		return op(from, to, request{verb: "create", value: "a"}, reply{kind: "ok", version: "1"})
	}
	get := func(from, to int64, value, version string) porcupine.Operation {
		return op(from, to, request{verb: "get"}, reply{kind: "ok", value: value, version: version})
	}
	put := func(from, to int64, value, kind, version string) porcupine.Operation {
		return op(from, to, request{verb: "put", value: value}, reply{kind: kind, version: version})
	}
	cas := func(from, to int64, value, expect, kind, version string) porcupine.Operation {
		return op(from, to, request{verb: "cas", value: value, version: expect}, reply{kind: kind, version: version})
	}
	for _, tt := range []struct {
		name    string
		history []porcupine.Operation
		want    bool
	}{
		{"write, read", []porcupine.Operation{create(0, 1), get(2, 3, "a", "1")}, true},
		{"an acknowledged write is lost", []porcupine.Operation{create(0, 1), op(2, 3, request{verb: "get"}, reply{kind: "absent"})}, false},
		{"a stale read", []porcupine.Operation{create(0, 1), put(2, 3, "b", "ok", "2"), get(4, 5, "a", "1")}, false},
		{"a read of a write under way", []porcupine.Operation{create(0, 1), put(2, 6, "b", "ok", "2"), get(3, 4, "b", "2")}, true},
		{"a read that goes back", []porcupine.Operation{create(0, 1), put(2, 9, "b", "ok", "2"), get(3, 4, "b", "2"), get(5, 6, "a", "1")}, false},
		{"a lost answer, applied", []porcupine.Operation{create(0, 1), put(2, 5, "b", "lost", ""), get(6, 7, "b", "2"), get(8, 9, "b", "2")}, true},
		{"a lost answer, not applied", []porcupine.Operation{create(0, 1), put(2, 5, "b", "lost", ""), get(6, 7, "a", "1")}, true},
		{"a lost answer that wavers", []porcupine.Operation{create(0, 1), put(2, 5, "b", "lost", ""), get(6, 7, "a", "1"), get(8, 9, "b", "2")}, false},
		{"two winners of one version", []porcupine.Operation{create(0, 1), cas(2, 5, "b", "1", "ok", "2"), cas(2, 5, "c", "1", "ok", "3")}, false},
		{"one winner of one version", []porcupine.Operation{create(0, 1), cas(2, 5, "b", "1", "ok", "2"), cas(2, 5, "c", "1", "conflict", "")}, true},
		{"created twice", []porcupine.Operation{create(0, 1), create(2, 3)}, false},
	} {
		if got := porcupine.CheckOperations(registers.ToModel(), tt.history); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
