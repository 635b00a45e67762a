package authz

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"
)

func pod(ns, name, node string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID(ns + name)}, Spec: corev1.PodSpec{NodeName: node}}
	if change != nil {
		change(p)
	}
	return p
}

func volume(src corev1.VolumeSource) corev1.Volume {
	return corev1.Volume{Name: "v", VolumeSource: src}
}

// references are all the ways in which a pod names objects.
func references(p *corev1.Pod) {
	env := func(secret, config string) []corev1.EnvVar {
		return []corev1.EnvVar{{Name: "PLAIN", Value: "secret-x"},
			{Name: "S", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: secret}}}},
			{Name: "C", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: config}}}}}
	}
	from := func(secret, config string) []corev1.EnvFromSource {
		return []corev1.EnvFromSource{
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: secret}}},
			{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: config}}}}
	}
	p.Spec.ServiceAccountName = "robot"
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "d", ResourceClaimName: ptr.To("gpu")}, {Name: "t", ResourceClaimTemplateName: ptr.To("template")}}
	p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "t", ResourceClaimName: ptr.To("made-for-mine")}, {Name: "n"}}
	p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "extended"}
	p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "s-pull"}}
	p.Spec.InitContainers = []corev1.Container{{Name: "i", Env: env("s-init-env", "c-init-env"), EnvFrom: from("s-init-from", "c-init-from")}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Env: env("s-env", "c-env"), EnvFrom: from("s-from", "c-from")}}
	p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: "e", Env: env("s-eph-env", "c-eph-env"), EnvFrom: from("s-eph-from", "c-eph-from")}}}
	p.Spec.Volumes = []corev1.Volume{
		volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s-vol"}}),
		volume(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c-vol"}}}),
		volume(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "s-proj"}}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "c-proj"}}}}}}),
		volume(corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{NodePublishSecretRef: &corev1.LocalObjectReference{Name: "s-csi"}}}),
		volume(corev1.VolumeSource{AzureFile: &corev1.AzureFileVolumeSource{SecretName: "s-azure"}}),
		volume(corev1.VolumeSource{CephFS: &corev1.CephFSVolumeSource{SecretRef: &corev1.LocalObjectReference{Name: "s-ceph"}}}),
		volume(corev1.VolumeSource{ISCSI: &corev1.ISCSIVolumeSource{SecretRef: &corev1.LocalObjectReference{Name: "s-iscsi"}}}),
		volume(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}),
		volume(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "stolen"}}),
		{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
	}
}

func nodeWorld(t testing.TB) *Authorizer {
	slice := func(name string, node *string) *resourcev1.ResourceSlice {
		return &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceSliceSpec{NodeName: node}}
	}
	attachment := func(name, node string) *storagev1.VolumeAttachment {
		return &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.VolumeAttachmentSpec{NodeName: node}}
	}
	claim := func(name, volume string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, UID: types.UID(name)}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: volume}}
	}
	pv := func(name, claim, uid, secret string) *corev1.PersistentVolume {
		return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{Namespace: "a", Name: claim, UID: types.UID(uid)},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				NodeStageSecretRef:         &corev1.SecretReference{Namespace: "storage", Name: secret},
				ControllerPublishSecretRef: &corev1.SecretReference{Namespace: "storage", Name: "s-controller"}}}}}
	}
	mirror := func(p *corev1.Pod) {
		references(p)
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		p.Spec.Volumes = append(p.Spec.Volumes, volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s-mirror"}}))
		p.Spec.ServiceAccountName = "mirrored"
		p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "d", ResourceClaimName: ptr.To("gpu-of-a-mirror")}}
	}
	return New(newWorld(t, pod("a", "mine", "n1", references), pod("a", "fake", "n1", mirror), pod("a", "theirs", "n2", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s-theirs"}})}
		p.Spec.ServiceAccountName = "other"
	}), pod("a", "unbound", "", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s-unbound"}})}
	}), slice("mine", ptr.To("n1")), slice("theirs", ptr.To("n2")), slice("everybodys", nil), attachment("va1", "n1"), attachment("va2", "n2"),
		claim("claim", "pv1"), claim("stolen", "pv2"),
		pv("pv1", "claim", "claim", "s-volume"), pv("pv2", "someone-elses", "other-uid", "s-stolen")).View)
}

func TestNode(t *testing.T) {
	a := nodeWorld(t)
	node := who("system:node:n1", "system:nodes", "system:authenticated")
	no := "no relationship found between node 'n1' and this object"
	tests := []struct {
		ask, fields string
		allow       bool
		reason      string
	}{
		{"get core/secrets a/s-vol", "", true, ""}, {"get core/secrets a/s-proj", "", true, ""}, {"get core/secrets a/s-pull", "", true, ""},
		{"get core/secrets a/s-env", "", true, ""}, {"get core/secrets a/s-from", "", true, ""},
		{"get core/secrets a/s-init-env", "", true, ""}, {"get core/secrets a/s-init-from", "", true, ""},
		{"get core/secrets a/s-eph-env", "", true, ""}, {"get core/secrets a/s-eph-from", "", true, ""},
		{"get core/secrets a/s-csi", "", true, ""}, {"get core/secrets a/s-azure", "", true, ""}, {"get core/secrets a/s-ceph", "", true, ""}, {"get core/secrets a/s-iscsi", "", true, ""},
		{"get core/secrets storage/s-volume", "", true, ""},
		{"list core/secrets a/s-vol", "", true, ""}, {"watch core/secrets a/s-vol", "", true, ""},
		{"get core/secrets storage/s-controller", "", false, no},
		{"get core/secrets storage/s-stolen", "", false, no},
		{"get core/secrets a/s-mirror", "", false, no},
		{"get core/secrets a/s-theirs", "", false, no},
		{"get core/secrets a/s-unbound", "", false, no},
		{"get core/secrets b/s-vol", "", false, no},
		{"get core/secrets a/c-vol", "", false, no},
		{"list core/secrets a/", "", false, "No Object name found"},
		{"list core/secrets -/s-vol", "", false, "can only read namespaced object of this type"},
		{"update core/secrets a/s-vol", "", false, "can only read resources of this type"},
		{"get core/secrets/status a/s-vol", "", false, "cannot read subresource"},
		{"get other.io/secrets a/s-vol", "", false, ""},
		{"get core/configmaps a/c-vol", "", true, ""}, {"get core/configmaps a/c-proj", "", true, ""}, {"get core/configmaps a/c-eph-from", "", true, ""},
		{"watch core/configmaps a/c-from", "", true, ""}, {"get core/configmaps a/c-init-env", "", true, ""},
		{"get core/configmaps a/s-vol", "", false, no},
		{"delete core/configmaps a/c-vol", "", false, "can only read resources of this type"},
		{"create core/serviceaccounts/token a/robot", "", true, ""},
		{"create core/serviceaccounts/token a/other", "", false, no},
		{"create core/serviceaccounts/token a/mirrored", "", false, no},
		{"create core/serviceaccounts/token b/robot", "", false, no},
		{"create core/serviceaccounts/token a/", "", false, "can only create tokens for individual service accounts"},
		{"create core/serviceaccounts a/robot", "", false, "can only create token subresource of serviceaccount"},
		{"get core/serviceaccounts a/robot", "", true, ""},
		{"get core/serviceaccounts a/other", "", false, no}, {"get core/serviceaccounts a/mirrored", "", false, no},
		{"list core/serviceaccounts a/robot", "", false, "can only create tokens for individual service accounts"},
		{"patch core/persistentvolumeclaims/status a/claim", "", true, ""},
		{"update core/persistentvolumeclaims/status a/else", "", false, no},
		{"get core/persistentvolumeclaims/status a/claim", "", false, "can only get/update/patch this type"},
		{"get resource.k8s.io/resourceclaims a/gpu", "", true, ""},
		{"get resource.k8s.io/resourceclaims a/made-for-mine", "", true, ""},
		{"get resource.k8s.io/resourceclaims a/extended", "", true, ""},
		{"get resource.k8s.io/resourceclaims b/gpu", "", false, no},
		{"get resource.k8s.io/resourceclaims a/gpu-of-a-mirror", "", false, no}, // CVE-2025-4563
		{"list resource.k8s.io/resourceclaims a/", "", false, "can only get individual resources of this type"},
		{"get resource.k8s.io/resourceclaims/status a/gpu", "", false, "cannot get subresource"},
		{"update resource.k8s.io/resourceslices -/mine", "", true, ""}, {"delete resource.k8s.io/resourceslices -/mine", "", true, ""},
		{"get resource.k8s.io/resourceslices -/theirs", "", false, no}, {"patch resource.k8s.io/resourceslices -/everybodys", "", false, no},
		{"create resource.k8s.io/resourceslices -/", "", true, ""},
		{"deletecollection resource.k8s.io/resourceslices -/", "spec.nodeName=n1", true, ""},
		{"watch resource.k8s.io/resourceslices -/", "spec.nodeName=n2", false, "can only list/watch/deletecollection resourceslices with nodeName field selector"},
		{"list resource.k8s.io/resourceslices -/", "", false, "can only list/watch/deletecollection resourceslices with nodeName field selector"},
		{"get storage.k8s.io/volumeattachments -/va1", "", true, ""}, {"get storage.k8s.io/volumeattachments -/va2", "", false, no},
		{"list storage.k8s.io/volumeattachments -/", "", false, "can only get individual resources of this type"},
		{"update storage.k8s.io/csinodes -/n1", "", true, ""}, {"create storage.k8s.io/csinodes -/", "", true, ""},
		{"get storage.k8s.io/csinodes -/n2", "", false, "can only access CSINode with the same name as the requesting node"},
		{"list storage.k8s.io/csinodes -/", "", false, "can only get, create, update, patch, or delete a CSINode"},
		{"list storage.k8s.io/csidrivers -/", "", true, ""}, {"watch node.k8s.io/runtimeclasses -/", "", true, ""}, {"get certificates.k8s.io/clustertrustbundles -/x", "", true, ""},
		{"create certificates.k8s.io/podcertificaterequests a/", "", true, ""},
		{"list certificates.k8s.io/podcertificaterequests -/", "spec.nodeName=n1", true, ""},
		{"watch certificates.k8s.io/podcertificaterequests -/", "spec.nodeName=n2", false, "can only list/watch podcertificaterequests with nodeName field selector"},
		{"get certificates.k8s.io/podcertificaterequests a/x", "", false, no},
		{"update certificates.k8s.io/podcertificaterequests/status a/x", "", false, "nodes may not access the status subresource of PodCertificateRequests"},
		{"delete certificates.k8s.io/podcertificaterequests a/x", "", false, "nodes may not delete podcertificaterequests"},
		{"get core/persistentvolumeclaims a/claim", "", true, ""},
		{"get core/persistentvolumeclaims a/mine-scratch", "", true, ""},
		{"get core/persistentvolumeclaims a/else", "", false, no},
		{"list core/persistentvolumeclaims a/claim", "", false, "can only get individual resources of this type"},
		{"get core/persistentvolumes -/pv1", "", true, ""},
		{"get core/persistentvolumes -/pv2", "", false, no},
		{"get core/persistentvolumes -/", "", false, "No Object name found"},
		{"get core/persistentvolumes/status -/pv1", "", false, "cannot get subresource"},
		{"get core/pods a/mine", "", true, ""}, {"get core/pods a/fake", "", true, ""},
		{"get core/pods a/theirs", "", false, no}, {"get core/pods a/nope", "", false, no},
		{"list core/pods -/", "spec.nodeName=n1", true, ""}, {"watch core/pods -/", "spec.nodeName=n1,status.phase!=Failed", true, ""},
		{"list core/pods -/", "spec.nodeName=n2", false, "can only list/watch pods with spec.nodeName field selector"},
		{"list core/pods -/", "spec.nodeName!=n1", false, "can only list/watch pods with spec.nodeName field selector"},
		{"list core/pods a/", "", false, "can only list/watch pods with spec.nodeName field selector"},
		{"watch core/pods a/mine", "metadata.name=mine", true, ""}, {"watch core/pods a/theirs", "metadata.name=theirs", false, no},
		{"create core/pods a/", "", true, ""}, {"delete core/pods a/mine", "", true, ""},
		{"update core/pods a/mine", "", false, ""}, {"deletecollection core/pods a/", "", false, ""},
		{"patch core/pods/status a/mine", "", true, ""}, {"create core/pods/eviction a/mine", "", true, ""},
		{"get core/pods/log a/mine", "", false, ""}, {"create core/pods/exec a/mine", "", false, ""}, {"create core/pods/binding a/mine", "", false, ""},
		{"update core/pods/ephemeralcontainers a/mine", "", false, ""},
		{"list core/nodes -/", "", true, ""}, {"get core/nodes -/n2", "", true, ""}, {"create core/nodes -/", "", true, ""},
		{"update core/nodes -/n1", "", true, ""}, {"patch core/nodes/status -/n1", "", true, ""},
		{"update core/nodes -/n2", "", false, "node 'n1' can only modify its own Node object"},
		{"patch core/nodes/status -/n2", "", false, "node 'n1' can only modify its own Node object"},
		{"delete core/nodes -/n2", "", false, "node 'n1' can only modify its own Node object"},
		{"deletecollection core/nodes -/", "", false, "node 'n1' can only modify its own Node object"},
		{"get core/nodes/proxy -/n1", "", false, ""},
		{"get coordination.k8s.io/leases kube-node-lease/n1", "", true, ""}, {"create coordination.k8s.io/leases kube-node-lease/", "", true, ""},
		{"update coordination.k8s.io/leases kube-node-lease/n2", "", false, "can only access node lease with the same name as the requesting node"},
		{"update coordination.k8s.io/leases kube-system/n1", "", false, `can only access leases in the "kube-node-lease" system namespace`},
		{"list coordination.k8s.io/leases kube-node-lease/", "", false, "can only get, create, update, patch, or delete a node lease"},
		{"watch core/services -/", "", true, ""}, {"list discovery.k8s.io/endpointslices -/", "", true, ""}, {"create core/services a/", "", false, ""},
		{"create core/events a/", "", true, ""}, {"delete core/events a/x", "", false, ""}, {"patch events.k8s.io/events a/x", "", true, ""},
		{"create certificates.k8s.io/certificatesigningrequests -/", "", true, ""},
		{"update certificates.k8s.io/certificatesigningrequests/approval -/x", "", false, ""},
		{"create authentication.k8s.io/tokenreviews -/", "", true, ""}, {"create authorization.k8s.io/subjectaccessreviews -/", "", true, ""},
		{"get rbac.authorization.k8s.io/clusterroles -/x", "", false, ""},
		{"get /metrics", "", false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.ask+" "+tt.fields, func(t *testing.T) {
			at := ask(node, tt.ask)
			if tt.fields != "" {
				sel, err := fields.ParseSelector(tt.fields)
				if err != nil {
					t.Fatal(err)
				}
				at.FieldSelectorRequirements = sel.Requirements()
			}
			d, reason, err := a.Authorize(context.Background(), at)
			if err != nil || (d == authorizer.DecisionAllow) != tt.allow || reason != tt.reason {
				t.Errorf("%v %q %v, want %v %q", d, reason, err, tt.allow, tt.reason)
			}
		})
	}
}

func TestWhoIsANode(t *testing.T) {
	a := nodeWorld(t)
	for _, tt := range []struct {
		name   string
		groups []string
		node   string
	}{
		{"system:node:n1", []string{"system:nodes"}, "n1"},
		{"system:node:n1", []string{"system:authenticated"}, ""},
		{"system:node:", []string{"system:nodes"}, ""},
		{"n1", []string{"system:nodes"}, ""},
	} {
		u := who(tt.name, tt.groups...)
		if got, _ := NodeOf(u); got != tt.node {
			t.Errorf("%s of %v is node %q", tt.name, tt.groups, got)
		}
		d, _, _ := a.Authorize(context.Background(), ask(u, "get core/secrets a/s-vol"))
		if (d == authorizer.DecisionAllow) != (tt.node != "") {
			t.Errorf("%s of %v: %v", tt.name, tt.groups, d)
		}
	}
}

// What a node gives itself by RBAC is still decided by RBAC.
func TestNodeAndRBAC(t *testing.T) {
	w := newWorld(t, clusterRole("m", rule("get", "core", "secrets", "extra")), clusterBinding("m", "m", toGroup("system:nodes")), clusterBinding("l", "lost", toGroup("system:nodes")))
	a := New(w.View)
	node := who("system:node:n1", "system:nodes")
	if d, _, _ := a.Authorize(context.Background(), ask(node, "get core/secrets a/extra")); d != authorizer.DecisionAllow {
		t.Error("RBAC's yes does not count for nodes")
	}
	d, reason, _ := a.Authorize(context.Background(), ask(node, "get core/secrets a/other"))
	want := "no relationship found between node 'n1' and this object\nRBAC: clusterrole.rbac.authorization.k8s.io \"lost\" not found"
	if d != authorizer.DecisionNoOpinion || reason != want {
		t.Errorf("%v %q", d, reason)
	}
}

func BenchmarkNodeSecret(b *testing.B) {
	w := newWorld(b)
	for i := range 110 {
		w.set(b, pod("a", string(rune('a'+i%26))+string(rune('a'+i/26)), "n1", func(p *corev1.Pod) { references(p) }))
	}
	a := New(w.View)
	at := authorizer.Attributes(ask(who("system:node:n1", "system:nodes"), "get core/secrets a/none"))
	b.ReportAllocs()
	for b.Loop() {
		_, _, _ = a.Authorize(context.Background(), at)
	}
}
