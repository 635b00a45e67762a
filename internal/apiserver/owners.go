package apiserver

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

// singleOwners takes out of obj the owners that are named more than once, and
// tells the client; admitted says that plugins may have put them there.
func (c *call) singleOwners(obj kinds.Object, admitted bool) {
	refs := obj.GetOwnerReferences()
	if len(refs) < 2 {
		return
	}
	var kept []metav1.OwnerReference
	var twice []string
	at := map[string][]int{} // by uid, where in kept
	for _, r := range refs {
		same := false
		for _, i := range at[string(r.UID)] {
			same = same || equality.Semantic.DeepEqual(kept[i], r)
		}
		if same {
			twice = append(twice, string(r.UID))
			continue
		}
		at[string(r.UID)] = append(at[string(r.UID)], len(kept))
		kept = append(kept, r)
	}
	if len(twice) == 0 {
		return
	}
	obj.SetOwnerReferences(kept)
	if c.warn == nil {
		return
	}
	when := ""
	if admitted {
		when = " after mutating admission happens"
	}
	c.warn(fmt.Sprintf(".metadata.ownerReferences contains duplicate entries%s; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; "+
		"please fix your requests; duplicate UID(s) observed: %v", when, strings.Join(twice, ", ")))
}
