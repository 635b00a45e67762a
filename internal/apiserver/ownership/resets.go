package ownership

import (
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"knarr.dev/knarr/internal/kinds"
)

// filter says which fields a write through one URL cannot change, and so
// nobody comes to own by it.
type filter struct {
	cut  [][]string // these, and all below them
	keep [][]string // or only these; "*" stands for any item of a list
}

func (f filter) apply(s set) set {
	if f.keep != nil {
		return only(s, f.keep)
	}
	return without(s, f.cut)
}

// library is the same for structured-merge-diff; nil filters nothing.
func (f filter) library() fieldpath.Filter {
	if f.keep != nil {
		var matchers []*fieldpath.SetMatcher
		for _, path := range f.keep {
			var parts []any
			for _, p := range path {
				if p == "*" {
					parts = append(parts, fieldpath.MatchAnyPathElement())
					continue
				}
				parts = append(parts, p)
			}
			matchers = append(matchers, fieldpath.MakePrefixMatcherOrDie(parts...))
		}
		return fieldpath.NewIncludeMatcherFilter(matchers...)
	}
	if f.cut == nil {
		return nil
	}
	s := fieldpath.NewSet()
	for _, path := range f.cut {
		var parts []any
		for _, p := range path {
			parts = append(parts, p)
		}
		s.Insert(fieldpath.MakePathOrDie(parts...))
	}
	return fieldpath.NewExcludeSetFilter(s)
}

func paths(p ...[]string) [][]string { return p }

var (
	spec     = []string{"spec"}
	status   = []string{"status"}
	metadata = []string{"metadata"}
)

// resets of a write to k, or to its subresource, as upstream declares them;
// dynamic kinds have no Go type.
func resets(k *kinds.Kind, sub string, dynamic bool) filter {
	id := k.GVK.Group + "/" + k.GVK.Kind + "/" + sub
	if p, ok := resetsKept[id]; ok {
		return filter{keep: p}
	}
	if p, ok := resetsCut[id]; ok {
		return filter{cut: p}
	}
	_, hasStatus := k.Subresources["status"]
	switch {
	case sub == "" && hasStatus:
		return filter{cut: paths(status)}
	case sub == "status" && dynamic:
		return filter{cut: paths(metadata, spec)}
	case sub == "status":
		return filter{cut: paths(spec)}
	}
	return filter{}
}

func isDynamic(obj runtime.Object) bool {
	_, ok := obj.(runtime.Unstructured)
	return ok
}

// resetsCut are the kinds and subresources that are not like the others.
var resetsCut = map[string][][]string{
	"/Pod/status":                                            paths(spec, []string{"metadata", "deletionTimestamp"}, []string{"metadata", "ownerReferences"}),
	"/Namespace/finalize":                                    paths(status),
	"apps/Deployment/status":                                 paths(spec, []string{"metadata", "labels"}),
	"storage.k8s.io/CSINode/":                                paths(status),
	"certificates.k8s.io/CertificateSigningRequest/":         paths(spec, status),
	"certificates.k8s.io/CertificateSigningRequest/status":   paths(spec, []string{"status", "conditions"}),
	"certificates.k8s.io/CertificateSigningRequest/approval": paths(spec, []string{"status", "certificate"}),

	"admissionregistration.k8s.io/ValidatingAdmissionPolicy/status":  paths(metadata, spec),
	"apiregistration.k8s.io/APIService/status":                       paths(metadata, spec),
	"certificates.k8s.io/PodCertificateRequest/status":               paths(metadata, spec),
	"flowcontrol.apiserver.k8s.io/FlowSchema/status":                 paths(metadata, spec),
	"flowcontrol.apiserver.k8s.io/PriorityLevelConfiguration/status": paths(metadata, spec),
	"networking.k8s.io/ServiceCIDR/status":                           paths(metadata, spec),
	"resource.k8s.io/DeviceTaintRule/status":                         paths(metadata, spec),
	"resource.k8s.io/ResourceClaim/status":                           paths(metadata, spec),
	"storage.k8s.io/VolumeAttachment/status":                         paths(metadata, spec),
	"storagemigration.k8s.io/StorageVersionMigration/status":         paths(metadata, spec),
}

var resetsKept = map[string][][]string{
	"/Pod/ephemeralcontainers": paths([]string{"spec", "ephemeralContainers"}),
	// Upstream names resizePolicy too, but of two patterns with a wildcard its
	// filter heeds the first.
	"/Pod/resize": paths([]string{"spec", "containers", "*", "resources"}, []string{"spec", "initContainers", "*", "resources"}),
}
