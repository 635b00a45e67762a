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
