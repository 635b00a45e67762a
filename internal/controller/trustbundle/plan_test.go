package trustbundle

import (
	"slices"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

func bundle(name, signer, text string) *certificatesv1.ClusterTrustBundle {
	return &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u"}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: text}}
}

func says(res plan.Result) string {
	var out []string
	for _, a := range res.Actions {
		out = append(out, string(a.Verb)+" "+a.Ref.Name)
	}
	return strings.Join(out, ", ")
}

func TestPlan(t *testing.T) {
	name := Name("one")
	if !strings.HasPrefix(name, "kubernetes.io:kube-apiserver-serving:") || len(name) != len("kubernetes.io:kube-apiserver-serving:")+24 || name == Name("two") {
		t.Errorf("name %s", name)
	}
	for _, tt := range []struct {
		name, bundle string
		have         []*certificatesv1.ClusterTrustBundle
		want         string
	}{
		{"first", "one", nil, "create " + name},
		{"there", "one", []*certificatesv1.ClusterTrustBundle{bundle(name, Signer, "one")}, ""},
		{"bent", "one", []*certificatesv1.ClusterTrustBundle{bundle(name, Signer, "x")}, "update " + name},
		{"rotated", "one", []*certificatesv1.ClusterTrustBundle{bundle("b", Signer, "old"), bundle("a", Signer, "older")}, "create " + name + ", delete a, delete b"},
		{"another signer's", "one", []*certificatesv1.ClusterTrustBundle{bundle(name, Signer, "one"), bundle("b", "e.io/s", "x")}, ""},
		{"nothing to publish", " \n", []*certificatesv1.ClusterTrustBundle{bundle("b", Signer, "old")}, ""},
	} {
		if got := says(Plan(tt.bundle, tt.have)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		slices.Reverse(tt.have)
		if got := says(Plan(tt.bundle, tt.have)); got != tt.want {
			t.Errorf("%s: the order of the input matters: %q", tt.name, got)
		}
	}
}

func TestThroughTheRuntime(t *testing.T) {
	w := reconciletest.New([]*kinds.Kind{kinds.ClusterTrustBundle})
	text := "one"
	c := Controller(func() []byte { return []byte(text) })
	drive := func(want string) {
		t.Helper()
		if _, err := w.Drive(1, 20, 0, c); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, o := range w.Objects(kinds.ClusterTrustBundle) {
			got = append(got, o.(*certificatesv1.ClusterTrustBundle).Spec.TrustBundle)
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("published %q, want %q", s, want)
		}
	}
	drive("one")
	n := len(w.Writes)
	if drive("one"); len(w.Writes) != n {
		t.Errorf("at rest it still writes %v", w.Writes[n:])
	}
	text = "two"
	drive("two")
}
