package admission

import (
	"crypto/x509"
	"encoding/pem"
	"slices"

	"k8s.io/apiserver/pkg/authentication/user"
)

// asksForMasters reads the organizations of a signing request.
func asksForMasters(request []byte) bool {
	block, _ := pem.Decode(request)
	if block == nil {
		return false // validation refuses it
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	return err == nil && slices.Contains(r.Subject.Organization, user.SystemPrivilegedGroup)
}
