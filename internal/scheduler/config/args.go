package config

import (
	"bytes"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"knarr.dev/knarr/internal/scheduler"
)

func profilesOf(c *configv1.KubeSchedulerConfiguration) (out []scheduler.Profile, errs field.ErrorList) {
	seen := map[string]int{}
	for i := range c.Profiles {
		in, path := &c.Profiles[i], field.NewPath("profiles").Index(i)
		p := scheduler.DefaultProfile()
		p.Name, p.PercentageOfNodes = "", *c.PercentageOfNodesToScore
		if in.SchedulerName != nil {
			p.Name = *in.SchedulerName
		}
		if p.Name == "" {
			errs = append(errs, field.Required(path.Child("schedulerName"), ""))
		} else if first, ok := seen[p.Name]; ok {
			errs = append(errs, field.Duplicate(path.Child("schedulerName"), field.NewPath("profiles").Index(first).Child("schedulerName").String()))
		} else {
			seen[p.Name] = i
		}
		errs = append(errs, checkPercentage(path.Child("percentageOfNodesToScore"), in.PercentageOfNodesToScore)...)
		if in.PercentageOfNodesToScore != nil {
			p.PercentageOfNodes = *in.PercentageOfNodesToScore
		}
		errs = append(errs, choose(path.Child("plugins"), in.Plugins, &p)...)
		errs = append(errs, readArgs(path.Child("pluginConfig"), in.PluginConfig, &p)...)
		ignoreManaged(c.Extenders, &p)
		out = append(out, p)
	}
	return out, errs
}

// ignoreManaged: what an extender minds, NodeResourcesFit need not.
func ignoreManaged(extenders []configv1.Extender, p *scheduler.Profile) {
	for i := range extenders {
		for _, r := range extenders[i].ManagedResources {
			if r.IgnoredByScheduler && !slices.Contains(p.Resources.IgnoredResources, r.Name) {
				p.Resources.IgnoredResources = append(p.Resources.IgnoredResources, r.Name)
			}
		}
	}
}

func readArgs(path *field.Path, list []configv1.PluginConfig, p *scheduler.Profile) (errs field.ErrorList) {
	seen := map[string]bool{}
	for i := range list {
		c, at := &list[i], path.Index(i)
		if seen[c.Name] {
			errs = append(errs, field.Duplicate(at, c.Name))
			continue
		}
		seen[c.Name] = true
		errs = append(errs, readPluginArgs(at, c, p)...)
	}
	return errs
}

// readPluginArgs takes the arguments of one plugin into the profile, with their
// defaults.
func readPluginArgs(path *field.Path, c *configv1.PluginConfig, p *scheduler.Profile) field.ErrorList {
	args := path.Child("args")
	decode := func(into any, is *metav1.TypeMeta) field.ErrorList { return decodeArgs(args, c, into, is) }
	switch c.Name {
	case "NodeAffinity":
		a := configv1.NodeAffinityArgs{}
		if errs := decode(&a, &a.TypeMeta); errs != nil {
			return errs
		}
		p.NodeAffinity = a
		return checkNodeAffinity(args.Child("addedAffinity"), a.AddedAffinity)
	case "NodeResourcesFit":
		a := configv1.NodeResourcesFitArgs{}
		if errs := decode(&a, &a.TypeMeta); errs != nil {
			return errs
		}
		defaultTo(&a.ScoringStrategy, configv1.ScoringStrategy{Type: configv1.LeastAllocated})
		a.ScoringStrategy.Resources = weighed(a.ScoringStrategy.Resources)
		p.Resources = a
		return checkResources(args, &a)
	case "NodeResourcesBalancedAllocation":
		a := configv1.NodeResourcesBalancedAllocationArgs{}
		if errs := decode(&a, &a.TypeMeta); errs != nil {
			return errs
		}
		a.Resources = weighed(a.Resources)
		p.Balance = a
		return checkBalance(args.Child("resources"), a.Resources)
	case "PodTopologySpread":
		a := configv1.PodTopologySpreadArgs{}
		if errs := decode(&a, &a.TypeMeta); errs != nil {
			return errs
		}
		if a.DefaultingType == "" {
			a.DefaultingType = configv1.SystemDefaulting
		}
		p.Spread = a
		return checkSpread(args, &a)
	case "InterPodAffinity":
		a := configv1.InterPodAffinityArgs{}
		if errs := decode(&a, &a.TypeMeta); errs != nil {
			return errs
		}
		defaultTo(&a.HardPodAffinityWeight, 1)
		p.PodAffinity = a
		if w := *a.HardPodAffinityWeight; w < 0 || w > 100 {
			return field.ErrorList{field.Invalid(args.Child("hardPodAffinityWeight"), w, "not in valid range [0, 100]")}
		}
		return nil
	case "DefaultPreemption":
		a := configv1.DefaultPreemptionArgs{}
		if errs := decode(&a, &a.TypeMeta); errs != nil {
			return errs
		}
		defaultTo(&a.MinCandidateNodesPercentage, 10)
		defaultTo(&a.MinCandidateNodesAbsolute, 100)
		p.Preemption = a
		return checkPreemption(args, *a.MinCandidateNodesPercentage, *a.MinCandidateNodesAbsolute)
	case "VolumeBinding":
		a := configv1.VolumeBindingArgs{}
		if errs := decode(&a, &a.TypeMeta); errs != nil {
			return errs
		}
		usual := scheduler.DefaultProfile().Volumes
		defaultTo(&a.BindTimeoutSeconds, *usual.BindTimeoutSeconds)
		if len(a.Shape) == 0 {
			a.Shape = usual.Shape
		}
		p.Volumes = a
		return checkVolumes(args, &a)
	case "DynamicResources":
		a := configv1.DynamicResourcesArgs{}
		if errs := decode(&a, &a.TypeMeta); errs != nil {
			return errs
		}
		usual := scheduler.DefaultProfile().Devices
		defaultTo(&a.FilterTimeout, *usual.FilterTimeout)
		defaultTo(&a.BindingTimeout, *usual.BindingTimeout)
		p.Devices = a
		return checkDevices(args, &a)
	}
	return noArgs(args, c)
}

// noArgs: the plugin has none.
func noArgs(args *field.Path, c *configv1.PluginConfig) field.ErrorList {
	if named(c.Name) == nil {
		return field.ErrorList{field.Invalid(args.Root(), c.Name, "there is no such plugin")}
	}
	if raw := bytes.TrimSpace(c.Args.Raw); len(raw) > 0 && string(raw) != "null" && string(raw) != "{}" {
		return field.ErrorList{field.Forbidden(args, fmt.Sprintf("plugin %s has no arguments", c.Name))}
	}
	return nil
}

// decodeArgs decodes the arguments of a plugin. They need not say what they are,
// but may say nothing else.
func decodeArgs(path *field.Path, c *configv1.PluginConfig, into any, is *metav1.TypeMeta) field.ErrorList {
	if len(c.Args.Raw) > 0 {
		if err := strictly(c.Args.Raw, into); err != nil {
			return field.ErrorList{field.Invalid(path, c.Name, fmt.Sprintf("decoding args for plugin %s: %v", c.Name, err))}
		}
	}
	want := configv1.SchemeGroupVersion.WithKind(c.Name + "Args")
	if (is.Kind != "" && is.Kind != want.Kind) || (is.APIVersion != "" && is.APIVersion != want.GroupVersion().String()) {
		return field.ErrorList{field.Invalid(path, is.Kind, fmt.Sprintf("args for plugin %s were not of type %s, got %s", c.Name, want.GroupKind(), is.GroupVersionKind().GroupKind()))}
	}
	return nil
}

// weighed are resources with a weight; none are cpu and memory.
func weighed(list []configv1.ResourceSpec) []configv1.ResourceSpec {
	if len(list) == 0 {
		return []configv1.ResourceSpec{{Name: string(corev1.ResourceCPU), Weight: 1}, {Name: string(corev1.ResourceMemory), Weight: 1}}
	}
	for i := range list {
		if list[i].Weight == 0 {
			list[i].Weight = 1
		}
	}
	return list
}
