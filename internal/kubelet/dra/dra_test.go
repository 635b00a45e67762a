package dra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	drahealthv1 "k8s.io/kubelet/pkg/apis/dra-health/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kubelet/dra/dratest"
	"knarr.dev/knarr/internal/kubelet/plugins"
)

const gpus = "gpu.example.com"

// world is claims of a node, an API of them and of slices, and what was told.
type world struct {
	client.Client // what is not below is not called
	t             *testing.T
	root          string
	c             *Claims
	started       map[string]*dratest.Driver

	mu     sync.Mutex
	claims map[string]*resourcev1.ResourceClaim
	slices map[string]*resourcev1.ResourceSlice
	fail   error
	health []types.UID
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, root: t.TempDir(), started: map[string]*dratest.Driver{}, claims: map[string]*resourcev1.ResourceClaim{}, slices: map[string]*resourcev1.ResourceSlice{}}
	w.again()
	return w
}

// again as the next kubelet has it.
func (w *world) again() {
	w.t.Helper()
	w.c = New(Config{Node: "n1", Client: w, File: filepath.Join(w.root, "claims.json"), Log: slog.New(slog.DiscardHandler), Came: func() {},
		Claim: func(_ context.Context, _, name string) (*resourcev1.ResourceClaim, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if rc := w.claims[name]; rc != nil {
				return rc, nil
			}
			return nil, apierrors.NewNotFound(kinds.ResourceClaim.GroupResource(), name)
		},
		Health: func(pods []types.UID) { w.mu.Lock(); defer w.mu.Unlock(); w.health = append(w.health, pods...) }})
	if err := w.c.Open(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) List(_ context.Context, _ *kinds.Kind, _ string, o metav1.ListOptions) (runtime.Object, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	selector, err := fields.ParseSelector(o.FieldSelector)
	if err = errors.Join(err, w.fail); err != nil {
		return nil, err
	}
	out := &resourcev1.ResourceSliceList{}
	for _, s := range w.slices {
		if selector.Matches(fields.Set{"spec.nodeName": *s.Spec.NodeName, "spec.driver": s.Spec.Driver}) {
			out.Items = append(out.Items, *s)
		}
	}
	return out, nil
}

func (w *world) Delete(_ context.Context, ref kinds.Ref, o metav1.DeleteOptions) (runtime.Object, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.slices[ref.Name]
	if s == nil || *o.Preconditions.UID != s.UID {
		return nil, apierrors.NewNotFound(ref.Kind.GroupResource(), ref.Name)
	}
	delete(w.slices, ref.Name)
	return s, nil
}

func (w *world) slice(name, node, driver string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slices[name] = &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: resourcev1.ResourceSliceSpec{NodeName: &node, Driver: driver}}
}

func (w *world) left() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for name := range w.slices {
		out = append(out, name)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// pod on claims of drivers, each as "claim:driver".
func (w *world) pod(name string, claims ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
	for _, c := range claims {
		name, driver, _ := strings.Cut(c, ":")
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, corev1.PodResourceClaim{Name: name, ResourceClaimName: ptr.To(name)})
		rc := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)}}
		if old := w.claims[name]; old != nil {
			rc = old
		}
		rc.Status.Allocation = &resourcev1.AllocationResult{}
		for d := range strings.SplitSeq(driver, ",") {
			rc.Status.Allocation.Devices.Results = append(rc.Status.Allocation.Devices.Results, resourcev1.DeviceRequestAllocationResult{Driver: d})
		}
		rc.Status.ReservedFor = append(rc.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{UID: p.UID})
		w.claims[name] = rc
	}
	return p
}

// driver that is registered.
func (w *world) driver(name string, services ...string) (*dratest.Driver, func()) {
	w.t.Helper()
	d := w.started[name]
	if d == nil {
		d = dratest.New(w.root, name)
		d.Start(w.t)
		w.started[name] = d
	}
	if services == nil {
		services = d.Services
	}
	gone, err := w.c.Register(plugins.Info{Name: name, Endpoint: filepath.Join(w.root, "plugins", name, "dra.sock"), Services: services})
	if err != nil {
		w.t.Fatal(err)
	}
	var once sync.Once
	end := func() { once.Do(gone) }
	w.t.Cleanup(end)
	return d, end
}

func (w *world) prepare(p *corev1.Pod, want string) {
	w.t.Helper()
	check(w.t, w.c.Prepare(w.t.Context(), p), want)
}

func check(t *testing.T, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

const one, two = prepares + " default/one", prepares + " default/two"
const prepares, unprepares = "NodePrepareResources", "NodeUnprepareResources"

// Whatever is wrong with a driver's answer, the claim is not prepared, and a
// good one after that is taken.
func TestAnswers(t *testing.T) {
	for want, a := range map[string]dratest.Answer{
		"NodePrepareResources failed for ResourceClaim one: broken":                       {Refusal: "broken"},
		"NodePrepareResources skipped 1 ResourceClaims":                                   {Skip: true},
		"NodePrepareResources returned result for unknown claim UID strange":              {Strange: true},
		"prepare dynamic resources: NodePrepareResources: rpc error: code = Unknown desc": {Err: errors.New("no")},
	} {
		for _, service := range []string{"v1.DRAPlugin", "v1beta1.DRAPlugin"} {
			t.Run(service+" "+want, func(t *testing.T) {
				w := newWorld(t)
				d, _ := w.driver(gpus, service)
				p := w.pod("p", "one:"+gpus)
				d.Answer(prepares, a)
				w.prepare(p, want)
				if !w.c.Holds("p") {
					t.Error("what a driver may have done is not noted")
				}
				d.Answer(prepares, dratest.Answer{})
				w.prepare(p, "")
				ct := &corev1.Container{Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "one", Request: "b"}}}}
				if ids, err := w.c.IDs(p, ct); err != nil || !slices.Equal(ids, []string{gpus + "/class=one-b"}) {
					t.Errorf("devices %q, %v", ids, err)
				}
				d.Answer(unprepares, dratest.Answer{Skip: true})
				check(t, w.c.Unprepare(t.Context(), "p"), "NodeUnprepareResources skipped 1 ResourceClaims")
				d.Answer(unprepares, dratest.Answer{})
				check(t, w.c.Unprepare(t.Context(), "p"), "")
				if w.c.Holds("p") {
					t.Error("it is still held")
				}
			})
		}
	}
}

// A driver that does not answer is waited for only so long.
func TestSlowDriver(t *testing.T) {
	w := newWorld(t)
	d, _ := w.driver(gpus)
	w.c.timeout = 50 * time.Millisecond
	d.Answer(prepares, dratest.Answer{Wait: make(chan struct{})})
	p := w.pod("p", "one:"+gpus)
	w.prepare(p, "code = DeadlineExceeded")
	w.c.timeout = callTimeout
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.c.Prepare(ctx, p) }()
	for d.Count(one) < 2 {
		<-time.After(time.Millisecond)
	}
	// Another pod that waits for the same claim gives up as well.
	other, giveUp := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer giveUp()
	check(t, w.c.Prepare(other, w.pod("q", "one:"+gpus)), "deadline exceeded")
	cancel()
	check(t, <-done, "anceled")
}

// What one driver could not do keeps nothing of another from being taken back,
// and several claims go to a driver in one call.
func TestSeveralDrivers(t *testing.T) {
	w := newWorld(t)
	a, _ := w.driver("a.example")
	p := w.pod("p", "one:a.example,b.example", "two:a.example")
	w.prepare(p, "DRA driver b.example is not registered")
	if w.c.Holds("p") || len(a.Calls()) > 0 {
		t.Error("something was done although a driver was away")
	}
	b, gone := w.driver("b.example")
	w.prepare(p, "")
	w.prepare(p, "")
	if got := a.Calls(); !slices.Equal(got, []string{one, two}) || !slices.Equal(b.Calls(), []string{one}) {
		t.Errorf("calls: %q, %q", got, b.Calls())
	}
	gone()
	check(t, w.c.Unprepare(t.Context(), "p"), "unprepare dynamic resources: DRA driver b.example is not registered")
	if w.c.Pods()["p"] != "default" || w.c.claims[types.NamespacedName{Namespace: "default", Name: "two"}] != nil {
		t.Errorf("left: %v", w.c.claims)
	}
	w.driver("b.example")
	check(t, w.c.Unprepare(t.Context(), "p"), "")
	w.again()
	if len(w.c.Pods()) > 0 {
		t.Errorf("the next kubelet knows %v", w.c.Pods())
	}
}

// What the next kubelet knows, and when drivers are asked again.
func TestOpen(t *testing.T) {
	w := newWorld(t)
	_, gone := w.driver(gpus)
	p := w.pod("p", "one:"+gpus)
	w.prepare(p, "")
	gone()
	w.again()
	d, _ := w.driver(gpus) // the same one
	ct := &corev1.Container{Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "one"}}}}
	if ids, err := w.c.IDs(p, ct); err != nil || len(ids) != 2 || !w.c.Holds("p") {
		t.Errorf("devices %q, %v", ids, err)
	}
	w.prepare(p, "") // its sandbox is lost: perhaps with the machine
	if d.Count(one) != 2 {
		t.Error("the driver was not asked again")
	}
	w.claims["one"].UID = "another"
	w.prepare(w.pod("q", "one:"+gpus), "old ResourceClaim with same name one and different UID uid-one still exists (previous pod force-deleted?!)")
	if err := os.WriteFile(w.c.cfg.File, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	check(t, New(w.c.cfg).Open(), "please drain the node and remove it")
}

// Claims by template and by extended resources.
func TestNames(t *testing.T) {
	w := newWorld(t)
	w.driver(gpus)
	p := w.pod("p", "made:"+gpus, "extended:"+gpus)
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "t", ResourceClaimTemplateName: ptr.To("template")}, {Name: "none", ResourceClaimTemplateName: ptr.To("template")}}
	w.prepare(p, "ResourceClaim not created yet")
	p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "t", ResourceClaimName: ptr.To("made")}, {Name: "none"}}
	p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "extended",
		RequestMappings: []corev1.ContainerExtendedResourceRequest{{ContainerName: "main", ResourceName: "example.com/gpu", RequestName: "a"}, {ContainerName: "other", ResourceName: "example.com/gpu", RequestName: "b"}}}
	w.prepare(p, "was not created for Pod default/p (Pod is not owner)")
	for _, name := range []string{"made", "extended"} {
		w.claims[name].OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(p, corev1.SchemeGroupVersion.WithKind("Pod"))}
	}
	w.prepare(p, "")
	ct := &corev1.Container{Name: "main", Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "t"}, {Name: "none"}},
		Requests: corev1.ResourceList{"example.com/gpu": resource.MustParse("1")}}}
	want := []string{gpus + "/class=made-a", gpus + "/class=made-b", gpus + "/class=extended-a"}
	if ids, err := w.c.IDs(p, ct); err != nil || !slices.Equal(ids, want) {
		t.Errorf("devices %q, %v; want %q", ids, err, want)
	}
	_, err := w.c.IDs(w.pod("q", "made:"+gpus), &corev1.Container{Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "made"}}}})
	check(t, err, "unable to get information for ResourceClaim made") // nothing was prepared for that one
}

func TestRegister(t *testing.T) {
	w := newWorld(t)
	w.driver(gpus)
	for want, info := range map[string]plugins.Info{
		"DRA driver name is empty":                                       {},
		"empty list of supported gRPC services (aka supported versions)": {Name: "x"},
		`none of services supported by the plugin (["v1alpha3.DRAPlugin"]) are supported by the kubelet (["v1.DRAPlugin" "v1beta1.DRAPlugin"])`: {Name: "x", Services: []string{"v1alpha3.DRAPlugin"}},
		"already registered for DRA driver plugin " + gpus: {Name: gpus, Endpoint: filepath.Join(w.root, "plugins", gpus, "dra.sock"), Services: []string{"v1.DRAPlugin"}},
	} {
		_, err := w.c.Register(info)
		check(t, err, want)
	}
}

// Slices go at the start, and when their driver has been away for a while.
func TestSlices(t *testing.T) {
	w := newWorld(t)
	w.slice("mine", "n1", gpus)
	w.slice("mine-too", "n1", "other")
	w.slice("theirs", "n2", gpus)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.c.Run(ctx) }()
	await(t, func() bool { return w.left() == "theirs" })
	cancel()
	check(t, <-done, "")

	d, gone := w.driver(gpus)
	due := func() (at time.Time, is bool) {
		w.c.mu.Lock()
		defer w.c.mu.Unlock()
		one, is := w.c.wipes[gpus]
		return one.at, is
	}
	await(t, func() bool { _, is := due(); return !is })
	w.slice("mine", "n1", gpus)
	w.slice("mine-too", "n1", "other")
	d.Stop() // a crash: its sockets may stay
	await(t, func() bool { _, is := due(); return is })
	at, _ := due()
	if left := time.Until(at); left > wipeAfter || left < wipeAfter-10*time.Second {
		t.Errorf("due in %s", left)
	}
	if w.c.wipeDue(t.Context()); w.left() != "mine mine-too theirs" {
		t.Errorf("too early: %s is left", w.left())
	}
	d.Start(t) // it is back in time, at the same place
	await(t, func() bool { _, is := due(); return !is })
	gone()
	late := func() {
		w.c.mu.Lock()
		defer w.c.mu.Unlock()
		one := w.c.wipes[gpus]
		one.at = time.Now()
		w.c.wipes[gpus] = one
	}
	w.fail = fmt.Errorf("not now")
	late()
	if next := w.c.wipeDue(t.Context()); next > 2*wipeRetry || w.left() != "mine mine-too theirs" {
		t.Errorf("again in %s", next)
	}
	w.fail = nil
	late()
	if next := w.c.wipeDue(t.Context()); next != idle || w.left() != "mine-too theirs" {
		t.Errorf("%s is left, again in %s", w.left(), next)
	}
}

func await(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time")
		}
	}
}

// Reports are believed for their time, bounded, and told to whom they matter.
func TestHealth(t *testing.T) {
	w := newWorld(t)
	d, _ := w.driver(gpus, "v1beta1.DRAPlugin", "v1alpha1.DRAResourceHealth")
	p := w.pod("p", "one:"+gpus)
	w.prepare(p, "")
	ct := &corev1.Container{Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "one", Request: "a"}}}}
	is := func() string {
		r := w.c.Health(p, ct)
		if len(r) != 1 || r[0].Name != "claim:one/a" || len(r[0].Resources) != 1 || r[0].Resources[0].ResourceID != gpus+"/class=one-a" {
			t.Fatalf("%+v", r)
		}
		return string(r[0].Resources[0].Health) + ptr.Deref(r[0].Resources[0].Message, "")
	}
	plug := w.c.drivers[gpus][0]
	a := &drahealthv1.DeviceHealth{Device: &drahealthv1.DeviceIdentifier{PoolName: "pool", DeviceName: "a"}, Health: drahealthv1.HealthStatus_HEALTHY}
	b := &drahealthv1.DeviceHealth{Device: &drahealthv1.DeviceIdentifier{PoolName: "pool", DeviceName: "c"}}
	told := func() int { w.mu.Lock(); defer w.mu.Unlock(); return len(w.health) }
	w.c.report(plug, []*drahealthv1.DeviceHealth{b}, time.Now())
	if is() != "Unknown" || told() != 0 {
		t.Errorf("another device: %s, told %d times", is(), told())
	}
	w.c.report(plug, []*drahealthv1.DeviceHealth{a}, time.Now())
	w.c.report(plug, []*drahealthv1.DeviceHealth{a}, time.Now())
	if is() != "Healthy" || told() != 1 {
		t.Errorf("well: %s, told %d times", is(), told())
	}
	w.c.report(plug, []*drahealthv1.DeviceHealth{b}, time.Now())
	if is() != "Healthy" {
		t.Errorf("left out: %s", is())
	}
	w.c.report(plug, []*drahealthv1.DeviceHealth{a}, time.Now().Add(-time.Minute))
	if is() != "Unknown" {
		t.Errorf("an old report: %s", is())
	}
	a.Message, a.Health = strings.Repeat("é", 1000), drahealthv1.HealthStatus_UNHEALTHY
	d.Health(a)
	await(t, func() bool { return strings.HasPrefix(is(), "Unhealthyé") })
	if got := len(is()) - len("Unhealthy"); got > corev1.ResourceHealthMessageMaxLength {
		t.Errorf("the message has %d bytes", got)
	}
	var many []*drahealthv1.DeviceHealth
	for i := range maxReports + 5 {
		many = append(many, &drahealthv1.DeviceHealth{Device: &drahealthv1.DeviceIdentifier{DeviceName: fmt.Sprint(i)}})
	}
	w.c.report(plug, many, time.Now())
	if n := len(plug.health); n != maxReports {
		t.Errorf("%d devices are remembered", n)
	}
}
