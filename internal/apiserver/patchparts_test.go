package apiserver

import (
	"reflect"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/codec"
)

func samples() map[string]runtime.Object {
	one := int32(1)
	meta := metav1.ObjectMeta{Name: "a", Namespace: "d", UID: "u", ResourceVersion: "7", Labels: map[string]string{"a": "b", "c": "d"},
		Finalizers: []string{"x/y"}, OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "1"}}}
	template := corev1.PodSpec{NodeName: "n", NodeSelector: map[string]string{"k": "v"},
		Containers: []corev1.Container{{Name: "c", Image: "i", Env: []corev1.EnvVar{{Name: "E", Value: "1"}}}, {Name: "d", Image: "j"}},
		Volumes:    []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}}
	pod := &corev1.Pod{ObjectMeta: meta, Spec: template, Status: corev1.PodStatus{Phase: corev1.PodRunning,
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}}}
	pod.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	deployment := &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: &one, Template: corev1.PodTemplateSpec{Spec: template},
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{}}}}
	account := &corev1.ServiceAccount{ObjectMeta: meta, Secrets: []corev1.ObjectReference{{Name: "s"}}}
	return map[string]runtime.Object{"pod": pod, "deployment": deployment, "account": account, "map": &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"k": "v"}}}
}

// TestPartsAreTheSame: patching parts gives what patching the whole gives, or
// fails as that does.
func TestPartsAreTheSame(t *testing.T) {
	covered := 0
	for _, patch := range []string{
		`{}`, `{"metadata":{"labels":{"a":null,"n":"1"}}}`, `{"metadata":{"labels":null}}`, `{"metadata":{"finalizers":["z/z"]}}`,
		`{"metadata":{"$deleteFromPrimitiveList/finalizers":["x/y"]}}`, `{"metadata":{"ownerReferences":[{"uid":"1","$patch":"delete"}]}}`,
		`{"metadata":{"ownerReferences":[{"uid":"2","name":"q","kind":"Pod","apiVersion":"v1"}]}}`, `{"metadata":null}`, `{"metadata":[]}`, `{"metadata":1}`,
		`{"spec":{"containers":[{"name":"d","image":"new"}]}}`, `{"spec":{"template":{"spec":{"containers":[{"name":"d","image":"new"}]}}}}`,
		`{"spec":{"volumes":[{"name":"v","$patch":"replace","hostPath":{"path":"/"}}]}}`, `{"spec":{"$setElementOrder/containers":[{"name":"d"},{"name":"c"}],"containers":[{"name":"c","image":"n"}]}}`,
		`{"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"}}}`, `{"spec":{"strategy":{"type":"Recreate","rollingUpdate":null}}}`, `{"spec":{"nodeSelector":{"$patch":"replace","q":"r"}}}`,
		`{"spec":null}`, `{"spec":{"replicas":null}}`, `{"spec":{"replicas":"x"}}`, `{"spec":{"containers":"x"}}`, `{"spec":{"nope":1},"huh":{"a":1}}`,
		`{"status":{"phase":"Failed","conditions":[{"type":"Ready","status":"False"}]}}`, `{"status":{"conditions":[{"type":"Ready","$patch":"delete"}]}}`, `{"status":{}}`,
		`{"$patch":"replace","metadata":{"name":"a"}}`, `{"$patch":"delete"}`, `{"secrets":[{"name":"t"}]}`, `{"data":{"k":null,"l":"m"},"metadata":{"labels":{"x":"y"}}}`, `{"data":null}`,
		`{"kind":"Pod","apiVersion":"v1","metadata":{"labels":{"a":"z"}}}`, `{"kind":"Other","metadata":{}}`, `{"kind":1}`, `{"Metadata":{"labels":{"q":"r"}}}`, `{"metadata":{"Labels":{"q":"r"}}}`,
		`{"metadata":{"resourceVersion":"9","uid":"other"}}`, `{"metadata":{"annotations":{"a":"<&>\u2028"}}}`,
	} {
		for name, old := range samples() {
			for _, kind := range []types.PatchType{types.MergePatchType, types.StrategicMergePatchType} {
				parts, rest, ok := partsOf(old, kind, []byte(patch))
				if !ok {
					continue
				}
				covered++
				fresh := func() runtime.Object {
					return reflect.New(reflect.TypeOf(old).Elem()).Interface().(runtime.Object)
				}
				before := old.DeepCopyObject()
				want, wantUnknown, wantErr := func() (runtime.Object, []error, error) {
					doc, err := codec.Encode(codec.JSON, old)
					if err != nil {
						t.Fatal(err)
					}
					into := fresh()
					if doc, err = merge(doc, []byte(patch), kind, into); err != nil {
						return nil, nil, err
					}
					unknown, err := codec.DecodeBody(codec.JSON, doc, into)
					return into, unknown, err
				}()
				got, gotUnknown, gotErr := func() (runtime.Object, []error, error) {
					doc, finish, err := patchParts(old, kind, parts, rest)
					if err != nil {
						return nil, nil, err
					}
					into := fresh()
					unknown, err := codec.DecodeBody(codec.JSON, doc, into)
					if err == nil {
						finish(into)
					}
					return into, unknown, err
				}()
				if (gotErr == nil) != (wantErr == nil) || len(gotUnknown) != len(wantUnknown) {
					t.Errorf("%s %s %s: %v %v, want %v %v", name, kind, patch, gotErr, gotUnknown, wantErr, wantUnknown)
					continue
				}
				if !reflect.DeepEqual(old, before) {
					t.Fatalf("%s %s %s: changed the old object", name, kind, patch)
				}
				if gotErr != nil {
					continue
				}
				a, err := codec.Encode(codec.JSON, got)
				if err != nil {
					t.Fatal(err)
				}
				if b, err := codec.Encode(codec.JSON, want); err != nil || string(a) != string(b) {
					t.Errorf("%s %s %s:\n%s\n%s %v", name, kind, patch, a, b, err)
				}
			}
		}
	}
	if covered < 150 {
		t.Errorf("only %d patches went by parts", covered)
	}
}
