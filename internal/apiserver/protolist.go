package apiserver

import (
	"encoding/binary"
	"errors"

	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
)

// A list in protobuf is its metadata (field 1) and its items (field 2), inside
// the raw field of the envelope. All are length-delimited, wire type 2.
const (
	listMetaTag  = 1<<3 | 2
	listItemTag  = 2<<3 | 2
	unknownRaw   = 2 // field number of runtime.Unknown's raw bytes
	envelopeSize = 4 // "k8s\0"
)

var errEnvelope = errors.New("apiserver: broken protobuf envelope")

// encodeProtobuf joins the items' messages without decoding them.
func (l *listing) encodeProtobuf(k *kinds.Kind) ([]byte, error) {
	listMeta := l.meta()
	meta, err := listMeta.Marshal()
	if err != nil {
		return nil, err
	}
	parts := make([][]byte, len(l.items))
	size := len(meta) + binary.MaxVarintLen64
	for i, it := range l.items {
		data, err := it.Bytes(codec.Protobuf)
		if err != nil {
			return nil, err
		}
		if parts[i], err = inner(data); err != nil {
			return nil, err
		}
		size += len(parts[i]) + 1 + binary.MaxVarintLen32
	}
	raw := make([]byte, 0, size)
	raw = append(raw, listMetaTag)
	raw = binary.AppendUvarint(raw, uint64(len(meta)))
	raw = append(raw, meta...)
	for _, p := range parts {
		raw = append(raw, listItemTag)
		raw = binary.AppendUvarint(raw, uint64(len(p)))
		raw = append(raw, p...)
	}
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: k.GVK.GroupVersion().String(), Kind: k.GVK.Kind + "List"}, Raw: raw}
	out := make([]byte, envelopeSize+u.Size())
	copy(out, "k8s\x00")
	n, err := u.MarshalTo(out[envelopeSize:])
	if err != nil {
		return nil, err
	}
	return out[:envelopeSize+n], nil
}

// inner finds the object's message in its envelope, without copying it.
func inner(data []byte) ([]byte, error) {
	if len(data) < envelopeSize {
		return nil, errEnvelope
	}
	for data = data[envelopeSize:]; len(data) > 0; {
		tag, n := binary.Uvarint(data)
		if n <= 0 || tag&7 != 2 {
			return nil, errEnvelope
		}
		length, m := binary.Uvarint(data[n:])
		if m <= 0 || uint64(len(data)-n-m) < length {
			return nil, errEnvelope
		}
		body := data[n+m : n+m+int(length)]
		if tag>>3 == unknownRaw {
			return body, nil
		}
		data = data[n+m+int(length):]
	}
	return nil, nil
}
