package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
)

// naiveStorage is what the naive check knows of volumes. Whose volume may be
// had by which claim it finds out by trying everything.
type naiveStorage struct {
	claims      map[string]*corev1.PersistentVolumeClaim
	pvs         map[string]*corev1.PersistentVolume
	classes     map[string]*storagev1.StorageClass
	csiNodes    map[string]*storagev1.CSINode
	capacities  map[string]*storagev1.CSIStorageCapacity
	attachments map[string]*storagev1.VolumeAttachment
}

func newNaiveStorage() naiveStorage {
	return naiveStorage{map[string]*corev1.PersistentVolumeClaim{}, map[string]*corev1.PersistentVolume{}, map[string]*storagev1.StorageClass{},
		map[string]*storagev1.CSINode{}, map[string]*storagev1.CSIStorageCapacity{}, map[string]*storagev1.VolumeAttachment{}}
}

// take in an object, or forget it.
func (w *naiveStorage) take(o kinds.Object, gone bool) {
	switch o := o.(type) {
	case *corev1.PersistentVolumeClaim:
		setOrDelete(w.claims, o.Namespace+"/"+o.Name, o, gone)
	case *corev1.PersistentVolume:
		setOrDelete(w.pvs, o.Name, o, gone)
	case *storagev1.StorageClass:
		setOrDelete(w.classes, o.Name, o, gone)
	case *storagev1.CSINode:
		setOrDelete(w.csiNodes, o.Name, o, gone)
	case *storagev1.CSIStorageCapacity:
		setOrDelete(w.capacities, o.Name, o, gone)
	case *storagev1.VolumeAttachment:
		setOrDelete(w.attachments, o.Name, o, gone)
	}
}

func naiveClaims(p *corev1.Pod) (out []string) {
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim != nil && !slices.Contains(out, p.Namespace+"/"+v.PersistentVolumeClaim.ClaimName) {
			out = append(out, p.Namespace+"/"+v.PersistentVolumeClaim.ClaimName)
		}
	}
	return out
}

func (w *naive) storageFits(p *corev1.Pod, n *corev1.Node) bool {
	var open []*corev1.PersistentVolumeClaim
	for _, name := range naiveClaims(p) {
		claim := w.claims[name]
		if claim == nil {
			return false
		}
		for _, x := range w.pods {
			if claim.Spec.AccessModes[0] == corev1.ReadWriteOncePod && slices.Contains(naiveClaims(x), name) {
				return false
			}
		}
		if claim.Status.Phase != corev1.ClaimBound {
			open = append(open, claim)
		} else if pv := w.pvs[claim.Spec.VolumeName]; pv == nil || !w.reached(pv, n) {
			return false
		}
	}
	return w.assign(open, nil, n) && w.diskFree(p, n) && w.attach(p, n)
}

// reached: volumes in these tests ask for one host, or for nothing.
func (w *naive) reached(pv *corev1.PersistentVolume, n *corev1.Node) bool {
	return pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0] == n.Labels[hostname]
}

// assign reports whether each claim can have a volume of its own on the node.
func (w *naive) assign(claims []*corev1.PersistentVolumeClaim, taken []string, n *corev1.Node) bool {
	if len(claims) == 0 {
		return true
	}
	claim, rest := claims[0], claims[1:]
	class := w.classes[*claim.Spec.StorageClassName]
	if class == nil || *class.VolumeBindingMode == storagev1.VolumeBindingImmediate || claim.Annotations[selectedNode] != "" && claim.Annotations[selectedNode] != n.Name {
		return false
	}
	if w.makes(class, claim, n) && w.assign(rest, taken, n) {
		return true
	}
	if claim.Annotations[selectedNode] != "" {
		return false
	}
	for name, pv := range w.pvs {
		if !slices.Contains(taken, name) && w.serves(pv, claim, n) && w.assign(rest, append(slices.Clone(taken), name), n) {
			return true
		}
	}
	return false
}

func (w *naive) serves(pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim, n *corev1.Node) bool {
	want, have := claim.Spec.Resources.Requests["storage"], pv.Spec.Capacity["storage"]
	if have.Cmp(want) < 0 || !w.reached(pv, n) || pv.Spec.StorageClassName != *claim.Spec.StorageClassName {
		return false
	}
	if only := w.meantFor(claim); only != nil {
		return pv.Name == only.Name
	}
	return pv.Spec.ClaimRef == nil && pv.Status.Phase == corev1.VolumeAvailable
}

// meantFor a claim is one volume: of several, one that was promised to it, and
// then the first by name.
func (w *naive) meantFor(claim *corev1.PersistentVolumeClaim) (best *corev1.PersistentVolume) {
	for _, pv := range w.pvs {
		ref := pv.Spec.ClaimRef
		if ref == nil || ref.Namespace != claim.Namespace || ref.Name != claim.Name || !w.enough(pv, claim) {
			continue
		}
		promised := func(v *corev1.PersistentVolume) bool { return v.Spec.ClaimRef.UID != "" }
		if best == nil || promised(pv) && !promised(best) || promised(pv) == promised(best) && pv.Name < best.Name {
			best = pv
		}
	}
	return best
}

func (w *naive) enough(pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	want, have := claim.Spec.Resources.Requests["storage"], pv.Spec.Capacity["storage"]
	return have.Cmp(want) >= 0 && pv.Spec.StorageClassName == *claim.Spec.StorageClassName
}

// makes reports whether a volume can be made: class "made" tells its capacity.
func (w *naive) makes(class *storagev1.StorageClass, claim *corev1.PersistentVolumeClaim, n *corev1.Node) bool {
	if class.Provisioner == noProvisioner {
		return false
	}
	for _, t := range class.AllowedTopologies {
		if !slices.Contains(t.MatchLabelExpressions[0].Values, n.Labels[corev1.LabelTopologyZone]) {
			return false
		}
	}
	if class.Name != "made" {
		return true
	}
	want := claim.Spec.Resources.Requests["storage"]
	for _, k := range w.capacities {
		sel, _ := metav1.LabelSelectorAsSelector(k.NodeTopology)
		if k.StorageClassName == class.Name && k.Capacity.Cmp(want) >= 0 && sel.Matches(labels.Set(n.Labels)) {
			return true
		}
	}
	return false
}

func (w *naive) diskFree(p *corev1.Pod, n *corev1.Node) bool {
	for _, x := range w.on(n) {
		for _, a := range x.Spec.Volumes {
			for _, b := range p.Spec.Volumes {
				if a.GCEPersistentDisk != nil && b.GCEPersistentDisk != nil && a.GCEPersistentDisk.PDName == b.GCEPersistentDisk.PDName &&
					!(a.GCEPersistentDisk.ReadOnly && b.GCEPersistentDisk.ReadOnly) {
					return false
				}
			}
		}
	}
	return true
}

// handles are the volumes of drivers that a pod's claims are.
func (w *naive) handles(p *corev1.Pod) map[[2]string]bool {
	out := map[[2]string]bool{}
	for _, name := range naiveClaims(p) {
		claim := w.claims[name]
		if claim == nil {
			continue
		}
		if pv := w.pvs[claim.Spec.VolumeName]; pv != nil {
			if pv.Spec.CSI != nil {
				out[[2]string{pv.Spec.CSI.Driver, pv.Spec.CSI.VolumeHandle}] = true
			}
		} else if class := w.classes[*claim.Spec.StorageClassName]; class != nil {
			out[[2]string{class.Provisioner, "claim " + name}] = true
		}
	}
	return out
}

func (w *naive) attach(p *corev1.Pod, n *corev1.Node) bool {
	k := w.csiNodes[n.Name]
	if k == nil || k.Spec.Drivers[0].Allocatable == nil {
		return true
	}
	driver := k.Spec.Drivers[0].Name
	used, all := map[[2]string]bool{}, map[[2]string]bool{}
	for _, x := range w.on(n) {
		for h := range w.handles(x) {
			used[h], all[h] = true, true
		}
	}
	for _, va := range w.attachments {
		if pv := w.pvs[*va.Spec.Source.PersistentVolumeName]; va.Spec.NodeName == n.Name && pv != nil && pv.Spec.CSI != nil {
			all[[2]string{va.Spec.Attacher, pv.Spec.CSI.VolumeHandle}] = true
		}
	}
	count, more := 0, 0
	for h := range all {
		if h[0] == driver {
			count++
		}
	}
	for h := range w.handles(p) {
		if h[0] == driver && !used[h] {
			more++
		}
	}
	return more == 0 || count+more <= int(*k.Spec.Drivers[0].Allocatable.Count)
}

// Classes in these tests: volumes of "hand" are made by hand, those of "made"
// by a driver that tells its capacity, and "both" has some and gets others. A
// claim of class "now" is none that a pod can use as long as it has no volume.
func naiveClasses() []kinds.Object {
	return []kinds.Object{aClass("hand", byHand), aClass("made"), aClass("both", func(c *storagev1.StorageClass) { c.Provisioner = "e" }, allowedIn("z1")), aClass("now", immediately), aDriver(tellsCapacity)}
}

func drawSize(t *rapid.T, label string) string {
	return rapid.SampledFrom([]string{"1Gi", "2Gi", "3Gi"}).Draw(t, label)
}

func drawClaim(t *rapid.T, name string) *corev1.PersistentVolumeClaim {
	c := open(name, rapid.SampledFrom([]string{"hand", "hand", "made", "both", "now"}).Draw(t, "class"), drawSize(t, "size"))
	if rapid.IntRange(0, 3).Draw(t, "sole") == 0 {
		c.Spec.AccessModes[0] = corev1.ReadWriteOncePod
	}
	return c
}

func drawVolume(t *rapid.T, name string) *corev1.PersistentVolume {
	v := disk(name, rapid.SampledFrom([]string{"hand", "hand", "both"}).Draw(t, "class"), drawSize(t, "size"), rapid.SampledFrom([]string{"", "n0", "n1", "n2"}).Draw(t, "host"))
	v.Spec.AccessModes = append(v.Spec.AccessModes, corev1.ReadWriteOncePod)
	if rapid.IntRange(0, 2).Draw(t, "driven") > 0 {
		v.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: rapid.SampledFrom([]string{"h1", "h2", "h3", "h4"}).Draw(t, "handle")}
	}
	if rapid.IntRange(0, 5).Draw(t, "released") == 0 {
		v.Status.Phase = corev1.VolumeReleased
	}
	if rapid.IntRange(0, 4).Draw(t, "meant") == 0 {
		forClaim(fmt.Sprint("c", rapid.IntRange(0, 4).Draw(t, "for")))(v)
	}
	return v
}

// drawStorage is some object that has to do with volumes, other than claims.
func drawStorage(t *rapid.T) kinds.Object {
	node := fmt.Sprintf("n%d", rapid.IntRange(0, 3).Draw(t, "node"))
	switch rapid.IntRange(0, 4).Draw(t, "storage") {
	case 0:
		return takes(node, rapid.Int32Range(-1, 2).Draw(t, "limit"))
	case 1:
		return capacity(fmt.Sprint("k", rapid.IntRange(0, 2).Draw(t, "capacity")), "made", drawSize(t, "size"), rapid.SampledFrom(zones).Draw(t, "zone"))
	case 2:
		return attachment(fmt.Sprint("a", rapid.IntRange(0, 1).Draw(t, "attachment")), node, fmt.Sprint("v", rapid.IntRange(0, 4).Draw(t, "attached")))
	}
	return drawVolume(t, fmt.Sprint("v", rapid.IntRange(0, 4).Draw(t, "volume")))
}

// drawMounts gives a pod claims or disks, now and then.
func drawMounts(t *rapid.T, p *corev1.Pod) *corev1.Pod {
	switch rapid.IntRange(0, 9).Draw(t, "mounts") {
	case 0, 1:
		p.Namespace = "default"
		mounts(fmt.Sprint("c", rapid.IntRange(0, 4).Draw(t, "claim")))(p)
	case 2:
		p.Namespace = "default"
		mounts(fmt.Sprint("c", rapid.IntRange(0, 1).Draw(t, "claim")))(p)
		mounts(fmt.Sprint("c", rapid.IntRange(2, 4).Draw(t, "another")))(p)
	case 3:
		inline(gce(rapid.SampledFrom([]string{"x", "y"}).Draw(t, "disk"), rapid.Bool().Draw(t, "reads")))(p)
	}
	return p
}

// bindTo is a claim as it is with its volume, and the volume.
func bindTo(c *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) {
	v, c = promised(v, c), c.DeepCopy()
	v.Status.Phase = corev1.VolumeBound
	c.Spec.VolumeName, c.Status.Phase = v.Name, corev1.ClaimBound
	metav1.SetMetaDataAnnotation(&c.ObjectMeta, bindCompleted, "yes")
	return c, v
}

// madeFor is a volume as the driver makes it on a node.
func madeFor(c *corev1.PersistentVolumeClaim, node string) *corev1.PersistentVolume {
	size := c.Spec.Resources.Requests["storage"]
	v := disk("made-"+c.Name, *c.Spec.StorageClassName, size.String(), node)
	v.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: "made-" + c.Name}
	return v
}

// bindClaims does what the binder of claims and the makers of volumes do, as
// far as how says: "bind", "wait" or "give up". It reports whether it did any.
func (a *api) bindClaims(how func(claim string) string) (did bool) {
	for _, o := range a.Objects(kinds.PersistentVolumeClaim) {
		c := o.(*corev1.PersistentVolumeClaim)
		if c.Spec.VolumeName != "" {
			continue
		}
		var v *corev1.PersistentVolume
		for _, o := range a.Objects(kinds.PersistentVolume) {
			if pv := o.(*corev1.PersistentVolume); pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.UID == c.UID {
				v = pv
			}
		}
		node := c.Annotations[selectedNode]
		if v == nil && node == "" {
			continue
		}
		switch how(c.Name) {
		case "bind":
			if v == nil {
				v = madeFor(c, node)
			}
			bound, volume := bindTo(c, v)
			a.put(volume, bound)
			did = true
		case "give up":
			if v == nil {
				c = c.DeepCopy()
				delete(c.Annotations, selectedNode)
				a.put(c)
				did = true
			}
		}
	}
	return did
}

// volumesInOrder: a pod has a node only once it has its volumes, they can be
// reached there, and no two claims have the same one.
func (a *api) volumesInOrder() error {
	w, of := a.naive(), map[string]string{}
	for name, c := range w.claims {
		if v := c.Spec.VolumeName; v != "" && of[v] != "" {
			return fmt.Errorf("%s and %s have the same volume", name, of[v])
		} else if v != "" {
			of[v] = name
		}
	}
	for _, p := range w.pods {
		for _, name := range naiveClaims(p) {
			c := w.claims[name]
			if c == nil || c.Status.Phase != corev1.ClaimBound {
				return fmt.Errorf("pod %s is bound before its claim %s", p.Name, name)
			}
			if n := w.nodes[p.Spec.NodeName]; n != nil && !w.reached(w.pvs[c.Spec.VolumeName], n) {
				return fmt.Errorf("pod %s cannot reach its claim %s", p.Name, name)
			}
		}
	}
	return nil
}

// As TestDecisionsAgreeWithNaiveCheck, of pods whose volumes alone decide, and
// so much closer to what there is of them.
func TestVolumesAgreeWithNaiveCheck(t *testing.T) {
	fit, refused := 0, 0
	for range 50 {
		rapid.Check(t, func(t *rapid.T) {
			c := world()
			w := &naive{nodes: map[string]*corev1.Node{}, namespaces: map[string]map[string]string{"default": nil}, naiveStorage: newNaiveStorage()}
			take := func(o kinds.Object, gone bool) {
				c.take(o, gone)
				w.take(o, gone)
			}
			for _, o := range naiveClasses() {
				take(o, false)
			}
			for i := range 2 {
				n := aNode(fmt.Sprint("n", i), zone(zones[i]))
				c.setNode(n)
				w.nodes[n.Name] = n
				take(takes(n.Name, rapid.Int32Range(1, 3).Draw(t, "limit")), false)
				if rapid.Bool().Draw(t, "attached") {
					take(attachment(fmt.Sprint("a", i), n.Name, fmt.Sprint("v", i)), false)
				}
			}
			for i := range 5 {
				take(drawClaim(t, fmt.Sprint("c", i)), false)
			}
			d := newDecider(rand.New(rand.NewPCG(1, 1)))
			for i := range rapid.IntRange(1, 25).Draw(t, "steps") {
				if rapid.IntRange(0, 2).Draw(t, "changes") > 0 {
					w.disturb(t, take)
					continue
				}
				p := aPod(fmt.Sprint("p", i), mounts(fmt.Sprint("c", rapid.IntRange(0, 2).Draw(t, "claim"))))
				if rapid.Bool().Draw(t, "more") {
					mounts(fmt.Sprint("c", rapid.IntRange(1, 4).Draw(t, "another")))(p)
				}
				feasible := w.feasible(p)
				dec := d.decide(c, pending(p))
				switch {
				case dec.node == nil && len(feasible) > 0:
					t.Fatalf("pod %s fits on %v, the scheduler says: %s", p.Name, feasible, dec.why)
				case dec.node == nil:
					refused++
					continue
				case !slices.Contains(feasible, dec.node.name):
					t.Fatalf("pod %s was given %s, feasible are %v", p.Name, dec.node.name, feasible)
				}
				fit++
				p.Spec.NodeName = dec.node.name
				c.place(placed(p), p.Spec.NodeName)
				if dec.wanted != nil {
					w.promise(t, p, dec.wanted, c, take)
				}
				w.pods = append(w.pods, p)
			}
		})
	}
	if least := atLeast(1500); !t.Failed() && (fit < least || refused < least) {
		t.Errorf("%d pods fitted, %d did not: one of both is hardly tried", fit, refused)
	}
}
