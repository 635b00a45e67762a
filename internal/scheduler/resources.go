package scheduler

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// Resources tells what pods ask for, as upstream's /metrics/resources does; it
// is counted when it is asked for.
func Resources(v *view.View) prometheus.Collector { return podResources{v} }

type podResources struct{ view *view.View }

var (
	resourceLabels = []string{"namespace", "pod", "node", "scheduler", "priority", "resource", "unit"}
	requestDesc    = prometheus.NewDesc("kube_pod_resource_request", "What a pod asks for, as scheduler and kubelet see it.", resourceLabels, nil)
	limitDesc      = prometheus.NewDesc("kube_pod_resource_limit", "What a pod is limited to, as scheduler and kubelet see it.", resourceLabels, nil)
)

// Describe implements prometheus.Collector.
func (podResources) Describe(ch chan<- *prometheus.Desc) {
	ch <- requestDesc
	ch <- limitDesc
}

// Collect implements prometheus.Collector.
func (r podResources) Collect(ch chan<- prometheus.Metric) {
	for p := range view.List[*corev1.Pod](r.view.Snapshot(), kinds.Pod, "") {
		if ended(p) {
			continue
		}
		var priority string
		if p.Spec.Priority != nil {
			priority = strconv.Itoa(int(*p.Spec.Priority))
		}
		tell := func(d *prometheus.Desc, list corev1.ResourceList) {
			for name, q := range list {
				value, unit := amount(name, q)
				if value != 0 {
					ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, p.Namespace, p.Name, p.Spec.NodeName, p.Spec.SchedulerName, priority, string(name), unit)
				}
			}
		}
		tell(requestDesc, resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{}))
		tell(limitDesc, resourcehelper.PodLimits(p, resourcehelper.PodResourcesOptions{}))
	}
}

// amount in the resource's base unit, which upstream names for these.
func amount(name corev1.ResourceName, q resource.Quantity) (float64, string) {
	switch name {
	case corev1.ResourceCPU:
		return float64(q.MilliValue()) / 1000, "cores"
	case corev1.ResourceMemory, corev1.ResourceStorage, corev1.ResourceEphemeralStorage:
		return float64(q.Value()), "bytes"
	}
	if len(name) > len(corev1.ResourceHugePagesPrefix) && name[:len(corev1.ResourceHugePagesPrefix)] == corev1.ResourceHugePagesPrefix {
		return float64(q.Value()), "bytes"
	}
	return float64(q.Value()), "integer"
}
