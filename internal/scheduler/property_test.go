package scheduler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

// Small alphabets, so that random objects meet.
var (
	apps  = []string{"a", "b", "c"}
	zones = []string{"z1", "z2"}
	keys  = []string{hostname, corev1.LabelTopologyZone}
)

func drawNode(t *rapid.T, name string) *corev1.Node {
	n := aNode(name, has("cpu", rapid.SampledFrom([]string{"1", "2", "4"}).Draw(t, "cpu"), "pods", rapid.SampledFrom([]string{"1", "3", "10"}).Draw(t, "pods")))
	if rapid.IntRange(0, 3).Draw(t, "zoned") > 0 {
		zone(rapid.SampledFrom(zones).Draw(t, "zone"))(n)
	}
	if rapid.IntRange(0, 3).Draw(t, "disk") == 0 {
		labelled("disk", "ssd")(n)
	}
	if rapid.IntRange(0, 4).Draw(t, "taint") == 0 {
		tainted("k", rapid.SampledFrom([]corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule}).Draw(t, "effect"))(n)
	}
	if rapid.IntRange(0, 5).Draw(t, "extended") == 0 {
		has(widget, rapid.SampledFrom([]string{"0", "1", "2"}).Draw(t, "widgets"))(n)
	}
	n.Spec.Unschedulable = rapid.IntRange(0, 6).Draw(t, "cordoned") == 0
	return n
}

func drawSelector(t *rapid.T) *metav1.LabelSelector {
	app := rapid.SampledFrom(apps).Draw(t, "selected")
	switch rapid.IntRange(0, 4).Draw(t, "selector") {
	case 0:
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{app}}}}
	case 1:
		return &metav1.LabelSelector{}
	}
	return selecting("app", app)
}

func drawTerm(t *rapid.T) corev1.PodAffinityTerm {
	term := corev1.PodAffinityTerm{TopologyKey: rapid.SampledFrom(keys).Draw(t, "key"), LabelSelector: drawSelector(t)}
	switch rapid.IntRange(0, 5).Draw(t, "where") {
	case 0:
		term.Namespaces = []string{"default", "other"}
	case 1:
		term.NamespaceSelector = &metav1.LabelSelector{}
	case 2:
		term.NamespaceSelector = selecting("team", "t")
	case 3:
		term.Namespaces, term.NamespaceSelector = []string{"default"}, selecting("team", "t")
	}
	return term
}

func drawPod(t *rapid.T, name string) *corev1.Pod {
	p := aPod(name, with("app", rapid.SampledFrom(apps).Draw(t, "app")), requests("cpu", rapid.SampledFrom([]string{"0", "300m", "1", "2"}).Draw(t, "request")))
	if v := rapid.Int32Range(-1, 2).Draw(t, "priority"); v != 0 {
		priority(v)(p)
	}
	p.Namespace = rapid.SampledFrom([]string{"default", "default", "other"}).Draw(t, "namespace")
	chance := func(of int, label string) bool { return rapid.IntRange(0, of).Draw(t, label) == 0 }
	if chance(3, "extended") {
		p.Spec.Containers[0].Resources.Requests[widget] = *resource.NewQuantity(rapid.Int64Range(1, 2).Draw(t, "widgets"), resource.DecimalSI)
	}
	if chance(4, "selects") {
		p.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	}
	if chance(3, "tolerates") {
		tolerating("k")(p)
	}
	if chance(6, "ports") {
		hostPorts(rapid.SampledFrom([]string{"", "10.0.0.1", "10.0.0.2"}).Draw(t, "ip") + "/TCP/80")(p)
	}
	if chance(4, "apart") {
		affinity(p).PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{drawTerm(t)}}
	}
	if chance(5, "near") {
		terms := []corev1.PodAffinityTerm{drawTerm(t)}
		if chance(2, "nearer") {
			terms = append(terms, drawTerm(t))
		}
		affinity(p).PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}
	}
	if chance(3, "likes") {
		likes(rapid.SampledFrom([]int32{-5, 5}).Draw(t, "weight"), rapid.SampledFrom(keys).Draw(t, "likes key"), drawSelector(t))(p)
	}
	for i := range 2 {
		if chance(3, fmt.Sprint("spread", i)) {
			p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, drawSpread(t, keys[i]))
		}
	}
	return p
}

func drawSpread(t *rapid.T, key string) corev1.TopologySpreadConstraint {
	c := corev1.TopologySpreadConstraint{MaxSkew: rapid.Int32Range(1, 2).Draw(t, "skew"), TopologyKey: key, LabelSelector: drawSelector(t),
		WhenUnsatisfiable: rapid.SampledFrom([]corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.DoNotSchedule, corev1.ScheduleAnyway}).Draw(t, "when")}
	if rapid.Bool().Draw(t, "domains") {
		c.MinDomains = nil
		if c.WhenUnsatisfiable == corev1.DoNotSchedule {
			set(&c.MinDomains, rapid.Int32Range(1, 3).Draw(t, "minDomains"))
		}
	}
	if rapid.Bool().Draw(t, "policies") {
		policy := rapid.SampledFrom([]corev1.NodeInclusionPolicy{corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore})
		set(&c.NodeAffinityPolicy, policy.Draw(t, "affinity policy"))
		set(&c.NodeTaintsPolicy, policy.Draw(t, "taints policy"))
	}
	return c
}

// atLeast is how often a thing of chance must have been: in short tests rapid
// tries a fifth of the cases.
func atLeast(n int) int {
	if testing.Short() {
		return n / 5
	}
	return n
}

// What the decider chooses is feasible by the naive check; where it chooses
// nothing, the naive check finds nothing. The running counts are put to the
// test by placing and removing pods, and changing nodes, in between.
//
// Pods come of a few templates: what is remembered of a class must not make a
// decision other than it is for a pod that is alone. Each decision is one state
// of a cluster; there are more than 10,000.
func TestDecisionsAgreeWithNaiveCheck(t *testing.T) {
	decisions, remembered := 0, 0
	for range 20 {
		rapid.Check(t, func(t *rapid.T) { agree(t, &decisions, &remembered) })
	}
	if !t.Failed() && (decisions < atLeast(10_000) || remembered*3 < decisions) {
		t.Errorf("%d decisions, %d of them about pods of a known class", decisions, remembered)
	}
}

// variants of the rules, of which each pod of a template may go by any.
func variants() []*rules {
	return []*rules{
		rulesOf(DefaultProfile()),
		rulesOf(profileWith(addedAffinity("disk", "ssd"), strategy(configv1.MostAllocated, "cpu", 1))),
		rulesOf(profileWith(addedPreference("disk", "ssd"), defaultConstraint(hostname, corev1.ScheduleAnyway), func(p *Profile) { p.PodAffinity.IgnorePreferredTermsOfExistingPods = true })),
	}
}

func agree(t *rapid.T, decisions, remembered *int) {
	c := world(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other", Labels: map[string]string{"team": "t"}}})
	w := &naive{nodes: map[string]*corev1.Node{}, namespaces: map[string]map[string]string{"default": nil, "other": {"team": "t"}}, naiveStorage: newNaiveStorage(), naiveExtended: newNaiveExtended()}
	take := func(o kinds.Object, gone bool) {
		c.take(o, gone)
		w.take(o, gone)
	}
	for _, o := range naiveClasses() {
		take(o, false)
	}
	deciders := make([]*decider, len(variants()))
	for i, r := range variants() {
		deciders[i] = deciderBy(r, nil, nil)
	}
	var templates []*corev1.Pod
	for i := range rapid.IntRange(1, 40).Draw(t, "steps") {
		switch rapid.IntRange(0, 14).Draw(t, "step") {
		case 10, 11:
			w.disturb(t, take)
			continue
		case 12:
			w.disturbDevices(t, c)
			continue
		case 0, 1:
			n := drawNode(t, fmt.Sprintf("n%d", rapid.IntRange(0, 4).Draw(t, "node")))
			c.setNode(n)
			w.nodes[n.Name] = n
			continue
		case 2:
			name := fmt.Sprintf("n%d", rapid.IntRange(0, 4).Draw(t, "lost"))
			c.dropNode(name)
			delete(w.nodes, name)
			continue
		case 3:
			if len(w.pods) > 0 {
				j := rapid.IntRange(0, len(w.pods)-1).Draw(t, "removed")
				c.remove(c.pods[w.pods[j].UID])
				w.giveBack(w.pods[j], c)
				w.pods = slices.Delete(w.pods, j, j+1)
			}
			continue
		}
		name := fmt.Sprintf("p%d", i)
		var p *corev1.Pod
		if len(templates) < 2 || rapid.IntRange(0, 9).Draw(t, "new template") == 0 {
			p = drawMounts(t, drawPod(t, name))
			templates = append(templates, p)
		} else {
			p = rapid.SampledFrom(templates).Draw(t, "template").DeepCopy()
			p.Name, p.UID = name, types.UID(name)
			p.Spec.NodeName = ""
		}
		profile := max(0, rapid.IntRange(-5, len(deciders)-1).Draw(t, "profile"))
		d := deciders[profile]
		feasible := w.feasible(p)
		if profile == 1 { // its added affinity
			feasible = slices.DeleteFunc(feasible, func(name string) bool { return w.nodes[name].Labels["disk"] != "ssd" })
		}
		known := len(d.classes.byID)
		alone := deciderBy(d.rules, nil, rand.New(rand.NewPCG(1, uint64(i))))
		alone.next, d.rand = d.next, rand.New(rand.NewPCG(1, uint64(i)))
		want := alone.decide(c, pending(p))
		dec := d.decide(c, d.classes.pending(p))
		*decisions++
		if len(d.classes.byID) == known {
			*remembered++
		}
		switch {
		case dec.node == nil && len(feasible) > 0:
			t.Fatalf("pod %s fits on %v, the scheduler says: %s", p.Name, feasible, dec.why)
		case dec.node != nil && !slices.Contains(feasible, dec.node.name):
			t.Fatalf("pod %s was given %s, feasible are %v", p.Name, dec.node.name, feasible)
		case dec.node != want.node || dec.message() != want.message() || dec.refused != want.refused || (dec.room == nil) != (want.room == nil):
			t.Fatalf("pod %s: %+v, but alone: %+v", p.Name, dec, want)
		case dec.node != nil:
			p.Spec.NodeName = dec.node.name
			c.place(placed(p), p.Spec.NodeName)
			if dec.wanted != nil {
				w.promise(t, p, dec.wanted, c, take)
			}
			w.grant(t, p, dec.grants, c)
			w.pods = append(w.pods, p)
		}
	}
}

// disturb storage: things come, change and go, but not what is in use.
func (w *naive) disturb(t *rapid.T, take func(kinds.Object, bool)) {
	switch rapid.IntRange(0, 4).Draw(t, "claims") {
	case 0, 1:
		if c := drawClaim(t, fmt.Sprint("c", rapid.IntRange(0, 4).Draw(t, "claim"))); w.claims[keyOf(c)] == nil {
			take(c, false)
		}
	case 2:
		names := slices.Sorted(maps.Keys(w.claims)) // bound, whoever did it
		if len(names) == 0 {
			return
		}
		c := w.claims[rapid.SampledFrom(names).Draw(t, "bound")]
		name := fmt.Sprint("v", rapid.IntRange(0, 4).Draw(t, "to"))
		if v := w.pvs[name]; c.Status.Phase != corev1.ClaimBound && c.Annotations[selectedNode] == "" && v != nil && v.Spec.ClaimRef == nil {
			c, v = bindTo(c, v)
			take(c, false)
			take(v, false)
		}
	default:
		o := drawStorage(t)
		if v, ok := o.(*corev1.PersistentVolume); ok && w.pvs[v.Name] != nil && w.pvs[v.Name].Spec.ClaimRef != nil {
			return
		}
		take(o, rapid.IntRange(0, 4).Draw(t, "goes") == 0)
	}
}

// promise what a decision wants, after a look at whether it can be had, and
// let it come true at once, or not.
func (w *naive) promise(t *rapid.T, p *corev1.Pod, o *outcome, c *cluster, take func(kinds.Object, bool)) {
	n, seen := w.nodes[p.Spec.NodeName], map[string]bool{}
	for _, m := range o.matches {
		if seen[m.volume.Name] || !w.serves(w.pvs[m.volume.Name], w.claims[keyOf(m.claim)], n) {
			t.Fatalf("pod %s cannot have %s for %s on %s", p.Name, m.volume.Name, m.claim.Name, n.Name)
		}
		seen[m.volume.Name] = true
	}
	for _, m := range o.makings {
		if !w.makes(w.classes[*m.claim.Spec.StorageClassName], m.claim, n) {
			t.Fatalf("no volume can be made for %s on %s", m.claim.Name, n.Name)
		}
	}
	at := rapid.Bool().Draw(t, "at once")
	for _, m := range o.matches {
		if at {
			claim, v := bindTo(m.claim, m.volume)
			take(claim, false)
			take(v, false)
			continue
		}
		v := promised(m.volume, m.claim)
		c.promiseVolume(v)
		w.pvs[v.Name] = v
	}
	for _, m := range o.makings {
		if at {
			claim, v := bindTo(m.claim, madeFor(m.claim, n.Labels[hostname]))
			take(v, false)
			take(claim, false)
			continue
		}
		claim := m.claim.DeepCopy()
		forNode(n.Name)(claim)
		c.promiseClaim(claim)
		w.claims[keyOf(claim)] = claim
	}
}

// api is a world whose pods can be bound.
type api struct {
	*reconciletest.World
	mu   sync.Mutex
	fail func(pod string) error
}

func newAPI() *api {
	a := &api{World: reconciletest.New(Kinds())}
	for _, ns := range []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, {ObjectMeta: metav1.ObjectMeta{Name: "other", Labels: map[string]string{"team": "t"}}}} {
		a.Put(kinds.Namespace, ns)
	}
	return a
}

// Create binds, or makes a claim for extended resources. It is safe for
// concurrent use, for Run.
func (a *api) Create(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	if ref.Kind == kinds.ResourceClaim {
		return a.World.Create(ctx, ref, obj)
	}
	if ref.Sub != "binding" {
		return nil, errors.New("the scheduler creates nothing but bindings and claims")
	}
	if fail := a.fail; fail != nil {
		if err := fail(ref.Name); err != nil {
			return nil, err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	b := obj.(*corev1.Binding)
	p, ok := a.Object(kinds.Pod, ref.Namespace, ref.Name).(*corev1.Pod)
	if !ok {
		return nil, apierrors.NewNotFound(kinds.Pod.GroupResource(), ref.Name)
	}
	if p.UID != b.UID || p.Spec.NodeName != "" {
		return nil, apierrors.NewConflict(kinds.Pod.GroupResource(), ref.Name, errors.New("is bound"))
	}
	p = p.DeepCopy()
	p.Spec.NodeName = b.Target.Name
	a.Put(kinds.Pod, p)
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

func (a *api) naive() *naive {
	w := &naive{nodes: map[string]*corev1.Node{}, namespaces: map[string]map[string]string{}, naiveStorage: newNaiveStorage()}
	for _, k := range []*kinds.Kind{kinds.PersistentVolumeClaim, kinds.PersistentVolume, kinds.StorageClass, kinds.CSINode, kinds.CSIStorageCapacity, kinds.VolumeAttachment} {
		for _, o := range a.Objects(k) {
			w.take(o, false)
		}
	}
	for _, o := range a.Objects(kinds.Node) {
		w.nodes[o.GetName()] = o.(*corev1.Node)
	}
	for _, o := range a.Objects(kinds.Namespace) {
		w.namespaces[o.GetName()] = o.GetLabels()
	}
	for _, o := range a.Objects(kinds.Pod) {
		if p := o.(*corev1.Pod); p.Spec.NodeName != "" && !ended(p) {
			w.pods = append(w.pods, p)
		}
	}
	return w
}

// overfull names a node that has more than it can hold.
func (w *naive) overfull() string {
	for _, n := range w.nodes {
		sum := list("cpu", "0")
		here := w.on(n)
		for _, p := range here {
			q := sum[corev1.ResourceCPU]
			q.Add(p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU])
			sum[corev1.ResourceCPU] = q
		}
		cpu, pods := sum[corev1.ResourceCPU], n.Status.Allocatable[corev1.ResourcePods]
		if cpu.Cmp(n.Status.Allocatable[corev1.ResourceCPU]) > 0 || int64(len(here)) > pods.Value() {
			return n.Name
		}
	}
	return ""
}

// Through the whole loop, with a view that lags, writes that fail and a
// cluster that changes: no node ever holds more than it has, and when all has
// come to rest no pod waits that would fit. The second says that no wake-up is
// missed: nothing else looks at waiting pods again.
func TestLoopUnderRandomChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := newAPI()
		a.fail = func(string) error {
			switch rapid.IntRange(0, 9).Draw(t, "bind fails") {
			case 0:
				return apierrors.NewInternalError(errors.New("down"))
			case 1:
				return apierrors.NewConflict(kinds.Pod.GroupResource(), "x", errors.New("busy"))
			}
			return nil
		}
		s, err := New(Config{View: a.View, Client: a, Now: func() time.Time { return a.Now }, Rand: rand.New(rand.NewPCG(1, 1))})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range naiveClasses() {
			a.put(o)
		}
		ctx := context.Background()
		preempted := a.preempting()
		capacity := map[string]*corev1.Node{} // nodes keep their size, so that overfull means a wrong decision
		check := func() {
			if name := a.naive().overfull(); name != "" {
				t.Fatalf("%s holds more than it has", name)
			}
			if err := errors.Join(preempted(), a.volumesInOrder()); err != nil {
				t.Fatal(err)
			}
		}
		for i := range rapid.IntRange(1, 40).Draw(t, "steps") {
			a.disturb(t, i, capacity)
			for range rapid.IntRange(0, 3).Draw(t, "decisions") {
				s.Step(ctx)
				check()
			}
			if rapid.Bool().Draw(t, "deliver") {
				a.Deliver(nil)
			}
			a.Now = a.Now.Add(rapid.SampledFrom([]time.Duration{0, time.Second, 20 * time.Second}).Draw(t, "time"))
		}
		a.Lag, a.fail = false, nil
		a.Deliver(nil)
		for _, o := range a.Objects(kinds.Pod) {
			if p := o.(*corev1.Pod).DeepCopy(); len(p.Finalizers) > 0 {
				p.Finalizers = nil
				a.Put(kinds.Pod, p)
			}
		}
		for limit := 0; ; limit++ {
			if limit > 5000 {
				t.Fatal("the scheduler does not come to rest")
			}
			if s.Step(ctx) {
				check()
				continue
			}
			if a.bindClaims(func(string) string { return "bind" }) {
				continue
			}
			due := s.NextDue()
			if due.IsZero() {
				break
			}
			a.Now = due
		}
		w := a.naive()
		for _, o := range a.Objects(kinds.Pod) {
			p := o.(*corev1.Pod)
			if p.Spec.NodeName != "" || ended(p) {
				continue
			}
			if len(p.Spec.SchedulingGates) > 0 {
				continue
			}
			if nodes := w.feasible(p); len(nodes) > 0 {
				t.Fatalf("pod %s waits although it fits on %v; it was told: %s", p.Name, nodes, condition(p, corev1.PodScheduled).Message)
			}
			if rooms := w.preempt(p); len(rooms) > 0 && p.Spec.PreemptionPolicy == nil {
				t.Fatalf("pod %s waits although it could preempt %v; it was told: %s", p.Name, rooms[0], condition(p, corev1.PodScheduled).Message)
			}
			if p.Status.NominatedNodeName != "" {
				t.Fatalf("pod %s waits for %s, which nobody leaves", p.Name, p.Status.NominatedNodeName)
			}
		}
		if len(s.assumed)+len(s.cluster.doomed)+len(s.cluster.nominees) > 0 {
			t.Errorf("still assumed: %v, doomed: %v, nominated: %v", s.assumed, s.cluster.doomed, s.cluster.nominees)
		}
		if len(s.reserved)+len(s.waits)+len(s.settled)+len(s.cluster.realClaims)+len(s.cluster.realVolumes) > 0 {
			t.Errorf("still promised: %v, %v, %v, %v, %v", s.reserved, s.waits, s.settled, s.cluster.realClaims, s.cluster.realVolumes)
		}
	})
}

func (a *api) disturb(t *rapid.T, i int, capacity map[string]*corev1.Node) {
	pick := func() *corev1.Pod {
		pods := a.Objects(kinds.Pod)
		if len(pods) == 0 {
			return nil
		}
		return pods[rapid.IntRange(0, len(pods)-1).Draw(t, "which")].(*corev1.Pod).DeepCopy()
	}
	switch rapid.IntRange(0, 18).Draw(t, "what") {
	case 13, 14:
		if c := drawClaim(t, fmt.Sprint("c", rapid.IntRange(0, 4).Draw(t, "claim"))); a.Object(kinds.PersistentVolumeClaim, "default", c.Name) == nil {
			a.put(c)
		}
	case 15, 16:
		o := drawStorage(t)
		if v, ok := o.(*corev1.PersistentVolume); ok {
			if old, ok := a.Object(kinds.PersistentVolume, "", v.Name).(*corev1.PersistentVolume); ok && old.Spec.ClaimRef != nil {
				return
			}
		}
		a.put(o)
	case 17, 18:
		a.bindClaims(func(claim string) string {
			return rapid.SampledFrom([]string{"wait", "bind", "give up"}).Draw(t, claim)
		})
	case 0, 1:
		name := fmt.Sprintf("n%d", rapid.IntRange(0, 3).Draw(t, "node"))
		n := drawNode(t, name)
		if old := capacity[name]; old != nil {
			n.Status = old.Status
		}
		capacity[name] = n
		n.UID = types.UID(name)
		a.Put(kinds.Node, n)
	case 2:
		a.Remove(kinds.Node, "", fmt.Sprintf("n%d", rapid.IntRange(0, 3).Draw(t, "lost")))
	case 3:
		if p := pick(); p != nil {
			a.Remove(kinds.Pod, p.Namespace, p.Name)
		}
	case 4:
		if p := pick(); p != nil && p.Spec.NodeName != "" {
			p.Status.Phase = corev1.PodSucceeded
			a.Put(kinds.Pod, p)
		}
	case 5:
		if p := pick(); p != nil {
			p.Labels = map[string]string{"app": rapid.SampledFrom(apps).Draw(t, "relabel")}
			a.Put(kinds.Pod, p)
		}
	case 6:
		if p := pick(); p != nil && p.Spec.NodeName == "" {
			tolerating("k")(p)
			p.Spec.SchedulingGates = nil
			p.Generation++ // as the API server does
			a.Put(kinds.Pod, p)
		}
	case 7:
		a.Put(kinds.Namespace, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", UID: "default", Labels: map[string]string{"team": rapid.SampledFrom([]string{"t", "u"}).Draw(t, "team")}}})
	case 8:
		a.Lag = rapid.Bool().Draw(t, "lag")
		if !a.Lag {
			a.Deliver(nil)
		}
	default:
		p := drawMounts(t, drawPod(t, fmt.Sprintf("p%d", i)))
		if rapid.IntRange(0, 3).Draw(t, "held") == 0 {
			held(p)
		}
		if rapid.IntRange(0, 3).Draw(t, "never") == 0 {
			never(p)
		}
		if rapid.IntRange(0, 8).Draw(t, "gated") == 0 {
			p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}}
		}
		a.Put(kinds.Pod, p)
	}
}
