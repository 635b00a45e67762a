package hollow

import (
	"slices"
	"testing"
	"time"
)

func TestScript(t *testing.T) {
	shape := Shape{Nodes: 40, Replicas: []int{10, 1, 100}}
	one, again := Script(7, shape, 50, time.Minute), Script(7, shape, 50, time.Minute)
	if !slices.Equal(one, again) {
		t.Fatal("a seed gives two scripts")
	}
	if slices.Equal(one, Script(8, shape, 50, time.Minute)) {
		t.Error("two seeds give one script")
	}
	if n := len(one); n < 2500 || n > 3500 {
		t.Errorf("%d actions in a minute of 50 a second", n)
	}
	seen, lost := map[Op]int{}, map[int]bool{}
	for i, a := range one {
		seen[a.Op]++
		if i > 0 && a.At < one[i-1].At || a.At > time.Minute {
			t.Fatalf("%v is out of order", a)
		}
		switch a.Op {
		case Scale:
			if r := shape.Replicas[a.Deployment]; a.Replicas > r || a.Replicas < (r+1)/2 {
				t.Errorf("%v: of %d", a, r)
			}
		case DeletePod:
			if a.Pod >= max(1, (shape.Replicas[a.Deployment]+1)/2) {
				t.Errorf("%v: there may be fewer", a)
			}
		case LoseNode:
			if lost[a.Node] {
				t.Errorf("%v: it is lost already", a)
			}
			lost[a.Node] = true
			if len(lost) > shape.Nodes/lostShare {
				t.Errorf("%d nodes are lost at a time", len(lost))
			}
		case ReturnNode:
			if !lost[a.Node] {
				t.Errorf("%v: it is not lost", a)
			}
			delete(lost, a.Node)
		}
	}
	for _, op := range []Op{Scale, DeletePod, LoseNode, ReturnNode} {
		if seen[op] == 0 {
			t.Errorf("never: %s", op)
		}
	}
	for _, a := range Script(7, Shape{Nodes: 5, Replicas: []int{10}}, 50, time.Minute) {
		if a.Op == LoseNode || a.Op == ReturnNode {
			t.Errorf("%v of five nodes", a)
		}
	}
}
