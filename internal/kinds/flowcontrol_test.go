package kinds

import (
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
)

func TestFlowcontrolLines(t *testing.T) {
	f := bootstrap.SuggestedFlowSchemaServiceAccounts.DeepCopy()
	f.CreationTimestamp = metav1.NewTime(clock.Add(-60e9))
	f.Status.Conditions = []flowcontrolv1.FlowSchemaCondition{{Type: flowcontrolv1.FlowSchemaConditionDangling, Status: "False"}}
	l := bootstrap.SuggestedPriorityLevelConfigurationSystem.DeepCopy()
	l.CreationTimestamp = f.CreationTimestamp
	x := bootstrap.MandatoryPriorityLevelConfigurationExempt.DeepCopy()
	x.CreationTimestamp = f.CreationTimestamp
	for _, tt := range []struct {
		kind *Kind
		obj  Object
		want string
	}{
		{FlowSchema, f, "service-accounts workload-low 9000 ByUser 60s False"},
		{PriorityLevelConfiguration, l, "system Limited 30 64 6 50 60s"},
		{PriorityLevelConfiguration, x, "exempt Exempt <none> <none> <none> <none> 60s"},
	} {
		if got := line(tt.kind, tt.obj); got != tt.want {
			t.Errorf("%s\nwant %s", got, tt.want)
		}
	}
}

// TestFlowcontrolOfUpstream: what every cluster has is valid here, and has its
// defaults.
func TestFlowcontrolOfUpstream(t *testing.T) {
	all := map[*Kind][]Object{}
	for _, f := range append(bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas...) {
		all[FlowSchema] = append(all[FlowSchema], f)
	}
	for _, p := range append(bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations...) {
		all[PriorityLevelConfiguration] = append(all[PriorityLevelConfiguration], p)
	}
	for k, list := range all {
		for _, o := range list {
			o = o.DeepCopyObject().(Object)
			k.Default(o)
			if errs := k.Validate(o); len(errs) > 0 {
				t.Errorf("%s %s: %v", k, o.GetName(), errs)
			}
		}
	}
}
