// Package version says what this binary is.
package version

import (
	"runtime"
	"strings"

	apiversion "k8s.io/apimachinery/pkg/version"
)

// Set by the linker (Makefile).
var (
	GitVersion = "v1.37.2+knarr.1"
	GitCommit  = "unknown"
)

// Info as /version serves it.
func Info() apiversion.Info {
	parts := strings.SplitN(strings.TrimPrefix(GitVersion, "v"), ".", 3)
	for len(parts) < 2 {
		parts = append(parts, "")
	}
	return apiversion.Info{
		Major: parts[0], Minor: parts[1], GitVersion: GitVersion, GitCommit: GitCommit, GitTreeState: "clean",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}
