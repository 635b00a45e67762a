package admission

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

// Keys of the audit log, as upstream's. What follows says which round it was
// and which of all webhooks.
const (
	mutationNote   = "mutation.webhook.admission.k8s.io/"
	patchNote      = "patch.webhook.admission.k8s.io/"
	validatingNote = "validating.webhook.admission.k8s.io/"
	failedOpen     = "failed-open." // before one of them
)

// round says where in the run over all webhooks this is.
func (r *Request) round(i int) string {
	round := 0
	if r.second {
		round = 1
	}
	return fmt.Sprintf("round_%d_index_%d", round, i)
}

// noteMutation says whether the i-th webhook has changed the object.
func (r *Request) noteMutation(h *hook, i int, changed bool) {
	data, err := json.Marshal(struct {
		Configuration string `json:"configuration"`
		Webhook       string `json:"webhook"`
		Mutated       bool   `json:"mutated"`
	}{h.config, h.Name, changed})
	if err == nil {
		r.note(r.Annotate, mutationNote+r.round(i), string(data))
	}
}

// notePatch says how.
func (r *Request) notePatch(h *hook, i int, ops jsonpatch.Patch) {
	if r.AnnotateContent == nil {
		return
	}
	data, err := json.Marshal(struct {
		Configuration string          `json:"configuration"`
		Webhook       string          `json:"webhook"`
		Patch         jsonpatch.Patch `json:"patch,omitempty"`
		PatchType     string          `json:"patchType,omitempty"`
	}{h.config, h.Name, ops, "JSONPatch"})
	if err == nil {
		r.note(r.AnnotateContent, patchNote+r.round(i), string(data))
	}
}

// tell passes on what is not for the object.
func (a *reply) tell(h *hook, r *Request) {
	warnAll(r, a.warnings)
	for _, k := range slices.Sorted(maps.Keys(a.notes)) {
		r.note(r.Annotate, h.Name+"/"+k, a.notes[k])
	}
}

func warnAll(r *Request, texts []string) {
	if r.Warn == nil {
		return
	}
	for _, t := range texts {
		r.Warn(t)
	}
}
