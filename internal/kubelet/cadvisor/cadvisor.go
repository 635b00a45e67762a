// Package cadvisor has the metrics of cgroups under the names and labels that
// the field's dashboards know from cAdvisor, as functions of what was measured.
// The kubelet serves them to scrapers, the built-in runtime to clients of the
// CRI. What was not measured has no values.
package cadvisor

import (
	"time"

	"knarr.dev/knarr/internal/kubelet/cgroup"
)

// Labels that all metrics have, before those of their families: the name of the
// container in its pod, the cgroup, the image, the ID, and the pod.
var Labels = []string{"container", "id", "image", "name", "namespace", "pod"}

// Measured is what one cgroup was found to use.
type Measured struct {
	Started time.Time // zero: not told
	Usage   cgroup.Usage
	Network []Interface // of a network of its own
	Disk    *Disk       // nil: not told
	Files   *Files      // nil: not told
}

// Family is a metric.
type Family struct {
	Name, Help string
	Counter    bool     // or a gauge
	Labels     []string // its own, after those that all have
	Values     func(*Measured) []Figure
}

// Figure is a value and those of the labels that only its family has.
type Figure struct {
	Value  float64
	Labels []string
}

func counter(name, help string, values func(*Measured) []Figure, labels ...string) Family {
	return Family{"container_" + name, help, true, labels, values}
}

func gauge(name, help string, values func(*Measured) []Figure, labels ...string) Family {
	return Family{"container_" + name, help, false, labels, values}
}
