package server

import (
	"log/slog"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"knarr.dev/knarr/internal/apiserver/openapi"
	"knarr.dev/knarr/internal/auth/authz"
	"knarr.dev/knarr/internal/controller/apiservice"
	"knarr.dev/knarr/internal/controller/clusterroleaggregation"
	"knarr.dev/knarr/internal/controller/cronjob"
	"knarr.dev/knarr/internal/controller/csr"
	"knarr.dev/knarr/internal/controller/customresourcedefinition"
	"knarr.dev/knarr/internal/controller/daemonset"
	"knarr.dev/knarr/internal/controller/deployment"
	"knarr.dev/knarr/internal/controller/devicetaint"
	"knarr.dev/knarr/internal/controller/disruption"
	"knarr.dev/knarr/internal/controller/endpoints"
	"knarr.dev/knarr/internal/controller/endpointslice"
	"knarr.dev/knarr/internal/controller/ephemeralvolume"
	"knarr.dev/knarr/internal/controller/flowcontrol"
	"knarr.dev/knarr/internal/controller/garbagecollector"
	"knarr.dev/knarr/internal/controller/horizontalpodautoscaler"
	"knarr.dev/knarr/internal/controller/ipaddress"
	"knarr.dev/knarr/internal/controller/job"
	"knarr.dev/knarr/internal/controller/kubernetesservice"
	"knarr.dev/knarr/internal/controller/namespace"
	"knarr.dev/knarr/internal/controller/nodeipam"
	"knarr.dev/knarr/internal/controller/nodelifecycle"
	"knarr.dev/knarr/internal/controller/podcertificate"
	"knarr.dev/knarr/internal/controller/podgc"
	"knarr.dev/knarr/internal/controller/policystatus"
	"knarr.dev/knarr/internal/controller/pvcprotection"
	"knarr.dev/knarr/internal/controller/pvprotection"
	"knarr.dev/knarr/internal/controller/replicaset"
	"knarr.dev/knarr/internal/controller/resourceclaim"
	"knarr.dev/knarr/internal/controller/resourcequota"
	"knarr.dev/knarr/internal/controller/rootca"
	"knarr.dev/knarr/internal/controller/serviceaccount"
	"knarr.dev/knarr/internal/controller/servicecidr"
	"knarr.dev/knarr/internal/controller/statefulset"
	"knarr.dev/knarr/internal/controller/storagemigration"
	"knarr.dev/knarr/internal/controller/trustbundle"
	"knarr.dev/knarr/internal/controller/ttlafterfinished"
	"knarr.dev/knarr/internal/controller/vacprotection"
	"knarr.dev/knarr/internal/controller/volumebinder"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kinds/expression"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/security/pki"
	"knarr.dev/knarr/internal/view"
)

// controllers of a server, each one line.
func controllers(c *Config, table *kinds.Table, authority *pki.Authority, authz *authz.Authorizer, signer csr.Signer, types expression.Types, scaling horizontalpodautoscaler.Source, servers servers) ([]reconcile.Controller, error) {
	approve, err := csr.Controller(csr.Config{Authorizer: authz, Signer: signer})
	if err != nil {
		return nil, err
	}
	ipam, err := nodeipam.Controller(nodeipam.Config{Cluster: netip.MustParsePrefix(c.ClusterCIDR), Bits: c.NodeCIDRMaskSize})
	if err != nil {
		return nil, err
	}
	api, err := kubernetesservice.Controller(kubernetesservice.Config{
		IP: netip.MustParseAddr(c.ServiceIP()), Port: int32(c.APIPort), Servers: servers.live, Again: servers.again})
	if err != nil {
		return nil, err
	}
	evicted := devicetaint.NewTally()
	return []reconcile.Controller{
		apiservice.Controller(func() []apiservice.Served { return served(table) }),
		clusterroleaggregation.Controller(),
		customresourcedefinition.Controller(kinds.Custom, (*view.Snapshot).ByName),
		serviceaccount.Controller(),
		rootca.Controller(rootca.Config{Bundle: func() []byte { return authority.PEM }}),
		namespace.Controller(table),
		garbagecollector.Controller(table),
		storagemigration.Controller(garbagecollector.Kinds(table)),
		api,
		approve,
		ipam,
		nodelifecycle.Controller(c.nodeLifecycle()),
		podgc.Controller(podgc.Config{}),
		pvcprotection.Controller(),
		pvprotection.Controller(),
		volumebinder.Claims(),
		volumebinder.Volumes(),
		resourceclaim.Claims(),
		resourceclaim.Pods(),
		devicetaint.Pods(evicted),
		devicetaint.Rules(evicted),
		resourcequota.Controller(table),
		vacprotection.Controller(),
		deployment.Controller(),
		disruption.Controller(table),
		replicaset.Controller(),
		replicaset.ReplicationController(),
		statefulset.Controller(),
		daemonset.Controller(),
		job.Controller(),
		cronjob.Controller(),
		ttlafterfinished.Controller(),
		horizontalpodautoscaler.Controller(table, scaling),
		endpointslice.Controller(),
		endpoints.Controller(),
		ephemeralvolume.Controller(),
		flowcontrol.Controller(),
		policystatus.Controller(types),
		servicecidr.Default(netip.MustParsePrefix(c.ServiceCIDR).Masked().String()),
		servicecidr.Controller(),
		ipaddress.Controller(),
		trustbundle.Controller(func() []byte { return authority.PEM }),
		podcertificate.Controller(),
	}, nil
}

// served are the groups and versions that this server answers for.
func served(table *kinds.Table) []apiservice.Served {
	var out []apiservice.Served
	for _, k := range table.All() {
		s := apiservice.Served{GV: k.GVK.GroupVersion(), Custom: k.Load != nil}
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// policyTypes are what policies are checked against: all that is served is described
// in its OpenAPI document.
func policyTypes(table *kinds.Table, docs *openapi.Handler, log *slog.Logger) expression.Types {
	return expression.Types{
		Kind: func(gvr schema.GroupVersionResource) (schema.GroupVersionKind, bool) {
			k := table.ByResource(gvr)
			if k == nil {
				return schema.GroupVersionKind{}, false
			}
			return k.GVK, true
		},
		Schema: func(gvk schema.GroupVersionKind) *spec.Schema {
			s, err := docs.Schema(gvk)
			if err != nil {
				log.Error("policies are not checked against a kind: it cannot be described", "kind", gvk.String(), "error", err)
			}
			return s
		},
	}
}
