package kinds

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds/defaults"
	"knarr.dev/knarr/internal/kinds/prepare"
	"knarr.dev/knarr/internal/kinds/validate"
)

// Priority and fairness: which requests belong together, and how many of them
// may run at once.
var (
	FlowSchema = &Kind{
		GVK: flowcontrolv1.SchemeGroupVersion.WithKind("FlowSchema"), Resource: "flowschemas", Singular: "flowschema",
		Prefix: "flowschemas",
		New:    func() Object { return &flowcontrolv1.FlowSchema{} }, NewList: func() runtime.Object { return &flowcontrolv1.FlowSchemaList{} },
		Default:       do(defaults.FlowSchema),
		PrepareCreate: do(prepare.FlowSchemaCreate), PrepareUpdate: doBoth(prepare.FlowSchemaUpdate),
		Validate: check(validate.FlowSchema), ValidateUpdate: checkBoth(validate.FlowSchemaUpdate),
		Subresources: map[string]Subresource{"status": status(prepare.FlowSchemaStatusUpdate, validate.FlowSchemaStatusUpdate)},
		Columns:      flowSchemaColumns,
	}
	PriorityLevelConfiguration = &Kind{
		GVK: flowcontrolv1.SchemeGroupVersion.WithKind("PriorityLevelConfiguration"), Resource: "prioritylevelconfigurations", Singular: "prioritylevelconfiguration",
		Prefix: "prioritylevelconfigurations",
		New:    func() Object { return &flowcontrolv1.PriorityLevelConfiguration{} }, NewList: func() runtime.Object { return &flowcontrolv1.PriorityLevelConfigurationList{} },
		Default:       do(defaults.PriorityLevelConfiguration),
		PrepareCreate: do(prepare.PriorityLevelConfigurationCreate), PrepareUpdate: doBoth(prepare.PriorityLevelConfigurationUpdate),
		Validate: check(validate.PriorityLevelConfiguration), ValidateUpdate: checkBoth(validate.PriorityLevelConfigurationUpdate),
		Subresources: map[string]Subresource{"status": status(prepare.PriorityLevelConfigurationStatusUpdate, validate.PriorityLevelConfigurationStatusUpdate)},
		Columns:      priorityLevelConfigurationColumns,
	}
)

var flowcontrol = []*Kind{FlowSchema, PriorityLevelConfiguration}

var (
	flowSchemaColumns = []Column{
		nameColumn,
		cell("PriorityLevel", "string", "Priority level of the matching requests.", func(f *flowcontrolv1.FlowSchema) any { return f.Spec.PriorityLevelConfiguration.Name }),
		cell("MatchingPrecedence", "string", "Of the schemas that match, the one with the lowest number counts.", func(f *flowcontrolv1.FlowSchema) any { return int64(f.Spec.MatchingPrecedence) }),
		cell("DistinguisherMethod", "string", "What makes two requests parts of one flow.", func(f *flowcontrolv1.FlowSchema) any {
			if f.Spec.DistinguisherMethod == nil {
				return none
			}
			return string(f.Spec.DistinguisherMethod.Type)
		}),
		ageColumn,
		cell("MissingPL", "string", "references a broken or non-existent PriorityLevelConfiguration", func(f *flowcontrolv1.FlowSchema) any {
			for _, c := range f.Status.Conditions {
				if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
					return string(c.Status)
				}
			}
			return "?"
		}),
	}
	priorityLevelConfigurationColumns = []Column{
		nameColumn,
		cell("Type", "string", "Whether its requests are limited at all.", func(p *flowcontrolv1.PriorityLevelConfiguration) any { return string(p.Spec.Type) }),
		cell("NominalConcurrencyShares", "string", "Its part of the server's seats, in relation to the other levels'.", func(p *flowcontrolv1.PriorityLevelConfiguration) any {
			if p.Spec.Limited == nil {
				return none
			}
			return number(p.Spec.Limited.NominalConcurrencyShares)
		}),
		queuingColumn("Queues", "Number of queues.", func(q *flowcontrolv1.QueuingConfiguration) int32 { return q.Queues }),
		queuingColumn("HandSize", "Number of queues that one flow is dealt.", func(q *flowcontrolv1.QueuingConfiguration) int32 { return q.HandSize }),
		queuingColumn("QueueLengthLimit", "Number of requests that may wait in one queue.", func(q *flowcontrolv1.QueuingConfiguration) int32 { return q.QueueLengthLimit }),
		ageColumn,
	}
)

func queuingColumn(name, describe string, of func(*flowcontrolv1.QueuingConfiguration) int32) Column {
	return cell(name, "string", describe, func(p *flowcontrolv1.PriorityLevelConfiguration) any {
		if p.Spec.Limited == nil || p.Spec.Limited.LimitResponse.Queuing == nil {
			return none
		}
		return int64(of(p.Spec.Limited.LimitResponse.Queuing))
	})
}
