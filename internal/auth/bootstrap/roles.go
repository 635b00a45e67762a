// Package bootstrap holds the objects that every cluster starts with: default
// roles and bindings, namespaces, priority classes. They are data; Ensure
// brings them, and what was taken from them, back at each start.
package bootstrap

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/auth/authz"
	"knarr.dev/knarr/internal/kinds"
)

var (
	read       = []string{"get", "list", "watch"}
	readUpdate = []string{"get", "list", "patch", "update", "watch"}
	readWrite  = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	write      = []string{"create", "delete", "deletecollection", "patch", "update"}
)

const (
	aggregateTo = "rbac.authorization.k8s.io/aggregate-to-"
	bootstrapL  = "kubernetes.io/bootstrapping"
	autoUpdate  = "rbac.authorization.kubernetes.io/autoupdate"

	// JoinGroup is what the tokens of `knarr token create` are in; a bootstrap
	// token of somebody else may join no node.
	JoinGroup = "system:bootstrappers:knarr:default-node-token"
	// NetworkMap is the ConfigMap of kube-system by which nodes learn the
	// cluster's networks.
	NetworkMap = "knarr-network"

	kubeletClientUser = "kube-apiserver-kubelet-client"
)

// rule grants verbs on resources of one group.
func rule(verbs []string, group string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{group}, Resources: resources}
}

func named(r rbacv1.PolicyRule, names ...string) rbacv1.PolicyRule {
	r.ResourceNames = names
	return r
}

func urls(paths ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: paths}
}

func role(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: meta(name), Rules: rules}
}

func meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Labels: map[string]string{bootstrapL: "rbac-defaults"}, Annotations: map[string]string{autoUpdate: "true"}}
}

// aggregated collects the roles that carry the label for its name.
func aggregated(name string, extra ...string) *rbacv1.ClusterRole {
	r := role(name)
	r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{aggregateTo + name: "true"}}}}
	for _, to := range extra {
		r.Labels[aggregateTo+to] = "true"
	}
	return r
}

// part of an aggregated role.
func part(of string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	r := role("system:aggregate-to-"+of, rules...)
	r.Labels[aggregateTo+of] = "true"
	return r
}

func userRoles() []*rbacv1.ClusterRole {
	return []*rbacv1.ClusterRole{
		role("cluster-admin", rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
			rbacv1.PolicyRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}),
		aggregated("admin"), aggregated("edit", "admin"), aggregated("view", "edit"),
		part("admin",
			rule([]string{"create"}, "authorization.k8s.io", "localsubjectaccessreviews"),
			rule(readWrite, "rbac.authorization.k8s.io", "roles", "rolebindings")),
		part("edit",
			rule(read, "", "pods/attach", "pods/proxy", "pods/exec", "pods/portforward", "secrets", "services/proxy"),
			rule([]string{"impersonate"}, "", "serviceaccounts"),
			rule(write, "", "pods", "pods/attach", "pods/proxy", "pods/exec", "pods/portforward"),
			rule([]string{"create"}, "", "pods/eviction", "serviceaccounts/token"),
			rule(write, "", "replicationcontrollers", "replicationcontrollers/scale", "serviceaccounts", "services", "services/proxy", "persistentvolumeclaims", "configmaps", "secrets", "events"),
			rule(write, "apps", "statefulsets", "statefulsets/scale", "daemonsets", "deployments", "deployments/scale", "deployments/rollback", "replicasets", "replicasets/scale"),
			rule(write, "autoscaling", "horizontalpodautoscalers"),
			rule(write, "batch", "jobs", "cronjobs"),
			rule(write, "networking.k8s.io", "networkpolicies", "ingresses"),
			rule(write, "policy", "poddisruptionbudgets"),
			rule(write, "resource.k8s.io", "resourceclaims", "resourceclaimtemplates"),
			rule(readWrite, "coordination.k8s.io", "leases")),
		part("view",
			rule(read, "", "pods", "replicationcontrollers", "replicationcontrollers/scale", "serviceaccounts", "services", "endpoints", "persistentvolumeclaims", "persistentvolumeclaims/status",
				"configmaps", "limitranges", "resourcequotas", "bindings", "events", "pods/status", "resourcequotas/status", "namespaces/status", "replicationcontrollers/status", "pods/log", "services/status"),
			rule(read, "", "namespaces"),
			rule(read, "discovery.k8s.io", "endpointslices"),
			rule(read, "apps", "controllerrevisions", "statefulsets", "statefulsets/status", "statefulsets/scale", "daemonsets", "daemonsets/status", "deployments", "deployments/status", "deployments/scale",
				"replicasets", "replicasets/status", "replicasets/scale"),
			rule(read, "autoscaling", "horizontalpodautoscalers", "horizontalpodautoscalers/status"),
			rule(read, "batch", "jobs", "jobs/status", "cronjobs", "cronjobs/status"),
			rule(read, "policy", "poddisruptionbudgets", "poddisruptionbudgets/status"),
			rule(read, "resource.k8s.io", "resourceclaims", "resourceclaims/status", "resourceclaimtemplates"),
			rule(read, "networking.k8s.io", "networkpolicies", "ingresses", "ingresses/status")),
	}
}

func systemRoles() []*rbacv1.ClusterRole {
	events := rule([]string{"create", "patch", "update"}, "", "events")
	newEvents := rule([]string{"create", "patch", "update"}, "events.k8s.io", "events")
	return []*rbacv1.ClusterRole{
		role("system:discovery", urls("/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/")),
		role("system:public-info-viewer", urls("/healthz", "/livez", "/readyz", "/version", "/version/")),
		role("system:basic-user",
			rule([]string{"create"}, "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
			rule([]string{"create"}, "authentication.k8s.io", "selfsubjectreviews")),
		role("system:service-account-issuer-discovery", urls("/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks", "/openid/v1/jwks/")),
		role("system:monitoring", urls("/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis", "/readyz", "/readyz/*")),
		role("system:auth-delegator", rule([]string{"create"}, "authentication.k8s.io", "tokenreviews"), rule([]string{"create"}, "authorization.k8s.io", "subjectaccessreviews")),
		role("system:kubelet-api-admin", rule([]string{"get", "list", "watch", "proxy"}, "", "nodes"),
			rule([]string{"*"}, "", "nodes/proxy", "nodes/metrics", "nodes/stats", "nodes/log", "nodes/spec", "nodes/configz", "nodes/healthz", "nodes/pods")),
		role("system:node-bootstrapper", rule([]string{"create", "get", "list", "watch"}, "certificates.k8s.io", "certificatesigningrequests")),
		role("system:certificates.k8s.io:certificatesigningrequests:nodeclient", rule([]string{"create"}, "certificates.k8s.io", "certificatesigningrequests/nodeclient")),
		role("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", rule([]string{"create"}, "certificates.k8s.io", "certificatesigningrequests/selfnodeclient")),
		role("system:node", authz.NodeRules()...), // bound to nobody: the node authorizer decides
		role("system:node-proxier", rule(read, "", "services", "endpoints", "nodes"), rule(read, "discovery.k8s.io", "endpointslices"), events, newEvents),
		role("system:kube-dns", rule(read, "", "services", "endpoints", "namespaces"), rule(read, "discovery.k8s.io", "endpointslices")),
		role("system:heapster", rule(read, "", "events", "namespaces", "nodes", "pods"), rule(read, "apps", "deployments")),
		role("system:persistent-volume-provisioner",
			rule([]string{"create", "delete", "get", "list", "watch"}, "", "persistentvolumes"),
			rule([]string{"get", "list", "watch", "update"}, "", "persistentvolumeclaims"),
			rule(read, "storage.k8s.io", "storageclasses"),
			rule([]string{"watch"}, "", "events"), events, newEvents),
		role("system:volume-scheduler", rule(readUpdate, "", "persistentvolumes", "persistentvolumeclaims"), rule(read, "storage.k8s.io", "storageclasses")),
		role("system:kube-aggregator", rule([]string{"update"}, "apiregistration.k8s.io", "apiservices/status")),
		role("system:kube-scheduler", events, newEvents,
			rule([]string{"create", "get", "update", "list", "watch"}, "coordination.k8s.io", "leases"),
			rule(read, "", "nodes", "namespaces", "services", "replicationcontrollers", "persistentvolumeclaims", "persistentvolumes"),
			rule([]string{"delete", "get", "list", "watch"}, "", "pods"),
			rule([]string{"create"}, "", "bindings", "pods/binding"),
			rule([]string{"patch", "update"}, "", "pods/status"),
			rule(read, "apps", "replicasets", "statefulsets")),
		// Upstream's also reads everything, for its shared informers. Here each
		// controller has a role of its own, and this one sends their events.
		role("system:kube-controller-manager", events, newEvents,
			rule([]string{"create", "get", "update", "list", "watch"}, "coordination.k8s.io", "leases")),
		approver("kube-apiserver-client-approver", certificatesv1.KubeAPIServerClientSignerName),
		approver("kube-apiserver-client-kubelet-approver", certificatesv1.KubeAPIServerClientKubeletSignerName),
		approver("kubelet-serving-approver", certificatesv1.KubeletServingSignerName),
		approver("legacy-unknown-approver", "kubernetes.io/legacy-unknown"),
	}
}

// approver may approve what a signer is asked for.
func approver(name, signer string) *rbacv1.ClusterRole {
	return role("system:certificates.k8s.io:"+name, named(rule([]string{"approve"}, certificatesv1.GroupName, "signers"), signer))
}

func binding(roleName string, subjects ...rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return bindingNamed(roleName, roleName, subjects...)
}

func bindingNamed(name, roleName string, subjects ...rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{ObjectMeta: meta(name), Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: roleName}}
}

// networkReader lets every node read the one ConfigMap that no pod needs.
func networkReader() []Entry {
	m := meta("knarr:network")
	m.Namespace = metav1.NamespaceSystem
	return []Entry{
		{kinds.Role, &rbacv1.Role{ObjectMeta: m, Rules: []rbacv1.PolicyRule{named(rule([]string{"get"}, "", "configmaps"), NetworkMap)}}},
		{kinds.RoleBinding, &rbacv1.RoleBinding{ObjectMeta: m, Subjects: []rbacv1.Subject{group(user.NodesGroup)},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: m.Name}}},
	}
}

func group(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: name}
}

func person(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}
}

func account(namespace, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}
}

func bindings() []*rbacv1.ClusterRoleBinding {
	return []*rbacv1.ClusterRoleBinding{
		binding("cluster-admin", group(user.SystemPrivilegedGroup)),
		binding("system:monitoring", group("system:monitoring")),
		binding("system:discovery", group(user.AllAuthenticated)),
		binding("system:basic-user", group(user.AllAuthenticated)),
		binding("system:public-info-viewer", group(user.AllAuthenticated), group(user.AllUnauthenticated)),
		binding("system:service-account-issuer-discovery", group("system:serviceaccounts")),
		binding("system:kube-aggregator", person("system:kube-aggregator")),
		binding("system:kube-scheduler", person("system:kube-scheduler")),
		binding("system:kube-controller-manager", person("system:kube-controller-manager")),
		binding("system:kube-dns", account(metav1.NamespaceSystem, "kube-dns")),
		binding("system:node-proxier", person("system:kube-proxy")),
		bindingNamed("knarr:kubelet-api-admin", "system:kubelet-api-admin", person(kubeletClientUser)),
		bindingNamed("knarr:node-bootstrapper", "system:node-bootstrapper", group(JoinGroup)),
		bindingNamed("knarr:node-client-approval", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", group(JoinGroup)),
		bindingNamed("knarr:node-client-renewal", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", group(user.NodesGroup)),
	}
}
