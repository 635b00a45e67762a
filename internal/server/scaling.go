package server

import (
	"context"
	"fmt"
	"net/url"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"

	"knarr.dev/knarr/internal/apiserver"
	"knarr.dev/knarr/internal/kinds"
)

// scalingLimit of one question; a metrics API that is slower is not there.
const scalingLimit = 10 * time.Second

// scaling reads scales and metrics with the autoscaler's own rights.
type scaling struct {
	ctx context.Context
	s   *control
}

func (x scaling) client() *apiserver.Client {
	return x.s.api.Client(controllerUser("horizontal-pod-autoscaler"))
}

// Scale implements horizontalpodautoscaler.Source.
func (x scaling) Scale(ref kinds.Ref) (*autoscalingv1.Scale, error) {
	ctx, cancel := context.WithTimeout(x.ctx, scalingLimit)
	defer cancel()
	o, err := x.client().Get(ctx, ref.WithSub("scale"))
	if err != nil {
		return nil, err
	}
	scale, ok := o.(*autoscalingv1.Scale)
	if !ok {
		return nil, fmt.Errorf("the scale of %s is a %T", ref, o)
	}
	return scale, nil
}

// Fetch implements horizontalpodautoscaler.Source.
func (x scaling) Fetch(path string, q url.Values) ([]byte, error) {
	ctx, cancel := context.WithTimeout(x.ctx, scalingLimit)
	defer cancel()
	return x.client().Fetch(ctx, path, q)
}
