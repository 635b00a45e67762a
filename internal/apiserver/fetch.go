package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxFetched bounds an answer that a component takes into memory.
const maxFetched = 16 << 20

var errFetched = errors.New("the answer is broken off, or too long")

// Fetch GETs a path as JSON, as a client over HTTP would: for what has no kind
// in the table, since another API server answers for it. A refusal comes as a
// StatusError.
func (c *Client) Fetch(ctx context.Context, path string, q url.Values) ([]byte, error) {
	at := url.URL{Scheme: "https", Host: "kubernetes", Path: path, RawQuery: q.Encode()}
	// A backend that breaks off is told by a panic, as it is to HTTP's server.
	ctx = context.WithValue(ctx, http.ServerContextKey, &http.Server{})
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, badRequest("%v", err)
	}
	r.Header.Set("Accept", typeJSON)
	r.Header.Set("User-Agent", ownAgent)
	r.RemoteAddr = "[" + ownAddress + "]:0"
	w := &kept{header: http.Header{}, code: http.StatusOK}
	if err := c.fetch(w, r); err != nil {
		return nil, err
	}
	if w.code < http.StatusOK || w.code > 299 {
		return nil, refusal(w)
	}
	return w.body.Bytes(), nil
}

func (c *Client) fetch(w *kept, r *http.Request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler {
				panic(p)
			}
			err = apierrors.NewInternalError(errFetched)
		}
	}()
	c.s.handle(w, r, func(rec *recorder, r *http.Request, in *info, began time.Time) error {
		return c.s.answerTo(rec, r, in, c.user, began)
	})
	if w.full {
		err = apierrors.NewInternalError(errFetched)
	}
	return err
}

// refusal is the Status in an answer, or one made of what there is.
func refusal(w *kept) error {
	st := metav1.Status{}
	if err := json.Unmarshal(w.body.Bytes(), &st); err != nil || st.Kind != "Status" {
		st = metav1.Status{Message: fmt.Sprintf("unexpected answer %d", w.code)}
	}
	st.Status, st.Code = metav1.StatusFailure, int32(w.code)
	return &apierrors.StatusError{ErrStatus: st}
}

// kept is an answer in memory.
type kept struct {
	header http.Header
	code   int
	body   bytes.Buffer
	full   bool
}

func (k *kept) Header() http.Header { return k.header }
func (k *kept) WriteHeader(code int) {
	if code >= http.StatusOK {
		k.code = code
	}
}

func (k *kept) Write(p []byte) (int, error) {
	if k.full = k.full || k.body.Len()+len(p) > maxFetched; k.full {
		return 0, errFetched
	}
	return k.body.Write(p)
}
