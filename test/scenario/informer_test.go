package scenario

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"knarr.dev/knarr/internal/store"
	"knarr.dev/knarr/internal/store/etcd"
)

const (
	informerPods     = 30000
	informerRestarts = 100
)

// TestInformer: an unmodified client-go informer over many pods, by WatchList,
// while pods change and the server is killed again and again. What its handlers
// were told is compared with etcd's own history: every event once, in order.
func TestInformer(t *testing.T) {
	h := newLAN(t).newHost(t)
	h.server(t)
	conf := h.restConfig(t)
	conf.QPS, conf.Burst = -1, 0
	conf.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		for { // as a load balancer does that waits for its backend
			c, err := h.dial(ctx, network, address)
			if err == nil || ctx.Err() != nil {
				return c, err
			}
			<-time.After(10 * time.Millisecond)
		}
	}
	writers := kubernetes.NewForConfigOrDie(rest.CopyConfig(conf))
	createPods(t, writers)

	asked := &asking{}
	conf.WrapTransport = asked.wrap
	seen := &told{events: map[string][]string{}}
	factory := informers.NewSharedInformerFactory(kubernetes.NewForConfigOrDie(conf), 0)
	informer := factory.Core().V1().Pods().Informer()
	if _, err := informer.AddEventHandler(seen); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	factory.Start(stop)
	if !cache.WaitForCacheSync(t.Context().Done(), informer.HasSynced) {
		t.Fatal("the informer did not sync")
	}
	if asked.watchLists.Load() != 1 || asked.lists.Load() != 0 || len(informer.GetStore().ListKeys()) != informerPods+1 {
		t.Fatalf("%d WatchLists, %d lists, %d pods", asked.watchLists.Load(), asked.lists.Load(), len(informer.GetStore().ListKeys()))
	}
	from := seen.newest()

	rng := rand.New(rand.NewPCG(5, 6))
	done := make(chan struct{})
	var change sync.WaitGroup
	for i := range 3 {
		seed := rng.Uint64()
		change.Go(func() { changePods(writers, i, rand.New(rand.NewPCG(seed, 0)), done) })
	}
	for round := range informerRestarts {
		// A watch that ends within a second and without an event makes client-go
		// list anew, whatever the server could still have told: so each of them
		// gets one.
		marker := mark(t, writers, round)
		eventually(t, "the informer has told of the marker", func() (string, bool) {
			have := seen.of("default/marker")
			return fmt.Sprint(have), slices.Contains(have, "put "+marker)
		})
		<-time.After(time.Duration(rng.IntN(500)) * time.Millisecond)
		kill(t, pidOf(t, h), syscall.SIGKILL)
		h.server(t)
	}
	close(done)
	change.Wait()

	last, err := writers.CoreV1().Pods("default").Create(t.Context(), informerPod("last"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the informer has told of the last pod", func() (string, bool) {
		have := seen.of("default/" + last.Name)
		return fmt.Sprint(have), len(have) > 0
	})
	close(stop)
	factory.Shutdown()
	t.Logf("after %d restarts: %d WatchLists, %d lists, %d watches, %d events", informerRestarts, asked.watchLists.Load(), asked.lists.Load(), asked.watches.Load(), seen.total())
	if asked.watchLists.Load() != 1 || asked.lists.Load() != 0 {
		t.Error("the informer had to list anew")
	}
	h.knarr(t, "down", "--data-dir", h.dataDir)
	compareHistory(t, h, from, last.ResourceVersion, seen.events)
}

func informerPod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"n": "0"}},
		// No scheduler feels responsible, so that only the test changes pods.
		Spec: corev1.PodSpec{SchedulerName: "nobody", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
}

func createPods(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	eventually(t, "the default service account is there", func() (string, bool) {
		_, err := client.CoreV1().ServiceAccounts("default").Get(t.Context(), "default", metav1.GetOptions{})
		return fmt.Sprint(err), err == nil
	})
	var n atomic.Int64
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for i := n.Add(1); i <= informerPods; i = n.Add(1) {
				if _, err := client.CoreV1().Pods("default").Create(t.Context(), informerPod(fmt.Sprintf("p%d", i)), metav1.CreateOptions{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if _, err := client.CoreV1().Pods("default").Create(t.Context(), informerPod("marker"), metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// mark changes a pod that nobody else does, and returns its new version.
func mark(t *testing.T, client kubernetes.Interface, round int) (version string) {
	t.Helper()
	pods := client.CoreV1().Pods("default")
	eventually(t, "the marker is written", func() (string, bool) {
		p, err := pods.Patch(t.Context(), "marker", types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{"n":"round%d"}}}`, round), metav1.PatchOptions{})
		if err != nil {
			return err.Error(), false
		}
		version = p.ResourceVersion
		return "", true
	})
	return version
}

// changePods creates, changes and deletes; what fails while the server is away
// may have happened or not.
func changePods(client kubernetes.Interface, id int, rng *rand.Rand, done <-chan struct{}) {
	pods := client.CoreV1().Pods("default")
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		name := fmt.Sprintf("p%d", 1+rng.IntN(informerPods))
		switch rng.IntN(10) {
		case 0:
			_ = pods.Delete(ctx, name, metav1.DeleteOptions{})
		case 1, 2:
			_, _ = pods.Create(ctx, informerPod(fmt.Sprintf("new%d-%d", id, i)), metav1.CreateOptions{})
		default:
			_, _ = pods.Patch(ctx, name, types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{"n":"%d-%d"}}}`, id, i), metav1.PatchOptions{})
		}
		cancel()
	}
}

// asking counts how the informer asks.
type asking struct{ watchLists, watches, lists atomic.Int64 }

func (a *asking) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		switch q := r.URL.Query(); {
		case q.Get("sendInitialEvents") == "true":
			a.watchLists.Add(1)
		case q.Get("watch") != "":
			a.watches.Add(1)
		default:
			a.lists.Add(1)
		}
		return next.RoundTrip(r)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// told is what handlers hear: per pod, "put REVISION" and "delete REVISION".
type told struct {
	mu     sync.Mutex
	events map[string][]string
	count  int
}

func (s *told) note(key, what, revision string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events[key] = append(s.events[key], what+" "+revision)
	s.count++
}

func (s *told) total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

func (s *told) of(key string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.events[key]
}

func (s *told) OnAdd(o any, _ bool) {
	p := o.(*corev1.Pod)
	s.note(p.Namespace+"/"+p.Name, "put", p.ResourceVersion)
}

func (s *told) OnUpdate(old, o any) {
	// The same version once more is what an informer tells its handlers when it
	// has listed anew; nothing has happened.
	if p := o.(*corev1.Pod); p.ResourceVersion != old.(*corev1.Pod).ResourceVersion {
		s.note(p.Namespace+"/"+p.Name, "put", p.ResourceVersion)
	}
}

func (s *told) OnDelete(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		s.note(gone.Key, "delete", "missed")
		return
	}
	p := o.(*corev1.Pod)
	s.note(p.Namespace+"/"+p.Name, "delete", p.ResourceVersion)
}

// newest revision heard of, which is that of the list: nothing changes yet.
func (s *told) newest() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var newest int64
	for _, es := range s.events {
		for _, e := range es {
			if rev, err := strconv.ParseInt(strings.Fields(e)[1], 10, 64); err == nil {
				newest = max(newest, rev)
			}
		}
	}
	return newest
}

// compareHistory reads etcd's own record of what happened after from.
func compareHistory(t *testing.T, h *host, from int64, last string, have map[string][]string) {
	t.Helper()
	until, err := strconv.ParseInt(last, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	s, err := etcd.Open(t.Context(), etcd.Config{Dir: filepath.Join(h.dataDir, "server", "etcd"), SocketDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	const prefix = "/registry/pods/"
	want := map[string][]string{}
	n := 0
	enough := fmt.Errorf("that is all")
	err = s.Watch(t.Context(), prefix, from, func(b store.Batch) error {
		for _, e := range b.Events {
			what := "put"
			if e.Delete {
				what = "delete"
			}
			key := strings.TrimPrefix(e.Key, prefix)
			want[key] = append(want[key], fmt.Sprintf("%s %d", what, e.Rev))
			n++
		}
		if b.Rev >= until {
			return enough
		}
		return nil
	})
	if err != enough {
		t.Fatal(err)
	}
	t.Logf("etcd knows of %d events of %d pods", n, len(want))
	if n < 10*informerRestarts {
		t.Errorf("%d events are too few to show anything", n)
	}
	wrong := 0
	for key, es := range have {
		es = slices.DeleteFunc(slices.Clone(es), func(e string) bool { // the first list
			rev, err := strconv.ParseInt(strings.Fields(e)[1], 10, 64)
			return err == nil && rev <= from
		})
		if !slices.Equal(es, want[key]) && wrong < 20 {
			wrong++
			t.Errorf("%s: told %v, happened %v", key, es, want[key])
		}
		delete(want, key)
	}
	for key, es := range want {
		if wrong++; wrong < 20 {
			t.Errorf("%s: never told of %v", key, es)
		}
	}
}
