package scheduler

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// volumes lets a pod go only where its bound persistent volumes can be
// reached. Claims that nothing has bound yet make it wait.
type volumes struct{}

// volumeNodes is what one volume asks of nodes.
type volumeNodes struct {
	required *nodeaffinity.LazyErrorNodeSelector // nil: any node
	zones    []volumeLabel
}

// volumeLabel is a label of a volume that says where it is. It may name several
// places, with "__" between them.
type volumeLabel struct {
	keys   [2]string // what nodes may call it: as the volume does, and today's name
	values []string
}

func (volumes) Name() string { return "VolumeBinding" }

// prepareVolumes looks the pod's claims up once for all nodes.
func (c *cycle) prepareVolumes() {
	for _, name := range c.pod.claims {
		short := name[strings.IndexByte(name, '/')+1:]
		claim := c.claims[name]
		switch {
		case claim == nil && slices.Contains(c.pod.ownClaims, name):
			c.refusal = fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", short)
		case claim == nil:
			c.refusal = fmt.Sprintf("persistentvolumeclaim %q not found", short)
		case claim.DeletionTimestamp != nil:
			c.refusal = fmt.Sprintf("persistentvolumeclaim %q is being deleted", short)
		case slices.Contains(c.pod.ownClaims, name) && !metav1.IsControlledBy(claim, c.pod.obj):
			c.refusal = fmt.Sprintf("persistentvolumeclaim %q was not created for this pod", short)
		case claim.Spec.VolumeName == "" || claim.Status.Phase != corev1.ClaimBound:
			c.refusal = "pod has unbound immediate PersistentVolumeClaims"
		default:
			if slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
				c.soleClaims = append(c.soleClaims, name)
			}
			c.prepareVolume(claim.Spec.VolumeName)
		}
		switch {
		case c.refusal != "" && c.rules.bindsVolumes:
			return
		case c.refusal != "": // somebody else minds that
			c.refusal = ""
		}
	}
}

func (c *cycle) prepareVolume(name string) {
	pv := c.volumes[name]
	if pv == nil {
		c.refusal = fmt.Sprintf("persistentvolume %q not found", name)
		return
	}
	v := &volumeNodes{zones: placesOf(pv)}
	if a := pv.Spec.NodeAffinity; a != nil && a.Required != nil {
		v.required = nodeaffinity.NewLazyErrorNodeSelector(a.Required)
	}
	if v.required != nil || len(v.zones) > 0 {
		c.claimNodes = append(c.claimNodes, v)
	}
}

func (volumes) Fits(c *cycle, n *node) bool {
	for _, v := range c.claimNodes {
		if v.required == nil {
			continue
		}
		if ok, err := v.required.Match(n.obj); !ok || err != nil {
			return false
		}
	}
	return true
}

func (volumes) Explain(_ *cycle, _ *node, why []string) ([]string, bool) {
	return append(why, "node(s) didn't match PersistentVolume's node affinity"), true
}

// Advise: a volume is where it is.
func (volumes) Advise(_ *cycle, _ *node, out []change) []change {
	return append(out, change{kind: impossible})
}

// Helps: a claim of the pod or a volume changed, another user of a claim went
// away, or a node came or changed.
func (volumes) Helps(c *cycle, e *event) bool {
	switch e.what {
	case claimChanged:
		return slices.Contains(c.pod.claims, e.name)
	case volumeChanged:
		return len(c.pod.claims) > 0
	case podLeft:
		return slices.ContainsFunc(c.pod.claims, func(name string) bool { return slices.Contains(e.pod.claims, name) })
	case nodeChanged:
		return true
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
	for _, v := range c.claimNodes {
		for i := range v.zones {
			if !v.zones[i].at(n.obj) && saysWhere(n.obj) {
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
func (volumeZone) Helps(c *cycle, e *event) bool { return volumes{}.Helps(c, e) }

// volumeRestrictions keeps a pod waiting while another uses a claim that only
// one pod may use at a time.
type volumeRestrictions struct{}

func (volumeRestrictions) Name() string { return "VolumeRestrictions" }
func (volumeRestrictions) Fits(c *cycle, _ *node) bool {
	for _, name := range c.soleClaims {
		if c.claimUsers[name] > 0 {
			return false
		}
	}
	return true
}
func (volumeRestrictions) Explain(_ *cycle, _ *node, why []string) ([]string, bool) {
	return append(why, "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"), false
}
func (volumeRestrictions) Advise(c *cycle, _ *node, out []change) []change {
	for _, name := range c.soleClaims {
		if c.claimUsers[name] > 0 {
			out = append(out, change{kind: freeClaim, name: name})
		}
	}
	return out
}
func (volumeRestrictions) Helps(c *cycle, e *event) bool { return volumes{}.Helps(c, e) }
