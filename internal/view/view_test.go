package view

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
)

// pod reads "namespace/name@node", at a revision.
func pod(text string, rev int64) *corev1.Pod {
	where, node, _ := strings.Cut(text, "@")
	namespace, name, _ := strings.Cut(where, "/")
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, ResourceVersion: strconv.FormatInt(rev, 10), UID: types.UID(where)},
		Spec:       corev1.PodSpec{NodeName: node},
	}
}

func revOf(p *corev1.Pod) int64 {
	n, err := strconv.ParseInt(p.ResourceVersion, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

func created(text string, rev int64) Change {
	return Change{Kind: kinds.Pod, New: pod(text, rev), Rev: rev}
}

func deleted(text string, rev int64) Change {
	return Change{Kind: kinds.Pod, Old: pod(text, rev), Rev: rev}
}

func namesOf(seq func(func(*corev1.Pod) bool)) string {
	var out []string
	for p := range seq {
		out = append(out, p.Namespace+"/"+p.Name)
	}
	return strings.Join(out, " ")
}

func newView() *View {
	return New([]*kinds.Kind{kinds.Pod, kinds.Node}, PodsByNode, PodsByOwner)
}

func TestListAndIndex(t *testing.T) {
	v := newView()
	v.Replace(kinds.Pod, []kinds.Object{pod("b/1@n1", 1), pod("a/1@n1", 2), pod("a/2@", 3), pod("a-b/1@n12", 4)}, 4)
	v.Replace(kinds.Node, []kinds.Object{&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}}, 4)
	s := v.Snapshot()
	for _, tc := range []struct{ got, want string }{
		{namesOf(List[*corev1.Pod](s, kinds.Pod, "")), "a-b/1 a/1 a/2 b/1"},
		{namesOf(List[*corev1.Pod](s, kinds.Pod, "a")), "a/1 a/2"},
		{namesOf(List[*corev1.Pod](s, kinds.Pod, "c")), ""},
		{namesOf(By[*corev1.Pod](s, PodsByNode, "n1")), "a/1 b/1"},
		{namesOf(By[*corev1.Pod](s, PodsByNode, "")), "a/2"},
		{Get[*corev1.Pod](s, kinds.Pod, "a", "2").Name, "2"},
		{Get[*corev1.Node](s, kinds.Node, "", "n1").Name, "n1"},
		{Now[*corev1.Pod](v, kinds.Pod, "b", "1").Namespace, "b"},
	} {
		if tc.got != tc.want {
			t.Errorf("got %q, want %q", tc.got, tc.want)
		}
	}
	if Get[*corev1.Pod](s, kinds.Pod, "a", "9") != nil || Now[*corev1.Pod](v, kinds.Pod, "a", "9") != nil {
		t.Error("found what is not there")
	}
	if !s.Has(kinds.Pod) || s.Has(kinds.Service) || s.Len(kinds.Pod) != 4 {
		t.Error("wrong kinds or length")
	}
	if got := v.Kinds(); !slices.Equal(got, []*kinds.Kind{kinds.Pod, kinds.Node}) {
		t.Errorf("kinds %v", got)
	}
	for range List[*corev1.Pod](s, kinds.Pod, "") {
		break // must not go on
	}
}

func TestUnknownIndexPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("an index that the view does not keep gave something")
		}
	}()
	By[*corev1.Pod](newView().Snapshot(), FinishedPods, "")
}

func TestApplyDropsWhatItHasSeen(t *testing.T) {
	v := newView()
	v.Replace(kinds.Pod, []kinds.Object{pod("a/1@", 5)}, 10)
	for _, tc := range []struct {
		name   string
		change Change
		want   string
	}{
		{"older", created("a/2@", 9), "a/1"},
		{"what the list held", Change{Kind: kinds.Pod, New: pod("a/1@n", 10), Rev: 10}, "a/1"},
		{"new", created("a/2@", 11), "a/1 a/2"},
		{"again", deleted("a/2@", 11), "a/1 a/2"},
		{"deleted", deleted("a/2@", 12), "a/1"},
		{"another at that revision", deleted("a/1@", 12), ""},
		{"that again", deleted("a/1@", 12), ""},
		{"unknown kind", Change{Kind: kinds.Secret, New: &corev1.Secret{}, Rev: 20}, ""},
		{"not there", deleted("a/7@", 13), ""},
	} {
		v.Apply(tc.change)
		if got := namesOf(List[*corev1.Pod](v.Snapshot(), kinds.Pod, "")); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	if v.Rev(kinds.Pod) != 13 {
		t.Errorf("at revision %d", v.Rev(kinds.Pod))
	}
}

func TestReplaceTellsDifferences(t *testing.T) {
	v := newView()
	v.Replace(kinds.Pod, []kinds.Object{pod("a/same@", 1), pod("a/gone@", 2), pod("a/changed@", 3), pod("a/anew@", 4)}, 4)
	var got []string
	cancel := v.Subscribe(func(c Change) {
		verb := "changed"
		if c.Old == nil {
			verb = "created"
		} else if c.New == nil {
			verb = "deleted"
		}
		got = append(got, verb+" "+c.Object().GetName())
	})
	anew := pod("a/anew@", 9)
	anew.UID = "other"
	v.Replace(kinds.Pod, []kinds.Object{pod("a/same@", 1), pod("a/changed@", 8), anew, pod("a/more@", 7)}, 9)
	if want := "changed changed, deleted anew, created anew, created more, deleted gone"; strings.Join(got, ", ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	cancel()
	v.Apply(created("a/after@", 10))
	if len(got) != 5 {
		t.Error("a cancelled subscriber was called")
	}
}

// TestReplaceIsTheTruth: after a restore the server's revisions are lower.
func TestReplaceIsTheTruth(t *testing.T) {
	v := newView()
	v.Replace(kinds.Pod, []kinds.Object{pod("a/1@", 100)}, 100)
	v.Replace(kinds.Pod, []kinds.Object{pod("a/1@old", 50)}, 50)
	v.Apply(created("a/2@", 51))
	s := v.Snapshot()
	if Get[*corev1.Pod](s, kinds.Pod, "a", "1").Spec.NodeName != "old" || s.Len(kinds.Pod) != 2 || s.Rev(kinds.Pod) != 51 {
		t.Errorf("%s at %d", namesOf(List[*corev1.Pod](s, kinds.Pod, "")), s.Rev(kinds.Pod))
	}
}

func TestSnapshotSaysHowFarItIs(t *testing.T) {
	v := newView()
	if v.Snapshot() != v.Snapshot() {
		t.Error("two snapshots of the same content")
	}
	for _, tc := range []struct {
		name       string
		do         func()
		pods, node int64
	}{
		{"empty list", func() { v.Replace(kinds.Pod, nil, 3) }, 3, 0},
		{"the same again", func() { v.Replace(kinds.Pod, nil, 4) }, 4, 0},
		{"progress of one", func() { v.Progress(kinds.Pod, 5) }, 5, 0},
		{"progress of all", func() { v.ProgressAll(7) }, 7, 7},
		{"old progress", func() { v.ProgressAll(6); v.Progress(kinds.Pod, 6) }, 7, 7},
		{"a change", func() { v.Apply(created("a/1@", 8)) }, 8, 7},
		{"a deletion of nothing", func() { v.Apply(deleted("a/9@", 9)) }, 9, 7},
		{"progress of a kind that is not held", func() { v.Progress(kinds.Secret, 99) }, 9, 7},
	} {
		v.Snapshot()
		tc.do()
		if s := v.Snapshot(); s.Rev(kinds.Pod) != tc.pods || s.Rev(kinds.Node) != tc.node || v.Rev(kinds.Pod) != tc.pods {
			t.Errorf("%s: %d and %d", tc.name, s.Rev(kinds.Pod), s.Rev(kinds.Node))
		}
	}
}

func TestWait(t *testing.T) {
	v := newView()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := v.WaitSynced(ctx); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		if err := v.WaitRev(ctx, kinds.Node, 5); err != nil {
			t.Error(err)
		}
	})
	moved := v.Moved()
	v.Replace(kinds.Pod, nil, 1)
	<-moved
	v.Replace(kinds.Node, nil, 4)
	v.ProgressAll(5)
	wg.Wait()
	cancel()
	if err := v.WaitRev(ctx, kinds.Pod, 99); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestKindsComeAndGo: snapshots keep what they show, subscribers hear of all
// that goes, and a kind that came late does not claim what the others know.
func TestKindsComeAndGo(t *testing.T) {
	v := New([]*kinds.Kind{kinds.Node}, Owned)
	v.Replace(kinds.Node, nil, 3)
	v.ProgressAll(7)
	before := v.Snapshot()
	var told []string
	v.Subscribe(func(c Change) {
		told = append(told, fmt.Sprintf("%s %v", c.Object().GetName(), c.New != nil))
	})
	v.Add(kinds.Pod)
	v.Add(kinds.Pod)
	late := v.Snapshot()
	if before.Has(kinds.Pod) || !late.Has(kinds.Pod) || late.Rev(kinds.Pod) != 0 || v.Rev(kinds.Pod) != 0 || late.Rev(kinds.Node) != 7 {
		t.Errorf("after Add: %v %v, pods at %d, nodes at %d", before.Has(kinds.Pod), late.Has(kinds.Pod), late.Rev(kinds.Pod), late.Rev(kinds.Node))
	}
	p := pod("a/1@", 8)
	p.OwnerReferences = []metav1.OwnerReference{{UID: "u"}, {UID: "u"}}
	v.Replace(kinds.Pod, []kinds.Object{p}, 8)
	full := v.Snapshot()
	if got := namesOf(ByOf[*corev1.Pod](full, Owned, kinds.Pod, "u")); got != "a/1" || full.Rev(kinds.Pod) != 8 {
		t.Errorf("after Replace: %q at %d", got, full.Rev(kinds.Pod))
	}
	if full.ByGroupKind(kinds.Pod.GVK.GroupKind()) != kinds.Pod || full.ByName(kinds.Pod.GroupResource()) != kinds.Pod || before.ByName(kinds.Pod.GroupResource()) != nil {
		t.Error("a kind is not found by its names")
	}
	v.Remove(kinds.Pod)
	v.Remove(kinds.Pod)
	v.Apply(created("a/2@", 9))
	if want := []string{"1 true", "1 false"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	if after := v.Snapshot(); after.Has(kinds.Pod) || len(after.Kinds()) != 1 || full.Len(kinds.Pod) != 1 {
		t.Error("the kind is still there, or an old snapshot has lost it")
	}
}

// model is what a view holds, plainly.
type model struct {
	pods map[string]*corev1.Pod
	rev  int64
}

// TestModel: any feed gives the content that a map would have, indexes and all;
// snapshots never change; a subscriber can rebuild the content.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := newView()
		m := model{pods: map[string]*corev1.Pod{}}
		seen := map[string]kinds.Object{}
		v.Subscribe(func(c Change) {
			o := c.Object()
			key := o.GetNamespace() + "/" + o.GetName()
			if have := seen[key]; have != c.Old && (have != nil || c.Old != nil) {
				t.Fatalf("%s: Old is not what was told before", key)
			}
			if c.New == nil {
				delete(seen, key)
			} else {
				seen[key] = c.New
			}
		})
		type taken struct {
			s    *Snapshot
			want string
		}
		var snapshots []taken
		name := rapid.SampledFrom([]string{"a/1", "a/2", "b/1", "ab/1"})
		node := rapid.SampledFrom([]string{"", "n1", "n2"})
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			rev := m.rev + rapid.Int64Range(-2, 2).Draw(t, "rev")
			where := name.Draw(t, "name")
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				v.Apply(deleted(where+"@", rev))
				if rev > m.rev || rev == m.rev && m.pods[where] != nil && revOf(m.pods[where]) < rev {
					delete(m.pods, where)
				}
				m.rev = max(m.rev, rev)
			case 1:
				m = replaced(t, v, rev)
			case 2:
				v.Progress(kinds.Pod, rev)
				m.rev = max(m.rev, rev)
			default:
				p := pod(where+"@"+node.Draw(t, "node"), rev)
				v.Apply(Change{Kind: kinds.Pod, New: p, Rev: rev})
				have := m.pods[where]
				if rev > m.rev || rev == m.rev && (have == nil || revOf(have) < rev) {
					m.pods[where] = p
				}
				m.rev = max(m.rev, rev)
			}
			s := v.Snapshot()
			want := slices.Sorted(maps.Keys(m.pods))
			if got := namesOf(List[*corev1.Pod](s, kinds.Pod, "")); got != strings.Join(want, " ") || s.Rev(kinds.Pod) != m.rev {
				t.Fatalf("%q at %d, want %v at %d", got, s.Rev(kinds.Pod), want, m.rev)
			}
			checkIndex(t, s, m)
			snapshots = append(snapshots, taken{s, namesOf(List[*corev1.Pod](s, kinds.Pod, ""))})
		}
		for _, old := range snapshots {
			if got := namesOf(List[*corev1.Pod](old.s, kinds.Pod, "")); got != old.want {
				t.Fatalf("a snapshot changed from %q to %q", old.want, got)
			}
		}
		if len(seen) != len(m.pods) {
			t.Fatalf("subscribers know of %d objects, there are %d", len(seen), len(m.pods))
		}
	})
}

// replaced draws a list and hands it to the view.
func replaced(t *rapid.T, v *View, rev int64) model {
	m := model{pods: map[string]*corev1.Pod{}, rev: max(rev, 0)}
	var list []kinds.Object
	for _, where := range []string{"a/1", "a/2", "b/1", "ab/1"} {
		if !rapid.Bool().Draw(t, "listed") {
			continue
		}
		p := pod(where+"@n1", m.rev)
		// A list at a revision holds the object that was written then.
		if have := Get[*corev1.Pod](v.Snapshot(), kinds.Pod, p.Namespace, p.Name); have != nil && have.ResourceVersion == p.ResourceVersion {
			p = have
		}
		m.pods[where] = p
		list = append(list, p)
	}
	v.Replace(kinds.Pod, list, m.rev)
	return m
}

func checkIndex(t *rapid.T, s *Snapshot, m model) {
	total := 0
	for _, node := range []string{"", "n1", "n2"} {
		for p := range By[*corev1.Pod](s, PodsByNode, node) {
			total++
			if p.Spec.NodeName != node || m.pods[p.Namespace+"/"+p.Name] != p {
				t.Fatalf("%s/%s on %q is filed under %q", p.Namespace, p.Name, p.Spec.NodeName, node)
			}
		}
	}
	if total != len(m.pods) {
		t.Fatalf("%d pods are filed, there are %d", total, len(m.pods))
	}
}

// TestConcurrent: readers see complete states while writers write.
func TestConcurrent(t *testing.T) {
	v := newView()
	v.Replace(kinds.Pod, nil, 0)
	const last = 2000
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for rev := int64(0); rev < last; {
				s := v.Snapshot()
				if s.Rev(kinds.Pod) < rev {
					t.Error("a snapshot went back")
					return
				}
				rev = s.Rev(kinds.Pod)
				n := 0
				for range By[*corev1.Pod](s, PodsByNode, "n") {
					n++
				}
				if n != s.Len(kinds.Pod) {
					t.Errorf("%d of %d pods are filed", n, s.Len(kinds.Pod))
					return
				}
			}
		})
	}
	for rev := int64(1); rev <= last; rev++ {
		if rev%3 == 0 {
			v.Apply(deleted(fmt.Sprintf("a/%d@n", rev-1), rev))
		} else {
			v.Apply(created(fmt.Sprintf("a/%d@n", rev), rev))
		}
	}
	wg.Wait()
}

func BenchmarkApplyAndSnapshot(b *testing.B) {
	v := New([]*kinds.Kind{kinds.Pod}, Shared()[0], PodsByNode, FinishedPods, PodOrphans)
	for i := range 10_000 {
		v.Apply(created(fmt.Sprintf("a/%d@n", i), int64(i+1)))
	}
	rev := int64(20_000)
	b.ReportAllocs()
	for b.Loop() {
		rev++
		v.Apply(created(fmt.Sprintf("a/%d@n", rev%10_000), rev))
		v.Snapshot()
	}
}
