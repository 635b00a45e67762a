package validate

import (
	"fmt"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	maxParameters      = 512
	maxParameterBytes  = 256 << 10
	maxAttachmentBytes = 256 << 10
	maxNodeID          = 256
	maxErrorMessage    = 1024
)

// StorageClass judges a new class.
func StorageClass(sc *storagev1.StorageClass) field.ErrorList {
	e := meta(&sc.ObjectMeta, false, subdomain)
	e.storageClass(sc)
	return e.list
}

// StorageClassUpdate judges a changed class: what volumes were made by stays.
func StorageClassUpdate(sc, old *storagev1.StorageClass) field.ErrorList {
	e := metaUpdate(&sc.ObjectMeta, &old.ObjectMeta)
	e.storageClass(sc)
	e.immutable(field.NewPath("parameters"), sc.Parameters, old.Parameters)
	e.immutable(field.NewPath("provisioner"), sc.Provisioner, old.Provisioner)
	e.immutable(field.NewPath("reclaimPolicy"), sc.ReclaimPolicy, old.ReclaimPolicy)
	e.immutable(field.NewPath("volumeBindingMode"), sc.VolumeBindingMode, old.VolumeBindingMode)
	return e.list
}

func (e *errors) storageClass(sc *storagev1.StorageClass) {
	e.provisioner(field.NewPath("provisioner"), sc.Provisioner)
	e.parameters(field.NewPath("parameters"), sc.Parameters)
	if r := sc.ReclaimPolicy; r != nil && *r != "" {
		oneOf(e, field.NewPath("reclaimPolicy"), *r, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)
	}
	if sc.VolumeBindingMode == nil {
		e.required(field.NewPath("volumeBindingMode"))
	}
	inPtr(e, field.NewPath("volumeBindingMode"), sc.VolumeBindingMode, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)
	e.topologies(field.NewPath("allowedTopologies"), sc.AllowedTopologies)
}

func (e *errors) provisioner(p *field.Path, name string) {
	if name == "" {
		e.required(p)
		return
	}
	e.qualifiedName(p, strings.ToLower(name))
}

func (e *errors) parameters(p *field.Path, params map[string]string) {
	if len(params) > maxParameters {
		e.add(field.TooLong(p, "", maxParameters))
		return
	}
	if _, ok := params[""]; ok {
		e.invalid(p, "", "field can not be empty.")
	}
	if size(params) > maxParameterBytes {
		e.add(field.TooLong(p, "", maxParameterBytes))
	}
}

// size of all keys and values.
func size(m map[string]string) int {
	n := 0
	for k, v := range m {
		n += len(k) + len(v)
	}
	return n
}

// topologies must be different ones. As upstream, a term that says nothing is
// the duplicate of nothing.
func (e *errors) topologies(p *field.Path, terms []corev1.TopologySelectorTerm) {
	seen := map[string]bool{"map[]": true}
	for i := range terms {
		at, keys := p.Index(i).Child("matchLabelExpressions"), map[string][]string{}
		for j, r := range terms[i].MatchLabelExpressions {
			at, values := at.Index(j), sets.New[string]()
			if len(r.Values) == 0 {
				e.required(at.Child("values"))
			}
			for k, v := range r.Values {
				if values.Has(v) {
					e.add(field.Duplicate(at.Child("values").Index(k), v))
				}
				values.Insert(v)
			}
			e.labelName(at.Child("key"), r.Key)
			if _, twice := keys[r.Key]; twice {
				e.add(field.Duplicate(at.Child("key"), r.Key))
			}
			keys[r.Key] = sets.List(values)
		}
		unique(e, seen, at, fmt.Sprintf("%q", keys), "")
	}
}

// VolumeAttachment judges a new attachment.
func VolumeAttachment(va *storagev1.VolumeAttachment) field.ErrorList {
	e := meta(&va.ObjectMeta, false, subdomain)
	e.attachment(va)
	return e.list
}

// VolumeAttachmentUpdate judges a changed attachment; its spec stays.
func VolumeAttachmentUpdate(va, old *storagev1.VolumeAttachment) field.ErrorList {
	e := metaUpdate(&va.ObjectMeta, &old.ObjectMeta)
	e.attachment(va)
	e.immutable(specPath, va.Spec, old.Spec)
	return e.list
}

func (e *errors) attachment(va *storagev1.VolumeAttachment) {
	spec, source := &va.Spec, specPath.Child("source")
	e.driverName(specPath.Child("attacher"), spec.Attacher)
	const either = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	switch inline, name := spec.Source.InlineVolumeSpec, spec.Source.PersistentVolumeName; {
	case inline == nil && name == nil:
		e.add(field.Required(source, either))
	case inline != nil && name != nil:
		e.forbid(source, either)
	case inline != nil:
		e.inlineVolume(source.Child("inlineVolumeSpec"), inline)
	case *name == "":
		e.add(field.Required(source.Child("persistentVolumeName"), "must specify non empty persistentVolumeName"))
	}
	if name := spec.Source.PersistentVolumeName; name != nil {
		e.msgs(source.Child("persistentVolumeName"), *name, subdomain(*name, false))
	}
	e.msgs(specPath.Child("nodeName"), spec.NodeName, subdomain(spec.NodeName, false))
	if size(va.Status.AttachmentMetadata) > maxAttachmentBytes {
		e.add(field.TooLong(statusPath.Child("attachmentMetadata"), "", maxAttachmentBytes))
	}
	e.volumeError(statusPath.Child("attachError"), va.Status.AttachError)
	e.volumeError(statusPath.Child("detachError"), va.Status.DetachError)
}

func (e *errors) volumeError(p *field.Path, v *storagev1.VolumeError) {
	if v == nil {
		return
	}
	if len(v.Message) > maxErrorMessage {
		e.add(field.TooLong(p.Child("message"), "", maxErrorMessage))
	}
	if c := v.ErrorCode; c != nil && *c < 0 {
		e.invalid(p.Child("errorCode"), *c, validation.InclusiveRangeError(0, math.MaxInt32))
	}
}

// CSIDriver judges a new driver.
func CSIDriver(d *storagev1.CSIDriver) field.ErrorList {
	e := meta(&d.ObjectMeta, false, subdomain)
	e.csiDriver(&d.Spec)
	return e.list
}

// CSIDriverUpdate judges a changed driver.
func CSIDriverUpdate(d, old *storagev1.CSIDriver) field.ErrorList {
	e := metaUpdate(&d.ObjectMeta, &old.ObjectMeta)
	e.csiDriver(&d.Spec)
	e.immutable(specPath.Child("attachedRequired"), d.Spec.AttachRequired, old.Spec.AttachRequired) // upstream's path
	e.immutable(specPath.Child("volumeLifecycleModes"), d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes)
	return e.list
}

func (e *errors) csiDriver(spec *storagev1.CSIDriverSpec) {
	for _, f := range []struct {
		name  string
		value *bool
	}{
		{"attachedRequired", spec.AttachRequired}, {"podInfoOnMount", spec.PodInfoOnMount}, {"storageCapacity", spec.StorageCapacity},
		{"seLinuxMount", spec.SELinuxMount}, {"preventPodSchedulingIfMissing", spec.PreventPodSchedulingIfMissing},
	} {
		if f.value == nil {
			e.required(specPath.Child(f.name))
		}
	}
	inPtr(e, specPath.Child("fsGroupPolicy"), spec.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy, storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy)
	e.tokenRequests(specPath.Child("tokenRequests"), spec.TokenRequests)
	for _, m := range spec.VolumeLifecycleModes {
		if m != storagev1.VolumeLifecyclePersistent && m != storagev1.VolumeLifecycleEphemeral {
			e.add(field.NotSupported(specPath.Child("volumeLifecycleModes"), m, []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral}))
		}
	}
	if s := spec.NodeAllocatableUpdatePeriodSeconds; s != nil && *s < 10 {
		e.invalid(specPath.Child("nodeAllocatableUpdatePeriodSeconds"), *s, "must be greater than or equal to 10 seconds")
	}
	if b := spec.ServiceAccountTokenInSecrets; b != nil && len(spec.TokenRequests) == 0 {
		e.invalid(specPath.Child("serviceAccountTokenInSecrets"), *b, "serviceAccountTokenInSecrets is set but no tokenRequests are specified")
	}
}

func (e *errors) tokenRequests(p *field.Path, list []storagev1.TokenRequest) {
	seen := map[string]bool{}
	for i, r := range list {
		if !unique(e, seen, p.Index(i).Child("audience"), r.Audience, r.Audience) || r.ExpirationSeconds == nil {
			continue
		}
		switch s := *r.ExpirationSeconds; {
		case s < 600:
			e.invalid(p.Index(i).Child("expirationSeconds"), s, "may not specify a duration less than 10 minutes")
		case s > 1<<32:
			e.invalid(p.Index(i).Child("expirationSeconds"), s, "may not specify a duration larger than 2^32 seconds")
		}
	}
}

// CSINode judges what a new node has of drivers.
func CSINode(n *storagev1.CSINode) field.ErrorList {
	e := meta(&n.ObjectMeta, false, subdomain)
	e.csiNode(&n.Spec)
	return e.list
}

// CSINodeUpdate judges a change: drivers come and go, only what they can take
// changes.
func CSINodeUpdate(n, old *storagev1.CSINode) field.ErrorList {
	e := metaUpdate(&n.ObjectMeta, &old.ObjectMeta)
	e.csiNode(&n.Spec)
	before := make(map[string]storagev1.CSINodeDriver, len(old.Spec.Drivers))
	for _, d := range old.Spec.Drivers {
		before[d.Name] = d
	}
	for _, d := range n.Spec.Drivers {
		if was, ok := before[d.Name]; ok {
			d.Allocatable, was.Allocatable = nil, nil
			e.immutable(specPath.Child("drivers"), d, was)
		}
	}
	return e.list
}

func (e *errors) csiNode(spec *storagev1.CSINodeSpec) {
	names := map[string]bool{}
	for i, d := range spec.Drivers {
		p := specPath.Child("drivers").Index(i)
		e.driverName(p.Child("name"), d.Name)
		e.need(p, "nodeID", d.NodeID)
		if len(d.NodeID) > maxNodeID {
			e.invalid(p.Child("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", maxNodeID))
		}
		if d.Allocatable != nil && d.Allocatable.Count != nil {
			e.notNegative(p.Child("allocatable", "count"), int64(*d.Allocatable.Count))
		}
		unique(e, names, p.Child("name"), d.Name, d.Name)
		keys := map[string]bool{}
		for _, k := range d.TopologyKeys {
			if k == "" {
				e.required(p)
			}
			unique(e, keys, p, k, k)
			e.qualifiedName(p, k)
		}
	}
}

// CSINodeStatusUpdate judges reports of health.
func CSINodeStatusUpdate(n, old *storagev1.CSINode) field.ErrorList {
	e := metaUpdate(&n.ObjectMeta, &old.ObjectMeta)
	names := map[string]bool{}
	for i, h := range n.Status.StorageHealth {
		p := statusPath.Child("storageHealth").Index(i)
		unique(e, names, p, h.Name, h.Name)
		e.driverName(p.Child("name"), h.Name)
		at := p.Child("healthConditions")
		if most := 16; len(h.HealthConditions) > most {
			e.add(field.TooMany(at, len(h.HealthConditions), most))
			continue
		}
		for j := range h.HealthConditions {
			e.storageHealth(at.Index(j), &h.HealthConditions[j])
		}
	}
	return e.list
}

func (e *errors) storageHealth(p *field.Path, c *storagev1.StorageHealthCondition) {
	const maxReason = 256
	oneOf(e, p.Child("status"), c.Status, storagev1.StorageUnreachable, storagev1.StorageDegraded)
	if at := p.Child("reason"); c.Reason == "" {
		e.required(at)
	} else {
		e.msgs(at, c.Reason, metavalidation.IsValidConditionReason(c.Reason))
		if len(c.Reason) > maxReason {
			e.add(field.TooLong(at, c.Reason, maxReason))
		}
	}
	if len(c.Message) > maxErrorMessage {
		e.add(field.TooLong(p.Child("message"), c.Message, maxErrorMessage))
	}
	inPtr(e, p.Child("accessMode"), c.AccessMode, corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOncePod)
	inPtr(e, p.Child("volumeMode"), c.VolumeMode, corev1.PersistentVolumeFilesystem, corev1.PersistentVolumeBlock)
}

// CSIStorageCapacity judges a new report.
func CSIStorageCapacity(c *storagev1.CSIStorageCapacity) field.ErrorList {
	e := meta(&c.ObjectMeta, true, subdomain)
	e.storageCapacity(c)
	return e.list
}

// CSIStorageCapacityUpdate judges a changed one; what it is about stays.
func CSIStorageCapacityUpdate(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
	e := metaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	e.storageCapacity(c)
	e.immutable(field.NewPath("nodeTopology"), c.NodeTopology, old.NodeTopology)
	e.immutable(field.NewPath("storageClassName"), c.StorageClassName, old.StorageClassName)
	return e.list
}

func (e *errors) storageCapacity(c *storagev1.CSIStorageCapacity) {
	e.selector(field.NewPath("nodeTopology"), c.NodeTopology)
	e.msgs(field.NewPath("storageClassName"), c.StorageClassName, subdomain(c.StorageClassName, false))
	if q := c.Capacity; q != nil && negative(*q) {
		e.invalid(field.NewPath("capacity"), q.String(), apivalidation.IsNegativeErrorMsg)
	}
}

// VolumeAttributesClass judges a new class.
func VolumeAttributesClass(c *storagev1.VolumeAttributesClass) field.ErrorList {
	e := meta(&c.ObjectMeta, false, subdomain)
	e.volumeAttributes(c)
	return e.list
}

// VolumeAttributesClassUpdate judges a changed one: only metadata changes.
func VolumeAttributesClassUpdate(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
	e := metaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	if c.DriverName != old.DriverName {
		e.forbid(field.NewPath("driverName"), "updates to driverName are forbidden.")
	}
	if !same(c.Parameters, old.Parameters) {
		e.forbid(field.NewPath("parameters"), "updates to parameters are forbidden.")
	}
	e.volumeAttributes(c)
	return e.list
}

func (e *errors) volumeAttributes(c *storagev1.VolumeAttributesClass) {
	e.provisioner(field.NewPath("driverName"), c.DriverName)
	e.parameters(field.NewPath("parameters"), c.Parameters)
	if len(c.Parameters) == 0 {
		e.add(field.Required(field.NewPath("parameters"), "must contain at least one key/value pair"))
	}
}
