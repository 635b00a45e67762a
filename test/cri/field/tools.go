//go:build tools

// Package field pins the field's own validation suite, which TestField runs: its
// own module, so that nothing of it enters knarr's.
package field

import _ "sigs.k8s.io/cri-tools/pkg/validate"
