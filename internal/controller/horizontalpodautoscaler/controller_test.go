package horizontalpodautoscaler

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile/reconciletest"
)

// answers are what the API says to paths; scales are those of a world.
type answers struct {
	world *reconciletest.World
	paths map[string]string
	asked []string
}

func (a *answers) Scale(ref kinds.Ref) (*autoscalingv1.Scale, error) {
	o := a.world.Object(ref.Kind, ref.Namespace, ref.Name)
	if o == nil {
		return nil, apierrors.NewNotFound(ref.Kind.GroupResource(), ref.Name)
	}
	sc, n := ref.Kind.Subresources["scale"].Scale, ref.Kind.Subresources["scale"].Scale.Spec(o)
	return &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Namespace: ref.Namespace, Name: ref.Name, UID: o.GetUID(), ResourceVersion: o.GetResourceVersion()},
		Spec: autoscalingv1.ScaleSpec{Replicas: n}, Status: autoscalingv1.ScaleStatus{Replicas: n, Selector: sc.Selector(o)}}, nil
}

func (a *answers) Fetch(path string, q url.Values) ([]byte, error) {
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	a.asked = append(a.asked, path)
	if text, ok := a.paths[path]; ok {
		return []byte(text), nil
	}
	return nil, errors.New("the server could not find the requested resource")
}

const queuePath = "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/queue"

func newWorld(t *testing.T, h *hpa) (*reconciletest.World, *answers) {
	t.Helper()
	w := reconciletest.New([]*kinds.Kind{kinds.HorizontalPodAutoscaler, kinds.Pod, kinds.Deployment})
	w.Put(kinds.Deployment, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](1), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}})
	h.UID = ""
	w.Put(kinds.HorizontalPodAutoscaler, h)
	return w, &answers{world: w, paths: map[string]string{}}
}

func replicas(w *reconciletest.World) int32 {
	return *w.Object(kinds.Deployment, "default", "web").(*appsv1.Deployment).Spec.Replicas
}

// TestUpAndDown: replicas follow the metric, which is read every 15 seconds and
// no more often, whatever is written meanwhile.
func TestUpAndDown(t *testing.T) {
	w, api := newWorld(t, autoscaler(1, 9, external(target("", "10"))))
	api.paths[queuePath] = `{"items":[{"value":"50"}]}`
	c := Controller(kinds.Builtin(), api)
	events, err := w.Drive(1, 100, time.Minute, c)
	if err != nil {
		t.Fatal(err)
	}
	// At first four, the least that may be added at once.
	if got := strings.Join(w.Writes[:4], ", "); replicas(w) != 5 || got != "update deployments.apps default/web/scale, update horizontalpodautoscalers.autoscaling default/web/status, "+
		"update deployments.apps default/web/scale, update horizontalpodautoscalers.autoscaling default/web/status" {
		t.Errorf("%d replicas: %s", replicas(w), got)
	}
	if n := len(api.asked); n != 5 {
		t.Errorf("asked %d times in a minute", n)
	}
	if e := events.All[0]; e.Reason != "SuccessfulRescale" || e.Message != "New size: 4; reason: external metric queue(nil) above target" || e.Type != corev1.EventTypeNormal || e.Regarding.Kind != kinds.HorizontalPodAutoscaler {
		t.Errorf("%+v", e)
	}
	api.paths[queuePath] = `{"items":[{"value":"5"}]}`
	if _, err := w.Drive(2, 200, 10*time.Minute, c); err != nil {
		t.Fatal(err)
	}
	st := w.Object(kinds.HorizontalPodAutoscaler, "default", "web").(*hpa).Status
	if replicas(w) != 1 || st.DesiredReplicas != 1 || st.CurrentReplicas != 1 || st.LastScaleTime == nil || *st.ObservedGeneration != 3 {
		t.Errorf("%d replicas, %+v", replicas(w), st)
	}
	w.Remove(kinds.HorizontalPodAutoscaler, "default", "web")
	api.asked = nil
	if _, err := w.Drive(3, 100, time.Hour, c); err != nil || len(api.asked) > 0 {
		t.Errorf("nothing to scale, but asked %v: %v", api.asked, err)
	}
}

// TestConflict: somebody else was at the scale; it is read again and written at
// once. A refusal waits, and is told.
func TestConflict(t *testing.T) {
	w, api := newWorld(t, autoscaler(1, 9, external(target("", "10"))))
	api.paths[queuePath] = `{"items":[{"value":"30"}]}`
	fails := apierrors.NewConflict(schema.GroupResource{Resource: "deployments"}, "web", errors.New("changed"))
	w.Hook = func(_ plan.Verb, ref kinds.Ref, _ runtime.Object) error {
		if ref.Sub == "scale" && fails != nil {
			err := fails
			fails = nil
			return err
		}
		return nil
	}
	if _, err := w.Drive(1, 100, time.Second, Controller(kinds.Builtin(), api)); err != nil || replicas(w) != 3 {
		t.Fatalf("%d replicas: %v", replicas(w), err)
	}
	api.paths[queuePath] = `{"items":[{"value":"60"}]}`
	fails = apierrors.NewForbidden(schema.GroupResource{Resource: "deployments"}, "web", errors.New("no"))
	events, err := w.Drive(1, 100, time.Second, Controller(kinds.Builtin(), api))
	if err != nil || replicas(w) != 3 {
		t.Fatalf("%d replicas: %v", replicas(w), err)
	}
	st := w.Object(kinds.HorizontalPodAutoscaler, "default", "web").(*hpa).Status
	if !strings.Contains(conditions(&st), "AbleToScale=False:FailedUpdateScale") || len(events.All) != 1 ||
		events.All[0].Message != `New size: 6; reason: external metric queue(nil) above target; error: deployments "web" is forbidden: no` {
		t.Errorf("%s %+v", conditions(&st), events.All)
	}
	if _, err := w.Drive(1, 100, every, Controller(kinds.Builtin(), api)); err != nil || replicas(w) != 6 {
		t.Fatalf("%d replicas: %v", replicas(w), err)
	}
}

func TestTarget(t *testing.T) {
	for _, c := range []struct {
		ref  autoscalingv2.CrossVersionObjectReference
		want string
	}{
		{autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "gone"}, `deployments/scale.apps "gone" not found`},
		{autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1beta1", Kind: "Deployment", Name: "gone"}, `deployments/scale.apps "gone" not found`},
		{autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "web"}, "the server could not find the requested resource"},
		{autoscalingv2.CrossVersionObjectReference{APIVersion: "example.com/v1", Kind: "Farm", Name: "f"}, `no matches for kind "Farm" in group "example.com"`},
		{autoscalingv2.CrossVersionObjectReference{APIVersion: "a/b/c", Kind: "Farm", Name: "f"}, "unexpected GroupVersion string: a/b/c"},
	} {
		h := autoscaler(1, 9, cpu(50))
		h.Spec.ScaleTargetRef = c.ref
		w, api := newWorld(t, h)
		if _, err := w.Drive(1, 100, time.Second, Controller(kinds.Builtin(), api)); err != nil {
			t.Fatal(err)
		}
		st := w.Object(kinds.HorizontalPodAutoscaler, "default", "web").(*hpa).Status
		if len(st.Conditions) != 1 || st.Conditions[0].Reason != "FailedGetScale" || st.Conditions[0].Message != "the HPA controller was unable to get the target's current scale: "+c.want {
			t.Errorf("%+v: %+v", c.ref, st.Conditions)
		}
	}
}

// TestRivals: as soon as both are known, neither scales.
func TestRivals(t *testing.T) {
	w, api := newWorld(t, autoscaler(1, 9, external(target("", "10"))))
	api.paths[queuePath] = `{"items":[{"value":"10"}]}`
	other := autoscaler(1, 9, external(target("", "10")))
	other.Name, other.UID = "other", ""
	w.Put(kinds.HorizontalPodAutoscaler, other)
	w.Put(kinds.Pod, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", Labels: map[string]string{"app": "web"}}})
	if _, err := w.Drive(1, 100, time.Minute, Controller(kinds.Builtin(), api)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web", "other"} {
		st := w.Object(kinds.HorizontalPodAutoscaler, "default", name).(*hpa).Status
		if !strings.Contains(conditions(&st), "ScalingActive=False:AmbiguousSelector") || !strings.Contains(fmt.Sprint(st.Conditions), "(e.g. [default/other default/web])") {
			t.Errorf("%s: %+v", name, st.Conditions)
		}
	}
}

// TestReadings: each kind of metric by its API, and what is said when there is none.
func TestReadings(t *testing.T) {
	selected := autoscalingv2.MetricIdentifier{Name: "hits", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"verb": "GET"}}}
	inContainer := autoscalingv2.MetricSpec{Type: autoscalingv2.ContainerResourceMetricSourceType, ContainerResource: &autoscalingv2.ContainerResourceMetricSource{Name: "cpu", Container: "app"}}
	ingress := object(target("1", ""))
	ingress.Object.DescribedObject, ingress.Object.Metric = autoscalingv2.CrossVersionObjectReference{APIVersion: "networking.k8s.io/v1", Kind: "Ingress", Name: "in"}, selected
	space, farm := object(target("1", "")), object(target("1", ""))
	space.Object.DescribedObject = autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Namespace", Name: "elsewhere"}
	farm.Object.DescribedObject = autoscalingv2.CrossVersionObjectReference{APIVersion: "example.com/v1", Kind: "Farm", Name: "f"}
	queue := external(target("1", ""))
	queue.External.Metric = selected
	const resources = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods?labelSelector=app%3Dweb"
	const custom = "/apis/custom.metrics.k8s.io"
	two := `{"items":[{"metadata":{"name":"a"},"timestamp":"2026-01-01T00:00:00Z","window":"15s","containers":[{"name":"app","usage":{"cpu":"250m","memory":"1Mi"}},{"name":"side","usage":{"cpu":"1"}}]},
		{"metadata":{"name":"b"},"timestamp":"2026-01-01T00:00:00Z","window":"15s","containers":[{"name":"side","usage":{"cpu":"2m"}}]},{"metadata":{"name":"c"},"containers":[]}]}`
	group := `{"preferredVersion":{"version":"v7"},"versions":[{"version":"v7"},{"version":"v1beta2"},{"version":"v1beta1"}]}`
	for name, c := range map[string]struct {
		m     autoscalingv2.MetricSpec
		paths map[string]string
		want  string
	}{
		"cpu":           {cpu(50), map[string]string{resources: two}, "a=1250/15s b=2/15s"},
		"memory":        {memory("1"), map[string]string{resources: two}, ""},
		"one container": {inContainer, map[string]string{resources: two}, "a=250/15s"},
		"nobody":        {cpu(50), map[string]string{resources: `{"items":[]}`}, "no metrics returned from resource metrics API"},
		"no API":        {cpu(50), nil, "unable to fetch metrics from resource metrics API: the server could not find the requested resource"},
		"pods": {podsMetric("1"), map[string]string{custom: group, custom + "/v1beta2/namespaces/default/pods/*/qps?labelSelector=app%3Dweb": `{"items":[
			{"describedObject":{"name":"a"},"timestamp":"2026-01-01T00:00:00Z","value":"7"},{"describedObject":{"name":"b"},"windowSeconds":30,"value":"500m"}]}`}, "a=7000/1m0s b=500/30s"},
		"an object": {ingress, map[string]string{custom: `{"preferredVersion":{"version":"v1beta1"}}`,
			custom + "/v1beta1/namespaces/default/ingresses.networking.k8s.io/in/hits?metricLabelSelector=verb%3DGET": `{"items":[{"value":"3"}]}`}, "[3000]"},
		"a namespace":        {space, map[string]string{custom: group, custom + "/v1beta2/namespaces/default/metrics/hits": `{"items":[{"value":"4"}]}`}, "[4000]"},
		"too many objects":   {space, map[string]string{custom: group, custom + "/v1beta2/namespaces/default/metrics/hits": `{"items":[]}`}, "the custom metrics API server returned 0 results when we asked for exactly one"},
		"no such kind":       {farm, map[string]string{custom: group}, `unable to map kind Farm.example.com to resource: no matches for kind "Farm" in group "example.com"`},
		"no custom API":      {podsMetric("1"), nil, "unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered"},
		"an unknown version": {podsMetric("1"), map[string]string{custom: `{"versions":[{"version":"v9"}]}`}, "no known available metric versions found"},
		"external":           {queue, map[string]string{"/apis/external.metrics.k8s.io/v1beta1/namespaces/default/hits?labelSelector=verb%3DGET": `{"items":[{"value":"1"},{"value":"2"}]}`}, "[1000 2000]"},
		"no external":        {queue, nil, "unable to fetch metrics from external metrics API"},
	} {
		s := &scaler{table: kinds.Builtin(), source: &answers{paths: c.paths}}
		all, took := s.read(autoscaler(1, 9, c.m), labels.SelectorFromSet(labels.Set{"app": "web"}))
		r := all[0]
		if len(took) != 1 {
			t.Errorf("%s: took %v", name, took)
		}
		var out []string
		for _, pod := range []string{"a", "b", "c"} {
			if x, ok := r.Pods[pod]; ok {
				out = append(out, fmt.Sprintf("%s=%d/%s", pod, x.Value, x.Window))
			}
		}
		got := strings.Join(out, " ")
		if r.Values != nil {
			got = fmt.Sprint(r.Values)
		}
		if r.Err != nil {
			got = r.Err.Error()
		}
		if !strings.Contains(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
