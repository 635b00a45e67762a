package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"knarr.dev/knarr/internal/client/remote"
	"knarr.dev/knarr/internal/kinds"
)

// maxDocument bounds an answer that is read as JSON.
const maxDocument = 64 << 20

// access is how a command that is not bound to this machine reaches a cluster:
// as kubectl does, else as this machine's administrator.
type access struct {
	kubeconfig, kubeContext, dataDir string
}

func (a *access) flags(cmd *cobra.Command) {
	dataDirFlag(cmd, &a.dataDir)
	cmd.Flags().StringVar(&a.kubeconfig, "kubeconfig", "", "how to reach the cluster, and as whom (default $KUBECONFIG, ~/.kube/config, then this machine's administrator)")
	cmd.Flags().StringVar(&a.kubeContext, "context", "", "the kubeconfig's context")
}

// connect makes a client, and says which namespace is meant by default.
func (a *access) connect() (*remote.Client, string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = a.kubeconfig
	own := filepath.Join(a.dataDir, "kubeconfig")
	if a.kubeconfig == "" && !slices.ContainsFunc(rules.Precedence, there) && there(own) {
		rules.ExplicitPath = own
	}
	config := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: a.kubeContext})
	how, err := config.ClientConfig()
	if clientcmd.IsEmptyConfig(err) || errors.Is(err, rest.ErrNotInCluster) {
		return nil, "", fmt.Errorf("there is no kubeconfig: give one by --kubeconfig or KUBECONFIG, or run this as root on the server")
	}
	if err != nil {
		return nil, "", err
	}
	namespace, _, err := config.Namespace()
	if err != nil {
		return nil, "", err
	}
	transport, err := rest.TransportFor(how)
	if err != nil {
		return nil, "", fmt.Errorf("the kubeconfig's credentials are of no use: %w", err)
	}
	api, err := remote.New(remote.Config{Server: how.Host + how.APIPath, UserAgent: "knarr-cli", Transport: transport})
	return api, namespace, err
}

// unreached says what helps when there was no server to ask.
func unreached(err error) error {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return fmt.Errorf("no API server answers there; `knarr status` on the server says whether it runs: %w", err)
	}
	return err
}

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// findKind by what users call it: plural, singular, kind or short name, with or
// without its group.
func findKind(ctx context.Context, api *remote.Client, name string) (*kinds.Kind, error) {
	name = strings.ToLower(name)
	resource, group, _ := strings.Cut(name, ".")
	for _, k := range kinds.Builtin().All() {
		if k.Stored() && k.StoredAs == nil && (group == "" || group == k.GVK.Group) && called(resource, k.Resource, k.Singular, k.GVK.Kind, k.ShortNames) {
			return k, nil
		}
	}
	var groups apidiscoveryv2.APIGroupDiscoveryList
	if err := getJSON(ctx, api, "/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", &groups); err != nil {
		return nil, fmt.Errorf("cannot ask for the kinds that the server has: %w", err)
	}
	for _, g := range groups.Items {
		if group != "" && group != g.Name {
			continue
		}
		for _, v := range g.Versions {
			for _, r := range v.Resources {
				if r.ResponseKind == nil || !called(resource, r.Resource, r.SingularResource, r.ResponseKind.Kind, r.ShortNames) || !slices.Contains(r.Verbs, "get") {
					continue
				}
				return &kinds.Kind{GVK: schema.GroupVersionKind{Group: g.Name, Version: v.Version, Kind: r.ResponseKind.Kind},
					Resource: r.Resource, Singular: r.SingularResource, Namespaced: r.Scope == apidiscoveryv2.ScopeNamespace}, nil
			}
		}
	}
	return nil, fmt.Errorf("the server doesn't have a resource type %q", name) // kubectl's words
}

func called(name, resource, singular, kind string, short []string) bool {
	return name == resource || name == singular || name == strings.ToLower(kind) || slices.Contains(short, name)
}

// getAny reads an object, also of a kind that is not built in.
func getAny(ctx context.Context, api *remote.Client, ref kinds.Ref) (kinds.Object, error) {
	if ref.Kind.Stored() {
		obj, err := api.Get(ctx, ref)
		if err != nil {
			return nil, err
		}
		o, ok := obj.(kinds.Object)
		if !ok {
			return nil, fmt.Errorf("the API server answered with a %T", obj)
		}
		return o, nil
	}
	u := &unstructured.Unstructured{}
	if err := getJSON(ctx, api, remote.Path(ref), "application/json", &u.Object); err != nil {
		return nil, err
	}
	return u, nil
}

func getJSON(ctx context.Context, api *remote.Client, path, accept string, into any) error {
	resp, err := api.Do(ctx, http.MethodGet, path, nil, "", accept, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxDocument)).Decode(into); err != nil {
		return fmt.Errorf("the API server's answer cannot be read: %w", err)
	}
	return nil
}
