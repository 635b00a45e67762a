package authn

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Impersonate turns the Impersonate-* headers into the user to act as, after
// the requester has been allowed to take on every part of that identity.
func Impersonate(authz authorizer.UnconditionalAuthorizer) func(context.Context, user.Info, http.Header) (user.Info, error) {
	return func(ctx context.Context, u user.Info, h http.Header) (user.Info, error) {
		want, asks := wanted(h)
		if want.Name == "" {
			return nil, apierrors.NewBadRequest("requested impersonation of groups, extra or UID without impersonating a user")
		}
		for _, a := range asks {
			a.User, a.Verb, a.ResourceRequest = u, "impersonate", true
			decision, reason, _ := authz.Authorize(ctx, a)
			if decision != authorizer.DecisionAllow {
				return nil, refusal(a, reason)
			}
		}
		return complete(want), nil
	}
}

// wanted is the identity that the headers describe, and what has to be allowed
// for it.
func wanted(h http.Header) (*user.DefaultInfo, []authorizer.AttributesRecord) {
	u := &user.DefaultInfo{Name: h.Get(authenticationv1.ImpersonateUserHeader), UID: h.Get(authenticationv1.ImpersonateUIDHeader),
		Groups: slices.Clone(h.Values(authenticationv1.ImpersonateGroupHeader))}
	var asks []authorizer.AttributesRecord
	if ns, name, ok := serviceAccountOf(u.Name); ok {
		asks = append(asks, authorizer.AttributesRecord{Resource: "serviceaccounts", Namespace: ns, Name: name})
	} else if u.Name != "" {
		asks = append(asks, authorizer.AttributesRecord{Resource: "users", Name: u.Name})
	}
	for _, g := range u.Groups {
		asks = append(asks, authorizer.AttributesRecord{Resource: "groups", Name: g})
	}
	if u.UID != "" {
		asks = append(asks, authorizer.AttributesRecord{APIGroup: authenticationv1.GroupName, Resource: "uids", Name: u.UID})
	}
	for name, values := range h {
		// http.Header has them in canonical form; the key is lower case.
		key, ok := strings.CutPrefix(name, authenticationv1.ImpersonateUserExtraHeaderPrefix)
		if !ok {
			continue
		}
		key = strings.ToLower(key)
		if k, err := url.PathUnescape(key); err == nil {
			key = k
		}
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[key] = append(u.Extra[key], values...)
		for _, v := range values {
			asks = append(asks, authorizer.AttributesRecord{APIGroup: authenticationv1.GroupName, Resource: "userextras", Subresource: key, Name: v})
		}
	}
	return u, asks
}

// complete adds the groups that go with the identity.
func complete(u *user.DefaultInfo) user.Info {
	if ns, _, ok := serviceAccountOf(u.Name); ok && len(u.Groups) == 0 {
		u.Groups = []string{"system:serviceaccounts", "system:serviceaccounts:" + ns}
	}
	if u.Name == Anonymous || slices.Contains(u.Groups, unauthenticated) {
		if !slices.Contains(u.Groups, unauthenticated) {
			u.Groups = append(u.Groups, unauthenticated)
		}
		return u
	}
	return known(u)
}

func refusal(a authorizer.AttributesRecord, reason string) error {
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	msg := fmt.Sprintf("User %q cannot impersonate resource %q in API group %q", a.User.GetName(), resource, a.APIGroup)
	if a.Namespace != "" {
		msg += fmt.Sprintf(" in the namespace %q", a.Namespace)
	} else {
		msg += " at the cluster scope"
	}
	if reason != "" {
		msg += ": " + reason
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.APIGroup, Resource: a.Resource}, a.Name, errors.New(msg))
}

func serviceAccountOf(name string) (namespace, account string, ok bool) {
	rest, ok := strings.CutPrefix(name, serviceAccountPrefix)
	if !ok {
		return "", "", false
	}
	namespace, account, ok = strings.Cut(rest, ":")
	return namespace, account, ok && namespace != "" && account != "" && !strings.Contains(account, ":")
}
