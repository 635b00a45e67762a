package cache

import (
	"bytes"
	"context"
	"encoding/binary"

	"knarr.dev/knarr/internal/codec"
)

// EventType in the words of the watch protocol.
type EventType string

// The types of events.
const (
	Added    EventType = "ADDED"
	Modified EventType = "MODIFIED"
	Deleted  EventType = "DELETED"
	Bookmark EventType = "BOOKMARK"
)

// Frame writes a watch event of an item: a line of JSON, or a length and a
// protobuf message.
func Frame(ctx context.Context, f codec.Format, t EventType, it *Item) ([]byte, error) {
	data, err := it.Bytes(ctx, f)
	if err != nil {
		return nil, err
	}
	return RawFrame(f, t, data)
}

// RawFrame is Frame for an object that is encoded already. t is at most 127
// bytes long. The error is always nil.
func RawFrame(f codec.Format, t EventType, object []byte) ([]byte, error) {
	frame, _ := frameOf(f, t, object)
	return frame, nil
}

// frameOf also says where in the frame the object stands.
func frameOf(f codec.Format, t EventType, object []byte) (frame, inside []byte) {
	if f == codec.Protobuf {
		return protobufFrame(t, object)
	}
	const before, between, after = `{"type":"`, `","object":`, "}\n"
	object = bytes.TrimRight(object, "\n") // clients read lines
	frame = make([]byte, 0, len(before)+len(t)+len(between)+len(object)+len(after))
	frame = append(frame, before...)
	frame = append(frame, t...)
	frame = append(frame, between...)
	start := len(frame)
	frame = append(frame, object...)
	end := len(frame)
	return append(frame, after...), frame[start:end:end]
}

// protobufFrame is a length of four bytes and a metav1.WatchEvent: its type
// (field 1) and a RawExtension (field 2) with the object as its raw bytes
// (field 1).
func protobufFrame(t EventType, object []byte) (frame, inside []byte) {
	const typeTag, objectTag, rawTag = 1<<3 | 2, 2<<3 | 2, 1<<3 | 2
	var raw [1 + binary.MaxVarintLen64]byte
	raw[0] = rawTag
	rawHead := raw[:1+binary.PutUvarint(raw[1:], uint64(len(object)))]
	var ext [1 + binary.MaxVarintLen64]byte
	ext[0] = objectTag
	extHead := ext[:1+binary.PutUvarint(ext[1:], uint64(len(rawHead)+len(object)))]
	size := 2 + len(t) + len(extHead) + len(rawHead) + len(object)
	frame = make([]byte, 0, 4+size)
	frame = binary.BigEndian.AppendUint32(frame, uint32(size))
	frame = append(frame, typeTag, byte(len(t)))
	frame = append(frame, t...)
	frame = append(frame, extHead...)
	frame = append(frame, rawHead...)
	start := len(frame)
	frame = append(frame, object...)
	return frame, frame[start:len(frame):len(frame)]
}
