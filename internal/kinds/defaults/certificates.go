package defaults

import certificatesv1 "k8s.io/api/certificates/v1"

// PodCertificateRequest takes a certificate for a day.
func PodCertificateRequest(r *certificatesv1.PodCertificateRequest) {
	set(&r.Spec.MaxExpirationSeconds, 24*60*60)
}
