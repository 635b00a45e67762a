// Package kubelet runs the pods that are bound to one node: it watches them in
// a view, asks a pure plan what to do, and acts on a CRI runtime, on volumes,
// cgroups and probes. It writes pod status, the node and its lease, and serves
// logs, exec, attach and port-forward over HTTPS.
package kubelet

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kubelet/cri"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/version"
	"knarr.dev/knarr/internal/view"
)

// Objects reads secrets, config maps and runtime classes one by one, as a node
// is authorized to. Get may answer from a cache that Watch keeps current; changed must be
// quick and may be called from any goroutine.
type Objects interface {
	Get(ctx context.Context, k *kinds.Kind, namespace, name string) (kinds.Object, error)
	Watch(k *kinds.Kind, namespace, name string, changed func()) (stop func())
}

// Events takes what users read in kubectl describe. Emit must not block.
type Events interface{ Emit(plan.Event) }

// Config of a node agent. Paths are absolute.
type Config struct {
	NodeName string
	NodeIP   string // what the node is reached at
	Client   client.Client
	// View holds pods (with the index PodsByNode), nodes and services; for what
	// pods prove themselves by also this node's requests for certificates, and
	// trust bundles.
	View    *view.View
	Objects Objects

	RuntimeEndpoint string // unix:///path of the CRI
	// Runtime is one in this process, instead of the endpoint.
	Runtime cri.Services
	// Below is what else the kubelet stands on; default: this machine.
	Below Below
	// Subscribe to what changes in the view; default: all of it. Only changes of
	// the node, its pods and their certificates, and of trust bundles are needed.
	Subscribe func(func(view.Change)) (stop func())
	// LookEvery is how often a pod is looked at although nothing is known to have
	// happened: its volumes may show an old token that long. Default a minute.
	LookEvery time.Duration
	RootDir   string // volumes and records
	PodLogDir string // container logs; default /var/log/pods

	ClusterDNS, ClusterDomain string

	Port   int          // default 10250
	Listen net.Listener // optional: instead of NodeIP:Port
	TLS    *tls.Config  // serving: GetCertificate and ClientCAs set

	MaxPods int // default 110
	// AllowedUnsafeSysctls may be set by pods besides the safe ones; one that
	// ends in "*" allows all that begin so.
	AllowedUnsafeSysctls []string
	// ImageGCHigh and ImageGCLow: when the images' disk is fuller than the
	// first, unused images go until it is below the second; parts of 1.
	// Default 0.85 and 0.80.
	ImageGCHigh, ImageGCLow float64
	// EvictMemory and EvictDisk: pods are evicted while less memory is available,
	// in bytes, or less of the disk, as a part of 1. Default 100 MiB and 0.05.
	EvictMemory int64
	EvictDisk   float64
	// LogMaxBytes and LogMaxFiles of one container; default 10 MiB and 5.
	LogMaxBytes int64
	LogMaxFiles int
	CgroupRoot  string // a cgroup of this node's own, as in "knarr/kubepods"
	Events      Events
	Log         *slog.Logger
	Version     string // reported in the node; default the binary's
	Now         func() time.Time

	// Metrics are what /metrics shows, to which others may add what they know of
	// the node; default: the kubelet's alone.
	Metrics *prometheus.Registry
	// Counters are shared by nodes in one process that nobody tells apart;
	// default: this node's own, registered in Metrics.
	Counters *Counters
	// SandboxImage is what the runtime makes sandboxes of, for the labels of
	// metrics; may be empty.
	SandboxImage string
}

// sharedLogs is where the field's log collectors look. Other kubelets of the
// machine may write there too, so that only what is known to be ours is removed
// from it.
const sharedLogs = "/var/log/pods"

func (c Config) complete() (Config, error) {
	switch {
	case c.NodeName == "":
		return c, errors.New("kubelet: no node name")
	case net.ParseIP(c.NodeIP) == nil:
		return c, errors.New("kubelet: the node's address is not an IP: " + c.NodeIP)
	case c.Client == nil || c.View == nil || c.Objects == nil:
		return c, errors.New("kubelet: client, view and objects are needed")
	case (c.RuntimeEndpoint == "") == (c.Runtime.Runtime == nil || c.Runtime.Image == nil):
		return c, errors.New("kubelet: it takes either a runtime's endpoint, or one in this process with images")
	case !filepath.IsAbs(c.RootDir):
		return c, errors.New("kubelet: the root directory is not absolute: " + c.RootDir)
	}
	if c.PodLogDir == "" {
		c.PodLogDir = sharedLogs
	}
	if !filepath.IsAbs(c.PodLogDir) {
		return c, errors.New("kubelet: the log directory is not absolute: " + c.PodLogDir)
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.Port == 0 {
		c.Port = 10250
	}
	if c.MaxPods == 0 {
		c.MaxPods = 110
	}
	if c.ImageGCHigh == 0 && c.ImageGCLow == 0 {
		c.ImageGCHigh, c.ImageGCLow = imagesHigh, imagesLow
	}
	if !(c.ImageGCLow > 0 && c.ImageGCLow <= c.ImageGCHigh && c.ImageGCHigh <= 1) {
		return c, errors.New("kubelet: the thresholds of image collection are not 0 < low <= high <= 1")
	}
	if c.EvictMemory == 0 {
		c.EvictMemory = evictMemory
	}
	if c.EvictDisk == 0 {
		c.EvictDisk = evictDisk
	}
	if c.EvictMemory < 0 || c.EvictDisk < 0 || c.EvictDisk > 1 {
		return c, errors.New("kubelet: the thresholds of eviction are not a size and a part of 1")
	}
	if c.LogMaxBytes == 0 {
		c.LogMaxBytes = logSize
	}
	if c.LogMaxFiles == 0 {
		c.LogMaxFiles = logFiles
	}
	if c.LogMaxBytes < 0 || c.LogMaxFiles < 2 {
		return c, errors.New("kubelet: logs need a size and at least two files")
	}
	if c.Subscribe == nil {
		c.Subscribe = c.View.Subscribe
	}
	if c.LookEvery == 0 {
		c.LookEvery = refreshEvery
	}
	if c.CgroupRoot == "" {
		c.CgroupRoot = "kubepods"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Events == nil {
		c.Events = noEvents{}
	}
	if c.Version == "" {
		c.Version = version.GitVersion
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	return c, nil
}

type noEvents struct{}

func (noEvents) Emit(plan.Event) {}
