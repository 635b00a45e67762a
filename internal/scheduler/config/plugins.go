package config

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"knarr.dev/knarr/internal/scheduler"
)

// point of a decision where a plugin comes in. More than one: a set.
type point uint16

const (
	preEnqueue point = 1 << iota
	queueSort
	preFilter
	filter
	postFilter
	preScore
	score
	reserve
	permit
	preBind
	bind
	postBind

	filters = preFilter | filter
	scores  = preScore | score
)

// plugin of upstream's. Those without points are not built here: the default
// ones among them may be disabled, none can be enabled.
type plugin struct {
	name   string
	points point
	weight int32 // of a scorer; 0: upstream says nothing, which is 1
}

// plugins by default, and others that upstream has.
var plugins = []plugin{
	{"SchedulingGates", preEnqueue, 0},
	{"PrioritySort", queueSort, 0},
	{"NodeName", filters, 0},
	{"NodeUnschedulable", filters, 0},
	{"TaintToleration", filters | scores, 3},
	{"NodeAffinity", filters | scores, 2},
	{"NodePorts", filters, 0},
	{"NodeResourcesFit", filters | scores, 1},
	{"VolumeRestrictions", filters, 0},
	{"NodeVolumeLimits", filters, 0},
	{"VolumeBinding", filters | scores | reserve | preBind, 0},
	{"VolumeZone", filters, 0},
	{"PodTopologySpread", filters | scores, 2},
	{"InterPodAffinity", filters | scores, 2},
	{"DynamicResources", preEnqueue | filters | postFilter | score | reserve | preBind, 2},
	{"DefaultPreemption", postFilter | preEnqueue, 0},
	{"NodeResourcesBalancedAllocation", scores, 1},
	{"ImageLocality", score, 1},
	{"DefaultBinder", bind, 0},
	{"GangScheduling", 0, 0},
	{"NodeDeclaredFeatures", 0, 0},
	{"DeferredPodScheduling", 0, 0},
	{"TopologyPlacementGenerator", 0, 0},
	{"PodGroupPodsCount", 0, 1},
}

func named(name string) *plugin {
	if i := slices.IndexFunc(plugins, func(p plugin) bool { return p.name == name }); i >= 0 {
		return &plugins[i]
	}
	return nil
}

// enabled is a plugin with its weight, 1 if none was said.
type enabled struct {
	*plugin
	weight int32
}

// section is one extension point of a profile.
type section struct {
	name string
	at   point
	set  configv1.PluginSet
}

// sections but multiPoint. The last three are of pod groups, which are not there.
func sections(p *configv1.Plugins) []section {
	return []section{
		{"preEnqueue", preEnqueue, p.PreEnqueue}, {"queueSort", queueSort, p.QueueSort}, {"preFilter", preFilter, p.PreFilter},
		{"filter", filter, p.Filter}, {"postFilter", postFilter, p.PostFilter}, {"preScore", preScore, p.PreScore}, {"score", score, p.Score},
		{"reserve", reserve, p.Reserve}, {"permit", permit, p.Permit}, {"preBind", preBind, p.PreBind}, {"bind", bind, p.Bind}, {"postBind", postBind, p.PostBind},
		{"placementGenerate", 0, p.PlacementGenerate}, {"placementScore", 0, p.PlacementScore}, {"podGroupPostFilter", 0, p.PodGroupPostFilter},
	}
}

// choose works out which plugins come in where, by upstream's rules: what is said
// for a point counts first, then multiPoint, then what is there by default; and
// what is enabled in a section is so even if the section disables it.
func choose(path *field.Path, p *configv1.Plugins, out *scheduler.Profile) field.ErrorList {
	if p == nil {
		p = &configv1.Plugins{}
	}
	on := map[*plugin]point{}
	multi, errs := multiPoint(path.Child("multiPoint"), p.MultiPoint)
	weights := map[*plugin]int32{}
	for _, s := range sections(p) {
		list, bad := listed(path.Child(s.name), s)
		errs = append(errs, bad...)
		for _, e := range list {
			on[e.plugin] |= s.at
			if s.at == score {
				weights[e.plugin] = e.weight
			}
		}
		if disables(s.set, "*") {
			continue
		}
		for _, e := range multi {
			if e.points&s.at == 0 || on[e.plugin]&s.at != 0 || disables(s.set, e.name) {
				continue
			}
			on[e.plugin] |= s.at
			if s.at == score {
				weights[e.plugin] = e.weight
			}
		}
	}
	if len(errs) > 0 {
		return errs
	}
	out.Filters, out.Weights = map[string]bool{}, map[string]int32{}
	for i := range plugins {
		errs = append(errs, apply(path, &plugins[i], on[&plugins[i]], weights[&plugins[i]], out)...)
	}
	return errs
}

// apply what a plugin's points mean here, where some only come together.
func apply(path *field.Path, p *plugin, on point, weight int32, out *scheduler.Profile) (errs field.ErrorList) {
	together := func(what string, set point, all bool) {
		if have := on & set & p.points; have != 0 && have != set&p.points && all {
			errs = append(errs, field.Invalid(path, p.name, "its "+what+" cannot be divided: enable or disable it at all of these points"))
		}
	}
	if p.name == "DynamicResources" {
		together("preEnqueue, preFilter, filter, postFilter, reserve and preBind", preEnqueue|filters|postFilter|reserve|preBind, true)
	}
	together("preFilter, filter, reserve and preBind", filters|reserve|preBind, true)
	together("preScore and score", scores, on&score != 0) // without a score the other does nothing
	together("preEnqueue and postFilter", preEnqueue|postFilter, on&postFilter != 0)
	if needed := (preEnqueue | queueSort | bind) & p.points; needed != 0 && p.points&postFilter == 0 && on&needed == 0 {
		errs = append(errs, field.Invalid(path, p.name, "cannot be disabled: nothing else can do what it does"))
	}
	if on&filter != 0 {
		out.Filters[p.name] = true
	}
	if on&score != 0 {
		out.Weights[p.name] = weight
	}
	if p.name == "DefaultPreemption" {
		out.Preempts = on&postFilter != 0
	}
	return errs
}

func disables(s configv1.PluginSet, name string) bool {
	return slices.ContainsFunc(s.Disabled, func(p configv1.Plugin) bool { return p.Name == name })
}

// multiPoint are the plugins that come in wherever they can.
func multiPoint(path *field.Path, set configv1.PluginSet) (list []enabled, errs field.ErrorList) {
	own, errs := listed(path, section{"multiPoint", ^point(0), set})
	for i := range plugins {
		p := &plugins[i]
		if p.points == 0 || disables(set, "*") || disables(set, p.name) || slices.ContainsFunc(own, func(e enabled) bool { return e.plugin == p }) {
			continue
		}
		list = append(list, enabled{p, max(p.weight, 1)})
	}
	return append(list, own...), errs
}

// listed are the plugins that a section enables; it checks all names.
func listed(path *field.Path, s section) (list []enabled, errs field.ErrorList) {
	for i, e := range s.set.Enabled {
		at, p := path.Child("enabled").Index(i), named(e.Name)
		switch {
		case p == nil:
			errs = append(errs, field.Invalid(at.Child("name"), e.Name, "there is no such plugin"))
		case p.points == 0 || s.at == 0:
			errs = append(errs, field.Invalid(at.Child("name"), e.Name, "knarr does not have this plugin"))
		case p.points&s.at == 0:
			errs = append(errs, field.Invalid(at.Child("name"), e.Name, fmt.Sprintf("plugin %q does not extend %s plugin", e.Name, s.name)))
		case slices.ContainsFunc(list, func(other enabled) bool { return other.plugin == p }):
			errs = append(errs, field.Duplicate(at.Child("name"), e.Name))
		case e.Weight != nil && *e.Weight < 0:
			errs = append(errs, field.Invalid(at.Child("weight"), *e.Weight, "must not be negative"))
		default:
			weight := int32(1)
			if e.Weight != nil && *e.Weight > 0 {
				weight = *e.Weight
			}
			list = append(list, enabled{p, weight})
		}
	}
	for i, d := range s.set.Disabled {
		if d.Name != "*" && named(d.Name) == nil {
			errs = append(errs, field.Invalid(path.Child("disabled").Index(i).Child("name"), d.Name, "there is no such plugin"))
		}
	}
	return list, errs
}
