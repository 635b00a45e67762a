package scheduler

import (
	"maps"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

// Annotations that scheduler, binder and provisioners tell each other with.
const (
	bindCompleted     = "pv.kubernetes.io/bind-completed"
	boundByController = "pv.kubernetes.io/bound-by-controller"
	selectedNode      = "volume.kubernetes.io/selected-node"
)

// noProvisioner is what a class says whose volumes are made by hand.
const noProvisioner = "kubernetes.io/no-provisioner"

// storage is what decisions look at of volumes. Claims and volumes are as they
// will be once the pods that are on their way have what was promised to them;
// of those that the API says something else of, that is in real.
type storage struct {
	claims      map[string]*corev1.PersistentVolumeClaim // by namespace/name
	volumes     map[string]*corev1.PersistentVolume
	realClaims  map[string]*corev1.PersistentVolumeClaim
	realVolumes map[string]*corev1.PersistentVolume
	byClass     map[string]map[string]bool // names of volumes

	storageClasses map[string]*storagev1.StorageClass
	drivers        map[string]*storagev1.CSIDriver
	csiNodes       map[string]*storagev1.CSINode
	capacities     map[string]map[string]*storagev1.CSIStorageCapacity // by class, and by namespace/name
	attachments    map[string]map[string]*storagev1.VolumeAttachment   // by node and name
	// Under what they stand there: another of the same name may say otherwise.
	capacityOf, attachedTo map[string]string
}

func newStorage() storage {
	return storage{
		claims: map[string]*corev1.PersistentVolumeClaim{}, volumes: map[string]*corev1.PersistentVolume{},
		realClaims: map[string]*corev1.PersistentVolumeClaim{}, realVolumes: map[string]*corev1.PersistentVolume{},
		byClass: map[string]map[string]bool{}, storageClasses: map[string]*storagev1.StorageClass{}, drivers: map[string]*storagev1.CSIDriver{},
		csiNodes: map[string]*storagev1.CSINode{}, capacities: map[string]map[string]*storagev1.CSIStorageCapacity{},
		attachments: map[string]map[string]*storagev1.VolumeAttachment{}, capacityOf: map[string]string{}, attachedTo: map[string]string{},
	}
}

// takeStorage follows an object that has to do with volumes, and returns what
// it may mean for pods that wait; nil: nothing. ok: it is of such a kind.
func (c *cluster) takeStorage(o kinds.Object, gone bool) (e *event, ok bool) {
	switch o := o.(type) {
	case *corev1.PersistentVolumeClaim:
		return c.setClaim(o, gone), true
	case *corev1.PersistentVolume:
		return c.setVolume(o, gone), true
	case *storagev1.StorageClass:
		old := c.storageClasses[o.Name]
		setOrDelete(c.storageClasses, o.Name, o, gone)
		if old == nil || gone || !apiequality.Semantic.DeepEqual(withoutMeta(old), withoutMeta(o)) {
			return &event{what: classChanged, name: o.Name}, true
		}
	case *storagev1.CSIDriver:
		old := c.drivers[o.Name]
		setOrDelete(c.drivers, o.Name, o, gone)
		if old == nil || gone || !apiequality.Semantic.DeepEqual(old.Spec, o.Spec) {
			return &event{what: driverChanged, name: o.Name}, true
		}
	case *storagev1.CSINode:
		old := c.csiNodes[o.Name]
		setOrDelete(c.csiNodes, o.Name, o, gone)
		if n := c.byName[o.Name]; n != nil && (old == nil || gone || !apiequality.Semantic.DeepEqual(old.Spec, o.Spec)) {
			return &event{what: csiNodeChanged, node: n, name: o.Name}, true
		}
	case *storagev1.CSIStorageCapacity:
		old := c.capacities[o.StorageClassName][keyOf(o)]
		refile(c.capacities, c.capacityOf, o.StorageClassName, keyOf(o), o, gone)
		if !gone && (old == nil || grew(old, o)) {
			return &event{what: capacityChanged, name: o.StorageClassName}, true
		}
	case *storagev1.VolumeAttachment:
		before := refile(c.attachments, c.attachedTo, o.Spec.NodeName, o.Name, o, gone)
		if n := c.byName[before]; n != nil && (gone || before != o.Spec.NodeName) {
			return &event{what: attachmentGone, node: n, name: o.Name}, true
		}
	default:
		return nil, false
	}
	return nil, true
}

func setOrDelete[T any](m map[string]T, key string, v T, gone bool) {
	if gone {
		delete(m, key)
	} else {
		m[key] = v
	}
}

func setOrDeleteIn[T any](m map[string]map[string]T, first, key string, v T, gone bool) {
	if m[first] == nil {
		m[first] = map[string]T{}
	}
	if setOrDelete(m[first], key, v, gone); len(m[first]) == 0 {
		delete(m, first)
	}
}

// refile puts an object under first, and takes it away from where it stood, which
// is returned.
func refile[T any](m map[string]map[string]T, at map[string]string, first, key string, v T, gone bool) (before string) {
	before, ok := at[key]
	if ok && (gone || before != first) {
		setOrDeleteIn(m, before, key, v, true)
	}
	if setOrDelete(at, key, first, gone); !gone {
		setOrDeleteIn(m, first, key, v, false)
	}
	return before
}

func withoutMeta(c *storagev1.StorageClass) *storagev1.StorageClass {
	out := *c
	out.TypeMeta, out.ObjectMeta = metav1.TypeMeta{}, metav1.ObjectMeta{}
	return &out
}

// grew reports whether a volume may find room that did not before.
func grew(old, now *storagev1.CSIStorageCapacity) bool {
	was, is := sizeLimit(old), sizeLimit(now)
	return is != nil && (was == nil || is.Cmp(*was) > 0 || !apiequality.Semantic.DeepEqual(old.NodeTopology, now.NodeTopology))
}

// sizeLimit is how large a volume may be; nil: nobody knows.
func sizeLimit(c *storagev1.CSIStorageCapacity) *resource.Quantity {
	if c.MaximumVolumeSize != nil {
		return c.MaximumVolumeSize
	}
	return c.Capacity
}

// older reports whether an object is an older state of another.
func older(o, than metav1.Object) bool {
	a, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	b, bad := strconv.ParseUint(than.GetResourceVersion(), 10, 64)
	return err == nil && bad == nil && a < b && o.GetUID() == than.GetUID()
}

// stale reports whether a change tells nothing new: what is known is newer, or
// is the same and something was promised on top of it.
func stale(o, known metav1.Object, promised bool) bool {
	return older(o, known) || promised && o.GetUID() == known.GetUID() && o.GetResourceVersion() != "" && o.GetResourceVersion() == known.GetResourceVersion()
}

func (c *cluster) setClaim(o *corev1.PersistentVolumeClaim, gone bool) *event {
	key := keyOf(o)
	known, promised := c.realClaim(key)
	if !gone && known != nil && stale(o, known, promised) {
		return nil
	}
	delete(c.realClaims, key)
	setOrDelete(c.claims, key, o, gone)
	return &event{what: claimChanged, name: key}
}

// realClaim is what the API says of a claim, and whether decisions see it
// otherwise.
func (s *storage) realClaim(key string) (o *corev1.PersistentVolumeClaim, promised bool) {
	if o, promised = s.realClaims[key]; promised {
		return o, true
	}
	return s.claims[key], false
}

func (s *storage) realVolume(name string) (o *corev1.PersistentVolume, promised bool) {
	if o, promised = s.realVolumes[name]; promised {
		return o, true
	}
	return s.volumes[name], false
}

func (c *cluster) setVolume(o *corev1.PersistentVolume, gone bool) *event {
	known, promised := c.realVolume(o.Name)
	if !gone && known != nil && stale(o, known, promised) {
		return nil
	}
	e := &event{what: volumeChanged, name: o.Name, oldVolume: c.volumes[o.Name]}
	if e.oldVolume != nil {
		setOrDeleteIn(c.byClass, classOfVolume(e.oldVolume), o.Name, true, true)
	}
	delete(c.realVolumes, o.Name)
	setOrDelete(c.volumes, o.Name, o, gone)
	if !gone {
		e.volume = o
		setOrDeleteIn(c.byClass, classOfVolume(o), o.Name, true, false)
	}
	return e
}

// written takes in what an own write has answered, before the view shows it, and
// returns what that may mean for pods that wait if the view's word of it will not
// tell; nil: it will.
func (c *cluster) written(o metav1.Object) *event {
	switch o := o.(type) {
	case *corev1.PersistentVolumeClaim:
		if known, _ := c.realClaim(keyOf(o)); known != nil && older(known, o) {
			c.setClaim(o, false)
		}
	case *corev1.PersistentVolume:
		if known, _ := c.realVolume(o.Name); known != nil && older(known, o) {
			c.setVolume(o, false)
		}
	case *resourcev1.ResourceClaim:
		known := c.deviceClaims[keyOf(o)]
		// One that was made is new to the view as long as its draft's promise counts.
		if known != nil && older(known, o) || known == nil && c.promises[draftUID(ownerOf(o))] != nil {
			return c.setDeviceClaim(o, false)
		}
	}
	return nil
}

// promiseVolume and promiseClaim make decisions see an object as it is going to
// be, until the API says something newer or it is taken back.
func (s *storage) promiseVolume(o *corev1.PersistentVolume) {
	s.realVolumes[o.Name], _ = s.realVolume(o.Name)
	s.volumes[o.Name] = o
}

func (s *storage) promiseClaim(o *corev1.PersistentVolumeClaim) {
	key := keyOf(o)
	s.realClaims[key], _ = s.realClaim(key)
	s.claims[key] = o
}

// takeBackVolume and takeBackClaim report whether the promise still stood.
func (s *storage) takeBackVolume(o *corev1.PersistentVolume) bool {
	if s.volumes[o.Name] != o {
		return false
	}
	s.volumes[o.Name] = s.realVolumes[o.Name]
	delete(s.realVolumes, o.Name)
	return true
}

func (s *storage) takeBackClaim(o *corev1.PersistentVolumeClaim) bool {
	key := keyOf(o)
	if s.claims[key] != o {
		return false
	}
	s.claims[key] = s.realClaims[key]
	delete(s.realClaims, key)
	return true
}

// classOfClaim is the storage class that a claim asks for; empty: none.
func classOfClaim(c *corev1.PersistentVolumeClaim) string {
	if class, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	if c.Spec.StorageClassName != nil {
		return *c.Spec.StorageClassName
	}
	return ""
}

func classOfVolume(v *corev1.PersistentVolume) string {
	if class, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	return v.Spec.StorageClassName
}

// isFor reports whether a volume is bound to a claim, or meant for it.
func isFor(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) bool {
	ref := v.Spec.ClaimRef
	return ref != nil && ref.Name == c.Name && ref.Namespace == c.Namespace && (ref.UID == "" || ref.UID == c.UID)
}

// isBound reports whether a claim has its volume.
func isBound(c *corev1.PersistentVolumeClaim) bool {
	_, completed := c.Annotations[bindCompleted]
	return c.Spec.VolumeName != "" && (completed || c.Status.Phase == corev1.ClaimBound)
}

// volumesOf a class, by name.
func (s *storage) volumesOf(class string) []string { return slices.Sorted(maps.Keys(s.byClass[class])) }
