// Package kinds is the table of everything that the API serves: one Kind per
// resource with its names, scope, defaults, validation, columns, subresources
// and selectable fields. There is one Go type per kind, the served and stored
// one from k8s.io/api; nothing here does I/O.
package kinds

import (
	"context"
	"iter"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Object is what every stored kind implements. Objects that come out of a
// cache or a view are shared and must never be changed: DeepCopyObject first.
type Object interface {
	runtime.Object
	metav1.Object
}

// Kind describes one resource. The zero value of an optional field means
// "nothing to do" or "not served".
type Kind struct {
	GVK        schema.GroupVersionKind
	Resource   string // plural and lower case, as in the URL: "pods"
	Singular   string
	ShortNames []string
	Categories []string // "all" makes `kubectl get all` list it
	Namespaced bool

	// Prefix is the etcd key below /registry/, laid out as upstream does
	// ("pods", "services/specs", "minions"). Empty: the kind is never stored,
	// it is only asked for (reviews, bindings).
	Prefix string

	// StoredAs is the kind in whose form objects are stored and cached, when
	// the same object is served under two groups or versions (Event in core/v1
	// and events.k8s.io/v1). FromStored and ToStored convert, without aliasing.
	StoredAs   *Kind
	FromStored func(Object) Object
	ToStored   func(Object) Object

	// Custom kinds. Load and Save take the place of the codec between an object
	// and its stored bytes; several versions share one Prefix and its bytes, and
	// a webhook may be asked to convert. Life ends when the definition changes:
	// watches of the kind end with it. Now, of the kind that the cache and views
	// hold (NewRaw), is the served one that stands for it in requests.
	Load func(ctx context.Context, data []byte) (Object, error)
	Save func(ctx context.Context, obj Object) ([]byte, error)
	Life context.Context
	Now  func() *Kind
	// Prune removes fields that the kind does not have from the decoded body of
	// a custom object and returns their paths. An error says that its metadata is
	// none.
	Prune func(map[string]any) (unknown []string, err error)
	// ListKind of a custom kind, where it is not the Kind with "List".
	ListKind string
	// Deprecation is a warning that every request for the kind gets.
	Deprecation string
	// Model of a custom kind in OpenAPI documents, as a JSON schema without what
	// all objects have; v2 leaves out what only version 3 can say. It also says
	// which lists and objects are owned as wholes.
	Model func(v2 bool) ([]byte, error)
	// OtherVersion of a custom kind, also one that is not served: fields may be
	// owned in it. nil: there is none of that name.
	OtherVersion func(name string) *Kind

	// Measured objects are in no store: they are made of what is measured when
	// somebody asks. Another API server may be registered for their group and
	// version, and answers instead.
	Measured bool

	New     func() Object         // nil for kinds that are only asked for
	NewBody func() runtime.Object // the request and answer of a kind that is not stored
	NewList func() runtime.Object

	// Verbs served; nil means all of create, delete, deletecollection, get,
	// list, patch, update, watch.
	Verbs []string

	// Subresources by name: "status", "scale", "binding", "log", ...
	Subresources map[string]Subresource

	// Default fills absent fields of a decoded object, in place. It must be
	// idempotent: it also runs on what is read from the store.
	Default func(Object)
	// PrepareCreate and PrepareUpdate reset what clients may not write (status
	// on the main resource, generation) before validation. As in upstream, what
	// admission does to a new object comes before, to a changed one after.
	PrepareCreate func(obj Object)
	PrepareUpdate func(obj, old Object)
	// Stamp notes the time of what a write of the object or of its status
	// changes; it runs after PrepareUpdate. A new object has its
	// creationTimestamp for that.
	Stamp func(obj, old Object, now metav1.Time)

	// Validate judges a new object, ValidateUpdate a changed one; each is the
	// only one called for its operation. Both run after defaulting, preparing
	// and admission, with a name and, for updates, a resourceVersion in place.
	Validate       func(obj Object) field.ErrorList
	ValidateUpdate func(obj, old Object) field.ErrorList
	// Warnings are returned to the client as Warning headers; old is nil on
	// create.
	Warnings func(obj, old Object) []string

	// Columns of the Table that kubectl get prints: all of them, Name and Age
	// included, in upstream's order.
	Columns []Column
	// ListColumns are those of a list in which a cell depends on the other
	// objects; nil: Columns.
	ListColumns func(list iter.Seq[Object]) []Column
	// Fields that a fieldSelector may name besides metadata.name and
	// metadata.namespace.
	Fields map[string]func(Object) string

	// DeleteGrace returns the grace period in seconds for a delete that asks
	// for opts, or 0 to delete at once. nil: always 0. Only pods have one.
	DeleteGrace func(obj Object, opts *metav1.DeleteOptions) int64
	// DefaultPropagation is what a delete without propagationPolicy means;
	// empty: background.
	DefaultPropagation metav1.DeletionPropagation
	// AllowCreateOnUpdate: PUT of an absent name creates it (leases, events,
	// endpoints, nodes' and a few others upstream).
	AllowCreateOnUpdate bool
	// RequireVersion: an update without resourceVersion is refused instead of
	// being applied to whatever is there (service accounts and leases
	// upstream).
	RequireVersion bool
}

// Subresource is a part of an object with its own URL and its own permission.
type Subresource struct {
	// GVK of the body; zero means the parent's.
	GVK schema.GroupVersionKind
	New func() runtime.Object // nil: the parent's type, or none (connect)
	// Verbs: "get", "update", "patch", "create"; for connecting ones the
	// verbs that upstream's discovery lists.
	Verbs []string
	// PrepareUpdate and ValidateUpdate apply to writes of this subresource
	// when its body is the parent's type: status takes everything but the
	// status from old.
	PrepareUpdate  func(obj, old Object)
	ValidateUpdate func(obj, old Object) field.ErrorList
	// DefaultBody and ValidateBody apply where the body has a type of its own
	// (Binding, Eviction, TokenRequest, Scale).
	DefaultBody  func(runtime.Object)
	ValidateBody func(runtime.Object) field.ErrorList
	// Scale maps the parent to and from autoscaling/v1 Scale; only for "scale".
	Scale *Scale
	// Connect: the request is a stream or a proxied call (exec, attach, log,
	// portforward, proxy), handled by the apiserver's kubelet proxy.
	Connect bool
}

// Scale reads and writes a kind's replica counts.
type Scale struct {
	Spec     func(Object) int32
	Status   func(Object) int32
	Selector func(Object) string // in the form of metav1.FormatLabelSelector
	Set      func(Object, int32)
	// Path of what Set sets; nil: spec, replicas.
	Path []string
}

// Column is one column of a Table.
type Column struct {
	Name     string
	Type     string // "string", "integer", "date"
	Format   string // "name" for the first column
	Wide     bool   // only with -o wide (priority 1)
	Describe string
	// Value of the cell; now is the server's clock, for ages.
	Value func(obj Object, now metav1.Time) any
}

// GroupResource of the kind.
func (k *Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.GVK.Group, Resource: k.Resource}
}

// GroupVersionResource of the kind.
func (k *Kind) GroupVersionResource() schema.GroupVersionResource {
	return k.GVK.GroupVersion().WithResource(k.Resource)
}

// String is resource.group, as users name kinds: "deployments.apps", "pods".
func (k *Kind) String() string { return k.GroupResource().String() }

// Stored reports whether objects of the kind live in the store.
func (k *Kind) Stored() bool { return k.Prefix != "" }

// Root is the prefix of all stored keys, as upstream's --etcd-prefix.
const Root = "/registry/"

// KeyPrefix is the store prefix of all objects of the kind, or of those in one
// namespace. It ends in a slash.
func (k *Kind) KeyPrefix(namespace string) string {
	p := Root + k.Prefix + "/"
	if k.Namespaced && namespace != "" {
		p += namespace + "/"
	}
	return p
}

// Key is the store key of one object.
func (k *Kind) Key(namespace, name string) string { return k.KeyPrefix(namespace) + name }

// Ref names one object, or one of its subresources.
type Ref struct {
	Kind      *Kind
	Namespace string // empty for cluster-scoped kinds
	Name      string
	Sub       string // subresource or empty
}

// RefTo names obj.
func RefTo(k *Kind, obj metav1.Object) Ref {
	return Ref{Kind: k, Namespace: obj.GetNamespace(), Name: obj.GetName()}
}

// WithSub is the same object's subresource.
func (r Ref) WithSub(sub string) Ref { r.Sub = sub; return r }

func (r Ref) String() string {
	s := r.Kind.String() + " "
	if r.Namespace != "" {
		s += r.Namespace + "/"
	}
	s += r.Name
	if r.Sub != "" {
		s += "/" + r.Sub
	}
	return s
}
