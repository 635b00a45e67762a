package apiserver_test

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/codec"
)

// TestNoPoison: what only a protobuf body can say, an object that JSON cannot,
// is not let in, or is not stored so; else nobody could list its neighbours.
func TestNoPoison(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	named := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name, Namespace: "default"} }
	owned := named("owned")
	owned.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m", Operation: "Update", APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: []byte("A")}}}
	far := metav1.Time{Time: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)}
	for _, c := range []struct {
		url  string
		obj  runtime.Object
		code int
	}{
		{"/apis/apps/v1/namespaces/default/controllerrevisions", &appsv1.ControllerRevision{ObjectMeta: named("revision"), Revision: 1, Data: runtime.RawExtension{Raw: []byte("A")}}, 422},
		{"/api/v1/namespaces/default/configmaps", &corev1.ConfigMap{ObjectMeta: owned}, 201},
		{"/api/v1/namespaces/default/configmaps", &corev1.ConfigMap{ObjectMeta: named("text"), Data: map[string]string{"a": "\xff"}}, 201},
		{"/api/v1/namespaces/default/events", &corev1.Event{ObjectMeta: named("far"), InvolvedObject: corev1.ObjectReference{Namespace: "default"}, LastTimestamp: far}, 201},
		{"/apis/events.k8s.io/v1/namespaces/default/events", &eventsv1.Event{ObjectMeta: named("micro"), EventTime: metav1.MicroTime(far), ReportingController: "a/b", ReportingInstance: "x", Action: "a", Reason: "r", Type: "Normal"}, 201},
	} {
		data, err := codec.Encode(codec.Protobuf, c.obj)
		if err != nil {
			t.Fatal(err)
		}
		a := w.do(t, "POST", c.url, string(data), "Content-Type", "application/vnd.kubernetes.protobuf", "Accept", "application/json")
		if a.code != c.code {
			t.Errorf("%T: %d %s", c.obj, a.code, a.raw)
		}
		w.must(t, 200, "GET", c.url, "")
	}
}
