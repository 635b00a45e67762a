package kinds

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds/defaults"
	"knarr.dev/knarr/internal/kinds/prepare"
	"knarr.dev/knarr/internal/kinds/validate"
	"knarr.dev/knarr/internal/kinds/warnings"
)

// The built-in kinds that are stored. What they decide (defaults, validation,
// columns) stands in the file of their group.
var (
	ConfigMap = &Kind{
		GVK: corev1.SchemeGroupVersion.WithKind("ConfigMap"), Resource: "configmaps", Singular: "configmap", ShortNames: []string{"cm"},
		Namespaced: true, Prefix: "configmaps",
		New: func() Object { return &corev1.ConfigMap{} }, NewList: func() runtime.Object { return &corev1.ConfigMapList{} },
		PrepareCreate: do(prepare.Create[*corev1.ConfigMap]), PrepareUpdate: doBoth(prepare.Keep[*corev1.ConfigMap]),
		Validate: check(validate.ConfigMap), ValidateUpdate: checkBoth(validate.ConfigMapUpdate),
		Columns: configMapColumns,
	}
	Endpoints = &Kind{
		GVK: corev1.SchemeGroupVersion.WithKind("Endpoints"), Resource: "endpoints", Singular: "endpoints", ShortNames: []string{"ep"},
		Namespaced: true, Prefix: "services/endpoints",
		New: func() Object { return &corev1.Endpoints{} }, NewList: func() runtime.Object { return &corev1.EndpointsList{} },
		Default:       do(defaults.Endpoints),
		PrepareCreate: do(prepare.Create[*corev1.Endpoints]), PrepareUpdate: doBoth(prepare.Keep[*corev1.Endpoints]),
		Validate: check(validate.Endpoints), ValidateUpdate: checkBoth(validate.EndpointsUpdate),
		Warnings:            warn(warnings.Endpoints),
		Columns:             endpointsColumns,
		AllowCreateOnUpdate: true,
	}
	Event = &Kind{
		GVK: corev1.SchemeGroupVersion.WithKind("Event"), Resource: "events", Singular: "event", ShortNames: []string{"ev"},
		Namespaced: true, Prefix: "events",
		New: func() Object { return &corev1.Event{} }, NewList: func() runtime.Object { return &corev1.EventList{} },
		PrepareCreate: do(prepare.Create[*corev1.Event]), PrepareUpdate: doBoth(prepare.Keep[*corev1.Event]),
		Validate: check(validate.Event), ValidateUpdate: checkBoth(validate.EventUpdate),
		Columns:             eventColumns,
		Fields:              eventFields,
		AllowCreateOnUpdate: true,
	}
	LimitRange = &Kind{
		GVK: corev1.SchemeGroupVersion.WithKind("LimitRange"), Resource: "limitranges", Singular: "limitrange", ShortNames: []string{"limits"},
		Namespaced: true, Prefix: "limitranges",
		New: func() Object { return &corev1.LimitRange{} }, NewList: func() runtime.Object { return &corev1.LimitRangeList{} },
		Default:       do(defaults.LimitRange),
		PrepareCreate: do(prepare.Create[*corev1.LimitRange]), PrepareUpdate: doBoth(prepare.Keep[*corev1.LimitRange]),
		Validate: check(validate.LimitRange), ValidateUpdate: checkBoth(validate.LimitRangeUpdate),
		Columns:             limitRangeColumns,
		AllowCreateOnUpdate: true,
	}
	Namespace = &Kind{
		GVK: corev1.SchemeGroupVersion.WithKind("Namespace"), Resource: "namespaces", Singular: "namespace", ShortNames: []string{"ns"},
		Prefix: "namespaces",
		New:    func() Object { return &corev1.Namespace{} }, NewList: func() runtime.Object { return &corev1.NamespaceList{} },
		Default:       do(defaults.Namespace),
		PrepareCreate: do(prepare.NamespaceCreate), PrepareUpdate: doBoth(prepare.NamespaceUpdate),
		Validate: check(validate.Namespace), ValidateUpdate: checkBoth(validate.NamespaceUpdate),
		Subresources: map[string]Subresource{
			"status":   status(prepare.NamespaceStatusUpdate, validate.NamespaceStatusUpdate),
			"finalize": finalizeSub(),
		},
		Columns: namespaceColumns,
		Fields:  namespaceFields,
		Verbs:   []string{"create", "delete", "get", "list", "patch", "update", "watch"},
	}
	Node = &Kind{
		GVK: corev1.SchemeGroupVersion.WithKind("Node"), Resource: "nodes", Singular: "node", ShortNames: []string{"no"},
		Prefix: "minions",
		New:    func() Object { return &corev1.Node{} }, NewList: func() runtime.Object { return &corev1.NodeList{} },
		Default:       do(defaults.Node),
		PrepareCreate: do(prepare.Create[*corev1.Node]), PrepareUpdate: doBoth(prepare.NodeUpdate),
		Validate: check(validate.Node), ValidateUpdate: checkBoth(validate.NodeUpdate),
		Warnings: warn(warnings.Node),
		Subresources: map[string]Subresource{
			"status": status(prepare.NodeStatusUpdate, validate.NodeStatusUpdate),
			"proxy":  proxied("NodeProxyOptions"),
		},
		Columns: nodeColumns,
		Fields:  nodeFields,
	}
	PersistentVolume = &Kind{
		GVK: corev1.SchemeGroupVersion.WithKind("PersistentVolume"), Resource: "persistentvolumes", Singular: "persistentvolume", ShortNames: []string{"pv"},
		Prefix: "persistentvolumes",
		New:    func() Object { return &corev1.PersistentVolume{} }, NewList: func() runtime.Object { return &corev1.PersistentVolumeList{} },
		Default:       do(defaults.PersistentVolume),
		PrepareCreate: do(prepare.PersistentVolumeCreate), PrepareUpdate: doBoth(prepare.PersistentVolumeUpdate),
		Stamp:    stamp(prepare.PersistentVolumeStamp),
		Validate: check(validate.PersistentVolume), ValidateUpdate: checkBoth(validate.PersistentVolumeUpdate),
		Warnings:     warn(warnings.PersistentVolume),
		Subresources: map[string]Subresource{"status": status(prepare.PersistentVolumeStatusUpdate, validate.PersistentVolumeStatusUpdate)},
		Columns:      persistentVolumeColumns,
		Fields:       oldName,
	}
	PersistentVolumeClaim = &Kind{
		GVK: corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"), Resource: "persistentvolumeclaims", Singular: "persistentvolumeclaim", ShortNames: []string{"pvc"},
		Namespaced: true, Prefix: "persistentvolumeclaims",
		New: func() Object { return &corev1.PersistentVolumeClaim{} }, NewList: func() runtime.Object { return &corev1.PersistentVolumeClaimList{} },
		Default:       do(defaults.PersistentVolumeClaim),
		PrepareCreate: do(prepare.PersistentVolumeClaimCreate), PrepareUpdate: doBoth(prepare.PersistentVolumeClaimUpdate),
		Validate: check(validate.PersistentVolumeClaim), ValidateUpdate: checkBoth(validate.PersistentVolumeClaimUpdate),
		Warnings:     warn(warnings.PersistentVolumeClaim),
		Subresources: map[string]Subresource{"status": status(prepare.PersistentVolumeClaimStatusUpdate, validate.PersistentVolumeClaimStatusUpdate)},
		Columns:      persistentVolumeClaimColumns,
		Fields:       oldName,
	}
	Pod = &Kind{
		GVK: corev1.SchemeGroupVersion.WithKind("Pod"), Resource: "pods", Singular: "pod", ShortNames: []string{"po"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "pods",
		New: func() Object { return &corev1.Pod{} }, NewList: func() runtime.Object { return &corev1.PodList{} },
		Default:       do(defaults.Pod),
		PrepareCreate: do(prepare.PodCreate), PrepareUpdate: doBoth(prepare.PodUpdate),
		Validate: check(validate.Pod), ValidateUpdate: checkBoth(validate.PodUpdate),
		Warnings: warn(warnings.Pod),
		Subresources: map[string]Subresource{
			"status":              status(prepare.PodStatusUpdate, validate.PodStatusUpdate),
			"binding":             bindingSub(),
			"eviction":            evictionSub(),
			"ephemeralcontainers": status(prepare.PodEphemeralUpdate, validate.PodEphemeralUpdate),
			"resize":              status(prepare.PodResizeUpdate, validate.PodResizeUpdate),
			"log":                 {Verbs: []string{"get"}, Connect: true},
			"exec":                connect("PodExecOptions"),
			"attach":              connect("PodAttachOptions"),
			"portforward":         connect("PodPortForwardOptions"),
			"proxy":               proxied("PodProxyOptions"),
		},
		Columns:     podColumns,
		Fields:      podFields,
		DeleteGrace: func(o Object, opts *metav1.DeleteOptions) int64 { return prepare.PodGrace(o.(*corev1.Pod), opts) },
	}
	PodTemplate = &Kind{
		GVK: corev1.SchemeGroupVersion.WithKind("PodTemplate"), Resource: "podtemplates", Singular: "podtemplate",
		Namespaced: true, Prefix: "podtemplates",
		New: func() Object { return &corev1.PodTemplate{} }, NewList: func() runtime.Object { return &corev1.PodTemplateList{} },
		Default:       do(defaults.PodTemplate),
		PrepareCreate: do(prepare.CreateManaged[*corev1.PodTemplate]), PrepareUpdate: doBoth(prepare.PodTemplateUpdate),
		Validate: check(validate.PodTemplate), ValidateUpdate: checkBoth(validate.PodTemplateUpdate),
		Columns: podTemplateColumns,
	}
	ReplicationController = &Kind{
		GVK: corev1.SchemeGroupVersion.WithKind("ReplicationController"), Resource: "replicationcontrollers", Singular: "replicationcontroller", ShortNames: []string{"rc"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "controllers",
		New: func() Object { return &corev1.ReplicationController{} }, NewList: func() runtime.Object { return &corev1.ReplicationControllerList{} },
		Default:       do(defaults.ReplicationController),
		PrepareCreate: do(prepare.ReplicationControllerCreate), PrepareUpdate: doBoth(prepare.ReplicationControllerUpdate),
		Validate: check(validate.ReplicationController), ValidateUpdate: checkBoth(validate.ReplicationControllerUpdate),
		Warnings: warn(warnings.ReplicationController),
		Subresources: map[string]Subresource{
			"status": status(prepare.ReplicationControllerStatusUpdate, validate.ReplicationControllerStatusUpdate),
			"scale":  ScaleSubresource(controllerScale),
		},
		Columns:            replicationControllerColumns,
		Fields:             replicationControllerFields,
		DefaultPropagation: metav1.DeletePropagationOrphan,
	}
	ResourceQuota = &Kind{
		GVK: corev1.SchemeGroupVersion.WithKind("ResourceQuota"), Resource: "resourcequotas", Singular: "resourcequota", ShortNames: []string{"quota"},
		Namespaced: true, Prefix: "resourcequotas",
		New: func() Object { return &corev1.ResourceQuota{} }, NewList: func() runtime.Object { return &corev1.ResourceQuotaList{} },
		Default:       do(defaults.ResourceQuota),
		PrepareCreate: do(prepare.ResourceQuotaCreate), PrepareUpdate: doBoth(prepare.ResourceQuotaUpdate),
		Validate: check(validate.ResourceQuota), ValidateUpdate: checkBoth(validate.ResourceQuotaUpdate),
		Subresources: map[string]Subresource{"status": status(prepare.ResourceQuotaStatusUpdate, validate.ResourceQuotaStatusUpdate)},
		Columns:      resourceQuotaColumns,
	}
	Secret = &Kind{
		GVK: corev1.SchemeGroupVersion.WithKind("Secret"), Resource: "secrets", Singular: "secret",
		Namespaced: true, Prefix: "secrets",
		New: func() Object { return &corev1.Secret{} }, NewList: func() runtime.Object { return &corev1.SecretList{} },
		Default:       do(defaults.Secret),
		PrepareCreate: do(prepare.Create[*corev1.Secret]), PrepareUpdate: doBoth(prepare.SecretUpdate),
		Validate: check(validate.Secret), ValidateUpdate: checkBoth(validate.SecretUpdate),
		Columns: secretColumns,
		Fields:  secretFields,
	}
	Service = &Kind{
		GVK: corev1.SchemeGroupVersion.WithKind("Service"), Resource: "services", Singular: "service", ShortNames: []string{"svc"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "services/specs",
		New: func() Object { return &corev1.Service{} }, NewList: func() runtime.Object { return &corev1.ServiceList{} },
		Default:       do(defaults.Service),
		PrepareCreate: do(prepare.ServiceCreate), PrepareUpdate: doBoth(prepare.ServiceUpdate),
		Validate: check(validate.Service), ValidateUpdate: checkBoth(validate.ServiceUpdate),
		Warnings: warn(warnings.Service),
		Subresources: map[string]Subresource{
			"status": status(prepare.ServiceStatusUpdate, validate.ServiceStatusUpdate),
			"proxy":  proxied("ServiceProxyOptions"),
		},
		Columns:             serviceColumns,
		Fields:              serviceFields,
		AllowCreateOnUpdate: true,
	}
	ServiceAccount = &Kind{
		GVK: corev1.SchemeGroupVersion.WithKind("ServiceAccount"), Resource: "serviceaccounts", Singular: "serviceaccount", ShortNames: []string{"sa"},
		Namespaced: true, Prefix: "serviceaccounts",
		New: func() Object { return &corev1.ServiceAccount{} }, NewList: func() runtime.Object { return &corev1.ServiceAccountList{} },
		PrepareCreate: do(prepare.ServiceAccountCreate), PrepareUpdate: doBoth(prepare.ServiceAccountUpdate),
		Validate: check(validate.ServiceAccount), ValidateUpdate: checkBoth(validate.ServiceAccountUpdate),
		Subresources:   map[string]Subresource{"token": tokenSub()},
		Columns:        serviceAccountColumns,
		RequireVersion: true,
	}
	ControllerRevision = &Kind{
		GVK: appsv1.SchemeGroupVersion.WithKind("ControllerRevision"), Resource: "controllerrevisions", Singular: "controllerrevision",
		Namespaced: true, Prefix: "controllerrevisions",
		New: func() Object { return &appsv1.ControllerRevision{} }, NewList: func() runtime.Object { return &appsv1.ControllerRevisionList{} },
		PrepareCreate: do(prepare.Create[*appsv1.ControllerRevision]), PrepareUpdate: doBoth(prepare.Keep[*appsv1.ControllerRevision]),
		Validate: check(validate.ControllerRevision), ValidateUpdate: checkBoth(validate.ControllerRevisionUpdate),
		Columns: controllerRevisionColumns,
	}
	DaemonSet = &Kind{
		GVK: appsv1.SchemeGroupVersion.WithKind("DaemonSet"), Resource: "daemonsets", Singular: "daemonset", ShortNames: []string{"ds"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "daemonsets",
		New: func() Object { return &appsv1.DaemonSet{} }, NewList: func() runtime.Object { return &appsv1.DaemonSetList{} },
		Default:       do(defaults.DaemonSet),
		PrepareCreate: do(prepare.DaemonSetCreate), PrepareUpdate: doBoth(prepare.DaemonSetUpdate),
		Validate: check(validate.DaemonSet), ValidateUpdate: checkBoth(validate.DaemonSetUpdate),
		Warnings:     warn(warnings.DaemonSet),
		Subresources: map[string]Subresource{"status": status(prepare.DaemonSetStatusUpdate, validate.DaemonSetStatusUpdate)},
		Columns:      daemonSetColumns,
	}
	Deployment = &Kind{
		GVK: appsv1.SchemeGroupVersion.WithKind("Deployment"), Resource: "deployments", Singular: "deployment", ShortNames: []string{"deploy"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "deployments",
		New: func() Object { return &appsv1.Deployment{} }, NewList: func() runtime.Object { return &appsv1.DeploymentList{} },
		Default:       do(defaults.Deployment),
		PrepareCreate: do(prepare.DeploymentCreate), PrepareUpdate: doBoth(prepare.DeploymentUpdate),
		Validate: check(validate.Deployment), ValidateUpdate: checkBoth(validate.DeploymentUpdate),
		Warnings: warn(warnings.Deployment),
		Subresources: map[string]Subresource{
			"status": status(prepare.DeploymentStatusUpdate, validate.DeploymentStatusUpdate),
			"scale":  ScaleSubresource(deploymentScale),
		},
		Columns: deploymentColumns,
	}
	ReplicaSet = &Kind{
		GVK: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), Resource: "replicasets", Singular: "replicaset", ShortNames: []string{"rs"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "replicasets",
		New: func() Object { return &appsv1.ReplicaSet{} }, NewList: func() runtime.Object { return &appsv1.ReplicaSetList{} },
		Default:       do(defaults.ReplicaSet),
		PrepareCreate: do(prepare.ReplicaSetCreate), PrepareUpdate: doBoth(prepare.ReplicaSetUpdate),
		Validate: check(validate.ReplicaSet), ValidateUpdate: checkBoth(validate.ReplicaSetUpdate),
		Warnings: warn(warnings.ReplicaSet),
		Subresources: map[string]Subresource{
			"status": status(prepare.ReplicaSetStatusUpdate, validate.ReplicaSetStatusUpdate),
			"scale":  ScaleSubresource(replicaSetScale),
		},
		Columns: replicaSetColumns,
		Fields:  replicaSetFields,
	}
	StatefulSet = &Kind{
		GVK: appsv1.SchemeGroupVersion.WithKind("StatefulSet"), Resource: "statefulsets", Singular: "statefulset", ShortNames: []string{"sts"}, Categories: []string{"all"},
		Namespaced: true, Prefix: "statefulsets",
		New: func() Object { return &appsv1.StatefulSet{} }, NewList: func() runtime.Object { return &appsv1.StatefulSetList{} },
		Default:       do(defaults.StatefulSet),
		PrepareCreate: do(prepare.StatefulSetCreate), PrepareUpdate: doBoth(prepare.StatefulSetUpdate),
		Validate: check(validate.StatefulSet), ValidateUpdate: checkBoth(validate.StatefulSetUpdate),
		Warnings: warn(warnings.StatefulSet),
		Subresources: map[string]Subresource{
			"status": status(prepare.StatefulSetStatusUpdate, validate.StatefulSetStatusUpdate),
			"scale":  ScaleSubresource(statefulSetScale),
		},
		Columns: statefulSetColumns,
	}
	CertificateSigningRequest = &Kind{
		GVK: certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest"), Resource: "certificatesigningrequests", Singular: "certificatesigningrequest", ShortNames: []string{"csr"},
		Prefix: "certificatesigningrequests",
		New:    func() Object { return &certificatesv1.CertificateSigningRequest{} }, NewList: func() runtime.Object { return &certificatesv1.CertificateSigningRequestList{} },
		PrepareCreate: do(prepare.CertificateSigningRequestCreate), PrepareUpdate: doBoth(prepare.CertificateSigningRequestUpdate),
		Validate: check(validate.CertificateSigningRequest), ValidateUpdate: checkBoth(validate.CertificateSigningRequestUpdate),
		Subresources: map[string]Subresource{
			"status":   status(prepare.CertificateSigningRequestStatusUpdate, validate.CertificateSigningRequestStatusUpdate),
			"approval": status(prepare.CertificateSigningRequestApprovalUpdate, validate.CertificateSigningRequestApprovalUpdate),
		},
		Columns: certificateSigningRequestColumns,
		Fields:  certificateSigningRequestFields,
	}
	Lease = &Kind{
		GVK: coordinationv1.SchemeGroupVersion.WithKind("Lease"), Resource: "leases", Singular: "lease",
		Namespaced: true, Prefix: "leases",
		New: func() Object { return &coordinationv1.Lease{} }, NewList: func() runtime.Object { return &coordinationv1.LeaseList{} },
		PrepareCreate: do(prepare.Create[*coordinationv1.Lease]), PrepareUpdate: doBoth(prepare.Keep[*coordinationv1.Lease]),
		Validate: check(validate.Lease), ValidateUpdate: checkBoth(validate.LeaseUpdate),
		Columns:             leaseColumns,
		AllowCreateOnUpdate: true,
		RequireVersion:      true,
	}
	EndpointSlice = &Kind{
		GVK: discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), Resource: "endpointslices", Singular: "endpointslice",
		Namespaced: true, Prefix: "endpointslices",
		New: func() Object { return &discoveryv1.EndpointSlice{} }, NewList: func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
		Default:       do(defaults.EndpointSlice),
		PrepareCreate: do(prepare.CreateManaged[*discoveryv1.EndpointSlice]), PrepareUpdate: doBoth(prepare.EndpointSliceUpdate),
		Validate: check(validate.EndpointSlice), ValidateUpdate: checkBoth(validate.EndpointSliceUpdate),
		Columns: endpointSliceColumns,
	}
	EventsEvent = &Kind{
		GVK: eventsv1.SchemeGroupVersion.WithKind("Event"), Resource: "events", Singular: "event", ShortNames: []string{"ev"},
		Namespaced: true,
		New:        func() Object { return &eventsv1.Event{} }, NewList: func() runtime.Object { return &eventsv1.EventList{} },
		PrepareCreate: do(prepare.Create[*eventsv1.Event]), PrepareUpdate: doBoth(prepare.Keep[*eventsv1.Event]),
		Validate: check(validate.EventsEvent), ValidateUpdate: checkBoth(validate.EventsEventUpdate),
		Columns:             eventsEventColumns,
		Fields:              eventsEventFields,
		AllowCreateOnUpdate: true,
		StoredAs:            Event, FromStored: eventFromStored, ToStored: eventToStored,
	}
	Ingress = &Kind{
		GVK: networkingv1.SchemeGroupVersion.WithKind("Ingress"), Resource: "ingresses", Singular: "ingress", ShortNames: []string{"ing"},
		Namespaced: true, Prefix: "ingress",
		New: func() Object { return &networkingv1.Ingress{} }, NewList: func() runtime.Object { return &networkingv1.IngressList{} },
		PrepareCreate: do(prepare.IngressCreate), PrepareUpdate: doBoth(prepare.IngressUpdate),
		Validate: check(validate.Ingress), ValidateUpdate: checkBoth(validate.IngressUpdate),
		Warnings:     warn(warnings.Ingress),
		Subresources: map[string]Subresource{"status": status(prepare.IngressStatusUpdate, validate.IngressStatusUpdate)},
		Columns:      ingressColumns,
	}
	IngressClass = &Kind{
		GVK: networkingv1.SchemeGroupVersion.WithKind("IngressClass"), Resource: "ingressclasses", Singular: "ingressclass",
		Prefix: "ingressclasses",
		New:    func() Object { return &networkingv1.IngressClass{} }, NewList: func() runtime.Object { return &networkingv1.IngressClassList{} },
		Default:       do(defaults.IngressClass),
		PrepareCreate: do(prepare.CreateManaged[*networkingv1.IngressClass]), PrepareUpdate: doBoth(prepare.IngressClassUpdate),
		Validate: check(validate.IngressClass), ValidateUpdate: checkBoth(validate.IngressClassUpdate),
		Columns: ingressClassColumns,
	}
	NetworkPolicy = &Kind{
		GVK: networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy"), Resource: "networkpolicies", Singular: "networkpolicy", ShortNames: []string{"netpol"},
		Namespaced: true, Prefix: "networkpolicies",
		New: func() Object { return &networkingv1.NetworkPolicy{} }, NewList: func() runtime.Object { return &networkingv1.NetworkPolicyList{} },
		Default:       do(defaults.NetworkPolicy),
		PrepareCreate: do(prepare.CreateManaged[*networkingv1.NetworkPolicy]), PrepareUpdate: doBoth(prepare.NetworkPolicyUpdate),
		Validate: check(validate.NetworkPolicy), ValidateUpdate: checkBoth(validate.NetworkPolicyUpdate),
		Warnings: warn(warnings.NetworkPolicy),
		Columns:  networkPolicyColumns,
	}
	ClusterRole = &Kind{
		GVK: rbacv1.SchemeGroupVersion.WithKind("ClusterRole"), Resource: "clusterroles", Singular: "clusterrole",
		Prefix: "clusterroles",
		New:    func() Object { return &rbacv1.ClusterRole{} }, NewList: func() runtime.Object { return &rbacv1.ClusterRoleList{} },
		PrepareCreate: do(prepare.Create[*rbacv1.ClusterRole]), PrepareUpdate: doBoth(prepare.Keep[*rbacv1.ClusterRole]),
		Validate: check(validate.ClusterRole), ValidateUpdate: checkBoth(validate.ClusterRoleUpdate),
		Columns:             clusterRoleColumns,
		AllowCreateOnUpdate: true,
	}
	ClusterRoleBinding = &Kind{
		GVK: rbacv1.SchemeGroupVersion.WithKind("ClusterRoleBinding"), Resource: "clusterrolebindings", Singular: "clusterrolebinding",
		Prefix: "clusterrolebindings",
		New:    func() Object { return &rbacv1.ClusterRoleBinding{} }, NewList: func() runtime.Object { return &rbacv1.ClusterRoleBindingList{} },
		Default:       do(defaults.ClusterRoleBinding),
		PrepareCreate: do(prepare.Create[*rbacv1.ClusterRoleBinding]), PrepareUpdate: doBoth(prepare.Keep[*rbacv1.ClusterRoleBinding]),
		Validate: check(validate.ClusterRoleBinding), ValidateUpdate: checkBoth(validate.ClusterRoleBindingUpdate),
		Columns:             clusterRoleBindingColumns,
		AllowCreateOnUpdate: true,
	}
	Role = &Kind{
		GVK: rbacv1.SchemeGroupVersion.WithKind("Role"), Resource: "roles", Singular: "role",
		Namespaced: true, Prefix: "roles",
		New: func() Object { return &rbacv1.Role{} }, NewList: func() runtime.Object { return &rbacv1.RoleList{} },
		PrepareCreate: do(prepare.Create[*rbacv1.Role]), PrepareUpdate: doBoth(prepare.Keep[*rbacv1.Role]),
		Validate: check(validate.Role), ValidateUpdate: checkBoth(validate.RoleUpdate),
		Columns:             roleColumns,
		AllowCreateOnUpdate: true,
	}
	RoleBinding = &Kind{
		GVK: rbacv1.SchemeGroupVersion.WithKind("RoleBinding"), Resource: "rolebindings", Singular: "rolebinding",
		Namespaced: true, Prefix: "rolebindings",
		New: func() Object { return &rbacv1.RoleBinding{} }, NewList: func() runtime.Object { return &rbacv1.RoleBindingList{} },
		Default:       do(defaults.RoleBinding),
		PrepareCreate: do(prepare.Create[*rbacv1.RoleBinding]), PrepareUpdate: doBoth(prepare.Keep[*rbacv1.RoleBinding]),
		Validate: check(validate.RoleBinding), ValidateUpdate: checkBoth(validate.RoleBindingUpdate),
		Columns:             roleBindingColumns,
		AllowCreateOnUpdate: true,
	}
	PriorityClass = &Kind{
		GVK: schedulingv1.SchemeGroupVersion.WithKind("PriorityClass"), Resource: "priorityclasses", Singular: "priorityclass", ShortNames: []string{"pc"},
		Prefix: "priorityclasses",
		New:    func() Object { return &schedulingv1.PriorityClass{} }, NewList: func() runtime.Object { return &schedulingv1.PriorityClassList{} },
		Default:       do(defaults.PriorityClass),
		PrepareCreate: do(prepare.CreateManaged[*schedulingv1.PriorityClass]), PrepareUpdate: doBoth(prepare.Keep[*schedulingv1.PriorityClass]),
		Validate: check(validate.PriorityClass), ValidateUpdate: checkBoth(validate.PriorityClassUpdate),
		Columns: priorityClassColumns,
	}
)

// Builtin is the table of all built-in kinds. Each group of kinds that was not
// there from the first day has a file of its own with its slice.
func Builtin() *Table {
	return NewTable(slices.Concat(
		basic,
		apiextensions,
		admissionregistration,
		apiregistration,
		asked,
		storageKinds,
		resourceKinds,
		migrationKinds,
		flowcontrol,
		batchKinds,
		autoscalingKinds,
		policyKinds,
		nodeKinds,
		serviceNetworks,
		podCertificates,
		measuredKinds,
	))
}

var basic = []*Kind{
	ConfigMap,
	Endpoints,
	Event,
	LimitRange,
	Namespace,
	Node,
	PersistentVolume,
	PersistentVolumeClaim,
	Pod,
	PodTemplate,
	ReplicationController,
	ResourceQuota,
	Secret,
	Service,
	ServiceAccount,
	ControllerRevision,
	DaemonSet,
	Deployment,
	ReplicaSet,
	StatefulSet,
	CertificateSigningRequest,
	Lease,
	EndpointSlice,
	EventsEvent,
	Ingress,
	IngressClass,
	NetworkPolicy,
	ClusterRole,
	ClusterRoleBinding,
	Role,
	RoleBinding,
	PriorityClass,
}
