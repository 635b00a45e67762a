package scheduler

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

func (l *loop) deviceClaim(name string) *resourcev1.ResourceClaim {
	return l.Object(kinds.ResourceClaim, "default", name).(*resourcev1.ResourceClaim)
}

// gets is what a claim has and for whom, as text.
func (l *loop) gets(name string) string {
	c := l.deviceClaim(name)
	var out []string
	if c.Status.Allocation != nil {
		for _, r := range c.Status.Allocation.Devices.Results {
			out = append(out, r.Pool+"/"+r.Device)
		}
	}
	for _, r := range c.Status.ReservedFor {
		out = append(out, r.Name)
	}
	return strings.Join(out, " ")
}

func (l *loop) noDeviceIsPromised(t *testing.T) {
	t.Helper()
	l.nothingIsPromised(t)
	if n := len(l.s.cluster.promises); n > 0 {
		t.Errorf("%d promises", n)
	}
	held := 0
	for _, o := range l.Objects(kinds.ResourceClaim) {
		if o.(*resourcev1.ResourceClaim).Status.Allocation != nil {
			held++
		}
	}
	if len(l.s.cluster.held) != held {
		t.Errorf("%d claims count, want %d", len(l.s.cluster.held), held)
	}
}

func TestPodGetsItsDevices(t *testing.T) {
	l := newLoop(t, aNode("n"), aNode("m"), aDeviceClass("any"), aSlice("m", "a:x"), aDeviceClaim("c", exactly("any", 1)), aPod("p", claiming("c")), aPod("q"))
	l.steps()
	c := l.deviceClaim("c")
	if l.pod("p").Spec.NodeName != "m" || l.pod("q").Spec.NodeName == "" || l.gets("c") != "m/a p" {
		t.Fatalf("p on %q, q on %q, %q\n%s", l.pod("p").Spec.NodeName, l.pod("q").Spec.NodeName, l.gets("c"), l.events)
	}
	if len(c.Finalizers) != 1 || c.Finalizers[0] != resourcev1.Finalizer || c.Status.Allocation.AllocationTimestamp == nil {
		t.Errorf("%+v", c)
	}
	if r := c.Status.ReservedFor[0]; r.Resource != "pods" || r.APIGroup != "" || r.UID != "p-uid" {
		t.Errorf("%+v", r)
	}
	l.noDeviceIsPromised(t)
}

// Pods that are decided before anything is written do not get the same device.
func TestPromisedDevices(t *testing.T) {
	l := newLoop(t, aNode("n"), aDeviceClass("any"), aSlice("n", "a:x", "b:x"))
	for i := range 3 {
		l.put(aDeviceClaim(fmt.Sprint("c", i), exactly("any", 1)), aPod(fmt.Sprint("p", i), claiming(fmt.Sprint("c", i))))
	}
	var held []func(context.Context) result
	l.s.start()
	l.s.absorb()
	for w := l.s.queue.pop(l.Now); w != nil; w = l.s.queue.pop(l.Now) {
		l.s.schedule(w, func(do func(context.Context) result) { held = append(held, do) })
	}
	for _, do := range held {
		l.s.report(do(context.Background()))
	}
	l.steps()
	if got := l.gets("c0") + ", " + l.gets("c1") + ", " + l.gets("c2"); got != "n/a p0, n/b p1, " {
		t.Errorf("%s\n%s", got, l.events)
	}
	l.noDeviceIsPromised(t)
	// The third has its turn once one of them is given back.
	l.Now = l.Now.Add(time.Hour)
	l.put(aDeviceClaim("c0", exactly("any", 1)))
	if l.steps(); l.gets("c2") != "n/a p2" {
		t.Errorf("%q\n%s", l.gets("c2"), l.events)
	}
}

// Pods that share a claim wait for the first to have it, without a back-off.
func TestPodsOfOneDeviceClaim(t *testing.T) {
	l := newLoop(t, aNode("n"), aNode("m"), aDeviceClass("any"), aSlice("m", "a:x"), aDeviceClaim("c", exactly("any", 1)), aPod("p", claiming("c")), aPod("q", claiming("c")))
	var held []func(context.Context) result
	l.s.start()
	l.s.absorb()
	for range 2 {
		l.s.schedule(l.s.queue.pop(l.Now), func(do func(context.Context) result) { held = append(held, do) })
	}
	if len(held) != 1 || l.events.String() != "" {
		t.Fatalf("%d writes, events %s", len(held), l.events)
	}
	l.s.report(held[0](context.Background()))
	if l.steps(); l.pod("p").Spec.NodeName != "m" || l.pod("q").Spec.NodeName != "m" || l.gets("c") != "m/a p q" {
		t.Errorf("p on %q, q on %q, %q\n%s", l.pod("p").Spec.NodeName, l.pod("q").Spec.NodeName, l.gets("c"), l.events)
	}
	l.noDeviceIsPromised(t)
}

// A pod whose claim is being made waits silently, and goes on at once.
func TestWaitsForItsClaim(t *testing.T) {
	l := newLoop(t, aNode("n"), aDeviceClass("any"), aSlice("n", "a:x"), aPod("p", claiming("t:")), aPod("q", claiming("d")))
	l.steps()
	if want := `q Warning FailedScheduling: 0/1 nodes are available: could not find ResourceClaim "default/d".`; !strings.HasPrefix(l.events.String(), want) || condition(l.pod("p"), corev1.PodScheduled) != nil {
		t.Fatalf("%s", l.events)
	}
	l.put(aDeviceClaim("made", exactly("any", 1), ownedBy("p")))
	p := l.pod("p").DeepCopy()
	p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "c0", ResourceClaimName: ptrTo("made")}}
	l.put(p)
	if l.steps(); l.pod("p").Spec.NodeName != "n" {
		t.Errorf("p waits: %s", l.events)
	}
	l.put(aSlice("n", "a:x", "b:x"), aDeviceClaim("d", exactly("any", 1)))
	if l.steps(); l.pod("q").Spec.NodeName != "n" || l.s.queue.all["q-uid"] != nil {
		t.Errorf("q waits: %s", l.events)
	}
}

// Whoever changes a claim at the same time does no harm, unless he takes it.
func TestConflictsOverDeviceClaims(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*resourcev1.ResourceClaim)
		gets   string
		node   string
	}{
		{"a label", func(c *resourcev1.ResourceClaim) { c.Labels = map[string]string{"a": "b"} }, "n/a p", "n"},
		{"another has allocated it", func(c *resourcev1.ResourceClaim) { given([]string{"n/b"}, "n")(c); reservedFor("x")(c) }, "n/b x p", "n"},
		{"another is it", func(c *resourcev1.ResourceClaim) { c.UID = "other" }, "n/a p", "n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLoop(t, aNode("n"), aDeviceClass("any"), aSlice("n", "a:x", "b:x"), aDeviceClaim("c", exactly("any", 1)), aPod("p", claiming("c")))
			l.s.start()
			l.s.absorb()
			var held func(context.Context) result
			l.s.schedule(l.s.queue.pop(l.Now), func(do func(context.Context) result) { held = do })
			c := l.deviceClaim("c").DeepCopy()
			tt.change(c)
			l.Put(kinds.ResourceClaim, c)
			l.s.report(held(context.Background()))
			l.steps()
			l.Now = l.Now.Add(2 * time.Second)
			if l.steps(); l.gets("c") != tt.gets || l.pod("p").Spec.NodeName != tt.node || strings.Contains(l.events.String(), "Warning") {
				t.Errorf("%q, on %q\n%s", l.gets("c"), l.pod("p").Spec.NodeName, l.events)
			}
			l.noDeviceIsPromised(t)
		})
	}
}

// What a pod has been given is free again if it cannot be bound.
func TestFailuresWithDevices(t *testing.T) {
	fail := func(verb plan.Verb, kind *kinds.Kind, sub string) func(plan.Verb, kinds.Ref, runtime.Object) error {
		return func(v plan.Verb, ref kinds.Ref, _ runtime.Object) error {
			if v == verb && ref.Kind == kind && ref.Sub == sub {
				return apierrors.NewInternalError(errors.New("no"))
			}
			return nil
		}
	}
	for _, tt := range []struct {
		name string
		hook func(plan.Verb, kinds.Ref, runtime.Object) error // nil: the binding fails
		gets string
		want string
	}{
		{"no finalizer", fail(plan.Update, kinds.ResourceClaim, ""), "", `running PreBind plugin "DynamicResources": add finalizer to claim default/c: Internal error occurred: no`},
		{"no allocation", fail(plan.Update, kinds.ResourceClaim, "status"), "", `running PreBind plugin "DynamicResources": add allocation and reservation to claim default/c: Internal error occurred: no`},
		{"not bound", nil, "", "cannot bind to n: Internal error occurred: no"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLoop(t, aNode("n"), aDeviceClass("any"), aSlice("n", "a:x"), aDeviceClaim("c", exactly("any", 1)), aPod("p", claiming("c")))
			if l.Hook = tt.hook; tt.hook == nil {
				l.fail = func(string) error { return apierrors.NewInternalError(errors.New("no")) }
			}
			if l.steps(); l.gets("c") != tt.gets || !strings.Contains(l.events.String(), tt.want) {
				t.Errorf("%q\n%s", l.gets("c"), l.events)
			}
			l.noDeviceIsPromised(t)
			l.Hook, l.fail = nil, nil
			l.Now = l.Now.Add(2 * time.Second)
			if l.steps(); l.gets("c") != "n/a p" || l.pod("p").Spec.NodeName != "n" {
				t.Errorf("%q\n%s", l.gets("c"), l.events)
			}
			l.noDeviceIsPromised(t)
		})
	}
}

// A claim that has devices where the pod cannot go gives them back, unless
// somebody else uses them.
func TestIdleDevicesAreGivenBack(t *testing.T) {
	full := aNode("m", has("cpu", "0"))
	for _, users := range []string{"", "p", "x"} {
		t.Run("used by "+users, func(t *testing.T) {
			c := aDeviceClaim("c", exactly("any", 1), given([]string{"m/a"}, "m"))
			if users != "" {
				reservedFor(users)(c)
			}
			l := newLoop(t, aNode("n"), full, aDeviceClass("any"), aSlice("n", "a:x"), aSlice("m", "a:x"), c, aPod("p", claiming("c"), requests("cpu", "1")))
			l.steps()
			l.Now = l.Now.Add(2 * time.Second)
			l.steps()
			if want := map[string]string{"": "n", "p": "n", "x": ""}[users]; l.pod("p").Spec.NodeName != want {
				t.Errorf("on %q, want %q: %q\n%s", l.pod("p").Spec.NodeName, want, l.gets("c"), l.events)
			}
			l.noDeviceIsPromised(t)
		})
	}
}

// Devices that have to be made ready: the pod waits, and gets others if that
// fails or takes too long.
func TestBindingConditions(t *testing.T) {
	says := func(l *loop, what string) {
		c := l.deviceClaim("c").DeepCopy()
		c.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: driver, Pool: "n", Device: "a", Conditions: []metav1.Condition{{Type: what, Status: metav1.ConditionTrue}}}}
		l.Put(kinds.ResourceClaim, c)
	}
	for _, tt := range []struct {
		name string
		do   func(*loop)
		gets string // soon afterwards
		node string
		why  string
	}{
		{"ready", func(l *loop) { says(l, "example.com/ready") }, "n/a p", "n", ""},
		{"something else", func(l *loop) { says(l, "example.com/other") }, "n/a p", "", ""},
		{"failed", func(l *loop) { says(l, "example.com/failed") }, "", "", `running PreBind plugin "DynamicResources": claim default/c: device d.example.com/n/a failed with example.com/failed`},
		{"too late", func(l *loop) { l.Now = l.Now.Add(601 * time.Second) }, "", "", `running PreBind plugin "DynamicResources": binding devices: context deadline exceeded`},
		{"the node goes", func(l *loop) { l.Remove(kinds.Node, "", "n") }, "", "", `node "n" not found`},
		{"the claim goes", func(l *loop) {
			l.Remove(kinds.ResourceClaim, "default", "c")
			l.put(aDeviceClaim("c", exactly("any", 1)))
		}, "", "", "got deleted in the meantime"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			slice := aSlice("n", "a:x")
			slice.Spec.Devices[0].BindingConditions, slice.Spec.Devices[0].BindingFailureConditions = []string{"example.com/ready"}, []string{"example.com/failed"}
			l := newLoop(t, aNode("n"), aDeviceClass("any"), slice, aDeviceClaim("c", exactly("any", 1)), aPod("p", claiming("c")))
			if l.steps(); l.pod("p").Spec.NodeName != "" || l.gets("c") != "n/a p" {
				t.Fatalf("on %q: %q\n%s", l.pod("p").Spec.NodeName, l.gets("c"), l.events)
			}
			if due := l.s.NextDue(); !due.Equal(l.Now.Add(600 * time.Second)) {
				t.Errorf("due at %v", due)
			}
			tt.do(l)
			if l.steps(); l.gets("c") != tt.gets || l.pod("p").Spec.NodeName != tt.node || !strings.Contains(l.events.String(), tt.why) {
				t.Errorf("on %q: %q\n%s", l.pod("p").Spec.NodeName, l.gets("c"), l.events)
			}
		})
	}
}

// A pod that goes on its way holds no device in what decisions see; whoever
// looks after claims takes it out of the claim.
func TestPodGoesBeforeItsDevicesCome(t *testing.T) {
	for _, written := range []bool{false, true} {
		l := newLoop(t, aNode("n"), aDeviceClass("any"), aSlice("n", "a:x"), aDeviceClaim("c", exactly("any", 1)), aPod("p", claiming("c"), requests("cpu", "4")))
		l.s.start()
		l.s.absorb()
		var held func(context.Context) result
		l.s.schedule(l.s.queue.pop(l.Now), func(do func(context.Context) result) { held = do })
		if written {
			l.s.report(held(context.Background()))
			l.s.absorb()
		}
		l.Remove(kinds.Pod, "default", "p")
		l.s.absorb()
		if !written {
			l.Hook = func(plan.Verb, kinds.Ref, runtime.Object) error {
				return apierrors.NewInternalError(errors.New("down"))
			}
			l.s.report(held(context.Background()))
			l.Hook = nil
		}
		if l.steps(); l.s.cluster.byName["n"].used.cpu != 0 || len(l.s.queue.all) != 0 {
			t.Errorf("%d thousandths in use, %d queued", l.s.cluster.byName["n"].used.cpu, len(l.s.queue.all))
		}
		l.noDeviceIsPromised(t)
	}
}

// A scheduler that starts anew goes on with what another has written.
func TestRestartWithDevices(t *testing.T) {
	l := newLoop(t, aNode("n"), aNode("m"), aDeviceClass("any"), aSlice("n", "a:x"), aSlice("m", "a:x"),
		aDeviceClaim("c", exactly("any", 1), given([]string{"m/a"}, "m"), reservedFor("p")), aPod("p", claiming("c")))
	if l.steps(); l.pod("p").Spec.NodeName != "m" || l.gets("c") != "m/a p" {
		t.Errorf("on %q: %q", l.pod("p").Spec.NodeName, l.gets("c"))
	}
}

func TestWhatWakesPodsWithDevices(t *testing.T) {
	none := []any{aNode("n"), aDeviceClass("any"), aDeviceClaim("c", exactly("any", 1))}
	full := append(none[:3:3], aSlice("n", "a:x"), aDeviceClaim("d", exactly("any", 1), given([]string{"n/a"})))
	put := func(objects ...any) func(*loop) { return func(l *loop) { l.put(objects...) } }
	for _, tt := range []struct {
		name         string
		objects      []any
		change       func(*loop)
		wakes, helps bool
	}{
		{"a slice", none, put(aSlice("n", "a:x")), true, true},
		{"a slice of another node", none, put(aSlice("m", "a:x")), true, false},
		{"another claim comes", none, put(aDeviceClaim("e", exactly("any", 1))), false, false},
		{"another claim gets devices", none, put(aDeviceClaim("e", exactly("any", 1), given([]string{"x/y"}))), false, false},
		{"a claim gives them back", full, put(aDeviceClaim("d", exactly("any", 1))), true, true},
		{"a claim goes", full, func(l *loop) { l.Remove(kinds.ResourceClaim, "default", "d") }, true, true},
		{"a class changes", full, put(aDeviceClass("any", isModel("x"))), true, false},
		{"a class says the same", full, put(func() any { c := aDeviceClass("any"); c.Labels = map[string]string{"a": "b"}; return c }()), false, false},
		{"a taint goes", append(none[:3:3], aSlice("n", "a:x"), taintRule("t", "n", "a", resourcev1.DeviceTaintEffectNoSchedule)), func(l *loop) { l.Remove(kinds.DeviceTaintRule, "", "t") }, true, true},
		{"the class comes", []any{aNode("n"), aSlice("n", "a:x"), aDeviceClaim("c", exactly("any", 1))}, put(aDeviceClass("any")), true, true},
		{"a pod goes", append(none[:3:3], aPod("x", on("n"))), func(l *loop) { l.Remove(kinds.Pod, "default", "x") }, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLoop(t, append(tt.objects[:len(tt.objects):len(tt.objects)], aPod("p", claiming("c")))...)
			l.steps()
			if l.s.cluster.pods["p-uid"] != nil {
				t.Fatal("the pod fits to begin with")
			}
			l.Now = l.Now.Add(time.Hour)
			tt.change(l)
			if woken := l.steps() > 0; woken != tt.wakes {
				t.Errorf("woken: %v", woken)
			}
			if fits := l.s.cluster.pods["p-uid"] != nil; fits != tt.helps {
				t.Errorf("fits: %v; %s", fits, l.events)
			}
		})
	}
}

// What a failed binding has given back is known before the view shows it: the
// pod is not bound without its claim the next time.
func TestReleaseIsKnownAtOnce(t *testing.T) {
	l := newLoop(t, aNode("n"), aDeviceClass("any"), aSlice("n", "a:x"), aDeviceClaim("c", exactly("any", 1)), aPod("p", claiming("c")))
	l.s.start()
	l.s.absorb()
	l.fail = func(string) error { return apierrors.NewInternalError(errors.New("no")) }
	l.s.schedule(l.s.queue.pop(l.Now), func(do func(context.Context) result) { l.s.report(do(context.Background())) })
	l.s.absorb() // granted, and seen so
	l.Lag = true
	l.steps()
	l.fail = nil
	l.Now = l.Now.Add(2 * time.Second)
	if l.steps(); l.gets("c") != "n/a p" || l.pod("p").Spec.NodeName != "n" {
		t.Errorf("on %q: %q", l.pod("p").Spec.NodeName, l.gets("c"))
	}
	l.Lag = false
	l.Deliver(nil)
	l.steps()
	l.noDeviceIsPromised(t)
}
