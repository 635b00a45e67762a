package codec

import (
	"fmt"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

// Bounds of a JSON patch: a copy can double the document, so there may be few
// of them, and its size is looked at after each.
const (
	MaxPatchOps    = 10000   // upstream's
	MaxPatched     = 3 << 20 // bytes of what it makes, as of a request's body
	maxPatchCopies = 100
)

// PatchTooLong is the error of a patch that is over these bounds.
type PatchTooLong string

func (e PatchTooLong) Error() string { return string(e) }

// DecodePatch reads the operations of a JSON patch.
func DecodePatch(data []byte) (jsonpatch.Patch, error) {
	ops, err := jsonpatch.DecodePatch(data)
	if err == nil && len(ops) > MaxPatchOps {
		err = PatchTooLong(fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", MaxPatchOps, len(ops)))
	}
	return ops, err
}

// ApplyPatch returns the document after the operations.
func ApplyPatch(doc []byte, ops jsonpatch.Patch) ([]byte, error) {
	if len(ops) > MaxPatchOps {
		return nil, PatchTooLong(fmt.Sprintf("the patch has more than %d operations", MaxPatchOps))
	}
	for copies := 0; len(ops) > 0; {
		n := 0
		for copied := false; n < len(ops) && !copied; n++ {
			if err := checkRoot(ops[n]); err != nil {
				return nil, err
			}
			copied = ops[n].Kind() == "copy"
			if copied {
				copies++
			}
		}
		var err error
		if doc, err = ops[:n].Apply(doc); err != nil {
			return nil, err
		}
		if copies > maxPatchCopies || len(doc) > MaxPatched {
			return nil, PatchTooLong(fmt.Sprintf("the patched object is larger than %d bytes, or the patch has more than %d copy operations", MaxPatched, maxPatchCopies))
		}
		ops = ops[n:]
	}
	return doc, nil
}

// checkRoot refuses what the library takes for a value that is there: an
// operation on the whole document that brings none.
func checkRoot(op jsonpatch.Operation) error {
	kind := op.Kind()
	if kind != "replace" && kind != "test" {
		return nil
	}
	if path, err := op.Path(); err != nil || path != "" || op["value"] != nil {
		return nil // an error is the library's to tell
	}
	return fmt.Errorf("%s operation does not apply: the whole document is no null", kind)
}
