package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/dynamic-resource-allocation/structured"
)

// deviceFeatures are those of upstream's that are on by default.
var deviceFeatures = structured.Features{
	AdminAccess: true, PrioritizedList: true, PartitionableDevices: true, DeviceTaints: true,
	ConsumableCapacity: true, DeviceBindingAndStatus: true,
}

// compiledSelectors is how many expressions stay compiled.
const compiledSelectors = 100

func newSelectors() *cel.Cache {
	return cel.NewCache(compiledSelectors, cel.Features{EnableConsumableCapacity: deviceFeatures.ConsumableCapacity})
}

// podDevices is what a cycle knows of the pod's claims to devices.
type podDevices struct {
	claims []*resourcev1.ResourceClaim // each once
	open   []*resourcev1.ResourceClaim // those of them that have nothing yet
	stale  *resourcev1.ResourceClaim   // see cycle.stale
	drafts map[string]*draft           // by the extended resources that they serve
	bound  []boundClaim                // those whose devices only some nodes reach
	// allocator for those that are open, and for drafts. Its search may be
	// long, so all of it has to end in time.
	allocator structured.Allocator
	selectors *cel.Cache // of classes
	timeout   time.Duration
	until     time.Time // zero: it has not begun
	answers   map[*node]*deviceAnswer
}

// boundClaim has devices; away: some node that was looked at does not reach them.
type boundClaim struct {
	claim *resourcev1.ResourceClaim
	nodes *nodeaffinity.NodeSelector
	away  bool
}

// deviceAnswer is what a node can do for the open claims.
type deviceAnswer struct {
	why     string // it cannot; empty: it can
	draft   *draft // that is to be made for it too; nil: none
	results []resourcev1.AllocationResult
}

// grant is a claim that the pod is to have before it is bound.
type grant struct {
	claim      *resourcev1.ResourceClaim
	allocation *resourcev1.AllocationResult // nil: it has one
	draft      *draft                       // that the claim is, or was made from; nil: none
}

// promised is what decisions count a grant for until it is written.
func (g *grant) promised() *resourcev1.ResourceClaim {
	if g.draft != nil {
		return g.draft.claim
	}
	return g.claim
}

const (
	notAvailable   = "resourceclaim not available on the node"
	notAllocatable = "cannot allocate all claims"
	notScheduled   = "cannot schedule extended resource claim"
)

// prepareDevices looks the pod's claims up, once for all nodes.
func (c *cycle) prepareDevices(selectors *cel.Cache) {
	p := &podDevices{selectors: selectors, timeout: c.rules.filterTimeout, answers: map[*node]*deviceAnswer{}, stale: c.stale(), drafts: map[string]*draft{}}
	c.podDevices = p
	if c.refusal, c.early, c.soon = c.findClaims(); c.refusal != "" {
		return
	}
	for _, claim := range p.claims {
		if c.refusal = c.prepareClaim(claim); c.refusal != "" {
			return
		}
	}
	if len(p.open) == 0 && len(c.pod.request.more) == 0 || p.stale != nil {
		return
	}
	var err error
	if p.allocator, err = structured.NewAllocator(context.Background(), deviceFeatures, c.taken, classLister(c.deviceClasses), c.offer(), selectors); err != nil {
		c.refusal = err.Error()
	}
}

// findClaims of the pod. If one cannot be had yet, why says so; early means that
// to try is of no use before it can, and soon that somebody sees to that.
func (c *cycle) findClaims() (why string, early, soon bool) {
	pod := c.pod.obj
	for i := range pod.Spec.ResourceClaims {
		name, own, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return err.Error(), true, errors.Is(err, resourceclaim.ErrClaimNotFound)
		}
		if name == nil {
			continue // none is needed
		}
		claim := c.deviceClaims[pod.Namespace+"/"+*name]
		switch {
		case claim == nil:
			return fmt.Sprintf("could not find ResourceClaim %q", pod.Namespace+"/"+*name), true, own
		case claim.DeletionTimestamp != nil:
			return fmt.Sprintf("resourceclaim %q is being deleted", claim.Name), true, false
		case claim.Status.Allocation == nil && c.promises[claim.UID] != nil:
			return fmt.Sprintf("resource claim %s is in the process of being allocated", keyOf(claim)), true, true
		}
		if own {
			if err := resourceclaim.IsForPod(pod, claim, false); err != nil {
				return err.Error(), true, false
			}
		}
		if !slices.Contains(c.podDevices.claims, claim) {
			c.podDevices.claims = append(c.podDevices.claims, claim)
		}
	}
	return "", false, false
}

// prepareClaim sees where a claim's devices are, or which classes they can be
// of; why says what is wrong with it, on any node.
func (c *cycle) prepareClaim(claim *resourcev1.ResourceClaim) (why string) {
	p := c.podDevices
	if a := claim.Status.Allocation; a != nil {
		if len(claim.Status.ReservedFor) >= resourcev1.ResourceClaimReservedForMaxSize && !resourceclaim.IsReservedForPod(c.pod.obj, claim, false) {
			return "resourceclaim in use"
		}
		if a.NodeSelector == nil {
			return ""
		}
		nodes, err := nodeaffinity.NewNodeSelector(a.NodeSelector)
		if err != nil {
			return err.Error()
		}
		p.bound = append(p.bound, boundClaim{claim: claim, nodes: nodes})
		return ""
	}
	p.open = append(p.open, claim)
	for i := range claim.Spec.Devices.Requests {
		for name, class := range classesOf(&claim.Spec.Devices.Requests[i]) {
			if c.deviceClasses[class] == nil {
				return fmt.Sprintf("request %s: device class %s does not exist", name, class)
			}
		}
	}
	return ""
}

// classesOf yields the alternatives of a request with their classes.
func classesOf(r *resourcev1.DeviceRequest) func(yield func(name, class string) bool) {
	return func(yield func(name, class string) bool) {
		if r.Exactly != nil && !yield(r.Name, r.Exactly.DeviceClassName) {
			return
		}
		for i := range r.FirstAvailable {
			if !yield(resourceclaim.CreateSubRequestRef(r.Name, r.FirstAvailable[i].Name), r.FirstAvailable[i].DeviceClassName) {
				return
			}
		}
	}
}

// devicesOn says what a node can do for the pod's claims.
func (c *cycle) devicesOn(n *node) *deviceAnswer {
	p := c.podDevices
	a := p.answers[n]
	if a == nil {
		a = &deviceAnswer{}
		p.answers[n] = a
		if p.stale != nil {
			a.why = notScheduled
			return a
		}
		for i := range p.bound {
			if !p.bound[i].nodes.Match(n.obj) {
				p.bound[i].away = true
				a.why = notAvailable
			}
		}
		if a.why == "" && p.allocator != nil {
			open := p.open
			if a.draft = c.draftFor(n); a.draft != nil {
				open = append(slices.Clip(open), a.draft.claim)
			}
			if len(open) > 0 {
				a.results, a.why = p.allocate(n.obj, open)
			}
		}
	}
	return a
}

// allocate claims on a node. What is wrong with a claim, a class or a
// pool is told like a lack of devices: what mends it wakes the pod in either case.
func (p *podDevices) allocate(n *corev1.Node, open []*resourcev1.ResourceClaim) ([]resourcev1.AllocationResult, string) {
	if p.until.IsZero() && p.timeout > 0 {
		p.until = time.Now().Add(p.timeout)
	}
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if p.timeout > 0 {
		ctx, cancel = context.WithDeadline(ctx, p.until)
	}
	defer cancel()
	results, err := p.allocator.Allocate(ctx, n, open)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, "timed out trying to allocate devices"
	case err != nil:
		return nil, err.Error()
	case len(results) != len(open):
		return nil, notAllocatable
	}
	return results, ""
}

// grants are what the pod's claims need if it goes to the node.
func (c *cycle) grants(n *node) (out []grant) {
	if c.podDevices == nil {
		return nil
	}
	a, at := c.devicesOn(n), 0
	for _, claim := range c.podDevices.claims {
		switch {
		case claim.Status.Allocation == nil:
			out = append(out, grant{claim: claim, allocation: &a.results[at]})
			at++
		case !resourceclaim.IsReservedForPod(c.pod.obj, claim, false) || conditional(claim.Status.Allocation):
			out = append(out, grant{claim: claim})
		}
	}
	if a.draft != nil {
		out = append(out, grant{claim: a.draft.claim, allocation: &a.results[at], draft: a.draft})
	}
	return out
}

// conditional reports whether some device has to be made ready first.
func conditional(a *resourcev1.AllocationResult) bool {
	return slices.ContainsFunc(a.Devices.Results, func(r resourcev1.DeviceRequestAllocationResult) bool { return len(r.BindingConditions) > 0 })
}

// idle is a claim that keeps the pod from nodes and that nobody else uses; it
// might get devices elsewhere. nil: there is none.
func (d *decider) idle(cy *cycle) *resourcev1.ResourceClaim {
	var list []*resourcev1.ResourceClaim
	for _, b := range cy.podDevices.bound {
		users := b.claim.Status.ReservedFor
		if b.away && (len(users) == 0 || len(users) == 1 && users[0].UID == cy.pod.obj.UID) {
			list = append(list, b.claim)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list[d.rand.IntN(len(list))]
}

// dynamicResources lets a pod go only where its claims to devices can be met.
type dynamicResources struct{}

func (dynamicResources) Name() string { return "DynamicResources" }

func (dynamicResources) Fits(c *cycle, n *node) bool {
	return c.podDevices == nil || c.devicesOn(n).why == ""
}

// Explain: devices stay with the claims of pods that leave.
func (dynamicResources) Explain(c *cycle, n *node, why []string) ([]string, bool) {
	return append(why, c.devicesOn(n).why), true
}

// Advise names the claims and resources that get nothing, with what they ask for.
func (dynamicResources) Advise(c *cycle, n *node, out []change) []change {
	a := c.devicesOn(n)
	if a.why == notAvailable || a.why == notScheduled {
		return append(out, change{kind: impossible})
	}
	if a.draft != nil {
		for _, s := range a.draft.resources {
			out = append(out, change{kind: devicesOf, name: string(s.name), value: s.class, missing: s.count})
		}
	}
	for _, claim := range c.podDevices.open {
		var requests []string
		for i := range claim.Spec.Devices.Requests {
			for name, class := range classesOf(&claim.Spec.Devices.Requests[i]) {
				requests = append(requests, fmt.Sprintf("%s (class %s)", name, class))
			}
		}
		out = append(out, change{kind: freeDevices, name: claim.Name, value: strings.Join(requests, ", ")})
	}
	return out
}

// Helps: something of the pod's claims, or devices that they could get.
func (dynamicResources) Helps(c *cycle, e *event) bool {
	switch e.what {
	case deviceClaimChanged:
		return e.freed || c.claimsDevices(e.name)
	case deviceClassChanged, sliceChanged:
		return true
	case nodeChanged:
		return e.node.obj != nil
	}
	return false
}

// claimsDevices reports whether a claim is one of the pod's.
func (c *cycle) claimsDevices(key string) bool {
	for name := range resourceclaim.PodClaims(c.pod.obj) {
		if c.pod.obj.Namespace+"/"+name == key {
			return true
		}
	}
	return false
}

// firstChoices prefers nodes where requests get what they would rather have.
func firstChoices(c *cycle, nodes []*node, out []float64) bool {
	if c.podDevices == nil || !slices.ContainsFunc(c.podDevices.open, hasChoice) {
		return false
	}
	most := 0.0
	for i, n := range nodes {
		results := c.devicesOn(n).results
		out[i] = 0
		for j, claim := range c.podDevices.open {
			for k := range claim.Spec.Devices.Requests {
				out[i] += float64(choice(&claim.Spec.Devices.Requests[k], results[j].Devices.Results))
			}
		}
		most = max(most, out[i])
	}
	if most == 0 {
		return false
	}
	for i := range nodes {
		out[i] = best * out[i] / most
	}
	return true
}

func hasChoice(c *resourcev1.ResourceClaim) bool {
	return slices.ContainsFunc(c.Spec.Devices.Requests, func(r resourcev1.DeviceRequest) bool { return len(r.FirstAvailable) > 0 })
}

// choice is the higher the sooner the alternative comes that was taken; 0: the
// request has none.
func choice(r *resourcev1.DeviceRequest, results []resourcev1.DeviceRequestAllocationResult) int {
	for i := range r.FirstAvailable {
		name := resourceclaim.CreateSubRequestRef(r.Name, r.FirstAvailable[i].Name)
		if slices.ContainsFunc(results, func(d resourcev1.DeviceRequestAllocationResult) bool { return d.Request == name }) {
			return resourcev1.FirstAvailableDeviceRequestMaxSize - i
		}
	}
	return 0
}
