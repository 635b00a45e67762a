package kubelet

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	kplan "knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/view"
)

// trustWorld is an API of service accounts and requests, and the view of it.
type trustWorld struct {
	client.Client
	t      *testing.T
	view   *view.View
	rev    int64
	now    time.Time
	asked  []*certificatesv1.PodCertificateRequest
	events []string
	fail   error
	source *source
}

func newTrustWorld(t *testing.T) *trustWorld {
	w := &trustWorld{t: t, now: time.Unix(1_700_000_000, 0), view: view.New([]*kinds.Kind{kinds.Node, kinds.ClusterTrustBundle, kinds.PodCertificateRequest})}
	w.put(kinds.Node, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "node"}})
	w.source = newSource(Config{NodeName: "n", Client: w, View: w.view, Events: w, Now: func() time.Time { return w.now }})
	return w
}

func (w *trustWorld) put(k *kinds.Kind, o kinds.Object) {
	w.rev++
	w.view.Apply(view.Change{Kind: k, New: o, Rev: w.rev})
}

func (w *trustWorld) Emit(e kplan.Event) { w.events = append(w.events, e.Reason+": "+e.Message) }

func (w *trustWorld) Get(_ context.Context, ref kinds.Ref) (runtime.Object, error) {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ref.Namespace, Name: ref.Name, UID: "account"}}, nil
}

func (w *trustWorld) Create(_ context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	if w.fail != nil {
		return nil, w.fail
	}
	r := obj.DeepCopyObject().(*certificatesv1.PodCertificateRequest)
	r.Name = fmt.Sprintf("req-%d", len(w.asked))
	kinds.PodCertificateRequest.Default(r)
	if errs := kinds.PodCertificateRequest.Validate(r); len(errs) > 0 {
		w.t.Errorf("the API would refuse it: %v", errs)
	}
	w.asked = append(w.asked, r)
	return r, nil
}

var trusting = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p", UID: "pod"}, Spec: corev1.PodSpec{ServiceAccountName: "robot"}}

func (w *trustWorld) want(key, chain, problem string) {
	w.t.Helper()
	p := &corev1.PodCertificateProjection{SignerName: "e.io/s", KeyType: "ECDSAP256", MaxExpirationSeconds: ptr.To(int32(3600)), UserAnnotations: map[string]string{"e.io/a": "b"}}
	k, c, err := w.source.Certificate(w.t.Context(), trusting, "v", 1, p)
	if problem != "" {
		if err == nil || !strings.Contains(err.Error(), problem) {
			w.t.Errorf("error %v, want %s", err, problem)
		}
		return
	}
	if err != nil || string(k) != key || string(c) != chain {
		w.t.Errorf("%s %s %v, want %s", k, c, err, chain)
	}
}

// answer the latest request.
func (w *trustWorld) answer(condition, chain string) {
	r := w.asked[len(w.asked)-1].DeepCopy()
	r.Status.Conditions = []metav1.Condition{{Type: condition, Status: "True", Reason: "Because", Message: "it is"}}
	if chain != "" {
		refresh, end := metav1.NewTime(w.now.Add(time.Hour)), metav1.NewTime(w.now.Add(2*time.Hour))
		r.Status.CertificateChain, r.Status.BeginRefreshAt, r.Status.NotAfter = chain, &refresh, &end
	}
	w.put(kinds.PodCertificateRequest, r)
}

func (w *trustWorld) key() string {
	for _, c := range w.source.certificates {
		return string(c.askedKey)
	}
	return ""
}

func block(text string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(text)}))
}

func TestCertificate(t *testing.T) {
	w := newTrustWorld(t)
	w.fail = fmt.Errorf("no API")
	w.want("", "", "while creating PodCertificateRequest: no API")
	w.fail = nil
	w.want("", "", "no certificate yet")
	w.want("", "", "no certificate yet")
	if len(w.asked) != 1 {
		t.Fatalf("asked %d times", len(w.asked))
	}
	s := w.asked[0].Spec
	if s.PodName != "p" || s.PodUID != "pod" || s.ServiceAccountName != "robot" || s.ServiceAccountUID != "account" || s.NodeName != "n" || s.NodeUID != "node" ||
		s.SignerName != "e.io/s" || *s.MaxExpirationSeconds != 3600 || s.UnverifiedUserAnnotations["e.io/a"] != "b" || w.asked[0].OwnerReferences[0].UID != "pod" {
		t.Errorf("%+v", w.asked[0])
	}
	first := w.key()
	w.answer("Issued", "noise\n"+block("one"))
	w.want(first, block("one"), "")
	w.now = w.now.Add(time.Hour - time.Second)
	w.want(first, block("one"), "")
	if len(w.asked) != 1 {
		t.Fatalf("asked %d times before it was time", len(w.asked))
	}
	// Time to refresh: the old one is shown until there is a new one.
	w.now = w.now.Add(spread + time.Second)
	w.want(first, block("one"), "")
	if len(w.asked) != 2 {
		t.Fatalf("asked %d times", len(w.asked))
	}
	second := w.key()
	w.now = w.now.Add(lostAfter + spread + time.Second) // nobody has seen the request
	w.want(first, block("one"), "")
	if len(w.asked) != 3 || w.key() == second {
		t.Fatalf("asked %d times", len(w.asked))
	}
	w.now = w.now.Add(time.Hour)
	w.want(first, block("one"), "")
	w.want(first, block("one"), "")
	if got := strings.Join(w.events, "; "); got != "CertificateOverdueForRefresh: PodCertificate refresh overdue; CertificateExpired: PodCertificate expired" {
		t.Errorf("events %s", got)
	}
	last := w.key()
	if len(w.asked) != 4 {
		t.Fatalf("asked %d times", len(w.asked))
	}
	w.answer("Issued", block("two"))
	w.want(last, block("two"), "")
	w.source.forget("pod")
	if len(w.source.certificates) > 0 {
		t.Error("what a gone pod had is kept")
	}
}

func TestCertificateRefused(t *testing.T) {
	for condition, want := range map[string]string{
		"Denied": `PodCertificateRequest was permanently denied: reason="Because" message="it is"`,
		"Failed": `PodCertificateRequest was permanently failed: reason="Because" message="it is"`,
	} {
		w := newTrustWorld(t)
		w.want("", "", "no certificate yet")
		w.answer(condition, "")
		w.want("", "", want)
		w.now = w.now.Add(24 * time.Hour)
		w.want("", "", want)
		if len(w.asked) != 1 || len(w.events) != 1 || !strings.HasPrefix(w.events[0], condition+": PodCertificateRequest a/req-0 ") {
			t.Errorf("asked %d times, events %q", len(w.asked), w.events)
		}
	}
}

func TestCertificateKeys(t *testing.T) {
	for _, typ := range []string{"ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072"} {
		key, stub, err := newCertificateKey(typ)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := pem.Decode(key)
		parsed, err := x509.ParsePKCS8PrivateKey(b.Bytes)
		if err != nil || b.Type != "PRIVATE KEY" {
			t.Fatalf("%s: %v", typ, err)
		}
		got := ""
		switch k := parsed.(type) {
		case *ecdsa.PrivateKey:
			got = "ECDSA" + strings.ReplaceAll(k.Curve.Params().Name, "-", "")
		case ed25519.PrivateKey:
			got = "ED25519"
		case *rsa.PrivateKey:
			got = fmt.Sprintf("RSA%d", k.N.BitLen())
		}
		req, err := x509.ParseCertificateRequest(stub)
		if err != nil || req.CheckSignature() != nil || got != typ {
			t.Errorf("%s: %s, %v", typ, got, err)
		}
	}
	if _, _, err := newCertificateKey("DSA"); err == nil {
		t.Error("any key type will do")
	}
}

func TestTrustAnchors(t *testing.T) {
	w := newTrustWorld(t)
	bundle := func(name, signer, label string, blocks ...string) {
		w.put(kinds.ClusterTrustBundle, &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"x": label}},
			Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: strings.Join(blocks, "comment\n")}})
	}
	bundle("plain", "", "1", block("b"), block("a"), block("b"))
	bundle("e.io:s:1", "e.io/s", "1", block("c"))
	bundle("e.io:s:2", "e.io/s", "2", block("d"), block("c"))
	for _, tt := range []struct {
		name  string
		p     corev1.ClusterTrustBundleProjection
		want  string
		wrong string
	}{
		{"by name", corev1.ClusterTrustBundleProjection{Name: ptr.To("plain")}, block("a") + block("b"), ""},
		{"missing", corev1.ClusterTrustBundleProjection{Name: ptr.To("none")}, "", `"none" not found`},
		{"missing, optional", corev1.ClusterTrustBundleProjection{Name: ptr.To("none"), Optional: ptr.To(true)}, "", ""},
		{"by signer", corev1.ClusterTrustBundleProjection{SignerName: ptr.To("e.io/s"), LabelSelector: &metav1.LabelSelector{}}, block("c") + block("d"), ""},
		{"by signer and label", corev1.ClusterTrustBundleProjection{SignerName: ptr.To("e.io/s"), LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"x": "1"}}}, block("c"), ""},
		{"by signer without labels", corev1.ClusterTrustBundleProjection{SignerName: ptr.To("e.io/s")}, "", "matched zero ClusterTrustBundles"},
		{"by signer, optional", corev1.ClusterTrustBundleProjection{SignerName: ptr.To("e.io/t"), Optional: ptr.To(true)}, "", ""},
	} {
		got, err := w.source.TrustAnchors(t.Context(), &tt.p)
		if string(got) != tt.want || (err != nil) != (tt.wrong != "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
			t.Errorf("%s: %q %v", tt.name, got, err)
		}
	}
}

func TestShowsTrust(t *testing.T) {
	p := trusting.DeepCopy()
	if showsTrust(p) || showsTrust(nil) {
		t.Error("a pod without bundles shows some")
	}
	p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{}}}}}}}
	if !showsTrust(p) {
		t.Error("a pod with a bundle shows none")
	}
}
