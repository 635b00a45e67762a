package kubelet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// wellKnown is where plugins of the field look for a node's kubelet, and mount
// its directories from, unless they are told another place.
const wellKnown = "/var/lib/kubelet"

// Link lets plugins find the root directory at the place that they know, if
// nothing else is there.
func Link(root string) error { return link(wellKnown, root) }

// Unlink takes that back.
func Unlink(root string) error { return unlink(wellKnown, root) }

func link(at, root string) error {
	to, err := os.Readlink(at)
	if err == nil {
		if to == root {
			return nil
		}
		// Another node's that was removed by hand leads nowhere.
		_, err := os.Stat(at)
		if !errors.Is(err, fs.ErrNotExist) || !strings.HasSuffix(to, "/agent/kubelet") {
			return fmt.Errorf("%s leads to %s", at, to)
		}
		if err := os.Remove(at); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	return os.Symlink(root, at)
}

func unlink(at, root string) error {
	if to, err := os.Readlink(at); err != nil || to != root {
		return nil
	}
	return os.Remove(at)
}
