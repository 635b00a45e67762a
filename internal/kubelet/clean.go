package kubelet

import (
	"errors"
	"path/filepath"

	"knarr.dev/knarr/internal/kubelet/cgroup"
	"knarr.dev/knarr/internal/kubelet/volume"
)

// Clean removes what a kubelet left on the machine: pods' mounts and
// directories below rootDir and the cgroups below cgroupRoot. The containers
// must have ended before. It is idempotent.
func Clean(rootDir, cgroupRoot string) error {
	pods := &volume.Pods{Root: filepath.Join(rootDir, "pods")}
	uids, err := pods.UIDs()
	errs := []error{err}
	for _, uid := range uids {
		errs = append(errs, pods.Teardown(uid))
	}
	t, err := cgroup.Open(cgroupRoot)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, t.Remove())...)
}
