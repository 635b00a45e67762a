package scheduler

import (
	"fmt"
	"math/rand/v2"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// bench decides about pods on 1,000 nodes in 3 zones, 5,000 pods at a time,
// as ../shared/apibench does, and counts parsing and assuming in.
func bench(b *testing.B, opts ...func(*corev1.Pod)) {
	var objects []any
	for i := range 1000 {
		objects = append(objects, aNode(fmt.Sprintf("node-%04d", i), zone(fmt.Sprintf("z%d", i%3)), has("pods", "110", "cpu", "32", "memory", "64Gi")))
	}
	objects = append(objects, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "a0"}}})
	pods := make([]*corev1.Pod, 5000)
	for i := range pods {
		app := fmt.Sprintf("a%d", i%10)
		pods[i] = aPod(fmt.Sprintf("pod-%d", i), append([]func(*corev1.Pod){requests("cpu", "100m", "memory", "128Mi"), with("app", app)}, opts...)...)
		pods[i].OwnerReferences = []metav1.OwnerReference{{UID: types.UID(app), Kind: "ReplicaSet", Name: app, Controller: new(bool)}}
		*pods[i].OwnerReferences[0].Controller = true
		for _, o := range opts {
			o(pods[i])
		}
	}
	b.ReportAllocs()
	var c *cluster
	var d *decider
	for i := 0; b.Loop(); i++ {
		if i%len(pods) == 0 {
			c, d = world(objects...), newDecider(rand.New(rand.NewPCG(1, 2)))
			for a := range 10 {
				c.owners[types.UID(fmt.Sprintf("a%d", a))] = parse(selecting("app", fmt.Sprintf("a%d", a)))
			}
		}
		p := d.classes.pending(pods[i%len(pods)])
		dec := d.decide(c, p)
		if dec.node == nil {
			b.Fatal(dec.why)
		}
		c.place(p, dec.node.name)
	}
}

func BenchmarkPlain(b *testing.B) { bench(b) }

func BenchmarkSpreadAndAntiAffinity(b *testing.B) {
	bench(b, func(p *corev1.Pod) {
		own := selecting("app", p.Labels["app"])
		p.Spec.TopologySpreadConstraints, p.Spec.Affinity = nil, nil
		apart(corev1.LabelHostname, own)(p)
		spreads(corev1.LabelTopologyZone, 1, corev1.DoNotSchedule, own)(p)
		spreads(corev1.LabelHostname, 1, corev1.ScheduleAnyway, own)(p)
	})
}

// full is a cluster of 1,000 nodes with 10 pods each and no room.
func full(b *testing.B) (*cluster, *decider) {
	b.Helper()
	var objects []any
	for i := range 1000 {
		node := fmt.Sprintf("node-%04d", i)
		objects = append(objects, aNode(node, zone(fmt.Sprintf("z%d", i%3)), has("pods", "110", "cpu", "10")))
		for j := range 10 {
			objects = append(objects, aPod(fmt.Sprint("pod-", i, "-", j), on(node), requests("cpu", "1"), with("app", fmt.Sprint("a", j))))
		}
	}
	return world(objects...), newDecider(rand.New(rand.NewPCG(1, 2)))
}

func BenchmarkFitsNowhere(b *testing.B) {
	c, d := full(b)
	p := pending(aPod("p", requests("cpu", "1")))
	b.ReportAllocs()
	for b.Loop() {
		if dec := d.decide(c, p); dec.node != nil || dec.room != nil {
			b.Fatal("it fits")
		}
	}
}

func BenchmarkPreemption(b *testing.B) {
	c, d := full(b)
	p := pending(aPod("p", requests("cpu", "2"), priority(1)))
	b.ReportAllocs()
	for b.Loop() {
		if dec := d.decide(c, p); dec.room == nil || len(dec.room.victims) != 2 {
			b.Fatal("no room")
		}
	}
}

func BenchmarkPreemptionWithSpread(b *testing.B) {
	c, d := full(b)
	app := selecting("app", "a0")
	p := pending(aPod("p", requests("cpu", "2"), priority(1), with("app", "a0"), spreads(hostname, 1, corev1.DoNotSchedule, app), spreads(corev1.LabelTopologyZone, 9, corev1.DoNotSchedule, app)))
	b.ReportAllocs()
	for b.Loop() {
		if dec := d.decide(c, p); dec.room == nil {
			b.Fatal("no room")
		}
	}
}
