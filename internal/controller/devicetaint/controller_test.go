package devicetaint

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/metricstest"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

// said is the condition of a patch, in short.
func said(t *testing.T, data []byte) string {
	t.Helper()
	var r resourcev1.DeviceTaintRule
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	c, since := r.Status.Conditions[0], "then"
	if c.LastTransitionTime.Time.Equal(noon) {
		since = "now"
	}
	return fmt.Sprint(c.Status, " ", since, " ", c.Reason, " ", c.Message)
}

// claim with device one of a pool, for pods of these names.
func claim(name string, users ...string) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, UID: types.UID("u-" + name)}}
	c.Status.Allocation = &resourcev1.AllocationResult{}
	c.Status.Allocation.Devices.Results = []resourcev1.DeviceRequestAllocationResult{{Driver: "d", Pool: "pool", Device: "one"}}
	for _, u := range users {
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: u, UID: types.UID("u-" + u)})
	}
	return c
}

func tolerating(c *resourcev1.ResourceClaim, list ...resourcev1.DeviceToleration) *resourcev1.ResourceClaim {
	c.Status.Allocation.Devices.Results[0].Tolerations = list
	return c
}

// slice of the pool with devices one and two, of which one may be tainted.
func slice(name string, generation int64, taints ...*resourcev1.DeviceTaint) *resourcev1.ResourceSlice {
	s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name}}
	s.Spec.Driver, s.Spec.Pool = "d", resourcev1.ResourcePool{Name: "pool", Generation: generation, ResourceSliceCount: 1}
	s.Spec.Devices = []resourcev1.Device{{Name: "one"}, {Name: "two"}}
	for _, t := range taints {
		s.Spec.Devices[0].Taints = append(s.Spec.Devices[0].Taints, *t)
	}
	return s
}

// ruled is a rule about the devices that its selector names: driver, pool, device.
func ruled(effect resourcev1.DeviceTaintEffect, names ...string) *resourcev1.DeviceTaintRule {
	r := &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: "r", UID: "u-r", Generation: 1}}
	r.Spec.Taint, r.Spec.DeviceSelector = *taint("k=v", 0), &resourcev1.DeviceTaintSelector{}
	r.Spec.Taint.Effect = effect
	for i, to := range []**string{&r.Spec.DeviceSelector.Driver, &r.Spec.DeviceSelector.Pool, &r.Spec.DeviceSelector.Device} {
		if i < len(names) && names[i] != "" {
			*to = &names[i]
		}
	}
	return r
}

// cluster is a world that both controllers tend, from noon on.
type cluster struct {
	*reconciletest.World
	t     *testing.T
	tally *Tally
	r     *reconcile.Runtime
	rng   *rand.Rand
}

func run(t *testing.T, there ...kinds.Object) *cluster {
	ks := []*kinds.Kind{kinds.Pod, kinds.ResourceClaim, kinds.ResourceSlice, kinds.DeviceTaintRule}
	c := &cluster{World: reconciletest.New(ks, view.SharedOf(ks)...), t: t}
	c.Now = noon
	c.put(there...)
	c.restart()
	c.rest()
	return c
}

// restart as a new process would.
func (c *cluster) restart() {
	if c.r != nil {
		c.r.Stop()
	}
	c.tally = NewTally()
	r, err := reconcile.New(reconcile.Config{
		Controllers: []reconcile.Controller{Pods(c.tally), Rules(c.tally)}, View: c.View, Client: func(string) client.Client { return c },
		Now: func() time.Time { return c.Now }, Rand: rand.New(rand.NewPCG(1, 2)),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(r.Stop)
	c.r, c.rng = r, rand.New(rand.NewPCG(3, 4))
}

func (c *cluster) put(list ...kinds.Object) {
	for _, o := range list {
		switch o := o.(type) {
		case *corev1.Pod:
			c.Put(kinds.Pod, o)
		case *resourcev1.ResourceClaim:
			c.Put(kinds.ResourceClaim, o)
		case *resourcev1.ResourceSlice:
			c.Put(kinds.ResourceSlice, o)
		case *resourcev1.DeviceTaintRule:
			c.Put(kinds.DeviceTaintRule, o)
		}
	}
}

// rest plans until nothing is ready.
func (c *cluster) rest() {
	c.t.Helper()
	for n := 0; c.r.Step(context.Background(), c.rng); n++ {
		if n > 500 {
			c.t.Fatalf("not at rest: %v", c.Writes)
		}
	}
}

func (c *cluster) pass(d time.Duration) {
	c.t.Helper()
	c.Now = c.Now.Add(d)
	c.rest()
}

// left are the pods that are there and not going.
func (c *cluster) left() string {
	var out []string
	for _, o := range c.Objects(kinds.Pod) {
		if o.GetDeletionTimestamp() == nil {
			out = append(out, o.GetName())
		}
	}
	return strings.Join(out, " ")
}

func (c *cluster) want(pods, status string) {
	c.t.Helper()
	if got := c.left(); got != pods {
		c.t.Errorf("pods %q are left, want %q", got, pods)
	}
	got := ""
	if r, ok := c.Object(kinds.DeviceTaintRule, "", "r").(*resourcev1.DeviceTaintRule); ok && len(r.Status.Conditions) > 0 {
		got = strings.TrimSpace(fmt.Sprint(r.Status.Conditions[0].Reason, " ", r.Status.Conditions[0].Message))
	}
	if got != status {
		c.t.Errorf("the rule says %q, want %q", got, status)
	}
}

const execute = resourcev1.DeviceTaintEffectNoExecute

// Who has to go, by what is there from the beginning.
func TestWho(t *testing.T) {
	type have = []kinds.Object
	tainted := slice("s", 1, taint("k", 0))
	change := func(p *corev1.Pod, f func(*corev1.Pod)) *corev1.Pod {
		f(p)
		return p
	}
	template := "t"
	made := func(owner string) *resourcev1.ResourceClaim {
		c := claim("c", "p")
		c.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(pod(owner, ""), kinds.Pod.GVK)}
		return c
	}
	templated := change(pod("p", "c"), func(p *corev1.Pod) {
		p.Spec.ResourceClaims[0] = corev1.PodResourceClaim{Name: "c", ResourceClaimTemplateName: &template}
		p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "c", ResourceClaimName: new(string)}}
		*p.Status.ResourceClaimStatuses[0].ResourceClaimName = "c"
	})
	other := claim("c", "p")
	other.Status.Allocation.Devices.Results[0].Device = "two"
	free := claim("c", "p")
	free.Status.Allocation = nil
	for _, tt := range []struct {
		name string
		have have
		goes bool
	}{
		{"a taint of the driver", have{tainted, claim("c", "p"), pod("p", "c")}, true},
		{"of another device", have{tainted, other, pod("p", "c")}, false},
		{"of slices that do not count any more", have{tainted, slice("t", 2), claim("c", "p"), pod("p", "c")}, false},
		{"of a slice that counts", have{slice("s", 1), slice("t", 2, taint("k", 0)), claim("c", "p"), pod("p", "c")}, true},
		{"with another effect", have{slice("s", 1, &resourcev1.DeviceTaint{Key: "k", Effect: "NoSchedule"}), claim("c", "p"), pod("p", "c")}, false},
		{"tolerated", have{tainted, tolerating(claim("c", "p"), toleration("k", forEver)), pod("p", "c")}, false},
		{"a claim made for the pod", have{tainted, made("p"), templated}, true},
		{"a claim made for another", have{tainted, made("q"), templated}, false},
		{"a claim without devices", have{tainted, free, pod("p", "c")}, false},
		{"a claim for others", have{tainted, claim("c", "q"), pod("p", "c")}, false},
		{"a claim that the pod does not name", have{tainted, claim("c", "p"), pod("p", "d")}, false},
		{"on no node", have{tainted, claim("c", "p"), change(pod("p", "c"), func(p *corev1.Pod) { p.Spec.NodeName = "" })}, false},
		{"done", have{tainted, claim("c", "p"), change(pod("p", "c"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })}, false},
		{"failed", have{tainted, claim("c", "p"), change(pod("p", "c"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })}, false},
		{"a rule about all", have{ruled(execute), claim("c", "p"), pod("p", "c")}, true},
		{"about the driver", have{ruled(execute, "d"), claim("c", "p"), pod("p", "c")}, true},
		{"about another driver", have{ruled(execute, "e"), claim("c", "p"), pod("p", "c")}, false},
		{"about the pool", have{ruled(execute, "", "pool"), claim("c", "p"), pod("p", "c")}, true},
		{"about another pool", have{ruled(execute, "d", "x", "one"), claim("c", "p"), pod("p", "c")}, false},
		{"about the device", have{ruled(execute, "d", "pool", "one"), claim("c", "p"), pod("p", "c")}, true},
		{"about another device", have{ruled(execute, "d", "pool", "two"), claim("c", "p"), pod("p", "c")}, false},
		{"with another effect", have{ruled("NoSchedule"), claim("c", "p"), pod("p", "c")}, false},
		{"tolerated", have{ruled(execute), tolerating(claim("c", "p"), toleration("k", forEver)), pod("p", "c")}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := run(t, tt.have...)
			if goes := c.left() == ""; goes != tt.goes {
				t.Errorf("it goes: %v", goes)
			}
			n := 0.0
			if tt.goes {
				n = 1
			}
			got := metricstest.Values(t, c.tally.deletions, c.tally.latency)
			if want := map[string]float64{"device_taint_eviction_controller_pod_deletions_total": n, "device_taint_eviction_controller_pod_deletion_duration_seconds": n}; !maps.Equal(got, want) {
				t.Errorf("counted are %v, want %v", got, want)
			}
		})
	}
	without := ruled(execute)
	without.Spec.DeviceSelector = nil
	run(t, without, claim("c", "p"), pod("p", "c")).want("p", "NotStarted")
}

// What happens later wakes those whom it is about.
func TestWhen(t *testing.T) {
	patient := func() *resourcev1.ResourceClaim {
		return tolerating(claim("c", "p"), toleration("k", 30))
	}
	for _, tt := range []struct {
		name        string
		have        []kinds.Object
		then        func(*cluster)
		now, in60s  string
		writesCount int
	}{
		{"a taint comes", []kinds.Object{slice("s", 1), claim("c", "p"), pod("p", "c")}, func(c *cluster) { c.put(slice("s", 1, taint("k", 0))) }, "", "", 2},
		{"with a newer slice", []kinds.Object{slice("s", 1), claim("c", "p"), pod("p", "c")}, func(c *cluster) { c.put(slice("t", 2, taint("k", 0))) }, "", "", 2},
		{"a slice counts again", []kinds.Object{slice("s", 1, taint("k", 0)), slice("t", 2), claim("c", "p"), pod("p", "c")}, func(c *cluster) { c.Remove(kinds.ResourceSlice, "", "t") }, "", "", 2},
		{"a device is given while it is tainted", []kinds.Object{slice("s", 1, taint("k", 0)), pod("p", "c")}, func(c *cluster) { c.put(claim("c", "p")) }, "", "", 2},
		{"a pod comes to a node", []kinds.Object{slice("s", 1, taint("k", 0)), claim("c", "p")}, func(c *cluster) { c.put(pod("p", "c")) }, "", "", 2},
		{"in time", []kinds.Object{slice("s", 1, taint("k", 0)), patient(), pod("p", "c")}, func(*cluster) {}, "p", "", 2},
		{"the taint goes", []kinds.Object{slice("s", 1, taint("k", 0)), patient(), pod("p", "c")}, func(c *cluster) { c.put(slice("s", 1)) }, "p", "p", 0},
		{"the device goes", []kinds.Object{slice("s", 1, taint("k", 0)), patient(), pod("p", "c")}, func(c *cluster) { c.Remove(kinds.ResourceSlice, "", "s") }, "p", "p", 0},
		{"the pool is published anew", []kinds.Object{slice("s", 1, taint("k", 0)), patient(), pod("p", "c")}, func(c *cluster) { c.put(slice("t", 2)) }, "p", "p", 0},
		{"the claim goes", []kinds.Object{slice("s", 1, taint("k", 0)), patient(), pod("p", "c")}, func(c *cluster) { c.Remove(kinds.ResourceClaim, "a", "c") }, "p", "p", 0},
		{"the claim is another's", []kinds.Object{slice("s", 1, taint("k", 0)), patient(), pod("p", "c")}, func(c *cluster) { c.put(tolerating(claim("c", "q"), toleration("k", 30))) }, "p", "p", 0},
		{"the pod ends", []kinds.Object{slice("s", 1, taint("k", 0)), patient(), pod("p", "c")}, func(c *cluster) {
			p := pod("p", "c")
			p.Status.Phase = corev1.PodSucceeded
			c.put(p)
		}, "p", "p", 0},
		{"another of the name", []kinds.Object{slice("s", 1, taint("k", 0)), patient(), pod("p", "c")}, func(c *cluster) {
			p := pod("p", "c")
			p.UID = "u-again"
			c.Remove(kinds.Pod, "a", "p")
			c.put(p)
		}, "p", "p", 0},
		{"a stricter taint comes", []kinds.Object{slice("s", 1, taint("k", 0)), patient(), pod("p", "c")}, func(c *cluster) { c.put(slice("s", 1, taint("k", 0), taint("l", 0))) }, "", "", 2},
		{"a pod that somebody marked", []kinds.Object{claim("c", "p"), func() *corev1.Pod {
			p := pod("p", "c")
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}
			return p
		}()}, func(c *cluster) { c.put(slice("s", 1, taint("k", 0))) }, "", "", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := run(t, tt.have...)
			before := ""
			if c.Object(kinds.Pod, "a", "p") != nil {
				before = "p" // and not going
			}
			c.want(before, "")
			tt.then(c)
			c.rest()
			c.want(tt.now, "")
			c.pass(time.Minute)
			c.want(tt.in60s, "")
			if len(c.Writes) != tt.writesCount {
				t.Errorf("it wrote %v", c.Writes)
			}
			if due := c.r.NextDue(); !due.IsZero() {
				t.Errorf("something is due at %v", due)
			}
		})
	}
}

// A rule from its dry run to the end, and after.
func TestRule(t *testing.T) {
	second := claim("e", "q")
	second.Namespace = "b"
	q := pod("q", "e")
	q.Namespace = "b"
	two := claim("two", "two")
	two.Status.Allocation.Devices.Results[0].Device = "two"
	c := run(t, slice("s", 1), claim("c", "p"), pod("p", "c"), tolerating(second, toleration("k", 30)), q,
		tolerating(claim("calm", "calm"), toleration("k", forEver)), pod("calm", "calm"), two, pod("two", "two"), ruled(resourcev1.DeviceTaintEffectNone, "d", "pool", "one"))
	const dry = "NoEffect 1 published device selected. 3 allocated devices selected. 2 pods would be evicted in 2 different namespaces if the effect was NoExecute. This information will not be updated again. Recreate the DeviceTaintRule to trigger an update."
	c.want("calm p two q", dry)
	c.Remove(kinds.Pod, "a", "two")
	c.put(slice("s", 2))
	c.pass(time.Minute)
	c.want("calm p q", dry)

	r := ruled(execute, "d", "pool", "one")
	r.Generation, r.Spec.Taint.TimeAdded, r.Status = 2, &metav1.Time{Time: c.Now}, c.Object(kinds.DeviceTaintRule, "", "r").(*resourcev1.DeviceTaintRule).Status
	c.put(r)
	c.rest()
	if got := c.left(); got != "calm q" {
		t.Errorf("%q are left", got)
	}
	c.pass(pause)
	c.want("calm q", "PodsPendingEviction 1 pod needs to be evicted in 1 namespace. 1 pod evicted since starting the controller.")
	c.pass(20 * time.Second)
	c.want("calm", "PodsPendingEviction 1 pod needs to be evicted in 1 namespace. 1 pod evicted since starting the controller.")
	c.pass(pause)
	const done = "Completed 2 pods evicted since starting the controller."
	c.want("calm", done)
	if due := c.r.NextDue(); !due.IsZero() {
		t.Errorf("something is due at %v", due)
	}

	n := len(c.Writes)
	c.restart()
	c.rest()
	c.pass(time.Minute)
	c.want("calm", done)
	if len(c.Writes) != n {
		t.Errorf("after a restart, it writes %v", c.Writes[n:])
	}

	// A new rule of the name begins at nothing.
	c.Remove(kinds.DeviceTaintRule, "", "r")
	c.rest()
	r = ruled(execute)
	r.UID = "u-again"
	c.put(r)
	c.rest()
	c.want("calm", "NotStarted")
}

// A thousand pods are not worth a thousand reports.
func TestFewReports(t *testing.T) {
	c := run(t, ruled(execute))
	for i := range 100 {
		name := fmt.Sprint("p", i)
		cl := tolerating(claim(name, name), toleration("k", int64(i/5)))
		c.put(cl, pod(name, name))
	}
	for range 60 {
		c.pass(time.Second)
	}
	c.want("", "Completed 100 pods evicted since starting the controller.")
	reports := len(c.Writes) - len(slices.DeleteFunc(slices.Clone(c.Writes), func(w string) bool { return strings.Contains(w, "devicetaintrules") }))
	if reports < 2 || reports > 5 {
		t.Errorf("%d reports", reports)
	}
}
