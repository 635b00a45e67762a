package authz

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// world is a view that tests fill.
type world struct {
	*view.View
	rev int64
}

func newWorld(t testing.TB, objects ...kinds.Object) *world {
	t.Helper()
	held := []*kinds.Kind{kinds.ClusterRole, kinds.ClusterRoleBinding, kinds.Role, kinds.RoleBinding, kinds.Pod,
		kinds.ReplicaSet, kinds.EndpointSlice, kinds.PersistentVolume, kinds.PersistentVolumeClaim, kinds.VolumeAttachment, kinds.ResourceSlice}
	w := &world{View: view.New(held, view.SharedOf(held)...)}
	for _, o := range objects {
		w.set(t, o)
	}
	return w
}

func kindOf(t testing.TB, o kinds.Object) *kinds.Kind {
	t.Helper()
	for _, k := range kinds.Builtin().All() {
		if k.New != nil && fmt.Sprintf("%T", k.New()) == fmt.Sprintf("%T", o) {
			return k
		}
	}
	t.Fatalf("no kind of %T", o)
	return nil
}

func (w *world) set(t testing.TB, o kinds.Object) {
	t.Helper()
	w.rev++
	w.Apply(view.Change{Kind: kindOf(t, o), New: o, Rev: w.rev})
}

func (w *world) remove(t testing.TB, o kinds.Object) {
	t.Helper()
	w.rev++
	w.Apply(view.Change{Kind: kindOf(t, o), Old: o, Rev: w.rev})
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
}

func nsRole(ns, name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
	return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Rules: rules}
}

func ref(kind, name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

func clusterBinding(name, role string, subjects ...rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: ref("ClusterRole", role), Subjects: subjects}
}

func binding(ns, name string, r rbacv1.RoleRef, subjects ...rbacv1.Subject) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, RoleRef: r, Subjects: subjects}
}

func toUser(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: name}
}

func toGroup(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: "Group", APIGroup: rbacv1.GroupName, Name: name}
}

func toAccount(ns, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: "ServiceAccount", Namespace: ns, Name: name}
}

func rule(verbs, groups, resources, names string) rbacv1.PolicyRule {
	split := func(s string) []string {
		if s == "" {
			return nil
		}
		if s == "core" {
			return []string{""}
		}
		return strings.Split(s, ",")
	}
	return rbacv1.PolicyRule{Verbs: split(verbs), APIGroups: split(groups), Resources: split(resources), ResourceNames: split(names)}
}

func who(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: groups}
}

// ask reads "verb group/resource/sub namespace/name"; "-" is empty.
func ask(u user.Info, text string) authorizer.AttributesRecord {
	f := strings.Fields(text)
	if strings.HasPrefix(f[1], "/") {
		return authorizer.AttributesRecord{User: u, Verb: f[0], Path: f[1]}
	}
	at := authorizer.AttributesRecord{User: u, Verb: f[0], ResourceRequest: true}
	parts := strings.Split(f[1], "/")
	at.APIGroup, at.Resource = strings.TrimPrefix(parts[0], "core"), parts[1]
	if len(parts) > 2 {
		at.Subresource = parts[2]
	}
	ns, name, _ := strings.Cut(f[2], "/")
	at.Namespace, at.Name = strings.Trim(ns, "-"), strings.Trim(name, "-")
	return at
}

func TestRBAC(t *testing.T) {
	w := newWorld(t,
		clusterRole("reader", rule("get,list", "core", "pods,pods/log", "")),
		clusterRole("scaler", rule("update", "*", "*/scale", "")),
		clusterRole("all", rule("*", "*", "*", ""), rbacv1.PolicyRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}),
		clusterRole("one", rule("get,update", "core", "configmaps", "this,that")),
		clusterRole("urls", rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/healthz", "/openapi/*"}}),
		clusterRole("apps", rule("get", "apps,extensions", "deployments", "")),
		nsRole("a", "writer", rule("create,delete", "core", "pods", "")),
		clusterBinding("reader", "reader", toUser("jane"), toGroup("devs")),
		clusterBinding("scaler", "scaler", toAccount("kube-system", "hpa")),
		clusterBinding("root", "all", toUser("root")),
		clusterBinding("one", "one", toUser("jane")),
		clusterBinding("urls", "urls", toGroup("system:authenticated")),
		clusterBinding("lost", "no-such", toUser("lost")),
		clusterBinding("wrong", "writer", toUser("wrong")),
		binding("a", "writers", ref("Role", "writer"), toUser("bob"), toAccount("", "robot")),
		binding("a", "readers", ref("ClusterRole", "apps"), toUser("bob")),
		binding("a", "gone", ref("Role", "nothing"), toUser("lost")),
		binding("b", "url", ref("ClusterRole", "urls"), toUser("sneaky")),
	)
	a := New(w.View)
	tests := []struct {
		name   string
		who    user.Info
		ask    string
		allow  bool
		reason string
	}{
		{"user by cluster binding", who("jane"), "get core/pods a/x", true, `RBAC: allowed by ClusterRoleBinding "reader" of ClusterRole "reader" to User "jane"`},
		{"group", who("x", "devs"), "list core/pods b/", true, `RBAC: allowed by ClusterRoleBinding "reader" of ClusterRole "reader" to Group "devs"`},
		{"named subresource", who("jane"), "get core/pods/log a/x", true, `RBAC: allowed by ClusterRoleBinding "reader" of ClusterRole "reader" to User "jane"`},
		{"other subresource", who("jane"), "get core/pods/exec a/x", false, ""},
		{"other verb", who("jane"), "delete core/pods a/x", false, ""},
		{"other group of resources", who("jane"), "get metrics.k8s.io/pods a/x", false, ""},
		{"nobody", who("eve"), "get core/pods a/x", false, ""},
		{"group's name is no user's", who("devs"), "get core/pods a/x", false, ""},
		{"account", who("system:serviceaccount:kube-system:hpa"), "update apps/deployments/scale a/x", true,
			`RBAC: allowed by ClusterRoleBinding "scaler" of ClusterRole "scaler" to ServiceAccount "hpa/kube-system"`},
		{"star sub covers the sub alone", who("system:serviceaccount:kube-system:hpa"), "update apps/deployments a/x", false, ""},
		{"star sub, other sub", who("system:serviceaccount:kube-system:hpa"), "update apps/deployments/status a/x", false, ""},
		{"same account elsewhere", who("system:serviceaccount:other:hpa"), "update apps/deployments/scale a/x", false, ""},
		{"star", who("root"), "frob whatever.io/things/sub -/", true, `RBAC: allowed by ClusterRoleBinding "root" of ClusterRole "all" to User "root"`},
		{"star url", who("root"), "post /anything", true, `RBAC: allowed by ClusterRoleBinding "root" of ClusterRole "all" to User "root"`},
		{"name", who("jane"), "get core/configmaps a/that", true, `RBAC: allowed by ClusterRoleBinding "one" of ClusterRole "one" to User "jane"`},
		{"other name", who("jane"), "get core/configmaps a/other", false, ""},
		{"no name", who("jane"), "get core/configmaps a/", false, ""},
		{"url", who("x", "system:authenticated"), "get /healthz", true, `RBAC: allowed by ClusterRoleBinding "urls" of ClusterRole "urls" to Group "system:authenticated"`},
		{"url prefix", who("x", "system:authenticated"), "get /openapi/v3/api", true, `RBAC: allowed by ClusterRoleBinding "urls" of ClusterRole "urls" to Group "system:authenticated"`},
		{"url below an exact one", who("x", "system:authenticated"), "get /healthz/etcd", false, ""},
		{"url, other verb", who("x", "system:authenticated"), "post /healthz", false, ""},
		{"role", who("bob"), "create core/pods a/", true, `RBAC: allowed by RoleBinding "writers/a" of Role "writer" to User "bob"`},
		{"role elsewhere", who("bob"), "create core/pods b/", false, ""},
		{"role, cluster-wide", who("bob"), "create core/pods -/", false, ""},
		{"account of the binding's namespace", who("system:serviceaccount:a:robot"), "delete core/pods a/x", true,
			`RBAC: allowed by RoleBinding "writers/a" of Role "writer" to ServiceAccount "robot/a"`},
		{"cluster role in a namespace", who("bob"), "get extensions/deployments a/x", true, `RBAC: allowed by RoleBinding "readers/a" of ClusterRole "apps" to User "bob"`},
		{"cluster role elsewhere", who("bob"), "get apps/deployments b/x", false, ""},
		{"urls are not a namespace's to give", who("sneaky"), "get /healthz", false, ""},
		{"missing role", who("lost"), "get core/pods b/x", false, `RBAC: clusterrole.rbac.authorization.k8s.io "no-such" not found`},
		{"missing roles", who("lost"), "get core/pods a/x", false,
			`RBAC: [clusterrole.rbac.authorization.k8s.io "no-such" not found, role.rbac.authorization.k8s.io "nothing" not found]`},
		{"a cluster binding cannot name a role", who("wrong"), "create core/pods a/", false, `RBAC: clusterrole.rbac.authorization.k8s.io "writer" not found`},
		{"masters", who("anybody", "system:masters"), "delete core/nodes -/x", true, ""},
		{"masters is no user", who("system:masters"), "delete core/nodes -/x", false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, reason, err := a.Authorize(context.Background(), ask(tt.who, tt.ask))
			if err != nil || (d == authorizer.DecisionAllow) != tt.allow || reason != tt.reason || d == authorizer.DecisionDeny {
				t.Errorf("%v %q %v, want %v %q", d, reason, err, tt.allow, tt.reason)
			}
		})
	}
	if d, _, _ := a.Authorize(context.Background(), authorizer.AttributesRecord{Verb: "get"}); d == authorizer.DecisionAllow {
		t.Error("a request of nobody was allowed")
	}
}

// Every change of a role or binding shows in the next decision.
func TestChanges(t *testing.T) {
	w := newWorld(t)
	a := New(w.View)
	jane := who("jane", "devs")
	allowed := func(text string) bool {
		d, _, _ := a.Authorize(context.Background(), ask(jane, text))
		return d == authorizer.DecisionAllow
	}
	expect := func(when string, get, create bool) {
		t.Helper()
		if allowed("get core/pods a/x") != get || allowed("create core/pods a/") != create {
			t.Errorf("%s: get %v, create %v", when, allowed("get core/pods a/x"), allowed("create core/pods a/"))
		}
	}
	expect("nothing", false, false)
	cb := clusterBinding("b", "reader", toUser("jane"))
	w.set(t, cb)
	expect("binding without role", false, false)
	w.set(t, clusterRole("reader", rule("get", "core", "pods", "")))
	expect("role", true, false)
	w.set(t, binding("a", "b", ref("Role", "writer"), toGroup("devs")))
	w.set(t, nsRole("a", "writer", rule("create", "core", "pods", "")))
	expect("role of the namespace", true, true)
	w.set(t, nsRole("a", "writer", rule("create", "core", "secrets", "")))
	expect("role changed", true, false)
	w.set(t, clusterRole("reader", rule("create", "core", "pods", "")))
	expect("cluster role changed", false, true)
	w.set(t, binding("a", "c", ref("ClusterRole", "apps"), toUser("jane")))
	w.set(t, clusterRole("apps", rule("get", "core", "pods", "")))
	expect("cluster role in a namespace", true, true)
	w.remove(t, cb)
	expect("binding removed", true, false)
	w.remove(t, clusterRole("apps"))
	expect("role removed", false, false)
}

// Decisions while roles change are right before and after, and the last change
// wins for good.
func TestConcurrentChanges(t *testing.T) {
	w := newWorld(t, clusterBinding("b", "r", toUser("jane")), binding("a", "b", ref("Role", "r"), toUser("jane")))
	a := New(w.View)
	for round := range 200 {
		verb := "get"
		if round%2 == 1 {
			verb = "list"
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				_, _, _ = a.Authorize(context.Background(), ask(who("jane"), "get core/pods a/x"))
			})
		}
		w.set(t, clusterRole("r", rule(verb, "core", "pods", "")))
		w.set(t, nsRole("a", "r", rule(verb, "core", "secrets", "")))
		wg.Wait()
		for _, res := range []string{"pods", "secrets"} {
			d, _, _ := a.Authorize(context.Background(), ask(who("jane"), "get core/"+res+" a/x"))
			if (d == authorizer.DecisionAllow) != (verb == "get") {
				t.Fatalf("round %d: %s decided on old rules", round, res)
			}
		}
	}
}

func TestSpacesAreBounded(t *testing.T) {
	a := New(newWorld(t).View)
	for i := range maxSpaces + 10 {
		_, _, _ = a.Authorize(context.Background(), ask(who("eve"), fmt.Sprintf("get core/pods ns%d/x", i)))
	}
	if len(a.rbac.spaces) > maxSpaces {
		t.Errorf("%d namespaces are kept", len(a.rbac.spaces))
	}
}

func TestRules(t *testing.T) {
	w := newWorld(t,
		clusterRole("r", rule("get", "core", "pods", "")), clusterBinding("r", "r", toUser("jane")),
		clusterRole("u", rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}}), clusterBinding("u", "u", toUser("jane")),
		nsRole("a", "w", rule("create", "core", "pods", "")), binding("a", "w", ref("Role", "w"), toUser("jane")),
		clusterBinding("lost", "lost", toUser("jane")))
	a := New(w.View)
	for _, tt := range []struct {
		ns              string
		resources, urls int
	}{{"a", 2, 1}, {"b", 1, 1}, {"", 1, 1}} {
		res, urls, incomplete, err := a.RulesFor(context.Background(), who("jane"), tt.ns)
		if len(res) != tt.resources || len(urls) != tt.urls || incomplete || err != nil {
			t.Errorf("in %q: %d %d %v %v", tt.ns, len(res), len(urls), incomplete, err)
		}
	}
	if rules := a.Rules(who("x", masters), "a"); len(rules) != 2 || rules[0].Verbs[0] != "*" {
		t.Errorf("masters: %v", rules)
	}
	if _, _, incomplete, err := a.RulesFor(context.Background(), who("system:node:n", "system:nodes"), "a"); !incomplete || err == nil {
		t.Error("a node's rules are said to be complete")
	}
	if rules, ok := a.RoleRules(ref("Role", "w"), "a"); !ok || len(rules) != 1 {
		t.Errorf("role: %v %v", rules, ok)
	}
	for _, r := range []rbacv1.RoleRef{ref("Role", "nope"), ref("ClusterRole", "nope"), ref("Thing", "r"), {APIGroup: "other", Kind: "ClusterRole", Name: "r"}} {
		if _, ok := a.RoleRules(r, "a"); ok {
			t.Errorf("%v was found", r)
		}
	}
}

// fill makes a cluster of the size that a benchmark stands for.
func fill(t testing.TB) *Authorizer {
	var objects []kinds.Object
	for i := range 300 {
		var rules []rbacv1.PolicyRule
		for j := range 10 {
			rules = append(rules, rule("get,list,watch", "core", fmt.Sprintf("things%d,others%d", j, j), ""))
		}
		objects = append(objects, clusterRole(fmt.Sprintf("r%d", i), rules...))
		objects = append(objects, clusterBinding(fmt.Sprintf("b%d", i), fmt.Sprintf("r%d", i), toGroup(fmt.Sprintf("g%d", i%20)), toUser(fmt.Sprintf("u%d", i))))
	}
	for i := range 300 {
		objects = append(objects, binding(fmt.Sprintf("ns%d", i%30), fmt.Sprintf("b%d", i), ref("ClusterRole", fmt.Sprintf("r%d", i)), toUser("jane")))
	}
	return New(newWorld(t, objects...).View)
}

func BenchmarkAllow(b *testing.B) {
	a := fill(b)
	at := authorizer.Attributes(ask(who("jane", "g1", "system:authenticated"), "get core/things9 ns3/x"))
	if d, _, _ := a.Authorize(context.Background(), at); d != authorizer.DecisionAllow {
		b.Fatal("not allowed")
	}
	b.ReportAllocs()
	for b.Loop() {
		_, _, _ = a.Authorize(context.Background(), at)
	}
}

func BenchmarkRefuse(b *testing.B) {
	a := fill(b)
	at := authorizer.Attributes(ask(who("jane", "g1", "g2", "system:authenticated"), "delete core/things9 ns3/x"))
	b.ReportAllocs()
	for b.Loop() {
		_, _, _ = a.Authorize(context.Background(), at)
	}
}

func TestDecisionsDoNotAllocate(t *testing.T) {
	a := fill(t)
	for _, verb := range []string{"get", "delete"} {
		at := authorizer.Attributes(ask(who("jane", "g1"), verb+" core/things9 ns3/x"))
		_, _, _ = a.Authorize(context.Background(), at)
		if n := testing.AllocsPerRun(100, func() { _, _, _ = a.Authorize(context.Background(), at) }); n > 2 {
			t.Errorf("%s: %v allocations", verb, n)
		}
	}
}
