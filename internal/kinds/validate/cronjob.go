package validate

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	_ "time/tzdata" // small machines have no time zones of their own

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxCronJobName leaves room for the time in the name of a job: a dash and ten
// digits.
const maxCronJobName = validation.DNS1035LabelMaxLength - 11

// zonePart is a part of a time zone's name, by the rules of the IANA database
// and with the digits of its old names: nothing that leaves the directory of
// time zones.
var zonePart = regexp.MustCompile(`^[A-Za-z\.\-_0-9+]{1,14}$`)

// CronJob judges a new cron job.
func CronJob(c *batchv1.CronJob) field.ErrorList {
	e := meta(&c.ObjectMeta, true, subdomain)
	e.cronJob(&c.Spec, nil)
	if len(c.Name) > maxCronJobName {
		e.invalid(metaPath.Child("name"), c.Name, "must be no more than 52 characters")
	}
	return e.list
}

// CronJobUpdate judges a changed one.
func CronJobUpdate(c, old *batchv1.CronJob) field.ErrorList {
	e := metaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	e.cronJob(&c.Spec, &old.Spec)
	return e.list
}

// CronJobStatusUpdate judges nothing but metadata.
func CronJobStatusUpdate(c, old *batchv1.CronJob) field.ErrorList {
	return metaUpdate(&c.ObjectMeta, &old.ObjectMeta).list
}

// cronJob judges a spec; was is nil for a new one.
func (e *errors) cronJob(s, was *batchv1.CronJobSpec) {
	if at := specPath.Child("schedule"); s.Schedule == "" {
		e.required(at)
	} else {
		e.schedule(at, s, was != nil && strings.Contains(was.Schedule, "TZ"))
	}
	if n := s.StartingDeadlineSeconds; n != nil {
		e.notNegative(specPath.Child("startingDeadlineSeconds"), *n)
	}
	if was == nil || !same(s.TimeZone, was.TimeZone) {
		e.timeZone(specPath.Child("timeZone"), s.TimeZone)
	}
	switch at := specPath.Child("concurrencyPolicy"); s.ConcurrencyPolicy {
	case batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent:
	case "":
		e.required(at)
	default:
		e.add(field.NotSupported(at, s.ConcurrencyPolicy, []batchv1.ConcurrencyPolicy{batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent}))
	}
	job, p := &s.JobTemplate.Spec, specPath.Child("jobTemplate", "spec")
	e.jobSpec(p, job)
	if job.Selector != nil {
		e.invalid(p.Child("selector"), job.Selector, "`selector` will be auto-generated")
	}
	if m := job.ManualSelector; m != nil && *m {
		e.add(field.NotSupported(p.Child("manualSelector"), *m, []string{"nil", "false"}))
	}
	if n := s.SuccessfulJobsHistoryLimit; n != nil {
		e.notNegative(specPath.Child("successfulJobsHistoryLimit"), int64(*n))
	}
	if n := s.FailedJobsHistoryLimit; n != nil {
		e.notNegative(specPath.Child("failedJobsHistoryLimit"), int64(*n))
	}
}

// schedule must be one of cron's; a time zone in it is from before there was a
// field for that, and stays where it was.
func (e *errors) schedule(p *field.Path, s *batchv1.CronJobSpec, hadZone bool) {
	if err := parseSchedule(s.Schedule); err != nil {
		e.invalid(p, s.Schedule, err.Error())
	}
	switch zone := strings.Contains(s.Schedule, "TZ"); {
	case zone && !hadZone:
		e.invalid(p, s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead")
	case zone && s.TimeZone != nil:
		e.invalid(p, s.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule")
	}
}

// parseSchedule survives the parser, which panics at "TZ=" without a space
// behind it.
func parseSchedule(s string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("invalid schedule format: %v", r)
		}
	}()
	_, err = cron.ParseStandard(s)
	return err
}

func (e *errors) timeZone(p *field.Path, zone *string) {
	if zone == nil {
		return
	}
	if *zone == "" {
		e.invalid(p, *zone, "timeZone must be nil or non-empty string")
		return
	}
	for part := range strings.SplitSeq(*zone, "/") {
		if part == "." || part == ".." || strings.HasPrefix(part, "-") || !zonePart.MatchString(part) {
			e.invalid(p, *zone, "unknown time zone "+*zone)
			return
		}
	}
	if strings.EqualFold(*zone, "Local") {
		e.invalid(p, *zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")
	}
	if _, err := time.LoadLocation(*zone); err != nil {
		e.invalid(p, *zone, err.Error())
	}
}
