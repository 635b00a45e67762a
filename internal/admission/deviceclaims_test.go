package admission

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/internal/kinds"
)

func TestAdminAccess(t *testing.T) {
	admins := &corev1.Namespace{ObjectMeta: meta("", "admins")}
	admins.Labels = map[string]string{"resource.kubernetes.io/admin-access": "true"}
	w := newWorld(t, admins, &corev1.Namespace{ObjectMeta: meta("", "others")})
	spec := resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "plain"}, {Name: "all", Exactly: &resourcev1.ExactDeviceRequest{AdminAccess: ptr.To(true)}}}}}
	const refused = "spec.devices.requests[1].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace"
	for _, tc := range []struct {
		namespace string
		code      int32
	}{{"admins", 0}, {"others", 422}} {
		want(t, w.admit(create(kinds.ResourceClaim, &resourcev1.ResourceClaim{ObjectMeta: meta(tc.namespace, "c"), Spec: spec})), tc.code, refused)
		want(t, w.admit(create(kinds.ResourceClaimTemplate, &resourcev1.ResourceClaimTemplate{ObjectMeta: meta(tc.namespace, "t"), Spec: resourcev1.ResourceClaimTemplateSpec{Spec: spec}})), tc.code, refused)
	}
	spec.Devices.Requests[1].Exactly.AdminAccess = ptr.To(false)
	want(t, w.admit(create(kinds.ResourceClaim, &resourcev1.ResourceClaim{ObjectMeta: meta("others", "c"), Spec: spec})), 0, "")
}

func TestClaimStatus(t *testing.T) {
	rule := func(verb, resource string, names ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{"resource.k8s.io"}, Resources: []string{resource}, ResourceNames: names}
	}
	objects := []kinds.Object{&corev1.Namespace{ObjectMeta: meta("", "default")}}
	grant := func(name string, rules ...rbacv1.PolicyRule) {
		objects = append(objects, &rbacv1.ClusterRole{ObjectMeta: meta("", name), Rules: rules},
			&rbacv1.ClusterRoleBinding{ObjectMeta: meta("", name), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
				Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: name}}})
	}
	const driver = "system:serviceaccount:default:driver"
	grant("scheduler", rule("update", "resourceclaims/binding"))
	grant(driver, rule("associated-node:patch", "resourceclaims/driver", "gpu.example"))
	grant("controller", rule("arbitrary-node:patch", "resourceclaims/driver"))
	w := newWorld(t, objects...)

	empty := &resourcev1.ResourceClaim{ObjectMeta: meta("default", "c")}
	given := empty.DeepCopy()
	given.Status.Allocation = &resourcev1.AllocationResult{NodeSelector: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: "In", Values: []string{"n"}}},
	}}}}
	said := given.DeepCopy()
	said.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "gpu.example", Pool: "p", Device: "a"}}
	other := said.DeepCopy()
	other.Status.Devices = append(other.Status.Devices, resourcev1.AllocatedDeviceStatus{Driver: "nic.example"})
	admin := given.DeepCopy()
	admin.Status.Allocation.Devices.Results = []resourcev1.DeviceRequestAllocationResult{{AdminAccess: ptr.To(true)}}
	on := func(node string) user.Info {
		return &user.DefaultInfo{Name: driver, Extra: map[string][]string{"authentication.kubernetes.io/node-name": {node}}}
	}
	const binding, devices = "status.allocation: Forbidden: changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\"", "status.devices: Forbidden: changing status.devices requires"
	for _, tc := range []struct {
		name     string
		who      user.Info
		verb     string
		old, new *resourcev1.ResourceClaim
		refused  string
	}{
		{"nothing changes", nil, "update", given, given, ""},
		{"anybody", nil, "update", empty, given, binding},
		{"scheduler", &user.DefaultInfo{Name: "scheduler"}, "update", empty, given, ""},
		{"scheduler, by another verb", &user.DefaultInfo{Name: "scheduler"}, "patch", empty, given, binding},
		{"scheduler, admin access", &user.DefaultInfo{Name: "scheduler"}, "update", empty, admin, "status.allocation.devices.results[0].adminAccess: Forbidden"},
		{"scheduler, admin access as before", &user.DefaultInfo{Name: "scheduler"}, "update", admin, admin, ""},
		{"scheduler for a driver", &user.DefaultInfo{Name: "scheduler"}, "update", given, said, devices},
		{"driver on its node", on("n"), "patch", given, said, ""},
		{"driver takes it back", on("n"), "patch", said, given, ""},
		{"driver elsewhere", on("m"), "patch", given, said, devices},
		{"driver for another", on("n"), "patch", said, other, devices},
		{"controller for all", &user.DefaultInfo{Name: "controller"}, "patch", given, other, ""},
		{"given back with what was said", &user.DefaultInfo{Name: "scheduler"}, "update", said, empty, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := w.admit(&Request{User: tc.who, Operation: Update, Verb: tc.verb, Ref: kinds.Ref{Kind: kinds.ResourceClaim, Namespace: "default", Name: "c", Sub: "status"}, Object: tc.new, Old: tc.old})
			code := int32(0)
			if tc.refused != "" {
				code = 422
			}
			want(t, err, code, tc.refused)
		})
	}
}
