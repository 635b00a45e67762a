package imagestore

import (
	"encoding/base64"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// credentials as a caller gave them. They are comparable, so that pulls with
// the same ones are one.
type credentials struct {
	config authn.AuthConfig
	server string // host that they are for; "" is the image's registry
}

// credentialsOf reads what the CRI was given. A user name comes before the
// encoded pair, as in containerd.
func credentialsOf(a *runtimeapi.AuthConfig) (credentials, error) {
	c := credentials{config: authn.AuthConfig{
		Username: a.GetUsername(), Password: a.GetPassword(), IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken(),
	}}
	if c.config.Username == "" && a.GetAuth() != "" {
		// The words of an error may not hold the secret.
		pair, err := base64.StdEncoding.DecodeString(a.GetAuth())
		if err != nil {
			return c, status.Error(codes.InvalidArgument, "the credentials' auth is no base64")
		}
		user, password, ok := strings.Cut(string(pair), ":")
		if !ok {
			return c, status.Error(codes.InvalidArgument, "the credentials' auth is no pair of user and password")
		}
		c.config.Username, c.config.Password = user, strings.Trim(password, "\x00")
	}
	if addr := a.GetServerAddress(); addr != "" {
		if !strings.Contains(addr, "://") {
			addr = "https://" + addr
		}
		u, err := url.Parse(addr)
		if err != nil || u.Host == "" {
			return c, status.Error(codes.InvalidArgument, "the credentials' server address is no URL and no host")
		}
		c.server = u.Host
	}
	return c, nil
}

// isFor says whether a host may see the credentials.
func (c credentials) isFor(host string, mirror bool) bool {
	if c.config == (authn.AuthConfig{}) {
		return false
	}
	if c.server == "" {
		return !mirror
	}
	return canonical(c.server) == canonical(host)
}

// canonical is one name for a registry that has several.
func canonical(host string) string {
	switch host = strings.ToLower(host); host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return "docker.io"
	}
	return host
}
