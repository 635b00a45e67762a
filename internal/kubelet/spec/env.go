// Package spec translates a pod's spec into what the runtime is asked for:
// environment, DNS, security, resources and mounts. It is pure; what comes
// from elsewhere is handed in.
package spec

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Lookup gives what an environment refers to. A nil answer means that the
// object does not exist.
type Lookup struct {
	ConfigMap func(name string) (*corev1.ConfigMap, error)
	Secret    func(name string) (*corev1.Secret, error)
	// Services that containers learn of by their environment.
	Services    []*corev1.Service
	Allocatable corev1.ResourceList
}

// Env makes the environment of a container, sorted as it was declared; names
// that are not valid in envFrom sources come back as skipped.
func Env(pod *corev1.Pod, c *corev1.Container, l Lookup) ([][2]string, error) {
	e := environment{at: map[string]int{}, expand: map[string]string{}}
	for k, v := range serviceEnv(pod, l.Services) {
		e.expand[k] = v
	}
	service := sorted(e.expand)
	for i := range c.EnvFrom {
		if err := e.from(&c.EnvFrom[i], l); err != nil {
			return nil, err
		}
	}
	for i := range c.Env {
		v, ok, err := value(pod, c, &c.Env[i], l, e.expand)
		if err != nil {
			return nil, err
		}
		if ok {
			e.set(c.Env[i].Name, v)
		}
	}
	var out [][2]string
	for _, kv := range service { // what the pod says itself wins
		if _, ok := e.at[kv[0]]; !ok {
			out = append(out, kv)
		}
	}
	return append(out, e.list...), nil
}

type environment struct {
	list   [][2]string
	at     map[string]int
	expand map[string]string
}

func (e *environment) set(name, v string) {
	e.expand[name] = v
	if i, ok := e.at[name]; ok {
		e.list[i][1] = v
		return
	}
	e.at[name] = len(e.list)
	e.list = append(e.list, [2]string{name, v})
}

func sorted(m map[string]string) [][2]string {
	out := make([][2]string, 0, len(m))
	for k, v := range m {
		out = append(out, [2]string{k, v})
	}
	slices.SortFunc(out, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	return out
}

func (e *environment) from(s *corev1.EnvFromSource, l Lookup) error {
	data := map[string]string{}
	switch {
	case s.ConfigMapRef != nil:
		cm, err := l.ConfigMap(s.ConfigMapRef.Name)
		if err != nil {
			return err
		}
		if cm == nil {
			if isTrue(s.ConfigMapRef.Optional) {
				return nil
			}
			return fmt.Errorf("configmap %q not found", s.ConfigMapRef.Name)
		}
		data = cm.Data
	case s.SecretRef != nil:
		sec, err := l.Secret(s.SecretRef.Name)
		if err != nil {
			return err
		}
		if sec == nil {
			if isTrue(s.SecretRef.Optional) {
				return nil
			}
			return fmt.Errorf("secret %q not found", s.SecretRef.Name)
		}
		for k, v := range sec.Data {
			data[k] = string(v)
		}
	}
	for _, kv := range sorted(data) {
		name := s.Prefix + kv[0]
		if name == "" || strings.ContainsAny(name, "=\x00") {
			continue // it could not be passed to a process
		}
		e.set(name, kv[1])
	}
	return nil
}

// value of one variable; false if an optional source does not exist.
func value(pod *corev1.Pod, c *corev1.Container, v *corev1.EnvVar, l Lookup, known map[string]string) (string, bool, error) {
	if v.ValueFrom == nil {
		return Expand(v.Value, known), true, nil
	}
	s := v.ValueFrom
	switch {
	case s.FieldRef != nil:
		text, err := Field(pod, s.FieldRef.FieldPath)
		return text, true, err
	case s.ResourceFieldRef != nil:
		name := s.ResourceFieldRef.ContainerName
		if name == "" {
			name = c.Name
		}
		text, err := Resource(pod, name, s.ResourceFieldRef, l.Allocatable)
		return text, true, err
	case s.ConfigMapKeyRef != nil:
		r := s.ConfigMapKeyRef
		cm, err := l.ConfigMap(r.Name)
		if err != nil {
			return "", false, err
		}
		if cm == nil {
			return "", false, absent(isTrue(r.Optional), fmt.Errorf("configmap %q not found", r.Name))
		}
		text, ok := cm.Data[r.Key]
		if !ok {
			return "", false, absent(isTrue(r.Optional), fmt.Errorf("couldn't find key %s in ConfigMap %s/%s", r.Key, pod.Namespace, r.Name))
		}
		return text, true, nil
	case s.SecretKeyRef != nil:
		r := s.SecretKeyRef
		sec, err := l.Secret(r.Name)
		if err != nil {
			return "", false, err
		}
		if sec == nil {
			return "", false, absent(isTrue(r.Optional), fmt.Errorf("secret %q not found", r.Name))
		}
		data, ok := sec.Data[r.Key]
		if !ok {
			return "", false, absent(isTrue(r.Optional), fmt.Errorf("couldn't find key %s in Secret %s/%s", r.Key, pod.Namespace, r.Name))
		}
		return string(data), true, nil
	}
	return "", false, fmt.Errorf("environment variable %s has a source that is not supported by this node", v.Name)
}

func absent(optional bool, err error) error {
	if optional {
		return nil
	}
	return err
}

func isTrue(b *bool) bool { return b != nil && *b }

// Expand replaces $(NAME) by what is known; $$ is a dollar, and what is not
// known stays as it is.
func Expand(s string, known map[string]string) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i+2:], ')')
			if end < 0 {
				b.WriteString("$(")
				i++
				continue
			}
			name := s[i+2 : i+2+end]
			if v, ok := known[name]; ok {
				b.WriteString(v)
			} else {
				b.WriteString("$(" + name + ")")
			}
			i += 2 + end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

// Field of a pod, by the paths that the downward API knows.
func Field(pod *corev1.Pod, path string) (string, error) {
	if name, key, ok := strings.Cut(path, "['"); ok {
		key = strings.TrimSuffix(key, "']")
		switch name {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return quoted(pod.Labels), nil
	case "metadata.annotations":
		return quoted(pod.Annotations), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return pod.Status.HostIP, nil
	case "status.podIP":
		return pod.Status.PodIP, nil
	case "status.hostIPs":
		var ips []string
		for _, ip := range pod.Status.HostIPs {
			ips = append(ips, ip.IP)
		}
		return strings.Join(ips, ","), nil
	case "status.podIPs":
		var ips []string
		for _, ip := range pod.Status.PodIPs {
			ips = append(ips, ip.IP)
		}
		return strings.Join(ips, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %s", path)
}

func quoted(m map[string]string) string {
	var lines []string
	for _, kv := range sorted(m) {
		lines = append(lines, kv[0]+"="+strconv.Quote(kv[1]))
	}
	return strings.Join(lines, "\n")
}

// Resource of a container; a limit that is not set is the node's allocatable.
func Resource(pod *corev1.Pod, container string, r *corev1.ResourceFieldSelector, allocatable corev1.ResourceList) (string, error) {
	var c *corev1.Container
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == container {
				c = &list[i]
			}
		}
	}
	if c == nil {
		return "", fmt.Errorf("container %s not found", container)
	}
	what, name, _ := strings.Cut(r.Resource, ".")
	var q resource.Quantity
	switch what {
	case "limits":
		var ok bool
		if q, ok = c.Resources.Limits[corev1.ResourceName(name)]; !ok {
			q = allocatable[corev1.ResourceName(name)]
		}
	case "requests":
		q = c.Resources.Requests[corev1.ResourceName(name)]
	default:
		return "", fmt.Errorf("unsupported container resource : %v", r.Resource)
	}
	divisor := r.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == "cpu" {
		return strconv.FormatInt(ceil(q.MilliValue(), divisor.MilliValue()), 10), nil
	}
	return strconv.FormatInt(ceil(q.Value(), divisor.Value()), 10), nil
}

func ceil(a, b int64) int64 {
	if b <= 0 {
		return a
	}
	return (a + b - 1) / b
}

// serviceEnv are the variables by which containers learn of services: those of
// the pod's namespace, if it wants them, and always the API's.
func serviceEnv(pod *corev1.Pod, services []*corev1.Service) map[string]string {
	out := map[string]string{}
	all := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	add := func(s *corev1.Service) {
		ip := s.Spec.ClusterIP
		if net.ParseIP(ip) == nil || len(s.Spec.Ports) == 0 {
			return
		}
		prefix := strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
		out[prefix+"_SERVICE_HOST"] = ip
		out[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
		for i, p := range s.Spec.Ports {
			port, proto := strconv.Itoa(int(p.Port)), strings.ToLower(string(p.Protocol))
			if p.Name != "" {
				out[prefix+"_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(p.Name, "-", "_"))] = port
			}
			url := proto + "://" + net.JoinHostPort(ip, port)
			if i == 0 {
				out[prefix+"_PORT"] = url
			}
			at := prefix + "_PORT_" + port + "_" + strings.ToUpper(proto)
			out[at], out[at+"_PROTO"], out[at+"_PORT"], out[at+"_ADDR"] = url, proto, port, ip
		}
	}
	for _, s := range services {
		if s.Namespace == "default" && s.Name == "kubernetes" && pod.Namespace != "default" {
			add(s)
		}
	}
	for _, s := range services {
		if s.Namespace == pod.Namespace && (all || s.Namespace == "default" && s.Name == "kubernetes") {
			add(s)
		}
	}
	return out
}
