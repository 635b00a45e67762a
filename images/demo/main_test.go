package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func get(t *testing.T, h http.Handler, method, path string, header http.Header) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	for k, v := range header {
		r.Header[k] = v
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestAnswers(t *testing.T) {
	h := newApp(who{Pod: "web-1", Namespace: "shop", Node: "n1", PodIP: "10.244.0.2"}).handler()
	w := get(t, h, "GET", "/", nil)
	for _, want := range []string{"web-1", "shop", "n1", "10.244.0.2", "192.0.2.1"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s in %s", want, w.Body)
		}
	}
	w = get(t, h, "GET", "/", http.Header{"Accept": {"application/json"}})
	var got struct {
		Pod, Client string
		Served      int
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Pod != "web-1" || got.Client != "192.0.2.1" || got.Served != 2 {
		t.Errorf("%+v %v", got, err)
	}
	for _, c := range []struct {
		method, path string
		code         int
	}{
		{"GET", "/healthz", 200}, {"GET", "/readyz", 200}, {"POST", "/readyz?ready=x", 400}, {"POST", "/readyz?ready=false", 200}, {"GET", "/readyz", 503},
		{"GET", "/healthz", 200}, {"POST", "/readyz?ready=true", 200}, {"GET", "/readyz", 200}, {"GET", "/nothing", 404}, {"POST", "/", 405},
		{"GET", "/burn", 400}, {"GET", "/burn?ms=-1", 400}, {"GET", "/burn?ms=999999999", 400}, {"GET", "/burn?ms=1", 200},
	} {
		if w := get(t, h, c.method, c.path, nil); w.Code != c.code {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, w.Code, c.code)
		}
	}
}

// TestBounds: what a client sends cannot blow up the answer, and burners are few.
func TestBounds(t *testing.T) {
	a := newApp(who{Pod: "web-1"})
	h := a.handler()
	header := http.Header{}
	for i := range 200 {
		header.Set(fmt.Sprintf("X-%03d", i), strings.Repeat("v", 5000))
	}
	if w := get(t, h, "GET", "/", header); w.Body.Len() > 2*maxHeaders*maxHeaderValue {
		t.Errorf("an answer of %d bytes", w.Body.Len())
	}
	for range maxBurners {
		a.burners <- struct{}{}
	}
	if w := get(t, h, "GET", "/burn?ms=10000", nil); w.Code != http.StatusTooManyRequests {
		t.Errorf("%d", w.Code)
	}
}

func TestAsk(t *testing.T) {
	srv := httptest.NewServer(newApp(who{Pod: "p1"}).handler())
	defer srv.Close()
	var out strings.Builder
	if err := ask([]string{"get", "3", srv.URL}, &out); err != nil || strings.Count(out.String(), "Hello from pod p1\n") != 3 {
		t.Errorf("%v %s", err, out.String())
	}
	out.Reset()
	if err := ask([]string{"lookup", "localhost"}, &out); err != nil || !strings.Contains(out.String(), "127.0.0.1") {
		t.Errorf("%v %s", err, out.String())
	}
	for _, bad := range [][]string{{}, {"x"}, {"get", "0", srv.URL}, {"get", "many", srv.URL}, {"get", "1", "http://127.0.0.1:1/"}} {
		if err := ask(bad, &out); err == nil {
			t.Errorf("%v is fine", bad)
		}
	}
}
