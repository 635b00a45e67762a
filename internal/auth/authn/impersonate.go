package authn

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/auth/authz"
)

// manyChecks is from how many values on a right on all of them is asked for
// first; upstream's figure.
const manyChecks = 4

// mode is one way to be allowed to act as somebody else. All but the oldest
// need two rights: to take on the identity (verb impersonate:<mode>), and to do
// what is asked in its name (impersonate-on:<mode>:<verb>).
type mode struct {
	name string // empty: the oldest, one right for everything
	fits func(want *user.DefaultInfo, asker user.Info) bool
}

// modes in the order in which they are tried.
var modes = []mode{
	{"associated-node", func(want *user.DefaultInfo, asker user.Info) bool {
		node, ok := nodeOf(want.Name)
		_, _, account := accountOf(asker.GetName())
		on := asker.GetExtra()[serviceaccount.NodeNameKey]
		return ok && account && nameOnly(want) && len(on) == 1 && on[0] == node
	}},
	{"arbitrary-node", func(want *user.DefaultInfo, _ user.Info) bool {
		_, ok := nodeOf(want.Name)
		return ok && nameOnly(want)
	}},
	{"serviceaccount", func(want *user.DefaultInfo, _ user.Info) bool {
		_, _, ok := accountOf(want.Name)
		return ok && nameOnly(want)
	}},
	{"user-info", func(want *user.DefaultInfo, _ user.Info) bool {
		_, node := nodeOf(want.Name)
		_, _, account := accountOf(want.Name)
		return !node && !account
	}},
	{"", func(*user.DefaultInfo, user.Info) bool { return true }},
}

// Impersonate returns a function that turns the Impersonate-* headers of a
// request into the user to act as, after the asker has been allowed to, and the
// verb that allowed it; nil if the headers ask for nobody. It takes the headers
// away.
func Impersonate(az authorizer.UnconditionalAuthorizer) func(ctx context.Context, at authorizer.AttributesRecord, h http.Header) (u user.Info, constraint string, err error) {
	last := newRemembered[int]() // the mode that allowed an asker last is tried first
	return func(ctx context.Context, at authorizer.AttributesRecord, h http.Header) (user.Info, string, error) {
		want, err := wanted(h)
		if want == nil || err != nil {
			return nil, "", err
		}
		key := sha256.Sum256([]byte(at.User.GetName()))
		order := []int{0, 1, 2, 3, 4}
		if i, ok := last.get(key); ok {
			order = append([]int{i}, slices.Delete(order, i, i+1)...)
		}
		var first error
		for _, i := range order {
			if !modes[i].fits(want, at.User) {
				continue
			}
			u, err := modes[i].try(ctx, az, want, at)
			if err == nil {
				last.put(key, i)
				if modes[i].name == "" {
					return u, "", nil
				}
				return u, "impersonate:" + modes[i].name, nil
			}
			if first == nil {
				first = err
			}
		}
		return nil, "", first
	}
}

// wanted is the identity that the headers describe.
func wanted(h http.Header) (*user.DefaultInfo, error) {
	u := &user.DefaultInfo{Name: h.Get(authenticationv1.ImpersonateUserHeader), UID: h.Get(authenticationv1.ImpersonateUIDHeader),
		Groups: slices.Clone(h.Values(authenticationv1.ImpersonateGroupHeader))}
	extras := false
	for name, values := range h {
		key, ok := strings.CutPrefix(name, authenticationv1.ImpersonateUserExtraHeaderPrefix)
		if !ok {
			continue
		}
		extras = true
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		key = extraKey(key)
		u.Extra[key] = append(u.Extra[key], values...)
		delete(h, name)
	}
	if u.Name == "" {
		if extras || u.UID != "" || len(u.Groups) > 0 {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("requested %#v without impersonating a user name", u))
		}
		return nil, nil
	}
	for _, name := range []string{authenticationv1.ImpersonateUserHeader, authenticationv1.ImpersonateUIDHeader, authenticationv1.ImpersonateGroupHeader} {
		h.Del(name)
	}
	return u, nil
}

// asking asks for one right after the other in the name of the asker.
type asking struct {
	ctx  context.Context
	az   authorizer.UnconditionalAuthorizer
	mode string
	user user.Info
}

func (m mode) try(ctx context.Context, az authorizer.UnconditionalAuthorizer, want *user.DefaultInfo, at authorizer.AttributesRecord) (user.Info, error) {
	a := asking{ctx, az, m.name, at.User}
	if m.name == "associated-node" {
		// The right is one for all of the account's pods, wherever they run:
		// where this one does must not decide.
		var keys []string
		for k := range at.User.GetExtra() {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		a.user = &user.DefaultInfo{Name: at.User.GetName(), UID: at.User.GetUID(), Groups: at.User.GetGroups(),
			Extra: map[string][]string{"authentication.kubernetes.io/associated-node-keys": keys}}
	}
	if m.name != "" {
		on := at
		on.User, on.Verb = a.user, "impersonate-on:"+m.name+":"+at.Verb
		if err := a.allowed(on); err != nil {
			return nil, err
		}
	}
	out := *want
	for _, check := range []func(*user.DefaultInfo, *user.DefaultInfo) error{a.name, a.uid, a.groups, a.extra} {
		if err := check(want, &out); err != nil {
			return nil, err
		}
	}
	if out.Name == Anonymous {
		addGroup(&out, unauthenticated)
	} else if !slices.Contains(out.Groups, unauthenticated) {
		addGroup(&out, authenticated)
	}
	return &out, nil
}

func addGroup(u *user.DefaultInfo, group string) {
	if !slices.Contains(u.Groups, group) {
		u.Groups = append(slices.Clone(u.Groups), group)
	}
}

// on is the question whether a part of an identity may be taken on.
func (a *asking) on(group, resource, name string) authorizer.AttributesRecord {
	r := authorizer.AttributesRecord{User: a.user, Verb: "impersonate", APIGroup: group, APIVersion: "v1", Resource: resource, Name: name, ResourceRequest: true}
	if a.mode != "" {
		r.Verb += ":" + a.mode
	}
	return r
}

// core is the group of users and groups: the oldest mode keeps them in the
// core's, where service accounts are.
func (a *asking) core() string {
	if a.mode == "" {
		return ""
	}
	return authenticationv1.GroupName
}

func (a *asking) allowed(at authorizer.AttributesRecord) error {
	decision, reason, err := a.az.Authorize(a.ctx, at)
	switch {
	case decision == authorizer.DecisionAllow:
		return nil
	case err != nil && reason != "":
		reason = err.Error() + ": " + reason
	case err != nil:
		reason = err.Error()
	}
	return authz.Forbidden(at, reason)
}

func (a *asking) name(want, out *user.DefaultInfo) error {
	at := a.on(a.core(), "users", want.Name)
	if node, ok := nodeOf(want.Name); ok && a.mode != "" {
		at.Resource, at.Name = "nodes", node
		if a.mode == "associated-node" {
			at.Name = "*"
		}
		out.Groups = []string{user.NodesGroup}
	}
	if ns, name, ok := accountOf(want.Name); ok {
		at.Resource, at.Namespace, at.Name = "serviceaccounts", ns, name
		if len(want.Groups) == 0 {
			out.Groups = serviceaccount.MakeGroupNames(ns)
		}
	}
	return a.allowed(at)
}

func (a *asking) uid(want, _ *user.DefaultInfo) error {
	if want.UID == "" {
		return nil
	}
	return a.allowed(a.on(authenticationv1.GroupName, "uids", want.UID))
}

func (a *asking) groups(want, _ *user.DefaultInfo) error {
	at := a.on(a.core(), "groups", "")
	if a.mode != "" {
		switch {
		case slices.Contains(want.Groups, ""):
			return authz.Forbidden(at, "impersonating the empty string group is not allowed")
		case slices.Contains(want.Groups, user.SystemPrivilegedGroup):
			at.Name = user.SystemPrivilegedGroup
			return authz.Forbidden(at, "impersonating the system:masters group is not allowed")
		}
		if len(want.Groups) >= manyChecks {
			at.Name = "*"
			if a.allowed(at) == nil {
				return nil
			}
		}
	}
	for _, at.Name = range want.Groups {
		if err := a.allowed(at); err != nil {
			return err
		}
	}
	return nil
}

func (a *asking) extra(want, _ *user.DefaultInfo) error {
	at := a.on(authenticationv1.GroupName, "userextras", "")
	if a.mode != "" && len(want.Extra) > 0 {
		n := 0
		for key, values := range want.Extra {
			if err := checkExtra(key, values); err != nil {
				return authz.Forbidden(at, err.Error())
			}
			n += len(values)
		}
		if n >= manyChecks {
			at.Subresource, at.Name = "*", "*"
			if a.allowed(at) == nil {
				return nil
			}
		}
	}
	var values []string
	for at.Subresource, values = range want.Extra {
		for _, at.Name = range values {
			if err := a.allowed(at); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkExtra: what the oldest mode lets pass.
func checkExtra(key string, values []string) error {
	switch errs := utilvalidation.IsDomainPrefixedPath(field.NewPath("extra", "key"), key); {
	case key == "":
		return errors.New("impersonating the empty string key in extra is not allowed")
	case len(errs) > 0:
		return fmt.Errorf("impersonating an invalid key in extra is not allowed: %w", errs.ToAggregate())
	case key != strings.ToLower(key):
		return fmt.Errorf("impersonating a non-lowercase key in extra is not allowed: %q", key)
	case len(values) == 0:
		return errors.New("impersonating empty values in extra is not allowed")
	case slices.Contains(values, ""):
		return errors.New("impersonating the empty string value in extra is not allowed")
	}
	return nil
}

func nameOnly(u *user.DefaultInfo) bool {
	return u.UID == "" && len(u.Groups) == 0 && len(u.Extra) == 0
}

func nodeOf(name string) (string, bool) {
	node, ok := strings.CutPrefix(name, authz.NodeUserPrefix)
	return node, ok && len(validation.NameIsDNSSubdomain(node, false)) == 0
}

func accountOf(name string) (namespace, account string, ok bool) {
	namespace, account, err := serviceaccount.SplitUsername(name)
	return namespace, account, err == nil
}
