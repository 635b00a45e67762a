package admission

import (
	"context"
	"errors"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds"
)

// quotaStore is the API server as far as quotas go.
type quotaStore struct {
	w       *world
	stored  map[string]*corev1.ResourceQuota
	lag     bool // the view does not see writes
	writes  int
	rev     int64
	foreign func(q *corev1.ResourceQuota) bool // somebody else writes first
	fail    error
}

func (s *quotaStore) put(q *corev1.ResourceQuota) *corev1.ResourceQuota {
	s.rev++
	q = q.DeepCopy()
	q.ResourceVersion = strconv.FormatInt(s.rev, 10)
	s.stored[q.Name] = q
	if !s.lag {
		s.w.set(q)
	}
	return q
}

func (s *quotaStore) Get(_ context.Context, ref kinds.Ref) (runtime.Object, error) {
	if q := s.stored[ref.Name]; q != nil {
		return q, nil
	}
	return nil, apierrors.NewNotFound(ref.Kind.GroupResource(), ref.Name)
}

func (s *quotaStore) Update(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	s.writes++
	q := obj.(*corev1.ResourceQuota)
	have, err := s.Get(ctx, ref)
	switch {
	case s.fail != nil:
		return nil, s.fail
	case err != nil:
		return nil, err
	case ref.Sub != "status":
		return nil, apierrors.NewBadRequest("not the status")
	}
	if cur := have.(*corev1.ResourceQuota).DeepCopy(); s.foreign != nil && s.foreign(cur) {
		s.put(cur)
	}
	if s.stored[q.Name].ResourceVersion != q.ResourceVersion {
		return nil, apierrors.NewConflict(ref.Kind.GroupResource(), ref.Name, errors.New("changed"))
	}
	return s.put(q), nil
}

func (s *quotaStore) used(name, what string) string {
	q := s.stored[name].Status.Used[corev1.ResourceName(what)]
	return q.String()
}

func amount(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

func resourceQuotaOf(name string, hard, used corev1.ResourceList) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{ObjectMeta: meta("a", name), Spec: corev1.ResourceQuotaSpec{Hard: hard}, Status: corev1.ResourceQuotaStatus{Hard: hard, Used: used}}
}

func quotaWorld(t *testing.T, quotas ...*corev1.ResourceQuota) (*world, *quotaStore) {
	t.Helper()
	s := &quotaStore{stored: map[string]*corev1.ResourceQuota{}}
	w := newWorldWith(t, Config{AccountPatience: -1, Self: func() Self { return s }}, namespace("a"), namespace("b"), account("a", "default"), account("b", "default"))
	s.w = w
	for _, q := range quotas {
		s.put(q)
	}
	return w, s
}

func TestResourceQuota(t *testing.T) {
	w, s := quotaWorld(t, resourceQuotaOf("q", amount("pods", "2", "configmaps", "1"), amount("pods", "0", "configmaps", "1")),
		resourceQuotaOf("r", amount("count/pods", "3"), amount("count/pods", "0")))
	want(t, w.admit(create(kinds.Pod, simplePod("a", "x"))), 0, "")
	if s.used("q", "pods") != "1" || s.used("r", "count/pods") != "1" || s.writes != 2 {
		t.Errorf("used %s and %s with %d writes", s.used("q", "pods"), s.used("r", "count/pods"), s.writes)
	}
	dry := create(kinds.Pod, simplePod("a", "y"))
	dry.DryRun = true
	want(t, w.admit(dry), 0, "")
	want(t, w.admit(create(kinds.ConfigMap, &corev1.ConfigMap{ObjectMeta: meta("b", "x")})), 0, "")
	want(t, w.admit(create(kinds.Secret, &corev1.Secret{ObjectMeta: meta("a", "free")})), 0, "")
	if s.writes != 2 {
		t.Errorf("%d writes", s.writes)
	}
	s.lag = true // what was written counts, also while the view does not show it
	want(t, w.admit(create(kinds.Pod, simplePod("a", "y"))), 0, "")
	want(t, w.admit(create(kinds.Pod, simplePod("a", "z"))), 403, `pods "z" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2`)
	dry = create(kinds.Pod, simplePod("a", "z"))
	dry.DryRun = true
	want(t, w.admit(dry), 403, "exceeded quota")
	want(t, w.admit(create(kinds.ConfigMap, &corev1.ConfigMap{ObjectMeta: meta("a", "x")})), 403, "exceeded quota: q, requested: configmaps=1, used: configmaps=1, limited: configmaps=1")
	if s.writes != 4 {
		t.Errorf("%d writes", s.writes)
	}
	s.lag = false
	s.put(resourceQuotaOf("q", amount("pods", "5", "secrets", "1"), amount("pods", "0")))
	want(t, w.admit(create(kinds.Secret, &corev1.Secret{ObjectMeta: meta("a", "s")})), 403, "status unknown for quota: q, resources: secrets")
}

// What is there already cannot be created again, and is not charged again.
func TestResourceQuotaOfWhatExists(t *testing.T) {
	w, s := quotaWorld(t, resourceQuotaOf("q", amount("configmaps", "2"), amount("configmaps", "1")))
	w.set(&corev1.ConfigMap{ObjectMeta: meta("a", "x")})
	for range 5 {
		want(t, w.admit(create(kinds.ConfigMap, &corev1.ConfigMap{ObjectMeta: meta("a", "x")})), 0, "")
	}
	if s.writes != 0 {
		t.Errorf("%d writes", s.writes)
	}
}

func TestResourceQuotaConflicts(t *testing.T) {
	w, s := quotaWorld(t, resourceQuotaOf("q", amount("pods", "3"), amount("pods", "0")), resourceQuotaOf("r", amount("count/pods", "9"), amount("count/pods", "0")))
	once := true
	s.foreign = func(q *corev1.ResourceQuota) bool {
		first := once && q.Name == "q"
		if first {
			once = false
			q.Status.Used["pods"] = resource.MustParse("2")
		}
		return first
	}
	want(t, w.admit(create(kinds.Pod, simplePod("a", "x"))), 0, "")
	if s.used("q", "pods") != "3" || s.used("r", "count/pods") != "1" {
		t.Errorf("used %s and %s: the other's charge counts, and none is made twice", s.used("q", "pods"), s.used("r", "count/pods"))
	}
	once = true
	s.put(resourceQuotaOf("q", amount("pods", "2"), amount("pods", "1")))
	want(t, w.admit(create(kinds.Pod, simplePod("a", "y"))), 403, "exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2")
	s.foreign = func(q *corev1.ResourceQuota) bool {
		q.Labels = map[string]string{"n": strconv.Itoa(s.writes)}
		return true
	}
	s.put(resourceQuotaOf("q", amount("pods", "9"), amount("pods", "0")))
	want(t, w.admit(create(kinds.Pod, simplePod("a", "z"))), 409, "")
	s.foreign, s.fail = nil, apierrors.NewInternalError(errors.New("no disk"))
	if err := w.admit(create(kinds.Pod, simplePod("a", "z"))); err == nil {
		t.Error("let in without a charge")
	}
	s.fail = apierrors.NewNotFound(kinds.ResourceQuota.GroupResource(), "q") // gone meanwhile
	want(t, w.admit(create(kinds.Pod, simplePod("a", "z"))), 0, "")
}

// What another plugin refuses must cost nothing.
func TestResourceQuotaIsLast(t *testing.T) {
	w, _ := quotaWorld(t)
	if last := w.plugins[len(w.plugins)-1].Name(); last != "ResourceQuota" {
		t.Errorf("%s is last", last)
	}
}
