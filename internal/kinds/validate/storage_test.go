package validate

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds/defaults"
)

type source = corev1.PersistentVolumeSource

func TestPersistentVolume(t *testing.T) {
	type volume = corev1.PersistentVolume
	good := func() *volume {
		return &volume{ObjectMeta: named("v", ""), Spec: corev1.PersistentVolumeSpec{
			Capacity: quantities("storage", "1Gi"), AccessModes: []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"},
			PersistentVolumeSource: source{HostPath: &corev1.HostPathVolumeSource{Path: "/x"}},
		}}
	}
	is := func(s source) func(*volume) { return func(v *volume) { v.Spec.PersistentVolumeSource = s } }
	creates(t, good, defaults.PersistentVolume, PersistentVolume, []change[*volume]{
		{"good", nil, nil},
		{"no capacity", func(v *volume) { v.Spec.Capacity = nil }, []string{"spec.capacity Required", "spec.capacity NotSupported"}},
		{"negative", func(v *volume) { v.Spec.Capacity = quantities("storage", "-1") },
			[]string{"spec.capacity[storage] Invalid: must be a valid resource quantity", "spec.capacity[storage] Invalid: must be greater than zero"}},
		{"modes", func(v *volume) { v.Spec.AccessModes = append(v.Spec.AccessModes, "ReadWriteOncePod", "Odd") },
			[]string{"spec.accessModes NotSupported", "spec.accessModes Forbidden: may not use ReadWriteOncePod with other access modes"}},
		{"no source", func(v *volume) { v.Spec.HostPath = nil }, []string{"spec Required: must specify a volume type"}},
		{"two", func(v *volume) { v.Spec.NFS = &corev1.NFSVolumeSource{} }, []string{"spec.nfs Forbidden: may not specify more than 1 volume type"}},
		{"recycled root", func(v *volume) { v.Spec.HostPath.Path, v.Spec.PersistentVolumeReclaimPolicy = "/./", "Recycle" },
			[]string{"spec.persistentVolumeReclaimPolicy Forbidden: may not be 'recycle' for a hostPath mount of '/'"}},
		{"mount options", func(v *volume) { v.Annotations = map[string]string{corev1.MountOptionAnnotation: "ro"} },
			[]string{"metadata.annotations.volume.beta.kubernetes.io/mount-options Forbidden: may not specify mount options for this volume type"}},
		{"attributes", func(v *volume) { v.Spec.VolumeAttributesClassName = ptr("") },
			[]string{"spec.volumeAttributesClassName Required: an empty string is disallowed", "spec.csi Required: has to be specified when using volumeAttributesClassName"}},
		{"local", is(source{Local: &corev1.LocalVolumeSource{Path: "/x/.."}}),
			[]string{"spec.nodeAffinity Required: Local volume requires node affinity", "spec.local.path Invalid: must not contain '..'"}},
		{"nfs", is(source{NFS: &corev1.NFSVolumeSource{Server: "s", Path: "x"}}), []string{"spec.nfs.path Invalid: must be an absolute path"}},
		{"csi", is(source{CSI: &corev1.CSIPersistentVolumeSource{Driver: strings.Repeat("d", 64), NodeExpandSecretRef: &corev1.SecretReference{}}}),
			[]string{"spec.csi.driver TooLong", "spec.csi.volumeHandle Required", "spec.csi.nodeExpandSecretRef.name Required", "spec.csi.nodeExpandSecretRef.namespace Required"}},
		{"disk", is(source{GCEPersistentDisk: &corev1.GCEPersistentDiskVolumeSource{Partition: -1}}),
			[]string{"spec.persistentDisk.pdName Required", "spec.persistentDisk.partition Invalid: must be between 1 and 255, inclusive"}},
		{"glusterfs", is(source{Glusterfs: &corev1.GlusterfsPersistentVolumeSource{EndpointsName: "e", EndpointsNamespace: ptr("")}}),
			[]string{"spec.glusterfs.path Required", "spec.glusterfs.endpointsNamespace Invalid: it must be a valid namespace name"}},
		{"flocker", is(source{Flocker: &corev1.FlockerVolumeSource{DatasetName: "a/b", DatasetUUID: "u"}}),
			[]string{"spec.flocker Invalid: datasetName and datasetUUID can not be specified simultaneously", "spec.flocker.datasetName Invalid: must not contain '/'"}},
		{"quobyte", is(source{Quobyte: &corev1.QuobyteVolumeSource{Registry: "a:1,b", Volume: "v"}}), []string{"spec.quobyte.registry Invalid: must be a host:port pair"}},
		{"iscsi", is(source{ISCSI: &corev1.ISCSIPersistentVolumeSource{TargetPortal: strings.Repeat("p", 63), IQN: "iqn.2016-04.test.com:disk", Lun: 256, SessionCHAPAuth: true, InitiatorName: ptr("x")}}),
			[]string{"spec.iscsi.lun Invalid", "spec.iscsi.secretRef Required", "spec.iscsi.targetportal Invalid: Total length", "spec.iscsi.initiatorname Invalid: must be valid format"}},
		{"iqn", is(source{ISCSI: &corev1.ISCSIPersistentVolumeSource{TargetPortal: "p", IQN: "naa.1"}}), []string{"spec.iscsi.iqn Invalid: must be valid format"}},
		{"fc", is(source{FC: &corev1.FCVolumeSource{TargetWWNs: []string{"w"}, WWIDs: []string{"w"}}}),
			[]string{"spec.fc.targetWWNs Invalid: targetWWNs and wwids can not be specified simultaneously", "spec.fc.lun Required: lun is required if targetWWNs is specified"}},
		{"flex", is(source{FlexVolume: &corev1.FlexPersistentVolumeSource{Driver: "d", Options: map[string]string{"kubernetes.io/x": ""}}}),
			[]string{"spec.flexVolume.options[kubernetes.io/x] Invalid: kubernetes.io and k8s.io namespaces are reserved"}},
		{"azure", is(source{AzureDisk: &corev1.AzureDiskVolumeSource{DiskName: "d", DataDiskURI: "x", Kind: ptr(corev1.AzureManagedDisk)}}), []string{"spec.azureDisk.diskURI NotSupported"}},
		{"azure file", is(source{AzureFile: &corev1.AzureFilePersistentVolumeSource{ShareName: "s", SecretNamespace: ptr("")}}),
			[]string{"spec.azureFile.secretName Required", "spec.azureFile.secretNamespace Required"}},
		{"storageos", is(source{StorageOS: &corev1.StorageOSPersistentVolumeSource{VolumeNamespace: "A"}}), []string{"spec.storageos.volumeName Required", "spec.storageos.volumeNamespace Invalid"}},
		{"cephfs", is(source{CephFS: &corev1.CephFSPersistentVolumeSource{}}), []string{"spec.cephfs.monitors Required"}},
		{"cinder", is(source{Cinder: &corev1.CinderPersistentVolumeSource{SecretRef: &corev1.SecretReference{Name: "s"}}}), []string{"spec.cinder.volumeID Required", "spec.cinder.secretRef.namespace Required"}},
	})
	near := func(key string) *corev1.VolumeNodeAffinity {
		return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: "In", Values: []string{"z"}}},
		}}}}
	}
	csi := func() *volume {
		v := good()
		v.Spec.PersistentVolumeSource = source{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: "h"}}
		v.Spec.NodeAffinity, v.Spec.VolumeAttributesClassName = near(corev1.LabelFailureDomainBetaZone), ptr("a")
		return v
	}
	const immutable = "spec.persistentvolumesource Forbidden: spec.persistentvolumesource is immutable after creation"
	updates(t, csi, defaults.PersistentVolume, PersistentVolumeUpdate, []change[*volume]{
		{"bound", func(v *volume) { v.Spec.ClaimRef = &corev1.ObjectReference{Name: "c", Namespace: "default"} }, nil},
		{"elsewhere", func(v *volume) { v.Spec.CSI.VolumeHandle = "i" }, []string{immutable}},
		{"secret", func(v *volume) {
			v.Spec.CSI.ControllerExpandSecretRef = &corev1.SecretReference{Name: "s", Namespace: "default"}
		}, nil},
		{"other secret", func(v *volume) {
			v.Spec.CSI.NodePublishSecretRef = &corev1.SecretReference{Name: "s", Namespace: "default"}
		}, []string{immutable}},
		{"new label", func(v *volume) { v.Spec.NodeAffinity = near(corev1.LabelTopologyZone) }, nil},
		{"other label", func(v *volume) { v.Spec.NodeAffinity = near(corev1.LabelTopologyRegion) }, []string{"nodeAffinity Invalid: field is immutable, except for updating from beta label to GA"}},
		{"no affinity", func(v *volume) { v.Spec.NodeAffinity = nil }, []string{"nodeAffinity Invalid"}},
		{"mode", func(v *volume) { v.Spec.VolumeMode = ptr(corev1.PersistentVolumeBlock) }, []string{"volumeMode Invalid: field is immutable"}},
		{"other attributes", func(v *volume) { v.Spec.VolumeAttributesClassName = ptr("b") }, nil},
		{"no attributes", func(v *volume) { v.Spec.VolumeAttributesClassName = nil }, []string{"spec.volumeAttributesClassName Forbidden: update from non-nil value to nil is forbidden"}},
	})
}

func TestPersistentVolumeClaim(t *testing.T) {
	type claim = corev1.PersistentVolumeClaim
	good := func() *claim {
		return &claim{ObjectMeta: named("c", "default"), Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"}, Resources: corev1.VolumeResourceRequirements{Requests: quantities("storage", "1Gi")},
		}}
	}
	creates(t, good, defaults.PersistentVolumeClaim, PersistentVolumeClaim, []change[*claim]{
		{"good", nil, nil},
		{"no size", func(c *claim) { c.Spec.Resources.Requests = nil }, []string{"spec.resources[storage] Required"}},
		{"no mode", func(c *claim) { c.Spec.AccessModes = nil }, []string{"spec.accessModes Required: at least 1 access mode is required"}},
		{"source", func(c *claim) { c.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "Pod", Name: "x"} },
			[]string{"spec.dataSource Invalid: must be 'PersistentVolumeClaim' when referencing the default apiGroup"}},
		{"two sources", func(c *claim) {
			c.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "x"}
			c.Spec.DataSourceRef = &corev1.TypedObjectReference{Kind: "PersistentVolumeClaim", Name: "y"}
		}, []string{"spec Invalid: must match dataSourceRef"}},
		{"elsewhere", func(c *claim) {
			c.Spec.DataSourceRef = &corev1.TypedObjectReference{Kind: "PersistentVolumeClaim", Name: "y", Namespace: ptr("other")}
		}, []string{"spec.dataSourceRef.namespace Forbidden: not supported by this version"}},
		{"classes", func(c *claim) { c.Spec.StorageClassName, c.Spec.VolumeAttributesClassName = ptr("A"), ptr("B") },
			[]string{"spec.storageClassName Invalid", "spec.volumeAttributesClassName Invalid"}},
	})
	bound := func() *claim {
		c := good()
		c.Status.Phase, c.Status.Capacity, c.Spec.VolumeName = corev1.ClaimBound, quantities("storage", "1Gi"), "v"
		c.Status.CurrentVolumeAttributesClassName, c.Spec.VolumeAttributesClassName = ptr("a"), ptr("a")
		return c
	}
	const immutable = "spec Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
	updates(t, bound, defaults.PersistentVolumeClaim, PersistentVolumeClaimUpdate, []change[*claim]{
		{"grow", func(c *claim) { c.Spec.Resources.Requests = quantities("storage", "2Gi") }, nil},
		{"shrink", func(c *claim) { c.Spec.Resources.Requests = quantities("storage", "1Mi") }, []string{"spec.resources.requests.storage Forbidden: field can not be less than status.capacity"}},
		{"other volume", func(c *claim) { c.Spec.VolumeName = "w" }, []string{immutable}},
		{"class", func(c *claim) { c.Spec.StorageClassName = ptr("s") }, nil},
		{"other attributes", func(c *claim) { c.Spec.VolumeAttributesClassName = ptr("b") }, nil},
		{"no attributes", func(c *claim) { c.Spec.VolumeAttributesClassName = nil }, []string{"spec.volumeAttributesClassName Forbidden: update to nil is forbidden"}},
		{"empty attributes", func(c *claim) { c.Spec.VolumeAttributesClassName = ptr("") }, []string{"spec.volumeAttributesClassName Forbidden: update to empty string is forbidden"}},
	})
	old := func() *claim {
		c := good()
		c.Annotations = map[string]string{corev1.BetaStorageClassAnnotation: "s"}
		return c
	}
	updates(t, old, defaults.PersistentVolumeClaim, PersistentVolumeClaimUpdate, []change[*claim]{
		{"grow before it is bound", func(c *claim) { c.Spec.Resources.Requests = quantities("storage", "2Gi") }, []string{immutable}},
		{"to the field", func(c *claim) { c.Annotations, c.Spec.StorageClassName = nil, ptr("s") }, nil},
		{"to another", func(c *claim) { c.Annotations, c.Spec.StorageClassName = nil, ptr("t") },
			[]string{"metadata.annotations.volume.beta.kubernetes.io/storage-class Invalid: field is immutable", immutable}},
		{"without", func(c *claim) { c.Annotations = nil }, []string{"metadata.annotations.volume.beta.kubernetes.io/storage-class Invalid: field is immutable"}},
	})
	updates(t, bound, defaults.PersistentVolumeClaim, PersistentVolumeClaimStatusUpdate, []change[*claim]{
		{"resizing", func(c *claim) {
			c.Status.AllocatedResources = quantities("storage", "2Gi", "a.example/x", "1")
			c.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{"storage": corev1.PersistentVolumeClaimNodeResizePending}
		}, nil},
		{"odd", func(c *claim) {
			c.Status.Capacity = quantities("storage", "-1")
			c.Status.AllocatedResources = quantities("cpu", "1", "storage", "-1")
			c.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{"storage": "Odd"}
		}, []string{"status.capacity[storage] Invalid: must be a valid resource quantity", "status.allocatedResources NotSupported", "status.allocatedResources[storage] Invalid", "status.allocatedResourceStatuses NotSupported"}},
	})
}

func TestStorageClass(t *testing.T) {
	type class = storagev1.StorageClass
	good := func() *class { return &class{ObjectMeta: named("s", ""), Provisioner: "A.example/p"} }
	term := func(pairs ...string) corev1.TopologySelectorTerm {
		var out corev1.TopologySelectorTerm
		for i := 0; i < len(pairs); i += 2 {
			out.MatchLabelExpressions = append(out.MatchLabelExpressions, corev1.TopologySelectorLabelRequirement{Key: pairs[i], Values: strings.Fields(pairs[i+1])})
		}
		return out
	}
	topologies := func(terms ...corev1.TopologySelectorTerm) func(*class) {
		return func(c *class) { c.AllowedTopologies = terms }
	}
	creates(t, good, defaults.StorageClass, StorageClass, []change[*class]{
		{"good", nil, nil},
		{"no provisioner", func(c *class) { c.Provisioner = "" }, []string{"provisioner Required"}},
		{"provisioner", func(c *class) { c.Provisioner = "a/b/c" }, []string{"provisioner Invalid"}},
		{"recycle", func(c *class) { c.ReclaimPolicy = ptr(corev1.PersistentVolumeReclaimRecycle) }, []string{`reclaimPolicy NotSupported: "Delete", "Retain"`}},
		{"binding", func(c *class) { c.VolumeBindingMode = ptr(storagev1.VolumeBindingMode("Late")) }, []string{`volumeBindingMode NotSupported: "Immediate", "WaitForFirstConsumer"`}},
		{"empty key", func(c *class) { c.Parameters = map[string]string{"": "x"} }, []string{"parameters Invalid: field can not be empty."}},
		{"long", func(c *class) { c.Parameters = map[string]string{"k": strings.Repeat("x", 256<<10)} }, []string{"parameters TooLong"}},
		{"terms", topologies(term("zone", "a b", "rack", "c"), term("zone", "a")), nil},
		{"same term", topologies(term("zone", "a b", "rack", "c"), term("rack", "c", "zone", "b a")), []string{"allowedTopologies[1].matchLabelExpressions Duplicate"}},
		{"values", topologies(term("zone", "a a", "zone", "", "a b", "c")), []string{"allowedTopologies[0].matchLabelExpressions[0].values[1] Duplicate",
			"allowedTopologies[0].matchLabelExpressions[1].values Required", "allowedTopologies[0].matchLabelExpressions[1].key Duplicate", "allowedTopologies[0].matchLabelExpressions[2].key Invalid"}},
	})
	updates(t, good, defaults.StorageClass, StorageClassUpdate, []change[*class]{
		{"expansion", func(c *class) { c.AllowVolumeExpansion = ptr(true) }, nil},
		{"all else", func(c *class) {
			c.Provisioner, c.Parameters, c.ReclaimPolicy, c.VolumeBindingMode = "b", map[string]string{"a": "b"}, ptr(corev1.PersistentVolumeReclaimRetain), ptr(storagev1.VolumeBindingWaitForFirstConsumer)
		}, []string{"parameters Invalid: field is immutable", "provisioner Invalid: field is immutable", "reclaimPolicy Invalid: field is immutable", "volumeBindingMode Invalid: field is immutable"}},
	})
	attributes := func() *storagev1.VolumeAttributesClass {
		return &storagev1.VolumeAttributesClass{ObjectMeta: named("a", ""), DriverName: "d", Parameters: map[string]string{"a": "b"}}
	}
	updates(t, attributes, nothing, VolumeAttributesClassUpdate, []change[*storagev1.VolumeAttributesClass]{
		{"good", nil, nil},
		{"driver", func(c *storagev1.VolumeAttributesClass) { c.DriverName = "e" }, []string{"driverName Forbidden: updates to driverName are forbidden."}},
		{"parameters", func(c *storagev1.VolumeAttributesClass) { c.Parameters = nil },
			[]string{"parameters Forbidden: updates to parameters are forbidden.", "parameters Required: must contain at least one key/value pair"}},
	})
}

func TestVolumeAttachment(t *testing.T) {
	type attachment = storagev1.VolumeAttachment
	good := func() *attachment {
		return &attachment{ObjectMeta: named("a", ""), Spec: storagev1.VolumeAttachmentSpec{Attacher: "d", NodeName: "n", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr("v")}}}
	}
	inline := func(spec *corev1.PersistentVolumeSpec) func(*attachment) {
		return func(a *attachment) { a.Spec.Source = storagev1.VolumeAttachmentSource{InlineVolumeSpec: spec} }
	}
	const at = "spec.source.inlineVolumeSpec."
	creates(t, good, defaults.VolumeAttachment, VolumeAttachment, []change[*attachment]{
		{"good", nil, nil},
		{"nothing", func(a *attachment) { a.Spec = storagev1.VolumeAttachmentSpec{} },
			[]string{"spec.attacher Required", "spec.source Required: must specify exactly one of inlineVolumeSpec and persistentVolumeName", "spec.nodeName Invalid"}},
		{"no name", func(a *attachment) { a.Spec.Source.PersistentVolumeName = ptr("") },
			[]string{"spec.source.persistentVolumeName Required: must specify non empty persistentVolumeName", "spec.source.persistentVolumeName Invalid"}},
		{"inline", inline(&corev1.PersistentVolumeSpec{AccessModes: []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"}, PersistentVolumeSource: source{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: "h"}}}), nil},
		{"inline, too much", inline(&corev1.PersistentVolumeSpec{Capacity: quantities("storage", "1"), ClaimRef: &corev1.ObjectReference{}, StorageClassName: "s", NodeAffinity: &corev1.VolumeNodeAffinity{},
			PersistentVolumeReclaimPolicy: "Delete", VolumeMode: ptr(corev1.PersistentVolumeBlock), PersistentVolumeSource: source{HostPath: &corev1.HostPathVolumeSource{Path: "/x"}}}),
			[]string{at + "capacity Forbidden: may not be specified in the context of inline volumes", at + "claimRef Forbidden", at + "storageClassName Forbidden", at + "nodeAffinity Forbidden",
				at + "persistentVolumeReclaimPolicy Forbidden: may only be Retain in the context of inline volumes", at + "volumeMode Forbidden: may not specify volumeMode other than Filesystem",
				at + "csi Required: has to be specified in the context of inline volumes", at + "accessModes Required"}},
	})
	updates(t, good, defaults.VolumeAttachment, VolumeAttachmentUpdate, []change[*attachment]{
		{"node", func(a *attachment) { a.Spec.NodeName = "m" }, []string{"spec Invalid: field is immutable"}},
		{"failed", func(a *attachment) {
			a.Status.AttachError = &storagev1.VolumeError{Message: strings.Repeat("x", 1025), ErrorCode: ptr(int32(-1))}
			a.Status.AttachmentMetadata = map[string]string{"k": strings.Repeat("x", 256<<10)}
		}, []string{"status.attachError.message TooLong", "status.attachError.errorCode Invalid: must be between 0 and 2147483647, inclusive", "status.attachmentMetadata TooLong"}},
	})
}

func TestCSI(t *testing.T) {
	type driver = storagev1.CSIDriver
	good := func() *driver { return &driver{ObjectMeta: named("d.example", "")} }
	creates(t, good, defaults.CSIDriver, CSIDriver, []change[*driver]{
		{"good", nil, nil},
		{"nothing", func(d *driver) { d.Spec = storagev1.CSIDriverSpec{} },
			[]string{"spec.attachedRequired Required", "spec.podInfoOnMount Required", "spec.storageCapacity Required", "spec.seLinuxMount Required", "spec.preventPodSchedulingIfMissing Required"}},
		{"odd", func(d *driver) {
			d.Spec.FSGroupPolicy, d.Spec.VolumeLifecycleModes = ptr(storagev1.FSGroupPolicy("Odd")), []storagev1.VolumeLifecycleMode{"Odd"}
			d.Spec.NodeAllocatableUpdatePeriodSeconds, d.Spec.ServiceAccountTokenInSecrets = ptr(int64(9)), ptr(true)
		}, []string{"spec.fsGroupPolicy NotSupported", `spec.volumeLifecycleModes NotSupported: "Persistent", "Ephemeral"`,
			"spec.nodeAllocatableUpdatePeriodSeconds Invalid: must be greater than or equal to 10 seconds", "spec.serviceAccountTokenInSecrets Invalid: serviceAccountTokenInSecrets is set but no tokenRequests are specified"}},
		{"tokens", func(d *driver) {
			d.Spec.TokenRequests = []storagev1.TokenRequest{{Audience: "a", ExpirationSeconds: ptr(int64(599))}, {Audience: "b", ExpirationSeconds: ptr(int64(1<<32 + 1))}, {Audience: "a"}}
		}, []string{"spec.tokenRequests[0].expirationSeconds Invalid: may not specify a duration less than 10 minutes",
			"spec.tokenRequests[1].expirationSeconds Invalid: may not specify a duration larger than 2^32 seconds", "spec.tokenRequests[2].audience Duplicate"}},
	})
	updates(t, good, defaults.CSIDriver, CSIDriverUpdate, []change[*driver]{
		{"tokens", func(d *driver) { d.Spec.TokenRequests = []storagev1.TokenRequest{{}} }, nil},
		{"attach", func(d *driver) {
			d.Spec.AttachRequired, d.Spec.VolumeLifecycleModes = ptr(false), []storagev1.VolumeLifecycleMode{"Ephemeral"}
		},
			[]string{"spec.attachedRequired Invalid: field is immutable", "spec.volumeLifecycleModes Invalid: field is immutable"}},
	})
	type node = storagev1.CSINode
	on := func() *node {
		return &node{ObjectMeta: named("n", ""), Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: "d.example", NodeID: "i", TopologyKeys: []string{"zone"}}}}}
	}
	creates(t, on, nothing, CSINode, []change[*node]{
		{"good", nil, nil},
		{"odd", func(n *node) {
			n.Spec.Drivers = append(n.Spec.Drivers, storagev1.CSINodeDriver{Name: "d.example", NodeID: strings.Repeat("x", 257), TopologyKeys: []string{"a", "a", ""}, Allocatable: &storagev1.VolumeNodeResources{Count: ptr(int32(-1))}})
		}, []string{"spec.drivers[1].name Duplicate", "spec.drivers[1].nodeID Invalid: must be 256 characters or less", "spec.drivers[1] Duplicate", "spec.drivers[1] Required", "spec.drivers[1] Invalid", "spec.drivers[1] Invalid",
			"spec.drivers[1].allocatable.count Invalid"}},
	})
	updates(t, on, nothing, CSINodeUpdate, []change[*node]{
		{"room", func(n *node) { n.Spec.Drivers[0].Allocatable = &storagev1.VolumeNodeResources{Count: ptr(int32(3))} }, nil},
		{"gone", func(n *node) { n.Spec.Drivers = nil }, nil},
		{"another", func(n *node) { n.Spec.Drivers[0].NodeID = "j" }, []string{"spec.drivers Invalid: field is immutable"}},
	})
	updates(t, on, nothing, CSINodeStatusUpdate, []change[*node]{
		{"health", func(n *node) {
			n.Status.StorageHealth = []storagev1.StorageHealth{{Name: "d", HealthConditions: []storagev1.StorageHealthCondition{{Status: "StorageDegraded", Reason: "Slow"}}}}
		}, nil},
		{"odd", func(n *node) {
			n.Status.StorageHealth = []storagev1.StorageHealth{{Name: "d", HealthConditions: []storagev1.StorageHealthCondition{{Status: "Odd", AccessMode: ptr(corev1.PersistentVolumeAccessMode("Odd"))}}}, {Name: "d"}}
		}, []string{"status.storageHealth[1] Duplicate", "status.storageHealth[0].healthConditions[0].status NotSupported", "status.storageHealth[0].healthConditions[0].reason Required", "status.storageHealth[0].healthConditions[0].accessMode NotSupported"}},
	})
	type capacity = storagev1.CSIStorageCapacity
	free := func() *capacity {
		return &capacity{ObjectMeta: named("c", "default"), StorageClassName: "s", Capacity: ptr(resource.MustParse("1Gi"))}
	}
	updates(t, free, nothing, CSIStorageCapacityUpdate, []change[*capacity]{
		{"less", func(c *capacity) { c.Capacity = nil }, nil},
		{"negative", func(c *capacity) { c.Capacity = ptr(resource.MustParse("-1")) }, []string{"capacity Invalid: must be greater than or equal to 0"}},
		{"other", func(c *capacity) { c.StorageClassName, c.NodeTopology = "t", &metav1.LabelSelector{} }, []string{"nodeTopology Invalid: field is immutable", "storageClassName Invalid: field is immutable"}},
	})
}
