package reconcile_test

import (
	"fmt"
	"reflect"
	"testing"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

func declared() reconcile.Controller {
	return reconcile.Controller{
		Name: "x", For: kinds.ReplicaSet, Owns: []*kinds.Kind{kinds.Pod},
		Watches: []reconcile.Watch{{Kind: kinds.Node, Keys: func(*view.Snapshot, view.Change) []reconcile.Key { return nil }}},
		Reads:   []*kinds.Kind{kinds.Pod, kinds.Service},
		Writes: []reconcile.Write{
			{Kind: kinds.Pod, Verbs: []plan.Verb{plan.Delete, plan.Create}},
			{Kind: kinds.ReplicaSet, Sub: "status", Verbs: []plan.Verb{plan.Update}},
		},
		Plan: func(reconcile.Input) plan.Result { return plan.Result{} },
	}
}

func TestPermissions(t *testing.T) {
	var got []string
	for _, p := range reconcile.Permissions(declared()) {
		got = append(got, fmt.Sprint(p.Kind, "/", p.Sub, p.Verbs))
	}
	want := []string{
		"nodes/[get list watch]", "pods/[create delete get list watch]", "replicasets.apps/[get list watch]",
		"replicasets.apps/status[update]", "services/[get list watch]",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestGraph(t *testing.T) {
	edges := reconcile.Graph([]reconcile.Controller{declared()})
	var reads, writes int
	for _, e := range edges {
		if e.Write {
			writes++
		} else {
			reads++
		}
	}
	if reads != 4 || writes != 2 {
		t.Errorf("%d reads and %d writes, want 4 and 2: %v", reads, writes, edges)
	}
	if got := reconcile.Kinds([]reconcile.Controller{declared()}); len(got) != 4 {
		t.Errorf("kinds %v", got)
	}
}

func TestCheckFindsMistakes(t *testing.T) {
	for name, breakIt := range map[string]func(*reconcile.Controller){
		"no name":      func(c *reconcile.Controller) { c.Name = "" },
		"no plan":      func(c *reconcile.Controller) { c.Plan = nil },
		"nil owned":    func(c *reconcile.Controller) { c.Owns = append(c.Owns, nil) },
		"nil watched":  func(c *reconcile.Controller) { c.Watches = []reconcile.Watch{{}} },
		"nil written":  func(c *reconcile.Controller) { c.Writes = []reconcile.Write{{}} },
		"unknown verb": func(c *reconcile.Controller) { c.Writes[0].Verbs = []plan.Verb{"get"} },
	} {
		c := declared()
		breakIt(&c)
		if reconcile.Check([]reconcile.Controller{c}) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := reconcile.Check([]reconcile.Controller{declared()}); err != nil {
		t.Error(err)
	}
	if reconcile.Check([]reconcile.Controller{declared(), declared()}) == nil {
		t.Error("a name twice: accepted")
	}
}
