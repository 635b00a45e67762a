package authz

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// nodeOf is the node that a user is the kubelet of.
func nodeOf(u user.Info) (string, bool) {
	name, ok := strings.CutPrefix(u.GetName(), "system:node:")
	if !ok || name == "" {
		return "", false
	}
	for _, g := range u.GetGroups() {
		if g == user.NodesGroup {
			return name, true
		}
	}
	return "", false
}

// nodeAllows decides what a kubelet may do: what concerns its own node and the
// pods that are bound to it, and what every node has to see.
func nodeAllows(s *view.Snapshot, node string, at authorizer.Attributes) (bool, string) {
	if !at.IsResourceRequest() {
		return false, ""
	}
	verb, read := at.GetVerb(), isRead(at.GetVerb())
	switch res := resourceOf(at); res {
	case "nodes":
		return verb == "create" || at.GetName() == node && (verb == "get" || verb == "update" || verb == "patch" || verb == "delete") ||
			verb == "get" || verb == "list" || verb == "watch", "" // routes need all nodes
	case "nodes/status":
		return at.GetName() == node && (verb == "update" || verb == "patch"), "can only access node status of its own node"
	case "pods":
		return podsAllowed(s, node, at)
	case "pods/status", "pods/eviction":
		return verb == "update" || verb == "patch" || verb == "create", "" // NodeRestriction knows whose pod it is
	case "services", "endpointslices.discovery.k8s.io", "namespaces":
		return read, ""
	case "events", "events.events.k8s.io":
		return verb == "create" || verb == "update" || verb == "patch", ""
	case "leases.coordination.k8s.io":
		return at.GetNamespace() == corev1.NamespaceNodeLease && (verb == "create" || at.GetName() == node && verb != "list" && verb != "watch" && verb != "deletecollection"),
			"can only access node lease with the same name as the requesting node"
	case "certificatesigningrequests.certificates.k8s.io":
		return verb == "create" || verb == "get" || verb == "list" || verb == "watch", ""
	case "subjectaccessreviews.authorization.k8s.io", "tokenreviews.authentication.k8s.io":
		return verb == "create", ""
	case "serviceaccounts/token":
		return verb == "create" && podUses(s, node, at.GetNamespace(), func(p *corev1.Pod) bool { return p.Spec.ServiceAccountName == at.GetName() }),
			"no relationship found between node '" + node + "' and this object"
	case "secrets", "configmaps":
		if at.GetName() == "" || !read {
			return false, "can only read resources of this type with a single name"
		}
		uses := usesConfigMap
		if res == "secrets" {
			uses = usesSecret
		}
		return podUses(s, node, at.GetNamespace(), func(p *corev1.Pod) bool { return uses(p, at.GetName()) }),
			"no relationship found between node '" + node + "' and this object"
	}
	return false, ""
}

func isRead(verb string) bool { return verb == "get" || verb == "list" || verb == "watch" }

// resourceOf is resource[/subresource][.group].
func resourceOf(at authorizer.Attributes) string {
	r := at.GetResource()
	if at.GetAPIGroup() != "" {
		r += "." + at.GetAPIGroup()
	}
	if at.GetSubresource() != "" {
		r += "/" + at.GetSubresource()
	}
	return r
}

// podsAllowed: its own pods, by name or by the field selector that names it.
func podsAllowed(s *view.Snapshot, node string, at authorizer.Attributes) (bool, string) {
	switch at.GetVerb() {
	case "list", "watch":
		sel, err := at.GetFieldSelector()
		if err == nil && selects(sel, "spec.nodeName", node) {
			return true, ""
		}
		return false, "can only list/watch pods with spec.nodeName field selector"
	case "get":
		p := view.Get[*corev1.Pod](s, kinds.Pod, at.GetNamespace(), at.GetName())
		return p != nil && p.Spec.NodeName == node, "can only get pods of its own node"
	case "create", "delete":
		return true, "" // mirror pods and finished ones: NodeRestriction decides
	}
	return false, ""
}

func selects(requirements fields.Requirements, field, value string) bool {
	for _, r := range requirements {
		if r.Field == field && r.Value == value && (r.Operator == "=" || r.Operator == "==") {
			return true
		}
	}
	return false
}

// podUses asks for a pod of the namespace that is bound to the node.
func podUses(s *view.Snapshot, node, namespace string, uses func(*corev1.Pod) bool) bool {
	for p := range view.By[*corev1.Pod](s, view.PodsByNode, node) {
		if p.Namespace == namespace && uses(p) {
			return true
		}
	}
	return false
}

func usesSecret(p *corev1.Pod, name string) bool {
	for _, r := range p.Spec.ImagePullSecrets {
		if r.Name == name {
			return true
		}
	}
	for _, v := range p.Spec.Volumes {
		if v.Secret != nil && v.Secret.SecretName == name {
			return true
		}
		if v.Projected == nil {
			continue
		}
		for _, src := range v.Projected.Sources {
			if src.Secret != nil && src.Secret.Name == name {
				return true
			}
		}
	}
	return anyEnv(p, func(from corev1.EnvFromSource) bool { return from.SecretRef != nil && from.SecretRef.Name == name },
		func(v *corev1.EnvVarSource) bool { return v.SecretKeyRef != nil && v.SecretKeyRef.Name == name })
}

func usesConfigMap(p *corev1.Pod, name string) bool {
	for _, v := range p.Spec.Volumes {
		if v.ConfigMap != nil && v.ConfigMap.Name == name {
			return true
		}
		if v.Projected == nil {
			continue
		}
		for _, src := range v.Projected.Sources {
			if src.ConfigMap != nil && src.ConfigMap.Name == name {
				return true
			}
		}
	}
	return anyEnv(p, func(from corev1.EnvFromSource) bool {
		return from.ConfigMapRef != nil && from.ConfigMapRef.Name == name
	},
		func(v *corev1.EnvVarSource) bool { return v.ConfigMapKeyRef != nil && v.ConfigMapKeyRef.Name == name })
}

// anyEnv looks at every container, ephemeral ones too (CVE-2023-2727).
func anyEnv(p *corev1.Pod, from func(corev1.EnvFromSource) bool, value func(*corev1.EnvVarSource) bool) bool {
	check := func(envFrom []corev1.EnvFromSource, env []corev1.EnvVar) bool {
		for _, f := range envFrom {
			if from(f) {
				return true
			}
		}
		for _, e := range env {
			if e.ValueFrom != nil && value(e.ValueFrom) {
				return true
			}
		}
		return false
	}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range list {
			if check(c.EnvFrom, c.Env) {
				return true
			}
		}
	}
	for _, c := range p.Spec.EphemeralContainers {
		if check(c.EnvFrom, c.Env) {
			return true
		}
	}
	return false
}
