package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
)

const driver = "d.example.com"

// aSlice is a pool of its own on a node, of devices that have a model.
func aSlice(node string, devices ...string) *resourcev1.ResourceSlice {
	s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s-" + node}}
	s.Spec = resourcev1.ResourceSliceSpec{Driver: driver, NodeName: &node, Pool: resourcev1.ResourcePool{Name: node, ResourceSliceCount: 1}}
	for _, d := range devices {
		name, model, _ := strings.Cut(d, ":")
		s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{Name: name, Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"model": {StringValue: &model}}})
	}
	return s
}

// everywhere makes the slice one that all nodes reach.
func everywhere(s *resourcev1.ResourceSlice) *resourcev1.ResourceSlice {
	s.Spec.NodeName, s.Spec.AllNodes = nil, ptrTo(true)
	return s
}

func ptrTo[T any](v T) *T { return &v }

func aDeviceClass(name string, selectors ...string) *resourcev1.DeviceClass {
	c := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, s := range selectors {
		c.Spec.Selectors = append(c.Spec.Selectors, resourcev1.DeviceSelector{CEL: &resourcev1.CELDeviceSelector{Expression: s}})
	}
	return c
}

func exactly(class string, count int64, selectors ...string) *resourcev1.ExactDeviceRequest {
	return &resourcev1.ExactDeviceRequest{DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: count, Selectors: aDeviceClass("", selectors...).Spec.Selectors}
}

// aDeviceClaim for one request, r, unless the options say otherwise.
func aDeviceClaim(name string, r *resourcev1.ExactDeviceRequest, opts ...func(*resourcev1.ResourceClaim)) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name + "-uid")}}
	if r != nil {
		c.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "r", Exactly: r}}
	}
	for _, o := range opts {
		o(c)
	}
	return c
}

// given devices of pools, each as "pool/device"; on: only those nodes reach them.
func given(devices []string, on ...string) func(*resourcev1.ResourceClaim) {
	return func(c *resourcev1.ResourceClaim) {
		a := &resourcev1.AllocationResult{}
		for _, d := range devices {
			pool, device, _ := strings.Cut(d, "/")
			a.Devices.Results = append(a.Devices.Results, resourcev1.DeviceRequestAllocationResult{Request: "r", Driver: driver, Pool: pool, Device: device})
		}
		if len(on) > 0 {
			a.NodeSelector = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: on}}}}}
		}
		c.Status.Allocation = a
		c.Finalizers = []string{resourcev1.Finalizer}
	}
}

func reservedFor(pods ...string) func(*resourcev1.ResourceClaim) {
	return func(c *resourcev1.ResourceClaim) {
		for _, p := range pods {
			c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p, UID: types.UID(p + "-uid")})
		}
	}
}

// claiming has a pod use claims, each of that name; "t:name" is one that is made
// from a template and has that name.
func claiming(names ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for i, name := range names {
			c := corev1.PodResourceClaim{Name: fmt.Sprint("c", i)}
			if made, ok := strings.CutPrefix(name, "t:"); ok {
				c.ResourceClaimTemplateName = ptrTo("t")
				if made != "" {
					p.Status.ResourceClaimStatuses = append(p.Status.ResourceClaimStatuses, corev1.PodResourceClaimStatus{Name: c.Name, ResourceClaimName: &made})
				}
			} else {
				c.ResourceClaimName = &name
			}
			p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, c)
		}
	}
}

func ownedBy(pod string) func(*resourcev1.ResourceClaim) {
	return func(c *resourcev1.ResourceClaim) {
		c.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(aPod(pod), kinds.Pod.GVK)}
	}
}

func taintRule(name, pool, device string, effect resourcev1.DeviceTaintEffect) *resourcev1.DeviceTaintRule {
	return &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.DeviceTaintRuleSpec{
		DeviceSelector: &resourcev1.DeviceTaintSelector{Pool: &pool, Device: &device}, Taint: resourcev1.DeviceTaint{Key: "k", Effect: effect}}}
}

func isModel(m string) string {
	return fmt.Sprintf(`device.attributes[%q].model == %q`, driver, m)
}

func TestDevices(t *testing.T) {
	n, m, class := aNode("n"), aNode("m"), aDeviceClass("any")
	one := func(name string, opts ...func(*resourcev1.ResourceClaim)) *resourcev1.ResourceClaim {
		return aDeviceClaim(name, exactly("any", 1), opts...)
	}
	const none = "0/1 nodes are available: 1 cannot allocate all claims."
	for _, tt := range []struct {
		name    string
		objects []any
		pod     *corev1.Pod
		node    string
		why     string
	}{
		{"the node that has one", []any{n, m, class, aSlice("m", "a:x"), one("c")}, aPod("p", claiming("c")), "m", ""},
		{"none anywhere", []any{n, class, one("c")}, aPod("p", claiming("c")), "", none},
		{"taken", []any{n, class, aSlice("n", "a:x"), one("d", given([]string{"n/a"})), one("c")}, aPod("p", claiming("c")), "", none},
		{"one of two is taken", []any{n, class, aSlice("n", "a:x", "b:x"), one("d", given([]string{"n/a"})), one("c")}, aPod("p", claiming("c")), "n", ""},
		{"taken twice by mistake, given back once", []any{n, class, aSlice("n", "a:x"), one("d", given([]string{"n/a"})), one("e", given([]string{"n/a"})), one("d"), one("c")}, aPod("p", claiming("c")), "", none},
		{"two claims, one device", []any{n, class, aSlice("n", "a:x"), one("c"), one("d")}, aPod("p", claiming("c", "d")), "", none},
		{"the same claim twice", []any{n, class, aSlice("n", "a:x"), one("c")}, aPod("p", claiming("c", "c")), "n", ""},
		{"two of a claim on no node", []any{n, m, class, aSlice("n", "a:x"), aSlice("m", "a:x"), aDeviceClaim("c", exactly("any", 2))}, aPod("p", claiming("c")), "", "0/2 nodes are available: 2 cannot allocate all claims."},
		{"network devices", []any{n, class, everywhere(aSlice("x", "a:x")), one("c")}, aPod("p", claiming("c")), "n", ""},
		{"selected by the class", []any{n, m, aDeviceClass("y", isModel("y")), aSlice("n", "a:x"), aSlice("m", "a:y"), aDeviceClaim("c", exactly("y", 1))}, aPod("p", claiming("c")), "m", ""},
		{"selected by the claim", []any{n, m, class, aSlice("n", "a:x"), aSlice("m", "a:y"), aDeviceClaim("c", exactly("any", 1, isModel("y")))}, aPod("p", claiming("c")), "m", ""},
		{"a selector that fails", []any{n, class, aSlice("n", "a:x"), aDeviceClaim("c", exactly("any", 1, `device.attributes["other"].model == "x"`))}, aPod("p", claiming("c")), "",
			"0/1 nodes are available: 1 claim default/c: selector #0 on device d.example.com/n/a: CEL runtime error: no such key: model. consider using CEL optional chaining (.? followed by orValue()) or guarding the check with has() for optional fields."},
		{"has what it needs, elsewhere", []any{n, m, class, one("c", given([]string{"m/a"}, "m"))}, aPod("p", claiming("c")), "m", ""},
		{"has what it needs, on no node", []any{n, class, one("c", given([]string{"m/a"}, "m"))}, aPod("p", claiming("c")), "", "0/1 nodes are available: 1 resourceclaim not available on the node."},
		{"shared with another pod", []any{n, class, one("c", given([]string{"n/a"}, "n"), reservedFor("x"))}, aPod("p", claiming("c")), "n", ""},
		{"no claim", []any{n}, aPod("p", claiming("c")), "", `0/1 nodes are available: could not find ResourceClaim "default/c".`},
		{"no claim yet", []any{n}, aPod("p", claiming("t:")), "", `0/1 nodes are available: pod "default/p": ResourceClaim not created yet.`},
		{"made for it", []any{n, class, aSlice("n", "a:x"), one("made", ownedBy("p"))}, aPod("p", claiming("t:made")), "n", ""},
		{"made for another", []any{n, class, one("made", ownedBy("q"))}, aPod("p", claiming("t:made")), "", "0/1 nodes are available: ResourceClaim default/made was not created for Pod default/p (Pod is not owner)."},
		{"going", []any{n, class, one("c", func(c *resourcev1.ResourceClaim) { c.DeletionTimestamp = &metav1.Time{} })}, aPod("p", claiming("c")), "", `0/1 nodes are available: resourceclaim "c" is being deleted.`},
		{"used by as many as may", []any{n, class, one("c", given([]string{"n/a"}), reservedFor(slices.Repeat([]string{"x"}, 256)...))}, aPod("p", claiming("c")), "", "0/1 nodes are available: resourceclaim in use."},
		{"no class", []any{n, aSlice("n", "a:x"), one("c")}, aPod("p", claiming("c")), "", "0/1 nodes are available: request r: device class any does not exist."},
		{"no class of an alternative", []any{n, aDeviceClaim("c", nil, choosing("any"))}, aPod("p", claiming("c")), "", "0/1 nodes are available: request r/any: device class any does not exist."},
		{"tainted", []any{n, class, aSlice("n", "a:x"), taintRule("t", "n", "a", resourcev1.DeviceTaintEffectNoSchedule), one("c")}, aPod("p", claiming("c")), "", none},
		{"tainted to evict", []any{n, class, aSlice("n", "a:x"), taintRule("t", "n", "a", resourcev1.DeviceTaintEffectNoExecute), one("c")}, aPod("p", claiming("c")), "", none},
		{"tainted for information", []any{n, class, aSlice("n", "a:x"), taintRule("t", "n", "a", resourcev1.DeviceTaintEffectNone), one("c")}, aPod("p", claiming("c")), "n", ""},
		{"another is tainted", []any{n, class, aSlice("n", "a:x", "b:x"), taintRule("t", "n", "a", resourcev1.DeviceTaintEffectNoSchedule), one("c")}, aPod("p", claiming("c")), "n", ""},
		{"tolerated", []any{n, class, aSlice("n", "a:x"), taintRule("t", "n", "a", resourcev1.DeviceTaintEffectNoSchedule), one("c", func(c *resourcev1.ResourceClaim) {
			c.Spec.Devices.Requests[0].Exactly.Tolerations = []resourcev1.DeviceToleration{{Key: "k", Operator: resourcev1.DeviceTolerationOpExists}}
		})}, aPod("p", claiming("c")), "n", ""},
		{"for an administrator, though it is taken", []any{n, class, aSlice("n", "a:x"), one("d", given([]string{"n/a"})), one("c", administers)}, aPod("p", claiming("c")), "n", ""},
		{"an administrator takes nothing", []any{n, class, aSlice("n", "a:x"), one("d", given([]string{"n/a"}), func(c *resourcev1.ResourceClaim) { c.Status.Allocation.Devices.Results[0].AdminAccess = ptrTo(true) }), one("c")}, aPod("p", claiming("c")), "n", ""},
		{"all of a node", []any{n, m, class, aSlice("n", "a:x", "b:x"), aSlice("m", "a:x"), one("d", given([]string{"n/a"})), one("c", all)}, aPod("p", claiming("c")), "m", ""},
		{"an old generation", []any{n, class, generation(aSlice("n", "a:x"), 1), func() any {
			s := generation(aSlice("n"), 2)
			s.Name = "newer"
			return s
		}(), one("c")}, aPod("p", claiming("c")), "", none},
		{"an incomplete pool, all of it", []any{n, class, func() any { s := aSlice("n", "a:x"); s.Spec.Pool.ResourceSliceCount = 2; return s }(), one("c", all)}, aPod("p", claiming("c")), "",
			"0/1 nodes are available: 1 claim default/c, request r: asks for all devices, but resource pool d.example.com/n is currently being updated."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			node, why := decideFor(world(tt.objects...), tt.pod)
			if node != tt.node || why != tt.why {
				t.Errorf("on %q: %s\nwant %q: %s", node, why, tt.node, tt.why)
			}
		})
	}
}

func administers(c *resourcev1.ResourceClaim) {
	c.Spec.Devices.Requests[0].Exactly.AdminAccess = ptrTo(true)
}

func all(c *resourcev1.ResourceClaim) {
	r := c.Spec.Devices.Requests[0].Exactly
	r.AllocationMode, r.Count = resourcev1.DeviceAllocationModeAll, 0
}

func generation(s *resourcev1.ResourceSlice, n int64) *resourcev1.ResourceSlice {
	s.Spec.Pool.Generation = n
	return s
}

// choosing among classes, the first first; each alternative bears its class's name.
func choosing(classes ...string) func(*resourcev1.ResourceClaim) {
	return func(c *resourcev1.ResourceClaim) {
		r := resourcev1.DeviceRequest{Name: "r"}
		for _, class := range classes {
			r.FirstAvailable = append(r.FirstAvailable, resourcev1.DeviceSubRequest{Name: class, DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1})
		}
		c.Spec.Devices.Requests = append(c.Spec.Devices.Requests, r)
	}
}

// What is wanted most goes before other reasons to take a node.
func TestFirstChoiceOfDevices(t *testing.T) {
	objects := []any{aNode("n"), aNode("m", has("cpu", "2")), aDeviceClass("x", isModel("x")), aDeviceClass("y", isModel("y")), aSlice("n", "a:x"), aSlice("m", "a:y"), aDeviceClaim("c", nil, choosing("y", "x"))}
	c := world(objects...)
	d := newDecider(rand.New(rand.NewPCG(1, 2))).decide(c, pending(aPod("p", claiming("c"))))
	if d.node == nil || d.node.name != "m" || len(d.grants) != 1 || d.grants[0].allocation.Devices.Results[0].Request != "r/y" {
		t.Fatalf("%+v %s", d, d.why)
	}
	c.take(aDeviceClaim("other", exactly("y", 1), given([]string{"m/a"})), false)
	d = newDecider(rand.New(rand.NewPCG(1, 2))).decide(c, pending(aPod("p", claiming("c"))))
	if d.node == nil || d.node.name != "n" || d.grants[0].allocation.Devices.Results[0].Request != "r/x" {
		t.Fatalf("%+v %s", d, d.why)
	}
}

// Parts of one device: counters that partitions share, and capacity that claims
// consume.
func TestPartsOfDevices(t *testing.T) {
	half := resource.MustParse("1")
	partitioned := aSlice("n", "a:x", "b:x")
	for i := range partitioned.Spec.Devices {
		partitioned.Spec.Devices[i].ConsumesCounters = []resourcev1.DeviceCounterConsumption{{CounterSet: "set", Counters: map[string]resourcev1.Counter{"part": {Value: half}}}}
	}
	partitioned.Spec.Pool.ResourceSliceCount = 2
	counters := aSlice("n")
	counters.Name, counters.Spec.Pool.ResourceSliceCount = "counters", 2
	counters.Spec.SharedCounters = []resourcev1.CounterSet{{Name: "set", Counters: map[string]resourcev1.Counter{"part": {Value: half}}}}
	shared := aSlice("n", "a:x")
	shared.Spec.Devices[0].AllowMultipleAllocations = ptrTo(true)
	shared.Spec.Devices[0].Capacity = map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"memory": {Value: resource.MustParse("3Gi")}}
	share := func(id, size string) func(*resourcev1.ResourceClaim) {
		return func(c *resourcev1.ResourceClaim) {
			given([]string{"n/a"})(c)
			r := &c.Status.Allocation.Devices.Results[0]
			r.ShareID, r.ConsumedCapacity = ptrTo(types.UID(id)), map[resourcev1.QualifiedName]resource.Quantity{"memory": resource.MustParse(size)}
		}
	}
	wants := func(size string) func(*resourcev1.ResourceClaim) {
		return func(c *resourcev1.ResourceClaim) {
			c.Spec.Devices.Requests[0].Exactly.Capacity = &resourcev1.CapacityRequirements{Requests: map[resourcev1.QualifiedName]resource.Quantity{"memory": resource.MustParse(size)}}
		}
	}
	one := func(name string, opts ...func(*resourcev1.ResourceClaim)) *resourcev1.ResourceClaim {
		return aDeviceClaim(name, exactly("any", 1), opts...)
	}
	for _, tt := range []struct {
		name    string
		objects []any
		fits    bool
	}{
		{"a partition", []any{partitioned, counters, one("c")}, true},
		{"another partition", []any{partitioned, counters, one("d", given([]string{"n/a"})), one("c")}, false},
		{"a share", []any{shared, one("c", wants("2Gi"))}, true},
		{"the rest", []any{shared, one("d", share("1", "1Gi")), one("c", wants("2Gi"))}, true},
		{"more than the rest", []any{shared, one("d", share("1", "1Gi")), one("e", share("2", "1Gi")), one("c", wants("2Gi"))}, false},
		{"what was given back", []any{shared, one("d", share("1", "1Gi")), one("e", share("2", "1Gi")), one("d"), one("c", wants("2Gi"))}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := world(append([]any{aNode("n"), aDeviceClass("any")}, tt.objects...)...)
			d := newDecider(rand.New(rand.NewPCG(1, 2))).decide(c, pending(aPod("p", claiming("c"))))
			if (d.node != nil) != tt.fits {
				t.Errorf("%+v", d)
			}
		})
	}
}

// What is said of devices in the message, and what would help.
func TestDeviceMessages(t *testing.T) {
	n, class := aNode("n"), aDeviceClass("any")
	for _, tt := range []struct {
		name    string
		objects []any
		want    string
	}{
		{"no device", []any{n, class, aDeviceClaim("c", exactly("any", 1))},
			"0/1 nodes are available: 1 cannot allocate all claims. still not schedulable, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling. It would fit on n with devices for the requests of its claim c: r (class any)."},
		{"no class", []any{n, aDeviceClaim("c", exactly("any", 1))},
			"0/1 nodes are available: request r: device class any does not exist. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		{"elsewhere", []any{n, class, aDeviceClaim("c", exactly("any", 1), given([]string{"m/a"}, "m"), reservedFor("x"))},
			"0/1 nodes are available: 1 resourceclaim not available on the node. still not schedulable, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		{"elsewhere, for nobody", []any{n, class, aDeviceClaim("c", exactly("any", 1), given([]string{"m/a"}, "m"))},
			"0/1 nodes are available: 1 resourceclaim not available on the node. deallocation of ResourceClaim completed, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
	} {
		d := newDecider(rand.New(rand.NewPCG(1, 2))).decide(world(tt.objects...), pending(aPod("p", claiming("c"))))
		if d.message() != tt.want {
			t.Errorf("%s: %s\nwant %s", tt.name, d.message(), tt.want)
		}
	}
}

// The search for devices may not hold up everybody else: for all nodes together
// it has its time.
func TestSearchForDevicesEnds(t *testing.T) {
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprint("d", i, ":", i))
	}
	claim := aDeviceClaim("c", nil)
	for i := range 16 {
		claim.Spec.Devices.Requests = append(claim.Spec.Devices.Requests, resourcev1.DeviceRequest{Name: fmt.Sprint("r", i), Exactly: exactly("any", 1)})
	}
	// All but the last can be had in very many ways, but never all.
	claim.Spec.Devices.Requests = append(claim.Spec.Devices.Requests, resourcev1.DeviceRequest{Name: "last", Exactly: exactly("any", 1, isModel("none"))})
	c := world(aNode("n"), aNode("m"), aDeviceClass("any"), aSlice("n", names...), aSlice("m", names...), claim)
	p := DefaultProfile()
	p.Devices.FilterTimeout = &metav1.Duration{Duration: 20_000_000}
	d := deciderBy(rulesOf(p), nil, rand.New(rand.NewPCG(1, 2))).decide(c, pending(aPod("p", claiming("c"))))
	if want := "0/2 nodes are available: 2 timed out trying to allocate devices."; d.why != want {
		t.Errorf("%s, want %s", d.why, want)
	}
}

// A pod without claims is not asked about devices, and remembers nothing of them.
func TestPlainPodsCostNothing(t *testing.T) {
	c := world(aNode("n"), aDeviceClass("any"), aSlice("n", "a:x"))
	d := newDecider(rand.New(rand.NewPCG(1, 2)))
	p := pending(aPod("p"))
	cy := d.cycle(c, p, d.classes.of(p))
	n := c.byName["n"]
	if got := testing.AllocsPerRun(100, func() { dynamicResources{}.Fits(cy, n) }); got != 0 || cy.podDevices != nil {
		t.Errorf("%v allocations, %+v", got, cy.podDevices)
	}
}
