package audit

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

const head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n"

func writePolicy(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func opened(t testing.TB, rules string) *Policy {
	t.Helper()
	p, err := OpenPolicy(writePolicy(t, head+rules), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRefusedPolicies(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "failed decoding",
		"rules: [{level: Metadata}]": "failed decoding",
		head:                         "loaded illegal policy with 0 rules",
		head + "rules: [{level: Metadata, x: 1}]":                                `unknown field "rules[0].x"`,
		head + "rules: [{level: Metadata, level: None}]":                         `key "level" already set`,
		head + "rules: [{level: Nope}]":                                          `rules[0].level: Unsupported value: "Nope"`,
		head + "rules: [{users: [a]}]":                                           "rules[0].level: Required value",
		head + "omitStages: [Nope]\nrules: [{level: None}]":                      `omitStages[0]: Invalid value: "Nope": allowed stages are`,
		head + "rules: [{level: None, nonResourceURLs: [x]}]":                    "non-resource URL rules must begin with a '/' character",
		head + "rules: [{level: None, nonResourceURLs: [/x], namespaces: [a]}]":  "rules cannot apply to both regular resources and non-resource URLs",
		head + "rules: [{level: None, resources: [{resourceNames: [a]}]}]":       "using resourceNames requires at least one resource",
		"apiVersion: audit.k8s.io/v1beta1\nkind: Policy\nrules: [{level: None}]": "no kind",
		"apiVersion: audit.k8s.io/v1\nkind: Event\nlevel: None\n":                "expected a Policy",
	} {
		_, err := OpenPolicy(writePolicy(t, text), slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// taken gathers what an output is given.
type taken struct {
	mu    sync.Mutex
	lines [][]string
	err   error
}

func (s *taken) send(_ context.Context, lines [][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	var batch []string
	for _, l := range lines {
		batch = append(batch, string(l))
	}
	s.lines = append(s.lines, batch)
	return nil
}

func (s *taken) batches() [][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines
}

func auditor(t testing.TB, rules string, outputs ...Output) *Auditor {
	t.Helper()
	a, err := New(Config{Policy: opened(t, rules), Outputs: outputs, Log: slog.New(slog.DiscardHandler), ID: func() string { return "id" }})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func pods(verb, name string) authorizer.AttributesRecord {
	return authorizer.AttributesRecord{User: &user.DefaultInfo{Name: "jane", Groups: []string{"dev"}, Extra: map[string][]string{"k": {"v"}}}, Verb: verb,
		Namespace: "default", Resource: "pods", APIVersion: "v1", Name: name, ResourceRequest: true, Path: "/api/v1/namespaces/default/pods/" + name}
}

func (a *Auditor) count(t *testing.T, plugin string) float64 {
	t.Helper()
	var m dto.Metric
	if err := a.metrics.errors.WithLabelValues(plugin).Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.Counter.GetValue()
}

// one writes the events of one request.
func one(a *Auditor) {
	r := a.New("")
	if r.Received(pods("get", "a"), Request{At: time.Now(), URI: "/x"}) == nil {
		r.Started(200)
		r.Completed()
	}
}

// TestFollowedPolicy: a change holds, one that cannot work does not.
func TestFollowedPolicy(t *testing.T) {
	synced := make(chan string, 10)
	path := writePolicy(t, head+"rules: [{level: Metadata}]")
	p, err := OpenPolicy(path, slog.New(slog.NewTextHandler(writerFunc(func(b []byte) { synced <- string(b) }), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	for _, step := range []struct{ rules, log, level string }{
		{"rules: [{level: Request}]", "a changed configuration holds", "Request"},
		{"rules: [{level: Nope}]", "is not taken", "Request"},
		{"rules: [{level: None}]", "a changed configuration holds", "None"},
	} {
		next := path + ".next"
		if err := os.WriteFile(next, []byte(head+step.rules), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
		if line := <-synced; !strings.Contains(line, step.log) {
			t.Errorf("%s: %s", step.rules, line)
		}
		if got := (*p.rules.Load()).EvaluatePolicyRule(pods("get", "a")).Level; string(got) != step.level {
			t.Errorf("%s: %s", step.rules, got)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }

// TestStages: those that a rule leaves out, and those of all rules.
func TestStages(t *testing.T) {
	for rules, want := range map[string]string{
		"rules: [{level: Metadata}]":                                                                 "RequestReceived ResponseComplete",
		"omitStages: [RequestReceived]\nrules: [{level: Metadata}]":                                  "ResponseComplete",
		"omitStages: [RequestReceived]\nrules: [{level: Metadata, omitStages: [ResponseComplete]}]":  "",
		"rules: [{level: None, userGroups: [dev], verbs: [get]}, {level: Metadata}]":                 "",
		"rules: [{level: None, resources: [{group: '', resources: [pods], resourceNames: [b]}]}]":    "",
		"rules: [{level: None, resources: [{group: '', resources: [pods/log]}]}, {level: Metadata}]": "RequestReceived ResponseComplete",
		"rules: [{level: None, namespaces: [other]}, {level: Metadata, namespaces: [default]}]":      "RequestReceived ResponseComplete",
		"rules: [{level: Metadata, nonResourceURLs: ['/*']}]":                                        "",
	} {
		s := &taken{}
		one(auditor(t, rules, Output{Name: "log", Mode: Blocking, Send: s.send}))
		var got []string
		for _, b := range s.batches() {
			var e auditv1.Event
			if err := json.Unmarshal([]byte(b[0]), &e); err != nil {
				t.Fatal(err)
			}
			got = append(got, string(e.Stage))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q", rules, got)
		}
	}
}

// TestNothing: without a record nothing is done, and nothing allocated.
func TestNothing(t *testing.T) {
	var r *Record
	off := auditor(t, "rules: [{level: None}]", Output{Name: "log", Mode: Blocking, Send: (&taken{err: errors.New("told")}).send}).New("")
	if err := off.Received(pods("get", "a"), Request{}); err != nil {
		t.Fatal(err)
	}
	st, pod := &metav1.Status{}, &metav1.ObjectMeta{Name: "x"}
	for name, r := range map[string]*Record{"off": r, "level None": off} {
		if n := testing.AllocsPerRun(100, func() {
			r.Annotate("a", "b")
			r.Status(st)
			r.Target(pod)
			r.Started(200)
			r.Completed()
			if r.Wants(auditv1.LevelMetadata) || r.Annotator() != nil {
				panic("wanted")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	if off.a.count(t, "log") != 0 {
		t.Error("something was written")
	}
}

func TestLegacyAndTruncated(t *testing.T) {
	lines, short := &taken{}, &taken{}
	a := auditor(t, "rules: [{level: Request, omitStages: [RequestReceived]}]", Output{Name: "log", Mode: Blocking, Legacy: true, Send: lines.send},
		Output{Name: "webhook", Mode: Blocking, Truncate: Truncation{Enabled: true, MaxEvent: 1000, MaxBatch: 1000}, Send: short.send})
	r := a.New("x")
	if err := r.Received(pods("create", ""), Request{At: time.Unix(1, 0), URI: "/u", UserAgent: "ua", Sources: []string{"192.0.2.1"}}); err != nil {
		t.Fatal(err)
	}
	r.RequestObject([]byte(`{"a":"` + strings.Repeat("x", 2000) + `"}`))
	r.Started(201)
	r.Completed()
	want := `AUDIT: id="x" stage="ResponseComplete" ip="192.0.2.1" method="create" user="jane" groups="\"dev\"" as="<self>" asgroups="<lookup>" user-agent="ua" namespace="default" uri="/u" response="201"` + "\n"
	if got := lines.batches()[0][0]; !strings.HasSuffix(got, want) {
		t.Errorf("%s", got)
	}
	if got := short.batches()[0][0]; len(got) > 1000 || !strings.Contains(got, `"audit.k8s.io/truncated":"true"`) || strings.Contains(got, "requestObject") {
		t.Errorf("%s", got)
	}
	r = a.New(strings.Repeat("i", 2000))
	if err := r.Received(pods("create", ""), Request{}); err != nil {
		t.Fatal(err)
	}
	r.Completed()
	if a.count(t, "truncate") != 1 || len(short.batches()) != 1 {
		t.Errorf("%v lost", a.count(t, "truncate"))
	}
	r.ResponseObject(make([]byte, MaxObject+1))
	if r.event.ResponseObject != nil || r.event.Annotations[truncated] != "true" {
		t.Error("a long object is kept")
	}
}

// TestBatches: by number, by time, at the end, and none lost silently.
func TestBatches(t *testing.T) {
	a := auditor(t, "rules: [{level: Metadata}]", Output{})
	synctest.Test(t, func(t *testing.T) {
		s := &taken{}
		o := newOutput(Output{Name: "webhook", Mode: Batch, Parallel: true, Batching: Batching{Buffer: 4, Size: 2, Wait: time.Second, Throttle: true, QPS: 10, Burst: 2}, Send: s.send}, a.metrics, a.cfg.Log)
		take := func(n int) {
			for i := range n {
				o.take(&auditv1.Event{}, []byte(fmt.Sprint(i)))
			}
		}
		take(6)
		if got := a.count(t, "buffered"); got != 2 {
			t.Errorf("%v lost", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { o.run(ctx); close(done) }()
		synctest.Wait()
		if got := s.batches(); len(got) != 2 || len(got[0]) != 2 {
			t.Errorf("%q", got)
		}
		take(1)
		synctest.Wait()
		if len(s.batches()) != 2 {
			t.Error("one was not waited for")
		}
		<-time.After(1100 * time.Millisecond)
		synctest.Wait()
		if got := s.batches(); len(got) != 3 || o.unsent.Load() != 0 || o.waiting.Load() != 0 {
			t.Errorf("%q, %d unsent", got, o.unsent.Load())
		}
		take(3)
		cancel()
		<-done
		if n := 0; true {
			for _, b := range s.batches() {
				n += len(b)
			}
			if n != 8 {
				t.Errorf("%q", s.batches())
			}
		}
		take(1)
		if got := a.count(t, "buffered"); got != 3 {
			t.Errorf("%v lost", got)
		}
	})
}

// TestWebhook: five tries, and the form of what is sent.
func TestWebhook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bodies []string
		fails := 2
		send := Webhook(func(_ context.Context, body []byte) error {
			bodies = append(bodies, string(body))
			if fails--; fails >= 0 {
				return errors.New("away")
			}
			return nil
		}, time.Second)
		began := time.Now()
		if err := send(t.Context(), [][]byte{[]byte("{\"a\":1}\n"), []byte("{}\n")}); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 2500*time.Millisecond || took > 3*time.Second || len(bodies) != 3 {
			t.Errorf("%s, %d tries", took, len(bodies))
		}
		if want := `{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[{"a":1},{}]}` + "\n"; bodies[0] != want {
			t.Errorf("%s", bodies[0])
		}
		fails, bodies = 9, nil
		if err := send(t.Context(), nil); err == nil || len(bodies) != 5 {
			t.Errorf("%v after %d tries", err, len(bodies))
		}
	})
}

// TestFile: rotated and compressed; readable by its owner only.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "audit.log")
	send, err := File{Path: path, MaxSize: 1, MaxBackups: 1, Compress: true}.Open()
	if err != nil {
		t.Fatal(err)
	}
	line := append(bytes.Repeat([]byte("x"), 700<<10), '\n')
	for range 2 {
		if err := send(t.Context(), [][]byte{line}); err != nil {
			t.Fatal(err)
		}
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 || st.Size() != int64(len(line)) {
		t.Errorf("%v %v", st, err)
	}
	var old []byte
	for deadline := time.After(30 * time.Second); len(old) != len(line); {
		select {
		case <-deadline:
			t.Fatal("no old file")
		case <-time.After(5 * time.Millisecond):
		}
		files, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "audit-*.log.gz"))
		if len(files) != 1 {
			continue
		}
		f, err := os.Open(files[0])
		if err != nil {
			t.Fatal(err)
		}
		if z, err := gzip.NewReader(f); err == nil {
			old, _ = io.ReadAll(z)
		}
		f.Close()
	}
}

// TestFullDisk: the line after a torn one stands by itself.
func TestFullDisk(t *testing.T) {
	send, err := File{Path: "/dev/full"}.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := send(t.Context(), [][]byte{[]byte("x\n")}); err == nil {
		t.Error("written")
	}
	w := &small{left: 3}
	l := &lines{to: w}
	if err := l.send(t.Context(), [][]byte{[]byte("abcdef\n")}); err == nil {
		t.Error("written")
	}
	w.left = 100
	if err := l.send(t.Context(), [][]byte{[]byte("next\n")}); err != nil || w.String() != "abc\nnext\n" {
		t.Errorf("%v %q", err, w.String())
	}
}

// small is a disk with little room.
type small struct {
	bytes.Buffer
	left int
}

func (s *small) Write(p []byte) (int, error) {
	n, err := s.Buffer.Write(p[:min(len(p), s.left)])
	if s.left -= n; n < len(p) {
		err = errors.New("no space left on device")
	}
	return n, err
}

func BenchmarkMetadata(b *testing.B) {
	a := auditor(b, "omitStages: [RequestReceived]\nrules: [{level: Metadata}]", Output{Name: "log", Mode: Blocking, Send: func(context.Context, [][]byte) error { return nil }})
	b.ReportAllocs()
	for b.Loop() {
		one(a)
	}
}
