package volumebinder

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

func world() *reconciletest.World {
	ks := []*kinds.Kind{kinds.Pod, kinds.PersistentVolumeClaim, kinds.PersistentVolume, kinds.StorageClass}
	return reconciletest.New(ks, view.PodsByClaim, view.UnboundClaims, view.ClaimsByVolume, view.VolumesByClaim, view.FreeVolumes)
}

func drive(t *testing.T, w *reconciletest.World, seed uint64, horizon time.Duration) {
	t.Helper()
	w.View.ProgressAll(1 << 40)
	if _, err := w.Drive(seed, 2000, horizon, Claims(), Volumes()); err != nil {
		t.Fatal(err)
	}
}

func put(w *reconciletest.World, k *kinds.Kind, o kinds.Object) {
	o.SetResourceVersion("")
	o.SetUID("")
	w.Put(k, o)
}

func state(w *reconciletest.World) string {
	var out []string
	for _, o := range w.Objects(kinds.PersistentVolumeClaim) {
		c := o.(*corev1.PersistentVolumeClaim)
		out = append(out, fmt.Sprintf("%s %s %s", c.Name, c.Status.Phase, c.Spec.VolumeName))
	}
	for _, o := range w.Objects(kinds.PersistentVolume) {
		v := o.(*corev1.PersistentVolume)
		s := fmt.Sprintf("%s %s", v.Name, v.Status.Phase)
		if v.Spec.ClaimRef != nil {
			s += " " + v.Spec.ClaimRef.Name
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

// TestLife of a volume: found, bound, given back, emptied by hand, bound anew.
func TestLife(t *testing.T) {
	w := world()
	want := func(s string) {
		t.Helper()
		drive(t, w, 1, time.Second)
		if got := state(w); got != s {
			t.Fatalf("got  %s\nwant %s", got, s)
		}
	}
	put(w, kinds.PersistentVolumeClaim, claim())
	want("c Pending ")
	put(w, kinds.PersistentVolume, volume("v", "2Gi", in(corev1.VolumePending)))
	want("c Bound v, v Bound c")
	have := w.Object(kinds.PersistentVolume, "", "v").(*corev1.PersistentVolume)
	if c := w.Object(kinds.PersistentVolumeClaim, "a", "c"); have.Spec.ClaimRef.UID != c.GetUID() || !has(c, bindCompleted) || !has(c, boundByController) || !has(have, boundByController) {
		t.Errorf("volume %+v, claim %+v", have, c)
	}
	w.Remove(kinds.PersistentVolumeClaim, "a", "c")
	want("v Released c")
	put(w, kinds.PersistentVolumeClaim, claim())
	want("c Pending , v Released c")
	next := w.Object(kinds.PersistentVolume, "", "v").DeepCopyObject().(*corev1.PersistentVolume)
	next.Spec.ClaimRef = nil
	w.Put(kinds.PersistentVolume, next)
	want("c Bound v, v Bound c")
	w.Remove(kinds.PersistentVolume, "", "v")
	want("c Lost v")
}

// TestLater: a class that waits leaves the choice to the scheduler, and what it
// chose is completed.
func TestLater(t *testing.T) {
	w := world()
	w.Put(kinds.StorageClass, class("kubernetes.io/no-provisioner", storagev1.VolumeBindingWaitForFirstConsumer))
	put(w, kinds.PersistentVolumeClaim, claim(ofClassNamed("k")))
	put(w, kinds.PersistentVolume, volume("v", "2Gi", inClass("k")))
	put(w, kinds.PersistentVolume, volume("w", "9Gi", inClass("k")))
	drive(t, w, 1, time.Second)
	if got := state(w); got != "c Pending , v Available, w Available" {
		t.Fatal(got)
	}
	chosen := tie(w.Object(kinds.PersistentVolume, "", "w").(*corev1.PersistentVolume), w.Object(kinds.PersistentVolumeClaim, "a", "c").(*corev1.PersistentVolumeClaim))
	w.Put(kinds.PersistentVolume, chosen)
	drive(t, w, 1, time.Second)
	if got := state(w); got != "c Bound w, v Available, w Bound c" {
		t.Fatal(got)
	}
}

// TestDefaultClass: a claim gets a class that comes later, and waits for its
// provisioner, which makes a volume that names the claim.
func TestDefaultClass(t *testing.T) {
	w := world()
	put(w, kinds.PersistentVolumeClaim, claim())
	drive(t, w, 1, time.Second)
	k := class("example.com/p", storagev1.VolumeBindingImmediate)
	k.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
	w.Put(kinds.StorageClass, k)
	drive(t, w, 1, time.Second)
	c := w.Object(kinds.PersistentVolumeClaim, "a", "c").(*corev1.PersistentVolumeClaim)
	if c.Spec.StorageClassName == nil || *c.Spec.StorageClassName != "k" || c.Annotations[provisioner] != "example.com/p" {
		t.Fatalf("%+v", c)
	}
	made := volume("pvc-1", "2Gi", inClass("k"), by(provisionedBy, "example.com/p"), in(corev1.VolumePending), reclaimed(corev1.PersistentVolumeReclaimDelete))
	made.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "a", Name: "c", UID: c.UID}
	put(w, kinds.PersistentVolume, made)
	drive(t, w, 1, time.Second)
	if got := state(w); got != "c Bound pvc-1, pvc-1 Bound c" {
		t.Fatal(got)
	}
}

// TestProperties: whatever claims and volumes there are and in whatever order
// they are looked at, it comes to rest, nothing is bound twice, nothing fits
// that is left, and nobody else's object is touched.
func TestProperties(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 9))
		w := world()
		w.Put(kinds.StorageClass, class("kubernetes.io/no-provisioner", storagev1.VolumeBindingImmediate))
		for i := range 1 + rng.IntN(6) {
			c := claim()
			c.Name = fmt.Sprintf("c%d", i)
			c.Spec.Resources.Requests[corev1.ResourceStorage] = *resource.NewQuantity(int64(1+rng.IntN(4)), resource.DecimalSI)
			if rng.IntN(4) == 0 {
				ofClassNamed("k")(c)
			}
			if rng.IntN(5) == 0 {
				c.Spec.VolumeName = fmt.Sprintf("v%d", rng.IntN(7))
			}
			put(w, kinds.PersistentVolumeClaim, c)
		}
		for i := range 1 + rng.IntN(7) {
			v := volume(fmt.Sprintf("v%d", i), fmt.Sprint(1+rng.IntN(5)), in(corev1.VolumePending))
			if rng.IntN(4) == 0 {
				v.Spec.StorageClassName = "k"
			}
			if rng.IntN(5) == 0 {
				v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "a", Name: fmt.Sprintf("c%d", rng.IntN(7))}
			}
			put(w, kinds.PersistentVolume, v)
		}
		drive(t, w, seed, time.Minute)
		checkBindings(t, seed, w)
		writes := len(w.Writes)
		drive(t, w, seed+1, time.Minute)
		if len(w.Writes) != writes {
			t.Fatalf("seed %d: it does not rest: %v", seed, w.Writes[writes:])
		}
		if i := slices.IndexFunc(w.Writes, func(s string) bool { return !strings.HasPrefix(s, "update persistentvolume") }); i >= 0 {
			t.Fatalf("seed %d: %s", seed, w.Writes[i])
		}
		if n := len(w.Objects(kinds.PersistentVolumeClaim)) + len(w.Objects(kinds.PersistentVolume)); writes > 8*n {
			t.Errorf("seed %d: %d writes for %d objects", seed, writes, n)
		}
	}
}

func checkBindings(t *testing.T, seed uint64, w *reconciletest.World) {
	t.Helper()
	var free, open []string
	for _, o := range w.Objects(kinds.PersistentVolumeClaim) {
		c := o.(*corev1.PersistentVolumeClaim)
		if c.Status.Phase == corev1.ClaimPending {
			open = append(open, c.Name)
			for _, o := range w.Objects(kinds.PersistentVolume) {
				if v := o.(*corev1.PersistentVolume); c.Spec.VolumeName == "" && fits(v, c) {
					t.Errorf("seed %d: %s fits %s, which waits", seed, v.Name, c.Name)
				}
			}
			continue
		}
		v, _ := w.Object(kinds.PersistentVolume, "", c.Spec.VolumeName).(*corev1.PersistentVolume)
		if v == nil || v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != c.UID || v.Status.Phase != corev1.VolumeBound || c.Status.Phase != corev1.ClaimBound ||
			c.Status.Capacity.Storage().Cmp(*v.Spec.Capacity.Storage()) != 0 {
			t.Errorf("seed %d: claim %+v\nvolume %+v", seed, c, v)
		}
	}
	for _, o := range w.Objects(kinds.PersistentVolume) {
		if v := o.(*corev1.PersistentVolume); v.Status.Phase == corev1.VolumeAvailable {
			free = append(free, v.Name)
		} else if v.Status.Phase != corev1.VolumeBound {
			t.Errorf("seed %d: volume %s is %s; free %v, open %v", seed, v.Name, v.Status.Phase, free, open)
		}
	}
}

// Order of what was observed does not matter.
func TestOrder(t *testing.T) {
	list := volumes(volume("x", "9Gi"), volume("y", "3Gi"), volume("z", "3Gi"), volume("w", "3Gi", manyWriters))
	want := describe(t, Plan(Observed{Claim: claim(), Free: list}))
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 0))
		rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		before := slices.Clone(list)
		if got := describe(t, Plan(Observed{Claim: claim(), Free: list})); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
		if !slices.Equal(before, list) {
			t.Fatal("it changes what it was given")
		}
	}
}

// Who waits is told when a class or a pod comes.
func TestWakes(t *testing.T) {
	w := world()
	put(w, kinds.PersistentVolumeClaim, claim(ofClassNamed("k")))
	s := w.View.Snapshot()
	if keys := ofClass(s, view.Change{Kind: kinds.StorageClass, New: class("p", storagev1.VolumeBindingImmediate)}); len(keys) != 1 {
		t.Errorf("%v", keys)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{
		{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}, {}}}}
	if keys := ofPod(s, view.Change{Kind: kinds.Pod, New: pod}); len(keys) != 1 {
		t.Errorf("%v", keys)
	}
	if keys := ofPod(s, view.Change{Kind: kinds.Pod, Old: pod, New: pod}); len(keys) != 0 {
		t.Errorf("%v", keys)
	}
}
