package apiserver

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/streaming/pkg/httpstream"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

// soon is how long one input may take, however slow the machine is.
const soon = 20 * time.Second

// timely fails a test that has taken too long; call it deferred.
func timely(t *testing.T, began time.Time) {
	if took := time.Since(began); took > soon {
		t.Errorf("it took %v", took)
	}
}

// FuzzPatch: a patch of any type, on objects of several shapes, is refused with
// a status or makes an object, the same one each time and the same one by parts
// and as a whole; the old object stays as it was.
func FuzzPatch(f *testing.F) {
	olds := samples()
	names := []string{"account", "deployment", "map", "pod"}
	kindOf := map[string]*kinds.Kind{"account": kinds.ServiceAccount, "deployment": kinds.Deployment, "map": kinds.ConfigMap, "pod": kinds.Pod}
	for _, o := range olds {
		gvks, _, err := codec.Scheme().ObjectKinds(o)
		if err != nil {
			f.Fatal(err)
		}
		o.GetObjectKind().SetGroupVersionKind(gvks[0])
	}
	patchKinds := []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType}
	for i, p := range []string{
		`{}`, `{"metadata":{"labels":{"a":null,"n":"1"}}}`, `{"metadata":{"$deleteFromPrimitiveList/finalizers":["x/y"]}}`,
		`{"metadata":{"ownerReferences":[{"uid":"1","$patch":"delete"}]}}`, `{"spec":{"containers":[{"name":"d","image":"new"}]}}`,
		`{"spec":{"$setElementOrder/containers":[{"name":"d"},{"name":"c"}],"containers":[{"name":"c","image":"n"}]}}`,
		`{"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"}}}`, `{"spec":{"nodeSelector":{"$patch":"replace","q":"r"}}}`,
		`{"$patch":"replace","metadata":{"name":"a"}}`, `{"data":null}`, `{"metadata":{"managedFields":[{}]}}`, `{"spec":{"containers":[null,1,"x",{"name":null}]}}`,
		`{"spec":{"volumes":[{"$patch":"replace"},{"name":"w"}]}}`, `{"metadata":{"finalizers":null,"$setElementOrder/finalizers":["q"]}}`,
	} {
		f.Add(uint8(i), uint8(1), []byte(p))
		f.Add(uint8(i), uint8(2), []byte(p))
	}
	for i, p := range []string{
		`[]`, `[null]`, `[{"op":"add","path":"/metadata/labels/x","value":"y"}]`, `[{"op":"copy","from":"","path":"/data"}]`, `[{"op":"remove","path":"/spec/containers/-1"}]`,
		`[{"op":"move","from":"/spec","path":"/spec/x"}]`, `[{"op":"test","path":"","value":null}]`, `[{"op":"replace","path":"","value":[]}]`,
		`[{"op":"add","path":"/spec/containers/-","value":{"name":"e"}},{"op":"remove","path":"/spec/containers/0"}]`, `[{"op":"add","path":"/metadata/~2","value":1}]`, `[{"op":1}]`,
	} {
		f.Add(uint8(i), uint8(0), []byte(p))
	}
	f.Fuzz(func(t *testing.T, which, how uint8, data []byte) {
		defer timely(t, time.Now())
		name := names[int(which)%len(names)]
		old, k, typ := olds[name], kindOf[name], patchKinds[int(how)%len(patchKinds)]
		c := &call{ctx: t.Context(), ref: kinds.Ref{Kind: k, Namespace: "d", Name: "a"}, warn: func(string) {}}
		p, err := checkPatch(k, typ, data)
		if err != nil {
			isStatus(t, err)
			return
		}
		before := old.DeepCopyObject()
		one := func() (runtime.Object, error) { return applyPatch(old, k.New(), p, "Warn", c) }
		got, err := one()
		again, errAgain := one()
		if (err == nil) != (errAgain == nil) || err == nil && !equality.Semantic.DeepEqual(got, again) {
			t.Fatalf("%s: first %v %v, then %v %v", typ, got, err, again, errAgain)
		}
		if !reflect.DeepEqual(old, before) {
			t.Fatalf("%s has changed the old object", typ)
		}
		if err != nil {
			isStatus(t, err)
		}
		partsAndWhole(t, old, typ, data)
	})
}

// isStatus: what a client sends is no error of ours.
func isStatus(t *testing.T, err error) {
	t.Helper()
	var st apierrors.APIStatus
	if !errors.As(err, &st) {
		t.Fatalf("%T: %v", err, err)
	}
	if code := st.Status().Code; code < 400 || code >= 500 {
		t.Fatalf("%d: %v", code, err)
	}
}

// partsAndWhole patches by both ways.
func partsAndWhole(t *testing.T, old runtime.Object, typ types.PatchType, data []byte) {
	t.Helper()
	parts, rest, ok := partsOf(old, typ, data)
	if !ok {
		return
	}
	fresh := func() runtime.Object {
		return reflect.New(reflect.TypeOf(old).Elem()).Interface().(runtime.Object)
	}
	want := fresh()
	doc, err := codec.Encode(codec.JSON, old)
	if err != nil {
		t.Fatal(err)
	}
	if doc, err = merge(doc, data, typ, want); err == nil {
		_, err = codec.DecodeBody(codec.JSON, doc, want)
	}
	got := fresh()
	doc, finish, perr := patchParts(old, typ, parts, rest)
	if perr == nil {
		_, perr = codec.DecodeBody(codec.JSON, doc, got)
	}
	if (err == nil) != (perr == nil) {
		t.Fatalf("%s: by parts %v, as a whole %v", typ, perr, err)
	}
	if err != nil {
		return
	}
	finish(got)
	if !equality.Semantic.DeepEqual(got, want) {
		t.Fatalf("%s: by parts %v, as a whole %v", typ, got, want)
	}
}

// FuzzContinueToken: a token that is taken is one that we could have made, and
// names no key beyond the kind.
func FuzzContinueToken(f *testing.F) {
	for _, s := range []string{token{Rev: 7, Start: "ns/a", At: 1}.encode(), token{Rev: newest, Start: "a"}.encode(), "", "e30", "!", "eyJydiI6MX0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := decodeToken(s)
		if err != nil {
			isStatus(t, err)
			if strings.Contains(err.Error(), "%!") || strings.Contains(err.Error(), "<nil>") {
				t.Fatal(err)
			}
			return
		}
		if back, err := decodeToken(got.encode()); err != nil || back != got {
			t.Fatalf("%+v has become %+v: %v", got, back, err)
		}
		if strings.Contains(got.Start, "..") || got.Rev < newest {
			t.Fatalf("%+v", got)
		}
		got.old(time.Now())
	})
}

// FuzzRequest: whatever a URL is, what it names is one object's key below its
// kind's prefix (CVE-2022-3162), and what it selects by means the same when it
// is written out and read again.
func FuzzRequest(f *testing.F) {
	for _, u := range []string{
		"/api/v1/namespaces/a/pods/b?labelSelector=x%3Dy,z%20in%20(1,2),!w", "/apis/apps/v1/deployments?fieldSelector=metadata.name%3Da", "/api/v1/namespaces/..%2f..%2fsecrets/pods/x",
		"/api/v1/namespaces/a/pods/b/proxy/c%2fd/", "/api/v1/watch/pods", "/api/v1/namespaces/a/finalize", "/apis/a.b/v1/c?watch=1&resourceVersion=0", "/../api", "//api//v1//pods", "/api/v1/nodes/x:1/proxy",
		"/api/v1/pods?fieldSelector=spec.nodeName%21%3Dx,status.phase%3D%3DRunning,a%3D%5C%2C",
		"/api/v1/pods?fieldSelector=%3D%3DX,%3DA0", // the second is the first once written out
	} {
		f.Add("GET", u)
	}
	table := kinds.Builtin()
	pod := &corev1.Pod{}
	pod.Labels = map[string]string{"x": "y", "z": "1"}
	f.Fuzz(func(t *testing.T, method, raw string) {
		defer timely(t, time.Now())
		u, err := url.ParseRequestURI(raw)
		if err != nil {
			return
		}
		in := parse(&http.Request{Method: method, URL: u, Header: http.Header{}})
		if !in.resource {
			return
		}
		in.attributes(nil)
		in.longRunning()
		if k := table.ByResource(in.gvr); k != nil && k.Stored() && segment(in.ns) && segment(in.name) {
			key := k.KeyPrefix(in.ns) + in.name
			if !strings.HasPrefix(key, k.KeyPrefix("")) || path.Clean(key) != strings.TrimSuffix(key, "/") {
				t.Fatalf("%s leads to %s", raw, key)
			}
		}
		if in.labels != nil && in.labelErr == nil {
			back, err := labels.Parse(in.labels.String())
			if err != nil || back.String() != in.labels.String() || back.Matches(labels.Set(pod.Labels)) != in.labels.Matches(labels.Set(pod.Labels)) {
				t.Fatalf("%q has become %q: %v", in.labels, back, err)
			}
		}
		if in.fields != nil && in.fieldErr == nil {
			back, err := fields.ParseSelector(in.fields.String())
			set := fields.Set{"metadata.name": "a", "spec.nodeName": ""}
			if err != nil || !slices.Equal(asked(back), asked(in.fields)) || back.Matches(set) != in.fields.Matches(set) {
				t.Fatalf("%q has become %q: %v", in.fields, back, err)
			}
		}
		_, _ = listOptions(u.Query())
	})
}

// asked is what a selector asks for, sorted: the library orders clauses by how
// they were written, and one can be written in two ways.
func asked(s fields.Selector) []string {
	var out []string
	for _, r := range s.Requirements() {
		out = append(out, r.Field+" "+string(r.Operator)+" "+r.Value)
	}
	slices.Sort(out)
	return out
}

// wire is a connection on which everything has arrived already.
type wire struct {
	io.Reader
	written int
}

func (w *wire) Write(p []byte) (int, error)    { w.written += len(p); return len(p), nil }
func (*wire) Close() error                     { return nil }
func (*wire) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*wire) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (*wire) SetDeadline(time.Time) error      { return nil }
func (*wire) SetReadDeadline(time.Time) error  { return nil }
func (*wire) SetWriteDeadline(time.Time) error { return nil }

// hijacked is a response whose connection is w.
type hijacked struct {
	*httptest.ResponseRecorder
	w *wire
}

func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.w, bufio.NewReadWriter(bufio.NewReaderSize(bytes.NewReader(nil), 16), bufio.NewWriter(h.w)), nil
}

// sink counts what it is given.
type sink struct {
	httpstream.Stream
	got    int
	closed bool
}

func (s *sink) Write(p []byte) (int, error) { s.got += len(p); return len(p), nil }
func (s *sink) Close() error                { s.closed = true; return nil }

// FuzzWebSocket: frames of a client of exec or port-forward, as bytes. They
// reach no other stream than the two that a client writes to, none is invented,
// and the reading ends.
func FuzzWebSocket(f *testing.F) {
	frame := func(head byte, payload ...byte) []byte { // masked by zeroes
		return append([]byte{head, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
	}
	f.Add(frame(0x82, stdin, 'h', 'i'))
	f.Add(slices.Concat(frame(0x82, resize, '{', '}'), frame(0x82), frame(0x82, closing, stdin)))
	f.Add(slices.Concat(frame(0x02, stdin), frame(0x00, 'x'), frame(0x89), frame(0x80, 'y')))
	f.Add(frame(0x82, stderr, 'x'))
	f.Add(frame(0x88, 3, 232))
	f.Add(binary.BigEndian.AppendUint64([]byte{0x82, 0xff}, 1<<62))
	f.Fuzz(func(t *testing.T, data []byte) {
		defer timely(t, time.Now())
		accept := func() *messages {
			r := httptest.NewRequest("GET", "/", nil)
			for k, v := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg=="} {
				r.Header.Set(k, v)
			}
			up := websocket.Upgrader{ReadBufferSize: wsBuffer, WriteBufferSize: wsBuffer}
			ws, err := up.Upgrade(hijacked{httptest.NewRecorder(), &wire{Reader: bytes.NewReader(data)}}, r, nil)
			if err != nil {
				t.Fatal(err)
			}
			return &messages{Conn: ws}
		}
		in, size, out := &sink{}, &sink{}, &sink{}
		open := [resize + 1]httpstream.Stream{stdin: in, stdout: out, errorChannel: out, resize: size}
		if err := accept().dispatch(open); err == nil {
			t.Fatal("it has not ended")
		}
		if out.got > 0 || out.closed || size.closed || in.got+size.got > len(data) {
			t.Fatalf("%d bytes in, %d to the input, %d to the size, %d to an output", len(data), in.got, size.got, out.got)
		}
		n, err := io.Copy(io.Discard, accept())
		if n > int64(len(data)) || err == nil && n > 0 && n == int64(len(data)) {
			t.Fatalf("%d bytes out of %d: %v", n, len(data), err)
		}
	})
}
