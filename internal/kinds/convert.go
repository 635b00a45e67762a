package kinds

import (
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
)

// Events are stored in core/v1's form; events.k8s.io/v1 names the same fields
// differently.

func eventFromStored(o Object) Object {
	in := o.(*corev1.Event).DeepCopy()
	out := &eventsv1.Event{
		ObjectMeta: in.ObjectMeta,
		EventTime:  in.EventTime,
		Action:     in.Action, Reason: in.Reason, Type: in.Type, Note: in.Message,
		Regarding: in.InvolvedObject, Related: in.Related,
		ReportingController: in.ReportingController, ReportingInstance: in.ReportingInstance,
		DeprecatedSource:         in.Source,
		DeprecatedFirstTimestamp: in.FirstTimestamp, DeprecatedLastTimestamp: in.LastTimestamp,
		DeprecatedCount: in.Count,
	}
	out.SetGroupVersionKind(eventsv1.SchemeGroupVersion.WithKind("Event"))
	if in.Series != nil {
		out.Series = &eventsv1.EventSeries{Count: in.Series.Count, LastObservedTime: in.Series.LastObservedTime}
	}
	return out
}

func eventToStored(o Object) Object { return coreEvent(o.(*eventsv1.Event).DeepCopy()) }

// coreEvent shares what it points to with in.
func coreEvent(in *eventsv1.Event) *corev1.Event {
	out := &corev1.Event{
		ObjectMeta: in.ObjectMeta,
		EventTime:  in.EventTime,
		Action:     in.Action, Reason: in.Reason, Type: in.Type, Message: in.Note,
		InvolvedObject: in.Regarding, Related: in.Related,
		ReportingController: in.ReportingController, ReportingInstance: in.ReportingInstance,
		Source:         in.DeprecatedSource,
		FirstTimestamp: in.DeprecatedFirstTimestamp, LastTimestamp: in.DeprecatedLastTimestamp,
		Count: in.DeprecatedCount,
	}
	out.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Event"))
	if in.Series != nil {
		out.Series = &corev1.EventSeries{Count: in.Series.Count, LastObservedTime: in.Series.LastObservedTime}
	}
	return out
}
