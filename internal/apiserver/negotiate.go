package apiserver

import (
	"mime"
	"net/http"
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
}

var formatOfType = map[string]codec.Format{
	typeJSON: codec.JSON, typeYAML: codec.YAML, typeProtobuf: codec.Protobuf, "*/*": codec.JSON, "application/*": codec.JSON, "text/*": codec.JSON,
}

// negotiate takes the first entry of Accept that can be served.
func negotiate(r *http.Request) (accepted, error) {
	header := strings.Join(r.Header.Values("Accept"), ",")
	if header == "" {
		header = typeJSON
	}
	pretty := r.URL.Query().Get("pretty")
	for entry := range strings.SplitSeq(header, ",") {
		t, params, err := mime.ParseMediaType(strings.TrimSpace(entry))
		if err != nil {
			continue
		}
		f, ok := formatOfType[t]
		if !ok {
			continue
		}
		a := accepted{format: f, pretty: pretty != "" && pretty != "0" && pretty != "false"}
		switch as := params["as"]; {
		case as == "":
		case params["g"] != "meta.k8s.io" || params["v"] != "v1":
			continue
		case as == "Table":
			a.shape = asTable
		case as == "PartialObjectMetadata" || as == "PartialObjectMetadataList":
			a.shape = asPartial
		default:
			continue
		}
		return a, nil
	}
	return accepted{}, statusError(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
		"only the following media types are accepted: %s", strings.Join([]string{typeJSON, typeYAML, typeProtobuf}, ", "))
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
