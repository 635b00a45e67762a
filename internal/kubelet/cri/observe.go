package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/logs"
	"knarr.dev/knarr/internal/kubelet/plan"
)

func quick() backoff.Config {
	return backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}
}

// maxTermination is how much of a termination message a status takes; from the
// end of the log it is less (upstream's figures).
const (
	maxTermination     = 4096
	maxTerminationLog  = 2048
	maxTerminationLine = 80
)

func (p *Pod) sort() {
	slices.SortFunc(p.Sandboxes, func(a, b *runtimeapi.PodSandbox) int {
		if a.CreatedAt != b.CreatedAt {
			return int(min(1, max(-1, b.CreatedAt-a.CreatedAt)))
		}
		return strings.Compare(a.Id, b.Id)
	})
	slices.SortFunc(p.Containers, func(a, b *runtimeapi.Container) int {
		if a.CreatedAt != b.CreatedAt {
			return int(min(1, max(-1, b.CreatedAt-a.CreatedAt)))
		}
		return strings.Compare(a.Id, b.Id)
	})
	var b strings.Builder
	for _, s := range p.Sandboxes {
		fmt.Fprintf(&b, "%s %d\n", s.Id, s.State)
	}
	for _, c := range p.Containers {
		fmt.Fprintf(&b, "%s %d\n", c.Id, c.State)
	}
	p.Print = b.String()
}

// Observer turns one pod's lists into the plan's terms. It asks for the
// details of a sandbox or container once per state.
type Observer struct {
	client *Client

	mu         sync.Mutex
	sandboxes  map[string]plan.Sandbox
	containers map[string]plan.Container
}

// NewObserver makes one for one pod.
func NewObserver(c *Client) *Observer {
	return &Observer{client: c, sandboxes: map[string]plan.Sandbox{}, containers: map[string]plan.Container{}}
}

// Observe completes the lists.
func (o *Observer) Observe(ctx context.Context, p *Pod) ([]plan.Sandbox, []plan.Container, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var boxes []plan.Sandbox
	seen := map[string]bool{}
	for _, b := range p.Sandboxes {
		s, err := o.sandbox(ctx, b)
		if missing(err) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		seen[b.Id] = true
		boxes = append(boxes, s)
	}
	var list []plan.Container
	for _, c := range p.Containers {
		d, err := o.container(ctx, c)
		if missing(err) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		seen[c.Id] = true
		list = append(list, d)
	}
	forget(o.sandboxes, seen)
	forget(o.containers, seen)
	return boxes, list, nil
}

func forget[V any](m map[string]V, seen map[string]bool) {
	for id := range m {
		if !seen[id] {
			delete(m, id)
		}
	}
}

func missing(err error) bool { return status.Code(err) == codes.NotFound }

func (o *Observer) sandbox(ctx context.Context, b *runtimeapi.PodSandbox) (plan.Sandbox, error) {
	ready := b.State == runtimeapi.PodSandboxState_SANDBOX_READY
	if s, ok := o.sandboxes[b.Id]; ok && s.Ready == ready {
		return s, nil
	}
	s := plan.Sandbox{ID: b.Id, Ready: ready, Attempt: b.GetMetadata().GetAttempt(), Created: at(b.CreatedAt)}
	if ready {
		st, err := o.client.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: b.Id})
		if err != nil {
			return s, err
		}
		if ip := st.GetStatus().GetNetwork().GetIp(); ip != "" {
			s.IPs = append(s.IPs, ip)
		}
		for _, more := range st.GetStatus().GetNetwork().GetAdditionalIps() {
			s.IPs = append(s.IPs, more.Ip)
		}
	}
	o.sandboxes[b.Id] = s
	return s, nil
}

func (o *Observer) container(ctx context.Context, c *runtimeapi.Container) (plan.Container, error) {
	state := containerState(c.State)
	if d, ok := o.containers[c.Id]; ok && d.State == state {
		return d, nil
	}
	res, err := o.client.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.Id})
	if err != nil {
		return plan.Container{}, err
	}
	st := res.GetStatus()
	made, told := Made(c.Annotations)
	d := plan.Container{
		ID: c.Id, SandboxID: c.PodSandboxId, Name: c.Labels[LabelContainerName],
		Attempt: number(c.Annotations[AnnotationRestartCount]), Hash: c.Annotations[AnnotationHash],
		Image: st.GetImage().GetImage(), ImageID: st.GetImageRef(), State: containerState(st.GetState()),
		Created: at(st.GetCreatedAt()), Started: at(st.GetStartedAt()), Finished: at(st.GetFinishedAt()),
		ExitCode: st.GetExitCode(), Reason: st.GetReason(),
		Backoff: time.Duration(number(c.Annotations[AnnotationBackoff])) * time.Second,
		Given:   made, Told: told,
		User:   userOf(st.GetUser().GetLinux()),
		Actual: actual(st.GetResources().GetLinux()),
	}
	if d.State == plan.Exited {
		d.Message = termination(ctx, st, c.Annotations)
		if d.Reason == "Error" && d.ExitCode == 0 {
			d.Reason = "Completed"
		}
		// A container that could not be started has no start: its end stands in.
		if d.Started.IsZero() {
			d.Started = d.Finished
		}
	}
	o.containers[c.Id] = d
	return d, nil
}

func userOf(u *runtimeapi.LinuxContainerUser) *corev1.LinuxContainerUser {
	if u == nil {
		return nil
	}
	return &corev1.LinuxContainerUser{UID: u.Uid, GID: u.Gid, SupplementalGroups: u.SupplementalGroups}
}

// Made is what a container was made with, and false if that is not known.
func Made(annotations map[string]string) (plan.Amounts, bool) {
	var a plan.Amounts
	err := json.Unmarshal([]byte(annotations[AnnotationAmounts]), &a)
	return a, err == nil
}

// Forget what is known of a container whose resources have changed.
func (o *Observer) Forget(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.containers, id)
}

// actual amounts, as far as the runtime tells them: containerd does from 1.7.
func actual(r *runtimeapi.LinuxContainerResources) plan.Amounts {
	a := plan.Amounts{MemoryLimit: max(0, r.GetMemoryLimitInBytes()), CPURequest: (max(0, r.GetCpuShares())*1000 + 1023) / 1024}
	if r.GetCpuPeriod() > 0 && r.GetCpuQuota() > 0 {
		a.CPULimit = r.CpuQuota * 1000 / r.CpuPeriod
	}
	return a
}

// termination reads what the container wrote for its status, or, if it asked
// for that, the end of its log.
func termination(ctx context.Context, st *runtimeapi.ContainerStatus, annotations map[string]string) string {
	path := annotations[AnnotationTermination]
	for _, m := range st.GetMounts() {
		if m.ContainerPath == path && path != "" {
			if text := head(m.HostPath, maxTermination); text != "" {
				return text
			}
		}
	}
	if annotations[AnnotationPolicy] == "FallbackToLogsOnError" && st.GetExitCode() != 0 {
		return lastLines(ctx, st.GetLogPath())
	}
	if st.GetReason() != "Completed" && st.GetReason() != "Error" {
		return st.GetMessage()
	}
	return ""
}

// head reads the beginning of a regular file: what lies there was in the hands
// of the container.
func head(path string, limit int64) string {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return ""
	}
	return strings.ToValidUTF8(string(data), "\uFFFD")
}

// lastLines of a CRI log, without times and stream names.
func lastLines(ctx context.Context, path string) string {
	var end lastBytes
	o := logs.Options{Tail: maxTerminationLine}
	if err := logs.Read(ctx, path, o, func() bool { return false }, &end, func() {}); err != nil {
		return ""
	}
	return strings.ToValidUTF8(string(end), "\uFFFD")
}

// lastBytes keeps the end of what is written to it.
type lastBytes []byte

func (l *lastBytes) Write(p []byte) (int, error) {
	*l = append(*l, p...)
	*l = slices.Clone((*l)[max(0, len(*l)-maxTerminationLog):])
	return len(p), nil
}
