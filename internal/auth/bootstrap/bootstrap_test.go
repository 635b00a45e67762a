package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/auth/authz"
	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// server is a client.Client over a view, which counts writes.
type server struct {
	client.Client
	*view.View
	rev    int64
	writes []string
	fail   error
}

func newServer() *server {
	held := []*kinds.Kind{kinds.Namespace, kinds.PriorityClass, kinds.ClusterRole, kinds.ClusterRoleBinding, kinds.Role, kinds.RoleBinding,
		kinds.Pod, kinds.ReplicaSet, kinds.EndpointSlice}
	return &server{View: view.New(held, view.SharedOf(held)...)}
}

func (s *server) set(k *kinds.Kind, o kinds.Object) {
	s.rev++
	s.Apply(view.Change{Kind: k, New: o, Rev: s.rev})
}

func (s *server) Create(_ context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	s.writes = append(s.writes, "create "+ref.String())
	o := obj.DeepCopyObject().(kinds.Object)
	o.SetUID(types.UID(fmt.Sprint("uid-", s.rev)))
	if ref.Kind.Default != nil {
		ref.Kind.Default(o)
	}
	s.set(ref.Kind, o)
	return o, nil
}

func (s *server) Update(_ context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	s.writes = append(s.writes, "update "+ref.String())
	s.set(ref.Kind, obj.(kinds.Object))
	return obj, nil
}

func (s *server) Delete(_ context.Context, ref kinds.Ref, o metav1.DeleteOptions) (runtime.Object, error) {
	old := view.Now[kinds.Object](s.View, ref.Kind, ref.Namespace, ref.Name)
	if o.Preconditions == nil || *o.Preconditions.UID != old.GetUID() {
		return nil, errors.New("deleted without looking")
	}
	s.writes = append(s.writes, "delete "+ref.String())
	s.rev++
	s.Apply(view.Change{Kind: ref.Kind, Old: old, Rev: s.rev})
	return old, nil
}

func (s *server) ensure(t *testing.T) []string {
	t.Helper()
	s.writes = nil
	if err := Ensure(context.Background(), s, s.Snapshot(), Objects([]reconcile.Controller{sample})); err != nil {
		t.Fatal(err)
	}
	return s.writes
}

var sample = reconcile.Controller{
	Name: "sample-controller", For: kinds.ReplicaSet, Owns: []*kinds.Kind{kinds.Pod}, Reads: []*kinds.Kind{kinds.Node},
	Writes: []reconcile.Write{{Kind: kinds.Pod, Verbs: []plan.Verb{plan.Create, plan.Delete}}, {Kind: kinds.ReplicaSet, Sub: "status", Verbs: []plan.Verb{plan.Update}}},
}

// All objects are what the API accepts.
func TestObjectsAreValid(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range Objects([]reconcile.Controller{sample}) {
		id := kinds.RefTo(e.Kind, e.Object).String()
		if seen[id] {
			t.Errorf("%s is there twice", id)
		}
		seen[id] = true
		o := e.Object.DeepCopyObject().(kinds.Object)
		if e.Kind.Default != nil {
			e.Kind.Default(o)
		}
		if errs := e.Kind.Validate(o); len(errs) > 0 {
			t.Errorf("%s: %v", id, errs)
		}
	}
	for _, id := range []string{"namespaces default", "namespaces kube-system", "namespaces kube-public", "namespaces kube-node-lease",
		"priorityclasses.scheduling.k8s.io system-node-critical", "clusterroles.rbac.authorization.k8s.io cluster-admin", "clusterroles.rbac.authorization.k8s.io view",
		"clusterroles.rbac.authorization.k8s.io system:controller:sample-controller", "clusterrolebindings.rbac.authorization.k8s.io system:controller:sample-controller"} {
		if !seen[id] {
			t.Errorf("%s is missing", id)
		}
	}
	order := func() (ids []string) {
		for _, e := range Objects(nil) {
			ids = append(ids, kinds.RefTo(e.Kind, e.Object).String())
		}
		return ids
	}
	for first, i := order(), 0; i < 10; i++ {
		if !slices.Equal(order(), first) {
			t.Fatal("another order each time")
		}
	}
}

func TestEnsure(t *testing.T) {
	s := newServer()
	if n := len(s.ensure(t)); n != len(Objects([]reconcile.Controller{sample})) {
		t.Errorf("%d writes at first", n)
	}
	if w := s.ensure(t); len(w) > 0 {
		t.Errorf("the second start writes %v", w)
	}
	get := func(name string) *rbacv1.ClusterRole {
		return view.Now[*rbacv1.ClusterRole](s.View, kinds.ClusterRole, "", name).DeepCopy()
	}
	getBinding := func(name string) *rbacv1.ClusterRoleBinding {
		return view.Now[*rbacv1.ClusterRoleBinding](s.View, kinds.ClusterRoleBinding, "", name).DeepCopy()
	}
	tests := []struct {
		name   string
		change func()
		writes []string
		check  func() bool
	}{
		{"rule taken away", func() {
			r := get("system:kube-dns")
			r.Rules = r.Rules[1:]
			s.set(kinds.ClusterRole, r)
		}, []string{"update clusterroles.rbac.authorization.k8s.io system:kube-dns"}, func() bool { return len(get("system:kube-dns").Rules) == 2 }},
		{"verb taken away", func() {
			r := get("system:kube-dns")
			r.Rules[0].Verbs = []string{"list"}
			s.set(kinds.ClusterRole, r)
		}, []string{"update clusterroles.rbac.authorization.k8s.io system:kube-dns"}, func() bool { return len(get("system:kube-dns").Rules) == 3 }},
		{"rule added", func() {
			r := get("system:kube-dns")
			r.Rules = append(r.Rules, rule([]string{"get"}, "", "pods"))
			s.set(kinds.ClusterRole, r)
		}, nil, func() bool { return len(get("system:kube-dns").Rules) == 4 }},
		{"left alone", func() {
			r := get("system:discovery")
			r.Rules, r.Annotations[autoUpdate] = nil, "false"
			s.set(kinds.ClusterRole, r)
		}, nil, func() bool { return len(get("system:discovery").Rules) == 0 }},
		{"label of aggregation taken away", func() {
			r := get("system:aggregate-to-edit")
			delete(r.Labels, aggregateTo+"edit")
			s.set(kinds.ClusterRole, r)
		}, []string{"update clusterroles.rbac.authorization.k8s.io system:aggregate-to-edit"}, func() bool { return get("system:aggregate-to-edit").Labels[aggregateTo+"edit"] == "true" }},
		{"aggregated rules are not ours", func() {
			r := get("view")
			r.Rules = []rbacv1.PolicyRule{rule(read, "", "pods")}
			s.set(kinds.ClusterRole, r)
		}, nil, func() bool { return len(get("view").Rules) == 1 }},
		{"aggregation taken away", func() {
			r := get("view")
			r.AggregationRule = nil
			s.set(kinds.ClusterRole, r)
		}, []string{"update clusterroles.rbac.authorization.k8s.io view"}, func() bool { return get("view").AggregationRule != nil }},
		{"subject taken away, another added", func() {
			b := getBinding("system:basic-user")
			b.Subjects = []rbacv1.Subject{person("jane")}
			s.set(kinds.ClusterRoleBinding, b)
		}, []string{"update clusterrolebindings.rbac.authorization.k8s.io system:basic-user"}, func() bool { return len(getBinding("system:basic-user").Subjects) == 2 }},
		{"another role bound", func() {
			b := getBinding("cluster-admin")
			b.RoleRef.Name = "view"
			s.set(kinds.ClusterRoleBinding, b)
		}, []string{"delete clusterrolebindings.rbac.authorization.k8s.io cluster-admin", "create clusterrolebindings.rbac.authorization.k8s.io cluster-admin"},
			func() bool { return getBinding("cluster-admin").RoleRef.Name == "cluster-admin" }},
		{"namespace changed", func() {
			ns := view.Now[*corev1.Namespace](s.View, kinds.Namespace, "", "default").DeepCopy()
			ns.Labels = map[string]string{"a": "b"}
			s.set(kinds.Namespace, ns)
		}, nil, func() bool { return true }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.change()
			if w := s.ensure(t); !slices.Equal(w, tt.writes) || !tt.check() {
				t.Errorf("writes %v", w)
			}
			if w := s.ensure(t); len(w) > 0 {
				t.Errorf("and again %v", w)
			}
		})
	}
}

// Two servers that start at once do not fail each other; real errors are told.
func TestEnsureErrors(t *testing.T) {
	gr := schema.GroupResource{Resource: "x"}
	for _, tt := range []struct {
		err error
		ok  bool
	}{{apierrors.NewAlreadyExists(gr, "x"), true}, {apierrors.NewForbidden(gr, "x", errors.New("no")), false}} {
		s := newServer()
		s.fail = tt.err
		if err := Ensure(context.Background(), s, s.Snapshot(), Objects(nil)); (err == nil) != tt.ok {
			t.Errorf("%v: %v", tt.err, err)
		}
	}
}

func TestControllerRole(t *testing.T) {
	r := ControllerRole(sample)
	var got []string
	for _, rule := range r.Rules {
		got = append(got, fmt.Sprintf("%s/%s: %s", rule.APIGroups[0], strings.Join(rule.Resources, ","), strings.Join(rule.Verbs, " ")))
	}
	want := []string{"/nodes: get list watch", "/pods: create delete get list watch", "apps/replicasets: get list watch", "apps/replicasets/status: update"}
	if r.Name != "system:controller:sample-controller" || !slices.Equal(got, want) {
		t.Errorf("%s %q", r.Name, got)
	}
}

// Who may do what in a fresh cluster.
func TestRights(t *testing.T) {
	s := newServer()
	s.ensure(t)
	a := authz.New(s.View)
	anon := &user.DefaultInfo{Name: "system:anonymous", Groups: []string{"system:unauthenticated"}}
	of := func(name string, groups ...string) user.Info {
		return &user.DefaultInfo{Name: name, Groups: append(groups, "system:authenticated")}
	}
	jane, joiner, node := of("jane"), of("system:bootstrap:abc123", "system:bootstrappers", JoinGroup), of("system:node:n1", "system:nodes")
	stranger := of("system:bootstrap:def456", "system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token")
	sa := of("system:serviceaccount:a:b", "system:serviceaccounts", "system:serviceaccounts:a")
	url := func(path string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{Verb: "get", Path: path}
	}
	res := func(verb, group, resource, sub, ns, name string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{Verb: verb, APIGroup: group, Resource: resource, Subresource: sub, Namespace: ns, Name: name, ResourceRequest: true}
	}
	tests := []struct {
		name string
		who  user.Info
		ask  authorizer.AttributesRecord
		want bool
	}{
		{"anonymous health", anon, url("/readyz"), true},
		{"anonymous version", anon, url("/version"), true},
		{"anonymous discovery", anon, url("/apis"), false},
		{"anonymous metrics", anon, url("/metrics"), false},
		{"anonymous keys", anon, url("/openid/v1/jwks"), false},
		{"anonymous namespaces", anon, res("list", "", "namespaces", "", "", ""), false},
		{"anonymous self review", anon, res("create", "authorization.k8s.io", "selfsubjectaccessreviews", "", "", ""), false},
		{"jane's discovery", jane, url("/apis/apps/v1"), true},
		{"jane's review", jane, res("create", "authorization.k8s.io", "selfsubjectaccessreviews", "", "", ""), true},
		{"jane's pods", jane, res("list", "", "pods", "", "a", ""), false},
		{"jane's metrics", jane, url("/metrics"), false},
		{"admins", of("boss", "system:masters"), res("delete", "", "nodes", "", "", "x"), true},
		{"scraper", of("x", "system:monitoring"), url("/metrics"), true},
		{"account's keys", sa, url("/openid/v1/jwks"), true},
		{"account's pods", sa, res("list", "", "pods", "", "a", ""), false},
		{"joiner's request", joiner, res("create", "certificates.k8s.io", "certificatesigningrequests", "", "", ""), true},
		{"joiner's approval", joiner, res("create", "certificates.k8s.io", "certificatesigningrequests", "nodeclient", "", ""), true},
		{"another's token requests", stranger, res("create", "certificates.k8s.io", "certificatesigningrequests", "", "", ""), false},
		{"another's token is approved", stranger, res("create", "certificates.k8s.io", "certificatesigningrequests", "nodeclient", "", ""), false},
		{"node's networks", node, res("get", "", "configmaps", "", "kube-system", NetworkMap), true},
		{"node's other map", node, res("get", "", "configmaps", "", "kube-system", "x"), false},
		{"joiner's networks", joiner, res("get", "", "configmaps", "", "kube-system", NetworkMap), false},
		{"joiner as a node", joiner, res("create", "certificates.k8s.io", "certificatesigningrequests", "selfnodeclient", "", ""), false},
		{"joiner's secrets", joiner, res("get", "", "secrets", "", "kube-system", "x"), false},
		{"joiner approves by hand", joiner, res("update", "certificates.k8s.io", "certificatesigningrequests", "approval", "", "x"), false},
		{"node's renewal", node, res("create", "certificates.k8s.io", "certificatesigningrequests", "selfnodeclient", "", ""), true},
		{"node's new name", node, res("create", "certificates.k8s.io", "certificatesigningrequests", "nodeclient", "", ""), false},
		{"apiserver to kubelet", of("kube-apiserver-kubelet-client"), res("create", "", "nodes", "proxy", "", "n1"), true},
		{"apiserver's client reads secrets", of("kube-apiserver-kubelet-client"), res("get", "", "secrets", "", "a", "x"), false},
		{"scheduler binds", of("system:kube-scheduler"), res("create", "", "pods", "binding", "a", "x"), true},
		{"scheduler's condition", of("system:kube-scheduler"), res("patch", "", "pods", "status", "a", "x"), true},
		{"scheduler's event", of("system:kube-scheduler"), res("create", "", "events", "", "a", ""), true},
		{"scheduler creates pods", of("system:kube-scheduler"), res("create", "", "pods", "", "a", ""), false},
		{"scheduler reads secrets", of("system:kube-scheduler"), res("get", "", "secrets", "", "a", "x"), false},
		{"scheduler's lease", of("system:kube-scheduler"), res("update", "coordination.k8s.io", "leases", "", "kube-system", "kube-scheduler"), true},
		{"scheduler makes its lease", of("system:kube-scheduler"), res("create", "coordination.k8s.io", "leases", "", "kube-system", ""), true},
		{"scheduler's hold on a node", of("system:kube-scheduler"), res("update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n1"), false},
		{"controller manager's lease", of("system:kube-controller-manager"), res("update", "coordination.k8s.io", "leases", "", "kube-system", "kube-controller-manager"), true},
		{"controller manager makes its lease", of("system:kube-controller-manager"), res("create", "coordination.k8s.io", "leases", "", "kube-system", ""), true},
		{"controller manager's hold on a node", of("system:kube-controller-manager"), res("update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n1"), false},
		{"a controller's hold on the lease", of("system:serviceaccount:kube-system:sample-controller"), res("update", "coordination.k8s.io", "leases", "", "kube-system", "kube-controller-manager"), false},
		{"controller manager's event", of("system:kube-controller-manager"), res("patch", "", "events", "", "a", "x"), true},
		{"controller manager reads secrets", of("system:kube-controller-manager"), res("list", "", "secrets", "", "", ""), false},
		{"controller writes", of("system:serviceaccount:kube-system:sample-controller"), res("create", "", "pods", "", "a", ""), true},
		{"controller writes more", of("system:serviceaccount:kube-system:sample-controller"), res("update", "", "pods", "", "a", "x"), false},
		{"somebody else's controller", of("system:serviceaccount:a:sample-controller"), res("create", "", "pods", "", "a", ""), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.ask.User = tt.who
			d, reason, err := a.Authorize(context.Background(), tt.ask)
			if err != nil || (d == authorizer.DecisionAllow) != tt.want {
				t.Errorf("%v %q %v", d, reason, err)
			}
		})
	}
}

// TestCVE2021_25740: the roles that users get grant no way out of their
// namespace: nothing on nodes, nothing cluster-scoped, no endpoints.
func TestCVE2021_25740(t *testing.T) {
	table := kinds.Builtin()
	for _, r := range userRoles() {
		if r.Name == "cluster-admin" {
			continue
		}
		for _, rule := range r.Rules {
			for _, k := range table.All() {
				if !slices.Contains(rule.APIGroups, k.GVK.Group) || !slices.Contains(rule.Resources, k.Resource) {
					continue
				}
				if k == kinds.NodeMetrics && r.Name == "system:aggregated-metrics-reader" && slices.Equal(rule.Verbs, read) {
					continue // metrics-server's own: figures, and of all nodes only who may look everywhere
				}
				if !k.Namespaced && !(k == kinds.Namespace && !slices.ContainsFunc(rule.Verbs, func(v string) bool { return !slices.Contains(read, v) })) {
					t.Errorf("%s grants %v on %s", r.Name, rule.Verbs, k)
				}
				if (k == kinds.Endpoints || k == kinds.EndpointSlice || k == kinds.ResourceQuota || k == kinds.LimitRange) && slices.Contains(rule.Verbs, "update") {
					t.Errorf("%s may write %s", r.Name, k)
				}
			}
			if slices.Contains(rule.Resources, "secrets") && strings.HasSuffix(r.Name, "view") {
				t.Error("viewers see secrets")
			}
		}
	}
}
