package validate

import (
	"net"
	"path"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Names of iSCSI's initiators and targets.
var iscsiNames = map[string]*regexp.Regexp{
	"iqn": regexp.MustCompile(`iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`),
	"eui": regexp.MustCompile(`^eui.[[:alnum:]]{16}$`),
	"naa": regexp.MustCompile(`^naa.[[:alnum:]]{32}$`),
}

// mountOptions: only these sources take the annotation with mount options.
func mountOptions(s *corev1.PersistentVolumeSource) bool {
	return s.GCEPersistentDisk != nil || s.AWSElasticBlockStore != nil || s.Glusterfs != nil || s.NFS != nil || s.RBD != nil ||
		s.Quobyte != nil || s.ISCSI != nil || s.Cinder != nil || s.CephFS != nil || s.AzureFile != nil ||
		s.VsphereVolume != nil || s.AzureDisk != nil || s.PhotonPersistentDisk != nil
}

// need reports the fields of a source, in pairs of name and value, that are
// empty.
func (e *errors) need(p *field.Path, pairs ...string) {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			e.required(p.Child(pairs[i]))
		}
	}
}

// secretNames wants what is there to have a name, and a namespace.
func (e *errors) secretNames(p *field.Path, ref *corev1.SecretReference) {
	if ref != nil {
		e.need(p.Child("secretRef"), "name", ref.Name, "namespace", ref.Namespace)
	}
}

func (e *errors) partition(p *field.Path, n int32) {
	if n < 0 || n > 255 {
		e.invalid(p, n, validation.InclusiveRangeError(1, 255))
	}
}

// pvSource wants exactly one source, and in it what it cannot do without.
func (e *errors) pvSource(p *field.Path, spec *corev1.PersistentVolumeSpec, volume string) {
	s, n := &spec.PersistentVolumeSource, 0
	for _, source := range []struct {
		name  string
		set   bool
		check func(*field.Path)
	}{
		{"hostPath", s.HostPath != nil, func(p *field.Path) { e.hostPath(p, s.HostPath) }},
		{"gcePersistentDisk", s.GCEPersistentDisk != nil, func(*field.Path) {
			p := p.Child("persistentDisk") // upstream's path
			e.need(p, "pdName", s.GCEPersistentDisk.PDName)
			e.partition(p.Child("partition"), s.GCEPersistentDisk.Partition)
		}},
		{"awsElasticBlockStore", s.AWSElasticBlockStore != nil, func(p *field.Path) {
			e.need(p, "volumeID", s.AWSElasticBlockStore.VolumeID)
			e.partition(p.Child("partition"), s.AWSElasticBlockStore.Partition)
		}},
		{"glusterfs", s.Glusterfs != nil, func(p *field.Path) { e.glusterfs(p, s.Glusterfs) }},
		{"flocker", s.Flocker != nil, func(p *field.Path) { e.flocker(p, s.Flocker) }},
		{"nfs", s.NFS != nil, func(p *field.Path) {
			e.need(p, "server", s.NFS.Server, "path", s.NFS.Path)
			if !path.IsAbs(s.NFS.Path) {
				e.invalid(p.Child("path"), s.NFS.Path, "must be an absolute path")
			}
		}},
		{"rbd", s.RBD != nil, func(p *field.Path) {
			e.monitors(p, s.RBD.CephMonitors)
			e.need(p, "image", s.RBD.RBDImage)
		}},
		{"quobyte", s.Quobyte != nil, func(p *field.Path) { e.quobyte(p, s.Quobyte) }},
		{"cephfs", s.CephFS != nil, func(p *field.Path) { e.monitors(p, s.CephFS.Monitors) }},
		{"iscsi", s.ISCSI != nil, func(p *field.Path) { e.iscsi(p, s.ISCSI, volume) }},
		{"cinder", s.Cinder != nil, func(p *field.Path) {
			e.need(p, "volumeID", s.Cinder.VolumeID)
			e.secretNames(p, s.Cinder.SecretRef)
		}},
		{"fc", s.FC != nil, func(p *field.Path) { e.fibreChannel(p, s.FC) }},
		{"flexVolume", s.FlexVolume != nil, func(p *field.Path) { e.flexVolume(p, s.FlexVolume) }},
		{"azureFile", s.AzureFile != nil, func(p *field.Path) {
			e.need(p, "secretName", s.AzureFile.SecretName, "shareName", s.AzureFile.ShareName)
			if ns := s.AzureFile.SecretNamespace; ns != nil && *ns == "" {
				e.required(p.Child("secretNamespace"))
			}
		}},
		{"vsphereVolume", s.VsphereVolume != nil, func(p *field.Path) { e.need(p, "volumePath", s.VsphereVolume.VolumePath) }},
		{"photonPersistentDisk", s.PhotonPersistentDisk != nil, func(p *field.Path) { e.need(p, "pdID", s.PhotonPersistentDisk.PdID) }},
		{"portworxVolume", s.PortworxVolume != nil, func(p *field.Path) { e.need(p, "volumeID", s.PortworxVolume.VolumeID) }},
		{"azureDisk", s.AzureDisk != nil, func(p *field.Path) { e.azureDisk(p, s.AzureDisk) }},
		{"scaleIO", s.ScaleIO != nil, func(p *field.Path) {
			e.need(p, "gateway", s.ScaleIO.Gateway, "system", s.ScaleIO.System, "volumeName", s.ScaleIO.VolumeName)
		}},
		{"local", s.Local != nil, func(p *field.Path) {
			e.need(p, "path", s.Local.Path)
			e.noBacksteps(p.Child("path"), s.Local.Path)
			if spec.NodeAffinity == nil {
				e.add(field.Required(specPath.Child("nodeAffinity"), "Local volume requires node affinity"))
			}
		}},
		{"storageos", s.StorageOS != nil, func(p *field.Path) { e.storageOS(p, s.StorageOS) }},
		{"csi", s.CSI != nil, func(p *field.Path) { e.csi(p, s.CSI) }},
	} {
		if !source.set {
			continue
		}
		if n++; n > 1 && source.name != "flexVolume" {
			e.forbid(p.Child(source.name), oneVolume)
			continue
		}
		source.check(p.Child(source.name))
	}
	if n == 0 {
		e.add(field.Required(p, "must specify a volume type"))
	}
}

func (e *errors) monitors(p *field.Path, list []string) {
	if len(list) == 0 {
		e.required(p.Child("monitors"))
	}
}

func (e *errors) glusterfs(p *field.Path, g *corev1.GlusterfsPersistentVolumeSource) {
	e.need(p, "endpoints", g.EndpointsName, "path", g.Path)
	at := p.Child("endpointsNamespace")
	switch ns := g.EndpointsNamespace; {
	case ns == nil:
	case *ns == "":
		e.invalid(at, *ns, "if the endpointnamespace is set, it must be a valid namespace name")
	default:
		e.msgs(at, *ns, label(*ns, false))
	}
}

func (e *errors) flocker(p *field.Path, f *corev1.FlockerVolumeSource) {
	switch {
	case f.DatasetName == "" && f.DatasetUUID == "":
		e.add(field.Required(p, "one of datasetName and datasetUUID is required"))
	case f.DatasetName != "" && f.DatasetUUID != "":
		e.invalid(p, "resource", "datasetName and datasetUUID can not be specified simultaneously")
	}
	if strings.Contains(f.DatasetName, "/") {
		e.invalid(p.Child("datasetName"), f.DatasetName, "must not contain '/'")
	}
}

func (e *errors) quobyte(p *field.Path, q *corev1.QuobyteVolumeSource) {
	const pairs = "must be a host:port pair or multiple pairs separated by commas"
	switch {
	case q.Registry == "":
		e.add(field.Required(p.Child("registry"), pairs))
	case len(q.Tenant) > 64:
		e.add(field.Required(p.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters"))
	default:
		for pair := range strings.SplitSeq(q.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				e.invalid(p.Child("registry"), q.Registry, pairs)
			}
		}
	}
	e.need(p, "volume", q.Volume)
}

func (e *errors) iscsi(p *field.Path, s *corev1.ISCSIPersistentVolumeSource, volume string) {
	name := func(p *field.Path, value string) {
		rule := iscsiNames[value[:min(len(value), 3)]]
		if rule == nil || !rule.MatchString(value) {
			e.invalid(p, value, "must be valid format")
		}
	}
	e.need(p, "targetPortal", s.TargetPortal, "iqn", s.IQN)
	if s.IQN != "" {
		name(p.Child("iqn"), s.IQN)
	}
	if s.Lun < 0 || s.Lun > 255 {
		e.invalid(p.Child("lun"), s.Lun, validation.InclusiveRangeError(0, 255))
	}
	switch {
	case s.SecretRef != nil:
		e.need(p.Child("secretRef"), "name", s.SecretRef.Name)
	case s.DiscoveryCHAPAuth || s.SessionCHAPAuth:
		e.required(p.Child("secretRef"))
	}
	if s.InitiatorName == nil {
		return
	}
	if len(volume)+len(":")+len(s.TargetPortal) > 64 {
		e.invalid(p.Child("targetportal"), s.TargetPortal, "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.")
	}
	name(p.Child("initiatorname"), *s.InitiatorName)
}

func (e *errors) fibreChannel(p *field.Path, f *corev1.FCVolumeSource) {
	switch {
	case len(f.TargetWWNs) == 0 && len(f.WWIDs) == 0:
		e.add(field.Required(p.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both"))
	case len(f.TargetWWNs) != 0 && len(f.WWIDs) != 0:
		e.invalid(p.Child("targetWWNs"), f.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously")
	}
	switch {
	case len(f.TargetWWNs) == 0:
	case f.Lun == nil:
		e.add(field.Required(p.Child("lun"), "lun is required if targetWWNs is specified"))
	case *f.Lun < 0 || *f.Lun > 255:
		e.invalid(p.Child("lun"), f.Lun, validation.InclusiveRangeError(0, 255))
	}
}

func (e *errors) flexVolume(p *field.Path, f *corev1.FlexPersistentVolumeSource) {
	e.need(p, "driver", f.Driver)
	for k := range f.Options {
		domain, _, _ := strings.Cut(k, "/")
		if domain = "." + strings.ToLower(domain); strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io") {
			e.invalid(p.Child("options").Key(k), k, "kubernetes.io and k8s.io namespaces are reserved")
		}
	}
}

func (e *errors) azureDisk(p *field.Path, a *corev1.AzureDiskVolumeSource) {
	e.need(p, "diskName", a.DiskName, "diskURI", a.DataDiskURI)
	inPtr(e, p.Child("cachingMode"), a.CachingMode, corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)
	inPtr(e, p.Child("kind"), a.Kind, corev1.AzureSharedBlobDisk, corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk)
	switch managed := a.Kind != nil && *a.Kind == corev1.AzureManagedDisk; {
	case a.Kind == nil:
	case managed && !strings.HasPrefix(a.DataDiskURI, "/subscriptions/"):
		e.add(field.NotSupported(p.Child("diskURI"), a.DataDiskURI, []string{"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"}))
	case !managed && !strings.HasPrefix(a.DataDiskURI, "https://"):
		e.add(field.NotSupported(p.Child("diskURI"), a.DataDiskURI, []string{"https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"}))
	}
}

func (e *errors) storageOS(p *field.Path, s *corev1.StorageOSPersistentVolumeSource) {
	e.name(p.Child("volumeName"), s.VolumeName, label)
	if s.VolumeNamespace != "" {
		e.dnsLabel(p.Child("volumeNamespace"), s.VolumeNamespace)
	}
	if s.SecretRef != nil {
		e.need(p.Child("secretRef"), "name", s.SecretRef.Name, "namespace", s.SecretRef.Namespace)
	}
}

// driverName is how a CSI driver is called.
func (e *errors) driverName(p *field.Path, name string) {
	const most = 63
	if name == "" {
		e.required(p)
		return
	}
	if len(name) > most {
		e.add(field.TooLong(p, "", most))
	}
	e.msgs(p, name, validation.IsDNS1123Subdomain(strings.ToLower(name)))
}

func (e *errors) csi(p *field.Path, c *corev1.CSIPersistentVolumeSource) {
	e.driverName(p.Child("driver"), c.Driver)
	e.need(p, "volumeHandle", c.VolumeHandle)
	for _, r := range []struct {
		name string
		ref  *corev1.SecretReference
	}{
		{"controllerPublishSecretRef", c.ControllerPublishSecretRef}, {"controllerExpandSecretRef", c.ControllerExpandSecretRef},
		{"nodePublishSecretRef", c.NodePublishSecretRef}, {"nodeExpandSecretRef", c.NodeExpandSecretRef},
	} {
		if r.ref != nil {
			e.name(p.Child(r.name, "name"), r.ref.Name, subdomain)
			e.name(p.Child(r.name, "namespace"), r.ref.Namespace, label)
		}
	}
}
