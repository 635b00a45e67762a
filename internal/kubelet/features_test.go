package kubelet

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestFeaturesOf(t *testing.T) {
	if f := featuresOf(&runtimeapi.StatusResponse{}, true); f.recursiveReadOnly || f.groupsPolicy || f.handlers != nil || f.node != nil {
		t.Errorf("an old runtime: %+v", f)
	}
	can := &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: true, UserNamespaces: true}
	f := featuresOf(&runtimeapi.StatusResponse{
		RuntimeHandlers: []*runtimeapi.RuntimeHandler{{Name: "runc", Features: can}, {Name: "", Features: can}},
		Features:        &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true},
	}, true)
	if !f.recursiveReadOnly || !f.groupsPolicy || !*f.node.SupplementalGroupsPolicy || len(f.handlers) != 2 || f.handlers[0].Name != "" {
		t.Errorf("%+v", f)
	}
	if h := f.handlers[1].Features; !*h.UserNamespaces || !*h.RecursiveReadOnlyMounts || !f.users["runc"] || f.users["other"] {
		t.Errorf("%+v, %v", h, f.users)
	}
	if f := featuresOf(&runtimeapi.StatusResponse{RuntimeHandlers: []*runtimeapi.RuntimeHandler{{Name: "other", Features: can}}}, false); f.recursiveReadOnly || f.users["other"] || *f.handlers[0].Features.UserNamespaces {
		t.Errorf("what another handler can do, on a machine that cannot map IDs: %+v", f)
	}
}
