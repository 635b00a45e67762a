package event

import (
	"context"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
)

// send creates the Event, or counts on the one that is there. An Event that
// has expired meanwhile is created anew. tried: it may have been created before,
// and the answer was lost.
func (r *Recorder) send(ctx context.Context, ev *corev1.Event, stored, tried bool) error {
	if stored {
		if err := r.count(ctx, ev); !apierrors.IsNotFound(err) {
			return err
		}
	}
	var err error
	for range tries {
		_, err = r.client.Create(ctx, kinds.Ref{Kind: kinds.Event, Namespace: ev.Namespace}, ev)
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		if tried {
			return r.count(ctx, ev)
		}
		// Another recorder tells of the object in the same nanosecond.
		r.mu.Lock()
		ev.Name = r.name(ev.InvolvedObject.Name, r.now())
		r.mu.Unlock()
	}
	return err
}

func (r *Recorder) count(ctx context.Context, ev *corev1.Event) error {
	data, err := json.Marshal(count{ev.Count, ev.LastTimestamp, ev.Message})
	if err != nil {
		return err
	}
	_, err = r.client.Patch(ctx, kinds.RefTo(kinds.Event, ev), types.MergePatchType, data)
	return err
}

// count is what changes when an event happens again.
type count struct {
	Count         int32       `json:"count"`
	LastTimestamp metav1.Time `json:"lastTimestamp"`
	Message       string      `json:"message"`
}
