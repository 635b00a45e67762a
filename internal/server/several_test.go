package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/security/pki"
	"knarr.dev/knarr/internal/store/etcd"
	"knarr.dev/knarr/internal/store/etcd/etcdtest"
)

// TestSeveralServers: two control planes over one etcd, over TLS.
func TestSeveralServers(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute: leases have to end")
	}
	ca := etcdtest.NewAuthority(t)
	s := &several{t: t, ca: ca, etcd: etcdtest.Start(t, ca)}
	free, err := net.Listen("tcp4", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	s.port = free.Addr().(*net.TCPAddr).Port
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	wireA, wireB := newWire(t, s.etcd.Endpoint), newWire(t, s.etcd.Endpoint)
	confA := s.config("a", "192.0.2.1", wireA, "")
	confA.ServiceCIDR = "172.20.0.0/24"
	a, err := s.start(confA, "127.0.0.2", wireA)
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(confA.Dir("server", "cluster.key"))
	if err != nil {
		t.Fatal(err)
	}
	s.refusals(wireB, string(key))
	b, err := s.start(s.config("b", "192.0.2.2", wireB, string(key)), "127.0.0.3", wireB)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.control.cfg.ServiceCIDR; got != "172.20.0.0/24" {
		t.Errorf("the second server's networks are %s", got)
	}
	consistent(t, a, b)
	secrets(t, a, b, s)
	addresses(t, a, b)
	tokens(t, a, b)
	sharedKeys(t, a, b)
	for _, o := range []*one{a, b} {
		o.await("both are endpoints", 20*time.Second, func() bool { return o.endpoints() == "192.0.2.1 192.0.2.2" })
	}
	partition(t, a, b)
	takeOver(t, a, b)
	comeBack(t, s, a, b)
}

// refusals of a server that is not, or not yet, of the cluster.
func (s *several) refusals(w *wire, key string) {
	s.t.Helper()
	other := strings.Map(func(r rune) rune {
		return []rune("123456789abcdef0")[strings.IndexRune("0123456789abcdef", r)]
	}, strings.TrimSpace(key))
	for name, c := range map[string]struct {
		edit func(*Config)
		want string
	}{
		"no key":         {func(c *Config) { c.Etcd.ClusterKey = "" }, "this etcd holds a cluster: give the key of its servers with --cluster-key-file"},
		"other key":      {func(c *Config) { c.Etcd.ClusterKey = other }, "the cluster key is not that of this etcd's cluster"},
		"other networks": {func(c *Config) { c.ClusterCIDR = "10.9.0.0/16" }, "--cluster-cidr is 10.244.0.0/16 in this cluster, not 10.9.0.0/16"},
		"other port":     {func(c *Config) { c.APIPort++ }, "give --api-port"},
	} {
		conf := s.config("c", "192.0.2.3", w, key)
		c.edit(conf)
		_, err := s.start(conf, "127.0.0.3", w)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			s.t.Errorf("%s: %v", name, err)
		}
		if err != nil && (strings.Contains(err.Error(), strings.TrimSpace(key)) || strings.Contains(err.Error(), other)) {
			s.t.Errorf("%s: the error holds the key", name)
		}
	}
}

// consistent: what one has written the other reads, lists and watches at once.
func consistent(t *testing.T, a, b *one) {
	t.Helper()
	ctx := t.Context()
	made := a.create(kinds.ConfigMap, aConfigMap("shared", "0"))
	watch, err := b.Do(ctx, http.MethodGet, "/api/v1/namespaces/default/configmaps", url.Values{"watch": {"1"}, "resourceVersion": {made.GetResourceVersion()},
		"fieldSelector": {"metadata.name=shared"}}, "", "application/json", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Body.Close()
	const writes = 40
	servers := []*one{a, b}
	for i := 1; i <= writes; i++ {
		from, to := servers[i%2], servers[(i+1)%2]
		want := fmt.Sprint(i)
		if _, err := from.Update(ctx, kinds.Ref{Kind: kinds.ConfigMap, Namespace: "default", Name: "shared"}, aConfigMap("shared", want)); err != nil {
			t.Fatal(err)
		}
		got, err := get[*corev1.ConfigMap](to, kinds.ConfigMap, "default", "shared")
		if err != nil || got.Data["v"] != want {
			t.Fatalf("write %s is read as %v: %v", want, got, err)
		}
		list, err := to.List(ctx, kinds.ConfigMap, "default", metav1.ListOptions{FieldSelector: "metadata.name=shared"})
		if err != nil || list.(*corev1.ConfigMapList).Items[0].Data["v"] != want {
			t.Fatalf("write %s is listed as %v: %v", want, list, err)
		}
	}
	var seen strings.Builder
	buf := make([]byte, 4096)
	for want := fmt.Sprintf(`"v":"%d"`, writes); !strings.Contains(seen.String(), want); {
		n, err := watch.Body.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := 1; i <= writes; i++ {
		if n := strings.Count(seen.String(), fmt.Sprintf(`"v":"%d"`, i)); n != 1 {
			t.Errorf("write %d was watched %d times", i, n)
		}
	}
}

// secrets that one has encrypted the other reads.
func secrets(t *testing.T, a, b *one, s *several) {
	t.Helper()
	for _, o := range []*one{a, b} {
		name := "of-" + o.control.cfg.NodeName
		o.create(kinds.Secret, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string][]byte{"k": []byte("hidden-value")}})
		for _, reader := range []*one{a, b} {
			if got, err := get[*corev1.Secret](reader, kinds.Secret, "default", name); err != nil || string(got.Data["k"]) != "hidden-value" {
				t.Errorf("%s: %v", name, err)
			}
		}
		raw, err := o.control.etcd.Get(t.Context(), kinds.Secret.Key("default", name))
		if err != nil || strings.Contains(string(raw.Value), "hidden-value") {
			t.Errorf("%s lies in etcd as %q: %v", name, raw.Value, err)
		}
	}
	kv, err := a.control.etcd.Get(t.Context(), etcd.OwnRoot+"/bootstrap/test")
	if err != nil || strings.Contains(string(kv.Value), "PRIVATE KEY") {
		t.Errorf("the shared keys lie in etcd as %q: %v", kv.Value, err)
	}
}

// addresses and ports are given once, by whichever server.
func addresses(t *testing.T, a, b *one) {
	t.Helper()
	const each = 25
	var g errgroup.Group
	for i := range 2 * each {
		o := []*one{a, b}[i%2]
		g.Go(func() error {
			svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("svc-%d", i)}}
			svc.Spec.Type, svc.Spec.Ports = corev1.ServiceTypeNodePort, []corev1.ServicePort{{Port: 80}}
			if i < 20 { // two servers are asked for each of these at once
				svc.Spec.Ports[0].NodePort = 31000 + int32(i/2)
			}
			_, err := o.Create(t.Context(), kinds.Ref{Kind: kinds.Service, Namespace: "default"}, svc)
			if i < 20 && apierrors.IsInvalid(err) {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	list, err := b.List(t.Context(), kinds.Service, "default", metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ips, ports := map[string]string{}, map[int32]string{}
	for _, svc := range list.(*corev1.ServiceList).Items {
		if other := ips[svc.Spec.ClusterIP]; other != "" {
			t.Errorf("%s and %s both have %s", other, svc.Name, svc.Spec.ClusterIP)
		}
		ips[svc.Spec.ClusterIP] = svc.Name
		if p := svc.Spec.Ports[0].NodePort; p != 0 {
			if other := ports[p]; other != "" {
				t.Errorf("%s and %s both have port %d", other, svc.Name, p)
			}
			ports[p] = svc.Name
		}
	}
	if want := 2*each - 10; len(ports) != want {
		t.Errorf("%d services have ports, want %d", len(ports), want)
	}
}

// tokens that one has issued hold at the other.
func tokens(t *testing.T, a, b *one) {
	t.Helper()
	for _, pair := range [][2]*one{{a, b}, {b, a}} {
		pair[0].await("the service account", 10*time.Second, func() bool {
			_, err := get[*corev1.ServiceAccount](pair[0], kinds.ServiceAccount, "default", "default")
			return err == nil
		})
		if !pair[1].knows(tokenOf(t, pair[0])) {
			t.Errorf("a token of %s does not hold at %s", pair[0].control.cfg.NodeName, pair[1].control.cfg.NodeName)
		}
	}
}

// sharedKeys: keys of tokens that are put in place at one hold at the other; the key
// of secrets stays.
func sharedKeys(t *testing.T, a, b *one) {
	t.Helper()
	fresh := t.TempDir() + "/key"
	if _, err := pki.OpenSigningKeys(fresh); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(fresh)
	if err != nil {
		t.Fatal(err)
	}
	before := tokenOf(t, a)
	old, err := os.ReadFile(a.control.cfg.signingKeys())
	if err != nil {
		t.Fatal(err)
	}
	if err := pki.WriteFile(a.control.cfg.signingKeys(), append(first, old...)); err != nil {
		t.Fatal(err)
	}
	a.await("tokens are signed with the new key", 20*time.Second, func() bool { return header(tokenOf(t, a)) != header(before) })
	b.await("the other server knows it", 20*time.Second, func() bool { return b.knows(tokenOf(t, a)) && b.knows(before) })
	b.await("and signs with it", 20*time.Second, func() bool { return header(tokenOf(t, b)) == header(tokenOf(t, a)) })
	_, err = a.Do(t.Context(), http.MethodPost, rotationPath, url.Values{"new": {"true"}}, "", "application/json", nil)
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), "--encryption-provider-config") {
		t.Errorf("a rotation of the shared key: %v", err)
	}
}

// header of a token names the key that has signed it.
func header(token string) string { h, _, _ := strings.Cut(token, "."); return h }

func tokenOf(t *testing.T, o *one) string {
	t.Helper()
	out, err := o.Create(t.Context(), kinds.Ref{Kind: kinds.ServiceAccount, Namespace: "default", Name: "default", Sub: "token"}, &authenticationv1.TokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return out.(*authenticationv1.TokenRequest).Status.Token
}

// knows says whether a token holds there.
func (o *one) knows(token string) bool {
	o.t.Helper()
	req, err := http.NewRequestWithContext(o.t.Context(), http.MethodGet, o.url+"/api/v1/namespaces/default/pods", nil)
	if err != nil {
		o.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	web := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: o.control.authority.Pool()}, DisableKeepAlives: true}
	resp, err := web.RoundTrip(req)
	if err != nil {
		o.t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		o.t.Fatal(err)
	}
	return resp.StatusCode == http.StatusForbidden && strings.Contains(string(body), "system:serviceaccount:default:default")
}

// comeBack: a killed server starts again without being told anything, and one
// that stops leaves the endpoints at once.
func comeBack(t *testing.T, s *several, a, b *one) {
	t.Helper()
	b.end()
	b.wire.set(false)
	conf := b.control.cfg
	again := &Config{Server: true, DataDir: conf.DataDir, NodeIP: conf.NodeIP, TLSSANs: conf.TLSSANs, Log: conf.Log}
	// A control plane without a machine leaves no note of itself.
	if err := writeInstance(&Config{Server: true, DataDir: conf.DataDir, NodeName: conf.NodeName, NodeIP: conf.NodeIP, APIPort: s.port, KubeletPort: 10250, Etcd: conf.Etcd}, "test"); err != nil {
		t.Fatal(err)
	}
	b, err := s.start(again, "127.0.0.3", b.wire)
	if err != nil {
		t.Fatal(err)
	}
	a.await("it is an endpoint", 20*time.Second, func() bool { return a.endpoints() == "192.0.2.1 192.0.2.2" })
	if !b.knows(tokenOf(t, a)) {
		t.Error("the server that came back does not know the others' tokens")
	}
	b.CloseIdle()
	left := time.Now()
	b.end()
	a.await("it has left", serverLife, func() bool { return a.endpoints() == "192.0.2.1" })
	if took := time.Since(left); took > serverLife {
		t.Errorf("out of the endpoints after %s", took)
	}
}

// partition: a leader that loses etcd stops to act, another takes over, and the
// former goes on when etcd is back, without having done anything meanwhile.
func partition(t *testing.T, a, b *one) {
	t.Helper()
	ctx := t.Context()
	if !a.leadsAll() {
		t.Fatal("the first server does not lead")
	}
	watch, err := a.Do(ctx, http.MethodGet, "/api/v1/namespaces/default/configmaps", url.Values{"watch": {"1"}, "fieldSelector": {"metadata.name=meanwhile"}}, "", "application/json", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Body.Close()
	a.wire.set(true)
	t.Logf("the second server leads after %s", b.await("the second server leads", 20*time.Second, b.leadsAll))
	asked := time.Now()
	_, err = get[*corev1.ConfigMap](a, kinds.ConfigMap, "default", "shared")
	if status := apierrors.APIStatus(nil); !errors.As(err, &status) || status.Status().Code < 500 || time.Since(asked) > 30*time.Second {
		t.Errorf("without etcd a read says, after %s: %v", time.Since(asked), err)
	}
	b.create(kinds.Deployment, aDeployment("meanwhile"))
	b.await("the new leader acts", 10*time.Second, func() bool { return b.replicaSets("meanwhile") == 1 })
	b.create(kinds.ConfigMap, aConfigMap("meanwhile", "mark"))
	a.wire.set(false)
	a.await("the first server answers again", 30*time.Second, func() bool {
		got, err := get[*corev1.ConfigMap](a, kinds.ConfigMap, "default", "meanwhile")
		return err == nil && got.Data["v"] == "mark"
	})
	var seen strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(seen.String(), `"v":"mark"`) {
		n, err := watch.Body.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("the watch ended: %v", err)
		}
	}
	if n := a.replicaSets("meanwhile"); n != 1 || !b.leadsAll() {
		t.Errorf("%d replica sets; does the second server lead? %v", n, b.leadsAll())
	}
	select {
	case err := <-a.done:
		t.Errorf("the server has ended: %v", err)
	default:
	}
	a.await("both are endpoints again", 20*time.Second, func() bool { return a.endpoints() == "192.0.2.1 192.0.2.2" })
}

// takeOver: a leader that is killed is followed by the other.
func takeOver(t *testing.T, a, b *one) {
	t.Helper()
	// The candidate has to have spoken, which it does every 20 s at the latest.
	for _, lease := range []string{manager, schedulerName} {
		a.await("the leader knows that somebody waits", 30*time.Second, func() bool {
			l, err := get[*coordinationv1.Lease](a, kinds.Lease, "kube-system", lease)
			return err == nil && *l.Spec.LeaseDurationSeconds == 1
		})
	}
	killed := time.Now()
	go b.crash()
	a.await("the first server leads again", 5*time.Second, a.leadsAll)
	t.Logf("hand-over after %s", time.Since(killed))
	a.create(kinds.Deployment, aDeployment("after"))
	a.await("it acts", 10*time.Second, func() bool { return a.replicaSets("after") == 1 })
	a.await("the killed server is no endpoint any more", 30*time.Second, func() bool { return a.endpoints() == "192.0.2.1" })
	t.Logf("out of the endpoints after %s", time.Since(killed))
}
