package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/controller/clusterroleaggregation"
	"knarr.dev/knarr/internal/controller/cronjob"
	"knarr.dev/knarr/internal/controller/daemonset"
	"knarr.dev/knarr/internal/controller/deployment"
	"knarr.dev/knarr/internal/controller/devicetaint"
	"knarr.dev/knarr/internal/controller/disruption"
	"knarr.dev/knarr/internal/controller/endpoints"
	"knarr.dev/knarr/internal/controller/endpointslice"
	"knarr.dev/knarr/internal/controller/ephemeralvolume"
	"knarr.dev/knarr/internal/controller/flowcontrol"
	"knarr.dev/knarr/internal/controller/garbagecollector"
	"knarr.dev/knarr/internal/controller/horizontalpodautoscaler"
	"knarr.dev/knarr/internal/controller/ipaddress"
	"knarr.dev/knarr/internal/controller/job"
	"knarr.dev/knarr/internal/controller/namespace"
	"knarr.dev/knarr/internal/controller/nodeipam"
	"knarr.dev/knarr/internal/controller/nodelifecycle"
	"knarr.dev/knarr/internal/controller/podcertificate"
	"knarr.dev/knarr/internal/controller/podgc"
	"knarr.dev/knarr/internal/controller/policystatus"
	"knarr.dev/knarr/internal/controller/pvcprotection"
	"knarr.dev/knarr/internal/controller/pvprotection"
	"knarr.dev/knarr/internal/controller/replicaset"
	"knarr.dev/knarr/internal/controller/resourceclaim"
	"knarr.dev/knarr/internal/controller/resourcequota"
	"knarr.dev/knarr/internal/controller/rootca"
	"knarr.dev/knarr/internal/controller/serviceaccount"
	"knarr.dev/knarr/internal/controller/servicecidr"
	"knarr.dev/knarr/internal/controller/statefulset"
	"knarr.dev/knarr/internal/controller/trustbundle"
	"knarr.dev/knarr/internal/controller/ttlafterfinished"
	"knarr.dev/knarr/internal/controller/vacprotection"
	"knarr.dev/knarr/internal/controller/volumebinder"
	"knarr.dev/knarr/internal/event"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kinds/expression"
	"knarr.dev/knarr/internal/leader"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/scheduler"
	"knarr.dev/knarr/internal/view"
)

// runner is one life of a component.
type runner interface {
	step() bool
	due() time.Time
	stop()
}

// process is a component that crashes and comes back, with its own view.
type process struct {
	world  *world
	name   string
	user   string
	groups []string
	kinds  []*kinds.Kind
	node   bool // a hollow node, which may be lost
	lost   bool
	make   func(p *process, rng *rand.Rand) (runner, error)
	// declare its controllers, anew for each life, since some remember things.
	declare func() []reconcile.Controller
	// change alters what the process sees, answer what its writes return;
	// both are plants.
	change func(kinds.Object) kinds.Object
	wrap   func(client.Client) client.Client

	elected bool // it has a replica, and one of the two leads
	replica int
	hangs   int // before one write in so many, if it is elected
	// revision and gate are the elector's, but for plants.
	revision func(context.Context) (int64, error)
	gate     func(*leader.Elector, client.Client) client.Client

	view     *view.View
	link     *link
	elector  *leader.Elector
	term     int // that the runner is of
	recorder *event.Recorder
	client   client.Client
	runner   runner // nil: not started since the last crash
}

// processes of the whole control plane.
func processes(w *world) []*process {
	var ps []*process
	for i, c := range w.controllers() {
		ps = append(ps, controllerProcess(w, c.Name, "system:serviceaccount:kube-system:"+c.Name,
			[]string{"system:serviceaccounts", "system:serviceaccounts:kube-system"}, func() []reconcile.Controller { return w.controllers()[i : i+1] }))
	}
	ps = append(ps, &process{
		world: w, name: "scheduler", user: "system:kube-scheduler", kinds: scheduler.Kinds(),
		make: func(p *process, rng *rand.Rand) (runner, error) {
			s, err := scheduler.New(scheduler.Config{View: p.view, Client: p.client, Events: p.recorder, Now: w.clock, Rand: rng, Log: w.log})
			return &scheduling{p, s}, err
		},
	})
	for i := range nodes {
		ps = append(ps, hollowNode(w, i))
	}
	for _, p := range slices.Clone(ps) {
		if slices.Contains(replicated, p.name) {
			ps = append(ps, p.elect())
		}
	}
	for _, p := range ps {
		w.plantInProcess(p)
	}
	return ps
}

func (w *world) controllers() []reconcile.Controller {
	ipam, err := nodeipam.Controller(nodeipam.Config{Cluster: netip.MustParsePrefix("10.244.0.0/16")})
	if err != nil {
		panic(err) // the configuration is constant
	}
	evicted := devicetaint.NewTally()
	return []reconcile.Controller{
		deployment.Controller(), replicaset.Controller(), replicaset.ReplicationController(), statefulset.Controller(), daemonset.Controller(), disruption.Controller(w.table),
		job.Controller(), cronjob.Controller(), ttlafterfinished.Controller(), horizontalpodautoscaler.Controller(w.table, w.loads),
		garbagecollector.Controller(w.table), namespace.Controller(w.table),
		serviceaccount.Controller(), rootca.Controller(rootca.Config{Bundle: func() []byte { return []byte("a certificate") }}),
		endpointslice.Controller(), endpoints.Controller(), ephemeralvolume.Controller(), clusterroleaggregation.Controller(),
		nodelifecycle.Controller(nodelifecycle.Config{}), podgc.Controller(podgc.Config{}), ipam, flowcontrol.Controller(),
		policystatus.Controller(expression.Types{
			Kind: func(schema.GroupVersionResource) (schema.GroupVersionKind, bool) {
				return schema.GroupVersionKind{}, false
			},
			Schema: func(schema.GroupVersionKind) *spec.Schema { return nil },
		}),
		resourcequota.Controller(w.table), pvcprotection.Controller(), pvprotection.Controller(), vacprotection.Controller(), volumebinder.Claims(), volumebinder.Volumes(),
		resourceclaim.Claims(), resourceclaim.Pods(), devicetaint.Pods(evicted), devicetaint.Rules(evicted),
		servicecidr.Default("10.96.0.0/16"), servicecidr.Controller(), ipaddress.Controller(),
		trustbundle.Controller(func() []byte { return []byte(anchor) }), podcertificate.Controller(),
	}
}

// controllerProcess runs controllers in a process of their own.
func controllerProcess(w *world, name, user string, groups []string, declare func() []reconcile.Controller) *process {
	return &process{
		world: w, name: name, user: user, groups: groups, kinds: reconcile.Kinds(declare()), declare: declare,
		make: func(p *process, rng *rand.Rand) (runner, error) {
			r, err := reconcile.New(reconcile.Config{
				Controllers: p.watched(p.declare()), View: p.view, Client: func(string) client.Client { return p.client },
				Events: func(name string) reconcile.Emitter { return p.recorder.As(name) }, Log: w.log, Now: w.clock, Rand: rng,
				// Time jumps here while deliveries wait, further than any watch
				// is late: the way out of a view that hangs must not be taken.
				HoldLimit: 1000 * time.Hour,
			})
			return &reconciling{p, r, rng}, err
		},
	}
}

// watched controllers may not panic, which the runtime would contain.
func (p *process) watched(cs []reconcile.Controller) []reconcile.Controller {
	cs = slices.Clone(cs)
	for i, c := range cs {
		cs[i].Plan = func(in reconcile.Input) plan.Result {
			defer func() {
				if r := recover(); r != nil {
					p.world.audit.fail("%s panics over %s: %v", p, in.Key, r)
					panic(r)
				}
			}()
			return c.Plan(in)
		}
	}
	return cs
}

// start begins a new life with an empty view and queue.
func (p *process) start() {
	if p.runner != nil {
		p.runner.stop()
	}
	p.runner = nil
	p.view = view.New(p.kinds, view.SharedOf(p.kinds)...)
	p.link = newLink(p.world, p.view, p.kinds, p.change)
	p.client = &unreliable{process: p, inner: p.world.server.client(p.user, p.groups...)}
	p.stand()
	if p.wrap != nil {
		p.client = p.wrap(p.client)
	}
	recorder, err := event.New(event.Config{Client: telling{&unreliable{process: p, inner: p.world.server.client(p.teller(), p.groups...)}, p},
		Component: p.name, Now: p.world.clock, Log: p.world.log})
	if err != nil {
		panic(err) // the configuration is constant
	}
	p.recorder = recorder
}

// crash is what a process dies of in the middle of its work.
type crash struct{}

// work does one thing; it reports whether there was something to do.
func (p *process) work() bool {
	if p.lost || !p.link.synced() {
		return !p.lost && p.elected && p.link.deliverSome(p.world.rng)
	}
	return p.guard(func() bool {
		renewed := false
		if p.elector != nil {
			var leads bool
			if leads, renewed = p.campaign(); !leads {
				return renewed
			}
		}
		if p.runner == nil {
			r, err := p.make(p, rand.New(rand.NewPCG(p.world.rng.Uint64(), 0)))
			if err != nil {
				p.world.audit.fail("%s does not start: %v", p, err)
				return false
			}
			p.runner = r
		}
		return p.runner.step() || renewed
	})
}

// guard has the process do something, of which it may crash.
func (p *process) guard(do func() bool) (worked bool) {
	acting := p.world.acting
	p.world.acting = p
	defer func() {
		p.world.acting = acting
		if r := recover(); r != nil {
			if _, ok := r.(crash); !ok {
				panic(r)
			}
			p.world.tell("%s crashes while it writes", p)
			p.runner = nil // it does not even get to unsubscribe
			p.start()
			worked = true
		}
	}()
	return do()
}

// due is when the process has work although nothing happens; zero: never.
func (p *process) due() time.Time {
	if p.lost || p.runner == nil {
		return time.Time{}
	}
	return p.runner.due()
}

type reconciling struct {
	process *process
	runtime *reconcile.Runtime
	rng     *rand.Rand
}

func (r *reconciling) step() bool {
	worked := r.runtime.Step(r.process.world.ctx, r.rng)
	r.process.recorder.Flush(r.process.world.ctx)
	return worked
}
func (r *reconciling) due() time.Time { return r.runtime.NextDue() }
func (r *reconciling) stop()          { r.runtime.Stop() }

type scheduling struct {
	process   *process
	scheduler *scheduler.Scheduler
}

func (s *scheduling) step() bool {
	worked := s.scheduler.Step(s.process.world.ctx)
	s.process.recorder.Flush(s.process.world.ctx)
	return worked
}
func (s *scheduling) due() time.Time { return s.scheduler.NextDue() }
func (s *scheduling) stop()          { s.scheduler.Stop() }

var errAway = errors.New("the server is away")

// unreliable is a client whose server is away at times, and whose process
// dies at times, before a write or right after it.
type unreliable struct {
	process *process
	inner   client.Client
}

// fate decides about one write.
func (u *unreliable) fate(do func() (runtime.Object, error)) (runtime.Object, error) {
	w := u.process.world
	if w.quiet {
		return do()
	}
	switch n := w.rng.IntN(1000); {
	case n < 10:
		return nil, apierrors.NewInternalError(errAway)
	case n < 13:
		panic(crash{})
	case n < 16:
		if _, err := do(); err == nil {
			panic(crash{})
		}
		return nil, apierrors.NewInternalError(errAway)
	}
	return do()
}

func (u *unreliable) Get(ctx context.Context, ref kinds.Ref) (runtime.Object, error) {
	return u.inner.Get(ctx, ref)
}

func (u *unreliable) List(ctx context.Context, k *kinds.Kind, ns string, o metav1.ListOptions) (runtime.Object, error) {
	return u.inner.List(ctx, k, ns, o)
}

func (u *unreliable) Create(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	return u.fate(func() (runtime.Object, error) { return u.inner.Create(ctx, ref, obj) })
}

func (u *unreliable) Update(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	return u.fate(func() (runtime.Object, error) { return u.inner.Update(ctx, ref, obj) })
}

func (u *unreliable) Patch(ctx context.Context, ref kinds.Ref, t types.PatchType, data []byte) (runtime.Object, error) {
	return u.fate(func() (runtime.Object, error) { return u.inner.Patch(ctx, ref, t, data) })
}

func (u *unreliable) Delete(ctx context.Context, ref kinds.Ref, o metav1.DeleteOptions) (runtime.Object, error) {
	return u.fate(func() (runtime.Object, error) { return u.inner.Delete(ctx, ref, o) })
}

func (p *process) String() string {
	if p == nil {
		return "a user"
	}
	if p.elected {
		return fmt.Sprintf("%s-%d", p.name, p.replica)
	}
	return p.name
}

// anchor is the certificate of an authority whose key nobody has.
const anchor = `-----BEGIN CERTIFICATE-----
MIIBczCCARmgAwIBAgIUV+beNQtatwRbJxAVo1MHtLbuFm8wCgYIKoZIzj0EAwIw
DjEMMAoGA1UEAwwDc2ltMCAXDTI2MTEyODEzNTMzNloYDzIxMjYxMTA0MTM1MzM2
WjAOMQwwCgYDVQQDDANzaW0wWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQUt2Lv
Mmu6ACtx+Sa+A/AYGOMdH0FFuUYVzbn6aiYC+EAjRqjdeeVwCnFuB02hcrHGzJMg
g218wXU6LCit2GE9o1MwUTAdBgNVHQ4EFgQUOMzDBO7z/tqTQW2wRVT7knZQPLkw
HwYDVR0jBBgwFoAUOMzDBO7z/tqTQW2wRVT7knZQPLkwDwYDVR0TAQH/BAUwAwEB
/zAKBggqhkjOPQQDAgNIADBFAiAn+STHHckoVbf4eIUR1d7Xlm/HSj+f7Ad19GIe
/7/BrwIhAONWAQ/MeVnb+0Zhrdkc2HR0CFvCgPADgkRiagGrfGDt
-----END CERTIFICATE-----
`
