package kubelet

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A runtime that tells is asked more and more rarely; one that does not, every
// second while there are pods.
func TestRelistPause(t *testing.T) {
	k := &Kubelet{workers: map[types.UID]*worker{}, relistNow: make(chan struct{}, 1)}
	if got := k.relistPause(time.Second); got != relistIdle {
		t.Errorf("without pods: %s", got)
	}
	k.workers["u"] = &worker{}
	if got := k.relistPause(time.Minute); got != relistEvery {
		t.Errorf("with a pod: %s", got)
	}
	k.workers["u"].eager.Store(true)
	if got := k.relistPause(time.Minute); got != relistEager {
		t.Errorf("with one that is waited for: %s", got)
	}
	k.askSoon()
	if len(k.relistNow) != 1 {
		t.Error("it is not asked soon")
	}
	<-k.relistNow
	k.told.Store(true)
	last, all := time.Duration(0), time.Duration(0)
	for range 12 {
		next := k.relistPause(last)
		if next < last || next < relistEvery || next > relistTold {
			t.Errorf("%s after %s", next, last)
		}
		last, all = next, all+next
	}
	if last != relistTold || all > time.Hour {
		t.Errorf("it comes to %s, after %s", last, all)
	}
	if k.askSoon(); len(k.relistNow) != 0 {
		t.Error("one that tells is asked")
	}
}

// Only the end of something wakes a worker, and only its pod's.
func TestHeard(t *testing.T) {
	w, other := &worker{wake: make(chan struct{}, 1)}, &worker{wake: make(chan struct{}, 1)}
	k := &Kubelet{workers: map[types.UID]*worker{"u": w, "v": other}}
	tell := func(uid string, kind runtimeapi.ContainerEventType) {
		k.heard(&runtimeapi.ContainerEventResponse{ContainerEventType: kind, PodSandboxStatus: &runtimeapi.PodSandboxStatus{Metadata: &runtimeapi.PodSandboxMetadata{Uid: uid}}})
	}
	tell("u", runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	tell("nobody", runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	k.heard(&runtimeapi.ContainerEventResponse{})
	if len(w.wake) != 0 {
		t.Error("what the kubelet did itself wakes a worker")
	}
	tell("u", runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	if len(w.wake) != 1 || len(other.wake) != 0 {
		t.Errorf("woken: %d, and %d others", len(w.wake), len(other.wake))
	}
}
