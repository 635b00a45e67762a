package builtin

import (
	"context"
	"encoding/json"
	"os/exec"
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	oci "github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/runtime/supervisor"
)

// featuresTime is for an executable to say what it can do.
const featuresTime = 10 * time.Second

// ownFeatures are our engine's.
var ownFeatures = &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: true, UserNamespaces: true}

// features are what each handler can do; our own engine has no name. An
// executable that does not say so is taken to lack what it could say.
func features(ctx context.Context, l []supervisor.Handler) map[string]*runtimeapi.RuntimeHandlerFeatures {
	out := map[string]*runtimeapi.RuntimeHandlerFeatures{"": ownFeatures}
	for _, h := range l {
		can := &runtimeapi.RuntimeHandlerFeatures{}
		out[h.Name] = can
		ctx, cancel := context.WithTimeout(ctx, featuresTime)
		text, err := exec.CommandContext(ctx, h.Path, slices.Concat(h.Args, []string{"features"})...).Output()
		cancel()
		var f oci.Features
		if err != nil || json.Unmarshal(text, &f) != nil {
			continue
		}
		can.RecursiveReadOnlyMounts = slices.Contains(f.MountOptions, "rro")
		if x := f.Linux; x != nil && x.MountExtensions != nil && x.MountExtensions.IDMap != nil && x.MountExtensions.IDMap.Enabled != nil {
			can.UserNamespaces = *x.MountExtensions.IDMap.Enabled
		}
	}
	return out
}

// handler runs the containers of a sandbox; nil is our own engine.
func (r *Runtime) handler(s *sandbox) (*supervisor.Handler, error) {
	name := s.rec().Handler
	if name == "" {
		return nil, nil
	}
	for i := range r.cfg.Handlers {
		if r.cfg.Handlers[i].Name == name {
			return &r.cfg.Handlers[i], nil
		}
	}
	return nil, status.Errorf(codes.FailedPrecondition, "no runtime for %q is configured any more", name)
}

// plainVersion of the specification is what every executable takes: what it
// does not know of later ones it is not asked for.
const plainVersion = "1.0.2"

// forHandler makes a specification one that a sandbox's handler takes.
func forHandler(s *sandbox, sp *specs.Spec) {
	if s.rec().Handler != "" && len(sp.Linux.NetDevices) == 0 {
		sp.Version = plainVersion
	}
}
