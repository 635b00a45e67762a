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
// has expired meanwhile is created anew.
func (r *Recorder) send(ctx context.Context, ev *corev1.Event, stored bool) error {
	ref := kinds.RefTo(kinds.Event, ev)
	if stored {
		data, err := json.Marshal(count{ev.Count, ev.LastTimestamp, ev.Message})
		if err != nil {
			return err
		}
		_, err = r.client.Patch(ctx, ref, types.MergePatchType, data)
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	_, err := r.client.Create(ctx, kinds.Ref{Kind: kinds.Event, Namespace: ev.Namespace}, ev)
	return err
}

// count is what changes when an event happens again.
type count struct {
	Count         int32       `json:"count"`
	LastTimestamp metav1.Time `json:"lastTimestamp"`
	Message       string      `json:"message"`
}
