package garbagecollector

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

const blocking = true

func meta(name string, owners ...metav1.OwnerReference) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("u-" + name), OwnerReferences: owners}
}

func ref(k *kinds.Kind, name string, block bool) metav1.OwnerReference {
	r := metav1.OwnerReference{APIVersion: k.GVK.GroupVersion().String(), Kind: k.GVK.Kind, Name: name, UID: types.UID("u-" + name)}
	if block {
		r.BlockOwnerDeletion = &block
	}
	return r
}

func deployment(name string, finalizers ...string) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: meta(name)}
	if len(finalizers) > 0 {
		d.Finalizers, d.DeletionTimestamp = finalizers, &metav1.Time{Time: time.Unix(0, 0)}
	}
	return d
}

func set(name string, owners ...metav1.OwnerReference) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{ObjectMeta: meta(name, owners...)}
}

func pod(name string, owners ...metav1.OwnerReference) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: meta(name, owners...)}
}

func world() (*reconciletest.World, reconcile.Controller) {
	c := Controller(kinds.Builtin())
	w := reconciletest.New(reconcile.Kinds([]reconcile.Controller{c}), view.Owned)
	return w, c
}

func put(w *reconciletest.World, objects ...kinds.Object) {
	for _, o := range objects {
		w.Put(kindOf(o), o)
	}
	w.View.ProgressAll(1 << 40)
}

func kindOf(o kinds.Object) *kinds.Kind {
	for _, k := range kinds.Builtin().All() {
		if k.New != nil && fmt.Sprintf("%T", k.New()) == fmt.Sprintf("%T", o) {
			return k
		}
	}
	panic("no kind")
}

func drive(t interface{ Fatalf(string, ...any) }, w *reconciletest.World, c reconcile.Controller) *reconciletest.Events {
	ev, err := w.Drive(1, 500, time.Minute, c)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return ev
}

// names of all objects that are left.
func names(w *reconciletest.World) []string {
	var out []string
	for _, k := range kinds.Builtin().All() {
		if k.New == nil || k == kinds.Event || k == kinds.EventsEvent {
			continue
		}
		for _, o := range w.Objects(k) {
			out = append(out, o.GetName())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func TestCollects(t *testing.T) {
	other := pod("p", ref(kinds.ReplicaSet, "r", false))
	other.Namespace = "other"
	cluster := &rbacv1.ClusterRole{ObjectMeta: meta("c", ref(kinds.ReplicaSet, "gone", false))}
	cluster.Namespace = ""
	node := &corev1.Node{ObjectMeta: meta("n")}
	node.Namespace = ""
	unknown := metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Thing", Name: "x", UID: "u-x"}
	impostor := ref(kinds.ReplicaSet, "r", false)
	impostor.UID = "another"
	newer := ref(kinds.ReplicaSet, "r", false)
	newer.APIVersion = "apps/v2"
	finalized := pod("p", ref(kinds.ReplicaSet, "gone", false))
	finalized.Finalizers = []string{"example.com/hold"}
	for _, tt := range []struct {
		name    string
		objects []kinds.Object
		left    []string
	}{
		{"owner alive", []kinds.Object{set("r"), pod("p", ref(kinds.ReplicaSet, "r", false))}, []string{"p", "r"}},
		{"no owner", []kinds.Object{pod("p")}, []string{"p"}},
		{"owner gone", []kinds.Object{pod("p", ref(kinds.ReplicaSet, "gone", false))}, nil},
		{"a namesake is not the owner", []kinds.Object{set("r"), pod("p", impostor)}, []string{"r"}},
		{"the owner in another version of its group", []kinds.Object{set("r"), pod("p", newer)}, []string{"p", "r"}},
		{"the owner in another namespace", []kinds.Object{set("r"), other}, []string{"r"}},
		{"a cascade", []kinds.Object{set("r", ref(kinds.Deployment, "gone", false)), pod("p", ref(kinds.ReplicaSet, "r", false))}, nil},
		{"an owner of an unknown kind", []kinds.Object{pod("p", unknown)}, []string{"p"}},
		{"unknown and gone", []kinds.Object{pod("p", unknown, ref(kinds.ReplicaSet, "gone", false))}, []string{"p"}},
		{"one of two owners gone", []kinds.Object{set("r"), pod("p", ref(kinds.ReplicaSet, "r", false), ref(kinds.ReplicaSet, "gone", false))}, []string{"p", "r"}},
		{"cluster-scoped with a namespaced owner", []kinds.Object{cluster}, []string{"c"}},
		{"namespaced with a cluster-scoped owner", []kinds.Object{node, pod("p", ref(kinds.Node, "n", false))}, []string{"n", "p"}},
		{"its cluster-scoped owner gone", []kinds.Object{pod("p", ref(kinds.Node, "n", false))}, nil},
		{"held by a finalizer", []kinds.Object{finalized}, []string{"p"}},

		{"foreground: blocked by a dependent that is held", []kinds.Object{deployment("d", metav1.FinalizerDeleteDependents), held(pod("p", ref(kinds.Deployment, "d", blocking)))}, []string{"d", "p"}},
		{"foreground: not blocked without the flag", []kinds.Object{deployment("d", metav1.FinalizerDeleteDependents), held(pod("p", ref(kinds.Deployment, "d", false)))}, []string{"p"}},
		{"foreground: a cascade", []kinds.Object{deployment("d", metav1.FinalizerDeleteDependents), set("r", ref(kinds.Deployment, "d", blocking)), pod("p", ref(kinds.ReplicaSet, "r", blocking))}, nil},
		{"foreground: a cascade that is held below", []kinds.Object{deployment("d", metav1.FinalizerDeleteDependents), set("r", ref(kinds.Deployment, "d", blocking)), held(pod("p", ref(kinds.ReplicaSet, "r", blocking)))}, []string{"d", "p", "r"}},
		{"foreground: nothing depends", []kinds.Object{deployment("d", metav1.FinalizerDeleteDependents)}, nil},
		{"foreground: others own it too", []kinds.Object{set("r"), deployment("d", metav1.FinalizerDeleteDependents), pod("p", ref(kinds.Deployment, "d", blocking), ref(kinds.ReplicaSet, "r", false))}, []string{"p", "r"}},
		{"foreground: a circle", []kinds.Object{circle("a", "b", metav1.FinalizerDeleteDependents), circle("b", "a")}, nil},
		{"foreground: other finalizers stay", []kinds.Object{deployment("d", metav1.FinalizerDeleteDependents, "example.com/hold")}, []string{"d"}},

		{"orphan", []kinds.Object{deployment("d", metav1.FinalizerOrphanDependents), set("r", ref(kinds.Deployment, "d", blocking)), pod("p", ref(kinds.ReplicaSet, "r", blocking))}, []string{"p", "r"}},
		{"orphan: dependents of the same UID elsewhere go", []kinds.Object{deployment("d", metav1.FinalizerOrphanDependents), elsewhere(set("r", ref(kinds.Deployment, "d", blocking)))}, nil},
		{"being deleted in the background: left alone", []kinds.Object{deployment("d", "example.com/hold"), pod("p", ref(kinds.Deployment, "d", blocking))}, []string{"d", "p"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, c := world()
			put(w, tt.objects...)
			drive(t, w, c)
			if got := names(w); !slices.Equal(got, tt.left) {
				t.Errorf("left %v, want %v; writes %v", got, tt.left, w.Writes)
			}
			n := len(w.Writes)
			drive(t, w, c)
			if len(w.Writes) != n {
				t.Errorf("at rest, but writes %v", w.Writes[n:])
			}
		})
	}
}

func held(p *corev1.Pod) *corev1.Pod {
	p.Finalizers = []string{"example.com/hold"}
	return p
}

func elsewhere(s *appsv1.ReplicaSet) *appsv1.ReplicaSet {
	s.Namespace = "other"
	return s
}

// circle is a config map that another one owns.
func circle(name, owner string, finalizers ...string) *corev1.ConfigMap {
	c := &corev1.ConfigMap{ObjectMeta: meta(name, ref(kinds.ConfigMap, owner, blocking))}
	if len(finalizers) > 0 {
		c.Finalizers, c.DeletionTimestamp = finalizers, &metav1.Time{Time: time.Unix(0, 0)}
	}
	return c
}

func TestReferencesToTheDeadGo(t *testing.T) {
	w, c := world()
	put(w, set("r"), pod("p", ref(kinds.ReplicaSet, "r", false), ref(kinds.ReplicaSet, "gone", false)))
	drive(t, w, c)
	refs := w.Object(kinds.Pod, "default", "p").GetOwnerReferences()
	if len(refs) != 1 || refs[0].Name != "r" {
		t.Errorf("owners %v, want only the one that lives", refs)
	}
}

func TestFollowsChanges(t *testing.T) {
	w, c := world()
	put(w, deployment("d"), set("r", ref(kinds.Deployment, "d", blocking)), pod("p", ref(kinds.ReplicaSet, "r", blocking)))
	drive(t, w, c)
	if got := names(w); len(got) != 3 {
		t.Fatalf("left %v", got)
	}
	w.Remove(kinds.Deployment, "default", "d")
	put(w)
	drive(t, w, c)
	if got := names(w); len(got) != 0 {
		t.Errorf("left %v after the root went", got)
	}
}

func TestMisplacedOwnerIsTold(t *testing.T) {
	w, c := world()
	cluster := &rbacv1.ClusterRole{ObjectMeta: meta("c", ref(kinds.ReplicaSet, "gone", false))}
	cluster.Namespace = ""
	put(w, cluster)
	ev := drive(t, w, c)
	if len(ev.All) == 0 || ev.All[0].Reason != "OwnerRefInvalidNamespace" || ev.All[0].Type != corev1.EventTypeWarning {
		t.Errorf("events %+v", ev.All)
	}
}

// The view lags: it shows the pod, but not yet its owner.
func TestAsksBeforeItDeletes(t *testing.T) {
	w, c := world()
	w.Lag = true
	put(w, set("r"))
	w.Lag = false
	put(w, pod("p", ref(kinds.ReplicaSet, "r", false)))
	if _, err := w.Drive(1, 500, 10*time.Second, c); err != nil {
		t.Fatal(err)
	}
	if got := names(w); len(got) != 2 {
		t.Errorf("left %v: deleted a pod whose owner lives", got)
	}
}

// The view lags: a foreground deletion has become an orphaning one.
func TestAsksWhetherTheOwnerStillWaits(t *testing.T) {
	w, c := world()
	put(w, deployment("d", metav1.FinalizerDeleteDependents), pod("p", ref(kinds.Deployment, "d", blocking)))
	w.Lag = true
	put(w, deployment("d", metav1.FinalizerOrphanDependents))
	w.Lag = false
	if _, err := w.Drive(1, 500, 10*time.Second, c); err != nil {
		t.Fatal(err)
	}
	if got := names(w); !slices.Equal(got, []string{"d", "p"}) {
		t.Fatalf("left %v: deleted what was to be orphaned", got)
	}
	w.Deliver(nil)
	drive(t, w, c)
	if got := names(w); !slices.Equal(got, []string{"p"}) {
		t.Errorf("left %v, want the orphan", got)
	}
}

// The view lags: it shows the orphaning deletion, but not all dependents yet.
func TestOrphanWaitsForAllKinds(t *testing.T) {
	for name, finalizer := range map[string]string{"orphan": metav1.FinalizerOrphanDependents, "foreground": metav1.FinalizerDeleteDependents} {
		t.Run(name, func(t *testing.T) {
			w, c := world()
			w.Lag = true
			w.Put(kinds.Pod, pod("p", ref(kinds.Deployment, "d", blocking)))
			w.Lag = false
			w.Put(kinds.Deployment, deployment("d", finalizer))
			if _, err := w.Drive(1, 500, 10*time.Second, c); err != nil {
				t.Fatal(err)
			}
			if got := names(w); !slices.Equal(got, []string{"d", "p"}) {
				t.Fatalf("left %v before the view caught up", got)
			}
			w.Deliver(nil)
			put(w)
			drive(t, w, c)
			want := map[string][]string{"orphan": {"p"}, "foreground": nil}[name]
			if got := names(w); !slices.Equal(got, want) {
				t.Errorf("left %v, want %v", got, want)
			}
		})
	}
}

// TestForest draws trees of owners, removes some of them in each way of
// deleting, and checks that exactly what must go goes.
func TestForest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, c := world()
		n := rapid.IntRange(1, 12).Draw(t, "objects")
		parents := make([]int, n)
		var objects []kinds.Object
		for i := range n {
			parents[i] = rapid.IntRange(-1, i-1).Draw(t, "parent")
			cm := &corev1.ConfigMap{ObjectMeta: meta(fmt.Sprint("o", i))}
			if parents[i] >= 0 {
				cm.OwnerReferences = []metav1.OwnerReference{ref(kinds.ConfigMap, fmt.Sprint("o", parents[i]), rapid.Bool().Draw(t, "block"))}
			}
			objects = append(objects, cm)
		}
		put(w, objects...)
		drive(t, w, c)
		if got := names(w); len(got) != n {
			t.Fatalf("left %v of %d living objects", got, n)
		}
		root := rapid.IntRange(0, n-1).Draw(t, "deleted")
		policy := rapid.SampledFrom([]string{"", metav1.FinalizerDeleteDependents, metav1.FinalizerOrphanDependents}).Draw(t, "policy")
		if policy == "" {
			w.Remove(kinds.ConfigMap, "default", fmt.Sprint("o", root))
		} else {
			o := w.Object(kinds.ConfigMap, "default", fmt.Sprint("o", root)).DeepCopyObject().(*corev1.ConfigMap)
			o.Finalizers, o.DeletionTimestamp = []string{policy}, &metav1.Time{Time: w.Now}
			w.Put(kinds.ConfigMap, o)
		}
		put(w)
		drive(t, w, c)
		gone := make([]bool, n)
		gone[root] = true
		var want []string
		for i := range n {
			if p := parents[i]; p >= 0 && gone[p] && !(p == root && policy == metav1.FinalizerOrphanDependents) {
				gone[i] = true
			}
			if !gone[i] {
				want = append(want, fmt.Sprint("o", i))
			}
		}
		slices.Sort(want)
		if got := names(w); !slices.Equal(got, want) {
			t.Fatalf("left %v, want %v", got, want)
		}
	})
}

func TestBoundedAndOnlyDependents(t *testing.T) {
	o := Observed{Kind: kinds.Deployment, Object: deployment("d", metav1.FinalizerOrphanDependents), CaughtUp: true}
	for i := range 2000 {
		o.Dependents = append(o.Dependents, Dependent{Kind: kinds.Pod, Object: pod(fmt.Sprint("p", i), ref(kinds.Deployment, "d", true))})
	}
	res := Plan(o)
	if len(res.Actions) != burst {
		t.Errorf("%d actions, want %d", len(res.Actions), burst)
	}
	for _, a := range res.Actions {
		if a.Verb != plan.Patch || a.Ref.Kind != kinds.Pod || !strings.Contains(string(a.Data), `"ownerReferences":[]`) || a.UID == "" {
			t.Fatalf("action %+v", a)
		}
	}
}

// Owners have power over their own namespace only, whatever UIDs others name.
func TestDependentsElsewhereAreNone(t *testing.T) {
	w, c := world()
	d := deployment("d")
	put(w, d, set("r", ref(kinds.Deployment, "d", blocking)), elsewhere(set("s", ref(kinds.Deployment, "d", blocking))))
	for _, watch := range c.Watches {
		if watch.Kind != kinds.Deployment {
			continue
		}
		keys := watch.Keys(w.View.Snapshot(), view.Change{Kind: kinds.Deployment, Old: d})
		if len(keys) != 1 || keys[0].Namespace != "default" {
			t.Errorf("the end of an owner wakes %v, want the dependent in its namespace", keys)
		}
	}
}

func TestStatusChangesDoNotWake(t *testing.T) {
	w, c := world()
	put(w, set("r"))
	drive(t, w, c)
	for _, watch := range c.Watches {
		if watch.Kind != kinds.Pod {
			continue
		}
		before := pod("p", ref(kinds.ReplicaSet, "r", true))
		after := before.DeepCopy()
		after.Status.Phase = corev1.PodRunning
		if keys := watch.Keys(w.View.Snapshot(), change(before, after)); len(keys) != 0 {
			t.Errorf("a status change wakes %v", keys)
		}
		if keys := watch.Keys(w.View.Snapshot(), change(nil, before)); len(keys) != 1 {
			t.Errorf("a new pod wakes %v", keys)
		}
	}
}

func change(before, after *corev1.Pod) view.Change {
	c := view.Change{Kind: kinds.Pod, New: after}
	if before != nil {
		c.Old = before
	}
	return c
}

// TestCustomObjects: kinds that came while the collector ran own and are owned
// like any; with their kind they are out of its sight.
func TestCustomObjects(t *testing.T) {
	w, c := world()
	foo := kinds.NewRaw(schema.GroupKind{Group: "example.com", Kind: "Foo"}, "foos", true, func() *kinds.Kind { return nil })
	w.View.Add(foo)
	w.View.Replace(foo, nil, 0)
	custom := func(name string, owners ...metav1.OwnerReference) *kinds.Raw {
		return &kinds.Raw{PartialObjectMetadata: metav1.PartialObjectMetadata{ObjectMeta: meta(name, owners...)}}
	}
	owner := metav1.OwnerReference{APIVersion: "example.com/v7", Kind: "Foo", Name: "f", UID: "u-f"}
	gone := owner
	gone.Name, gone.UID = "gone", "u-gone"
	w.Put(foo, custom("f"))
	w.Put(foo, custom("g", ref(kinds.ReplicaSet, "gone", false)))
	put(w, pod("p", owner), pod("q", gone))
	drive(t, w, c)
	if got := names(w); !slices.Equal(got, []string{"p"}) {
		t.Errorf("left %v, want the pod whose owner lives", got)
	}
	if w.Object(foo, "default", "f") == nil || w.Object(foo, "default", "g") != nil {
		t.Error("of the custom objects the wrong ones are left")
	}
	w.View.Remove(foo)
	put(w, pod("r", gone))
	drive(t, w, c)
	if got := names(w); !slices.Equal(got, []string{"p", "r"}) {
		t.Errorf("left %v: an owner of an unknown kind counts as alive", got)
	}
}
