package admission

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/pod-security-admission/api"
	standards "k8s.io/pod-security-admission/policy"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// Bounds of the look at the pods of a namespace that becomes stricter;
// upstream's figures.
const (
	maxPodsToCheck = 3000
	podCheckLimit  = time.Second
)

// podSecurity holds pods to the levels that their namespace's labels name, and
// tells those who write workloads whose pods would be refused.
type podSecurity struct {
	c      *Config
	policy standards.Evaluator
	seen   *judgements
}

func newPodSecurity(c *Config) (podSecurity, error) {
	e, err := standards.NewEvaluator(standards.DefaultChecks(), nil)
	if err != nil {
		return podSecurity{}, err
	}
	seen, err := newJudgements(c.Metrics)
	return podSecurity{c, e, seen}, err
}

func (podSecurity) Name() string { return "PodSecurity" }

func (podSecurity) Mutate(context.Context, *Request) error { return nil }

func (p podSecurity) Validate(ctx context.Context, r *Request) error {
	if r.Operation != Create && r.Operation != Update {
		return nil
	}
	if r.Ref.Kind == kinds.Namespace {
		if ns, ok := r.Object.(*corev1.Namespace); ok && r.Ref.Sub == "" {
			return p.namespace(ctx, r, ns)
		}
		return nil
	}
	enforce := r.Ref.Kind == kinds.Pod
	if r.Ref.Sub != "" && (!enforce || !changesPod(r.Ref.Sub)) {
		return nil
	}
	meta, spec := podOf(r.Object)
	if spec == nil {
		return nil
	}
	return p.pod(ctx, r, meta, spec, enforce)
}

// changesPod: unknown subresources are looked at, to be safe.
func changesPod(sub string) bool {
	switch sub {
	case "exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status":
		return false
	}
	return true
}

// podOf is the pod, or the template of the pods to come.
func podOf(o any) (*metav1.ObjectMeta, *corev1.PodSpec) {
	switch o := o.(type) {
	case *corev1.Pod:
		return &o.ObjectMeta, &o.Spec
	case *corev1.PodTemplate:
		return &o.Template.ObjectMeta, &o.Template.Spec
	case *corev1.ReplicationController:
		if t := o.Spec.Template; t != nil {
			return &t.ObjectMeta, &t.Spec
		}
	case *appsv1.ReplicaSet:
		return &o.Spec.Template.ObjectMeta, &o.Spec.Template.Spec
	case *appsv1.Deployment:
		return &o.Spec.Template.ObjectMeta, &o.Spec.Template.Spec
	case *appsv1.DaemonSet:
		return &o.Spec.Template.ObjectMeta, &o.Spec.Template.Spec
	case *appsv1.StatefulSet:
		return &o.Spec.Template.ObjectMeta, &o.Spec.Template.Spec
	case *batchv1.Job:
		return &o.Spec.Template.ObjectMeta, &o.Spec.Template.Spec
	case *batchv1.CronJob:
		return &o.Spec.JobTemplate.Spec.Template.ObjectMeta, &o.Spec.JobTemplate.Spec.Template.Spec
	}
	return nil, nil
}

func (p podSecurity) pod(ctx context.Context, r *Request, meta *metav1.ObjectMeta, spec *corev1.PodSpec, enforce bool) error {
	exempt := &p.c.PodSecurity
	switch {
	case slices.Contains(exempt.Namespaces, r.Ref.Namespace):
		annotate(r, api.ExemptionReasonAnnotationKey, "namespace")
		p.seen.exempt(r)
		return nil
	case slices.Contains(exempt.Usernames, r.User.GetName()):
		annotate(r, api.ExemptionReasonAnnotationKey, "user")
		p.seen.exempt(r)
		return nil
	}
	ns, err := find[*corev1.Namespace](ctx, p.c, kinds.Namespace, "", r.Ref.Namespace)
	if err == nil && ns == nil {
		err = fmt.Errorf("namespace %q not found", r.Ref.Namespace)
	}
	if err != nil {
		why := fmt.Errorf("failed to lookup namespace %q", r.Ref.Namespace)
		annotate(r, "error", fmt.Sprintf("%v: %v", why, err))
		p.seen.failed(r, true)
		if enforce {
			return apierrors.NewInternalError(why)
		}
		return nil
	}
	levels, errs := p.levels(ns.Labels)
	if len(errs) == 0 && levels.FullyPrivileged() {
		if enforce {
			annotate(r, api.EnforcedPolicyAnnotationKey, api.LevelVersion{Level: api.LevelPrivileged, Version: api.LatestVersion()}.String())
			p.seen.judged(r, "enforce", levels.Enforce, true)
		}
		return nil
	}
	if !enforce && len(errs) == 0 && levels.Warn.Level == api.LevelPrivileged && levels.Audit.Level == api.LevelPrivileged {
		return nil
	}
	if old, ok := r.Old.(*corev1.Pod); ok && enforce && !otherImages(spec, &old.Spec) {
		return nil
	}
	if spec.RuntimeClassName != nil && slices.Contains(exempt.RuntimeClasses, *spec.RuntimeClassName) {
		annotate(r, api.ExemptionReasonAnnotationKey, "runtimeClass")
		p.seen.exempt(r)
		return nil
	}
	if len(errs) > 0 {
		annotate(r, "error", fmt.Sprintf("Failed to parse policy: %v", errs.ToAggregate()))
		p.seen.failed(r, false)
	}
	return p.judge(r, levels, meta, spec, enforce)
}

// judge applies the three levels; each is looked at once if they are the same.
func (p podSecurity) judge(r *Request, levels api.Policy, meta *metav1.ObjectMeta, spec *corev1.PodSpec, enforce bool) error {
	seen := map[api.LevelVersion]standards.AggregateCheckResult{}
	check := func(lv api.LevelVersion) (bool, string) {
		res, ok := seen[lv]
		if !ok {
			res = standards.AggregateCheckResults(p.policy.EvaluatePod(lv, meta, spec))
			seen[lv] = res
		}
		if res.Allowed {
			return true, ""
		}
		return false, fmt.Sprintf("violate PodSecurity %q: %s", lv.String(), res.ForbiddenDetail())
	}
	var refused error
	if enforce {
		annotate(r, api.EnforcedPolicyAnnotationKey, levels.Enforce.String())
		ok, why := check(levels.Enforce)
		p.seen.judged(r, "enforce", levels.Enforce, ok)
		if !ok {
			refused = forbid(r, fmt.Errorf("violates%s", strings.TrimPrefix(why, "violate")))
		}
	}
	if ok, why := check(levels.Audit); !ok {
		annotate(r, api.AuditViolationsAnnotationKey, "would "+why)
		p.seen.judged(r, "audit", levels.Audit, false)
	}
	if refused != nil {
		return refused
	}
	if ok, why := check(levels.Warn); !ok {
		warn(r, "would "+why)
		p.seen.judged(r, "warn", levels.Warn, false)
	}
	return nil
}

func (p podSecurity) levels(labels map[string]string) (api.Policy, field.ErrorList) {
	return api.PolicyToEvaluate(labels, p.c.PodSecurity.policy())
}

// namespace refuses labels that say nothing, and tells which pods the new ones
// would not let in.
func (p podSecurity) namespace(ctx context.Context, r *Request, ns *corev1.Namespace) error {
	levels, errs := p.levels(ns.Labels)
	invalid := func() error {
		return apierrors.NewInvalid(kinds.Namespace.GVK.GroupKind(), r.Ref.Name, errs)
	}
	exempt := slices.Contains(p.c.PodSecurity.Namespaces, r.Ref.Name)
	old, ok := r.Old.(*corev1.Namespace)
	if r.Operation == Create || !ok {
		if len(errs) > 0 {
			return invalid()
		}
		if exempt {
			p.warnExempt(r, ns, levels)
		}
		return nil
	}
	before, oldErrs := p.levels(old.Labels)
	if len(errs) > 0 && !reflect.DeepEqual(errs, oldErrs) {
		return invalid()
	}
	to, from := levels.Enforce, before.Enforce
	if to == from || to.Level == api.LevelPrivileged || to.Version == from.Version && api.CompareLevels(to.Level, from.Level) < 1 {
		return nil
	}
	if exempt {
		p.warnExempt(r, ns, levels)
		return nil
	}
	for _, text := range p.existing(ctx, ns.Name, to) {
		warn(r, text)
	}
	return nil
}

func (p podSecurity) warnExempt(r *Request, ns *corev1.Namespace, levels api.Policy) {
	defaults := p.c.PodSecurity.policy()
	if levels.FullyPrivileged() || levels.Equivalent(&defaults) {
		return
	}
	var said []string
	for _, m := range []struct {
		mode, level, version string
		lv                   api.LevelVersion
	}{
		{"enforce", api.EnforceLevelLabel, api.EnforceVersionLabel, levels.Enforce}, {"audit", api.AuditLevelLabel, api.AuditVersionLabel, levels.Audit},
		{"warn", api.WarnLevelLabel, api.WarnVersionLabel, levels.Warn},
	} {
		_, level := ns.Labels[m.level]
		_, version := ns.Labels[m.version]
		if m.lv.Level != api.LevelPrivileged && (level || version) {
			said = append(said, m.mode+"="+m.lv.String())
		}
	}
	warn(r, fmt.Sprintf("namespace %q is exempt from Pod Security, and the policy (%s) will be ignored", ns.Name, strings.Join(said, ", ")))
}

// existing looks at pods that are there: at one of each controller first, and
// for a bounded time.
func (p podSecurity) existing(ctx context.Context, namespace string, to api.LevelVersion) []string {
	limit := podCheckLimit
	if at, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(at)/2)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	pods := p.byController(slices.Collect(view.List[*corev1.Pod](p.c.View.Snapshot(), kinds.Pod, namespace)))
	found := map[string][]string{} // why: names
	checked := 0
	for _, pod := range pods[:min(len(pods), maxPodsToCheck)] {
		if res := standards.AggregateCheckResults(p.policy.EvaluatePod(to, &pod.ObjectMeta, &pod.Spec)); !res.Allowed {
			found[res.ForbiddenReason()] = append(found[res.ForbiddenReason()], pod.Name)
		}
		if checked++; ctx.Err() != nil {
			break
		}
	}
	var out, texts []string
	if checked < len(pods) {
		out = append(out, fmt.Sprintf("new PodSecurity enforce level only checked against the first %d of %d existing pods", checked, len(pods)))
	}
	if len(found) > 0 {
		out = append(out, fmt.Sprintf("existing pods in namespace %q violate the new PodSecurity enforce level %q", namespace, to.String()))
	}
	for why, names := range found {
		texts = append(texts, podsNamed(names)+": "+why)
	}
	slices.Sort(texts)
	return append(out, texts...)
}

func podsNamed(names []string) string {
	switch first, others := slices.Min(names), len(names)-1; others {
	case 0:
		return first
	case 1:
		return first + " (and 1 other pod)"
	default:
		return fmt.Sprintf("%s (and %d other pods)", first, others)
	}
}

// byController puts the first pod of each controller before its others: they
// will say the same.
func (p podSecurity) byController(pods []*corev1.Pod) []*corev1.Pod {
	var first, others []*corev1.Pod
	seen := map[types.UID]bool{}
	for _, pod := range pods {
		if c := pod.Spec.RuntimeClassName; c != nil && slices.Contains(p.c.PodSecurity.RuntimeClasses, *c) {
			continue
		}
		ref := metav1.GetControllerOfNoCopy(pod)
		switch {
		case ref == nil:
			first = append(first, pod)
		case seen[ref.UID]:
			others = append(others, pod)
		default:
			seen[ref.UID], first = true, append(first, pod)
		}
	}
	return append(first, others...)
}

// otherImages: an update of a pod brings other programs to run; nothing else
// that matters here can change.
func otherImages(now, old *corev1.PodSpec) bool {
	if len(now.Containers) != len(old.Containers) || len(now.InitContainers) != len(old.InitContainers) {
		return true
	}
	images := func(spec *corev1.PodSpec) map[string]string {
		out := map[string]string{}
		for _, list := range [...][]corev1.Container{spec.Containers, spec.InitContainers} {
			for i := range list {
				out[list[i].Name] = list[i].Image
			}
		}
		for i := range spec.EphemeralContainers {
			out[spec.EphemeralContainers[i].Name] = spec.EphemeralContainers[i].Image
		}
		return out
	}
	return !maps.Equal(images(now), images(old))
}

// note tells the audit log.
func annotate(r *Request, key, value string) {
	if r.Annotate != nil {
		r.Annotate(api.AuditAnnotationPrefix+key, value)
	}
}

// warn tells the client.
func warn(r *Request, text string) {
	if r.Warn != nil {
		r.Warn(text)
	}
}

// PodSecurity is what holds where a namespace's labels say nothing, and for
// whom nothing holds. The zero value is upstream's default.
type PodSecurity struct {
	Enforce, EnforceVersion string // levels and versions; empty: privileged, latest
	Audit, AuditVersion     string
	Warn, WarnVersion       string

	Usernames, Namespaces, RuntimeClasses []string // exempt
}

// policy of a configuration that has been checked.
func (c *PodSecurity) policy() api.Policy {
	lv := func(level, version string) api.LevelVersion {
		v, err := api.ParseVersion(cmp.Or(version, api.VersionLatest))
		if err != nil {
			v = api.LatestVersion()
		}
		return api.LevelVersion{Level: api.Level(cmp.Or(level, string(api.LevelPrivileged))), Version: v}
	}
	return api.Policy{Enforce: lv(c.Enforce, c.EnforceVersion), Audit: lv(c.Audit, c.AuditVersion), Warn: lv(c.Warn, c.WarnVersion)}
}
