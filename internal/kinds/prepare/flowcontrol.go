package prepare

import flowcontrolv1 "k8s.io/api/flowcontrol/v1"

// FlowSchemaCreate clears the status.
func FlowSchemaCreate(f *flowcontrolv1.FlowSchema) {
	fresh(f, true)
	f.Status = flowcontrolv1.FlowSchemaStatus{}
}

// FlowSchemaUpdate keeps the status and counts changes.
func FlowSchemaUpdate(f, old *flowcontrolv1.FlowSchema) {
	Keep(f, old)
	f.Status = old.Status
	bump(f, old, differ(f.Spec, old.Spec))
}

// FlowSchemaStatusUpdate keeps all but the status and who wrote it.
func FlowSchemaStatusUpdate(f, old *flowcontrolv1.FlowSchema) {
	fields := f.ManagedFields
	f.ObjectMeta, f.Spec = old.ObjectMeta, old.Spec
	f.ManagedFields = fields
}

// PriorityLevelConfigurationCreate clears the status.
func PriorityLevelConfigurationCreate(p *flowcontrolv1.PriorityLevelConfiguration) {
	fresh(p, true)
	p.Status = flowcontrolv1.PriorityLevelConfigurationStatus{}
}

// PriorityLevelConfigurationUpdate keeps the status and counts changes.
func PriorityLevelConfigurationUpdate(p, old *flowcontrolv1.PriorityLevelConfiguration) {
	Keep(p, old)
	p.Status = old.Status
	bump(p, old, differ(p.Spec, old.Spec))
}

// PriorityLevelConfigurationStatusUpdate keeps all but the status and who wrote it.
func PriorityLevelConfigurationStatusUpdate(p, old *flowcontrolv1.PriorityLevelConfiguration) {
	fields := p.ManagedFields
	p.ObjectMeta, p.Spec = old.ObjectMeta, old.Spec
	p.ManagedFields = fields
}
