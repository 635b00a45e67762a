package kinds

import (
	"fmt"
	"reflect"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/randfill"
)

func TestTableIsComplete(t *testing.T) {
	prefixes := map[string]string{}
	for _, k := range Builtin().All() {
		t.Run(k.String(), func(t *testing.T) {
			if k.Measured { // as metrics-server, which has no other names for them: pods and nodes are others'
				if k.New == nil || k.NewList == nil || k.Singular != "" || !reflect.DeepEqual(k.Verbs, []string{"get", "list"}) {
					t.Errorf("%+v", k)
				}
				return
			}
			if k.Resource == "" || k.Resource != strings.ToLower(k.Resource) || k.Singular == "" || k.GVK.Kind == "" || k.GVK.Version == "" {
				t.Errorf("incomplete names: %+v", k.GVK)
			}
			if k.Validate == nil && k.Stored() {
				t.Error("no validation")
			}
			if !k.Stored() && k.StoredAs == nil {
				if k.NewBody == nil || !reflect.DeepEqual(k.Verbs, []string{"create"}) {
					t.Error("a kind that is only asked for needs a body and the verb create alone")
				}
				return
			}
			if k.StoredAs != nil {
				if k.FromStored == nil || k.ToStored == nil || !k.StoredAs.Stored() {
					t.Error("no conversion to the stored kind")
				}
			} else if prev, twice := prefixes[k.Prefix]; twice {
				t.Errorf("prefix %q is also that of %s", k.Prefix, prev)
			}
			prefixes[k.Prefix] = k.String()
			obj, list := k.New(), k.NewList()
			if got := reflect.TypeOf(obj).Elem().Name(); got != k.GVK.Kind {
				t.Errorf("New makes a %s", got)
			}
			if got := reflect.TypeOf(list).Elem().Name(); got != k.GVK.Kind+"List" {
				t.Errorf("NewList makes a %s", got)
			}
			if k.StoredAs != nil && k.Validate == nil {
				return // it is judged in the form that is stored
			}
			if k.ValidateUpdate == nil || k.PrepareCreate == nil || k.PrepareUpdate == nil {
				t.Error("no preparation or no validation of updates")
			}
			names := 0
			seen := map[string]bool{}
			for _, c := range k.Columns {
				if c.Format == "name" {
					names++
				}
				if c.Name == "" || c.Type == "" || c.Describe == "" || c.Value == nil || seen[c.Name] {
					t.Errorf("incomplete or repeated column %q", c.Name)
				}
				seen[c.Name] = true
			}
			if names != 1 {
				t.Errorf("%d columns are the name", names)
			}
			for name, s := range k.Subresources {
				if len(s.Verbs) == 0 {
					t.Errorf("%s has no verbs", name)
				}
				if ownBody := !s.GVK.Empty() && s.New != nil; ownBody && s.ValidateBody == nil {
					t.Errorf("%s has no validation of its body", name)
				}
				if !s.Connect && s.GVK.Empty() && (s.PrepareUpdate == nil || s.ValidateUpdate == nil) {
					t.Errorf("%s has no preparation or validation", name)
				}
			}
		})
	}
}

// TestSubresources compares with what upstream's discovery lists.
func TestSubresources(t *testing.T) {
	want := map[string]string{
		"pods":                   "attach binding ephemeralcontainers eviction exec log portforward proxy resize status",
		"services":               "proxy status",
		"nodes":                  "proxy status",
		"namespaces":             "finalize status",
		"serviceaccounts":        "token",
		"replicationcontrollers": "scale status",
		"resourcequotas":         "status",
		"persistentvolumes":      "status",
		"persistentvolumeclaims": "status",
		"deployments.apps":       "scale status",
		"replicasets.apps":       "scale status",
		"statefulsets.apps":      "scale status",
		"daemonsets.apps":        "status",
		"certificatesigningrequests.certificates.k8s.io":           "approval status",
		"ingresses.networking.k8s.io":                              "status",
		"servicecidrs.networking.k8s.io":                           "status",
		"podcertificaterequests.certificates.k8s.io":               "status",
		"apiservices.apiregistration.k8s.io":                       "status",
		"validatingadmissionpolicies.admissionregistration.k8s.io": "status",
		"volumeattachments.storage.k8s.io":                         "status",
		"csinodes.storage.k8s.io":                                  "status",
		"resourceclaims.resource.k8s.io":                           "status",
		"devicetaintrules.resource.k8s.io":                         "status",
		"storageversionmigrations.storagemigration.k8s.io":         "status",
		"customresourcedefinitions.apiextensions.k8s.io":           "status",
		"flowschemas.flowcontrol.apiserver.k8s.io":                 "status",
		"jobs.batch":                           "status",
		"cronjobs.batch":                       "status",
		"horizontalpodautoscalers.autoscaling": "status",
		"poddisruptionbudgets.policy":          "status",
		"prioritylevelconfigurations.flowcontrol.apiserver.k8s.io": "status",
	}
	for _, k := range Builtin().All() {
		var have []string
		for _, name := range strings.Fields("approval attach binding ephemeralcontainers eviction exec finalize log portforward proxy resize scale status token") {
			if _, ok := k.Subresources[name]; ok {
				have = append(have, name)
			}
		}
		if got := strings.Join(have, " "); got != want[k.String()] || len(have) != len(k.Subresources) {
			t.Errorf("%s: got %q, want %q", k, got, want[k.String()])
		}
	}
}

// filler makes objects with anything in them.
func filler(seed int64) *randfill.Filler {
	return randfill.NewWithSeed(seed).NilChance(0.3).NumElements(0, 3).MaxDepth(14).Funcs(
		func(q *resource.Quantity, c randfill.Continue) {
			*q = *resource.NewMilliQuantity(c.Int63n(1<<40)-1<<20, resource.DecimalSI)
			if c.Intn(4) == 0 {
				*q = resource.MustParse("123456789123456789123456789.5")
			}
		},
		func(v *intstr.IntOrString, c randfill.Continue) {
			switch c.Intn(4) {
			case 0:
				*v = intstr.FromInt32(c.Int31())
			case 1:
				*v = intstr.FromString(fmt.Sprintf("%d%%", c.Intn(1000)))
			case 2:
				*v = intstr.FromString(c.String(8))
			default:
				v.Type = intstr.Type(c.Intn(5))
			}
		},
		func(t *metav1.Time, c randfill.Continue) { *t = metav1.Unix(c.Int63n(1<<32), 0) },
		func(t *metav1.MicroTime, c randfill.Continue) {
			*t = metav1.NewMicroTime(time.Unix(c.Int63n(1<<32), 0))
		},
		func(r *runtime.RawExtension, c randfill.Continue) { c.Fill(&r.Raw) },
		func(f *metav1.FieldsV1, c randfill.Continue) { c.Fill(&f.Raw) },
	)
}

// everyObject runs fn on random objects of every stored kind, half of them
// defaulted, and gives a second one as the old state.
func everyObject(t *testing.T, fn func(t *testing.T, k *Kind, obj, old Object)) {
	const seeds = 30
	for _, k := range Builtin().All() {
		if k.New == nil || k.Measured {
			continue
		}
		t.Run(k.String(), func(t *testing.T) {
			for seed := range int64(seeds) {
				f := filler(seed)
				obj, old := k.New(), k.New()
				f.Fill(obj)
				f.Fill(old)
				if seed%2 == 0 && k.Default != nil {
					k.Default(obj)
					k.Default(old)
				}
				if seed%3 == 0 { // near misses reach deeper rules
					old = obj.DeepCopyObject().(Object)
					f.Fill(old.(interface{ GetObjectMeta() metav1.Object }).GetObjectMeta())
				}
				fn(t, k, obj, old)
			}
		})
	}
}

func TestDefaultIsIdempotent(t *testing.T) {
	everyObject(t, func(t *testing.T, k *Kind, obj, _ Object) {
		if k.Default == nil {
			return
		}
		k.Default(obj)
		once := obj.DeepCopyObject()
		k.Default(obj)
		if !equality.Semantic.DeepEqual(once, obj) {
			t.Fatalf("the second time changed it:\n%v\n%v", once, obj)
		}
	})
}

// judged are the kind and the form in which objects are prepared and validated.
func judged(k *Kind, obj, old Object) (*Kind, Object, Object) {
	if k.StoredAs != nil && k.Validate == nil {
		return k.StoredAs, k.ToStored(obj), k.ToStored(old)
	}
	return k, obj, old
}

func TestRulesNeverPanicNorChangeTheOldState(t *testing.T) {
	everyObject(t, func(t *testing.T, k *Kind, obj, old Object) {
		k, obj, old = judged(k, obj, old)
		before := old.DeepCopyObject()
		for _, errs := range []field.ErrorList{k.Validate(obj), k.ValidateUpdate(obj, old)} {
			if len(errs) > maxErrors+1 {
				t.Errorf("%d errors", len(errs))
			}
			for _, e := range errs {
				_ = e.Error()
			}
		}
		if k.Warnings != nil {
			k.Warnings(obj, nil)
			k.Warnings(obj, old)
		}
		for _, c := range k.Columns {
			switch c.Value(obj, metav1.Unix(1<<32, 0)).(type) {
			case string, int64, bool:
			default:
				t.Errorf("column %s has no printable value", c.Name)
			}
		}
		for _, f := range k.Fields {
			f(obj)
		}
		for name, s := range k.Subresources {
			if s.PrepareUpdate != nil {
				o := obj.DeepCopyObject().(Object)
				s.PrepareUpdate(o, old)
				s.ValidateUpdate(o, old)
			}
			if s.Scale != nil {
				o := obj.DeepCopyObject().(Object)
				s.Scale.Set(o, 7)
				if s.Scale.Spec(o) != 7 {
					t.Errorf("%s does not set replicas", name)
				}
				s.Scale.Status(o)
				s.Scale.Selector(o)
			}
		}
		updated := obj.DeepCopyObject().(Object)
		k.PrepareUpdate(updated, old)
		k.PrepareCreate(obj)
		if !equality.Semantic.DeepEqual(before, old) {
			t.Fatal("the old state was changed")
		}
	})
}

// TestPrepareIsIdempotent: admission may make the server prepare again.
func TestPrepareIsIdempotent(t *testing.T) {
	everyObject(t, func(t *testing.T, k *Kind, obj, old Object) {
		k, obj, old = judged(k, obj, old)
		created := obj.DeepCopyObject().(Object)
		k.PrepareCreate(created)
		once := created.DeepCopyObject()
		k.PrepareCreate(created)
		if !equality.Semantic.DeepEqual(once, created) {
			t.Fatal("preparing a creation twice changed it")
		}
		k.PrepareUpdate(obj, old)
		once = obj.DeepCopyObject()
		k.PrepareUpdate(obj, old)
		if !equality.Semantic.DeepEqual(once, obj) {
			t.Fatalf("preparing an update twice changed it:\n%v\n%v", once, obj)
		}
	})
}

func TestEventConversion(t *testing.T) {
	for seed := range int64(50) {
		in := &corev1.Event{}
		filler(seed).Fill(in)
		in.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Event"}
		out := EventsEvent.FromStored(in).(*eventsv1.Event)
		if out.APIVersion != "events.k8s.io/v1" || out.Note != in.Message || out.Regarding != in.InvolvedObject {
			t.Fatalf("lost fields: %v", out)
		}
		back := EventsEvent.ToStored(out)
		if !equality.Semantic.DeepEqual(in, back) {
			t.Fatalf("there and back:\n%v\n%v", in, back)
		}
		if out.Labels != nil {
			out.Labels["new"] = "label"
			if _, shared := in.Labels["new"]; shared {
				t.Fatal("labels are shared")
			}
		}
	}
}

func TestErrorsAreBounded(t *testing.T) {
	long := strings.Repeat("ü", 100_000)
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "default"}, Data: map[string]string{}}
	for i := range 5000 {
		cm.Data[fmt.Sprintf("%s %d", long[:200], i)] = ""
	}
	cm.Data[long] = ""
	cm.Labels = map[string]string{long: long}
	errs := ConfigMap.Validate(cm)
	if len(errs) != maxErrors+1 || errs[maxErrors].Type != field.ErrorTypeTooMany {
		t.Fatalf("%d errors", len(errs))
	}
	for _, e := range errs {
		if n := len(e.Error()); n > 4*maxValue {
			t.Errorf("an error of %d bytes", n)
		}
	}
}

// TestHugeInput: a body of the size limit must not cost seconds.
func TestHugeInput(t *testing.T) {
	const many = 30_000
	tmpl := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}}
	for i := range many {
		tmpl.Spec.Containers = append(tmpl.Spec.Containers, corev1.Container{Name: "c", Image: "i", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/x"}}})
		tmpl.Spec.Tolerations = append(tmpl.Spec.Tolerations, corev1.Toleration{Key: fmt.Sprint(i)})
		tmpl.Spec.SchedulingGates = append(tmpl.Spec.SchedulingGates, corev1.PodSchedulingGate{Name: fmt.Sprint(i)})
		tmpl.Spec.TopologySpreadConstraints = append(tmpl.Spec.TopologySpreadConstraints, corev1.TopologySpreadConstraint{TopologyKey: fmt.Sprint(i)})
		tmpl.Spec.Volumes = append(tmpl.Spec.Volumes, corev1.Volume{Name: fmt.Sprintf("v%d", i)})
	}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "default"},
		Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}, Template: tmpl},
	}
	Deployment.Default(d)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}, Spec: tmpl.Spec}
	Pod.Default(pod)
	goruntime.LockOSThread() // for busy
	defer goruntime.UnlockOSThread()
	start := busy(t)
	Deployment.Validate(d)
	Pod.ValidateUpdate(pod, pod)
	Pod.ValidateUpdate(pod, &corev1.Pod{Spec: *pod.Spec.DeepCopy()})
	if took := busy(t) - start; took > 20*time.Second { // tens of times what it takes
		t.Errorf("took %v", took)
	} else {
		t.Logf("took %v", took)
	}
}

// busy is how long this thread has had a processor, which other processes of
// the machine do not change.
func busy(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
