package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/why"
)

// fault is something that is made wrong, and the first cause that has to be named.
type fault struct {
	name   string
	ask    string // kind/name
	object string // of the first cause, as it is printed; a * at its end: any
	phrase string // in what is said of it
	make   string // manifests
	then   func(t *testing.T, f *faulty)
}

// faulty is a world with a fault.
type faulty struct{ *world }

func newFaulty(t *testing.T) *faulty {
	t.Helper()
	w, err := newWorld(config{seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	w.quiet = true
	n := 0
	for i, p := range w.processes {
		if p.node {
			w.processes[i] = paperNode(w, n)
			w.processes[i].start()
			n++
		}
	}
	f := &faulty{w}
	f.pass(t, time.Second) // nodes, default accounts
	return f
}

// pass lets time pass, and all happen that is due.
func (f *faulty) pass(t *testing.T, d time.Duration) {
	t.Helper()
	end := f.now.Add(d)
	if err := f.rest(); err != nil {
		t.Fatal(err)
	}
	if err := f.wait(d); err != nil {
		t.Fatal(err)
	}
	f.now = end
}

func (f *faulty) create(t *testing.T, manifests string) {
	t.Helper()
	for _, doc := range strings.Split(manifests, "\n---\n") {
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &meta); err != nil {
			t.Fatal(err)
		}
		gv, err := schema.ParseGroupVersion(meta.APIVersion)
		if err != nil {
			t.Fatal(err)
		}
		k := f.table.ByGVK(gv.WithKind(meta.Kind))
		if k == nil {
			t.Fatalf("no kind %v:\n%s", meta, doc)
		}
		o := k.New()
		if err := yaml.UnmarshalStrict([]byte(doc), o); err != nil {
			t.Fatalf("%v:\n%s", err, doc)
		}
		ref := kinds.Ref{Kind: k}
		if k.Namespaced {
			if o.GetNamespace() == "" {
				o.SetNamespace("default")
			}
			ref.Namespace = o.GetNamespace()
		}
		if _, err := f.admin.Create(f.ctx, ref, o); err != nil {
			t.Fatalf("%v:\n%s", err, doc)
		}
	}
}

func (f *faulty) patch(t *testing.T, k *kinds.Kind, name, merge string) {
	t.Helper()
	ref := kinds.Ref{Kind: k, Name: name}
	if k.Namespaced {
		ref.Namespace = "default"
	}
	if _, err := f.admin.Patch(f.ctx, ref, types.MergePatchType, []byte(merge)); err != nil {
		t.Fatal(err)
	}
}

func (f *faulty) remove(t *testing.T, k *kinds.Kind, name string) {
	t.Helper()
	ref := kinds.Ref{Kind: k, Name: name}
	if k.Namespaced {
		ref.Namespace = "default"
	}
	if _, err := f.admin.Delete(f.ctx, ref, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// why asks for KIND/NAME in the default namespace.
func (f *faulty) why(t *testing.T, ask string) []why.Link {
	t.Helper()
	resource, name, _ := strings.Cut(ask, "/")
	for _, k := range f.table.All() {
		if k.Singular != resource || !k.Stored() || k.StoredAs != nil {
			continue
		}
		ref := kinds.Ref{Kind: k, Name: name}
		if k.Namespaced {
			ref.Namespace = "default"
		}
		o, err := f.admin.Get(f.ctx, ref)
		if err != nil {
			t.Fatal(err)
		}
		links, err := why.Ask(f.ctx, f.admin, f.now, k, o.(kinds.Object))
		if err != nil {
			t.Fatal(err)
		}
		return links
	}
	t.Fatalf("no kind %s", resource)
	return nil
}

func told(links []why.Link) string {
	var b strings.Builder
	for _, l := range links {
		fmt.Fprintf(&b, "  %s: %s\n", l.Object, l.What)
		if l.Remedy != "" {
			fmt.Fprintf(&b, "     what helps: %s\n", l.Remedy)
		}
	}
	return b.String()
}

// TestWhyNamesTheFirstCause seeds faults into a whole cluster: the real API
// server, admission, controllers, scheduler and the kubelet's plan; and asks.
func TestWhyNamesTheFirstCause(t *testing.T) {
	all := faults()
	if len(all) < 50 {
		t.Errorf("only %d faults", len(all))
	}
	for _, x := range all {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			f := newFaulty(t)
			if x.make != "" {
				f.create(t, x.make)
			}
			f.pass(t, 40*time.Second)
			if x.then != nil {
				x.then(t, f)
			}
			links := f.why(t, x.ask)
			if len(links) == 0 {
				t.Fatal("nothing is said to be the matter")
			}
			first := links[0]
			named := first.Object.String() == x.object
			if prefix, any := strings.CutSuffix(x.object, "*"); any {
				named = strings.HasPrefix(first.Object.String(), prefix)
			}
			if !named || !strings.Contains(first.What, x.phrase) {
				t.Errorf("want %s: ... %s\n%s", x.object, x.phrase, told(links))
			}
			last, _, _ := strings.Cut(x.ask, "/")
			if !strings.EqualFold(links[len(links)-1].Object.Kind, last) {
				t.Errorf("the chain does not end at what was asked for:\n%s", told(links))
			}
			if testing.Verbose() {
				t.Logf("why %s\n%s", x.ask, told(links))
			}
		})
	}
}

// TestWhyLeavesTheHealthyAlone: of what is well nothing is said.
func TestWhyLeavesTheHealthyAlone(t *testing.T) {
	f := newFaulty(t)
	f.create(t, deploying("web", "{name: c, image: i, ports: [{name: http, containerPort: 80}], readinessProbe: {tcpSocket: {port: 80}}}")+`
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: each}
spec: {selector: {matchLabels: {app: each}}, template: {metadata: {labels: {app: each}}, spec: {containers: [{name: c, image: i}]}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec: {replicas: 2, serviceName: db, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {containers: [{name: c, image: i}]}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i, command: [exit, "0"]}]}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec: {schedule: "0 3 * * *", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}}
---
`+pod("alone", "{name: c, image: i}", ""))
	f.pass(t, 40*time.Second)
	for _, ask := range []string{"deployment/web", "service/web", "daemonset/each", "statefulset/db", "job/once", "cronjob/nightly", "pod/alone", "node/n0", "namespace/default", "serviceaccount/default"} {
		if links := f.why(t, ask); len(links) > 0 {
			t.Errorf("%s:\n%s", ask, told(links))
		}
	}
}
