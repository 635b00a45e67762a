package why

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds"
)

const (
	// maxRounds of reading: an explanation lacks something new at most once for
	// each of its links, and each rule asks in two or three steps.
	maxRounds = 4 * maxLinks
	// maxListed bounds a list: what lies beyond is not looked at. A page is as
	// large as kubectl's.
	maxListed = 10000
	page      = 500
	atOnce    = 8
)

// Source reads the cluster with the rights of whoever asks: a client.Client.
type Source interface {
	Get(ctx context.Context, ref kinds.Ref) (runtime.Object, error)
	List(ctx context.Context, k *kinds.Kind, namespace string, o metav1.ListOptions) (runtime.Object, error)
}

// Ask explains an object, and reads what that takes. What may not be read
// stands in the links.
func Ask(ctx context.Context, src Source, now time.Time, k *kinds.Kind, o kinds.Object) ([]Link, error) {
	f := &Facts{Now: now}
	f.Know(Want{Kind: k, Namespace: o.GetNamespace(), Name: o.GetName()}, Answer{Objects: []kinds.Object{o}})
	for range maxRounds {
		links, wants := Explain(f, k, o)
		if len(wants) == 0 {
			return links, nil
		}
		answers := make([]Answer, len(wants))
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(atOnce)
		for i, w := range wants {
			g.Go(func() (err error) {
				answers[i], err = read(ctx, src, w)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		for i, w := range wants {
			f.Know(w, answers[i])
		}
	}
	return nil, fmt.Errorf("%s %s: the explanation does not come to an end", k, o.GetName())
}

// read answers a want.
func read(ctx context.Context, src Source, w Want) (Answer, error) {
	if w.Name == "" {
		return readList(ctx, src, w)
	}
	obj, err := src.Get(ctx, kinds.Ref{Kind: w.Kind, Namespace: w.Namespace, Name: w.Name})
	switch {
	case apierrors.IsNotFound(err):
		return Answer{}, nil
	case apierrors.IsForbidden(err):
		return Answer{Refused: true}, nil
	case err != nil:
		return Answer{}, fmt.Errorf("cannot read %s %s: %w", w.Kind, w.Name, err)
	}
	o, ok := obj.(kinds.Object)
	if !ok {
		return Answer{}, fmt.Errorf("cannot read %s %s: the API server answered with a %T", w.Kind, w.Name, obj)
	}
	return Answer{Objects: []kinds.Object{o}}, nil
}

func readList(ctx context.Context, src Source, w Want) (a Answer, err error) {
	o := metav1.ListOptions{LabelSelector: w.Labels, Limit: page}
	if w.About != "" {
		o.FieldSelector = "involvedObject.uid=" + string(w.About)
	}
	for {
		obj, err := src.List(ctx, w.Kind, w.Namespace, o)
		switch {
		case apierrors.IsForbidden(err):
			return Answer{Refused: true}, nil
		case apierrors.IsNotFound(err): // the server does not serve the kind
			return a, nil
		case err != nil:
			return a, fmt.Errorf("cannot list %s: %w", w.Kind, err)
		}
		if err := meta.EachListItem(obj, func(item runtime.Object) error {
			if k, ok := item.(kinds.Object); ok {
				a.Objects = append(a.Objects, k)
			}
			return nil
		}); err != nil {
			return a, fmt.Errorf("cannot read the list of %s: %w", w.Kind, err)
		}
		more, err := meta.ListAccessor(obj)
		if err != nil {
			return a, fmt.Errorf("cannot read the list of %s: %w", w.Kind, err)
		}
		if o.Continue = more.GetContinue(); o.Continue == "" {
			return a, nil
		}
		if len(a.Objects) >= maxListed {
			a.More = true
			return a, nil
		}
	}
}
