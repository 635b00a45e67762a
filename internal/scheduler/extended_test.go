package scheduler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// standingFor is a class whose devices stand for an extended resource.
func standingFor(class, name string, selectors ...string) *resourcev1.DeviceClass {
	c := aDeviceClass(class, selectors...)
	c.Spec.ExtendedResourceName = &name
	return c
}

// madeForPod has a claim be one that was made for a pod's extended resources.
func madeForPod(pod string) func(*resourcev1.ResourceClaim) {
	return func(c *resourcev1.ResourceClaim) {
		ownedBy(pod)(c)
		c.Annotations = map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"}
	}
}

func TestExtendedResources(t *testing.T) {
	const gpu, byClass = "example.com/gpu", "deviceclass.resource.kubernetes.io/g"
	n, m, class := aNode("n"), aNode("m"), standingFor("g", gpu)
	asks := func(kv ...string) *corev1.Pod { return aPod("p", requests(kv...)) }
	younger := standingFor("z", gpu, isModel("z"))
	younger.CreationTimestamp = metav1.Unix(1, 0)
	const none = "0/1 nodes are available: 1 cannot allocate all claims. still not schedulable"
	for _, tt := range []struct {
		name    string
		objects []any
		pod     *corev1.Pod
		node    string // and what it is given
		why     string // how the message begins
		advice  string
	}{
		{"by the class's name for it", []any{n, m, class, aSlice("m", "a:x")}, asks(gpu, "1"), "m container-0-request-0=m/a", "", ""},
		{"by the class's own name", []any{n, m, aDeviceClass("g"), aSlice("m", "a:x")}, asks(byClass, "1"), "m container-0-request-0=m/a", "", ""},
		{"two, and something else", []any{n, class, aSlice("n", "a:x", "b:x")}, asks(gpu, "2", "cpu", "1"), "n container-0-request-1=n/a container-0-request-1=n/b", "", ""},
		{"more than there are", []any{n, class, aSlice("n", "a:x")}, asks(gpu, "2"), "", none, "on n with 2 free devices of class g for example.com/gpu."},
		{"taken", []any{n, class, aSlice("n", "a:x"), aDeviceClaim("d", exactly("g", 1), given([]string{"n/a"}))}, asks(gpu, "1"), "", none, "on n with 1 free device of class g for example.com/gpu."},
		{"nothing is asked for", []any{n, class}, asks(gpu, "0"), "n", "", ""},
		{"of no class", []any{n, aDeviceClass("g"), aSlice("n", "a:x")}, asks(gpu, "1"), "", "0/1 nodes are available: 1 Insufficient example.com/gpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
			"on n with 1 example.com/gpu from a device plugin or a DeviceClass with this extendedResourceName."},
		{"of a class that is not there", []any{n, aSlice("n", "a:x")}, asks(byClass, "1"), "", "0/1 nodes are available: 1 Insufficient deviceclass.resource.kubernetes.io/g. preemption", "on n with the DeviceClass g."},
		{"the node's own", []any{aNode("n", has(gpu, "1")), class, aSlice("n", "a:x")}, asks(gpu, "1"), "n", "", ""},
		{"the node's own are too few", []any{aNode("n", has(gpu, "1")), class, aSlice("n", "a:x", "b:x")}, asks(gpu, "2"), "", "0/1 nodes are available: 1 Insufficient example.com/gpu. still not schedulable, preemption", "on n with 1 less example.com/gpu requested."},
		{"the node's own are in use, another has devices", []any{aNode("n", has(gpu, "1")), aPod("x", on("n"), requests(gpu, "1")), m, class, aSlice("m", "a:x")}, asks(gpu, "1"), "m container-0-request-0=m/a", "", ""},
		{"none left of the node's own", []any{aNode("n", has(gpu, "0")), class, aSlice("n", "a:x")}, asks(gpu, "1"), "n container-0-request-0=n/a", "", ""},
		{"the node's own, and devices", []any{aNode("n", has(gpu, "1")), class, aDeviceClass("h"), aSlice("n", "a:x")}, asks(gpu, "1", "deviceclass.resource.kubernetes.io/h", "1"), "n container-0-request-0=n/a", "", ""},
		{"of the younger class", []any{n, class, younger, aSlice("n", "a:x", "b:z")}, asks(gpu, "1"), "n container-0-request-0=n/b", "", ""},
		{"of the first class of two", []any{n, standingFor("h", gpu, isModel("z")), class, aSlice("n", "a:x", "b:z")}, asks(gpu, "1"), "n container-0-request-0=n/a", "", ""},
		{"the younger class's own name only", []any{n, aDeviceClass("g"), younger, aSlice("n", "b:z", "a:x")}, asks(byClass, "1"), "n container-0-request-0=n/b", "", ""},
		{"with a claim of its own", []any{n, class, aSlice("n", "a:x", "b:x"), aDeviceClaim("c", exactly("g", 1))}, aPod("p", requests(gpu, "1"), claiming("c")), "n r=n/a container-0-request-0=n/b", "", ""},
		{"with a claim of its own, of which there is one", []any{n, class, aSlice("n", "a:x"), aDeviceClaim("c", exactly("g", 1))}, aPod("p", requests(gpu, "1"), claiming("c")), "", none,
			"on n with 1 free device of class g for example.com/gpu and devices for the requests of its claim c: r (class g)."},
		{"left of an attempt before", []any{n, class, aSlice("n", "a:x"), aDeviceClaim("old", exactly("g", 1), madeForPod("p"), given([]string{"n/a"}))}, asks(gpu, "1"), "",
			"0/1 nodes are available: 1 cannot schedule extended resource claim. deletion of ResourceClaim completed", ""},
		{"left of another pod", []any{n, class, aSlice("n", "a:x", "b:x"), aDeviceClaim("old", exactly("g", 1), madeForPod("q"), given([]string{"n/a"}))}, asks(gpu, "1"), "n container-0-request-0=n/b", "", ""},
		{"no room", []any{aNode("n", has("cpu", "1")), class, aSlice("n", "a:x")}, asks(gpu, "1", "cpu", "2"), "", "0/1 nodes are available: 1 Insufficient cpu. still not schedulable, preemption", "on n with 1 less cpu requested."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDecider(rand.New(rand.NewPCG(1, 2))).decide(world(tt.objects...), pending(tt.pod))
			got := ""
			if d.node != nil {
				got = strings.Join(append([]string{d.node.name}, devicesIn(d.grants)...), " ")
			}
			advice := ""
			if len(d.remedies) > 0 {
				advice = strings.TrimPrefix(adviceText(d.remedies), "It would fit ")
			}
			if message := d.message(); got != tt.node || d.node == nil && !strings.HasPrefix(message, tt.why) || advice != tt.advice {
				t.Errorf("on %q: %s\n%s\nwant %q: %s\n%s", got, message, advice, tt.node, tt.why, tt.advice)
			}
		})
	}
}

func devicesIn(grants []grant) (out []string) {
	for _, g := range grants {
		for _, r := range g.allocation.Devices.Results {
			out = append(out, r.Request+"="+r.Pool+"/"+r.Device)
		}
	}
	return out
}

// What is requested for which containers, and who uses what of it.
func TestDrafts(t *testing.T) {
	ct := func(kv ...string) corev1.Container {
		return corev1.Container{Resources: corev1.ResourceRequirements{Requests: list(kv...)}}
	}
	sidecar := func(kv ...string) corev1.Container {
		c := ct(kv...)
		c.RestartPolicy = ptrTo(corev1.ContainerRestartPolicyAlways)
		return c
	}
	for _, tt := range []struct {
		name        string
		inits, rest []corev1.Container
		want        string
		uses        string
	}{
		{"one", nil, []corev1.Container{ct("a/x", "2")}, "0-0:2", "c0=0-0"},
		{"side by side", nil, []corev1.Container{ct("a/x", "1"), ct("cpu", "1"), ct("a/x", "2", "a/a", "1")}, "0-0:1 2-1:2", "c0=0-0 c2=2-1"},
		{"init takes what comes later", []corev1.Container{ct("a/x", "2")}, []corev1.Container{ct("a/x", "1"), ct("a/x", "3")}, "1-0:1 2-0:3", "c1=1-0 c2=2-0 c0=1-0 c0=2-0"},
		{"init takes no more than it needs", []corev1.Container{ct("a/x", "1")}, []corev1.Container{ct("a/x", "1"), ct("a/x", "3")}, "1-0:1 2-0:3", "c1=1-0 c2=2-0 c0=1-0"},
		{"init needs more", []corev1.Container{ct("a/x", "5")}, []corev1.Container{ct("a/x", "1"), ct("a/x", "3")}, "0-0:1 1-0:1 2-0:3", "c1=1-0 c2=2-0 c0=1-0 c0=2-0 c0=0-0"},
		{"inits share what they need more", []corev1.Container{ct("a/x", "2"), ct("a/x", "4"), ct("a/x", "1")}, []corev1.Container{ct("a/x", "1")}, "1-0:3 3-0:1", "c3=3-0 c0=3-0 c0=1-0 c1=3-0 c1=1-0 c2=3-0"},
		{"init alone", []corev1.Container{ct("a/x", "2")}, []corev1.Container{ct()}, "0-0:2", "c0=0-0"},
		{"before a sidecar and after it", []corev1.Container{ct("a/x", "1"), sidecar("a/x", "1"), ct("a/x", "1")}, []corev1.Container{ct()}, "1-0:1 2-0:1", "c1=1-0 c0=1-0 c2=2-0"},
		{"a part is a whole one", nil, []corev1.Container{ct("a/x", "500m")}, "0-0:1", "c0=0-0"},
	} {
		p := aPod("p", func(p *corev1.Pod) { p.Spec.InitContainers, p.Spec.Containers = tt.inits, tt.rest })
		for i := range tt.inits {
			p.Spec.InitContainers[i].Name = fmt.Sprint("c", i)
		}
		for i := range tt.rest {
			p.Spec.Containers[i].Name = fmt.Sprint("c", len(tt.inits)+i)
		}
		c := world(standingFor("g", "a/x"))
		cy := &cycle{cluster: c, pod: pending(p), rules: rulesOf(DefaultProfile())}
		d := cy.newDraft([]corev1.ResourceName{"a/x"})
		short := strings.NewReplacer("container-", "", "request-", "")
		var got, uses []string
		total := int64(0)
		for _, r := range d.claim.Spec.Devices.Requests {
			got = append(got, fmt.Sprintf("%s:%d", short.Replace(r.Name), r.Exactly.Count))
			if total += r.Exactly.Count; r.Exactly.DeviceClassName != "g" || r.Exactly.AllocationMode != resourcev1.DeviceAllocationModeExactCount {
				t.Errorf("%s: %+v", tt.name, r.Exactly)
			}
		}
		for _, m := range d.mappings {
			uses = append(uses, m.ContainerName+"="+short.Replace(m.RequestName))
			if m.ResourceName != "a/x" {
				t.Errorf("%s: %+v", tt.name, m)
			}
		}
		if a, b := strings.Join(got, " "), strings.Join(uses, " "); a != tt.want || b != tt.uses {
			t.Errorf("%s: %s, %s\nwant %s, %s", tt.name, a, b, tt.want, tt.uses)
		}
		if want := pending(p).request.more["a/x"]; total != want || d.resources[0].count != want {
			t.Errorf("%s: %d devices, the pod as a whole asks for %d", tt.name, total, want)
		}
	}
}

// made is the one claim that was made for the pod; nil: there is none.
func (l *loop) made(t *testing.T, pod string) (out *resourcev1.ResourceClaim) {
	t.Helper()
	for _, o := range l.Objects(kinds.ResourceClaim) {
		if c := o.(*resourcev1.ResourceClaim); ownerOf(c) == types.UID(pod+"-uid") {
			if out != nil {
				t.Errorf("two claims for %s", pod)
			}
			out = c
		}
	}
	return out
}

func TestPodGetsDevicesForItsExtendedResource(t *testing.T) {
	l := newLoop(t, aNode("n"), aNode("m"), standingFor("g", "a/x"), aSlice("m", "a:x", "b:x"), aPod("p", requests("a/x", "1")), aPod("q", requests("a/x", "1")), aPod("r", requests("a/x", "1")))
	l.steps()
	c := l.made(t, "p")
	if c == nil || l.pod("p").Spec.NodeName != "m" || l.pod("q").Spec.NodeName != "m" || l.pod("r").Spec.NodeName != "" {
		t.Fatalf("p on %q, q on %q: %+v\n%s", l.pod("p").Spec.NodeName, l.pod("q").Spec.NodeName, c, l.events)
	}
	if !strings.HasPrefix(c.Name, "p-extended-resources-") || !slices.Equal(c.Finalizers, []string{resourcev1.Finalizer}) || c.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" {
		t.Errorf("%+v", c.ObjectMeta)
	}
	if r := c.OwnerReferences; len(r) != 1 || r[0].APIVersion != "v1" || r[0].Kind != "Pod" || r[0].Name != "p" || r[0].UID != "p-uid" || !*r[0].Controller {
		t.Errorf("%+v", r)
	}
	if r := c.Status.ReservedFor; len(r) != 1 || r[0].UID != "p-uid" || c.Status.Allocation == nil {
		t.Errorf("%+v", c.Status)
	}
	s := l.pod("p").Status.ExtendedResourceClaimStatus
	if want := (corev1.ContainerExtendedResourceRequest{ContainerName: "c", ResourceName: "a/x", RequestName: "container-0-request-0"}); s == nil || s.ResourceClaimName != c.Name || !slices.Equal(s.RequestMappings, []corev1.ContainerExtendedResourceRequest{want}) {
		t.Errorf("%+v", s)
	}
	l.noDeviceIsPromised(t)
	// The third has its turn once the first is gone with its claim.
	l.Now = l.Now.Add(time.Hour)
	l.Remove(kinds.ResourceClaim, c.Namespace, c.Name)
	if l.steps(); l.pod("r").Spec.NodeName != "m" {
		t.Errorf("%s", l.events)
	}
	l.noDeviceIsPromised(t)
}

// Pods that are decided before anything is written do not get the same device.
func TestPromisesForExtendedResources(t *testing.T) {
	l := newLoop(t, aNode("n"), standingFor("g", "a/x"), aSlice("n", "a:x", "b:x"))
	for i := range 3 {
		l.put(aPod(fmt.Sprint("p", i), requests("a/x", "1")))
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
	seen := map[string]bool{}
	for _, o := range l.Objects(kinds.ResourceClaim) {
		for _, r := range o.(*resourcev1.ResourceClaim).Status.Allocation.Devices.Results {
			if seen[r.Device] {
				t.Errorf("%s is given twice", r.Device)
			}
			seen[r.Device] = true
		}
	}
	if len(seen) != 2 || l.pod("p2").Spec.NodeName != "" {
		t.Errorf("%v, p2 on %q\n%s", seen, l.pod("p2").Spec.NodeName, l.events)
	}
	l.noDeviceIsPromised(t)
}

// Until the view shows the claim, and that its pod is bound, others do not get
// the same device.
func TestMadeClaimIsKnownAtOnce(t *testing.T) {
	l := newLoop(t, aNode("n"), standingFor("g", "a/x"), aSlice("n", "a:x"), aPod("p", requests("a/x", "1")), aPod("q", requests("a/x", "1")))
	l.s.start()
	l.s.absorb()
	l.Lag = true
	l.steps()
	if l.pod("p").Spec.NodeName != "n" || l.pod("q").Spec.NodeName != "" || l.made(t, "q") != nil {
		t.Errorf("p on %q, q on %q\n%s", l.pod("p").Spec.NodeName, l.pod("q").Spec.NodeName, l.events)
	}
	l.Lag = false
	l.Deliver(nil)
	l.steps()
	l.noDeviceIsPromised(t)
	// One that has gone before its making is known does not come back.
	l = newLoop(t, aNode("n"), standingFor("g", "a/x"), aSlice("n", "a:x"), aPod("p", requests("a/x", "1")))
	l.s.start()
	l.s.absorb()
	var held func(context.Context) result
	l.s.schedule(l.s.queue.pop(l.Now), func(do func(context.Context) result) { held = do })
	r := held(context.Background())
	l.Remove(kinds.ResourceClaim, "default", l.made(t, "p").Name)
	l.s.absorb()
	l.s.report(r)
	l.steps()
	if n := len(l.s.cluster.deviceClaims); n != 0 || l.pod("p").Spec.NodeName != "" {
		t.Errorf("%d claims, p on %q", n, l.pod("p").Spec.NodeName)
	}
	l.noDeviceIsPromised(t)
	l.Now = l.Now.Add(2 * time.Second)
	if l.steps(); l.pod("p").Spec.NodeName != "n" {
		t.Errorf("%s", l.events)
	}
}

// Nothing is left of an attempt that fails, and the next one succeeds.
func TestFailuresWithExtendedResources(t *testing.T) {
	no := apierrors.NewInternalError(errors.New("no"))
	for _, tt := range []struct {
		name string
		fail string // verb, resource and subresource; empty: the binding
		want string
	}{
		{"not made", "create resourceclaims", `running PreBind plugin "DynamicResources": create claim for extended resources p-extended-resources-: Internal error occurred: no`},
		{"not protected", "update resourceclaims", "add finalizer to claim default/p-extended-resources-"},
		{"not allocated", "update resourceclaims/status", "add allocation and reservation to claim default/p-extended-resources-"},
		{"not told", "patch pods/status", "update pod default/p ExtendedResourceClaimStatus: Internal error occurred: no"},
		{"not bound", "", "cannot bind to n: Internal error occurred: no"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLoop(t, aNode("n"), standingFor("g", "a/x"), aSlice("n", "a:x"), aPod("p", requests("a/x", "1")))
			failed := false
			l.Hook = func(v plan.Verb, ref kinds.Ref, _ runtime.Object) error {
				at := strings.ToLower(string(v)) + " " + ref.Kind.Resource
				if ref.Sub != "" {
					at += "/" + ref.Sub
				}
				if at == tt.fail && !failed {
					failed = true
					return no
				}
				return nil
			}
			if tt.fail == "" {
				l.fail = func(string) error { return no }
			}
			if l.steps(); l.made(t, "p") != nil || !strings.Contains(l.events.String(), tt.want) || l.pod("p").Spec.NodeName != "" {
				t.Errorf("%+v\n%s", l.made(t, "p"), l.events)
			}
			l.noDeviceIsPromised(t)
			l.fail = nil
			l.Now = l.Now.Add(2 * time.Second)
			l.steps()
			c := l.made(t, "p")
			if c == nil || l.pod("p").Spec.NodeName != "n" || l.pod("p").Status.ExtendedResourceClaimStatus.ResourceClaimName != c.Name {
				t.Errorf("%+v\n%s", c, l.events)
			}
			l.noDeviceIsPromised(t)
		})
	}
}

// What a scheduler has left that was stopped goes, but not if the pod got its
// node all the same; and its like of the same class does not hide it.
func TestStaleClaim(t *testing.T) {
	old := func() *resourcev1.ResourceClaim {
		return aDeviceClaim("old", exactly("g", 1), madeForPod("p"), given([]string{"n/a"}), reservedFor("p"))
	}
	l := newLoop(t, aNode("n"), standingFor("g", "a/x"), aSlice("n", "a:x"), aPod("o", requests("a/x", "1")), old(), aPod("p", requests("a/x", "1")))
	l.steps()
	c := l.made(t, "p")
	if c != nil || !strings.Contains(l.events.String(), "p Warning FailedScheduling: 0/1 nodes are available: 1 cannot schedule extended resource claim. deletion of ResourceClaim completed") {
		t.Errorf("%+v\n%s", c, l.events)
	}
	l.Now = l.Now.Add(time.Minute)
	l.steps()
	if (l.pod("o").Spec.NodeName == "") == (l.pod("p").Spec.NodeName == "") {
		t.Errorf("o on %q, p on %q\n%s", l.pod("o").Spec.NodeName, l.pod("p").Spec.NodeName, l.events)
	}
	l.noDeviceIsPromised(t)

	l = newLoop(t, aNode("n"), standingFor("g", "a/x"), aSlice("n", "a:x"), aDeviceClaim("old", exactly("g", 1), madeForPod("p")), aPod("p", requests("a/x", "1")))
	l.steps()
	l.Now = l.Now.Add(time.Minute)
	if l.steps(); l.pod("p").Spec.NodeName != "n" || l.made(t, "p").Name == "old" {
		t.Errorf("one that has nothing yet is in the way\n%s", l.events)
	}

	l = newLoop(t, aNode("n"), standingFor("g", "a/x"), aSlice("n", "a:x"), old(), aPod("p", requests("a/x", "1")))
	l.Lag = true
	l.put(aPod("p", requests("a/x", "1"), on("n"))) // not seen so
	if l.steps(); l.made(t, "p") == nil {
		t.Errorf("a pod that is bound has lost its claim")
	}
}

func TestWhatWakesPodsWithExtendedResources(t *testing.T) {
	put := func(objects ...any) func(*loop) { return func(l *loop) { l.put(objects...) } }
	for _, tt := range []struct {
		name         string
		objects      []any
		change       func(*loop)
		wakes, helps bool
	}{
		{"the class comes", []any{aNode("n"), aSlice("n", "a:x")}, put(standingFor("g", "a/x")), true, true},
		{"another class comes", []any{aNode("n"), aSlice("n", "a:x")}, put(standingFor("g", "a/y")), false, false},
		{"another class comes, while the node's own are in use", []any{aNode("n", has("a/x", "1")), aPod("x", on("n"), requests("a/x", "1")), standingFor("g", "a/x")}, put(standingFor("h", "a/y")), false, false},
		{"a class gets the name", []any{aNode("n"), aSlice("n", "a:x"), aDeviceClass("g")}, put(standingFor("g", "a/x")), true, true},
		{"devices come", []any{aNode("n"), standingFor("g", "a/x")}, put(aSlice("n", "a:x")), true, true},
		{"the node's own come", []any{aNode("n"), standingFor("g", "a/x")}, put(aNode("n", has("a/x", "1"))), true, true},
		{"the node's own go", []any{aNode("n", has("a/x", "1")), aPod("x", on("n"), requests("a/x", "1")), aSlice("n", "a:x"), standingFor("g", "a/x")}, put(aNode("n")), true, true},
		{"a claim goes", []any{aNode("n"), standingFor("g", "a/x"), aSlice("n", "a:x"), aDeviceClaim("d", exactly("g", 1), given([]string{"n/a"}))}, func(l *loop) { l.Remove(kinds.ResourceClaim, "default", "d") }, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLoop(t, append(slices.Clip(tt.objects), aPod("p", requests("a/x", "1")))...)
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

// Nobody has to go for devices: those stay with their claims. Nor is a node too
// full of what devices serve.
func TestNobodyGoesForDevices(t *testing.T) {
	c := world(aNode("n"), standingFor("g", "a/x"), aSlice("n", "a:x"), aPod("x", on("n"), requests("a/x", "1"), priority(-1)), aDeviceClaim("d", exactly("g", 1), madeForPod("x"), given([]string{"n/a"})))
	d := newDecider(rand.New(rand.NewPCG(1, 2))).decide(c, pending(aPod("p", requests("a/x", "1"), priority(5))))
	if d.room != nil || !strings.Contains(d.message(), "Preemption is not helpful for scheduling") {
		t.Errorf("%+v %s", d.room, d.message())
	}
	c.place(placed(aPod("y", on("n"), requests("a/x", "1", "cpu", "4"), priority(-1))), "n")
	c.take(aSlice("n", "a:x", "b:x"), false)
	d = newDecider(rand.New(rand.NewPCG(1, 2))).decide(c, pending(aPod("p", requests("a/x", "1", "cpu", "4"), priority(5))))
	if d.room == nil || len(d.room.victims) != 1 || d.room.victims[0].obj.Name != "y" {
		t.Errorf("%+v %s", d.room, d.message())
	}
}

// A device in parts is counted once while its claim is being made.
func TestSharedDeviceForExtendedResource(t *testing.T) {
	s := aSlice("n", "a:x")
	s.Spec.Devices[0].AllowMultipleAllocations = ptrTo(true)
	s.Spec.Devices[0].Capacity = map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"slots": {Value: resource.MustParse("2"), RequestPolicy: &resourcev1.CapacityRequestPolicy{Default: ptrTo(resource.MustParse("1")), ValidValues: []resource.Quantity{resource.MustParse("1")}}}}
	l := newLoop(t, aNode("n"), standingFor("g", "a/x"), s)
	for i := range 3 {
		l.put(aPod(fmt.Sprint("p", i), requests("a/x", "1")))
	}
	l.steps()
	if len(l.s.cluster.taken.AllocatedSharedDeviceIDs) != 2 || l.pod("p0").Spec.NodeName != "n" || l.pod("p1").Spec.NodeName != "n" || l.pod("p2").Spec.NodeName != "" {
		t.Errorf("%v\n%s", l.s.cluster.taken.AllocatedSharedDeviceIDs, l.events)
	}
	l.noDeviceIsPromised(t)
}

// A profile that does not look at devices leaves nothing to them.
func TestExtendedResourcesByProfile(t *testing.T) {
	c := world(aNode("n"), standingFor("g", "a/x"), aSlice("n", "a:x"))
	d := deciderWith(func(p *Profile) {
		p.Filters = maps.Clone(p.Filters)
		p.Filters[dynamicResources{}.Name()] = false
	}).decide(c, pending(aPod("p", requests("a/x", "1"))))
	if d.node != nil || !strings.HasPrefix(d.why, "0/1 nodes are available: 1 Insufficient a/x.") {
		t.Errorf("%+v %s", d.node, d.why)
	}
}

// What is given away of devices counts at once, though the node is the same.
func TestScoresFollowDevices(t *testing.T) {
	c := world(aNode("a"), aNode("b"), standingFor("g", widget), aSlice("a", "a:x", "b:x", "c:x"), aSlice("b", "a:x", "b:x", "c:x"))
	d := deciderWith(strategy(configv1.MostAllocated, widget, 100))
	for i, on := range []string{"b", "a", "b"} {
		c.take(aDeviceClaim(fmt.Sprint("d", i), exactly("g", 1), given(map[string][]string{"a": {"a/a", "a/b"}, "b": {"b/" + string(rune('a'+i))}}[on])), false)
		if on == "b" && i > 0 {
			c.take(aDeviceClaim("d1", exactly("g", 1)), false) // given back
		}
		dec := d.decide(c, d.classes.pending(aPod(fmt.Sprint("p", i), requests(widget, "1"))))
		if dec.node == nil || dec.node.name != on {
			t.Errorf("%d: on %v, want %s: %s", i, dec.node, on, dec.why)
		}
	}
}
