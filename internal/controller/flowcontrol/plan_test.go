package flowcontrol

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

var now = time.Unix(1_000_000, 0)

// settled is a cluster in which there is nothing to do.
func settled() Observed {
	o := Observed{Standard: upstream(), Now: now}
	for i := 0; ; i++ {
		res := Plan(o)
		if len(res.Actions) == 0 {
			return o
		}
		if i > 3 {
			panic("it never settles")
		}
		apply(&o, res)
	}
}

func apply(o *Observed, res plan.Result) {
	for _, a := range res.Actions {
		name := a.Ref.Name
		o.Schemas = slices.DeleteFunc(slices.Clone(o.Schemas), func(f *flowcontrolv1.FlowSchema) bool { return a.Ref.Kind == kinds.FlowSchema && f.Name == name })
		o.Levels = slices.DeleteFunc(slices.Clone(o.Levels), func(l *flowcontrolv1.PriorityLevelConfiguration) bool {
			return a.Ref.Kind == kinds.PriorityLevelConfiguration && l.Name == name
		})
		switch obj := a.Object.(type) {
		case *flowcontrolv1.FlowSchema:
			if a.Verb == plan.Create {
				obj.Generation, obj.UID = 1, types.UID(name)
			}
			o.Schemas = append(o.Schemas, obj)
		case *flowcontrolv1.PriorityLevelConfiguration:
			if a.Verb == plan.Create {
				obj.Generation, obj.UID = 1, types.UID(name)
			}
			o.Levels = append(o.Levels, obj)
		}
	}
}

func (o *Observed) schema(name string) *flowcontrolv1.FlowSchema {
	i := slices.IndexFunc(o.Schemas, func(f *flowcontrolv1.FlowSchema) bool { return f.Name == name })
	o.Schemas[i] = o.Schemas[i].DeepCopy()
	return o.Schemas[i]
}

func (o *Observed) level(name string) *flowcontrolv1.PriorityLevelConfiguration {
	i := slices.IndexFunc(o.Levels, func(l *flowcontrolv1.PriorityLevelConfiguration) bool { return l.Name == name })
	o.Levels[i] = o.Levels[i].DeepCopy()
	return o.Levels[i]
}

func lines(res plan.Result) []string {
	var out []string
	for _, a := range res.Actions {
		out = append(out, fmt.Sprintf("%s %s", a.Verb, strings.Replace(a.Ref.String(), "."+flowcontrolv1.GroupName, "", 1)))
	}
	return out
}

func TestPlan(t *testing.T) {
	const follows = flowcontrolv1.AutoUpdateAnnotationKey
	for _, tt := range []struct {
		name   string
		change func(*Observed)
		want   []string
	}{
		{"nothing", func(*Observed) {}, nil},
		{"suggested gone", func(o *Observed) {
			o.Schemas = slices.DeleteFunc(o.Schemas, func(f *flowcontrolv1.FlowSchema) bool { return f.Name == "probes" })
		}, []string{"create flowschemas probes"}},
		{"mandatory changed", func(o *Observed) {
			f := o.schema("catch-all")
			f.Annotations[follows], f.Spec.MatchingPrecedence = "false", 9999
		}, []string{"update flowschemas catch-all"}},
		{"suggested changed but ours", func(o *Observed) { o.schema("probes").Spec.MatchingPrecedence = 3 }, []string{"update flowschemas probes"}},
		{"suggested taken over", func(o *Observed) {
			f := o.schema("probes")
			f.Annotations[follows], f.Spec.MatchingPrecedence = "false", 3
		}, nil},
		{"not marked, never changed", func(o *Observed) {
			l := o.level("system")
			delete(l.Annotations, follows)
			l.Spec.Limited.LendablePercent = nil
		}, []string{"update prioritylevelconfigurations system"}},
		{"not marked, changed", func(o *Observed) {
			l := o.level("system")
			l.Annotations, l.Generation = nil, 2
		}, []string{"update prioritylevelconfigurations system"}}, // it gets the mark false
		{"lends", func(o *Observed) { n := int32(50); o.level("exempt").Spec.Exempt.LendablePercent = &n }, nil},
		{"of an older version", func(o *Observed) {
			o.Levels = append(o.Levels, &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "old", UID: "u", Annotations: map[string]string{follows: "true"}}})
		}, []string{"delete prioritylevelconfigurations old"}},
		{"of a user", func(o *Observed) {
			o.Levels = append(o.Levels, &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "mine", Annotations: map[string]string{follows: "maybe"}}})
		}, nil},
		{"new schema", func(o *Observed) {
			o.Schemas = append(o.Schemas, &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: flowcontrolv1.FlowSchemaSpec{
				PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "none"}}})
		}, []string{"update flowschemas mine/status"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := settled()
			tt.change(&o)
			res := Plan(o)
			if got := lines(res); !slices.Equal(got, tt.want) {
				t.Fatalf("got %q\nwant %q", got, tt.want)
			}
			other := o
			other.Schemas, other.Levels = slices.Clone(o.Schemas), slices.Clone(o.Levels)
			slices.Reverse(other.Schemas)
			slices.Reverse(other.Levels)
			if got := lines(Plan(other)); !slices.Equal(got, tt.want) {
				t.Errorf("the order of the input matters: %q", got)
			}
			apply(&o, res)
			if again := lines(Plan(o)); tt.name != "suggested gone" && len(again) > 0 {
				t.Errorf("planned again after applying: %q", again)
			}
		})
	}
}

func TestDangling(t *testing.T) {
	o := settled()
	condition := func(name string) flowcontrolv1.FlowSchemaCondition {
		f := o.schema(name)
		if len(f.Status.Conditions) != 1 {
			t.Fatalf("conditions %+v", f.Status.Conditions)
		}
		return f.Status.Conditions[0]
	}
	if c := condition("probes"); c.Type != "Dangling" || c.Status != "False" || c.Reason != "Found" ||
		c.Message != `This FlowSchema references the PriorityLevelConfiguration object named "exempt" and it exists` || !c.LastTransitionTime.Time.Equal(now) {
		t.Errorf("%+v", c)
	}
	f := o.schema("probes")
	f.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] = "false"
	f.Spec.PriorityLevelConfiguration.Name = "nowhere"
	apply(&o, Plan(o))
	if c := condition("probes"); c.Status != "True" || c.Reason != "NotFound" ||
		c.Message != `This FlowSchema references the PriorityLevelConfiguration object named "nowhere" but there is no such object` {
		t.Errorf("%+v", c)
	}
}

func TestBounded(t *testing.T) {
	o := settled()
	for i := range 10 * maxStatus {
		o.Schemas = append(o.Schemas, &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("f", i)}})
	}
	if n := len(Plan(o).Actions); n != maxStatus {
		t.Errorf("%d actions", n)
	}
}
