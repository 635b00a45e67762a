package scheduler

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

// reservation is what was promised to a pod that has a node, but not all its
// volumes yet. The pod counts on the node; it is bound once its claims are.
type reservation struct {
	w       *queued
	placed  *pod
	node    string
	began   time.Time // its decision
	volumes []promisedVolume
	claims  []promisedClaim
	grants  []grant // claims to devices

	promised bool // decisions count what is granted, though it is not written
	waits    bool // what had to be written is written
	deadline time.Time
	by       string // the plugin of upstream's that fails, or waited last
	err      error  // why it comes to nothing
}

// promisedVolume is a volume that says whose it is going to be.
type promisedVolume struct {
	volume *corev1.PersistentVolume
	claim  string
	asIs   bool // decisions see it so anyway
}

// promisedClaim is a claim that says for which node a volume is to be made.
type promisedClaim struct {
	key   string
	claim *corev1.PersistentVolumeClaim
	asIs  bool
}

// reserve promises the volumes and has that written; the pod waits for those
// who bind claims and make volumes.
func (s *Scheduler) reserve(w *queued, placed *pod, d *decision, began time.Time, start func(func(context.Context) result)) {
	r := &reservation{w: w, placed: placed, node: placed.node.name, began: began, grants: d.grants}
	writes := s.promiseVolumes(r, d.wanted)
	s.promiseGrants(r)
	s.reserved[w.pod.obj.UID] = r
	s.inFlight++
	start(func(ctx context.Context) result {
		r := result{reserved: r, pod: w.pod.obj, by: volumes{}.Name()}
		if r.written, r.err = s.writePromises(ctx, writes); r.err != nil {
			return r
		}
		done, err := s.writeGrants(ctx, w.pod.obj, d.grants)
		r.written, r.by, r.err = append(r.written, done...), dynamicResources{}.Name(), err
		return r
	})
}

// promiseVolumes returns what has to be written of it.
func (s *Scheduler) promiseVolumes(r *reservation, wanted *outcome) (writes []kinds.Object) {
	if wanted == nil {
		return nil
	}
	for _, m := range wanted.matches {
		v := promisedVolume{volume: promised(m.volume, m.claim), claim: keyOf(m.claim), asIs: m.volume.Spec.ClaimRef != nil && m.volume.Spec.ClaimRef.UID != ""}
		if real, _ := s.cluster.realVolume(m.volume.Name); real.Spec.ClaimRef == nil || real.Spec.ClaimRef.UID == "" {
			writes = append(writes, v.volume)
		}
		if !v.asIs {
			s.cluster.promiseVolume(v.volume)
		}
		r.volumes = append(r.volumes, v)
	}
	for _, m := range wanted.makings {
		c := promisedClaim{key: keyOf(m.claim), claim: m.claim, asIs: m.claim.Annotations[selectedNode] != ""}
		if !c.asIs {
			c.claim = m.claim.DeepCopy()
			metav1.SetMetaDataAnnotation(&c.claim.ObjectMeta, selectedNode, r.node)
			s.cluster.promiseClaim(c.claim)
		}
		if real, _ := s.cluster.realClaim(c.key); real.Annotations[selectedNode] == "" {
			writes = append(writes, c.claim)
		}
		r.claims = append(r.claims, c)
	}
	return writes
}

// promised is a volume as the binder of claims completes it.
func promised(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) *corev1.PersistentVolume {
	byUs := !isFor(v, c)
	v = v.DeepCopy()
	v.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: c.Namespace, Name: c.Name, UID: c.UID, ResourceVersion: c.ResourceVersion}
	if byUs {
		metav1.SetMetaDataAnnotation(&v.ObjectMeta, boundByController, "yes")
	}
	return v
}

func (s *Scheduler) writePromises(ctx context.Context, list []kinds.Object) (done []kinds.Object, err error) {
	for _, o := range list {
		k := kinds.PersistentVolumeClaim
		if _, ok := o.(*corev1.PersistentVolume); ok {
			k = kinds.PersistentVolume
		}
		// With the revision that was decided on: whoever came first has it.
		out, err := s.client.Update(ctx, kinds.RefTo(k, o), o)
		if err != nil {
			return done, err
		}
		done = append(done, out.(kinds.Object))
	}
	return done, nil
}

// wrote takes in what own writes have answered.
func (s *Scheduler) wrote(list []kinds.Object) {
	for _, o := range list {
		if e := s.cluster.written(o); e != nil {
			s.happened(e)
		}
	}
}

// settleReserved takes in what became of the writes.
func (s *Scheduler) settleReserved(res result) {
	r := res.reserved
	s.wrote(res.written)
	s.endGrants(r)
	r.by = res.by
	switch {
	case s.reserved[r.w.pod.obj.UID] != r: // the pod is gone, or not ours any more
		s.takeBack(r)
		if s.assumed[r.placed.obj.UID] == r.placed {
			delete(s.assumed, r.placed.obj.UID)
			s.lift(r.placed)
		}
	case res.err != nil:
		s.end(r, res.err)
	default:
		r.waits, r.deadline = true, s.now().Add(s.patience(r))
		at, _ := slices.BinarySearchFunc(s.waits, r.deadline, func(r *reservation, t time.Time) int { return r.deadline.Compare(t) })
		for at < len(s.waits) && s.waits[at].deadline.Equal(r.deadline) {
			at++
		}
		s.waits = slices.Insert(s.waits, at, r)
		s.check(r)
	}
}

// patience is how long a pod may wait.
func (s *Scheduler) patience(r *reservation) time.Duration {
	p := s.of(r.placed.obj)
	if len(r.volumes)+len(r.claims) == 0 {
		return p.readyTimeout
	}
	return p.bindTimeout
}

// end has the loop go on with a pod: bind it, or, with an error, try again.
func (s *Scheduler) end(r *reservation, err error) {
	if r.waits {
		s.waits = slices.DeleteFunc(s.waits, func(other *reservation) bool { return other == r })
	}
	r.waits, r.err = false, err
	s.settled = append(s.settled, r)
}

// takeBack what was promised and is not written: others may have it.
func (s *Scheduler) takeBack(r *reservation) {
	s.endGrants(r)
	for _, v := range r.volumes {
		if !v.asIs && s.cluster.takeBackVolume(v.volume) {
			s.happened(&event{what: volumeChanged, name: v.volume.Name, volume: s.cluster.volumes[v.volume.Name], oldVolume: v.volume})
		}
	}
	for _, c := range r.claims {
		if !c.asIs && s.cluster.takeBackClaim(c.claim) {
			s.happened(&event{what: claimChanged, name: c.key})
		}
	}
}

// abandon a reservation because the pod is not to be scheduled any more.
func (s *Scheduler) abandon(r *reservation) {
	delete(s.reserved, r.w.pod.obj.UID)
	if waited := r.waits || slices.Contains(s.settled, r); !waited {
		return // its writes are under way: see settleReserved
	}
	s.waits = slices.DeleteFunc(s.waits, func(other *reservation) bool { return other == r })
	s.settled = slices.DeleteFunc(s.settled, func(other *reservation) bool { return other == r })
	s.takeBack(r)
	if s.assumed[r.placed.obj.UID] == r.placed {
		delete(s.assumed, r.placed.obj.UID)
		s.lift(r.placed)
	}
}

// recheck the pods that wait for a claim or a volume, now that one has changed,
// or for any of a node.
func (s *Scheduler) recheck(o kinds.Object) {
	if len(s.waits) == 0 {
		return
	}
	var node, claim, volume, devices string
	switch o := o.(type) {
	case *corev1.Node:
		node = o.Name
	case *corev1.PersistentVolumeClaim:
		claim = keyOf(o)
	case *corev1.PersistentVolume:
		volume = o.Name
		if ref := o.Spec.ClaimRef; ref != nil {
			claim = ref.Namespace + "/" + ref.Name
		}
	case *resourcev1.ResourceClaim:
		devices = keyOf(o)
	default:
		return
	}
	var may []*reservation
	for _, r := range s.waits {
		if r.node == node || s.cluster.matters(r, claim, volume) || r.grantsOf(devices) {
			may = append(may, r)
		}
	}
	for _, r := range may {
		s.check(r)
	}
}

// matters reports whether a claim or a volume is one that a reservation is about.
func (c *cluster) matters(r *reservation, claim, volume string) bool {
	for _, v := range r.volumes {
		if v.claim == claim || v.volume.Name == volume {
			return true
		}
	}
	for _, p := range r.claims {
		if p.key == claim {
			return true
		}
		if real, _ := c.realClaim(p.key); volume != "" && real != nil && real.Spec.VolumeName == volume {
			return true
		}
	}
	return false
}

// grantsOf reports whether a claim to devices is one that a reservation is about.
func (r *reservation) grantsOf(key string) bool {
	return slices.ContainsFunc(r.grants, func(g grant) bool { return keyOf(g.claim) == key })
}

// check whether a pod has its volumes and devices.
func (s *Scheduler) check(r *reservation) {
	r.by = volumes{}.Name()
	done, err := s.cluster.have(r)
	if err != nil {
		s.end(r, fmt.Errorf("binding volumes: %w", err))
		return
	}
	if done {
		r.by = dynamicResources{}.Name()
		if done, err = s.cluster.ready(r); done || err != nil {
			s.end(r, err)
		}
	}
}

// have reports whether a reservation's claims are bound, or why they are not
// going to be.
func (c *cluster) have(r *reservation) (bool, error) {
	n := c.byName[r.node]
	if n == nil || n.obj == nil {
		return false, fmt.Errorf("failed to get node %q: node %q not found", r.node, r.node)
	}
	done := true
	for _, v := range r.volumes {
		name := v.volume.Name
		claim, _ := c.realClaim(v.claim)
		real, _ := c.realVolume(name)
		switch {
		case real == nil:
			return false, fmt.Errorf("failed to check binding: persistentvolume %q not found", name)
		case claim == nil || claim.UID != v.volume.Spec.ClaimRef.UID:
			return false, fmt.Errorf("failed to check binding: persistentvolumeclaim %q not found", v.claim)
		case real.Spec.ClaimRef == nil || real.Spec.ClaimRef.UID == "":
			return false, fmt.Errorf("ClaimRef got reset for pv %q", name)
		case isBound(claim) && claim.Spec.VolumeName != name:
			return false, fmt.Errorf("persistentvolumeclaim %q is bound to another volume", v.claim)
		}
		if err := reachable(real, n.obj); err != nil {
			return false, err
		}
		done = done && isBound(claim)
	}
	for _, o := range r.claims {
		claim, _ := c.realClaim(o.key)
		switch {
		case claim == nil || claim.UID != o.claim.UID:
			return false, fmt.Errorf("failed to check provisioning pvc: persistentvolumeclaim %q not found", o.key)
		case len(claim.Annotations) == 0:
			return false, fmt.Errorf("selectedNode annotation reset for PVC %q", claim.Name)
		case claim.Annotations[selectedNode] != r.node:
			return false, fmt.Errorf("provisioning failed for PVC %q", claim.Name)
		}
		real, _ := c.realVolume(claim.Spec.VolumeName)
		if real != nil {
			if err := reachable(real, n.obj); err != nil {
				return false, err
			}
		}
		done = done && isBound(claim) && real != nil
	}
	return done, nil
}

func reachable(v *corev1.PersistentVolume, n *corev1.Node) error {
	if nodes := nodesOf(v); !nodes.reach(n) {
		return fmt.Errorf("pv %q node affinity doesn't match node %q: no matching NodeSelectorTerms", v.Name, n.Name)
	}
	return nil
}

// expire ends the wait of pods whose claims take too long.
func (s *Scheduler) expire() {
	for len(s.waits) > 0 && !s.waits[0].deadline.After(s.now()) {
		r := s.waits[0]
		what := "binding volumes"
		if r.by == (dynamicResources{}.Name()) {
			what = "binding devices"
		}
		s.end(r, fmt.Errorf("%s: %w", what, context.DeadlineExceeded))
	}
}

// goOn with one pod whose volumes have been settled; it reports whether there
// was one.
func (s *Scheduler) goOn(start func(func(context.Context) result)) bool {
	if len(s.settled) == 0 {
		return false
	}
	r := s.settled[0]
	s.settled = slices.Delete(s.settled, 0, 1)
	delete(s.reserved, r.w.pod.obj.UID)
	status := "Success"
	if r.err != nil {
		status = "Error"
	}
	s.metrics.point(r.placed.profile(), "PreBind", status, s.now().Sub(r.began))
	if r.err == nil {
		s.startBinding(r.w, r.placed.obj, r.node, r.grants, r.began, start)
		return true
	}
	s.takeBack(r)
	waits := s.unplace(r.w, r.placed.obj, r.began)
	s.startRelease(r.placed.obj, r.grants, start)
	if !waits || inCourse(r.err) {
		return true // somebody else was quicker; it is decided again
	}
	s.log.Warn("cannot prepare the binding of the pod", "pod", keyOf(r.placed.obj), "node", r.node, "plugin", r.by, "error", r.err)
	s.tell(r.w, corev1.PodReasonSchedulerError, cut(fmt.Sprintf("running PreBind plugin %q: %v", r.by, r.err)), nil, start)
	return true
}
