package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A pod whose hostUsers is false has a user namespace: its user and group IDs are a
// range of the node's that no other pod has. Its directory tells which, so that it keeps them for as long as it is there.

const (
	// idsPerPod and the file's name and form are upstream's.
	idsPerPod = 1 << 16
	usersFile = "userns"
	// idsUser is whose subordinate IDs the pods' are, if it has any.
	idsUser = "kubelet"
)

type idMapping struct {
	HostID      uint32 `json:"hostId"`
	ContainerID uint32 `json:"containerId"`
	Length      uint32 `json:"length"`
}

type idMappings struct {
	UIDs []idMapping `json:"uidMappings"`
	GIDs []idMapping `json:"gidMappings"`
}

// hostUsers tells whether the pod's users are the node's.
func hostUsers(pod *corev1.Pod) bool { return pod.Spec.HostUsers == nil || *pod.Spec.HostUsers }

// users of the pod on the node; nil: they are the node's.
func (k *Kubelet) users(pod *corev1.Pod) (*runtimeapi.UserNamespace, error) {
	if hostUsers(pod) {
		return nil, nil
	}
	k.ids.Lock()
	defer k.ids.Unlock()
	first, err := k.firstID(string(pod.UID))
	if errors.Is(err, fs.ErrNotExist) {
		first, err = k.takeIDs(string(pod.UID))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot give the pod user IDs: %w", err)
	}
	l := []*runtimeapi.IDMapping{{HostId: first, Length: idsPerPod}}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: l, Gids: l}, nil
}

func (k *Kubelet) usersPath(uid string) string { return filepath.Join(k.volumes.Dir(uid), usersFile) }

// firstID of those that a pod has; fs.ErrNotExist if it has none.
func (k *Kubelet) firstID(uid string) (uint32, error) {
	path := k.usersPath(uid)
	data, err := k.files.Read(path)
	if err != nil {
		return 0, err
	}
	if len(data) == 0 { // as a power failure leaves it, after which nothing of the pod runs
		return 0, fs.ErrNotExist
	}
	var m idMappings
	if err := json.Unmarshal(data, &m); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	if len(m.UIDs) != 1 || len(m.GIDs) != 1 || m.UIDs[0] != m.GIDs[0] || m.UIDs[0].ContainerID != 0 || m.UIDs[0].Length != idsPerPod || m.UIDs[0].HostID < idsPerPod {
		return 0, fmt.Errorf("%s is not one mapping of %d IDs, the same for users and groups", path, idsPerPod)
	}
	return m.UIDs[0].HostID, nil
}

// takeIDs gives a pod the first range that no other has.
func (k *Kubelet) takeIDs(uid string) (uint32, error) {
	first, ranges, err := k.subordinate()
	if err != nil {
		return 0, err
	}
	uids, err := k.volumes.UIDs()
	if err != nil {
		return 0, err
	}
	taken := map[uint32]bool{}
	for _, other := range uids {
		id, err := k.firstID(other)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
		taken[id] = true
	}
	for ; taken[first]; first += idsPerPod {
		if ranges--; ranges == 0 {
			return 0, errors.New("all that pods of this node may have are in use")
		}
	}
	m := []idMapping{{HostID: first, Length: idsPerPod}}
	data, err := json.Marshal(idMappings{UIDs: m, GIDs: m})
	if err != nil {
		return 0, err
	}
	if err := k.files.MkdirAll(k.volumes.Dir(uid), 0o750); err != nil {
		return 0, err
	}
	return first, k.files.Replace(k.usersPath(uid), data, 0o600)
}

// subordinate IDs that pods may have (subuid(5), subgid(5)): the first, and how many
// ranges. If none are set aside for them they are those after everybody else's, for
// twice the pods that run, as some that have ended may not be gone yet.
func (k *Kubelet) subordinate() (first uint32, ranges int, err error) {
	var found [2][]idRange
	end := uint64(idsPerPod)
	for i, path := range []string{"/etc/subuid", "/etc/subgid"} {
		data, err := k.files.Read(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, 0, err
		}
		for line := range strings.Lines(string(data)) {
			user, r, ok := parseIDs(line)
			switch {
			case user == idsUser && !ok:
				return 0, 0, fmt.Errorf("%s: %q is not a range of IDs", path, strings.TrimSpace(line))
			case user == idsUser:
				found[i] = append(found[i], r)
			case ok:
				end = max(end, r.first+r.count)
			}
		}
	}
	if len(found[0])+len(found[1]) == 0 {
		first, count := (end+idsPerPod-1)/idsPerPod*idsPerPod, uint64(2*k.cfg.MaxPods)
		if first+count*idsPerPod > 1<<32 {
			return 0, 0, fmt.Errorf("no IDs are left after those that /etc/subuid and /etc/subgid give to users: give the user %s some there", idsUser)
		}
		return uint32(first), int(count), nil
	}
	if len(found[0]) != 1 || len(found[1]) != 1 || found[0][0] != found[1][0] || !found[0][0].fits(k.cfg.MaxPods) {
		return 0, 0, fmt.Errorf("/etc/subuid and /etc/subgid must give the user %s one range, the same in both, which begins at a multiple of %d and has that many IDs for each of %d pods", idsUser, idsPerPod, k.cfg.MaxPods)
	}
	return uint32(found[0][0].first), int(found[0][0].count / idsPerPod), nil
}

type idRange struct{ first, count uint64 }

func (r idRange) fits(pods int) bool {
	return r.first > 0 && r.first%idsPerPod == 0 && r.count/idsPerPod >= uint64(pods) && r.first+r.count <= 1<<32
}

// parseIDs reads a line of subuid(5).
func parseIDs(line string) (user string, r idRange, ok bool) {
	fields := strings.Split(strings.TrimSpace(line), ":")
	if len(fields) != 3 {
		return fields[0], r, false
	}
	first, err := strconv.ParseUint(fields[1], 10, 32)
	count, err2 := strconv.ParseUint(fields[2], 10, 32)
	return fields[0], idRange{first, count}, err == nil && err2 == nil
}
