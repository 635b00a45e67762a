package kubelet

import (
	"crypto/tls"
	"crypto/x509"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
)

// gauges are what is so on the node at the moment; it is looked up when
// somebody asks.
type gauges struct{ k *Kubelet }

var (
	nodeNameDesc   = prometheus.NewDesc("kubelet_node_name", "Always 1; the label is the node's name.", []string{"node"}, nil)
	podsDesc       = prometheus.NewDesc("kubelet_running_pods", "Pods that have a running sandbox.", nil, nil)
	containersDesc = prometheus.NewDesc("kubelet_running_containers", "Containers by state.", []string{"container_state"}, nil)
	desiredDesc    = prometheus.NewDesc("kubelet_desired_pods", "Pods that the API server has for this node.", []string{"static"}, nil)
	activeDesc     = prometheus.NewDesc("kubelet_active_pods", "Those that take room.", []string{"static"}, nil)
	workingDesc    = prometheus.NewDesc("kubelet_working_pods", "Pods by what is done with them, and whether the API server still has them.", []string{"lifecycle", "config", "static"}, nil)
	ephemeralDesc  = prometheus.NewDesc("kubelet_managed_ephemeral_containers", "Ephemeral containers of pods.", nil, nil)
	cgroupDesc     = prometheus.NewDesc("kubelet_cgroup_version", "Version of the machine's cgroups.", nil, nil)
	volumesDesc    = prometheus.NewDesc("volume_manager_total_volumes", "Volumes of pods, those that are to be there and those that are.", []string{"plugin_name", "state"}, nil)
	resizesDesc    = prometheus.NewDesc("kubelet_pod_pending_resizes", "Resizes of pods that wait, or that cannot be.", []string{"reason", "priority_bucket"}, nil)
	resizingDesc   = prometheus.NewDesc("kubelet_pod_in_progress_resizes", "Resizes of pods that are under way.", nil, nil)
	servingDesc    = prometheus.NewDesc("kubelet_certificate_manager_server_ttl_seconds", "Time that the certificate of this server has left.", nil, nil)
)

// Describe implements prometheus.Collector.
func (gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodeNameDesc, podsDesc, containersDesc, desiredDesc, activeDesc, workingDesc, ephemeralDesc, cgroupDesc, volumesDesc, resizesDesc, resizingDesc, servingDesc} {
		ch <- d
	}
}

// tally of the node's pods.
type tally struct {
	running, desired, active, ephemeral int
	resizing                            int
	resizes                             map[[2]string]int
	states                              [4]int // by plan.State
	working                             map[[3]string]int
	volumes                             map[[2]string]int
}

// stateNames by plan.State.
var stateNames = [4]string{"created", "running", "exited", "unknown"}

func (k *Kubelet) tally() tally {
	t := tally{working: map[[3]string]int{}, volumes: map[[2]string]int{}, resizes: map[[2]string]int{}}
	for _, w := range k.list() {
		w.mu.Lock()
		pod, absent := w.pod, w.absent
		lifecycle := "sync"
		switch {
		case w.over.Load():
			lifecycle = "terminated"
		case absent || w.evicted != "" || pod.DeletionTimestamp != nil:
			lifecycle = "terminating"
		}
		for _, b := range w.sandboxes {
			if b.Ready {
				t.running++
				break
			}
		}
		for i := range w.containers {
			t.states[w.containers[i].State]++
		}
		w.mu.Unlock()
		switch {
		case !absent:
			t.desired++
			t.working[[3]string{lifecycle, "desired", ""}]++
		case len(pod.Spec.Containers) > 0:
			t.working[[3]string{lifecycle, "orphan", ""}]++
		default: // known by the runtime alone
			t.working[[3]string{lifecycle, "runtime_only", "unknown"}]++
		}
		if !w.over.Load() && (w.placed.Load() || placed(pod)) {
			t.active++
		}
		t.resize(pod)
		t.ephemeral += len(pod.Spec.EphemeralContainers)
		for i := range pod.Spec.Volumes {
			name := pluginOf(&pod.Spec.Volumes[i])
			t.volumes[[2]string{name, "desired_state_of_world"}]++
			if w.mounted.Load() {
				t.volumes[[2]string{name, "actual_state_of_world"}]++
			}
		}
	}
	return t
}

// resize counts what the pod's status says of one.
func (t *tally) resize(pod *corev1.Pod) {
	for i := range pod.Status.Conditions {
		switch c := &pod.Status.Conditions[i]; {
		case c.Status != corev1.ConditionTrue:
		case c.Type == corev1.PodResizePending && (c.Reason == corev1.PodReasonDeferred || c.Reason == corev1.PodReasonInfeasible): // others are a client's words
			t.resizes[[2]string{strings.ToLower(c.Reason), priorityBucket(pod.Spec.Priority)}]++
		case c.Type == corev1.PodResizeInProgress:
			t.resizing++
		}
	}
}

// priorityBucket in upstream's words; system-critical begins where users' classes
// end.
func priorityBucket(priority *int32) string {
	p := int32(0)
	if priority != nil {
		p = *priority
	}
	switch {
	case p >= 2_000_000_000:
		return "system-critical"
	case p >= 100_000:
		return "high"
	case p > 0:
		return "medium"
	case p == 0:
		return "normal"
	case p > -1000:
		return "low"
	}
	return "very-low"
}

// pluginOf a volume, as upstream calls who makes it.
func pluginOf(v *corev1.Volume) string {
	name := "other"
	switch {
	case v.EmptyDir != nil:
		name = "empty-dir"
	case v.HostPath != nil:
		name = "host-path"
	case v.Secret != nil:
		name = "secret"
	case v.ConfigMap != nil:
		name = "configmap"
	case v.DownwardAPI != nil:
		name = "downward-api"
	case v.Projected != nil:
		name = "projected"
	case v.Image != nil:
		name = "image"
	case v.PersistentVolumeClaim != nil || v.Ephemeral != nil || v.CSI != nil:
		name = "csi"
	}
	return "kubernetes.io/" + name
}

// Collect implements prometheus.Collector.
func (g gauges) Collect(ch chan<- prometheus.Metric) {
	k := g.k
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	t := k.tally()
	gauge(nodeNameDesc, 1, k.cfg.NodeName)
	gauge(podsDesc, float64(t.running))
	for state, n := range t.states {
		gauge(containersDesc, float64(n), stateNames[state])
	}
	gauge(desiredDesc, float64(t.desired), "")
	gauge(activeDesc, float64(t.active), "")
	for labels, n := range t.working {
		gauge(workingDesc, float64(n), labels[:]...)
	}
	gauge(ephemeralDesc, float64(t.ephemeral))
	if k.cgroups != nil {
		version := 1.0
		if k.cgroups.Unified {
			version = 2
		}
		gauge(cgroupDesc, version)
	}
	for labels, n := range t.volumes {
		gauge(volumesDesc, float64(n), labels[:]...)
	}
	for labels, n := range t.resizes {
		gauge(resizesDesc, float64(n), labels[:]...)
	}
	gauge(resizingDesc, float64(t.resizing))
	if leaf := k.serving(); leaf != nil {
		gauge(servingDesc, leaf.NotAfter.Sub(k.cfg.Now()).Seconds())
	}
}

// serving is the certificate that the server shows now.
func (k *Kubelet) serving() *x509.Certificate {
	if k.cfg.TLS == nil || k.cfg.TLS.GetCertificate == nil {
		return nil
	}
	c, err := k.cfg.TLS.GetCertificate(&tls.ClientHelloInfo{ServerName: strings.ToLower(k.cfg.NodeName)})
	if err != nil || c == nil || len(c.Certificate) == 0 {
		return nil
	}
	if c.Leaf != nil {
		return c.Leaf
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return nil
	}
	return leaf
}
