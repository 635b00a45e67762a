// Package config reads the AuthenticationConfiguration and the
// AuthorizationConfiguration (apiserver.config.k8s.io) and follows their
// changes: a file that cannot work changes nothing.
package config

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/auth/authz"
	"knarr.dev/knarr/internal/auth/oidc"
	"knarr.dev/knarr/internal/auth/webhook"
	"knarr.dev/knarr/internal/filewatch"
)

const (
	// readyLimit is how long issuers of a changed file may take to answer before
	// the file counts as one that cannot work.
	readyLimit = time.Minute
	// handOver is how long requests that have begun may still use what a changed
	// file has replaced.
	handOver = time.Minute
	// tokenMemory is how long a checked token is not checked again; upstream's
	// figure.
	tokenMemory = 10 * time.Second
)

// decode reads one of the group's kinds strictly.
func decode[T runtime.Object](data []byte) (T, error) {
	var none T
	scheme := runtime.NewScheme()
	install.Install(scheme)
	obj, err := runtime.Decode(serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDecoder(), data)
	if err != nil {
		return none, err
	}
	c, ok := obj.(T)
	if !ok {
		return none, fmt.Errorf("expected %s, got %T", strings.TrimPrefix(fmt.Sprintf("%T", none), "*apiserver."), obj)
	}
	return c, nil
}

// file whose content is followed.
type file struct {
	path string
	last []byte
	log  *slog.Logger
}

// follow calls apply with each new content until ctx ends.
func (f *file) follow(ctx context.Context, told *filewatch.Reloads, apply func([]byte) error) error {
	return filewatch.Follow(ctx, f.path, f.last, f.log, told, apply)
}

// Authentication follows an AuthenticationConfiguration. It implements
// authenticator.Token.
type Authentication struct {
	Reloads *filewatch.Reloads // counts changes; optional, set before Run

	file       file
	disallowed []string // issuers that are our own
	now        func() time.Time
	health     func(path string) bool // without an anonymous section

	current atomic.Pointer[issuers]
}

// issuers of one content.
type issuers struct {
	tokens    []authenticator.Token
	all       []*oidc.Authenticator
	anonymous func(path string) bool
	end       context.CancelFunc // of what runs
}

// NewAuthentication reads the file. own are the issuers that this server is
// itself; unsaid decides where requests may be anonymous if the file does not
// say.
func NewAuthentication(path string, own []string, unsaid func(path string) bool, log *slog.Logger, now func() time.Time) (*Authentication, error) {
	a := &Authentication{file: file{path: path, log: log}, disallowed: own, now: now, health: unsaid}
	var err error
	if a.file.last, err = os.ReadFile(path); err != nil {
		return nil, err
	}
	next, err := a.load(a.file.last)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	a.current.Store(next)
	return a, nil
}

// Run asks the issuers for their keys, and takes changes of the file, until ctx
// ends.
func (a *Authentication) Run(ctx context.Context) error {
	a.current.Load().start(ctx)
	return a.file.follow(ctx, a.Reloads, func(data []byte) error {
		next, err := a.load(data)
		if err != nil {
			return err
		}
		next.start(ctx)
		if err := next.wait(ctx); err != nil {
			next.end()
			return err
		}
		former := a.current.Swap(next)
		time.AfterFunc(handOver, former.end)
		return nil
	})
}

func (a *Authentication) load(data []byte) (*issuers, error) {
	c, err := decode[*apiserver.AuthenticationConfiguration](data)
	if err != nil {
		return nil, fmt.Errorf("failed to load AuthenticationConfiguration from file: %w", err)
	}
	compiler := oidc.Compiler()
	if errs := validation.ValidateAuthenticationConfiguration(compiler, c, a.disallowed); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	out := &issuers{anonymous: a.health}
	for _, j := range c.JWT {
		one, err := oidc.New(compiler, j, a.disallowed, a.now)
		if err != nil {
			return nil, err
		}
		out.all = append(out.all, one)
		out.tokens = append(out.tokens, cache.New(one, false, tokenMemory, 0))
	}
	if c.Anonymous != nil {
		out.anonymous = anonymousAt(c.Anonymous)
	}
	return out, nil
}

func (s *issuers) start(ctx context.Context) {
	ctx, s.end = context.WithCancel(ctx)
	for _, one := range s.all {
		go one.Run(ctx)
	}
}

// wait until all issuers have answered.
func (s *issuers) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	for _, one := range s.all {
		select {
		case <-one.Ready():
		case <-ctx.Done():
			return one.Health()
		}
	}
	return nil
}

func anonymousAt(c *apiserver.AnonymousAuthConfig) func(string) bool {
	paths := map[string]bool{}
	for _, one := range c.Conditions {
		paths[one.Path] = true
	}
	return func(path string) bool { return c.Enabled && (len(paths) == 0 || paths[path]) }
}

// Anonymous says whether requests for the path need no credentials.
func (a *Authentication) Anonymous(path string) bool { return a.current.Load().anonymous(path) }

// AuthenticateToken implements authenticator.Token. The issuers' tokens are for
// this server only.
func (a *Authentication) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	for _, one := range a.current.Load().tokens {
		resp, ok, err := one.AuthenticateToken(ctx, token)
		if ok || err != nil { // one issuer is one authenticator: no other knows better
			return resp, ok, err
		}
	}
	return nil, false, nil
}

// Authorization follows an AuthorizationConfiguration.
type Authorization struct {
	Reloads *filewatch.Reloads // counts changes; optional, set before Run

	file     file
	authz    *authz.Authorizer
	required sets.Set[apiserver.AuthorizerType]
}

// NewAuthorization reads the file and has az ask what it names.
func NewAuthorization(path string, az *authz.Authorizer, log *slog.Logger) (*Authorization, error) {
	a := &Authorization{file: file{path: path, log: log}, authz: az, required: sets.New[apiserver.AuthorizerType]()}
	var err error
	if a.file.last, err = os.ReadFile(path); err != nil {
		return nil, err
	}
	if err := a.apply(a.file.last); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

// Run takes changes of the file until ctx ends.
func (a *Authorization) Run(ctx context.Context) error { return a.file.follow(ctx, a.Reloads, a.apply) }

// modes that a file may name. ABAC is not among them: its policy file is
// obsolete, and no default of upstream's either.
var modes = []string{"AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"}

func (a *Authorization) apply(data []byte) error {
	c, err := decode[*apiserver.AuthorizationConfiguration](data)
	if err != nil {
		return fmt.Errorf("failed to load AuthorizationConfiguration from file: %w", err)
	}
	compiler := webhook.Compiler()
	if errs := validation.ValidateAuthorizationConfiguration(compiler, nil, c, sets.New(modes...), sets.New("Webhook")); len(errs) > 0 {
		return errs.ToAggregate()
	}
	var links []authz.Link
	var errs []error
	seen := sets.New[apiserver.AuthorizerType]()
	for _, one := range c.Authorizers {
		if one.Type != apiserver.TypeWebhook {
			seen.Insert(one.Type)
			if want := strings.ToLower(string(one.Type)); one.Name != want {
				errs = append(errs, fmt.Errorf("expected name %s for authorizer %s instead of %s", want, one.Type, one.Name))
			}
		}
		l, err := a.link(one)
		if err != nil {
			errs = append(errs, err)
		}
		links = append(links, l)
	}
	// What a start named, a change must name too, as upstream.
	if missing := a.required.Difference(seen); missing.Len() > 0 {
		errs = append(errs, fmt.Errorf("missing required types: %v", sets.List(missing)))
	}
	if len(errs) > 0 {
		return utilerrors.NewAggregate(errs)
	}
	if a.required.Len() == 0 {
		a.required = seen
	}
	a.authz.Use(links...)
	return nil
}

func (a *Authorization) link(c apiserver.AuthorizerConfiguration) (authz.Link, error) {
	switch c.Type {
	case "AlwaysAllow":
		return authz.Always(authorizer.DecisionAllow), nil
	case "AlwaysDeny":
		return authz.Always(authorizer.DecisionNoOpinion), nil
	case "Node":
		return a.authz.Node(), nil
	case "RBAC":
		return a.authz.RBAC(), nil
	}
	if c.Webhook.ConnectionInfo.KubeConfigFile == nil {
		return nil, errors.New("connectionInfo.type InClusterConfig cannot be used here: this server would ask itself")
	}
	client, err := webhook.Open(*c.Webhook.ConnectionInfo.KubeConfigFile, c.Webhook.Timeout.Duration)
	if err != nil {
		return nil, err
	}
	return webhook.NewAuthorizer(client, webhook.Compiler(), c.Webhook, nil)
}
