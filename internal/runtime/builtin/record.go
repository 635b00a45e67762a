package builtin

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// message is a message of the CRI in a JSON file.
type message[M proto.Message] struct{ m M }

// MarshalJSON implements json.Marshaler.
func (m message[M]) MarshalJSON() ([]byte, error) { return protojson.Marshal(m.m) }

// UnmarshalJSON implements json.Unmarshaler.
func (m *message[M]) UnmarshalJSON(b []byte) error {
	var none M
	m.m = none.ProtoReflect().New().Interface().(M)
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, m.m)
}

// save writes a record in one step. That it survives the death of knarr is
// enough: one of the machine ends the containers.
func save(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (r *Runtime) sandboxFile(id string) string {
	return filepath.Join(r.recordDir("sandboxes"), id+".json")
}

func (r *Runtime) containerFile(id string) string {
	return filepath.Join(r.recordDir("containers"), id+".json")
}

// load reads what a former process knew. What it had not finished making is
// taken away.
func (r *Runtime) load() error {
	err := each(r.recordDir("sandboxes"), func(id string, b []byte) error {
		s, rec := &sandbox{}, sandboxRecord{}
		if err := decode(b, &rec, func() string { return rec.ID }, id); err != nil {
			return err
		}
		s.record.Store(&rec)
		r.sandboxes[id] = s
		r.names[s.name()] = id
		return nil
	}, r.damaged)
	if err != nil {
		return err
	}
	err = each(r.recordDir("containers"), func(id string, b []byte) error {
		c, rec := &container{}, containerRecord{}
		if err := decode(b, &rec, func() string { return rec.ID }, id); err != nil {
			return err
		}
		c.record.Store(&rec)
		if c.state() == runtimeapi.ContainerState_CONTAINER_RUNNING {
			c.ended = make(chan struct{})
		}
		r.containers[id] = c
		r.names[c.name()] = id
		return nil
	}, r.damaged)
	if err != nil {
		return err
	}
	for _, s := range r.sandboxes {
		r.recheck(s)
	}
	return nil
}

// decode reads a record, which must be the one that its file is named after.
func decode(b []byte, v any, id func() string, want string) error {
	if err := json.Unmarshal(b, v); err != nil {
		return err
	}
	if id() != want {
		return fmt.Errorf("it is about %q", id())
	}
	return nil
}

// damaged is told of a record that cannot be read: an empty file after the
// power failed. What it was about is unknown, so it is put out of the way.
func (r *Runtime) damaged(path string, err error) {
	r.cfg.Log.Error("a record of the container runtime cannot be read and is left out", "file", path, "error", err)
	os.Rename(path, path+".damaged")
}

func each(dir string, one func(id string, b []byte) error, bad func(path string, err error)) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			if strings.HasSuffix(e.Name(), ".new") {
				os.Remove(path)
			}
			continue
		}
		b, err := os.ReadFile(path)
		if err == nil {
			err = one(id, b)
		}
		if errors.Is(err, os.ErrPermission) {
			return err
		}
		if err != nil {
			bad(path, err)
		}
	}
	return nil
}
