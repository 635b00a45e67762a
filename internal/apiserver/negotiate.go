package apiserver

import (
	"mime"
	"net"
	"net/http"
	"net/netip"
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
	pretty bool
	gzip   bool // the client understands it, and is on another machine
}

var formatOfType = map[string]codec.Format{
	typeJSON: codec.JSON, typeYAML: codec.YAML, typeProtobuf: codec.Protobuf, "*/*": codec.JSON, "application/*": codec.JSON, "text/*": codec.JSON,
}

// negotiate takes the first entry of Accept that can be served; what refuses
// says what cannot.
func negotiate(r *http.Request, refuses func(accepted) bool) (accepted, error) {
	header := strings.Join(r.Header.Values("Accept"), ",")
	if header == "" {
		header = typeJSON
	}
	for entry := range strings.SplitSeq(header, ",") {
		t, params, err := mime.ParseMediaType(strings.TrimSpace(entry))
		if err != nil {
			continue
		}
		f, ok := formatOfType[t]
		if !ok {
			continue
		}
		a := accepted{format: f, pretty: truth(r.URL.Query(), "pretty"), gzip: wantsGzip(r)}
		switch as := params["as"]; {
		case as == "":
		case params["g"] != "meta.k8s.io" || params["v"] != "v1":
			continue
		case as == "Table" && f == codec.Protobuf: // there is none, upstream neither
			continue
		case as == "Table":
			a.shape = asTable
		case as == "PartialObjectMetadata" || as == "PartialObjectMetadataList":
			a.shape = asPartial
		default:
			continue
		}
		if refuses(a) {
			continue
		}
		return a, nil
	}
	return accepted{}, notAcceptable()
}

func notAcceptable() error {
	return statusError(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
		"only the following media types are accepted: %s", strings.Join([]string{typeJSON, typeYAML, typeProtobuf}, ", "))
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
