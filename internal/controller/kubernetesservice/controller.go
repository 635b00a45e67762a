package kubernetesservice

import (
	"errors"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

var errConfig = errors.New("kubernetesservice: an address of the service, servers and a port are needed")

// resync bounds how long a change of the servers goes unnoticed, which no
// object tells.
const resync = 30 * time.Second

// Config of the controller.
type Config struct {
	IP netip.Addr // the first of the service range
	// Servers returns the addresses of the API servers as pods reach them. It
	// must be quick; none leaves the endpoints as they are.
	Servers func() []netip.Addr
	Port    int32 // of the API servers
	// Again is how soon to ask for the servers anew; 0: they hardly change.
	Again time.Duration
}

// Controller keeps the service and its endpoints.
func Controller(c Config) (reconcile.Controller, error) {
	if !c.IP.IsValid() || c.Servers == nil || c.Port <= 0 || c.Port > 65535 {
		return reconcile.Controller{}, errConfig
	}
	return reconcile.Controller{
		Name: "kubernetes-service-controller",
		Watches: []reconcile.Watch{
			{Kind: kinds.Service, Keys: keys}, {Kind: kinds.EndpointSlice, Keys: keys}, {Kind: kinds.Endpoints, Keys: keys},
		},
		Writes: []reconcile.Write{
			{Kind: kinds.Service, Verbs: []plan.Verb{plan.Create, plan.Update}},
			{Kind: kinds.EndpointSlice, Verbs: []plan.Verb{plan.Create, plan.Update, plan.Delete}},
			{Kind: kinds.Endpoints, Verbs: []plan.Verb{plan.Create, plan.Update}},
		},
		Resync: resync,
		Plan: func(in reconcile.Input) plan.Result {
			res := Plan(Observed{
				IP: c.IP, Servers: c.Servers(), Port: c.Port,
				Service:   view.Get[*corev1.Service](in.View, kinds.Service, metav1.NamespaceDefault, Name),
				Slice:     view.Get[*discoveryv1.EndpointSlice](in.View, kinds.EndpointSlice, metav1.NamespaceDefault, Name),
				Endpoints: view.Get[*corev1.Endpoints](in.View, kinds.Endpoints, metav1.NamespaceDefault, Name),
			})
			res.After = c.Again
			return res
		},
	}, nil
}

func keys(_ *view.Snapshot, c view.Change) []reconcile.Key {
	if o := c.Object(); o.GetNamespace() != metav1.NamespaceDefault || o.GetName() != Name {
		return nil
	}
	return []reconcile.Key{{}}
}
