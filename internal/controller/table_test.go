package controller_test

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	registrationv1 "k8s.io/api/admissionregistration/v1"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	migrationv1 "k8s.io/api/storagemigration/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/controller/apiservice"
	"knarr.dev/knarr/internal/controller/clusterauthentication"
	"knarr.dev/knarr/internal/controller/clusterroleaggregation"
	"knarr.dev/knarr/internal/controller/cronjob"
	"knarr.dev/knarr/internal/controller/customresourcedefinition"
	"knarr.dev/knarr/internal/controller/devicetaint"
	"knarr.dev/knarr/internal/controller/endpoints"
	"knarr.dev/knarr/internal/controller/flowcontrol"
	"knarr.dev/knarr/internal/controller/ipaddress"
	"knarr.dev/knarr/internal/controller/kubernetesservice"
	"knarr.dev/knarr/internal/controller/legacytoken"
	"knarr.dev/knarr/internal/controller/namespace"
	"knarr.dev/knarr/internal/controller/nodeipam"
	"knarr.dev/knarr/internal/controller/nodelifecycle"
	"knarr.dev/knarr/internal/controller/podcertificate"
	"knarr.dev/knarr/internal/controller/podgc"
	"knarr.dev/knarr/internal/controller/policystatus"
	"knarr.dev/knarr/internal/controller/pvcprotection"
	"knarr.dev/knarr/internal/controller/pvprotection"
	"knarr.dev/knarr/internal/controller/resourceclaim"
	"knarr.dev/knarr/internal/controller/resourcequota"
	"knarr.dev/knarr/internal/controller/rootca"
	"knarr.dev/knarr/internal/controller/serviceaccount"
	"knarr.dev/knarr/internal/controller/serviceaccounttoken"
	"knarr.dev/knarr/internal/controller/servicecidr"
	"knarr.dev/knarr/internal/controller/storagemigration"
	"knarr.dev/knarr/internal/controller/tokencleaner"
	"knarr.dev/knarr/internal/controller/trustbundle"
	"knarr.dev/knarr/internal/controller/ttlafterfinished"
	"knarr.dev/knarr/internal/controller/vacprotection"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kinds/expression"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

type (
	props  = reconciletest.Properties
	things = []reconciletest.Thing
)

// properties of each controller.
func properties() map[string]props {
	out := map[string]props{}
	for _, part := range []map[string]props{ofCluster(), ofAccounts(), ofNetwork(), ofNodes(), ofStorage(), ofRest()} {
		for name, p := range part {
			out[name] = p
		}
	}
	return out
}

func ofCluster() map[string]props {
	gv := func(s string) schema.GroupVersion {
		return schema.GroupVersion{Group: s + ".example.com", Version: "v1"}
	}
	return map[string]props{
		"apiservice": {
			Make: one(func() reconcile.Controller {
				return apiservice.Controller(func() []apiservice.Served {
					return []apiservice.Served{{GV: gv("a")}, {GV: gv("b"), Custom: true}, {GV: gv("c"), Custom: true}}
				})
			}),
			Draw: func(t *rapid.T) things {
				return several(t, kinds.APIService, 5, func(i int) kinds.Object {
					a := &apiregistrationv1.APIService{ObjectMeta: named("", "v1."+string(rune('a'+i))+".example.com"), Spec: apiregistrationv1.APIServiceSpec{Group: gv(string(rune('a' + i))).Group, Version: "v1"}}
					if own := rapid.SampledFrom([]string{"", "onstart", "true"}).Draw(t, "label"); own != "" {
						a.Labels = map[string]string{apiservice.Label: own}
					}
					return a
				})
			},
			Mine: of(kinds.APIService), Most: perThing(3),
		},
		"clusterauthentication": {
			Make: one(func() reconcile.Controller {
				return clusterauthentication.Controller(func() map[string]string { return map[string]string{"client-ca-file": "PEM"} })
			}),
			Draw: func(t *rapid.T) things {
				return several(t, kinds.ConfigMap, 2, func(i int) kinds.Object {
					return &corev1.ConfigMap{ObjectMeta: named(metav1.NamespaceSystem, []string{clusterauthentication.Name, "other"}[i]), Data: map[string]string{"client-ca-file": "OLD", "x": "y"}}
				})
			},
			Mine: func(ref kinds.Ref) bool { return ref.Name == clusterauthentication.Name }, Most: each(1),
		},
		"clusterroleaggregation": {
			Make: one(clusterroleaggregation.Controller),
			Draw: func(t *rapid.T) things {
				return several(t, kinds.ClusterRole, 5, func(i int) kinds.Object {
					r := &rbacv1.ClusterRole{ObjectMeta: named("", fmt.Sprint("r-", i)), Rules: []rbacv1.PolicyRule{{Verbs: []string{fmt.Sprint("v", rapid.IntRange(0, 2).Draw(t, "verb"))}, APIGroups: []string{""}, Resources: []string{"pods"}}}}
					r.Labels = map[string]string{"to": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "to")}
					if i < 2 && chance(t, "aggregates") {
						r.Name = fmt.Sprint("sum-", i)
						r.Labels = nil // sums of sums come to rest, but not in one order
						r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": "a"}}}}
					}
					return r
				})
			},
			Mine: func(ref kinds.Ref) bool { return strings.HasPrefix(ref.Name, "sum-") }, Most: each(1),
		},
		"namespace": {
			Make: one(func() reconcile.Controller { return namespace.Controller(kinds.Builtin()) }),
			Draw: func(t *rapid.T) things {
				return append(namespaces(t), several(t, kinds.ConfigMap, 6, func(i int) kinds.Object {
					cm := &corev1.ConfigMap{ObjectMeta: named(fmt.Sprint("ns-", rapid.IntRange(0, 4).Draw(t, "in")), fmt.Sprint("cm-", i))}
					if rapid.IntRange(0, 4).Draw(t, "held") == 0 {
						cm.ObjectMeta = going(cm.ObjectMeta)
					}
					return cm
				})...)
			},
			Mine: of(kinds.Namespace, kinds.ConfigMap, kinds.Event), Most: perThing(3),
		},
		"resourcequota": {
			Make: one(func() reconcile.Controller { return resourcequota.Controller(kinds.Builtin()) }),
			Draw: func(t *rapid.T) things {
				return append(pods(t, nil), several(t, kinds.ResourceQuota, 3, func(i int) kinds.Object {
					return &corev1.ResourceQuota{ObjectMeta: named([]string{"ns", "ns", "other"}[i], fmt.Sprint("q-", i)), Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("3"), "count/configmaps": resource.MustParse("1")}}}
				})...)
			},
			Mine: of(kinds.ResourceQuota), Most: each(1),
		},
		"flowcontrol": {
			Make: one(flowcontrol.Controller),
			Draw: func(t *rapid.T) things {
				return several(t, kinds.FlowSchema, 4, func(i int) kinds.Object {
					f := &flowcontrolv1.FlowSchema{ObjectMeta: named("", []string{"exempt", "probes", "mine", "old"}[i]), Spec: flowcontrolv1.FlowSchemaSpec{MatchingPrecedence: 7,
						PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: rapid.SampledFrom([]string{"exempt", "nowhere"}).Draw(t, "level")}}}
					if chance(t, "kept up") {
						f.Annotations = map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: rapid.SampledFrom([]string{"true", "false"}).Draw(t, "auto")}
					}
					return f
				})
			},
			Mine: of(kinds.FlowSchema, kinds.PriorityLevelConfiguration), Most: func(n int) int { return 60 + 2*n },
		},
		"policystatus": {
			Make: one(func() reconcile.Controller {
				return policystatus.Controller(expression.Types{
					Kind: func(schema.GroupVersionResource) (schema.GroupVersionKind, bool) {
						return schema.GroupVersionKind{}, false
					},
					Schema: func(schema.GroupVersionKind) *spec.Schema { return nil }})
			}),
			Draw: func(t *rapid.T) things {
				return several(t, kinds.ValidatingAdmissionPolicy, 3, func(i int) kinds.Object {
					p := &registrationv1.ValidatingAdmissionPolicy{ObjectMeta: named("", fmt.Sprint("p-", i))}
					p.Spec.MatchConstraints = &registrationv1.MatchResources{}
					p.Spec.Validations = []registrationv1.Validation{{Expression: "object.x == 1"}}
					p.Status.ObservedGeneration = int64(rapid.IntRange(0, 1).Draw(t, "seen"))
					return p
				})
			},
			Mine: of(kinds.ValidatingAdmissionPolicy), Most: each(1),
		},
		"customresourcedefinition": {
			Make: one(func() reconcile.Controller {
				return customresourcedefinition.Controller(kinds.Custom, (*view.Snapshot).ByName)
			}),
			Draw: func(t *rapid.T) things {
				return several(t, kinds.CustomResourceDefinition, 3, func(i int) kinds.Object {
					// No two ask for one name: who comes first has it.
					names := apiextensionsv1.CustomResourceDefinitionNames{Plural: fmt.Sprint("as", i), Singular: fmt.Sprint("a", i), Kind: fmt.Sprint("A", i), ListKind: fmt.Sprintf("A%dList", i)}
					c := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: named("", names.Plural+".example.com")}
					c.Spec.Group, c.Spec.Names = "example.com", names
					if chance(t, "going") {
						c.ObjectMeta = going(c.ObjectMeta, apiextensionsv1.CustomResourceCleanupFinalizer)
					}
					return c
				})
			},
			Mine: of(kinds.CustomResourceDefinition), Most: each(3), Horizon: time.Minute,
		},
	}
}

func ofAccounts() map[string]props {
	secrets := func(t *rapid.T) things {
		out := several(t, kinds.ServiceAccount, 2, func(i int) kinds.Object {
			return &corev1.ServiceAccount{ObjectMeta: named("ns", fmt.Sprint("sa-", i)), Secrets: []corev1.ObjectReference{{Name: "x-0"}, {Name: "x-1"}, {Name: "x-2"}}}
		})
		return append(out, several(t, kinds.Secret, 4, func(i int) kinds.Object {
			s := &corev1.Secret{ObjectMeta: named("ns", fmt.Sprint("x-", i)), Type: corev1.SecretTypeServiceAccountToken}
			s.Annotations = map[string]string{corev1.ServiceAccountNameKey: fmt.Sprint("sa-", rapid.IntRange(0, 2).Draw(t, "of"))}
			s.CreationTimestamp = metav1.NewTime(made.AddDate(-3, 0, 0))
			if chance(t, "none") {
				s.Name, s.Type = fmt.Sprint("plain-", i), corev1.SecretTypeOpaque
			}
			return s
		})...)
	}
	token := func(ref kinds.Ref) bool { return ref.Kind == kinds.Secret && strings.HasPrefix(ref.Name, "x-") }
	return map[string]props{
		"serviceaccount": {Make: one(serviceaccount.Controller), Draw: namespaces, Most: each(1),
			Mine: func(ref kinds.Ref) bool { return ref.Kind == kinds.ServiceAccount && ref.Name == serviceaccount.Name }},
		"rootca": {
			Make: one(func() reconcile.Controller {
				return rootca.Controller(rootca.Config{Bundle: func() []byte { return []byte("PEM") }})
			}),
			Draw: func(t *rapid.T) things {
				return append(namespaces(t), several(t, kinds.ConfigMap, 4, func(i int) kinds.Object {
					return &corev1.ConfigMap{ObjectMeta: named(fmt.Sprint("ns-", i), rapid.SampledFrom([]string{rootca.Name, "other"}).Draw(t, "name")), Data: map[string]string{"ca.crt": "OLD"}}
				})...)
			},
			Mine: func(ref kinds.Ref) bool { return ref.Kind == kinds.ConfigMap && ref.Name == rootca.Name }, Most: each(1),
		},
		"serviceaccounttoken": {
			Make: one(func() reconcile.Controller {
				return serviceaccounttoken.Controller(serviceaccounttoken.Config{Bundle: func() []byte { return []byte("PEM") },
					Token: func(sa *corev1.ServiceAccount, secret string) (string, error) { return sa.Name + "/" + secret, nil }})
			}),
			Draw: secrets, Mine: token, Most: each(1),
		},
		"legacytoken": {
			Make: func(*reconciletest.World) []reconcile.Controller {
				return legacytoken.Controllers(legacytoken.Config{Mounts: func(*corev1.Pod, string) bool { return false }})
			},
			Draw: func(t *rapid.T) things {
				return append(secrets(t), several(t, kinds.ConfigMap, 1, func(int) kinds.Object {
					return &corev1.ConfigMap{ObjectMeta: named(metav1.NamespaceSystem, legacytoken.Map), Data: map[string]string{legacytoken.Since: rapid.SampledFrom([]string{"2020-01-01", "2025-12-30", "nonsense"}).Draw(t, "since")}}
				})...)
			},
			Mine: func(ref kinds.Ref) bool {
				return token(ref) || ref.Kind == kinds.ConfigMap && ref.Name == legacytoken.Map
			}, Most: each(1),
		},
		"tokencleaner": {
			Make: one(tokencleaner.Controller),
			Draw: func(t *rapid.T) things {
				return several(t, kinds.Secret, 5, func(i int) kinds.Object {
					s := &corev1.Secret{ObjectMeta: named(metav1.NamespaceSystem, fmt.Sprint("x-", i)), Type: "bootstrap.kubernetes.io/token", Data: map[string][]byte{}}
					if end := rapid.IntRange(-2, 3).Draw(t, "hours"); end != 0 {
						s.Data["expiration"] = []byte(made.Add(time.Duration(end) * time.Hour).Format(time.RFC3339))
					}
					if chance(t, "none") {
						s.Name, s.Type = fmt.Sprint("plain-", i), corev1.SecretTypeOpaque
					}
					return s
				})
			},
			Mine: token, Most: each(1), Horizon: 2 * time.Hour,
		},
		"podcertificate": {
			Make: one(podcertificate.Controller),
			Draw: func(t *rapid.T) things {
				return several(t, kinds.PodCertificateRequest, 4, func(i int) kinds.Object {
					r := &certificatesv1.PodCertificateRequest{ObjectMeta: named("ns", fmt.Sprint("r-", i))}
					r.CreationTimestamp = metav1.NewTime(made.Add(-time.Duration(rapid.IntRange(0, 30).Draw(t, "age")) * time.Minute))
					return r
				})
			},
			Mine: of(kinds.PodCertificateRequest), Most: each(1), Horizon: 5 * time.Minute,
		},
		"trustbundle": {
			Make: one(func() reconcile.Controller { return trustbundle.Controller(func() []byte { return []byte("PEM") }) }),
			Draw: func(t *rapid.T) things {
				return several(t, kinds.ClusterTrustBundle, 4, func(i int) kinds.Object {
					b := &certificatesv1.ClusterTrustBundle{ObjectMeta: named("", fmt.Sprint("own-", i)), Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: trustbundle.Signer, TrustBundle: "OLD"}}
					if chance(t, "others") {
						b.Name, b.Spec.SignerName = fmt.Sprint("foreign-", i), "example.com/signer"
					}
					return b
				})
			},
			Mine: func(ref kinds.Ref) bool { return !strings.HasPrefix(ref.Name, "foreign-") }, Most: perThing(1),
		},
	}
}

func ofNetwork() map[string]props {
	return map[string]props{
		"endpoints": {Make: one(endpoints.Controller), Draw: services, Mine: of(kinds.Endpoints), Most: each(1)},
		"kubernetesservice": {
			Make: one(func() reconcile.Controller {
				c, err := kubernetesservice.Controller(kubernetesservice.Config{IP: netip.MustParseAddr("10.96.0.1"), Port: 6443, Servers: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("192.0.2.1")} }})
				if err != nil {
					panic(err) // the configuration is constant
				}
				return c
			}),
			Draw: func(t *rapid.T) things {
				return append(services(t), several(t, kinds.Endpoints, 1, func(int) kinds.Object {
					return &corev1.Endpoints{ObjectMeta: named(metav1.NamespaceDefault, kubernetesservice.Name)}
				})...)
			},
			Mine: func(ref kinds.Ref) bool {
				return ref.Namespace == metav1.NamespaceDefault && ref.Name == kubernetesservice.Name
			}, Most: each(4), Horizon: time.Minute,
		},
		"ipaddress": {
			Make: one(ipaddress.Controller),
			Draw: func(t *rapid.T) things {
				out := append(services(t), reconciletest.Thing{Kind: kinds.ServiceCIDR, Object: &networkingv1.ServiceCIDR{ObjectMeta: named("", "kubernetes"), Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}}})
				return append(out, several(t, kinds.IPAddress, 4, func(i int) kinds.Object {
					a := &networkingv1.IPAddress{ObjectMeta: named("", fmt.Sprint("10.96.0.", 10+i)), Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "ns", Name: fmt.Sprint("s-", rapid.IntRange(0, 3).Draw(t, "of"))}}}
					a.Labels = map[string]string{networkingv1.LabelManagedBy: "ipallocator.k8s.io", networkingv1.LabelIPAddressFamily: "IPv4"}
					return a
				})...)
			},
			Mine: of(kinds.IPAddress), Most: each(1),
		},
		"servicecidr": {
			Make: func(*reconciletest.World) []reconcile.Controller {
				return []reconcile.Controller{servicecidr.Controller(), servicecidr.Default("10.200.0.0/16")}
			},
			Draw: func(t *rapid.T) things {
				out := several(t, kinds.ServiceCIDR, 3, func(i int) kinds.Object {
					c := &networkingv1.ServiceCIDR{ObjectMeta: named("", fmt.Sprint("c-", i)), Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{fmt.Sprintf("10.%d.0.0/16", 96+i)}}}
					if chance(t, "going") {
						c.ObjectMeta = going(c.ObjectMeta, servicecidr.Finalizer)
					}
					return c
				})
				return append(out, several(t, kinds.IPAddress, 3, func(i int) kinds.Object {
					a := &networkingv1.IPAddress{ObjectMeta: named("", fmt.Sprintf("10.%d.0.9", 96+i))}
					a.Labels = map[string]string{networkingv1.LabelManagedBy: "ipallocator.k8s.io"}
					return a
				})...)
			},
			Mine: of(kinds.ServiceCIDR), Most: each(1), Horizon: time.Minute,
		},
	}
}

func ofNodes() map[string]props {
	nodes := func(t *rapid.T) things {
		return several(t, kinds.Node, 3, func(i int) kinds.Object {
			n := &corev1.Node{ObjectMeta: named("", fmt.Sprint("n-", i))}
			status := corev1.ConditionTrue
			if i == 0 { // of several, one would be given up after the other
				status = rapid.SampledFrom([]corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown}).Draw(t, "ready")
			}
			n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status, LastHeartbeatTime: metav1.NewTime(made), LastTransitionTime: metav1.NewTime(made)}}
			if chance(t, "tainted") {
				n.Spec.Taints = []corev1.Taint{{Key: "drain", Effect: corev1.TaintEffectNoExecute}}
			}
			return n
		})
	}
	return map[string]props{
		"nodeipam": {
			Make: one(func() reconcile.Controller {
				c, err := nodeipam.Controller(nodeipam.Config{Cluster: netip.MustParsePrefix("10.0.0.0/22")})
				if err != nil {
					panic(err) // the configuration is constant
				}
				return c
			}),
			Draw: nodes, Mine: of(kinds.Node), Most: perThing(1),
		},
		"nodelifecycle": {
			Make: one(func() reconcile.Controller { return nodelifecycle.Controller(nodelifecycle.Config{}) }),
			Draw: func(t *rapid.T) things {
				now := metav1.NewMicroTime(made.Add(time.Hour))
				out := append(nodes(t), pods(t, nil)...)
				for i := range 3 {
					out = append(out, reconciletest.Thing{Kind: kinds.Lease, Object: &coordinationv1.Lease{ObjectMeta: named(corev1.NamespaceNodeLease, fmt.Sprint("n-", i)), Spec: coordinationv1.LeaseSpec{RenewTime: &now}}})
				}
				return out
			},
			Mine: func(ref kinds.Ref) bool { return ref.Kind == kinds.Node || ref.Kind == kinds.Pod }, Most: perThing(3), Horizon: 20 * time.Second,
		},
		"podgc": {
			Make: one(func() reconcile.Controller { return podgc.Controller(podgc.Config{FinishedThreshold: 2}) }),
			Draw: func(t *rapid.T) things {
				return append(nodes(t), pods(t, func(i int, p *corev1.Pod) {
					if p.Spec.NodeName == "n-0" || p.Spec.NodeName == "n-1" {
						p.Spec.NodeName = rapid.SampledFrom([]string{"gone", ""}).Draw(t, "where")
					}
					p.CreationTimestamp = metav1.NewTime(made.Add(time.Duration(i) * time.Second))
				})...)
			},
			Mine: of(kinds.Pod), Most: perThing(2), Horizon: 5 * time.Minute,
		},
	}
}

func ofStorage() map[string]props {
	return map[string]props{
		"pvcprotection": {
			Make: one(pvcprotection.Controller),
			Draw: func(t *rapid.T) things {
				out := pods(t, func(_ int, p *corev1.Pod) {
					p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: fmt.Sprint("c-", rapid.IntRange(0, 3).Draw(t, "claim"))}}}}
				})
				return append(out, several(t, kinds.PersistentVolumeClaim, 3, func(i int) kinds.Object {
					c := &corev1.PersistentVolumeClaim{ObjectMeta: named("ns", fmt.Sprint("c-", i))}
					if c.Status.Phase = corev1.ClaimPending; chance(t, "bound") {
						c.Status.Phase = corev1.ClaimBound
					}
					if chance(t, "going") {
						c.ObjectMeta = going(c.ObjectMeta, pvcprotection.Finalizer)
					}
					return c
				})...)
			},
			Mine: of(kinds.PersistentVolumeClaim), Most: each(1),
		},
		"resourceclaim": {
			Make: func(*reconciletest.World) []reconcile.Controller {
				return []reconcile.Controller{resourceclaim.Claims(), resourceclaim.Pods()}
			},
			Draw: drawClaims, Mine: of(kinds.Pod, kinds.ResourceClaim), Most: perThing(3),
		},
		"devicetaint": {
			Make: one(func() reconcile.Controller { return devicetaint.Pods(devicetaint.NewTally()) }),
			Draw: drawTainted, Mine: of(kinds.Pod), Most: each(2), Horizon: time.Minute,
		},
		// Apart: how much of an eviction a rule gets to tell of is by chance.
		"devicetaint, its rules": {
			Make: one(func() reconcile.Controller { return devicetaint.Rules(devicetaint.NewTally()) }),
			Draw: drawTainted, Mine: of(kinds.DeviceTaintRule), Most: each(1), Horizon: time.Minute,
		},
		"pvprotection": {
			Make: one(pvprotection.Controller),
			Draw: func(t *rapid.T) things {
				return several(t, kinds.PersistentVolume, 4, func(i int) kinds.Object {
					v := &corev1.PersistentVolume{ObjectMeta: named("", fmt.Sprint("v-", i))}
					if chance(t, "bound") {
						v.Status.Phase = corev1.VolumeBound
					}
					if chance(t, "going") {
						v.ObjectMeta = going(v.ObjectMeta, "kubernetes.io/pv-protection")
					}
					return v
				})
			},
			Mine: of(kinds.PersistentVolume), Most: each(1),
		},
		"vacprotection": {
			Make: one(vacprotection.Controller),
			Draw: func(t *rapid.T) things {
				out := several(t, kinds.VolumeAttributesClass, 3, func(i int) kinds.Object {
					c := &storagev1.VolumeAttributesClass{ObjectMeta: named("", fmt.Sprint("c-", i))}
					if chance(t, "going") {
						c.ObjectMeta = going(c.ObjectMeta, vacprotection.Finalizer)
					}
					return c
				})
				return append(out, several(t, kinds.PersistentVolume, 2, func(i int) kinds.Object {
					name := fmt.Sprint("c-", rapid.IntRange(0, 2).Draw(t, "class"))
					return &corev1.PersistentVolume{ObjectMeta: named("", fmt.Sprint("v-", i)), Spec: corev1.PersistentVolumeSpec{VolumeAttributesClassName: &name}}
				})...)
			},
			Mine: of(kinds.VolumeAttributesClass), Most: each(1),
		},
		"storagemigration": {
			Make: one(func() reconcile.Controller { return storagemigration.Controller([]*kinds.Kind{kinds.ConfigMap}) }),
			Draw: func(t *rapid.T) things {
				out := several(t, kinds.ConfigMap, 4, func(i int) kinds.Object {
					return &corev1.ConfigMap{ObjectMeta: named("ns", fmt.Sprint("cm-", i))}
				})
				// One at a time: the revision that it begins at is in its status.
				return append(out, several(t, kinds.StorageVersionMigration, 1, func(i int) kinds.Object {
					return &migrationv1.StorageVersionMigration{ObjectMeta: named("", fmt.Sprint("m-", i)), Spec: migrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Resource: rapid.SampledFrom([]string{"configmaps", "nothings"}).Draw(t, "resource")}}}
				})...)
			},
			Mine: of(kinds.StorageVersionMigration, kinds.ConfigMap), Most: perThing(1), Horizon: 10 * time.Minute,
		},
	}
}

func ofRest() map[string]props {
	return map[string]props{
		"ttlafterfinished": {
			Make: one(ttlafterfinished.Controller),
			Draw: func(t *rapid.T) things {
				return several(t, kinds.Job, 5, func(i int) kinds.Object {
					j := &batchv1.Job{ObjectMeta: named("ns", fmt.Sprint("j-", i))}
					if ttl := int32(rapid.IntRange(0, 300).Draw(t, "ttl")); chance(t, "ends") {
						j.Spec.TTLSecondsAfterFinished = &ttl
						j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(made)}}
					} else {
						j.Name = fmt.Sprint("kept-", i)
					}
					return j
				})
			},
			Mine: func(ref kinds.Ref) bool { return strings.HasPrefix(ref.Name, "j-") }, Most: each(1), Horizon: 2 * time.Minute,
		},
		"cronjob": {
			Make: one(cronjob.Controller),
			Draw: func(t *rapid.T) things {
				out := several(t, kinds.CronJob, 2, func(i int) kinds.Object {
					keep := int32(rapid.IntRange(0, 2).Draw(t, "keep"))
					c := &batchv1.CronJob{ObjectMeta: named("ns", fmt.Sprint("c-", i)), Spec: batchv1.CronJobSpec{Schedule: "*/2 * * * *", SuccessfulJobsHistoryLimit: &keep, FailedJobsHistoryLimit: &keep}}
					c.UID = types.UID(fmt.Sprint("cron-", i))
					c.Spec.ConcurrencyPolicy = rapid.SampledFrom([]batchv1.ConcurrencyPolicy{batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent}).Draw(t, "policy")
					return c
				})
				return append(out, several(t, kinds.Job, 5, func(i int) kinds.Object {
					j := &batchv1.Job{ObjectMeta: named("ns", fmt.Sprint("c-0-", i))}
					if chance(t, "ended") {
						j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(made)}}
					}
					if chance(t, "owned") && len(out) > 0 {
						j.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(out[0].Object, kinds.CronJob.GVK)}
					} else {
						j.Name = fmt.Sprint("foreign-", i)
					}
					return j
				})...)
			},
			Mine: func(ref kinds.Ref) bool { return !strings.HasPrefix(ref.Name, "foreign-") }, Most: perThing(2), Horizon: 5 * time.Minute,
		},
	}
}
