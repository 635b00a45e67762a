package resourcequota

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/quota"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func list(text string) corev1.ResourceList {
	if text == "-" {
		return nil
	}
	out := corev1.ResourceList{}
	for _, f := range strings.Fields(text) {
		name, value, _ := strings.Cut(f, "=")
		out[corev1.ResourceName(name)] = resource.MustParse(value)
	}
	return out
}

func show(l corev1.ResourceList) string {
	var out []string
	for name, q := range l {
		out = append(out, string(name)+"="+q.String())
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func limit(name, spec, hard, used string) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: list(spec)},
		Status: corev1.ResourceQuotaStatus{Hard: list(hard), Used: list(used)}}
}

func pod(ns, name, cpu string, opts ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c",
		Resources: corev1.ResourceRequirements{Requests: list("cpu=" + cpu)}}}}}
	for _, o := range opts {
		o(p)
	}
	return p
}

func leaving(grace int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: noon}, &grace
	}
}

func observed(q *corev1.ResourceQuota, pods ...*corev1.Pod) Observed {
	var objects []kinds.Object
	for _, p := range pods {
		objects = append(objects, p)
	}
	return Observed{Quota: q, Around: quota.In{Snapshot: view.New(nil).Snapshot()}, Now: noon, Content: []quota.Content{{Kind: kinds.Pod, Objects: slices.Values(objects)}}}
}

func TestPlan(t *testing.T) {
	two := []*corev1.Pod{pod("a", "x", "1"), pod("a", "y", "500m")}
	for _, tt := range []struct {
		name  string
		o     Observed
		want  string // the new status, if it is written
		after time.Duration
	}{
		{"new", observed(limit("q", "pods=5 cpu=2", "-", "-"), two...), "cpu=2 pods=5, used cpu=1500m pods=2", resync},
		{"nothing to do", observed(limit("q", "pods=5 cpu=2", "pods=5 cpu=2", "pods=2 cpu=1500m"), two...), "", resync},
		{"another limit", observed(limit("q", "pods=7", "pods=5 cpu=2", "pods=2 cpu=1500m"), two...), "pods=7, used pods=2", resync},
		{"less is used", observed(limit("q", "pods=5", "pods=5", "pods=3"), two...), "pods=5, used pods=2", secondLook},
		{"more is used", observed(limit("q", "pods=5", "pods=5", "pods=1"), two...), "pods=5, used pods=2", resync},
		{"nobody counts that", observed(limit("q", "pods=5 count/x.example.com=1", "-", "-"), two...), "count/x.example.com=1 pods=5, used pods=2", resync},
		{"nobody counts that any more", observed(limit("q", "count/x.example.com=1", "count/x.example.com=1", "count/x.example.com=1"), two...), "", resync},
		{"without limits", observed(limit("q", "", "-", "-")), ", used ", resync},
		{"a pod goes soon", observed(limit("q", "pods=5", "pods=5", "pods=1"), pod("a", "x", "1", leaving(30))), "", 30*time.Second + time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := tt.o.Quota.DeepCopy()
			res := Plan(tt.o)
			got := ""
			if len(res.Actions) > 1 {
				t.Fatalf("%d actions", len(res.Actions))
			}
			if len(res.Actions) == 1 {
				a := res.Actions[0]
				q := a.Object.(*corev1.ResourceQuota)
				got = show(q.Status.Hard) + ", used " + show(q.Status.Used)
				if a.Verb != plan.Update || a.Ref.Sub != "status" || a.Ref.Name != "q" {
					t.Errorf("action %+v", a)
				}
				again := tt.o
				again.Quota = q
				if res := Plan(again); len(res.Actions) != 0 {
					t.Errorf("planned again after applying: %+v", res.Actions)
				}
			}
			if got != tt.want || res.After != tt.after {
				t.Errorf("%q after %s, want %q after %s", got, res.After, tt.want, tt.after)
			}
			if show(before.Status.Used) != show(tt.o.Quota.Status.Used) {
				t.Error("the observed quota was changed")
			}
		})
	}
	await := observed(limit("q", "pods=5", "pods=5", "pods=0"))
	await.Awaited = true
	if res := Plan(await); res.After != awaiting {
		t.Errorf("a kind that is to come is looked for after %s", res.After)
	}
}

func world() *reconciletest.World {
	var ks []*kinds.Kind
	for _, k := range kinds.Builtin().All() {
		if k.Stored() && k.StoredAs == nil {
			ks = append(ks, k)
		}
	}
	return reconciletest.New(ks, view.Shared()...)
}

func status(w *reconciletest.World, name string) string {
	q := w.Object(kinds.ResourceQuota, "a", name).(*corev1.ResourceQuota)
	return show(q.Status.Hard) + ", used " + show(q.Status.Used)
}

func TestThroughTheRuntime(t *testing.T) {
	w := world()
	c := Controller(kinds.Builtin())
	drive := func(horizon time.Duration) {
		t.Helper()
		if _, err := w.Drive(1, 200, horizon, c); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		w.Put(kinds.Pod, pod("a", fmt.Sprint("p", i), "1"))
	}
	w.Put(kinds.Pod, pod("b", "other", "1"))
	w.Put(kinds.Secret, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "s"}})
	w.Put(kinds.ResourceQuota, limit("q", "pods=9 requests.cpu=9 secrets=2 count/replicasets.apps=1", "-", "-"))
	drive(time.Second)
	if got, want := status(w, "q"), "count/replicasets.apps=1 pods=9 requests.cpu=9 secrets=2, used count/replicasets.apps=0 pods=3 requests.cpu=3 secrets=1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	w.Put(kinds.Pod, pod("a", "p3", "1"))
	w.Remove(kinds.Secret, "a", "s")
	drive(time.Second)
	if got := status(w, "q"); !strings.Contains(got, "pods=4 requests.cpu=4 secrets=0") {
		t.Errorf("after a deletion: %s", got)
	}
	writes := len(w.Writes)
	w.Put(kinds.Pod, pod("b", "another", "1"))
	w.Remove(kinds.Pod, "b", "other")
	drive(time.Hour)
	if len(w.Writes) != writes {
		t.Errorf("writes without a reason: %v", w.Writes[writes:])
	}
	done := pod("a", "p0", "1")
	done.Status.Phase = corev1.PodSucceeded
	done.UID = w.Object(kinds.Pod, "a", "p0").GetUID()
	w.Put(kinds.Pod, done)
	drive(time.Second)
	if got := status(w, "q"); !strings.Contains(got, "pods=3 requests.cpu=3") {
		t.Errorf("after a pod has ended: %s", got)
	}
}

// What was charged and never came is given back, at the latest by the resync.
func TestLostCharge(t *testing.T) {
	w := world()
	w.Put(kinds.ResourceQuota, limit("q", "pods=9", "pods=9", "pods=5"))
	w.Put(kinds.Pod, pod("a", "p", "1"))
	if _, err := w.Drive(1, 200, resync+time.Second, Controller(kinds.Builtin())); err != nil {
		t.Fatal(err)
	}
	if got := status(w, "q"); got != "pods=9, used pods=1" {
		t.Error(got)
	}
}

func TestKeys(t *testing.T) {
	w := world()
	q := w.Put(kinds.ResourceQuota, limit("q", "pods=9 count/x.example.com=1", "pods=9 count/x.example.com=1", "pods=5")).(*corev1.ResourceQuota)
	s := w.View.Snapshot()
	edit := func(f func(*corev1.ResourceQuota)) *corev1.ResourceQuota {
		c := q.DeepCopy()
		f(c)
		return c
	}
	crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "x.example.com"}}
	for _, tt := range []struct {
		name string
		keys int
		c    view.Change
	}{
		{"a new quota", 1, view.Change{Kind: kinds.ResourceQuota, New: q}},
		{"a quota that is gone", 0, view.Change{Kind: kinds.ResourceQuota, Old: q}},
		{"a charge", 0, view.Change{Kind: kinds.ResourceQuota, Old: q, New: edit(func(c *corev1.ResourceQuota) { c.Status.Used["pods"] = resource.MustParse("6") })}},
		{"a limit", 1, view.Change{Kind: kinds.ResourceQuota, Old: q, New: edit(func(c *corev1.ResourceQuota) { c.Spec.Hard["pods"] = resource.MustParse("6") })}},
		{"a status that lies", 1, view.Change{Kind: kinds.ResourceQuota, Old: q, New: edit(func(c *corev1.ResourceQuota) { c.Status.Hard["pods"] = resource.MustParse("6") })}},
		{"a status that forgets", 1, view.Change{Kind: kinds.ResourceQuota, Old: q, New: edit(func(c *corev1.ResourceQuota) { c.Status.Used = nil })}},
		{"a new pod", 0, view.Change{Kind: kinds.Pod, New: pod("a", "p", "1")}},
		{"a pod that is gone", 1, view.Change{Kind: kinds.Pod, Old: pod("a", "p", "1")}},
		{"a pod elsewhere", 0, view.Change{Kind: kinds.Pod, Old: pod("b", "p", "1")}},
		{"what is not limited", 0, view.Change{Kind: kinds.Secret, Old: &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a"}}}},
		{"a definition", 1, view.Change{Kind: kinds.CustomResourceDefinition, New: crd}},
	} {
		keys := quotaKeys
		switch tt.c.Kind {
		case kinds.ResourceQuota:
		case kinds.CustomResourceDefinition:
			keys = definitionKeys
		default:
			keys = objectKeys
		}
		if got := keys(s, tt.c); len(got) != tt.keys {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	if awaited(s, q) {
		t.Error("a kind that nobody defines is awaited")
	}
	w.Put(kinds.CustomResourceDefinition, crd)
	if !awaited(w.View.Snapshot(), q) {
		t.Error("a kind that is defined is not awaited")
	}
}
