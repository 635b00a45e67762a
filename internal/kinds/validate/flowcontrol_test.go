package validate

import (
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"knarr.dev/knarr/internal/kinds/defaults"
)

func TestFlowSchema(t *testing.T) {
	type schema = flowcontrolv1.FlowSchema
	good := func() *schema {
		return &schema{ObjectMeta: named("f", ""), Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "system"},
			DistinguisherMethod:        &flowcontrolv1.FlowDistinguisherMethod{Type: "ByUser"},
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
				Subjects: []flowcontrolv1.Subject{{Kind: "User", User: &flowcontrolv1.UserSubject{Name: "u"}}, {Kind: "Group", Group: &flowcontrolv1.GroupSubject{Name: "g"}},
					{Kind: "ServiceAccount", ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: "ns", Name: "*"}}},
				ResourceRules:    []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, Namespaces: []string{"a"}}},
				NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/", "/healthz", "/apis/*"}}},
			}},
		}}
	}
	changes := []change[*schema]{
		{"good", nil, nil},
		{"negative", func(f *schema) { f.Spec.MatchingPrecedence = -1 }, []string{"spec.matchingPrecedence Invalid: must be a positive value"}},
		{"too late", func(f *schema) { f.Spec.MatchingPrecedence = 10001 }, []string{"spec.matchingPrecedence Invalid: must not be greater than 10000"}},
		{"first", func(f *schema) { f.Spec.MatchingPrecedence = 1 }, []string{"spec.matchingPrecedence Invalid: only the schema named 'exempt' may have matchingPrecedence 1"}},
		{"method", func(f *schema) { f.Spec.DistinguisherMethod.Type = "ByHost" }, []string{`spec.distinguisherMethod.type NotSupported: supported values: "ByNamespace", "ByUser"`}},
		{"no level", func(f *schema) { f.Spec.PriorityLevelConfiguration.Name = "" }, []string{"spec.priorityLevelConfiguration.name Required: must reference a priority level"}},
		{"level", func(f *schema) { f.Spec.PriorityLevelConfiguration.Name = "A" }, []string{"spec.priorityLevelConfiguration.name Invalid: a lowercase RFC 1123 subdomain"}},
		{"empty rule", func(f *schema) { f.Spec.Rules[0] = flowcontrolv1.PolicyRulesWithSubjects{} }, []string{
			"spec.rules[0].subjects Required: subjects must contain at least one value", "spec.rules[0] Required: at least one of resourceRules and nonResourceRules has to be non-empty"}},
		{"no such subject", func(f *schema) { f.Spec.Rules[0].Subjects[0].Kind = "Host" }, []string{`spec.rules[0].subjects[0].kind NotSupported: supported values: "Group", "ServiceAccount", "User"`}},
		{"wrong parts", func(f *schema) { f.Spec.Rules[0].Subjects[0].Kind = "Group" }, []string{
			"spec.rules[0].subjects[0].user Forbidden: user is forbidden when subject kind is not 'User'", "spec.rules[0].subjects[0].group Required: group is required when subject kind is 'Group'"}},
		{"nameless", func(f *schema) {
			f.Spec.Rules[0].Subjects[0].User.Name, f.Spec.Rules[0].Subjects[1].Group.Name, f.Spec.Rules[0].Subjects[2].ServiceAccount.Name = "", "", ""
			f.Spec.Rules[0].Subjects[2].ServiceAccount.Namespace = ""
		}, []string{"spec.rules[0].subjects[0].user.name Required", "spec.rules[0].subjects[1].group.name Required", "spec.rules[0].subjects[2].serviceAccount.name Required",
			"spec.rules[0].subjects[2].serviceAccount.namespace Required: must specify namespace for service account"}},
		{"empty resources", func(f *schema) { f.Spec.Rules[0].ResourceRules[0] = flowcontrolv1.ResourcePolicyRule{} }, []string{
			"spec.rules[0].resourceRules[0].verbs Required: verbs must contain at least one value", "spec.rules[0].resourceRules[0].apiGroups Required: resource rules must supply at least one api group",
			"spec.rules[0].resourceRules[0].resources Required: resource rules must supply at least one resource",
			"spec.rules[0].resourceRules[0].namespaces Required: resource rules that are not cluster scoped must supply at least one namespace"}},
		{"more than all", func(f *schema) {
			f.Spec.Rules[0].ResourceRules[0] = flowcontrolv1.ResourcePolicyRule{Verbs: []string{"*", "get"}, APIGroups: []string{"*", "a"}, Resources: []string{"*", "a"}, Namespaces: []string{"*", "a"}}
		}, []string{"spec.rules[0].resourceRules[0].verbs Invalid: if '*' is present, must not specify other verbs", "spec.rules[0].resourceRules[0].apiGroups Invalid: if '*' is present, must not specify other api groups",
			"spec.rules[0].resourceRules[0].resources Invalid: if '*' is present, must not specify other resources", "spec.rules[0].resourceRules[0].namespaces Invalid: if '*' is present, must not specify other namespaces"}},
		{"namespace", func(f *schema) { f.Spec.Rules[0].ResourceRules[0].Namespaces[0] = "A" }, []string{"spec.rules[0].resourceRules[0].namespaces[0] Invalid: each member of this list must be '*' or a DNS-1123 label; "}},
		{"verb", func(f *schema) { f.Spec.Rules[0].NonResourceRules[0].Verbs[0] = "head" }, []string{`spec.rules[0].nonResourceRules[0].verbs NotSupported: supported values: "create", "delete"`}},
		{"no paths", func(f *schema) { f.Spec.Rules[0].NonResourceRules[0].NonResourceURLs = nil }, []string{"spec.rules[0].nonResourceRules[0].nonResourceURLs Required: nonResourceURLs must contain at least one value"}},
		{"paths", func(f *schema) {
			f.Spec.Rules[0].NonResourceRules[0].NonResourceURLs = []string{"", "a", "/a b", "//a", "/a*", "/*/b"}
		}, []string{
			"spec.rules[0].nonResourceRules[0].nonResourceURLs[0] Invalid: must not be empty", "spec.rules[0].nonResourceRules[0].nonResourceURLs[1] Invalid: must start with slash",
			"spec.rules[0].nonResourceRules[0].nonResourceURLs[2] Invalid: must not contain white-space", "spec.rules[0].nonResourceRules[0].nonResourceURLs[3] Invalid: must not contain double slash",
			"spec.rules[0].nonResourceRules[0].nonResourceURLs[4] Invalid: wildcard can only do suffix matching", "spec.rules[0].nonResourceRules[0].nonResourceURLs[5] Invalid: wildcard can only do suffix matching"}},
		{"conditions", func(f *schema) {
			f.Status.Conditions = []flowcontrolv1.FlowSchemaCondition{{Type: "A"}, {Type: "A"}, {}}
		}, []string{"status.conditions[1].type Duplicate", "status.conditions[2].type Required"}},
	}
	creates(t, good, defaults.FlowSchema, FlowSchema, changes)
	updates(t, good, defaults.FlowSchema, FlowSchemaUpdate, changes)
	updates(t, good, defaults.FlowSchema, FlowSchemaStatusUpdate, []change[*schema]{changes[0], changes[len(changes)-1]})
	updates(t, bootstrap.MandatoryFlowSchemaCatchAll.DeepCopy, defaults.FlowSchema, func(o, old *schema) field.ErrorList {
		old.ResourceVersion, o.ResourceVersion = "1", "1"
		return FlowSchemaUpdate(o, old)
	}, []change[*schema]{
		{"same", nil, nil},
		{"mandatory", func(f *schema) { f.Spec.MatchingPrecedence = 9999 }, []string{"spec Invalid: spec of 'catch-all' must equal the fixed value"}},
	})
}

func TestPriorityLevelConfiguration(t *testing.T) {
	type level = flowcontrolv1.PriorityLevelConfiguration
	good := func() *level {
		return &level{ObjectMeta: named("l", ""), Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: "Limited", Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
			LimitResponse: flowcontrolv1.LimitResponse{Type: "Queue", Queuing: &flowcontrolv1.QueuingConfiguration{}}}}}
	}
	changes := []change[*level]{
		{"good", nil, nil},
		{"zero shares", func(l *level) { l.Spec.Limited.NominalConcurrencyShares = ptr(int32(0)) }, nil},
		{"reject", func(l *level) { l.Spec.Limited.LimitResponse = flowcontrolv1.LimitResponse{Type: "Reject"} }, nil},
		{"no type", func(l *level) { l.Spec.Type = "" }, []string{"spec.type Required", "spec.limited Forbidden"}},
		{"type", func(l *level) { l.Spec.Type = "Free" }, []string{`spec.type NotSupported: supported values: "Exempt", "Limited"`, "spec.limited Forbidden"}},
		{"exempt", func(l *level) { l.Spec.Type = "Exempt" }, []string{"spec.type Invalid: must be 'Exempt' if and only if `name` is 'exempt'", "spec.limited Forbidden"}},
		{"both", func(l *level) { l.Spec.Exempt = &flowcontrolv1.ExemptPriorityLevelConfiguration{} }, []string{"spec.exempt Forbidden"}},
		{"none", func(l *level) { l.Spec.Limited = nil }, []string{"spec.limited Required"}},
		{"numbers", func(l *level) {
			l.Spec.Limited.NominalConcurrencyShares, l.Spec.Limited.LendablePercent, l.Spec.Limited.BorrowingLimitPercent = ptr(int32(-1)), ptr(int32(101)), ptr(int32(-1))
		}, []string{"spec.limited.nominalConcurrencyShares Invalid: must be a non-negative integer", "spec.limited.lendablePercent Invalid: must be between 0 and 100, inclusive",
			"spec.limited.borrowingLimitPercent Invalid: if specified, must be a non-negative integer"}},
		{"no response", func(l *level) { l.Spec.Limited.LimitResponse = flowcontrolv1.LimitResponse{} }, []string{"spec.limited.limitResponse.type Required"}},
		{"no queues", func(l *level) { l.Spec.Limited.LimitResponse.Queuing = nil }, []string{"spec.limited.limitResponse.queuing Required"}},
		{"reject in queues", func(l *level) { l.Spec.Limited.LimitResponse.Type = "Reject" }, []string{"spec.limited.limitResponse.queuing Forbidden"}},
		{"negative", func(l *level) {
			*l.Spec.Limited.LimitResponse.Queuing = flowcontrolv1.QueuingConfiguration{Queues: -1, HandSize: -1, QueueLengthLimit: -1}
		}, []string{"spec.limited.limitResponse.queuing.queueLengthLimit Invalid: must be positive", "spec.limited.limitResponse.queuing.queues Invalid: must be positive", "spec.limited.limitResponse.queuing.handSize Invalid: must be positive"}},
		{"many queues", func(l *level) { l.Spec.Limited.LimitResponse.Queuing.Queues = 10_000_001 }, []string{"spec.limited.limitResponse.queuing.queues Invalid: must not be greater than 10000000",
			"spec.limited.limitResponse.queuing.handSize Invalid: required entropy bits of deckSize 10000001 and handSize 8 should not be greater than 60"}},
		{"large hand", func(l *level) {
			l.Spec.Limited.LimitResponse.Queuing.Queues, l.Spec.Limited.LimitResponse.Queuing.HandSize = 4, 5
		}, []string{"spec.limited.limitResponse.queuing.handSize Invalid: should not be greater than queues (4)"}},
		{"annotation", func(l *level) { l.Annotations = map[string]string{preserveZero: ""} }, []string{"metadata.annotations Forbidden: annotation '" + preserveZero + "' is forbidden"}},
		{"conditions", func(l *level) {
			l.Status.Conditions = []flowcontrolv1.PriorityLevelConfigurationCondition{{Type: "A"}, {Type: "A"}}
		}, []string{"status.conditions[1].type Duplicate"}},
	}
	creates(t, good, defaults.PriorityLevelConfiguration, PriorityLevelConfiguration, changes)
	updates(t, good, defaults.PriorityLevelConfiguration, PriorityLevelConfigurationUpdate, changes)
	updates(t, good, defaults.PriorityLevelConfiguration, PriorityLevelConfigurationStatusUpdate, []change[*level]{changes[0], changes[len(changes)-1]})
	creates(t, bootstrap.MandatoryPriorityLevelConfigurationExempt.DeepCopy, defaults.PriorityLevelConfiguration, PriorityLevelConfiguration, []change[*level]{
		{"lends", func(l *level) { l.Spec.Exempt.LendablePercent = ptr(int32(50)) }, nil},
		{"limited", func(l *level) { l.Spec.Exempt.NominalConcurrencyShares = ptr(int32(-2)) }, []string{"spec.exempt.nominalConcurrencyShares Invalid: must be a non-negative integer"}},
	})
	creates(t, bootstrap.MandatoryPriorityLevelConfigurationCatchAll.DeepCopy, defaults.PriorityLevelConfiguration, PriorityLevelConfiguration, []change[*level]{
		{"mandatory", func(l *level) { l.Spec.Limited.NominalConcurrencyShares = ptr(int32(6)) }, []string{"spec Invalid: spec of 'catch-all' must equal the fixed value"}},
	})
}
