package admission

import (
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/kinds"
)

func rule(verbs, group, resources string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Split(verbs, ","), APIGroups: []string{group}, Resources: strings.Split(resources, ","), ResourceNames: names}
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: meta("", name), Rules: rules}
}

func role(ns, name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
	return &rbacv1.Role{ObjectMeta: meta(ns, name), Rules: rules}
}

func ref(kind, name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

func bind(name, role, who string) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{ObjectMeta: meta("", name), RoleRef: ref("ClusterRole", role), Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: who}}}
}

func bindIn(ns, name string, r rbacv1.RoleRef, who string) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{ObjectMeta: meta(ns, name), RoleRef: r, Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: who}}}
}

func person(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: append(groups, "system:authenticated")}
}

func TestEscalation(t *testing.T) {
	secrets := rule("get,list", "", "secrets")
	pods := rule("get", "", "pods")
	w := newWorld(t, namespace("a"), namespace("b"),
		clusterRole("pods", pods), clusterRole("secrets", secrets),
		role("a", "secrets", secrets), role("a", "pods", pods),
		clusterRole("urls", rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics"}}),
		clusterRole("everything", rule("*", "*", "*"), rbacv1.PolicyRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}),
		clusterRole("escalate", rule("escalate", rbacv1.GroupName, "clusterroles,roles")),
		clusterRole("bind", rule("bind", rbacv1.GroupName, "clusterroles", "secrets")),
		bind("jane", "pods", "jane"), bind("root", "everything", "root"), bind("climber", "escalate", "climber"), bind("binder", "bind", "binder"),
		bindIn("a", "jane", ref("Role", "secrets"), "jane"))
	jane, root := person("jane"), person("root")
	denied := "user \"jane\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n"
	old := clusterRole("pods", pods)
	old.Labels = map[string]string{"x": "y"}
	relabeled := clusterRole("secrets", secrets)
	relabeled.Labels = map[string]string{"rbac.authorization.k8s.io/aggregate-to-view": "true"}
	open := clusterRole("open")
	open.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"a": "b"}}}}
	update := func(k *kinds.Kind, now, old kinds.Object) *Request {
		return &Request{Operation: Update, Ref: kinds.RefTo(k, old), Object: now, Old: old}
	}
	noSubjects := bind("x", "secrets", "eve")
	noSubjects.Annotations = map[string]string{"note": "x"}
	tests := []struct {
		name string
		who  user.Info
		r    *Request
		code int32
		part string
	}{
		{"what one has", jane, create(kinds.ClusterRole, clusterRole("x", pods)), 0, ""},
		{"what one has not", jane, create(kinds.ClusterRole, clusterRole("x", pods, secrets)), 403, denied + `{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}`},
		{"has in the namespace", jane, create(kinds.Role, role("a", "x", secrets)), 0, ""},
		{"has not in that one", jane, create(kinds.Role, role("b", "x", secrets)), 403, denied},
		{"one name of what one has", jane, create(kinds.Role, role("b", "x", rule("get", "", "pods", "web"))), 0, ""},
		{"a subresource is not had", jane, create(kinds.Role, role("b", "x", rule("get", "", "pods/log"))), 403, denied},
		{"a star is not had", jane, create(kinds.Role, role("b", "x", rule("*", "", "pods"))), 403, denied},
		{"urls", jane, create(kinds.ClusterRole, clusterRole("x", rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics"}})), 403, `{NonResourceURLs:["/metrics"], Verbs:["get"]}`},
		{"root", root, create(kinds.ClusterRole, clusterRole("x", secrets)), 0, ""},
		{"masters", person("any", "system:masters"), create(kinds.ClusterRole, clusterRole("x", secrets)), 0, ""},
		{"escalate verb", person("climber"), create(kinds.ClusterRole, clusterRole("x", secrets)), 0, ""},
		{"escalate verb for roles", person("climber"), create(kinds.Role, role("b", "x", secrets)), 0, ""},
		{"escalate verb does not bind", person("climber"), create(kinds.ClusterRoleBinding, bind("x", "secrets", "eve")), 403, "not currently held"},
		{"same rules", jane, update(kinds.ClusterRole, old, clusterRole("pods", pods)), 0, ""},
		{"more rules", jane, update(kinds.ClusterRole, clusterRole("pods", pods, secrets), clusterRole("pods", pods)), 403, denied},
		{"same rules that one has not", jane, update(kinds.Role, role("b", "x", secrets), role("b", "x", secrets)), 0, ""},
		{"labels that aggregate", jane, update(kinds.ClusterRole, relabeled, clusterRole("secrets", secrets)), 403, denied},
		{"aggregation", jane, create(kinds.ClusterRole, open), 403, `{APIGroups:["*"], Resources:["*"], Verbs:["*"]}`},
		{"aggregation by root", root, create(kinds.ClusterRole, open), 0, ""},
		{"aggregation dropped", jane, update(kinds.ClusterRole, clusterRole("open", pods), open), 403, denied},
		{"bind what one has", jane, create(kinds.ClusterRoleBinding, bind("x", "pods", "eve")), 0, ""},
		{"bind what one has not", jane, create(kinds.ClusterRoleBinding, bind("x", "secrets", "eve")), 403, denied},
		{"bind in the namespace", jane, create(kinds.RoleBinding, bindIn("a", "x", ref("ClusterRole", "secrets"), "eve")), 0, ""},
		{"bind a role", jane, create(kinds.RoleBinding, bindIn("a", "x", ref("Role", "secrets"), "eve")), 0, ""},
		{"bind in another", jane, create(kinds.RoleBinding, bindIn("b", "x", ref("ClusterRole", "secrets"), "eve")), 403, denied},
		{"bind nothing", jane, create(kinds.RoleBinding, bindIn("a", "x", ref("Role", "nope"), "eve")), 404, `roles.rbac.authorization.k8s.io "nope" not found`},
		{"bind nothing, cluster", jane, create(kinds.ClusterRoleBinding, bind("x", "nope", "eve")), 404, `clusterroles.rbac.authorization.k8s.io "nope" not found`},
		{"bind verb", person("binder"), create(kinds.ClusterRoleBinding, bind("x", "secrets", "eve")), 0, ""},
		{"bind verb, other role", person("binder"), create(kinds.ClusterRoleBinding, bind("x", "pods", "eve")), 403, "not currently held"},
		{"same subjects", jane, update(kinds.ClusterRoleBinding, noSubjects, bind("x", "secrets", "eve")), 0, ""},
		{"another subject", jane, update(kinds.ClusterRoleBinding, bind("x", "secrets", "jane"), bind("x", "secrets", "eve")), 403, denied},
		{"not about roles", jane, create(kinds.ConfigMap, &corev1.ConfigMap{ObjectMeta: meta("a", "x")}), 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.r.User = tt.who
			want(t, w.admit(tt.r), tt.code, tt.part)
		})
	}
}

func TestCertificates(t *testing.T) {
	const signer = certificatesv1.KubeAPIServerClientSignerName
	w := newWorld(t,
		clusterRole("approver", rule("approve", "certificates.k8s.io", "signers", signer)), bind("approver", "approver", "approver"),
		clusterRole("domain", rule("approve,sign", "certificates.k8s.io", "signers", "kubernetes.io/*")), bind("domain", "domain", "domain"),
		clusterRole("signer", rule("sign", "certificates.k8s.io", "signers", signer)), bind("signer", "signer", "signer"))
	forged := csr(signer, request509(t, "jane"))
	forged.Spec.Username, forged.Spec.Groups, forged.Spec.UID = "root", []string{"system:masters"}, "1"
	forged.Spec.Extra = map[string]certificatesv1.ExtraValue{"a": {"b"}}
	r := create(kinds.CertificateSigningRequest, forged)
	r.User = &user.DefaultInfo{Name: "jane", UID: "7", Groups: []string{"devs"}, Extra: map[string][]string{"k": {"v"}}}
	want(t, w.admit(r), 0, "")
	if s := forged.Spec; s.Username != "jane" || s.UID != "7" || len(s.Groups) != 1 || s.Groups[0] != "devs" || len(s.Extra) != 1 || s.Extra["k"][0] != "v" {
		t.Errorf("the request says it is of %s %s %v %v", s.Username, s.UID, s.Groups, s.Extra)
	}
	want(t, w.admit(create(kinds.CertificateSigningRequest, csr(signer, request509(t, "x", "system:masters")))), 403,
		"use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed")
	want(t, w.admit(create(kinds.CertificateSigningRequest, csr("example.com/own", request509(t, "x", "system:masters")))), 0, "")
	want(t, w.admit(create(kinds.CertificateSigningRequest, csr(signer, []byte("junk")))), 403, "failed to parse CSR")

	base := csr(signer, request509(t, "jane"))
	approved, issued, failed, touched := base.DeepCopy(), base.DeepCopy(), base.DeepCopy(), base.DeepCopy()
	approved.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: "True"}}
	issued.Status.Certificate = []byte("cert")
	failed.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateFailed, Status: "True"}}
	touched.Annotations = map[string]string{"a": "b"}
	for _, tt := range []struct {
		name, who, sub string
		now            *certificatesv1.CertificateSigningRequest
		code           int32
		part           string
	}{
		{"approve", "approver", "approval", approved, 0, ""},
		{"approve by domain", "domain", "approval", approved, 0, ""},
		{"approve without", "signer", "approval", approved, 403, `user not permitted to approve requests with signerName "kubernetes.io/kube-apiserver-client"`},
		{"sign", "signer", "status", issued, 0, ""},
		{"sign by domain", "domain", "status", issued, 0, ""},
		{"sign without", "approver", "status", issued, 403, `user not permitted to sign requests with signerName "kubernetes.io/kube-apiserver-client"`},
		{"fail without", "approver", "status", failed, 403, "not permitted to sign"},
		{"nothing signed", "approver", "status", touched, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want(t, w.admit(&Request{User: person(tt.who), Operation: Update, Ref: kinds.Ref{Kind: kinds.CertificateSigningRequest, Name: "c", Sub: tt.sub}, Object: tt.now, Old: base}), tt.code, tt.part)
		})
	}
}

func TestTrustBundles(t *testing.T) {
	w := newWorld(t, clusterRole("attester", rule("attest", "certificates.k8s.io", "signers", "e.io/s")), bind("attester", "attester", "attester"))
	bundle := func(signer string) *certificatesv1.ClusterTrustBundle {
		return &certificatesv1.ClusterTrustBundle{ObjectMeta: meta("", "b"), Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer}}
	}
	labelled, collected := bundle("e.io/s"), bundle("e.io/s")
	labelled.Labels = map[string]string{"a": "b"}
	collected.Finalizers = []string{"a/b"}
	for _, tt := range []struct {
		name, who string
		now, old  *certificatesv1.ClusterTrustBundle
		code      int32
	}{
		{"of nobody", "jane", bundle(""), nil, 0},
		{"attested", "attester", bundle("e.io/s"), nil, 0},
		{"for another signer", "attester", bundle("e.io/t"), nil, 403},
		{"not attested", "jane", bundle("e.io/s"), nil, 403},
		{"changed", "jane", labelled, bundle("e.io/s"), 403},
		{"collected", "jane", collected, bundle("e.io/s"), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := create(kinds.ClusterTrustBundle, tt.now)
			if tt.old != nil {
				r.Operation, r.Old = Update, tt.old
			}
			r.User = person(tt.who)
			want(t, w.admit(r), tt.code, "user not permitted to attest for signerName")
		})
	}
}

func TestPodCertificateSigning(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	w := newWorldWith(t, Config{AccountPatience: -1, Now: func() time.Time { return now }},
		clusterRole("signer", rule("sign", "certificates.k8s.io", "signers", "e.io/s")), bind("signer", "signer", "signer"))
	base := &certificatesv1.PodCertificateRequest{ObjectMeta: meta("a", "r"), Spec: certificatesv1.PodCertificateRequestSpec{SignerName: "e.io/s"}}
	from := func(d time.Duration) *certificatesv1.PodCertificateRequest {
		r, at := base.DeepCopy(), metav1.NewTime(now.Add(d))
		r.Status.NotBefore = &at
		return r
	}
	for _, tt := range []struct {
		name, who string
		now       *certificatesv1.PodCertificateRequest
		code      int32
		part      string
	}{
		{"nothing", "jane", base.DeepCopy(), 0, ""},
		{"signed", "signer", from(-time.Minute), 0, ""},
		{"not the signer", "jane", from(0), 422, `User "jane" is not permitted to "sign" for signer "e.io/s"`},
		{"of the past", "signer", from(-5 * time.Minute), 422, "must be set to within 5 minutes of kube-apiserver's current time"},
		{"of the future", "signer", from(5 * time.Minute), 422, "must be set to within 5 minutes of kube-apiserver's current time"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want(t, w.admit(&Request{User: person(tt.who), Operation: Update, Ref: kinds.Ref{Kind: kinds.PodCertificateRequest, Namespace: "a", Name: "r", Sub: "status"}, Object: tt.now, Old: base}), tt.code, tt.part)
		})
	}
}
