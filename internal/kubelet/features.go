package kubelet

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// features are what a runtime can do that not every one can.
type features struct {
	recursiveReadOnly, groupsPolicy bool
	users                           map[string]bool // namespaces of them, by runtime handler
	// For the node's status; nil if the runtime does not tell.
	handlers []corev1.NodeRuntimeHandler
	node     *corev1.NodeFeatures
}

// featuresOf reads a runtime's answer. Containers run under its default
// handler, whose name is empty. User namespaces take a machine that can map the IDs of
// volumes.
func featuresOf(st *runtimeapi.StatusResponse, mapped bool) features {
	f := features{users: map[string]bool{}}
	for _, h := range st.GetRuntimeHandlers() {
		own := corev1.NodeRuntimeHandler{Name: h.Name}
		if h.Features != nil {
			users := mapped && h.Features.UserNamespaces
			own.Features = &corev1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: &h.Features.RecursiveReadOnlyMounts, UserNamespaces: &users}
			f.users[h.Name] = users
			f.recursiveReadOnly = f.recursiveReadOnly || h.Name == "" && h.Features.RecursiveReadOnlyMounts
		}
		f.handlers = append(f.handlers, own)
	}
	slices.SortFunc(f.handlers, func(a, b corev1.NodeRuntimeHandler) int { return strings.Compare(a.Name, b.Name) })
	if r := st.GetFeatures(); r != nil {
		f.groupsPolicy = r.SupplementalGroupsPolicy
		f.node = &corev1.NodeFeatures{SupplementalGroupsPolicy: &r.SupplementalGroupsPolicy}
	}
	return f
}

// able is what the runtime said last that it can do.
func (k *Kubelet) able() features {
	if f := k.features.Load(); f != nil {
		return *f
	}
	return features{}
}
