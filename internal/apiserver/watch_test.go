package apiserver_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"knarr.dev/knarr/internal/apiserver"
	"knarr.dev/knarr/internal/kinds"
	storecache "knarr.dev/knarr/internal/store/cache"
	"knarr.dev/knarr/internal/store/mem"
)

// event of a watch in JSON.
type event struct {
	Type   string
	Object struct {
		Kind     string
		Code     int32
		Reason   string
		Message  string
		Metadata metav1.ObjectMeta
		Data     map[string]string
		Columns  []any            `json:"columnDefinitions"`
		Rows     []map[string]any `json:"rows"`
	}
}

// String is an event in short: type, name and data.
func (e event) String() string {
	s := e.Type + " " + e.Object.Metadata.Name
	if v := e.Object.Data["v"]; v != "" {
		s += " " + v
	}
	return s
}

type watcher struct {
	t      *testing.T
	events chan event
	cancel context.CancelFunc
}

func (w *world) watch(t *testing.T, path string, header ...string) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", w.http.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := w.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 {
		t.Fatalf("watch: %d", resp.StatusCode)
	}
	out := &watcher{t: t, events: make(chan event, 1000), cancel: cancel}
	go func() {
		defer resp.Body.Close()
		defer close(out.events)
		for dec := json.NewDecoder(resp.Body); ; {
			var e event
			if dec.Decode(&e) != nil {
				return
			}
			out.events <- e
		}
	}()
	return out
}

func (w *watcher) next() (event, bool) {
	w.t.Helper()
	select {
	case e, ok := <-w.events:
		return e, ok
	case <-time.After(time.Minute):
		w.t.Fatal("no event came")
	}
	return event{}, false
}

func (w *watcher) expect(want ...string) event {
	w.t.Helper()
	var e event
	for _, s := range want {
		var ok bool
		if e, ok = w.next(); !ok || e.String() != s {
			w.t.Fatalf("got %q (%v), want %q", e, ok, s)
		}
	}
	return e
}

func (w *world) putConfigMap(t *testing.T, name, value, label string) string {
	t.Helper()
	body := fmt.Sprintf(`{"metadata":{"name":%q,"labels":{"l":%q}},"data":{"v":%q}}`, name, label, value)
	a := w.do(t, "PUT", cmURL+"/"+name, body)
	if a.code == 404 {
		a = w.must(t, 201, "POST", cmURL, body)
	}
	rv, _ := a.at("metadata.resourceVersion").(string)
	return rv
}

func TestWatch(t *testing.T) {
	w := newWorld(t)
	first := w.putConfigMap(t, "a", "1", "x")
	second := w.putConfigMap(t, "b", "1", "y")

	anyVersion := w.watch(t, cmURL+"?watch=1&resourceVersion=0")
	unset := w.watch(t, cmURL+"?watch=true")
	from := w.watch(t, cmURL+"?watch=1&resourceVersion="+first)
	newest := w.watch(t, cmURL+"?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion="+second)
	labelled := w.watch(t, cmURL+"?watch=1&labelSelector=l%3Dx")
	fielded := w.watch(t, cmURL+"?watch=1&fieldSelector=metadata.name%3Db")
	everywhere := w.watch(t, "/api/v1/configmaps?watch=1")
	elsewhere := w.watch(t, "/api/v1/namespaces/other/configmaps?watch=1")
	for _, all := range []*watcher{anyVersion, unset, everywhere} {
		all.expect("ADDED a 1", "ADDED b 1")
	}
	from.expect("ADDED b 1")
	labelled.expect("ADDED a 1")
	fielded.expect("ADDED b 1")

	w.putConfigMap(t, "a", "2", "y") // leaves the label's selection
	last := w.putConfigMap(t, "b", "2", "x")
	w.must(t, 200, "DELETE", cmURL+"/b", "")
	w.must(t, 201, "POST", "/api/v1/namespaces/other/configmaps", `{"metadata":{"name":"o"}}`)
	for _, all := range []*watcher{anyVersion, unset, from, newest, everywhere} {
		if all == everywhere {
			all.expect("MODIFIED a 2", "MODIFIED b 2", "DELETED b 2", "ADDED o")
			continue
		}
		e := all.expect("MODIFIED a 2", "MODIFIED b 2", "DELETED b 2")
		if rv, err := strconv.Atoi(e.Object.Metadata.ResourceVersion); err != nil || e.Object.Metadata.ResourceVersion <= last || rv == 0 {
			t.Errorf("a deletion has its own version, not %s", e.Object.Metadata.ResourceVersion)
		}
	}
	labelled.expect("DELETED a 1", "ADDED b 2", "DELETED b 2")
	fielded.expect("MODIFIED b 2", "DELETED b 2")
	elsewhere.expect("ADDED o")
}

func TestWatchList(t *testing.T) {
	w := newWorld(t)
	w.putConfigMap(t, "a", "1", "x")
	w.putConfigMap(t, "b", "1", "x")
	const query = "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
	list := w.must(t, 200, "GET", cmURL, "")
	whole := w.watch(t, cmURL+query)
	e := whole.expect("ADDED a 1", "ADDED b 1", "BOOKMARK ")
	if e.Object.Kind != "ConfigMap" || e.Object.Metadata.Annotations["k8s.io/initial-events-end"] != "true" || e.Object.Metadata.ResourceVersion != list.at("metadata.resourceVersion") {
		t.Errorf("bookmark %+v", e)
	}
	w.putConfigMap(t, "c", "1", "x")
	whole.expect("ADDED c 1")

	partial := w.watch(t, cmURL+query, "Accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")
	e = partial.expect("ADDED a", "ADDED b", "ADDED c", "BOOKMARK ")
	if e.Object.Kind != "PartialObjectMetadata" || e.Object.Metadata.Annotations["k8s.io/initial-events-end"] != "true" {
		t.Errorf("bookmark %+v", e)
	}
	table := w.watch(t, cmURL+query, "Accept", tableType)
	for i, name := range []string{"a", "b", "c"} {
		e, _ := table.next()
		if e.Object.Kind != "Table" || len(e.Object.Rows) != 1 || e.Object.Rows[0]["cells"].([]any)[0] != name || (len(e.Object.Columns) > 0) != (i == 0) {
			t.Errorf("row %d: %+v", i, e)
		}
	}
	if e, _ := table.next(); e.Type != "BOOKMARK" || e.Object.Kind != "Table" || e.Object.Metadata.ResourceVersion == "" {
		t.Errorf("bookmark %+v", e)
	}
}

func TestWatchTooOld(t *testing.T) {
	w := newWorldWith(t, storecache.Config{Window: 4})
	first := w.putConfigMap(t, "a", "0", "x")
	for i := range 20 {
		w.putConfigMap(t, "a", strconv.Itoa(i+1), "x")
	}
	w.must(t, 200, "GET", cmURL, "") // waits until the cache has seen them all
	e, _ := w.watch(t, cmURL+"?watch=1&resourceVersion="+first).next()
	if e.Type != "ERROR" || e.Object.Kind != "Status" || e.Object.Code != 410 || e.Object.Reason != "Expired" || !strings.Contains(e.Object.Message, "too old resource version: "+first+" (") {
		t.Errorf("%+v", e)
	}
}

func TestWatchEnds(t *testing.T) {
	w := newWorld(t)
	w.putConfigMap(t, "a", "1", "x")
	short := w.watch(t, cmURL+"?watch=1&timeoutSeconds=1&allowWatchBookmarks=true")
	e := short.expect("ADDED a 1", "BOOKMARK ")
	if e.Object.Metadata.Annotations["k8s.io/initial-events-end"] != "true" {
		t.Errorf("the present objects do not end: %+v", e)
	}
	if e = short.expect("BOOKMARK "); e.Object.Metadata.Annotations != nil {
		t.Errorf("they end twice: %+v", e)
	}
	if e.Object.Metadata.ResourceVersion == "" {
		t.Errorf("%+v", e)
	}
	if _, more := short.next(); more {
		t.Error("the watch goes on")
	}
}

// streamed is a ResponseWriter whose lines can be read while it is written.
type streamed struct {
	header http.Header
	lines  chan string
	part   string
}

func (s *streamed) Header() http.Header { return s.header }
func (s *streamed) WriteHeader(int)     {}
func (s *streamed) Flush()              {}
func (s *streamed) Write(p []byte) (int, error) {
	s.part += string(p)
	for sc := bufio.NewScanner(strings.NewReader(s.part)); sc.Scan(); {
		s.lines <- sc.Text()
	}
	s.part = ""
	return len(p), nil
}

// TestBookmarks: once a minute, on a quiet watch and on one in which much
// happens that does not match; and ages in tables that move.
func TestBookmarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		table := kinds.Builtin()
		s := mem.New()
		c, err := storecache.New(storecache.Config{Store: s, Kinds: table.All(), Decoded: table.All()})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		<-c.Ready()
		srv, err := apiserver.New(apiserver.Config{Kinds: table, Store: s, Cache: c, Authn: asAdmin{}, Authz: allowAll{}})
		if err != nil {
			t.Fatal(err)
		}
		watch := func(query string, header ...string) *streamed {
			r := httptest.NewRequestWithContext(ctx, "GET", cmURL+"?watch=1&resourceVersion=1"+query, nil)
			for i := 0; i+1 < len(header); i += 2 {
				r.Header.Set(header[i], header[i+1])
			}
			out := &streamed{header: http.Header{}, lines: make(chan string, 1000)}
			go srv.Handler().ServeHTTP(out, r)
			return out
		}
		quiet := watch("&allowWatchBookmarks=true")
		none := watch("")
		busy := watch("&allowWatchBookmarks=true&labelSelector=no%3Dbody")
		ages := watch("", "Accept", tableType)
		synctest.Wait()
		client := srv.Client(admin)
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default"}}
		if _, err := client.Create(ctx, refOf("configmaps", ""), cm); err != nil {
			t.Fatal(err)
		}
		for i := range 15 { // five minutes
			<-time.After(20 * time.Second)
			if _, err := client.Patch(ctx, refOf("configmaps", "a"), types.MergePatchType, fmt.Appendf(nil, `{"data":{"v":"%d"}}`, i)); err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(time.Second)
		count := func(s *streamed) (events, bookmarks int, last string) {
			for {
				select {
				case l := <-s.lines:
					last = l
					if strings.Contains(l, `"BOOKMARK"`) {
						bookmarks++
					} else if l != "" {
						events++
					}
				default:
					return events, bookmarks, last
				}
			}
		}
		if e, b, _ := count(quiet); e != 16 || b < 4 || b > 5 {
			t.Errorf("all: %d events, %d bookmarks", e, b)
		}
		if e, b, _ := count(none); e != 16 || b != 0 {
			t.Errorf("without bookmarks: %d events, %d bookmarks", e, b)
		}
		if e, b, last := count(busy); e != 0 || b < 4 || b > 5 || strings.Contains(last, `"resourceVersion":"1"`) {
			t.Errorf("nothing matches: %d events, %d bookmarks, last %s", e, b, last)
		}
		if _, _, last := count(ages); !strings.Contains(last, `"5m`) {
			t.Errorf("the age stands still: %s", last)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestProtobufClient: an unmodified client that prefers protobuf.
func TestProtobufClient(t *testing.T) {
	w := newWorld(t)
	client := kubernetes.NewForConfigOrDie(&rest.Config{Host: w.http.URL, QPS: 1e6, Burst: 1e6,
		ContentConfig: rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf", AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json"}})
	ctx := t.Context()
	pods := client.CoreV1().Pods("default")
	watch, err := pods.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	made, err := pods.Create(ctx, testPod("a"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e := <-watch.ResultChan()
	if pod, ok := e.Object.(*corev1.Pod); !ok || e.Type != "ADDED" || pod.UID != made.UID || pod.ResourceVersion != made.ResourceVersion {
		t.Errorf("%v", e)
	}
	list, err := pods.List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil || len(list.Items) != 1 || list.Items[0].ResourceVersion != made.ResourceVersion {
		t.Errorf("%v %v", list, err)
	}
	zero := int64(0)
	err = pods.Delete(ctx, "a", metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &made.UID}})
	if err != nil {
		t.Fatal(err)
	}
	if e := <-watch.ResultChan(); e.Type != "DELETED" {
		t.Errorf("%v", e)
	}
	if err := pods.Delete(ctx, "a", metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("%v", err)
	}
}
