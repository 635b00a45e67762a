package view

import (
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

func TestIndexes(t *testing.T) {
	yes := true
	owned := metav1.ObjectMeta{Namespace: "a", Name: "x", OwnerReferences: []metav1.OwnerReference{{UID: "other"}, {UID: "u", Controller: &yes}}}
	loose := metav1.ObjectMeta{Namespace: "a", Name: "x", OwnerReferences: []metav1.OwnerReference{{UID: "other"}}}
	slice := func(labels map[string]string) kinds.Object {
		return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Labels: labels}}
	}
	phase := func(p corev1.PodPhase) kinds.Object { return &corev1.Pod{Status: corev1.PodStatus{Phase: p}} }
	for _, tc := range []struct {
		name  string
		index *Index
		obj   kinds.Object
		want  []string
	}{
		{"owned pod", PodsByOwner, &corev1.Pod{ObjectMeta: owned}, []string{"u"}},
		{"loose pod", PodsByOwner, &corev1.Pod{ObjectMeta: loose}, nil},
		{"owned pod is no orphan", PodOrphans, &corev1.Pod{ObjectMeta: owned}, nil},
		{"orphan", PodOrphans, &corev1.Pod{ObjectMeta: loose}, []string{"a"}},
		{"owned set", ReplicaSetsByOwner, &appsv1.ReplicaSet{ObjectMeta: owned}, []string{"u"}},
		{"orphan set", ReplicaSetOrphans, &appsv1.ReplicaSet{ObjectMeta: loose}, []string{"a"}},
		{"owners of anything", Owned, &corev1.ConfigMap{ObjectMeta: owned}, []string{"other", "u"}},
		{"bound", PodsByNode, &corev1.Pod{Spec: corev1.PodSpec{NodeName: "n"}}, []string{"n"}},
		{"unbound", PodsByNode, &corev1.Pod{}, []string{""}},
		{"failed", FinishedPods, phase(corev1.PodFailed), []string{""}},
		{"succeeded", FinishedPods, phase(corev1.PodSucceeded), []string{""}},
		{"running", FinishedPods, phase(corev1.PodRunning), nil},
		{"slice", SlicesByService, slice(map[string]string{discoveryv1.LabelServiceName: "s"}), []string{"a/s"}},
		{"slice of nothing", SlicesByService, slice(nil), nil},
	} {
		if got := tc.index.Keys(tc.obj); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
	seen := map[*Index]bool{}
	for _, ix := range Shared() {
		if seen[ix] {
			t.Error("an index is shared twice")
		}
		seen[ix] = true
	}
}
