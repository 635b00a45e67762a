package scheduler

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// selector finds pods by namespace and labels. Two selectors with one key find
// the same pods.
type selector struct {
	key        string
	namespaces []string        // sorted
	others     labels.Selector // namespaces by their labels, on top; nil: none
	labels     labels.Selector
	pins       []pin
}

// pin is a label that every pod which a selector finds has, in one of its
// namespaces. Selectors are filed under their pins, so that a pod is compared
// only with those that may find it, and not with all of a large cluster.
type pin struct {
	namespace, key, value string
}

// newSelector of a pod in namespace. A nil label selector finds nothing, and
// one that cannot be read as well: the API server accepts none of those.
func newSelector(namespace string, namespaces []string, others, by *metav1.LabelSelector) *selector {
	s := &selector{namespaces: slices.Clone(namespaces), labels: parse(by)}
	if others != nil {
		s.others = parse(others)
	}
	if len(namespaces) == 0 && others == nil {
		s.namespaces = []string{namespace}
	}
	s.finish()
	return s
}

// ownSelector finds pods of one namespace.
func ownSelector(namespace string, by labels.Selector) *selector {
	s := &selector{namespaces: []string{namespace}, labels: by}
	s.finish()
	return s
}

func parse(by *metav1.LabelSelector) labels.Selector {
	sel, err := metav1.LabelSelectorAsSelector(by)
	if err != nil {
		return labels.Nothing()
	}
	return sel
}

func (s *selector) finish() {
	slices.Sort(s.namespaces)
	s.namespaces = slices.Compact(s.namespaces)
	var b strings.Builder
	for _, ns := range s.namespaces {
		b.WriteString(ns)
		b.WriteByte(',')
	}
	b.WriteByte('|')
	if s.others != nil {
		b.WriteByte('~')
		b.WriteString(s.others.String())
	}
	b.WriteByte('|')
	reqs, selectable := s.labels.Requirements()
	if !selectable {
		b.WriteByte('!')
	}
	b.WriteString(s.labels.String())
	s.key = b.String()
	if s.others != nil {
		return // its namespaces are not known for good
	}
	for i := range reqs {
		op := reqs[i].Operator()
		if vs := reqs[i].ValuesUnsorted(); len(vs) == 1 && (op == selection.In || op == selection.Equals || op == selection.DoubleEquals) {
			for _, ns := range s.namespaces {
				s.pins = append(s.pins, pin{ns, reqs[i].Key(), vs[0]})
			}
			return
		}
	}
}

// finds reports whether the selector finds a pod.
func (s *selector) finds(c *cluster, p *corev1.Pod) bool {
	return s.covers(c, p.Namespace) && s.labels.Matches(labels.Set(p.Labels))
}

func (s *selector) covers(c *cluster, namespace string) bool {
	if slices.Contains(s.namespaces, namespace) {
		return true
	}
	return s.others != nil && (s.others.Empty() || s.others.Matches(c.namespaces[namespace]))
}

// pinned files values under the pins of their selectors.
type pinned[T comparable] struct {
	by    map[pin][]T
	loose []T // of selectors without a pin
}

func (f *pinned[T]) add(s *selector, v T) {
	if len(s.pins) == 0 {
		f.loose = append(f.loose, v)
		return
	}
	if f.by == nil {
		f.by = make(map[pin][]T)
	}
	for _, p := range s.pins {
		f.by[p] = append(f.by[p], v)
	}
}

func (f *pinned[T]) remove(s *selector, v T) {
	if len(s.pins) == 0 {
		f.loose = without(f.loose, v)
		return
	}
	for _, p := range s.pins {
		if rest := without(f.by[p], v); len(rest) > 0 {
			f.by[p] = rest
		} else {
			delete(f.by, p)
		}
	}
}

// each calls fn once with everything whose selector may find the pod, in no
// particular order.
func (f *pinned[T]) each(p *corev1.Pod, fn func(T)) {
	if len(f.by) > 0 {
		for k, v := range p.Labels {
			for _, x := range f.by[pin{p.Namespace, k, v}] {
				fn(x)
			}
		}
	}
	for _, x := range f.loose {
		fn(x)
	}
}

func without[T comparable](list []T, v T) []T {
	if i := slices.Index(list, v); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}
