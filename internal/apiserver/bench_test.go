package apiserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// discard is a client that reads everything and keeps nothing.
type discard struct {
	header http.Header
	bytes  int
	code   int
}

func (d *discard) Header() http.Header { return d.header }
func (d *discard) WriteHeader(c int)   { d.code = c }
func (d *discard) Flush()              {}
func (d *discard) Write(p []byte) (int, error) {
	d.bytes += len(p)
	return len(p), nil
}

// fullPod is as large as a running pod's: 3 to 5 KB in JSON.
func fullPod(name string) *corev1.Pod {
	p := testPod(name)
	for i := range 3 {
		c := corev1.Container{Name: fmt.Sprint("c", i), Image: "registry.example.com/team/application:v1.2.3", Args: []string{"--port=8080", "--verbose"}}
		for j := range 8 {
			c.Env = append(c.Env, corev1.EnvVar{Name: fmt.Sprint("VARIABLE_", j), Value: strings.Repeat("v", 20)})
		}
		c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/data"}}
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	p.Spec.Containers = p.Spec.Containers[1:]
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	return p
}

func benchWorld(b *testing.B, pods int) *world {
	w := newWorld(b)
	c := w.server.Client(admin)
	for i := range pods {
		if _, err := c.Create(b.Context(), refOf("pods", ""), fullPod(fmt.Sprintf("pod-%05d", i))); err != nil {
			b.Fatal(err)
		}
	}
	w.must(b, 200, "GET", podURL+"?limit=1", "")
	return w
}

func (w *world) ask(b *testing.B, method, path, body, accept, contentType string) int {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req := httptest.NewRequest(method, path, r)
	req.Header.Set("Accept", accept)
	req.Header.Set("Content-Type", contentType)
	d := &discard{header: http.Header{}}
	w.server.Handler().ServeHTTP(d, req)
	if d.code >= 300 {
		b.Fatalf("%s %s: %d", method, path, d.code)
	}
	return d.bytes
}

const protoType = "application/vnd.kubernetes.protobuf"

func BenchmarkGet(b *testing.B) {
	w := benchWorld(b, 100)
	for name, accept := range map[string]string{"json": "application/json", "protobuf": protoType, "table": tableType} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w.ask(b, "GET", podURL+"/pod-00042", "", accept, "")
			}
		})
	}
}

// BenchmarkList of 1,000 pods.
func BenchmarkList(b *testing.B) {
	w := benchWorld(b, 1000)
	for name, accept := range map[string]string{"json": "application/json", "protobuf": protoType, "table": tableType, "partial": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.SetBytes(int64(w.ask(b, "GET", podURL, "", accept, "")))
			}
		})
	}
}

func BenchmarkWrite(b *testing.B) {
	w := benchWorld(b, 1)
	n := 0
	body, err := json.Marshal(fullPod("NAME"))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("create", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n++
			w.ask(b, "POST", podURL, strings.ReplaceAll(string(body), "NAME", fmt.Sprint("n", n)), "application/json", "application/json")
		}
	})
	b.Run("create in process", func(b *testing.B) {
		b.ReportAllocs()
		c := w.server.Client(admin)
		for b.Loop() {
			n++
			if _, err := c.Create(b.Context(), refOf("pods", ""), fullPod(fmt.Sprint("n", n))); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, tc := range map[string][2]string{
		"merge patch":     {mergeType, `{"metadata":{"labels":{"n":"%d"}}}`},
		"strategic patch": {strategicType, `{"metadata":{"labels":{"n":"%d"}}}`},
		"JSON patch":      {jsonPatchType, `[{"op":"add","path":"/metadata/labels/n","value":"%d"}]`},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				n++
				w.ask(b, "PATCH", podURL+"/pod-00000", fmt.Sprintf(tc[1], n), "application/json", tc[0])
			}
		})
	}
	for name, labels := range map[string]string{"apply": `"a":"%d"`, "apply the same": `"b":"%.0d"`} {
		b.Run(name, func(b *testing.B) {
			config := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"pod-00000","labels":{` + labels + `}},"spec":{"containers":[{"name":"c1","image":"registry.example.com/team/application:v1.2.3","env":[{"name":"VARIABLE_1","value":"vvvvvvvvvvvvvvvvvvvv"}]}]}}`
			b.ReportAllocs()
			for b.Loop() {
				n++
				w.ask(b, "PATCH", podURL+"/pod-00000?fieldManager="+strings.ReplaceAll(name, " ", "-"), fmt.Sprintf(config, n), "application/json", applyType[1])
			}
		})
	}
	b.Run("update", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n++
			pod := fullPod("pod-00000")
			pod.Labels["n"] = fmt.Sprint(n)
			data, err := json.Marshal(pod)
			if err != nil {
				b.Fatal(err)
			}
			w.ask(b, "PUT", podURL+"/pod-00000", string(data), "application/json", "application/json")
		}
	})
}

// fan is a watching client that counts the events it got.
type fan struct {
	discard
	events *atomic.Int64
}

func (f *fan) Write(p []byte) (int, error) {
	f.events.Add(int64(strings.Count(string(p), `{"type":"`)))
	return len(p), nil
}

// BenchmarkWatch: one write, delivered to 500 watchers.
func BenchmarkWatch(b *testing.B) {
	const watchers = 500
	w := benchWorld(b, 1)
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	var events atomic.Int64
	for range watchers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			r := httptest.NewRequestWithContext(ctx, "GET", podURL+"?watch=1&resourceVersion=0", nil)
			w.server.Handler().ServeHTTP(&fan{discard{header: http.Header{}}, &events}, r)
		}()
	}
	for events.Load() < watchers {
		w.ask(b, "GET", podURL+"/pod-00000", "", "", "")
	}
	c := w.server.Client(admin)
	n := int64(1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Patch(ctx, refOf("pods", "pod-00000"), types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{"n":"%d"}}}`, n)); err != nil {
			b.Fatal(err)
		}
		n++
	}
	for events.Load() < n*watchers {
		w.ask(b, "GET", podURL+"/pod-00000", "", "", "")
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*watchers), "ns/delivery")
	cancel()
	wg.Wait()
}

// BenchmarkWatchList is what every informer begins with.
func BenchmarkWatchList(b *testing.B) {
	w := benchWorld(b, 1000)
	for name, accept := range map[string]string{"json": "application/json", "protobuf": protoType} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ctx, cancel := context.WithCancel(b.Context())
				r := httptest.NewRequestWithContext(ctx, "GET", podURL+"?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", nil)
				r.Header.Set("Accept", accept)
				w.server.Handler().ServeHTTP(&untilBookmark{discard{header: http.Header{}}, cancel}, r)
			}
		})
	}
}

// untilBookmark ends the watch with the bookmark.
type untilBookmark struct {
	discard
	stop context.CancelFunc
}

func (u *untilBookmark) Write(p []byte) (int, error) {
	if strings.Contains(string(p[max(0, len(p)-600):]), metav1.InitialEventsAnnotationKey) {
		u.stop()
	}
	return len(p), nil
}
