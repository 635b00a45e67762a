package why

import (
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/scheduler"
	"knarr.dev/knarr/internal/view"
)

// selectedNode is the annotation of a claim for which a volume is to be made on
// a node.
const selectedNode = "volume.kubernetes.io/selected-node"

// Where the scheduler's sentences begin about what would help, and about making
// others go.
const (
	advised   = " It would fit "
	preempted = " preemption: "
)

// unscheduled: why a pod has no node, in the scheduler's own words.
func (l *look) unscheduled(p *corev1.Pod) *finding {
	c := podCondition(p, corev1.PodScheduled)
	if len(p.Spec.SchedulingGates) > 0 {
		var names []string
		for _, g := range p.Spec.SchedulingGates {
			names = append(names, g.Name)
		}
		return about(kinds.Pod, p, "it is held back by its scheduling gates: %s", strings.Join(names, ", ")).since(p.CreationTimestamp).
			help("whatever set a gate has to remove it from spec.schedulingGates")
	}
	if c == nil || c.Status == corev1.ConditionTrue || strings.HasPrefix(c.Message, `running PreBind plugin "VolumeBinding"`) {
		if claim := l.awaitedClaim(p); claim != nil {
			return claim
		}
	}
	if c == nil || c.Status == corev1.ConditionTrue {
		if devices := l.noDevices(p, ""); devices != nil {
			return devices.since(p.CreationTimestamp)
		}
		f := about(kinds.Pod, p, "the scheduler %s has not looked at it yet", p.Spec.SchedulerName).since(p.CreationTimestamp)
		if p.Spec.SchedulerName != corev1.DefaultSchedulerName {
			return f.help("does a scheduler of that name run? Otherwise leave spec.schedulerName away")
		}
		if e := l.told(p, "FailedScheduling"); e != nil {
			return about(kinds.Pod, p, "%s", e.Message).since(began(e))
		}
		return l.blind(f)
	}
	if claim := l.openClaim(p, reasons(c.Message)); claim != nil {
		return claim.since(c.LastTransitionTime)
	}
	if devices := l.noDevices(p, c.Message); devices != nil {
		return devices.since(c.LastTransitionTime)
	}
	f := about(kinds.Pod, p, "%s", c.Message).since(c.LastTransitionTime)
	if help := l.fits(p, c.Message); help != "" {
		f.What = reasons(c.Message)
		f.help("%s", help)
	}
	return f
}

// reasons is why no node would do: what would help is told as such, and that no
// pod is to go for this one helps nobody.
func reasons(said string) string {
	said, _, _ = strings.Cut(said, advised)
	said, _, _ = strings.Cut(said, preempted)
	return said
}

// fits is what would help: what the scheduler comes to now, from all that it
// looks at, if that may be read; otherwise what it has said.
func (l *look) fits(p *corev1.Pod, said string) string {
	if s := l.cluster(); s != nil {
		r := scheduler.Why(s, p)
		if r.Node != "" {
			return "none: it fits on node " + r.Node + " by now, and is about to be tried again"
		}
		if len(r.Remedies) > 0 { // the cheapest comes first
			return "it would fit on " + r.Remedies[0].Node + " with " + strings.Join(r.Remedies[0].Changes, " and ")
		}
	}
	if _, advice, ok := strings.Cut(said, advised); ok {
		return "it would fit " + strings.TrimSuffix(advice, ".")
	}
	if strings.HasPrefix(said, "no nodes available") {
		return "a node has to join: `knarr token create` on the server, then `knarr agent` on the new machine"
	}
	return ""
}

// cluster is all that the scheduler looks at; nil: not all of it may be read, or
// it is too large.
func (l *look) cluster() *view.Snapshot {
	v := view.New(scheduler.Kinds(), view.SharedOf(scheduler.Kinds())...)
	whole := true
	for _, k := range scheduler.Kinds() {
		objects, complete := list[kinds.Object](l, Want{Kind: k})
		whole = whole && complete
		v.Replace(k, objects, 1)
	}
	if !whole {
		return nil
	}
	return v.Snapshot()
}

// aboutClaim matches what schedulers and kubelets say when volumes are in the way.
var aboutClaim = regexp.MustCompile(`(?i)persistentvolumeclaim|persistent volume|volume node affinity|error processing PVC`)

// late reports whether a claim gets its volume once its pod has a node.
func (l *look) late(c *corev1.PersistentVolumeClaim) bool {
	if c.Spec.VolumeName != "" || c.Spec.StorageClassName == nil || c.Annotations[selectedNode] != "" {
		return false
	}
	class, _ := get[*storagev1.StorageClass](l, kinds.StorageClass, "", *c.Spec.StorageClassName)
	return class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// awaitedClaim is a claim for which a volume is being made on the node that the
// scheduler has chosen; the pod gets the node once that is there.
func (l *look) awaitedClaim(p *corev1.Pod) *finding {
	for i := range p.Spec.Volumes {
		name := view.ClaimOf(p, &p.Spec.Volumes[i])
		if name == "" {
			continue
		}
		c, _ := get[*corev1.PersistentVolumeClaim](l, kinds.PersistentVolumeClaim, p.Namespace, name)
		if c != nil && c.Status.Phase == corev1.ClaimPending && c.Annotations[selectedNode] != "" {
			return about(kinds.Pod, p, "it is going to node %s, and waits for its volumes", c.Annotations[selectedNode]).since(p.CreationTimestamp).
				behind(kinds.PersistentVolumeClaim, c)
		}
	}
	return nil
}

// openClaim is the pod's claim because of which it has no node.
func (l *look) openClaim(p *corev1.Pod, said string) *finding {
	if !aboutClaim.MatchString(said) {
		return nil
	}
	for i := range p.Spec.Volumes {
		name := view.ClaimOf(p, &p.Spec.Volumes[i])
		if name == "" {
			continue
		}
		f := about(kinds.Pod, p, "%s", said)
		c, gone := get[*corev1.PersistentVolumeClaim](l, kinds.PersistentVolumeClaim, p.Namespace, name)
		switch {
		case gone:
			return f.because(missing(kinds.PersistentVolumeClaim, p.Namespace, name, "create it, or name another in the pod's volumes"))
		case c != nil && c.DeletionTimestamp == nil && l.late(c):
			continue // it waits for the pod, not the pod for it
		case c != nil && (c.Status.Phase != corev1.ClaimBound || c.DeletionTimestamp != nil):
			return f.behind(kinds.PersistentVolumeClaim, c)
		}
	}
	return nil
}
