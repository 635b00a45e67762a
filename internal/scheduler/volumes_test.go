package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// aClass binds late, and volumes of it are made by the driver d.
func aClass(name string, opts ...func(*storagev1.StorageClass)) *storagev1.StorageClass {
	c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: "d"}
	set(&c.VolumeBindingMode, storagev1.VolumeBindingWaitForFirstConsumer)
	for _, o := range opts {
		o(c)
	}
	return c
}

func byHand(c *storagev1.StorageClass) { c.Provisioner = noProvisioner }
func immediately(c *storagev1.StorageClass) {
	set(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
}

func allowedIn(zones ...string) func(*storagev1.StorageClass) {
	return func(c *storagev1.StorageClass) {
		c.AllowedTopologies = []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: corev1.LabelTopologyZone, Values: zones}}}}
	}
}

// open is a claim without a volume.
func open(name, class, size string, opts ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	return claim(name, func(c *corev1.PersistentVolumeClaim) {
		c.UID = types.UID(name + "-uid")
		c.Spec = corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: list("storage", size)}}
		c.Status.Phase = corev1.ClaimPending
		for _, o := range opts {
			o(c)
		}
	})
}

// disk is an available volume of a class on a node; empty: any.
func disk(name, class, size, node string, opts ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := volumeOn(name, node)
	v.Spec.StorageClassName, v.Spec.Capacity = class, list("storage", size)
	v.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	v.Status.Phase = corev1.VolumeAvailable
	for _, o := range opts {
		o(v)
	}
	return v
}

func forClaim(name string) func(*corev1.PersistentVolume) {
	return func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: name}
	}
}

func forNode(name string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Annotations = map[string]string{selectedNode: name} }
}

func aDriver(opts ...func(*storagev1.CSIDriver)) *storagev1.CSIDriver {
	d := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "d"}}
	for _, o := range opts {
		o(d)
	}
	return d
}

func tellsCapacity(d *storagev1.CSIDriver) { set(&d.Spec.StorageCapacity, true) }
func mustBeThere(d *storagev1.CSIDriver)   { set(&d.Spec.PreventPodSchedulingIfMissing, true) }

// takes says how many volumes of driver d a node can have; below 0: no limit.
func takes(node string, count int32) *storagev1.CSINode {
	n := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: "d", NodeID: node}}}}
	if count >= 0 {
		n.Spec.Drivers[0].Allocatable = &storagev1.VolumeNodeResources{Count: &count}
	}
	return n
}

func capacity(name, class, size string, zone string) *storagev1.CSIStorageCapacity {
	c := &storagev1.CSIStorageCapacity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, StorageClassName: class, NodeTopology: selecting(corev1.LabelTopologyZone, zone)}
	set(&c.Capacity, resource.MustParse(size))
	return c
}

// handled is the claim's volume pv-<claim>, of driver d.
func handled(claim, handle string) *corev1.PersistentVolume {
	v := volumeOn("pv-"+claim, "")
	v.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: handle}
	return v
}

func attachment(name, node, pv string) *storagev1.VolumeAttachment {
	return &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.VolumeAttachmentSpec{Attacher: "d", NodeName: node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &pv}}}
}

func inline(v corev1.VolumeSource) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: fmt.Sprint("v", len(p.Spec.Volumes)), VolumeSource: v})
	}
}

func gce(name string, readOnly bool) corev1.VolumeSource {
	return corev1.VolumeSource{GCEPersistentDisk: &corev1.GCEPersistentDiskVolumeSource{PDName: name, ReadOnly: readOnly}}
}

func rbd(image string, monitors ...string) corev1.VolumeSource {
	return corev1.VolumeSource{RBD: &corev1.RBDVolumeSource{RBDImage: image, RBDPool: "p", CephMonitors: monitors}}
}

func TestVolumesDecide(t *testing.T) {
	ebs := func(id string) corev1.VolumeSource {
		return corev1.VolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: id, ReadOnly: true}}
	}
	iscsi := corev1.VolumeSource{ISCSI: &corev1.ISCSIVolumeSource{IQN: "iqn"}}
	const nothing, space, far = "node(s) didn't find available persistent volumes to bind", "node(s) did not have enough free storage", "node(s) didn't match PersistentVolume's node affinity"
	const many = "node(s) exceed max volume count"
	one := func(reason string) string { return "0/1 nodes are available: 1 " + reason + "." }
	n, c := aNode("n", zone("z")), aPod("p", mounts("c"))
	both := aPod("p", mounts("c"), mounts("d"))
	for _, tt := range []struct {
		name    string
		objects []any
		pod     *corev1.Pod
		node    string
		why     string
		advice  string
	}{
		{"a disk on another node", []any{n, aNode("m"), aClass("s", byHand), open("c", "s", "1Gi"), disk("v", "s", "1Gi", "m")}, c, "m", "", ""},
		{"no disk", []any{n, aClass("s", byHand), open("c", "s", "1Gi")}, c, "", one(nothing), "It would fit on n with 1 PersistentVolume of class s with 1Gi."},
		{"no disks", []any{n, aClass("s", byHand), open("c", "s", "1Gi"), open("d", "s", "1Gi")}, both, "", one(nothing), "It would fit on n with 2 PersistentVolumes of class s with 1Gi."},
		{"a disk too small", []any{n, aClass("s", byHand), open("c", "s", "2Gi"), disk("v", "s", "1Gi", "")}, c, "", one(nothing), "It would fit on n with 1 PersistentVolume of class s with 2Gi."},
		{"a disk of another class", []any{n, aClass("s", byHand), open("c", "s", "1Gi"), disk("v", "x", "1Gi", "")}, c, "", one(nothing), "It would fit on n with 1 PersistentVolume of class s with 1Gi."},
		{"a disk that is released", []any{n, aClass("s", byHand), open("c", "s", "1Gi"), disk("v", "s", "1Gi", "", func(v *corev1.PersistentVolume) { v.Status.Phase = corev1.VolumeReleased })}, c, "", one(nothing), "It would fit on n with 1 PersistentVolume of class s with 1Gi."},
		{"a disk that ends", []any{n, aClass("s", byHand), open("c", "s", "1Gi"), disk("v", "s", "1Gi", "", func(v *corev1.PersistentVolume) { set(&v.DeletionTimestamp, metav1.Time{}) })}, c, "", one(nothing), "It would fit on n with 1 PersistentVolume of class s with 1Gi."},
		{"a disk of another sort", []any{n, aClass("s", byHand), open("c", "s", "1Gi"), disk("v", "s", "1Gi", "", func(v *corev1.PersistentVolume) { set(&v.Spec.VolumeMode, corev1.PersistentVolumeBlock) })}, c, "", one(nothing), "It would fit on n with 1 PersistentVolume of class s with 1Gi."},
		{"a disk of other attributes", []any{n, aClass("s", byHand), open("c", "s", "1Gi"), disk("v", "s", "1Gi", "", func(v *corev1.PersistentVolume) { set(&v.Spec.VolumeAttributesClassName, "gold") })}, c, "", one(nothing), "It would fit on n with 1 PersistentVolume of class s with 1Gi."},
		{"a disk that is used otherwise", []any{n, aClass("s", byHand), open("c", "s", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.AccessModes[0] = corev1.ReadWriteMany }), disk("v", "s", "1Gi", "")}, c, "", one(nothing), "It would fit on n with 1 PersistentVolume of class s with 1Gi."},
		{"a disk that is not selected", []any{n, aClass("s", byHand), open("c", "s", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.Selector = selecting("a", "b") }), disk("v", "s", "1Gi", "")}, c, "", one(nothing), "It would fit on n with 1 PersistentVolume of class s with 1Gi."},
		{"a disk of somebody else", []any{n, aClass("s", byHand), open("c", "s", "1Gi"), disk("v", "s", "1Gi", "", forClaim("d"))}, c, "", one(nothing), "It would fit on n with 1 PersistentVolume of class s with 1Gi."},
		{"a disk that is meant for it", []any{n, aNode("m"), aClass("s", byHand), open("c", "s", "1Gi"), disk("a", "s", "1Gi", "n"), disk("v", "s", "9Gi", "m", forClaim("c"), func(v *corev1.PersistentVolume) { v.Status.Phase = corev1.VolumePending })}, c, "m", "", ""},
		{"one disk for two claims", []any{n, aClass("s", byHand), open("c", "s", "1Gi"), open("d", "s", "1Gi"), disk("v", "s", "1Gi", "")}, both, "", one(nothing), "It would fit on n with 1 PersistentVolume of class s with 1Gi."},
		{"a small and a large one", []any{n, aClass("s", byHand), open("c", "s", "5Gi"), open("d", "s", "1Gi"), disk("a", "s", "5Gi", ""), disk("b", "s", "1Gi", "")}, both, "n", "", ""},
		{"one claim twice", []any{n, aClass("s", byHand), open("c", "s", "1Gi"), disk("v", "s", "1Gi", "")}, aPod("p", mounts("c"), mounts("c")), "n", "", ""},
		{"made where it is allowed", []any{n, aNode("m", zone("y")), aClass("s", allowedIn("x", "y")), open("c", "s", "1Gi")}, c, "m", "", ""},
		{"made nowhere", []any{n, aNode("m"), aClass("s", allowedIn("x")), open("c", "s", "1Gi")}, c, "", "0/2 nodes are available: 2 " + nothing + ".", "It would fit on m with 1 PersistentVolume of class s with 1Gi."},
		{"being made elsewhere", []any{n, aClass("s"), open("c", "s", "1Gi", forNode("m"))}, c, "", one(nothing), ""},
		{"being made here", []any{n, aNode("m"), aClass("s"), open("c", "s", "1Gi", forNode("m"))}, c, "m", "", ""},
		{"no room", []any{n, aClass("s"), aDriver(tellsCapacity), open("c", "s", "2Gi"), capacity("k", "s", "1Gi", "z"), capacity("l", "s", "9Gi", "y"), capacity("m", "x", "9Gi", "z")}, c, "", one(space), "It would fit on n with 2Gi of storage free for class s."},
		{"room", []any{n, aNode("m"), aClass("s"), aDriver(tellsCapacity), open("c", "s", "2Gi"), capacity("k", "s", "2Gi", "z")}, c, "n", "", ""},
		{"room, but no volume so large", []any{n, aClass("s"), aDriver(tellsCapacity), open("c", "s", "2Gi"), func() *storagev1.CSIStorageCapacity {
			k := capacity("k", "s", "2Gi", "z")
			set(&k.MaximumVolumeSize, resource.MustParse("1Gi"))
			return k
		}()}, c, "", one(space), "It would fit on n with 2Gi of storage free for class s."},
		{"a driver that does not tell", []any{n, aClass("s"), aDriver(), open("c", "s", "2Gi")}, c, "n", "", ""},
		{"not late", []any{n, aClass("s", immediately), open("c", "s", "1Gi"), disk("v", "s", "1Gi", "")}, c, "", "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.", ""},
		{"of no class", []any{n, open("c", "", "1Gi"), disk("v", "", "1Gi", "")}, c, "", "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.", ""},
		{"on its way to a volume", []any{n, aClass("s"), open("c", "s", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "v" })}, c, "", "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.", ""},
		{"another claim is lost", []any{n, aClass("s", immediately), open("c", "s", "1Gi"), claim("d", func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost })}, both, "", `0/1 nodes are available: persistentvolumeclaim "d" bound to non-existent persistentvolume "pv-d".`, ""},
		{"bound, by the annotation", []any{n, volumeOn("pv-c", ""), claim("c", func(c *corev1.PersistentVolumeClaim) {
			c.Annotations, c.Status.Phase = map[string]string{bindCompleted: "yes"}, corev1.ClaimPending
		})}, c, "n", "", ""},
		{"one elsewhere, one nowhere", []any{n, claim("c"), volumeOn("pv-c", "m"), aClass("s", byHand), open("d", "s", "1Gi")}, both, "", "0/1 nodes are available: 1 " + nothing + ", 1 " + far + ".", ""},
		{"of another pod", []any{n, claim("p-e", func(c *corev1.PersistentVolumeClaim) { c.OwnerReferences = nil }), volumeOn("pv-p-e", "")}, aPod("p", inline(corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}), func(p *corev1.Pod) { p.Spec.Volumes[0].Name = "e" }), "",
			"0/1 nodes are available: PVC default/p-e was not created for pod default/p (pod is not owner).", ""},
		{"not made yet", []any{n}, aPod("p", inline(corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}})), "", `0/1 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim "p-v0".`, ""},

		{"as many as there may be", []any{n, takes("n", 1), aPod("x", on("n"), mounts("d")), claim("d"), handled("d", "1"), claim("c"), handled("c", "2")}, c, "", one(many), "It would fit on n with 1 volume of driver d fewer on the node."},
		{"the same volume", []any{n, takes("n", 1), aPod("x", on("n"), mounts("d")), claim("d"), handled("d", "1"), claim("c"), handled("c", "1")}, c, "n", "", ""},
		{"one more may be", []any{n, takes("n", 2), aPod("x", on("n"), mounts("d")), claim("d"), handled("d", "1"), claim("c"), handled("c", "2")}, c, "n", "", ""},
		{"of another driver", []any{n, takes("n", 1), aPod("x", on("n"), mounts("d")), claim("d"), func() *corev1.PersistentVolume {
			v := handled("d", "1")
			v.Spec.CSI.Driver = "other"
			return v
		}(), claim("c"), handled("c", "2")}, c, "n", "", ""},
		{"claims count by their class", []any{n, takes("n", 1), aClass("s"), aPod("x", on("n"), mounts("d")), open("d", "s", "1Gi"), open("c", "s", "1Gi")}, c, "", one(many), "It would fit on n with 1 volume of driver d fewer on the node."},
		{"one claim counts once", []any{n, takes("n", 1), aClass("s"), aPod("x", on("n"), mounts("c")), open("c", "s", "1Gi")}, c, "n", "", ""},
		{"what is still attached", []any{n, takes("n", 1), attachment("a", "n", "pv-d"), handled("d", "1"), claim("c"), handled("c", "2")}, c, "", one(many), "It would fit on n with 1 volume of driver d fewer on the node."},
		{"attached and used", []any{n, takes("n", 2), attachment("a", "n", "pv-d"), aPod("x", on("n"), mounts("d")), claim("d"), handled("d", "1"), claim("c"), handled("c", "2")}, c, "n", "", ""},
		{"attached elsewhere", []any{n, takes("n", 1), attachment("a", "m", "pv-d"), handled("d", "1"), claim("c"), handled("c", "2")}, c, "n", "", ""},
		{"none may be", []any{n, takes("n", 0), claim("c"), handled("c", "2")}, c, "", one(many), "It would fit on n with 1 volume of driver d fewer on the node."},
		{"no limit", []any{n, takes("n", -1), claim("c"), handled("c", "2")}, c, "n", "", ""},
		{"no driver", []any{n, aNode("m"), takes("m", -1), aDriver(mustBeThere), claim("c"), handled("c", "2")}, c, "m", "", ""},
		{"no driver anywhere", []any{n, aDriver(mustBeThere), claim("c"), handled("c", "2")}, c, "", one("d CSI driver is not installed on the node"), "It would fit on n with the CSI driver d on the node."},
		{"a driver took the disks over", []any{n, func() *storagev1.CSINode {
			k := takes("n", 1)
			k.Spec.Drivers[0].Name = "ebs.csi.aws.com"
			return k
		}(), aPod("x", on("n"), inline(ebs("aws://z/1")))}, aPod("p", inline(ebs("2"))), "", one(many), "It would fit on n with 1 volume of driver ebs.csi.aws.com fewer on the node."},

		{"a disk in use", []any{n, aPod("x", on("n"), inline(gce("a", false)))}, aPod("p", inline(gce("a", true))), "", one("node(s) had no available disk"), "It would fit on n with the disk of its volume v0 free."},
		{"a disk that all read", []any{n, aPod("x", on("n"), inline(gce("a", true)))}, aPod("p", inline(gce("a", true))), "n", "", ""},
		{"a disk in use elsewhere", []any{n, aNode("m"), aPod("x", on("n"), inline(gce("a", false)))}, aPod("p", inline(gce("a", false))), "m", "", ""},
		{"another disk", []any{n, aPod("x", on("n"), inline(gce("a", false)))}, aPod("p", inline(gce("b", false))), "n", "", ""},
		{"a disk of AWS", []any{n, aPod("x", on("n"), inline(ebs("a")))}, aPod("p", inline(ebs("a"))), "", one("node(s) had no available disk"), "It would fit on n with the disk of its volume v0 free."},
		{"a target", []any{n, aPod("x", on("n"), inline(iscsi))}, aPod("p", inline(iscsi)), "", one("node(s) had no available disk"), "It would fit on n with the disk of its volume v0 free."},
		{"an image, by one of the monitors", []any{n, aPod("x", on("n"), inline(rbd("i", "a", "b")))}, aPod("p", inline(rbd("i", "c", "b"))), "", one("node(s) had no available disk"), "It would fit on n with the disk of its volume v0 free."},
		{"an image of other monitors", []any{n, aPod("x", on("n"), inline(rbd("i", "a", "b")))}, aPod("p", inline(rbd("i", "c"))), "n", "", ""},
		{"a late claim of one pod", []any{n, aClass("s"), aPod("x", on("n"), mounts("c")), open("c", "s", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.AccessModes[0] = corev1.ReadWriteOncePod })}, c, "",
			one("node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"), "It would fit on n with the claim default/c free."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dec := newDecider(rand.New(rand.NewPCG(1, 2))).decide(world(tt.objects...), pending(tt.pod))
			got, advice := "", ""
			if dec.node != nil {
				got = dec.node.name
			}
			if len(dec.remedies) > 0 {
				advice = adviceText(dec.remedies)
			}
			if got != tt.node || dec.why != tt.why || advice != tt.advice {
				t.Errorf("on %q: %s\n%s\nwant %q: %s\n%s", got, dec.why, advice, tt.node, tt.why, tt.advice)
			}
		})
	}
}

// Without the plugin that looks at zones first, the node is what it is about.
func TestVolumeThatIsNotThere(t *testing.T) {
	r := rulesOf(profileWith(unasked("VolumeZone")))
	dec := deciderBy(r, nil, rand.New(rand.NewPCG(1, 2))).decide(world(aNode("n"), claim("c")), pending(aPod("p", mounts("c"))))
	if want := "0/1 nodes are available: 1 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)."; dec.why != want {
		t.Errorf("%s\nwant %s", dec.why, want)
	}
}

func TestRoomyVolumes(t *testing.T) {
	class := aClass("s")
	made := []any{class, aDriver(tellsCapacity), open("c", "s", "1Gi"), aNode("a", zone("a")), aNode("b", zone("b")), capacity("a", "s", "2Gi", "a"), capacity("b", "s", "10Gi", "b")}
	found := []any{class, open("c", "s", "1Gi"), aNode("a"), aNode("b"), disk("va", "s", "4Gi", "a"), disk("vb", "s", "1Gi", "b")}
	for _, tt := range []struct {
		name    string
		objects []any
		shape   func(*Profile)
		want    []float64 // of a and b
	}{
		{"room", made, nil, []float64{50, 90}},
		{"room, the other way", made, func(p *Profile) { p.Volumes.Shape[0].Score, p.Volumes.Shape[1].Score = 0, 10 }, []float64{50, 10}},
		{"volumes", found, nil, []float64{75, 0}},
		{"nobody tells", []any{class, open("c", "s", "1Gi"), aNode("a"), aNode("b")}, nil, []float64{0, 0}},
		{"one of them", []any{class, open("c", "s", "1Gi"), aNode("a"), aNode("b"), disk("va", "s", "4Gi", "a")}, nil, []float64{75, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := DefaultProfile()
			if tt.shape != nil {
				tt.shape(&p)
			}
			d, c := deciderBy(rulesOf(p), nil, nil), world(tt.objects...)
			w := pending(aPod("p", mounts("c")))
			out := make([]float64, 2)
			if ok := roomyVolumes(d.cycle(c, w, d.classes.of(w)), []*node{c.byName["a"], c.byName["b"]}, out); !ok || !slices.Equal(out, tt.want) {
				t.Errorf("%v %v, want %v", ok, out, tt.want)
			}
		})
	}
	d, c := newDecider(rand.New(rand.NewPCG(1, 2))), world(aNode("a"), claim("c"), volumeOn("pv-c", ""))
	w := pending(aPod("p", mounts("c")))
	if roomyVolumes(d.cycle(c, w, d.classes.of(w)), []*node{c.byName["a"]}, []float64{0}) {
		t.Error("it has a preference for a pod that needs no volume")
	}
}
