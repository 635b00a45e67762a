package admission

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"time"

	celtypes "github.com/google/cel-go/common/types"
	celref "github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"google.golang.org/protobuf/types/known/structpb"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	celmutation "k8s.io/apiserver/pkg/cel/mutation"
	"k8s.io/apiserver/pkg/cel/mutation/dynamic"
)

// What the expressions of mutating policies give, as patches.

var errMistyped = errors.New("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch")

// operations of a JSON patch.
func operations(v celref.Val) (jsonpatch.Patch, error) {
	list, ok := v.(traits.Lister)
	if !ok {
		return nil, errors.New("type mismatch: JSONPatchType.expression should evaluate to array")
	}
	var out jsonpatch.Patch
	for it := list.Iterator(); it.HasNext() == celtypes.True; {
		op, ok := it.Next().(*celmutation.JSONPatchVal)
		if !ok {
			return nil, errMistyped
		}
		one := jsonpatch.Operation{}
		if err := errors.Join(put(one, "op", op.Op), put(one, "path", op.Path)); err != nil {
			return nil, err
		}
		if op.From != "" {
			if err := put(one, "from", op.From); err != nil {
				return nil, err
			}
		}
		if op.Val != nil {
			value, err := operand(op.Val)
			if err == nil {
				err = put(one, "value", value)
			}
			if err != nil {
				return nil, err
			}
		}
		out = append(out, one)
	}
	return out, nil
}

func put(op jsonpatch.Operation, name string, value any) error {
	data, err := json.Marshal(value)
	raw := json.RawMessage(data)
	op[name] = &raw
	return err
}

// operand goes by way of protobuf's values, as every CEL literal does.
func operand(v celref.Val) (any, error) {
	if o, ok := v.(*dynamic.ObjectVal); ok {
		if err := o.CheckTypeNamesMatchFieldPathNames(); err != nil {
			return nil, fmt.Errorf("type mismatch: %w", err)
		}
	}
	out, err := v.ConvertToNative(reflect.TypeFor[*structpb.Value]())
	if err != nil {
		return nil, fmt.Errorf("JSONPath valueExpression evaluated to a type that could not marshal to JSON: %w", err)
	}
	return out, nil
}

// configuration is the object that is to be applied.
func configuration(v celref.Val) (map[string]any, error) {
	o, ok := v.(*dynamic.ObjectVal)
	if !ok {
		return nil, fmt.Errorf("unsupported return type from ApplyConfiguration expression: %v", v.Type())
	}
	if err := o.CheckTypeNamesMatchFieldPathNames(); err != nil {
		return nil, fmt.Errorf("type mismatch: %w", err)
	}
	out, err := native(o)
	if err != nil {
		return nil, fmt.Errorf("invalid ApplyConfiguration: %w", err)
	}
	return out.(map[string]any), nil
}

// native is a value of CEL in the types of unstructured objects.
func native(v any) (any, error) {
	switch v := v.(type) {
	case nil, bool, string, int64, float64:
		return v, nil
	case structpb.NullValue:
		return nil, nil
	case uint64:
		if v > math.MaxInt64 {
			return float64(v), nil
		}
		return int64(v), nil
	case []byte:
		return base64.StdEncoding.EncodeToString(v), nil
	case time.Time:
		return v.UTC().Format(time.RFC3339), nil
	case time.Duration:
		return v.String(), nil
	case []any:
		return nativeList(v)
	case []celref.Val:
		return nativeList(v)
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, field := range v {
			var err error
			if out[name], err = native(field); err != nil {
				return nil, err
			}
		}
		return out, nil
	case *celtypes.Err:
		return nil, v
	case *dynamic.ObjectVal:
		return native(v.Value())
	case traits.Mapper:
		return nativeMap(v)
	case traits.Lister:
		var all []celref.Val
		for it := v.Iterator(); it.HasNext() == celtypes.True; {
			all = append(all, it.Next())
		}
		return nativeList(all)
	case map[celref.Val]celref.Val:
		out := make(map[string]any, len(v))
		for key, field := range v {
			if err := nativeField(out, key, field); err != nil {
				return nil, err
			}
		}
		return out, nil
	case celref.Val:
		return native(v.Value())
	}
	return nil, fmt.Errorf("a value of type %T has no JSON form", v)
}

func nativeList[T any](list []T) (any, error) {
	out := make([]any, len(list))
	for i, v := range list {
		var err error
		if out[i], err = native(v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func nativeMap(m traits.Mapper) (any, error) {
	out := map[string]any{}
	for it := m.Iterator(); it.HasNext() == celtypes.True; {
		key := it.Next()
		if err := nativeField(out, key, m.Get(key)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func nativeField(out map[string]any, key, v celref.Val) (err error) {
	name, ok := key.Value().(string)
	if !ok {
		return fmt.Errorf("map key %v is of type %v, not string", key.Value(), key.Type())
	}
	out[name], err = native(v)
	return err
}
