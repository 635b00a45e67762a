package kinds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
)

func selectorColumn[T Object](selector func(T) *metav1.LabelSelector) []Column {
	return []Column{wide(cell("Selector", "string", "Labels of the pods.", func(o T) any { return metav1.FormatLabelSelector(selector(o)) }))}
}

var (
	deploymentColumns = columns([]Column{
		nameColumn,
		cell("Ready", "string", "Number of the pod with ready state", func(d *appsv1.Deployment) any {
			return fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, number(d.Spec.Replicas))
		}),
		cell("Up-to-date", "string", "Number of pods of the newest template.", func(d *appsv1.Deployment) any { return int64(d.Status.UpdatedReplicas) }),
		cell("Available", "string", "Number of pods that have been ready long enough.", func(d *appsv1.Deployment) any { return int64(d.Status.AvailableReplicas) }),
		ageColumn,
	}, containerColumns(func(d *appsv1.Deployment) *corev1.PodSpec { return &d.Spec.Template.Spec }),
		selectorColumn(func(d *appsv1.Deployment) *metav1.LabelSelector { return d.Spec.Selector }))
	replicaSetColumns = columns([]Column{
		nameColumn,
		cell("Desired", "integer", "Number of pods wanted.", func(rs *appsv1.ReplicaSet) any { return number(rs.Spec.Replicas) }),
		cell("Current", "integer", "Number of pods there are.", func(rs *appsv1.ReplicaSet) any { return int64(rs.Status.Replicas) }),
		cell("Ready", "integer", "Number of pods that are ready.", func(rs *appsv1.ReplicaSet) any { return int64(rs.Status.ReadyReplicas) }),
		ageColumn,
	}, containerColumns(func(rs *appsv1.ReplicaSet) *corev1.PodSpec { return &rs.Spec.Template.Spec }),
		selectorColumn(func(rs *appsv1.ReplicaSet) *metav1.LabelSelector { return rs.Spec.Selector }))
	daemonSetColumns = columns([]Column{
		nameColumn,
		cell("Desired", "integer", "Number of nodes that should run a pod.", func(ds *appsv1.DaemonSet) any { return int64(ds.Status.DesiredNumberScheduled) }),
		cell("Current", "integer", "Number of nodes that run one.", func(ds *appsv1.DaemonSet) any { return int64(ds.Status.CurrentNumberScheduled) }),
		cell("Ready", "integer", "Number of nodes where it is ready.", func(ds *appsv1.DaemonSet) any { return int64(ds.Status.NumberReady) }),
		cell("Up-to-date", "integer", "Number of nodes with a pod of the newest template.", func(ds *appsv1.DaemonSet) any { return int64(ds.Status.UpdatedNumberScheduled) }),
		cell("Available", "integer", "Number of nodes where it has been ready long enough.", func(ds *appsv1.DaemonSet) any { return int64(ds.Status.NumberAvailable) }),
		cell("Node Selector", "string", "Labels of the nodes.", func(ds *appsv1.DaemonSet) any { return labels.FormatLabels(ds.Spec.Template.Spec.NodeSelector) }),
		ageColumn,
	}, containerColumns(func(ds *appsv1.DaemonSet) *corev1.PodSpec { return &ds.Spec.Template.Spec }),
		selectorColumn(func(ds *appsv1.DaemonSet) *metav1.LabelSelector { return ds.Spec.Selector }))
	statefulSetColumns = columns([]Column{
		nameColumn,
		cell("Ready", "string", "Number of the pod with ready state", func(s *appsv1.StatefulSet) any {
			return fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, number(s.Spec.Replicas))
		}),
		ageColumn,
	}, containerColumns(func(s *appsv1.StatefulSet) *corev1.PodSpec { return &s.Spec.Template.Spec }))
	controllerRevisionColumns = []Column{
		nameColumn,
		cell("Controller", "string", "Controller of the object", func(cr *appsv1.ControllerRevision) any {
			ref := metav1.GetControllerOfNoCopy(cr)
			if ref == nil {
				return none
			}
			gv, err := schema.ParseGroupVersion(ref.APIVersion)
			if err != nil {
				return none
			}
			return strings.ToLower(gv.WithKind(ref.Kind).GroupKind().String()) + "/" + ref.Name
		}),
		cell("Revision", "string", "Number of the revision.", func(cr *appsv1.ControllerRevision) any { return cr.Revision }),
		ageColumn,
	}
)

var certificateSigningRequestColumns = []Column{
	nameColumn,
	ageColumn,
	cell("SignerName", "string", "Who is to sign.", func(c *certificatesv1.CertificateSigningRequest) any { return orNone(c.Spec.SignerName) }),
	cell("Requestor", "string", "Who asks.", func(c *certificatesv1.CertificateSigningRequest) any { return c.Spec.Username }),
	cell("RequestedDuration", "string", "How long it is to be valid.", func(c *certificatesv1.CertificateSigningRequest) any {
		if s := c.Spec.ExpirationSeconds; s != nil {
			return duration.HumanDuration(time.Duration(*s) * time.Second)
		}
		return none
	}),
	cell("Condition", "string", "What has been decided.", func(c *certificatesv1.CertificateSigningRequest) any {
		var approved, denied, failed bool
		for _, cond := range c.Status.Conditions {
			approved = approved || cond.Type == certificatesv1.CertificateApproved
			denied = denied || cond.Type == certificatesv1.CertificateDenied
			failed = failed || cond.Type == certificatesv1.CertificateFailed
		}
		status := "Pending"
		switch {
		case denied:
			status = "Denied"
		case approved:
			status = "Approved"
		}
		if failed {
			status += ",Failed"
		}
		if len(c.Status.Certificate) > 0 {
			status += ",Issued"
		}
		return status
	}),
}

var leaseColumns = []Column{
	nameColumn,
	cell("Holder", "string", "Who holds the lease.", func(l *coordinationv1.Lease) any {
		if l.Spec.HolderIdentity == nil {
			return ""
		}
		return *l.Spec.HolderIdentity
	}),
	ageColumn,
}

var (
	ingressColumns = []Column{
		nameColumn,
		cell("Class", "string", "Who serves it.", func(i *networkingv1.Ingress) any {
			if i.Spec.IngressClassName == nil {
				return none
			}
			return *i.Spec.IngressClassName
		}),
		cell("Hosts", "string", "Hosts that incoming requests are matched against before the ingress rule", func(i *networkingv1.Ingress) any {
			var hosts []string
			for _, r := range i.Spec.Rules {
				if r.Host != "" {
					hosts = append(hosts, r.Host)
				}
			}
			return few(hosts, "*")
		}),
		cell("Address", "string", "Address is a list containing ingress points for the load-balancer", func(i *networkingv1.Ingress) any {
			all := map[string]bool{}
			for _, in := range i.Status.LoadBalancer.Ingress {
				if in.IP != "" {
					all[in.IP] = true
				} else if in.Hostname != "" {
					all[in.Hostname] = true
				}
			}
			return strings.Join(slices.Sorted(maps.Keys(all)), ",")
		}),
		cell("Ports", "string", "Ports of TLS configurations that open", func(i *networkingv1.Ingress) any {
			if len(i.Spec.TLS) > 0 {
				return "80, 443"
			}
			return "80"
		}),
		ageColumn,
	}
	ingressClassColumns = []Column{
		nameColumn,
		cell("Controller", "string", "Controller that is responsible for handling this class", func(c *networkingv1.IngressClass) any { return c.Spec.Controller }),
		cell("Parameters", "string", "A reference to a resource with additional parameters", func(c *networkingv1.IngressClass) any {
			ref := c.Spec.Parameters
			if ref == nil {
				return none
			}
			kind := ref.Kind
			if ref.APIGroup != nil {
				kind += "." + *ref.APIGroup
			}
			return kind + "/" + ref.Name
		}),
		ageColumn,
	}
	networkPolicyColumns = []Column{
		nameColumn,
		cell("Pod-Selector", "string", "Labels of the pods.", func(n *networkingv1.NetworkPolicy) any { return metav1.FormatLabelSelector(&n.Spec.PodSelector) }),
		ageColumn,
	}
)

var (
	roleColumns               = plainColumns
	clusterRoleColumns        = plainColumns
	roleBindingColumns        = bindingLines(func(b *rbacv1.RoleBinding) (*rbacv1.RoleRef, []rbacv1.Subject) { return &b.RoleRef, b.Subjects })
	clusterRoleBindingColumns = bindingLines(func(b *rbacv1.ClusterRoleBinding) (*rbacv1.RoleRef, []rbacv1.Subject) { return &b.RoleRef, b.Subjects })
)

func bindingLines[T Object](of func(T) (*rbacv1.RoleRef, []rbacv1.Subject)) []Column {
	names := func(kind string) func(T) any {
		return func(o T) any {
			_, subjects := of(o)
			var list []string
			for _, s := range subjects {
				switch {
				case s.Kind != kind:
				case kind == rbacv1.ServiceAccountKind:
					list = append(list, s.Namespace+"/"+s.Name)
				default:
					list = append(list, s.Name)
				}
			}
			return strings.Join(list, ", ")
		}
	}
	return []Column{
		nameColumn,
		cell("Role", "string", "Role that is given.", func(o T) any {
			ref, _ := of(o)
			return ref.Kind + "/" + ref.Name
		}),
		ageColumn,
		wide(cell("Users", "string", "Users in the binding", names(rbacv1.UserKind))),
		wide(cell("Groups", "string", "Groups in the binding", names(rbacv1.GroupKind))),
		wide(cell("ServiceAccounts", "string", "ServiceAccounts in the binding", names(rbacv1.ServiceAccountKind))),
	}
}

var priorityClassColumns = []Column{
	nameColumn,
	cell("Value", "integer", "Priority of the pods.", func(p *schedulingv1.PriorityClass) any { return int64(p.Value) }),
	cell("Global-Default", "boolean", "Whether pods without a class are of this one.", func(p *schedulingv1.PriorityClass) any { return p.GlobalDefault }),
	ageColumn,
	cell("PreemptionPolicy", "string", "Whether its pods displace others.", func(p *schedulingv1.PriorityClass) any {
		if p.PreemptionPolicy == nil {
			return ""
		}
		return string(*p.PreemptionPolicy)
	}),
}
