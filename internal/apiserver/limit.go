package apiserver

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/apiserver/fair"
)

const (
	// patience of a request without a deadline of its own; the others wait for
	// a quarter of what they have.
	patience = requestTimeout / 4
	// objectsPerSeat and countedObjects: a list takes a seat for each hundred
	// objects; more than a thousand need not be counted.
	objectsPerSeat, countedObjects = 100, 1000
)

// enter lets a request in, when it is its turn. Streams are only counted: they
// cost what they do for as long as their clients like.
func (s *Server) enter(ctx context.Context, in *info, u user.Info, seats int) error {
	if in.longRunning() {
		select {
		case s.streams <- struct{}{}:
			in.streams = true
			s.metrics.open.WithLabelValues(s.metrics.labelsOf(in).labels()...).Inc()
		default:
			return tooMany(1)
		}
		if in.verb != "watch" {
			return nil
		}
	}
	a := in.attributes(u)
	wait := patience
	if end, ok := ctx.Deadline(); ok {
		wait = min(time.Minute, end.Sub(s.now())/4)
	}
	began := s.now()
	var err error
	in.ticket, err = s.fair.Enter(ctx, &fair.Request{User: u, Verb: in.verb, Path: in.path, Resource: in.resource, Group: a.APIGroup, Name: a.Resource, Sub: in.sub,
		Namespace: a.Namespace, Seats: seats, Mutating: mutating(in.verb), Watch: in.verb == "watch"}, wait)
	in.waited += s.now().Sub(began)
	var rejected *fair.ErrRejected
	if errors.As(err, &rejected) {
		s.metrics.terminated.WithLabelValues(append(s.metrics.labelsOf(in).labels(), "429")...).Inc()
		return tooMany(rejected.RetryAfter)
	}
	return err
}

// leave is the end of enter.
func (s *Server) leave(in *info) {
	in.ticket.Done()
	if in.streams {
		in.streams = false
		s.metrics.open.WithLabelValues(s.metrics.labelsOf(in).labels()...).Dec()
		<-s.streams
	}
}

func tooMany(retryAfter int) error {
	return apierrors.NewTooManyRequests("Too many requests, please try again later.", retryAfter)
}

func mutating(verb string) bool {
	switch verb {
	case "get", "list", "watch", "head", "options":
		return false
	}
	return true
}

// width estimates the seats of a request: lists, and watches that begin with
// one, cost more the more they return.
func (s *Server) width(in *info, q url.Values) int {
	if in.verb != "list" && in.verb != "watch" || in.name != "" {
		return 1
	}
	k := s.cfg.Kinds.ByResource(in.gvr)
	if k == nil || !k.Stored() && k.StoredAs == nil {
		return 1
	}
	o, err := listOptions(q)
	if err != nil || in.verb == "watch" && !sendsInitial(o) {
		return 1
	}
	n, most := 0, countedObjects
	if o.Limit > 0 {
		most = int(min(o.Limit, countedObjects))
	}
	for range s.cfg.Cache.List(k, in.ns).All() {
		if n++; n >= most {
			break
		}
	}
	return (n + objectsPerSeat - 1) / objectsPerSeat
}

// deadline of a request that is no stream: a minute, or less if the client
// says so.
func deadline(q url.Values) (time.Duration, error) {
	v := q.Get("timeout")
	if v == "" {
		return requestTimeout, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		return 0, badRequest("invalid timeout specified in the request URL - %v", err)
	}
	if d <= 0 || d > requestTimeout {
		d = requestTimeout
	}
	return d, nil
}

// timed gives the request its deadline. Streams have none.
func timed(r *http.Request, in *info) (*http.Request, context.CancelFunc, error) {
	if in.longRunning() {
		return r, func() {}, nil
	}
	d, err := deadline(r.URL.Query())
	if err != nil {
		return r, func() {}, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), d)
	return r.WithContext(ctx), cancel, nil
}
