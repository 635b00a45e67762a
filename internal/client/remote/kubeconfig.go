package remote

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"
)

// FromKubeconfig makes a client of a kubeconfig as knarr writes it: one
// cluster and one user, certificates inline. It does not connect.
func FromKubeconfig(file, userAgent string) (*Client, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var kc clientcmdv1.Config
	if err := yaml.Unmarshal(data, &kc); err != nil {
		return nil, fmt.Errorf("%s is broken: %w", file, err)
	}
	if len(kc.Clusters) != 1 || len(kc.AuthInfos) != 1 {
		return nil, fmt.Errorf("%s does not hold one cluster and one user", file)
	}
	cluster, user := kc.Clusters[0].Cluster, kc.AuthInfos[0].AuthInfo
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(cluster.CertificateAuthorityData) {
		return nil, fmt.Errorf("%s holds no CA certificate", file)
	}
	cert, err := tls.X509KeyPair(user.ClientCertificateData, user.ClientKeyData)
	if err != nil {
		return nil, fmt.Errorf("%s: client certificate: %w", file, err)
	}
	return New(Config{Server: cluster.Server, UserAgent: userAgent,
		TLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{cert}}})
}
