// Package apiservice registers what this server serves itself, built in or by
// custom resource definitions, as API services, so that clients find every
// group in one list.
package apiservice

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// Label of API services that are kept by this controller, with upstream's
// values: those of built-in groups, and those of custom resources.
const (
	Label    = "kube-aggregator.kubernetes.io/automanaged"
	onStart  = "onstart"
	whenever = "true"
)

// Served is a group and version that this server answers for.
type Served struct {
	GV     schema.GroupVersion
	Custom bool // by a custom resource definition
}

// Observed is all that registration depends on.
type Observed struct {
	Served []Served
	Have   []*apiregistrationv1.APIService
}

// priorities of the built-in groups, as upstream's, so that kubectl lists and
// chooses in the same order. Versions have 15 but for those of versions.
var (
	priorities = map[string]int32{
		"": 18000, "apps": 17800, "events.k8s.io": 17750, "authentication.k8s.io": 17700, "authorization.k8s.io": 17600,
		"autoscaling": 17500, "batch": 17400, "certificates.k8s.io": 17300, "networking.k8s.io": 17200, "policy": 17100,
		"rbac.authorization.k8s.io": 17000, "storage.k8s.io": 16800, "apiextensions.k8s.io": 16700,
		"admissionregistration.k8s.io": 16700, "scheduling.k8s.io": 16600, "coordination.k8s.io": 16500, "node.k8s.io": 16300,
		"discovery.k8s.io": 16200, "resource.k8s.io": 16200, "flowcontrol.apiserver.k8s.io": 16100, "storagemigration.k8s.io": 15800,
		"apiregistration.k8s.io": 18000, "metrics.k8s.io": 100, // metrics-server's own
	}
	versions = map[schema.GroupVersion]int32{
		{Version: "v1"}: 1, {Group: "autoscaling", Version: "v2"}: 30,
		{Group: "resource.k8s.io", Version: "v1"}: 21, {Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}: 21,
		{Group: "metrics.k8s.io", Version: "v1beta1"}: 100,
	}
)

const (
	otherGroup     = 16000 // a built-in group that is not in the list
	builtinVersion = 15
	customGroup    = 1000
	customVersion  = 100
)

// Plan creates what is missing, puts right what belongs to custom resources,
// and removes what belonged to one that is gone. It never touches an API
// service that somebody else has made.
func Plan(o Observed) plan.Result {
	have := map[string]*apiregistrationv1.APIService{}
	for _, a := range o.Have {
		have[a.Name] = a
	}
	var r plan.Result
	served := map[string]bool{}
	for _, s := range o.Served {
		want := apiService(s)
		served[want.Name] = true
		switch a := have[want.Name]; {
		case a == nil:
			r.Actions = append(r.Actions, plan.Action{Verb: plan.Create, Ref: kinds.RefTo(kinds.APIService, want), Object: want,
				Tolerate: []metav1.StatusReason{metav1.StatusReasonAlreadyExists}})
		case s.Custom && a.Labels[Label] == whenever && a.DeletionTimestamp == nil && differs(a, want):
			a = a.DeepCopy()
			a.Spec = want.Spec
			r.Actions = append(r.Actions, plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.APIService, a), Object: a})
		}
	}
	for _, a := range o.Have {
		if a.Labels[Label] == whenever && !served[a.Name] && a.DeletionTimestamp == nil {
			r.Actions = append(r.Actions, plan.Action{Verb: plan.Delete, Ref: kinds.RefTo(kinds.APIService, a), UID: a.UID, ResourceVersion: a.ResourceVersion,
				Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound}})
		}
	}
	return r
}

func differs(a, want *apiregistrationv1.APIService) bool {
	return a.Spec.Service != nil || a.Spec.GroupPriorityMinimum != want.Spec.GroupPriorityMinimum || a.Spec.VersionPriority != want.Spec.VersionPriority
}

func apiService(s Served) *apiregistrationv1.APIService {
	a := &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: s.GV.Version + "." + s.GV.Group, Labels: map[string]string{Label: onStart}},
		Spec:       apiregistrationv1.APIServiceSpec{Group: s.GV.Group, Version: s.GV.Version, GroupPriorityMinimum: priorities[s.GV.Group], VersionPriority: versions[s.GV]},
	}
	switch {
	case s.Custom:
		a.Labels[Label] = whenever
		a.Spec.GroupPriorityMinimum, a.Spec.VersionPriority = customGroup, customVersion
	case a.Spec.GroupPriorityMinimum == 0:
		a.Spec.GroupPriorityMinimum = otherGroup
	}
	if a.Spec.VersionPriority == 0 {
		a.Spec.VersionPriority = builtinVersion
	}
	return a
}
