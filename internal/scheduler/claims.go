package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// lateClaim is a claim that gets its volume once the pod's node is known.
type lateClaim struct {
	obj   *corev1.PersistentVolumeClaim
	class *storagev1.StorageClass
	size  resource.Quantity
	on    string // the node that it was decided for before; empty: none yet
	meant *fitting
	fits  []fitting // volumes that would do, the smallest first
	// room says where there is some for a new volume; checked: that counts.
	room    []*roomFor
	checked bool
}

// fitting is a volume that a claim can have.
type fitting struct {
	obj   *corev1.PersistentVolume
	nodes volumeNodes
}

// roomFor is a capacity that is large enough.
type roomFor struct {
	obj   *storagev1.CSIStorageCapacity
	nodes labels.Selector
}

// match is a volume that a claim is to be bound to.
type match struct {
	claim  *corev1.PersistentVolumeClaim
	volume *corev1.PersistentVolume
}

// making is a claim for which a volume is to be made on the node.
type making struct {
	claim    *corev1.PersistentVolumeClaim
	capacity *storagev1.CSIStorageCapacity // that has room; nil: nobody tells
}

// lacking is a claim that can get no volume; full: because there is no room.
type lacking struct {
	*lateClaim
	full bool
}

// What keeps a pod's volumes from a node.
const (
	elsewhere uint8 = 1 << iota
	noneToBind
	noSpace
	noVolume
)

// podVolumes is what a cycle knows of the pod's volumes: where those that are
// bound can be reached, and what its other claims could get.
type podVolumes struct {
	claimsKnown   bool
	volumeMissing bool // of a bound claim
	claimNodes    []volumeNodes
	soleClaims    []string // claims that only one pod may use at a time
	late          []*lateClaim
	outcome       outcome // see volumesOn
	attachKnown   bool
	attach        []attachable // what the volumes count as
}

// volumesOf a pod, of which nothing is known yet. Those without any share one.
func (d *decider) volumesOf(p *pod) *podVolumes {
	if len(p.claims)+len(p.disks) == 0 {
		return &d.noVolumes
	}
	return &podVolumes{}
}

// outcome of a look at the pod's volumes from one node.
type outcome struct {
	bad     uint8
	matches []match
	makings []making
	lacking []lacking
}

// prepareVolumes looks the pod's claims up, once for all nodes.
func (c *cycle) prepareVolumes() {
	if c.claimsKnown || len(c.pod.claims) == 0 {
		return
	}
	c.claimsKnown = true
	for i, name := range c.pod.claims {
		claim := c.claims[name]
		if claim == nil || slices.Contains(c.pod.claims[:i], name) {
			continue
		}
		if slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
			c.soleClaims = append(c.soleClaims, name)
		}
		if isBound(claim) {
			c.prepareBound(claim)
		}
	}
	if !c.rules.bindsVolumes {
		c.refusal = "" // somebody else minds that
		return
	}
	missing := c.refusal // of a volume
	if c.refusal = c.unusableClaim(); c.refusal == "" {
		c.prepareLate()
	}
	c.refusal = cmp.Or(c.refusal, missing)
}

// unusableClaim says what is wrong with one of the pod's claims, on any node.
func (c *cycle) unusableClaim() string {
	for _, name := range c.pod.claims {
		claim, own := c.claims[name], slices.Contains(c.pod.ownClaims, name)
		short := name[len(c.pod.obj.Namespace)+1:]
		switch {
		case claim == nil && own:
			return fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", short)
		case claim == nil:
			return fmt.Sprintf("persistentvolumeclaim %q not found", short)
		case claim.Status.Phase == corev1.ClaimLost:
			return fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", short, claim.Spec.VolumeName)
		case claim.DeletionTimestamp != nil:
			return fmt.Sprintf("persistentvolumeclaim %q is being deleted", short)
		case own && !metav1.IsControlledBy(claim, c.pod.obj):
			return fmt.Sprintf("PVC %s was not created for pod %s (pod is not owner)", name, keyOf(c.pod.obj))
		}
	}
	return ""
}

func (c *cycle) prepareBound(claim *corev1.PersistentVolumeClaim) {
	pv := c.volumes[claim.Spec.VolumeName]
	switch {
	case pv != nil:
		if v := nodesOf(pv); v.required != nil || len(v.zones) > 0 {
			c.claimNodes = append(c.claimNodes, v)
		}
	case c.rules.zonesVolumes: // which says so before it looks at any node
		c.refusal = fmt.Sprintf("persistentvolume %q not found", claim.Spec.VolumeName)
	default:
		c.volumeMissing = true
	}
}

// prepareLate finds what the claims without a volume could get, the smallest
// claim first: a large volume is not wasted on it.
func (c *cycle) prepareLate() {
	for i, name := range c.pod.claims {
		claim := c.claims[name]
		if isBound(claim) || slices.Contains(c.pod.claims[:i], name) {
			continue
		}
		class := c.storageClasses[classOfClaim(claim)]
		if class == nil || class.VolumeBindingMode == nil || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer || claim.Spec.VolumeName != "" {
			c.refusal = "pod has unbound immediate PersistentVolumeClaims"
			return
		}
		c.late = append(c.late, c.lateClaim(claim, class))
	}
	slices.SortStableFunc(c.late, func(a, b *lateClaim) int {
		switch {
		case (a.on != "") != (b.on != ""):
			return cmp.Compare(b.on, a.on) // those that are decided for come first
		case a.on != "":
			return 0
		}
		return cmp.Or(a.size.Cmp(b.size), cmp.Compare(a.obj.Name, b.obj.Name))
	})
}

func (c *cycle) lateClaim(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) *lateClaim {
	l := &lateClaim{obj: claim, class: class, size: claim.Spec.Resources.Requests[corev1.ResourceStorage], on: claim.Annotations[selectedNode]}
	l.prepareRoom(&c.storage)
	if l.on != "" {
		return l // a volume is being made for it
	}
	selector := labels.Everything()
	if claim.Spec.Selector != nil {
		var err error
		if selector, err = metav1.LabelSelectorAsSelector(claim.Spec.Selector); err != nil {
			selector = labels.Nothing() // validation refuses it
		}
	}
	for _, name := range c.volumesOf(class.Name) {
		v := c.volumes[name]
		switch {
		case v.Spec.ClaimRef != nil && !isFor(v, claim), v.DeletionTimestamp != nil, !l.allows(v):
		case isFor(v, claim):
			// One that was promised to it goes before those that name it.
			if l.meant == nil || v.Spec.ClaimRef.UID != "" && l.meant.obj.Spec.ClaimRef.UID == "" {
				l.meant = &fitting{v, nodesOf(v)}
			}
		case v.Status.Phase == corev1.VolumeAvailable && selector.Matches(labels.Set(v.Labels)) && grants(v, claim):
			l.fits = append(l.fits, fitting{v, nodesOf(v)})
		}
	}
	slices.SortStableFunc(l.fits, func(a, b fitting) int {
		x, y := a.obj.Spec.Capacity[corev1.ResourceStorage], b.obj.Spec.Capacity[corev1.ResourceStorage]
		return x.Cmp(y)
	})
	return l
}

// allows reports whether a volume is large enough and of the right sort.
func (l *lateClaim) allows(v *corev1.PersistentVolume) bool {
	value := func(p *string) string {
		if p == nil {
			return ""
		}
		return *p
	}
	mode := func(m *corev1.PersistentVolumeMode) corev1.PersistentVolumeMode {
		if m == nil {
			return corev1.PersistentVolumeFilesystem
		}
		return *m
	}
	size := v.Spec.Capacity[corev1.ResourceStorage]
	return size.Cmp(l.size) >= 0 && mode(v.Spec.VolumeMode) == mode(l.obj.Spec.VolumeMode) &&
		value(v.Spec.VolumeAttributesClassName) == value(l.obj.Spec.VolumeAttributesClassName)
}

// grants reports whether a volume can be used in all ways that a claim asks for.
func grants(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	return !slices.ContainsFunc(c.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool { return !slices.Contains(v.Spec.AccessModes, m) })
}

// prepareRoom finds where there is room for a new volume, if the driver tells.
func (l *lateClaim) prepareRoom(s *storage) {
	d := s.drivers[l.class.Provisioner]
	_, sized := l.obj.Spec.Resources.Requests[corev1.ResourceStorage]
	if l.checked = sized && d != nil && d.Spec.StorageCapacity != nil && *d.Spec.StorageCapacity; !l.checked {
		return
	}
	of := s.capacities[l.class.Name]
	for _, key := range slices.Sorted(maps.Keys(of)) {
		limit := sizeLimit(of[key])
		if limit == nil || limit.Cmp(l.size) < 0 || of[key].NodeTopology == nil {
			continue
		}
		if nodes, err := metav1.LabelSelectorAsSelector(of[key].NodeTopology); err == nil {
			l.room = append(l.room, &roomFor{of[key], nodes})
		}
	}
}

// volumesOn looks at the pod's volumes from one node. What it returns holds
// until the next call.
func (c *cycle) volumesOn(n *node) *outcome {
	o := &c.outcome
	o.bad, o.matches, o.makings, o.lacking = 0, o.matches[:0], o.makings[:0], o.lacking[:0]
	for i := range c.claimNodes {
		if !c.claimNodes[i].reach(n.obj) {
			o.bad |= elsewhere
			break
		}
	}
	if c.volumeMissing && o.bad == 0 {
		o.bad |= noVolume
	}
	failed := uint8(0) // of the first that gets none
	for _, l := range c.late {
		if why := l.find(n.obj, o); why != 0 {
			o.lacking = append(o.lacking, lacking{l, why == noSpace})
			if failed == 0 || l.on != "" && l.on != n.name {
				failed = why
			}
		}
	}
	o.bad |= failed
	return o
}

// find a volume for a claim on a node, or see whether one can be made there.
func (l *lateClaim) find(n *corev1.Node, o *outcome) (why uint8) {
	switch {
	case l.on != "" && l.on != n.Name:
		return noneToBind
	case l.meant != nil:
		if l.meant.nodes.reach(n) {
			o.matches = append(o.matches, match{l.obj, l.meant.obj})
			return 0
		}
	default:
		for i := range l.fits {
			f := &l.fits[i]
			if f.nodes.reach(n) && !slices.ContainsFunc(o.matches, func(m match) bool { return m.volume == f.obj }) {
				o.matches = append(o.matches, match{l.obj, f.obj})
				return 0
			}
		}
	}
	if l.class.Provisioner == "" || l.class.Provisioner == noProvisioner || !inTopology(l.class.AllowedTopologies, n.Labels) {
		return noneToBind
	}
	var capacity *storagev1.CSIStorageCapacity
	if l.checked {
		at := slices.IndexFunc(l.room, func(r *roomFor) bool { return r.nodes.Matches(labels.Set(n.Labels)) })
		if at < 0 {
			return noSpace
		}
		capacity = l.room[at].obj
	}
	o.makings = append(o.makings, making{l.obj, capacity})
	return 0
}

// inTopology reports whether one of the terms allows a node; none: any node.
func inTopology(terms []corev1.TopologySelectorTerm, node map[string]string) bool {
	return len(terms) == 0 || slices.ContainsFunc(terms, func(t corev1.TopologySelectorTerm) bool {
		return len(t.MatchLabelExpressions) > 0 && !slices.ContainsFunc(t.MatchLabelExpressions, func(r corev1.TopologySelectorLabelRequirement) bool {
			v, ok := node[r.Key]
			return !ok || !slices.Contains(r.Values, v)
		})
	})
}

// wantedVolumes is what has to be bound or made before the pod can go to the
// node; nil: nothing.
func (c *cycle) wantedVolumes(n *node) *outcome {
	if len(c.late) == 0 {
		return nil
	}
	o := c.volumesOn(n)
	return &outcome{matches: slices.Clone(o.matches), makings: slices.Clone(o.makings)}
}

// roomyVolumes prefers nodes by how much of the volumes, or of the room for new
// ones, the claims would use: by default, where much is left.
func roomyVolumes(c *cycle, nodes []*node, out []float64) bool {
	if len(c.late) == 0 {
		return false
	}
	type share struct{ used, of int64 }
	by := map[string]share{}
	for i, n := range nodes {
		clear(by)
		o := c.volumesOn(n)
		for _, m := range o.matches {
			want, have := m.claim.Spec.Resources.Requests[corev1.ResourceStorage], m.volume.Spec.Capacity[corev1.ResourceStorage]
			s := by[m.volume.Spec.StorageClassName]
			by[m.volume.Spec.StorageClassName] = share{s.used + want.Value(), s.of + have.Value()}
		}
		for _, m := range o.makings {
			if len(o.matches) > 0 || m.capacity == nil {
				continue
			}
			want, have := m.claim.Spec.Resources.Requests[corev1.ResourceStorage], int64(0)
			if m.capacity.Capacity != nil {
				have = m.capacity.Capacity.Value()
			}
			class := classOfClaim(m.claim)
			by[class] = share{by[class].used + want.Value(), have}
		}
		sum := 0.0
		for _, s := range by {
			if s.of == 0 {
				s = share{1, 0}
			}
			sum += c.rules.volumeShape(s.used, s.of)
		}
		if out[i] = 0; len(by) > 0 {
			out[i] = math.Round(sum / float64(len(by)))
		}
	}
	return true
}
