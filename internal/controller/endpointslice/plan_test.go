package endpointslice

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/plan"
)

func ptr[T any](v T) *T { return &v }

func service(opts ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "svc"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "web"}, ClusterIP: "10.96.0.9", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080), Protocol: corev1.ProtocolTCP}},
		},
	}
	for _, o := range opts {
		o(s)
	}
	return s
}

func pod(name, ip string, opts ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 9000, Protocol: corev1.ProtocolTCP}}}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
	if ip != "" {
		p.Status.PodIPs = []corev1.PodIP{{IP: ip}}
	}
	for _, o := range opts {
		o(p)
	}
	return p
}

func unready(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func ending(p *corev1.Pod)  { p.DeletionTimestamp = &metav1.Time{} }
func named(s *corev1.Service) {
	s.Spec.Ports[0].TargetPort = intstr.FromString("web")
}

func suffixes() func() string {
	n := 0
	return func() string { n++; return fmt.Sprintf("s%04d", n) }
}

// show writes slices in a line each: name family ports | endpoints.
func show(list []*discoveryv1.EndpointSlice) string {
	var lines []string
	for _, s := range list {
		var ports, ends []string
		for _, p := range s.Ports {
			ports = append(ports, fmt.Sprintf("%s:%d/%s", deref(p.Name), deref(p.Port), deref(p.Protocol)))
		}
		for _, e := range s.Endpoints {
			state := map[string]*bool{"ready": e.Conditions.Ready, "serving": e.Conditions.Serving, "terminating": e.Conditions.Terminating}
			text := e.TargetRef.Name + "=" + strings.Join(e.Addresses, "+")
			for _, k := range []string{"ready", "serving", "terminating"} {
				if deref(state[k]) {
					text += " " + k
				}
			}
			if e.NodeName != nil {
				text += " on " + *e.NodeName
			}
			if e.Zone != nil {
				text += " in " + *e.Zone
			}
			if e.Hostname != nil {
				text += " as " + *e.Hostname
			}
			if e.Hints != nil {
				text += fmt.Sprintf(" for %v%v", e.Hints.ForZones, e.Hints.ForNodes)
			}
			ends = append(ends, text)
		}
		lines = append(lines, fmt.Sprintf("%s %s | %s", s.AddressType, strings.Join(ports, ","), strings.Join(ends, "; ")))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// apply does what the executor would do to the slices.
func apply(have []*discoveryv1.EndpointSlice, actions []plan.Action) []*discoveryv1.EndpointSlice {
	have = slices.Clone(have)
	for _, a := range actions {
		at := slices.IndexFunc(have, func(s *discoveryv1.EndpointSlice) bool { return s.Name == a.Ref.Name })
		switch a.Verb {
		case plan.Create:
			s := a.Object.(*discoveryv1.EndpointSlice).DeepCopy()
			s.UID = types.UID(s.Name)
			if at >= 0 {
				panic("created twice: " + s.Name)
			}
			have = append(have, s)
		case plan.Update:
			have[at] = a.Object.(*discoveryv1.EndpointSlice)
		case plan.Delete:
			have = slices.Delete(have, at, at+1)
		}
	}
	return have
}

func TestSlicesSayWhatPodsAre(t *testing.T) {
	for _, tt := range []struct {
		name string
		svc  *corev1.Service
		pods []*corev1.Pod
		want string
	}{
		{"nobody", service(), nil, "IPv4  | "},
		{"ready", service(), []*corev1.Pod{pod("a", "10.0.0.1")}, "IPv4 http:8080/TCP | a=10.0.0.1 ready serving on n1 in z1"},
		{"not ready", service(), []*corev1.Pod{pod("a", "10.0.0.1", unready)}, "IPv4 http:8080/TCP | a=10.0.0.1 on n1 in z1"},
		{"ending but serving", service(), []*corev1.Pod{pod("a", "10.0.0.1", ending)}, "IPv4 http:8080/TCP | a=10.0.0.1 serving terminating on n1 in z1"},
		{"published all the same", service(func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }),
			[]*corev1.Pod{pod("a", "10.0.0.1", unready, ending)}, "IPv4 http:8080/TCP | a=10.0.0.1 ready terminating on n1 in z1"},
		{"ended", service(), []*corev1.Pod{pod("a", "10.0.0.1", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })}, "IPv4  | "},
		{"no address yet", service(), []*corev1.Pod{pod("a", "")}, "IPv4  | "},
		{"addresses that are nobody's", service(), []*corev1.Pod{pod("a", "127.0.0.1"), pod("b", "169.254.1.1"), pod("c", "224.0.0.1"), pod("d", "0.0.0.0"), pod("e", "x")}, "IPv4  | "},
		{"only the old field", service(), []*corev1.Pod{pod("a", "10.0.0.1", func(p *corev1.Pod) { p.Status.PodIPs = nil })}, "IPv4 http:8080/TCP | a=10.0.0.1 ready serving on n1 in z1"},
		{"node without a zone", service(), []*corev1.Pod{pod("a", "10.0.0.1", func(p *corev1.Pod) { p.Spec.NodeName = "n9" })}, "IPv4 http:8080/TCP | a=10.0.0.1 ready serving on n9"},
		{"named port", service(named), []*corev1.Pod{pod("a", "10.0.0.1")}, "IPv4 http:9000/TCP | a=10.0.0.1 ready serving on n1 in z1"},
		{"named ports that differ", service(named), []*corev1.Pod{pod("a", "10.0.0.1"), pod("b", "10.0.0.2", func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = 9001 })},
			"IPv4 http:9000/TCP | a=10.0.0.1 ready serving on n1 in z1\nIPv4 http:9001/TCP | b=10.0.0.2 ready serving on n1 in z1"},
		{"named port that is missing", service(named), []*corev1.Pod{pod("a", "10.0.0.1", func(p *corev1.Pod) { p.Spec.Containers[0].Ports = nil })}, "IPv4  | a=10.0.0.1 ready serving on n1 in z1"},
		{"named port of another protocol", service(named), []*corev1.Pod{pod("a", "10.0.0.1", func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].Protocol = corev1.ProtocolUDP })}, "IPv4  | a=10.0.0.1 ready serving on n1 in z1"},
		{"named port of a sidecar", service(named), []*corev1.Pod{pod("a", "10.0.0.1", func(p *corev1.Pod) {
			p.Spec.InitContainers, p.Spec.Containers = p.Spec.Containers, nil
			p.Spec.InitContainers[0].RestartPolicy = ptr(corev1.ContainerRestartPolicyAlways)
		})}, "IPv4 http:9000/TCP | a=10.0.0.1 ready serving on n1 in z1"},
		{"headless without ports", service(func(s *corev1.Service) { s.Spec.Ports, s.Spec.ClusterIP = nil, corev1.ClusterIPNone }), []*corev1.Pod{pod("a", "10.0.0.1")}, "IPv4  | a=10.0.0.1 ready serving on n1 in z1"},
		{"host name", service(), []*corev1.Pod{
			pod("a", "10.0.0.1", func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "a-0", "web" }),
			pod("b", "10.0.0.2", func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "b-0", "other" }),
		}, "IPv4 http:8080/TCP | a=10.0.0.1 ready serving on n1 in z1 as a-0; b=10.0.0.2 ready serving on n1 in z1"},
		{"both families", service(func(s *corev1.Service) { s.Spec.IPFamilies = append(s.Spec.IPFamilies, corev1.IPv6Protocol) }),
			[]*corev1.Pod{pod("a", "10.0.0.1", func(p *corev1.Pod) { p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: "fd00::1"}) }), pod("b", "10.0.0.2")},
			"IPv4 http:8080/TCP | a=10.0.0.1 ready serving on n1 in z1; b=10.0.0.2 ready serving on n1 in z1\nIPv6 http:8080/TCP | a=fd00::1 ready serving on n1 in z1"},
		{"same zone preferred", service(func(s *corev1.Service) { s.Spec.TrafficDistribution = ptr("PreferSameZone") }), []*corev1.Pod{pod("a", "10.0.0.1"), pod("b", "10.0.0.2", unready)},
			"IPv4 http:8080/TCP | a=10.0.0.1 ready serving on n1 in z1 for [{z1}][]; b=10.0.0.2 on n1 in z1"},
		{"same node preferred", service(func(s *corev1.Service) { s.Spec.TrafficDistribution = ptr("PreferSameNode") }), []*corev1.Pod{pod("a", "10.0.0.1")},
			"IPv4 http:8080/TCP | a=10.0.0.1 ready serving on n1 in z1 for [{z1}][{n1}]"},
		{"without a selector", service(func(s *corev1.Service) { s.Spec.Selector = nil }), nil, ""},
		{"a name elsewhere", service(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }), []*corev1.Pod{pod("a", "10.0.0.1")}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res := Plan(Observed{Service: tt.svc, Pods: tt.pods, Zones: map[string]string{"n1": "z1"}, Suffix: suffixes()})
			if got := show(apply(nil, res.Actions)); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestLabelsAndOwner(t *testing.T) {
	svc := service(func(s *corev1.Service) {
		s.Labels = map[string]string{"team": "x", discoveryv1.LabelManagedBy: "me", corev1.IsHeadlessService: "no", discoveryv1.LabelSkipMirror: "true"}
		s.Spec.ClusterIP = corev1.ClusterIPNone
	})
	s := apply(nil, Plan(Observed{Service: svc, Suffix: suffixes()}).Actions)[0]
	want := map[string]string{"team": "x", discoveryv1.LabelManagedBy: ManagedBy, discoveryv1.LabelServiceName: "web", corev1.IsHeadlessService: ""}
	if !maps.Equal(s.Labels, want) || !metav1.IsControlledBy(s, svc) || s.Name != "web-s0001" {
		t.Errorf("labels %v, owners %v, name %s", s.Labels, s.OwnerReferences, s.Name)
	}
	if b, _ := json.Marshal(s); strings.Contains(string(b), `"endpoints":null`) || strings.Contains(string(b), `"ports":null`) {
		t.Errorf("lists are null: %s", b)
	}
	svc.Labels["team"] = "y"
	if as := Plan(Observed{Service: svc, Slices: []*discoveryv1.EndpointSlice{s}, Suffix: suffixes()}).Actions; len(as) != 1 || as[0].Verb != plan.Update {
		t.Errorf("a new label of the service led to %v", as)
	}
	long := service(func(s *corev1.Service) { s.Name = strings.Repeat("x", 253) })
	if name := Plan(Observed{Service: long, Suffix: suffixes()}).Actions[0].Ref.Name; len(name) != 253 {
		t.Errorf("the name has %d bytes", len(name))
	}
}

// crowd is n pods.
func crowd(n int) (pods []*corev1.Pod) {
	for i := range n {
		pods = append(pods, pod(fmt.Sprintf("p%04d", i), fmt.Sprintf("10.1.%d.%d", i/250, i%250+1)))
	}
	return pods
}

// One pod's change costs one write, however many pods there are.
func TestFewWrites(t *testing.T) {
	svc, pods := service(), crowd(250)
	have := apply(nil, Plan(Observed{Service: svc, Pods: pods, Suffix: suffixes()}).Actions)
	if len(have) != 3 {
		t.Fatalf("%d slices for 250 pods, want 3", len(have))
	}
	for name, change := range map[string]func([]*corev1.Pod) []*corev1.Pod{
		"readiness": func(ps []*corev1.Pod) []*corev1.Pod {
			ps[7] = pod(ps[7].Name, ps[7].Status.PodIP, unready)
			return ps
		},
		"one more": func(ps []*corev1.Pod) []*corev1.Pod { return append(ps, pod("zz", "10.9.0.1")) },
		"one less": func(ps []*corev1.Pod) []*corev1.Pod { return ps[1:] },
		"one for another": func(ps []*corev1.Pod) []*corev1.Pod {
			return append(ps[1:], pod("zz", "10.9.0.1"))
		},
	} {
		as := Plan(Observed{Service: svc, Pods: change(slices.Clone(pods)), Slices: have, Suffix: suffixes()}).Actions
		if len(as) != 1 || as[0].Verb != plan.Update {
			t.Errorf("%s: %d actions, want one update", name, len(as))
		}
	}
}

func TestForeignSlicesStay(t *testing.T) {
	svc := service()
	mine := apply(nil, Plan(Observed{Service: svc, Pods: crowd(1), Suffix: suffixes()}).Actions)[0]
	theirs := mine.DeepCopy()
	theirs.Name, theirs.Labels = "theirs", map[string]string{discoveryv1.LabelServiceName: "web", discoveryv1.LabelManagedBy: "somebody"}
	old := mine.DeepCopy()
	old.Name, old.UID, old.OwnerReferences[0].UID = "old", "old", "former"
	as := Plan(Observed{Service: svc, Pods: crowd(1), Slices: []*discoveryv1.EndpointSlice{mine, theirs, old}, Suffix: suffixes()}).Actions
	if len(as) != 1 || as[0].Verb != plan.Delete || as[0].Ref.Name != "old" || as[0].UID != "old" {
		t.Errorf("got %+v, want the deletion of the former service's slice only", as)
	}
}

// Over a random history: every pod is in exactly one slice as it is now and
// nobody else is, no slice is overfull, planning again changes nothing, and
// the order of what is observed does not matter.
func TestSlicesConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		svc := service(named)
		var have []*discoveryv1.EndpointSlice
		suffix := suffixes()
		pods := map[string]*corev1.Pod{}
		for range rapid.IntRange(1, 6).Draw(t, "rounds") {
			for i := range rapid.IntRange(0, 260).Draw(t, "pods") {
				name := fmt.Sprintf("p%d", i)
				switch rapid.IntRange(0, 3).Draw(t, "fate") {
				case 0:
					delete(pods, name)
				case 1:
					p := pod(name, fmt.Sprintf("10.1.%d.%d", i/250, i%250+1))
					p.Spec.Containers[0].Ports[0].ContainerPort = rapid.Int32Range(9000, 9001).Draw(t, "port")
					pods[name] = p
				case 2:
					if pods[name] != nil {
						pods[name] = pods[name].DeepCopy()
						unready(pods[name])
					}
				}
			}
			list := slices.SortedFunc(maps.Values(pods), func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
			o := Observed{Service: svc, Pods: list, Slices: have, Zones: map[string]string{"n1": "z"}, Suffix: suffix}
			res := Plan(o)

			shuffled := o
			shuffled.Pods, shuffled.Slices, shuffled.Suffix = slices.Clone(list), slices.Clone(have), func() string { return "x" }
			rng := rand.New(rand.NewPCG(1, rapid.Uint64().Draw(t, "seed")))
			rng.Shuffle(len(shuffled.Pods), func(i, j int) {
				shuffled.Pods[i], shuffled.Pods[j] = shuffled.Pods[j], shuffled.Pods[i]
			})
			rng.Shuffle(len(shuffled.Slices), func(i, j int) {
				shuffled.Slices[i], shuffled.Slices[j] = shuffled.Slices[j], shuffled.Slices[i]
			})
			if got := Plan(shuffled).Actions; len(got) != len(res.Actions) {
				t.Fatalf("%d actions in one order, %d in another", len(res.Actions), len(got))
			}

			have = apply(have, res.Actions)
			seen := map[string]bool{}
			for _, s := range have {
				if len(s.Endpoints) > maxEndpoints {
					t.Fatalf("%d endpoints in a slice", len(s.Endpoints))
				}
				for i := range s.Endpoints {
					e := &s.Endpoints[i]
					p := pods[e.TargetRef.Name]
					if p == nil || seen[p.Name] || *e.Conditions.Ready != podReady(p) || *s.Ports[0].Port != p.Spec.Containers[0].Ports[0].ContainerPort || e.Addresses[0] != p.Status.PodIP {
						t.Fatalf("endpoint %+v of slice with ports %v is wrong or there twice", e, s.Ports)
					}
					seen[p.Name] = true
				}
				if len(s.Endpoints) == 0 && len(have) > 1 {
					t.Fatal("an empty slice beside others")
				}
			}
			if len(seen) != len(pods) || len(have) == 0 {
				t.Fatalf("%d endpoints for %d pods in %d slices", len(seen), len(pods), len(have))
			}
			o.Slices = have
			if again := Plan(o).Actions; len(again) > 0 {
				t.Fatalf("planning again gives %d actions: %+v", len(again), again[0].Ref)
			}
		}
	})
}
