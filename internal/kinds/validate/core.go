package validate

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const frozen = "field is immutable when `immutable` is set"

// Namespace judges a new namespace.
func Namespace(ns *corev1.Namespace) field.ErrorList {
	e := meta(&ns.ObjectMeta, false, label)
	for _, f := range ns.Spec.Finalizers {
		e.finalizer(specPath.Child("finalizers"), string(f))
	}
	return e.list
}

// NamespaceUpdate judges changed metadata; the rest cannot change.
func NamespaceUpdate(ns, old *corev1.Namespace) field.ErrorList {
	return metaUpdate(&ns.ObjectMeta, &old.ObjectMeta).list
}

// NamespaceStatusUpdate judges the phase.
func NamespaceStatusUpdate(ns, old *corev1.Namespace) field.ErrorList {
	e := metaUpdate(&ns.ObjectMeta, &old.ObjectMeta)
	p := statusPath.Child("Phase")
	if ns.DeletionTimestamp.IsZero() {
		if ns.Status.Phase != corev1.NamespaceActive {
			e.invalid(p, ns.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")
		}
	} else if ns.Status.Phase != corev1.NamespaceTerminating {
		e.invalid(p, ns.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")
	}
	return e.list
}

// NamespaceFinalizeUpdate judges the finalizers of the spec.
func NamespaceFinalizeUpdate(ns, old *corev1.Namespace) field.ErrorList {
	e := metaUpdate(&ns.ObjectMeta, &old.ObjectMeta)
	for i, f := range ns.Spec.Finalizers {
		e.finalizer(specPath.Child("finalizers").Index(i), string(f))
	}
	return e.list
}

// ServiceAccount judges a new service account.
func ServiceAccount(sa *corev1.ServiceAccount) field.ErrorList {
	return meta(&sa.ObjectMeta, true, subdomain).list
}

// ServiceAccountUpdate judges a changed one.
func ServiceAccountUpdate(sa, old *corev1.ServiceAccount) field.ErrorList {
	return metaUpdate(&sa.ObjectMeta, &old.ObjectMeta).list
}

// Secret judges a new secret. Errors never show its contents.
func Secret(s *corev1.Secret) field.ErrorList {
	e := meta(&s.ObjectMeta, true, subdomain)
	e.secret(s)
	return e.list
}

// SecretUpdate judges a changed secret.
func SecretUpdate(s, old *corev1.Secret) field.ErrorList {
	e := metaUpdate(&s.ObjectMeta, &old.ObjectMeta)
	e.immutable(field.NewPath("type"), s.Type, old.Type)
	if old.Immutable != nil && *old.Immutable {
		if s.Immutable == nil || !*s.Immutable {
			e.forbid(field.NewPath("immutable"), frozen)
		}
		if !same(s.Data, old.Data) {
			e.forbid(field.NewPath("data"), frozen)
		}
	}
	e.secret(s)
	return e.list
}

func (e *errors) secret(s *corev1.Secret) {
	data, size := field.NewPath("data"), 0
	for key, value := range s.Data {
		e.msgs(data.Key(key), key, validation.IsConfigMapKey(key))
		size += len(value)
	}
	if size > corev1.MaxSecretSize {
		e.add(field.TooLong(data, "", corev1.MaxSecretSize))
	}
	need := func(key string) bool {
		_, ok := s.Data[key]
		if !ok {
			e.required(data.Key(key))
		}
		return ok
	}
	isJSON := func(key string) {
		if !need(key) {
			return
		}
		if err := json.Unmarshal(s.Data[key], &map[string]any{}); err != nil {
			e.invalid(data.Key(key), "<secret contents redacted>", "must be a JSON object")
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			e.required(metaPath.Child("annotations").Key(corev1.ServiceAccountNameKey))
		}
	case corev1.SecretTypeDockercfg:
		isJSON(corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		isJSON(corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth:
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		_, password := s.Data[corev1.BasicAuthPasswordKey]
		if !user && !password {
			e.required(data.Key(corev1.BasicAuthUsernameKey))
			e.required(data.Key(corev1.BasicAuthPasswordKey))
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			e.required(data.Key(corev1.SSHAuthPrivateKey))
		}
	case corev1.SecretTypeTLS:
		need(corev1.TLSCertKey)
		need(corev1.TLSPrivateKeyKey)
	}
}

// ConfigMap judges a new config map.
func ConfigMap(c *corev1.ConfigMap) field.ErrorList {
	e := meta(&c.ObjectMeta, true, subdomain)
	e.configMap(c)
	return e.list
}

// ConfigMapUpdate judges a changed one.
func ConfigMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	e := metaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	if old.Immutable != nil && *old.Immutable {
		if c.Immutable == nil || !*c.Immutable {
			e.forbid(field.NewPath("immutable"), frozen)
		}
		if !same(c.Data, old.Data) {
			e.forbid(field.NewPath("data"), frozen)
		}
		if !same(c.BinaryData, old.BinaryData) {
			e.forbid(field.NewPath("binaryData"), frozen)
		}
	}
	e.configMap(c)
	return e.list
}

func (e *errors) configMap(c *corev1.ConfigMap) {
	data, binary, size := field.NewPath("data"), field.NewPath("binaryData"), 0
	for key, value := range c.Data {
		e.msgs(data.Key(key), key, validation.IsConfigMapKey(key))
		if _, twice := c.BinaryData[key]; twice {
			e.invalid(data.Key(key), key, "duplicate of key present in binaryData")
		}
		size += len(value)
	}
	for key, value := range c.BinaryData {
		e.msgs(binary.Key(key), key, validation.IsConfigMapKey(key))
		size += len(value)
	}
	if size > corev1.MaxSecretSize {
		e.add(field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
	}
}

// ReplicationController judges a new replication controller.
func ReplicationController(rc *corev1.ReplicationController) field.ErrorList {
	e := meta(&rc.ObjectMeta, true, subdomain)
	e.replicationController(&rc.Spec)
	return e.list
}

// ReplicationControllerUpdate judges a changed one.
func ReplicationControllerUpdate(rc, old *corev1.ReplicationController) field.ErrorList {
	e := metaUpdate(&rc.ObjectMeta, &old.ObjectMeta)
	e.replicationController(&rc.Spec)
	return e.list
}

func (e *errors) replicationController(spec *corev1.ReplicationControllerSpec) {
	e.notNegative(specPath.Child("minReadySeconds"), int64(spec.MinReadySeconds))
	if len(spec.Selector) == 0 {
		e.required(specPath.Child("selector"))
	}
	if spec.Replicas == nil {
		e.required(specPath.Child("replicas"))
	} else {
		e.notNegative(specPath.Child("replicas"), int64(*spec.Replicas))
	}
	p := specPath.Child("template")
	if spec.Template == nil {
		e.required(p)
		return
	}
	for k, v := range spec.Selector {
		if have, ok := spec.Template.Labels[k]; !ok || have != v {
			e.invalid(p.Child("metadata", "labels"), spec.Template.Labels, selectorMismatch)
			break
		}
	}
	e.template(p, spec.Template)
	e.longRunningTemplate(p, spec.Template, "ReplicationController")
}

// ReplicationControllerStatusUpdate judges the counts.
func ReplicationControllerStatusUpdate(rc, old *corev1.ReplicationController) field.ErrorList {
	e := metaUpdate(&rc.ObjectMeta, &old.ObjectMeta)
	st := &rc.Status
	e.counts(st.Replicas, st.ReadyReplicas, st.AvailableReplicas, count{"fullyLabeledReplicas", st.FullyLabeledReplicas})
	e.notNegative(statusPath.Child("observedGeneration"), st.ObservedGeneration)
	return e.list
}

// Binding judges which node a pod is bound to.
func Binding(b *corev1.Binding) field.ErrorList {
	e := &errors{}
	if k := b.Target.Kind; k != "" && k != "Node" {
		e.add(field.NotSupported(field.NewPath("target", "kind"), k, []string{"Node", "<empty>"}))
	}
	e.name(field.NewPath("target", "name"), b.Target.Name, subdomain)
	return e.list
}
