package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
	"pgregory.net/rapid"
)

// naiveDevice is a device of a node, as the oracle sees it.
type naiveDevice struct {
	id      string // pool/device
	model   string
	tainted bool
	taken   bool
}

// naiveWant is one device that the pod's claims ask for.
type naiveWant struct {
	model     string // empty: any
	tolerates bool
	admin     bool
	claim     string
}

func (w naiveWant) takes(d naiveDevice) bool {
	return (w.model == "" || w.model == d.model) && (!d.tainted || w.tolerates) && (w.admin || !d.taken)
}

// naiveDevices reports whether each want can have a device, by trying all ways.
// An administrator may look at what others have, but at nothing twice in one
// claim; and what he looks at for the pod, it does not get after him.
func naiveDevices(wants []naiveWant, devices []naiveDevice, looked map[string]bool) bool {
	if len(wants) == 0 {
		return true
	}
	w := wants[0]
	for i := range devices {
		d := devices[i]
		key, before := w.claim+" "+d.id, looked[d.id]
		if !w.takes(d) || looked[key] || before && !w.admin {
			continue
		}
		looked[key], looked[d.id] = true, true
		if !w.admin {
			devices[i].taken = true
		}
		ok := naiveDevices(wants[1:], devices, looked)
		devices[i].taken = d.taken
		delete(looked, key)
		looked[d.id] = before
		if ok {
			return true
		}
	}
	return false
}

// Whatever devices, taints, claims and promises there are, a pod finds a node if
// and only if one exists, and what it is granted is what it asks for and free.
func TestDevicesAgainstAllWays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := world(standingFor("any", widget))
		nodes := map[string][]naiveDevice{}
		of := func(what string, n int) bool { return rapid.IntRange(0, n-1).Draw(t, what) == 0 }
		for i := range rapid.IntRange(1, 3).Draw(t, "nodes") {
			node := fmt.Sprint("n", i)
			var names []string
			var list []naiveDevice
			for j := range rapid.IntRange(0, 4).Draw(t, "devices") {
				d := naiveDevice{id: fmt.Sprintf("%s/d%d", node, j), model: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "model"), tainted: of("tainted", 4), taken: of("taken", 3)}
				names, list = append(names, fmt.Sprintf("d%d:%s", j, d.model)), append(list, d)
			}
			nodes[node] = list
			c.setNode(aNode(node))
			c.take(aSlice(node, names...), false)
			for j, d := range list {
				if d.tainted {
					c.take(taintRule("t-"+node+fmt.Sprint(j), node, fmt.Sprint("d", j), resourcev1.DeviceTaintEffectNoSchedule), false)
				}
				if !d.taken {
					continue
				}
				other := aDeviceClaim(fmt.Sprintf("other-%s-%d", node, j), exactly("any", 1))
				if of("promised", 2) {
					c.take(other, false)
					given([]string{d.id})(other)
					c.promiseDevices(other, other.Status.Allocation)
				} else {
					given([]string{d.id})(other)
					c.take(other, false)
				}
			}
		}
		var wants []naiveWant
		var claims []string
		for i := range rapid.IntRange(1, 2).Draw(t, "claims") {
			claim := aDeviceClaim(fmt.Sprint("c", i), nil)
			for j := range rapid.IntRange(1, 2).Draw(t, "requests") {
				w := naiveWant{model: rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "wanted"), tolerates: of("tolerates", 3), admin: of("admin", 5), claim: claim.Name}
				r := exactly("any", int64(rapid.IntRange(1, 2).Draw(t, "count")))
				if w.model != "" {
					r.Selectors = aDeviceClass("", isModel(w.model)).Spec.Selectors
				}
				if w.tolerates {
					r.Tolerations = []resourcev1.DeviceToleration{{Key: "k", Operator: resourcev1.DeviceTolerationOpExists}}
				}
				if w.admin {
					r.AdminAccess = ptrTo(true)
				}
				claim.Spec.Devices.Requests = append(claim.Spec.Devices.Requests, resourcev1.DeviceRequest{Name: fmt.Sprint("r", j), Exactly: r})
				for range r.Count {
					wants = append(wants, w)
				}
			}
			c.take(claim, false)
			claims = append(claims, claim.Name)
		}
		p := aPod("p", claiming(claims...))
		if n := rapid.IntRange(-1, 2).Draw(t, "widgets"); n > 0 { // the claim for them comes last
			requests(widget, fmt.Sprint(n))(p)
			for range n {
				wants = append(wants, naiveWant{claim: "made"})
			}
		}
		d := newDecider(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))).decide(c, pending(p))
		var fits []string
		for node, list := range nodes {
			if naiveDevices(wants, slices.Clone(list), map[string]bool{}) {
				fits = append(fits, node)
			}
		}
		if (d.node == nil) != (len(fits) == 0) || d.node != nil && !slices.Contains(fits, d.node.name) {
			t.Fatalf("decided for %v (%s), fit: %v", d.node, d.why, fits)
		}
		if d.node != nil {
			checkGrants(t, d.grants, wants, nodes[d.node.name])
		}
	})
}

// checkGrants: each want has one device, of the right sort, and none is had twice.
func checkGrants(t *rapid.T, grants []grant, wants []naiveWant, devices []naiveDevice) {
	at, used := 0, map[string]bool{}
	for _, g := range grants {
		for _, r := range g.allocation.Devices.Results {
			i := slices.IndexFunc(devices, func(d naiveDevice) bool { return d.id == r.Pool+"/"+r.Device })
			if i < 0 || at >= len(wants) || !wants[at].takes(devices[i]) {
				t.Fatalf("%s got %+v", g.claim.Name, r)
			}
			if w := wants[at]; !w.admin && used[devices[i].id] {
				t.Fatalf("%s is had twice", devices[i].id)
			} else if !w.admin {
				used[devices[i].id] = true
			}
			at++
		}
	}
	if at != len(wants) {
		t.Fatalf("%d devices, want %d", at, len(wants))
	}
}
