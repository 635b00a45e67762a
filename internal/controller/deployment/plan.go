// Package deployment rolls a Deployment's pod template out over ReplicaSets.
package deployment

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// Observed is what a plan depends on.
type Observed struct {
	Deployment *appsv1.Deployment
	// Owned are the ReplicaSets that the Deployment controls, Orphans those of
	// its namespace that nothing controls.
	Owned, Orphans []*appsv1.ReplicaSet
	// Namesake is the ReplicaSet, anybody's, that has the name which the next
	// new one would get; nil if the name is free.
	Namesake *appsv1.ReplicaSet
	// OldPods says that pods of older ReplicaSets still run; only needed by
	// the Recreate strategy.
	OldPods bool
	Now     time.Time
	// CreateFailure is why the last pass could not create a ReplicaSet.
	CreateFailure string
}

// pass is one run of the plan: what was observed, and what will be once the
// actions so far are applied.
type pass struct {
	Observed
	d       *appsv1.Deployment
	new     *appsv1.ReplicaSet   // of the present template, or nil
	old     []*appsv1.ReplicaSet // oldest first
	status  appsv1.DeploymentStatus
	actions []plan.Action
}

// Plan returns what must change so that the ReplicaSets match the Deployment.
func Plan(o Observed) plan.Result {
	d := o.Deployment
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil || selector.Empty() {
		return plan.Result{} // validation refuses both; never manage by everything
	}
	mine, claims := o.claim(selector)
	if len(claims) > 0 {
		return plan.Result{Actions: claims} // and then again, with settled owners
	}
	p := &pass{Observed: o, d: d, status: *d.Status.DeepCopy()}
	p.new, p.old = split(d, mine)
	if d.DeletionTimestamp != nil {
		return p.finish(false)
	}
	p.pauseCondition()
	if d.Spec.Paused {
		p.syncNew()
		p.scale()
		p.cleanup()
		return p.finish(false)
	}
	if p.scaleRequested() && p.scale() {
		return p.finish(false)
	}
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		p.recreate()
	} else {
		p.roll()
	}
	return p.finish(true)
}

// claim adopts matching orphans and releases sets that do not match any more.
func (o Observed) claim(selector labels.Selector) (mine []*appsv1.ReplicaSet, actions []plan.Action) {
	d := o.Deployment
	for _, rs := range o.Owned {
		if selector.Matches(labels.Set(rs.Labels)) {
			mine = append(mine, rs)
		} else if d.DeletionTimestamp == nil && rs.DeletionTimestamp == nil {
			actions = append(actions, plan.Disown(kinds.ReplicaSet, rs, d.UID))
		}
	}
	if d.DeletionTimestamp != nil {
		return mine, nil
	}
	for _, rs := range o.Orphans {
		if rs.DeletionTimestamp == nil && selector.Matches(labels.Set(rs.Labels)) {
			actions = append(actions, plan.Adopt(kinds.ReplicaSet, rs, kinds.Deployment, d))
		}
	}
	return mine, actions
}

// split finds the set of the present template, the oldest if there are
// several, and the others.
func split(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) (current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) {
	sets = slices.Clone(sets)
	slices.SortFunc(sets, byAge)
	for _, rs := range sets {
		if current == nil && sameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			current = rs
		} else {
			old = append(old, rs)
		}
	}
	return current, old
}

func byAge(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// sameTemplate compares templates without the hash label, which is ours.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	x, y := *a, *b
	x.Labels, y.Labels = withoutHash(a.Labels), withoutHash(b.Labels)
	return apiequality.Semantic.DeepEqual(&x, &y)
}

func withoutHash(m map[string]string) map[string]string {
	if _, ok := m[appsv1.DefaultDeploymentUniqueLabelKey]; !ok {
		return m
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		if k != appsv1.DefaultDeploymentUniqueLabelKey {
			out[k] = v
		}
	}
	return out
}

// all sets, old and new.
func (p *pass) all() []*appsv1.ReplicaSet {
	if p.new == nil {
		return p.old
	}
	return append(slices.Clone(p.old), p.new)
}

// replace makes the rest of the pass see rs instead of the set of its name.
func (p *pass) replace(rs *appsv1.ReplicaSet) {
	if p.new != nil && p.new.Name == rs.Name {
		p.new = rs
		return
	}
	for i := range p.old {
		if p.old[i].Name == rs.Name {
			p.old[i] = rs
		}
	}
}

// finish adds the writes of the Deployment itself: the status, then the
// revision, which needs no resourceVersion. After a failed create the status
// goes before everything, because the create will likely fail again.
func (p *pass) finish(rollout bool) plan.Result {
	p.countReplicas()
	if rollout {
		p.rolloutConditions()
	}
	var status []plan.Action
	if !apiequality.Semantic.DeepEqual(p.status, p.d.Status) {
		c := *p.d // everything but the status is shared, and only read
		c.Status = p.status
		status = append(status, plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.Deployment, p.d).WithSub("status"), Object: &c})
	}
	if p.CreateFailure != "" {
		p.actions = append(status, p.actions...)
	} else {
		p.actions = append(p.actions, status...)
	}
	if p.new != nil && p.d.DeletionTimestamp == nil {
		if rev := p.new.Annotations[revisionAnnotation]; rev != "" && p.d.Annotations[revisionAnnotation] != rev {
			p.actions = append(p.actions, p.setRevision(rev))
		}
	}
	return plan.Result{Actions: p.actions, After: p.deadline()}
}

func (p *pass) setRevision(rev string) plan.Action {
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{revisionAnnotation: rev}}})
	if err != nil {
		panic("deployment: " + err.Error()) // strings always marshal
	}
	return plan.Action{Verb: plan.Patch, Ref: kinds.RefTo(kinds.Deployment, p.d), UID: p.d.UID, PatchType: types.MergePatchType, Data: data}
}

func (p *pass) event(kind, reason, message string) *plan.Event {
	return &plan.Event{Regarding: kinds.RefTo(kinds.Deployment, p.d), UID: p.d.UID, Type: kind, Reason: reason, Message: message}
}
