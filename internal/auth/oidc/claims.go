package oidc

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/lazy"
)

// claims of a token, each as it was sent.
type claims map[string]json.RawMessage

// decodeClaims reads the middle of a token, whether or not it has been checked.
func decodeClaims(token string) (claims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errMalformed
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, errMalformed
	}
	var c claims
	if json.Unmarshal(data, &c) != nil {
		return nil, errMalformed
	}
	return c, nil
}

// untrustedIssuer is who says to have issued a token that nobody has checked.
func untrustedIssuer(token string) string {
	c, err := decodeClaims(token)
	if err != nil {
		return ""
	}
	iss, _ := c.text("iss")
	return fullIssuer(iss)
}

// fullIssuer adds what Google's tokens may leave away (OpenID Connect Core 1.0,
// 15.6.2).
func fullIssuer(iss string) string {
	if iss == "accounts.google.com" {
		return "https://" + iss
	}
	return iss
}

func (c claims) has(name string) bool {
	_, ok := c[name]
	return ok
}

func (c claims) decode(name string, into any) error {
	v, ok := c[name]
	if !ok {
		return errors.New("claim not present")
	}
	return json.Unmarshal(v, into)
}

func (c claims) text(name string) (s string, err error) {
	err = c.decode(name, &s)
	return s, err
}

// texts: some providers write a list of one as a string.
func (c claims) texts(name string) (list []string, err error) {
	if c.decode(name, &list) == nil {
		return list, nil
	}
	one, err := c.text(name)
	return []string{one}, err
}

// value is what expressions see as `claims`; a claim is decoded when it is
// looked at.
func (c claims) value() *lazy.MapValue {
	m := lazy.NewMapValue(types.NewObjectType("kubernetes.claims"))
	for name, raw := range c {
		m.Append(name, func(*lazy.MapValue) ref.Val {
			var v any
			if err := json.Unmarshal(raw, &v); err != nil {
				return types.NewErr("claim %q failed to unmarshal: %w", name, err)
			}
			return native(v)
		})
	}
	return m
}

// native makes a value of CEL whose maps are also found by escaped keys:
// claims.acme.dept__dot__name.
func native(v any) ref.Val { return escaped(types.DefaultTypeAdapter.NativeToValue(v)) }

func escaped(v ref.Val) ref.Val {
	switch v := v.(type) {
	case traits.Mapper:
		return escapedMap{v}
	case traits.Lister:
		return escapedList{v}
	}
	return v
}

type escapedMap struct{ traits.Mapper }

func (m escapedMap) Find(key ref.Val) (ref.Val, bool) {
	if s, ok := key.(types.String); ok {
		if plain, ok := cel.Unescape(string(s)); ok {
			key = types.String(plain)
		}
	}
	v, ok := m.Mapper.Find(key)
	return escaped(v), ok
}

type escapedList struct{ traits.Lister }

func (l escapedList) Get(i ref.Val) ref.Val { return escaped(l.Lister.Get(i)) }

// stringsOf a value that is a string, a list of them, or null; empty ones do
// not count.
func stringsOf(v ref.Val) ([]string, error) {
	var list []string
	add := func(x any) error {
		if r, ok := x.(ref.Val); ok {
			x = r.Value()
		}
		s, ok := x.(string)
		if !ok {
			return errors.New("expression must return a string or a list of strings")
		}
		if s != "" {
			list = append(list, s)
		}
		return nil
	}
	switch v := v.(type) {
	case types.Null:
		return nil, nil
	case traits.Lister:
		for it := v.Iterator(); it.HasNext() == types.True; {
			if err := add(it.Next()); err != nil {
				return nil, err
			}
		}
		return list, nil
	default:
		if err := add(v); err != nil {
			return nil, fmt.Errorf("%w, not %s", err, v.Type().TypeName())
		}
		return list, nil
	}
}
