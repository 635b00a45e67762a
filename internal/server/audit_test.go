package server

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/security/audit"
)

// TestWireAudit: from the flags to the file and the webhook, and nothing is
// left behind at the end.
func TestWireAudit(t *testing.T) {
	lists := make(chan auditv1.EventList, 10)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		var l auditv1.EventList
		if err == nil {
			err = json.Unmarshal(data, &l)
		}
		if err != nil || r.Method != http.MethodPost || r.Header.Get("Authorization") != "Bearer t" {
			t.Errorf("%s %v: %v", r.Method, r.Header, err)
		}
		lists <- l
	}))
	defer hook.Close()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c := DefaultAudit()
	c.Policy = write("policy", "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n")
	c.Log.Path = filepath.Join(dir, "logs", "audit.log")
	c.Webhook = write("hook", fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n"+
		"clusters: [{name: c, cluster: {server: %q}}]\nusers: [{name: u, user: {token: t}}]\n", hook.URL))
	if err := c.complete(); err != nil {
		t.Fatal(err)
	}
	s := &control{cfg: &Config{Audit: c}, log: slog.New(slog.DiscardHandler)}
	if err := s.wireAudit(); err != nil {
		t.Fatal(err)
	}
	if s.tracer() != nil {
		t.Error("there are spans that nobody wants")
	}
	stop := s.outlast(t.Context())
	r := s.audit.New("")
	if err := r.Received(authorizer.AttributesRecord{Verb: "get", Path: "/version"}, audit.Request{At: time.Now(), URI: "/version"}); err != nil {
		t.Fatal(err)
	}
	r.Started(200)
	r.Completed()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	stages := map[auditv1.Stage]string{} // the end may cut batches
	for len(lists) > 0 {
		l := <-lists
		if l.Kind != "EventList" {
			t.Errorf("%+v", l)
		}
		for _, e := range l.Items {
			stages[e.Stage] = string(e.AuditID)
		}
	}
	if id := r.ID(); id == "" || len(stages) != 2 || stages[auditv1.StageRequestReceived] != id || stages[auditv1.StageResponseComplete] != id {
		t.Errorf("%s: %v", id, stages)
	}
	data, err := os.ReadFile(c.Log.Path)
	if err != nil || strings.Count(string(data), "\n") != 2 || !strings.HasPrefix(string(data), `{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata",`) {
		t.Errorf("%v %s", err, data)
	}
}
