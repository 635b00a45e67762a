package hollow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// maxPods of a simulation.
const maxPods = 1 << 20

// SimConfig of one run.
type SimConfig struct {
	Fleet Config
	Pods  int
	// Size of one deployment, which has a namespace of its own; default 1000.
	Size int
	// Churn actions for each second of Duration, out of Seed.
	Churn    float64
	Duration time.Duration
	Seed     uint64
	// Until bounds every single wait.
	Until time.Duration
	// Idle is how long the quiet cluster is measured; 0: not at all.
	Idle time.Duration
	// Stay, if set, blocks for as long as the cluster is to be used by others.
	Stay func(context.Context)
	// Revision of the store: one more for every write.
	Revision func(context.Context) (int64, error)
	Out      io.Writer
}

// Sim is one run.
type Sim struct {
	cfg      SimConfig
	fleet    *Fleet
	track    *tracker
	admin    client.Client
	replicas []int // of each deployment as asked for last
	life     context.Context
}

// NewSim checks the configuration; it starts nothing.
func NewSim(c SimConfig) (*Sim, error) {
	if c.Size == 0 {
		c.Size = 1000
	}
	switch {
	case c.Pods < 0 || c.Pods > maxPods:
		return nil, fmt.Errorf("%d pods: from 0 to %d are possible", c.Pods, maxPods)
	case c.Size < 1 || c.Churn < 0 || c.Churn > 10000 || c.Duration < 0 || c.Until <= 0:
		return nil, errors.New("a size, a rate or a time of the simulation is out of range")
	}
	if c.Fleet.MaxPods == 0 { // a third of room for what churn moves
		c.Fleet.MaxPods = max(110, (c.Pods+c.Fleet.Nodes-1)/max(1, c.Fleet.Nodes)*4/3)
	}
	f, err := New(c.Fleet)
	if err != nil {
		return nil, err
	}
	if room := c.Fleet.MaxPods * c.Fleet.Nodes; c.Pods > room {
		return nil, fmt.Errorf("%d pods do not fit on nodes for %d: give more nodes", c.Pods, room)
	}
	s := &Sim{cfg: c, fleet: f, track: newTracker(time.Now), admin: c.Fleet.Cluster.As("knarr-sim", user.SystemPrivilegedGroup)}
	for left := c.Pods; left > 0; left -= c.Size {
		s.replicas = append(s.replicas, min(left, c.Size))
	}
	return s, nil
}

func namespaceOf(d int) string { return fmt.Sprintf("sim-%04d", d) }

func (s *Sim) report(name string, v float64, unit string) {
	fmt.Fprintf(s.cfg.Out, "%-26s %12.4g %s\n", name, v, unit)
}

// Run the whole: nodes, pods, churn, quiet, and the end of all.
func (s *Sim) Run(ctx context.Context) error {
	stop := s.cfg.Fleet.Cluster.View.Subscribe(s.track.changed)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	s.life = ctx
	ended := make(chan error, 1)
	go func() {
		ended <- s.fleet.Run(ctx)
		cancel()
	}()
	err := s.phases(ctx)
	if ctx.Err() != nil {
		err = nil // interrupted: that is no failure
	}
	cancel()
	return errors.Join(<-ended, err)
}

func (s *Sim) phases(ctx context.Context) error {
	steps := []func(context.Context) error{s.nodes, s.deploy, s.churn, s.idle, s.agents, s.stay, s.delete}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// bounded has one wait end with a reason.
func (s *Sim) bounded(ctx context.Context, what string, wait func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.Until, fmt.Errorf("%s: not within %s", what, s.cfg.Until))
	defer cancel()
	if err := wait(ctx); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	return nil
}

func (s *Sim) nodes(ctx context.Context) error {
	heap, rss := used()
	began := time.Now()
	err := s.bounded(ctx, "nodes are ready", func(ctx context.Context) error {
		select {
		case <-s.fleet.Ready():
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err != nil {
		return err
	}
	n := float64(s.cfg.Fleet.Nodes)
	s.report("nodes", n, "")
	s.report("nodes.ready", n/time.Since(began).Seconds(), "/s")
	h, r := used()
	s.report("nodes.heap", per(heap, h, n), "KiB/node")
	s.report("nodes.rss", per(rss, r, n), "KiB/node")
	return s.without("nodes.agent", n, "KiB/node")
}

// without measures what the kubelets themselves take, by ending them all and
// starting them again.
func (s *Sim) without(name string, n float64, unit string) error {
	with, _ := used()
	s.fleet.loseAll()
	without, _ := used()
	s.report(name, per(without, with, n), unit)
	for i := range s.fleet.nodes {
		if _, err := s.fleet.Return(s.life, i); err != nil {
			return err
		}
	}
	return nil
}

func (s *Sim) agents(context.Context) error {
	if s.cfg.Idle == 0 || s.cfg.Pods == 0 {
		return nil
	}
	return s.without("pods.agent", float64(s.cfg.Pods), "KiB/pod with its part of the node")
}

func per(before, after uint64, n float64) float64 {
	return (float64(after) - float64(before)) / n / 1024
}

func (s *Sim) deploy(ctx context.Context) error {
	if s.cfg.Pods == 0 {
		return nil
	}
	heap, rss := used()
	from, err := s.cfg.Revision(ctx)
	if err != nil {
		return err
	}
	s.track.reset()
	before, _ := s.track.count()
	began := time.Now()
	for d, n := range s.replicas {
		if err := s.insist(ctx, func() error { return s.create(ctx, d, n) }); err != nil {
			return err
		}
	}
	all := func(field func(count) int) (time.Duration, error) {
		err := s.bounded(ctx, "pods are there", func(ctx context.Context) error {
			return s.track.await(ctx, func(c count) bool { return field(c) >= s.cfg.Pods })
		})
		return time.Since(began), err
	}
	bound, err := all(func(c count) int { return c.bound })
	if err != nil {
		return err
	}
	running, err := all(func(c count) int { return c.running })
	if err != nil {
		return err
	}
	to, err := s.cfg.Revision(ctx)
	if err != nil {
		return err
	}
	after, _ := s.track.count()
	n := float64(s.cfg.Pods)
	s.report("pods", n, "")
	s.report("pods.allbound", bound.Seconds(), "s")
	s.report("pods.allrunning", running.Seconds(), "s")
	s.report("pods.bound", n/bound.Seconds(), "/s")
	s.report("pods.running", n/running.Seconds(), "/s")
	s.report("writes", float64(to-from)/running.Seconds(), "/s")
	s.report("changes", float64(after.changes-before.changes)/running.Seconds(), "/s")
	s.latencies()
	h, r := used()
	s.report("pods.heap", per(heap, h, n), "KiB/pod")
	s.report("pods.rss", per(rss, r, n), "KiB/pod")
	s.report("rss", float64(r)/(1<<20), "MiB")
	return nil
}

func (s *Sim) latencies() {
	bound, running, total := s.track.taken()
	for _, l := range []struct {
		name  string
		times []time.Duration
	}{{"create.bound", bound}, {"bound.running", running}, {"create.running", total}} {
		s.report(l.name+".p50", quantile(l.times, 0.5).Seconds()*1000, "ms")
		s.report(l.name+".p99", quantile(l.times, 0.99).Seconds()*1000, "ms")
	}
}

func (s *Sim) create(ctx context.Context, d, replicas int) error {
	ns := namespaceOf(d)
	_, err := s.admin.Create(ctx, kinds.Ref{Kind: kinds.Namespace}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	_, err = s.admin.Create(ctx, kinds.Ref{Kind: kinds.Deployment, Namespace: ns}, deployment(ns, replicas))
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// insistFor is how long a user tries again what an overloaded server did not
// do: etcd times out after some seconds of that.
const insistFor = time.Minute

func (s *Sim) insist(ctx context.Context, do func() error) error {
	for began := time.Now(); ; {
		err := do()
		busy := apierrors.IsInternalError(err) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsTooManyRequests(err)
		if !busy || time.Since(began) > insistFor {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func deployment(ns string, replicas int) *appsv1.Deployment {
	n, no, labels := int32(replicas), false, map[string]string{"app": "sim"}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "sim", Labels: labels}, Spec: appsv1.DeploymentSpec{
		Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
			AutomountServiceAccountToken: &no, Containers: []corev1.Container{{Name: "c", Image: "registry.knarr.dev/hollow:1"}}}}}}
}

// churn does what the script says, when it says so, or as soon after as the
// cluster lets it.
func (s *Sim) churn(ctx context.Context) error {
	script := Script(s.cfg.Seed, Shape{Nodes: s.cfg.Fleet.Nodes, Replicas: slices.Clone(s.replicas)}, s.cfg.Churn, s.cfg.Duration)
	if len(script) == 0 {
		return nil
	}
	from, err := s.cfg.Revision(ctx)
	if err != nil {
		return err
	}
	s.track.reset()
	before, _ := s.track.count()
	began := time.Now()
	failed := 0
	for _, a := range script {
		select {
		case <-time.After(time.Until(began.Add(a.At))):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := s.do(ctx, a); err != nil {
			failed++
			fmt.Fprintf(s.cfg.Out, "# %s: %v\n", a, err)
		}
	}
	to, err := s.cfg.Revision(ctx)
	if err != nil {
		return err
	}
	after, _ := s.track.count()
	took := time.Since(began).Seconds()
	s.report("churn.actions", float64(len(script)), "")
	s.report("churn.failed", float64(failed), "")
	s.report("churn.writes", float64(to-from)/took, "/s")
	s.report("churn.changes", float64(after.changes-before.changes)/took, "/s")
	s.latencies()
	return nil
}

func (s *Sim) do(ctx context.Context, a Action) error {
	ns := namespaceOf(a.Deployment)
	switch a.Op {
	case Scale:
		s.replicas[a.Deployment] = a.Replicas
		patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, a.Replicas)
		_, err := s.admin.Patch(ctx, kinds.Ref{Kind: kinds.Deployment, Namespace: ns, Name: "sim"}, types.MergePatchType, []byte(patch))
		return err
	case DeletePod:
		var names []string
		for p := range view.List[*corev1.Pod](s.cfg.Fleet.Cluster.View.Snapshot(), kinds.Pod, ns) {
			if p.DeletionTimestamp == nil {
				names = append(names, p.Name)
			}
		}
		if a.Pod >= len(names) {
			return fmt.Errorf("there are %d pods", len(names))
		}
		_, err := s.admin.Delete(ctx, kinds.Ref{Kind: kinds.Pod, Namespace: ns, Name: names[a.Pod]}, metav1.DeleteOptions{})
		return err
	case LoseNode:
		s.fleet.Lose(a.Node)
		return nil
	case ReturnNode:
		_, err := s.fleet.Return(s.life, a.Node)
		return err
	}
	return fmt.Errorf("no such action: %s", a.Op)
}

// idle measures the cluster when nobody wants anything of it.
func (s *Sim) idle(ctx context.Context) error {
	if s.cfg.Idle == 0 {
		return nil
	}
	select { // what is still under way, and what garbage collection makes of it
	case <-time.After(s.cfg.Idle / 2):
	case <-ctx.Done():
		return ctx.Err()
	}
	from, err := s.cfg.Revision(ctx)
	if err != nil {
		return err
	}
	began, cpu := time.Now(), cpuTime()
	select {
	case <-time.After(s.cfg.Idle):
	case <-ctx.Done():
		return ctx.Err()
	}
	to, err := s.cfg.Revision(ctx)
	if err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	s.report("idle.cpu", (cpuTime()-cpu).Seconds()/took*100, "% of one processor")
	s.report("idle.writes", float64(to-from)/took, "/s")
	return nil
}

func (s *Sim) stay(ctx context.Context) error {
	if s.cfg.Stay != nil {
		s.cfg.Stay(ctx)
	}
	return ctx.Err()
}

// delete the namespaces and wait until nothing of them is left.
func (s *Sim) delete(ctx context.Context) error {
	if s.cfg.Pods == 0 {
		return nil
	}
	began := time.Now()
	for d := range s.replicas {
		err := s.insist(ctx, func() error {
			_, err := s.admin.Delete(ctx, kinds.Ref{Kind: kinds.Namespace, Name: namespaceOf(d)}, metav1.DeleteOptions{})
			return err
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	err := s.bounded(ctx, "namespaces are gone", func(ctx context.Context) error {
		v := s.cfg.Fleet.Cluster.View
		for {
			moved := v.Moved()
			if !s.left(v.Snapshot()) {
				return nil
			}
			select {
			case <-moved:
			case <-ctx.Done():
				return ctx.Err()
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	if err == nil {
		s.report("namespaces.deleted", time.Since(began).Seconds(), "s")
	}
	return err
}

// Leave a control plane that lives on, when the run has ended: it deletes the
// nodes, and namespaces that an interrupted run has left.
func (s *Sim) Leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Until)
	defer cancel()
	var refs []kinds.Ref
	for d := range s.replicas {
		refs = append(refs, kinds.Ref{Kind: kinds.Namespace, Name: namespaceOf(d)})
	}
	for i := range s.cfg.Fleet.Nodes {
		refs = append(refs, kinds.Ref{Kind: kinds.Node, Name: Name(i)})
	}
	for _, ref := range refs {
		err := s.insist(ctx, func() error {
			_, err := s.admin.Delete(ctx, ref, metav1.DeleteOptions{})
			return err
		})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // a conflict: it ends already
			return err
		}
	}
	return nil
}

// left reports whether there is a namespace of ours.
func (s *Sim) left(snap *view.Snapshot) bool {
	for d := range s.replicas {
		if view.Get[*corev1.Namespace](snap, kinds.Namespace, "", namespaceOf(d)) != nil {
			return true
		}
	}
	return false
}

// used memory in bytes: the heap with stacks after a collection, and all that
// is resident.
func used() (heap, rss uint64) {
	runtime.GC()
	runtime.GC() // stacks shrink at the second one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	data, err := os.ReadFile("/proc/self/statm")
	if fields := strings.Fields(string(data)); err == nil && len(fields) > 1 {
		if pages, err := strconv.ParseUint(fields[1], 10, 50); err == nil {
			rss = pages * uint64(os.Getpagesize())
		}
	}
	return m.HeapAlloc + m.StackInuse, rss
}

// cpuTime that this process has taken.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
