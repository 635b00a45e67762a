package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/client/remote"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store/etcd/etcdtest"
)

// wire is a TCP connection to etcd that can be cut.
type wire struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
}

func newWire(t *testing.T, endpoint string) *wire {
	t.Helper()
	u, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{to: u.Host, conns: map[net.Conn]bool{}}
	if w.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.listener.Close(); w.set(true) })
	go func() {
		for {
			c, err := w.listener.Accept()
			if err != nil {
				return
			}
			go w.carry(c)
		}
	}()
	return w
}

func (w *wire) endpoint() string { return "https://" + w.listener.Addr().String() }

func (w *wire) carry(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("tcp", w.to)
	if err != nil {
		return
	}
	defer out.Close()
	w.mu.Lock()
	if w.cut {
		w.mu.Unlock()
		return
	}
	w.conns[in], w.conns[out] = true, true
	w.mu.Unlock()
	go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
	_, _ = io.Copy(in, out)
}

// set cuts the wire, or mends it.
func (w *wire) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	for c := range w.conns {
		_ = c.Close()
	}
	w.conns = map[net.Conn]bool{}
}

// several servers over one etcd.
type several struct {
	t    *testing.T
	ca   *etcdtest.Authority
	etcd *etcdtest.Etcd
	port int
}

// one of them.
type one struct {
	*remote.Client
	t       *testing.T
	control *control
	wire    *wire
	cancel  context.CancelFunc
	done    chan error
	url     string
}

func (s *several) config(name, ip string, w *wire, key string) *Config {
	s.t.Helper()
	cert, certKey := s.ca.Issue(name)
	return &Config{Server: true, DataDir: s.t.TempDir(), NodeName: name, NodeIP: ip, TLSSANs: []string{"127.0.0.2", "127.0.0.3"}, APIPort: s.port,
		Etcd: EtcdConfig{Endpoints: []string{w.endpoint()}, CA: s.ca.File, Cert: cert, Key: certKey, Prefix: "/test", ClusterKey: key},
		Log:  slog.New(slog.DiscardHandler)}
}

// start a server that listens on its own address of loopback.
func (s *several) start(c *Config, listen string, w *wire) (*one, error) {
	s.t.Helper()
	if err := c.Complete(); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp4", net.JoinHostPort(listen, fmt.Sprint(s.port)))
	if err != nil {
		return nil, err
	}
	c.plane = &planeConfig{listener: l}
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	control, err := newControl(ctx, c)
	if err != nil {
		cancel()
		return nil, err
	}
	o := &one{t: s.t, control: control, wire: w, cancel: cancel, done: make(chan error, 1), url: c.APIURL()}
	up := make(chan struct{})
	go func() {
		o.done <- control.runFor(ctx, func(ctx context.Context, _ *Plane) error {
			close(up)
			<-ctx.Done()
			return nil
		})
	}()
	s.t.Cleanup(func() { o.end() })
	select {
	case <-up:
	case err := <-o.done:
		o.done <- err
		return nil, err
	}
	o.Client, err = remote.FromKubeconfig(c.Kubeconfig(), "test")
	return o, err
}

func (o *one) end() {
	o.cancel()
	err := <-o.done
	o.done <- err
}

// crash as a process that is killed: nothing of it reaches etcd any more.
func (o *one) crash() {
	o.wire.set(true)
	o.CloseIdle()
	o.end()
}

func get[T kinds.Object](o *one, k *kinds.Kind, namespace, name string) (T, error) {
	var none T
	out, err := o.Get(o.t.Context(), kinds.Ref{Kind: k, Namespace: namespace, Name: name})
	if err != nil {
		return none, err
	}
	return out.(T), nil
}

func (o *one) create(k *kinds.Kind, obj kinds.Object) kinds.Object {
	o.t.Helper()
	out, err := o.Create(o.t.Context(), kinds.Ref{Kind: k, Namespace: "default"}, obj)
	if err != nil {
		o.t.Fatal(err)
	}
	return out.(kinds.Object)
}

// await polls a condition of which no single watch tells.
func (o *one) await(what string, within time.Duration, holds func() bool) time.Duration {
	o.t.Helper()
	began := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Since(began) > within {
			o.t.Fatalf("%s: not within %s", what, within)
		}
		<-tick.C
	}
	return time.Since(began)
}

func (o *one) leads(lease string) bool {
	l, err := get[*coordinationv1.Lease](o, kinds.Lease, "kube-system", lease)
	return err == nil && l.Spec.HolderIdentity != nil && strings.HasPrefix(*l.Spec.HolderIdentity, o.control.cfg.NodeName+"_")
}

func (o *one) leadsAll() bool { return o.leads(manager) && o.leads(schedulerName) }

func aConfigMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"v": value}}
}

func aDeployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	d.Spec.Template.Labels = labels
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
	return d
}

// replicaSets of a deployment, as a server has them.
func (o *one) replicaSets(name string) int {
	out, err := o.List(o.t.Context(), kinds.ReplicaSet, "default", metav1.ListOptions{LabelSelector: "app=" + name})
	if err != nil {
		return -1
	}
	return len(out.(*appsv1.ReplicaSetList).Items)
}

func (o *one) endpoints() string {
	s, err := get[*discoveryv1.EndpointSlice](o, kinds.EndpointSlice, "default", "kubernetes")
	if err != nil {
		return ""
	}
	var all []string
	for _, e := range s.Endpoints {
		all = append(all, e.Addresses...)
	}
	return strings.Join(all, " ")
}
