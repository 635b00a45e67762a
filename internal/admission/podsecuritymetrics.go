package admission

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/pod-security-admission/api"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/version"
)

// judgements on pods, counted under upstream's names. A nil one counts nothing.
type judgements struct {
	self                          api.Version // of this server: later ones are told as one
	evaluations, exempted, errors *prometheus.CounterVec
}

func newJudgements(r prometheus.Registerer) (*judgements, error) {
	if r == nil {
		return nil, nil
	}
	v := version.Info()
	self, err := api.ParseVersion(fmt.Sprintf("v%s.%s", v.Major, v.Minor))
	if err != nil {
		return nil, err
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pod_security_" + name, Help: help}, append(labels, "request_operation", "resource", "subresource"))
	}
	j := &judgements{
		self:        self,
		evaluations: counter("evaluations_total", "Judgements on pods, without requests that are exempt.", "decision", "policy_level", "policy_version", "mode"),
		exempted:    counter("exemptions_total", "Requests that were exempt."),
		errors:      counter("errors_total", "What stood in the way of a judgement; if it was not fatal, the strictest level held.", "fatal"),
	}
	for _, c := range []prometheus.Collector{j.evaluations, j.exempted, j.errors} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	// Of the usual ones dashboards want to know the zero, as upstream's show it.
	for _, operation := range []string{"create", "update"} {
		j.evaluations.WithLabelValues("allow", string(api.LevelPrivileged), api.VersionLatest, "enforce", operation, "pod", "")
		j.exempted.WithLabelValues(operation, "pod", "")
		j.exempted.WithLabelValues(operation, "controller", "")
	}
	return j, nil
}

// about says which requests are counted together.
func about(r *Request, more ...string) []string {
	resource := "controller"
	if r.Ref.Kind == kinds.Pod {
		resource = "pod"
	}
	return append(more, strings.ToLower(string(r.Operation)), resource, r.Ref.Sub)
}

func (j *judgements) judged(r *Request, mode string, lv api.LevelVersion, allowed bool) {
	if j == nil {
		return
	}
	decision, v := "deny", lv.Version.String()
	if allowed {
		decision = "allow"
	}
	switch {
	case lv.Level == api.LevelPrivileged: // of all versions the same
		v = api.VersionLatest
	case !lv.Version.Latest() && j.self.Older(lv.Version):
		v = "future"
	}
	j.evaluations.WithLabelValues(about(r, decision, string(lv.Level), v, mode)...).Inc()
}

func (j *judgements) exempt(r *Request) {
	if j != nil {
		j.exempted.WithLabelValues(about(r)...).Inc()
	}
}

func (j *judgements) failed(r *Request, fatal bool) {
	if j != nil {
		j.errors.WithLabelValues(about(r, strconv.FormatBool(fatal))...).Inc()
	}
}
