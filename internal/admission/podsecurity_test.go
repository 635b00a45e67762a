package admission

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/internal/kinds"
)

func levelled(name string, labels ...string) *corev1.Namespace {
	ns := namespace(name)
	ns.Labels = map[string]string{}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		ns.Labels["pod-security.kubernetes.io/"+k] = v
	}
	return ns
}

func privileged(ns, name string) *corev1.Pod {
	p := simplePod(ns, name)
	p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
	return p
}

func deploymentOf(p *corev1.Pod) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: meta(p.Namespace, "d"), Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: p.Spec}}}
}

// told is what a request said besides its answer.
type told struct{ warnings, notes []string }

func listen(r *Request) *told {
	t := &told{}
	r.Warn = func(text string) { t.warnings = append(t.warnings, text) }
	r.Annotate = func(k, v string) {
		t.notes = append(t.notes, strings.TrimPrefix(k, "pod-security.kubernetes.io/")+": "+v)
	}
	return t
}

const isPrivileged = `violate PodSecurity "baseline:latest": privileged (container "c" must not set securityContext.privileged=true)`

func TestPodSecurity(t *testing.T) {
	space := []kinds.Object{levelled("free"), levelled("base", "enforce=baseline"), levelled("hard", "enforce=restricted"), levelled("told", "warn=baseline", "audit=baseline"),
		levelled("old", "enforce=restricted", "enforce-version=v1.0"), levelled("odd", "enforce=none")}
	for _, o := range slices.Clone(space) {
		space = append(space, account(o.GetName(), "default"))
	}
	w := newWorld(t, space...)
	for _, tt := range []struct {
		name           string
		r              *Request
		code           int32
		part           string
		warning, audit string
	}{
		{"no labels", create(kinds.Pod, privileged("free", "p")), 0, "", "", "enforce-policy: privileged:latest"},
		{"baseline: fine", create(kinds.Pod, simplePod("base", "p")), 0, "", "", "enforce-policy: baseline:latest"},
		{"baseline: refused", create(kinds.Pod, privileged("base", "p")), 403, `pods "p" is forbidden: violates PodSecurity "baseline:latest": privileged (container "c" must not set securityContext.privileged=true)`, "", "enforce-policy: baseline:latest"},
		{"restricted: refused", create(kinds.Pod, simplePod("hard", "p")), 403, `violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities`, "", ""},
		{"restricted of an old version", create(kinds.Pod, simplePod("old", "p")), 403, `violates PodSecurity "restricted:v1.0": runAsNonRoot != true`, "", ""},
		{"bad labels are the strictest", create(kinds.Pod, simplePod("odd", "p")), 403, `violates PodSecurity "restricted:latest"`, "", "error: Failed to parse policy"},
		{"warned and noted", create(kinds.Pod, privileged("told", "p")), 0, "", "would " + isPrivileged, "audit-violations: would " + isPrivileged},
		{"a workload is only warned of", create(kinds.Deployment, deploymentOf(privileged("base", "p"))), 0, "", "would " + isPrivileged, ""},
		{"a workload that is fine", create(kinds.Deployment, deploymentOf(simplePod("base", "p"))), 0, "", "", ""},
		{"an update that changes no image", &Request{Operation: Update, Ref: kinds.Ref{Kind: kinds.Pod}, Object: privileged("base", "p"), Old: privileged("base", "p")}, 0, "", "", ""},
		{"status", &Request{Operation: Update, Ref: kinds.Ref{Kind: kinds.Pod, Namespace: "base", Name: "p", Sub: "status"}, Object: privileged("base", "p"), Old: simplePod("base", "p")}, 0, "", "", ""},
		{"ephemeral containers", &Request{Operation: Update, Ref: kinds.Ref{Kind: kinds.Pod, Namespace: "base", Name: "p", Sub: "ephemeralcontainers"}, Old: simplePod("base", "p"), Object: func() *corev1.Pod {
			p := simplePod("base", "p")
			p.Spec.ServiceAccountName = "default"
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: "x", SecurityContext: &corev1.SecurityContext{Privileged: ptr.To(true)}}}}
			return p
		}()}, 403, `container "e" must not set securityContext.privileged=true`, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			heard := listen(tt.r)
			want(t, w.admit(tt.r), tt.code, tt.part)
			if got := strings.Join(heard.warnings, "|"); got != tt.warning {
				t.Errorf("warnings %q, want %q", got, tt.warning)
			}
			if got := strings.Join(heard.notes, "|"); !strings.Contains(got, tt.audit) {
				t.Errorf("notes %q, want %q", got, tt.audit)
			}
		})
	}
}

func TestPodSecurityExemptions(t *testing.T) {
	w := newWorldWith(t, Config{AccountPatience: -1, PodSecurity: PodSecurity{Enforce: "restricted", EnforceVersion: "v1.30", Namespaces: []string{"ours"}, Usernames: []string{"root"}, RuntimeClasses: []string{"vm"}}},
		namespace("a"), namespace("ours"), account("a", "default"), account("ours", "default"),
		&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "vm"}, Handler: "vm"})
	want(t, w.admit(create(kinds.Pod, simplePod("a", "p"))), 403, `violates PodSecurity "restricted:v1.30"`)
	for _, tt := range []struct{ by, ns string }{{"namespace", "ours"}, {"user", "a"}, {"runtimeClass", "a"}} {
		r := create(kinds.Pod, privileged(tt.ns, "p"))
		switch tt.by {
		case "user":
			r.User = &user.DefaultInfo{Name: "root"}
		case "runtimeClass":
			r.Object.(*corev1.Pod).Spec.RuntimeClassName = ptr.To("vm")
		}
		heard := listen(r)
		want(t, w.admit(r), 0, "")
		if !slices.Contains(heard.notes, "exempt: "+tt.by) {
			t.Errorf("%s: %q", tt.by, heard.notes)
		}
	}
	r := create(kinds.Namespace, levelled("ours", "enforce=baseline"))
	heard := listen(r)
	want(t, w.admit(r), 0, "")
	if got := `namespace "ours" is exempt from Pod Security, and the policy (enforce=baseline:v1.30) will be ignored`; !slices.Contains(heard.warnings, got) {
		t.Errorf("warnings %q", heard.warnings)
	}
}

func TestPodSecurityOfNamespaces(t *testing.T) {
	w := newWorld(t, namespace("a"))
	for i := range 3 {
		p := privileged("a", fmt.Sprint("owned-", i))
		p.OwnerReferences = []metav1.OwnerReference{{UID: types.UID("rs"), Controller: ptr.To(true)}}
		w.set(p)
	}
	w.set(privileged("a", "alone"))
	w.set(simplePod("a", "fine"))
	update := func(old, now *corev1.Namespace) (*Request, *told) {
		r := &Request{Operation: Update, Ref: kinds.Ref{Kind: kinds.Namespace, Name: "a"}, Object: now, Old: old}
		return r, listen(r)
	}
	r, heard := update(levelled("a"), levelled("a", "enforce=baseline"))
	want(t, w.admit(r), 0, "")
	if got, want := strings.Join(heard.warnings, "|"), `existing pods in namespace "a" violate the new PodSecurity enforce level "baseline:latest"|alone (and 3 other pods): privileged`; got != want {
		t.Errorf("warnings %q, want %q", got, want)
	}
	r, heard = update(levelled("a", "enforce=restricted"), levelled("a", "enforce=baseline"))
	want(t, w.admit(r), 0, "")
	if len(heard.warnings) > 0 {
		t.Errorf("warnings of a level that is laxer: %q", heard.warnings)
	}
	want(t, w.admit(create(kinds.Namespace, levelled("b", "enforce=strict"))), 422, `metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted`)
	r, _ = update(levelled("a"), levelled("a", "warn-version=2"))
	want(t, w.admit(r), 422, `must be "latest" or "v1.x"`)
	r, _ = update(levelled("a", "warn-version=2"), levelled("a", "warn-version=2"))
	want(t, w.admit(r), 0, "")
}

func TestPodSecurityLooksAtSoManyPodsOnly(t *testing.T) {
	w := newWorld(t, namespace("a"))
	for i := range maxPodsToCheck + 5 {
		w.set(simplePod("a", fmt.Sprint("p", i)))
	}
	r := &Request{Operation: Update, Ref: kinds.Ref{Kind: kinds.Namespace, Name: "a"}, Object: levelled("a", "enforce=baseline"), Old: levelled("a")}
	heard := listen(r)
	want(t, w.admit(r), 0, "")
	if len(heard.warnings) != 1 || !strings.HasPrefix(heard.warnings[0], "new PodSecurity enforce level only checked against the first ") || !strings.HasSuffix(heard.warnings[0], "of 3005 existing pods") {
		t.Errorf("warnings %q", heard.warnings)
	}
}

const configured = `apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline, enforce-version: v1.30, warn: restricted}
    exemptions: {usernames: [root], namespaces: [kube-system]}
`

func TestReadConfiguration(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c, err := ReadConfiguration(file("good", configured))
	if err != nil {
		t.Fatal(err)
	}
	if p := c.PodSecurity; p.Enforce != "baseline" || p.EnforceVersion != "v1.30" || p.Warn != "restricted" || p.Namespaces[0] != "kube-system" || p.Usernames[0] != "root" {
		t.Errorf("%+v", p)
	}
	_, inner, _ := strings.Cut(configured, "configuration:\n")
	file("inner", strings.ReplaceAll(inner, "    ", ""))
	head, _, _ := strings.Cut(configured, "  configuration:")
	if c, err := ReadConfiguration(file("path", head+"  path: inner\n")); err != nil || c.PodSecurity.Enforce != "baseline" {
		t.Errorf("by path: %v", err)
	}
	for name, tt := range map[string]struct{ old, new, part string }{
		"another plugin":  {"name: PodSecurity", "name: EventRateLimit", `plugins[0] "EventRateLimit" cannot be configured: only PodSecurity can`},
		"another kind":    {"kind: AdmissionConfiguration", "kind: Pod", "not AdmissionConfiguration"},
		"another version": {"apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v9", "not AdmissionConfiguration of apiserver.config.k8s.io/v1"},
		"a level":         {"enforce: baseline", "enforce: strict", `defaults.enforce: Invalid value: "strict"`},
		"a version":       {"v1.30", "1.30", "defaults.enforce-version"},
		"a field":         {"warn: restricted", "wran: restricted", "wran"},
		"twice":           {"[kube-system]", "[a, a]", "exemptions.namespaces[1]: Duplicate value"},
		"a namespace":     {"[kube-system]", "[A]", "exemptions.namespaces[0]: Invalid value"},
		"no name":         {"[root]", `[""]`, "username must not be empty"},
		"both":            {"- name: PodSecurity", "- name: PodSecurity\n  path: inner", "both a path and a configuration"},
		"there twice":     {"plugins:", "plugins:\n- name: PodSecurity", "is there twice"},
		"no file":         {"  configuration:\n" + inner, "  path: nowhere\n", "nowhere"},
	} {
		text := strings.Replace(configured, tt.old, tt.new, 1)
		if _, err := ReadConfiguration(file("bad", text)); err == nil || !strings.Contains(err.Error(), tt.part) {
			t.Errorf("%s: %v, want %q", name, err, tt.part)
		}
	}
}
