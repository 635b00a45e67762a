package podrefs

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

// filler sets every field of a value, and notes each reference that it makes:
// the kind by the name of a field on the way, the name from a counter.
type filler struct {
	n    int
	want map[*kinds.Kind][]string
}

func (f *filler) fill(v reflect.Value, path []string) {
	if v.Type() == reflect.TypeFor[metav1.LabelSelector]() || len(path) > 12 {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem(), path)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		f.fill(v.Index(0), path)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				f.fill(v.Field(i), append(slices.Clone(path), v.Type().Field(i).Name))
			}
		}
	case reflect.String:
		f.n++
		v.SetString(fmt.Sprintf("value-%d", f.n))
		if k := kindOf(path); k != nil {
			f.want[k] = append(f.want[k], v.String())
		}
	}
}

// kindOf the object that a string at that path names, or nil.
func kindOf(path []string) *kinds.Kind {
	last, way := path[len(path)-1], strings.Join(path[:len(path)-1], ".")
	switch {
	case last == "SecretName":
		return kinds.Secret
	case last == "ClaimName":
		return kinds.PersistentVolumeClaim
	case last == "ServiceAccountName":
		return kinds.ServiceAccount
	case last != "Name":
		return nil
	}
	for _, end := range []string{"SecretRef", "SecretKeyRef", "Projected.Sources.Secret", "NodePublishSecretRef", "ImagePullSecrets"} {
		if strings.HasSuffix(way, end) || strings.HasSuffix(way, end+".LocalObjectReference") {
			return kinds.Secret
		}
	}
	for _, end := range []string{"ConfigMapRef", "ConfigMapKeyRef", "ConfigMap"} {
		if strings.HasSuffix(way, end+".LocalObjectReference") {
			return kinds.ConfigMap
		}
	}
	if strings.Contains(way, "Secret") || strings.Contains(way, "ConfigMap") && strings.Contains(way, "Reference") {
		panic("what does " + way + "." + last + " name?")
	}
	return nil
}

func check(t *testing.T, what string, pod *corev1.Pod, f *filler, least int) {
	t.Helper()
	n := 0
	for k, names := range f.want {
		for _, name := range names {
			n++
			if !Has(pod, k, name) {
				t.Errorf("%s: %s %s is named, but not found", what, k, name)
			}
		}
	}
	if n < least {
		t.Errorf("%s: only %d references were made", what, n)
	}
}

// Everything that a pod can name is found, in every sort of container and
// volume that the API types have, also those to come.
func TestAllIsComplete(t *testing.T) {
	pod := &corev1.Pod{}
	f := &filler{want: map[*kinds.Kind][]string{}}
	spec := reflect.ValueOf(&pod.Spec).Elem()
	for i := range spec.NumField() {
		if name := spec.Type().Field(i).Name; name != "Volumes" {
			f.fill(spec.Field(i), []string{name})
		}
	}
	check(t, "spec", pod, f, 4*3+2)
	sources := reflect.TypeFor[corev1.VolumeSource]()
	for i := range sources.NumField() {
		pod, f := &corev1.Pod{Spec: corev1.PodSpec{Volumes: make([]corev1.Volume, 1)}}, &filler{want: map[*kinds.Kind][]string{}}
		name := sources.Field(i).Name
		if name == "Ephemeral" {
			continue // names its claim after the pod
		}
		if name == "Projected" {
			continue // one source at a time, below
		}
		f.fill(reflect.ValueOf(&pod.Spec.Volumes[0].VolumeSource).Elem().Field(i), []string{"Volumes", name})
		check(t, name, pod, f, 0)
	}
	projections := reflect.TypeFor[corev1.VolumeProjection]()
	for i := range projections.NumField() {
		var p corev1.VolumeProjection
		f := &filler{want: map[*kinds.Kind][]string{}}
		f.fill(reflect.ValueOf(&p).Elem().Field(i), []string{"Volumes", "Projected", "Sources", projections.Field(i).Name})
		pod := &corev1.Pod{Spec: corev1.PodSpec{Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{p}}}}}}}
		check(t, "projected "+projections.Field(i).Name, pod, f, 0)
	}
	pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}}}
	if !Has(pod, kinds.PersistentVolumeClaim, "web-v") {
		t.Error("the claim of an ephemeral volume is not found")
	}
}

func TestAllStops(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{ServiceAccountName: "a", ImagePullSecrets: []corev1.LocalObjectReference{{Name: "b"}, {Name: "c"}}}}
	n := 0
	for range All(pod) {
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Errorf("saw %d", n)
	}
	for k, name := range All(&corev1.Pod{Spec: corev1.PodSpec{ImagePullSecrets: []corev1.LocalObjectReference{{}}}}) {
		t.Errorf("%s %q is nothing's name", k, name)
	}
}

// Every reference to a secret in a volume is found, but those that are only
// for the controller.
func TestVolumeSecrets(t *testing.T) {
	sources := reflect.TypeFor[corev1.PersistentVolumeSource]()
	for i := range sources.NumField() {
		pv := &corev1.PersistentVolume{}
		src := reflect.ValueOf(&pv.Spec.PersistentVolumeSource).Elem().Field(i)
		src.Set(reflect.New(src.Type().Elem()))
		var want []string
		for j := range src.Elem().NumField() {
			f, name := src.Elem().Field(j), src.Elem().Type().Field(j).Name
			secret := name + "-secret"
			switch f.Interface().(type) {
			case *corev1.SecretReference:
				f.Set(reflect.ValueOf(&corev1.SecretReference{Name: secret}))
			case *corev1.ObjectReference:
				f.Set(reflect.ValueOf(&corev1.ObjectReference{Name: secret}))
			default:
				if name != "SecretName" {
					continue
				}
				f.SetString(secret)
			}
			if !strings.HasPrefix(name, "Controller") {
				want = append(want, "a/"+secret)
			}
		}
		for range VolumeSecrets(pv) {
			t.Error("an unbound volume names secrets")
		}
		pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "a", Name: "c"}
		var got []string
		for ns, name := range VolumeSecrets(pv) {
			got = append(got, ns+"/"+name)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", sources.Field(i).Name, got, want)
		}
	}
}
