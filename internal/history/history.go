// Package history keeps the versions of a pod template as ControllerRevisions,
// which is what kubectl rollout history and undo read. It is pure and shared by
// the controllers of stateful sets and of daemon sets.
package history

import (
	"bytes"
	"cmp"
	stdjson "encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kinds/defaults"
	"knarr.dev/knarr/internal/plan"
)

// HashLabel is on the revisions of stateful sets; those of daemon sets have
// appsv1.ControllerRevisionHashLabelKey, as their pods do.
const HashLabel = "controller.kubernetes.io/hash"

const (
	// maxPrefix leaves room for the hash in a name of 253 bytes.
	maxPrefix = 223
	// maxCollisions in one pass; beyond, the create fails and is tried again.
	maxCollisions = 100
	// burst bounds the revisions that one pass adopts or deletes.
	burst = 100
)

// Subject is the set whose history is kept.
type Subject struct {
	Kind      *kinds.Kind
	Set       kinds.Object
	Template  *corev1.PodTemplateSpec
	HashLabel string
	// Collisions so far, the set's status.collisionCount.
	Collisions *int32
	// Named finds a revision of the set's namespace, anybody's, or nil.
	Named func(name string) *appsv1.ControllerRevision
}

// Present is where a history stands once Actions are applied.
type Present struct {
	// Revision of the present template.
	Revision *appsv1.ControllerRevision
	// Twins are the other revisions of that template, Old those of others;
	// oldest first.
	Twins, Old []*appsv1.ControllerRevision
	Collisions *int32
	Actions    []plan.Action
}

// Data is what a revision holds: a strategic merge patch that gives the set its
// template back. The bytes are those that upstream writes.
func Data(t *corev1.PodTemplateSpec) []byte {
	b, err := stdjson.Marshal(t)
	if err != nil {
		panic("history: " + err.Error()) // API types always marshal
	}
	template := map[string]any{}
	if err := json.Unmarshal(b, &template); err != nil { // integers stay whole
		panic("history: " + err.Error())
	}
	template["$patch"] = "replace"
	b, err = stdjson.Marshal(map[string]any{"spec": map[string]any{"template": template}})
	if err != nil {
		panic("history: " + err.Error())
	}
	return b
}

// Template that a revision holds.
func Template(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var held struct {
		Spec struct {
			Template *corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &held); err != nil {
		return nil, fmt.Errorf("cannot read revision %s: %w", r.Name, err)
	}
	if held.Spec.Template == nil {
		return nil, fmt.Errorf("revision %s holds no template", r.Name)
	}
	return held.Spec.Template, nil
}

// hashAlphabet is that of generated names: no vowels, nothing that looks like
// one.
const hashAlphabet = "bcdfghjklmnpqrstvwxz2456789"

// Hash of a revision's data and of how often hashes have collided, as upstream
// computes it.
func Hash(data []byte, collisions *int32) string {
	h := fnv.New32()
	h.Write(data)
	if collisions != nil {
		h.Write(strconv.AppendInt(nil, int64(*collisions), 10))
	}
	s := strconv.AppendUint(nil, uint64(h.Sum32()), 10)
	for i := range s {
		s[i] = hashAlphabet[int(s[i])%len(hashAlphabet)]
	}
	return string(s)
}

// Name of a set's revision with that hash.
func Name(set, hash string) string {
	if len(set) > maxPrefix {
		set = set[:maxPrefix]
	}
	return set + "-" + hash
}

// Sort by number; among equals the older one first.
func Sort(rs []*appsv1.ControllerRevision) {
	slices.SortFunc(rs, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
}

// Adopt takes the orphans that the selector matches. What a set owns stays its
// own whatever its labels become: it made them.
func (s Subject) Adopt(orphans []*appsv1.ControllerRevision, selector labels.Selector) (mine []*appsv1.ControllerRevision, actions []plan.Action) {
	for _, r := range orphans {
		if len(actions) == burst {
			break
		}
		if r.DeletionTimestamp != nil || !selector.Matches(labels.Set(r.Labels)) {
			continue
		}
		mine = append(mine, r)
		actions = append(actions, plan.Adopt(kinds.ControllerRevision, r, s.Kind, s.Set))
	}
	return mine, actions
}

func (s Subject) owner() metav1.OwnerReference { return *metav1.NewControllerRef(s.Set, s.Kind.GVK) }

// Present finds the revision of the present template among the set's, or makes
// one. One that was of an older template and is the present one again (a
// rollback) gets the next number.
func (s Subject) Present(revisions []*appsv1.ControllerRevision) Present {
	revisions = slices.DeleteFunc(slices.Clone(revisions), func(r *appsv1.ControllerRevision) bool { return r.DeletionTimestamp != nil })
	Sort(revisions)
	data := Data(s.Template)
	p := Present{Collisions: s.Collisions}
	for _, r := range revisions {
		if bytes.Equal(r.Data.Raw, data) {
			p.Twins = append(p.Twins, r)
		} else {
			p.Old = append(p.Old, r)
		}
	}
	if n := len(p.Twins); n > 0 {
		p.Revision, p.Twins = p.Twins[n-1], p.Twins[:n-1]
	} else if n := len(p.Old); n > 0 && s.holds(p.Old[n-1]) {
		p.Revision, p.Old = p.Old[n-1], p.Old[:n-1]
	}
	number := int64(1)
	if n := len(p.Old); n > 0 {
		number = p.Old[n-1].Revision + 1
	}
	switch {
	case p.Revision == nil:
		p.Revision, p.Collisions = s.next(data, number)
		p.Actions = append(p.Actions, plan.Action{Verb: plan.Create, Ref: kinds.RefTo(kinds.ControllerRevision, p.Revision), Object: p.Revision})
	case p.Revision.Revision < number:
		r := p.Revision.DeepCopy()
		r.Revision = number
		p.Revision = r
		p.Actions = append(p.Actions, plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.ControllerRevision, r), Object: r})
	}
	return p
}

// holds compares by meaning, for a newest revision that another version wrote
// with other bytes: that must not restart every pod.
func (s Subject) holds(r *appsv1.ControllerRevision) bool {
	t, err := Template(r)
	if err != nil {
		return false
	}
	defaults.PodSpec(&t.Spec)
	return apiequality.Semantic.DeepEqual(t, s.Template)
}

// next is a new revision under a name that nobody has.
func (s Subject) next(data []byte, number int64) (*appsv1.ControllerRevision, *int32) {
	collisions := s.Collisions
	hash := Hash(data, collisions)
	for range maxCollisions {
		if s.Named(Name(s.Set.GetName(), hash)) == nil {
			break
		}
		n := int32(1)
		if collisions != nil {
			n += *collisions
		}
		collisions = &n
		hash = Hash(data, collisions)
	}
	r := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Set.GetNamespace(), Name: Name(s.Set.GetName(), hash), Labels: with(s.Template.Labels, s.HashLabel, hash),
			Annotations: with(s.Set.GetAnnotations(), "", ""), OwnerReferences: []metav1.OwnerReference{s.owner()},
		},
		Data: runtime.RawExtension{Raw: data}, Revision: number,
	}
	return r, collisions
}

func with(m map[string]string, key, value string) map[string]string {
	out := make(map[string]string, len(m)+1)
	for k, v := range m {
		out[k] = v
	}
	if key != "" {
		out[key] = value
	}
	return out
}

// Drop deletes the n oldest.
func Drop(rs []*appsv1.ControllerRevision, n int) []plan.Action {
	rs = slices.Clone(rs)
	Sort(rs)
	var actions []plan.Action
	for _, r := range rs[:max(0, min(n, len(rs), burst))] {
		actions = append(actions, plan.Action{
			Verb: plan.Delete, Ref: kinds.RefTo(kinds.ControllerRevision, r), UID: r.UID, Parallel: true,
			Tolerate: []metav1.StatusReason{metav1.StatusReasonNotFound},
		})
	}
	return actions
}
