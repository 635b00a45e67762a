package validate

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const oneVolume = "may not specify more than 1 volume type"

// volumeSources are the sources that knarr mounts, with their rules. All
// others are refused as a whole, see unsupported.go.
var volumeSources = []struct {
	name  string
	set   func(*corev1.VolumeSource) bool
	check func(*podScope, *field.Path, *corev1.VolumeSource)
}{
	{"emptyDir", func(v *corev1.VolumeSource) bool { return v.EmptyDir != nil }, (*podScope).emptyDir},
	{"hostPath", func(v *corev1.VolumeSource) bool { return v.HostPath != nil }, func(s *podScope, p *field.Path, v *corev1.VolumeSource) {
		s.hostPath(p, v.HostPath)
	}},
	{"secret", func(v *corev1.VolumeSource) bool { return v.Secret != nil }, func(s *podScope, p *field.Path, v *corev1.VolumeSource) {
		if v.Secret.SecretName == "" {
			s.required(p.Child("secretName"))
		}
		s.mode(p.Child("defaultMode"), v.Secret.DefaultMode)
		s.keys(p.Child("items"), v.Secret.Items)
	}},
	{"downwardAPI", func(v *corev1.VolumeSource) bool { return v.DownwardAPI != nil }, func(s *podScope, p *field.Path, v *corev1.VolumeSource) {
		s.mode(p.Child("defaultMode"), v.DownwardAPI.DefaultMode)
		for i := range v.DownwardAPI.Items {
			s.downwardFile(p, &v.DownwardAPI.Items[i])
		}
	}},
	{"configMap", func(v *corev1.VolumeSource) bool { return v.ConfigMap != nil }, func(s *podScope, p *field.Path, v *corev1.VolumeSource) {
		if v.ConfigMap.Name == "" {
			s.required(p.Child("name"))
		}
		s.mode(p.Child("defaultMode"), v.ConfigMap.DefaultMode)
		s.keys(p.Child("items"), v.ConfigMap.Items)
	}},
	{"projected", func(v *corev1.VolumeSource) bool { return v.Projected != nil }, (*podScope).projected},
	{"persistentVolumeClaim", func(v *corev1.VolumeSource) bool { return v.PersistentVolumeClaim != nil }, func(s *podScope, p *field.Path, v *corev1.VolumeSource) {
		if v.PersistentVolumeClaim.ClaimName == "" {
			s.required(p.Child("claimName"))
		}
	}},
	{"image", func(v *corev1.VolumeSource) bool { return v.Image != nil }, func(s *podScope, p *field.Path, v *corev1.VolumeSource) {
		if v.Image.Reference == "" {
			s.required(p.Child("reference"))
		}
		s.pullPolicy(p.Child("pullPolicy"), v.Image.PullPolicy)
	}},
	{"ephemeral", func(v *corev1.VolumeSource) bool { return v.Ephemeral != nil }, func(s *podScope, p *field.Path, v *corev1.VolumeSource) {
		s.claimTemplate(p.Child("volumeClaimTemplate"), v.Ephemeral.VolumeClaimTemplate)
	}},
}

// volumeList fills s.volumes with the volumes that containers may mount.
func (s *podScope) volumeList(p *field.Path) {
	s.volumes = make(map[string]*corev1.VolumeSource, len(s.spec.Volumes))
	names := make(map[string]bool, len(s.spec.Volumes))
	for i := range s.spec.Volumes {
		v, at := &s.spec.Volumes[i], p.Index(i)
		before := len(s.list)
		s.volumeSource(at, &v.VolumeSource)
		if v.Ephemeral != nil {
			s.madeClaim(at.Child("name"), v.Name)
		}
		if v.Name == "" {
			s.required(at.Child("name"))
		} else {
			s.dnsLabel(at.Child("name"), v.Name)
		}
		unique(s.errors, names, at.Child("name"), v.Name, v.Name)
		if len(s.list) == before {
			s.volumes[v.Name] = &v.VolumeSource
		}
		if c := v.PersistentVolumeClaim; c != nil && s.makes(c.ClaimName) {
			s.invalid(at.Child("persistentVolumeClaim", "claimName"), c.ClaimName, "must not reference a PVC that gets created for an ephemeral volume")
		}
	}
}

func (s *podScope) volumeSource(p *field.Path, v *corev1.VolumeSource) {
	n := 0
	for _, source := range volumeSources {
		if !source.set(v) {
			continue
		}
		if n++; n > 1 {
			s.forbid(p.Child(source.name), oneVolume)
			continue
		}
		source.check(s, p.Child(source.name), v)
	}
	if name := unsupportedVolume(v); name != "" {
		if n++; n > 1 {
			s.forbid(p.Child(name), oneVolume)
		} else {
			s.forbid(p.Child(name), unsupportedVolumeDetail(name))
		}
	}
	if n == 0 {
		s.add(field.Required(p, "must specify a volume type"))
	}
}

func (s *podScope) emptyDir(p *field.Path, v *corev1.VolumeSource) {
	if q := v.EmptyDir.SizeLimit; q != nil && negative(*q) {
		s.forbid(p.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")
	}
}

func (e *errors) hostPath(p *field.Path, h *corev1.HostPathVolumeSource) {
	if h.Path == "" {
		e.required(p.Child("path"))
		return
	}
	e.noBacksteps(p.Child("path"), h.Path)
	inPtr(e, p.Child("type"), h.Type,
		corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory, corev1.HostPathFileOrCreate,
		corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev)
}

func (s *podScope) keys(p *field.Path, items []corev1.KeyToPath) {
	for i := range items {
		it, at := &items[i], p.Index(i)
		if it.Key == "" {
			s.required(at.Child("key"))
		}
		if it.Path == "" {
			s.required(at.Child("path"))
		}
		s.projectedPath(at.Child("path"), it.Path)
		s.mode(at.Child("mode"), it.Mode)
	}
}

func (s *podScope) downwardFile(p *field.Path, f *corev1.DownwardAPIVolumeFile) {
	if f.Path == "" {
		s.required(p.Child("path"))
	}
	s.projectedPath(p.Child("path"), f.Path)
	switch {
	case f.FieldRef != nil:
		s.fieldRef(p.Child("fieldRef"), f.FieldRef, volumeFields)
		if f.ResourceFieldRef != nil {
			s.invalid(p, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
		}
	case f.ResourceFieldRef != nil:
		s.resourceRef(p.Child("resourceFieldRef"), f.ResourceFieldRef, true)
	default:
		s.add(field.Required(p, "one of fieldRef and resourceFieldRef is required"))
	}
	s.mode(p.Child("mode"), f.Mode)
}

func (s *podScope) projected(p *field.Path, v *corev1.VolumeSource) {
	s.mode(p.Child("defaultMode"), v.Projected.DefaultMode)
	paths := map[string]bool{}
	take := func(path string, value string) {
		if path == "" {
			return
		}
		if paths[path] {
			s.invalid(p, value, "conflicting duplicate paths")
		}
		paths[path] = true
	}
	for i := range v.Projected.Sources {
		src, at := &v.Projected.Sources[i], p.Child("sources").Index(i)
		n := 0
		if src.Secret != nil {
			n++
			s.projectedKeys(at.Child("secret"), src.Secret.Name, src.Secret.Items, take)
		}
		if src.ConfigMap != nil {
			n++
			s.projectedKeys(at.Child("configMap"), src.ConfigMap.Name, src.ConfigMap.Items, take)
		}
		if src.DownwardAPI != nil {
			n++
			for j := range src.DownwardAPI.Items {
				f := &src.DownwardAPI.Items[j]
				s.downwardFile(at.Child("downwardAPI"), f)
				take(f.Path, f.Path)
			}
		}
		if src.ServiceAccountToken != nil {
			n++
			s.projectedToken(p, at.Child("serviceAccountToken"), src.ServiceAccountToken)
		}
		if src.ClusterTrustBundle != nil {
			n++
			s.projectedTrust(at.Child("clusterTrustBundle"), src.ClusterTrustBundle)
			if f := src.ClusterTrustBundle.Path; f != "" {
				take(f, f)
			}
		}
		if src.PodCertificate != nil {
			n++
			s.projectedCertificate(at.Child("podCertificate"), src.PodCertificate, take)
		}
		if n > 1 {
			s.forbid(at, oneVolume+" per source")
		}
	}
}

func (s *podScope) projectedKeys(p *field.Path, name string, items []corev1.KeyToPath, take func(path, value string)) {
	if name == "" {
		s.required(p.Child("name"))
	}
	s.keys(p.Child("items"), items)
	for i := range items {
		take(items[i].Path, name)
	}
}

func (s *podScope) projectedToken(volume, p *field.Path, t *corev1.ServiceAccountTokenProjection) {
	if sec := t.ExpirationSeconds; sec != nil {
		if *sec < 600 {
			s.invalid(p.Child("expirationSeconds"), *sec, "may not specify a duration less than 10 minutes")
		}
		if *sec > 1<<32 {
			s.invalid(p.Child("expirationSeconds"), *sec, "may not specify a duration larger than 2^32 seconds")
		}
	}
	if t.Path == "" {
		s.required(volume.Child("path"))
	} else {
		s.projectedPath(volume.Child("path"), t.Path)
	}
	if s.isPod && s.spec.ServiceAccountName == "" {
		s.forbid(p, "must not be specified when serviceAccountName is not set")
	}
}

func (s *podScope) projectedTrust(p *field.Path, b *corev1.ClusterTrustBundleProjection) {
	switch {
	case b.Name != nil && b.SignerName != nil:
		s.invalid(p, b, "only one of name and signerName may be used")
	case b.Name != nil:
		at, name := p.Child("name"), *b.Name
		if name == "" {
			s.add(field.Required(at, "must be a valid object name"))
		}
		signer := ""
		if i := strings.LastIndex(name, ":"); i >= 0 {
			signer = strings.ReplaceAll(name[:i], ":", "/")
		}
		for _, m := range trustBundleName(signer)(name, false) {
			s.invalid(at, name, "not a valid clustertrustbundlename: "+m)
		}
		if b.LabelSelector != nil {
			s.invalid(p.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified")
		}
	case b.SignerName != nil:
		if *b.SignerName == "" {
			s.add(field.Required(p.Child("signerName"), "must be a valid signer name"))
		}
		s.signerName(p.Child("signerName"), *b.SignerName)
		s.selector(p.Child("labelSelector"), b.LabelSelector)
	default:
		s.add(field.Required(p, "either name or signerName must be specified"))
	}
	if b.Path == "" {
		s.required(p.Child("path"))
	}
	s.projectedPath(p.Child("path"), b.Path)
}

// keyTypes of certificates for pods, in upstream's order.
var keyTypes = []string{"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"}

func (s *podScope) projectedCertificate(p *field.Path, c *corev1.PodCertificateProjection, take func(path, value string)) {
	s.signerName(p.Child("signerName"), c.SignerName)
	s.userAnnotations(p.Child("userAnnotations"), c.UserAnnotations)
	if !slices.Contains(keyTypes, c.KeyType) {
		s.add(field.NotSupported(p.Child("keyType"), c.KeyType, keyTypes))
	}
	if sec := c.MaxExpirationSeconds; sec != nil {
		at := p.Child("maxExpirationSeconds")
		if *sec < shortestPodLife {
			s.invalid(at, *sec, "if provided, maxExpirationSeconds must be >= 3600")
		}
		if most := longestLife(c.SignerName); *sec > most {
			s.invalid(at, *sec, fmt.Sprintf("if provided, maxExpirationSeconds must be <= %d", most))
		}
	}
	paths := 0
	for _, f := range []struct{ name, path string }{
		{"credentialBundlePath", c.CredentialBundlePath}, {"keyPath", c.KeyPath}, {"certificateChainPath", c.CertificateChainPath},
	} {
		if f.path != "" {
			paths++
			s.projectedPath(p.Child(f.name), f.path)
			take(f.path, f.path)
		}
	}
	if paths == 0 {
		s.add(field.Required(p, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"))
	}
}

func (s *podScope) mounts(p *field.Path, c *corev1.Container) {
	if len(c.VolumeMounts) == 0 {
		return
	}
	devices, devicePaths := map[string]bool{}, map[string]bool{}
	for _, d := range c.VolumeDevices {
		devices[d.Name], devicePaths[d.DevicePath] = true, true
	}
	points := make(map[string]bool, len(c.VolumeMounts))
	for i := range c.VolumeMounts {
		m, at := &c.VolumeMounts[i], p.Index(i)
		if m.Name == "" {
			s.required(at.Child("name"))
		}
		if s.volumes[m.Name] == nil {
			s.add(field.NotFound(at.Child("name"), m.Name))
		}
		if m.MountPath == "" {
			s.required(at.Child("mountPath"))
		}
		if points[m.MountPath] {
			s.invalid(at.Child("mountPath"), m.MountPath, "must be unique")
		}
		points[m.MountPath] = true
		if devices[m.Name] {
			s.invalid(at.Child("name"), m.Name, "must not already exist in volumeDevices")
		}
		if devicePaths[m.MountPath] {
			s.invalid(at.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices")
		}
		s.subPath(at, m)
		s.propagation(at, m, c)
	}
}

func (s *podScope) subPath(p *field.Path, m *corev1.VolumeMount) {
	if m.SubPath != "" {
		s.relativePath(p.Child("subPath"), m.SubPath)
	}
	if m.SubPathExpr != "" {
		if m.SubPath != "" {
			s.invalid(p.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive")
		}
		s.relativePath(p.Child("subPathExpr"), m.SubPathExpr)
	}
}

func (s *podScope) propagation(p *field.Path, m *corev1.VolumeMount, c *corev1.Container) {
	if mode := m.MountPropagation; mode != nil {
		at := p.Child("mountPropagation")
		oneOf(s.errors, at, *mode, corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
		privileged := c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
		if *mode == corev1.MountPropagationBidirectional && !privileged {
			s.forbid(at, "Bidirectional mount propagation is available only to privileged containers")
		}
	}
	if mode := m.RecursiveReadOnly; mode != nil {
		at := p.Child("recursiveReadOnly")
		oneOf(s.errors, at, *mode, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyIfPossible, corev1.RecursiveReadOnlyEnabled)
		if *mode == corev1.RecursiveReadOnlyEnabled || *mode == corev1.RecursiveReadOnlyIfPossible {
			if !m.ReadOnly {
				s.forbid(at, "may only be specified when readOnly is true")
			}
			if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
				s.forbid(at, "may only be specified when mountPropagation is None or not specified")
			}
		}
	}
}

// devices need a claim, and claims are refused; the form is judged all the
// same, so that the message fits the mistake.
func (s *podScope) devices(p *field.Path, c *corev1.Container) {
	names, paths := map[string]bool{}, map[string]bool{}
	for i, d := range c.VolumeDevices {
		at := p.Index(i)
		if d.Name == "" {
			s.required(at.Child("name"))
		}
		if names[d.Name] {
			s.invalid(at.Child("name"), d.Name, "must be unique")
		}
		if s.volumes[d.Name] != nil {
			s.invalid(at.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")
		} else {
			s.add(field.NotFound(at.Child("name"), d.Name))
		}
		if d.DevicePath == "" {
			s.required(at.Child("devicePath"))
		}
		if paths[d.DevicePath] {
			s.invalid(at.Child("devicePath"), d.DevicePath, "must be unique")
		}
		names[d.Name], paths[d.DevicePath] = true, true
	}
}
