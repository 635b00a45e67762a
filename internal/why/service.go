package why

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/knarr/internal/kinds"
)

func (l *look) service(s *corev1.Service) *finding {
	switch {
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		return nil
	case len(s.Spec.Selector) == 0:
		return l.unselected(s)
	}
	selector := labels.SelectorFromSet(s.Spec.Selector)
	pods, _ := list[*corev1.Pod](l, Want{Kind: kinds.Pod, Namespace: s.Namespace, Labels: selector.String()})
	pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
	ready := slices.DeleteFunc(slices.Clone(pods), func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil || !isReady(p) })
	switch {
	case len(pods) == 0:
		return l.podless(s, selector)
	case len(ready) == 0 && !s.Spec.PublishNotReadyAddresses:
		f := about(kinds.Service, s, "it has no endpoints: none of its %d pods is ready", len(pods))
		if w := l.workload(s.Namespace, selector); w.obj != nil && l.at(w.kind, w.obj) != nil {
			return f.behind(w.kind, w.obj)
		}
		return byPods(f, pods)
	}
	if f := namedPort(s, pods); f != nil {
		return f
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && len(s.Status.LoadBalancer.Ingress) == 0 {
		return about(kinds.Service, s, "it has endpoints, but nobody has given it an address of a load balancer").since(s.CreationTimestamp).
			help("install what provides load balancers, or use the type NodePort")
	}
	return nil
}

// unselected: a service whose endpoints are written by somebody else.
func (l *look) unselected(s *corev1.Service) *finding {
	slicesOf, complete := list[*discoveryv1.EndpointSlice](l, Want{Kind: kinds.EndpointSlice, Namespace: s.Namespace, Labels: discoveryv1.LabelServiceName + "=" + s.Name})
	for _, e := range slicesOf {
		if len(e.Endpoints) > 0 {
			return nil
		}
	}
	if !complete && len(slicesOf) == 0 && len(l.refused) == 0 {
		return nil // not read yet
	}
	return l.blind(about(kinds.Service, s, "it has no endpoints: it has no selector, and nobody has made an EndpointSlice for it").
		help("give it a selector, or make an EndpointSlice with the label %s=%s", discoveryv1.LabelServiceName, s.Name))
}

type owner struct {
	kind *kinds.Kind
	obj  kinds.Object
}

// workload is what makes the pods that a selector finds: the first by name.
func (l *look) workload(namespace string, s labels.Selector) owner {
	deployments, _ := list[*appsv1.Deployment](l, Want{Kind: kinds.Deployment, Namespace: namespace})
	for _, d := range deployments {
		if s.Matches(labels.Set(d.Spec.Template.Labels)) {
			return owner{kinds.Deployment, d}
		}
	}
	stateful, _ := list[*appsv1.StatefulSet](l, Want{Kind: kinds.StatefulSet, Namespace: namespace})
	for _, o := range stateful {
		if s.Matches(labels.Set(o.Spec.Template.Labels)) {
			return owner{kinds.StatefulSet, o}
		}
	}
	daemons, _ := list[*appsv1.DaemonSet](l, Want{Kind: kinds.DaemonSet, Namespace: namespace})
	for _, d := range daemons {
		if s.Matches(labels.Set(d.Spec.Template.Labels)) {
			return owner{kinds.DaemonSet, d}
		}
	}
	return owner{}
}

// podless: a service that finds no pods, since there are none, or by a selector
// that is wrong.
func (l *look) podless(s *corev1.Service, selector labels.Selector) *finding {
	f := about(kinds.Service, s, "it has no endpoints: its selector %s matches no pod", selector)
	w := l.workload(s.Namespace, selector)
	if w.obj != nil {
		f.What = fmt.Sprintf("it has no endpoints: %s %s has no pods", w.kind.GVK.Kind, w.obj.GetName())
		if scaledToZero(w.obj) {
			return f.because(about(w.kind, w.obj, "it is scaled to zero").
				help("`kubectl scale %s/%s -n %s --replicas=1`", w.kind.Singular, w.obj.GetName(), s.Namespace))
		}
		return f.behind(w.kind, w.obj)
	}
	if near := l.nearest(s); near != nil {
		return f.help("the pods of %s %s have %s: correct spec.selector, or the labels of the pods", near.kind.GVK.Kind, near.obj.GetName(), labels.FormatLabels(near.labels))
	}
	return l.blind(f.help("make pods with these labels, or correct spec.selector"))
}

func scaledToZero(o kinds.Object) bool {
	switch o := o.(type) {
	case *appsv1.Deployment:
		return pointed(o.Spec.Replicas) == 0
	case *appsv1.StatefulSet:
		return pointed(o.Spec.Replicas) == 0
	}
	return false
}

type neighbour struct {
	owner
	labels map[string]string
}

// nearest is the deployment whose pods a selector almost finds: they have its
// keys, or some of its labels, or the service's name.
func (l *look) nearest(s *corev1.Service) *neighbour {
	all, _ := list[*appsv1.Deployment](l, Want{Kind: kinds.Deployment, Namespace: s.Namespace})
	var best *neighbour
	most := 0
	for _, d := range all {
		score := 0
		for k, v := range s.Spec.Selector {
			have, ok := d.Spec.Template.Labels[k]
			switch {
			case ok && have == v:
				score += 2
			case ok:
				score++
			}
		}
		if d.Name == s.Name {
			score++
		}
		if score > most {
			best, most = &neighbour{owner{kinds.Deployment, d}, d.Spec.Template.Labels}, score
		}
	}
	return best
}

// namedPort: a port of the service goes to a port by name that no pod has.
func namedPort(s *corev1.Service, pods []*corev1.Pod) *finding {
	for i := range s.Spec.Ports {
		target := s.Spec.Ports[i].TargetPort
		if target.Type != intstr.String || slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return hasPort(p, target.StrVal) }) {
			continue
		}
		f := about(kinds.Service, s, "its port %d has no endpoints: no pod has a port that is named %s", s.Spec.Ports[i].Port, target.StrVal)
		if names := portNames(pods[0]); len(names) > 0 {
			return f.help("set targetPort to one that they have: %s", names)
		}
		return f.help("name the container's port %s, or set targetPort to its number", target.StrVal)
	}
	return nil
}

func eachPort(p *corev1.Pod, fn func(corev1.ContainerPort)) {
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		for _, port := range c.Ports {
			fn(port)
		}
	}
}

func hasPort(p *corev1.Pod, name string) (has bool) {
	eachPort(p, func(port corev1.ContainerPort) { has = has || port.Name == name })
	return has
}

func portNames(p *corev1.Pod) (names string) {
	eachPort(p, func(port corev1.ContainerPort) {
		if names != "" {
			names += ", "
		}
		if port.Name == "" {
			names += fmt.Sprint(port.ContainerPort)
			return
		}
		names += port.Name
	})
	return names
}
