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
	required *nodeaffinity.LazyErrorNodeSelector
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
		case slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) && c.claimUsers[name] > 0:
			c.refusal = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
		default:
			c.prepareVolume(claim.Spec.VolumeName)
		}
		if c.refusal != "" {
			return
		}
	}
}

func (c *cycle) prepareVolume(name string) {
	pv := c.volumes[name]
	if pv == nil {
		c.refusal = fmt.Sprintf("persistentvolume %q not found", name)
		return
	}
	if a := pv.Spec.NodeAffinity; a != nil && a.Required != nil {
		c.claimNodes = append(c.claimNodes, &volumeNodes{nodeaffinity.NewLazyErrorNodeSelector(a.Required)})
	}
}

func (volumes) Fits(c *cycle, n *node) bool {
	for _, v := range c.claimNodes {
		if ok, err := v.required.Match(n.obj); !ok || err != nil {
			return false
		}
	}
	return true
}

func (volumes) Explain(*cycle, *node) []string {
	return []string{"node(s) didn't match PersistentVolume's node affinity"}
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
