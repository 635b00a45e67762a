// Package durable writes the files that a kubelet must find again after the
// machine has lost power.
package durable

import (
	"errors"
	"os"
)

// Write replaces a file at once: whatever happens, it has its old content or
// the new one.
func Write(path string, data []byte) error {
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
