package pki

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// FuzzJoinToken: what is taken for a token is written as it was, shows no
// secret, and trusts the one certificate only that it names.
func FuzzJoinToken(f *testing.F) {
	a, err := OpenAuthority(f.TempDir(), "ca", "test", time.Now())
	if err != nil {
		f.Fatal(err)
	}
	token, err := FormatJoinToken(a.PEM, "abcdef", "0123456789abcdef")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token, a.PEM)
	f.Add(" "+token+"\n", append(append([]byte{}, a.PEM...), a.PEM...))
	f.Add("knarr1.x.y.z", []byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))
	f.Add(strings.ToUpper(token), []byte{})
	f.Fuzz(func(t *testing.T, s string, pem []byte) {
		tok, err := ParseJoinToken(s)
		if err != nil {
			if len(s) > 70 && strings.Contains(err.Error(), s) {
				t.Fatalf("the error holds the token: %v", err)
			}
			return
		}
		if back := strings.Join([]string{joinPrefix, tok.CAHash, tok.Bearer()}, "."); back != strings.TrimSpace(s) {
			t.Fatalf("%q has become %q", s, back)
		}
		for _, shown := range []string{tok.String(), fmt.Sprintf("%v %+v %#v %s", tok, tok, tok, tok)} {
			if strings.Contains(shown, tok.secret) && !strings.Contains(tok.CAHash, tok.secret) {
				t.Fatalf("%s shows the secret", shown)
			}
		}
		// Each process of a fuzzing run has an authority of its own: what is
		// trusted has to be one, and then no other is.
		if tok.VerifyCA(pem) != nil {
			return
		}
		if same, err := FormatJoinToken(pem, "abcdef", "0123456789abcdef"); err != nil || strings.Split(same, ".")[1] != tok.CAHash {
			t.Fatalf("%s trusts %q: %v", tok, pem, err)
		}
		if tok.CAHash != strings.Split(token, ".")[1] && tok.VerifyCA(a.PEM) == nil {
			t.Fatalf("%s trusts two", tok)
		}
	})
}
