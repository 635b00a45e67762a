package why

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/internal/kinds"
)

// image: why a container's image is not to be had.
func (l *look) image(p *corev1.Pod, c *corev1.Container, w *corev1.ContainerStateWaiting) *finding {
	said := w.Message
	if _, rest, ok := strings.Cut(said, "ErrImagePull: "); ok {
		said = rest
	} else if w.Reason == "ImagePullBackOff" || said == "" {
		if e := l.told(p, "Failed"); e != nil && strings.HasPrefix(e.Message, "Failed to pull") {
			said = e.Message
		}
	}
	why, remedy := imageCause(w.Reason, said)
	f := about(kinds.Pod, p, "the image %q of container %s %s: %s", c.Image, c.Name, why, said).since(l.failedSince(p)).help("%s", remedy)
	if e := l.told(p, "FailedToRetrieveImagePullSecret"); e != nil && why != wordsInvalid {
		for _, s := range p.Spec.ImagePullSecrets {
			if strings.Contains(e.Message, s.Name) {
				return f.because(missing(kinds.Secret, p.Namespace, s.Name, "create it (type kubernetes.io/dockerconfigjson) with credentials of the image's registry"))
			}
		}
	}
	return f
}

const wordsInvalid = "has an invalid name"

// imageCause tells from a pull's error what is wrong, and what to do.
func imageCause(reason, said string) (why, remedy string) {
	low := strings.ToLower(said)
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(low, w) {
				return true
			}
		}
		return false
	}
	switch {
	case reason == "InvalidImageName":
		return wordsInvalid, "correct the image's name: [REGISTRY/]NAME[:TAG], in lower case"
	case reason == "ErrImageNeverPull" && has("credentials"):
		return "is on the node, but not for this pod", "give the pod the pull secret that the image was pulled with"
	case reason == "ErrImageNeverPull":
		return "is not on the node, and is not to be pulled", "load the image there, or set imagePullPolicy to IfNotPresent"
	case has("unauthorized", "authentication required", "authorization failed", "403", "401", "no basic auth", "access denied", "denied:", "access to the resource is denied"):
		return "is refused by its registry", "name a pull secret with the right credentials in imagePullSecrets; or the name is wrong: many registries refuse what they do not have"
	case has("x509", "certificate"):
		return "cannot be pulled, for its registry's certificate is not trusted", "give the node the registry's authority: `--registry-ca HOST:PORT=FILE`"
	case has("server gave http response to https client"):
		return "cannot be pulled, for its registry speaks plain HTTP", "allow that: `--insecure-registry HOST:PORT`"
	case has("no such host", "dial tcp", "connection refused", "i/o timeout", "deadline exceeded", "network is unreachable", "temporary failure"):
		return "cannot be pulled, for its registry cannot be reached", "correct the registry's name, or see to the network and the DNS of the node"
	case has("not found", "manifest unknown", "does not exist", "no such image", "name unknown"):
		return "does not exist in its registry", "correct the image's name or tag"
	case has("no match for platform", "exec format"):
		return "is not made for the node's platform", "use an image that is built for it"
	case has("toomanyrequests", "429", "rate limit"):
		return "cannot be pulled now, for its registry allows no more pulls", "wait, use credentials, or a mirror: `--registry-mirror`"
	case has("no space left"):
		return "cannot be pulled, for the node's disk is full", "free some of the node's disk"
	}
	return "cannot be pulled", ""
}
