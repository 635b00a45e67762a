package apiserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"

	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/codec"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store/cache"
)

// A list in protobuf is its metadata (field 1) and its items (field 2), inside
// the raw field of the envelope. All are length-delimited, wire type 2.
const (
	listMetaTag  = 1<<3 | 2
	listItemTag  = 2<<3 | 2
	unknownType  = 1 // field numbers of runtime.Unknown: its type and its raw bytes
	unknownRaw   = 2
	envelopeSize = 4 // "k8s\0"
)

var errEnvelope = errors.New("apiserver: broken protobuf envelope")

// protobuf writes the list out of the items' messages, without decoding them.
func (l *listing) protobuf(ctx context.Context, k *kinds.Kind, write func([]byte) (int, error)) error {
	listMeta := l.meta()
	meta, err := listMeta.Marshal()
	if err != nil {
		return err
	}
	parts := make([][]byte, len(l.items))
	size := 1 + uvarintSize(len(meta)) + len(meta)
	for i, it := range l.items {
		data, err := it.Bytes(ctx, codec.Protobuf)
		if err != nil {
			return err
		}
		if parts[i], err = inner(data); err != nil {
			return err
		}
		size += 1 + uvarintSize(len(parts[i])) + len(parts[i])
	}
	head, err := envelope(k.GVK.GroupVersion().String(), k.GVK.Kind+"List", size)
	if err != nil {
		return err
	}
	head = append(head, listMetaTag)
	head = append(binary.AppendUvarint(head, uint64(len(meta))), meta...)
	if _, err := write(head); err != nil {
		return err
	}
	var tag [1 + binary.MaxVarintLen64]byte
	for _, p := range parts {
		if _, err := write(binary.AppendUvarint(append(tag[:0], listItemTag), uint64(len(p)))); err != nil {
			return err
		}
		if _, err := write(p); err != nil {
			return err
		}
	}
	return nil
}

// envelope is what stands before a message of so many bytes.
func envelope(apiVersion, kind string, size int) ([]byte, error) {
	typeMeta := runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}
	data, err := typeMeta.Marshal()
	if err != nil {
		return nil, err
	}
	out := append([]byte("k8s\x00"), unknownType<<3|2)
	out = append(binary.AppendUvarint(out, uint64(len(data))), data...)
	out = append(out, unknownRaw<<3|2)
	return binary.AppendUvarint(out, uint64(size)), nil
}

func uvarintSize(n int) int {
	var b [binary.MaxVarintLen64]byte
	return binary.PutUvarint(b[:], uint64(n))
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

// appendFrame writes one event of a watch: a line of JSON, or a length and the
// message WatchEvent{type, object{raw}}.
func appendFrame(out []byte, f codec.Format, t cache.EventType, object []byte) []byte {
	if f != codec.Protobuf {
		out = append(out, `{"type":"`...)
		out = append(out, t...)
		out = append(out, `","object":`...)
		out = append(out, bytes.TrimRight(object, "\n")...)
		return append(out, "}\n"...)
	}
	const first, second = 1<<3 | 2, 2<<3 | 2
	raw := 1 + uvarintSize(len(object)) + len(object)
	size := 1 + uvarintSize(len(t)) + len(t) + 1 + uvarintSize(raw) + raw
	out = binary.BigEndian.AppendUint32(out, uint32(size))
	out = append(binary.AppendUvarint(append(out, first), uint64(len(t))), t...)
	out = binary.AppendUvarint(append(out, second), uint64(raw))
	return append(binary.AppendUvarint(append(out, first), uint64(len(object))), object...)
}
