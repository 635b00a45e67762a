package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/auth/bootstrap"
	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
)

// learnEvery is how long an agent waits for a server that does not answer.
const learnEvery = time.Second

// networks are what all nodes of a cluster have to agree on: the server tells
// its agents in a ConfigMap, under these keys.
func (c *Config) networks() map[string]*string {
	return map[string]*string{"cluster-cidr": &c.ClusterCIDR, "service-cidr": &c.ServiceCIDR, "cluster-dns": &c.ClusterDNS, "cluster-domain": &c.ClusterDomain}
}

// publishNetworks writes the ConfigMap if it does not stand already.
func publishNetworks(ctx context.Context, api client.Client, c *Config) error {
	ref := kinds.Ref{Kind: kinds.ConfigMap, Namespace: metav1.NamespaceSystem, Name: bootstrap.NetworkMap}
	want := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: ref.Name, Namespace: ref.Namespace}, Data: map[string]string{}}
	for key, value := range c.networks() {
		want.Data[key] = *value
	}
	have, err := api.Get(ctx, ref)
	if apierrors.IsNotFound(err) {
		if _, err = api.Create(ctx, ref, want); apierrors.IsAlreadyExists(err) {
			return nil // another server was faster, and says the same
		}
		return err
	}
	if err != nil {
		return err
	}
	if cm, ok := have.(*corev1.ConfigMap); ok && maps.Equal(cm.Data, want.Data) {
		return nil
	}
	if _, err = api.Update(ctx, ref, want); apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// learnNetworks reads the ConfigMap as the node; it waits for a server that
// does not answer.
func learnNetworks(ctx context.Context, api client.Client, c *Config) error {
	for said := false; ; said = true {
		obj, err := getObject(ctx, api, kinds.ConfigMap, metav1.NamespaceSystem, bootstrap.NetworkMap)
		if cm, ok := obj.(*corev1.ConfigMap); ok && err == nil {
			return c.takeNetworks(cm)
		}
		if status := apierrors.APIStatus(nil); errors.As(err, &status) || errors.As(err, new(x509.UnknownAuthorityError)) {
			return joinError(c, err)
		}
		if !said {
			c.Log.Warn("the server does not answer; it is asked again and again", "server", c.JoinServer, "error", err)
			c.Progress("waiting for " + c.JoinServer + ", which does not answer: " + err.Error())
		}
		select {
		case <-time.After(learnEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *Config) takeNetworks(cm *corev1.ConfigMap) error {
	for key, value := range c.networks() {
		if *value = cm.Data[key]; *value == "" {
			return fmt.Errorf("the server's ConfigMap %s/%s lacks %s: start the server again, which writes it", cm.Namespace, cm.Name, key)
		}
	}
	return c.completeNetworks()
}

// joinError adds the remedy to what keeps an agent from its server.
func joinError(c *Config, err error) error {
	var remedy string
	switch {
	case apierrors.IsUnauthorized(err) && c.JoinToken != "":
		remedy = "the token is wrong, used up by time or deleted: print a new one on the server with `knarr token create`"
	case apierrors.IsUnauthorized(err):
		remedy = "the server does not know this node any more: join again with a token of `knarr token create`"
	case apierrors.IsNotFound(err):
		remedy = "is this the address of a knarr server?"
	case errors.As(err, new(x509.UnknownAuthorityError)):
		remedy = "the server is not of the cluster that this machine has joined; to join another, `knarr uninstall` here first"
	case errors.As(err, new(x509.HostnameError)):
		remedy = "the server's certificate does not name that address: start the server with it in --tls-san"
	case errors.As(err, new(net.Error)):
		remedy = "does a knarr server run there, and can this machine reach it?"
	default:
		return fmt.Errorf("cannot join %s: %w", c.JoinServer, err)
	}
	return fmt.Errorf("cannot join %s: %s (%w)", c.JoinServer, remedy, err)
}
