package cronjob

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
)

// manyMissed starts point to a mistake, say of a clock: a user is told; as
// upstream.
const manyMissed = 100

var errNeverDue = errors.New("time difference between two schedules is less than 1 second")

// parse a schedule with its time zone. It survives the parser, which panics at
// "TZ=" without a space behind it.
func parse(s *batchv1.CronJobSpec) (schedule cron.Schedule, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("invalid schedule format: %v", r)
		}
	}()
	if s.TimeZone != nil && !strings.Contains(s.Schedule, "TZ") {
		return cron.ParseStandard("TZ=" + *s.TimeZone + " " + s.Schedule)
	}
	return cron.ParseStandard(s.Schedule)
}

// missed is the last start that was due after since and up to now, zero if
// there is none, and about how many were. It does not walk through all of
// them: there may be millions.
func missed(schedule cron.Schedule, since, now time.Time) (last time.Time, n int64, err error) {
	first := schedule.Next(since)
	if first.IsZero() {
		return last, 0, errNeverDue // say on a 31st of February
	}
	if now.Before(first) {
		return last, 0, nil
	}
	second := schedule.Next(first)
	if now.Before(second) {
		return first, 1, nil
	}
	every := second.Sub(first).Round(time.Second)
	if every < time.Second {
		return last, 0, errNeverDue
	}
	n = int64(now.Sub(first)/every) + 1
	// One start earlier than the last by this count, as not all are equally far
	// apart.
	for t := schedule.Next(first.Add(time.Duration(n-2) * every)); !t.IsZero() && !t.After(now); t = schedule.Next(t) {
		last = t
	}
	return last, n, nil
}
