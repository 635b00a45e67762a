package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	configv1 "k8s.io/kube-scheduler/config/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"
)

// Extender is a server that has a say in where pods go. It is asked in the
// course of a decision, which waits for it: Call must be bounded in time.
type Extender struct {
	configv1.Extender
	// Call asks for one verb and decodes the answer.
	Call func(ctx context.Context, verb string, args, answer any) error
}

// wants reports whether an extender is asked about a pod.
func (e *Extender) wants(p *corev1.Pod) bool {
	if len(e.ManagedResources) == 0 {
		return true
	}
	manages := func(list corev1.ResourceList) bool {
		return slices.ContainsFunc(e.ManagedResources, func(r configv1.ExtenderManagedResource) bool {
			_, ok := list[corev1.ResourceName(r.Name)]
			return ok
		})
	}
	for _, list := range [...][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range list {
			if manages(list[i].Resources.Requests) || manages(list[i].Resources.Limits) {
				return true
			}
		}
	}
	return false
}

// about is a pod and nodes, in the form that the extender wants.
func (e *Extender) about(p *corev1.Pod, nodes []*node) *extenderv1.ExtenderArgs {
	args := &extenderv1.ExtenderArgs{Pod: p}
	if e.NodeCacheCapable {
		names := make([]string, len(nodes))
		for i, n := range nodes {
			names[i] = n.name
		}
		args.NodeNames = &names
		return args
	}
	args.Nodes = &corev1.NodeList{Items: make([]corev1.Node, len(nodes))}
	for i, n := range nodes {
		args.Nodes.Items[i] = *n.obj
	}
	return args
}

// answer is why an extender will not have a pod on a node, and whether that
// stays so whatever pods leave it.
type answer struct {
	why   string
	stays bool
}

// filter returns the nodes that the extender leaves, and notes what it says of
// the others.
func (e *Extender) filter(ctx context.Context, p *corev1.Pod, nodes []*node, said map[*node]answer) ([]*node, error) {
	var result extenderv1.ExtenderFilterResult
	if err := e.Call(ctx, e.FilterVerb, e.about(p, nodes), &result); err != nil {
		return nil, err
	}
	if result.Error != "" {
		return nil, errors.New(result.Error)
	}
	var names []string
	switch {
	case e.NodeCacheCapable && result.NodeNames != nil:
		names = *result.NodeNames
	case result.Nodes != nil:
		for i := range result.Nodes.Items {
			names = append(names, result.Nodes.Items[i].Name)
		}
	}
	asked, stay := make(map[string]*node, len(nodes)), make(map[*node]bool, len(names))
	for _, n := range nodes {
		asked[n.name] = n
	}
	for _, name := range names {
		n := asked[name]
		if n == nil {
			return nil, fmt.Errorf("extender %q claims a filtered node %q which is not found in the input node list", e.URLPrefix, name)
		}
		stay[n] = true
	}
	var left []*node
	for _, n := range nodes {
		if stay[n] {
			left = append(left, n)
			continue
		}
		// One of which it says nothing is not worth a preemption, as upstream.
		a := answer{stays: true}
		if why, ok := result.FailedAndUnresolvableNodes[n.name]; ok {
			a.why = why
		} else if why, ok := result.FailedNodes[n.name]; ok {
			a = answer{why: why}
		}
		said[n] = a
	}
	return left, nil
}

// extended stands for the extenders among the filters. What they say is not a
// matter of one node, so it is asked for once a search has ended.
type extended struct{}

func (extended) Name() string                { return "Extender" }
func (extended) Fits(_ *cycle, _ *node) bool { return true }
func (extended) Explain(c *cycle, n *node, why []string) ([]string, bool) {
	a := c.said[n]
	if a.why != "" {
		why = append(why, a.why)
	}
	return why, a.stays
}

// Advise: only the extender knows.
func (extended) Advise(_ *cycle, _ *node, out []change) []change {
	return append(out, change{kind: impossible})
}

// Helps: nobody knows what an extender looks at, so anything may.
func (extended) Helps(*cycle, *event) bool { return true }

// outside are the extenders, those that may fail last. A nil one has none.
type outside struct {
	list []Extender
	ctx  context.Context // of the loop: nothing is waited for once it ends
	log  *slog.Logger
}

func newOutside(list []Extender, log *slog.Logger) *outside {
	if len(list) == 0 {
		return nil
	}
	o := &outside{list: slices.Clone(list), ctx: context.Background(), log: log}
	slices.SortStableFunc(o.list, func(a, b Extender) int {
		switch {
		case a.Ignorable == b.Ignorable:
			return 0
		case b.Ignorable:
			return -1
		}
		return 1
	})
	return o
}

// within says how long is waited for extenders at most.
func (o *outside) within(ctx context.Context) {
	if o != nil {
		o.ctx = ctx
	}
}

func (o *outside) any(is func(*Extender) bool) bool {
	if o == nil {
		return false
	}
	for i := range o.list {
		if is(&o.list[i]) {
			return true
		}
	}
	return false
}

func (o *outside) filters() bool { return o.any(func(e *Extender) bool { return e.FilterVerb != "" }) }

// compares: it needs more than one node to choose from.
func (o *outside) compares() bool {
	return o.any(func(e *Extender) bool { return e.FilterVerb != "" || e.PrioritizeVerb != "" })
}

// decides reports whether an extender has a say in whether the pod fits.
func (o *outside) decides(p *pod) bool {
	return o.any(func(e *Extender) bool { return (e.FilterVerb != "" || e.PreemptVerb != "") && e.wants(p.obj) })
}

// each calls fn with the extenders that have a verb and want the pod, until it
// fails. What an ignorable one fails with is only logged.
func (o *outside) each(p *pod, verb func(*Extender) string, fn func(*Extender) error) error {
	if o == nil {
		return nil
	}
	for i := range o.list {
		e := &o.list[i]
		if verb(e) == "" || !e.wants(p.obj) {
			continue
		}
		if err := fn(e); err != nil {
			if !e.Ignorable {
				return err
			}
			o.log.Warn("scheduler extender failed and is ignored", "extender", e.URLPrefix, "verb", verb(e), "pod", keyOf(p.obj), "error", err)
		}
	}
	return nil
}

func (o *outside) filter(cy *cycle, nodes []*node) ([]*node, error) {
	err := o.each(cy.pod, func(e *Extender) string { return e.FilterVerb }, func(e *Extender) error {
		if len(nodes) == 0 {
			return nil
		}
		left, err := e.filter(o.ctx, cy.pod.obj, nodes, cy.said)
		if err == nil {
			nodes = left
		}
		return err
	})
	return nodes, err
}

// agrees reports whether the extenders let the pod onto a node for which others
// had to go. One that fails does not: all nodes are looked at then.
func (o *outside) agrees(cy *cycle, n *node) bool {
	if !o.filters() {
		return true
	}
	cy.said = map[*node]answer{}
	left, err := o.filter(cy, []*node{n})
	return err == nil && len(left) == 1
}

// consult the extenders about the nodes of the last search that fit. What they
// refuse is noted as if a filter had refused it.
func (d *decider) consult(cy *cycle) error {
	if !d.outside.filters() || len(d.feasible) == 0 {
		return nil
	}
	cy.said = map[*node]answer{}
	left, err := d.outside.filter(cy, d.feasible)
	if err != nil {
		return err
	}
	d.feasible = append(d.feasible[:0], left...)
	for i, n := range d.looked {
		if _, refused := cy.said[n]; refused {
			d.failed[i] = int8(len(d.filters) - 1)
		}
	}
	return nil
}

// score adds what the extenders give nodes, who go to 10 where we go to 100.
// One that fails gives nothing, as upstream. All are asked at once.
func (o *outside) score(cy *cycle, nodes []*node, total []float64) {
	if o == nil {
		return
	}
	lists := make([]extenderv1.HostPriorityList, len(o.list))
	var asked sync.WaitGroup
	for i := range o.list {
		e := &o.list[i]
		if e.PrioritizeVerb == "" || !e.wants(cy.pod.obj) {
			continue
		}
		args := e.about(cy.pod.obj, nodes)
		asked.Go(func() {
			if err := e.Call(o.ctx, e.PrioritizeVerb, args, &lists[i]); err != nil {
				lists[i] = nil
				o.log.Warn("scheduler extender gives no scores", "extender", e.URLPrefix, "pod", keyOf(cy.pod.obj), "error", err)
			}
		})
	}
	asked.Wait()
	at := make(map[string]int, len(nodes))
	for i, n := range nodes {
		at[n.name] = i
	}
	for i, list := range lists {
		for _, h := range list {
			if j, ok := at[h.Host]; ok {
				total[j] += float64(h.Score) * float64(o.list[i].Weight) * float64(best/extenderv1.MaxExtenderPriority)
			}
		}
	}
}

// rooms asks the extenders which of the rooms that were found will do. They may
// change who has to go. why says what is wrong if none is left.
func (o *outside) rooms(cy *cycle, found []*room) (_ []*room, why string) {
	err := o.each(cy.pod, func(e *Extender) string { return e.PreemptVerb }, func(e *Extender) error {
		if len(found) == 0 {
			return nil
		}
		left, err := e.rooms(o.ctx, cy, found)
		if err == nil {
			found = left
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err.Error()
	case len(found) == 0:
		return nil, "no candidate node for preemption"
	}
	return found, ""
}

func (e *Extender) rooms(ctx context.Context, cy *cycle, found []*room) ([]*room, error) {
	args := &extenderv1.ExtenderPreemptionArgs{Pod: cy.pod.obj}
	if e.NodeCacheCapable {
		args.NodeNameToMetaVictims = map[string]*extenderv1.MetaVictims{}
	} else {
		args.NodeNameToVictims = map[string]*extenderv1.Victims{}
	}
	for _, r := range found {
		if !e.NodeCacheCapable {
			v := &extenderv1.Victims{NumPDBViolations: int64(r.violations)}
			for _, p := range r.victims {
				v.Pods = append(v.Pods, p.obj)
			}
			args.NodeNameToVictims[r.node.name] = v
			continue
		}
		v := &extenderv1.MetaVictims{NumPDBViolations: int64(r.violations)}
		for _, p := range r.victims {
			v.Pods = append(v.Pods, &extenderv1.MetaPod{UID: string(p.obj.UID)})
		}
		args.NodeNameToMetaVictims[r.node.name] = v
	}
	var result extenderv1.ExtenderPreemptionResult
	if err := e.Call(ctx, e.PreemptVerb, args, &result); err != nil {
		return nil, err
	}
	var left []*room
	for name, v := range result.NodeNameToMetaVictims {
		switch {
		case v != nil && len(v.Pods) > 0:
			r, err := e.room(cy, name, v)
			if err != nil {
				return nil, err
			}
			left = append(left, r)
		case !e.Ignorable:
			return nil, fmt.Errorf("expected at least one victim pod on node %q", name)
		}
	}
	// Maps have no order, and the best of equals is to be the same each time.
	slices.SortFunc(left, func(a, b *room) int { return a.node.slot - b.node.slot })
	return left, nil
}

func (e *Extender) room(cy *cycle, name string, v *extenderv1.MetaVictims) (*room, error) {
	n := cy.byName[name]
	if n == nil || n.obj == nil {
		return nil, fmt.Errorf("extender: %s claims to preempt pods on node %q, which is not found", e.URLPrefix, name)
	}
	r := &room{node: n, violations: int(v.NumPDBViolations)}
	for _, meta := range v.Pods {
		if meta == nil || n.pods[types.UID(meta.UID)] == nil {
			return nil, fmt.Errorf("extender: %s claims to preempt pod (UID: %v) on node: %s, but the pod is not found on that node", e.URLPrefix, meta, name)
		}
		r.victims = append(r.victims, n.pods[types.UID(meta.UID)])
	}
	slices.SortFunc(r.victims, moreImportant)
	return r, nil
}

// bind lets the extender bind that does so for the pod; done is false if none
// does, or those that failed may.
func (o *outside) bind(ctx context.Context, p *corev1.Pod, node string) (done bool, err error) {
	err = o.each(&pod{obj: p}, func(e *Extender) string { return e.BindVerb }, func(e *Extender) error {
		var result extenderv1.ExtenderBindingResult
		args := &extenderv1.ExtenderBindingArgs{PodName: p.Name, PodNamespace: p.Namespace, PodUID: p.UID, Node: node}
		err := e.Call(ctx, e.BindVerb, args, &result)
		if err == nil && result.Error != "" {
			err = errors.New(result.Error)
		}
		done = err == nil
		return err
	})
	return done || err != nil, err
}
