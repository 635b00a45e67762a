package usage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

func TestParse(t *testing.T) {
	s, err := parse(strings.NewReader(`# HELP container_cpu_usage_seconds_total CPU time of a container.
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="c",namespace="ns",pod="p"} 1.5 1700000000123
container_memory_working_set_bytes{container="c",namespace="ns",pod="p"} 2.048e+06 1700000000123
container_start_time_seconds{container="c",namespace="ns",pod="p"} 1.69999999e+09
container_swap_usage_bytes{container="c",namespace="ns",pod="p"} 0 1700000000123
container_cpu_usage_seconds_total{container="a\"}\\\n",namespace="ns",pod="p"} 3 1700000000123
pod_cpu_usage_seconds_total{namespace="ns",pod="p"} 9 1700000000123
node_cpu_usage_seconds_total 100.25 1700000000456
node_memory_working_set_bytes 1e+09 1700000000456
resource_scrape_error 0
`))
	if err != nil {
		t.Fatal(err)
	}
	if n := s.node; n.cpu != 100250*time.Millisecond || n.memory != 1e9 || !n.at.Equal(time.UnixMilli(1700000000456)) || n.hasSwap {
		t.Errorf("node %+v", n)
	}
	pod := s.pods[podKey{"ns", "p"}]
	if c := pod["c"]; len(pod) != 2 || c.cpu != 1500*time.Millisecond || c.memory != 2048000 || !c.hasSwap || c.swap != 0 || !c.began.Equal(time.Unix(1699999990, 0)) {
		t.Errorf("container %+v of %d", c, len(pod))
	}
	if c := pod["a\"}\\\n"]; c.cpu != 3*time.Second || c.whole() {
		t.Errorf("odd name: %+v", c)
	}
	for _, bad := range []string{"x", "x{", `x{a="b} 1`, `x{a="b"} `, "x -1", "x NaN", "x 1e30", "x 1 2 3", "x 1 y", "x " + strings.Repeat("1", maxLine)} {
		if _, err := parse(strings.NewReader("node_" + bad)); err == nil {
			t.Errorf("%.40q is taken", bad)
		}
	}
	var many strings.Builder
	for i := range maxContainers + 1 {
		fmt.Fprintf(&many, "container_swap_usage_bytes{container=\"c%d\"} 0\n", i)
	}
	if _, err := parse(strings.NewReader(many.String())); !errors.Is(err, errTooMany) {
		t.Errorf("too many: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`container_cpu_usage_seconds_total{container="c",namespace="ns",pod="p"} 1.5 1700000000123`)
	f.Fuzz(func(_ *testing.T, text string) { _, _ = parse(strings.NewReader(text)) })
}

func TestBetween(t *testing.T) {
	t0 := time.Unix(1000, 0)
	at := func(after, began, cpu time.Duration) *point {
		return &point{at: t0.Add(after), began: t0.Add(began), cpu: cpu, memory: 4096, hasCPU: true, hasMem: true}
	}
	const s = time.Second
	for name, c := range map[string]struct {
		was, now *point
		cpu      string
		window   time.Duration
	}{
		"steady":                         {at(0, -60*s, 10*s), at(15*s, -60*s, 13*s), "200m", 15 * s},
		"idle":                           {at(0, -60*s, 10*s), at(15*s, -60*s, 10*s), "0", 15 * s},
		"restarted long enough ago":      {at(0, -60*s, 10*s), at(15*s, 3*s, 6*s), "500m", 12 * s},
		"restarted just now":             {at(0, -60*s, 10*s), at(15*s, 14*s, 1*s), "", 0},
		"new":                            {nil, at(15*s, 3*s, 6*s), "500m", 12 * s},
		"new, too young":                 {nil, at(15*s, 6*s, 6*s), "", 0},
		"counts less, and no new life":   {at(0, -60*s, 10*s), at(15*s, -60*s, 9*s), "", 0},
		"the same moment":                {at(0, -60*s, 10*s), at(0, -60*s, 10*s), "", 0},
		"without memory":                 {at(0, -60*s, 10*s), &point{at: t0.Add(15 * s), cpu: 13 * s, hasCPU: true}, "", 0},
		"before it was without CPU time": {&point{hasMem: true}, at(15*s, 3*s, 6*s), "500m", 12 * s},
	} {
		r, ok := between(c.was, c.now)
		if ok != (c.cpu != "") {
			t.Errorf("%s: %v", name, ok)
			continue
		}
		if cpu, memory := r.usage[corev1.ResourceCPU], r.usage[corev1.ResourceMemory]; ok && (cpu.String() != c.cpu || memory.String() != "4Ki" || r.window != c.window || !r.at.Equal(c.now.at)) {
			t.Errorf("%s: %s %s in %s", name, cpu.String(), memory.String(), r.window)
		}
	}
}

// cluster of kubelets that use CPU at a constant rate.
type cluster struct {
	mu    sync.Mutex
	asked map[string]int
	down  map[string]bool
	began time.Time
	text  func(node string) string
}

func (c *cluster) scrape(ctx context.Context, node string) (io.ReadCloser, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked[node]++
	if c.down[node] {
		c.mu.Unlock()
		<-ctx.Done()
		c.mu.Lock()
		return nil, ctx.Err()
	}
	return io.NopCloser(strings.NewReader(c.text(node))), nil
}

func (c *cluster) times(node string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked[node]
}

func newCluster(t *testing.T) (*cluster, *Sampler) {
	c := &cluster{asked: map[string]int{}, down: map[string]bool{}, began: time.Now().Add(-time.Hour)}
	c.text = func(string) string {
		now := time.Now()
		up := now.Sub(c.began).Seconds()
		var b strings.Builder
		fmt.Fprintf(&b, "node_cpu_usage_seconds_total %v %d\nnode_memory_working_set_bytes 1e9 %[2]d\n", up*1.5, now.UnixMilli())
		for _, container := range []string{"c", "d"} {
			fmt.Fprintf(&b, "container_cpu_usage_seconds_total{container=%q,namespace=\"ns\",pod=\"p\"} %v %d\n", container, up*0.25, now.UnixMilli())
			fmt.Fprintf(&b, "container_memory_working_set_bytes{container=%q,namespace=\"ns\",pod=\"p\"} 1048576 %d\n", container, now.UnixMilli())
		}
		return b.String()
	}
	v := view.New([]*kinds.Kind{kinds.Node, kinds.Pod})
	node := func(name string) kinds.Object {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"is": name}}}
	}
	v.Replace(kinds.Node, []kinds.Object{node("a"), node("b")}, 1)
	v.Replace(kinds.Pod, []kinds.Object{
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", Labels: map[string]string{"app": "p"}}, Spec: corev1.PodSpec{NodeName: "a"}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "q"}, Spec: corev1.PodSpec{NodeName: "a"}},
	}, 1)
	s, err := New(Config{View: v, Scrape: c.scrape})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c, s
}

// TestAsked: nobody is scraped before somebody asks, the first answer comes
// after a moment, sampling goes on for a while and then stops.
func TestAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newCluster(t)
		<-time.After(time.Hour)
		if n := c.times("a"); n != 0 {
			t.Fatalf("scraped %d times while nobody asked", n)
		}
		begun := time.Now()
		list, err := s.List(t.Context(), kinds.PodMetrics, "ns")
		if err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		if d := time.Since(begun); d != first || c.times("a") != 2 {
			t.Errorf("after %s and %d scrapes", d, c.times("a"))
		}
		m := list[0].(*metricsv1beta1.PodMetrics)
		if m.Namespace != "ns" || m.Name != "p" || m.Labels["app"] != "p" || m.Window.Duration != first || !m.Timestamp.Time.Equal(time.Now()) || len(m.Containers) != 2 {
			t.Errorf("%+v", m)
		}
		if cpu := m.Containers[1].Usage[corev1.ResourceCPU]; m.Containers[1].Name != "d" || cpu.MilliValue() != 250 {
			t.Errorf("%+v", m.Containers[1])
		}
		<-time.After(every + time.Second)
		o, err := s.Get(t.Context(), kinds.NodeMetrics, "", "a")
		if err != nil {
			t.Fatal(err)
		}
		n := o.(*metricsv1beta1.NodeMetrics)
		if cpu := n.Usage[corev1.ResourceCPU]; cpu.MilliValue() != 1500 || n.Window.Duration != every || n.Labels["is"] != "a" {
			t.Errorf("%+v", n)
		}
		<-time.After(time.Hour)
		if n, most := c.times("a"), 3+int(patience/every)+1; n > most || n < most-2 {
			t.Errorf("scraped %d times in all, not about %d", n, most)
		}
		was := c.times("a")
		if _, err := s.Get(t.Context(), kinds.PodMetrics, "ns", "p"); err != nil || c.times("a") != was+2 {
			t.Errorf("again: %v, %d scrapes", err, c.times("a")-was)
		}
	})
}

// TestDeadNode: who does not answer holds nobody up for long, and is forgotten.
func TestDeadNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newCluster(t)
		names := func() (out string) {
			list, err := s.List(t.Context(), kinds.NodeMetrics, "")
			if err != nil {
				t.Error(err)
			}
			for _, o := range list {
				out += o.GetName()
			}
			return out
		}
		if got := names(); got != "ab" {
			t.Errorf("nodes %q", got)
		}
		set := func(down bool) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.down["b"] = down
		}
		set(true)
		<-time.After(every * 2)
		if got := names(); got != "ab" {
			t.Errorf("a moment later: %q", got)
		}
		<-time.After(every + oldest)
		if got := names(); got != "a" {
			t.Errorf("later: %q", got)
		}
		set(false)
		<-time.After(every * 3)
		if got := names(); got != "ab" {
			t.Errorf("at last: %q", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for _, name := range []string{"q", "zzz"} {
			if _, err := s.Get(ctx, kinds.PodMetrics, "ns", name); !apierrors.IsNotFound(err) || err.Error() != `podmetrics.metrics.k8s.io "ns/`+name+`" not found` {
				t.Error(err)
			}
		}
		if _, err := s.Get(ctx, kinds.NodeMetrics, "", "zzz"); err == nil || err.Error() != `nodemetrics.metrics.k8s.io "zzz" not found` {
			t.Error(err)
		}
	})
}

// TestNobodyAnswers: a client is told in the end.
func TestNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newCluster(t)
		c.down["a"], c.down["b"] = true, true
		begun := time.Now()
		list, err := s.List(t.Context(), kinds.NodeMetrics, "")
		if len(list) > 0 || err != nil || time.Since(begun) > answerLimit {
			t.Errorf("%v %v after %s", list, err, time.Since(begun))
		}
		c.text = func(string) string { return strings.Repeat("x 1\n", maxAnswer/4+1) }
		c.mu.Lock()
		c.down = map[string]bool{}
		c.mu.Unlock()
		<-time.After(every * 2)
		if list, err := s.List(t.Context(), kinds.NodeMetrics, ""); len(list) > 0 || err != nil {
			t.Errorf("an endless answer: %v %v", list, err)
		}
	})
}
