package history

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kinds/defaults"
	"knarr.dev/knarr/internal/plan"
)

func template(image string) *corev1.PodTemplateSpec {
	user := int64(1)<<62 + 1 // more than a float holds
	t := &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}, SecurityContext: &corev1.PodSecurityContext{RunAsUser: &user}}}
	defaults.PodSpec(&t.Spec)
	return t
}

func subject(image string, others ...*appsv1.ControllerRevision) Subject {
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "set", Annotations: map[string]string{"kubernetes.io/change-cause": "because"}}}
	return Subject{Kind: kinds.StatefulSet, Set: set, Template: template(image), HashLabel: HashLabel, Named: func(name string) *appsv1.ControllerRevision {
		for _, r := range others {
			if r.Name == name {
				return r
			}
		}
		return nil
	}}
}

func revision(image string, number int64) *appsv1.ControllerRevision {
	r := subject(image).Present(nil).Revision
	r.Revision, r.UID = number, types.UID(image)
	return r
}

func verbs(actions []plan.Action) (out []string) {
	for _, a := range actions {
		out = append(out, string(a.Verb)+" "+a.Ref.Name)
	}
	return out
}

func TestData(t *testing.T) {
	data := string(Data(template("v1")))
	for _, want := range []string{`{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"image":"v1"`, `"runAsUser":4611686018427387905`} {
		if !strings.Contains(data, want) {
			t.Errorf("%s\nlacks %s", data, want)
		}
	}
	back, err := Template(revision("v1", 1))
	if err != nil || !apiequality.Semantic.DeepEqual(back, template("v1")) {
		t.Errorf("%+v, %v", back, err)
	}
	for _, bad := range []string{`{"spec":{}}`, `{`, `{"spec":{"template":[]}}`} {
		if _, err := Template(&appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte(bad)}}); err == nil {
			t.Errorf("%s is read as a template", bad)
		}
	}
}

// The names are upstream's: FNV-1 over the data and the collisions in decimals.
func TestNames(t *testing.T) {
	zero, one := int32(0), int32(1)
	for _, tt := range []struct {
		collisions *int32
		want       string
	}{{nil, "6d4c5b5d8d"}, {&zero, "59c9b4d596"}, {&one, "59c9b4d597"}} {
		if got := Hash([]byte(`{"spec":{}}`), tt.collisions); got != tt.want {
			t.Errorf("hash %s, want %s", got, tt.want)
		}
	}
	if got := Name(strings.Repeat("x", 300), "h"); len(got) != maxPrefix+2 {
		t.Errorf("a name of %d bytes", len(got))
	}
}

func TestPresent(t *testing.T) {
	v1, v2, v3 := revision("v1", 1), revision("v2", 2), revision("v3", 3)
	twin := revision("v1", 2)
	twin.Name = "web-twin"
	spaced := revision("v3", 3)
	spaced.Data.Raw = []byte(strings.Replace(string(spaced.Data.Raw), `"restartPolicy":"Always",`, ` `, 1))
	leaving := revision("v1", 1)
	leaving.DeletionTimestamp = &metav1.Time{}
	for _, tt := range []struct {
		name   string
		image  string
		have   []*appsv1.ControllerRevision
		number int64
		old    int
		twins  int
		want   []string
	}{
		{"the first", "v1", nil, 1, 0, 0, []string{"create " + v1.Name}},
		{"the second", "v2", []*appsv1.ControllerRevision{v1}, 2, 1, 0, []string{"create " + v2.Name}},
		{"nothing new", "v2", []*appsv1.ControllerRevision{v2, v1}, 2, 1, 0, nil},
		{"a rollback", "v1", []*appsv1.ControllerRevision{v1, v2, v3}, 4, 2, 0, []string{"update " + v1.Name}},
		{"the same in other bytes", "v3", []*appsv1.ControllerRevision{v1, spaced}, 3, 1, 0, nil},
		{"an older one in other bytes is not searched for", "v3", []*appsv1.ControllerRevision{spaced, revision("v4", 4)}, 5, 2, 0, []string{"create " + v3.Name}},
		{"the newer of two", "v1", []*appsv1.ControllerRevision{v1, twin}, 2, 0, 1, nil},
		{"the newer of two has a number to spare", "v1", []*appsv1.ControllerRevision{v1, twin, v2}, 3, 1, 1, []string{"update web-twin"}},
		{"one that goes does not count", "v1", []*appsv1.ControllerRevision{leaving}, 1, 0, 0, []string{"create " + v1.Name}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := subject(tt.image).Present(tt.have)
			if p.Revision.Revision != tt.number || len(p.Old) != tt.old || len(p.Twins) != tt.twins || !slices.Equal(verbs(p.Actions), tt.want) {
				t.Errorf("number %d, %d old, %d twins, %q", p.Revision.Revision, len(p.Old), len(p.Twins), verbs(p.Actions))
			}
		})
	}
	if v1.Revision != 1 {
		t.Error("what was given is changed")
	}
	r := subject("v1").Present(nil).Revision
	if r.Labels["app"] != "web" || v1.Name != "web-"+r.Labels[HashLabel] || r.Annotations["kubernetes.io/change-cause"] != "because" || r.OwnerReferences[0].UID != "set" || r.Namespace != "default" {
		t.Errorf("revision %+v", r)
	}
}

func TestCollision(t *testing.T) {
	s := subject("v1", revision("v1", 1))
	p := s.Present(nil)
	if p.Collisions == nil || *p.Collisions != 1 || p.Revision.Name == revision("v1", 1).Name || p.Revision.Name != Name("web", p.Revision.Labels[HashLabel]) {
		t.Errorf("%s after %v collisions", p.Revision.Name, p.Collisions)
	}
	s.Named = func(string) *appsv1.ControllerRevision { return revision("v1", 1) }
	if p := s.Present(nil); *p.Collisions != maxCollisions {
		t.Errorf("%d names were tried", *p.Collisions)
	}
}

func TestAdoptAndDrop(t *testing.T) {
	match, _ := labels.Parse("app=web")
	orphan, other, leaving := revision("v1", 1), revision("v2", 1), revision("v3", 1)
	other.Labels = nil
	leaving.DeletionTimestamp = &metav1.Time{}
	mine, actions := subject("v1").Adopt([]*appsv1.ControllerRevision{orphan, other, leaving}, match)
	if len(mine) != 1 || len(actions) != 1 || actions[0].Ref.Name != orphan.Name || actions[0].UID != "v1" || len(actions[0].Live) != 1 {
		t.Errorf("adopts %+v", actions)
	}
	a, b, c := revision("v1", 3), revision("v2", 1), revision("v3", 2)
	all := []*appsv1.ControllerRevision{a, b, c}
	if got := verbs(Drop(all, 2)); !slices.Equal(got, []string{"delete " + b.Name, "delete " + c.Name}) {
		t.Errorf("drops %q", got)
	}
	if len(Drop(all, -1)) != 0 || len(Drop(all, 9)) != 3 || all[0] != a {
		t.Error("drops too many, too few, or sorts what it was given")
	}
}
