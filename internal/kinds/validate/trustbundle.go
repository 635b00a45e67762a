package validate

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxTrustBundle is upstream's limit.
const maxTrustBundle = 1 << 20

// ClusterTrustBundle judges a new bundle.
func ClusterTrustBundle(b *certificatesv1.ClusterTrustBundle) field.ErrorList {
	e := meta(&b.ObjectMeta, false, trustBundleName(b.Spec.SignerName))
	e.trustSigner(b)
	e.trustAnchors(specPath.Child("trustBundle"), b.Spec.TrustBundle)
	return e.list
}

// ClusterTrustBundleUpdate judges a changed one. Anchors that stand are not
// read again: a newer parser may be stricter.
func ClusterTrustBundleUpdate(b, old *certificatesv1.ClusterTrustBundle) field.ErrorList {
	e := &errors{}
	e.msgs(metaPath.Child("name"), b.Name, trustBundleName(b.Spec.SignerName)(b.Name, false))
	e.trustSigner(b)
	if b.Spec.TrustBundle != old.Spec.TrustBundle {
		e.trustAnchors(specPath.Child("trustBundle"), b.Spec.TrustBundle)
	}
	e.all(metaUpdate(&b.ObjectMeta, &old.ObjectMeta).list)
	e.immutable(specPath.Child("signerName"), b.Spec.SignerName, old.Spec.SignerName)
	return e.list
}

func (e *errors) trustSigner(b *certificatesv1.ClusterTrustBundle) {
	if b.Spec.SignerName != "" {
		e.signerName(specPath.Child("signerName"), b.Spec.SignerName)
	}
}

// trustBundleName: a signer's bundles bear its name, so that nobody names one
// who may not attest for the signer.
func trustBundleName(signer string) func(string, bool) []string {
	return func(name string, prefix bool) []string {
		if signer == "" {
			if strings.Contains(name, ":") {
				return []string{`ClusterTrustBundle without signer name must not have ":" in its name`}
			}
			return subdomain(name, prefix)
		}
		want := strings.ReplaceAll(signer, "/", ":") + ":"
		rest, ok := strings.CutPrefix(name, want)
		if !ok {
			return []string{fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s", signer, want)}
		}
		return subdomain(rest, prefix)
	}
}

// trustAnchors must be certificates of authorities, each there once.
func (e *errors) trustAnchors(p *field.Path, bundle string) {
	if len(bundle) > maxTrustBundle {
		e.add(field.TooLong(p, "", maxTrustBundle))
		return
	}
	const omitted = "<value omitted>"
	before, seen, order := len(e.list), map[string][]int{}, []string(nil)
	rest := []byte(bundle)
	for i := 0; ; i++ {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if why := notAnchor(b); why != "" {
			e.invalid(p, omitted, fmt.Sprintf("entry %d %s", i, why))
			continue
		}
		der := string(b.Bytes)
		if seen[der] == nil {
			order = append(order, der)
		}
		seen[der] = append(seen[der], i)
	}
	if len(e.list) > before {
		return
	}
	if len(seen) == 0 {
		e.invalid(p, omitted, "at least one trust anchor must be provided")
	}
	for _, der := range order {
		if at := seen[der]; len(at) > 1 {
			e.invalid(p, omitted, fmt.Sprintf("duplicate trust anchor (indices %v)", at))
		}
	}
}

func notAnchor(b *pem.Block) string {
	if b.Type != "CERTIFICATE" {
		return fmt.Sprintf("has bad block type: %v", b.Type)
	}
	if len(b.Headers) != 0 {
		return "has PEM block headers"
	}
	cert, err := x509.ParseCertificate(b.Bytes)
	switch {
	case err != nil:
		return "does not parse as X.509"
	case !cert.IsCA:
		return "does not have the CA bit set"
	case !cert.BasicConstraintsValid:
		return "has invalid basic constraints"
	}
	return ""
}

// kubernetesSigner: the project's own signers sign for a day at most.
func kubernetesSigner(name string) bool {
	host, _, _ := strings.Cut(name, "/")
	return host == "kubernetes.io" || strings.HasSuffix(host, ".kubernetes.io")
}
