package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"strconv"
	"time"

	"sigs.k8s.io/yaml"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store/cache"
)

// tabler makes Tables of a kind; include says what each row carries along.
type tabler struct {
	columns []kinds.Column
	as      accepted // whose version of Table
	include metav1.IncludeObjectPolicy
	now     func() time.Time
	stream  bool // a watch: only its first table says what the columns are
	begun   bool
}

func (s *Server) newTabler(k *kinds.Kind, a accepted, include string) (*tabler, error) {
	t := &tabler{columns: k.Columns, as: a, include: metav1.IncludeObjectPolicy(include), now: s.now}
	switch t.include {
	case "":
		t.include = metav1.IncludeMetadata
	case metav1.IncludeMetadata, metav1.IncludeNone, metav1.IncludeObject:
	default:
		return nil, badRequest("Unable to convert to Table as requested: includeObject: Invalid value: %q: must be 'Metadata', 'Object', 'None', or empty", include)
	}
	return t, nil
}

// row is what one line of a table shows; item is nil for an object that is not
// in the cache.
type row struct {
	object kinds.Object
	item   *cache.Item
}

// table writes a Table in JSON by hand, in pieces: through encoding/json its
// rows would be reflected on and scanned twice.
func (t *tabler) table(ctx context.Context, meta metav1.ListMeta, rows iter.Seq2[row, error], write func([]byte) (int, error)) error {
	const piece = 32 << 10
	var columns []metav1.TableColumnDefinition
	if !t.stream || !t.begun {
		columns = t.definitions()
	}
	t.begun = true
	head, err := json.Marshal(struct {
		metav1.TypeMeta `json:",inline"`
		metav1.ListMeta `json:"metadata"`
		Columns         []metav1.TableColumnDefinition `json:"columnDefinitions"`
	}{t.as.meta("Table"), meta, columns})
	if err != nil {
		return err
	}
	partial, err := json.Marshal(t.as.meta("PartialObjectMetadata"))
	if err != nil {
		return err
	}
	var out bytes.Buffer
	out.Write(head[:len(head)-1])
	out.WriteString(`,"rows":[`)
	w := &rowWriter{ctx: ctx, tabler: t, out: &out, json: json.NewEncoder(&out), now: metav1.NewTime(t.now()), partial: partial[:len(partial)-1]}
	first := true
	for r, err := range rows {
		if err != nil {
			return err
		}
		if !first {
			out.WriteByte(',')
		}
		first = false
		if err := w.write(r); err != nil {
			return err
		}
		if out.Len() > piece {
			if _, err := write(out.Bytes()); err != nil {
				return err
			}
			out.Reset()
		}
	}
	out.WriteString("]}\n")
	_, err = write(out.Bytes())
	return err
}

// short is a table of one row.
func (t *tabler) short(ctx context.Context, revision string, r row) ([]byte, error) {
	var out bytes.Buffer
	err := t.table(ctx, metav1.ListMeta{ResourceVersion: revision}, func(yield func(row, error) bool) { yield(r, nil) }, out.Write)
	return out.Bytes(), err
}

// rowWriter writes the rows of one table.
type rowWriter struct {
	ctx context.Context
	*tabler
	out     *bytes.Buffer
	json    *json.Encoder // into out
	now     metav1.Time
	partial []byte // how an object of metadata alone begins
}

func (t *tabler) definitions() []metav1.TableColumnDefinition {
	out := make([]metav1.TableColumnDefinition, 0, len(t.columns))
	for _, c := range t.columns {
		d := metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Describe}
		if c.Wide {
			d.Priority = 1
		}
		out = append(out, d)
	}
	return out
}

func (w *rowWriter) write(r row) error {
	w.out.WriteString(`{"cells":[`)
	for i, c := range w.columns {
		if i > 0 {
			w.out.WriteByte(',')
		}
		if err := w.cell(c.Value(r.object, w.now)); err != nil {
			return err
		}
	}
	w.out.WriteString(`],"object":`)
	var err error
	switch {
	case w.include == metav1.IncludeMetadata:
		err = w.metadata(r)
	case w.include == metav1.IncludeObject:
		var data []byte
		if r.item != nil {
			data, err = r.item.Bytes(w.ctx, codec.JSON)
		} else {
			data, err = codec.Encode(codec.JSON, r.object)
		}
		w.out.Write(bytes.TrimRight(data, "\n"))
	default:
		w.out.WriteString("null")
	}
	w.out.WriteByte('}')
	return err
}

// metadata writes what a row is about, which its item remembers.
func (w *rowWriter) metadata(r row) error {
	encode := func(o kinds.Object) ([]byte, error) { return json.Marshal(metaOf(o)) }
	var data []byte
	var err error
	if r.item != nil {
		data, err = r.item.Metadata(w.ctx, encode)
	} else {
		data, err = encode(r.object)
	}
	w.out.Write(w.partial)
	w.out.WriteString(`,"metadata":`)
	w.out.Write(data)
	w.out.WriteByte('}')
	return err
}

// cell writes a cell; most are plain text and numbers.
func (w *rowWriter) cell(v any) error {
	switch v := v.(type) {
	case string:
		if plain(v) {
			w.out.WriteByte('"')
			w.out.WriteString(v)
			w.out.WriteByte('"')
			return nil
		}
	case int64:
		w.out.Write(strconv.AppendInt(w.out.AvailableBuffer(), v, 10))
		return nil
	}
	return w.value(v)
}

// value writes any value, without the newline that Encode adds.
func (w *rowWriter) value(v any) error {
	err := w.json.Encode(v)
	if err == nil {
		w.out.Truncate(w.out.Len() - 1)
	}
	return err
}

// plain: JSON writes these characters as they are.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

// partial is an object's metadata alone.
func (a accepted) partial(o kinds.Object) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{TypeMeta: a.meta("PartialObjectMetadata"), ObjectMeta: metaOf(o)}
}

func metaOf(o kinds.Object) (out metav1.ObjectMeta) {
	if u, ok := o.(*unstructured.Unstructured); ok {
		if m, ok := u.Object["metadata"].(map[string]any); ok {
			// What is stored has been checked to be metadata.
			_ = runtime.DefaultUnstructuredConverter.FromUnstructured(m, &out)
		}
		return out
	}
	if a, ok := o.(metav1.ObjectMetaAccessor); ok {
		if m, ok := a.GetObjectMeta().(*metav1.ObjectMeta); ok {
			return *m
		}
	}
	return out
}

// render encodes one object as the client wants it.
func (s *Server) render(a accepted, k *kinds.Kind, o runtime.Object, include string) ([]byte, error) {
	if obj, ok := o.(kinds.Object); ok && k != nil && len(k.Columns) > 0 && a.shape == asTable {
		t, err := s.newTabler(k, a, include)
		if err != nil {
			return nil, err
		}
		data, err := t.short(context.Background(), obj.GetResourceVersion(), row{object: obj})
		return a.shaped(data, err)
	} else if ok && a.shape == asPartial {
		o = a.partial(obj)
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

// writeList answers with a listing. Whole objects and rows go out in chunks: a
// list of everything is never in memory at once.
func (s *Server) writeList(ctx context.Context, w http.ResponseWriter, a accepted, k *kinds.Kind, l *listing, include string) error {
	if a.shape == asPartial {
		list := &metav1.PartialObjectMetadataList{TypeMeta: a.meta("PartialObjectMetadataList"), ListMeta: l.meta()}
		for _, it := range l.items {
			obj, err := it.Load(ctx)
			if err != nil {
				return err
			}
			list.Items = append(list.Items, *a.partial(obj))
		}
		data, err := encode(a, list)
		return s.write(w, http.StatusOK, a, data, err)
	}
	body, err := s.listBody(ctx, a, k, l, include)
	if err != nil {
		return err
	}
	if a.format == codec.YAML || a.pretty && a.format == codec.JSON {
		var out bytes.Buffer
		if err := body(out.Write); err != nil {
			return err
		}
		data, err := a.shaped(out.Bytes(), nil)
		return s.write(w, http.StatusOK, a, data, err)
	}
	c := s.newChunks(w, a)
	defer c.free()
	err = body(c.Write)
	if err != nil && c.begun {
		s.log.Error("a list broke off", "kind", k, "error", err)
		panic(http.ErrAbortHandler) // so that the client does not take it for whole
	}
	if err != nil {
		return err
	}
	return c.end()
}

// listBody writes a listing in pieces.
func (s *Server) listBody(ctx context.Context, a accepted, k *kinds.Kind, l *listing, include string) (func(write func([]byte) (int, error)) error, error) {
	if a.shape != asTable {
		encoded := l.json
		if a.format == codec.Protobuf {
			encoded = l.protobuf
		}
		return func(write func([]byte) (int, error)) error { return encoded(ctx, k, write) }, nil
	}
	t, err := s.newTabler(k, a, include)
	if err != nil {
		return nil, err
	}
	if k.ListColumns != nil {
		t.columns = k.ListColumns(l.objects())
	}
	return func(write func([]byte) (int, error)) error {
		return t.table(ctx, l.meta(), func(yield func(row, error) bool) {
			for _, it := range l.items {
				obj, err := it.Load(ctx)
				if !yield(row{obj, it}, err) {
					return
				}
			}
		}, write)
	}, nil
}

// shaped makes of JSON what the client wants to read; protobuf stays.
func (a accepted) shaped(data []byte, err error) ([]byte, error) {
	switch {
	case err != nil:
		return nil, err
	case a.format == codec.YAML:
		return yaml.JSONToYAML(data)
	case a.format == codec.JSON && a.pretty:
		return indent(data)
	}
	return data, nil
}

// objects are what a listing holds.
func (l *listing) objects() iter.Seq[kinds.Object] {
	return func(yield func(kinds.Object) bool) {
		for _, it := range l.items {
			if !yield(it.Object()) {
				return
			}
		}
	}
}

// appendEvent writes a watch event in the client's shape. Events of whole
// objects share one frame among all watchers; what is seen by one watcher only
// is framed in place.
func (s *Server) appendEvent(ctx context.Context, out []byte, a accepted, t *tabler, typ cache.EventType, e *cache.Event, it *cache.Item) ([]byte, error) {
	if a.shape == whole && e != nil && typ == e.Type {
		data, err := e.Frame(ctx, a.format)
		return append(out, data...), err
	}
	if a.shape == whole {
		data, err := it.Bytes(ctx, a.format)
		return appendFrame(out, a.format, typ, data), err
	}
	obj, err := it.Load(ctx)
	if err != nil {
		return out, err
	}
	var data []byte
	if a.shape == asTable {
		data, err = t.short(ctx, strconv.FormatInt(it.Rev, 10), row{obj, it})
	} else {
		data, err = codec.Encode(a.format, a.partial(obj))
	}
	return appendFrame(out, a.format, typ, data), err
}
