package scheduler

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// volumes lets a pod go only where its volumes can be reached: those that its
// claims have, and those that they can still get.
type volumes struct{}

// volumeNodes is what one volume asks of nodes.
type volumeNodes struct {
	required *nodeaffinity.LazyErrorNodeSelector // nil: any node
	// host, if not empty, is the only host name that required allows: most are
	// refused by it without a look at the rest.
	host  string
	zones []volumeLabel
}

// volumeLabel is a label of a volume that says where it is. It may name several
// places, with "__" between them.
type volumeLabel struct {
	keys   [2]string // what nodes may call it: as the volume does, and today's name
	values []string
}

func nodesOf(v *corev1.PersistentVolume) volumeNodes {
	out := volumeNodes{zones: placesOf(v)}
	if a := v.Spec.NodeAffinity; a != nil && a.Required != nil {
		out.required = nodeaffinity.NewLazyErrorNodeSelector(a.Required)
		if terms := a.Required.NodeSelectorTerms; len(terms) == 1 {
			for _, r := range terms[0].MatchExpressions {
				if r.Key == corev1.LabelHostname && r.Operator == corev1.NodeSelectorOpIn && len(r.Values) == 1 {
					out.host = r.Values[0]
				}
			}
		}
	}
	return out
}

// reach reports whether pods on a node can have the volume.
func (v *volumeNodes) reach(n *corev1.Node) bool {
	if v.required == nil {
		return true
	}
	if v.host != "" && n.Labels[corev1.LabelHostname] != v.host {
		return false
	}
	// An affinity that cannot be read matches no node: validation refuses it.
	ok, err := v.required.Match(n)
	return ok && err == nil
}

func (volumes) Name() string { return "VolumeBinding" }

func (volumes) Fits(c *cycle, n *node) bool {
	return len(c.pod.claims) == 0 || c.volumesOn(n).bad == 0
}

func (volumes) Explain(c *cycle, n *node, why []string) ([]string, bool) {
	bad := c.volumesOn(n).bad
	for i, text := range [...]string{
		"node(s) didn't match PersistentVolume's node affinity", "node(s) didn't find available persistent volumes to bind",
		"node(s) did not have enough free storage", "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
	} {
		if bad&(1<<i) != 0 {
			why = append(why, text)
		}
	}
	return why, true
}

// Advise: a volume is where it is; others can be made.
func (volumes) Advise(c *cycle, n *node, out []change) []change {
	o := c.volumesOn(n)
	if o.bad&(elsewhere|noVolume) != 0 {
		return append(out, change{kind: impossible})
	}
	for _, l := range o.lacking {
		want := change{kind: newVolume, name: l.class.Name, value: l.size.String(), missing: 1}
		if l.full {
			want.kind = freeStorage
		}
		if l.on != "" && l.on != n.obj.Name {
			return append(out, change{kind: impossible})
		}
		same := slices.IndexFunc(out, func(o change) bool { return o.kind == want.kind && o.name == want.name && o.value == want.value })
		if same >= 0 {
			out[same].missing++
		} else {
			out = append(out, want)
		}
	}
	return out
}

// Helps: something of the pod's claims, or of volumes that they could get.
func (f volumes) Helps(c *cycle, e *event) bool {
	switch e.what {
	case claimChanged:
		return slices.Contains(c.pod.claims, e.name)
	case volumeChanged:
		return c.minds(e)
	case classChanged, capacityChanged:
		return c.anyClaim(func(claim *corev1.PersistentVolumeClaim) bool {
			return !isBound(claim) && classOfClaim(claim) == e.name
		})
	case driverChanged:
		return c.anyClaim(func(claim *corev1.PersistentVolumeClaim) bool {
			class := c.storageClasses[classOfClaim(claim)]
			return !isBound(claim) && class != nil && class.Provisioner == e.name
		})
	case nodeChanged:
		c.prepareVolumes()
		return c.refusal == "" && onNode(f, c, e, nodeChanged)
	}
	return false
}

// minds reports whether a change of a volume may matter to one of the pod's
// claims: it is the claim's, or was, or the claim could get it.
func (c *cycle) minds(e *event) bool {
	return c.anyClaim(func(claim *corev1.PersistentVolumeClaim) bool {
		if claim.Spec.VolumeName == e.name || e.volume != nil && isFor(e.volume, claim) || e.oldVolume != nil && isFor(e.oldVolume, claim) {
			return true
		}
		return !isBound(claim) && e.volume != nil && e.volume.Spec.ClaimRef == nil && classOfVolume(e.volume) == classOfClaim(claim)
	})
}

func (c *cycle) anyClaim(fn func(*corev1.PersistentVolumeClaim) bool) bool {
	for _, name := range c.pod.claims {
		if claim := c.claims[name]; claim != nil && fn(claim) {
			return true
		}
	}
	return false
}

// volumeZone lets a pod go only where the labels of its volumes say that they
// are. Nodes that say nothing of their place can do.
type volumeZone struct{}

func (volumeZone) Name() string { return "VolumeZone" }

// placeLabels are those that providers put on volumes, each with the name that
// nodes have for it today.
var placeLabels = [...][2]string{
	{corev1.LabelTopologyZone, corev1.LabelTopologyZone}, {corev1.LabelTopologyRegion, corev1.LabelTopologyRegion},
	{corev1.LabelFailureDomainBetaZone, corev1.LabelTopologyZone}, {corev1.LabelFailureDomainBetaRegion, corev1.LabelTopologyRegion},
}

func placesOf(pv *corev1.PersistentVolume) (out []volumeLabel) {
	for _, keys := range placeLabels {
		if v, ok := pv.Labels[keys[0]]; ok {
			out = append(out, volumeLabel{keys, strings.Split(v, "__")})
		}
	}
	return out
}

func (volumeZone) Fits(c *cycle, n *node) bool {
	for i := range c.claimNodes {
		v := &c.claimNodes[i]
		for j := range v.zones {
			if !v.zones[j].at(n.obj) && saysWhere(n.obj) {
				return false
			}
		}
	}
	return true
}

func (l *volumeLabel) at(n *corev1.Node) bool {
	v, ok := n.Labels[l.keys[0]]
	if !ok {
		v, ok = n.Labels[l.keys[1]]
	}
	return ok && slices.Contains(l.values, v)
}

// saysWhere reports whether a node says anything of its place.
func saysWhere(n *corev1.Node) bool {
	for _, keys := range placeLabels {
		if _, ok := n.Labels[keys[0]]; ok {
			return true
		}
	}
	return false
}

func (volumeZone) Explain(_ *cycle, _ *node, why []string) ([]string, bool) {
	return append(why, "node(s) had no available volume zone"), true
}
func (volumeZone) Advise(_ *cycle, _ *node, out []change) []change {
	return append(out, change{kind: impossible})
}

// Helps: a claim of the pod has another volume, that volume is elsewhere, or a
// node is.
func (f volumeZone) Helps(c *cycle, e *event) bool {
	if e.what == nodeChanged {
		c.prepareVolumes()
		return c.refusal == "" && onNode(f, c, e, nodeChanged)
	}
	return (e.what == claimChanged || e.what == volumeChanged) && volumes{}.Helps(c, e)
}
