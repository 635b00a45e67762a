package kinds

import (
	"iter"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds/defaults"
	"knarr.dev/knarr/internal/kinds/prepare"
	"knarr.dev/knarr/internal/kinds/validate"
	"knarr.dev/knarr/internal/kinds/warnings"
)

// The kinds of storage.k8s.io: how volumes come to be, and where they are.
var (
	StorageClass = &Kind{
		GVK: storagev1.SchemeGroupVersion.WithKind("StorageClass"), Resource: "storageclasses", Singular: "storageclass", ShortNames: []string{"sc"},
		Prefix: "storageclasses",
		New:    func() Object { return &storagev1.StorageClass{} }, NewList: func() runtime.Object { return &storagev1.StorageClassList{} },
		Default:       do(defaults.StorageClass),
		PrepareCreate: do(prepare.Create[*storagev1.StorageClass]), PrepareUpdate: doBoth(prepare.Keep[*storagev1.StorageClass]),
		Validate: check(validate.StorageClass), ValidateUpdate: checkBoth(validate.StorageClassUpdate),
		Warnings: warn(warnings.StorageClass),
		Columns:  storageClassColumns, ListColumns: storageClassListColumns,
	}
	VolumeAttachment = &Kind{
		GVK: storagev1.SchemeGroupVersion.WithKind("VolumeAttachment"), Resource: "volumeattachments", Singular: "volumeattachment",
		Prefix: "volumeattachments",
		New:    func() Object { return &storagev1.VolumeAttachment{} }, NewList: func() runtime.Object { return &storagev1.VolumeAttachmentList{} },
		Default:       do(defaults.VolumeAttachment),
		PrepareCreate: do(prepare.VolumeAttachmentCreate), PrepareUpdate: doBoth(prepare.VolumeAttachmentUpdate),
		Validate: check(validate.VolumeAttachment), ValidateUpdate: checkBoth(validate.VolumeAttachmentUpdate),
		Warnings:       warn(warnings.VolumeAttachment),
		Subresources:   map[string]Subresource{"status": status(prepare.VolumeAttachmentStatusUpdate, validate.VolumeAttachmentUpdate)},
		Columns:        volumeAttachmentColumns,
		RequireVersion: true,
	}
	CSIDriver = &Kind{
		GVK: storagev1.SchemeGroupVersion.WithKind("CSIDriver"), Resource: "csidrivers", Singular: "csidriver",
		Prefix: "csidrivers",
		New:    func() Object { return &storagev1.CSIDriver{} }, NewList: func() runtime.Object { return &storagev1.CSIDriverList{} },
		Default:       do(defaults.CSIDriver),
		PrepareCreate: do(prepare.Create[*storagev1.CSIDriver]), PrepareUpdate: doBoth(prepare.CSIDriverUpdate),
		Validate: check(validate.CSIDriver), ValidateUpdate: checkBoth(validate.CSIDriverUpdate),
		Warnings:       warn(warnings.CSIDriver),
		Columns:        csiDriverColumns,
		RequireVersion: true,
	}
	CSINode = &Kind{
		GVK: storagev1.SchemeGroupVersion.WithKind("CSINode"), Resource: "csinodes", Singular: "csinode",
		Prefix: "csinodes",
		New:    func() Object { return &storagev1.CSINode{} }, NewList: func() runtime.Object { return &storagev1.CSINodeList{} },
		PrepareCreate: do(prepare.CSINodeCreate), PrepareUpdate: doBoth(prepare.CSINodeUpdate),
		Validate: check(validate.CSINode), ValidateUpdate: checkBoth(validate.CSINodeUpdate),
		Warnings:       warn(warnings.CSINode),
		Subresources:   map[string]Subresource{"status": status(prepare.CSINodeStatusUpdate, validate.CSINodeStatusUpdate)},
		Columns:        csiNodeColumns,
		RequireVersion: true,
	}
	CSIStorageCapacity = &Kind{
		GVK: storagev1.SchemeGroupVersion.WithKind("CSIStorageCapacity"), Resource: "csistoragecapacities", Singular: "csistoragecapacity",
		Namespaced: true, Prefix: "csistoragecapacities",
		New: func() Object { return &storagev1.CSIStorageCapacity{} }, NewList: func() runtime.Object { return &storagev1.CSIStorageCapacityList{} },
		PrepareCreate: do(prepare.Create[*storagev1.CSIStorageCapacity]), PrepareUpdate: doBoth(prepare.Keep[*storagev1.CSIStorageCapacity]),
		Validate: check(validate.CSIStorageCapacity), ValidateUpdate: checkBoth(validate.CSIStorageCapacityUpdate),
		Warnings:       warn(warnings.CSIStorageCapacity),
		Columns:        csiStorageCapacityColumns,
		RequireVersion: true,
	}
	VolumeAttributesClass = &Kind{
		GVK: storagev1.SchemeGroupVersion.WithKind("VolumeAttributesClass"), Resource: "volumeattributesclasses", Singular: "volumeattributesclass", ShortNames: []string{"vac"},
		Prefix: "volumeattributesclasses",
		New:    func() Object { return &storagev1.VolumeAttributesClass{} }, NewList: func() runtime.Object { return &storagev1.VolumeAttributesClassList{} },
		PrepareCreate: do(prepare.Create[*storagev1.VolumeAttributesClass]), PrepareUpdate: doBoth(prepare.Keep[*storagev1.VolumeAttributesClass]),
		Validate: check(validate.VolumeAttributesClass), ValidateUpdate: checkBoth(validate.VolumeAttributesClassUpdate),
		Warnings: warn(warnings.VolumeAttributesClass),
		Columns:  volumeAttributesClassColumns,
	}
)

var storageKinds = []*Kind{
	StorageClass,
	VolumeAttachment,
	CSIDriver,
	CSINode,
	CSIStorageCapacity,
	VolumeAttributesClass,
}

var (
	storageClassColumns = []Column{
		nameColumn,
		cell("Provisioner", "string", "Who makes the volumes.", func(s *storagev1.StorageClass) any { return s.Provisioner }),
		cell("ReclaimPolicy", "string", "What happens to a volume that is released.", func(s *storagev1.StorageClass) any {
			return valueOr(s.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
		}),
		cell("VolumeBindingMode", "string", "When a volume is made.", func(s *storagev1.StorageClass) any {
			return valueOr(s.VolumeBindingMode, storagev1.VolumeBindingImmediate)
		}),
		cell("AllowVolumeExpansion", "string", "Whether volumes can grow.", func(s *storagev1.StorageClass) any { return isTrue(s.AllowVolumeExpansion) }),
		ageColumn,
	}
	volumeAttachmentColumns = []Column{
		nameColumn,
		cell("Attacher", "string", "Driver that attaches it.", func(a *storagev1.VolumeAttachment) any { return a.Spec.Attacher }),
		cell("PV", "string", "Volume.", func(a *storagev1.VolumeAttachment) any { return valueOr(a.Spec.Source.PersistentVolumeName, "") }),
		cell("Node", "string", "Node that it is attached to.", func(a *storagev1.VolumeAttachment) any { return a.Spec.NodeName }),
		cell("Attached", "boolean", "Whether it is attached.", func(a *storagev1.VolumeAttachment) any { return a.Status.Attached }),
		ageColumn,
	}
	csiDriverColumns = []Column{
		nameColumn,
		cell("AttachRequired", "boolean", "Whether volumes are attached before they are mounted.", func(d *storagev1.CSIDriver) any {
			return d.Spec.AttachRequired == nil || *d.Spec.AttachRequired
		}),
		cell("PodInfoOnMount", "boolean", "Whether it is told about the pod.", func(d *storagev1.CSIDriver) any { return isTrue(d.Spec.PodInfoOnMount) }),
		cell("StorageCapacity", "boolean", "Whether it reports what is free.", func(d *storagev1.CSIDriver) any { return isTrue(d.Spec.StorageCapacity) }),
		cell("TokenRequests", "string", "Audiences of the tokens that it gets.", func(d *storagev1.CSIDriver) any {
			if d.Spec.TokenRequests == nil {
				return unset
			}
			var list []string
			for _, r := range d.Spec.TokenRequests {
				list = append(list, r.Audience)
			}
			return strings.Join(list, ",")
		}),
		cell("RequiresRepublish", "boolean", "Whether it is called again for mounted volumes.", func(d *storagev1.CSIDriver) any { return isTrue(d.Spec.RequiresRepublish) }),
		cell("Modes", "string", "Kinds of volumes that it makes.", func(d *storagev1.CSIDriver) any {
			var list []string
			for _, m := range d.Spec.VolumeLifecycleModes {
				list = append(list, string(m))
			}
			return orNone(strings.Join(list, ","))
		}),
		ageColumn,
	}
	csiNodeColumns = []Column{
		nameColumn,
		cell("Drivers", "integer", "Number of drivers on the node.", func(n *storagev1.CSINode) any { return int64(len(n.Spec.Drivers)) }),
		ageColumn,
	}
	csiStorageCapacityColumns = []Column{
		nameColumn,
		cell("StorageClassName", "string", "Class that it is about.", func(c *storagev1.CSIStorageCapacity) any { return c.StorageClassName }),
		cell("Capacity", "string", "What is free.", func(c *storagev1.CSIStorageCapacity) any {
			if c.Capacity == nil {
				return unset
			}
			return c.Capacity.String()
		}),
	}
	volumeAttributesClassColumns = []Column{
		nameColumn,
		cell("DriverName", "string", "Driver that knows the parameters.", func(c *storagev1.VolumeAttributesClass) any { return c.DriverName }),
		ageColumn,
	}
)

func isTrue(b *bool) bool { return b != nil && *b }

func valueOr[T ~string](p *T, otherwise T) string {
	if p == nil {
		return string(otherwise)
	}
	return string(*p)
}

// storageClassListColumns mark the class that claims without one get: the
// youngest of those that are said to be the default.
func storageClassListColumns(list iter.Seq[Object]) []Column {
	var first Object
	for o := range list {
		if IsDefaultStorageClass(o) && (first == nil || before(o, first)) {
			first = o
		}
	}
	if first == nil {
		return storageClassColumns
	}
	marked := nameColumn
	marked.Value = func(o Object, _ metav1.Time) any {
		if o.GetName() == first.GetName() {
			return o.GetName() + " (default)"
		}
		return o.GetName()
	}
	return columns([]Column{marked}, storageClassColumns[1:])
}

// before: of two default classes, the first is the one that counts.
func before(x, y Object) bool {
	a, b := x.GetCreationTimestamp(), y.GetCreationTimestamp()
	return a.After(b.Time) || a.Equal(&b) && x.GetName() < y.GetName()
}

// IsDefaultStorageClass says whether a class is marked as the default by
// annotation, under its old name too.
func IsDefaultStorageClass(o Object) bool {
	a := o.GetAnnotations()
	return a["storageclass.kubernetes.io/is-default-class"] == "true" || a["storageclass.beta.kubernetes.io/is-default-class"] == "true"
}

// DefaultStorageClass is the one that claims get which ask for none; nil: there
// is none.
func DefaultStorageClass(list iter.Seq[*storagev1.StorageClass]) (class *storagev1.StorageClass) {
	for c := range list {
		if IsDefaultStorageClass(c) && (class == nil || before(c, class)) {
			class = c
		}
	}
	return class
}

// VolumeClass is the storage class that a volume is of, which may be none.
func VolumeClass(v *corev1.PersistentVolume) string {
	if class, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	return v.Spec.StorageClassName
}

// ClaimClass is the storage class that a claim asks for, which may be none; ok
// says whether it asks at all, or leaves the choice to others.
func ClaimClass(c *corev1.PersistentVolumeClaim) (class string, ok bool) {
	if class, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok { // how claims asked before they had a field
		return class, true
	}
	if c.Spec.StorageClassName == nil {
		return "", false
	}
	return *c.Spec.StorageClassName, true
}
