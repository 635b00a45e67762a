package admission

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	declared "k8s.io/component-helpers/nodedeclaredfeatures"
	componentresource "k8s.io/component-helpers/resource"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// topologyLabels tells pods where they run: they learn the zone and region of
// their node with it.
type topologyLabels struct{ c *Config }

func (topologyLabels) Name() string { return "PodTopologyLabels" }

func (p topologyLabels) Mutate(_ context.Context, r *Request) error {
	if r.Operation != Create || r.Ref.Kind != kinds.Pod {
		return nil
	}
	switch o := r.Object.(type) {
	case *corev1.Pod:
		if r.Ref.Sub == "" && o.Spec.NodeName != "" {
			o.Labels = p.with(o.Labels, o.Spec.NodeName)
		}
	case *corev1.Binding:
		if o.Target.Kind == "Node" {
			o.Labels = p.with(o.Labels, o.Target.Name)
		}
	}
	return nil
}

func (p topologyLabels) with(have map[string]string, name string) map[string]string {
	node := view.Now[*corev1.Node](p.c.View, kinds.Node, "", name)
	if node == nil {
		return have
	}
	for _, label := range [...]string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		value, ok := node.Labels[label]
		if !ok {
			continue
		}
		if have == nil {
			have = map[string]string{}
		}
		have[label] = value
	}
	return have
}

func (topologyLabels) Validate(context.Context, *Request) error { return nil }

// podOnNode is a pod on a node whose specification an update changes, and that
// node; nil if the update is another one.
func podOnNode(ctx context.Context, c *Config, r *Request) (pod, old *corev1.Pod, node *corev1.Node, err error) {
	if r.Operation != Update || r.Ref.Kind != kinds.Pod {
		return nil, nil, nil, nil
	}
	pod, ok := r.Object.(*corev1.Pod)
	old, was := r.Old.(*corev1.Pod)
	if !ok || !was || pod.Spec.NodeName == "" || pod.Generation == old.Generation {
		return nil, nil, nil, nil
	}
	if node, err = find[*corev1.Node](ctx, c, kinds.Node, "", pod.Spec.NodeName); err == nil && node == nil {
		err = forbid(r, fmt.Errorf("node %q not found", pod.Spec.NodeName))
	}
	return pod, old, node, err
}

// apiVersion is whose features are meant: nodes of it need not declare what was
// finished before.
var apiVersion = version.MajorMinor(1, 37)

// declaredFeatures refuses updates of pods that their node cannot follow.
type declaredFeatures struct{ c *Config }

func (declaredFeatures) Name() string { return "NodeDeclaredFeatureValidator" }

func (declaredFeatures) Mutate(context.Context, *Request) error { return nil }

func (p declaredFeatures) Validate(ctx context.Context, r *Request) error {
	if r.Ref.Sub != "" && r.Ref.Sub != "resize" {
		return nil
	}
	pod, old, node, err := podOnNode(ctx, p.c, r)
	if err != nil || pod == nil {
		return err
	}
	needs, err := declared.DefaultFramework.InferForPodUpdate(&declared.PodInfo{Spec: &old.Spec, Status: &old.Status}, &declared.PodInfo{Spec: &pod.Spec, Status: &pod.Status}, apiVersion)
	if err != nil {
		return forbid(r, fmt.Errorf("failed to infer pod capability requirements: %w", err))
	}
	if needs.IsEmpty() {
		return nil
	}
	match, err := declared.DefaultFramework.MatchNode(needs, node)
	if err != nil {
		return forbid(r, fmt.Errorf("failed to match pod requirements against node %q: %w", node.Name, err))
	}
	if !match.IsMatch {
		return forbid(r, fmt.Errorf("pod update requires features %s which are not available on node %q", strings.Join(match.UnsatisfiedRequirements, ", "), node.Name))
	}
	return nil
}

// podResize refuses what can never fit on the pod's node.
type podResize struct{ c *Config }

func (podResize) Name() string { return "PodResizeValidator" }

func (podResize) Mutate(context.Context, *Request) error { return nil }

func (p podResize) Validate(ctx context.Context, r *Request) error {
	if r.Ref.Sub != "resize" {
		return nil
	}
	pod, _, node, err := podOnNode(ctx, p.c, r)
	if err != nil || pod == nil {
		return err
	}
	refuse := func(cause metav1.CauseType, why error) error {
		err := forbid(r, why)
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: cause})
		return err
	}
	if os, ok := node.Labels[corev1.LabelOSStable]; ok && os != string(corev1.Linux) {
		return refuse("UnsupportedPlatform", fmt.Errorf("pod resize is only supported on linux nodes, node %q is %q", node.Name, os))
	}
	var missing []string
	wants := componentresource.PodRequests(pod, componentresource.PodResourcesOptions{})
	if have := node.Status.Allocatable.Cpu(); wants.Cpu().Cmp(*have) > 0 {
		missing = append(missing, fmt.Sprintf("cpu, requested: %d, allocatable: %d", wants.Cpu().MilliValue(), have.MilliValue()))
	}
	if have := node.Status.Allocatable.Memory(); wants.Memory().Cmp(*have) > 0 {
		missing = append(missing, fmt.Sprintf("memory, requested: %d, allocatable: %d", wants.Memory().Value(), have.Value()))
	}
	if len(missing) > 0 {
		return refuse("NodeCapacity", fmt.Errorf("node didn't have enough allocatable resources: %s", strings.Join(missing, "; ")))
	}
	return nil
}
