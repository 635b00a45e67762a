package apiserver

import (
	"encoding/json"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store/cache"
)

// tabler makes Tables of a kind; include says what each row carries along.
type tabler struct {
	kind    *kinds.Kind
	include metav1.IncludeObjectPolicy
	now     func() time.Time
	stream  bool // a watch: only its first table says what the columns are
	begun   bool
}

func (s *Server) newTabler(k *kinds.Kind, include string) (*tabler, error) {
	t := &tabler{kind: k, include: metav1.IncludeObjectPolicy(include), now: s.now}
	switch t.include {
	case "":
		t.include = metav1.IncludeMetadata
	case metav1.IncludeMetadata, metav1.IncludeNone, metav1.IncludeObject:
	default:
		return nil, badRequest("includeObject: Unsupported value: %q: supported values: \"Metadata\", \"None\", \"Object\"", include)
	}
	return t, nil
}

func (t *tabler) table(meta metav1.ListMeta, objects []kinds.Object) (*metav1.Table, error) {
	out := &metav1.Table{TypeMeta: metav1.TypeMeta{Kind: "Table", APIVersion: "meta.k8s.io/v1"}, ListMeta: meta, Rows: []metav1.TableRow{}}
	now := metav1.NewTime(t.now())
	for _, c := range t.kind.Columns {
		if t.stream && t.begun {
			break
		}
		d := metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Describe}
		if c.Wide {
			d.Priority = 1
		}
		out.ColumnDefinitions = append(out.ColumnDefinitions, d)
	}
	t.begun = true
	for _, o := range objects {
		row := metav1.TableRow{Cells: make([]any, 0, len(t.kind.Columns))}
		for _, c := range t.kind.Columns {
			row.Cells = append(row.Cells, c.Value(o, now))
		}
		switch t.include {
		case metav1.IncludeObject:
			data, err := codec.Encode(codec.JSON, o)
			if err != nil {
				return nil, err
			}
			row.Object = runtime.RawExtension{Raw: data}
		case metav1.IncludeMetadata:
			data, err := json.Marshal(partial(o))
			if err != nil {
				return nil, err
			}
			row.Object = runtime.RawExtension{Raw: data}
		}
		out.Rows = append(out.Rows, row)
	}
	return out, nil
}

// partial is an object's metadata alone.
func partial(o kinds.Object) *metav1.PartialObjectMetadata {
	p := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: "meta.k8s.io/v1"}}
	if a, ok := o.(metav1.ObjectMetaAccessor); ok {
		if m, ok := a.GetObjectMeta().(*metav1.ObjectMeta); ok {
			p.ObjectMeta = *m
		}
	}
	return p
}

// render encodes one object as the client wants it.
func (s *Server) render(a accepted, k *kinds.Kind, o runtime.Object, include string) ([]byte, error) {
	if obj, ok := o.(kinds.Object); ok && k != nil && len(k.Columns) > 0 && a.shape == asTable {
		t, err := s.newTabler(k, include)
		if err != nil {
			return nil, err
		}
		o, err = t.table(metav1.ListMeta{ResourceVersion: obj.GetResourceVersion()}, []kinds.Object{obj})
		if err != nil {
			return nil, err
		}
	} else if ok && a.shape == asPartial {
		o = partial(obj)
	}
	return encode(a, o)
}

func encode(a accepted, o runtime.Object) ([]byte, error) {
	if a.pretty && a.format == codec.JSON {
		data, err := codec.Encode(codec.JSON, o)
		if err != nil {
			return nil, err
		}
		return indent(data)
	}
	return codec.Encode(a.format, o)
}

func (s *Server) renderList(a accepted, k *kinds.Kind, l *listing, include string) ([]byte, error) {
	switch a.shape {
	case asTable:
		t, err := s.newTabler(k, include)
		if err != nil {
			return nil, err
		}
		objects := make([]kinds.Object, len(l.items))
		for i, it := range l.items {
			objects[i] = it.Object()
		}
		table, err := t.table(l.meta(), objects)
		if err != nil {
			return nil, err
		}
		return encode(a, table)
	case asPartial:
		list := &metav1.PartialObjectMetadataList{TypeMeta: metav1.TypeMeta{Kind: "PartialObjectMetadataList", APIVersion: "meta.k8s.io/v1"}, ListMeta: l.meta()}
		for _, it := range l.items {
			list.Items = append(list.Items, *partial(it.Object()))
		}
		return encode(a, list)
	}
	data, err := l.encode(k, a.format)
	if err != nil {
		return nil, err
	}
	switch {
	case a.format == codec.YAML:
		return yamlOf(data)
	case a.format == codec.JSON && a.pretty:
		return indent(data)
	}
	return data, nil
}

// eventFrame is a watch event in the client's shape; whole objects share one.
func (s *Server) eventFrame(a accepted, t *tabler, typ cache.EventType, e *cache.Event, it *cache.Item) ([]byte, error) {
	switch {
	case a.shape == whole && e != nil && typ == e.Type:
		return e.Frame(a.format)
	case a.shape == whole:
		return cache.Frame(a.format, typ, it)
	}
	obj := it.Object()
	var o runtime.Object
	if a.shape == asTable {
		table, err := t.table(metav1.ListMeta{ResourceVersion: strconv.FormatInt(it.Rev, 10)}, []kinds.Object{obj})
		if err != nil {
			return nil, err
		}
		o = table
	} else {
		o = partial(obj)
	}
	data, err := codec.Encode(a.format, o)
	if err != nil {
		return nil, err
	}
	return cache.RawFrame(a.format, typ, data)
}
