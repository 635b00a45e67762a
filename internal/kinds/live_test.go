package kinds

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestCustomKinds(t *testing.T) {
	table := NewTable([]*Kind{ConfigMap, Event})
	first, moved := table.Now(), table.Moved()
	foo := &Kind{GVK: schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Foo"}, Resource: "foos"}
	thief := &Kind{GVK: corev1.SchemeGroupVersion.WithKind("Thief"), Resource: "configmaps"}
	table.SetCustom([]*Kind{foo, thief})
	select {
	case <-moved:
	default:
		t.Error("nobody was told of the change")
	}
	if table.ByResource(foo.GroupVersionResource()) != foo || table.ByGVK(foo.GVK) != foo || len(table.All()) != 3 {
		t.Error("the custom kind is not found")
	}
	if table.ByResource(ConfigMap.GroupVersionResource()) != ConfigMap || table.ByGVK(thief.GVK) != nil {
		t.Error("a custom kind has taken the place of a built-in one")
	}
	if first == table.Now() || first.ByGVK(foo.GVK) != nil || len(first.All()) != 2 {
		t.Error("a table that was taken has changed")
	}
	table.SetCustom(nil)
	if table.ByGVK(foo.GVK) != nil || len(table.All()) != 2 {
		t.Error("the custom kind is still there")
	}
}
