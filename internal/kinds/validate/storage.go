package validate

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// PersistentVolume judges a new volume.
func PersistentVolume(pv *corev1.PersistentVolume) field.ErrorList {
	e := meta(&pv.ObjectMeta, false, subdomain)
	e.persistentVolume(&pv.Spec)
	return e.list
}

// PersistentVolumeUpdate judges a changed one; where the data lies stays.
func PersistentVolumeUpdate(pv, old *corev1.PersistentVolume) field.ErrorList {
	e := metaUpdate(&pv.ObjectMeta, &old.ObjectMeta)
	e.persistentVolume(&pv.Spec)
	is, was := pv.Spec.PersistentVolumeSource.DeepCopy(), &old.Spec.PersistentVolumeSource
	if is.CSI != nil && was.CSI != nil {
		// Secrets for expansion may be added and changed at any time.
		is.CSI.ControllerExpandSecretRef, is.CSI.NodeExpandSecretRef = was.CSI.ControllerExpandSecretRef, was.CSI.NodeExpandSecretRef
	}
	if !same(is, was) {
		e.forbid(specPath.Child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation")
	}
	e.immutable(field.NewPath("volumeMode"), pv.Spec.VolumeMode, old.Spec.VolumeMode)
	if a := old.Spec.NodeAffinity; a != nil && !same(pv.Spec.NodeAffinity, a) {
		e.invalid(specPath.Child("nodeAffinity"), pv.Spec.NodeAffinity, "field is immutable, except for updating from beta label to GA")
	}
	return e.list
}

// PersistentVolumeStatusUpdate judges the metadata.
func PersistentVolumeStatusUpdate(pv, old *corev1.PersistentVolume) field.ErrorList {
	return metaUpdate(&pv.ObjectMeta, &old.ObjectMeta).list
}

func (e *errors) accessModes(modes []corev1.PersistentVolumeAccessMode) {
	p := specPath.Child("accessModes")
	alone, others := false, false
	for _, m := range modes {
		oneOf(e, p, m, corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOncePod)
		if m == corev1.ReadWriteOncePod {
			alone = true
		} else {
			others = true
		}
	}
	if alone && others {
		e.forbid(p, "may not use ReadWriteOncePod with other access modes")
	}
}

func (e *errors) persistentVolume(spec *corev1.PersistentVolumeSpec) {
	if len(spec.AccessModes) == 0 {
		e.required(specPath.Child("accessModes"))
	}
	e.accessModes(spec.AccessModes)
	capacity := specPath.Child("capacity")
	if len(spec.Capacity) == 0 {
		e.required(capacity)
	}
	if _, ok := spec.Capacity[corev1.ResourceStorage]; !ok || len(spec.Capacity) > 1 {
		e.add(field.NotSupported(capacity, resourceNames(spec.Capacity), []string{string(corev1.ResourceStorage)}))
	}
	for k, q := range spec.Capacity {
		if q.Sign() <= 0 {
			e.invalid(capacity.Key(string(k)), q.String(), notPositive)
		}
	}
	if spec.PersistentVolumeReclaimPolicy != "" {
		oneOf(e, specPath.Child("persistentVolumeReclaimPolicy"), spec.PersistentVolumeReclaimPolicy,
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)
	}
	if a := spec.NodeAffinity; a != nil {
		if a.Required == nil {
			e.add(field.Required(specPath.Child("nodeAffinity", "required"), "must specify required node constraints"))
		} else {
			e.nodeSelector(specPath.Child("nodeAffinity", "required"), a.Required)
		}
	}
	e.pvSource(spec)
	if h := spec.HostPath; h != nil && h.Path == "/" && spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		e.forbid(specPath.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'")
	}
	if n := spec.StorageClassName; n != "" {
		e.msgs(specPath.Child("storageClassName"), n, subdomain(n, false))
	}
	inPtr(e, specPath.Child("volumeMode"), spec.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
	if n := spec.VolumeAttributesClassName; n != nil {
		switch {
		case *n == "":
			e.add(field.Required(specPath.Child("volumeAttributesClassName"), "an empty string is disallowed"))
		default:
			e.msgs(specPath.Child("volumeAttributesClassName"), *n, subdomain(*n, false))
		}
		if spec.CSI == nil {
			e.add(field.Required(specPath.Child("csi"), "has to be specified when using volumeAttributesClassName"))
		}
	}
}

// resourceNames lists what is there, for a message.
func resourceNames(list corev1.ResourceList) string {
	if len(list) != 1 {
		return ""
	}
	for k := range list {
		return string(k)
	}
	return ""
}

// pvSource wants exactly one source, and in it what it cannot do without.
func (e *errors) pvSource(spec *corev1.PersistentVolumeSpec) {
	s, n := &spec.PersistentVolumeSource, 0
	one := func(name string, set bool, check func(*field.Path)) {
		if !set {
			return
		}
		if n++; n > 1 {
			e.forbid(specPath.Child(name), oneVolume)
			return
		}
		check(specPath.Child(name))
	}
	need := func(p *field.Path, pairs ...string) {
		for i := 0; i+1 < len(pairs); i += 2 {
			if pairs[i+1] == "" {
				e.required(p.Child(pairs[i]))
			}
		}
	}
	one("hostPath", s.HostPath != nil, func(p *field.Path) { e.hostPath(p, s.HostPath) })
	one("local", s.Local != nil, func(p *field.Path) {
		need(p, "path", s.Local.Path)
		e.noBacksteps(p.Child("path"), s.Local.Path)
		if spec.NodeAffinity == nil {
			e.add(field.Required(specPath.Child("nodeAffinity"), "Local volume requires node affinity"))
		}
	})
	one("nfs", s.NFS != nil, func(p *field.Path) {
		need(p, "server", s.NFS.Server, "path", s.NFS.Path)
		if !strings.HasPrefix(s.NFS.Path, "/") {
			e.invalid(p.Child("path"), s.NFS.Path, "must be an absolute path")
		}
	})
	one("csi", s.CSI != nil, func(p *field.Path) { e.csi(p, s.CSI) })
	one("iscsi", s.ISCSI != nil, func(p *field.Path) {
		need(p, "targetPortal", s.ISCSI.TargetPortal, "iqn", s.ISCSI.IQN)
		if s.ISCSI.Lun < 0 || s.ISCSI.Lun > 255 {
			e.invalid(p.Child("lun"), s.ISCSI.Lun, validation.InclusiveRangeError(0, 255))
		}
	})
	one("fc", s.FC != nil, func(p *field.Path) {
		if len(s.FC.TargetWWNs) == 0 && len(s.FC.WWIDs) == 0 {
			e.add(field.Required(p.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both"))
		}
	})
	one("gcePersistentDisk", s.GCEPersistentDisk != nil, func(p *field.Path) { need(p, "pdName", s.GCEPersistentDisk.PDName) })
	one("awsElasticBlockStore", s.AWSElasticBlockStore != nil, func(p *field.Path) { need(p, "volumeID", s.AWSElasticBlockStore.VolumeID) })
	one("glusterfs", s.Glusterfs != nil, func(p *field.Path) { need(p, "endpoints", s.Glusterfs.EndpointsName, "path", s.Glusterfs.Path) })
	one("rbd", s.RBD != nil, func(p *field.Path) {
		need(p, "monitors", strings.Join(s.RBD.CephMonitors, ","), "image", s.RBD.RBDImage)
	})
	one("cephfs", s.CephFS != nil, func(p *field.Path) { need(p, "monitors", strings.Join(s.CephFS.Monitors, ",")) })
	one("cinder", s.Cinder != nil, func(p *field.Path) { need(p, "volumeID", s.Cinder.VolumeID) })
	one("flocker", s.Flocker != nil, func(p *field.Path) { need(p, "datasetName", s.Flocker.DatasetName+s.Flocker.DatasetUUID) })
	one("flexVolume", s.FlexVolume != nil, func(p *field.Path) { need(p, "driver", s.FlexVolume.Driver) })
	one("azureFile", s.AzureFile != nil, func(p *field.Path) {
		need(p, "secretName", s.AzureFile.SecretName, "shareName", s.AzureFile.ShareName)
	})
	one("azureDisk", s.AzureDisk != nil, func(p *field.Path) { need(p, "diskName", s.AzureDisk.DiskName, "diskURI", s.AzureDisk.DataDiskURI) })
	one("vsphereVolume", s.VsphereVolume != nil, func(p *field.Path) { need(p, "volumePath", s.VsphereVolume.VolumePath) })
	one("quobyte", s.Quobyte != nil, func(p *field.Path) { need(p, "registry", s.Quobyte.Registry, "volume", s.Quobyte.Volume) })
	one("photonPersistentDisk", s.PhotonPersistentDisk != nil, func(p *field.Path) { need(p, "pdID", s.PhotonPersistentDisk.PdID) })
	one("portworxVolume", s.PortworxVolume != nil, func(p *field.Path) { need(p, "volumeID", s.PortworxVolume.VolumeID) })
	one("scaleIO", s.ScaleIO != nil, func(p *field.Path) {
		need(p, "gateway", s.ScaleIO.Gateway, "system", s.ScaleIO.System, "volumeName", s.ScaleIO.VolumeName)
	})
	one("storageos", s.StorageOS != nil, func(p *field.Path) { need(p, "volumeName", s.StorageOS.VolumeName) })
	if n == 0 {
		e.add(field.Required(specPath, "must specify a volume type"))
	}
}

func (e *errors) csi(p *field.Path, c *corev1.CSIPersistentVolumeSource) {
	const maxDriver = 63
	if c.Driver == "" {
		e.required(p.Child("driver"))
	}
	if len(c.Driver) > maxDriver {
		e.add(field.TooLong(p.Child("driver"), "", maxDriver))
	}
	e.msgs(p.Child("driver"), c.Driver, validation.IsDNS1123Subdomain(strings.ToLower(c.Driver)))
	if c.VolumeHandle == "" {
		e.required(p.Child("volumeHandle"))
	}
	for _, r := range []struct {
		name string
		ref  *corev1.SecretReference
	}{
		{"controllerPublishSecretRef", c.ControllerPublishSecretRef}, {"controllerExpandSecretRef", c.ControllerExpandSecretRef},
		{"nodePublishSecretRef", c.NodePublishSecretRef}, {"nodeExpandSecretRef", c.NodeExpandSecretRef},
		{"nodeStageSecretRef", c.NodeStageSecretRef},
	} {
		if r.ref != nil {
			e.name(p.Child(r.name, "name"), r.ref.Name, subdomain)
			e.name(p.Child(r.name, "namespace"), r.ref.Namespace, label)
		}
	}
}

// PersistentVolumeClaim judges a new claim.
func PersistentVolumeClaim(pvc *corev1.PersistentVolumeClaim) field.ErrorList {
	e := meta(&pvc.ObjectMeta, true, subdomain)
	e.claim(&pvc.Spec)
	return e.list
}

// PersistentVolumeClaimUpdate judges a changed claim: it can be bound, once,
// and grow.
func PersistentVolumeClaimUpdate(pvc, old *corev1.PersistentVolumeClaim) field.ErrorList {
	e := metaUpdate(&pvc.ObjectMeta, &old.ObjectMeta)
	e.claim(&pvc.Spec)
	is, was := pvc.Spec.DeepCopy(), old.Spec.DeepCopy()
	if was.VolumeName == "" {
		was.VolumeName = is.VolumeName
	}
	if was.StorageClassName == nil && is.StorageClassName != nil { // filled in later
		is.StorageClassName = nil
	}
	if old.Status.Phase == corev1.ClaimBound {
		if is.Resources.Requests != nil {
			is.Resources.Requests[corev1.ResourceStorage] = was.Resources.Requests[corev1.ResourceStorage]
		}
		is.VolumeAttributesClassName = was.VolumeAttributesClassName
	}
	if !same(is, was) {
		e.forbid(specPath, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n"+difference("spec", *is, *was))
	}
	size, before, held := pvc.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage], old.Status.Capacity[corev1.ResourceStorage]
	if size.Cmp(before) < 0 && size.Cmp(held) <= 0 {
		e.forbid(specPath.Child("resources", "requests", "storage"), "field can not be less than status.capacity")
	}
	e.immutable(field.NewPath("volumeMode"), pvc.Spec.VolumeMode, old.Spec.VolumeMode)
	return e.list
}

// PersistentVolumeClaimStatusUpdate judges what the claim got.
func PersistentVolumeClaimStatusUpdate(pvc, old *corev1.PersistentVolumeClaim) field.ErrorList {
	e := metaUpdate(&pvc.ObjectMeta, &old.ObjectMeta)
	for k, q := range pvc.Status.Capacity {
		if negative(q) {
			e.invalid(statusPath.Child("capacity").Key(string(k)), q.Value(), "must be a valid resource quantity")
		}
	}
	return e.list
}

func (e *errors) claim(spec *corev1.PersistentVolumeClaimSpec) {
	if len(spec.AccessModes) == 0 {
		e.add(field.Required(specPath.Child("accessModes"), "at least 1 access mode is required"))
	}
	e.accessModes(spec.AccessModes)
	if spec.Selector != nil {
		e.selector(specPath.Child("selector"), spec.Selector)
	}
	at := specPath.Child("resources").Key(string(corev1.ResourceStorage))
	if q, ok := spec.Resources.Requests[corev1.ResourceStorage]; !ok {
		e.required(at)
	} else if q.Sign() <= 0 {
		e.invalid(at, q.String(), notPositive)
	}
	if n := spec.StorageClassName; n != nil && *n != "" {
		e.msgs(specPath.Child("storageClassName"), *n, subdomain(*n, false))
	}
	if n := spec.VolumeAttributesClassName; n != nil && *n != "" {
		e.msgs(specPath.Child("volumeAttributesClassName"), *n, subdomain(*n, false))
	}
	inPtr(e, specPath.Child("volumeMode"), spec.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
	e.dataSource(spec)
}

func (e *errors) dataSource(spec *corev1.PersistentVolumeClaimSpec) {
	check := func(p *field.Path, group *string, kind, name string) {
		if name == "" {
			e.required(p.Child("name"))
		}
		if kind == "" {
			e.required(p.Child("kind"))
		}
		switch {
		case group != nil && *group != "":
			e.dnsSubdomain(p.Child("apiGroup"), *group)
		case kind != "PersistentVolumeClaim":
			e.invalid(p, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")
		}
	}
	src, ref := spec.DataSource, spec.DataSourceRef
	if src != nil {
		check(specPath.Child("dataSource"), src.APIGroup, src.Kind, src.Name)
	}
	if ref == nil {
		return
	}
	check(specPath.Child("dataSourceRef"), ref.APIGroup, ref.Kind, ref.Name)
	switch {
	case src == nil:
	case ref.Namespace != nil && *ref.Namespace != "":
		e.invalid(specPath, "dataSource", "may not be specified when dataSourceRef.namespace is specified")
	case !same(src.APIGroup, ref.APIGroup) || src.Kind != ref.Kind || src.Name != ref.Name:
		e.invalid(specPath, "dataSource", "must match dataSourceRef")
	}
	if ns := ref.Namespace; ns != nil && *ns != "" {
		e.msgs(specPath.Child("dataSourceRef", "namespace"), *ns, label(*ns, false))
	}
}
