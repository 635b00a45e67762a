package registry

import "testing"

func TestHome(t *testing.T) {
	h := Hosts{Insecure: []string{"plain:5000"}, CAs: map[string]string{"localhost:5001": "/ca"}}
	for host, want := range map[string]string{
		"docker.io":        "https://registry-1.docker.io",
		"quay.io":          "https://quay.io",
		"plain:5000":       "http://plain:5000",
		"localhost":        "http://localhost",
		"127.0.0.1:5000":   "http://127.0.0.1:5000",
		"127.9.9.9":        "http://127.9.9.9",
		"[::1]:5000":       "http://[::1]:5000",
		"localhost:5001":   "https://localhost:5001",
		"localhost.evil":   "https://localhost.evil",
		"127.0.0.1.nip.io": "https://127.0.0.1.nip.io",
		"10.0.0.1:5000":    "https://10.0.0.1:5000",
	} {
		if got := h.Home(host); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}
