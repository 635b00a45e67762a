package apiserver

import (
	"net/url"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// fieldPolicy is what to do with fields that a kind does not have.
type fieldPolicy string

// fieldValidation reads the query parameter; absent means Warn, as upstream.
func fieldValidation(q url.Values) (fieldPolicy, error) {
	switch v := q.Get("fieldValidation"); v {
	case "":
		return metav1.FieldValidationWarn, nil
	case metav1.FieldValidationIgnore, metav1.FieldValidationWarn, metav1.FieldValidationStrict:
		return fieldPolicy(v), nil
	default:
		return "", badRequest("fieldValidation: Unsupported value: %q: supported values: \"Ignore\", \"Strict\", \"Warn\"", v)
	}
}

// maxFieldWarnings bounds the headers that one body can cause.
const maxFieldWarnings = 20

func (v fieldPolicy) judge(unknown []error, warn func(string)) error {
	if len(unknown) == 0 {
		return nil
	}
	switch v {
	case metav1.FieldValidationStrict:
		text := make([]string, 0, len(unknown))
		for _, e := range unknown {
			text = append(text, e.Error())
		}
		return apierrors.NewBadRequest("strict decoding error: " + strings.Join(text, ", "))
	case metav1.FieldValidationWarn:
		for i, e := range unknown {
			if i == maxFieldWarnings {
				break
			}
			if warn != nil {
				warn(e.Error())
			}
		}
	}
	return nil
}

func itoa(n int) string { return strconv.Itoa(n) }
