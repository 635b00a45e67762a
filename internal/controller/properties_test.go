// Package controller_test holds the properties that the plans of all controllers
// have. Those whose worlds need more care have them in tests of their own.
package controller_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

// elsewhere are controllers whose own tests show the four properties, and which
// tests these are.
var elsewhere = map[string]string{
	"daemonset":               "TestTouchesOnlyItsOwn, TestInputOrderDoesNotMatter, TestBounded, TestRollback",
	"deployment":              "TestPlanTouchesOnlyItsOwn, TestInputOrderDoesNotMatter, TestLimits, TestRollout",
	"disruption":              "TestConvergesAndRests, which counts the writes, TestOrderDoesNotMatter",
	"endpointslice":           "TestSlicesConverge, TestForeignSlicesStay, TestFewWrites",
	"garbagecollector":        "TestForest, TestBoundedAndOnlyDependents",
	"horizontalpodautoscaler": "TestConverges, TestOrderDoesNotMatter; a pass writes one scale and one status",
	"job":                     "TestTouchesOnlyItsOwnWithinBounds, TestInputOrderDoesNotMatter, TestRunsToTheEnd",
	"replicaset":              "TestConvergesAndRests, TestPlanTouchesOnlyItsOwn, TestInputOrderDoesNotMatter, TestLargeSetInBursts",
	"statefulset":             "TestTouchesOnlyItsOwn, TestInputOrderDoesNotMatter, TestHugeSet, TestPromises",
	"ephemeralvolume":         "TestPlan, TestThroughTheRuntime: a pass makes the claims of one pod",
	"volumebinder":            "TestProperties, TestOrder, TestLife",
	"csr":                     "TestPlan, TestServingWaitsForAddresses: a plan is of one request, and writes that",
}

// Every controller is either below or has tests of its own.
func TestAllHaveProperties(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	all := properties()
	for _, e := range entries {
		_, here := all[e.Name()]
		tests, there := elsewhere[e.Name()]
		if !e.IsDir() || e.Name() == "testdata" || here && !there {
			continue
		}
		if !there || here {
			t.Errorf("%s: no properties, or twice", e.Name())
			continue
		}
		source := ""
		files, err := os.ReadDir(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if strings.HasSuffix(f.Name(), "_test.go") {
				b, err := os.ReadFile(e.Name() + "/" + f.Name())
				if err != nil {
					t.Fatal(err)
				}
				source += string(b)
			}
		}
		for _, name := range strings.FieldsFunc(tests, func(r rune) bool { return strings.ContainsRune(" ,:;", r) }) {
			if strings.HasPrefix(name, "Test") && !strings.Contains(source, "func "+name+"(") {
				t.Errorf("%s has no %s", e.Name(), name)
			}
		}
	}
}

func TestProperties(t *testing.T) {
	for name, p := range properties() {
		t.Run(name, func(t *testing.T) { rapid.Check(t, p.Check) })
	}
}

// one returns a controller as Make wants it.
func one(make func() reconcile.Controller) func(*reconciletest.World) []reconcile.Controller {
	return func(*reconciletest.World) []reconcile.Controller { return []reconcile.Controller{make()} }
}

// made is when worlds begin.
var made = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func named(ns, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: ns, Name: name, CreationTimestamp: metav1.NewTime(made)}
}

// going is an object that is being deleted and that a finalizer holds.
func going(m metav1.ObjectMeta, finalizers ...string) metav1.ObjectMeta {
	now := int64(0)
	m.DeletionTimestamp, m.DeletionGracePeriodSeconds, m.Finalizers = &metav1.Time{Time: made}, &now, append(slices.Clone(finalizers), "example.com/held")
	return m
}

// several objects of a kind, none of the same name.
func several(t *rapid.T, k *kinds.Kind, most int, make func(i int) kinds.Object) (out []reconciletest.Thing) {
	for i := range rapid.IntRange(0, most).Draw(t, k.Resource) {
		out = append(out, reconciletest.Thing{Kind: k, Object: make(i)})
	}
	return out
}

func each(n int) func(int) int     { return func(int) int { return n } }
func perThing(n int) func(int) int { return func(things int) int { return n * (things + 1) } }

// of tells whether an object is of one of the kinds.
func of(ks ...*kinds.Kind) func(kinds.Ref) bool {
	return func(ref kinds.Ref) bool { return slices.Contains(ks, ref.Kind) }
}

func chance(t *rapid.T, what string) bool { return rapid.Bool().Draw(t, what) }

// namespaces, some of which are going.
func namespaces(t *rapid.T) []reconciletest.Thing {
	return several(t, kinds.Namespace, 4, func(i int) kinds.Object {
		ns := &corev1.Namespace{ObjectMeta: named("", fmt.Sprint("ns-", i)), Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{"kubernetes"}}}
		if chance(t, "going") {
			ns.DeletionTimestamp = &metav1.Time{Time: made}
			ns.Status.Phase = corev1.NamespaceTerminating
		}
		return ns
	})
}

// pods on nodes or on none, running or ended, of which some are going.
func pods(t *rapid.T, more func(i int, p *corev1.Pod)) []reconciletest.Thing {
	return several(t, kinds.Pod, 6, func(i int) kinds.Object {
		p := &corev1.Pod{ObjectMeta: named("ns", fmt.Sprint("p-", i))}
		p.Spec.NodeName = rapid.SampledFrom([]string{"", "n-0", "n-1", "gone"}).Draw(t, "node")
		p.Status.Phase = rapid.SampledFrom([]corev1.PodPhase{corev1.PodPending, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed}).Draw(t, "phase")
		if rapid.IntRange(0, 3).Draw(t, "going") == 0 {
			p.ObjectMeta = going(p.ObjectMeta)
		}
		if more != nil {
			more(i, p)
		}
		return p
	})
}

// services and the slices of some of them.
func services(t *rapid.T) []reconciletest.Thing {
	out := several(t, kinds.Service, 3, func(i int) kinds.Object {
		s := &corev1.Service{ObjectMeta: named("ns", fmt.Sprint("s-", i)), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIPs: []string{fmt.Sprint("10.96.0.", 10+rapid.IntRange(0, 4).Draw(t, "ip"))}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}}}
		s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
		if chance(t, "selects") {
			s.Spec.Selector = map[string]string{"app": "x"}
		}
		return s
	})
	return append(out, several(t, kinds.EndpointSlice, 4, func(i int) kinds.Object {
		s := &discoveryv1.EndpointSlice{ObjectMeta: named("ns", fmt.Sprint("sl-", i)), AddressType: discoveryv1.AddressTypeIPv4}
		s.Labels = map[string]string{discoveryv1.LabelServiceName: fmt.Sprint("s-", rapid.IntRange(0, 4).Draw(t, "of"))}
		if chance(t, "managed") {
			s.Labels[discoveryv1.LabelManagedBy] = "endpointslice-controller.k8s.io"
		}
		ready, port := chance(t, "ready"), int32(80)
		s.Ports = []discoveryv1.EndpointPort{{Port: &port}}
		s.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{fmt.Sprint("10.0.0.", i)}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}}
		return s
	})...)
}
