package sealed

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
)

func TestSealAndOpen(t *testing.T) {
	key, files := NewKey(), map[string][]byte{"ca.key": []byte("secret"), "empty": {}}
	data, err := key.Seal("/a", files)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("secret")) || bytes.Contains(data, []byte("ca.key")) {
		t.Errorf("it can be read: %s", data)
	}
	got, err := key.Open("/a", data)
	if err != nil || !maps.EqualFunc(got, files, bytes.Equal) {
		t.Errorf("%v %v", got, err)
	}
	if again, err := key.Seal("/a", files); err != nil || bytes.Equal(again, data) {
		t.Errorf("the same content is sealed the same way: %v", err)
	}
	if _, err := NewKey().Open("/a", data); !errors.Is(err, ErrKey) {
		t.Errorf("another key: %v", err)
	}
	if _, err := key.Open("/b", data); !errors.Is(err, errBroken) {
		t.Errorf("another place: %v", err)
	}
	for i := range data {
		bent := bytes.Clone(data)
		bent[i] ^= 1
		if got, err := key.Open("/a", bent); err == nil && !maps.EqualFunc(got, files, bytes.Equal) {
			t.Fatalf("byte %d changed: %v", i, got)
		}
		if got, err := key.Open("/a", data[:i]); err == nil {
			t.Fatalf("cut at %d: %v", i, got)
		}
	}
}

func TestKeys(t *testing.T) {
	key := NewKey()
	if again, err := ParseKey(key.Encode()); err != nil || again != key {
		t.Errorf("%v", err)
	}
	good := strings.TrimSpace(key.Encode())
	for _, bad := range []string{"", "hunter2", good[1:], good + "00", strings.Repeat("0", 64), strings.Repeat("0123456789abcdef", 4), strings.Repeat("z", 64)} {
		if _, err := ParseKey(bad); err == nil || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if said := fmt.Sprintf(verb, key); strings.Contains(said, good[:8]) || strings.Contains(said, fmt.Sprint(key.secret[0], " ", key.secret[1])) {
			t.Errorf("%s prints %s", verb, said)
		}
	}
}
