package storagemigration

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	migrationv1 "k8s.io/api/storagemigration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func observed() Observed {
	o := Observed{Kind: kinds.Secret, Patchable: true, Now: now, Revision: "20"}
	o.Migration = &migrationv1.StorageVersionMigration{ObjectMeta: metav1.ObjectMeta{Name: "m", CreationTimestamp: metav1.NewTime(now)},
		Spec: migrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Resource: "secrets"}}}
	for _, rv := range []string{"9", "20", "21"} {
		o.Objects = append(o.Objects, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "s" + rv, ResourceVersion: rv}})
	}
	return o
}

func after(r plan.Result) *migrationv1.StorageVersionMigration {
	return r.Actions[len(r.Actions)-1].Object.(*migrationv1.StorageVersionMigration)
}

func TestPlan(t *testing.T) {
	o := observed()
	first := Plan(o)
	if len(first.Actions) != 1 || after(first).Status.ResourceVersion != "20" || ended(after(first)) {
		t.Fatalf("%+v", first)
	}
	o.Migration = after(first)
	second := Plan(o)
	if len(second.Actions) != 3 {
		t.Fatalf("%+v", second)
	}
	for i, want := range []string{"9", "20"} { // 21 is newer than the migration
		if a := second.Actions[i]; a.Verb != plan.Patch || a.ResourceVersion != want || a.Ref.Name != "s"+want {
			t.Errorf("%+v", a)
		}
	}
	if m := after(second); !ended(m) || m.Status.Conditions[1].Type != "Succeeded" || m.Status.Conditions[0].Type != "Running" {
		t.Errorf("%+v", m.Status)
	}
	if ended(o.Migration) {
		t.Error("the observed migration was changed")
	}
}

func TestFailures(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Observed)
		want   string // in the Failed condition; empty: it goes on
	}{
		"unknown, young":  {func(o *Observed) { o.Kind = nil }, ""},
		"unknown":         {func(o *Observed) { o.Kind, o.Now = nil, now.Add(patience) }, "does not exist"},
		"cannot be moved": {func(o *Observed) { o.Patchable = false }, "does not support"},
		"busy": {func(o *Observed) {
			o.Failure = &reconcile.Failure{Verb: plan.Patch, Kind: o.Kind, Reason: metav1.StatusReasonTooManyRequests}
		}, ""},
		"invalid": {func(o *Observed) {
			o.Failure = &reconcile.Failure{Verb: plan.Patch, Kind: o.Kind, Reason: metav1.StatusReasonInvalid, Message: "no way"}
		}, "no way"},
	} {
		o := observed()
		c.change(&o)
		r := Plan(o)
		if c.want == "" {
			if len(r.Actions) > 0 && ended(after(r)) || len(r.Actions) == 0 && r.After == 0 {
				t.Errorf("%s: %+v", name, r)
			}
			continue
		}
		if len(r.Actions) != 1 || !ended(after(r)) || !strings.Contains(after(r).Status.Conditions[0].Message, c.want) {
			t.Errorf("%s: %+v", name, r)
		}
	}
}
