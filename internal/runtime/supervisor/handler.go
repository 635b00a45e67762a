package supervisor

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Handler is an executable that runs containers in the place of the
// supervisor's own engine: one with OCI's command line (runc, crun, youki).
type Handler struct {
	Name string   `json:"name"` // of a RuntimeClass's handler
	Path string   `json:"path"`
	Args []string `json:"args,omitempty"` // before the command
}

// ParseHandlers reads handlers as they are configured: NAME=PATH, with arguments
// after the path.
func ParseHandlers(l []string) ([]Handler, error) {
	var out []Handler
	seen := map[string]bool{}
	for _, text := range l {
		name, command, _ := strings.Cut(text, "=")
		words := strings.Fields(command)
		switch {
		case CheckID(name) != nil || name != strings.ToLower(name) || strings.Contains(name, "_"):
			return nil, fmt.Errorf("runtime handler %q: name %q is not a label of DNS", text, name)
		case len(words) == 0 || !filepath.IsAbs(words[0]):
			return nil, fmt.Errorf("runtime handler %q: no absolute path of an executable", text)
		case seen[name]:
			return nil, fmt.Errorf("runtime handler %q: there is another one of its name", text)
		}
		seen[name] = true
		out = append(out, Handler{Name: name, Path: words[0], Args: words[1:]})
	}
	return out, nil
}
