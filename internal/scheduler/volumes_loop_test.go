package scheduler

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

func (l *loop) claim(name string) *corev1.PersistentVolumeClaim {
	return l.Object(kinds.PersistentVolumeClaim, "default", name).(*corev1.PersistentVolumeClaim)
}

func (l *loop) volume(name string) *corev1.PersistentVolume {
	return l.Object(kinds.PersistentVolume, "", name).(*corev1.PersistentVolume)
}

func (l *loop) bindAll() { l.bindClaims(func(string) string { return "bind" }) }

func (l *loop) nothingIsPromised(t *testing.T) {
	t.Helper()
	if s := l.s; len(s.reserved)+len(s.waits)+len(s.settled)+len(s.assumed)+len(s.cluster.realClaims)+len(s.cluster.realVolumes) > 0 {
		t.Errorf("still promised: %v %v %v %v %v %v", s.reserved, s.waits, s.settled, s.assumed, s.cluster.realClaims, s.cluster.realVolumes)
	}
}

func TestPodWaitsForItsVolume(t *testing.T) {
	l := newLoop(t, aNode("n"), aNode("m"), aClass("s", byHand), open("c", "s", "1Gi"), disk("v", "s", "2Gi", "m"), aPod("p", mounts("c"), requests("cpu", "3")), aPod("q"))
	l.steps()
	ref := l.volume("v").Spec.ClaimRef
	want := corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: "default", Name: "c", UID: "c-uid", ResourceVersion: l.claim("c").ResourceVersion}
	if ref == nil || *ref != want || l.volume("v").Annotations[boundByController] != "yes" {
		t.Errorf("the volume is %+v %v, want %+v", ref, l.volume("v").Annotations, want)
	}
	if l.pod("p").Spec.NodeName != "" || l.pod("q").Spec.NodeName == "" || l.s.inFlight != 0 {
		t.Errorf("p is on %q, q on %q; %d writes under way", l.pod("p").Spec.NodeName, l.pod("q").Spec.NodeName, l.s.inFlight)
	}
	if used := l.s.cluster.byName["m"].used.cpu; used != 3000 {
		t.Errorf("%d thousandths are taken for the waiting pod", used)
	}
	if due := l.s.NextDue(); !due.Equal(l.Now.Add(600 * time.Second)) {
		t.Errorf("due at %v", due)
	}
	l.bindAll()
	if l.steps(); l.pod("p").Spec.NodeName != "m" {
		t.Errorf("p is on %q", l.pod("p").Spec.NodeName)
	}
	l.nothingIsPromised(t)
}

func TestVolumeIsMade(t *testing.T) {
	l := newLoop(t, aNode("n"), aClass("s"), open("c", "s", "1Gi"), aPod("p", mounts("c")))
	if l.steps(); l.claim("c").Annotations[selectedNode] != "n" {
		t.Fatalf("annotations %v", l.claim("c").Annotations)
	}
	c := l.claim("c").DeepCopy() // bound, but the volume is not there yet
	c.Spec.VolumeName, c.Status.Phase = "made-c", corev1.ClaimBound
	l.put(c)
	if l.steps(); l.pod("p").Spec.NodeName != "" {
		t.Fatal("bound before the volume was there")
	}
	l.put(madeFor(c, "n"))
	if l.steps(); l.pod("p").Spec.NodeName != "n" {
		t.Error("not bound")
	}
	l.nothingIsPromised(t)
}

func TestVolumeComesToNothing(t *testing.T) {
	hand, byDriver := []any{aNode("n"), aClass("s", byHand), open("c", "s", "1Gi"), disk("v", "s", "1Gi", "")}, []any{aNode("n"), aClass("s"), open("c", "s", "1Gi")}
	for _, tt := range []struct {
		name    string
		objects []any
		change  func(*loop)
		want    string
	}{
		{"the maker gave up", byDriver, func(l *loop) { l.bindClaims(func(string) string { return "give up" }) }, `selectedNode annotation reset for PVC "c"`},
		{"the maker gave up, and says more", byDriver, func(l *loop) {
			c := l.claim("c").DeepCopy()
			c.Annotations = map[string]string{"x": "y"}
			l.put(c)
		}, `provisioning failed for PVC "c"`},
		{"it was made elsewhere", byDriver, func(l *loop) {
			c := l.claim("c").DeepCopy()
			c.Spec.VolumeName = "made-c"
			l.put(madeFor(c, "m"), c)
		}, `pv "made-c" node affinity doesn't match node "n": no matching NodeSelectorTerms`},
		{"the claim went", byDriver, func(l *loop) { l.Remove(kinds.PersistentVolumeClaim, "default", "c") }, `failed to check provisioning pvc: persistentvolumeclaim "default/c" not found`},
		{"another claim came", byDriver, func(l *loop) {
			l.put(open("c", "s", "1Gi", forNode("n"), func(c *corev1.PersistentVolumeClaim) { c.UID = "new" }))
		}, `failed to check provisioning pvc: persistentvolumeclaim "default/c" not found`},
		{"the node went", byDriver, func(l *loop) { l.Remove(kinds.Node, "", "n") }, `failed to get node "n": node "n" not found`},
		{"it takes too long", byDriver, func(l *loop) { l.Now = l.Now.Add(600 * time.Second) }, "context deadline exceeded"},
		{"the volume went", hand, func(l *loop) { l.Remove(kinds.PersistentVolume, "", "v") }, `failed to check binding: persistentvolume "v" not found`},
		{"the claim of the volume went", hand, func(l *loop) { l.Remove(kinds.PersistentVolumeClaim, "default", "c") }, `failed to check binding: persistentvolumeclaim "default/c" not found`},
		{"the volume was taken back", hand, func(l *loop) { l.put(disk("v", "s", "1Gi", "")) }, `ClaimRef got reset for pv "v"`},
		{"the volume moved", hand, func(l *loop) {
			v := l.volume("v").DeepCopy()
			v.Spec.NodeAffinity = volumeOn("", "m").Spec.NodeAffinity
			l.put(v)
		}, `pv "v" node affinity doesn't match node "n": no matching NodeSelectorTerms`},
		{"the claim got another", hand, func(l *loop) {
			c, v := bindTo(l.claim("c"), disk("w", "s", "1Gi", ""))
			l.put(v, c)
		}, `persistentvolumeclaim "default/c" is bound to another volume`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLoop(t, append(tt.objects, aPod("p", mounts("c"), requests("cpu", "4")))...)
			l.steps()
			if len(l.s.waits) != 1 {
				t.Fatal("it does not wait")
			}
			tt.change(l)
			l.steps()
			want := `running PreBind plugin "VolumeBinding": binding volumes: ` + tt.want
			if !strings.Contains(l.events.String(), "p Warning FailedScheduling: "+want) {
				t.Errorf("events:\n%s\nwant %s", l.events, want)
			}
			if c := condition(l.pod("p"), corev1.PodScheduled); c == nil || c.Reason != corev1.PodReasonSchedulerError || c.Message != want {
				t.Errorf("condition %+v", c)
			}
			if n := l.s.cluster.byName["n"]; n != nil && n.used.cpu != 0 {
				t.Error("the pod still counts on the node")
			}
			l.nothingIsPromised(t)
			if due := l.s.NextDue(); !due.Equal(l.Now.Add(time.Second)) {
				t.Errorf("it is tried again at %v", due)
			}
		})
	}
}

// The time that claims may take is the profile's.
func TestBindTimeout(t *testing.T) {
	p := profileWith(func(p *Profile) { *p.Volumes.BindTimeoutSeconds = 3 })
	a := newAPI()
	a.put(aNode("n"), aClass("s"), open("c", "s", "1Gi"), aPod("p", mounts("c")))
	s, err := New(Config{View: a.View, Client: a, Now: func() time.Time { return a.Now }, Profiles: []Profile{p}})
	if err != nil {
		t.Fatal(err)
	}
	for s.Step(context.Background()) {
	}
	if due := s.NextDue(); !due.Equal(a.Now.Add(3 * time.Second)) {
		t.Errorf("due at %v", due)
	}
	// However long somebody wants to wait, it is a time.
	if r := rulesOf(profileWith(func(p *Profile) { *p.Volumes.BindTimeoutSeconds = 1 << 62 })); r.bindTimeout <= 0 {
		t.Error(r.bindTimeout)
	}
}

// What is promised to a pod on its way is not promised again, even while the
// view shows nothing of it, and is had by the next once it is given back.
func TestOneVolumeForTwoPods(t *testing.T) {
	for _, fails := range []bool{false, true} {
		l := newLoop(t, aNode("n"), aClass("s", byHand), open("c", "s", "1Gi"), open("d", "s", "1Gi"), disk("v", "s", "1Gi", ""), aPod("p", mounts("c")), aPod("q", mounts("d")))
		l.Lag = true
		var held func(context.Context) result
		l.s.start()
		l.s.absorb()
		l.s.schedule(l.s.queue.pop(l.Now), func(do func(context.Context) result) { held = do })
		l.s.schedule(l.s.queue.pop(l.Now), func(do func(context.Context) result) { l.s.report(do(context.Background())) })
		if !strings.Contains(l.events.String(), "q Warning FailedScheduling: 0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind.") {
			t.Fatalf("events:\n%s", l.events)
		}
		if fails {
			l.Hook = func(verb plan.Verb, ref kinds.Ref, _ runtime.Object) error {
				if ref.Kind == kinds.PersistentVolume {
					return apierrors.NewInternalError(errors.New("down"))
				}
				return nil
			}
		}
		l.s.report(held(context.Background()))
		l.Hook = nil
		l.Lag = false
		l.steps() // the view shows nothing yet
		l.Deliver(nil)
		l.Now = l.Now.Add(500 * time.Millisecond) // q's back-off and p's end together
		l.bindAll()
		l.steps()
		if !fails && (l.pod("p").Spec.NodeName != "n" || l.pod("q").Spec.NodeName != "") {
			t.Errorf("p is on %q, q on %q", l.pod("p").Spec.NodeName, l.pod("q").Spec.NodeName)
		}
		if fails {
			if !strings.Contains(l.events.String(), `p Warning FailedScheduling: running PreBind plugin "VolumeBinding": Internal error occurred: down`) {
				t.Errorf("events:\n%s", l.events)
			}
			l.Now = l.Now.Add(time.Second)
			l.steps()
			l.bindAll()
			if l.steps(); (l.pod("p").Spec.NodeName == "n") == (l.pod("q").Spec.NodeName == "n") {
				t.Errorf("p is on %q, q on %q: one of them should have the volume", l.pod("p").Spec.NodeName, l.pod("q").Spec.NodeName)
			}
		}
		l.nothingIsPromised(t)
	}
}

// Somebody else was quicker: nothing is said, and it is decided again.
func TestVolumeIsTakenMeanwhile(t *testing.T) {
	l := newLoop(t, aNode("n"), aClass("s", byHand), open("c", "s", "1Gi"), disk("v", "s", "1Gi", ""), disk("w", "s", "2Gi", ""), aPod("p", mounts("c")))
	l.steps()
	l.s.Stop()
	l = newLoop(t, aNode("n"), aClass("s", byHand), open("c", "s", "1Gi"), disk("v", "s", "1Gi", ""), disk("w", "s", "2Gi", ""), aPod("p", mounts("c")))
	l.s.start()
	l.s.absorb()
	l.Lag = true
	l.put(disk("v", "s", "1Gi", "", forClaim("other")))
	l.steps()
	l.Lag = false
	l.Deliver(nil)
	l.Now = l.Now.Add(time.Second)
	l.steps()
	l.bindAll()
	if l.steps(); l.pod("p").Spec.NodeName != "n" || l.claim("c").Spec.VolumeName != "w" || strings.Contains(l.events.String(), "Warning") {
		t.Errorf("p is on %q with %q\n%s", l.pod("p").Spec.NodeName, l.claim("c").Spec.VolumeName, l.events)
	}
	l.nothingIsPromised(t)
}

// Two pods of one claim go to the same node, at once or one after the other.
func TestTwoPodsOfOneClaim(t *testing.T) {
	for _, class := range []*storagev1.StorageClass{aClass("s"), aClass("s", byHand)} {
		l := newLoop(t, aNode("a"), aNode("b"), class, open("c", "s", "1Gi"), disk("v", "s", "1Gi", "b"), aPod("p", mounts("c")), aPod("q", mounts("c")))
		l.Lag = true
		var held []func(context.Context) result
		l.s.start()
		l.s.absorb()
		for range 2 {
			l.s.schedule(l.s.queue.pop(l.Now), func(do func(context.Context) result) { held = append(held, do) })
		}
		for _, do := range held {
			l.s.report(do(context.Background()))
		}
		l.Lag = false
		l.Deliver(nil)
		for range 3 {
			l.steps()
			l.bindAll()
			l.Now = l.Now.Add(2 * time.Second)
		}
		if p, q := l.pod("p").Spec.NodeName, l.pod("q").Spec.NodeName; p == "" || p != q {
			t.Errorf("p is on %q, q on %q\n%s", p, q, l.events)
		}
		l.nothingIsPromised(t)
	}
}

// A pod that goes gives back what it was promised, wherever it was on its way.
func TestPodGoesBeforeItsVolumeComes(t *testing.T) {
	gone := func(l *loop) { l.Remove(kinds.Pod, "default", "p") }
	ends := func(l *loop) {
		p := l.pod("p").DeepCopy()
		set(&p.DeletionTimestamp, metav1.Now())
		p.Finalizers = []string{"a/b"}
		l.put(p)
	}
	elsewhere := func(l *loop) {
		p := l.pod("p").DeepCopy()
		p.Spec.NodeName = "m"
		l.put(p)
	}
	for name, change := range map[string]func(*loop){"gone": gone, "ends": ends, "elsewhere": elsewhere} {
		for _, written := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " ", written), func(t *testing.T) {
				l := newLoop(t, aNode("n"), aClass("s", byHand), open("c", "s", "1Gi"), disk("v", "s", "1Gi", ""), aPod("p", mounts("c"), requests("cpu", "4")))
				var held func(context.Context) result
				l.s.start()
				l.s.absorb()
				l.s.schedule(l.s.queue.pop(l.Now), func(do func(context.Context) result) { held = do })
				if written {
					l.s.report(held(context.Background()))
					l.s.absorb()
				}
				change(l)
				l.s.absorb()
				if !written {
					l.Hook = func(plan.Verb, kinds.Ref, runtime.Object) error {
						return apierrors.NewInternalError(errors.New("down"))
					}
					l.s.report(held(context.Background()))
					l.Hook = nil
				}
				l.bindAll()
				if l.steps(); l.s.cluster.byName["n"].used.cpu != 0 || len(l.s.queue.all) != 0 {
					t.Errorf("%d thousandths in use, %d queued", l.s.cluster.byName["n"].used.cpu, len(l.s.queue.all))
				}
				l.nothingIsPromised(t)
			})
		}
	}
}

// While pods wait for volumes, others are bound, however few writes there may
// be at once.
func TestRunGoesOnWhilePodsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		a.put(aNode("n", has("pods", "30")), aClass("s"))
		for i := range 10 {
			name := fmt.Sprint("c", i)
			a.put(open(name, "s", "1Gi"), aPod(fmt.Sprint("p", i), mounts(name)))
		}
		s, err := New(Config{View: a.View, Client: a, Parallel: 1})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		bound := func() (n int) {
			for _, o := range a.Objects(kinds.Pod) {
				if o.(*corev1.Pod).Spec.NodeName != "" {
					n++
				}
			}
			return n
		}
		for i := range 10 {
			a.put(aPod(fmt.Sprint("q", i)))
		}
		if synctest.Wait(); bound() != 10 {
			t.Errorf("%d pods are bound, want those without claims", bound())
		}
		a.bindClaims(func(claim string) string { return map[bool]string{true: "wait", false: "bind"}[claim == "c7"] })
		if synctest.Wait(); bound() != 19 {
			t.Errorf("%d pods are bound, want all but one", bound())
		}
		<-time.After(601 * time.Second)
		if c := condition(a.Object(kinds.Pod, "default", "p7").(*corev1.Pod), corev1.PodScheduled); c == nil || !strings.HasSuffix(c.Message, "context deadline exceeded") {
			t.Errorf("condition %+v", c)
		}
		a.bindClaims(func(string) string { return "bind" })
		<-time.After(2 * time.Second)
		if synctest.Wait(); bound() != 20 {
			t.Errorf("%d pods are bound", bound())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// What wakes pods that wait because of volumes, and what not. "Fits" here is
// that it counts on a node.
func TestWhatWakesPodsWithVolumes(t *testing.T) {
	n, p := aNode("n", zone("z")), aPod("p", mounts("c"))
	gone := func(k *kinds.Kind, name string) func(*loop) {
		return func(l *loop) { l.Remove(k, map[bool]string{true: "default"}[k == kinds.Pod], name) }
	}
	put := func(objects ...any) func(*loop) { return func(l *loop) { l.put(objects...) } }
	full := []any{n, takes("n", 1), aPod("x", on("n"), mounts("d")), claim("d"), handled("d", "1"), claim("c"), handled("c", "2")}
	diskUsed := []any{n, aPod("x", on("n"), inline(gce("a", false)))}
	noDisk, noRoom := []any{n, aClass("s", byHand), open("c", "s", "1Gi")}, []any{n, aClass("s"), aDriver(tellsCapacity), open("c", "s", "2Gi"), capacity("k", "s", "1Gi", "z")}
	for _, tt := range []struct {
		name    string
		objects []any
		pod     *corev1.Pod
		change  func(*loop)
		wakes   bool
	}{
		{"a volume", noDisk, p, put(disk("v", "s", "1Gi", "")), true},
		{"a volume of another class", noDisk, p, put(disk("v", "t", "1Gi", "")), false},
		{"a volume of somebody else", noDisk, p, put(disk("v", "s", "1Gi", "", forClaim("d"))), false},
		{"a volume that becomes free", append(noDisk, disk("v", "s", "1Gi", "", forClaim("d"))), p, put(disk("v", "s", "1Gi", "")), true},
		{"the volume meant for it goes", append(noDisk, aNode("m"), disk("v", "s", "1Gi", "x", forClaim("c")), disk("w", "s", "1Gi", "")), p, gone(kinds.PersistentVolume, "v"), true},
		{"a class that makes volumes", noDisk, p, put(aClass("s")), true},
		{"another class", noDisk, p, put(aClass("t")), false},
		{"the class comes", []any{n, open("c", "s", "1Gi")}, p, put(aClass("s")), true},
		{"the class says the same", noDisk, p, put(aClass("s", byHand, func(c *storagev1.StorageClass) { c.Labels = map[string]string{"a": "b"} })), false},
		{"a node where the volume is", []any{n, aClass("s", byHand), open("c", "s", "1Gi"), disk("v", "s", "1Gi", "m")}, p, put(aNode("m")), true},
		{"a node where it is not", []any{n, aClass("s", byHand), open("c", "s", "1Gi"), disk("v", "s", "1Gi", "m")}, p, put(aNode("k")), false},
		{"a node, for a claim that nobody binds", []any{n, aClass("s", immediately), open("c", "s", "1Gi")}, p, put(aNode("k")), false},
		{"a class that is late", []any{n, aClass("s", immediately), open("c", "s", "1Gi")}, p, put(aClass("s")), true},
		{"the maker gives up a node", []any{n, aClass("s"), open("c", "s", "1Gi", forNode("m"))}, p, put(open("c", "s", "1Gi")), true},
		{"room", noRoom, p, put(capacity("k", "s", "2Gi", "z")), true},
		{"room for another class", noRoom, p, put(capacity("l", "t", "2Gi", "z")), false},
		{"less room", noRoom, p, put(capacity("k", "s", "500Mi", "z")), false},
		{"a driver that does not tell any more", noRoom, p, put(aDriver()), true},
		{"a pod went", noDisk, p, func(l *loop) { l.put(aPod("x", on("n"))); l.steps(); l.Remove(kinds.Pod, "default", "x") }, false},
		{"limit: its pod went", full, p, gone(kinds.Pod, "x"), true},
		{"limit: a pod without volumes went", append(full, aPod("y", on("n"))), p, gone(kinds.Pod, "y"), false},
		{"limit: more may be", full, p, put(takes("n", 2)), true},
		{"limit: fewer may be", full, p, put(takes("n", 0)), false},
		{"limit: a node", full, p, put(aNode("m")), true},
		{"limit: detached", []any{n, takes("n", 1), attachment("a", "n", "pv-d"), handled("d", "1"), claim("c"), handled("c", "2")}, p, gone(kinds.VolumeAttachment, "a"), true},
		{"limit: the driver is there", []any{n, aDriver(mustBeThere), claim("c"), handled("c", "2")}, p, put(takes("n", -1)), true},
		{"limit: the driver need not be there", []any{n, aDriver(mustBeThere), claim("c"), handled("c", "2")}, p, put(aDriver()), true},
		{"limit: another driver", []any{n, aDriver(mustBeThere), claim("c"), handled("c", "2")}, p, put(aDriver(func(d *storagev1.CSIDriver) { d.Name = "e" })), false},
		{"disk: its user went", diskUsed, aPod("p", inline(gce("a", false))), gone(kinds.Pod, "x"), true},
		{"disk: another pod went", append(diskUsed, aPod("y", on("n"))), aPod("p", inline(gce("a", false))), gone(kinds.Pod, "y"), false},
		{"disk: a node", diskUsed, aPod("p", inline(gce("a", false))), put(aNode("m")), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLoop(t, append(append([]any{}, tt.objects...), tt.pod)...)
			l.steps()
			uid := tt.pod.UID
			if l.s.cluster.pods[uid] != nil {
				t.Fatal("the pod fits to begin with")
			}
			l.Now = l.Now.Add(time.Hour)
			tt.change(l)
			if woken := l.steps() > 0; woken != tt.wakes {
				t.Fatalf("woken: %v", woken)
			}
			if fits := l.s.cluster.pods[uid] != nil; fits != tt.wakes {
				t.Errorf("fits: %v; %s", fits, l.events)
			}
		})
	}
}

// Volumes that are limited, and disks, can be had by preemption; volumes that
// are not there cannot.
func TestPreemptionForVolumes(t *testing.T) {
	n, high := aNode("n"), priority(1)
	for _, tt := range []struct {
		name    string
		objects []any
		pod     *corev1.Pod
		room    string
	}{
		{"a limit", []any{n, takes("n", 1), aPod("x", on("n"), mounts("d")), aPod("y", on("n")), claim("d"), handled("d", "1"), claim("c"), handled("c", "2")}, aPod("p", mounts("c"), high), "x"},
		{"a disk", []any{n, aPod("x", on("n"), inline(gce("a", false))), aPod("y", on("n"))}, aPod("p", inline(gce("a", false)), high), "x"},
		{"a late claim of one pod", []any{n, aClass("s"), aPod("x", on("n"), mounts("c")), aPod("y", on("n")), open("c", "s", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.AccessModes[0] = corev1.ReadWriteOncePod })}, aPod("p", mounts("c"), high), "x"},
		{"no volume", []any{n, aPod("x", on("n")), aClass("s", byHand), open("c", "s", "1Gi")}, aPod("p", mounts("c"), high), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLoop(t, append(tt.objects, tt.pod)...)
			l.s.start()
			w := l.s.queue.pop(l.Now)
			dec, err := l.s.decide(w.pod)
			got := ""
			if dec.room != nil {
				for _, v := range dec.room.victims {
					got += v.obj.Name
				}
			}
			if err != nil || got != tt.room {
				t.Errorf("%q goes, want %q; %s", got, tt.room, dec.message())
			}
		})
	}
}
