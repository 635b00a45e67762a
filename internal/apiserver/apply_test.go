package apiserver_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/internal/apiserver"
)

// managers of an object: who, how, through what.
func (a answer) managers() []string {
	var out []string
	entries, _ := a.at("metadata.managedFields").([]any)
	for _, e := range entries {
		m := e.(map[string]any)
		line := fmt.Sprint(m["manager"], " ", m["operation"])
		if sub, ok := m["subresource"]; ok {
			line += fmt.Sprint(" ", sub)
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

// owned is what a manager owns, as JSON but with names in quotes as they are.
func (a answer) owned(manager, sub string) string {
	entries, _ := a.at("metadata.managedFields").([]any)
	for _, e := range entries {
		m := e.(map[string]any)
		if s, _ := m["subresource"].(string); m["manager"] == manager && s == sub {
			data, _ := json.Marshal(m["fieldsV1"])
			return strings.ReplaceAll(string(data), `\"`, `"`)
		}
	}
	return ""
}

func (w *world) apply(t *testing.T, code int, path, body string) answer {
	t.Helper()
	a := w.do(t, "PATCH", path, body, applyType...)
	if a.code != code {
		t.Fatalf("%d, want %d: %s", a.code, code, a.raw)
	}
	return a
}

func wantManagers(t *testing.T, a answer, want ...string) {
	t.Helper()
	if got := a.managers(); !slices.Equal(got, want) {
		t.Errorf("managers %q, want %q", got, want)
	}
}

// Every way to write says who it was.
func TestManagersOfEveryWrite(t *testing.T) {
	w := newWorld(t)
	const deployments = "/apis/apps/v1/namespaces/default/deployments"
	body := `{"metadata":{"name":"d","labels":{"a":"1"}},"spec":{"replicas":1,"selector":{"matchLabels":{"a":"1"}},"template":{"metadata":{"labels":{"a":"1"}},"spec":{"containers":[{"name":"c","image":"i"}]}}},"status":{"replicas":7}}`
	a := w.must(t, 201, "POST", deployments, body, "User-Agent", "curl/8.1 (x)")
	wantManagers(t, a, "curl Update")
	if got := a.owned("curl", ""); strings.Contains(got, "status") || !strings.Contains(got, `k:{"name":"c"}`) || strings.Contains(got, `"f:uid"`) {
		t.Errorf("owned: %s", got)
	}
	w.must(t, 200, "PATCH", deployments+"/d?fieldManager=m", `{"metadata":{"labels":{"b":"1"}}}`, "Content-Type", mergeType)
	w.must(t, 200, "PATCH", deployments+"/d?fieldManager=j", `[{"op":"add","path":"/metadata/annotations","value":{"j":"1"}}]`, "Content-Type", jsonPatchType)
	w.must(t, 200, "PATCH", deployments+"/d?fieldManager=s", `{"spec":{"template":{"spec":{"containers":[{"name":"c","tty":true}]}}}}`, "Content-Type", strategicType)
	w.must(t, 200, "PATCH", deployments+"/d/status?fieldManager=st", `{"metadata":{"labels":{"no":"1"}},"status":{"replicas":2}}`, "Content-Type", mergeType)
	a = w.must(t, 200, "PATCH", deployments+"/d/scale?fieldManager=sc", `{"spec":{"replicas":3}}`, "Content-Type", mergeType)
	a = w.must(t, 200, "GET", deployments+"/d", "")
	wantManagers(t, a, "curl Update", "j Update", "m Update", "s Update", "sc Update scale", "st Update status")
	for manager, want := range map[string]string{
		"m": `{"f:metadata":{"f:labels":{"f:b":{}}}}`, "j": `{"f:metadata":{"f:annotations":{".":{},"f:j":{}}}}`,
		"sc": `{"f:spec":{"f:replicas":{}}}`, "st": `{"f:status":{"f:replicas":{}}}`,
	} {
		sub := map[string]string{"sc": "scale", "st": "status"}[manager]
		if got := a.owned(manager, sub); got != want {
			t.Errorf("%s owns %s, want %s", manager, got, want)
		}
	}
	if strings.Contains(a.owned("curl", ""), "replicas") {
		t.Errorf("scale has not taken the replicas: %s", a.owned("curl", ""))
	}
	// A component is named as upstream's program is.
	c := w.server.Client(&user.DefaultInfo{Name: "system:serviceaccount:kube-system:replicaset-controller", Groups: []string{"system:masters"}})
	if _, err := c.Create(t.Context(), refOf("pods", ""), testPod("p")); err != nil {
		t.Fatal(err)
	}
	wantManagers(t, w.must(t, 200, "GET", podURL+"/p", ""), "kube-controller-manager Update")
}

func TestManagedFieldsOfClients(t *testing.T) {
	w := newWorld(t)
	a := w.must(t, 201, "POST", cmURL+"?fieldManager=m", `{"metadata":{"name":"c"},"data":{"a":"1"}}`)
	version := a.at("metadata.resourceVersion")
	// What a client read and sends back changes nothing.
	a = w.must(t, 200, "PUT", cmURL+"/c?fieldManager=other", a.raw)
	wantManagers(t, a, "m Update")
	if a.at("metadata.resourceVersion") != version {
		t.Error("an update that changes nothing has been written")
	}
	// Nor does one that says nothing of them.
	a = w.must(t, 200, "PUT", cmURL+"/c?fieldManager=other", `{"metadata":{"name":"c"},"data":{"a":"1"}}`)
	if a.at("metadata.resourceVersion") != version {
		t.Error("an update that changes nothing has been written")
	}
	for _, reset := range []string{`[]`, `[{}]`} {
		w.must(t, 201, "POST", cmURL+"?fieldManager=m", `{"metadata":{"name":"r"},"data":{"a":"1"}}`)
		a = w.must(t, 200, "PATCH", cmURL+"/r", `{"metadata":{"managedFields":`+reset+`}}`, "Content-Type", mergeType)
		wantManagers(t, a)
		a = w.must(t, 200, "PATCH", cmURL+"/r?fieldManager=x", `{"data":{"b":"2"}}`, "Content-Type", mergeType)
		wantManagers(t, a) // nobody is tracked any more …
		a = w.apply(t, 200, cmURL+"/r?fieldManager=x", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"r"},"data":{"c":"3"}}`)
		wantManagers(t, a, "before-first-apply Update", "x Apply") // … until somebody applies
		w.must(t, 200, "DELETE", cmURL+"/r", "")
	}
	// Fields that cannot be read do not replace those that stand.
	a = w.must(t, 200, "PATCH", cmURL+"/c", `{"metadata":{"managedFields":[{"manager":"x","operation":"Nope","apiVersion":"v1"}]}}`, "Content-Type", mergeType)
	wantManagers(t, a, "m Update")
	// One can be given up in favour of another name.
	a = w.must(t, 200, "PATCH", cmURL+"/c", `[{"op":"replace","path":"/metadata/managedFields/0/manager","value":"n"}]`, "Content-Type", jsonPatchType)
	wantManagers(t, a, "n Update")
}

func TestManyManagers(t *testing.T) {
	w := newWorld(t)
	w.must(t, 201, "POST", cmURL+"?fieldManager=first", `{"metadata":{"name":"c"},"data":{"first":"v"}}`)
	var a answer
	for i := range 15 {
		a = w.must(t, 200, "PATCH", fmt.Sprintf("%s/c?fieldManager=m%02d", cmURL, i), fmt.Sprintf(`{"data":{"k%d":"v"}}`, i), "Content-Type", mergeType)
	}
	if got := a.managers(); len(got) != 10 || !slices.Contains(got, "ancient-changes Update") {
		t.Errorf("managers %q", got)
	}
	if !strings.Contains(a.owned("ancient-changes", ""), "f:k0") {
		t.Errorf("the oldest changes are lost: %s", a.raw)
	}
}

func TestApply(t *testing.T) {
	w := newWorld(t)
	config := func(data string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\n  labels: {app: x}\ndata: " + data + "\n"
	}
	url := cmURL + "/c?fieldManager="
	a := w.apply(t, 201, url+"one&dryRun=All", config(`{a: "1"}`))
	w.must(t, 404, "GET", cmURL+"/c", "")
	a = w.apply(t, 201, url+"one", config(`{a: "1", b: "1"}`))
	wantManagers(t, a, "one Apply")
	version, stamp := a.at("metadata.resourceVersion"), a.raw
	if a = w.apply(t, 200, url+"one", config(`{a: "1", b: "1"}`)); a.at("metadata.resourceVersion") != version || a.raw != stamp {
		t.Errorf("applying again has written: %s\n%s", stamp, a.raw)
	}
	// What another one says too belongs to both; what it says otherwise is a conflict.
	a = w.apply(t, 200, url+"two", config(`{a: "1"}`))
	wantManagers(t, a, "one Apply", "two Apply")
	a = w.apply(t, 409, url+"two", config(`{a: "2"}`))
	if a.at("reason") != "Conflict" || !strings.Contains(a.raw, `Apply failed with 1 conflict: conflict with \"one\": .data.a`) ||
		!strings.Contains(a.raw, `{"reason":"FieldManagerConflict","message":"conflict with \"one\"","field":".data.a"}`) {
		t.Errorf("conflict: %s", a.raw)
	}
	a = w.apply(t, 200, url+"two&force=true", config(`{a: "2"}`))
	if a.at("data.a") != "2" || strings.Contains(a.owned("one", ""), `"f:a"`) {
		t.Errorf("force: %s", a.raw)
	}
	// What nobody applies any more goes.
	a = w.apply(t, 200, url+"one", config(`{}`))
	if a.at("data.b") != nil || a.at("data.a") != "2" {
		t.Errorf("removal: %s", a.raw)
	}
	// An update takes without asking, and can be applied over by force only.
	w.must(t, 200, "PATCH", url+"editor", `{"data":{"a":"3"}}`, "Content-Type", mergeType)
	a = w.apply(t, 409, url+"two", config(`{a: "2"}`))
	if !strings.Contains(a.raw, `conflict with \"editor\" using v1`) {
		t.Errorf("conflict with an update: %s", a.raw)
	}
	a = w.apply(t, 200, url+"two", config(`{a: "3"}`))
	wantManagers(t, a, "editor Update", "one Apply", "two Apply")
	a = w.apply(t, 409, url+"two", strings.Replace(config(`{}`), "  name: c", "  name: c\n  resourceVersion: \"1\"", 1))
	if !strings.Contains(a.raw, "the object has been modified") {
		t.Errorf("old version: %s", a.raw)
	}
	if a = w.apply(t, 200, url+"two", config("{a: \"3\"}\nkind: ConfigMap")); !strings.Contains(a.header.Get("Warning"), "already set in map") {
		t.Errorf("no warning: %v", a.header)
	}
}

func TestApplyOfListsAndSubresources(t *testing.T) {
	w := newWorld(t)
	const url = "/apis/apps/v1/namespaces/default/deployments/d"
	config := func(replicas, containers string) string {
		return `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{` + replicas + `"selector":{"matchLabels":{"a":"1"}},"template":{"metadata":{"labels":{"a":"1"}},"spec":{"containers":[` + containers + `]}}},"status":{"replicas":9}}`
	}
	a := w.apply(t, 201, url+"?fieldManager=one", config(`"replicas":1,`, `{"name":"c","image":"i","ports":[{"containerPort":80}]}`))
	if a.at("spec.strategy.type") != "RollingUpdate" || a.at("status.replicas") != nil || strings.Contains(a.owned("one", ""), "status") {
		t.Errorf("created: %s", a.raw)
	}
	if !strings.Contains(a.owned("one", ""), `k:{"containerPort":80,"protocol":"TCP"}`) {
		t.Errorf("the key's default is not in %s", a.owned("one", ""))
	}
	a = w.apply(t, 200, url+"?fieldManager=two", `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"template":{"spec":{"containers":[{"name":"side","image":"s"},{"name":"c","env":[{"name":"E","value":"1"}]}]}}}}`)
	if list, _ := a.at("spec.template.spec.containers").([]any); len(list) != 2 {
		t.Errorf("merged by key: %s", a.raw)
	}
	a = w.apply(t, 200, url+"?fieldManager=two", `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"template":{"spec":{"containers":[{"name":"c","env":[{"name":"E","value":"1"}]}]}}}}`)
	if list, _ := a.at("spec.template.spec.containers").([]any); len(list) != 1 || !strings.Contains(a.raw, `"value":"1"`) {
		t.Errorf("removed by key: %s", a.raw)
	}
	if a.at("metadata.generation") != float64(3) {
		t.Errorf("generation %v", a.at("metadata.generation"))
	}
	a = w.apply(t, 200, url+"/status?fieldManager=st", `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","labels":{"no":"1"}},"spec":{"replicas":5},"status":{"replicas":2,"conditions":[{"type":"Available","status":"True"}]}}`)
	if a.at("status.replicas") != float64(2) || a.at("spec.replicas") != float64(1) || strings.Contains(a.owned("st", "status"), "spec") || a.at("metadata.generation") != float64(3) {
		t.Errorf("status: %s", a.raw)
	}
	scale := `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"d"},"spec":{"replicas":4}}`
	a = w.apply(t, 409, url+"/scale?fieldManager=sc", scale)
	if !strings.Contains(a.raw, `conflict with \"one\": .spec.replicas`) {
		t.Errorf("scale: %s", a.raw)
	}
	a = w.apply(t, 200, url+"/scale?fieldManager=sc&force=true", scale)
	if a.at("kind") != "Scale" || a.at("spec.replicas") != float64(4) || a.at("metadata.managedFields") != nil {
		t.Errorf("scale: %s", a.raw)
	}
	a = w.apply(t, 200, url+"?fieldManager=one", config("", `{"name":"c","image":"i","ports":[{"containerPort":80}]}`))
	wantManagers(t, a, "one Apply", "sc Apply scale", "st Apply status", "two Apply")
	if a.at("spec.replicas") != float64(4) {
		t.Errorf("replicas, given up by one and owned by sc: %s", a.raw)
	}
}

// Whoever applies what is not there needs the permission to create.
func TestApplyNeedsCreate(t *testing.T) {
	w := newWorld(t, func(c *apiserver.Config) {
		c.Authn = named{}
		c.Authz = rights(func(a authorizer.Attributes) bool { return a.GetVerb() == "patch" || a.GetVerb() == "update" })
	})
	a := w.do(t, "PUT", "/apis/coordination.k8s.io/v1/namespaces/default/leases/l", `{"metadata":{"name":"l"}}`, "X-Test-User", "u")
	if a.code != 403 || !strings.Contains(a.raw, `cannot create resource \"leases\"`) {
		t.Errorf("%d %s", a.code, a.raw)
	}
	a = w.do(t, "PATCH", cmURL+"/c?fieldManager=x", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}}`, "Content-Type", "application/apply-patch+yaml", "X-Test-User", "u")
	if a.code != 403 || !strings.Contains(a.raw, `cannot create resource \"configmaps\"`) {
		t.Errorf("%d %s", a.code, a.raw)
	}
}
