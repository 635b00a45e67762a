// Package config reads a KubeSchedulerConfiguration. What knarr cannot do is an
// error that says so, and so is what would change nothing.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	configv1 "k8s.io/kube-scheduler/config/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"knarr.dev/knarr/internal/scheduler"
	"knarr.dev/knarr/internal/scheduler/extender"
)

// maxSize of a file. It is far more than anybody writes by hand.
const maxSize = 1 << 20

var errTooLarge = errors.New("it is larger than 1 MiB")

// Configuration is what a scheduler needs to know of one.
type Configuration struct {
	Profiles               []scheduler.Profile
	Extenders              []scheduler.Extender
	MinBackoff, MaxBackoff time.Duration
}

// Read reads a file, and those with keys and certificates that it names.
func Read(file string) (*Configuration, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	c, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return c, nil
}

func parse(data []byte) (*Configuration, error) {
	if len(data) > maxSize {
		return nil, errTooLarge
	}
	data, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, err
	}
	var in configv1.KubeSchedulerConfiguration
	if err := strictly(data, &in); err != nil {
		return nil, err
	}
	if want := configv1.SchemeGroupVersion.String(); in.Kind != "KubeSchedulerConfiguration" || in.APIVersion != want {
		return nil, fmt.Errorf("it is kind %q of %q, not KubeSchedulerConfiguration of %s", in.Kind, in.APIVersion, want)
	}
	setDefaults(&in)
	errs := meaningless(&in)
	errs = append(errs, checkTimes(&in)...)
	out := &Configuration{
		MinBackoff: time.Duration(*in.PodInitialBackoffSeconds) * time.Second,
		MaxBackoff: time.Duration(*in.PodMaxBackoffSeconds) * time.Second,
	}
	profiles, more := profilesOf(&in)
	out.Profiles, errs = profiles, append(errs, more...)
	errs = append(errs, checkExtenders(in.Extenders)...)
	if len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	for i := range in.Extenders {
		e, err := extender.Open(&in.Extenders[i])
		if err != nil {
			return nil, fmt.Errorf("extenders[%d]: %w", i, err)
		}
		out.Extenders = append(out.Extenders, e)
	}
	return out, nil
}

// strictly decodes JSON; a field that is unknown or there twice is an error, in
// upstream's words.
func strictly(data []byte, into any) error {
	strict, err := kjson.UnmarshalStrict(data, into)
	if err != nil {
		return err
	}
	if len(strict) > 0 {
		return runtime.NewStrictDecodingError(strict)
	}
	return nil
}

func setDefaults(c *configv1.KubeSchedulerConfiguration) {
	if len(c.Profiles) == 0 {
		c.Profiles = []configv1.KubeSchedulerProfile{{}}
	}
	if len(c.Profiles) == 1 && c.Profiles[0].SchedulerName == nil {
		c.Profiles[0].SchedulerName = pointer(corev1.DefaultSchedulerName)
	}
	defaultTo(&c.PercentageOfNodesToScore, 0)
	defaultTo(&c.PodInitialBackoffSeconds, 1)
	defaultTo(&c.PodMaxBackoffSeconds, 10)
}

func pointer[T any](v T) *T { return &v }

func defaultTo[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

func checkTimes(c *configv1.KubeSchedulerConfiguration) (errs field.ErrorList) {
	first, longest := *c.PodInitialBackoffSeconds, *c.PodMaxBackoffSeconds
	const most = 1 << 31 // seconds; more would not fit a duration
	if first <= 0 || first > most {
		errs = append(errs, field.Invalid(field.NewPath("podInitialBackoffSeconds"), first, "must be greater than 0"))
	}
	if longest < first || longest > most {
		errs = append(errs, field.Invalid(field.NewPath("podMaxBackoffSeconds"), longest, "must be greater than or equal to PodInitialBackoffSeconds"))
	}
	return append(errs, checkPercentage(field.NewPath("percentageOfNodesToScore"), c.PercentageOfNodesToScore)...)
}

func checkPercentage(path *field.Path, p *int32) field.ErrorList {
	if p != nil && (*p < 0 || *p > 100) {
		return field.ErrorList{field.Invalid(path, *p, "not in valid range [0-100]")}
	}
	return nil
}

// meaningless finds settings of what knarr's scheduler does not have. Their
// defaults may stand there.
func meaningless(c *configv1.KubeSchedulerConfiguration) (errs field.ErrorList) {
	refuse := func(bad bool, value any, why string, path string, more ...string) {
		if bad {
			errs = append(errs, field.Invalid(field.NewPath(path, more...), value, "cannot be set: "+why))
		}
	}
	const (
		elects   = "knarr itself decides which server schedules"
		connects = "the scheduler is in the server's process and has no connection of its own"
		profiles = "no profiles of the process are served"
	)
	l := &c.LeaderElection
	for _, v := range []struct {
		name       string
		have, want any
	}{
		{"leaseDuration", cmp.Or(l.LeaseDuration.Duration, 15*time.Second), 15 * time.Second},
		{"renewDeadline", cmp.Or(l.RenewDeadline.Duration, 10*time.Second), 10 * time.Second},
		{"retryPeriod", cmp.Or(l.RetryPeriod.Duration, 2*time.Second), 2 * time.Second},
		{"resourceLock", cmp.Or(l.ResourceLock, "leases"), "leases"},
		{"resourceName", cmp.Or(l.ResourceName, configv1.SchedulerDefaultLockObjectName), configv1.SchedulerDefaultLockObjectName},
		{"resourceNamespace", cmp.Or(l.ResourceNamespace, configv1.SchedulerDefaultLockObjectNamespace), configv1.SchedulerDefaultLockObjectNamespace},
	} {
		refuse(v.have != v.want, fmt.Sprint(v.have), elects, "leaderElection", v.name)
	}
	refuse(l.LeaderElect != nil && !*l.LeaderElect, false, elects, "leaderElection", "leaderElect")
	cc := &c.ClientConnection
	const protobuf = "application/vnd.kubernetes.protobuf"
	refuse(cc.Kubeconfig != "", cc.Kubeconfig, connects, "clientConnection", "kubeconfig")
	refuse(cc.AcceptContentTypes != "", cc.AcceptContentTypes, connects, "clientConnection", "acceptContentTypes")
	refuse(cmp.Or(cc.ContentType, protobuf) != protobuf, cc.ContentType, connects, "clientConnection", "contentType")
	refuse(cmp.Or(cc.QPS, 50) != 50, cc.QPS, connects, "clientConnection", "qps")
	refuse(cmp.Or(cc.Burst, 100) != 100, cc.Burst, connects, "clientConnection", "burst")
	refuse(c.Parallelism != nil && *c.Parallelism != 16, c.Parallelism, "decisions are not divided", "parallelism")
	refuse(c.EnableProfiling != nil && *c.EnableProfiling, true, profiles, "enableProfiling")
	refuse(c.EnableContentionProfiling != nil && *c.EnableContentionProfiling, true, profiles, "enableContentionProfiling")
	refuse(c.DelayCacheUntilActive, true, "the scheduler shares what the server knows", "delayCacheUntilActive")
	return errs
}
