package horizontalpodautoscaler

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

const (
	customGroup = "custom.metrics.k8s.io"
	// customWindow is how long a metric was measured that does not say so.
	customWindow = time.Minute
)

var (
	errNoResources = errors.New("no metrics returned from resource metrics API")
	errNoCustom    = errors.New("no metrics returned from custom metrics API")
	errNoCustomAPI = errors.New("no custom metrics API (" + customGroup + ") registered")
	errNoVersion   = errors.New("no known available metric versions found")
	errNoExternals = errors.New("no metrics returned from external metrics API")
)

// reader reads the metrics of one autoscaler; what several of them need it reads
// once.
type reader struct {
	*scaler
	namespace string
	selector  labels.Selector
	resources func() (*metricsv1beta1.PodMetricsList, error)
}

func (s *scaler) read(h *autoscalingv2.HorizontalPodAutoscaler, selector labels.Selector) ([]Reading, []time.Duration) {
	r := &reader{scaler: s, namespace: h.Namespace, selector: selector}
	var list *metricsv1beta1.PodMetricsList
	var err error
	r.resources = func() (*metricsv1beta1.PodMetricsList, error) {
		if list == nil && err == nil {
			list, err = r.podMetrics()
		}
		return list, err
	}
	out, took := make([]Reading, len(h.Spec.Metrics)), make([]time.Duration, len(h.Spec.Metrics))
	for i := range h.Spec.Metrics {
		begin := time.Now() // by the clock on the wall: it is for the metrics alone
		out[i] = r.metric(&h.Spec.Metrics[i])
		took[i] = time.Since(begin)
	}
	return out, took
}

func (r *reader) metric(m *autoscalingv2.MetricSpec) (out Reading) {
	switch m.Type {
	case autoscalingv2.ResourceMetricSourceType:
		out.Pods, out.Err = r.resource(m.Resource.Name, "")
	case autoscalingv2.ContainerResourceMetricSourceType:
		out.Pods, out.Err = r.resource(m.ContainerResource.Name, m.ContainerResource.Container)
	case autoscalingv2.PodsMetricSourceType:
		out.Pods, out.Err = r.pods(&m.Pods.Metric)
	case autoscalingv2.ObjectMetricSourceType:
		out.Values, out.Err = r.object(&m.Object.DescribedObject, &m.Object.Metric)
	case autoscalingv2.ExternalMetricSourceType:
		out.Values, out.Err = r.external(&m.External.Metric)
	}
	return out
}

// get reads a path into what it should hold.
func (r *reader) get(into any, path string, q url.Values) error {
	data, err := r.source.Fetch(path, q)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

func (r *reader) podMetrics() (*metricsv1beta1.PodMetricsList, error) {
	list := &metricsv1beta1.PodMetricsList{}
	path := "/apis/" + metricsv1beta1.SchemeGroupVersion.String() + "/namespaces/" + r.namespace + "/pods"
	if err := r.get(list, path, url.Values{"labelSelector": {r.selector.String()}}); err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from resource metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, errNoResources
	}
	return list, nil
}

// resource is what pods use, all of their containers or one. A pod of which a
// part is unknown is left out.
func (r *reader) resource(name corev1.ResourceName, container string) (map[string]Sample, error) {
	list, err := r.resources()
	if err != nil {
		return nil, err
	}
	out := make(map[string]Sample, len(list.Items))
	for i := range list.Items {
		m := &list.Items[i]
		sum, known := int64(0), len(m.Containers) > 0
		found := container == ""
		for _, c := range m.Containers {
			if container != "" && c.Name != container {
				continue
			}
			q, ok := c.Usage[name]
			sum, known, found = sum+q.MilliValue(), known && ok, true
		}
		if known && found {
			out[m.Name] = Sample{m.Timestamp.Time, m.Window.Duration, sum}
		}
	}
	return out, nil
}

// metricValues are those of both versions of the custom metrics API, as far as
// they are read here.
type metricValues struct {
	Items []struct {
		DescribedObject corev1.ObjectReference `json:"describedObject"`
		Timestamp       metav1.Time            `json:"timestamp"`
		Window          *int64                 `json:"window"`        // seconds, in v1beta1
		WindowSeconds   *int64                 `json:"windowSeconds"` // in v1beta2
		Value           resource.Quantity      `json:"value"`
	} `json:"items"`
}

func (r *reader) pods(m *autoscalingv2.MetricIdentifier) (map[string]Sample, error) {
	list, err := r.custom("pods/*", m, r.selector)
	if err != nil {
		return nil, err
	}
	if len(list.Items) == 0 {
		return nil, errNoCustom
	}
	out := make(map[string]Sample, len(list.Items))
	for i := range list.Items {
		it := &list.Items[i]
		window := customWindow
		for _, s := range []*int64{it.Window, it.WindowSeconds} {
			if s != nil {
				window = time.Duration(*s) * time.Second
			}
		}
		out[it.DescribedObject.Name] = Sample{it.Timestamp.Time, window, it.Value.MilliValue()}
	}
	return out, nil
}

func (r *reader) object(ref *autoscalingv2.CrossVersionObjectReference, m *autoscalingv2.MetricIdentifier) ([]int64, error) {
	gk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).GroupKind()
	of := "metrics" // of the autoscaler's own namespace, whatever name is given
	if gk != (schema.GroupKind{Kind: "Namespace"}) {
		k := r.kind(gk)
		if k == nil {
			return nil, fmt.Errorf("unable to fetch metrics from custom metrics API: unable to map kind %s to resource: %w", gk, noMatch(gk))
		}
		of = k.GroupResource().String() + "/" + ref.Name
	}
	list, err := r.custom(of, m, nil)
	if err != nil {
		return nil, err
	}
	if len(list.Items) != 1 {
		return nil, fmt.Errorf("unable to fetch metrics from custom metrics API: the custom metrics API server returned %v results when we asked for exactly one", len(list.Items))
	}
	return []int64{list.Items[0].Value.MilliValue()}, nil
}

// custom asks the API of custom metrics.
func (r *reader) custom(of string, m *autoscalingv2.MetricIdentifier, pods labels.Selector) (*metricValues, error) {
	selector, err := metav1.LabelSelectorAsSelector(m.Selector)
	if err != nil {
		return nil, err
	}
	if m.Selector == nil {
		selector = labels.Everything()
	}
	list := &metricValues{}
	version, err := r.customVersion()
	if err == nil {
		q := url.Values{}
		for name, s := range map[string]labels.Selector{"labelSelector": pods, "metricLabelSelector": selector} {
			if s != nil && !s.Empty() {
				q.Set(name, s.String())
			}
		}
		err = r.get(list, "/apis/"+customGroup+"/"+version+"/namespaces/"+r.namespace+"/"+of+"/"+m.Name, q)
	}
	if err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from custom metrics API: %w", err)
	}
	return list, nil
}

// customVersion is the preferred one if it is known here, else the first that is.
func (r *reader) customVersion() (string, error) {
	group := &metav1.APIGroup{}
	if err := r.get(group, "/apis/"+customGroup, nil); err != nil {
		return "", errNoCustomAPI
	}
	for _, v := range append([]metav1.GroupVersionForDiscovery{group.PreferredVersion}, group.Versions...) {
		if slices.Contains([]string{"v1beta2", "v1beta1"}, v.Version) {
			return v.Version, nil
		}
	}
	return "", errNoVersion
}

func (r *reader) external(m *autoscalingv2.MetricIdentifier) ([]int64, error) {
	q := url.Values{}
	if m.Selector != nil {
		selector, err := metav1.LabelSelectorAsSelector(m.Selector)
		if err != nil {
			return nil, err
		}
		if !selector.Empty() {
			q.Set("labelSelector", selector.String())
		}
	}
	var list struct {
		Items []struct {
			Value resource.Quantity `json:"value"`
		} `json:"items"`
	}
	if err := r.get(&list, "/apis/external.metrics.k8s.io/v1beta1/namespaces/"+r.namespace+"/"+m.Name, q); err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from external metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, errNoExternals
	}
	var out []int64
	for i := range list.Items {
		out = append(out, list.Items[i].Value.MilliValue())
	}
	return out, nil
}
