package apiservice

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

func TestPlan(t *testing.T) {
	builtin := Served{GV: schema.GroupVersion{Group: "apps", Version: "v1"}}
	custom := Served{GV: schema.GroupVersion{Group: "x.example", Version: "v1"}, Custom: true}
	changed := func(s Served, change func(*apiregistrationv1.APIService)) *apiregistrationv1.APIService {
		a := apiService(s)
		change(a)
		return a
	}
	priority := func(a *apiregistrationv1.APIService) { a.Spec.VersionPriority = 7 }
	for _, tt := range []struct {
		name   string
		served []Served
		have   []*apiregistrationv1.APIService
		want   plan.Verb
		object string
	}{
		{"missing", []Served{builtin}, nil, plan.Create, "v1.apps"},
		{"missing, custom", []Served{custom}, nil, plan.Create, "v1.x.example"},
		{"there", []Served{builtin, custom}, []*apiregistrationv1.APIService{apiService(builtin), apiService(custom)}, "", ""},
		{"built in, changed by a user", []Served{builtin}, []*apiregistrationv1.APIService{changed(builtin, priority)}, "", ""},
		{"custom, changed by a user", []Served{custom}, []*apiregistrationv1.APIService{changed(custom, priority)}, plan.Update, "v1.x.example"},
		{"custom, gone", nil, []*apiregistrationv1.APIService{apiService(custom)}, plan.Delete, "v1.x.example"},
		{"custom, gone, being deleted", nil, []*apiregistrationv1.APIService{changed(custom, func(a *apiregistrationv1.APIService) { a.DeletionTimestamp = &metav1.Time{} })}, "", ""},
		{"somebody's own", nil, []*apiregistrationv1.APIService{changed(custom, func(a *apiregistrationv1.APIService) { a.Labels = nil })}, "", ""},
		{"somebody's own, in the way", []Served{custom}, []*apiregistrationv1.APIService{changed(custom, func(a *apiregistrationv1.APIService) { a.Labels = nil; priority(a) })}, "", ""},
	} {
		as := Plan(Observed{tt.served, tt.have}).Actions
		if tt.want == "" {
			if len(as) > 0 {
				t.Errorf("%s: %+v, want nothing", tt.name, as)
			}
			continue
		}
		if len(as) != 1 || as[0].Verb != tt.want || as[0].Ref.Name != tt.object {
			t.Errorf("%s: %+v, want %s of %s", tt.name, as, tt.want, tt.object)
		}
	}
}

// What the controller registers is valid, and it comes to rest.
func TestSettles(t *testing.T) {
	var served []Served
	seen := map[schema.GroupVersion]bool{}
	for _, k := range kinds.Builtin().All() {
		if gv := k.GVK.GroupVersion(); !seen[gv] {
			seen[gv] = true
			served = append(served, Served{GV: gv})
		}
	}
	for _, s := range served {
		a := apiService(s)
		if errs := kinds.APIService.Validate(a); len(errs) > 0 {
			t.Errorf("%s: %v", a.Name, errs)
		}
	}
	w := reconciletest.New([]*kinds.Kind{kinds.APIService, kinds.CustomResourceDefinition})
	c := Controller(func() []Served { return served })
	if _, err := w.Drive(1, 200, 0, c); err != nil {
		t.Fatal(err)
	}
	if have := w.View.Snapshot().Len(kinds.APIService); have != len(served) {
		t.Errorf("%d API services for %d group versions", have, len(served))
	}
}
