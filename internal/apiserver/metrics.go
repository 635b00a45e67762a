package apiserver

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store/cache"
	"knarr.dev/knarr/internal/version"
)

// component is what upstream's API server calls itself in labels.
const component = "apiserver"

// The buckets are upstream's: dashboards and alerts rest on them.
var (
	durationBuckets  = []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}
	sliBuckets       = durationBuckets[2:]
	listBuckets      = append(sliBuckets[:len(sliBuckets):len(sliBuckets)], 90, 120, 180, 300)
	admissionBuckets = []float64{0.005, 0.025, 0.1, 0.5, 1, 2.5}
	accessBuckets    = prometheus.ExponentialBuckets(0.001, 2, 15)
)

// metrics have upstream's names. Labels take values from the table of kinds
// and fixed sets only, never from a client (CVE-2020-8552).
type metrics struct {
	registry *prometheus.Registry
	table    *kinds.Table

	total                *prometheus.CounterVec
	duration, sli, sizes *prometheus.HistogramVec
	open                 *prometheus.GaugeVec
	deprecated           *prometheus.GaugeVec
	aborted, terminated  *prometheus.CounterVec
	handshakes           prometheus.Counter
	events               *prometheus.CounterVec
	eventSizes           *prometheus.HistogramVec
	watchLists           *prometheus.HistogramVec

	users                         *prometheus.CounterVec
	authn, authz                  *prometheus.CounterVec
	authnDuration, authzDuration  *prometheus.HistogramVec
	certificates                  prometheus.Histogram
	steps, controllers            *prometheus.HistogramVec
	health                        *prometheus.GaugeVec
	healthTotal                   *prometheus.CounterVec
	slis                          *prometheus.Registry // what /metrics/slis shows
	others                        map[string]prometheus.Gatherer
	known                         sync.Map // of *series, by answered
	stepTimes                     stepTimes
	allowed, denied, noOpinion    access
	authenticated, failed, broken access
}

// answered is what requests that are counted together have in common.
type answered struct {
	verb, dryRun string
	gvr          schema.GroupVersionResource
	sub, scope   string
	code         int
}

type series struct {
	total                prometheus.Counter
	duration, sli, sizes prometheus.Observer // sizes: nil for what is not read
}

type access struct {
	total   prometheus.Counter
	seconds prometheus.Observer
}

func (a access) took(d time.Duration) {
	a.total.Inc()
	a.seconds.Observe(d.Seconds())
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
}

func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
}

func newMetrics(s *Server) *metrics {
	request := []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}
	with := func(more ...string) []string { return append(request[:len(request):len(request)], more...) }
	m := &metrics{registry: s.cfg.Metrics, slis: prometheus.NewRegistry(), others: s.cfg.Gatherers, table: s.cfg.Kinds,
		total:      counter("apiserver_request_total", "Requests that were answered.", with("dry_run", "code")...),
		duration:   histogram("apiserver_request_duration_seconds", "Time until requests were answered, in seconds.", durationBuckets, with("dry_run")...),
		sli:        histogram("apiserver_request_sli_duration_seconds", "The same without the time in webhooks and in the queues of priority and fairness.", sliBuckets, request...),
		sizes:      histogram("apiserver_response_sizes", "Bytes of answers to those who read.", prometheus.ExponentialBuckets(1000, 10, 7), request...),
		open:       gauge("apiserver_longrunning_requests", "Watches and streams that are open.", request...),
		deprecated: gauge("apiserver_requested_deprecated_apis", "Deprecated APIs that were asked for.", "group", "version", "resource", "subresource", "removed_release"),
		aborted:    counter("apiserver_request_aborts_total", "Answers that were broken off.", request[:6]...),
		terminated: counter("apiserver_request_terminations_total", "Requests that were sent away to protect the server.", with("code")...),
		handshakes: prometheus.NewCounter(prometheus.CounterOpts{Name: "apiserver_tls_handshake_errors_total", Help: "Connections that did not come about."}),
		events:     counter("apiserver_watch_events_total", "Events sent to watches.", "group", "version", "resource"),
		eventSizes: histogram("apiserver_watch_events_sizes", "Bytes of those events.", prometheus.ExponentialBuckets(1024, 2, 8), "group", "version", "resource"),
		watchLists: histogram("apiserver_watch_list_duration_seconds", "Time until watches that begin with a list had sent it.", listBuckets, "group", "version", "resource", "scope"),

		users:         counter("authenticated_user_requests", "Requests of known users, by kind of user.", "username"),
		authn:         counter("authentication_attempts", "Requests whose sender was to be found out.", "result"),
		authnDuration: histogram("authentication_duration_seconds", "Time that it took.", accessBuckets, "result"),
		authz:         counter("authorization_attempts_total", "Requests that had to be allowed.", "result"),
		authzDuration: histogram("authorization_duration_seconds", "Time that it took.", accessBuckets, "result"),
		certificates: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "apiserver_client_certificate_expiration_seconds", Help: "Time that the certificates which clients show have left.",
			Buckets: []float64{0, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 345600, 604800, 2592000, 7776000, 15552000, 31104000}}),

		steps:       histogram("apiserver_admission_step_admission_duration_seconds", "Time in a step of admission.", admissionBuckets, "operation", "type", "rejected"),
		controllers: histogram("apiserver_admission_controller_admission_duration_seconds", "Time in an admission plugin.", admissionBuckets, "name", "operation", "type", "rejected"),

		health:      gauge("kubernetes_healthcheck", "What a health check last said: 1 is well.", "name", "type"),
		healthTotal: counter("kubernetes_healthchecks_total", "Health checks by what they said.", "name", "type", "status"),
	}
	m.allowed, m.denied, m.noOpinion = m.access(m.authz, m.authzDuration, "allowed"), m.access(m.authz, m.authzDuration, "denied"), m.access(m.authz, m.authzDuration, "no-opinion")
	m.authenticated, m.failed, m.broken = m.access(m.authn, m.authnDuration, "success"), m.access(m.authn, m.authnDuration, "error"), m.access(m.authz, m.authzDuration, "error")
	m.slis.MustRegister(m.health, m.healthTotal)
	m.registry.MustRegister(m.total, m.duration, m.sli, m.sizes, m.open, m.deprecated, m.aborted, m.terminated, m.handshakes, m.events, m.eventSizes, m.watchLists,
		m.users, m.authn, m.authnDuration, m.authz, m.authzDuration, m.certificates, m.steps, m.controllers,
		objectCounts{s.cfg.Cache, s.cfg.Kinds}, s.fair, s.cfg.Audit.Metrics(), buildInfo(),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) access(total *prometheus.CounterVec, seconds *prometheus.HistogramVec, result string) access {
	return access{total.WithLabelValues(result), seconds.WithLabelValues(result)}
}

func buildInfo() prometheus.Collector {
	v := version.Info()
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kubernetes_build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"major": v.Major, "minor": v.Minor, "git_version": v.GitVersion, "git_commit": v.GitCommit, "git_tree_state": v.GitTreeState,
			"build_date": v.BuildDate, "go_version": v.GoVersion, "compiler": v.Compiler, "platform": v.Platform}}, func() float64 { return 1 })
}

var verbLabels = map[string]string{"get": "GET", "list": "LIST", "watch": "WATCH", "create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE", "deletecollection": "DELETE"}

// labelsOf a request: only what the server knows of is told.
func (m *metrics) labelsOf(in *info) answered {
	a := answered{verb: verbLabels[in.verb], dryRun: in.dryRun, scope: scopeOf(in)}
	switch {
	case in.apply:
		a.verb = "APPLY"
	case in.longRunning() && a.verb != "WATCH":
		a.verb = "CONNECT"
	case a.verb == "":
		a.verb = "other"
	}
	if k := m.table.ByResource(in.gvr); k != nil {
		if _, ok := k.Subresources[in.sub]; ok || in.sub == "" {
			a.gvr, a.sub = in.gvr, in.sub
		}
	}
	return a
}

// scopeOf is upstream's: one object, a namespace, or all.
func scopeOf(in *info) string {
	switch {
	case in.name != "" || in.verb == "create":
		return "resource"
	case in.ns != "":
		return "namespace"
	case in.resource:
		return "cluster"
	}
	return ""
}

// unsent is the size of an answer in process.
const unsent = -1

func (m *metrics) observe(in *info, code int, size int64, took time.Duration) {
	a := m.labelsOf(in)
	if code >= 100 && code <= 599 { // else a backend's invention, or a client that has gone before the answer
		a.code = code
	}
	v, ok := m.known.Load(a)
	if !ok {
		v, _ = m.known.LoadOrStore(a, m.series(a))
	}
	s := v.(*series)
	s.total.Inc()
	s.duration.Observe(took.Seconds())
	if a.dryRun == "" {
		s.sli.Observe((took - in.waited).Seconds())
	}
	if s.sizes != nil && size != unsent {
		s.sizes.Observe(float64(size))
	}
}

func (m *metrics) series(a answered) *series {
	l := a.labels()
	s := &series{total: m.total.WithLabelValues(append(l, a.dryRun, strconv.Itoa(a.code))...),
		duration: m.duration.WithLabelValues(append(l, a.dryRun)...), sli: m.sli.WithLabelValues(l...)}
	if a.verb == "GET" || a.verb == "LIST" {
		s.sizes = m.sizes.WithLabelValues(l...)
	}
	return s
}

// labels that all metrics of requests have.
func (a answered) labels() []string {
	l := []string{a.verb, a.gvr.Group, a.gvr.Version, a.gvr.Resource, a.sub, a.scope, component}
	return l[:len(l):len(l)]
}

// watched is where the events of one watch are counted.
type watched struct {
	events prometheus.Counter
	sizes  prometheus.Observer
}

func (m *metrics) watching(k *kinds.Kind) watched {
	return watched{m.events.WithLabelValues(k.GVK.Group, k.GVK.Version, k.Resource), m.eventSizes.WithLabelValues(k.GVK.Group, k.GVK.Version, k.Resource)}
}

// asked notes that a version of an API is used which has no future.
// None of the built-in kinds is deprecated: nobody says when one will go.
func (m *metrics) asked(in *info) {
	a := m.labelsOf(in)
	m.deprecated.WithLabelValues(a.gvr.Group, a.gvr.Version, a.gvr.Resource, a.sub, "").Set(1)
}

// gatherer of what /metrics, or a path below it, shows; nil: nothing.
func (m *metrics) gatherer(name string) prometheus.Gatherer {
	switch name {
	case "":
		return m.registry
	case "slis":
		return m.slis
	}
	return m.others[name]
}

// checked tells what a health check said.
func (m *metrics) checked(kind, name string, err error) {
	value, status := 1.0, "success"
	if err != nil {
		value, status = 0, "error"
	}
	m.health.WithLabelValues(name, kind).Set(value)
	m.healthTotal.WithLabelValues(name, kind, status).Inc()
}

// step tells how long a step of admission took, less what webhooks were
// waited for.
func (m *metrics) step(r *admission.Request, kind stepKind, took time.Duration, err error) {
	m.stepTimes.of(m.steps, r.Operation, kind, err != nil).Observe(took.Seconds())
}

// timed plugins tell how long they take.
func (m *metrics) timed(plugins []admission.Plugin) []admission.Plugin {
	out := make([]admission.Plugin, len(plugins))
	for i, p := range plugins {
		out[i] = &timedPlugin{Plugin: p, m: m}
	}
	return out
}

type timedPlugin struct {
	admission.Plugin
	m     *metrics
	times stepTimes
}

// stepKind is admit or validate, in upstream's words.
type stepKind int

const (
	admit stepKind = iota
	validate
)

func (k stepKind) String() string { return [...]string{"admit", "validate"}[k] }

// stepTimes are the histograms of a step or a plugin, made when first needed:
// to find them by their labels each time would cost more than most plugins.
type stepTimes [4][2][2]atomic.Pointer[prometheus.Observer]

func (t *stepTimes) of(v *prometheus.HistogramVec, op admission.Operation, kind stepKind, rejected bool, name ...string) prometheus.Observer {
	r := 0
	if rejected {
		r = 1
	}
	at := &t[slices.Index(operations[:], op)][kind][r]
	if o := at.Load(); o != nil {
		return *o
	}
	o := v.WithLabelValues(append(name, string(op), kind.String(), strconv.FormatBool(rejected))...)
	at.Store(&o)
	return o
}

var operations = [4]admission.Operation{admission.Create, admission.Update, admission.Delete, admission.Connect}

// Mutate implements admission.Plugin.
func (p *timedPlugin) Mutate(ctx context.Context, r *admission.Request) error {
	began := time.Now()
	err := p.Plugin.Mutate(ctx, r)
	p.took(r.Operation, admit, time.Since(began), err)
	return err
}

// Validate implements admission.Plugin.
func (p *timedPlugin) Validate(ctx context.Context, r *admission.Request) error {
	began := time.Now()
	err := p.Plugin.Validate(ctx, r)
	p.took(r.Operation, validate, time.Since(began), err)
	return err
}

func (p *timedPlugin) took(op admission.Operation, kind stepKind, d time.Duration, err error) {
	p.times.of(p.m.controllers, op, kind, err != nil, p.Name()).Observe(d.Seconds())
}

// authorized tells how a decision came out.
func (m *metrics) authorized(d authorizer.Decision, err error, took time.Duration) {
	switch {
	case d == authorizer.DecisionAllow:
		m.allowed.took(took)
	case err != nil:
		m.broken.took(took)
	case d == authorizer.DecisionDeny:
		m.denied.took(took)
	default:
		m.noOpinion.took(took)
	}
}

// identified tells that the sender was found out. Names of users are told in
// upstream's few classes.
func (m *metrics) identified(r *http.Request, name string, took time.Duration, now time.Time) {
	m.authenticated.took(took)
	class := "other"
	switch {
	case name == "admin" || name == "client" || name == "kube_proxy" || name == "kubelet" || name == "system:serviceaccount:kube-system:default":
		class = name
	case strings.Contains(name, "@"):
		class = "email_id"
	}
	m.users.WithLabelValues(class).Inc()
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		m.certificates.Observe(r.TLS.PeerCertificates[0].NotAfter.Sub(now).Seconds())
	}
}

// objectCounts is counted when asked for.
type objectCounts struct {
	cache *cache.Cache
	table *kinds.Table
}

var (
	storedDesc  = prometheus.NewDesc("apiserver_storage_objects", "Stored objects by resource.", []string{"resource"}, nil)
	objectsDesc = prometheus.NewDesc("apiserver_resource_objects", "Stored objects by group and resource.", []string{"group", "resource"}, nil)
)

// Describe implements prometheus.Collector.
func (o objectCounts) Describe(ch chan<- *prometheus.Desc) {
	ch <- storedDesc
	ch <- objectsDesc
}

// Collect implements prometheus.Collector.
func (o objectCounts) Collect(ch chan<- prometheus.Metric) {
	for _, k := range o.table.All() {
		if !k.Stored() || k.StoredAs != nil {
			continue
		}
		n := float64(o.cache.List(k, "").Len())
		ch <- prometheus.MustNewConstMetric(storedDesc, prometheus.GaugeValue, n, k.GroupResource().String())
		ch <- prometheus.MustNewConstMetric(objectsDesc, prometheus.GaugeValue, n, k.GVK.Group, k.Resource)
	}
}
