package prepare

import certificatesv1 "k8s.io/api/certificates/v1"

// PodCertificateRequestCreate clears the status.
func PodCertificateRequestCreate(r *certificatesv1.PodCertificateRequest) {
	fresh(r, false)
	r.Status = certificatesv1.PodCertificateRequestStatus{}
}

// PodCertificateRequestUpdate keeps the status.
func PodCertificateRequestUpdate(r, old *certificatesv1.PodCertificateRequest) {
	Keep(r, old)
	r.Status = old.Status
}

// PodCertificateRequestStatusUpdate keeps everything else.
func PodCertificateRequestStatusUpdate(r, old *certificatesv1.PodCertificateRequest) {
	statusOnly(r, old)
	r.Spec = old.Spec
}
