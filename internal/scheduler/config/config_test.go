package config

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"knarr.dev/knarr/internal/scheduler"
)

const head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"

func read(t *testing.T, text string) (*Configuration, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "scheduler.yaml")
	if err := os.WriteFile(file, []byte(head+text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Read(file)
}

func profile(t *testing.T, text string) scheduler.Profile {
	t.Helper()
	c, err := read(t, text)
	if err != nil {
		t.Fatal(err)
	}
	// It is one that the scheduler takes, too.
	return c.Profiles[0]
}

func plugins1(text string) string { return "profiles:\n- plugins:\n    " + text }

func args1(plugin, text string) string {
	return "profiles:\n- pluginConfig:\n  - name: " + plugin + "\n    args: " + text
}

// A file that says nothing is the default profile, and the table of plugins
// knows all that the scheduler has.
func TestDefault(t *testing.T) {
	c, err := read(t, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Profiles) != 1 || c.MinBackoff != time.Second || c.MaxBackoff != 10*time.Second || len(c.Extenders) != 0 {
		t.Fatalf("%+v", c)
	}
	want := scheduler.DefaultProfile()
	got := c.Profiles[0]
	if got.Name != "default-scheduler" || !maps.Equal(got.Filters, want.Filters) || !maps.Equal(got.Weights, want.Weights) || !got.Preempts {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestPlugins(t *testing.T) {
	all := scheduler.DefaultProfile()
	for _, tt := range []struct {
		name, text string
		lacks      []string         // of the filters
		weights    map[string]int32 // other than the default; 0: not there
		still      bool             // no preemption
	}{
		{"nothing", "{}", nil, nil, false},
		{"a weight", "{score: {enabled: [{name: NodeAffinity, weight: 7}]}}", nil, map[string]int32{"NodeAffinity": 7}, false},
		{"a weight by multiPoint", "{multiPoint: {enabled: [{name: NodeAffinity, weight: 7}]}}", nil, map[string]int32{"NodeAffinity": 7}, false},
		{"without a weight it is 1", "{multiPoint: {enabled: [{name: NodeAffinity}]}}", nil, map[string]int32{"NodeAffinity": 1}, false},
		{"score counts before multiPoint", "{multiPoint: {enabled: [{name: NodeAffinity, weight: 7}]}, score: {enabled: [{name: NodeAffinity, weight: 4}]}}", nil, map[string]int32{"NodeAffinity": 4}, false},
		{"a scorer less", "{score: {disabled: [{name: ImageLocality}, {name: PodTopologySpread}]}}", nil, map[string]int32{"ImageLocality": 0, "PodTopologySpread": 0}, false},
		{"disabled and enabled is enabled", "{score: {disabled: [{name: ImageLocality}], enabled: [{name: ImageLocality, weight: 3}]}}", nil, map[string]int32{"ImageLocality": 3}, false},
		{"no scorer", "{preScore: {disabled: [{name: '*'}]}, score: {disabled: [{name: '*'}]}}", nil,
			map[string]int32{"NodeResourcesFit": 0, "NodeResourcesBalancedAllocation": 0, "TaintToleration": 0, "NodeAffinity": 0, "InterPodAffinity": 0, "PodTopologySpread": 0, "ImageLocality": 0, "VolumeBinding": 0, "DynamicResources": 0}, false},
		{"one scorer", "{score: {disabled: [{name: '*'}], enabled: [{name: ImageLocality, weight: 2}]}}", nil,
			map[string]int32{"NodeResourcesFit": 0, "NodeResourcesBalancedAllocation": 0, "TaintToleration": 0, "NodeAffinity": 0, "InterPodAffinity": 0, "PodTopologySpread": 0, "ImageLocality": 2, "VolumeBinding": 0, "DynamicResources": 0}, false},
		{"a plugin less", "{multiPoint: {disabled: [{name: TaintToleration}]}}", []string{"TaintToleration"}, map[string]int32{"TaintToleration": 0}, false},
		{"a filter less, its score stays", "{preFilter: {disabled: [{name: TaintToleration}]}, filter: {disabled: [{name: TaintToleration}]}}", []string{"TaintToleration"}, nil, false},
		{"a plugin only at some points", "{multiPoint: {disabled: [{name: TaintToleration}]}, preFilter: {enabled: [{name: TaintToleration}]}, filter: {enabled: [{name: TaintToleration}]}}", nil, map[string]int32{"TaintToleration": 0}, false},
		{"no preemption", "{postFilter: {disabled: [{name: DefaultPreemption}]}}", nil, nil, true},
		{"what is not there is disabled", "{multiPoint: {disabled: [{name: GangScheduling}]}}", nil, nil, false},
		{"no devices", "{multiPoint: {disabled: [{name: DynamicResources}]}}", []string{"DynamicResources"}, map[string]int32{"DynamicResources": 0}, false},
		{"no limits of volumes", "{multiPoint: {disabled: [{name: NodeVolumeLimits}]}}", []string{"NodeVolumeLimits"}, nil, false},
		{"no volume is bound", "{multiPoint: {disabled: [{name: VolumeBinding}]}}", []string{"VolumeBinding"}, map[string]int32{"VolumeBinding": 0}, false},
		{"volumes are not compared", "{score: {disabled: [{name: VolumeBinding}]}}", nil, map[string]int32{"VolumeBinding": 0}, false},
		{"all but the necessary", "{multiPoint: {disabled: [{name: '*'}], enabled: [{name: SchedulingGates}, {name: PrioritySort}, {name: DefaultBinder}, {name: NodeResourcesFit, weight: 5}]}}",
			slices.DeleteFunc(slices.Collect(maps.Keys(all.Filters)), func(s string) bool { return s == "NodeResourcesFit" }),
			map[string]int32{"NodeResourcesFit": 5, "NodeResourcesBalancedAllocation": 0, "TaintToleration": 0, "NodeAffinity": 0, "InterPodAffinity": 0, "PodTopologySpread": 0, "ImageLocality": 0, "VolumeBinding": 0, "DynamicResources": 0}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := profile(t, plugins1(tt.text))
			filters, weights := maps.Clone(all.Filters), maps.Clone(all.Weights)
			for _, name := range tt.lacks {
				delete(filters, name)
			}
			for name, w := range tt.weights {
				if weights[name] = w; w == 0 {
					delete(weights, name)
				}
			}
			if !maps.Equal(got.Filters, filters) || !maps.Equal(got.Weights, weights) || got.Preempts == tt.still {
				t.Errorf("filters %v, weights %v, preempts %v\nwant    %v, weights %v", got.Filters, got.Weights, got.Preempts, filters, weights)
			}
		})
	}
}

func TestSettings(t *testing.T) {
	c, err := read(t, `
percentageOfNodesToScore: 40
podInitialBackoffSeconds: 2
podMaxBackoffSeconds: 30
enableProfiling: false
leaderElection: {leaderElect: true, leaseDuration: 15s, resourceLock: leases}
clientConnection: {qps: 50}
parallelism: 16
profiles:
- schedulerName: a
- schedulerName: b
  percentageOfNodesToScore: 70
  pluginConfig:
  - name: NodeResourcesFit
    args: {ignoredResources: [x.y/a]}
extenders:
- {urlPrefix: "http://127.0.0.1:1/x", filterVerb: f, managedResources: [{name: x.y/b, ignoredByScheduler: true}, {name: x.y/c}], httpTimeout: 3s}`)
	if err != nil {
		t.Fatal(err)
	}
	a, b := c.Profiles[0], c.Profiles[1]
	if a.Name != "a" || b.Name != "b" || a.PercentageOfNodes != 40 || b.PercentageOfNodes != 70 || c.MinBackoff != 2*time.Second || c.MaxBackoff != 30*time.Second {
		t.Errorf("%+v", c)
	}
	if !slices.Equal(a.Resources.IgnoredResources, []string{"x.y/b"}) || !slices.Equal(b.Resources.IgnoredResources, []string{"x.y/a", "x.y/b"}) {
		t.Errorf("ignored: %v and %v", a.Resources.IgnoredResources, b.Resources.IgnoredResources)
	}
	if e := c.Extenders[0]; e.FilterVerb != "f" || e.HTTPTimeout.Duration != 3*time.Second || e.Call == nil {
		t.Errorf("%+v", e)
	}
}

func TestArgs(t *testing.T) {
	p := profile(t, args1("NodeResourcesFit", "{scoringStrategy: {type: MostAllocated, resources: [{name: x.y/gpu, weight: 3}, {name: cpu}]}}"))
	if s := p.Resources.ScoringStrategy; s.Type != "MostAllocated" || len(s.Resources) != 2 || s.Resources[0].Weight != 3 || s.Resources[1].Weight != 1 {
		t.Errorf("%+v", s)
	}
	p = profile(t, args1("NodeResourcesFit", "{ignoredResourceGroups: [x.y]}"))
	if s := p.Resources.ScoringStrategy; s == nil || s.Type != "LeastAllocated" || len(s.Resources) != 2 {
		t.Errorf("%+v", p.Resources)
	}
	p = profile(t, args1("InterPodAffinity", "{apiVersion: kubescheduler.config.k8s.io/v1, kind: InterPodAffinityArgs, hardPodAffinityWeight: 0, ignorePreferredTermsOfExistingPods: true}"))
	if *p.PodAffinity.HardPodAffinityWeight != 0 || !p.PodAffinity.IgnorePreferredTermsOfExistingPods {
		t.Errorf("%+v", p.PodAffinity)
	}
	p = profile(t, args1("DefaultPreemption", "{minCandidateNodesAbsolute: 7}"))
	if *p.Preemption.MinCandidateNodesPercentage != 10 || *p.Preemption.MinCandidateNodesAbsolute != 7 {
		t.Errorf("%+v", p.Preemption)
	}
	p = profile(t, args1("PodTopologySpread", "{defaultingType: List, defaultConstraints: [{maxSkew: 2, topologyKey: rack, whenUnsatisfiable: DoNotSchedule}]}"))
	if p.Spread.DefaultingType != "List" || len(p.Spread.DefaultConstraints) != 1 {
		t.Errorf("%+v", p.Spread)
	}
	p = profile(t, args1("NodeAffinity", "{addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}"))
	if p.NodeAffinity.AddedAffinity == nil {
		t.Error("the added affinity is lost")
	}
	p = profile(t, args1("NodeResourcesBalancedAllocation", "{resources: [{name: cpu}, {name: x.y/gpu}]}"))
	if len(p.Balance.Resources) != 2 || p.Balance.Resources[1].Weight != 1 {
		t.Errorf("%+v", p.Balance)
	}
	if p := profile(t, args1("VolumeBinding", "{}")); *p.Volumes.BindTimeoutSeconds != 600 || len(p.Volumes.Shape) != 2 {
		t.Errorf("volumes by default: %+v", p.Volumes)
	}
	if p := profile(t, args1("VolumeBinding", "{bindTimeoutSeconds: 3, shape: [{utilization: 0, score: 0}, {utilization: 50, score: 9}, {utilization: 100, score: 10}]}")); *p.Volumes.BindTimeoutSeconds != 3 || p.Volumes.Shape[1].Score != 9 {
		t.Errorf("volumes: %+v", p.Volumes)
	}
	if p := profile(t, args1("DynamicResources", "{filterTimeout: 3s}")); p.Devices.FilterTimeout.Duration != 3*time.Second || p.Devices.BindingTimeout.Duration != 600*time.Second {
		t.Errorf("%+v", p.Devices)
	}
}

// What knarr does not do, and what cannot be, is refused with the field's name.
func TestRefusals(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"unknown field", "profile: []", `strict decoding error: unknown field "profile"`},
		{"twice", "parallelism: 16\nparallelism: 16", `"parallelism" already set`},
		{"unknown field of a profile", "profiles: [{schedulername: x}]", `unknown field "profiles[0].schedulername"`},
		{"unknown argument", args1("NodeAffinity", "{added: {}}"), `profiles[0].pluginConfig[0].args: Invalid value: "NodeAffinity": decoding args for plugin NodeAffinity: strict decoding error: unknown field "added"`},
		{"arguments of another", args1("NodeAffinity", "{kind: PodTopologySpreadArgs}"), "were not of type NodeAffinityArgs.kubescheduler.config.k8s.io"},
		{"arguments twice", "profiles: [{pluginConfig: [{name: NodeAffinity}, {name: NodeAffinity}]}]", "profiles[0].pluginConfig[1]: Duplicate value"},
		{"arguments of nobody", args1("Nobody", "{}"), "there is no such plugin"},
		{"arguments of one without", args1("NodeName", "{a: b}"), "plugin NodeName has no arguments"},
		{"volume binding before it begins", args1("VolumeBinding", "{bindTimeoutSeconds: -1}"), "profiles[0].pluginConfig[0].args.bindTimeoutSeconds: Invalid value: -1: invalid BindTimeoutSeconds, should not be a negative value"},
		{"volume binding of no shape", args1("VolumeBinding", "{shape: [{utilization: 50, score: 1}, {utilization: 20, score: 1}]}"), "profiles[0].pluginConfig[0].args.shape[1].utilization: Invalid value: 20: values must be sorted in increasing order"},
		{"devices", args1("DynamicResources", "{filterTimeout: -1s}"), `profiles[0].pluginConfig[0].args.filterTimeout: Invalid value: "-1s": must be zero or positive`},
		{"devices that are never ready", args1("DynamicResources", "{bindingTimeout: 0s}"), `profiles[0].pluginConfig[0].args.bindingTimeout: Invalid value: "0s": must be at least 1 second`},
		{"no name", "profiles: [{}, {schedulerName: x}]", "profiles[0].schedulerName: Required value"},
		{"name twice", "profiles: [{schedulerName: x}, {schedulerName: x}]", "profiles[1].schedulerName: Duplicate value: \"profiles[0].schedulerName\""},
		{"percentage", "percentageOfNodesToScore: 101", "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]"},
		{"profile's percentage", "profiles: [{percentageOfNodesToScore: -1}]", "profiles[0].percentageOfNodesToScore: Invalid value: -1: not in valid range [0-100]"},
		{"backoff", "podInitialBackoffSeconds: 0", "podInitialBackoffSeconds: Invalid value: 0: must be greater than 0"},
		{"longest backoff", "podMaxBackoffSeconds: 0", "podMaxBackoffSeconds: Invalid value: 0: must be greater than or equal to PodInitialBackoffSeconds"},
		{"leader election", "leaderElection: {leaderElect: false}", "leaderElection.leaderElect: Invalid value: false: cannot be set: knarr itself decides which server schedules"},
		{"lease", "leaderElection: {leaseDuration: 3s}", `leaderElection.leaseDuration: Invalid value: "3s"`},
		{"lock", "leaderElection: {resourceName: x}", "leaderElection.resourceName"},
		{"kubeconfig", "clientConnection: {kubeconfig: /x}", `clientConnection.kubeconfig: Invalid value: "/x": cannot be set: the scheduler is in the server's process`},
		{"qps", "clientConnection: {qps: 3}", "clientConnection.qps"},
		{"burst", "clientConnection: {burst: 3}", "clientConnection.burst"},
		{"content type", "clientConnection: {contentType: x}", "clientConnection.contentType"},
		{"parallelism", "parallelism: 3", "parallelism: Invalid value: 3: cannot be set"},
		{"profiling", "enableProfiling: true", "enableProfiling"},
		{"contention", "enableContentionProfiling: true", "enableContentionProfiling"},
		{"delay", "delayCacheUntilActive: true", "delayCacheUntilActive"},
		{"unknown plugin", plugins1("{filter: {enabled: [{name: Mine}]}}"), `profiles[0].plugins.filter.enabled[0].name: Invalid value: "Mine": there is no such plugin`},
		{"unknown plugin disabled", plugins1("{filter: {disabled: [{name: Mine}]}}"), `profiles[0].plugins.filter.disabled[0].name: Invalid value: "Mine": there is no such plugin`},
		{"plugin that is not here", plugins1("{multiPoint: {enabled: [{name: GangScheduling}]}}"), "knarr does not have this plugin"},
		{"wrong point", plugins1("{filter: {enabled: [{name: ImageLocality}]}}"), `plugin "ImageLocality" does not extend filter plugin`},
		{"twice enabled", plugins1("{score: {enabled: [{name: ImageLocality}, {name: ImageLocality}]}}"), "profiles[0].plugins.score.enabled[1].name: Duplicate value"},
		{"negative weight", plugins1("{score: {enabled: [{name: ImageLocality, weight: -1}]}}"), "must not be negative"},
		{"placement", plugins1("{placementScore: {enabled: [{name: PodGroupPodsCount}]}}"), "knarr does not have this plugin"},
		{"half a filter", plugins1("{preFilter: {disabled: [{name: NodeAffinity}]}}"), `profiles[0].plugins: Invalid value: "NodeAffinity": its preFilter, filter, reserve and preBind cannot be divided`},
		{"half a binding", plugins1("{reserve: {disabled: [{name: '*'}]}}"), `"VolumeBinding": its preFilter`},
		{"half a score", plugins1("{preScore: {disabled: [{name: NodeAffinity}]}}"), `"NodeAffinity": its preScore and score`},
		{"half a preemption", plugins1("{preEnqueue: {disabled: [{name: DefaultPreemption}]}}"), `"DefaultPreemption": its preEnqueue and postFilter`},
		{"gates", plugins1("{preEnqueue: {disabled: [{name: SchedulingGates}]}}"), `"SchedulingGates": cannot be disabled`},
		{"queue", plugins1("{queueSort: {disabled: [{name: '*'}]}}"), `"PrioritySort": cannot be disabled`},
		{"binder", plugins1("{multiPoint: {disabled: [{name: DefaultBinder}]}}"), `"DefaultBinder": cannot be disabled`},
		{"affinity", args1("NodeAffinity", "{addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Is}]}]}}}"), "addedAffinity.requiredDuringSchedulingIgnoredDuringExecution"},
		{"strategy", args1("NodeResourcesFit", "{scoringStrategy: {type: Best}}"), "scoringStrategy.type: Unsupported value"},
		{"no shape", args1("NodeResourcesFit", "{scoringStrategy: {type: RequestedToCapacityRatio}}"), "requestedToCapacityRatio: Required value"},
		{"shape for nothing", args1("NodeResourcesFit", "{scoringStrategy: {type: MostAllocated, requestedToCapacityRatio: {shape: [{utilization: 0, score: 1}]}}}"), "requestedToCapacityRatio: Forbidden"},
		{"shape out of order", args1("NodeResourcesFit", "{scoringStrategy: {type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 5, score: 1}, {utilization: 5, score: 2}]}}}"), "shape[1].utilization: Invalid value: 5: values must be sorted in increasing order"},
		{"score too high", args1("NodeResourcesFit", "{scoringStrategy: {type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 5, score: 11}]}}}"), "shape[0].score: Invalid value: 11: not in valid range [0, 10]"},
		{"weight", args1("NodeResourcesFit", "{scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 101}]}}"), "resource weight of cpu not in valid range (0, 100]"},
		{"group", args1("NodeResourcesFit", "{ignoredResourceGroups: [a.b/c]}"), "resource group name can't contain '/'"},
		{"balance", args1("NodeResourcesBalancedAllocation", "{resources: [{name: cpu, weight: 2}]}"), "resources[0].weight: Invalid value: 2: must be 1"},
		{"balance twice", args1("NodeResourcesBalancedAllocation", "{resources: [{name: cpu}, {name: cpu}]}"), "resources[1].name: Duplicate value"},
		{"spread", args1("PodTopologySpread", "{defaultConstraints: [{maxSkew: 2, topologyKey: rack, whenUnsatisfiable: DoNotSchedule}]}"), "when .defaultConstraints are not empty"},
		{"spread's type", args1("PodTopologySpread", "{defaultingType: Mine}"), "defaultingType: Unsupported value"},
		{"skew", args1("PodTopologySpread", "{defaultingType: List, defaultConstraints: [{topologyKey: rack, whenUnsatisfiable: DoNotSchedule}]}"), "maxSkew: Invalid value: 0"},
		{"constraint twice", args1("PodTopologySpread", "{defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: r, whenUnsatisfiable: DoNotSchedule}, {maxSkew: 2, topologyKey: r, whenUnsatisfiable: DoNotSchedule}]}"), "defaultConstraints[1]: Duplicate value"},
		{"selector", args1("PodTopologySpread", "{defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: r, whenUnsatisfiable: DoNotSchedule, labelSelector: {}}]}"), "labelSelector: Forbidden"},
		{"affinity's weight", args1("InterPodAffinity", "{hardPodAffinityWeight: 101}"), "hardPodAffinityWeight: Invalid value: 101: not in valid range [0, 100]"},
		{"candidates", args1("DefaultPreemption", "{minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 0}"), "cannot be zero at the same time as minCandidateNodesAbsolute"},
		{"extender's weight", "extenders: [{urlPrefix: 'http://x', prioritizeVerb: p}]", "extenders[0].weight: Invalid value: 0: must have a positive weight applied to it"},
		{"two binders", "extenders: [{urlPrefix: 'http://x', bindVerb: b}, {urlPrefix: 'http://y', bindVerb: b}]", "only one extender can implement bind"},
		{"managed twice", "extenders: [{urlPrefix: 'http://x', managedResources: [{name: x.y/a}, {name: x.y/a}]}]", "duplicate extender managed resource name"},
		{"managed cpu", "extenders: [{urlPrefix: 'http://x', managedResources: [{name: cpu}]}]", "is an invalid extended resource name"},
		{"timeout", "extenders: [{urlPrefix: 'http://x', httpTimeout: -1s}]", "extenders[0].httpTimeout"},
		{"url", "extenders: [{urlPrefix: 'ftp://x'}]", "extenders[0]: \"ftp://x\" is no http or https URL"},
		{"tls over http", "extenders: [{urlPrefix: 'http://x', enableHTTPS: true}]", "TLS settings, but the URL is not https"},
		{"two trusts", "extenders: [{urlPrefix: 'https://x', tlsConfig: {insecure: true, caData: eA==}}]", "specifying a root certificates file with the insecure flag is not allowed"},
		{"no certificate", "extenders: [{urlPrefix: 'https://x', tlsConfig: {caData: eA==}}]", "no certificate in the authorities"},
		{"half a certificate", "extenders: [{urlPrefix: 'https://x', tlsConfig: {certData: eA==}}]", "certificate and key go together"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := read(t, tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
	for _, text := range []string{"kind: Pod\napiVersion: v1\n", strings.Replace(head, "/v1", "/v1beta3", 1), "", "[]"} {
		if _, err := parse([]byte(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	if _, err := parse(make([]byte, maxSize+1)); err != errTooLarge { //nolint:errorlint // it is not wrapped
		t.Error(err)
	}
}
