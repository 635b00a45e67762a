package filewatch

import (
	"crypto/sha256"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Reloads counts how changes of one configuration were taken, under the names
// that upstream has for it. A nil one counts nothing.
type Reloads struct {
	server string // its hash
	total  *prometheus.CounterVec
	last   *prometheus.GaugeVec
	info   *prometheus.Desc
	holds  atomic.Pointer[string] // hash of the content that does
}

// NewReloads of what upstream calls the controller of that configuration;
// server tells this server from others.
func NewReloads(controller, server string) *Reloads {
	name := func(part string) string { return "apiserver_" + controller + "_" + part }
	labels := []string{"status", "apiserver_id_hash"}
	return &Reloads{
		server: Hash([]byte(server)),
		total:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: name("automatic_reloads_total"), Help: "Changes of the configuration file, by whether they were taken."}, labels),
		last:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name("automatic_reload_last_timestamp_seconds"), Help: "When such a change was last taken or refused."}, labels),
		info:   prometheus.NewDesc(name("last_config_info"), "Always 1; hash is of the configuration that holds.", []string{"apiserver_id_hash", "hash"}, nil),
	}
}

// Hash of a content, as these metrics show it.
func Hash(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

// Holds tells which content does, without a change.
func (r *Reloads) Holds(hash string) {
	if r != nil {
		r.holds.Store(&hash)
	}
}

// Told counts a change: err is why it was refused, hash what holds if it was
// not.
func (r *Reloads) Told(hash string, err error, now time.Time) {
	if r == nil {
		return
	}
	status := "success"
	if err != nil {
		status = "failure"
	} else {
		r.Holds(hash)
	}
	r.total.WithLabelValues(status, r.server).Inc()
	r.last.WithLabelValues(status, r.server).Set(float64(now.UnixNano()) / 1e9)
}

// Describe implements prometheus.Collector.
func (r *Reloads) Describe(ch chan<- *prometheus.Desc) {
	r.total.Describe(ch)
	r.last.Describe(ch)
	ch <- r.info
}

// Collect implements prometheus.Collector.
func (r *Reloads) Collect(ch chan<- prometheus.Metric) {
	r.total.Collect(ch)
	r.last.Collect(ch)
	if hash := r.holds.Load(); hash != nil {
		ch <- prometheus.MustNewConstMetric(r.info, prometheus.GaugeValue, 1, r.server, *hash)
	}
}
