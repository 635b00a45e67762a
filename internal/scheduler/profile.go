package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	configv1 "k8s.io/kube-scheduler/config/v1"
)

// How long claims may take to be bound, if the profile does not say so: upstream's
// figure; and at most, which a duration can hold.
const (
	bindTimeoutSeconds    = 600
	maxBindTimeoutSeconds = 1 << 31
)

// Profile is one set of rules by which pods are scheduled: those that name it.
type Profile struct {
	Name string // what pods have as their schedulerName
	// Filters that are asked and Weights of the scorers that are, by upstream's
	// names of the plugins. A name that nothing here bears is an error.
	Filters map[string]bool
	Weights map[string]int32
	// Preempts: others of less priority may have to go for a pod.
	Preempts bool
	// PercentageOfNodes that fit are enough to choose from; 0: by their number.
	PercentageOfNodes int32

	// Arguments, with every default filled in.
	NodeAffinity configv1.NodeAffinityArgs
	Resources    configv1.NodeResourcesFitArgs
	Balance      configv1.NodeResourcesBalancedAllocationArgs
	Spread       configv1.PodTopologySpreadArgs
	PodAffinity  configv1.InterPodAffinityArgs
	Preemption   configv1.DefaultPreemptionArgs
	Volumes      configv1.VolumeBindingArgs
	Devices      configv1.DynamicResourcesArgs
}

// DefaultProfile is that of pods that name no scheduler.
func DefaultProfile() Profile {
	usual := []configv1.ResourceSpec{{Name: string(corev1.ResourceCPU), Weight: 1}, {Name: string(corev1.ResourceMemory), Weight: 1}}
	weight, percent, least, seconds := int32(1), int32(candidatePercent), int32(minCandidates), int64(bindTimeoutSeconds)
	p := Profile{
		Name: corev1.DefaultSchedulerName, Filters: map[string]bool{}, Weights: map[string]int32{}, Preempts: true,
		Resources:   configv1.NodeResourcesFitArgs{ScoringStrategy: &configv1.ScoringStrategy{Type: configv1.LeastAllocated, Resources: usual}},
		Balance:     configv1.NodeResourcesBalancedAllocationArgs{Resources: usual},
		Spread:      configv1.PodTopologySpreadArgs{DefaultingType: configv1.SystemDefaulting},
		PodAffinity: configv1.InterPodAffinityArgs{HardPodAffinityWeight: &weight},
		Preemption:  configv1.DefaultPreemptionArgs{MinCandidateNodesPercentage: &percent, MinCandidateNodesAbsolute: &least},
		// Upstream's: where much would be left is better.
		Volumes: configv1.VolumeBindingArgs{BindTimeoutSeconds: &seconds, Shape: []configv1.UtilizationShapePoint{{Utilization: 0, Score: 10}, {Utilization: 100, Score: 0}}},
	}
	p.Devices.FilterTimeout = &metav1.Duration{Duration: configv1.DynamicResourcesFilterTimeoutDefault}
	p.Devices.BindingTimeout = &metav1.Duration{Duration: configv1.DynamicResourcesBindingTimeoutDefault}
	list, _ := filters(&rules{})
	for _, f := range list {
		p.Filters[f.Name()] = true
	}
	for _, s := range scorers() {
		p.Weights[s.name] = int32(s.weight)
	}
	return p
}

// rules are a profile in the form in which decisions ask it.
type rules struct {
	filters []filter
	alone   int // see filters
	scorers []scorer

	added   *nodeaffinity.NodeSelector             // every pod's nodes must match; nil: any
	prefers *nodeaffinity.PreferredSchedulingTerms // of every pod; nil: none
	ignored ignoredResources

	left       func(*pod, *node, inUse) float64 // score of what is left of a node's resources
	balance    func(*pod, *node, inUse) float64 // score of how evenly they are used
	balanced   []corev1.ResourceName            // those that count for that
	spread     []spreadRule                     // of pods that have none; the selectors are found for each
	spreadHard bool                             // some of them must hold
	// spreadStrict: by these, a node without their labels is bad.
	spreadStrict bool

	hardWeight    float64 // of required affinity, when it is counted as preferred
	ownLikesOnly  bool    // placed pods' affinity is no matter for a pod that prefers nothing
	preempts      bool
	candidates    [2]int // how many are enough for preemption: percent of the nodes, at least
	percent       int    // of nodes that fit are enough; 0: by their number
	namesNodes    bool   // node affinity is asked, so a pod can name its nodes
	bindsVolumes  bool   // claims must be bound, or get a volume
	zonesVolumes  bool   // volumes must be where they say they are
	anyNodeServes bool   // nothing compares nodes: the first that fits is as good as any

	volumeShape func(used, of int64) float64 // score of what claims use of volumes
	bindTimeout time.Duration                // for claims to be bound

	scoresDevices bool          // nodes may be scored by devices that stand for a resource
	grantsDevices bool          // claims to devices must be met
	filterTimeout time.Duration // for the search of a pod's devices on all nodes; 0: none
	readyTimeout  time.Duration // for devices to be made ready
}

func newRules(p *Profile) (*rules, error) {
	r := &rules{
		hardWeight: float64(*p.PodAffinity.HardPodAffinityWeight), ownLikesOnly: p.PodAffinity.IgnorePreferredTermsOfExistingPods,
		preempts: p.Preempts, percent: int(p.PercentageOfNodes),
		candidates: [2]int{int(*p.Preemption.MinCandidateNodesPercentage), int(*p.Preemption.MinCandidateNodesAbsolute)},
		left:       leftBy(p.Resources.ScoringStrategy), balance: balanceOf(p.Balance.Resources),
	}
	for _, res := range p.Balance.Resources {
		r.balanced = append(r.balanced, corev1.ResourceName(res.Name))
	}
	r.scoresDevices = slices.ContainsFunc(slices.Concat(p.Balance.Resources, p.Resources.ScoringStrategy.Resources), func(s configv1.ResourceSpec) bool { return byOthers(corev1.ResourceName(s.Name)) })
	r.ignored = ignore(&p.Resources)
	if err := r.addAffinity(p.NodeAffinity.AddedAffinity); err != nil {
		return nil, fmt.Errorf("scheduler: profile %s: cannot read the added affinity: %w", p.Name, err)
	}
	r.spreadBy(&p.Spread)
	r.namesNodes, r.bindsVolumes, r.zonesVolumes = p.Filters[nodeAffinity{}.Name()], p.Filters[volumes{}.Name()], p.Filters[volumeZone{}.Name()]
	r.grantsDevices = p.Filters[dynamicResources{}.Name()]
	r.filterTimeout, r.readyTimeout = p.Devices.FilterTimeout.Duration, p.Devices.BindingTimeout.Duration
	r.volumeShape = byShape(p.Volumes.Shape)
	r.bindTimeout = time.Duration(min(*p.Volumes.BindTimeoutSeconds, maxBindTimeoutSeconds)) * time.Second
	if err := r.choose(p); err != nil {
		return nil, err
	}
	r.anyNodeServes = len(r.scorers) == 0
	return r, nil
}

// choose takes the filters and scorers that the profile wants, in our order.
func (r *rules) choose(p *Profile) error {
	unknown := func(kind string, names []string) error {
		return fmt.Errorf("scheduler: profile %s: no %s is named %q", p.Name, kind, names[0])
	}
	all, alone := filters(r)
	wanted := maps.Clone(p.Filters)
	for i, f := range all {
		if p.Filters[f.Name()] {
			r.filters = append(r.filters, f)
			if i < alone {
				r.alone++
			}
		}
		delete(wanted, f.Name())
	}
	for name := range wanted {
		return unknown("filter", []string{name})
	}
	weights := maps.Clone(p.Weights)
	for _, s := range scorers() {
		if w, ok := p.Weights[s.name]; ok {
			s.weight = float64(w)
			r.scorers = append(r.scorers, s)
		}
		delete(weights, s.name)
	}
	for name := range weights {
		return unknown("scorer", []string{name})
	}
	return nil
}

func (r *rules) addAffinity(a *corev1.NodeAffinity) (err error) {
	if a == nil {
		return nil
	}
	if required := a.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
		if r.added, err = nodeaffinity.NewNodeSelector(required); err != nil {
			return err
		}
	}
	if terms := a.PreferredDuringSchedulingIgnoredDuringExecution; len(terms) > 0 {
		r.prefers, err = nodeaffinity.NewPreferredSchedulingTerms(terms)
	}
	return err
}

// spreadBy takes in what pods are spread by that say nothing.
func (r *rules) spreadBy(args *configv1.PodTopologySpreadArgs) {
	constraints := args.DefaultConstraints
	if r.spreadStrict = args.DefaultingType == configv1.ListDefaulting; !r.spreadStrict {
		constraints = defaultSpread()
	}
	for i := range constraints {
		rule := spreadRuleOf(&corev1.Pod{}, &constraints[i])
		r.spread = append(r.spread, rule)
		r.spreadHard = r.spreadHard || rule.hard
	}
}

// defaultSpread is upstream's built-in: over hosts, and over zones a little
// less strictly.
func defaultSpread() []corev1.TopologySpreadConstraint {
	return []corev1.TopologySpreadConstraint{
		{TopologyKey: corev1.LabelHostname, MaxSkew: 3, WhenUnsatisfiable: corev1.ScheduleAnyway},
		{TopologyKey: corev1.LabelTopologyZone, MaxSkew: 5, WhenUnsatisfiable: corev1.ScheduleAnyway},
	}
}
