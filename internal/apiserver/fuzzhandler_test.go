package apiserver_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"knarr.dev/knarr/internal/apiserver"
)

// locked is a log that several goroutines write.
type locked struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.String()
}

// FuzzHandler: the whole pipeline, dry, with any body on any of a few URLs. No
// request is our error, each is answered twice alike, and nothing is stored.
func FuzzHandler(f *testing.F) {
	log := &locked{}
	w := newWorld(f, func(c *apiserver.Config) { c.Log = slog.New(slog.NewTextHandler(log, nil)) })
	const deployments = "/apis/apps/v1/namespaces/default/deployments"
	paths := []string{cmURL, cmURL + "/c", podURL, podURL + "/p", podURL + "/p/status", podURL + "/p/eviction", podURL + "/p/binding", deployments, deployments + "/d/scale",
		"/api/v1/namespaces/default/services", "/apis/rbac.authorization.k8s.io/v1/clusterroles", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
		"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies", "/apis/authorization.k8s.io/v1/subjectaccessreviews", "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
		"/apis/resource.k8s.io/v1/resourceslices", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"}
	methods := []string{"POST", "PUT", "PATCH", "DELETE"}
	contents := []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf", jsonPatchType, mergeType, strategicType, "application/apply-patch+yaml"}
	for _, made := range [][2]string{{cmURL, `{"metadata":{"name":"c"},"data":{"a":"b"}}`}, {podURL, `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`},
		{deployments, `{"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`}} {
		r := httptest.NewRequest("POST", made[0], strings.NewReader(made[1]))
		rec := httptest.NewRecorder()
		if w.server.Handler().ServeHTTP(rec, r); rec.Code != http.StatusCreated {
			f.Fatalf("%d %s", rec.Code, rec.Body)
		}
	}
	for i, body := range []string{
		`{"metadata":{"name":"x"},"data":{"a":"b"}}`, `{"data":{"a":null}}`, `[{"op":"add","path":"/data/x","value":"y"}]`, `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"j"}]}}`,
		`apiVersion: v1`, `{"spec":{"replicas":3}}`, `{"spec":{"type":"ExternalName","externalName":"a.b","ports":[{"port":1}]}}`, `{"rules":[{"verbs":["*"]}]}`,
		`{"metadata":{"name":"a.b.c"},"spec":{"group":"b.c","names":{"plural":"a","kind":"A"},"scope":"Namespaced","versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-validations":[{"rule":"true"}]}}}]}}`,
		`{"metadata":{"name":"x"},"spec":{"validations":[{"expression":"object.metadata.name == 'a'"}],"matchConstraints":{"resourceRules":[{"apiGroups":["*"],"apiVersions":["*"],"operations":["*"],"resources":["*"]}]}}}`,
		`{"spec":{"user":"u","resourceAttributes":{"verb":"get"}}}`, `{"spec":{"podSelector":{"matchExpressions":[{"key":"a","operator":"In"}]}}}`, `null`, `{"propagationPolicy":"Orphan"}`,
	} {
		for p := range paths {
			f.Add(uint8(i%2), uint8(p), uint8(i%3), []byte(body))
			f.Add(uint8(2), uint8(p), uint8(3+i%4), []byte(body))
		}
		f.Add(uint8(3), uint8(1), uint8(0), []byte(body))
	}
	rev, err := w.store.Revision(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, path, content uint8, body []byte) {
		began := time.Now()
		ask := func() *httptest.ResponseRecorder {
			r := httptest.NewRequest(methods[int(method)%len(methods)], paths[int(path)%len(paths)]+"?dryRun=All&fieldManager=f", bytes.NewReader(body))
			r.Header.Set("Content-Type", contents[int(content)%len(contents)])
			rec := httptest.NewRecorder()
			w.server.Handler().ServeHTTP(rec, r)
			return rec
		}
		first, second := ask(), ask()
		if first.Code != second.Code || first.Code >= 500 || strings.Contains(log.String(), "panicked") {
			t.Fatalf("%d, then %d: %.2000s\n%.4000s", first.Code, second.Code, first.Body, log)
		}
		if now, err := w.store.Revision(t.Context()); err != nil || now != rev && !strings.HasSuffix(paths[int(path)%len(paths)], "reviews") {
			t.Fatalf("revision %d has become %d: %v", rev, now, err)
		}
		if first.Body.Len() > 2000+20*len(body) && first.Code >= 400 {
			t.Fatalf("%d bytes were answered with %d", len(body), first.Body.Len())
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Fatalf("it took %v", took)
		}
	})
}
