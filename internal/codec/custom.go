package codec

import (
	"context"
	"strconv"

	"knarr.dev/knarr/internal/kinds"
)

// Load is DecodeStored for any kind: to read an object of a custom kind it may
// have to ask a webhook.
func Load(ctx context.Context, k *kinds.Kind, data []byte, rev int64) (kinds.Object, error) {
	if k.Load == nil {
		return DecodeStored(k, data, rev)
	}
	obj, err := k.Load(ctx, data)
	if err != nil {
		return nil, err
	}
	obj.SetResourceVersion(strconv.FormatInt(rev, 10))
	return obj, nil
}

// Save is EncodeStored for any kind, likewise.
func Save(ctx context.Context, k *kinds.Kind, obj kinds.Object) ([]byte, error) {
	if k.Save == nil {
		return EncodeStored(obj)
	}
	return k.Save(ctx, obj)
}
