package extender

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/scheduler"
)

func open(t *testing.T, c configv1.Extender) scheduler.Extender {
	t.Helper()
	e, err := Open(&c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func ask(e scheduler.Extender, verb string) error {
	var out map[string]string
	return e.Call(context.Background(), verb, map[string]string{"a": "b"}, &out)
}

func TestCall(t *testing.T) {
	var followed atomic.Bool
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/x/good":
			if r.Method != "POST" || r.Header.Get("Content-Type") != "application/json" || string(body) != `{"a":"b"}` {
				t.Errorf("%s %s: %s", r.Method, r.URL, body)
			}
			_, _ = io.WriteString(w, `{"c":"d"}`)
		case "/x/moved":
			http.Redirect(w, r, "/x/elsewhere", http.StatusTemporaryRedirect)
		case "/x/elsewhere":
			followed.Store(true)
		case "/x/bad":
			_, _ = io.WriteString(w, "<html>")
		case "/x/large":
			_, _ = w.Write([]byte(`{"c":"` + strings.Repeat("d", 2000) + `"}`))
		case "/x/slow":
			select {
			case <-r.Context().Done():
			case <-release:
			}
		case "/x/drip": // headers in time, the body never
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
			case <-release:
			}
		default:
			http.Error(w, "no", http.StatusTeapot)
		}
	}))
	defer srv.Close()
	defer close(release)
	e := open(t, configv1.Extender{URLPrefix: srv.URL + "/x/", HTTPTimeout: metav1.Duration{Duration: time.Minute}})
	narrow, err := openWith(&configv1.Extender{URLPrefix: srv.URL + "/x"}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	hasty := open(t, configv1.Extender{URLPrefix: srv.URL + "/x", HTTPTimeout: metav1.Duration{Duration: 50 * time.Millisecond}})
	for _, tt := range []struct {
		verb string
		e    scheduler.Extender
		want string // empty: it works
	}{
		{"good", e, ""}, {"moved", e, "code 307"}, {"teapot", e, "failed teapot with extender at URL " + srv.URL + "/x/teapot, code 418"}, {"bad", e, "invalid character"},
		{"large", e, ""}, {"large", narrow, "the answer is larger than 1000 bytes"}, {"slow", hasty, "Client.Timeout"}, {"drip", hasty, "Client.Timeout"},
	} {
		switch err := ask(tt.e, tt.verb); {
		case tt.want == "" && err != nil, tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %s", tt.verb, err, tt.want)
		}
	}
	if followed.Load() {
		t.Error("a redirect was followed")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := e.Call(ctx, "slow", nil, nil); err == nil {
		t.Error("the end of the loop does not end a call")
	}
}

func TestTLS(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }))
	defer srv.Close()
	srv.Config.ErrorLog = nil
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	for name, tt := range map[string]struct {
		tls  *configv1.ExtenderTLSConfig
		want string
	}{
		"its authority":     {&configv1.ExtenderTLSConfig{CAData: ca}, ""},
		"under a name":      {&configv1.ExtenderTLSConfig{CAData: ca, ServerName: "example.com"}, ""},
		"under a wrong one": {&configv1.ExtenderTLSConfig{CAData: ca, ServerName: "other.test"}, "not other.test"},
		"unverified":        {&configv1.ExtenderTLSConfig{Insecure: true}, ""},
		"nobody's":          {nil, "certificate"},
	} {
		e := open(t, configv1.Extender{URLPrefix: srv.URL, EnableHTTPS: true, TLSConfig: tt.tls})
		switch err := ask(e, "v"); {
		case tt.want == "" && err != nil, tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
	if _, err := Open(&configv1.Extender{URLPrefix: srv.URL, TLSConfig: &configv1.ExtenderTLSConfig{CAFile: "/nowhere"}}); err == nil {
		t.Error("a file that is not there is no error")
	}
}

// A scheduler and a server that filters, scores and binds: all over HTTP.
func TestSchedulesThroughAServer(t *testing.T) {
	w := reconciletest.New(scheduler.Kinds())
	w.Put(kinds.Namespace, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	for _, name := range []string{"a", "b", "c"} {
		w.Put(kinds.Node, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			"cpu": resource.MustParse("4"), "memory": resource.MustParse("8Gi"), "pods": resource.MustParse("10")}}})
	}
	w.Put(kinds.Pod, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "u"},
		Spec: corev1.PodSpec{SchedulerName: corev1.DefaultSchedulerName, Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
	mux := http.NewServeMux()
	answer := func(verb string, fn func(*json.Decoder) any) {
		mux.HandleFunc("POST /"+verb, func(rw http.ResponseWriter, r *http.Request) {
			if err := json.NewEncoder(rw).Encode(fn(json.NewDecoder(r.Body))); err != nil {
				t.Error(err)
			}
		})
	}
	var bound extenderv1.ExtenderBindingArgs
	answer("f", func(d *json.Decoder) any {
		var args extenderv1.ExtenderArgs
		if err := d.Decode(&args); err != nil || args.Pod.Name != "p" || len(args.Nodes.Items) != 3 {
			t.Errorf("%v: %+v", err, args)
		}
		left := corev1.NodeList{}
		for _, n := range args.Nodes.Items {
			if n.Name != "a" {
				left.Items = append(left.Items, n)
			}
		}
		return extenderv1.ExtenderFilterResult{Nodes: &left, FailedNodes: map[string]string{"a": "no"}}
	})
	answer("s", func(*json.Decoder) any { return extenderv1.HostPriorityList{{Host: "c", Score: 10}} })
	answer("b", func(d *json.Decoder) any {
		if err := d.Decode(&bound); err != nil {
			t.Error(err)
		}
		return extenderv1.ExtenderBindingResult{}
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	s, err := scheduler.New(scheduler.Config{View: w.View, Client: w, Rand: rand.New(rand.NewPCG(1, 1)),
		Extenders: []scheduler.Extender{open(t, configv1.Extender{URLPrefix: srv.URL, FilterVerb: "f", PrioritizeVerb: "s", Weight: 10, BindVerb: "b"})}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	if !s.Step(context.Background()) {
		t.Fatal("there was no pod")
	}
	if want := (extenderv1.ExtenderBindingArgs{PodName: "p", PodNamespace: "default", PodUID: "u", Node: "c"}); bound != want {
		t.Errorf("bound %+v, want %+v", bound, want)
	}
}
