package kinds

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// What upstream prints where there is nothing to print.
const (
	none    = "<none>"
	unknown = "<unknown>"
	unset   = "<unset>"
)

// cell is a column whose value needs only the object.
func cell[T Object](name, typ, describe string, value func(T) any) Column {
	return Column{Name: name, Type: typ, Describe: describe, Value: func(o Object, _ metav1.Time) any { return value(o.(T)) }}
}

// timed is a column whose value depends on the time.
func timed[T Object](name, typ, describe string, value func(T, time.Time) any) Column {
	return Column{Name: name, Type: typ, Describe: describe, Value: func(o Object, now metav1.Time) any { return value(o.(T), now.Time) }}
}

// wide columns are printed with -o wide only.
func wide(c Column) Column { c.Wide = true; return c }

var (
	nameColumn = Column{
		Name: "Name", Type: "string", Format: "name", Describe: "Name of the object, unique in its namespace.",
		Value: func(o Object, _ metav1.Time) any { return o.GetName() },
	}
	ageColumn = Column{
		Name: "Age", Type: "string", Describe: "Time since the object was created.",
		Value: func(o Object, now metav1.Time) any { return since(o.GetCreationTimestamp().Time, now.Time) },
	}
	createdColumn = Column{
		Name: "Created At", Type: "date", Describe: "Time at which the object was created.",
		Value: func(o Object, _ metav1.Time) any { return o.GetCreationTimestamp().UTC().Format(time.RFC3339) },
	}
	plainColumns = []Column{nameColumn, createdColumn}
)

func since(t, now time.Time) string {
	if t.IsZero() {
		return unknown
	}
	return duration.HumanDuration(now.Sub(t))
}

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}

// few joins up to three values and says how many more there are.
func few(list []string, empty string) string {
	const most = 3
	switch n := len(list); {
	case n == 0:
		return empty
	case n > most:
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:most], ","), n-most)
	}
	return strings.Join(list, ",")
}

func containerNames(list []corev1.Container) string {
	names := make([]string, len(list))
	for i := range list {
		names[i] = list[i].Name
	}
	return strings.Join(names, ",")
}

func containerImages(list []corev1.Container) string {
	images := make([]string, len(list))
	for i := range list {
		images[i] = list[i].Image
	}
	return strings.Join(images, ",")
}

// containerColumns are the wide columns of everything with a pod template.
func containerColumns[T Object](template func(T) *corev1.PodSpec) []Column {
	return []Column{
		wide(cell("Containers", "string", "Names of each container in the template.", func(o T) any { return containerNames(template(o).Containers) })),
		wide(cell("Images", "string", "Images referenced by each container in the template.", func(o T) any { return containerImages(template(o).Containers) })),
	}
}

// columns joins lists of columns.
func columns(lists ...[]Column) []Column {
	var all []Column
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}
