package deployment

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

type option func(*appsv1.Deployment)

func deployment(replicas int32, opts ...option) *appsv1.Deployment {
	l := map[string]string{"app": "web"}
	surge, unavailable, deadline, history := intstr.FromString("25%"), intstr.FromString("25%"), int32(600), int32(10)
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "d", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: l}, ProgressDeadlineSeconds: &deadline, RevisionHistoryLimit: &history,
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}}},
		},
	}
	for _, o := range opts {
		o(d)
	}
	return d
}

func image(v string) option {
	return func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = v }
}
func paused(d *appsv1.Deployment) { d.Spec.Paused = true }
func recreate(d *appsv1.Deployment) {
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
}
func limit(n int32) option { return func(d *appsv1.Deployment) { d.Spec.RevisionHistoryLimit = &n } }
func bounds(surge, unavailable intstr.IntOrString) option {
	return func(d *appsv1.Deployment) {
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable}
	}
}
func progress(status corev1.ConditionStatus, reason string, ago time.Duration) option {
	return func(d *appsv1.Deployment) {
		d.Status.Conditions = append(d.Status.Conditions, appsv1.DeploymentCondition{Type: appsv1.DeploymentProgressing, Status: status, Reason: reason,
			LastUpdateTime: metav1.NewTime(now.Add(-ago)), LastTransitionTime: metav1.NewTime(now.Add(-ago))})
	}
}

// rs is a set of the Deployment with an image; of its size so many available,
// sized for a Deployment of desired.
func rs(d *appsv1.Deployment, img string, rev int, size, avail, desired int32) *appsv1.ReplicaSet {
	t := d.Spec.Template.DeepCopy()
	t.Spec.Containers[0].Image = img
	t.Labels = with(t.Labels, "hash-"+img)
	surge, _ := limits(deployment(desired, func(x *appsv1.Deployment) { x.Spec.Strategy = d.Spec.Strategy }))
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "web-" + img, UID: types.UID("rs-" + img), Labels: t.Labels, Generation: 1,
			CreationTimestamp: metav1.NewTime(now.Add(time.Duration(rev)*time.Minute - time.Hour)),
			OwnerReferences:   []metav1.OwnerReference{*metav1.NewControllerRef(d, kinds.Deployment.GVK)},
			Annotations:       map[string]string{revisionAnnotation: strconv.Itoa(rev), desiredAnnotation: fmt.Sprint(desired), maxAnnotation: fmt.Sprint(desired + surge)},
		},
		Spec:   appsv1.ReplicaSetSpec{Replicas: &size, Template: *t, Selector: &metav1.LabelSelector{MatchLabels: t.Labels}},
		Status: appsv1.ReplicaSetStatus{ObservedGeneration: 1, Replicas: size, ReadyReplicas: avail, AvailableReplicas: avail},
	}
}

func observed(d *appsv1.Deployment, sets ...*appsv1.ReplicaSet) Observed {
	o := Observed{Deployment: d, Now: now}
	for _, s := range sets {
		if metav1.GetControllerOf(s) == nil {
			o.Orphans = append(o.Orphans, s)
		} else {
			o.Owned = append(o.Owned, s)
		}
	}
	return o
}

// summary of what happens to sets: "create 3", "v1 3>2", "delete v1", "adopt v1".
func summary(o Observed, res plan.Result) []string {
	var out []string
	for _, a := range res.Actions {
		switch {
		case a.Ref.Kind == kinds.Deployment:
		case a.Verb == plan.Create:
			out = append(out, fmt.Sprintf("create %d", *a.Object.(*appsv1.ReplicaSet).Spec.Replicas))
		case a.Verb == plan.Update:
			from := int32(-1)
			for _, s := range o.Owned {
				if s.Name == a.Ref.Name {
					from = *s.Spec.Replicas
				}
			}
			out = append(out, fmt.Sprintf("%s %d>%d", strings.TrimPrefix(a.Ref.Name, "web-"), from, *a.Object.(*appsv1.ReplicaSet).Spec.Replicas))
		case a.Verb == plan.Patch && strings.Contains(string(a.Data), "$patch"):
			out = append(out, "release "+strings.TrimPrefix(a.Ref.Name, "web-"))
		case a.Verb == plan.Patch:
			out = append(out, "adopt "+strings.TrimPrefix(a.Ref.Name, "web-"))
		default:
			out = append(out, string(a.Verb)+" "+strings.TrimPrefix(a.Ref.Name, "web-"))
		}
	}
	return out
}

func TestSets(t *testing.T) {
	one, none := intstr.FromInt32(1), intstr.FromInt32(0)
	dying := deployment(3)
	dying.DeletionTimestamp = &metav1.Time{Time: now}
	orphan := rs(deployment(3), "v1", 1, 3, 3, 3)
	orphan.OwnerReferences = nil
	stray := rs(deployment(3), "v1", 1, 3, 3, 3)
	stray.Labels = map[string]string{"app": "other"}
	busy := rs(deployment(1), "v1", 1, 0, 0, 1)
	busy.Status.Replicas = 1
	for _, tt := range []struct {
		name string
		in   Observed
		want []string
	}{
		{"creates the first set at full size", observed(deployment(3)), []string{"create 3"}},
		{"at rest", observed(deployment(3), rs(deployment(3), "v1", 1, 3, 3, 3)), nil},
		{"scales a single set", observed(deployment(5), rs(deployment(3), "v1", 1, 3, 3, 3)), []string{"v1 3>5"}},
		{"scales to zero", observed(deployment(0), rs(deployment(3), "v1", 1, 3, 3, 3)), []string{"v1 3>0"}},
		{"new template: the surge first", observed(deployment(4, image("v2")), rs(deployment(4), "v1", 1, 4, 4, 4)), []string{"create 1"}},
		{"no surge: an empty set first", observed(deployment(4, image("v2"), bounds(none, one)), rs(deployment(4), "v1", 1, 4, 4, 4)), []string{"create 0"}},
		{"then the old make room", observed(deployment(4, image("v2"), bounds(none, one)), rs(deployment(4), "v1", 1, 4, 4, 4), rs(deployment(4), "v2", 2, 0, 0, 4)), []string{"v1 4>3"}},
		{"waits while too few are available", observed(deployment(4, image("v2"), bounds(one, none)), rs(deployment(4), "v1", 1, 4, 4, 4), rs(deployment(4), "v2", 2, 1, 0, 4)), nil},
		{"goes on once the new one is available", observed(deployment(4, image("v2"), bounds(one, none)), rs(deployment(4), "v1", 1, 4, 4, 4), rs(deployment(4), "v2", 2, 1, 1, 4)), []string{"v1 4>3"}},
		{"broken old pods go without regard", observed(deployment(4, image("v2"), bounds(one, none)), rs(deployment(4), "v1", 1, 4, 1, 4), rs(deployment(4), "v2", 2, 1, 1, 4)), []string{"v1 4>3"}},
		{"oldest first", observed(deployment(4, image("v3"), bounds(none, one)), rs(deployment(4), "v2", 2, 2, 2, 4), rs(deployment(4), "v1", 1, 2, 2, 4), rs(deployment(4), "v3", 3, 0, 0, 4)), []string{"v1 2>1"}},
		{"new grows as the old shrink", observed(deployment(4, image("v2"), bounds(one, none)), rs(deployment(4), "v1", 1, 3, 3, 4), rs(deployment(4), "v2", 2, 1, 1, 4)), []string{"v2 1>2"}},
		{"both limits zero still move", observed(deployment(2, image("v2"), bounds(none, none)), rs(deployment(2), "v1", 1, 2, 2, 2), rs(deployment(2), "v2", 2, 0, 0, 2)), []string{"v1 2>1"}},
		{"a rollback gives the old set a new revision", observed(deployment(2), rs(deployment(2), "v1", 1, 0, 0, 2), rs(deployment(2), "v2", 2, 2, 2, 2)), []string{"v1 0>1"}},
		{"scaling during a rollout keeps proportions", observed(deployment(20, image("v2"), bounds(none, one)), rs(deployment(10, bounds(none, one)), "v1", 1, 8, 8, 10), rs(deployment(10, bounds(none, one)), "v2", 2, 2, 2, 10)), nil},
		{"what rounding leaves over goes to the newest of the largest", observed(deployment(4, image("v3"), bounds(none, one)),
			rs(deployment(3, bounds(none, one)), "v1", 1, 1, 1, 3), rs(deployment(3, bounds(none, one)), "v2", 2, 1, 1, 3), rs(deployment(3, bounds(none, one)), "v3", 3, 1, 1, 3)),
			[]string{"v3 1>2", "v2 1>1", "v1 1>1"}},
		{"paused: no rollout", observed(deployment(3, paused, image("v2")), rs(deployment(3), "v1", 1, 3, 3, 3)), nil},
		{"paused: scales", observed(deployment(5, paused, image("v2")), rs(deployment(3), "v1", 1, 3, 3, 3)), []string{"v1 3>5"}},
		{"recreate stops the old first", observed(deployment(3, recreate, image("v2")), rs(deployment(3, recreate), "v1", 1, 3, 3, 3)), []string{"v1 3>0"}},
		{"recreate starts the new", observed(deployment(3, recreate, image("v2")), rs(deployment(3, recreate), "v1", 1, 0, 0, 3)), []string{"create 3"}},
		{"adopts", observed(deployment(3), orphan), []string{"adopt v1"}},
		{"releases", observed(deployment(3), stray), []string{"release v1"}},
		{"being deleted: hands off", observed(dying, rs(deployment(3), "v1", 1, 1, 1, 3), orphan), nil},
		{"deletes old revisions beyond the limit, oldest first", observed(deployment(1, image("v4"), limit(1)),
			rs(deployment(1), "v2", 2, 0, 0, 1), rs(deployment(1), "v3", 3, 0, 0, 1), rs(deployment(1), "v1", 1, 0, 0, 1), rs(deployment(1), "v4", 4, 1, 1, 1)), []string{"delete v1", "delete v2"}},
		{"deletes old sets while paused too", observed(deployment(1, image("v4"), limit(0), paused), rs(deployment(1), "v1", 1, 0, 0, 1), rs(deployment(1), "v4", 4, 1, 1, 1)), []string{"delete v1"}},
		{"keeps a set whose pods still run", observed(deployment(1, image("v4"), limit(0), paused), busy, rs(deployment(1), "v4", 4, 1, 1, 1)), nil},
		{"keeps history during a rollout", observed(deployment(4, image("v4"), limit(0), bounds(one, none)), rs(deployment(4), "v1", 1, 0, 0, 4), rs(deployment(4), "v3", 3, 3, 3, 4), rs(deployment(4), "v4", 4, 2, 1, 4)), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := summary(tt.in, Plan(tt.in))
			if tt.name == "scaling during a rollout keeps proportions" {
				if len(got) != 2 || !slices.Contains(got, "v1 8>16") || !slices.Contains(got, "v2 2>4") {
					t.Errorf("got %q", got)
				}
				return
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestRecreateWaitsForOldPods(t *testing.T) {
	o := observed(deployment(3, recreate, image("v2")), rs(deployment(3, recreate), "v1", 1, 0, 0, 3))
	o.OldPods = true
	if got := summary(o, Plan(o)); len(got) != 0 {
		t.Errorf("%q while old pods still run", got)
	}
}

func TestNewSet(t *testing.T) {
	d := deployment(3, func(d *appsv1.Deployment) {
		d.Annotations = map[string]string{"kubernetes.io/change-cause": "x", corev1.LastAppliedConfigAnnotation: "{}", revisionAnnotation: "7"}
		d.Spec.MinReadySeconds = 5
	})
	o := observed(d, rs(d, "v0", 7, 0, 0, 3))
	res := Plan(o)
	set := res.Actions[0].Object.(*appsv1.ReplicaSet)
	hash := set.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
	if hash == "" || set.Name != "web-"+hash || set.Spec.Selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] != hash || set.Spec.Template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] != hash {
		t.Errorf("hash %q is not everywhere: %+v", hash, set)
	}
	if d.Spec.Template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] != "" || d.Spec.Selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] != "" {
		t.Error("the Deployment itself was changed")
	}
	want := map[string]string{"kubernetes.io/change-cause": "x", revisionAnnotation: "8", desiredAnnotation: "3", maxAnnotation: "4"}
	if fmt.Sprint(set.Annotations) != fmt.Sprint(want) || set.Spec.MinReadySeconds != 5 {
		t.Errorf("annotations %v, want %v", set.Annotations, want)
	}
	if e := res.Actions[0].Event; e.Reason != "ScalingReplicaSet" || e.Message != "Scaled up replica set "+set.Name+" from 0 to 3" {
		t.Errorf("event %+v", e)
	}
	last := res.Actions[len(res.Actions)-1]
	if last.Verb != plan.Patch || last.Ref.Kind != kinds.Deployment || !strings.Contains(string(last.Data), `"deployment.kubernetes.io/revision":"8"`) || last.UID != "d" {
		t.Errorf("the Deployment's revision: %+v %s", last, last.Data)
	}
	again, _ := Name(d)
	if set.Name != again {
		t.Error("the name differs from one call to the next")
	}
}

func TestRollbackKeepsHistory(t *testing.T) {
	o := observed(deployment(2), rs(deployment(2), "v1", 1, 0, 0, 2), rs(deployment(2), "v2", 2, 2, 2, 2))
	set := Plan(o).Actions[0].Object.(*appsv1.ReplicaSet)
	if set.Annotations[revisionAnnotation] != "3" || set.Annotations[historyAnnotation] != "1" {
		t.Errorf("annotations %v, want revision 3 and history 1", set.Annotations)
	}
	if h := remember(strings.Repeat("123,", 600)+"5", "6"); len(h) > maxHistory || !strings.HasSuffix(h, ",5,6") || strings.HasPrefix(h, ",") {
		t.Errorf("history of %d bytes: %.20s", len(h), h)
	}
}

func TestCollision(t *testing.T) {
	d := deployment(3)
	name, _ := Name(d)
	taken := rs(d, "v9", 1, 1, 1, 1)
	taken.Name, taken.OwnerReferences = name, nil
	o := observed(d)
	o.Namesake = taken
	res := Plan(o)
	if got := summary(o, res); len(got) != 0 {
		t.Errorf("%q although the name is taken", got)
	}
	st := statusOf(t, res)
	if st.CollisionCount == nil || *st.CollisionCount != 1 {
		t.Fatalf("collision count %v, want 1", st.CollisionCount)
	}
	d.Status = st
	if next, _ := Name(d); next == name {
		t.Error("the next name is the same")
	}
}

func statusOf(t *testing.T, res plan.Result) appsv1.DeploymentStatus {
	t.Helper()
	for _, a := range res.Actions {
		if a.Ref.Sub == "status" {
			return a.Object.(*appsv1.Deployment).Status
		}
	}
	t.Fatal("no status write")
	return appsv1.DeploymentStatus{}
}

// condition in short: "True ReplicaSetUpdated", or "" if it is absent.
func condition(st appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) string {
	c := find(st.Conditions, t)
	if c == nil {
		return ""
	}
	return string(c.Status) + " " + c.Reason
}

func TestConditions(t *testing.T) {
	failing := rs(deployment(3), "v1", 1, 3, 0, 3)
	failing.Status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: "quota"}}
	noDeadlineSet := func(d *appsv1.Deployment) { d.Spec.ProgressDeadlineSeconds = nil }
	seen := func(n int32) option { // nothing has moved since the last status
		return func(d *appsv1.Deployment) {
			d.Status.UpdatedReplicas, d.Status.Replicas, d.Status.ReadyReplicas, d.Status.AvailableReplicas = 3, 3, n, n
		}
	}
	for _, tt := range []struct {
		name                         string
		in                           Observed
		available, progress, failure string
		after                        time.Duration
	}{
		{"created", observed(deployment(3)), "False MinimumReplicasUnavailable", "True NewReplicaSetCreated", "", 600 * time.Second},
		{"found", observed(deployment(3, seen(0)), rs(deployment(3), "v1", 1, 3, 0, 3)), "False MinimumReplicasUnavailable", "True FoundNewReplicaSet", "", 600 * time.Second},
		{"progress", observed(deployment(3, seen(1), progress("True", "NewReplicaSetCreated", time.Minute)), rs(deployment(3), "v1", 1, 3, 2, 3)), "False MinimumReplicasUnavailable", "True ReplicaSetUpdated", "", 600 * time.Second},
		{"no progress yet", observed(deployment(3, seen(1), progress("True", "ReplicaSetUpdated", time.Minute)), rs(deployment(3), "v1", 1, 3, 1, 3)), "False MinimumReplicasUnavailable", "True ReplicaSetUpdated", "", 540 * time.Second},
		{"complete", observed(deployment(3, seen(2), progress("True", "ReplicaSetUpdated", time.Minute)), rs(deployment(3), "v1", 1, 3, 3, 3)), "True MinimumReplicasAvailable", "True NewReplicaSetAvailable", "", 0},
		{"stays complete when pods fail later", observed(deployment(3, seen(3), progress("True", "NewReplicaSetAvailable", time.Hour)), rs(deployment(3), "v1", 1, 3, 1, 3)), "False MinimumReplicasUnavailable", "True NewReplicaSetAvailable", "", 0},
		{"timed out", observed(deployment(3, seen(1), progress("True", "ReplicaSetUpdated", 10*time.Minute)), rs(deployment(3), "v1", 1, 3, 1, 3)), "False MinimumReplicasUnavailable", "False ProgressDeadlineExceeded", "", 0},
		{"progress after the timeout", observed(deployment(3, seen(1), progress("False", "ProgressDeadlineExceeded", time.Hour)), rs(deployment(3), "v1", 1, 3, 2, 3)), "False MinimumReplicasUnavailable", "True ReplicaSetUpdated", "", 600 * time.Second},
		{"paused", observed(deployment(3, paused, seen(3)), rs(deployment(3), "v1", 1, 3, 3, 3)), "True MinimumReplicasAvailable", "Unknown DeploymentPaused", "", 0},
		{"a timeout outlives a pause", observed(deployment(3, paused, seen(3), progress("False", "ProgressDeadlineExceeded", time.Hour)), rs(deployment(3), "v1", 1, 3, 3, 3)), "True MinimumReplicasAvailable", "False ProgressDeadlineExceeded", "", 0},
		{"resumed", observed(deployment(3, seen(1), progress("Unknown", "DeploymentPaused", time.Hour)), rs(deployment(3), "v1", 1, 3, 1, 3)), "False MinimumReplicasUnavailable", "Unknown DeploymentResumed", "", 600 * time.Second},
		{"without a deadline", observed(deployment(3, noDeadlineSet, progress("True", "ReplicaSetUpdated", time.Hour)), rs(deployment(3), "v1", 1, 3, 1, 3)), "False MinimumReplicasUnavailable", "", "", 0},
		{"pods cannot be made", observed(deployment(3, seen(0), progress("True", "ReplicaSetUpdated", 0)), failing), "False MinimumReplicasUnavailable", "True ReplicaSetUpdated", "True FailedCreate", 600 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res := Plan(tt.in)
			st := statusOf(t, res)
			for what, pair := range map[string][2]string{
				"Available":      {condition(st, appsv1.DeploymentAvailable), tt.available},
				"Progressing":    {condition(st, appsv1.DeploymentProgressing), tt.progress},
				"ReplicaFailure": {condition(st, appsv1.DeploymentReplicaFailure), tt.failure},
			} {
				if pair[0] != pair[1] {
					t.Errorf("%s is %q, want %q", what, pair[0], pair[1])
				}
			}
			if res.After != tt.after {
				t.Errorf("again after %v, want %v", res.After, tt.after)
			}
		})
	}
}

// The transition time tells since when the status holds, the update time when
// there was progress last.
func TestConditionTimes(t *testing.T) {
	in := observed(deployment(3, progress("True", "ReplicaSetUpdated", time.Minute)), rs(deployment(3), "v1", 1, 3, 2, 3))
	c := find(statusOf(t, Plan(in)).Conditions, appsv1.DeploymentProgressing)
	if !c.LastUpdateTime.Time.Equal(now) || !c.LastTransitionTime.Time.Equal(now.Add(-time.Minute)) {
		t.Errorf("progress: updated %v, transition %v", c.LastUpdateTime, c.LastTransitionTime)
	}
	in = observed(deployment(3, progress("False", "ProgressDeadlineExceeded", time.Minute)), rs(deployment(3), "v1", 1, 3, 2, 3))
	if c := find(statusOf(t, Plan(in)).Conditions, appsv1.DeploymentProgressing); !c.LastTransitionTime.Time.Equal(now) {
		t.Errorf("the status has changed, but the transition was at %v", c.LastTransitionTime)
	}
}

func TestCreateFailure(t *testing.T) {
	o := observed(deployment(3))
	o.CreateFailure = "exceeded quota"
	res := Plan(o)
	if res.Actions[0].Ref.Sub != "status" || res.Actions[1].Verb != plan.Create {
		t.Errorf("the status must go before what will fail again: %v", res.Actions)
	}
	st := statusOf(t, res)
	c := find(st.Conditions, appsv1.DeploymentProgressing)
	if condition(st, appsv1.DeploymentProgressing) != "False ReplicaSetCreateError" || !strings.HasSuffix(c.Message, ": exceeded quota") {
		t.Errorf("condition %+v", c)
	}
}

func TestStatusCounters(t *testing.T) {
	two := int32(2)
	old, cur := rs(deployment(4), "v1", 1, 3, 2, 4), rs(deployment(4), "v2", 2, 2, 1, 4)
	old.Status.TerminatingReplicas = &two
	// One of the five is scaled away in the same pass, so one of four is missing.
	st := statusOf(t, Plan(observed(deployment(4, image("v2"), func(d *appsv1.Deployment) { d.Generation = 9 }), old, cur)))
	if st.Replicas != 5 || st.UpdatedReplicas != 2 || st.ReadyReplicas != 3 || st.AvailableReplicas != 3 || st.UnavailableReplicas != 1 || *st.TerminatingReplicas != 2 || st.ObservedGeneration != 9 {
		t.Errorf("status %+v", st)
	}
}

func TestLimits(t *testing.T) {
	pct, n := intstr.FromString, intstr.FromInt32
	for _, tt := range []struct {
		replicas           int32
		surge, unavailable intstr.IntOrString
		wantS, wantU       int32
	}{
		{10, pct("25%"), pct("25%"), 3, 2}, {3, pct("25%"), pct("25%"), 1, 0}, {1, n(0), pct("25%"), 0, 1},
		{2, n(5), n(5), 5, 2}, {0, n(1), n(0), 1, 0}, {10, n(0), n(0), 0, 1}, {4, pct("100%"), pct("100%"), 4, 4},
	} {
		s, u := limits(deployment(tt.replicas, bounds(tt.surge, tt.unavailable)))
		if s != tt.wantS || u != tt.wantU {
			t.Errorf("%d replicas, %s and %s: %d and %d, want %d and %d", tt.replicas, tt.surge.String(), tt.unavailable.String(), s, u, tt.wantS, tt.wantU)
		}
	}
}

func anyObserved(t *rapid.T) Observed {
	replicas := rapid.Int32Range(0, 20).Draw(t, "replicas")
	opts := []option{image(fmt.Sprint("v", rapid.IntRange(1, 4).Draw(t, "version"))),
		bounds(intstr.FromInt32(rapid.Int32Range(0, 5).Draw(t, "surge")), intstr.FromInt32(rapid.Int32Range(0, 5).Draw(t, "unavailable")))}
	if rapid.Bool().Draw(t, "recreate") {
		opts = append(opts, recreate)
	}
	if rapid.IntRange(0, 4).Draw(t, "pause") == 0 {
		opts = append(opts, paused)
	}
	d := deployment(replicas, opts...)
	var sets []*appsv1.ReplicaSet
	for v := 1; v <= 3; v++ {
		if !rapid.Bool().Draw(t, "exists") {
			continue
		}
		size := rapid.Int32Range(0, 20).Draw(t, "size")
		s := rs(d, fmt.Sprint("v", v), v, size, rapid.Int32Range(0, size).Draw(t, "available"), rapid.Int32Range(0, 20).Draw(t, "desired"))
		switch rapid.IntRange(0, 9).Draw(t, "owner") {
		case 0:
			s.OwnerReferences = nil
		case 1:
			s.Labels = map[string]string{"app": "other"}
		case 2:
			s.OwnerReferences, s.Labels = nil, map[string]string{"app": "other"}
		}
		sets = append(sets, s)
	}
	return observed(d, sets...)
}

func TestPlanTouchesOnlyItsOwn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := anyObserved(t)
		res := Plan(o)
		if len(res.Actions) > 8 {
			t.Fatalf("%d actions in one pass", len(res.Actions))
		}
		seen := map[string]bool{}
		for _, a := range res.Actions {
			if key := string(a.Verb) + a.Ref.String(); seen[key] {
				t.Fatalf("%s twice in one pass", key)
			} else {
				seen[key] = true
			}
			if a.Ref.Kind == kinds.Deployment || a.Verb == plan.Create {
				continue
			}
			i := slices.IndexFunc(o.Owned, func(s *appsv1.ReplicaSet) bool { return s.Name == a.Ref.Name })
			if i >= 0 && o.Owned[i].Labels["app"] != "web" && a.Verb != plan.Patch {
				t.Fatalf("%s of a set that is not selected", a.Verb)
			}
			if i < 0 {
				j := slices.IndexFunc(o.Orphans, func(s *appsv1.ReplicaSet) bool { return s.Name == a.Ref.Name })
				if a.Verb != plan.Patch || o.Orphans[j].Labels["app"] != "web" {
					t.Fatalf("%s of an orphan %s", a.Verb, a.Ref.Name)
				}
			}
		}
	})
}

func TestInputOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := anyObserved(t)
		a := summary(o, Plan(o))
		rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)).Shuffle(len(o.Owned), func(i, j int) { o.Owned[i], o.Owned[j] = o.Owned[j], o.Owned[i] })
		b := summary(o, Plan(o))
		slices.Sort(a)
		slices.Sort(b)
		if !slices.Equal(a, b) {
			t.Fatalf("%q\n%q", a, b)
		}
	})
}
