package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Instance is what a knarr process leaves on disk about itself, so that other
// commands find it and the next start makes the same choices:
// <data>/instance.json, with <data>/lock held while it runs.
type Instance struct {
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Version string    `json:"version"`

	Server bool `json:"server"`
	Agent  bool `json:"agent"`

	DataDir          string `json:"dataDir"`
	RunDir           string `json:"runDir"`
	NodeName         string `json:"nodeName"`
	NodeIP           string `json:"nodeIP"`
	APIURL           string `json:"apiURL"`
	APIPort          int    `json:"apiPort,omitempty"`
	KubeletPort      int    `json:"kubeletPort,omitempty"`
	MaxPods          int    `json:"maxPods,omitempty"`
	NodeCIDRMaskSize int    `json:"nodeCIDRMaskSize,omitempty"`
	ClusterCIDR      string `json:"clusterCIDR,omitempty"`
	ServiceCIDR      string `json:"serviceCIDR,omitempty"`
	ClusterDNS       string `json:"clusterDNS,omitempty"`
	ClusterDomain    string `json:"clusterDomain,omitempty"`
	RuntimeEndpoint  string `json:"runtimeEndpoint,omitempty"`
	// Etcd that others run and the cluster lies in; nil: the server runs one.
	Etcd *EtcdConfig `json:"etcd,omitempty"`
}

// ErrNotInstalled: there is no knarr with that data directory.
var ErrNotInstalled = errors.New("no knarr has been started here")

// ReadInstance of a data directory; running says whether its process lives.
func ReadInstance(dataDir string) (in *Instance, running bool, err error) {
	dataDir = RealPath(dataDir)
	data, err := os.ReadFile(filepath.Join(dataDir, "instance.json"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, false, fmt.Errorf("%w (data directory %s)", ErrNotInstalled, dataDir)
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, false, fmt.Errorf("run it as root (sudo): %w", err)
	}
	if err != nil {
		return nil, false, err
	}
	in = new(Instance)
	if err := json.Unmarshal(data, in); err != nil {
		return nil, false, fmt.Errorf("%s/instance.json is broken (remove it if no knarr runs): %w", dataDir, err)
	}
	if in.Agent {
		defaultTo(&in.RuntimeEndpoint, runtimeContainerd) // as older versions wrote it
	}
	lock, err := lockInstance(dataDir)
	if err == nil {
		return in, false, lock.Close()
	}
	return in, true, nil
}

// AlreadyRunning says who holds the data directory.
type AlreadyRunning struct{ DataDir string }

func (e *AlreadyRunning) Error() string {
	return fmt.Sprintf("another knarr runs with the data directory %s; stop it with `knarr down`, or choose another with --data-dir", e.DataDir)
}

// MakeDataDir makes what is missing of it.
func MakeDataDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make the data directory; choose another with --data-dir: %w", err)
	}
	return nil
}

// unlock gives the data directory back, and leaves no trace where nothing has
// been started: what holds more than the lock is not removed.
func unlock(dataDir string, lock *os.File) {
	if _, err := os.Lstat(filepath.Join(dataDir, "instance.json")); errors.Is(err, fs.ErrNotExist) {
		_ = os.Remove(lock.Name())
		_ = os.Remove(dataDir)
	}
	_ = lock.Close()
}

// lockInstance takes the data directory; the kernel gives it back when the
// process ends, however it ends.
func lockInstance(dataDir string) (*os.File, error) {
	if err := MakeDataDir(dataDir); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dataDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, &AlreadyRunning{DataDir: dataDir}
	}
	return f, nil
}

// writeInstance says who runs now.
func writeInstance(c *Config, version string) error {
	in := Instance{PID: os.Getpid(), Started: time.Now().UTC().Truncate(time.Second), Version: version,
		Server: c.Server, Agent: c.Agent, DataDir: c.DataDir, RunDir: c.RunDir(), NodeName: c.NodeName, NodeIP: c.NodeIP,
		APIURL: c.APIURL(), APIPort: c.APIPort, KubeletPort: c.KubeletPort, MaxPods: c.MaxPods, NodeCIDRMaskSize: c.NodeCIDRMaskSize,
		ClusterCIDR: c.ClusterCIDR, ServiceCIDR: c.ServiceCIDR, ClusterDNS: c.ClusterDNS, ClusterDomain: c.ClusterDomain,
		RuntimeEndpoint: c.RuntimeEndpoint}
	if c.Etcd.external() {
		in.Etcd = &c.Etcd // the cluster key is left out
		if !c.agreed {    // the networks are the cluster's, which are not known yet
			in.ClusterCIDR, in.ServiceCIDR, in.ClusterDNS, in.ClusterDomain = "", "", "", ""
		}
	}
	if !c.Server {
		in.APIURL = c.JoinServer
	}
	data, err := json.MarshalIndent(in, "", "  ")
	if err != nil {
		return err
	}
	tmp := c.Dir(".instance.json.tmp")
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, c.Dir("instance.json"))
}

// MemoryOf returns the resident and the anonymous memory of a process in bytes.
func MemoryOf(pid int) (rss, anonymous int64) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			rss = n << 10
		case "RssAnon:":
			anonymous = n << 10
		}
	}
	return rss, anonymous
}
