package pki

import (
	"encoding/base64"
	"fmt"
	"regexp"
)

// Kubeconfig is a file for kubectl: one cluster, one user, all inline.
func Kubeconfig(server string, caPEM, certPEM, keyPEM []byte) []byte {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: knarr
clusters:
- name: knarr
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: knarr-admin
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: knarr
  context:
    cluster: knarr
    user: knarr-admin
`, server, b64(caPEM), b64(certPEM), b64(keyPEM))
}

var serverLine = regexp.MustCompile(`(?m)^    server: (\S+)$`)

// KubeconfigServer is the server that a file made by Kubeconfig names.
func KubeconfigServer(data []byte) string {
	m := serverLine.FindSubmatch(data)
	if m == nil {
		return ""
	}
	return string(m[1])
}
