package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"
)

// readToken takes the join token from the flag, the file or the environment,
// and wipes it from this process's command line, which every user of the
// machine can read.
func (o *startOptions) readToken() error {
	token := strings.Clone(o.token)
	switch {
	case o.tokenFile != "":
		data, err := os.ReadFile(o.tokenFile)
		if err != nil {
			return fmt.Errorf("cannot read the join token: %w", err)
		}
		token = strings.TrimSpace(string(data))
		if token == "" {
			return errors.New("the token file is empty")
		}
	case token == "":
		token = os.Getenv("KNARR_TOKEN")
	}
	if o.token != "" {
		wipeArgs(o.token)
	}
	if err := os.Unsetenv("KNARR_TOKEN"); err != nil {
		return err
	}
	o.cfg.JoinToken = token
	return nil
}

// clusterKeyEnv is where the cluster key may be given; never on a command line.
const clusterKeyEnv = "KNARR_CLUSTER_KEY"

// readClusterKey takes the cluster key from its file or the environment.
func (o *startOptions) readClusterKey() error {
	o.cfg.Etcd.ClusterKey = os.Getenv(clusterKeyEnv)
	if err := os.Unsetenv(clusterKeyEnv); err != nil {
		return err
	}
	if o.clusterKeyFile == "" {
		return nil
	}
	st, err := os.Stat(o.clusterKeyFile)
	if err != nil {
		return fmt.Errorf("--cluster-key-file: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("--cluster-key-file: %s can be read by others (mode %04o): make sure that nobody has copied it, then run chmod 600 %[1]s", o.clusterKeyFile, st.Mode().Perm())
	}
	data, err := os.ReadFile(o.clusterKeyFile)
	if err != nil {
		return fmt.Errorf("--cluster-key-file: %w", err)
	}
	if o.cfg.Etcd.ClusterKey = strings.TrimSpace(string(data)); o.cfg.Etcd.ClusterKey == "" {
		return fmt.Errorf("--cluster-key-file: %s is empty", o.clusterKeyFile)
	}
	return nil
}

// wipeArgs overwrites secret wherever it stands in os.Args. On Linux these
// strings are the kernel's own copy, which /proc/PID/cmdline shows.
func wipeArgs(secret string) {
	for _, arg := range os.Args {
		if i := strings.Index(arg, secret); i >= 0 {
			b := unsafe.Slice(unsafe.StringData(arg), len(arg))
			for j := i; j < i+len(secret); j++ {
				b[j] = 'x'
			}
		}
	}
}
