package validate

import (
	"fmt"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apicel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/dynamic-resource-allocation/cel"
)

// celFeatures are those of a scheduler that allocates devices.
var celFeatures = cel.Features{EnableConsumableCapacity: true}

// maxExpressions bounds the text of all expressions of one object. Compiling
// takes up to 20 µs a byte, and a body has room for 3 MB of them.
const maxExpressions = 10 * resourcev1.CELSelectorExpressionMaxLength

// selectors of devices are CEL expressions, which must compile and be cheap.
func (e *errors) selectors(p *field.Path, list []resourcev1.DeviceSelector) {
	if len(list) > resourcev1.DeviceSelectorsMaxSize {
		return // declared
	}
	for i, s := range list {
		at := p.Index(i).Child("cel")
		if s.CEL == nil {
			e.required(at)
			continue
		}
		e.deviceExpression(at.Child("expression"), s.CEL.Expression)
	}
}

func (e *errors) deviceExpression(p *field.Path, text string) {
	if len(text) > resourcev1.CELSelectorExpressionMaxLength {
		e.add(field.TooLong(p, "", resourcev1.CELSelectorExpressionMaxLength))
		return
	}
	if e.expressions += len(text); e.expressions > maxExpressions {
		e.forbid(p, fmt.Sprintf("too complex, all expressions of one object may not have more than %d bytes", maxExpressions))
		return
	}
	fresh := environment.NewExpressions
	switch r := cel.GetCompiler(celFeatures).CompileCELExpression(text, cel.Options{EnvType: &fresh}); {
	case r.Error == nil && r.MaxCost > resourcev1.CELSelectorExpressionMaxCost:
		e.forbid(p, "too complex, exceeds cost limit")
	case r.Error == nil:
	case r.Error.Type == apicel.ErrorTypeRequired:
		e.add(field.Required(p, r.Error.Detail))
	case r.Error.Type == apicel.ErrorTypeInvalid:
		e.invalid(p, text, r.Error.Detail)
	default:
		e.add(field.InternalError(p, fmt.Errorf("cannot compile: %w", r.Error)))
	}
}
