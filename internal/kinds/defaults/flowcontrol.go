package defaults

import flowcontrolv1 "k8s.io/api/flowcontrol/v1"

// FlowSchema comes after those that say where they stand.
func FlowSchema(f *flowcontrolv1.FlowSchema) { or(&f.Spec.MatchingPrecedence, 1000) }

// PriorityLevelConfiguration gets 30 shares, lends nothing, and queues in 64
// queues of 50 of which a flow sees 8.
func PriorityLevelConfiguration(p *flowcontrolv1.PriorityLevelConfiguration) {
	if e := p.Spec.Exempt; e != nil {
		set(&e.NominalConcurrencyShares, 0)
		set(&e.LendablePercent, 0)
	}
	if l := p.Spec.Limited; l != nil {
		set(&l.NominalConcurrencyShares, 30)
		set(&l.LendablePercent, 0)
		if q := l.LimitResponse.Queuing; q != nil {
			or(&q.HandSize, 8)
			or(&q.Queues, 64)
			or(&q.QueueLengthLimit, 50)
		}
	}
}
