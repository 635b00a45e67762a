package main

import (
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

const (
	scaler = "horizontal-pod-autoscaler"
	// each replica is to have so much load, in thousandths.
	each = 100
	// cooling is how long autoscalers wait before they take replicas away, unless
	// they say otherwise.
	cooling = 5 * time.Minute
	// slowly is the period in which an autoscaler that goes slowly takes one.
	slowly = time.Minute
	// steady is how far from what is wanted a load may be: upstream's default, and
	// what sums of fractions are off by.
	steady = 0.1 + 1e-9
)

// loads are what the apps of each namespace have to do, which their pods share.
// They are the metrics that autoscalers read, of pods and of others.
type loads struct {
	world *world
	of    map[string]int64 // by namespace/app
}

// away is what a question meets at times.
func (l *loads) away() error {
	if !l.world.quiet && l.world.rng.IntN(50) == 0 {
		return apierrors.NewInternalError(errAway)
	}
	return nil
}

// Scale implements horizontalpodautoscaler.Source.
func (l *loads) Scale(ref kinds.Ref) (*autoscalingv1.Scale, error) {
	if err := l.away(); err != nil {
		return nil, err
	}
	c := l.world.server.client("system:serviceaccount:kube-system:"+scaler, "system:serviceaccounts", "system:serviceaccounts:kube-system")
	o, err := c.Get(l.world.ctx, ref.WithSub("scale"))
	if apierrors.IsForbidden(err) {
		l.world.audit.fail("the autoscaler may not read a scale: %w", err)
	}
	if err != nil {
		return nil, err
	}
	return o.(*autoscalingv1.Scale), nil
}

// Fetch implements horizontalpodautoscaler.Source.
func (l *loads) Fetch(path string, q url.Values) ([]byte, error) {
	if err := l.away(); err != nil {
		return nil, err
	}
	parts := strings.Split(path, "/")
	ns, last := parts[len(parts)-2], parts[len(parts)-1]
	if strings.HasPrefix(path, "/apis/external.metrics.k8s.io/") {
		return fmt.Appendf(nil, `{"items":[{"value":"%dm"}]}`, l.of[ns+"/"+last]), nil
	}
	selector, err := labels.Parse(q.Get("labelSelector"))
	if err != nil {
		return nil, err
	}
	pods := l.world.working(ns, selector)
	list := metricsv1beta1.PodMetricsList{}
	for _, p := range pods {
		list.Items = append(list.Items, metricsv1beta1.PodMetrics{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: p.Name}, Timestamp: metav1.NewTime(l.world.now), Window: metav1.Duration{Duration: 15 * time.Second},
			Containers: []metricsv1beta1.ContainerMetrics{{Name: "c", Usage: corev1.ResourceList{
				corev1.ResourceCPU: *resource.NewMilliQuantity(l.of[ns+"/"+p.Labels["app"]]/int64(len(pods)), resource.DecimalSI)}}}})
	}
	return json.Marshal(list)
}

// working pods share the load.
func (w *world) working(ns string, selector labels.Selector) (out []*corev1.Pod) {
	for p := range view.List[*corev1.Pod](w.tap.Snapshot(), kinds.Pod, ns) {
		if selector.Matches(labels.Set(p.Labels)) && podReady(p) && !finished(p) && p.DeletionTimestamp == nil {
			out = append(out, p)
		}
	}
	return out
}

// actOnAutoscalers does one thing with what scales, or to it.
func (u *users) actOnAutoscalers(ns string) (what, name string, err error) {
	name = u.pick("web", "web", "web", ring)
	ref := kinds.Ref{Kind: kinds.HorizontalPodAutoscaler, Namespace: ns, Name: name}
	switch n := u.rng.IntN(20); {
	case !u.there(ref):
		return "create autoscaler", name, u.create(kinds.HorizontalPodAutoscaler, u.autoscaler(ns, name, name))
	case n == 0:
		return "create a second autoscaler", name, u.create(kinds.HorizontalPodAutoscaler, u.autoscaler(ns, "rival", name))
	case n < 3:
		name = u.pick(name, "rival", "rival")
		ref.Name = name
		return "delete autoscaler", name, u.remove(ref, "")
	case n < 6:
		most := 2 + u.rng.IntN(4)
		return fmt.Sprintf("at most %d replicas", most), name, u.patch(ref, fmt.Sprintf(`{"spec":{"maxReplicas":%d}}`, most))
	}
	n := int64(u.rng.IntN(7) * u.rng.IntN(each+1)) // often little
	if u.rng.IntN(2) == 0 {
		n = 6*each - n
	}
	u.loads.of[ns+"/"+name] = n
	return fmt.Sprintf("load %d", n), name, nil
}

func (u *users) autoscaler(ns, name, app string) *autoscalingv2.HorizontalPodAutoscaler {
	least := int32(1 + u.rng.IntN(2))
	h := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: app},
		MinReplicas:    &least, MaxReplicas: int32(2 + u.rng.IntN(4))}} // two of them always have a number in common
	if app == ring {
		h.Spec.ScaleTargetRef.Kind = "StatefulSet"
	}
	target := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: resource.NewMilliQuantity(each, resource.DecimalSI)}
	m := autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU, Target: target}}
	if u.rng.IntN(3) > 0 {
		m = autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: app}, Target: target}}
	}
	h.Spec.Metrics = []autoscalingv2.MetricSpec{m}
	switch u.rng.IntN(3) {
	case 0: // slowly
		h.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{
			StabilizationWindowSeconds: new(int32), Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: 1, PeriodSeconds: int32(slowly.Seconds())}}}}
	case 1:
		window := int32(30 + u.rng.IntN(60))
		h.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &window}}
	}
	return h
}

// stopRivals of which none knows, since what they scale has no pods by which they
// would find each other; they take turns with it, as upstream's.
func (u *users) stopRivals() {
	for h := range view.List[*autoscalingv2.HorizontalPodAutoscaler](u.tap.Snapshot(), kinds.HorizontalPodAutoscaler, "") {
		selector := labels.SelectorFromSet(labels.Set{"app": h.Spec.ScaleTargetRef.Name})
		known := false
		for p := range view.List[*corev1.Pod](u.tap.Snapshot(), kinds.Pod, h.Namespace) {
			known = known || selector.Matches(labels.Set(p.Labels))
		}
		if h.Name == "rival" && !known {
			u.note("delete a second autoscaler", u.remove(kinds.RefTo(kinds.HorizontalPodAutoscaler, h), ""))
		}
	}
}

// replicasOf what can be scaled; nil if it cannot.
func replicasOf(o kinds.Object) *int32 {
	switch o := o.(type) {
	case *appsv1.Deployment:
		return o.Spec.Replicas
	case *appsv1.StatefulSet:
		return o.Spec.Replicas
	}
	return nil
}

// autoscalers that name an object, as s shows them.
func autoscalers(s *view.Snapshot, k *kinds.Kind, o kinds.Object) (out []*autoscalingv2.HorizontalPodAutoscaler) {
	for h := range view.List[*autoscalingv2.HorizontalPodAutoscaler](s, kinds.HorizontalPodAutoscaler, o.GetNamespace()) {
		if r := h.Spec.ScaleTargetRef; r.Kind == k.GVK.Kind && r.Name == o.GetName() {
			out = append(out, h)
		}
	}
	return out
}

// rescale is a change that an autoscaler has made.
type rescale struct {
	at       time.Time
	from, to int32
	by       runner // the life that remembers it
	of       types.UID
	version  int64 // of the autoscaler's spec
	// fresh: the load has asked for it, not what was recommended before.
	fresh bool
}

// scaleAudit watches what autoscalers may never do.
type scaleAudit struct {
	world   *world
	changes map[types.UID][]rescale // by what is scaled
	blurred map[types.UID]time.Time // when one has changed it by a spec that was over
	count   int
}

func (a *scaleAudit) observe(k *kinds.Kind, before, after kinds.Object, by *process) error {
	if after == nil || replicasOf(after) == nil {
		if before != nil {
			delete(a.changes, before.GetUID())
			delete(a.blurred, before.GetUID())
		}
		return nil
	}
	uid, to := after.GetUID(), *replicasOf(after)
	if before == nil || *replicasOf(before) == to || by == nil || by.name != scaler {
		return nil
	}
	from := *replicasOf(before)
	a.count++
	c := rescale{at: a.world.now, from: from, to: to, by: by.runner}
	what := fmt.Sprintf("the autoscaler takes %s %s/%s from %d to %d", k, after.GetNamespace(), after.GetName(), from, to)
	seen := autoscalers(by.view.Snapshot(), k, after)
	if from == 0 {
		return fmt.Errorf("%s, which somebody has stopped", what)
	}
	if !slices.ContainsFunc(seen, func(h *autoscalingv2.HorizontalPodAutoscaler) bool {
		return to >= *h.Spec.MinReplicas && to <= h.Spec.MaxReplicas
	}) {
		return fmt.Errorf("%s, which none asks for", what)
	}
	// What it has to keep to is what the server says, if it knows that already.
	h := view.Get[*autoscalingv2.HorizontalPodAutoscaler](a.world.tap.Snapshot(), kinds.HorizontalPodAutoscaler, after.GetNamespace(), seen[0].Name)
	if len(seen) > 1 || h == nil || h.UID != seen[0].UID || h.Generation != seen[0].Generation {
		a.blurred[uid] = a.world.now
		return nil
	}
	c.of, c.version = h.UID, h.Generation
	// So much load that it asks for no less, whatever is tolerated.
	c.fresh = h.Spec.Metrics[0].External != nil && a.world.loads.of[after.GetNamespace()+"/"+after.GetName()] >= each*int64(to)
	a.changes[uid] = append(slices.DeleteFunc(a.changes[uid], func(old rescale) bool {
		return old.by != c.by || old.of != c.of || c.at.Sub(old.at) > cooling
	}), c)
	if to > from || from > h.Spec.MaxReplicas {
		return nil
	}
	return a.down(what, h, a.changes[uid], a.world.now.Sub(a.blurred[uid]) < slowly)
}

// down judges the last change, which takes replicas away. blurred: there are
// others of late that are not known well enough.
func (a *scaleAudit) down(what string, h *autoscalingv2.HorizontalPodAutoscaler, changes []rescale, blurred bool) error {
	window, now := cooling, changes[len(changes)-1]
	if b := h.Spec.Behavior; b != nil && b.ScaleDown != nil && b.ScaleDown.StabilizationWindowSeconds != nil {
		window = time.Duration(*b.ScaleDown.StabilizationWindowSeconds) * time.Second
	}
	sum := int32(0)
	for _, c := range changes {
		if c.to > c.from && c.to > now.to && c.fresh && c.version == now.version && now.at.Sub(c.at) < window {
			return fmt.Errorf("%s, %v after it went up to %d: it flaps", what, now.at.Sub(c.at), c.to)
		}
		if now.at.Sub(c.at) < slowly {
			sum += c.to - c.from
		}
	}
	if window == 0 && sum < -1 && !blurred {
		return fmt.Errorf("%s, which makes %d in %v: it flaps", what, sum, slowly)
	}
	return nil
}

// checkAutoscalers: what one scales alone has the replicas that the load asks for.
func (w *world) checkAutoscalers(t truth) error {
	if w.waiting() {
		return nil
	}
	s := w.tap.Snapshot()
	for _, k := range []*kinds.Kind{kinds.Deployment, kinds.StatefulSet} {
		for _, o := range t[k] {
			hs, n := autoscalers(s, k, o), *replicasOf(o)
			if len(hs) != 1 || n == 0 || w.limited(o.GetNamespace()) {
				continue
			}
			h := hs[0]
			pods := w.working(o.GetNamespace(), labels.SelectorFromSet(labels.Set{"app": o.GetName()}))
			load := w.loads.of[o.GetNamespace()+"/"+o.GetName()]
			ratio, asked := float64(load)/float64(each)/float64(n), math.Ceil(float64(load)/each)
			if h.Spec.Metrics[0].Resource != nil {
				if len(pods) == 0 {
					continue
				}
				ratio = float64(load/int64(len(pods))) / each
				asked = math.Ceil(ratio * float64(len(pods)))
			}
			within := n >= *h.Spec.MinReplicas && n <= h.Spec.MaxReplicas
			want := min(max(int32(asked), *h.Spec.MinReplicas), h.Spec.MaxReplicas)
			if !within || n != want && math.Abs(ratio-1) > steady {
				return fmt.Errorf("%s %s/%s has %d replicas, its load asks for %d: %+v", k, o.GetNamespace(), o.GetName(), n, want, h.Status)
			}
			if st := h.Status; st.CurrentReplicas != n || st.DesiredReplicas != n || st.ObservedGeneration == nil || *st.ObservedGeneration != h.Generation {
				return fmt.Errorf("autoscaler %s/%s of %d replicas says %+v", h.Namespace, h.Name, n, st)
			}
		}
	}
	return nil
}
