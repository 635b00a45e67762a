package scheduler

import (
	"crypto/sha256"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxClasses bounds what is remembered; what is dropped is worked out anew.
const maxClasses = 64

// class is what pods of one template and profile have in common: all that
// decisions look at, extenders apart. What was worked out about one of them and a node holds for the next, as
// long as the node stays as it is, so a burst of them costs one evaluation, and
// then that of the nodes which have changed.
type class struct {
	pod   *pod
	views []nodeView // by slot
	used  uint64
	// Nothing fits one of them as of this version of the cluster: nor another.
	failed   decision
	failedAt uint64
}

// nodeView is what a class's pods see in one node, whatever the others are
// like, as of the node's version.
type nodeView struct {
	version uint64
	left    float64 // score of what is left of its resources
	balance float64 // score of how evenly they are used
	prefers int64   // weights of the preferred affinity
	taints  int32   // untolerated ones that are to be avoided
	refused int8    // the first filter of those that look at one node, or -1
}

// classID is equal for pods of one class; zero: the pod is in none.
type classID [16]byte

// classOf is the class of a pod whose decision depends on nothing but what is
// hashed here. Claims are each pod's own, and who names its nodes need not
// search them.
func classOf(p *corev1.Pod) (id classID) {
	s := &p.Spec
	if len(s.ResourceClaims) > 0 || s.NodeName != "" || namedNodes(p) != nil || hasStatusResources(p) {
		return id
	}
	key := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Labels: p.Labels},
		Spec: corev1.PodSpec{
			NodeSelector: s.NodeSelector, Affinity: s.Affinity, Tolerations: s.Tolerations, TopologySpreadConstraints: s.TopologySpreadConstraints,
			InitContainers: wants(s.InitContainers), Containers: wants(s.Containers),
			Resources: s.Resources, Overhead: s.Overhead, Priority: s.Priority, PreemptionPolicy: s.PreemptionPolicy,
		},
	}
	for i := range s.Volumes {
		switch v := &s.Volumes[i]; {
		case v.PersistentVolumeClaim != nil || v.Ephemeral != nil || isDisk(v):
			return id
		case v.Image != nil:
			key.Spec.Volumes = append(key.Spec.Volumes, corev1.Volume{VolumeSource: corev1.VolumeSource{Image: v.Image}})
		}
	}
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		key.UID = ref.UID
	}
	data, err := key.Marshal()
	if err != nil {
		return id // it is decided about alone
	}
	sum := sha256.Sum256(data)
	return classID(sum[:])
}

// wants is the part of containers that decisions look at: names of volumes and
// the like may differ from pod to pod.
func wants(list []corev1.Container) []corev1.Container {
	out := make([]corev1.Container, len(list))
	for i := range list {
		c := &list[i]
		out[i] = corev1.Container{Image: c.Image, Ports: c.Ports, Resources: c.Resources, RestartPolicy: c.RestartPolicy}
	}
	return out
}

// classes are those of late; the zero value has none.
type classes struct {
	byID   map[classID]*class
	clock  uint64
	single class // of the present pod, which is in none
}

// pending parses a pod, or takes over what was parsed of another of its class.
func (cs *classes) pending(obj *corev1.Pod) *pod {
	id := classOf(obj)
	if cl := cs.byID[id]; cl != nil {
		p := *cl.pod
		p.obj = obj
		return &p
	}
	p := pending(obj)
	p.class = id
	return p
}

// of a pod. One that is in none is treated as the only one of its own.
func (cs *classes) of(p *pod) *class {
	if p.class == (classID{}) {
		cs.single.pod = p
		clear(cs.single.views)
		cs.single.failedAt = 0
		return &cs.single
	}
	cl := cs.byID[p.class]
	if cl == nil {
		if cs.byID == nil {
			cs.byID = map[classID]*class{}
		}
		if len(cs.byID) >= maxClasses {
			cs.forget()
		}
		cl = &class{pod: p}
		cs.byID[p.class] = cl
	}
	cs.clock++
	cl.used = cs.clock
	return cl
}

// forget the class that has not been used for the longest time.
func (cs *classes) forget() {
	var oldest *class
	for _, cl := range cs.byID {
		if oldest == nil || cl.used < oldest.used {
			oldest = cl
		}
	}
	delete(cs.byID, oldest.pod.class)
}

// view of a node, as it is now.
func (c *cycle) view(n *node) *nodeView {
	if n.slot >= len(c.class.views) {
		grown := make([]nodeView, len(c.slots))
		copy(grown, c.class.views)
		c.class.views = grown
	}
	v := &c.class.views[n.slot]
	if v.version != n.version || c.rules.scoresDevices && c.podDevices != nil { // those are no part of the node
		*v = c.look(n)
	}
	return v
}

func (c *cycle) look(n *node) nodeView {
	v := nodeView{version: n.version, refused: first(c, n, c.alone)}
	if v.refused < 0 {
		v.left, v.balance = c.rules.left(c.pod, n, c.inUse), c.rules.balance(c.pod, n, c.inUse)
		v.taints = avoided(c.pod, n)
		if c.pod.preferNodes != nil {
			v.prefers = c.pod.preferNodes.Score(n.obj)
		}
		if c.rules.prefers != nil {
			v.prefers += c.rules.prefers.Score(n.obj)
		}
	}
	return v
}
