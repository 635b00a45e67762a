package apiserver

import (
	"cmp"
	"net/url"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// fieldPolicy is what to do with fields that a kind does not have.
type fieldPolicy string

// fieldValidation reads the query parameter, which is one of those that there
// are; absent means Warn, as upstream.
func fieldValidation(q url.Values) fieldPolicy {
	return fieldPolicy(cmp.Or(q.Get("fieldValidation"), metav1.FieldValidationWarn))
}

// maxFieldWarnings bounds the headers that one body can cause.
const maxFieldWarnings = 20

// judge refuses with what refuse makes of the findings, or warns.
func (v fieldPolicy) judge(unknown []error, warn func(string), refuse func(text string) error) error {
	if len(unknown) == 0 {
		return nil
	}
	switch v {
	case metav1.FieldValidationStrict:
		return refuse(runtime.NewStrictDecodingError(unknown).Error())
	case metav1.FieldValidationWarn:
		lines := findings(unknown)
		for _, line := range lines[:min(len(lines), maxFieldWarnings)] {
			if warn != nil {
				warn(line)
			}
		}
	}
	return nil
}

// findings one by one: a YAML parser's error lists all of them.
func findings(unknown []error) []string {
	var out []string
	for _, e := range unknown {
		list, ok := strings.CutPrefix(strings.TrimPrefix(e.Error(), "error converting YAML to JSON: "), "yaml: unmarshal errors:\n")
		if !ok {
			out = append(out, e.Error())
			continue
		}
		for line := range strings.SplitSeq(list, "\n") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

func itoa(n int) string { return strconv.Itoa(n) }
