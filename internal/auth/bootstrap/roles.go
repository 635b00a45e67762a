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
	read      = []string{"get", "list", "watch"}
	readWrite = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	write     = []string{"create", "delete", "deletecollection", "patch", "update"}
	sendEvent = []string{"create", "patch", "update"}
	creates   = []string{"create"}
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

	// authenticationMap is the ConfigMap of kube-system by which other API
	// servers learn how clients of this one are authenticated.
	authenticationMap = "extension-apiserver-authentication"

	kubeletClientUser = "kube-apiserver-kubelet-client"
)

// rule grants verbs on resources of one group.
func rule(verbs []string, group string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{group}, Resources: resources}
}

// events are of two groups, the same objects.
func events(verbs []string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}}
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
			rule(creates, "authorization.k8s.io", "localsubjectaccessreviews"),
			rule(readWrite, "rbac.authorization.k8s.io", "roles", "rolebindings")),
		part("edit",
			rule(read, "", "pods/attach", "pods/proxy", "pods/exec", "pods/portforward", "secrets", "services/proxy"),
			rule([]string{"impersonate"}, "", "serviceaccounts"),
			rule(write, "", "pods", "pods/attach", "pods/proxy", "pods/exec", "pods/portforward"),
			rule(creates, "", "pods/eviction", "serviceaccounts/token"),
			rule(write, "", "replicationcontrollers", "replicationcontrollers/scale", "serviceaccounts", "services", "services/proxy", "persistentvolumeclaims", "configmaps", "secrets"),
			events(write),
			rule(write, "apps", "statefulsets", "statefulsets/scale", "daemonsets", "deployments", "deployments/scale", "deployments/rollback", "replicasets", "replicasets/scale"),
			rule(write, "autoscaling", "horizontalpodautoscalers"),
			rule(write, "batch", "jobs", "cronjobs"),
			rule(write, "networking.k8s.io", "networkpolicies", "ingresses"),
			rule(write, "policy", "poddisruptionbudgets"),
			rule(write, "resource.k8s.io", "resourceclaims", "resourceclaimtemplates"),
			rule(readWrite, "coordination.k8s.io", "leases")),
		part("view",
			rule(read, "", "pods", "replicationcontrollers", "replicationcontrollers/scale", "serviceaccounts", "services", "endpoints", "persistentvolumeclaims", "persistentvolumeclaims/status",
				"configmaps", "limitranges", "resourcequotas", "bindings", "pods/status", "resourcequotas/status", "namespaces/status", "replicationcontrollers/status", "pods/log", "services/status"),
			rule(read, "", "namespaces"),
			events(read),
			rule(read, "discovery.k8s.io", "endpointslices"),
			rule(read, "apps", "controllerrevisions", "statefulsets", "statefulsets/status", "statefulsets/scale", "daemonsets", "daemonsets/status", "deployments", "deployments/status", "deployments/scale",
				"replicasets", "replicasets/status", "replicasets/scale"),
			rule(read, "autoscaling", "horizontalpodautoscalers", "horizontalpodautoscalers/status"),
			rule(read, "batch", "jobs", "jobs/status", "cronjobs", "cronjobs/status"),
			rule(read, "policy", "poddisruptionbudgets", "poddisruptionbudgets/status"),
			rule(read, "networking.k8s.io", "networkpolicies", "ingresses", "ingresses/status"),
			rule(read, "resource.k8s.io", "resourceclaims", "resourceclaims/status", "resourceclaimtemplates")),
		metricsReader(),
	}
}

// metricsReader is the role by which metrics-server lets everybody read metrics
// who may view, edit or administrate.
func metricsReader() *rbacv1.ClusterRole {
	r := role("system:aggregated-metrics-reader", rule(read, "metrics.k8s.io", "pods", "nodes"))
	for _, to := range []string{"view", "edit", "admin"} {
		r.Labels[aggregateTo+to] = "true"
	}
	return r
}

func systemRoles() []*rbacv1.ClusterRole {
	return []*rbacv1.ClusterRole{
		role("system:discovery", urls("/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/")),
		role("system:public-info-viewer", urls("/healthz", "/livez", "/readyz", "/version", "/version/")),
		role("system:basic-user",
			rule(creates, "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
			rule(creates, "authentication.k8s.io", "selfsubjectreviews")),
		role("system:service-account-issuer-discovery", urls("/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks", "/openid/v1/jwks/")),
		role("system:monitoring", urls("/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/resources", "/metrics/slis", "/readyz", "/readyz/*"), rule([]string{"get"}, "", "nodes/metrics")),
		role("system:auth-delegator", rule(creates, "authentication.k8s.io", "tokenreviews"), rule(creates, "authorization.k8s.io", "subjectaccessreviews")),
		role("system:cluster-trust-bundle-discovery", rule(read, certificatesv1.GroupName, "clustertrustbundles")),
		role("system:kubelet-api-admin", rule([]string{"get", "list", "watch", "proxy"}, "", "nodes"),
			rule([]string{"*"}, "", "nodes/proxy", "nodes/metrics", "nodes/stats", "nodes/log", "nodes/spec", "nodes/configz", "nodes/healthz", "nodes/pods")),
		role("system:node-bootstrapper", rule([]string{"create", "get", "list", "watch"}, certificatesv1.GroupName, "certificatesigningrequests")),
		role("system:certificates.k8s.io:certificatesigningrequests:nodeclient", rule(creates, certificatesv1.GroupName, "certificatesigningrequests/nodeclient")),
		role("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", rule(creates, certificatesv1.GroupName, "certificatesigningrequests/selfnodeclient")),
		role("system:node", authz.NodeRules()...), // bound to nobody: the node authorizer decides
		role("system:node-problem-detector", rule([]string{"get"}, "", "nodes"), rule([]string{"patch"}, "", "nodes/status"), events(sendEvent)),
		role("system:node-proxier", rule(read, "", "services", "endpoints", "nodes"), rule(read, "discovery.k8s.io", "endpointslices"),
			rule([]string{"list", "watch"}, "networking.k8s.io", "servicecidrs"), events(sendEvent)),
		role("system:kube-dns", rule(read, "", "services", "endpoints", "namespaces"), rule(read, "discovery.k8s.io", "endpointslices")),
		role("system:heapster", rule(read, "", "events", "namespaces", "nodes", "pods"), rule(read, "apps", "deployments")),
		role("system:kube-aggregator", rule(read, "", "services", "endpoints"), rule([]string{"update"}, "apiregistration.k8s.io", "apiservices/status")),
		role("system:persistent-volume-provisioner",
			rule([]string{"get", "list", "watch", "create", "delete"}, "", "persistentvolumes"),
			rule([]string{"get", "list", "watch", "update"}, "", "persistentvolumeclaims"),
			rule(read, "storage.k8s.io", "storageclasses"),
			rule([]string{"watch"}, "", "events"), events(sendEvent)),
		role("system:volume-scheduler",
			rule([]string{"get", "list", "watch", "patch", "update"}, "", "persistentvolumes", "persistentvolumeclaims"),
			rule(read, "storage.k8s.io", "storageclasses")),
		role("system:kube-scheduler", events(sendEvent),
			rule(creates, "coordination.k8s.io", "leases"), named(rule([]string{"get", "update", "list", "watch"}, "coordination.k8s.io", "leases"), "kube-scheduler"),
			rule(read, "", "nodes", "namespaces", "services", "replicationcontrollers", "persistentvolumeclaims", "persistentvolumes"),
			rule([]string{"delete", "get", "list", "watch"}, "", "pods"),
			rule(creates, "", "bindings", "pods/binding"),
			rule([]string{"patch", "update"}, "", "pods/status"),
			rule([]string{"update"}, "", "pods/finalizers"),
			rule(read, "apps", "replicasets", "statefulsets"),
			rule(read, "policy", "poddisruptionbudgets"),
			rule(read, "storage.k8s.io", "csinodes", "csidrivers", "csistoragecapacities", "volumeattachments"),
			rule(read, "resource.k8s.io", "deviceclasses", "resourceslices", "devicetaintrules"),
			rule([]string{"create", "delete", "get", "list", "watch", "patch", "update"}, "resource.k8s.io", "resourceclaims"),
			rule([]string{"get", "list", "watch", "patch", "update"}, "resource.k8s.io", "resourceclaims/status"),
			rule([]string{"patch", "update"}, "resource.k8s.io", "resourceclaims/binding"),
			rule(creates, "authentication.k8s.io", "tokenreviews"), rule(creates, "authorization.k8s.io", "subjectaccessreviews")),
		// Upstream's also reads everything, for its shared informers. Here each
		// controller has a role of its own, and this one sends their events.
		role("system:kube-controller-manager", events(sendEvent),
			rule(creates, "coordination.k8s.io", "leases"), named(rule([]string{"get", "update"}, "coordination.k8s.io", "leases"), "kube-controller-manager"),
			rule(creates, "authentication.k8s.io", "tokenreviews"), rule(creates, "authorization.k8s.io", "subjectaccessreviews")),
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

// inSystem are the roles of kube-system and who has them.
func inSystem() []Entry {
	leases := rule([]string{"get", "watch", "list", "create", "update"}, "coordination.k8s.io", "leases")
	manager, scheduler := person(user.KubeControllerManager), person(user.KubeScheduler)
	const reader = "extension-apiserver-authentication-reader"
	var out []Entry
	add := func(name string, r rbacv1.PolicyRule, bound string, subjects ...rbacv1.Subject) {
		m := meta(name)
		m.Namespace = metav1.NamespaceSystem
		b := *m.DeepCopy()
		b.Name = bound
		out = append(out, Entry{kinds.Role, &rbacv1.Role{ObjectMeta: m, Rules: []rbacv1.PolicyRule{r}}},
			Entry{kinds.RoleBinding, &rbacv1.RoleBinding{ObjectMeta: b, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name}}})
	}
	add(reader, named(rule(read, "", "configmaps"), authenticationMap), "system::"+reader, manager, scheduler)
	add("system::leader-locking-kube-controller-manager", leases, "system::leader-locking-kube-controller-manager",
		manager, account(metav1.NamespaceSystem, "kube-controller-manager"), account(metav1.NamespaceSystem, "leader-election-controller"))
	add("system::leader-locking-kube-scheduler", leases, "system::leader-locking-kube-scheduler", scheduler, account(metav1.NamespaceSystem, "kube-scheduler"))
	// Every node reads the one ConfigMap that no pod needs.
	add("knarr:network", named(rule([]string{"get"}, "", "configmaps"), NetworkMap), "knarr:network", group(user.NodesGroup))
	return out
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
		binding("system:cluster-trust-bundle-discovery", group("system:serviceaccounts")),
		binding("system:kube-scheduler", person(user.KubeScheduler)),
		binding("system:volume-scheduler", person(user.KubeScheduler)),
		binding("system:node"), // of nobody: nodes are told apart by their authorizer
		binding("system:kube-controller-manager", person("system:kube-controller-manager")),
		binding("system:kube-dns", account(metav1.NamespaceSystem, "kube-dns")),
		binding("system:node-proxier", person("system:kube-proxy")),
		bindingNamed("knarr:kubelet-api-admin", "system:kubelet-api-admin", person(kubeletClientUser)),
		bindingNamed("knarr:node-bootstrapper", "system:node-bootstrapper", group(JoinGroup)),
		bindingNamed("knarr:node-client-approval", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", group(JoinGroup)),
		bindingNamed("knarr:node-client-renewal", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", group(user.NodesGroup)),
	}
}
