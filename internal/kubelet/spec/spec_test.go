package spec

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestExpand(t *testing.T) {
	known := map[string]string{"A": "x", "B": ""}
	for in, want := range map[string]string{
		"$(A)": "x", "$$(A)": "$(A)", "$(B)": "", "$(C)": "$(C)", "$A": "$A", "$": "$", "$(A": "$(A", "$$$(A)": "$x", "a$(A)b": "axb",
	} {
		if got := Expand(in, known); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestEnv(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", Labels: map[string]string{"l": "v"}}}
	yes := true
	c := &corev1.Container{Name: "c", EnvFrom: []corev1.EnvFromSource{
		{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}},
		{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "none"}, Optional: &yes}},
	}, Env: []corev1.EnvVar{
		{Name: "NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
		{Name: "L", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['l']"}}},
		{Name: "SUM", Value: "$(NAME)-$(P_k)-$(WEB_SERVICE_HOST)"},
		{Name: "P_k", Value: "own"},
	}}
	l := Lookup{
		ConfigMap: func(string) (*corev1.ConfigMap, error) {
			return &corev1.ConfigMap{Data: map[string]string{"k": "from", "a=b": "bad"}}, nil
		},
		Secret: func(string) (*corev1.Secret, error) { return nil, nil },
		Services: []*corev1.Service{{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "n"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.7",
			Ports: []corev1.ServicePort{{Port: 80, Protocol: "TCP"}}}}},
	}
	env, err := Env(pod, c, l)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, kv := range env {
		got[kv[0]] = kv[1]
	}
	for k, want := range map[string]string{"NAME": "p", "L": "v", "SUM": "p-from-10.96.0.7", "P_k": "own", "WEB_PORT": "tcp://10.96.0.7:80"} {
		if got[k] != want {
			t.Errorf("%s=%q, want %q", k, got[k], want)
		}
	}
	if len(got) != len(env) || got["P_a=b"] != "" {
		t.Errorf("names twice or bad ones: %v", env)
	}
	c.EnvFrom[1].SecretRef.Optional = nil
	if _, err := Env(pod, c, l); err == nil || !strings.Contains(err.Error(), `secret "none" not found`) {
		t.Errorf("missing secret: %v", err)
	}
}

func TestDNS(t *testing.T) {
	host := Resolv{Servers: []string{"1.1.1.1"}, Search: []string{"example.org"}, Options: []string{"edns0"}}
	two := "2"
	for _, tt := range []struct {
		name                     string
		pod                      corev1.PodSpec
		servers, search, options string
	}{
		{"cluster", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst}, "10.96.0.10", "n.svc.d svc.d d example.org", "ndots:5"},
		{"host network", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, HostNetwork: true}, "1.1.1.1", "example.org", "edns0"},
		{"cluster with host network", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirstWithHostNet, HostNetwork: true}, "10.96.0.10", "n.svc.d svc.d d example.org", "ndots:5"},
		{"default", corev1.PodSpec{DNSPolicy: corev1.DNSDefault}, "1.1.1.1", "example.org", "edns0"},
		{"none", corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{Nameservers: []string{"9.9.9.9"}}}, "9.9.9.9", "", ""},
		{"options", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, DNSConfig: &corev1.PodDNSConfig{Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}}}},
			"10.96.0.10", "n.svc.d svc.d d example.org", "ndots:2"},
	} {
		d := DNS(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n"}, Spec: tt.pod}, "10.96.0.10", "d", host)
		if got := []string{strings.Join(d.Servers, " "), strings.Join(d.Searches, " "), strings.Join(d.Options, " ")}; !slices.Equal(got, []string{tt.servers, tt.search, tt.options}) {
			t.Errorf("%s: %q", tt.name, got)
		}
	}
}

func TestNonRoot(t *testing.T) {
	yes, zero, one := true, int64(0), int64(1)
	for _, tt := range []struct {
		name  string
		sc    corev1.SecurityContext
		image *runtimeapi.Image
		ok    bool
	}{
		{"not asked", corev1.SecurityContext{}, &runtimeapi.Image{}, true},
		{"root image", corev1.SecurityContext{RunAsNonRoot: &yes}, &runtimeapi.Image{Uid: &runtimeapi.Int64Value{Value: 0}}, false},
		{"silent image", corev1.SecurityContext{RunAsNonRoot: &yes}, &runtimeapi.Image{}, false},
		{"named user", corev1.SecurityContext{RunAsNonRoot: &yes}, &runtimeapi.Image{Username: "app"}, false},
		{"image's user", corev1.SecurityContext{RunAsNonRoot: &yes}, &runtimeapi.Image{Uid: &runtimeapi.Int64Value{Value: 5}}, true},
		{"own user", corev1.SecurityContext{RunAsNonRoot: &yes, RunAsUser: &one}, &runtimeapi.Image{}, true},
		{"own root", corev1.SecurityContext{RunAsNonRoot: &yes, RunAsUser: &zero}, &runtimeapi.Image{Uid: &runtimeapi.Int64Value{Value: 5}}, false},
	} {
		c := &corev1.Container{Name: "c", SecurityContext: &tt.sc}
		if err := VerifyNonRoot(&corev1.Pod{}, c, tt.image); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestAppArmor(t *testing.T) {
	name := "mine"
	unconfined := &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	byDefault := &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	local := &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
	for _, tc := range []struct {
		pod, own *corev1.AppArmorProfile
		want     string
	}{
		{nil, nil, ""}, {unconfined, nil, "Unconfined"}, {unconfined, byDefault, "RuntimeDefault"},
		{local, nil, "Localhost mine"}, {byDefault, local, "Localhost mine"}, {nil, unconfined, "Unconfined"},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{AppArmorProfile: tc.pod}}}
		got := ""
		if p := appArmor(pod, &corev1.Container{SecurityContext: &corev1.SecurityContext{AppArmorProfile: tc.own}}); p != nil {
			got = strings.TrimSpace(p.ProfileType.String() + " " + p.LocalhostRef)
		}
		if got != tc.want {
			t.Errorf("%v, %v: %q, not %q", tc.pod, tc.own, got, tc.want)
		}
	}
}

func TestHostname(t *testing.T) {
	long, override, yes := strings.Repeat("a", 62)+"-b", "over.ride", true
	for _, tt := range []struct {
		name       string
		pod        corev1.PodSpec
		host, full string
	}{
		{"name", corev1.PodSpec{}, "p", ""},
		{"own", corev1.PodSpec{Hostname: "h", Subdomain: "s"}, "h", "h.s.n.svc.d"},
		{"too long", corev1.PodSpec{Hostname: long}, strings.Repeat("a", 62), ""},
		{"override", corev1.PodSpec{HostnameOverride: &override, Hostname: "h", Subdomain: "s"}, "over.ride", ""},
		{"node's", corev1.PodSpec{HostNetwork: true, Hostname: "h"}, "node", ""},
	} {
		host, full := Hostname(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n"}, Spec: tt.pod}, "node", "d")
		if host != tt.host || full != tt.full {
			t.Errorf("%s: %q %q", tt.name, host, full)
		}
	}
	if got, err := UTSName(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n"}, Spec: corev1.PodSpec{SetHostnameAsFQDN: &yes, Subdomain: "s"}}, "d"); err != nil || got != "p.s.n.svc.d" {
		t.Errorf("%q %v", got, err)
	}
}

func TestResources(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	always := corev1.ContainerRestartPolicyAlways
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		Resources:      &corev1.ResourceRequirements{Requests: list("2", "500"), Limits: list("4", "800")},
		Containers:     []corev1.Container{{Name: "a", Resources: corev1.ResourceRequirements{Requests: list("1", "300")}}},
		InitContainers: []corev1.Container{{Name: "side", RestartPolicy: &always, Resources: corev1.ResourceRequirements{Requests: list("1", "100"), Limits: list("1", "100")}}},
	}}
	r := Resources(pod, &pod.Spec.Containers[0], 1000)
	if r.CpuShares != 1024 || r.CpuQuota != 400_000 || r.MemoryLimitInBytes != 800 {
		t.Errorf("the pod's limits are the container's: %v", r)
	}
	if r.OomScoreAdj != 1000-300-50 { // half of what the pod asks for beyond its containers
		t.Errorf("score %d", r.OomScoreAdj)
	}
	if r := Resources(pod, &pod.Spec.InitContainers[0], 1000); r.MemoryLimitInBytes != 100 || r.OomScoreAdj != 1000-300-50 {
		t.Errorf("a sidecar goes no sooner than what needs it: %v", r)
	}
}
