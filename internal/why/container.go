package why

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
)

// containers: the first of a pod's containers that holds it up.
func (l *look) containers(p *corev1.Pod) *finding {
	if f := l.setUp(p); f != nil {
		return f
	}
	for i := range p.Status.InitContainerStatuses {
		s := &p.Status.InitContainerStatuses[i]
		if s.Ready && s.State.Terminated != nil {
			continue
		}
		if f := l.container(p, s, specOf(p, s.Name)); f != nil {
			return f
		}
	}
	// What does not run at all is worse than what is not ready.
	for _, runs := range []bool{false, true} {
		for i := range p.Status.ContainerStatuses {
			s := &p.Status.ContainerStatuses[i]
			if runs != (s.State.Running != nil) {
				continue
			}
			if f := l.container(p, s, specOf(p, s.Name)); f != nil {
				return f
			}
		}
	}
	return nil
}

func specOf(p *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return &corev1.Container{Name: name}
}

// setUp: what comes before containers, volumes and the sandbox. It is told in
// events only.
func (l *look) setUp(p *corev1.Pod) *finding {
	c := podCondition(p, corev1.PodReadyToStartContainers)
	if c == nil || c.Status == corev1.ConditionTrue {
		return nil
	}
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if s.ContainerID != "" || s.State.Waiting != nil && !slices.Contains([]string{"ContainerCreating", "PodInitializing", ""}, s.State.Waiting.Reason) {
			return nil // it says more itself
		}
	}
	e := l.told(p, "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "NetworkNotReady", "FailedNodeAllocatableEnforcement", "FailedCreatePodContainer", "FailedPrepareDynamicResources")
	if e == nil {
		return nil
	}
	f := about(kinds.Pod, p, "its sandbox cannot be made: %s", strings.TrimPrefix(e.Message, "Failed to create pod sandbox: ")).since(began(e))
	switch e.Reason {
	case "FailedCreatePodSandBox":
	case "FailedPrepareDynamicResources":
		f = about(kinds.Pod, p, "its devices cannot be prepared: %s", e.Message).since(began(e))
	default:
		f = about(kinds.Pod, p, "its volumes cannot be set up: %s", e.Message).since(began(e))
	}
	if open := l.openClaim(p, f.What); open != nil {
		return open.since(began(e))
	}
	switch {
	case strings.Contains(e.Message, "runtime handler") && p.Spec.RuntimeClassName != nil:
		return f.because(on(kinds.RuntimeClass, "", *p.Spec.RuntimeClassName, "its handler is not one that the runtime of node %s has", p.Spec.NodeName).
			help("set up the runtime on that node, or use another RuntimeClass"))
	case strings.Contains(e.Message, "hostPath type check failed"):
		return f.help("make that path on node %s as the volume's type says, or set type to DirectoryOrCreate or FileOrCreate", p.Spec.NodeName)
	case f.cause == nil:
		f.because(l.lacking(p, e.Message))
	}
	return f
}

var (
	notFound = regexp.MustCompile(`(?i)(configmap|secret|serviceaccount|clustertrustbundle|persistentvolumeclaim)s?(?:\.[a-z0-9.]+)? "([^"]+)" not found`)
	noKey    = regexp.MustCompile(`couldn't find key (\S+) in (ConfigMap|Secret) [^/\s]+/([^\s,]+)`)
	noItem   = regexp.MustCompile(`for volume "([^"]+)".*references non-existent (?:config |secret )?key: ([^\s,]+)`)
)

var dependencies = map[string]*kinds.Kind{
	"configmap": kinds.ConfigMap, "secret": kinds.Secret, "serviceaccount": kinds.ServiceAccount,
	"clustertrustbundle": kinds.ClusterTrustBundle, "persistentvolumeclaim": kinds.PersistentVolumeClaim,
}

// lacking is the object, or the key of one, that a message says is not there.
func (l *look) lacking(p *corev1.Pod, message string) *finding {
	if m := notFound.FindStringSubmatch(message); m != nil {
		k := dependencies[strings.ToLower(m[1])]
		return missing(k, p.Namespace, m[2], "create it, or mark what the pod takes from it as optional")
	}
	if m := noKey.FindStringSubmatch(message); m != nil {
		return keyless(dependencies[strings.ToLower(m[2])], p.Namespace, m[3], m[1])
	}
	if m := noItem.FindStringSubmatch(message); m != nil {
		volume, key := m[1], m[2]
		for i := range p.Spec.Volumes {
			v := &p.Spec.Volumes[i]
			switch {
			case v.Name != volume:
			case v.ConfigMap != nil:
				return keyless(kinds.ConfigMap, p.Namespace, v.ConfigMap.Name, key)
			case v.Secret != nil:
				return keyless(kinds.Secret, p.Namespace, v.Secret.SecretName, key)
			}
		}
	}
	return nil
}

func keyless(k *kinds.Kind, namespace, name, key string) *finding {
	return on(k, namespace, name, "it has no key %s", key).help("add the key %s, or mark it as optional in the pod", key)
}

// container: why one container is not as it should be; nil: it is, or waits for
// others.
func (l *look) container(p *corev1.Pod, s *corev1.ContainerStatus, spec *corev1.Container) *finding {
	switch {
	case s.State.Waiting != nil:
		return l.waiting(p, s, spec)
	case s.State.Terminated != nil:
		if s.State.Terminated.ExitCode == 0 && p.Spec.RestartPolicy != corev1.RestartPolicyAlways {
			return nil
		}
		return l.crash(p, s, s.State.Terminated)
	case s.State.Running != nil && !s.Ready:
		return l.unready(p, s, spec)
	}
	return nil
}

// nothing said: the container is only on its way.
func young(reason string) bool {
	return slices.Contains([]string{"", "ContainerCreating", "PodInitializing"}, reason)
}

func (l *look) waiting(p *corev1.Pod, s *corev1.ContainerStatus, spec *corev1.Container) *finding {
	w := s.State.Waiting
	switch w.Reason {
	case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed":
		return l.image(p, spec, w)
	case "CrashLoopBackOff":
		if t := s.LastTerminationState.Terminated; t != nil {
			return l.crash(p, s, t)
		}
		return about(kinds.Pod, p, "container %s ends again and again: %s", s.Name, w.Message)
	case "CreateContainerConfigError":
		f := about(kinds.Pod, p, "container %s cannot be made: %s", s.Name, w.Message).because(l.lacking(p, w.Message))
		if strings.Contains(w.Message, "runAsNonRoot") || strings.Contains(w.Message, "non-root") {
			f.help("set runAsUser to a number other than 0, or build the image with a numeric USER")
		}
		return f.since(l.failedSince(p))
	case "CreateContainerError", "RunContainerError", "StartError":
		return about(kinds.Pod, p, "container %s cannot be started: %s", s.Name, w.Message).since(l.failedSince(p)).help("%s", startRemedy(w.Message))
	case "PodInitializing":
		return nil // others come first
	}
	if !young(w.Reason) {
		return about(kinds.Pod, p, "container %s waits: %s", s.Name, strings.TrimSuffix(w.Reason+": "+w.Message, ": "))
	}
	if t := s.LastTerminationState.Terminated; t != nil && t.ExitCode != 0 {
		return l.crash(p, s, t)
	}
	f := about(kinds.Pod, p, "container %s is being made", s.Name).since(startOf(p))
	if e := l.told(p, "Failed", "FailedPostStartHook", "Pulling"); e != nil {
		f = about(kinds.Pod, p, "container %s is being made: %s", s.Name, e.Message).since(began(e))
	}
	return l.blind(f)
}

func startOf(p *corev1.Pod) metav1.Time {
	if p.Status.StartTime == nil {
		return metav1.Time{}
	}
	return *p.Status.StartTime
}

// failedSince is when the kubelet first told of a failure.
func (l *look) failedSince(p *corev1.Pod) metav1.Time {
	if e := l.told(p, "Failed"); e != nil {
		return began(e)
	}
	return metav1.Time{}
}

func startRemedy(message string) string {
	switch {
	case strings.Contains(message, "executable file not found"), strings.Contains(message, "no such file or directory"):
		return "correct command and args, or use an image that holds the program"
	case strings.Contains(message, "permission denied"):
		return "make the program executable in the image, or correct command"
	}
	return ""
}

// probeFailed is the newest event about a failed probe of a container.
func (l *look) probeFailed(p *corev1.Pod, kind, container string) *corev1.Event {
	for _, e := range l.events(p) {
		if e.Reason == "Unhealthy" && strings.HasPrefix(e.Message, kind+" probe") && ofContainer(e, container) {
			return e
		}
	}
	return nil
}

// ofContainer: an event is about a container, or does not say about which.
func ofContainer(e *corev1.Event, name string) bool {
	path := e.InvolvedObject.FieldPath
	return path == "" || strings.HasSuffix(path, "{"+name+"}")
}

// unready: a container runs, but a probe says that it is not ready.
func (l *look) unready(p *corev1.Pod, s *corev1.ContainerStatus, spec *corev1.Container) *finding {
	kind, probe := "Readiness", spec.ReadinessProbe
	if s.Started != nil && !*s.Started {
		kind, probe = "Startup", spec.StartupProbe
	}
	if s.RestartCount > 0 {
		if t := s.LastTerminationState.Terminated; t != nil && l.killedBy(p, s.Name, t) != "" {
			return l.crash(p, s, t)
		}
	}
	if probe == nil {
		return about(kinds.Pod, p, "container %s has only just started", s.Name).since(s.State.Running.StartedAt)
	}
	e := l.probeFailed(p, kind, s.Name)
	if e == nil {
		return l.blind(about(kinds.Pod, p, "container %s runs, but its %s probe (%s) has not succeeded yet", s.Name, strings.ToLower(kind), probeText(probe)).since(s.State.Running.StartedAt))
	}
	return about(kinds.Pod, p, "container %s runs, but is not ready: %s (the probe is %s)", s.Name, strings.TrimSpace(e.Message), probeText(probe)).since(began(e)).
		help("%s", probeRemedy(e.Message))
}

func probeText(p *corev1.Probe) string {
	switch {
	case p.HTTPGet != nil:
		return fmt.Sprintf("%s %s on port %s", strings.ToLower(string(p.HTTPGet.Scheme)), p.HTTPGet.Path, p.HTTPGet.Port.String())
	case p.TCPSocket != nil:
		return "tcp on port " + p.TCPSocket.Port.String()
	case p.GRPC != nil:
		return fmt.Sprintf("grpc on port %d", p.GRPC.Port)
	case p.Exec != nil:
		return "`" + strings.Join(p.Exec.Command, " ") + "`"
	}
	return "none"
}

func probeRemedy(message string) string {
	switch {
	case strings.Contains(message, "connection refused"):
		return "nothing listens on the probe's port: correct the port, or have the program listen there"
	case strings.Contains(message, "statuscode"):
		return "the program answers, but not well: correct the probe's path, or see the program's log"
	case strings.Contains(message, "deadline exceeded"), strings.Contains(message, "timeout"), strings.Contains(message, "timed out"):
		return "raise the probe's timeoutSeconds, or have the program answer sooner"
	}
	return ""
}

// killedBy is which probe ended a container; empty: none did.
func (l *look) killedBy(p *corev1.Pod, container string, t *corev1.ContainerStateTerminated) string {
	const near = 2 * time.Minute // from the kill to the end: a grace period, mostly
	for _, e := range l.events(p) {
		if e.Reason != "Killing" || !ofContainer(e, container) || when(e).Add(near).Before(t.FinishedAt.Time) {
			continue
		}
		for _, kind := range []string{"Liveness", "Startup"} {
			if strings.Contains(e.Message, "failed "+strings.ToLower(kind)+" probe") {
				return kind
			}
		}
	}
	return ""
}

var denied = regexp.MustCompile(`User "system:serviceaccount:([^:"]+):([^"]+)" cannot (\S+) resource "([^"]+)"(?: in API group "([^"]*)")?(?: in the namespace "([^"]+)"| at the cluster scope)?`)

// crash: a container has ended, and should not have, or not so.
func (l *look) crash(p *corev1.Pod, s *corev1.ContainerStatus, t *corev1.ContainerStateTerminated) *finding {
	again := ""
	if s.RestartCount > 0 {
		again = fmt.Sprintf(" (restarted %d times)", s.RestartCount)
	}
	f := about(kinds.Pod, p, "container %s ended with exit code %d%s%s%s", s.Name, t.ExitCode, signalText(t.ExitCode), again, lastWords(t.Message)).since(t.FinishedAt)
	if m := denied.FindStringSubmatch(t.Message); m != nil {
		return f.because(refusedAccount(m))
	}
	switch kind := l.killedBy(p, s.Name, t); {
	case kind != "":
		f = about(kinds.Pod, p, "container %s is killed and restarted, since its %s probe fails%s", s.Name, strings.ToLower(kind), again).since(t.FinishedAt)
		if e := l.probeFailed(p, kind, s.Name); e != nil {
			f.What += ": " + e.Message
			f.help("%s", probeRemedy(e.Message))
		}
		return f
	case t.Reason == "OOMKilled":
		f = about(kinds.Pod, p, "container %s was killed, since it used more memory than its limit%s%s", s.Name, limitText(specOf(p, s.Name)), again).since(t.FinishedAt)
		return f.help("raise resources.limits.memory of container %s, or have it use less", s.Name)
	case t.Reason == "StartError", t.Reason == "ContainerCannotRun":
		return about(kinds.Pod, p, "container %s cannot be started%s%s", s.Name, again, lastWords(t.Message)).since(t.FinishedAt).help("%s", startRemedy(t.Message))
	}
	if e := l.told(p, "FailedPostStartHook"); e != nil && ofContainer(e, s.Name) {
		return about(kinds.Pod, p, "the postStart hook of container %s fails, so that it is killed%s: %s", s.Name, again, e.Message).since(began(e)).
			help("correct lifecycle.postStart of container %s", s.Name)
	}
	switch {
	case t.ExitCode == 0:
		f.What = fmt.Sprintf("container %s ends by itself%s, but is to run for ever", s.Name, again)
		return f.help("have its program go on running, or make a Job of it")
	case t.ExitCode == 127, t.ExitCode == 126:
		return f.help("correct command and args: the program is not there, or not executable")
	case t.Message == "":
		logs := fmt.Sprintf("kubectl logs -n %s %s -c %s", p.Namespace, p.Name, s.Name)
		if s.State.Terminated == nil { // another run has followed, or is to
			logs += " --previous"
		}
		return f.help("see `%s`", logs)
	}
	return f
}

func limitText(c *corev1.Container) string {
	if q, ok := c.Resources.Limits[corev1.ResourceMemory]; ok {
		return " of " + q.String()
	}
	return ""
}

// signalText: codes above 128 are those of a signal, as shells say it.
func signalText(code int32) string {
	if code <= 128 || code > 128+64 {
		return ""
	}
	return fmt.Sprintf(", by signal %d (%s)", code-128, syscall.Signal(code-128))
}

// lastWords of a container, cut to a few lines.
func lastWords(message string) string {
	const most = 300
	message = strings.TrimSpace(message)
	if message == "" {
		return ""
	}
	if len(message) > most {
		message = "... " + strings.ToValidUTF8(message[len(message)-most:], "")
	}
	return ": " + strings.Join(strings.Fields(message), " ")
}

// refusedAccount says which right a service account lacks.
func refusedAccount(m []string) *finding {
	resource := m[4]
	if m[5] != "" {
		resource += "." + m[5]
	}
	where, role := " in all namespaces", "ClusterRole"
	if m[6] != "" {
		where, role = " in namespace "+m[6], "Role"
	}
	return on(kinds.ServiceAccount, m[1], m[2], "it may not %s %s%s", m[3], resource, where).
		help("bind a %s to it that allows %s on %s", role, m[3], resource)
}
