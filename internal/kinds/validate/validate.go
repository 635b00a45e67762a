// Package validate judges objects as upstream does: the same fields, types of
// error and words, cross-field rules and immutability included. Where knarr
// cannot yet do what a field asks for, the field is refused (unsupported.go)
// rather than ignored.
//
// X judges a new object of kind X, XUpdate a changed one, XStatusUpdate its
// status. All expect defaults to be filled in. They are linear in the size of
// the object and never panic, whatever is in it.
package validate

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/internal/kinds/equal"
)

// Words that several rules share.
const (
	notInteger  = "must be an integer"
	notPositive = "must be greater than zero"
	notQuantity = "must be a valid resource quantity"
	fileMode    = "must be a number between 0 and 0777 (octal), both inclusive"
)

var (
	metaPath   = field.NewPath("metadata")
	specPath   = field.NewPath("spec")
	statusPath = field.NewPath("status")
)

// Names of most kinds are DNS subdomains.
var (
	subdomain = apivalidation.NameIsDNSSubdomain
	label     = apivalidation.NameIsDNSLabel
)

// errors gathers; its zero value is ready.
type errors struct {
	list        field.ErrorList
	expressions int // bytes of CEL that were compiled
}

func (e *errors) add(errs ...*field.Error)         { e.list = append(e.list, errs...) }
func (e *errors) all(errs field.ErrorList)         { e.list = append(e.list, errs...) }
func (e *errors) required(p *field.Path)           { e.add(field.Required(p, "")) }
func (e *errors) forbid(p *field.Path, why string) { e.add(field.Forbidden(p, why)) }
func (e *errors) invalid(p *field.Path, value any, why string) {
	e.add(field.Invalid(p, value, why))
}

// msgs reports each message about value.
func (e *errors) msgs(p *field.Path, value any, messages []string) {
	for _, m := range messages {
		e.add(field.Invalid(p, value, m))
	}
}

// name checks a reference to another object, which must not be empty.
func (e *errors) name(p *field.Path, name string, rule apivalidation.ValidateNameFunc) {
	if name == "" {
		e.required(p)
		return
	}
	e.msgs(p, name, rule(name, false))
}

func (e *errors) notNegative(p *field.Path, n int64) {
	if n < 0 {
		e.invalid(p, n, apivalidation.IsNegativeErrorMsg)
	}
}

func (e *errors) immutable(p *field.Path, value, old any) {
	e.all(apivalidation.ValidateImmutableField(value, old, p))
}

// in wants one of the values; empty is a missing field.
func in[T ~string](e *errors, p *field.Path, value T, values ...T) {
	if value == "" {
		e.required(p)
		return
	}
	oneOf(e, p, value, values...)
}

// oneOf wants one of the values; the list is sorted in the message.
func oneOf[T ~string](e *errors, p *field.Path, value T, values ...T) {
	if !slices.Contains(values, value) {
		e.add(field.NotSupported(p, value, sets.List(sets.New(values...))))
	}
}

// inPtr is oneOf where the field is set.
func inPtr[T ~string](e *errors, p *field.Path, value *T, values ...T) {
	if value != nil {
		oneOf(e, p, *value, values...)
	}
}

// unique reports a repeated value.
func unique[K comparable](e *errors, seen map[K]bool, p *field.Path, key K, value any) bool {
	if seen[key] {
		e.add(field.Duplicate(p, value))
		return false
	}
	seen[key] = true
	return true
}

func (e *errors) qualifiedName(p *field.Path, value string) {
	e.msgs(p, value, validation.IsQualifiedName(value))
}

func (e *errors) dnsLabel(p *field.Path, value string) {
	e.msgs(p, value, validation.IsDNS1123Label(value))
}

func (e *errors) dnsSubdomain(p *field.Path, value string) {
	e.msgs(p, value, validation.IsDNS1123Subdomain(value))
}

// ip must be written in the one way that every parser reads alike.
func (e *errors) ip(p *field.Path, value string) bool {
	errs := validation.IsValidIPForLegacyField(p, value, true, nil)
	e.all(errs)
	return len(errs) == 0
}

func (e *errors) cidr(p *field.Path, value string) bool {
	errs := validation.IsValidCIDRForLegacyField(p, value, true, nil)
	e.all(errs)
	return len(errs) == 0
}

func (e *errors) labels(p *field.Path, labels map[string]string) {
	e.all(metavalidation.ValidateLabels(labels, p))
}

func (e *errors) annotations(p *field.Path, annotations map[string]string) {
	e.all(apivalidation.ValidateAnnotations(annotations, p))
}

func (e *errors) selector(p *field.Path, s *metav1.LabelSelector) {
	e.all(metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, p))
}

func (e *errors) labelName(p *field.Path, name string) {
	e.all(metavalidation.ValidateLabelName(name, p))
}

func (e *errors) portOrName(p *field.Path, port intstr.IntOrString) {
	if port.Type == intstr.String {
		e.msgs(p, port.StrVal, validation.IsValidPortName(port.StrVal))
	} else {
		e.msgs(p, port.IntValue(), validation.IsValidPortNum(port.IntValue()))
	}
}

func (e *errors) mode(p *field.Path, mode *int32) {
	if mode != nil && (*mode > 0o777 || *mode < 0) {
		e.invalid(p, *mode, fileMode)
	}
}

// relativePath must stay below where it starts.
func (e *errors) relativePath(p *field.Path, path string) {
	if strings.HasPrefix(path, "/") {
		e.invalid(p, path, "must be a relative path")
	}
	e.noBacksteps(p, path)
}

func (e *errors) noBacksteps(p *field.Path, path string) {
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." {
			e.invalid(p, path, "must not contain '..'")
			return
		}
	}
}

// projectedPath also leaves names starting with two dots to the kubelet's
// atomic writer.
func (e *errors) projectedPath(p *field.Path, path string) {
	e.relativePath(p, path)
	if strings.HasPrefix(path, "..") && !strings.HasPrefix(path, "../") {
		e.invalid(p, path, "must not start with '..'")
	}
}

// meta judges the metadata of a new object.
func meta(o *metav1.ObjectMeta, namespaced bool, name apivalidation.ValidateNameFunc) *errors {
	e := &errors{}
	e.all(apivalidation.ValidateObjectMeta(o, namespaced, name, metaPath))
	e.finalizers(o)
	return e
}

// metaUpdate judges changed metadata.
func metaUpdate(o, old *metav1.ObjectMeta) *errors {
	e := &errors{}
	e.all(apivalidation.ValidateObjectMetaUpdate(o, old, metaPath))
	e.finalizers(o)
	return e
}

// finalizers without a domain are the API's own.
func (e *errors) finalizers(o *metav1.ObjectMeta) {
	for i, f := range o.Finalizers {
		e.finalizer(metaPath.Child("finalizers").Index(i), f)
	}
}

func (e *errors) finalizer(p *field.Path, name string) {
	e.qualifiedName(p, name)
	if strings.Contains(name, "/") {
		return
	}
	switch name {
	case "kubernetes", metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents:
	default:
		e.invalid(p, name, "name is neither a standard finalizer name nor is it fully qualified")
	}
}

func same(a, b any) bool { return equal.Values(a, b) }

func negative(q resource.Quantity) bool { return q.Sign() < 0 }
