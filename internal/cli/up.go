package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"knarr.dev/knarr/internal/server"
)

// startOptions are the flags of up, server and agent.
type startOptions struct {
	cfg      server.Config
	logLevel string
	detach   bool
	mirrors  []string
	cas      []string
	demo     bool

	token, tokenFile string
	clusterKeyFile   string
}

func upCommand() *cobra.Command {
	o := &startOptions{}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Make this machine a cluster: control plane and node in one process",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.cfg.Server, o.cfg.Agent = true, true
			return o.run(cmd.Context())
		},
	}
	o.commonFlags(cmd)
	o.serverFlags(cmd)
	o.nodeFlags(cmd)
	cmd.Flags().BoolVar(&o.demo, "demo", false, "deploy the demo application once the cluster is up (with --detach)")
	return cmd
}

func serverCommand() *cobra.Command {
	o := &startOptions{}
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the control plane only; agents join it",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.cfg.Server = true
			return o.run(cmd.Context())
		},
	}
	o.commonFlags(cmd)
	o.serverFlags(cmd)
	return cmd
}

func agentCommand() *cobra.Command {
	o := &startOptions{}
	cmd := &cobra.Command{
		Use:   "agent --server https://HOST:6443 --token TOKEN",
		Short: "Run a node that joins a server",
		Long: `Run a node that joins a server. The token is what ` + "`knarr token create`" + ` prints on
the server; it is needed the first time only, and so is --server. The token can also be given
by --token-file or in the environment as KNARR_TOKEN. The cluster's networks are
learnt from the server.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.cfg.Agent = true
			if err := o.readToken(); err != nil {
				return err
			}
			return o.run(cmd.Context())
		},
	}
	o.commonFlags(cmd)
	o.nodeFlags(cmd)
	cmd.Flags().StringVar(&o.cfg.JoinServer, "server", "", "the server's address, https://HOST:6443 (default: that of the last start)")
	cmd.Flags().StringVar(&o.token, "token", "", "join token")
	cmd.Flags().StringVar(&o.tokenFile, "token-file", "", "file that holds the join token")
	cmd.MarkFlagsMutuallyExclusive("token", "token-file")
	return cmd
}

func (o *startOptions) commonFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	dataDirFlag(cmd, &o.cfg.DataDir)
	f.StringVar(&o.cfg.NodeName, "node-name", "", "name of this node (default: the host name)")
	f.StringVar(&o.cfg.NodeIP, "node-ip", "", "address by which other nodes reach this one (default: that of the default route)")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.BoolVarP(&o.detach, "detach", "d", false, "return once it is ready and leave it running")
}

func (o *startOptions) serverFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Var(positive{&o.cfg.APIPort}, "api-port", "port of the API server (default 6443)")
	f.StringVar(&o.cfg.ClusterCIDR, "cluster-cidr", "", "addresses of pods (default 10.244.0.0/16)")
	f.Var(positive{&o.cfg.NodeCIDRMaskSize}, "node-cidr-mask-size", "bits of a node's part of --cluster-cidr (default 24: 253 pods)")
	f.StringVar(&o.cfg.ServiceCIDR, "service-cidr", "", "addresses of services (default 10.96.0.0/16)")
	f.StringVar(&o.cfg.ClusterDNS, "cluster-dns", "", "address of the cluster's DNS (default: the tenth of --service-cidr)")
	f.StringVar(&o.cfg.ClusterDomain, "cluster-domain", "", "domain of the cluster's DNS names (default cluster.local)")
	a := &o.cfg.Access
	f.StringVar(&a.Authentication, "authentication-config", "", "file of an AuthenticationConfiguration: OIDC issuers, anonymous requests; changes are taken while running")
	f.StringVar(&a.Authorization, "authorization-config", "", "file of an AuthorizationConfiguration: who decides what is allowed, in order; changes are taken while running (default: Node, RBAC)")
	f.StringVar(&a.TokenWebhook, "authentication-token-webhook-config-file", "", "kubeconfig of a webhook that is asked about unknown tokens")
	f.StringVar(&a.TokenWebhookVersion, "authentication-token-webhook-version", "", "version of the TokenReview that it is asked by: v1 or v1beta1 (default v1beta1)")
	f.DurationVar(&a.TokenWebhookTTL, "authentication-token-webhook-cache-ttl", 0, "how long its answers are remembered (default 2m)")
	f.StringArrayVar(&a.Issuers, "service-account-issuer", nil, "name of the issuer of service account tokens; repeatable, the first issues, all are accepted (default https://kubernetes.default.svc.<cluster domain>)")
	f.StringVar(&a.KeysURI, "service-account-jwks-uri", "", "where others find the keys of service account tokens (default: this server)")
	f.StringSliceVar(&a.Audiences, "api-audiences", nil, "audiences of service account tokens that this server accepts (default: the issuers)")
	f.StringVar(&a.FrontCA, "requestheader-client-ca-file", "", "authorities, besides knarr's own, of proxies that name their clients in X-Remote-* headers")
	f.StringSliceVar(&a.FrontNames, "requestheader-allowed-names", nil, "common names of such proxies (default: any of those authorities)")
	o.auditFlags(cmd)
	f.StringSliceVar(&o.cfg.TLSSANs, "tls-san", nil, "further names and addresses that clients use for the API server")
	f.Var(positive{&o.cfg.MaxRequestsInFlight}, "max-requests-inflight", "with the next one, the requests that are answered at once, shared by priority and fairness (default 400)")
	f.StringVar(&o.cfg.AdmissionConfig, "admission-control-config-file", "", "file of an AdmissionConfiguration: defaults and exemptions of PodSecurity")
	f.StringVar(&o.cfg.SchedulerConfig, "scheduler-config", "", "file of a KubeSchedulerConfiguration: profiles, plugins and their arguments, extenders (default: upstream's default profile)")
	f.StringVar(&o.cfg.EncryptionConfig, "encryption-provider-config", "", "EncryptionConfiguration file (default: Secrets are encrypted with a generated key)")
	e := &o.cfg.Etcd
	f.StringSliceVar(&e.Endpoints, "etcd-endpoints", nil, "URLs of an etcd that others run, for several servers (default: an etcd of its own)")
	f.StringVar(&e.CA, "etcd-ca-file", "", "authorities of that etcd's certificates, PEM (default: the machine's)")
	f.StringVar(&e.Cert, "etcd-cert-file", "", "client certificate for that etcd, PEM")
	f.StringVar(&e.Key, "etcd-key-file", "", "its key, PEM")
	f.StringVar(&e.Prefix, "etcd-prefix", "", "what the keys of the cluster's objects begin with there (default /registry)")
	f.StringVar(&o.clusterKeyFile, "cluster-key-file", "", "file of the key that the servers over one etcd share, or KNARR_CLUSTER_KEY in the environment (default: that of the last start; the first server makes one)")
	f.Var(positive{&o.cfg.MaxMutatingRequestsInFlight}, "max-mutating-requests-inflight", "see --max-requests-inflight (default 200)")
}

func (o *startOptions) nodeFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Var(positive{&o.cfg.KubeletPort}, "kubelet-port", "port of the kubelet's HTTPS API (default 10250)")
	f.Var(positive{&o.cfg.MaxPods}, "max-pods", "pods that the node takes (default 110)")
	f.StringVar(&o.cfg.RuntimeEndpoint, "container-runtime-endpoint", "", "container runtime: builtin (knarr's own, the default), containerd (an instance of the machine's that knarr runs), or the CRI socket of another one")
	f.StringArrayVar(&o.cfg.RuntimeHandlers, "runtime-handler", nil, handlerUsage)
	f.StringSliceVar(&o.mirrors, "registry-mirror", nil, "REGISTRY=URL: ask URL first for images of REGISTRY; repeatable")
	f.StringSliceVar(&o.cfg.Registries.Insecure, "insecure-registry", nil, "HOST:PORT of a registry without TLS; localhost always may")
	f.StringSliceVar(&o.cas, "registry-ca", nil, "HOST:PORT=FILE: verify the registry's or mirror's certificate with these authorities; repeatable")
	f.StringVar(&o.cfg.ImagesDir, "images", "", "directory of OCI archives to load at start (default: images beside the binary)")
}

// positive is a flag's number. 0 means that the flag was not given, so that nobody
// can give it.
type positive struct{ n *int }

func (p positive) String() string {
	if p.n == nil { // the flag library asks one that it has made
		return ""
	}
	return strconv.Itoa(*p.n)
}

func (p positive) Type() string { return "int" }

func (p positive) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return errors.New("not a number above 0")
	}
	*p.n = n
	return nil
}

// run starts in the foreground, or in the background with --detach.
func (o *startOptions) run(ctx context.Context) error {
	log, err := newLog(o.logLevel)
	if err != nil {
		return err
	}
	o.cfg.Log = log
	if o.cfg.Registries.Mirrors, err = parseMirrors(o.mirrors); err != nil {
		return err
	}
	if o.cfg.Registries.CAs, err = parseCAs(o.cas); err != nil {
		return err
	}
	if o.cfg.ImagesDir == "" {
		o.cfg.ImagesDir = besideBinary("images")
	} else if o.cfg.ImagesDir, err = filepath.Abs(o.cfg.ImagesDir); err != nil {
		return err
	} else if _, err := os.Stat(o.cfg.ImagesDir); err != nil {
		return fmt.Errorf("--images: %w", err)
	}
	if err := o.readClusterKey(); err != nil {
		return err
	}
	if o.demo && !o.detach {
		return errors.New("--demo goes with --detach: it deploys once the cluster is up")
	}
	if o.detach && os.Getenv(childEnv) == "" {
		return o.runDetached(ctx)
	}
	if err := o.cfg.Complete(); err != nil {
		return err
	}
	if os.Getenv(childEnv) != "" {
		// All paths are absolute by now: hold no directory that somebody may
		// want to unmount.
		if err := os.Chdir("/"); err != nil {
			return err
		}
	}
	progress, ready := progressSink()
	o.cfg.Progress = progress
	err = server.Run(ctx, o.cfg, ready)
	if err != nil && os.Getenv(childEnv) != "" {
		progress(errorPrefix + strings.ReplaceAll(err.Error(), "\n", "; ")) // one line is one message
	}
	return err
}

func parseMirrors(list []string) (map[string][]string, error) {
	out := map[string][]string{}
	for _, m := range list {
		registry, url, ok := strings.Cut(m, "=")
		if !ok || registry == "" || !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
			return nil, fmt.Errorf("registry mirror %q is not of the form REGISTRY=http(s)://HOST", m)
		}
		out[registry] = append(out[registry], url)
	}
	return out, nil
}

func parseCAs(list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, ca := range list {
		registry, file, ok := strings.Cut(ca, "=")
		if !ok || registry == "" || file == "" {
			return nil, fmt.Errorf("registry CA %q is not of the form HOST:PORT=FILE", ca)
		}
		var err error
		if out[registry], err = filepath.Abs(file); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// besideBinary is the directory of that name next to this program, or empty.
func besideBinary(name string) string {
	exe, err := os.Executable()
	if err != nil {
		return ""
	}
	dir := filepath.Join(filepath.Dir(exe), name)
	if _, err := os.Stat(dir); err != nil {
		return ""
	}
	return dir
}
