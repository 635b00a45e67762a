package main

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// users do at random what users do. They act on names, not on what they know:
// much of it fails, as in life, and that is no error of the cluster's.
type users struct{ *world }

func (u *users) pick(names ...string) string { return names[u.rng.IntN(len(names))] }

func (u *users) space() string { return u.pick("default", "default", "a", "b") }
func (u *users) app() string   { return u.pick("web", "api", "db", "job") }

// act does one thing.
func (u *users) act() {
	ns, app := u.space(), u.app()
	ref := kinds.Ref{Kind: kinds.Deployment, Namespace: ns, Name: app}
	var what string
	var err error
	switch n := u.rng.IntN(245); {
	case n >= 215:
		app = "devices"
		what, err = u.actOnDevices(ns)
	case n >= 200:
		app = "volumes"
		what, err = u.actOnVolumes(ns)
	case n >= 188:
		what, app, err = u.actOnJobs(ns)
	case n >= 172:
		what, app, err = u.actOnLimits(ns)
	case n >= 136:
		what, app, err = u.actOnAutoscalers(ns)
	case n < 19:
		what, err = "create deployment", u.create(kinds.Deployment, u.deployment(ns, app))
	case n < 32:
		replicas := u.rng.IntN(7)
		what, err = fmt.Sprintf("scale to %d", replicas), u.patch(ref, fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas))
	case n < 43:
		v := u.rng.IntN(4)
		what, err = fmt.Sprintf("set image v%d", v), u.patch(ref, fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"demo:v%d"}]}}}}`, v))
	case n < 46:
		what, err = "pause or resume", u.patch(ref, fmt.Sprintf(`{"spec":{"paused":%v}}`, u.rng.IntN(3) == 0))
	case n < 53:
		what, err = "delete deployment", u.remove(ref, u.policy())
	case n < 57:
		what, err = "delete a replica set", u.removeAny(kinds.ReplicaSet, ns, u.policy())
	case n < 69:
		what, err = u.disturbPod(ns, app)
	case n < 72:
		what, err = "create pod", u.create(kinds.Pod, u.pod(ns, "alone"))
	case n < 80:
		what, err = "create service", u.create(kinds.Service, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: app},
			Spec: corev1.ServiceSpec{Selector: map[string]string{"app": app}, Ports: []corev1.ServicePort{{Port: 80}}}})
	case n < 83:
		what, err = "delete service", u.remove(kinds.Ref{Kind: kinds.Service, Namespace: ns, Name: app}, "")
	case n < 86:
		what, err = "create disruption budget", u.create(kinds.PodDisruptionBudget, u.budget(ns, app))
	case n < 89:
		what, err = "create config map with owners", u.create(kinds.ConfigMap, u.owned(ns))
	case n < 94:
		ns = u.pick("a", "b")
		what, err = "create namespace", u.create(kinds.Namespace, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
	case n < 98:
		ns = u.pick("a", "b")
		what, err = "delete namespace", u.remove(kinds.Ref{Kind: kinds.Namespace, Name: ns}, "")
	case n < 100:
		app = fmt.Sprintf("n%d", u.rng.IntN(nodes))
		what, err = "delete node", u.remove(kinds.Ref{Kind: kinds.Node, Name: app}, "")
	default: // n < 136
		app = "sets"
		what, err = u.actOnSets(ns)
	}
	u.tell("user: %s %s/%s: %v", what, ns, app, err)
}

// disturbPod does something to a pod behind its controller's back.
func (u *users) disturbPod(ns, app string) (string, error) {
	name := u.any(kinds.Pod, ns)
	if name == "" {
		return "no pod to disturb", nil
	}
	ref := kinds.Ref{Kind: kinds.Pod, Namespace: ns, Name: name}
	switch u.rng.IntN(6) {
	case 0:
		return "pod fails", u.patch(ref.WithSub("status"), `{"status":{"phase":"Failed"}}`)
	case 1:
		return "pod gets other labels", u.patch(ref, `{"metadata":{"labels":{"app":"alone"}}}`)
	case 2:
		return "create a pod that a set adopts", u.create(kinds.Pod, u.pod(ns, app))
	case 3:
		return "evict pod", u.evict(ns, name)
	}
	return "delete pod", u.remove(ref, "")
}

// budget of an app, of one kind or the other.
func (u *users) budget(ns, app string) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: app}}
	b.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
	if n := intstr.FromInt32(int32(u.rng.IntN(3))); u.rng.IntN(2) == 0 {
		b.Spec.MinAvailable = &n
	} else {
		b.Spec.MaxUnavailable = &n
	}
	return b
}

// any object's name of the kind in the namespace, or none.
func (u *users) any(k *kinds.Kind, ns string) string {
	var names []string
	for o := range view.List[kinds.Object](u.tap.Snapshot(), k, ns) {
		names = append(names, o.GetName())
	}
	if len(names) == 0 {
		return ""
	}
	return u.pick(names...)
}

func (u *users) create(k *kinds.Kind, o kinds.Object) error {
	_, err := u.admin.Create(u.ctx, kinds.Ref{Kind: k, Namespace: o.GetNamespace()}, o)
	return err
}

func (u *users) patch(ref kinds.Ref, data string) error {
	_, err := u.admin.Patch(u.ctx, ref, types.StrategicMergePatchType, []byte(data))
	return err
}

func (u *users) policy() string { return u.pick("Background", "Background", "Foreground", "Orphan") }

func (u *users) remove(ref kinds.Ref, policy string) error {
	var o metav1.DeleteOptions
	if policy != "" {
		p := metav1.DeletionPropagation(policy)
		o.PropagationPolicy = &p
	}
	_, err := u.admin.Delete(u.ctx, ref, o)
	return err
}

// removeAny deletes some object of the kind in the namespace.
func (u *users) removeAny(k *kinds.Kind, ns, policy string) error {
	name := u.any(k, ns)
	if name == "" {
		return nil
	}
	return u.remove(kinds.Ref{Kind: k, Namespace: ns, Name: name}, policy)
}

// relieve scales down until everything that is wanted fits with room to
// spare, so that rollouts can be expected to end.
func (u *users) relieve() {
	limit := nodes * capacity().cpu / 2
	total := u.relieveSets(limit)
	for p := range view.List[*corev1.Pod](u.tap.Snapshot(), kinds.Pod, "") {
		if metav1.GetControllerOf(p) == nil {
			u.note("delete", u.remove(kinds.RefTo(kinds.Pod, p), ""))
		}
	}
	for rs := range view.List[*appsv1.ReplicaSet](u.tap.Snapshot(), kinds.ReplicaSet, "") {
		if metav1.GetControllerOf(rs) == nil {
			u.note("delete", u.remove(kinds.RefTo(kinds.ReplicaSet, rs), ""))
		}
	}
	for d := range view.List[*appsv1.Deployment](u.tap.Snapshot(), kinds.Deployment, "") {
		each := d.Spec.Template.Spec.Containers[0].Resources.Requests.Cpu().MilliValue()
		n := u.most(kinds.Deployment, d)
		if total += n * each; total > limit {
			total -= n * each
			u.note("scale", u.patch(kinds.RefTo(kinds.Deployment, d), `{"spec":{"replicas":0}}`))
		}
	}
}

// most replicas that there may be of what is scaled.
func (u *users) most(k *kinds.Kind, o kinds.Object) int64 {
	n := *replicasOf(o)
	for _, h := range autoscalers(u.tap.Snapshot(), k, o) {
		if n > 0 {
			n = max(n, h.Spec.MaxReplicas)
		}
	}
	return int64(n)
}

func (u *users) note(what string, err error) { u.tell("user: %s to relieve: %v", what, err) }

func (u *users) template(app string) corev1.PodTemplateSpec {
	class := ""
	if _, ok := priorities[app]; ok {
		class = app
	}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{PriorityClassName: class, Containers: []corev1.Container{{Name: "c", Image: fmt.Sprintf("demo:v%d", u.rng.IntN(4)),
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: *resource.NewMilliQuantity(int64(100*(1+u.rng.IntN(5))), resource.DecimalSI), corev1.ResourceMemory: resource.MustParse("64Mi")}}}}},
	}
}

func (u *users) deployment(ns, app string) *appsv1.Deployment {
	replicas, history := int32(u.rng.IntN(7)), int32(u.rng.IntN(3))
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: app}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, RevisionHistoryLimit: &history, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, Template: u.template(app),
	}}
	switch u.rng.IntN(4) {
	case 0:
		d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType
	case 1:
		surge, unavailable := intstr.FromInt32(int32(u.rng.IntN(3))), intstr.FromInt32(int32(1+u.rng.IntN(2)))
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
			RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable}}
	}
	return d
}

// pod of nobody. With the labels of an app, its sets would adopt it if it had
// their hash too, so it takes one of them.
func (u *users) pod(ns, app string) *corev1.Pod {
	t := u.template(app)
	for rs := range view.List[*appsv1.ReplicaSet](u.tap.Snapshot(), kinds.ReplicaSet, ns) {
		if rs.Labels["app"] == app {
			t = *rs.Spec.Template.DeepCopy()
		}
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: app + "-alone-" + suffix(u.rng), Labels: t.Labels}, Spec: t.Spec}
}

// owned is a config map that one or two others own, some of which are gone.
func (u *users) owned(ns string) *corev1.ConfigMap {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "cm-" + suffix(u.rng)}}
	for range 1 + u.rng.IntN(2) {
		if o := view.Get[*appsv1.Deployment](u.tap.Snapshot(), kinds.Deployment, ns, u.app()); o != nil {
			block := u.rng.IntN(2) == 0
			ref := metav1.OwnerReference{APIVersion: "apps/v1", Kind: "Deployment", Name: o.Name, UID: o.UID, BlockOwnerDeletion: &block}
			if len(cm.OwnerReferences) == 0 || cm.OwnerReferences[0].UID != ref.UID {
				cm.OwnerReferences = append(cm.OwnerReferences, ref)
			}
		}
	}
	return cm
}
