package why

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds"
)

// Of kinds that have no rule, conditions tell. These are wrong unless True, and
// those wrong if True; what others mean only their authors know.
var (
	good = []string{"Ready", "Available", "Healthy", "Synced", "Reconciled", "Established", "NamesAccepted", "Accepted", "Programmed", "Valid", "Succeeded", "Approved"}
	bad  = []string{"Failed", "Failure", "Degraded", "Stalled", "Error", "Denied", "NonStructuralSchema"}
)

// conditions says what an object's own conditions say; nil: nothing bad.
func conditions(k *kinds.Kind, o kinds.Object) *finding {
	u, ok := o.(runtime.Unstructured)
	content := map[string]any{}
	if ok {
		content = u.UnstructuredContent()
	} else if m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o); err == nil {
		content = m
	}
	list, _, err := unstructured.NestedSlice(content, "status", "conditions")
	if err != nil {
		return nil // of a form that only its authors know
	}
	var f *finding
	for _, x := range list {
		c, _ := x.(map[string]any)
		t, status := text(c, "type"), text(c, "status")
		if !(slices.Contains(good, t) && status != "True" && status != "" || slices.Contains(bad, t) && status == "True") {
			continue
		}
		said := strings.Trim(text(c, "reason")+": "+text(c, "message"), ": ")
		f = about(k, o, "its condition %s is %s: %s", t, status, said)
		if at, err := time.Parse(time.RFC3339, text(c, "lastTransitionTime")); err == nil {
			f.since(metav1.NewTime(at))
		}
		if t != "Ready" && t != "Available" { // which sum the others up
			break
		}
	}
	return f
}

func text(m map[string]any, key string) string {
	s, _ := m[key].(string)
	return s
}
