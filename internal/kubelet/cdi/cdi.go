// Package cdi gives containers the devices that drivers describe in files (the
// Container Device Interface, CNCF). The files are read when a device is asked
// for: nobody watches them. Inject edits what a container runtime is about to
// run; Apply edits what the kubelet asks of runtimes that do not know such files
// themselves (containerd before 1.7), and refuses what cannot be asked of them.
package cdi

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
	"tags.cncf.io/container-device-interface/specs-go"
)

// Dirs are where the specification has the files; what is in a later one
// replaces what is in an earlier one.
var Dirs = []string{"/etc/cdi", "/var/run/cdi"}

// Bounds of what drivers write.
const (
	maxFile  = 8 << 20
	maxFiles = 4096
)

// Names of devices are vendor/class=name (SPEC.md of the interface).
var (
	vendorName = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?$`)
	className  = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])?$`)
	deviceName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?$`)
)

// file is a specification with the file that it stands in.
type file struct {
	*specs.Spec
	path string
}

// found is a device, or files that both have it.
type found struct {
	file   *file
	device *specs.Device
	also   *file
}

// resolve returns the edits that the devices of these IDs, as in
// "vendor.com/class=name", come to: those of a whole file come once, before
// those of its first device.
func resolve(ids, dirs []string, each func(*specs.ContainerEdits) error) error {
	known, broken, err := read(dirs)
	if err != nil {
		return err
	}
	whole := map[*file]bool{}
	for i, id := range ids {
		if slices.Contains(ids[:i], id) {
			continue
		}
		d, ok := known[id]
		switch {
		case !ok:
			return errors.Join(fmt.Errorf("unresolvable CDI device %s: none of its name in %s", id, strings.Join(dirs, ", ")), broken)
		case d.also != nil:
			return fmt.Errorf("conflicting CDI device %s: both %s and %s have it", id, d.file.path, d.also.path)
		}
		edits := []*specs.ContainerEdits{&d.device.ContainerEdits}
		if !whole[d.file] {
			whole[d.file] = true
			edits = slices.Insert(edits, 0, &d.file.ContainerEdits)
		}
		for _, e := range edits {
			if err := each(e); err != nil {
				return fmt.Errorf("CDI device %s of %s: %w", id, d.file.path, err)
			}
		}
	}
	return nil
}

// read all devices. Files that cannot be read matter to those only whose device
// is missing.
func read(dirs []string) (known map[string]found, broken error, err error) {
	known = map[string]found{}
	for _, dir := range dirs {
		here := map[string]found{}
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if len(entries) > maxFiles {
			return nil, nil, fmt.Errorf("%s has more than %d files", dir, maxFiles)
		}
		for _, e := range entries {
			ext := filepath.Ext(e.Name())
			if e.IsDir() || ext != ".json" && ext != ".yaml" && ext != ".yml" {
				continue
			}
			f, err := readFile(filepath.Join(dir, e.Name()))
			if errors.Is(err, fs.ErrNotExist) {
				continue // its driver has just taken it away
			}
			if err != nil {
				broken = errors.Join(broken, err)
				continue
			}
			for i := range f.Devices {
				id := f.Kind + "=" + f.Devices[i].Name
				d, twice := here[id]
				if twice {
					d.also = f
				} else {
					d = found{file: f, device: &f.Devices[i]}
				}
				here[id] = d
			}
		}
		for id, d := range here {
			known[id] = d
		}
	}
	return known, broken, nil
}

func readFile(path string) (*file, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("CDI specification %s is larger than %d bytes", path, maxFile)
	}
	s := &specs.Spec{}
	if err = yaml.UnmarshalStrict(data, s); err == nil {
		err = check(s)
	}
	if err != nil {
		return nil, fmt.Errorf("CDI specification %s: %w", path, err)
	}
	return &file{s, path}, nil
}

// check refuses what the interface does not allow.
func check(s *specs.Spec) error {
	if err := specs.ValidateVersion(s); err != nil {
		return err
	}
	vendor, class, _ := strings.Cut(s.Kind, "/")
	if !vendorName.MatchString(vendor) || !className.MatchString(class) {
		return fmt.Errorf("kind %q is not of the form vendor/class", s.Kind)
	}
	if len(s.Devices) == 0 {
		return errors.New("it has no devices")
	}
	if err := checkEdits(&s.ContainerEdits); err != nil {
		return err
	}
	for i := range s.Devices {
		d := &s.Devices[i]
		if !deviceName.MatchString(d.Name) {
			return fmt.Errorf("device name %q has characters that none may have", d.Name)
		}
		if slices.ContainsFunc(s.Devices[:i], func(o specs.Device) bool { return o.Name == d.Name }) {
			return fmt.Errorf("it has device %s twice", d.Name)
		}
		if err := checkEdits(&d.ContainerEdits); err != nil {
			return fmt.Errorf("device %s: %w", d.Name, err)
		}
	}
	return nil
}

func checkEdits(e *specs.ContainerEdits) error {
	for _, kv := range e.Env {
		if strings.IndexByte(kv, '=') < 1 {
			return fmt.Errorf("invalid environment variable %q", kv)
		}
	}
	for _, n := range e.DeviceNodes {
		switch {
		case n == nil || n.Path == "":
			return errors.New("a device node without a path")
		case !slices.Contains([]string{"", "b", "c", "u", "p"}, n.Type):
			return fmt.Errorf("device node %s: unknown type %q", n.Path, n.Type)
		case strings.Trim(n.Permissions, "rwm") != "":
			return fmt.Errorf("device node %s: permissions %q are not of r, w and m", n.Path, n.Permissions)
		}
	}
	for _, m := range e.Mounts {
		if m == nil || m.HostPath == "" || m.ContainerPath == "" {
			return errors.New("a mount without a path of the host and one of the container")
		}
	}
	for _, h := range e.Hooks {
		switch {
		case h == nil || h.Path == "":
			return errors.New("a hook without a path")
		case !slices.Contains(hookNames, h.HookName):
			return fmt.Errorf("unknown hook %q", h.HookName)
		}
	}
	for _, d := range e.NetDevices {
		if d == nil || d.HostInterfaceName == "" || d.Name == "" {
			return errors.New("a network device without a name on the host and one in the container")
		}
	}
	if r := e.IntelRdt; r != nil && r.ClosID != "/" && (len(r.ClosID) > 255 || r.ClosID == "." || r.ClosID == ".." || strings.ContainsAny(r.ClosID, "/\n")) {
		return fmt.Errorf("closID %q is no name of a directory", r.ClosID)
	}
	return nil
}

// hookNames as OCI has them.
var hookNames = []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}

// AnnotationPrefix begins the annotations of containers that ask for devices:
// what device plugins used before the CRI had a field for it.
const AnnotationPrefix = "cdi.k8s.io/"

// FromAnnotations are the devices that annotations ask for, with commas between
// them, in the order of the annotations' names.
func FromAnnotations(annotations map[string]string) ([]string, error) {
	var keys, ids []string
	for k := range annotations {
		if strings.HasPrefix(k, AnnotationPrefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		for _, id := range strings.Split(annotations[k], ",") {
			kind, name, _ := strings.Cut(id, "=")
			vendor, class, _ := strings.Cut(kind, "/")
			if !vendorName.MatchString(vendor) || !className.MatchString(class) || !deviceName.MatchString(name) {
				return nil, fmt.Errorf("annotation %s: invalid CDI device name %q", k, id)
			}
			ids = append(ids, id)
		}
	}
	return ids, nil
}
