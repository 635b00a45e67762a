package admission

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

func nodeUser(name string) user.Info {
	return &user.DefaultInfo{Name: "system:node:" + name, Groups: []string{"system:nodes", "system:authenticated"}}
}

func plainNode(name string) *corev1.Node { return &corev1.Node{ObjectMeta: meta("", name)} }

func bound(ns, name, node string) *corev1.Pod {
	p := simplePod(ns, name)
	p.Spec.NodeName = node
	p.Spec.ServiceAccountName = "robot"
	p.Spec.Volumes = []corev1.Volume{tokenVolume("t")}
	p.Spec.Volumes[0].Projected.Sources[0].ServiceAccountToken.Audience = "vault"
	return p
}

func nodeWorld(t *testing.T) *world {
	return newWorld(t, namespace("a"), namespace("kube-node-lease"), account("a", "default"), account("a", "robot"), plainNode("n1"), plainNode("n2"),
		bound("a", "mine", "n1"), bound("a", "theirs", "n2"))
}

func TestNodeRestrictionNodes(t *testing.T) {
	w := nodeWorld(t)
	type change func(*corev1.Node)
	label := func(k, v string) change {
		return func(n *corev1.Node) { n.Labels = map[string]string{k: v} }
	}
	tests := []struct {
		name        string
		old, now    change // old nil: create
		part        string // of the refusal; empty: allowed
		as          string
		sub, object string
	}{
		{name: "registers itself", now: label("kubernetes.io/hostname", "n1")},
		{name: "registers another", now: label("a", "b"), object: "n2", part: `node "n1" is not allowed to modify node "n2"`},
		{name: "own label", now: label("example.com/x", "y")},
		{name: "kubelet label", now: label("kubelet.kubernetes.io/x", "y")},
		{name: "node label", now: label("x.node.kubernetes.io/x", "y")},
		{name: "zone", now: label("topology.kubernetes.io/zone", "y")},
		{name: "restricted label", now: label("node-restriction.kubernetes.io/x", "y"), part: `node "n1" is not allowed to set the following labels: node-restriction.kubernetes.io/x`},
		{name: "restricted label below", now: label("x.node-restriction.kubernetes.io/x", "y"), part: "not allowed to set the following labels"},
		{name: "role", now: label("node-role.kubernetes.io/control-plane", ""), part: "not allowed to set the following labels"},
		{name: "k8s.io", now: label("x.k8s.io/y", ""), part: "not allowed to set the following labels"},
		{name: "owner", now: func(n *corev1.Node) {
			n.OwnerReferences = []metav1.OwnerReference{{Kind: "ConfigMap", Name: "x"}}
		}, part: `node "n1" is not allowed to set ownerReferences on itself`},
		{name: "config source", now: func(n *corev1.Node) { n.Spec.ConfigSource = &corev1.NodeConfigSource{} }, part: "configSource"},
		{name: "update nothing", old: label("a", "b"), now: label("a", "b")},
		{name: "update own label", old: label("a", "b"), now: label("a", "c")},
		{name: "update restricted", old: label("node-restriction.kubernetes.io/x", "y"), now: label("node-restriction.kubernetes.io/x", "z"),
			part: "is not allowed to modify labels: node-restriction.kubernetes.io/x"},
		{name: "remove restricted", old: label("node-restriction.kubernetes.io/x", "y"), now: label("a", "b"), part: "is not allowed to modify labels"},
		{name: "keep restricted", old: label("node-restriction.kubernetes.io/x", "y"), now: label("node-restriction.kubernetes.io/x", "y")},
		{name: "untaint (CVE-2021-25735)", old: func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: "NoSchedule"}} }, now: label("a", "b"),
			part: `node "n1" is not allowed to modify taints`},
		{name: "taint", old: label("a", "b"), now: func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: "NoSchedule"}} }, part: "modify taints"},
		{name: "owner later (CVE-2025-5187)", old: label("a", "b"), now: func(n *corev1.Node) {
			n.OwnerReferences = []metav1.OwnerReference{{Kind: "ConfigMap", Name: "x"}}
		}, part: `node "n1" is not allowed to modify ownerReferences`},
		{name: "owner through status", sub: "status", old: label("a", "b"), now: func(n *corev1.Node) {
			n.OwnerReferences = []metav1.OwnerReference{{Kind: "ConfigMap", Name: "x"}}
		}, part: "modify ownerReferences"},
		{name: "label through status", sub: "status", old: label("a", "b"), now: label("node-role.kubernetes.io/x", ""), part: "is not allowed to modify labels"},
		{name: "status", sub: "status", old: label("a", "b"), now: func(n *corev1.Node) {
			n.Labels, n.Status.NodeInfo.KernelVersion = map[string]string{"a": "b"}, "6"
		}},
		{name: "status of another", sub: "status", object: "n2", old: label("a", "b"), now: label("a", "b"), part: "not allowed to modify node"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			name := "n1"
			if tt.object != "" {
				name = tt.object
			}
			now := plainNode(name)
			tt.now(now)
			r := &Request{User: nodeUser("n1"), Operation: Create, Ref: kinds.Ref{Kind: kinds.Node, Name: name, Sub: tt.sub}, Object: now}
			if tt.old != nil {
				old := plainNode(name)
				tt.old(old)
				r.Operation, r.Old = Update, old
			}
			code := int32(0)
			if tt.part != "" {
				code = 403
			}
			want(t, w.admit(r), code, tt.part)
		})
	}
	del := func(u user.Info, name string) error {
		return w.admit(&Request{User: u, Operation: Delete, Ref: kinds.Ref{Kind: kinds.Node, Name: name}, Old: plainNode(name)})
	}
	want(t, del(nodeUser("n1"), "n1"), 0, "")
	want(t, del(nodeUser("n1"), "n2"), 403, "not allowed to modify node")
	want(t, del(&user.DefaultInfo{Name: "boss"}, "n2"), 0, "")
	want(t, del(&user.DefaultInfo{Name: "x", Groups: []string{"system:nodes"}}, "n1"), 403, `could not determine node from user "x"`)
}

func mirror(change func(*corev1.Pod)) *corev1.Pod {
	p := simplePod("a", "static-n1")
	p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "hash"}
	p.Spec.NodeName = "n1"
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "uid--n1", Controller: ptr.To(true)}}
	if change != nil {
		change(p)
	}
	return p
}

func TestNodeRestrictionMirrorPods(t *testing.T) {
	w := nodeWorld(t)
	vol := func(src corev1.VolumeSource) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: src}} }
	}
	tests := []struct {
		name   string
		change func(*corev1.Pod)
		part   string
	}{
		{"mirror", nil, ""},
		{"host path", vol(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/x"}}), ""},
		{"no annotation", func(p *corev1.Pod) { p.Annotations = nil; p.Spec.ServiceAccountName = "default" }, `node "n1" can only create mirror pods`},
		{"elsewhere", func(p *corev1.Pod) { p.Spec.NodeName = "n2" }, `node "n1" can only create pods with spec.nodeName set to itself`},
		{"account", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "robot" }, "a mirror pod may not reference service accounts"},
		{"secret", vol(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}), "a mirror pod may not reference secrets"},
		{"config map", vol(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}}), `node "n1" can not create pods that reference configmaps`},
		{"claim", vol(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}), "can not create pods that reference persistentvolumeclaims"},
		{"token", vol(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}}}}}), "a mirror pod may not use ServiceAccountToken"},
		{"trust bundle", vol(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{}}}}}), "clustertrustbundles"},
		{"envFrom", func(p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}}}
		}, "can not create pods that reference configmaps"},
		{"ephemeral container", func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e",
				EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}}}}}}}
		}, "a mirror pod may not reference secrets"},
		{"resource claim (CVE-2025-4563)", func(p *corev1.Pod) { p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu"}} }, "can not create pods that reference resourceclaims"},
		{"no owner", func(p *corev1.Pod) { p.OwnerReferences = nil }, "can only create pods with an owner reference set to itself"},
		{"two owners", func(p *corev1.Pod) { p.OwnerReferences = append(p.OwnerReferences, p.OwnerReferences[0]) }, "with a single owner reference set to itself"},
		{"another's", func(p *corev1.Pod) { p.OwnerReferences[0].Name = "n2" }, "with an owner reference set to itself"},
		{"no controller", func(p *corev1.Pod) { p.OwnerReferences[0].Controller = nil }, "with a controller reference set to itself"},
		{"blocking", func(p *corev1.Pod) { p.OwnerReferences[0].BlockOwnerDeletion = ptr.To(true) }, "must not set blockOwnerDeletion"},
		{"other uid", func(p *corev1.Pod) { p.OwnerReferences[0].UID = "old" }, "node n1 UID mismatch: expected uid--n1 got old"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := create(kinds.Pod, mirror(tt.change))
			r.User = nodeUser("n1")
			code := int32(0)
			if tt.part != "" {
				code = 403
			}
			want(t, w.admit(r), code, tt.part)
		})
	}
}

// What a node publishes or takes back of devices is its own, each of many too.
func TestNodeRestrictionSlices(t *testing.T) {
	w := nodeWorld(t)
	of := func(node *string) *resourcev1.ResourceSlice {
		return &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{NodeName: node}}
	}
	mine, theirs, everybodys := of(ptr.To("n1")), of(ptr.To("n2")), of(nil)
	const create, del = "can only create ResourceSlice with the same NodeName as the requesting node", "can only delete ResourceSlice with the same NodeName as the requesting node"
	for name, tt := range map[string]struct {
		r    *Request
		code int32
		part string
	}{
		"create":             {&Request{Operation: Create, Object: mine}, 0, ""},
		"create another's":   {&Request{Operation: Create, Object: theirs}, 403, create},
		"create everybody's": {&Request{Operation: Create, Object: everybodys}, 403, create},
		"update":             {&Request{Operation: Update, Object: mine, Old: mine}, 0, ""},
		"delete":             {&Request{Operation: Delete, Old: mine}, 0, ""},
		"delete another's":   {&Request{Operation: Delete, Old: theirs}, 403, del},
		"delete everybody's": {&Request{Operation: Delete, Old: everybodys}, 403, del},
	} {
		t.Run(name, func(t *testing.T) {
			tt.r.User, tt.r.Ref = nodeUser("n1"), kinds.Ref{Kind: kinds.ResourceSlice, Name: "s"}
			want(t, w.admit(tt.r), tt.code, tt.part)
		})
	}
}

func TestNodeRestrictionPods(t *testing.T) {
	w := nodeWorld(t)
	mine, theirs := bound("a", "mine", "n1"), bound("a", "theirs", "n2")
	relabeled := mine.DeepCopy()
	relabeled.Labels = map[string]string{"app": "x"}
	claimed := mine.DeepCopy()
	claimed.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "gpu"}}
	extended := mine.DeepCopy()
	extended.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "gpu"}
	native := mine.DeepCopy()
	native.Status.NodeAllocatableResourceClaimStatuses = []corev1.NodeAllocatableResourceClaimStatus{{ResourceClaimName: "gpu"}}
	running := mine.DeepCopy()
	running.Status.Phase = corev1.PodRunning
	on := func(op Operation, name, sub string, now, old *corev1.Pod) *Request {
		r := &Request{Operation: op, Ref: kinds.Ref{Kind: kinds.Pod, Namespace: "a", Name: name, Sub: sub}}
		if now != nil {
			r.Object = now
		}
		if old != nil {
			r.Old = old
		}
		return r
	}
	eviction := func(name string) *Request {
		return &Request{Operation: Create, Ref: kinds.Ref{Kind: kinds.Pod, Namespace: "a", Name: name, Sub: "eviction"}, Object: &policyv1.Eviction{}}
	}
	tests := []struct {
		name string
		r    *Request
		code int32
		part string
	}{
		{"status", on(Update, "mine", "status", running, mine), 0, ""},
		{"status of another", on(Update, "theirs", "status", theirs, theirs), 403, `node "n1" can only update pod status for pods with spec.nodeName set to itself`},
		{"labels through status", on(Update, "mine", "status", relabeled, mine), 403, "cannot update labels through pod status"},
		{"claims through status", on(Update, "mine", "status", claimed, mine), 403, "cannot update resource claim statuses"},
		{"claim of extended resources through status", on(Update, "mine", "status", extended, mine), 403, "cannot update extended resource claim status"},
		{"claims of the node's own resources through status", on(Update, "mine", "status", native, mine), 403, "cannot update node allocatable resource claim statuses"},
		{"delete", on(Delete, "mine", "", nil, mine), 0, ""},
		{"delete another's", on(Delete, "theirs", "", nil, theirs), 403, `node "n1" can only delete pods with spec.nodeName set to itself`},
		{"evict", eviction("mine"), 0, ""},
		{"evict another's", eviction("theirs"), 403, "can only evict pods with spec.nodeName set to itself"},
		{"evict nobody", eviction("nope"), 404, "not found"},
		{"update", on(Update, "mine", "", mine, mine), 403, `unexpected operation "UPDATE"`},
		{"ephemeral containers", on(Update, "mine", "ephemeralcontainers", mine, mine), 403, `unexpected pod subresource "ephemeralcontainers"`},
		{"resize", on(Update, "mine", "resize", mine, mine), 403, "unexpected pod subresource"},
		{"binding", &Request{Operation: Create, Ref: kinds.Ref{Kind: kinds.Pod, Namespace: "a", Name: "mine", Sub: "binding"}, Object: &corev1.Binding{}}, 403, "unexpected pod subresource"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.r.User = nodeUser("n1")
			want(t, w.admit(tt.r), tt.code, tt.part)
		})
	}
}

func TestNodeRestrictionLeases(t *testing.T) {
	w := nodeWorld(t)
	for _, tt := range []struct {
		ns, name string
		code     int32
	}{{"kube-node-lease", "n1", 0}, {"kube-node-lease", "n2", 403}, {"a", "n1", 403}} {
		r := create(kinds.Lease, &coordinationv1.Lease{ObjectMeta: meta(tt.ns, tt.name)})
		r.User = nodeUser("n1")
		want(t, w.admit(r), tt.code, "can only access")
	}
}

func TestNodeRestrictionTokens(t *testing.T) {
	w := nodeWorld(t)
	ref := func(kind, name, uid string) *authenticationv1.BoundObjectReference {
		return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name, UID: types.UID("uid-a-" + uid)}
	}
	tests := []struct {
		name      string
		account   string
		ref       *authenticationv1.BoundObjectReference
		audiences []string
		code      int32
		part      string
	}{
		{"own pod", "robot", ref("Pod", "mine", "mine"), nil, 0, ""},
		{"audience of a volume", "robot", ref("Pod", "mine", "mine"), []string{"vault"}, 0, ""},
		{"other audience", "robot", ref("Pod", "mine", "mine"), []string{"vault", "bank"}, 403, `audience "bank" not found in pod spec volume`},
		{"unbound", "robot", nil, nil, 403, "node requested token not bound to a pod"},
		{"bound to a secret", "robot", ref("Secret", "x", "x"), nil, 403, "not bound to a pod"},
		{"no uid", "robot", &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "mine"}, nil, 403, "node requested token with a pod binding without a uid"},
		{"other uid", "robot", ref("Pod", "mine", "old"), nil, 409, "does not match the UID in record"},
		{"no pod", "robot", ref("Pod", "nope", "nope"), nil, 404, "not found"},
		{"elsewhere", "robot", ref("Pod", "theirs", "theirs"), nil, 403, "node requested token bound to a pod scheduled on a different node"},
		{"another account", "default", ref("Pod", "mine", "mine"), nil, 403, "does not run as"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want(t, w.admit(&Request{User: nodeUser("n1"), Operation: Create, Ref: kinds.Ref{Kind: kinds.ServiceAccount, Namespace: "a", Name: tt.account, Sub: "token"},
				Object: &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: tt.ref, Audiences: tt.audiences}}}), tt.code, tt.part)
		})
	}
	sa := create(kinds.ServiceAccount, account("a", "new"))
	sa.User = nodeUser("n1")
	want(t, w.admit(sa), 403, "unexpected operation")
}

func request509(t *testing.T, cn string, orgs ...string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn, Organization: orgs}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func csr(signer string, request []byte) *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{ObjectMeta: meta("", "c"), Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: signer, Request: request}}
}

func TestNodeRestrictionRequests(t *testing.T) {
	w := nodeWorld(t)
	for _, tt := range []struct {
		name, signer string
		request      []byte
		code         int32
		part         string
	}{
		{"own", certificatesv1.KubeAPIServerClientKubeletSignerName, request509(t, "system:node:n1", "system:nodes"), 0, ""},
		{"own serving", certificatesv1.KubeletServingSignerName, request509(t, "system:node:n1", "system:nodes"), 0, ""},
		{"another's", certificatesv1.KubeAPIServerClientKubeletSignerName, request509(t, "system:node:n2", "system:nodes"), 403, `can only create a node CSR with CN="system:node:n1"`},
		{"another's serving", certificatesv1.KubeletServingSignerName, request509(t, "system:node:n2", "system:nodes"), 403, "can only create a node CSR"},
		{"broken", certificatesv1.KubeletServingSignerName, []byte("x"), 403, "unable to parse csr"},
		{"another signer", "example.com/x", request509(t, "system:node:n2"), 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := create(kinds.CertificateSigningRequest, csr(tt.signer, tt.request))
			r.User = nodeUser("n1")
			want(t, w.admit(r), tt.code, tt.part)
		})
	}
}

func TestNodeRestrictionPodCertificates(t *testing.T) {
	mine := bound("a", "mine", "n1")
	mine.Spec.Volumes[0].Projected.Sources = append(mine.Spec.Volumes[0].Projected.Sources, corev1.VolumeProjection{PodCertificate: &corev1.PodCertificateProjection{SignerName: "e.io/s"}})
	static := bound("a", "static", "n1")
	static.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	w := newWorld(t, namespace("a"), account("a", "robot"), account("a", "default"), plainNode("n1"), plainNode("n2"), mine, static, bound("a", "theirs", "n2"),
		clusterRole("more", rule("request-serviceaccounts-podcertificate-signer", "certificates.k8s.io", "e.io:more", "robot")), bind("more", "more", "system:node:n1"))
	node := view.Now[*corev1.Node](w.View, kinds.Node, "", "n1")
	robot := view.Now[*corev1.ServiceAccount](w.View, kinds.ServiceAccount, "a", "robot")
	type spec = certificatesv1.PodCertificateRequestSpec
	pod := func(name string) func(*spec) {
		return func(s *spec) { s.PodName, s.PodUID = name, view.Now[*corev1.Pod](w.View, kinds.Pod, "a", name).UID }
	}
	for _, tt := range []struct {
		name string
		do   func(*spec)
		code int32
		part string
	}{
		{"own", func(*spec) {}, 0, ""},
		{"another node", func(s *spec) { s.NodeName = "n2" }, 403, `PodCertificateRequest.Spec.NodeName="n2", which is not the requesting node "n1"`},
		{"node anew", func(s *spec) { s.NodeUID = "old" }, 500, ""},
		{"no pod", func(s *spec) { s.PodName = "none" }, 500, ""},
		{"pod anew", func(s *spec) { s.PodUID = "old" }, 500, ""},
		{"pod elsewhere", pod("theirs"), 403, `pod "a/theirs" is not running on node "n1"`},
		{"mirror pod", pod("static"), 403, `pod "a/static" is a mirror pod`},
		{"another account", func(s *spec) { s.ServiceAccountName = "default" }, 403, "that differs from running pod"},
		{"account anew", func(s *spec) { s.ServiceAccountUID = "old" }, 500, ""},
		{"another signer", func(s *spec) { s.SignerName = "e.io/t" }, 403, `pod "a/mine" does not mount a podCertificate projected volume for signer "e.io/t"`},
		{"a signer by right", func(s *spec) { s.SignerName = "e.io/more" }, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := &certificatesv1.PodCertificateRequest{ObjectMeta: meta("a", "r"), Spec: spec{SignerName: "e.io/s", ServiceAccountName: "robot", ServiceAccountUID: robot.UID, NodeName: "n1", NodeUID: node.UID}}
			pod("mine")(&req.Spec)
			tt.do(&req.Spec)
			r := create(kinds.PodCertificateRequest, req)
			r.User = nodeUser("n1")
			err := w.admit(r)
			if tt.code == 500 { // no answer for good: it is worth another try
				if _, ok := err.(apierrors.APIStatus); err == nil || ok {
					t.Errorf("%v", err)
				}
				return
			}
			want(t, err, tt.code, tt.part)
		})
	}
}
