package apiserver

import (
	"cmp"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/codec"
)

const (
	typeJSON     = "application/json"
	typeYAML     = "application/yaml"
	typeProtobuf = "application/vnd.kubernetes.protobuf"
)

// shape is how an answer shows objects.
type shape int

const (
	whole shape = iota
	asTable
	asPartial // metadata only
)

// accepted is what a client wants back.
type accepted struct {
	format codec.Format
	shape  shape
	beta   bool // the shape in meta.k8s.io/v1beta1
	pretty bool
	gzip   bool // the client understands it, and is on another machine
}

var formatOfType = map[string]codec.Format{
	typeJSON: codec.JSON, typeYAML: codec.YAML, typeProtobuf: codec.Protobuf, "*/*": codec.JSON, "application/*": codec.JSON, "text/*": codec.JSON,
}

// negotiate takes the entry of Accept that can be served and is preferred:
// by its quality, then by how much it says, then by its place. What refuses
// says what cannot.
func negotiate(r *http.Request, refuses func(accepted) bool) (accepted, error) {
	header := strings.Join(r.Header.Values("Accept"), ",")
	if header == "" {
		header = typeJSON
	}
	for _, c := range clauses(header) {
		a, ok := c.accepted()
		if !ok {
			continue
		}
		a.pretty, a.gzip = wantsPretty(r) || c.params["pretty"] == "1", wantsGzip(r)
		if refuses(a) {
			continue
		}
		return a, nil
	}
	return accepted{}, notAcceptable()
}

// clause is one entry of Accept.
type clause struct {
	typ     string
	params  map[string]string
	quality float64
}

// maxClauses bounds what is looked at; browsers send ten.
const maxClauses = 64

func clauses(header string) []clause {
	var out []clause
	for entry := range strings.SplitSeq(header, ",") {
		t, params, err := mime.ParseMediaType(strings.TrimSpace(entry))
		if err != nil {
			continue
		}
		c := clause{typ: t, params: params, quality: 1}
		if q, err := strconv.ParseFloat(params["q"], 64); err == nil {
			c.quality = q
		}
		if out = append(out, c); len(out) == maxClauses {
			break
		}
	}
	slices.SortStableFunc(out, func(x, y clause) int {
		return cmp.Or(cmp.Compare(y.quality, x.quality), cmp.Compare(strings.Count(x.typ, "*"), strings.Count(y.typ, "*")))
	})
	return out
}

// accepted is what the entry asks for, if that exists.
func (c clause) accepted() (accepted, bool) {
	f, ok := formatOfType[c.typ]
	a := accepted{format: f}
	if !ok || c.params["sv"] != "" && c.params["sv"] != "v1" || c.params["stream"] != "" && (c.params["stream"] != "watch" || f == codec.YAML) {
		return a, false
	}
	as := c.params["as"]
	if as == "" {
		return a, c.params["g"] == "" && c.params["v"] == ""
	}
	switch a.beta = c.params["v"] == "v1beta1"; {
	case c.params["g"] != metav1.GroupName, !a.beta && c.params["v"] != "v1":
		return a, false
	case as == "Table" && f != codec.Protobuf: // in protobuf there is none, upstream neither
		a.shape = asTable
	case as == "PartialObjectMetadata" || as == "PartialObjectMetadataList":
		a.shape = asPartial
	default:
		return a, false
	}
	return a, true
}

// wantsPretty: who looks at answers in a browser or in a terminal shall be able
// to read them.
func wantsPretty(r *http.Request) bool {
	if v := r.URL.Query().Get("pretty"); v != "" {
		b, err := strconv.ParseBool(v)
		return err == nil && b
	}
	return slices.ContainsFunc([]string{"curl", "Wget", "Mozilla/5.0"}, func(p string) bool { return strings.HasPrefix(r.UserAgent(), p) })
}

func notAcceptable() error {
	return statusError(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
		"only the following media types are accepted: %s", strings.Join([]string{typeJSON, typeYAML, typeProtobuf}, ", "))
}

// meta says of what kind an answer is, in the version that was asked for.
func (a accepted) meta(kind string) metav1.TypeMeta {
	if a.beta {
		return metav1.TypeMeta{Kind: kind, APIVersion: metav1.GroupName + "/v1beta1"}
	}
	return metav1.TypeMeta{Kind: kind, APIVersion: metav1.GroupName + "/v1"}
}

// wantsGzip: between processes of one machine compressing costs more than it
// saves, and clients may be sent what is not compressed.
func wantsGzip(r *http.Request) bool {
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		return false
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return true
	}
	here, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if here == nil {
		return true
	}
	to, err := netip.ParseAddrPort(here.String())
	return err != nil || !from.Addr().IsLoopback() && from.Addr() != to.Addr()
}

func (a accepted) contentType(watch bool) string {
	t := [...]string{typeJSON, typeYAML, typeProtobuf}[a.format]
	if watch && a.format == codec.Protobuf {
		t += ";stream=watch"
	}
	return t
}

// bodyFormat reads the Content-Type of a request; JSON if there is none.
func bodyFormat(r *http.Request) (codec.Format, error) {
	header := r.Header.Get("Content-Type")
	if header == "" {
		return codec.JSON, nil
	}
	t, _, err := mime.ParseMediaType(header)
	if f, ok := formatOfType[t]; err == nil && ok && !strings.Contains(t, "*") {
		return f, nil
	}
	return 0, statusError(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
		"the body of the request was in an unknown format - accepted media types include: %s", strings.Join([]string{typeJSON, typeYAML, typeProtobuf}, ", "))
}
