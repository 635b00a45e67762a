package statefulset

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// claimName of a template for an ordinal. Provisioners spread volumes over zones
// by this form.
func (p *pass) claimName(t *corev1.PersistentVolumeClaim, ordinal int) string {
	return t.Name + "-" + p.set.Name + "-" + strconv.Itoa(ordinal)
}

// prepare makes the claims of a pod that is to be made. It reports whether the
// pod can be.
func (p *pass) prepare(ordinal int) ([]plan.Action, bool) {
	if p.deletesScaled() {
		for i := range p.set.Spec.VolumeClaimTemplates {
			c := p.Claim(p.claimName(&p.set.Spec.VolumeClaimTemplates[i], ordinal))
			if c != nil && slices.ContainsFunc(c.OwnerReferences, func(r metav1.OwnerReference) bool { return isPod(r, p.name(ordinal)) }) {
				return nil, false // it goes with an earlier pod of that name
			}
		}
	}
	return p.claims(ordinal)
}

// claims makes those that an ordinal lacks. It reports whether none is on its
// way out.
func (p *pass) claims(ordinal int) (actions []plan.Action, ok bool) {
	ok = true
	pod := p.name(ordinal)
	for i := range p.set.Spec.VolumeClaimTemplates {
		t := &p.set.Spec.VolumeClaimTemplates[i]
		name := p.claimName(t, ordinal)
		if c := p.Claim(name); c != nil {
			if c.DeletionTimestamp != nil {
				ok = false
				if p.pods[ordinal] == nil {
					e := p.podFailure("Create", pod)
					e.Message += fmt.Sprintf("pvc %s is being deleted", name)
					p.events = append(p.events, *e)
				}
			}
			continue
		}
		c := t.DeepCopy()
		c.Name, c.Namespace = name, p.set.Namespace
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		maps.Copy(c.Labels, p.set.Spec.Selector.MatchLabels)
		if p.policy().WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
			c.OwnerReferences = append(c.OwnerReferences, p.owner())
		}
		actions = append(actions, plan.Action{
			Verb: plan.Create, Ref: kinds.RefTo(kinds.PersistentVolumeClaim, c), Object: c, Parallel: true,
			Event:  p.event(corev1.EventTypeNormal, "SuccessfulCreate", fmt.Sprintf("Create Claim %s Pod %s in StatefulSet %s success", name, pod, p.set.Name)),
			Failed: p.event(corev1.EventTypeWarning, "FailedCreate", fmt.Sprintf("Create Claim %s for Pod %s in StatefulSet %s failed error: ", name, pod, p.set.Name)),
		})
	}
	return actions, ok
}

// policy says what becomes of claims; they are kept by default.
func (p *pass) policy() appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy {
	if r := p.set.Spec.PersistentVolumeClaimRetentionPolicy; r != nil {
		return *r
	}
	return appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{}
}

func (p *pass) deletesScaled() bool {
	return p.policy().WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType
}

// keepClaims gives a pod's claims the owners that the policy asks for: the
// garbage collector then does the rest.
func (p *pass) keepClaims(pod *corev1.Pod) {
	if p.kept[pod.UID] {
		return
	}
	p.kept[pod.UID] = true
	for i := range p.set.Spec.VolumeClaimTemplates {
		c := p.Claim(p.claimName(&p.set.Spec.VolumeClaimTemplates[i], p.at(pod)))
		if c == nil || c.DeletionTimestamp != nil {
			continue
		}
		owners, conflict := p.claimOwners(c, pod)
		if slices.EqualFunc(owners, c.OwnerReferences, sameOwner) {
			continue
		}
		if conflict {
			p.events = append(p.events, *p.event(corev1.EventTypeWarning, "ConflictingController", fmt.Sprintf(
				"PersistentVolumeClaim %s has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim", c.Name)))
		}
		next := c.DeepCopy()
		next.OwnerReferences = owners
		p.actions = append(p.actions, plan.Action{
			Verb: plan.Update, Ref: kinds.RefTo(kinds.PersistentVolumeClaim, c), Object: next, Parallel: true,
			Failed: p.podFailure("Update", pod.Name),
		})
	}
}

func sameOwner(a, b metav1.OwnerReference) bool {
	return a.UID == b.UID && (a.Controller != nil && *a.Controller) == (b.Controller != nil && *b.Controller)
}

// claimOwners are the owners that a claim of the pod should have: the set if
// claims go with it, the pod if claims go with a pod that is scaled away. A
// claim that belongs to an earlier set or pod of the name is left alone, and
// one that something else controls gets nothing from here; conflict says that.
func (p *pass) claimOwners(c *corev1.PersistentVolumeClaim, pod *corev1.Pod) (owners []metav1.OwnerReference, conflict bool) {
	policy := p.policy()
	const remove = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	toPod := policy.WhenScaled == remove && !p.wants(p.at(pod))
	toSet := policy.WhenDeleted == remove && !toPod
	var set, own *metav1.OwnerReference
	for i := range c.OwnerReferences {
		switch r := &c.OwnerReferences[i]; {
		case p.isSet(*r):
			if r.UID != p.set.UID {
				return c.OwnerReferences, false
			}
			set = r
		case isPod(*r, pod.Name):
			if r.UID != pod.UID {
				return c.OwnerReferences, false
			}
			own = r
		default:
			owners = append(owners, *r)
			conflict = conflict || r.Controller != nil && *r.Controller
		}
	}
	conflict = conflict && (policy.WhenScaled == remove || policy.WhenDeleted == remove)
	if !conflict && (set != nil) == toSet && (own != nil) == toPod && controls(set) && controls(own) {
		return c.OwnerReferences, false // in whatever order they are
	}
	if toSet && !conflict {
		owners = append(owners, p.owner())
	}
	if toPod && !conflict {
		owners = append(owners, *metav1.NewControllerRef(pod, kinds.Pod.GVK))
	}
	return owners, conflict
}

// controls, if it is there.
func controls(r *metav1.OwnerReference) bool {
	return r == nil || r.Controller != nil && *r.Controller
}

func (p *pass) isSet(r metav1.OwnerReference) bool {
	return r.APIVersion == appsv1.SchemeGroupVersion.String() && r.Kind == kinds.StatefulSet.GVK.Kind && r.Name == p.set.Name
}

func isPod(r metav1.OwnerReference, name string) bool {
	return r.APIVersion == "v1" && r.Kind == kinds.Pod.GVK.Kind && r.Name == name
}
