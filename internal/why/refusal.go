package why

import (
	"regexp"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"knarr.dev/knarr/internal/kinds"
)

// What the API server refuses pods with.
var (
	overQuota  = regexp.MustCompile(`exceeded quota: ([^,]+), requested: (.*), used: (.*), limited: (.*)`)
	underQuota = regexp.MustCompile(`failed quota: ([^:]+): (must specify .*)`)
	unsafePod  = regexp.MustCompile(`violates PodSecurity "([^"]+)": (.*)`)
	noAccount  = regexp.MustCompile(`error looking up service account ([^/]+)/(\S+): serviceaccount "[^"]+" not found`)
	noClass    = regexp.MustCompile(`no PriorityClass with name (\S+) was found`)
	noRuntime  = regexp.MustCompile(`RuntimeClass "([^"]+)" not found`)
	webhook    = regexp.MustCompile(`(?:admission webhook|failed calling webhook) "([^"]+)"(.*)`)
	policy     = regexp.MustCompile(`(ValidatingAdmissionPolicy|policy) ['"]([^'"]+)['"](?: with binding '[^']+')? denied request: (.*)`)
	outOfRange = regexp.MustCompile(`(?:minimum|maximum|max) \S+ (?:usage|limit to request ratio) per `)
	leaving    = regexp.MustCompile(`in namespace (\S+) because it is being terminated`)
	noNode     = regexp.MustCompile(`node "([^"]+)" not found`)
)

// refusal is the cause that the API server's refusal of an object names, or nil.
// The object is in the namespace.
func (l *look) refusal(namespace, message string) *finding {
	if m := overQuota.FindStringSubmatch(message); m != nil {
		return on(kinds.ResourceQuota, namespace, m[1], "it leaves no room: requested %s, used %s, limited to %s", m[2], m[3], m[4]).
			help("raise its spec.hard (%s), or free as much", strings.Join(lacks(m[2], m[3], m[4]), ", "))
	}
	if m := underQuota.FindStringSubmatch(message); m != nil {
		return on(kinds.ResourceQuota, namespace, m[1], "it counts what the pods do not state: they %s", m[2]).
			help("state it in the containers' resources, or give the namespace a LimitRange with defaults")
	}
	if m := unsafePod.FindStringSubmatch(message); m != nil {
		return on(kinds.Namespace, "", namespace, "its Pod Security level %s forbids the pods: %s", m[1], m[2]).
			help("change the pods' securityContext so, or the namespace's label pod-security.kubernetes.io/enforce")
	}
	if m := noAccount.FindStringSubmatch(message); m != nil {
		return missing(kinds.ServiceAccount, m[1], strings.TrimRight(m[2], ":,"), "create it, or name another in the pods' serviceAccountName")
	}
	if m := noClass.FindStringSubmatch(message); m != nil {
		return missing(kinds.PriorityClass, "", m[1], "create it, or name another in the pods' priorityClassName")
	}
	if m := noRuntime.FindStringSubmatch(message); m != nil {
		return missing(kinds.RuntimeClass, "", m[1], "create it, or name another in the pods' runtimeClassName")
	}
	if m := webhook.FindStringSubmatch(message); m != nil {
		return l.webhook(m[1], strings.HasPrefix(m[0], "failed"), strings.TrimLeft(m[2], ": "))
	}
	if m := policy.FindStringSubmatch(message); m != nil {
		k := kinds.ValidatingAdmissionPolicy
		if m[1] == "policy" { // as mutating ones say it
			k = kinds.MutatingAdmissionPolicy
		}
		return on(k, "", m[2], "it refuses the pods: %s", m[3]).help("change what it objects to, or the policy")
	}
	if outOfRange.MatchString(message) {
		return l.limitRange(namespace, message)
	}
	if m := leaving.FindStringSubmatch(message); m != nil {
		return on(kinds.Namespace, "", m[1], "it is being deleted, and takes nothing new")
	}
	if m := denied.FindStringSubmatch(message); m != nil {
		return refusedAccount(m)
	}
	if m := noNode.FindStringSubmatch(message); m != nil {
		return missing(kinds.Node, "", m[1], "do not set spec.nodeName")
	}
	return nil
}

// lacks is what of a quota is missing, as in "pods by 1".
func lacks(requested, used, limited string) (out []string) {
	u, h := amounts(used), amounts(limited)
	for name, q := range amounts(requested) {
		q.Add(u[name])
		q.Sub(h[name])
		if q.Sign() > 0 {
			out = append(out, name+" by "+q.String())
		}
	}
	slices.Sort(out)
	return out
}

// amounts reads "cpu=1,pods=2".
func amounts(text string) map[string]resource.Quantity {
	out := map[string]resource.Quantity{}
	for _, part := range strings.Split(text, ",") {
		name, value, _ := strings.Cut(part, "=")
		if q, err := resource.ParseQuantity(value); err == nil {
			out[name] = q
		}
	}
	return out
}

// limitRange names the namespace's only limit range; among several the message
// does not tell which it was.
func (l *look) limitRange(namespace, message string) *finding {
	if _, rest, ok := strings.Cut(message, " is forbidden: "); ok {
		message = rest
	}
	all, _ := list[*corev1.LimitRange](l, Want{Kind: kinds.LimitRange, Namespace: namespace})
	name := "*"
	if len(all) == 1 {
		name = all[0].Name
	}
	return on(kinds.LimitRange, namespace, name, "it forbids the pods: %s", message).help("state resources within that range, or widen it")
}

func (l *look) webhook(name string, failed bool, said string) *finding {
	k, config := l.webhookConfiguration(name)
	if config == "" {
		config = name
	}
	if failed {
		return on(k, "", config, "its webhook %s cannot be asked: %s", name, said).
			help("see to the service behind it; or set its failurePolicy to Ignore")
	}
	return on(k, "", config, "its webhook %s refuses the pods: %s", name, strings.TrimPrefix(said, "denied the request: ")).
		help("change what it objects to, or the webhook")
}

// failure of an owner to make what it owns: about the owner, with the cause.
func (l *look) failure(k *kinds.Kind, owner kinds.Object, message string) *finding {
	message = createError.ReplaceAllString(message, "")
	return about(k, owner, "it cannot make its %s: %s", owned(k), message).because(l.refusal(owner.GetNamespace(), message))
}

// createError is how controllers begin their events.
var createError = regexp.MustCompile(`^(\(combined from similar events\): |Error creating(?: job)?: |\w+ (?:Pod|Claim) \S+ (?:for Pod \S+ )?in StatefulSet \S+ failed error: )+`)

func owned(k *kinds.Kind) string {
	if k == kinds.CronJob {
		return "jobs"
	}
	return "pods"
}

// failedCreate is the newest event of an owner about what it could not make,
// unless it has made something since.
func (l *look) failedCreate(k *kinds.Kind, owner kinds.Object) *finding {
	e := l.told(owner, "FailedCreate", "SuccessfulCreate", "FailedDelete")
	if e == nil || e.Reason != "FailedCreate" {
		return nil
	}
	return l.failure(k, owner, e.Message).since(began(e))
}

func setFailure(conditions []appsv1.ReplicaSetCondition) *appsv1.ReplicaSetCondition {
	for i := range conditions {
		if c := &conditions[i]; c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}
