package deployment

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// Annotations that kubectl rollout reads.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"
)

// maxHistory bounds the revision-history annotation, in bytes.
const maxHistory = 2000

// notCopied are the Deployment's annotations that its sets do not inherit.
var notCopied = []string{
	corev1.LastAppliedConfigAnnotation, revisionAnnotation, historyAnnotation, desiredAnnotation, maxAnnotation,
	appsv1.DeprecatedRollbackTo,
}

// Name of the ReplicaSet that a new template gets, with its hash.
func Name(d *appsv1.Deployment) (name, hash string) {
	hash = templateHash(&d.Spec.Template, d.Status.CollisionCount)
	return d.Name + "-" + hash, hash
}

// hashAlphabet is that of generated names: no vowels, nothing that looks like
// one.
const hashAlphabet = "bcdfghjklmnpqrstvwxz2456789"

// templateHash is FNV-1a over the template's JSON and the collision count, in
// letters that make no words. It only names: equality is decided by comparing
// templates, so another version may hash differently.
func templateHash(t *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	b, err := json.Marshal(t)
	if err != nil {
		panic("deployment: " + err.Error()) // API types always marshal
	}
	h.Write(b)
	if collisions != nil {
		fmt.Fprintf(h, "/%d", *collisions)
	}
	s := []byte(strconv.FormatUint(uint64(h.Sum32()), 10))
	for i := range s {
		s[i] = hashAlphabet[int(s[i])%len(hashAlphabet)]
	}
	return string(s)
}

// ensureNew creates the set of the present template, or brings the present
// one's annotations up to date. It reports whether it created one.
func (p *pass) ensureNew() bool {
	if p.new != nil {
		p.syncNew()
		return false
	}
	name, hash := Name(p.d)
	if p.Namesake != nil {
		// The name is taken by a set that is not ours or not of this template:
		// the next pass hashes with another count.
		n := int32(1)
		if p.d.Status.CollisionCount != nil {
			n += *p.d.Status.CollisionCount
		}
		p.status.CollisionCount = &n
		return true
	}
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.d.Namespace, Name: name, Labels: with(p.d.Spec.Template.Labels, hash),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(p.d, kinds.Deployment.GVK)},
		},
		Spec: appsv1.ReplicaSetSpec{
			Selector: p.d.Spec.Selector.DeepCopy(), Template: *p.d.Spec.Template.DeepCopy(), MinReadySeconds: p.d.Spec.MinReadySeconds,
		},
	}
	rs.Spec.Selector.MatchLabels = with(rs.Spec.Selector.MatchLabels, hash)
	rs.Spec.Template.Labels = with(rs.Spec.Template.Labels, hash)
	size := p.newSize(0)
	rs.Spec.Replicas = &size
	p.annotate(rs, true)
	a := plan.Action{
		Verb: plan.Create, Ref: kinds.RefTo(kinds.ReplicaSet, rs), Object: rs,
		Failed: p.event(corev1.EventTypeWarning, "ReplicaSetCreateError", fmt.Sprintf("Failed to create new replica set %q: ", name)),
	}
	if size > 0 {
		a.Event = p.event(corev1.EventTypeNormal, "ScalingReplicaSet", fmt.Sprintf("Scaled up replica set %s from 0 to %d", name, size))
	}
	p.actions = append(p.actions, a)
	p.new = rs
	if p.CreateFailure != "" {
		p.condition(appsv1.DeploymentProgressing, corev1.ConditionFalse, "ReplicaSetCreateError",
			fmt.Sprintf("Failed to create new replica set %q: %s", name, p.CreateFailure))
	} else {
		p.condition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", name))
	}
	return true
}

// syncNew brings the new set's annotations and minReadySeconds up to date; a
// set that became the present one again (a rollback) gets the newest revision.
func (p *pass) syncNew() {
	if p.new == nil {
		return
	}
	rs := p.new.DeepCopy()
	changed := p.annotate(rs, false)
	if rs.Spec.MinReadySeconds != p.d.Spec.MinReadySeconds {
		rs.Spec.MinReadySeconds, changed = p.d.Spec.MinReadySeconds, true
	}
	if changed {
		p.update(rs, nil)
	}
	if p.progressing() == nil {
		p.condition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "FoundNewReplicaSet", fmt.Sprintf("Found new replica set %q", rs.Name))
	}
}

// update writes a set; a second update of the same set in one pass takes the
// first one's place, since the resourceVersion allows one only.
func (p *pass) update(rs *appsv1.ReplicaSet, e *plan.Event) {
	a := plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.ReplicaSet, rs), Object: rs, Event: e}
	p.replace(rs)
	for i := range p.actions {
		if p.actions[i].Verb == plan.Update && p.actions[i].Ref == a.Ref {
			p.actions[i] = a
			return
		}
	}
	p.actions = append(p.actions, a)
}

// annotate sets the annotations of the new set; it reports changes.
func (p *pass) annotate(rs *appsv1.ReplicaSet, fresh bool) (changed bool) {
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	for k, v := range p.d.Annotations {
		if old, ok := rs.Annotations[k]; !slices.Contains(notCopied, k) && (!ok || old != v) {
			rs.Annotations[k], changed = v, true
		}
	}
	next := int64(0)
	for _, old := range p.old {
		next = max(next, revision(old))
	}
	next++
	if present := revision(rs); next > present {
		if had := rs.Annotations[revisionAnnotation]; had != "" {
			rs.Annotations[historyAnnotation] = remember(rs.Annotations[historyAnnotation], had)
		}
		rs.Annotations[revisionAnnotation], changed = strconv.FormatInt(next, 10), true
	}
	if fresh {
		p.annotateReplicas(rs)
	}
	return changed
}

// remember appends a revision to the history, dropping the oldest when it
// grows too long.
func remember(history, rev string) string {
	if history == "" {
		return rev
	}
	history += "," + rev
	for len(history) > maxHistory {
		_, history, _ = strings.Cut(history, ",")
	}
	return history
}

// revision of a set; 0 if it has none that reads as a number.
func revision(rs *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(rs.Annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// with copies labels and adds the hash.
func with(labels map[string]string, hash string) map[string]string {
	out := make(map[string]string, len(labels)+1)
	for k, v := range labels {
		out[k] = v
	}
	out[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	return out
}

// cleanup deletes the oldest unused sets beyond the history limit.
func (p *pass) cleanup() {
	if p.d.Spec.RevisionHistoryLimit == nil {
		return
	}
	var old []*appsv1.ReplicaSet
	for _, rs := range p.old {
		if rs.DeletionTimestamp == nil {
			old = append(old, rs)
		}
	}
	surplus := len(old) - int(*p.d.Spec.RevisionHistoryLimit)
	if surplus <= 0 {
		return
	}
	slices.SortStableFunc(old, func(a, b *appsv1.ReplicaSet) int { return int(min(1, max(-1, revision(a)-revision(b)))) })
	for _, rs := range old[:surplus] {
		if rs.Status.Replicas != 0 || *rs.Spec.Replicas != 0 || rs.Generation > rs.Status.ObservedGeneration {
			continue
		}
		p.actions = append(p.actions, plan.Action{
			Verb: plan.Delete, Ref: kinds.RefTo(kinds.ReplicaSet, rs), UID: rs.UID, ResourceVersion: rs.ResourceVersion,
			Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
		})
	}
}
