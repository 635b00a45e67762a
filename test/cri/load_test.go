package cri_test

import (
	"fmt"
	"strings"
	"sync"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// crowd runs fn n times at once; what fails in one fails the case.
func (t *T) crowd(n int, fn func(t *T, i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for _, f := range t.try(testCase{t.name, func(t *T) { fn(t, i) }}) {
				t.fail("crowd", i, f)
			}
		})
	}
	wg.Wait()
}

var loadCases = []testCase{
	{"load/20 pods at once", func(t *T) {
		var mu sync.Mutex
		addresses := map[string]int{}
		t.crowd(20, func(t *T, i int) {
			p := t.pod()
			c := p.start(shell(fmt.Sprintf("echo pod %d; sleep 1000000", i)))
			c.says(fmt.Sprintf("pod %d", i))
			t.equal("hostname", c.sh("hostname"), p.config.Hostname)
			ip := p.ip()
			mu.Lock()
			addresses[ip]++
			mu.Unlock()
			t.must(c.stop(0))
			t.must(p.stop())
			t.must(p.remove())
		})
		if addresses[""] > 0 {
			t.errorf("a pod without an address")
		}
	}},
	{"load/20 containers of a pod", func(t *T) {
		p := t.pod()
		ids := map[string]bool{}
		for range 20 {
			ids[p.start().id] = true
		}
		t.equal("running", len(t.containers(&runtimeapi.ContainerFilter{PodSandboxId: p.id, State: containerState(running)})), 20)
		t.equal("identifiers", len(ids), 20)
		t.must(p.stop())
		t.equal("exited", len(t.containers(&runtimeapi.ContainerFilter{PodSandboxId: p.id, State: containerState(exited)})), 20)
	}},
	{"load/containers that end at once", func(t *T) {
		p := t.pod()
		t.crowd(16, func(t *T, i int) {
			q := &pod{t: t, id: p.id, config: p.config}
			r := q.run(fmt.Sprintf("echo %d; exit %d", i, i))
			t.equal("exit code", r.ExitCode, i)
			t.equal("output", r.out, fmt.Sprintf("%d\n", i))
		})
	}},
	{"load/one container started and stopped by many", func(t *T) {
		c := t.pod().create()
		var wg sync.WaitGroup
		var mu sync.Mutex
		good := 0
		for range 6 {
			wg.Go(func() {
				if c.start() == nil {
					mu.Lock()
					good++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		t.equal("starts that went well", good, 1)
		t.equal("state", c.status().State, running)
		for range 6 {
			wg.Go(func() {
				if err := c.stop(0); err != nil {
					t.errorf("StopContainer: %v", err)
				}
			})
		}
		wg.Wait()
		t.equal("exit code", c.status().ExitCode, 137)
	}},
	{"load/one container removed by many", func(t *T) {
		c := t.pod().start()
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				if err := c.remove(); err != nil {
					t.errorf("RemoveContainer: %v", err)
				}
			})
		}
		wg.Wait()
		t.equal("list", len(t.containers(&runtimeapi.ContainerFilter{Id: c.id})), 0)
	}},
	{"load/a sandbox stopped and removed by many", func(t *T) {
		p := t.pod()
		p.start()
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				err := p.stop()
				if err == nil && i%2 == 0 {
					err = p.remove()
				}
				if err != nil {
					t.errorf("%v", err)
				}
			})
		}
		wg.Wait()
		t.equal("list", len(t.sandboxes(&runtimeapi.PodSandboxFilter{Id: p.id})), 0)
	}},
	{"load/the same name by many", func(t *T) {
		c := t.podConfig()
		var wg sync.WaitGroup
		var mu sync.Mutex
		var got []*pod
		for range 6 {
			wg.Go(func() {
				p, err := t.tryShared(c)
				if err == nil {
					mu.Lock()
					got = append(got, p)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		t.equal("sandboxes of one name", len(got), 1)
		for _, p := range got {
			t.must(p.remove())
		}
	}},
	{"load/many processes", func(t *T) {
		c := t.pod().start(shell("for i in $(seq 100); do sleep 1000000 & done; echo up; wait"))
		c.says("up")
		t.must(c.stop(0))
		t.within("all are gone", func() bool { return !strings.Contains(fmt.Sprint(traces(c.id)), "a process") })
	}},
}

// tryShared is tryPodOf for several goroutines of one case, which remove what
// they get.
func (t *T) tryShared(c *podConfig) (*pod, error) {
	resp, err := t.runtime.RunPodSandbox(t.ctx, &runtimeapi.RunPodSandboxRequest{Config: c})
	if err != nil {
		return nil, err
	}
	t.made(resp.PodSandboxId)
	return &pod{t: t, id: resp.PodSandboxId, config: c}, nil
}
