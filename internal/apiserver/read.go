package apiserver

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/store"
	"knarr.dev/knarr/internal/store/cache"
)

const (
	// freshWait bounds how long a read waits for the cache to reach a revision.
	freshWait = 3 * time.Second
	// pagesKept and pageAge bound the past snapshots that continued lists read.
	pagesKept = 64
	pageAge   = 5 * time.Minute
)

// item reads one object. An empty resourceVersion means the newest, "0" any,
// a number at least that one.
func (s *Server) item(ctx context.Context, ref kinds.Ref, rv string) (*cache.Item, error) {
	if ref.Kind.Measured {
		return s.measure(ctx, ref)
	}
	if err := s.fresh(ctx, rv, ""); err != nil {
		return nil, err
	}
	it := s.cfg.Cache.Get(ref.Kind, ref.Namespace, ref.Name)
	if it == nil {
		return nil, notFound(ref)
	}
	return it, nil
}

// fresh waits until the cache may answer a read of rv.
func (s *Server) fresh(ctx context.Context, rv string, match metav1.ResourceVersionMatch) error {
	if rv == "0" {
		return nil
	}
	var want int64
	var err error
	if rv == "" {
		want, err = s.cfg.Store.Revision(ctx)
	} else if want, err = parseRevision(rv); err == nil && match == metav1.ResourceVersionMatchExact {
		return nil
	}
	if err != nil {
		return err
	}
	if s.cfg.Cache.Rev() >= want {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, freshWait)
	defer cancel()
	if err := s.cfg.Cache.WaitRev(wait, want); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		st := statusError(http.StatusGatewayTimeout, metav1.StatusReasonTimeout, "Too large resource version: %d, current: %d", want, s.cfg.Cache.Rev())
		return withCause(st, metav1.CauseTypeResourceVersionTooLarge, "Too large resource version")
	}
	return nil
}

func withCause(err error, cause metav1.CauseType, message string) error {
	st := statusOf(err)
	st.Details = &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: cause, Message: message}}, RetryAfterSeconds: 1}
	return &statusErr{st}
}

// statusErr is an error that is nothing but a Status.
type statusErr struct{ status *metav1.Status }

func (e *statusErr) Error() string         { return e.status.Message }
func (e *statusErr) Status() metav1.Status { return *e.status }

func parseRevision(rv string) (int64, error) {
	n, err := strconv.ParseInt(rv, 10, 64)
	if err != nil || n < 0 {
		return 0, badRequest("invalid resource version: %v", noRevision(rv))
	}
	return n, nil
}

// noRevision says why a resourceVersion is none, in upstream's words.
func noRevision(rv string) *field.Error {
	_, err := strconv.ParseUint(rv, 10, 64)
	if err == nil {
		err = strconv.ErrRange // it does not fit etcd's
	}
	return field.Invalid(field.NewPath("resourceVersion"), rv, err.Error())
}

// selection is what a list or watch lets through.
type selection struct {
	labels labels.Selector
	fields fields.Selector
}

func (sel selection) everything() bool {
	return (sel.labels == nil || sel.labels.Empty()) && (sel.fields == nil || sel.fields.Empty())
}

func (sel selection) matches(ctx context.Context, it *cache.Item) (bool, error) {
	return it.Matches(ctx, sel.labels, sel.fields)
}

// from yields what the selection lets through after a key. A selection of one
// name looks at one object only: nodes ask so for each secret that they need.
func (sel selection) from(ctx context.Context, k *kinds.Kind, namespace string, after func(string) iter.Seq[*cache.Item], start string) iter.Seq2[*cache.Item, error] {
	name, single := "", false
	if sel.fields != nil && (namespace != "" || !k.Namespaced) {
		name, single = sel.fields.RequiresExactMatch("metadata.name")
	}
	key := itemKey(k, namespace, name)
	return func(yield func(*cache.Item, error) bool) {
		offer := func(it *cache.Item) bool {
			ok, err := sel.matches(ctx, it)
			return err == nil && !ok || yield(it, err)
		}
		switch {
		case !single:
			for it := range after(start) {
				if !offer(it) {
					return
				}
			}
		case name != "" && key > start:
			// What is greater than this begins at the key.
			for it := range after(key[:len(key)-1] + string([]byte{key[len(key)-1] - 1, 0xff})) {
				if it.Name == name && (it.Namespace == namespace || !k.Namespaced) {
					offer(it)
				}
				return
			}
		}
	}
}

// itemKey orders objects as the cache does.
func itemKey(k *kinds.Kind, namespace, name string) string {
	if k.Namespaced {
		return namespace + "/" + name
	}
	return name
}

// checkSelection refuses fields that the kind does not have.
func checkSelection(k *kinds.Kind, in *info) (selection, error) {
	if in.labelErr != nil {
		return selection{}, badRequest("%v", in.labelErr)
	}
	if in.fieldErr != nil {
		return selection{}, badRequest("%v", in.fieldErr)
	}
	for _, r := range in.fields.Requirements() {
		if r.Field == "metadata.name" || r.Field == "metadata.namespace" && k.Namespaced || k.Fields[r.Field] != nil {
			continue
		}
		return selection{}, badRequest("%s", noField(k, r.Field))
	}
	return selection{labels: in.labels, fields: in.fields}, nil
}

// noField is what upstream says of a field that no selector may name: kinds
// without fields of their own say so in other words.
func noField(k *kinds.Kind, name string) string {
	switch {
	case k.Load == nil && k.Fields == nil:
		return fmt.Sprintf("%q is not a known field selector: only %q, %q", name, "metadata.name", "metadata.namespace")
	case k.GVK.Group == "batch":
		return fmt.Sprintf("field label %q not supported for %s", name, k.GVK.Kind)
	case k.GVK.Group == "resource.k8s.io":
		return fmt.Sprintf("field label not supported for %s: %s", k.GVK, name)
	}
	return "field label not supported: " + name
}

// listing is the answer to a list.
type listing struct {
	rev       int64
	items     []*cache.Item
	next      string // continue token
	remaining *int64
}

// token is where a continued list goes on.
type token struct {
	Version string `json:"v"`            // of the form
	Rev     int64  `json:"rv"`           // newest: whatever stands then
	Start   string `json:"start"`        // last key that was sent
	At      int64  `json:"at,omitempty"` // Unix time in seconds of the first part
}

// old tokens are refused even if nothing has changed meanwhile: how long one
// holds must not hang on how busy the server is.
func (t token) old(now time.Time) bool { return t.At != 0 && now.Sub(time.Unix(t.At, 0)) > pageAge }

// newest in a token: the list goes on at the key, but no longer at its revision.
const newest = -1

// tokenVersion is upstream's name of the form.
const tokenVersion = "meta.k8s.io/v1"

func (t token) encode() string {
	t.Version = tokenVersion
	data, _ := json.Marshal(t) // two plain fields
	return base64.RawURLEncoding.EncodeToString(data)
}

func decodeToken(s string) (token, error) {
	var t token
	data, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(data, &t)
	}
	refuse := func(why string) (token, error) {
		return t, badRequest("invalid continue token: continue key is not valid%s", why)
	}
	switch {
	case err != nil:
		return refuse(": " + err.Error())
	case t.Version != tokenVersion:
		return refuse(": server does not recognize this encoded version " + t.Version)
	case t.Rev == 0 || t.Rev < newest:
		return refuse(": incorrect encoded start resourceVersion (version " + tokenVersion + ")")
	case t.Start == "":
		return refuse(": encoded start key empty (version " + tokenVersion + ")")
	case path.Clean("/"+t.Start) != "/"+t.Start:
		return refuse(": " + t.Start)
	}
	return t, nil
}

func (s *Server) list(ctx context.Context, k *kinds.Kind, namespace string, o metav1.ListOptions, sel selection) (*listing, error) {
	if err := checkListOptions(o); err != nil {
		return nil, err
	}
	if k.Measured {
		return s.measureAll(ctx, k, namespace, sel)
	}
	content, after, err := s.content(ctx, k, namespace, o)
	if err != nil {
		return nil, err
	}
	out := &listing{rev: content.rev}
	var left int64
	for it, err := range sel.from(ctx, k, namespace, content.after, after) {
		if err != nil {
			return nil, err
		}
		if o.Limit > 0 && int64(len(out.items)) == o.Limit {
			left++
			if !sel.everything() {
				break // only whether there is more
			}
			continue
		}
		out.items = append(out.items, it)
	}
	if left > 0 {
		last := out.items[len(out.items)-1]
		begun := s.now().Unix()
		if o.Continue != "" {
			begun = content.begun
		}
		out.next = token{Rev: content.rev, Start: itemKey(k, last.Namespace, last.Name), At: begun}.encode()
		if sel.everything() {
			out.remaining = &left
		}
		s.pages.keep(k, namespace, content, s.now())
	}
	return out, nil
}

// checkListOptions refuses combinations that mean nothing.
func checkListOptions(o metav1.ListOptions) error {
	in := internalversion.ListOptions{Watch: o.Watch, ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch, Continue: o.Continue,
		Limit: o.Limit, AllowWatchBookmarks: o.AllowWatchBookmarks, SendInitialEvents: o.SendInitialEvents}
	errs := validation.ValidateListOptions(&in, true)
	if len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
	}
	if !o.Watch && o.Continue != "" {
		if _, err := decodeToken(o.Continue); err != nil {
			return err
		}
		if o.ResourceVersion != "" && o.ResourceVersion != "0" {
			return badRequest("specifying resource version is not allowed when using continue")
		}
	}
	return nil
}

// content is a kind's objects at one revision.
type content struct {
	rev   int64
	begun int64 // Unix time of the first part of a list that goes on
	after func(key string) iter.Seq[*cache.Item]
}

// content finds the revision that a list reads, and where it goes on.
func (s *Server) content(ctx context.Context, k *kinds.Kind, namespace string, o metav1.ListOptions) (content, string, error) {
	if o.Continue != "" {
		t, err := decodeToken(o.Continue)
		if err != nil {
			return content{}, "", err
		}
		if t.Rev == newest {
			if err := s.fresh(ctx, "", ""); err != nil {
				return content{}, "", err
			}
			l := s.cfg.Cache.List(k, namespace)
			return content{rev: l.Rev, after: l.After, begun: s.now().Unix()}, t.Start, nil
		}
		if t.old(s.now()) {
			return content{}, "", tooOld(t)
		}
		if c, ok := s.pages.find(k, namespace, t.Rev, s.now()); ok {
			c.begun = t.At
			return c, t.Start, nil
		}
		c, err := s.past(ctx, k, namespace, t.Rev)
		if errors.Is(err, store.ErrCompacted) {
			err = tooOld(t)
		}
		c.begun = t.At
		return c, t.Start, err
	}
	if o.ResourceVersionMatch == metav1.ResourceVersionMatchExact || o.Limit > 0 && o.ResourceVersion != "" && o.ResourceVersion != "0" && o.ResourceVersionMatch == "" {
		rev, err := parseRevision(o.ResourceVersion)
		if err != nil {
			return content{}, "", err
		}
		c, err := s.past(ctx, k, namespace, rev)
		if errors.Is(err, store.ErrCompacted) {
			err = expired("The resourceVersion for the provided list is too old.")
		}
		return c, "", err
	}
	if err := s.fresh(ctx, o.ResourceVersion, o.ResourceVersionMatch); err != nil {
		return content{}, "", err
	}
	l := s.cfg.Cache.List(k, namespace)
	return content{rev: l.Rev, after: l.After}, "", nil
}

// tooOld tells a client whose list took too long how it may go on all the same.
func tooOld(t token) error {
	st := statusOf(expired("The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, " +
		"or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - " +
		"objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list."))
	st.Continue = token{Rev: newest, Start: t.Start}.encode()
	return &statusErr{st}
}

// past reads a revision from the store's history.
func (s *Server) past(ctx context.Context, k *kinds.Kind, namespace string, rev int64) (content, error) {
	page, err := s.cfg.Store.List(ctx, storedKind(k).KeyPrefix(namespace), store.ListOptions{Rev: rev})
	if err != nil {
		return content{}, err
	}
	items := make([]*cache.Item, 0, len(page.KVs))
	keys := make([]string, 0, len(page.KVs))
	for _, kv := range page.KVs {
		key := strings.TrimPrefix(kv.Key, storedKind(k).KeyPrefix(""))
		it, err := cache.NewItem(k, key, kv)
		if err != nil {
			s.log.Error("cannot decode a stored object: it is left out", "key", kv.Key, "error", err)
			continue
		}
		items, keys = append(items, it), append(keys, key)
	}
	return content{rev: rev, after: func(after string) iter.Seq[*cache.Item] {
		return func(yield func(*cache.Item) bool) {
			for i, it := range items {
				if keys[i] > after && !yield(it) {
					return
				}
			}
		}
	}}, nil
}

func storedKind(k *kinds.Kind) *kinds.Kind {
	if k.StoredAs != nil {
		return k.StoredAs
	}
	return k
}

// pageSet keeps the snapshots of lists that were cut, so that they go on
// consistently without the store. A snapshot shares all that has not changed.
type pageSet struct {
	mu    sync.Mutex
	pages []page
}

type page struct {
	kind      *kinds.Kind
	namespace string
	content   content
	at        time.Time
}

func newPageSet() *pageSet { return &pageSet{} }

func (p *pageSet) keep(k *kinds.Kind, namespace string, c content, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := p.pages[:0]
	for _, old := range p.pages {
		if now.Sub(old.at) < pageAge && !(old.kind == k && old.namespace == namespace && old.content.rev == c.rev) {
			kept = append(kept, old)
		}
	}
	if len(kept) >= pagesKept {
		kept = kept[1:]
	}
	p.pages = append(kept, page{k, namespace, c, now})
}

func (p *pageSet) find(k *kinds.Kind, namespace string, rev int64, now time.Time) (content, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, old := range p.pages {
		if old.kind == k && old.namespace == namespace && old.content.rev == rev && now.Sub(old.at) < pageAge {
			return old.content, true
		}
	}
	return content{}, false
}

func (l *listing) meta() metav1.ListMeta {
	if l.rev == unrevised {
		return metav1.ListMeta{}
	}
	return metav1.ListMeta{ResourceVersion: strconv.FormatInt(l.rev, 10), Continue: l.next, RemainingItemCount: l.remaining}
}
