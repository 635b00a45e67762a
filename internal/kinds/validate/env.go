package validate

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What the downward API offers, sorted as messages list it.
var (
	envFields = []string{
		"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
	}
	volumeFields = []string{
		"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid",
	}
	resourceFields = []string{
		"limits.cpu", "limits.ephemeral-storage", "limits.memory",
		"requests.cpu", "requests.ephemeral-storage", "requests.memory",
	}
	sizeDivisors = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
	cpuDivisors  = []string{"1m", "1"}
)

func (s *podScope) env(p *field.Path, env []corev1.EnvVar) {
	for i := range env {
		v, at := &env[i], p.Index(i)
		if v.Name == "" {
			s.required(at.Child("name"))
		} else {
			s.msgs(at.Child("name"), v.Name, validation.IsRelaxedEnvVarName(v.Name))
		}
		if v.ValueFrom != nil {
			s.envSource(at.Child("valueFrom"), v)
		}
	}
}

func (s *podScope) envSource(p *field.Path, v *corev1.EnvVar) {
	n, from := 0, v.ValueFrom
	if from.FieldRef != nil {
		n++
		s.fieldRef(p.Child("fieldRef"), from.FieldRef, envFields)
	}
	if from.ResourceFieldRef != nil {
		n++
		s.resourceRef(p.Child("resourceFieldRef"), from.ResourceFieldRef, false)
	}
	if from.ConfigMapKeyRef != nil {
		n++
		s.keyRef(p.Child("configMapKeyRef"), from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Key)
	}
	if from.SecretKeyRef != nil {
		n++
		s.keyRef(p.Child("secretKeyRef"), from.SecretKeyRef.Name, from.SecretKeyRef.Key)
	}
	if from.FileKeyRef != nil {
		n++ // refused in unsupported.go
	}
	switch {
	case n == 0:
		s.invalid(p, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")
	case v.Value != "":
		s.invalid(p, "", "may not be specified when `value` is not empty")
	case n > 1:
		s.invalid(p, "", "may not have more than one field specified at a time")
	}
}

func (s *podScope) keyRef(p *field.Path, name, key string) {
	s.msgs(p.Child("name"), name, subdomain(name, false))
	if key == "" {
		s.required(p.Child("key"))
	} else {
		s.msgs(p.Child("key"), key, validation.IsConfigMapKey(key))
	}
}

func (s *podScope) envFrom(p *field.Path, list []corev1.EnvFromSource) {
	for i := range list {
		from, at := &list[i], p.Index(i)
		if from.Prefix != "" {
			s.msgs(at.Child("prefix"), from.Prefix, validation.IsRelaxedEnvVarName(from.Prefix))
		}
		n := 0
		if from.ConfigMapRef != nil {
			n++
			s.prefixName(at.Child("configMapRef", "name"), from.ConfigMapRef.Name)
		}
		if from.SecretRef != nil {
			n++
			s.prefixName(at.Child("secretRef", "name"), from.SecretRef.Name)
		}
		switch {
		case n == 0:
			s.invalid(p, "", "must specify one of: `configMapRef` or `secretRef`")
		case n > 1:
			s.invalid(p, "", "may not have more than one field specified at a time")
		}
	}
}

// prefixName may, by history, end in a dash.
func (s *podScope) prefixName(p *field.Path, name string) {
	if name == "" {
		s.required(p)
		return
	}
	s.msgs(p, name, subdomain(name, true))
}

// fieldRef must name a field that the downward API offers; annotations and
// labels may be picked by key.
func (s *podScope) fieldRef(p *field.Path, f *corev1.ObjectFieldSelector, offered []string) {
	if f.APIVersion == "" {
		s.required(p.Child("apiVersion"))
		return
	}
	if f.FieldPath == "" {
		s.required(p.Child("fieldPath"))
		return
	}
	if f.APIVersion != "v1" {
		s.invalid(p.Child("fieldPath"), f.FieldPath, fmt.Sprintf("error converting fieldPath: unsupported pod version: %s", f.APIVersion))
		return
	}
	path, key, keyed := subscript(f.FieldPath)
	switch {
	case keyed && path == "metadata.annotations":
		s.qualifiedName(p, strings.ToLower(key))
	case keyed && path == "metadata.labels":
		s.qualifiedName(p, key)
	case keyed:
		s.invalid(p, path, "does not support subscript")
	case slices.Contains(offered, path):
	case slices.Contains(envFields, path) || slices.Contains(volumeFields, path):
		s.add(field.NotSupported(p.Child("fieldPath"), path, offered))
	default:
		s.invalid(p.Child("fieldPath"), f.FieldPath, "error converting fieldPath: field label not supported: "+f.FieldPath)
	}
}

// subscript splits "metadata.labels['key']".
func subscript(path string) (field, key string, ok bool) {
	rest, ok := strings.CutSuffix(path, "']")
	if !ok {
		return path, "", false
	}
	field, key, ok = strings.Cut(rest, "['")
	if !ok || field == "" {
		return path, "", false
	}
	return field, key, true
}

func (s *podScope) resourceRef(p *field.Path, f *corev1.ResourceFieldSelector, volume bool) {
	hugepages := strings.HasPrefix(f.Resource, "limits.hugepages-") || strings.HasPrefix(f.Resource, "requests.hugepages-")
	switch {
	case volume && f.ContainerName == "":
		s.required(p.Child("containerName"))
	case f.Resource == "":
		s.required(p.Child("resource"))
	case !hugepages && !slices.Contains(resourceFields, f.Resource):
		s.add(field.NotSupported(p.Child("resource"), f.Resource, resourceFields))
	}
	if f.Divisor.IsZero() {
		return
	}
	divisor := func(allowed []string, list, what string) {
		if !slices.Contains(allowed, f.Divisor.String()) {
			s.invalid(p.Child("divisor"), f.Resource, fmt.Sprintf("only divisor's values %s are supported with the %s resource", list, what))
		}
	}
	sizes := strings.Join(sizeDivisors, ", ")
	switch {
	case strings.HasSuffix(f.Resource, ".cpu"):
		divisor(cpuDivisors, "1m and 1", "cpu")
	case strings.HasSuffix(f.Resource, ".memory"):
		divisor(sizeDivisors, sizes, "memory")
	case strings.HasSuffix(f.Resource, ".ephemeral-storage"):
		divisor(sizeDivisors, sizes, "local ephemeral storage")
	case hugepages:
		divisor(sizeDivisors, sizes, "hugepages")
	}
}
