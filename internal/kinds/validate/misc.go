package validate

import (
	"fmt"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Lease judges a new lease.
func Lease(l *coordinationv1.Lease) field.ErrorList {
	e := meta(&l.ObjectMeta, true, subdomain)
	e.lease(&l.Spec)
	return e.list
}

// LeaseUpdate judges a changed one.
func LeaseUpdate(l, old *coordinationv1.Lease) field.ErrorList {
	e := metaUpdate(&l.ObjectMeta, &old.ObjectMeta)
	e.lease(&l.Spec)
	return e.list
}

func (e *errors) lease(spec *coordinationv1.LeaseSpec) {
	if s := spec.LeaseDurationSeconds; s != nil && *s <= 0 {
		e.invalid(specPath.Child("leaseDurationSeconds"), *s, "must be greater than 0")
	}
	if n := spec.LeaseTransitions; n != nil && *n < 0 {
		e.invalid(specPath.Child("leaseTransitions"), *n, "must be greater than or equal to 0")
	}
	if spec.Strategy != nil {
		e.forbid(specPath.Child("strategy"), "coordinated leader election is "+notYet)
	}
	if spec.PreferredHolder != nil {
		e.forbid(specPath.Child("preferredHolder"), "coordinated leader election is "+notYet)
	}
}

// User-made priorities end where the system's begin.
const (
	highestUserPriority = 1_000_000_000
	systemClassPrefix   = "system-"
)

var systemClasses = map[string]int32{
	"system-node-critical":    2*highestUserPriority + 1000,
	"system-cluster-critical": 2 * highestUserPriority,
}

// PriorityClass judges a new class.
func PriorityClass(pc *schedulingv1.PriorityClass) field.ErrorList {
	e := meta(&pc.ObjectMeta, false, subdomain)
	if strings.HasPrefix(pc.Name, systemClassPrefix) {
		if value, ok := systemClasses[pc.Name]; !ok || value != pc.Value || pc.GlobalDefault {
			e.forbid(metaPath.Child("name"), "priority class names with '"+systemClassPrefix+"' prefix are reserved for system use only. error: "+
				systemClassMistake(pc, ok, value))
		}
	} else if pc.Value > highestUserPriority {
		e.forbid(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %d", highestUserPriority))
	}
	if pc.PreemptionPolicy != nil {
		in(e, field.NewPath("preemptionPolicy"), *pc.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	return e.list
}

func systemClassMistake(pc *schedulingv1.PriorityClass, known bool, value int32) string {
	switch {
	case !known:
		return pc.Name + " is not a known system priority class"
	case pc.Value != value:
		return fmt.Sprintf("value of %v PriorityClass must be %v", pc.Name, value)
	}
	return fmt.Sprintf("globalDefault of %v PriorityClass must be %v", pc.Name, false)
}

// PriorityClassUpdate judges a changed class: pods have copied its value.
func PriorityClassUpdate(pc, old *schedulingv1.PriorityClass) field.ErrorList {
	e := metaUpdate(&pc.ObjectMeta, &old.ObjectMeta)
	if pc.Value != old.Value {
		e.forbid(field.NewPath("value"), "may not be changed in an update.")
	}
	e.immutable(field.NewPath("preemptionPolicy"), pc.PreemptionPolicy, old.PreemptionPolicy)
	return e.list
}

// Bounds of an event's texts, as the API documents them.
const (
	maxEventField = 128
	maxEventNote  = 1024
)

// event is what both forms of an event have in common.
type event struct {
	*errors
	meta             *metav1.ObjectMeta
	namespace        string // of the object that it is about
	namespaceField   *field.Path
	reporter         string
	reporterField    string
	instance, action string
	reason, note     string
	noteField        string
	timed            bool
}

// Event judges a new event in core's form.
func Event(ev *corev1.Event) field.ErrorList {
	e := meta(&ev.ObjectMeta, true, subdomain)
	e.coreEvent(ev)
	return e.list
}

// EventUpdate judges a changed one.
func EventUpdate(ev, old *corev1.Event) field.ErrorList {
	e := metaUpdate(&ev.ObjectMeta, &old.ObjectMeta)
	e.coreEvent(ev)
	return e.list
}

func (e *errors) coreEvent(ev *corev1.Event) {
	event{
		errors: e, meta: &ev.ObjectMeta,
		namespace: ev.InvolvedObject.Namespace, namespaceField: field.NewPath("involvedObject", "namespace"),
		reporter: ev.ReportingController, reporterField: "reportingComponent",
		instance: ev.ReportingInstance, action: ev.Action, reason: ev.Reason, note: ev.Message, noteField: "message",
		timed: !ev.EventTime.IsZero(),
	}.check()
}

// check: an event lives where its object lives, those of cluster-scoped
// objects in default. What carries an eventTime follows the newer rules.
func (v event) check() {
	const elsewhere = "does not match event.namespace"
	switch ns := v.meta.Namespace; {
	case v.namespace == "":
		if ns != metav1.NamespaceDefault && (ns != metav1.NamespaceSystem || !v.timed) {
			v.invalid(v.namespaceField, v.namespace, elsewhere)
		}
	case v.namespace != ns && !v.timed:
		v.invalid(v.namespaceField, v.namespace, elsewhere)
	}
	if !v.timed {
		return
	}
	if v.reporter == "" {
		v.required(field.NewPath(v.reporterField))
	} else {
		v.qualifiedName(field.NewPath(v.reporterField), v.reporter)
	}
	for _, f := range []struct{ name, value string }{{"reportingInstance", v.instance}, {"action", v.action}, {"reason", v.reason}} {
		p := field.NewPath(f.name)
		if f.value == "" {
			v.required(p)
		}
		if len(f.value) > maxEventField {
			v.invalid(p, "", fmt.Sprintf("can have at most %v characters", maxEventField))
		}
	}
	if len(v.note) > maxEventNote {
		v.invalid(field.NewPath(v.noteField), "", fmt.Sprintf("can have at most %v characters", maxEventNote))
	}
}

// EventsEvent judges a new event in its own group's form.
func EventsEvent(ev *eventsv1.Event) field.ErrorList {
	e := meta(&ev.ObjectMeta, true, subdomain)
	if ev.EventTime.IsZero() {
		e.required(field.NewPath("eventTime"))
	}
	e.eventsEvent(ev)
	if ev.Type != corev1.EventTypeNormal && ev.Type != corev1.EventTypeWarning {
		e.invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", ev.Type))
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"deprecatedFirstTimestamp", !ev.DeprecatedFirstTimestamp.IsZero()}, {"deprecatedLastTimestamp", !ev.DeprecatedLastTimestamp.IsZero()},
		{"deprecatedCount", ev.DeprecatedCount != 0}, {"deprecatedSource", ev.DeprecatedSource != (corev1.EventSource{})},
	} {
		if f.set {
			e.invalid(field.NewPath(f.name), "", "needs to be unset")
		}
	}
	return e.list
}

// EventsEventUpdate judges a changed one: only its series goes on.
func EventsEventUpdate(ev, old *eventsv1.Event) field.ErrorList {
	e := metaUpdate(&ev.ObjectMeta, &old.ObjectMeta)
	if !old.EventTime.IsZero() {
		e.eventsEvent(ev)
	}
	for _, f := range []struct {
		name    string
		is, was any
	}{
		{"regarding", ev.Regarding, old.Regarding}, {"related", ev.Related, old.Related}, {"reason", ev.Reason, old.Reason},
		{"note", ev.Note, old.Note}, {"type", ev.Type, old.Type}, {"eventTime", ev.EventTime, old.EventTime},
		{"action", ev.Action, old.Action}, {"reportingController", ev.ReportingController, old.ReportingController},
		{"reportingInstance", ev.ReportingInstance, old.ReportingInstance},
	} {
		e.immutable(field.NewPath(f.name), f.is, f.was)
	}
	return e.list
}

func (e *errors) eventsEvent(ev *eventsv1.Event) {
	event{
		errors: e, meta: &ev.ObjectMeta,
		namespace: ev.Regarding.Namespace, namespaceField: field.NewPath("regarding", "namespace"),
		reporter: ev.ReportingController, reporterField: "reportingController",
		instance: ev.ReportingInstance, action: ev.Action, reason: ev.Reason, note: ev.Note, noteField: "note",
		timed: true,
	}.check()
	if s := ev.Series; s != nil {
		if s.Count < 2 {
			e.invalid(field.NewPath("series", "count"), "", "should be at least 2")
		}
		if s.LastObservedTime.IsZero() {
			e.required(field.NewPath("series", "lastObservedTime"))
		}
	}
}
