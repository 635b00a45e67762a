package cache

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

// realPod is a running pod of a ReplicaSet, about 1.6 kB in the store.
func realPod(name string) *corev1.Pod {
	yes, grace := true, int64(30)
	now := metav1.NewTime(time.Unix(1_800_000_000, 0))
	condition := func(t corev1.PodConditionType) corev1.PodCondition {
		return corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, LastTransitionTime: now, ObservedGeneration: 1}
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, GenerateName: "web-7d4b9c6f5d-", UID: types.UID("5f0c4a5e-3d8a-4d8e-9a51-" + name), CreationTimestamp: now, Generation: 1,
			Labels:          map[string]string{"app": "web", "pod-template-hash": "7d4b9c6f5d"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-7d4b9c6f5d", UID: "0d4dcd8e-7f6d-4d2e-8a4e-0d6a6b0d9f0f", Controller: &yes, BlockOwnerDeletion: &yes}},
		},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "web", Image: "registry.example/team/web:1.2.3", ImagePullPolicy: corev1.PullIfNotPresent,
				Ports:                    []corev1.ContainerPort{{ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
				Env:                      []corev1.EnvVar{{Name: "MODE", Value: "production"}},
				Resources:                corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("64Mi")}},
				VolumeMounts:             []corev1.VolumeMount{{Name: "kube-api-access-abcde", ReadOnly: true, MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}},
				TerminationMessagePath:   "/dev/termination-log",
				TerminationMessagePolicy: corev1.TerminationMessageReadFile}},
			Volumes: []corev1.Volume{{Name: "kube-api-access-abcde", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: &grace, Path: "token"}},
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
			}}}}},
			RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace, DNSPolicy: corev1.DNSClusterFirst, ServiceAccountName: "default",
			DeprecatedServiceAccount: "default", NodeName: "node-17", SchedulerName: "default-scheduler", SecurityContext: &corev1.PodSecurityContext{}, EnableServiceLinks: &yes,
			Tolerations: []corev1.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: &grace}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, HostIP: "192.168.1.17", PodIP: "10.244.17.5", PodIPs: []corev1.PodIP{{IP: "10.244.17.5"}}, StartTime: &now, QOSClass: corev1.PodQOSBurstable,
			Conditions: []corev1.PodCondition{condition("PodReadyToStartContainers"), condition("Initialized"), condition("Ready"), condition("ContainersReady"), condition("PodScheduled")},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "web", Ready: true, Started: &yes, Image: "registry.example/team/web:1.2.3", ImageID: "registry.example/team/web@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
				ContainerID: "containerd://0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}}}},
	}
}

// BenchmarkList concatenates 10,000 pods as the apiserver does.
func BenchmarkList(b *testing.B) {
	w := newWorld(b, Config{})
	for i := range 10_000 {
		w.put(kinds.Pod, realPod(fmt.Sprintf("web-%05d", i)))
	}
	w.fill()
	for name, f := range map[string]codec.Format{"JSON": codec.JSON, "Protobuf": codec.Protobuf} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var out []byte
			for b.Loop() {
				out = out[:0]
				for it := range w.cache.List(kinds.Pod, "").All() {
					data, err := it.Bytes(b.Context(), f)
					if err != nil {
						b.Fatal(err)
					}
					out = append(out, data...)
				}
				b.SetBytes(int64(len(out)))
			}
		})
	}
}

// BenchmarkApply is one changed pod, from the store's bytes to the window.
func BenchmarkApply(b *testing.B) {
	w := newWorld(b, Config{})
	w.fill()
	p := realPod("web-00000")
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		w.put(kinds.Pod, p)
		b.StartTimer()
		w.pump()
	}
}

// BenchmarkFanOut is one event for 1,000 watchers, until all have its frame.
func BenchmarkFanOut(b *testing.B) {
	const watchers = 1000
	w := newWorld(b, Config{})
	w.fill()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var delivered atomic.Int64
	done := make(chan struct{}, 1)
	for range watchers {
		watcher, err := w.cache.Watch(kinds.Pod, "", w.cache.Rev())
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			for {
				events, _, err := watcher.Next(ctx)
				if err != nil {
					return
				}
				for _, e := range events {
					if _, err := e.Frame(b.Context(), codec.JSON); err != nil {
						b.Error(err)
					}
					if delivered.Add(1)%watchers == 0 {
						done <- struct{}{}
					}
				}
			}
		})
	}
	p := realPod("web-00000")
	b.ReportAllocs()
	for b.Loop() {
		w.put(kinds.Pod, p)
		w.pump()
		<-done
	}
	cancel()
	wg.Wait()
}

// BenchmarkMemory reports what a cached pod takes.
func BenchmarkMemory(b *testing.B) {
	w := newWorld(b, Config{})
	size := 0
	for i := range 10_000 {
		p := realPod(fmt.Sprintf("web-%05d", i))
		w.put(kinds.Pod, p)
		size = p.Size()
	}
	heap := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	for b.Loop() {
		before := heap()
		c, err := New(Config{Store: w.store, Kinds: kinds.Builtin().All(), Decoded: []*kinds.Kind{kinds.Pod}})
		if err != nil {
			b.Fatal(err)
		}
		if err := c.FillFrom(context.Background()); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric((heap()-before)/10_000, "B/pod")
		b.ReportMetric(float64(size), "stored-B/pod")
		runtime.KeepAlive(c)
	}
}
