package cronjob

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
	"knarr.dev/knarr/internal/view"
)

// now is a Thursday, 12:00:30.
var now = time.Date(2026, 1, 1, 12, 0, 30, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

type cronOption func(*batchv1.CronJob)

// hourly was made at 10:30, and has started its job of 11:00.
func hourly(opts ...cronOption) *batchv1.CronJob {
	c := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c", UID: "cron", CreationTimestamp: metav1.NewTime(now.Add(-90 * time.Minute))},
		Spec: batchv1.CronJobSpec{Schedule: "0 * * * *", ConcurrencyPolicy: batchv1.AllowConcurrent, Suspend: ptr(false),
			SuccessfulJobsHistoryLimit: ptr(int32(3)), FailedJobsHistoryLimit: ptr(int32(1)),
			JobTemplate: batchv1.JobTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"a": "1"}},
				Spec: batchv1.JobSpec{Parallelism: ptr(int32(7))}}},
		Status: batchv1.CronJobStatus{LastScheduleTime: ptr(metav1.NewTime(now.Truncate(time.Hour).Add(-time.Hour)))},
	}
	for _, o := range opts {
		o(c)
	}
	return c
}

func schedules(s string) cronOption { return func(c *batchv1.CronJob) { c.Spec.Schedule = s } }
func zone(z string) cronOption      { return func(c *batchv1.CronJob) { c.Spec.TimeZone = &z } }
func suspend(c *batchv1.CronJob)    { c.Spec.Suspend = ptr(true) }
func leaves(c *batchv1.CronJob)     { c.DeletionTimestamp = ptr(metav1.NewTime(now)) }
func within(seconds int64) cronOption {
	return func(c *batchv1.CronJob) { c.Spec.StartingDeadlineSeconds = &seconds }
}
func last(t time.Time) cronOption {
	return func(c *batchv1.CronJob) { c.Status.LastScheduleTime = ptr(metav1.NewTime(t)) }
}
func policy(p batchv1.ConcurrencyPolicy) cronOption {
	return func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = p }
}
func lists(jobs ...*batchv1.Job) cronOption {
	return func(c *batchv1.CronJob) {
		for _, j := range jobs {
			c.Status.Active = append(c.Status.Active, reference(j))
		}
	}
}

type jobOption func(*batchv1.Job)

// made is the job for a time.
func made(at time.Time, opts ...jobOption) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("c-%d", at.Unix()/60),
		Annotations:     map[string]string{batchv1.CronJobScheduledTimestampAnnotation: at.Format(time.RFC3339)},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "CronJob", Name: "c", UID: "cron", Controller: ptr(true)}}}}
	j.UID = types.UID("u-" + j.Name)
	for _, o := range opts {
		o(j)
	}
	return j
}

func named(name string) jobOption {
	return func(j *batchv1.Job) { j.Name, j.UID, j.Annotations = name, types.UID("u-"+name), nil }
}
func ends(t batchv1.JobConditionType, started time.Time) jobOption {
	return func(j *batchv1.Job) {
		j.Status.StartTime = ptr(metav1.NewTime(started))
		j.Status.Conditions = []batchv1.JobCondition{{Type: t, Status: corev1.ConditionTrue}}
		if t == batchv1.JobComplete {
			j.Status.CompletionTime = ptr(metav1.NewTime(started.Add(time.Minute)))
		}
	}
}
func orphaned(j *batchv1.Job) { j.OwnerReferences = nil }

func observed(c *batchv1.CronJob, jobs ...*batchv1.Job) Observed {
	o := Observed{Cron: c, Now: now, Named: func(name string) *batchv1.Job {
		if i := slices.IndexFunc(jobs, func(j *batchv1.Job) bool { return j.Name == name }); i >= 0 {
			return jobs[i]
		}
		return nil
	}}
	for _, j := range jobs {
		if metav1.GetControllerOf(j) != nil {
			o.Jobs = append(o.Jobs, j)
		}
	}
	return o
}

// summary of actions and events: "create 12:00", "delete a", "status 1 active
// since 11:00", "event X".
func summary(res plan.Result) string {
	var out []string
	events := res.Events
	for _, a := range res.Actions {
		switch {
		case a.Verb == plan.Create:
			at, _ := time.Parse(time.RFC3339, a.Object.(*batchv1.Job).Annotations[batchv1.CronJobScheduledTimestampAnnotation])
			out = append(out, "create "+at.UTC().Format("15:04"))
		case a.Ref.Sub == "status":
			s := a.Object.(*batchv1.CronJob).Status
			out = append(out, fmt.Sprintf("status %d active since %s", len(s.Active), s.LastScheduleTime.UTC().Format("15:04")))
			if a.Event != nil {
				events = append([]plan.Event{*a.Event}, events...)
			}
		default:
			out = append(out, string(a.Verb)+" "+a.Ref.Name)
		}
	}
	for _, e := range events {
		out = append(out, "event "+e.Reason)
	}
	return strings.Join(out, "; ")
}

func TestPlan(t *testing.T) {
	noon, eleven := now.Truncate(time.Hour), now.Truncate(time.Hour).Add(-time.Hour)
	old := made(eleven)
	running := lists(old)
	complete, failed := batchv1.JobComplete, batchv1.JobFailed
	for _, tt := range []struct {
		name  string
		in    Observed
		want  string
		after time.Duration
	}{
		{"is due", observed(hourly()), "create 12:00", 59*time.Minute + 30*time.Second},
		{"its job is listed", observed(hourly(), made(noon)), "status 1 active since 12:00", 59*time.Minute + 30*time.Second},
		{"also if it has ended already", observed(hourly(), made(noon, ends(complete, noon))), "status 0 active since 12:00", 59*time.Minute + 30*time.Second},
		{"not due", observed(hourly(last(noon))), "", 59*time.Minute + 30*time.Second},
		{"never yet", observed(hourly(func(c *batchv1.CronJob) { c.Status.LastScheduleTime = nil })), "create 12:00", 59*time.Minute + 30*time.Second},
		{"the last of many", observed(hourly(last(now.AddDate(-3, 0, 0)))), "create 12:00; event TooManyMissedTimes", 59*time.Minute + 30*time.Second},
		{"many, but not within the deadline", observed(hourly(last(now.AddDate(-3, 0, 0)), within(7200))), "create 12:00", 59*time.Minute + 30*time.Second},
		{"too late", observed(hourly(within(10))), "", 59*time.Minute + 30*time.Second},
		{"in time", observed(hourly(within(30))), "", 59*time.Minute + 30*time.Second},
		{"just in time", observed(hourly(within(31))), "create 12:00", 59*time.Minute + 30*time.Second},
		{"suspended", observed(hourly(suspend), made(eleven)), "status 1 active since 11:00", 0},
		{"being deleted", observed(hourly(leaves)), "", 0},
		{"may run at the same time", observed(hourly(running), old), "create 12:00", 59*time.Minute + 30*time.Second},
		{"may not", observed(hourly(running, policy(batchv1.ForbidConcurrent)), old), "event JobAlreadyActive", 59*time.Minute + 30*time.Second},
		{"may once the other has ended", observed(hourly(running, policy(batchv1.ForbidConcurrent)), made(eleven, ends(failed, eleven))), "status 0 active since 11:00; create 12:00; event SawCompletedJob", 59*time.Minute + 30*time.Second},
		{"replaces", observed(hourly(running, policy(batchv1.ReplaceConcurrent)), old), "delete " + old.Name + "; status 0 active since 11:00; create 12:00", 59*time.Minute + 30*time.Second},
		{"a job is missing", observed(hourly(running, last(noon))), "status 0 active since 12:00; event MissingJob", 59*time.Minute + 30*time.Second},
		{"a job has lost its owner", observed(hourly(running, last(noon)), made(eleven, orphaned)), "", 59*time.Minute + 30*time.Second},
		{"made by hand", observed(hourly(last(noon)), made(eleven, named("x"))), "event UnexpectedJob", 59*time.Minute + 30*time.Second},
		{"the name is taken", observed(hourly(), made(noon, orphaned)), "", 59*time.Minute + 30*time.Second},
		{"another time zone", observed(hourly(zone("Asia/Kolkata"))), "create 11:30", 29*time.Minute + 30*time.Second},
		{"no time zone", observed(hourly(zone("No/Where"))), "event UnknownTimeZone", 0},
		{"old time zone", observed(hourly(schedules("TZ=Asia/Kolkata 0 * * * *"))), "create 11:30; event UnsupportedSchedule", 29*time.Minute + 30*time.Second},
		{"no schedule", observed(hourly(schedules("TZ="))), "event UnsupportedSchedule; event UnparseableSchedule", 0},
		{"never due", observed(hourly(schedules("0 0 31 2 *"))), "event InvalidSchedule", 0},
		{"every so long after the last", observed(hourly(schedules("@every 40m"))), "create 11:40", 19*time.Minute + 30*time.Second},
		{"history", observed(hourly(last(noon)), made(noon.Add(-5*time.Hour), ends(complete, noon.Add(-2*time.Hour))), made(noon.Add(-4*time.Hour), ends(complete, noon.Add(-3*time.Hour))),
			made(noon.Add(-3*time.Hour), ends(complete, noon.Add(-90*time.Minute))), made(noon.Add(-2*time.Hour), ends(complete, eleven))),
			"delete " + jobName(hourly(), noon.Add(-4*time.Hour)) + "; status 0 active since 12:00", 59*time.Minute + 30*time.Second},
		{"history of failures", observed(hourly(last(noon)), made(eleven, ends(failed, eleven)), made(noon, ends(failed, noon))), "delete " + old.Name, 59*time.Minute + 30*time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res := Plan(tt.in)
			if got := summary(res); got != tt.want || res.After != tt.after {
				t.Errorf("got  %s after %v\nwant %s after %v", got, res.After, tt.want, tt.after)
			}
		})
	}
}

func TestJobOfTemplate(t *testing.T) {
	j := Plan(observed(hourly(zone("Asia/Kolkata")))).Actions[0].Object.(*batchv1.Job)
	if j.Name != "c-29454450" || j.Namespace != "default" || j.Labels["l"] != "1" || j.Annotations["a"] != "1" || *j.Spec.Parallelism != 7 {
		t.Errorf("job %+v", j)
	}
	if at := j.Annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"]; at != "2026-01-01T17:00:00+05:30" {
		t.Errorf("for %s", at)
	}
	if ref := metav1.GetControllerOf(j); ref == nil || ref.UID != "cron" || ref.Kind != "CronJob" || !*ref.BlockOwnerDeletion {
		t.Errorf("owner %+v", ref)
	}
}

func TestSuccessIsRemembered(t *testing.T) {
	noon := now.Truncate(time.Hour)
	a := Plan(observed(hourly(last(noon)), made(noon, ends(batchv1.JobComplete, noon)), made(noon.Add(-time.Hour), ends(batchv1.JobComplete, noon.Add(-time.Hour))))).Actions[0]
	if s := a.Object.(*batchv1.CronJob).Status; s.LastSuccessfulTime == nil || !s.LastSuccessfulTime.Time.Equal(noon.Add(time.Minute)) {
		t.Errorf("last success %v", s.LastSuccessfulTime)
	}
	gone := Plan(observed(hourly(lists(made(noon)), last(noon)))).Actions[0]
	if len(gone.Live) != 1 || gone.Live[0].Want != plan.Absent || gone.Live[0].UID != made(noon).UID {
		t.Errorf("live checks %+v", gone.Live)
	}
}

// missed agrees with walking through all starts, for schedules that are even.
func TestMissed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SampledFrom([]string{"* * * * *", "*/5 * * * *", "7 * * * *", "30 4 * * *", "@every 90s", "@weekly"}).Draw(t, "schedule")
		s, err := parse(&batchv1.CronJobSpec{Schedule: text})
		if err != nil {
			t.Fatal(err)
		}
		since := now.Add(-time.Duration(rapid.IntRange(0, 20*24*3600).Draw(t, "seconds")) * time.Second)
		var want time.Time
		n := 0
		for at := s.Next(since); !at.After(now); at = s.Next(at) {
			want = at
			n++
		}
		got, about, err := missed(s, since, now)
		if err != nil || !got.Equal(want) || n != int(about) {
			t.Fatalf("%s since %v: %v, %d (%v); want %v, %d", text, since, got, about, err, want, n)
		}
	})
}

func world() *reconciletest.World {
	return reconciletest.New([]*kinds.Kind{kinds.CronJob, kinds.Job}, view.JobsByOwner)
}

// jobs end after they have run for so long.
func jobs(long time.Duration) reconcile.Controller {
	return reconcile.Controller{
		Name: "jobs", For: kinds.Job, Writes: []reconcile.Write{{Kind: kinds.Job, Sub: "status", Verbs: []plan.Verb{plan.Update}}},
		Plan: func(in reconcile.Input) (res plan.Result) {
			j := view.Get[*batchv1.Job](in.View, kinds.Job, in.Key.Namespace, in.Key.Name)
			if j == nil || endOf(j) != "" {
				return res
			}
			if left := j.CreationTimestamp.Add(long).Sub(in.Now); left > 0 {
				res.After = left
				return res
			}
			next := j.DeepCopy()
			ends(batchv1.JobComplete, j.CreationTimestamp.Time)(next)
			res.Actions = []plan.Action{{Verb: plan.Update, Ref: kinds.RefTo(kinds.Job, j).WithSub("status"), Object: next}}
			return res
		},
	}
}

// fresh is a cron job that has just been made.
func fresh(w *reconciletest.World, opts ...cronOption) *batchv1.CronJob {
	c := hourly(opts...)
	c.CreationTimestamp, c.Status = metav1.NewTime(w.Now), batchv1.CronJobStatus{}
	return c
}

// For each time there is one job, made at that time, whatever fails and
// whenever the controller starts anew.
func TestOneJobForEachTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world()
		start := w.Now
		policies := []batchv1.ConcurrencyPolicy{batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent}
		p := rapid.SampledFrom(policies).Draw(t, "policy")
		long := time.Duration(rapid.IntRange(1, 200).Draw(t, "minutes")) * time.Minute
		faults := rapid.IntRange(0, 10).Draw(t, "faults")
		w.Put(kinds.CronJob, fresh(w, policy(p)))
		made := map[string]bool{}
		w.Hook = func(v plan.Verb, ref kinds.Ref, o runtime.Object) error {
			if ref.Kind == kinds.CronJob && (ref.Name != "c" || ref.Sub != "status") {
				t.Fatalf("%s %s", v, ref)
			}
			if faults > 0 && w.Now.Second()%2 == 0 && ref.Sub == "" {
				faults--
				return apierrors.NewInternalError(errors.New("away"))
			}
			if v != plan.Create {
				return nil
			}
			if made[ref.Name] {
				t.Fatalf("%s is made twice", ref.Name)
			}
			made[ref.Name] = true
			active := 0
			for _, j := range w.Objects(kinds.Job) {
				if endOf(j.(*batchv1.Job)) == "" && j.GetDeletionTimestamp() == nil {
					active++
				}
			}
			if p != batchv1.AllowConcurrent && active > 0 {
				t.Fatalf("%d are active, policy %s", active, p)
			}
			return nil
		}
		for range 3 {
			if _, err := w.Drive(rapid.Uint64().Draw(t, "seed"), 1000, 4*time.Hour, Controller(), jobs(long)); err != nil {
				t.Fatal(err)
			}
		}
		if hours := int(w.Now.Sub(start) / time.Hour); p != batchv1.ForbidConcurrent && len(made) != hours {
			t.Fatalf("%d jobs in %d hours", len(made), hours)
		}
		if ended := len(w.Objects(kinds.Job)); p != batchv1.AllowConcurrent && ended > 4 {
			t.Fatalf("%d jobs are kept", ended)
		}
		w.Hook = nil
		// Away from whole minutes, at which jobs end and others begin.
		if _, err := w.Drive(1, 1000, 30*time.Second, Controller(), jobs(long)); err != nil {
			t.Fatal(err)
		}
		n := len(w.Writes)
		if _, err := w.Drive(1, 1000, time.Second, Controller(), jobs(long)); err != nil || len(w.Writes) != n {
			t.Fatalf("at rest, but writes %v (%v)", w.Writes[n:], err)
		}
	})
}

// It is planned when a job is due or changes, and at no other time.
func TestDoesNotPoll(t *testing.T) {
	w := world()
	w.Put(kinds.CronJob, fresh(w))
	c, passes := Controller(), 0
	inner := c.Plan
	c.Plan = func(in reconcile.Input) plan.Result { passes++; return inner(in) }
	if _, err := w.Drive(1, 10000, 24*time.Hour, c, jobs(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if n := len(w.Writes); passes > 10*24 || n == 0 {
		t.Errorf("%d passes in 24 hours, %d writes", passes, n)
	}
}

func TestNewScheduleDoesNotStartThePast(t *testing.T) {
	w := world()
	c := w.Put(kinds.CronJob, fresh(w, schedules("0 0 1 6 *"))).(*batchv1.CronJob)
	ctl := Controller()
	if _, err := w.Drive(1, 100, time.Hour, ctl); err != nil {
		t.Fatal(err)
	}
	w.Now = w.Now.Add(90 * time.Minute)
	changed := c.DeepCopy()
	changed.Spec.Schedule = "0 * * * *"
	w.Put(kinds.CronJob, changed)
	if _, err := w.Drive(1, 100, 10*time.Minute, ctl); err != nil || len(w.Objects(kinds.Job)) != 0 {
		t.Fatalf("%d jobs are started (%v)", len(w.Objects(kinds.Job)), err)
	}
	if _, err := w.Drive(1, 100, 40*time.Minute, ctl); err != nil || len(w.Objects(kinds.Job)) != 1 {
		t.Fatalf("%d jobs are started (%v)", len(w.Objects(kinds.Job)), err)
	}
}

func TestInputOrderDoesNotMatter(t *testing.T) {
	noon := now.Truncate(time.Hour)
	rapid.Check(t, func(t *rapid.T) {
		var all []*batchv1.Job
		for i := range rapid.IntRange(0, 9).Draw(t, "jobs") {
			opts := [][]jobOption{nil, {ends(batchv1.JobComplete, noon)}, {ends(batchv1.JobFailed, noon)}, {named(fmt.Sprint("x", i))}}
			all = append(all, made(noon.Add(-time.Duration(i)*time.Hour), opts[rapid.IntRange(0, 3).Draw(t, "state")]...))
		}
		a := Plan(observed(hourly(), all...))
		b := Plan(observed(hourly(), rapid.Permutation(all).Draw(t, "order")...))
		if summary(a) != summary(b) {
			t.Fatalf("%s\n%s", summary(a), summary(b))
		}
		for _, x := range a.Actions {
			if x.Verb == plan.Delete && !slices.ContainsFunc(all, func(j *batchv1.Job) bool { return j.UID == x.UID && endOf(j) != "" }) {
				t.Fatalf("deletes %s", x.Ref)
			}
		}
	})
}
