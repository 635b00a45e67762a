package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/apis/audit/install"
	"k8s.io/apiserver/pkg/apis/audit/validation"
	k8saudit "k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/audit/policy"

	"knarr.dev/knarr/internal/filewatch"
)

// Policy is a file that says how much is written down about which requests.
type Policy struct {
	path  string
	last  []byte
	log   *slog.Logger
	rules atomic.Pointer[k8saudit.PolicyRuleEvaluator]
}

// OpenPolicy reads the file, and refuses it if anything in it is not understood.
func OpenPolicy(path string, log *slog.Logger) (*Policy, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	p := &Policy{path: path, last: data, log: log}
	if err := p.apply(data); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// Run takes changes of the file until ctx ends. A change that cannot work is
// logged and changes nothing.
func (p *Policy) Run(ctx context.Context) error {
	return filewatch.Follow(ctx, p.path, p.last, p.log, nil, p.apply)
}

func (p *Policy) apply(data []byte) error {
	c, err := decodePolicy(data)
	if err != nil {
		return err
	}
	rules := policy.NewPolicyRuleEvaluator(c)
	p.rules.Store(&rules)
	return nil
}

// decodePolicy is stricter than upstream, which logs what it does not
// understand and goes on: what it would then audit is not what was written.
func decodePolicy(data []byte) (*audit.Policy, error) {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	obj, err := runtime.Decode(serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDecoder(), data)
	if err != nil {
		return nil, errors.New("failed decoding: " + strings.Join(strings.Fields(err.Error()), " ")) // YAML's errors have several lines
	}
	c, ok := obj.(*audit.Policy)
	if !ok {
		return nil, fmt.Errorf("expected a Policy of audit.k8s.io/v1, got %T", obj)
	}
	if errs := validation.ValidatePolicy(c); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	if len(c.Rules) == 0 {
		return nil, errors.New("loaded illegal policy with 0 rules")
	}
	return c, nil
}
