package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/kinds/equal"
)

// The envelope of a protobuf object is "k8s\0" and a runtime.Unknown: TypeMeta
// (field 1), the object's message (field 2), content encoding and type (fields
// 3 and 4, empty). All are length-delimited, wire type 2.
const (
	protoMagic = "k8s\x00"

	wireBytes   = 2
	unknownType = 1<<3 | wireBytes
	unknownRaw  = 2<<3 | wireBytes
	typeVersion = 1<<3 | wireBytes
	typeKind    = 2<<3 | wireBytes

	// Every stored kind has ObjectMeta as field 1, whose field 6 is the
	// resourceVersion.
	objectMeta      = 1<<3 | wireBytes
	metaRevision    = 6<<3 | wireBytes
	emptyUnknownEnd = "\x1a\x00\x22\x00"
)

var (
	errEnvelope = errors.New("the bytes are no object in protobuf")
	errEncoding = errors.New("the protobuf object has a content encoding, which is not supported")
)

// unmarshaler is what generated protobuf code gives a type; equal.Message is the
// other half.
type unmarshaler interface {
	Reset()
	Unmarshal([]byte) error
}

// encodeEnvelope makes one allocation.
func encodeEnvelope(gvk schema.GroupVersionKind, obj runtime.Object) ([]byte, error) {
	m, ok := obj.(equal.Message)
	if !ok {
		return nil, fmt.Errorf("%T cannot be encoded as protobuf", obj)
	}
	version := gvk.GroupVersion().String()
	size := m.Size()
	head := fieldSize(len(version)) + fieldSize(len(gvk.Kind))
	out := make([]byte, 0, len(protoMagic)+fieldSize(head)+fieldSize(size)+len(emptyUnknownEnd))
	out = append(out, protoMagic...)
	out = appendHead(out, unknownType, head)
	out = append(appendHead(out, typeVersion, len(version)), version...)
	out = append(appendHead(out, typeKind, len(gvk.Kind)), gvk.Kind...)
	out = appendHead(out, unknownRaw, size)
	raw := out[len(out) : len(out)+size]
	if n, err := m.MarshalToSizedBuffer(raw); err != nil || n != size {
		return nil, errors.Join(err, fmt.Errorf("%T: %d bytes instead of %d: was it changed meanwhile?", obj, n, size))
	}
	return append(out[:len(out)+size], emptyUnknownEnd...), nil
}

// appendHead begins a length-delimited field.
func appendHead(b []byte, tag byte, length int) []byte {
	return binary.AppendUvarint(append(b, tag), uint64(length))
}

func fieldSize(length int) int { return 1 + uvarintSize(length) + length }

func uvarintSize(n int) int {
	var b [binary.MaxVarintLen64]byte
	return binary.PutUvarint(b[:], uint64(n))
}

// nextField splits off the first field. value is nil unless the field is
// length-delimited; whole is all of it.
func nextField(b []byte) (tag uint64, value, whole, rest []byte, err error) {
	tag, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, nil, nil, errEnvelope
	}
	end := uint64(n)
	switch tag & 7 {
	case 0:
		_, m := binary.Uvarint(b[n:])
		if m <= 0 {
			return 0, nil, nil, nil, errEnvelope
		}
		end += uint64(m)
	case 1:
		end += 8
	case wireBytes:
		length, m := binary.Uvarint(b[n:])
		if m <= 0 || length > uint64(len(b)) {
			return 0, nil, nil, nil, errEnvelope
		}
		end += uint64(m) + length
		if end <= uint64(len(b)) {
			value = b[end-length : end : end]
		}
	case 5:
		end += 4
	default: // groups are in no type of ours
		return 0, nil, nil, nil, errEnvelope
	}
	if end > uint64(len(b)) {
		return 0, nil, nil, nil, errEnvelope
	}
	return tag, value, b[:end], b[end:], nil
}

// openEnvelope returns the object's kind and message, which is a part of data.
func openEnvelope(data []byte) (schema.GroupVersionKind, []byte, error) {
	var version, kind string
	var raw []byte
	if !bytes.HasPrefix(data, []byte(protoMagic)) {
		return schema.GroupVersionKind{}, nil, errEnvelope
	}
	for rest := data[len(protoMagic):]; len(rest) > 0; {
		tag, value, _, next, err := nextField(rest)
		if err != nil {
			return schema.GroupVersionKind{}, nil, err
		}
		switch tag {
		case unknownType:
			if version, kind, err = typeMeta(value); err != nil {
				return schema.GroupVersionKind{}, nil, err
			}
		case unknownRaw:
			raw = value
		case 3<<3 | wireBytes:
			if len(value) > 0 {
				return schema.GroupVersionKind{}, nil, errEncoding
			}
		}
		rest = next
	}
	return schema.FromAPIVersionAndKind(version, kind), raw, nil
}

func typeMeta(b []byte) (version, kind string, err error) {
	for len(b) > 0 {
		tag, value, _, rest, err := nextField(b)
		if err != nil {
			return "", "", err
		}
		switch tag {
		case typeVersion:
			version = string(value)
		case typeKind:
			kind = string(value)
		}
		b = rest
	}
	return version, kind, nil
}

// WithRevision returns a protobuf object as EncodeStored writes it, with its
// resourceVersion: one copy instead of decoding and encoding. ok is false if
// data is in another form; stored is not changed.
func WithRevision(stored []byte, rev int64) (data []byte, ok bool) {
	gvk, raw, err := openEnvelope(stored)
	if err != nil {
		return nil, false
	}
	tag, meta, _, body, err := nextField(raw)
	if err != nil || tag != objectMeta {
		return nil, false
	}
	before, after, ok := cutRevision(meta)
	if !ok {
		return nil, false
	}
	var digits [20]byte
	rv := strconv.AppendInt(digits[:0], rev, 10)
	version := gvk.GroupVersion().String()
	metaLen := len(before) + fieldSize(len(rv)) + len(after)
	rawLen := fieldSize(metaLen) + len(body)
	head := fieldSize(len(version)) + fieldSize(len(gvk.Kind))
	out := make([]byte, 0, len(protoMagic)+fieldSize(head)+fieldSize(rawLen)+len(emptyUnknownEnd))
	out = append(out, protoMagic...)
	out = appendHead(out, unknownType, head)
	out = append(appendHead(out, typeVersion, len(version)), version...)
	out = append(appendHead(out, typeKind, len(gvk.Kind)), gvk.Kind...)
	out = appendHead(out, unknownRaw, rawLen)
	out = appendHead(out, objectMeta, metaLen)
	out = append(out, before...)
	out = append(appendHead(out, metaRevision, len(rv)), rv...)
	out = append(out, after...)
	out = append(out, body...)
	return append(out, emptyUnknownEnd...), true
}

// cutRevision finds the one resourceVersion in an ObjectMeta message; the
// generated code writes it even when it is empty.
func cutRevision(meta []byte) (before, after []byte, ok bool) {
	for rest := meta; len(rest) > 0; {
		tag, _, whole, next, err := nextField(rest)
		if err != nil {
			return nil, nil, false
		}
		if tag == metaRevision {
			at := len(meta) - len(rest)
			return meta[:at], meta[at+len(whole):], true
		}
		rest = next
	}
	return nil, nil, false
}
