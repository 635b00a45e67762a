package authn

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/authentication/user"
)

// Front is a proxy that has authenticated the client itself and says in
// headers who that is. It shows a certificate of its own authority.
type Front struct {
	Roots CertPool
	// Names that the certificate may have; none: any.
	Names []string
	// The first header of Users and of UIDs that is there tells the name and the
	// UID, all of Groups the groups, and those with one of ExtraPrefixes the rest.
	Users, UIDs, Groups, ExtraPrefixes []string
}

// front believes the headers if the certificate is a proxy's.
func (a *Authenticator) front(r *http.Request) (user.Info, error) {
	f := a.cfg.Front
	if f == nil || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, nil
	}
	u := f.user(r.Header)
	if u.Name == "" {
		return nil, nil
	}
	if _, _, err := verifyChain(r.TLS.PeerCertificates, f.Roots(), a.cfg.Now()); err != nil {
		return nil, err
	}
	if cn := r.TLS.PeerCertificates[0].Subject.CommonName; len(f.Names) > 0 && !slices.Contains(f.Names, cn) {
		return nil, fmt.Errorf("x509: subject with cn=%s is not in the allowed list", cn)
	}
	for name := range r.Header {
		if f.means(name) {
			delete(r.Header, name)
		}
	}
	return known(u), nil
}

func (f *Front) user(h http.Header) *user.DefaultInfo {
	u := &user.DefaultInfo{Name: firstOf(h, f.Users), UID: firstOf(h, f.UIDs)}
	for _, name := range f.Groups {
		for _, g := range h.Values(name) {
			if g != "" {
				u.Groups = append(u.Groups, g)
			}
		}
	}
	for name, values := range h {
		for _, prefix := range f.ExtraPrefixes {
			key, ok := cutPrefixFold(name, prefix)
			if !ok {
				continue
			}
			if u.Extra == nil {
				u.Extra = map[string][]string{}
			}
			key = extraKey(key)
			u.Extra[key] = append(u.Extra[key], values...)
		}
	}
	return u
}

// means: the header is one that tells who asks.
func (f *Front) means(name string) bool {
	for _, list := range [][]string{f.Users, f.UIDs, f.Groups} {
		if slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, name) }) {
			return true
		}
	}
	return slices.ContainsFunc(f.ExtraPrefixes, func(p string) bool { _, ok := cutPrefixFold(name, p); return ok })
}

func firstOf(h http.Header, names []string) string {
	for _, n := range names {
		if v := h.Get(n); v != "" {
			return v
		}
	}
	return ""
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return "", false
	}
	return s[len(prefix):], true
}

// extraKey is the key in a header's name: headers know no upper case, and what
// they cannot hold is escaped.
func extraKey(s string) string {
	s = strings.ToLower(s)
	if key, err := url.PathUnescape(s); err == nil {
		return key
	}
	return s
}
