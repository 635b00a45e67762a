package audit

import (
	"bytes"
	"context"
	"math/rand/v2"
	"time"
)

// Upstream's retries: five tries, each pause half as long again as the one
// before, and up to a fifth longer so that servers do not act as one.
const (
	tries       = 5
	pauseFactor = 1.5
	jitter      = 0.2
)

// Webhook sends lists of events. post sends one and may fail; pause comes
// before the second try.
func Webhook(post func(ctx context.Context, body []byte) error, pause time.Duration) func(ctx context.Context, events [][]byte) error {
	return func(ctx context.Context, events [][]byte) error {
		body := eventList(events)
		wait := pause
		for n := 1; ; n++ {
			err := post(ctx, body)
			if err == nil || n == tries {
				return err
			}
			select {
			case <-time.After(wait + time.Duration(rand.Float64()*jitter*float64(wait))):
			case <-ctx.Done():
				return err
			}
			wait = time.Duration(float64(wait) * pauseFactor)
		}
	}
}

func eventList(events [][]byte) []byte {
	var b bytes.Buffer
	b.WriteString(`{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[`)
	for i, e := range events {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(bytes.TrimRight(e, "\n"))
	}
	b.WriteString("]}\n")
	return b.Bytes()
}
