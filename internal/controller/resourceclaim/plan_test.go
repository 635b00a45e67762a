package resourceclaim

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

// pod with claims, each "name=claim" or "name<template" or, if it is known what
// was made, "name<template=claim"; "name<template=" needs none.
func pod(claims ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p", UID: "u-p"}}
	for _, c := range claims {
		left, claim, named := strings.Cut(c, "=")
		name, template, made := strings.Cut(left, "<")
		out := corev1.PodResourceClaim{Name: name}
		switch {
		case !made:
			out.ResourceClaimName = &claim
		default:
			out.ResourceClaimTemplateName = &template
			if named {
				s := corev1.PodResourceClaimStatus{Name: name}
				if claim != "" {
					s.ResourceClaimName = &claim
				}
				p.Status.ResourceClaimStatuses = append(p.Status.ResourceClaimStatuses, s)
			}
		}
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, out)
	}
	return p
}

func with(p *corev1.Pod, change func(*corev1.Pod)) *corev1.Pod {
	change(p)
	return p
}

func on(node string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = node } }

func template(name string) *resourcev1.ResourceClaimTemplate {
	t := &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}}
	t.Spec.Labels, t.Spec.Annotations = map[string]string{"l": name}, map[string]string{"a": name}
	t.Spec.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "c"}}}
	return t
}

// claim with options, in short words: "of p" is made for that pod, "for x" as its
// claim x, "has" devices, "kept" by the finalizer, "users p q" is reserved for
// them, "going".
func claim(name string, opts ...string) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, UID: types.UID("u-" + name), ResourceVersion: "7"}}
	for _, o := range opts {
		word, rest, _ := strings.Cut(o, " ")
		switch word {
		case "of":
			c.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: rest, UID: types.UID("u-" + rest)}}, kinds.Pod.GVK)}
		case "for":
			c.Annotations = map[string]string{claimNameAnnotation: rest}
		case "has":
			c.Status.Allocation = &resourcev1.AllocationResult{}
		case "kept":
			c.Finalizers = []string{resourcev1.Finalizer}
		case "users":
			for _, u := range strings.Fields(rest) {
				c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: u, UID: types.UID("u-" + u)})
			}
		case "group":
			c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{APIGroup: "scheduling.k8s.io", Resource: "podgroups", Name: rest, UID: "u"})
		case "going":
			c.DeletionTimestamp = &metav1.Time{}
		default:
			panic(o)
		}
	}
	return c
}

func describe(res plan.Result) string {
	var out []string
	for _, a := range res.Actions {
		s := fmt.Sprintf("%s %s", a.Verb, a.Ref.Name)
		if a.Verb == plan.Patch {
			s += " " + string(a.Data)
		}
		for _, l := range a.Live {
			s += fmt.Sprintf(" if %s is gone", l.UID)
		}
		out = append(out, s)
	}
	for _, e := range res.Events {
		out = append(out, e.Reason+" "+e.Message)
	}
	if (res.After > 0) != (len(res.Events) > 0) {
		out = append(out, "after "+res.After.String())
	}
	return strings.Join(out, ", ")
}

func TestPlan(t *testing.T) {
	says := func(pairs ...string) string {
		var list []string
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, fmt.Sprintf(`{"name":%q,"resourceClaimName":%q}`, pairs[i], pairs[i+1]))
		}
		return `patch p {"status":{"resourceClaimStatuses":[` + strings.Join(list, ",") + `]}}`
	}
	const reserve = `patch c {"status":{"reservedFor":[{"resource":"pods","name":"p","uid":"u-p"}]}}`
	for _, tt := range []struct {
		name string
		pod  *corev1.Pod
		have []*resourcev1.ResourceClaim
		want string
	}{
		{"a claim that it names", pod("x=c"), nil, ""},
		{"one to be made", pod("x<t"), nil, "create p-x-s1, " + says("x", "p-x-s1")},
		{"two, in order", pod("y<t", "x<t"), nil, "create p-y-s1, create p-x-s2, " + says("y", "p-y-s1", "x", "p-x-s2")},
		{"made, not told", pod("x<t"), []*resourcev1.ResourceClaim{claim("c", "of p", "for x")}, says("x", "c")},
		{"made for another of the pod's", pod("x<t"), []*resourcev1.ResourceClaim{claim("c", "of p", "for y")}, "create p-x-s1, " + says("x", "p-x-s1")},
		{"made, but going", pod("x<t"), []*resourcev1.ResourceClaim{claim("c", "of p", "for x", "going")}, "create p-x-s1, " + says("x", "p-x-s1")},
		{"made for another pod", pod("x<t"), []*resourcev1.ResourceClaim{claim("c", "of q", "for x")}, "create p-x-s1, " + says("x", "p-x-s1")},
		{"made and told", pod("x<t=c"), []*resourcev1.ResourceClaim{claim("c", "of p", "for x")}, ""},
		{"told, but gone", pod("x<t=c"), nil, "create p-x-s1, " + says("x", "p-x-s1")},
		{"told, but another's", pod("x<t=c"), []*resourcev1.ResourceClaim{claim("c", "of q", "for x")}, "create p-x-s1, " + says("x", "p-x-s1")},
		{"not needed", pod("x<t="), nil, ""},
		{"no template", pod("x<u", "y<t"), nil, "create p-y-s1, " + says("y", "p-y-s1") +
			`, FailedResourceClaimCreation PodResourceClaim x: resource claim template "u": resourceclaimtemplate.resource.k8s.io "u" not found`},
		{"the pod goes", with(pod("x<t"), func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }), nil, ""},
		{"the pod has ended", with(pod("x<t"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), nil, ""},
		{"placed, its claim has devices", with(pod("x=c"), on("n")), []*resourcev1.ResourceClaim{claim("c", "has")}, reserve},
		{"placed, its made claim has devices", with(pod("x<t=c"), on("n")), []*resourcev1.ResourceClaim{claim("c", "has", "of p")}, reserve},
		{"placed, its claim has nothing", with(pod("x=c"), on("n")), []*resourcev1.ResourceClaim{claim("c")}, ""},
		{"placed, its claim goes", with(pod("x=c"), on("n")), []*resourcev1.ResourceClaim{claim("c", "has", "going")}, ""},
		{"placed, reserved", with(pod("x=c"), on("n")), []*resourcev1.ResourceClaim{claim("c", "has", "users q p")}, ""},
		{"placed, twice the same", with(pod("x=c", "y=c"), on("n")), []*resourcev1.ResourceClaim{claim("c", "has")}, reserve},
		{"placed, as many as may have it", with(pod("x=c"), on("n")), []*resourcev1.ResourceClaim{claim("c", "has", "users"+strings.Repeat(" q", 256))}, ""},
		{"not placed", pod("x=c"), []*resourcev1.ResourceClaim{claim("c", "has")}, ""},
	} {
		n := 0
		o := Observed{
			Pod: tt.pod, Made: tt.have,
			Suffix: func() string { n++; return fmt.Sprint("s", n) },
			Claim: func(name string) *resourcev1.ResourceClaim {
				if i := slices.IndexFunc(tt.have, func(c *resourcev1.ResourceClaim) bool { return c.Name == name }); i >= 0 {
					return tt.have[i]
				}
				return nil
			},
			Template: func(name string) *resourcev1.ResourceClaimTemplate {
				if name == "t" {
					return template("t")
				}
				return nil
			},
		}
		if got := describe(Plan(o)); got != tt.want {
			t.Errorf("%s: %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

func TestClaim(t *testing.T) {
	o := Observed{Pod: pod("x<t"), Suffix: func() string { return "abcde" }, Template: template}
	c := Plan(o).Actions[0].Object.(*resourcev1.ResourceClaim)
	if c.Namespace != "a" || c.GenerateName != "p-x-" || c.Labels["l"] != "t" || c.Annotations["a"] != "t" || c.Annotations[claimNameAnnotation] != "x" || len(c.Spec.Devices.Requests) != 1 {
		t.Errorf("%+v", c)
	}
	if r := c.OwnerReferences[0]; r.UID != "u-p" || r.Kind != "Pod" || r.APIVersion != "v1" || !*r.Controller || !*r.BlockOwnerDeletion {
		t.Errorf("%+v", r)
	}
	if base := baseOf(strings.Repeat("p", 200), strings.Repeat("c", 60)); len(base) > 58 || !strings.Contains(base, "p-c") {
		t.Errorf("%s", base)
	}
}

func TestPlanRelease(t *testing.T) {
	const (
		free      = `{"status":{"allocation":null,"devices":null,"reservedFor":null}}`
		unprotect = `, patch c [{"op":"test","path":"/status","value":{}},{"op":"test","path":"/metadata/finalizers/0","value":"resource.kubernetes.io/delete-protection"},{"op":"remove","path":"/metadata/finalizers/0"}]`
		one       = `{"resource":"pods","name":"q","uid":"u-q"}`
	)
	pods := map[string]*corev1.Pod{"p": pod("x=c"), "q": with(pod("x=c"), func(p *corev1.Pod) { p.Name, p.UID = "q", "u-q" })}
	done := with(pod("x=c"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
	unplaced := with(pod("x=c"), func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} })
	other := with(pod("x=c"), func(p *corev1.Pod) { p.UID = "u-other" })
	for _, tt := range []struct {
		name  string
		claim *resourcev1.ResourceClaim
		p     *corev1.Pod // of that name; nil: not seen
		want  string
	}{
		{"its user is done, another is placed", claim("c", "has", "kept", "users p"), done, `patch c {"status":{"reservedFor":null}}`},
		{"used", claim("c", "has", "kept", "users p"), pods["p"], ""},
		{"its user is done", claim("c", "has", "kept", "users p"), done, "patch c " + free + unprotect},
		{"its user goes, on a node", claim("c", "has", "kept", "users p"), with(unplaced.DeepCopy(), on("n")), ""},
		{"its user goes, on no node", claim("c", "has", "kept", "users p"), unplaced, "patch c " + free + unprotect},
		{"another took its user's name", claim("c", "has", "kept", "users p"), other, "patch c " + free + unprotect},
		{"its user is not seen", claim("c", "has", "kept", "users p"), nil, "patch c " + free + " if u-p is gone" + unprotect},
		{"one of two is done", claim("c", "has", "kept", "users p q"), done, `patch c {"status":{"reservedFor":[` + one + `]}}`},
		{"a group has it", claim("c", "has", "kept", "group g"), done, ""},
		{"allocated by somebody else's hand", claim("c", "has", "users p"), done, `patch c {"status":{"reservedFor":null}}`},
		{"for nobody to begin with", claim("c", "has", "kept"), done, ""},
		{"about to be allocated", claim("c", "kept"), pods["p"], ""},
		{"going, unused", claim("c", "has", "kept", "going"), pods["p"], "patch c " + free + unprotect},
		{"going, without devices", claim("c", "kept", "going"), pods["p"], strings.TrimPrefix(unprotect, ", ")},
		{"going, used", claim("c", "has", "kept", "going", "users p"), pods["p"], ""},
		{"made for a pod that runs", claim("c", "of p"), pods["p"], ""},
		{"made for a pod that is done", claim("c", "of p"), done, "delete c"},
		{"made for a pod that is done, with devices", claim("c", "of p", "has", "kept", "users p"), done, "patch c " + free + unprotect + ", delete c"},
		{"made for a pod that was replaced", claim("c", "of p"), other, "delete c"},
		{"made for a pod that is not seen", claim("c", "of p"), nil, ""},
		{"made for a pod that is done, another has it", claim("c", "of p", "has", "kept", "users p q"), done, `patch c {"status":{"reservedFor":[` + one + `]}}`},
	} {
		got := describe(PlanRelease(Held{Claim: tt.claim, Pod: func(name string) *corev1.Pod {
			if name == "p" {
				return tt.p
			}
			return pods[name]
		}, Placed: strings.HasSuffix(tt.name, "another is placed")}))
		if got != tt.want {
			t.Errorf("%s: %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

func world() *reconciletest.World {
	return reconciletest.New([]*kinds.Kind{kinds.Pod, kinds.ResourceClaim, kinds.ResourceClaimTemplate}, view.Owned, view.PodsByDeviceClaim, view.PodsByClaimTemplate)
}

func drive(t *testing.T, w *reconciletest.World) []plan.Event {
	t.Helper()
	events, err := w.Drive(1, 200, time.Second, []reconcile.Controller{Pods(), Claims()}...)
	if err != nil {
		t.Fatal(err)
	}
	return events.All
}

// A pod's claim from its making to its end, through the runtime.
func TestLife(t *testing.T) {
	w := world()
	w.Put(kinds.Pod, pod("x<t"))
	w.Put(kinds.Pod, with(pod(), func(p *corev1.Pod) { p.Name, p.UID = "plain", "u-plain" }))
	if events := drive(t, w); len(events) == 0 || events[0].Reason != "FailedResourceClaimCreation" || len(w.Writes) != 0 {
		t.Fatalf("%+v %q", events, w.Writes)
	}
	w.Put(kinds.ResourceClaimTemplate, template("t"))
	drive(t, w)
	made := func() *resourcev1.ResourceClaim {
		t.Helper()
		list := w.Objects(kinds.ResourceClaim)
		if len(list) != 1 {
			t.Fatalf("%d claims", len(list))
		}
		return list[0].(*resourcev1.ResourceClaim)
	}
	c, p := made(), w.Object(kinds.Pod, "a", "p").(*corev1.Pod)
	if s := p.Status.ResourceClaimStatuses; len(s) != 1 || *s[0].ResourceClaimName != c.Name || !strings.HasPrefix(c.Name, "p-x-") {
		t.Fatalf("%+v, %s", p.Status, c.Name)
	}
	// As the scheduler does; then the pod runs and ends.
	c = c.DeepCopy()
	c.Finalizers = []string{resourcev1.Finalizer}
	w.Put(kinds.ResourceClaim, c)
	drive(t, w)
	if c = made(); len(c.Finalizers) != 1 {
		t.Fatal("the claim is not protected any more, though it is about to be allocated")
	}
	c = c.DeepCopy()
	c.Status.Allocation = &resourcev1.AllocationResult{}
	c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "p", UID: "u-p"}}
	w.Put(kinds.ResourceClaim, c)
	p = p.DeepCopy()
	p.Spec.NodeName, p.Status.Phase = "n", corev1.PodRunning
	w.Put(kinds.Pod, p)
	before := len(w.Writes)
	if drive(t, w); len(w.Writes) != before {
		t.Errorf("%q", w.Writes[before:])
	}
	p = p.DeepCopy()
	p.Status.Phase = corev1.PodSucceeded
	w.Put(kinds.Pod, p)
	if drive(t, w); len(w.Objects(kinds.ResourceClaim)) != 0 {
		t.Errorf("%+v\n%q", made(), w.Writes)
	}
}

// A claim that users made outlives its pods, without their devices; and whoever
// allocates it at the same time keeps it protected.
func TestGivenBack(t *testing.T) {
	for _, taken := range []bool{false, true} {
		w := world()
		w.Put(kinds.Pod, with(pod("x=c"), on("n")))
		w.Put(kinds.ResourceClaim, claim("c", "has", "kept", "users p"))
		drive(t, w)
		w.Remove(kinds.Pod, "a", "p")
		w.Hook = func(verb plan.Verb, ref kinds.Ref, _ runtime.Object) error {
			if taken && verb == plan.Patch && ref.Sub == "" {
				w.Put(kinds.ResourceClaim, claim("c", "has", "kept", "users q"))
				w.Put(kinds.Pod, with(pod("x=c"), func(p *corev1.Pod) { p.Name, p.UID, p.Spec.NodeName = "q", "u-q", "n" }))
			}
			return nil
		}
		drive(t, w)
		c := w.Object(kinds.ResourceClaim, "a", "c").(*resourcev1.ResourceClaim)
		if (c.Status.Allocation != nil) != taken || (len(c.Finalizers) > 0) != taken {
			t.Errorf("taken %v: %+v", taken, c)
		}
	}
}

// A pod that the view does not show yet keeps its devices.
func TestUnseenPodKeepsItsDevices(t *testing.T) {
	w := world()
	w.Lag = true
	w.Put(kinds.Pod, with(pod("x=c"), on("n")))
	w.Put(kinds.ResourceClaim, claim("c", "has", "kept", "users p"))
	w.Deliver(kinds.ResourceClaim)
	drive(t, w)
	if c := w.Object(kinds.ResourceClaim, "a", "c").(*resourcev1.ResourceClaim); c.Status.Allocation == nil || len(c.Status.ReservedFor) != 1 {
		t.Errorf("%+v", c)
	}
}

func TestFailureIsTold(t *testing.T) {
	w := world()
	w.Put(kinds.ResourceClaimTemplate, template("t"))
	w.Put(kinds.Pod, pod("x<t"))
	w.Hook = func(plan.Verb, kinds.Ref, runtime.Object) error { return errors.New("no") }
	events := drive(t, w)
	if len(events) == 0 || !strings.HasPrefix(events[0].Message, "PodResourceClaim x: create ResourceClaim p-x-") || !strings.HasSuffix(events[0].Message, ": no") {
		t.Errorf("%+v", events)
	}
}

// A claim that the scheduler made for extended resources goes with its pod,
// whether the pod's status tells of it or not.
func TestClaimForExtendedResources(t *testing.T) {
	for _, told := range []bool{true, false} {
		for _, gone := range []bool{true, false} {
			w := world()
			p := with(pod(), on("n"))
			if told {
				p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "c"}
			}
			w.Put(kinds.Pod, p)
			w.Put(kinds.ResourceClaim, claim("c", "of p", "has", "kept", "users p"))
			drive(t, w)
			if len(w.Writes) > 0 {
				t.Fatalf("told %v: %q", told, w.Writes)
			}
			now, key := w.View.Snapshot(), reconcile.Key{Namespace: "a", Name: "c"}
			if h, _ := observeClaim(reconcile.Input{View: now, Key: key}); h.Placed != told {
				t.Errorf("told %v: a pod on a node has it: %v", told, h.Placed)
			}
			if keys := given(now, view.Change{Kind: kinds.Pod, Old: p}); !slices.Equal(keys, []reconcile.Key{key}) {
				t.Errorf("told %v: the end of the pod wakes %v", told, keys)
			}
			if gone {
				w.Remove(kinds.Pod, "a", "p")
			} else {
				w.Put(kinds.Pod, with(p.DeepCopy(), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }))
			}
			drive(t, w)
			left := w.Objects(kinds.ResourceClaim)
			if gone { // the garbage collector does the rest
				if c := left[0].(*resourcev1.ResourceClaim); c.Status.Allocation != nil || len(c.Finalizers) > 0 {
					t.Errorf("told %v: %+v", told, c)
				}
			} else if len(left) > 0 {
				t.Errorf("told %v: %+v", told, left)
			}
		}
	}
}
