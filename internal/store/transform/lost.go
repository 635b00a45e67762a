package transform

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"knarr.dev/knarr/internal/store"
)

// Lost are stored values whose keys are not at hand.
type Lost struct {
	Values int
	Keys   []string // the names of the keys, in order
	// Foreign are providers and keys of an EncryptionConfiguration that is not
	// given; their values do not count.
	Foreign []string
}

func (l *Lost) add(key string) {
	l.Values++
	l.Keys = into(l.Keys, key)
}

// into adds a name to a sorted list, once.
func into(list []string, name string) []string {
	if at, there := slices.BinarySearch(list, name); !there {
		return slices.Insert(list, at, name)
	}
	return list
}

// orphans are what is stored below a prefix by keys of the key file, which is
// gone. configured: there is an EncryptionConfiguration too.
func orphans(ctx context.Context, from store.Store, prefix string, configured bool) (Lost, error) {
	var out Lost
	_, err := each(ctx, from, prefix, func(kv store.KV) error {
		by := writer(kv.Value)
		name, ours := strings.CutPrefix(by, "aesgcm ")
		switch {
		case by == ClearText:
		case ours && (!configured || isGenerated(name)):
			out.add(name)
		case !configured:
			out.Foreign = into(out.Foreign, by)
		}
		return nil
	})
	return out, err
}

// Discard deletes what is stored below a prefix and encrypted by keys of these
// names, none of which may be one of those at hand. It blocks.
func Discard(ctx context.Context, from store.Store, prefix string, atHand []Key, names []string) (Lost, error) {
	for _, k := range atHand {
		if slices.Contains(names, k.Name) {
			return Lost{}, fmt.Errorf("the key %s is in the key file: what it encrypts is not lost, delete it with kubectl", k.Name)
		}
	}
	var out Lost
	_, err := each(ctx, from, prefix, func(kv store.KV) error {
		name, ours := strings.CutPrefix(writer(kv.Value), "aesgcm ")
		if !ours || !slices.Contains(names, name) {
			return nil
		}
		if _, err := from.Delete(ctx, kv.Key, kv.Rev); err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("cannot delete %s: %w", kv.Key, err)
		}
		out.add(name)
		return nil
	})
	return out, err
}
