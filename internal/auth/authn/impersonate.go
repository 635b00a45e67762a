package authn

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

const extraHeader = "Impersonate-Extra-"

// Impersonate turns the Impersonate-* headers into the user to act as, after
// the requester has been allowed to take on every part of that identity.
func Impersonate(authz authorizer.UnconditionalAuthorizer) func(context.Context, user.Info, http.Header) (user.Info, error) {
	return func(ctx context.Context, u user.Info, h http.Header) (user.Info, error) {
		out := &user.DefaultInfo{Name: h.Get(authenticationv1.ImpersonateUserHeader), UID: h.Get(authenticationv1.ImpersonateUIDHeader),
			Groups: h.Values(authenticationv1.ImpersonateGroupHeader)}
		ask := authorizer.AttributesRecord{User: u, Verb: "impersonate", Resource: "users", Name: out.Name, ResourceRequest: true}
		if ns, name, ok := serviceAccountOf(out.Name); ok {
			ask.Resource, ask.Namespace, ask.Name = "serviceaccounts", ns, name
			if len(out.Groups) == 0 {
				out.Groups = []string{"system:serviceaccounts", "system:serviceaccounts:" + ns}
			}
		}
		asks := []authorizer.AttributesRecord{ask}
		for _, g := range h.Values(authenticationv1.ImpersonateGroupHeader) {
			asks = append(asks, authorizer.AttributesRecord{User: u, Verb: "impersonate", Resource: "groups", Name: g, ResourceRequest: true})
		}
		if out.UID != "" {
			asks = append(asks, authorizer.AttributesRecord{User: u, Verb: "impersonate", APIGroup: "authentication.k8s.io", Resource: "uids", Name: out.UID, ResourceRequest: true})
		}
		for name, values := range h {
			key, ok := strings.CutPrefix(name, extraHeader)
			if !ok {
				continue
			}
			if k, err := url.PathUnescape(strings.ToLower(key)); err == nil {
				key = k
			}
			if out.Extra == nil {
				out.Extra = map[string][]string{}
			}
			out.Extra[key] = values
			for _, v := range values {
				asks = append(asks, authorizer.AttributesRecord{User: u, Verb: "impersonate", APIGroup: "authentication.k8s.io", Resource: "userextras", Subresource: key, Name: v, ResourceRequest: true})
			}
		}
		for _, a := range asks {
			if d, reason, _ := authz.Authorize(ctx, a); d != authorizer.DecisionAllow {
				msg := "User \"" + u.GetName() + "\" cannot impersonate resource \"" + a.Resource + "\" in API group \"" + a.APIGroup + "\""
				if a.Namespace != "" {
					msg += " in the namespace \"" + a.Namespace + "\""
				} else {
					msg += " at the cluster scope"
				}
				if reason != "" {
					msg += ": " + reason
				}
				return nil, apierrors.NewForbidden(schema.GroupResource{Group: a.APIGroup, Resource: a.Resource}, a.Name, errors.New(msg))
			}
		}
		if out.Name == Anonymous {
			out.Groups = append(out.Groups, unauthenticated)
			return out, nil
		}
		return known(out), nil
	}
}

func serviceAccountOf(name string) (namespace, account string, ok bool) {
	rest, ok := strings.CutPrefix(name, serviceAccountPrefix)
	if !ok {
		return "", "", false
	}
	namespace, account, ok = strings.Cut(rest, ":")
	return namespace, account, ok && namespace != "" && account != "" && !strings.Contains(account, ":")
}
