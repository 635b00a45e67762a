package customresourcedefinition

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

var now = time.Unix(1e9, 0)

func crd(names apiextensionsv1.CustomResourceDefinitionNames, edit ...func(*apiextensionsv1.CustomResourceDefinition)) *apiextensionsv1.CustomResourceDefinition {
	c := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: names.Plural + ".x", UID: "u"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{Group: "x", Names: names}}
	for _, e := range edit {
		e(c)
	}
	return c
}

// conditions of the status that the plan writes, as "Type=Status/Reason".
func conditions(t *testing.T, r plan.Result) (string, *apiextensionsv1.CustomResourceDefinition) {
	t.Helper()
	for _, a := range r.Actions {
		if c, ok := a.Object.(*apiextensionsv1.CustomResourceDefinition); ok && a.Ref.Sub == "status" {
			var out []string
			for _, c := range c.Status.Conditions {
				out = append(out, string(c.Type)+"="+string(c.Status)+"/"+c.Reason)
			}
			return strings.Join(out, " "), c
		}
	}
	return "", nil
}

func TestNames(t *testing.T) {
	ships := apiextensionsv1.CustomResourceDefinitionNames{Plural: "ships", Singular: "ship", Kind: "Ship", ListKind: "ShipList", ShortNames: []string{"sh"}, Categories: []string{"fleet"}}
	taken := func(edit func(*apiextensionsv1.CustomResourceDefinitionNames)) []*apiextensionsv1.CustomResourceDefinition {
		n := apiextensionsv1.CustomResourceDefinitionNames{Plural: "boats", Singular: "boat", Kind: "Boat", ListKind: "BoatList"}
		edit(&n)
		other := crd(n)
		other.Status.AcceptedNames = n
		return []*apiextensionsv1.CustomResourceDefinition{other}
	}
	for _, tt := range []struct {
		name   string
		others []*apiextensionsv1.CustomResourceDefinition
		want   string
	}{
		{"alone", nil, "NamesAccepted=True/NoConflicts Established=False/Installing"},
		{"with another", taken(func(*apiextensionsv1.CustomResourceDefinitionNames) {}), "NamesAccepted=True/NoConflicts Established=False/Installing"},
		{"singular taken", taken(func(n *apiextensionsv1.CustomResourceDefinitionNames) { n.Singular = "ship" }), "NamesAccepted=False/SingularConflict Established=False/NotAccepted"},
		{"short name taken", taken(func(n *apiextensionsv1.CustomResourceDefinitionNames) { n.ShortNames = []string{"sh"} }), "NamesAccepted=False/ShortNamesConflict Established=False/NotAccepted"},
		{"kind taken", taken(func(n *apiextensionsv1.CustomResourceDefinitionNames) { n.Kind = "Ship" }), "NamesAccepted=False/KindConflict Established=False/NotAccepted"},
		{"list kind taken", taken(func(n *apiextensionsv1.CustomResourceDefinitionNames) { n.ListKind = "ShipList" }), "NamesAccepted=False/ListKindConflict Established=False/NotAccepted"},
		{"plural is another's short name", taken(func(n *apiextensionsv1.CustomResourceDefinitionNames) { n.ShortNames = []string{"ships"} }), "NamesAccepted=False/PluralConflict Established=False/NotAccepted"},
	} {
		got, after := conditions(t, Plan(Observed{CRD: crd(ships), Others: tt.others, Now: now}))
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
			continue
		}
		if r := Plan(Observed{CRD: after, Others: tt.others, Now: now.Add(time.Hour)}); len(r.Actions) > 0 {
			t.Errorf("%s: it does not come to rest: %+v", tt.name, r.Actions)
		}
		if accepted := after.Status.AcceptedNames; strings.Contains(tt.want, "NamesAccepted=True") != (accepted.Kind == "Ship" && accepted.Plural == "ships" && accepted.Singular == "ship" &&
			accepted.ListKind == "ShipList" && slices.Equal(accepted.ShortNames, ships.ShortNames)) {
			t.Errorf("%s: accepted %+v", tt.name, accepted)
		}
	}
}

// What is established stays so when its new names are not to be had.
func TestEstablishedStays(t *testing.T) {
	c := crd(apiextensionsv1.CustomResourceDefinitionNames{Plural: "ships", Singular: "ship", Kind: "Ship", ListKind: "ShipList", ShortNames: []string{"b"}})
	c.Status.AcceptedNames = apiextensionsv1.CustomResourceDefinitionNames{Plural: "ships", Singular: "ship", Kind: "Ship", ListKind: "ShipList"}
	c.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue, Reason: "InitialNamesAccepted"}}
	other := crd(apiextensionsv1.CustomResourceDefinitionNames{Plural: "boats"})
	other.Status.AcceptedNames.ShortNames = []string{"b"}
	got, after := conditions(t, Plan(Observed{CRD: c, Others: []*apiextensionsv1.CustomResourceDefinition{other}, Now: now}))
	if want := "Established=True/InitialNamesAccepted NamesAccepted=False/ShortNamesConflict"; got != want || after.Status.AcceptedNames.ShortNames != nil {
		t.Errorf("%s %+v, want %s", got, after.Status.AcceptedNames, want)
	}
}

func TestFinish(t *testing.T) {
	deleted := func(c *apiextensionsv1.CustomResourceDefinition) {
		c.DeletionTimestamp = &metav1.Time{Time: now}
		c.Finalizers = []string{"mine/x", apiextensionsv1.CustomResourceCleanupFinalizer}
	}
	ships := apiextensionsv1.CustomResourceDefinitionNames{Plural: "ships"}
	object := func(gone bool) kinds.Object {
		o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a", UID: "o"}}
		if gone {
			o.DeletionTimestamp = &metav1.Time{Time: now}
		}
		return o
	}
	k := kinds.ConfigMap // any kind will do
	c := crd(ships, deleted)
	r := Plan(Observed{CRD: c, Kind: k, Objects: []kinds.Object{object(false), object(true)}, Now: now})
	if len(r.Actions) != 2 || r.Actions[0].Verb != plan.Delete || r.Actions[0].UID != "o" {
		t.Fatalf("%+v", r.Actions)
	}
	got, after := conditions(t, r)
	if got != "Terminating=True/InstanceDeletionInProgress" {
		t.Error(got)
	}
	if r := Plan(Observed{CRD: after, Kind: k, Objects: []kinds.Object{object(true)}, Now: now}); len(r.Actions) != 0 {
		t.Errorf("waiting for finalizers: %+v", r.Actions)
	}
	got, done := conditions(t, Plan(Observed{CRD: after, Kind: k, Now: now}))
	if got != "Terminating=False/InstanceDeletionCompleted" {
		t.Error(got)
	}
	r = Plan(Observed{CRD: done, Kind: k, Now: now})
	if len(r.Actions) != 1 || len(r.Actions[0].Live) != 1 || !slices.Equal(r.Actions[0].Object.(*apiextensionsv1.CustomResourceDefinition).Finalizers, []string{"mine/x"}) {
		t.Fatalf("%+v", r.Actions)
	}
	if r := Plan(Observed{CRD: r.Actions[0].Object.(*apiextensionsv1.CustomResourceDefinition), Now: now}); len(r.Actions) != 0 {
		t.Errorf("afterwards: %+v", r.Actions)
	}
	r = Plan(Observed{CRD: after, Kind: k, Objects: []kinds.Object{object(false)}, Failure: "no", Now: now})
	if got, _ := conditions(t, r); got != "Terminating=True/InstanceDeletionFailed" || r.Actions[0].Ref.Sub != "status" {
		t.Errorf("after a failure: %s %+v", got, r.Actions)
	}
}
