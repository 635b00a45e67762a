package ownership

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

// orders are all orders of all parts of the letters.
func orders(letters string) [][]string {
	out := [][]string{{}}
	for i, c := range letters {
		for _, rest := range orders(letters[:i] + letters[i+1:]) {
			out = append(out, append([]string{string(c)}, rest...))
		}
	}
	return out
}

// Merged lists have the library's order, whatever moves, comes and stays.
func TestMergedOrderIsThatOfTheLibrary(t *testing.T) {
	f := New(kinds.Builtin().All(), kinds.Builtin().ByGVK)
	typ := f.typer().of(reflect.TypeOf(kinds.Pod.New()).Elem())
	object := func(list []string) map[string]any {
		out := []any{}
		for _, s := range list {
			out = append(out, s)
		}
		return map[string]any{"metadata": map[string]any{"finalizers": out}}
	}
	for _, left := range orders("abcd") {
		l, err := typ.FromUnstructured(object(left))
		if err != nil {
			t.Fatal(err)
		}
		for _, right := range orders("abcxy") {
			r, err := typ.FromUnstructured(object(right))
			if err != nil {
				t.Fatal(err)
			}
			merged, err := l.Merge(r)
			if err != nil {
				t.Fatal(err)
			}
			want, _, _ := unstructured.NestedStringSlice(merged.AsValue().Unstructured().(map[string]any), "metadata", "finalizers")
			got := []string{}
			for _, p := range mergedOrder(left, right) {
				if p.right >= 0 {
					got = append(got, right[p.right])
				} else {
					got = append(got, left[p.left])
				}
				if p.left >= 0 && p.right >= 0 && left[p.left] != right[p.right] {
					t.Fatalf("%v and %v: %v", left, right, p)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("%v and %v: %v, the library: %v", left, right, got, want)
			}
		}
	}
}

// step of a history: a configuration, or what an update leaves.
type step struct {
	manager string
	body    string // without apiVersion, kind and name
	update  bool
}

const web = `"spec":{"selector":{"app":"web"},"ports":[{"name":"a","port":80},{"name":"b","port":80,"protocol":"UDP"}]}`

// The usual cases need no library; the last step is compared.
var usual = []struct {
	name   string
	kind   *kinds.Kind
	steps  []step
	direct bool
}{
	{"create", kinds.Service, []step{{"m", web, false}}, true},
	{"again", kinds.Service, []step{{"m", web, false}, {"m", web, false}}, true},
	{"another value", kinds.ConfigMap, []step{{"m", `"data":{"a":"1","b":"2"}`, false}, {"m", `"data":{"a":"3","b":"2"}`, false}}, true},
	{"a key less, one more", kinds.ConfigMap, []step{{"m", `"data":{"a":"1","b":"2"}`, false}, {"m", `"data":{"a":"1","c":"2"}`, false}}, true},
	{"the last key goes with the map", kinds.ConfigMap, []step{{"m", `"data":{"a":"1"}`, false}, {"m", `"immutable":true`, false}}, true},
	{"a key that another owns stays", kinds.ConfigMap, []step{{"m", `"data":{"a":"1","b":"2"}`, false}, {"n", `"data":{"a":"1"}`, false}, {"m", `"data":{"b":"2"}`, false}}, true},
	{"the same value, by another", kinds.ConfigMap, []step{{"m", `"data":{"a":"1"}`, false}, {"n", `"data":{"a":"1"}`, false}}, true},
	{"a port less", kinds.Service, []step{{"m", web, false}, {"m", `"spec":{"selector":{"app":"web"},"ports":[{"name":"a","port":80}]}`, false}}, true},
	{"a port that somebody has changed", kinds.Service, []step{{"m", web, false}, {"u", `"spec":{"type":"ClusterIP","selector":{"app":"web"},"ports":[{"name":"a","port":80,"nodePort":31000},{"name":"b","port":80,"protocol":"UDP","nodePort":31001}]}`, true},
		{"m", `"spec":{"selector":{"app":"web"},"ports":[{"name":"a","port":80}]}`, false}}, true},
	{"ports in another order", kinds.Service, []step{{"m", web, false}, {"n", `"spec":{"ports":[{"name":"c","port":81},{"name":"b","port":80,"protocol":"UDP"}]}`, false}, {"m", `"spec":{"selector":{"app":"web"},"ports":[{"name":"b","port":80,"protocol":"UDP"},{"name":"a","port":80}]}`, false}}, true},
	{"a struct with defaults goes", kinds.Pod, []step{{"m", `"spec":{"containers":[{"name":"c","image":"i","livenessProbe":{"exec":{"command":["x"]}}}]}`, false}, {"m", `"spec":{"containers":[{"name":"c","image":"i"}]}`, false}}, true},
	{"values that are not kept as given", kinds.Pod, []step{{"m", `"spec":{"hostNetwork":false,"containers":[{"name":"c","image":"i","stdin":false,"resources":{"limits":{"cpu":"0.5","memory":1024}}}],"tolerations":[{"key":"k","value":""}]}`, false},
		{"m", `"spec":{"hostNetwork":false,"containers":[{"name":"c","image":"i","stdin":false,"resources":{"limits":{"cpu":"0.5","memory":1024}}}],"tolerations":[{"key":"k","value":""}]}`, false}}, true},
	{"what typed clients send", kinds.Deployment, []step{{"m", `"metadata":{"name":"n","creationTimestamp":null},"spec":{"strategy":{},"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"creationTimestamp":null,"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","resources":{}}]}}},"status":{}`, false},
		{"m", `"metadata":{"name":"n","creationTimestamp":null},"spec":{"replicas":2,"strategy":{},"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"creationTimestamp":null,"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"j","resources":{}}]}}},"status":{}`, false}}, true},
	{"a set", kinds.ConfigMap, []step{{"m", `"metadata":{"name":"n","finalizers":["x/a","x/b"]}`, false}, {"n", `"metadata":{"name":"n","finalizers":["x/c"]}`, false}, {"m", `"metadata":{"name":"n","finalizers":["x/b"]}`, false}}, true},
	{"atomic lists", kinds.ClusterRole, []step{{"m", `"rules":[{"verbs":["get"],"resources":["pods"],"apiGroups":[""]}]`, false}, {"m", `"rules":[{"verbs":["get","list"],"resources":["pods"],"apiGroups":[""]}]`, false}}, true},

	{"a conflict", kinds.ConfigMap, []step{{"m", `"data":{"a":"1"}`, false}, {"n", `"data":{"a":"2"}`, false}}, false},
	{"an unknown field", kinds.ConfigMap, []step{{"m", `"date":{"a":"1"}`, false}}, false},
	{"a wrong type", kinds.ConfigMap, []step{{"m", `"immutable":"yes"`, false}}, false},
	{"too large", kinds.Service, []step{{"m", `"spec":{"ports":[{"port":4294967376}]}`, false}}, false},
	{"duplicates", kinds.Service, []step{{"m", `"spec":{"ports":[{"port":80},{"port":80,"protocol":"TCP"}]}`, false}}, false},
	{"the last port goes, the list has another owner", kinds.Service, []step{{"u", `"spec":{"ports":[{"port":80,"protocol":"TCP"}]}`, true}, {"m", `"spec":{"ports":[{"port":81}]}`, false}, {"u", `"spec":{"ports":[{"port":81,"protocol":"TCP"}]}`, true}, {"m", `"spec":{"clusterIP":"None"}`, false}}, false},
	{"the annotation of kubectl", kinds.ConfigMap, []step{{"u", `"metadata":{"name":"n","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}"}}`, true}, {"kubectl", `"data":{"a":"2"}`, false}}, false},
	{"managed fields", kinds.ConfigMap, []step{{"m", `"metadata":{"name":"n","managedFields":[]}`, false}}, false},
}

func TestApplyOfUsualCases(t *testing.T) {
	f := New(kinds.Builtin().All(), kinds.Builtin().ByGVK)
	for _, tc := range usual {
		t.Run(tc.name, func(t *testing.T) {
			var live kinds.Object
			for i, s := range tc.steps {
				w := Write{Kind: tc.kind, Manager: s.manager, Now: time.Unix(int64(1000+i), 0)}
				text := fmt.Sprintf(`{"apiVersion":%q,"kind":%q,%s}`, tc.kind.GVK.GroupVersion(), tc.kind.GVK.Kind, s.body)
				config, _, err := codec.DecodeMap(codec.JSON, []byte(text))
				if err != nil {
					t.Fatal(err)
				}
				if s.update {
					obj := tc.kind.New()
					if _, err := codec.DecodeBody(codec.JSON, []byte(text), obj); err != nil {
						t.Fatal(err)
					}
					if err := f.updateByLibrary(t.Context(), w, live, obj); err != nil {
						t.Fatal(err)
					}
					live = obj
					continue
				}
				quick, foreign := f.apply(w, live, config)
				want, err := f.applyByLibrary(t.Context(), w, live, &unstructured.Unstructured{Object: runtime.DeepCopyJSON(config)}, false)
				if i < len(tc.steps)-1 && err != nil {
					t.Fatal(err)
				}
				if i == len(tc.steps)-1 && (foreign == nil) != tc.direct {
					t.Errorf("without the library: %v; the library says %v", foreign, err)
				}
				if foreign == nil {
					compareObjects(t, quick, want)
				}
				if want != nil {
					live = roundTrip(t, want)
				}
			}
		})
	}
}

func compareObjects(t *testing.T, got, want kinds.Object) {
	t.Helper()
	if a, b := show(got.GetManagedFields()), show(want.GetManagedFields()); a != b {
		t.Error(apart(a, b))
	}
	if a, b := asJSON(t, got), asJSON(t, want); a != b {
		t.Error(apart(a, b))
	}
}

// roundTrip is obj as the store has it, with a time of creation.
func roundTrip(t *testing.T, obj kinds.Object) kinds.Object {
	t.Helper()
	data, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	out := reflect.New(reflect.TypeOf(obj).Elem()).Interface().(kinds.Object)
	if err := json.Unmarshal(data, out); err != nil {
		t.Fatal(err)
	}
	out.SetUID("u")
	out.SetCreationTimestamp(*stamp(time.Unix(900, 0)))
	return out
}
