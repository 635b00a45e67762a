package custom

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// Cache keeps the objects of custom kinds.
type Cache interface {
	Add(ctx context.Context, k *kinds.Kind) error
	Remove(k *kinds.Kind)
}

// Config of a Registrar.
type Config struct {
	Table *kinds.Table
	Cache Cache
	// View holds the definitions, and gets the objects of what they define.
	View *view.View
	// Client says that definitions are established.
	Client  client.Client
	Convert Convert
	Log     *slog.Logger
	Now     func() time.Time // optional
}

// Registrar makes the table of kinds what the definitions say.
type Registrar struct {
	cfg    Config
	woken  chan struct{}
	served map[string]*served // by the definition's name; of one goroutine
}

// served is what stands in the table for a definition.
type served struct {
	key string // of everything that it was made of
	raw *kinds.Kind
	now *atomic.Pointer[kinds.Kind]
	def *Definition
}

// NewRegistrar does nothing yet.
func NewRegistrar(cfg Config) *Registrar {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Registrar{cfg: cfg, woken: make(chan struct{}, 1), served: map[string]*served{}}
}

// Begin registers what is defined when the server starts, before the cache
// runs, so that its first content has the objects.
func (r *Registrar) Begin(ctx context.Context, crds []*apiextensionsv1.CustomResourceDefinition) {
	r.apply(ctx, crds)
}

// Run follows the definitions until ctx ends. The cache has to be running.
func (r *Registrar) Run(ctx context.Context) error {
	defer r.cfg.View.Subscribe(func(c view.Change) {
		if c.Kind == kinds.CustomResourceDefinition {
			r.wake()
		}
	})()
	r.wake()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.woken:
		}
		crds := slices.Collect(view.List[*apiextensionsv1.CustomResourceDefinition](r.cfg.View.Snapshot(), kinds.CustomResourceDefinition, ""))
		r.apply(ctx, crds)
		for _, crd := range crds {
			if s := r.served[crd.Name]; s != nil {
				r.establish(ctx, crd)
			}
		}
	}
}

func (r *Registrar) wake() {
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// apply makes the table say what the definitions say.
func (r *Registrar) apply(ctx context.Context, crds []*apiextensionsv1.CustomResourceDefinition) {
	next := map[string]*served{}
	changed := false
	for _, crd := range crds {
		old := r.served[crd.Name]
		s, err := r.serve(ctx, crd, old)
		if err != nil && ctx.Err() == nil {
			r.cfg.Log.Error("cannot serve a custom resource", "definition", crd.Name, "error", err)
			s = old // better than nothing
		}
		if s != nil {
			next[crd.Name] = s
		}
		changed = changed || s != old
	}
	if !changed && len(next) == len(r.served) {
		return
	}
	var all []*kinds.Kind
	for _, crd := range crds {
		if s := next[crd.Name]; s != nil {
			all = append(all, s.def.Served...)
		}
	}
	r.cfg.Table.SetCustom(all)
	for name, old := range r.served {
		s := next[name]
		if s == old {
			continue
		}
		old.def.End()
		if s == nil || s.raw != old.raw {
			r.cfg.Cache.Remove(old.raw)
			r.cfg.View.Remove(old.raw)
		}
	}
	r.served = next
}

// serve returns what is to stand in the table for a definition; nil: nothing.
func (r *Registrar) serve(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, old *served) (*served, error) {
	if !accepted(crd) {
		return nil, nil
	}
	key, err := keyOf(crd)
	if err != nil {
		return nil, err
	}
	if old != nil && old.key == key {
		return old, nil
	}
	def, err := Compile(crd, r.cfg.Convert)
	if err != nil {
		return nil, err
	}
	if len(def.Served) == 0 {
		return nil, nil
	}
	s := &served{key: key, def: def}
	if old != nil && old.raw.GVK.Kind == def.Served[0].GVK.Kind && old.raw.Namespaced == def.Served[0].Namespaced {
		s.raw, s.now = old.raw, old.now
		s.now.Store(def.Served[0])
		return s, nil
	}
	if old != nil { // another definition of that name; its objects are gone
		r.cfg.Cache.Remove(old.raw)
		r.cfg.View.Remove(old.raw)
	}
	s.now = &atomic.Pointer[kinds.Kind]{}
	s.now.Store(def.Served[0])
	gk := schema.GroupKind{Group: crd.Spec.Group, Kind: def.Served[0].GVK.Kind}
	s.raw = kinds.NewRaw(gk, def.Served[0].Resource, def.Served[0].Namespaced, s.now.Load)
	r.cfg.View.Add(s.raw)
	if err := r.cfg.Cache.Add(ctx, s.raw); err != nil {
		r.cfg.View.Remove(s.raw)
		return nil, err
	}
	return s, nil
}

func accepted(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return is(crd, apiextensionsv1.Established) || is(crd, apiextensionsv1.NamesAccepted)
}

func is(crd *apiextensionsv1.CustomResourceDefinition, t apiextensionsv1.CustomResourceDefinitionConditionType) bool {
	return slices.ContainsFunc(crd.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return c.Type == t && c.Status == apiextensionsv1.ConditionTrue
	})
}

// keyOf is what the kinds of a definition are made of.
func keyOf(crd *apiextensionsv1.CustomResourceDefinition) (string, error) {
	names, err := json.Marshal(crd.Status.AcceptedNames)
	return fmt.Sprintf("%s %d %v %s", crd.UID, crd.Generation, crd.DeletionTimestamp != nil, names), err
}

// establish tells those who wait that the objects are served.
func (r *Registrar) establish(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) {
	if is(crd, apiextensionsv1.Established) || !is(crd, apiextensionsv1.NamesAccepted) || crd.DeletionTimestamp != nil {
		return
	}
	crd = crd.DeepCopy()
	c := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue, LastTransitionTime: metav1.NewTime(r.cfg.Now()),
		Reason: "InitialNamesAccepted", Message: "the initial names have been accepted"}
	if i := slices.IndexFunc(crd.Status.Conditions, func(have apiextensionsv1.CustomResourceDefinitionCondition) bool { return have.Type == c.Type }); i >= 0 {
		crd.Status.Conditions[i] = c
	} else {
		crd.Status.Conditions = append(crd.Status.Conditions, c)
	}
	_, err := r.cfg.Client.Update(ctx, kinds.RefTo(kinds.CustomResourceDefinition, crd).WithSub("status"), crd)
	if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		r.cfg.Log.Warn("cannot establish a custom resource", "definition", crd.Name, "error", err)
	}
}
