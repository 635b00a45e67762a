package cri_test

// difference of a target from what the suite holds to be right.
type difference struct {
	reason string
	// says is what the failure has to tell, so that another one is noticed.
	says string
	// race: it depends on what else happens at the time, so that it may hold.
	race bool
}

// differences by target and case. What stands here must fail.
var differences = map[string]map[string]difference{}
