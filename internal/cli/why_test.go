package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/why"
)

// answering is a server that knows a few paths, for who has the token, and the
// kubeconfig that leads to it.
func answering(t *testing.T, paths map[string]string) (kubeconfig string) {
	t.Helper()
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		body, ok := paths[r.URL.Path]
		switch {
		case r.Header.Get("Authorization") != "Bearer mine":
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}`)
		case !ok:
			w.WriteHeader(http.StatusNotFound)
			name := filepath.Base(r.URL.Path)
			fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"things \"%s\" not found","reason":"NotFound","code":404}`, name)
		default:
			fmt.Fprint(w, body)
		}
	}))
	t.Cleanup(srv.Close)
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: me, user: {token: mine}}, {name: nobody, user: {}}]
contexts: [{name: a, context: {cluster: c, user: me, namespace: shop}}, {name: b, context: {cluster: c, user: nobody}}]
current-context: a
`, srv.URL, ca)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const discovery = `{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","items":[{"metadata":{"name":"example.com"},"versions":[{"version":"v1","resources":[
	{"resource":"widgets","responseKind":{"group":"example.com","version":"v1","kind":"Widget"},"scope":"Namespaced","singularResource":"widget","shortNames":["wd"],"verbs":["get","list"]}]}]}]}`

func TestWhy(t *testing.T) {
	t.Setenv("KUBECONFIG", "")
	t.Setenv("HOME", t.TempDir())
	kubeconfig := answering(t, map[string]string{
		"/apis": discovery,
		"/apis/example.com/v1/namespaces/shop/widgets/w": `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"w","namespace":"shop"},"status":{"conditions":[{"type":"Ready","status":"False","reason":"Broken","message":"no\u001b[2Jspring\nknarr: well"}]}}`,
		"/api/v1/namespaces/shop/configmaps/c":           `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","namespace":"shop"}}`,
		"/api/v1/namespaces/other/configmaps/c":          `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","namespace":"other","deletionTimestamp":"2026-01-01T00:00:00Z","finalizers":["example.com/x"]}}`,
		"/api/v1/nodes/n":                                `{"apiVersion":"v1","kind":"Node","metadata":{"name":"n"},"spec":{"unschedulable":true},"status":{"conditions":[{"type":"Ready","status":"True"}]}}`,
	})
	for _, tt := range []struct {
		args string
		code int
		want string // of the output, or of the error
	}{
		{"configmap/c", 0, "nothing is the matter with ConfigMap shop/c\n"},
		{"cm c", 0, "nothing is the matter with ConfigMap shop/c\n"},
		{"ConfigMaps/c -n other", 1, "ConfigMap other/c: it is being deleted, and waits for its finalizers: example.com/x (for "},
		{"no/n", 1, "Node n: it is cordoned, and takes no new pods\n   what helps: `kubectl uncordon n`\n"},
		{"wd/w", 1, "Widget shop/w: its condition Ready is False: Broken: no[2Jspring knarr: well\n"},
		{"widgets.example.com/w -o yaml", 1, "causes:\n- object:\n    kind: Widget\n    name: w\n    namespace: shop\n"},
		{"cm/c -o json", 0, "{\n  \"object\": {\n    \"kind\": \"ConfigMap\",\n    \"namespace\": \"shop\",\n    \"name\": \"c\"\n  },\n  \"healthy\": true,\n  \"causes\": []\n}\n"},
		{"cm/d", 2, `"d" not found`},
		{"gadget/g", 2, `the server doesn't have a resource type "gadget"`},
		{"cm", 2, "give one object as KIND/NAME"},
		{"", 2, "give one object as KIND/NAME"},
		{"cm/a/b", 2, "give one object as KIND/NAME"},
		{"cm/c -o table", 2, "neither json nor yaml"},
		{"cm/c --nope", 2, "unknown flag: --nope"},
		{"cm/c --context b", 2, "Unauthorized"},
		{"cm/c --context z", 2, `context "z" does not exist`},
	} {
		var out bytes.Buffer
		cmd := New()
		cmd.SetOut(&out)
		cmd.SetArgs(append([]string{"why", "--kubeconfig", kubeconfig, "--data-dir", t.TempDir()}, strings.Fields(tt.args)...))
		err := cmd.ExecuteContext(t.Context())
		code := 0
		var e *exit
		if errors.As(err, &e) {
			code = e.code
			if e.err != nil {
				out.WriteString(e.err.Error())
			}
		} else if err != nil {
			t.Errorf("%s: an error without a code: %v", tt.args, err)
		}
		if code != tt.code || !strings.Contains(out.String(), tt.want) {
			t.Errorf("why %s: exit code %d, want %d\n%s\nwant %s", tt.args, code, tt.code, out.String(), tt.want)
		}
	}
}

func TestWhyWithoutServer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","clusters":[{"name":"c","cluster":{"server":"https://%s"}}],"contexts":[{"name":"a","context":{"cluster":"c"}}],"current-context":"a"}`, free.Addr())
	if err := errors.Join(free.Close(), os.WriteFile(file, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	cmd := New()
	cmd.SetArgs([]string{"why", "cm/c", "--kubeconfig", file, "--data-dir", t.TempDir()})
	err = cmd.ExecuteContext(t.Context())
	var e *exit
	if !errors.As(err, &e) || e.code != 2 || !strings.HasPrefix(e.Error(), "no API server answers there; `knarr status`") {
		t.Errorf("%v", err)
	}
}

func TestWhyWithoutKubeconfig(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	a := access{dataDir: t.TempDir()}
	if _, _, err := a.connect(); err == nil || !strings.Contains(err.Error(), "there is no kubeconfig") {
		t.Errorf("%v", err)
	}
}

func TestWhyIsReadAsAChain(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 5, 0, 0, time.UTC)
	e := &explanation{Object: why.Object{Kind: "Pod", Namespace: "a", Name: "b"}, Causes: []why.Link{
		{Object: why.Object{Kind: "Secret", Namespace: "a", Name: "s"}, What: "it does not exist", Remedy: "create it"},
		{Object: why.Object{Kind: "Pod", Namespace: "a", Name: "b"}, What: "it waits", Since: &metav1.Time{Time: now.Add(-3 * time.Minute)}},
	}}
	var out bytes.Buffer
	if err := e.print(&out, "", now); err != nil {
		t.Fatal(err)
	}
	if want := "Secret a/s: it does not exist\n   what helps: create it\nso Pod a/b: it waits (for 3m)\n"; out.String() != want {
		t.Errorf("%s\nwant %s", out.String(), want)
	}
	out.Reset()
	if err := e.print(&out, "json", now); err != nil {
		t.Fatal(err)
	}
	var back explanation
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || len(back.Causes) != 2 || !back.Causes[1].Since.Time.Equal(now.Add(-3*time.Minute)) {
		t.Errorf("%v %s", err, out.String())
	}
}
