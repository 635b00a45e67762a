// Package horizontalpodautoscaler keeps the replicas of what autoscalers scale at
// what their metrics ask for. What the metrics say is read before a plan is made
// (Source); what was recommended and done of late is remembered between plans
// (Memory), and lost with the process, as upstream's.
package horizontalpodautoscaler

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
)

// every is upstream's period of each autoscaler.
const every = 15 * time.Second

// Observed is what a decision depends on.
type Observed struct {
	Autoscaler *autoscalingv2.HorizontalPodAutoscaler
	Target     kinds.Ref            // what is scaled
	Scale      *autoscalingv1.Scale // nil: ScaleErr says why there is none
	ScaleErr   error
	Pods       []*corev1.Pod // that the scale selects
	// Rivals are the autoscalers, this one among them, that select these pods.
	Rivals   []string
	Readings []Reading // one for each metric of the spec; none if Wants says no
	Memory   Memory
	Failure  *reconcile.Failure // of the last pass
	Now      time.Time
}

// Reading is what a metric says.
type Reading struct {
	Pods   map[string]Sample // by name: resources, and metrics of pods
	Values []int64           // in thousandths: of an object (one), or external ones
	Err    error
}

// Sample is what one pod uses.
type Sample struct {
	At     time.Time
	Window time.Duration
	Value  int64 // in thousandths
}

// Memory of one autoscaler.
type Memory struct {
	UID        types.UID
	Generation int64
	Next       time.Time // when it is planned again, whatever wakes it before
	// Selector of the pods, by which others find out that two are at the same.
	Selector        labels.Selector
	Recommendations []Recommendation
	Ups, Downs      []Change
	Rescale         *Rescale
	Computed        []Computed // by the last plan; for metrics alone
}

// Recommendation is what the metrics asked for at a moment.
type Recommendation struct {
	Replicas int32
	At       time.Time
}

// Change of the replicas by this controller, in either direction.
type Change struct {
	By int32
	At time.Time
}

// Rescale was ordered, and is not known to have happened yet.
type Rescale struct {
	From, To int32
	At       time.Time
	Metrics  []autoscalingv2.MetricStatus
}

// shown: the status, which is written after the scale, tells of it.
func (r *Rescale) shown(st *autoscalingv2.HorizontalPodAutoscalerStatus) bool {
	return st.LastScaleTime != nil && st.LastScaleTime.Unix() == r.At.Unix()
}

// Rests returns how long nothing is to be done, since the last plan holds still.
func (m *Memory) Rests(h *autoscalingv2.HorizontalPodAutoscaler, failed bool, now time.Time) time.Duration {
	if failed || m.UID != h.UID || m.Generation != h.Generation || m.Rescale != nil && !m.Rescale.shown(&h.Status) {
		return 0
	}
	return max(0, m.Next.Sub(now))
}

// pass is a plan in the making.
type pass struct {
	*Observed
	next     *autoscalingv2.HorizontalPodAutoscaler
	memory   Memory
	res      plan.Result
	replicas int32 // as they are
	least    int32
}

// Plan decides how many replicas there should be, and what the status says.
func Plan(o Observed) (plan.Result, Memory) {
	p := &pass{Observed: &o, next: o.Autoscaler.DeepCopy(), memory: o.Memory, least: 1}
	p.memory.UID, p.memory.Generation, p.memory.Next = o.Autoscaler.UID, o.Autoscaler.Generation, o.Now.Add(every)
	p.memory.Recommendations, p.memory.Ups, p.memory.Downs = slices.Clone(o.Memory.Recommendations), slices.Clone(o.Memory.Ups), slices.Clone(o.Memory.Downs)
	p.res.After = every
	if m := o.Autoscaler.Spec.MinReplicas; m != nil {
		p.least = *m
	}
	ordered := p.memory.Rescale
	p.memory.Rescale, p.memory.Computed = nil, nil
	switch {
	case ordered != nil && o.Failure != nil && o.Failure.Kind == o.Target.Kind:
		p.condition(autoscalingv2.AbleToScale, false, "FailedUpdateScale", "the HPA controller was unable to update the target scale: "+o.Failure.Message)
		p.status(ordered.From, p.next.Status.DesiredReplicas, ordered.Metrics)
	case o.Scale == nil:
		p.warn("FailedGetScale", o.ScaleErr.Error())
		p.condition(autoscalingv2.AbleToScale, false, "FailedGetScale", "the HPA controller was unable to get the target's current scale: "+o.ScaleErr.Error())
	default:
		p.replicas = o.Scale.Spec.Replicas
		p.settle(ordered)
		p.decide()
	}
	p.write()
	return p.res, p.memory
}

// settle notes that an ordered change has happened.
func (p *pass) settle(r *Rescale) {
	shown := r != nil && r.shown(&p.Autoscaler.Status)
	if r == nil || !shown && p.replicas != r.To {
		return
	}
	if !shown { // somebody else was at the status
		at := metav1.NewTime(r.At.Truncate(time.Second))
		p.next.Status.LastScaleTime = &at
	}
	if p.Autoscaler.Spec.Behavior == nil {
		return // nobody would ask for it
	}
	if r.To > r.From {
		p.memory.Ups = append(p.memory.Ups, Change{r.To - r.From, r.At})
	} else {
		p.memory.Downs = append(p.memory.Downs, Change{r.From - r.To, r.At})
	}
}

// Wants says whether the metrics are asked: not if the replicas are out of
// bounds, and not if somebody has set them to zero.
func (o *Observed) Wants() bool {
	n, spec, least := o.Scale.Spec.Replicas, &o.Autoscaler.Spec, int32(1)
	if spec.MinReplicas != nil {
		least = *spec.MinReplicas
	}
	if n == 0 {
		return o.zeroed() && (least != 0 || spansZero(o.Autoscaler))
	}
	return n >= least && n <= spec.MaxReplicas
}

// zeroed: it was this controller that scaled to zero.
func (o *Observed) zeroed() bool {
	return slices.ContainsFunc(o.Autoscaler.Status.Conditions, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool {
		return c.Type == autoscalingv2.ScaledToZero && c.Status == corev1.ConditionTrue
	})
}

// spansZero: a metric of something else than pods says when they are needed again.
func spansZero(h *autoscalingv2.HorizontalPodAutoscaler) bool {
	return slices.ContainsFunc(h.Spec.Metrics, func(m autoscalingv2.MetricSpec) bool {
		return m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
	})
}

func (p *pass) decide() {
	p.condition(autoscalingv2.AbleToScale, true, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	if p.memory.Recommendations == nil {
		p.memory.Recommendations = []Recommendation{{p.replicas, p.Now}}
	}
	most := p.Autoscaler.Spec.MaxReplicas
	if s, err := labels.Parse(p.Scale.Status.Selector); err == nil && p.Scale.Status.Selector != "" && p.replicas > 0 {
		// Others have to know even if only the bounds count at the moment: else
		// two with bounds of their own take turns for ever.
		p.memory.Selector = s
	}
	switch {
	case p.Wants():
		p.byMetrics()
	case p.replicas == 0:
		p.condition(autoscalingv2.ScalingActive, false, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
		p.status(0, 0, nil)
	case p.replicas > most:
		p.rescale(most, "Current number of replicas above Spec.MaxReplicas", nil)
	default:
		p.rescale(p.least, "Current number of replicas below Spec.MinReplicas", nil)
	}
}

func (p *pass) byMetrics() {
	wanted, metric, statuses, err := p.compute()
	if err != nil {
		p.status(p.replicas, p.next.Status.DesiredReplicas, statuses)
		p.warn("FailedComputeMetricsReplicas", err.Error())
		return
	}
	desired, reason := max(0, wanted), ""
	switch {
	case desired > p.replicas:
		reason = metric + " above target"
	case desired < p.replicas:
		reason = "All metrics below target"
	}
	if p.Autoscaler.Spec.Behavior == nil {
		desired = p.normalize(desired)
	} else {
		desired = p.normalizeByBehavior(desired)
	}
	if p.replicas == 0 && p.least != 0 && desired <= p.least { // zero is no longer allowed
		desired = p.least
		if reason == "" {
			reason = "Current number of replicas below Spec.MinReplicas"
		}
	}
	if desired == p.replicas {
		p.status(p.replicas, desired, statuses)
		return
	}
	p.rescale(desired, reason, statuses)
}

// compute asks for what the metric wants that wants the most. If one cannot be
// told, the others may add replicas, but not take any away.
func (p *pass) compute() (most int32, name string, statuses []autoscalingv2.MetricStatus, err error) {
	if err := p.checkSelector(); err != nil {
		return 0, "", nil, err
	}
	specs := p.Autoscaler.Spec.Metrics
	statuses = make([]autoscalingv2.MetricStatus, len(specs))
	bad := 0
	var first error
	var why, because string
	for i := range specs {
		c, reason, err := p.metric(&specs[i], &p.Readings[i])
		p.memory.Computed = append(p.memory.Computed, Computed{specs[i].Type, c.replicas, err != nil})
		if err != nil {
			p.warn(reason, err.Error())
			if bad++; bad == 1 {
				first, why, because = fmt.Errorf("%s: %w", failedMetric(&specs[i]), err), reason, "the HPA was unable to compute the replica count: "+err.Error()
			}
			continue
		}
		statuses[i] = c.status
		if most == 0 || c.replicas > most {
			most, name = c.replicas, c.name
		}
	}
	if bad >= len(specs) || bad > 0 && most < p.replicas {
		p.condition(autoscalingv2.ScalingActive, false, why, because)
		return 0, "", statuses, fmt.Errorf("invalid metrics (%v invalid out of %v), first error is: %w", bad, len(specs), first)
	}
	p.condition(autoscalingv2.ScalingActive, true, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from "+name)
	return most, name, statuses, nil
}

// failedMetric begins what is said of a metric that cannot be told.
func failedMetric(m *autoscalingv2.MetricSpec) string {
	switch m.Type {
	case autoscalingv2.ObjectMetricSourceType:
		return "failed to get object metric value"
	case autoscalingv2.PodsMetricSourceType:
		return "failed to get pods metric value"
	case autoscalingv2.ResourceMetricSourceType:
		return fmt.Sprintf("failed to get %s resource metric value", m.Resource.Name)
	case autoscalingv2.ContainerResourceMetricSourceType:
		return fmt.Sprintf("failed to get %s container metric value", m.ContainerResource.Container)
	default:
		return fmt.Sprintf("failed to get %s external metric value", m.External.Metric.Name)
	}
}

func (p *pass) checkSelector() error {
	selector := p.Scale.Status.Selector
	if selector == "" {
		const why = "selector is required"
		p.warn("SelectorRequired", why)
		p.condition(autoscalingv2.ScalingActive, false, "InvalidSelector", "the HPA target's scale is missing a selector")
		return errors.New(why)
	}
	parsed, err := labels.Parse(selector)
	if err != nil {
		err = fmt.Errorf("couldn't convert selector into a corresponding internal selector object: %w", err)
		p.warn("InvalidSelector", err.Error())
		p.condition(autoscalingv2.ScalingActive, false, "InvalidSelector", err.Error())
		return err
	}
	p.memory.Selector = parsed
	if len(p.Rivals) > 1 {
		err := fmt.Errorf("pods by selector %v are controlled by more than one HPA (e.g. [%s])", selector, strings.Join(p.Rivals, " "))
		p.warn("AmbiguousSelector", err.Error())
		p.condition(autoscalingv2.ScalingActive, false, "AmbiguousSelector", err.Error())
		return err
	}
	return nil
}

// rescale orders another number of replicas. What the status says of it is
// written only once that has succeeded.
func (p *pass) rescale(desired int32, reason string, statuses []autoscalingv2.MetricStatus) {
	scale := p.Scale.DeepCopy()
	scale.Spec.Replicas = desired
	text := fmt.Sprintf("New size: %d; reason: %s", desired, reason)
	done, failed := p.event(corev1.EventTypeNormal, "SuccessfulRescale", text), p.event(corev1.EventTypeWarning, "FailedRescale", text+"; error: ")
	p.res.Actions = append(p.res.Actions, plan.Action{Verb: plan.Update, Ref: p.Target.WithSub("scale"), Object: scale, Event: &done, Failed: &failed})
	p.memory.Rescale = &Rescale{From: p.replicas, To: desired, At: p.Now, Metrics: statuses}
	p.condition(autoscalingv2.AbleToScale, true, "SucceededRescale", fmt.Sprintf("the HPA controller was able to update the target scale to %d", desired))
	if p.replicas > 0 && desired == 0 && p.least == 0 && spansZero(p.Autoscaler) {
		p.condition(autoscalingv2.ScaledToZero, true, "ScaledToZero", "the HPA controller scaled the workload to zero")
	} else {
		p.condition(autoscalingv2.ScaledToZero, false, "NotScaledToZero", "the HPA controller did not scale the workload to zero")
	}
	at := metav1.NewTime(p.Now.Truncate(time.Second))
	p.next.Status.LastScaleTime = &at
	p.status(p.replicas, desired, statuses)
}

func (p *pass) status(current, desired int32, statuses []autoscalingv2.MetricStatus) {
	st, generation := &p.next.Status, p.next.Generation
	st.CurrentReplicas, st.DesiredReplicas, st.CurrentMetrics, st.ObservedGeneration = current, desired, statuses, &generation
}

func (p *pass) condition(t autoscalingv2.HorizontalPodAutoscalerConditionType, is bool, reason, message string) {
	status := corev1.ConditionFalse
	if is {
		status = corev1.ConditionTrue
	}
	list := &p.next.Status.Conditions
	i := slices.IndexFunc(*list, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool { return c.Type == t })
	if i < 0 {
		i = len(*list)
		*list = append(*list, autoscalingv2.HorizontalPodAutoscalerCondition{Type: t})
	}
	c := &(*list)[i]
	if c.Status != status {
		c.LastTransitionTime = metav1.NewTime(p.Now.Truncate(time.Second))
	}
	c.Status, c.Reason, c.Message = status, reason, message
}

func (p *pass) event(kind, reason, message string) plan.Event {
	return plan.Event{Regarding: kinds.RefTo(kinds.HorizontalPodAutoscaler, p.Autoscaler), UID: p.Autoscaler.UID, Type: kind, Reason: reason, Message: message}
}

func (p *pass) warn(reason, message string) {
	p.res.Events = append(p.res.Events, p.event(corev1.EventTypeWarning, reason, message))
}

func (p *pass) write() {
	if equality.Semantic.DeepEqual(p.next.Status, p.Autoscaler.Status) {
		return
	}
	failed := p.event(corev1.EventTypeWarning, "FailedUpdateStatus", "")
	p.res.Actions = append(p.res.Actions, plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.HorizontalPodAutoscaler, p.next).WithSub("status"), Object: p.next, Failed: &failed})
}
