package containerd

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
)

// render writes config.toml (version 2, which containerd 1.6 to 2.x read).
// What a user configured enters only as quoted strings.
func (c Config) render(m machine, p programs) []byte {
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }

	line("# Written by knarr at every start; changes are lost.")
	line("version = 2")
	line("root = %s", quote(filepath.Join(c.Root, "root")))
	line("state = %s", quote(filepath.Join(c.State, "state")))
	line("oom_score = %d", m.oomScore)
	// Out: snapshotters of special file systems, and what works at intervals although nobody asks (restart looks
	// every ten seconds for containers of another API, the cgroup monitor and
	// tracing serve metrics that nobody scrapes).
	line("disabled_plugins = [%s]", strings.Join(quoteAll(disabledPlugins), ", "))
	line("[grpc]")
	line("  address = %s", quote(c.Socket))
	line("[debug]")
	line("  level = \"warn\"")

	const cri = `plugins."io.containerd.grpc.v1.cri"`
	line("[%s]", cri)
	line("  sandbox_image = %s", quote(c.SandboxImage))
	// exec, attach and port-forward come back through the kubelet only.
	line("  stream_server_address = \"127.0.0.1\"")
	line("  stream_server_port = \"0\"")
	line("  disable_tcp_service = true")
	line("  disable_apparmor = %t", !m.apparmor)
	line("  disable_hugetlb_controller = %t", !m.hugetlb)
	line("  tolerate_missing_hugetlb_controller = true")
	line("  restrict_oom_score_adj = %t", !m.capResource)
	// Network namespaces below State instead of /run/netns: ours are known by
	// their place, and leave with it.
	line("  netns_mounts_under_state_dir = true")
	// As containerd 2 does: ports below 1024 and ping need no capability
	// inside a pod's own network namespace.
	line("  enable_unprivileged_ports = true")
	line("  enable_unprivileged_icmp = true")
	// Devices that drivers describe in files: on by itself since containerd 2,
	// unknown before 1.7, where the kubelet does it.
	line("  enable_cdi = true")
	// Seconds between looks at the disk; it is asked for its size rarely.
	line("  stats_collect_period = 60")
	line("[%s.cni]", cri)
	line("  conf_dir = %s", quote(c.CNIConfDir))
	line("  bin_dir = %s", quote(c.CNIBinDir))
	line("  max_conf_num = 1")
	line("[%s.containerd]", cri)
	line("  snapshotter = %s", quote(m.snapshotter))
	line("  default_runtime_name = \"runc\"")
	line("[%s.containerd.runtimes.runc]", cri)
	line("  runtime_type = \"io.containerd.runc.v2\"")
	line("[%s.containerd.runtimes.runc.options]", cri)
	line("  BinaryName = %s", quote(p.runc))
	line("  Root = %s", quote(filepath.Join(c.State, "runc")))
	line("  SystemdCgroup = false")
	line("[%s.registry]", cri)
	line("  config_path = %s", quote(filepath.Join(c.Root, "hosts")))
	line("[plugins.\"io.containerd.internal.v1.opt\"]")
	line("  path = %s", quote(filepath.Join(c.Root, "opt")))
	return b.Bytes()
}

var disabledPlugins = []string{
	"io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
	"io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.restart",
	"io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp", "io.containerd.monitor.v1.cgroups",
}

// quote writes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c < 0x20 || c == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func quoteAll(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = quote(s)
	}
	return out
}
