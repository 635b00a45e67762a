package builtin

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"github.com/moby/sys/user"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/runtime/builtin/spec"
)

// maxAccounts bounds what is read of /etc/passwd and /etc/group of an image.
const maxAccounts = 4 << 20

// resolveUser finds out who a container runs as: what it says, or its image,
// with names looked up in the image's own files.
func resolveUser(rootfs string, sc *runtimeapi.LinuxContainerSecurityContext, image string) (spec.User, error) {
	who := image
	switch {
	case sc.GetRunAsUser() != nil:
		who = strconv.FormatInt(sc.RunAsUser.Value, 10)
	case sc.GetRunAsUsername() != "":
		who = sc.RunAsUsername
	case sc.GetRunAsGroup() != nil:
		return spec.User{}, errors.New("a group to run as is given without a user")
	}
	explicit := sc.GetRunAsUser() != nil || sc.GetRunAsUsername() != ""
	if g := sc.GetRunAsGroup(); g != nil {
		name, _, _ := strings.Cut(who, ":")
		who = name + ":" + strconv.FormatInt(g.Value, 10)
	} else if explicit && strings.Contains(who, ":") {
		return spec.User{}, fmt.Errorf("user %q: a name has no colon", who)
	}
	passwd, err := account(rootfs, "/etc/passwd")
	if err != nil {
		return spec.User{}, err
	}
	group, err := account(rootfs, "/etc/group")
	if err != nil {
		return spec.User{}, err
	}
	u, err := user.GetExecUser(who, nil, strings.NewReader(passwd), strings.NewReader(group))
	if err != nil {
		return spec.User{}, fmt.Errorf("cannot find user %q in the image: %w", who, err)
	}
	out := spec.User{UID: uint32(u.Uid), GID: uint32(u.Gid)}
	if sc.GetSupplementalGroupsPolicy() != runtimeapi.SupplementalGroupsPolicy_Strict {
		// With a group given the library leaves the memberships out.
		for _, g := range memberships(u.Uid, passwd, group) {
			out.Additional = add(out.Additional, g)
		}
	}
	out.Additional = add(out.Additional, out.GID)
	for _, g := range sc.GetSupplementalGroups() {
		if g < 0 || g > 1<<32-2 {
			return spec.User{}, fmt.Errorf("supplemental group %d is out of range", g)
		}
		out.Additional = add(out.Additional, uint32(g))
	}
	slices.Sort(out.Additional)
	return out, nil
}

func add(l []uint32, g uint32) []uint32 {
	if slices.Contains(l, g) {
		return l
	}
	return append(l, g)
}

// memberships are the groups that the image's files name a user in.
func memberships(uid int, passwd, group string) []uint32 {
	users, err := user.ParsePasswdFilter(strings.NewReader(passwd), func(u user.User) bool { return u.Uid == uid })
	if err != nil || len(users) == 0 {
		return nil
	}
	groups, err := user.ParseGroupFilter(strings.NewReader(group), func(g user.Group) bool { return slices.Contains(g.List, users[0].Name) })
	if err != nil {
		return nil
	}
	var out []uint32
	for _, g := range groups {
		out = append(out, uint32(g.Gid))
	}
	return out
}

// account reads a file of a root file system, whose links lead nowhere else. An
// image need not have it.
func account(rootfs, path string) (string, error) {
	h, err := pathrs.OpenInRoot(rootfs, path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("%s of the image: %w", path, err)
	}
	defer h.Close()
	info, err := h.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s of the image is no file", path)
	}
	f, err := pathrs.Reopen(h, os.O_RDONLY)
	if err != nil {
		return "", fmt.Errorf("%s of the image: %w", path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxAccounts+1))
	if len(b) > maxAccounts {
		return "", fmt.Errorf("%s of the image has more than %d bytes", path, maxAccounts)
	}
	return string(b), err
}
