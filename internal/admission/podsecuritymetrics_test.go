package admission

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/metricstest"
)

func TestPodSecurityMetrics(t *testing.T) {
	spaces := []kinds.Object{levelled("free"), levelled("base", "enforce=baseline"), levelled("told", "warn=baseline", "audit=baseline", "audit-version=v1.20"),
		levelled("later", "enforce=baseline", "enforce-version=v1.99"), levelled("odd", "enforce=none"), levelled("ours", "enforce=restricted")}
	for _, o := range slices.Clone(spaces) {
		spaces = append(spaces, account(o.GetName(), "default"))
	}
	for _, tt := range []struct {
		name string
		r    *Request
		want []string
	}{
		{"free", create(kinds.Pod, privileged("free", "p")), []string{"evaluations_total allow enforce privileged latest create pod "}},
		{"allowed", create(kinds.Pod, simplePod("base", "p")), []string{"evaluations_total allow enforce baseline latest create pod "}},
		{"denied", create(kinds.Pod, privileged("base", "p")), []string{"evaluations_total deny enforce baseline latest create pod "}},
		{"warned and noted", create(kinds.Pod, privileged("told", "p")), []string{"evaluations_total allow enforce privileged latest create pod ",
			"evaluations_total deny audit baseline v1.20 create pod ", "evaluations_total deny warn baseline latest create pod "}},
		{"a later version", create(kinds.Pod, simplePod("later", "p")), []string{"evaluations_total allow enforce baseline future create pod "}},
		{"a workload", create(kinds.Deployment, deploymentOf(privileged("base", "p"))), []string{"evaluations_total deny warn baseline latest create controller "}},
		{"nothing new", &Request{Operation: Update, Ref: kinds.Ref{Kind: kinds.Pod, Namespace: "base", Name: "p"}, Object: privileged("base", "p"), Old: privileged("base", "p")}, nil},
		{"bad labels", create(kinds.Pod, simplePod("odd", "p")), []string{"errors_total false create pod ", "evaluations_total deny enforce restricted latest create pod "}},
		{"no namespace", create(kinds.Deployment, deploymentOf(simplePod("gone", "p"))), []string{"errors_total true create controller "}},
		{"exempt", create(kinds.Pod, privileged("ours", "p")), []string{"exemptions_total create pod "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			w := newWorldWith(t, Config{AccountPatience: -1, Metrics: reg, PodSecurity: PodSecurity{Namespaces: []string{"ours"}}}, spaces...)
			if o, ok := tt.r.Object.(kinds.Object); ok {
				tt.r.Ref.Namespace, tt.r.User = o.GetNamespace(), &user.DefaultInfo{Name: "jane"}
			}
			for _, p := range w.plugins {
				if s, ok := p.(podSecurity); ok {
					_ = s.Validate(t.Context(), tt.r) // what it answers is another test's
				}
			}
			counted := metricstest.Gathered(t, reg)
			maps.DeleteFunc(counted, func(name string, v float64) bool { return v == 0 || !strings.HasPrefix(name, "pod_security_") })
			got := slices.Sorted(maps.Keys(counted))
			want := make([]string, len(tt.want))
			for i, s := range tt.want {
				want[i] = "pod_security_" + s
			}
			if !slices.Equal(got, want) {
				t.Errorf("counted\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}
