package devicetaint

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/plan"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// pod on a node that names a claim.
func pod(name, claim string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, UID: types.UID("u-" + name)},
		Spec:       corev1.PodSpec{NodeName: "n", ResourceClaims: []corev1.PodResourceClaim{{Name: "c", ResourceClaimName: &claim}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

// taint that evicts, "key" or "key=value", that many seconds after noon.
func taint(s string, after int) *resourcev1.DeviceTaint {
	key, value, _ := strings.Cut(s, "=")
	return &resourcev1.DeviceTaint{Key: key, Value: value, Effect: resourcev1.DeviceTaintEffectNoExecute, TimeAdded: &metav1.Time{Time: noon.Add(time.Duration(after) * time.Second)}}
}

// toleration of a key; below zero seconds: for ever.
func toleration(key string, seconds int64) resourcev1.DeviceToleration {
	t := resourcev1.DeviceToleration{Key: key, Operator: resourcev1.DeviceTolerationOpExists, Effect: resourcev1.DeviceTaintEffectNoExecute}
	if seconds != forEver {
		t.TolerationSeconds = &seconds
	}
	return t
}

const forEver = -1 << 63

// describe a result: one line per action, event or wait.
func describe(r plan.Result) string {
	var out []string
	for _, a := range r.Actions {
		line := fmt.Sprintf("%s %s", a.Verb, a.Ref)
		if a.UID != "" {
			line += " " + string(a.UID)
		}
		if a.Event != nil {
			line += ": " + a.Event.Reason + ": " + a.Event.Message
		}
		out = append(out, line)
	}
	if r.After != 0 {
		out = append(out, "after "+r.After.String())
	}
	return strings.Join(out, "\n")
}

func evicted(why string) string {
	return "patch pods a/p/status u-p\ndelete pods a/p u-p: DeviceTaintManagerEviction: Marking for deletion: device d/pool/one has the taint " + why
}

func TestPlan(t *testing.T) {
	rule := &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: "r"}}
	all := resourcev1.DeviceToleration{Operator: resourcev1.DeviceTolerationOpExists}
	brief := int64(5)
	allBriefly := all
	allBriefly.TolerationSeconds = &brief
	valued := resourcev1.DeviceToleration{Key: "k", Value: "v", Effect: resourcev1.DeviceTaintEffectNoExecute}
	schedule := resourcev1.DeviceToleration{Key: "k", Operator: resourcev1.DeviceTolerationOpExists, Effect: resourcev1.DeviceTaintEffectNoSchedule}
	type taints = []*resourcev1.DeviceTaint
	type tolerations = []resourcev1.DeviceToleration
	for _, tt := range []struct {
		name        string
		taints      taints
		tolerations tolerations
		want        string
	}{
		{"no taint", nil, nil, ""},
		{"not tolerated", taints{taint("k=v", -9)}, nil, evicted("k=v:NoExecute of its driver")},
		{"another is tolerated", taints{taint("k", -9)}, tolerations{toleration("l", forEver)}, evicted("k=:NoExecute of its driver")},
		{"another value is tolerated", taints{taint("k=w", -9)}, tolerations{valued}, evicted("k=w:NoExecute of its driver")},
		{"another effect is tolerated", taints{taint("k", -9)}, tolerations{schedule}, evicted("k=:NoExecute of its driver")},
		{"tolerated for ever", taints{taint("k=v", -9)}, tolerations{valued}, ""},
		{"tolerated for ever, whatever it is", taints{taint("k", -9)}, tolerations{all}, ""},
		{"seconds only count for this effect", taints{taint("k", -9)}, tolerations{allBriefly}, ""},
		{"one of two tolerations has no end", taints{taint("k", -9)}, tolerations{toleration("k", 1), toleration("k", forEver)}, ""},
		{"for a while", taints{taint("k", -9)}, tolerations{toleration("k", 30)}, "after 21s"},
		{"for a while that is over", taints{taint("k", -30)}, tolerations{toleration("k", 30)}, evicted("k=:NoExecute of its driver")},
		{"the shortest counts", taints{taint("k", -9)}, tolerations{toleration("k", 30), toleration("k", 10), toleration("k", 20)}, "after 1s"},
		{"less than none is none", taints{taint("k", 0)}, tolerations{toleration("k", -30)}, evicted("k=:NoExecute of its driver")},
		{"a huge number", taints{taint("k", 0)}, tolerations{toleration("k", 1<<62)}, "after 87840h0m0s"},
		{"added in the future", taints{taint("k", 7)}, nil, "after 7s"},
		{"the sooner of two", taints{taint("k", 0), taint("l", -5)}, tolerations{toleration("k", 9), toleration("l", 9)}, "after 4s"},
		{"one of two is not tolerated", taints{taint("k", 0), taint("l", 0)}, tolerations{toleration("k", forEver)}, evicted("l=:NoExecute of its driver")},
		{"without a time", taints{{Key: "k", Effect: resourcev1.DeviceTaintEffectNoExecute}}, nil, evicted("k=:NoExecute of its driver")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Device{DeviceRequestAllocationResult: &resourcev1.DeviceRequestAllocationResult{Driver: "d", Pool: "pool", Device: "one", Tolerations: tt.tolerations}}
			for _, taint := range tt.taints {
				d.Taints = append(d.Taints, Taint{DeviceTaint: taint})
			}
			o := Observed{Pod: pod("p", "c"), Now: noon, Devices: []Device{{DeviceRequestAllocationResult: &resourcev1.DeviceRequestAllocationResult{}}, d}}
			if got := describe(Plan(o)); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			for i := range d.Taints {
				d.Taints[i].Rule = rule
			}
			if got, want := describe(Plan(o)), strings.ReplaceAll(tt.want, "its driver", "DeviceTaintRule r"); got != want {
				t.Errorf("by a rule, got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestPlanRule(t *testing.T) {
	rule := func(effect resourcev1.DeviceTaintEffect, told int64, reason, message string) *resourcev1.DeviceTaintRule {
		r := &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: "r", UID: "u-r", Generation: 2}}
		r.Spec.Taint.Effect = effect
		if told > 0 {
			c := metav1.Condition{Type: "EvictionInProgress", Status: metav1.ConditionFalse, ObservedGeneration: told, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(noon.Add(-time.Hour))}
			if reason == "PodsPendingEviction" {
				c.Status = metav1.ConditionTrue
			}
			r.Status.Conditions = []metav1.Condition{c}
		}
		return r
	}
	ago := func(seconds int) time.Time { return noon.Add(-time.Duration(seconds) * time.Second) }
	const none, schedule, execute = resourcev1.DeviceTaintEffectNone, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNoExecute
	const dry = " if the effect was NoExecute. This information will not be updated again. Recreate the DeviceTaintRule to trigger an update."
	for _, tt := range []struct {
		name string
		o    Effect
		want string // the condition: status, whether it is new, reason, message; or the wait
	}{
		{"new", Effect{Rule: rule(execute, 0, "", "")}, "False now NotStarted "},
		{"new, with pods", Effect{Rule: rule(execute, 0, "", ""), Pods: 2, Namespaces: 2}, "True now PodsPendingEviction 2 pods need to be evicted in 2 different namespaces."},
		{"of another spec, at once", Effect{Rule: rule(execute, 1, "NotStarted", ""), Pods: 1, Namespaces: 1, Since: ago(1)}, "True now PodsPendingEviction 1 pod needs to be evicted in 1 namespace."},
		{"as told", Effect{Rule: rule(execute, 2, "NotStarted", "")}, ""},
		{"changed just now", Effect{Rule: rule(execute, 2, "NotStarted", ""), Pods: 1, Namespaces: 1, Since: ago(0)}, "after 10s"},
		{"changed 4 s ago", Effect{Rule: rule(execute, 2, "NotStarted", ""), Pods: 1, Namespaces: 1, Since: ago(4)}, "after 6s"},
		{"changed 10 s ago", Effect{Rule: rule(execute, 2, "NotStarted", ""), Pods: 1, Namespaces: 1, Since: ago(10)}, "True now PodsPendingEviction 1 pod needs to be evicted in 1 namespace."},
		{"under way", Effect{Rule: rule(execute, 2, "PodsPendingEviction", "3 pods need to be evicted in 1 namespace."), Pods: 1, Namespaces: 1, Evicted: 2, Since: ago(10)},
			"True then PodsPendingEviction 1 pod needs to be evicted in 1 namespace. 2 pods evicted since starting the controller."},
		{"done", Effect{Rule: rule(execute, 2, "PodsPendingEviction", "1 pod needs to be evicted in 1 namespace."), Evicted: 1, Since: ago(10)}, "False now Completed 1 pod evicted since starting the controller."},
		{"done by another process", Effect{Rule: rule(execute, 2, "PodsPendingEviction", "1 pod needs to be evicted in 1 namespace."), Since: ago(10)}, "False now Completed "},
		{"done long ago", Effect{Rule: rule(execute, 2, "Completed", "1 pod evicted since starting the controller.")}, ""},
		{"dry run", Effect{Rule: rule(none, 1, "Completed", ""), Published: 1, Allocated: 2, Pods: 1, Namespaces: 1},
			"False then NoEffect 1 published device selected. 2 allocated devices selected. 1 pod would be evicted in 1 namespace" + dry},
		{"dry run of several", Effect{Rule: rule(none, 0, "", ""), Published: 2, Allocated: 1, Pods: 3, Namespaces: 2, Evicted: 1},
			"False now NoEffect 2 published devices selected. 1 allocated device selected. 3 pods would be evicted in 2 different namespaces" + dry + " 1 pod evicted since starting the controller."},
		{"dry run, told once", Effect{Rule: rule(none, 2, "NoEffect", "old"), Pods: 3, Namespaces: 2}, ""},
		{"another effect", Effect{Rule: rule(schedule, 0, "", ""), Pods: 3, Namespaces: 2}, "False now OtherEffect Eviction only happens for the NoExecute effect."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Now = noon
			r := PlanRule(tt.o)
			got := describe(r)
			if len(r.Actions) == 1 {
				if got != "patch devicetaintrules.resource.k8s.io r/status u-r" {
					t.Errorf("it does %s", got)
				}
				got = said(t, r.Actions[0].Data)
			}
			if got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}
