package kubelet

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"knarr.dev/knarr/internal/kubelet/cadvisor"
)

// cgroupMetrics show cgroups as the field's dashboards know them from cAdvisor.
// There is no collecting in between.
type cgroupMetrics struct{ k *Kubelet }

func (c cgroupMetrics) families() []cadvisor.Family {
	return cadvisor.Families(func(number string) string { return cadvisor.Device(c.k.sys, number) })
}

func describe(f cadvisor.Family) *prometheus.Desc {
	return prometheus.NewDesc(f.Name, f.Help, slices.Concat(cadvisor.Labels, f.Labels), nil)
}

var (
	machineLabels   = []string{"boot_id", "machine_id", "system_uuid"}
	machineCPUs     = prometheus.NewDesc("machine_cpu_cores", "Processors of the machine.", machineLabels, nil)
	machineMemory   = prometheus.NewDesc("machine_memory_bytes", "Memory of the machine.", machineLabels, nil)
	machineSwap     = prometheus.NewDesc("machine_swap_bytes", "What the machine can swap to.", machineLabels, nil)
	scrapeErrorDesc = prometheus.NewDesc("container_scrape_error", "1: the cgroups cannot be read.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c cgroupMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range c.families() {
		ch <- describe(f)
	}
	for _, d := range []*prometheus.Desc{machineCPUs, machineMemory, machineSwap, scrapeErrorDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c cgroupMetrics) Collect(ch chan<- prometheus.Metric) {
	all, _ := c.k.measure()
	failed := 0.0
	if len(all) == 0 { // there is always the root
		failed = 1
	}
	ch <- prometheus.MustNewConstMetric(scrapeErrorDesc, prometheus.GaugeValue, failed)
	m := &c.k.machine
	ids := []string{m.info.BootID, m.info.MachineID, m.info.SystemUUID}
	ch <- prometheus.MustNewConstMetric(machineCPUs, prometheus.GaugeValue, float64(m.cpus), ids...)
	ch <- prometheus.MustNewConstMetric(machineMemory, prometheus.GaugeValue, float64(m.memory), ids...)
	ch <- prometheus.MustNewConstMetric(machineSwap, prometheus.GaugeValue, float64(meminfo(c.k.proc)["SwapTotal"]), ids...)
	for i := range all {
		switch m := &all[i]; {
		case m.path == "/": // what a pod takes of the disk no file tells
			m.Disk = cadvisor.DiskOf(c.k.sys, c.k.cfg.RootDir)
		case m.id != "":
			m.Files = cadvisor.FilesOf(c.k.proc, c.k.cgroups.Procs(m.path))
		}
	}
	for _, f := range c.families() {
		desc, kind := describe(f), prometheus.GaugeValue
		if f.Counter {
			kind = prometheus.CounterValue
		}
		for i := range all {
			m := &all[i]
			for _, v := range f.Values(&m.Measured) {
				labels := append([]string{m.container, m.path, m.image, m.id, m.namespace, m.pod}, v.Labels...)
				ch <- prometheus.NewMetricWithTimestamp(m.Usage.At, prometheus.MustNewConstMetric(desc, kind, v.Value, labels...))
			}
		}
	}
}
