package kinds

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// What nodes and pods use, measured when somebody asks: under the names of
// metrics-server, which may answer in this server's place.
var (
	NodeMetrics = &Kind{
		GVK: metricsv1beta1.SchemeGroupVersion.WithKind("NodeMetrics"), Resource: "nodes", Measured: true, Verbs: []string{"get", "list"},
		New: func() Object { return &metricsv1beta1.NodeMetrics{} }, NewList: func() runtime.Object { return &metricsv1beta1.NodeMetricsList{} },
		Columns: usageColumns(func(m *metricsv1beta1.NodeMetrics) (corev1.ResourceList, metav1.Duration) { return m.Usage, m.Window }),
	}
	PodMetrics = &Kind{
		GVK: metricsv1beta1.SchemeGroupVersion.WithKind("PodMetrics"), Resource: "pods", Namespaced: true, Measured: true, Verbs: []string{"get", "list"},
		New: func() Object { return &metricsv1beta1.PodMetrics{} }, NewList: func() runtime.Object { return &metricsv1beta1.PodMetricsList{} },
		Columns: usageColumns(func(m *metricsv1beta1.PodMetrics) (corev1.ResourceList, metav1.Duration) {
			return podUsage(m), m.Window
		}),
	}
)

var measuredKinds = []*Kind{NodeMetrics, PodMetrics}

// Yields reports whether another API server may answer for the group and
// version although this one can.
func (s *Set) Yields(gv schema.GroupVersion) bool {
	return slices.ContainsFunc(s.kinds, func(k *Kind) bool { return k.Measured && k.GVK.GroupVersion() == gv })
}

// podUsage sums up what the containers use.
func podUsage(m *metricsv1beta1.PodMetrics) corev1.ResourceList {
	sum := corev1.ResourceList{}
	for i := range m.Containers {
		for name, q := range m.Containers[i].Usage {
			total := sum[name]
			total.Add(q)
			sum[name] = total
		}
	}
	return sum
}

func usageColumns[T Object](of func(T) (corev1.ResourceList, metav1.Duration)) []Column {
	amount := func(name corev1.ResourceName, describe string) Column {
		c := cell(string(name), "string", describe, func(o T) any {
			usage, _ := of(o)
			q, ok := usage[name]
			if !ok {
				q = resource.Quantity{}
			}
			return q.String()
		})
		c.Format = "quantity"
		return c
	}
	window := cell("Window", "string", "How long it was measured.", func(o T) any { _, w := of(o); return w.Duration.String() })
	window.Format = "duration"
	return []Column{nameColumn, amount(corev1.ResourceCPU, "Use of CPUs."), amount(corev1.ResourceMemory, "Memory in use."), window}
}
