// Package endpointslice keeps the EndpointSlices of Services with a selector:
// which pods answer for a service, at which addresses and ports, and whether
// they are ready.
package endpointslice

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// ManagedBy is the value of the managed-by label of this controller's slices;
// others leave them alone. Upstream's value, which clients match on.
const ManagedBy = "endpointslice-controller.k8s.io"

// maxEndpoints of one slice: upstream's default. The API would take 1000, but
// every change of a pod sends its slice to every node.
const maxEndpoints = 100

// Observed is what a service's slices depend on.
type Observed struct {
	Service *corev1.Service
	Pods    []*corev1.Pod // that the selector finds
	Slices  []*discoveryv1.EndpointSlice
	Zones   map[string]string // by node name; absent: the node has none
	Suffix  func() string
}

// Plan returns what must change so that the slices say what the pods are.
// Services without a selector keep the slices that somebody else writes.
func Plan(o Observed) plan.Result {
	if o.Service.DeletionTimestamp != nil || o.Service.Spec.Selector == nil {
		return plan.Result{}
	}
	c := &changes{o: &o}
	families := addressTypes(o.Service)
	own := map[discoveryv1.AddressType][]*discoveryv1.EndpointSlice{}
	for _, s := range o.Slices {
		switch {
		case s.Labels[discoveryv1.LabelManagedBy] != ManagedBy || s.DeletionTimestamp != nil:
		case !metav1.IsControlledBy(s, o.Service), !slices.Contains(families, s.AddressType):
			c.delete(s) // of a service that had the name before, or a family it no longer has
		default:
			own[s.AddressType] = append(own[s.AddressType], s)
		}
	}
	for _, family := range families {
		slices.SortFunc(own[family], func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
		c.family(family, own[family])
	}
	// An endpoint that moves between slices is in both for a moment rather
	// than in none.
	return plan.Result{Actions: slices.Concat(c.creates, c.updates, c.deletes)}
}

// addressTypes that the service has endpoints for. A service without families
// has not been through our server; IPv4 is what its pods have.
func addressTypes(svc *corev1.Service) []discoveryv1.AddressType {
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	var types []discoveryv1.AddressType
	for _, f := range svc.Spec.IPFamilies {
		switch f {
		case corev1.IPv4Protocol:
			types = append(types, discoveryv1.AddressTypeIPv4)
		case corev1.IPv6Protocol:
			types = append(types, discoveryv1.AddressTypeIPv6)
		}
	}
	if len(types) == 0 {
		types = []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4}
	}
	return types
}

// group is the endpoints that have the same ports, which share slices.
type group struct {
	ports     []discoveryv1.EndpointPort
	endpoints []discoveryv1.Endpoint
}

// changes collects actions.
type changes struct {
	o                         *Observed
	creates, updates, deletes []plan.Action
	triggers                  *triggers // nil: nothing has been written yet
}

// family plans one address family. Slices that no group needs any more are
// taken for groups that need more, before new ones are made.
func (c *changes) family(family discoveryv1.AddressType, have []*discoveryv1.EndpointSlice) {
	groups := groupsOf(c.o, family)
	byPorts := map[string][]*discoveryv1.EndpointSlice{}
	var spare []*discoveryv1.EndpointSlice
	for _, s := range have {
		if key := portsKey(s.Ports); groups[key] != nil {
			byPorts[key] = append(byPorts[key], s)
		} else {
			spare = append(spare, s)
		}
	}
	var fresh []draft
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		drafts, rest := fill(groups[key], byPorts[key])
		for _, d := range drafts {
			if len(d.endpoints) == 0 {
				spare = append(spare, d.slice)
			} else {
				c.update(d)
			}
		}
		fresh = append(fresh, rest...)
	}
	if len(groups) == 0 {
		// One empty slice says that the service has been looked at.
		fresh = []draft{{}}
		if i := slices.IndexFunc(spare, func(s *discoveryv1.EndpointSlice) bool { return len(s.Endpoints) == 0 && len(s.Ports) == 0 }); i > 0 {
			spare[0], spare[i] = spare[i], spare[0]
		}
	}
	for _, d := range fresh {
		if len(spare) > 0 {
			d.slice, spare = spare[0], spare[1:]
			d.dirty = len(d.endpoints)+len(d.slice.Endpoints)+len(d.slice.Ports) > 0
			c.update(d)
		} else {
			c.create(family, d)
		}
	}
	for _, s := range spare {
		c.delete(s)
	}
}

// draft is a slice as it should be.
type draft struct {
	slice     *discoveryv1.EndpointSlice // nil: a new one
	ports     []discoveryv1.EndpointPort
	endpoints []discoveryv1.Endpoint
	dirty     bool // the endpoints change
}

// fill spreads a group's endpoints over its slices so that few slices change:
// an endpoint stays where it is, new ones go to slices that change anyway,
// then to the fullest one that takes all that are left, then to new slices.
func fill(g *group, have []*discoveryv1.EndpointSlice) (drafts, fresh []draft) {
	want := make(map[string]*discoveryv1.Endpoint, len(g.endpoints))
	for i := range g.endpoints {
		want[endpointKey(&g.endpoints[i])] = &g.endpoints[i]
	}
	for _, s := range have {
		d := draft{slice: s, ports: g.ports}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			key := endpointKey(e)
			w := want[key]
			if w == nil || len(d.endpoints) == maxEndpoints {
				d.dirty = true
				continue
			}
			delete(want, key)
			d.dirty = d.dirty || !sameEndpoint(e, w)
			d.endpoints = append(d.endpoints, *w)
		}
		drafts = append(drafts, d)
	}
	var left []discoveryv1.Endpoint
	for i := range g.endpoints {
		if want[endpointKey(&g.endpoints[i])] != nil {
			left = append(left, g.endpoints[i])
		}
	}
	for _, d := range byFullness(drafts) {
		if d.dirty {
			left = d.take(left)
		}
	}
	for len(left) >= maxEndpoints {
		fresh = append(fresh, draft{ports: g.ports, endpoints: left[:maxEndpoints:maxEndpoints]})
		left = left[maxEndpoints:]
	}
	for _, d := range byFullness(drafts) {
		if len(left) > 0 && len(d.endpoints)+len(left) <= maxEndpoints {
			left = d.take(left)
		}
	}
	if len(left) > 0 {
		fresh = append(fresh, draft{ports: g.ports, endpoints: left})
	}
	return drafts, fresh
}

func byFullness(drafts []draft) []*draft {
	list := make([]*draft, 0, len(drafts))
	for i := range drafts {
		list = append(list, &drafts[i])
	}
	slices.SortStableFunc(list, func(a, b *draft) int { return cmp.Compare(len(b.endpoints), len(a.endpoints)) })
	return list
}

// take moves as many endpoints in as there is room for, and returns the rest.
func (d *draft) take(list []discoveryv1.Endpoint) []discoveryv1.Endpoint {
	n := min(len(list), maxEndpoints-len(d.endpoints))
	if n > 0 {
		d.endpoints = append(d.endpoints, list[:n]...)
		d.dirty = true
	}
	return list[n:]
}

// groupsOf are the desired endpoints by their ports.
func groupsOf(o *Observed, family discoveryv1.AddressType) map[string]*group {
	groups := map[string]*group{}
	for _, p := range o.Pods {
		addresses := addressesOf(p, family)
		if len(addresses) == 0 || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		ports := portsOf(o.Service, p)
		key := portsKey(ports)
		g := groups[key]
		if g == nil {
			g = &group{ports: ports}
			groups[key] = g
		}
		g.endpoints = append(g.endpoints, endpointOf(o, p, addresses))
	}
	for _, g := range groups {
		slices.SortFunc(g.endpoints, func(a, b discoveryv1.Endpoint) int { return cmp.Compare(a.TargetRef.Name, b.TargetRef.Name) })
	}
	return groups
}

// addressesOf is the pod's address of the family. The kubelet reports it, so
// one that would point into a node itself is left out (CVE-2021-25737).
func addressesOf(p *corev1.Pod, family discoveryv1.AddressType) []string {
	ips := p.Status.PodIPs
	if len(ips) == 0 && p.Status.PodIP != "" {
		ips = []corev1.PodIP{{IP: p.Status.PodIP}}
	}
	for _, ip := range ips {
		a, err := netip.ParseAddr(ip.IP)
		a = a.Unmap()
		if err != nil || a.Is4() != (family == discoveryv1.AddressTypeIPv4) {
			continue
		}
		if a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
			continue
		}
		return []string{a.String()}
	}
	return nil
}

// portsOf resolves the service's ports on a pod; a name that the pod does not
// have is left out.
func portsOf(svc *corev1.Service, p *corev1.Pod) []discoveryv1.EndpointPort {
	ports := make([]discoveryv1.EndpointPort, 0, len(svc.Spec.Ports))
	for i := range svc.Spec.Ports {
		sp := &svc.Spec.Ports[i]
		number, ok := targetPort(sp, p)
		if !ok {
			continue
		}
		name, protocol := sp.Name, sp.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		ports = append(ports, discoveryv1.EndpointPort{Name: &name, Port: &number, Protocol: &protocol, AppProtocol: sp.AppProtocol})
	}
	return ports
}

func targetPort(sp *corev1.ServicePort, p *corev1.Pod) (int32, bool) {
	if sp.TargetPort.Type == intstr.Int {
		if sp.TargetPort.IntVal == 0 {
			return sp.Port, true
		}
		return sp.TargetPort.IntVal, true
	}
	find := func(c *corev1.Container) (int32, bool) {
		for _, cp := range c.Ports {
			if cp.Name == sp.TargetPort.StrVal && (cp.Protocol == sp.Protocol || cp.Protocol == "" || sp.Protocol == "") {
				return cp.ContainerPort, true
			}
		}
		return 0, false
	}
	for i := range p.Spec.Containers {
		if n, ok := find(&p.Spec.Containers[i]); ok {
			return n, true
		}
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		if n, ok := find(c); ok {
			return n, true
		}
	}
	return 0, false
}

// endpointOf says where a pod is and whether it answers.
func endpointOf(o *Observed, p *corev1.Pod, addresses []string) discoveryv1.Endpoint {
	serving, terminating := podReady(p), p.DeletionTimestamp != nil
	ready := o.Service.Spec.PublishNotReadyAddresses || serving && !terminating
	e := discoveryv1.Endpoint{
		Addresses:  addresses,
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
	}
	if p.Spec.NodeName != "" {
		e.NodeName = &p.Spec.NodeName
		if zone, ok := o.Zones[p.Spec.NodeName]; ok {
			e.Zone = &zone
		}
	}
	if p.Spec.Hostname != "" && p.Spec.Subdomain == o.Service.Name {
		e.Hostname = &p.Spec.Hostname
	}
	e.Hints = hintsOf(o.Service, &e)
	return e
}

// hintsOf tells proxies for whom an endpoint is, as the service's traffic
// distribution asks.
func hintsOf(svc *corev1.Service, e *discoveryv1.Endpoint) *discoveryv1.EndpointHints {
	if svc.Spec.TrafficDistribution == nil || !*e.Conditions.Ready {
		return nil
	}
	var h discoveryv1.EndpointHints
	switch *svc.Spec.TrafficDistribution {
	case corev1.ServiceTrafficDistributionPreferSameNode:
		if e.NodeName != nil {
			h.ForNodes = []discoveryv1.ForNode{{Name: *e.NodeName}}
		}
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
	default:
		return nil
	}
	if e.Zone != nil {
		h.ForZones = []discoveryv1.ForZone{{Name: *e.Zone}}
	}
	if h.ForNodes == nil && h.ForZones == nil {
		return nil
	}
	return &h
}

func podReady(p *corev1.Pod) bool {
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// portsKey is the same for equal ports.
func portsKey(ports []discoveryv1.EndpointPort) string {
	keys := make([]string, 0, len(ports))
	for _, p := range ports {
		keys = append(keys, fmt.Sprintf("%q/%v/%v/%q", deref(p.Name), deref(p.Port), deref(p.Protocol), deref(p.AppProtocol)))
	}
	slices.Sort(keys)
	return strings.Join(keys, ",")
}

// endpointKey is the pod and its address: an address that went over to another
// pod is another endpoint.
func endpointKey(e *discoveryv1.Endpoint) string {
	key := strings.Join(e.Addresses, ",")
	if e.TargetRef != nil {
		key += "|" + string(e.TargetRef.UID)
	}
	return key
}

func sameEndpoint(a, b *discoveryv1.Endpoint) bool {
	return slices.Equal(a.Addresses, b.Addresses) && same(a.Conditions.Ready, b.Conditions.Ready) &&
		same(a.Conditions.Serving, b.Conditions.Serving) && same(a.Conditions.Terminating, b.Conditions.Terminating) &&
		same(a.NodeName, b.NodeName) && same(a.Zone, b.Zone) && same(a.Hostname, b.Hostname) && same(a.TargetRef, b.TargetRef) &&
		sameHints(a.Hints, b.Hints) && len(a.DeprecatedTopology) == 0
}

func sameHints(a, b *discoveryv1.EndpointHints) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.Equal(a.ForZones, b.ForZones) && slices.Equal(a.ForNodes, b.ForNodes)
}

func same[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// labelsOf a service's slices: the service's own, and those that proxies look
// for.
func labelsOf(svc *corev1.Service) map[string]string {
	labels := map[string]string{}
	maps.Copy(labels, svc.Labels)
	delete(labels, corev1.IsHeadlessService)
	delete(labels, discoveryv1.LabelSkipMirror)
	labels[discoveryv1.LabelServiceName] = svc.Name
	labels[discoveryv1.LabelManagedBy] = ManagedBy
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		labels[corev1.IsHeadlessService] = ""
	}
	return labels
}

func (c *changes) create(family discoveryv1.AddressType, d draft) {
	svc := c.o.Service
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace, Name: nameOf(svc.Name, c.o.Suffix()), GenerateName: svc.Name + "-", Labels: labelsOf(svc),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(svc, kinds.Service.GVK)},
		},
		AddressType: family,
	}
	d.write(s)
	c.stamp(s)
	c.creates = append(c.creates, plan.Action{Verb: plan.Create, Ref: kinds.RefTo(kinds.EndpointSlice, s), Object: s})
}

// nameOf keeps a generated name within the API's limit.
func nameOf(service, suffix string) string {
	const limit = 253 - 6
	return service[:min(len(service), limit)] + "-" + suffix
}

// update writes a slice if anything about it changes.
func (c *changes) update(d draft) {
	labels := labelsOf(c.o.Service)
	if !d.dirty && maps.Equal(labels, d.slice.Labels) {
		return
	}
	s := d.slice.DeepCopy()
	s.Labels = labels
	d.write(s)
	c.stamp(s)
	c.updates = append(c.updates, plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.EndpointSlice, s), Object: s})
}

// write fills in lists that are never null: clients range over them.
func (d *draft) write(s *discoveryv1.EndpointSlice) {
	s.Ports = append([]discoveryv1.EndpointPort{}, d.ports...)
	s.Endpoints = append([]discoveryv1.Endpoint{}, d.endpoints...)
}

func (c *changes) delete(s *discoveryv1.EndpointSlice) {
	c.deletes = append(c.deletes, plan.Action{
		Verb: plan.Delete, Ref: kinds.RefTo(kinds.EndpointSlice, s), UID: s.UID,
		Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
	})
}
