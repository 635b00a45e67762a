package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kinds"
	kubelet "knarr.dev/knarr/internal/kubelet/plan"
	"knarr.dev/knarr/internal/kubelet/spec"
	"knarr.dev/knarr/internal/plan"
	"knarr.dev/knarr/internal/reconcile"
	"knarr.dev/knarr/internal/view"
)

// paperNode is a node whose pods live by the kubelet's own plan; only the
// runtime is made of paper. What containers do stands in their command:
//
//	exit CODE [MESSAGE]   ends so at once
//	oom                   is killed for its memory
//	nope                  is a program that the image does not have
//
// Probes and hooks by exec fail if their command is false; by HTTP and TCP on
// ports other than 80. Images of missing.example, private.example and
// away.example cannot be pulled, each for its reason, and nothing is on the node.
func paperNode(w *world, i int) *process {
	name := fmt.Sprintf("n%d", i)
	hollow := hollowNode(w, i)
	paper := &paper{node: name, pods: map[types.UID]*paperPod{}}
	pods := reconcile.Controller{
		Name: "pods-" + name, For: kinds.Pod, Reads: []*kinds.Kind{kinds.ConfigMap, kinds.Secret},
		Writes: []reconcile.Write{{Kind: kinds.Pod, Verbs: []plan.Verb{plan.Delete}}, {Kind: kinds.Pod, Sub: "status", Verbs: []plan.Verb{plan.Update}}},
		Plan:   paper.plan,
	}
	node := reconcile.Controller{
		Name: "node-" + name, Watches: []reconcile.Watch{{Kind: kinds.Node, Keys: func(_ *view.Snapshot, c view.Change) []reconcile.Key {
			if c.Object().GetName() != name {
				return nil
			}
			return []reconcile.Key{{}}
		}}},
		Reads: []*kinds.Kind{kinds.Lease},
		Writes: []reconcile.Write{{Kind: kinds.Node, Verbs: []plan.Verb{plan.Create}}, {Kind: kinds.Node, Sub: "status", Verbs: []plan.Verb{plan.Update}},
			{Kind: kinds.Lease, Verbs: []plan.Verb{plan.Create, plan.Update}}},
		Plan: func(in reconcile.Input) plan.Result { return planNode(in, name) },
	}
	p := controllerProcess(w, hollow.name, hollow.user, hollow.groups, func() []reconcile.Controller { return []reconcile.Controller{node, pods} })
	p.node = true
	return p
}

// paper is a runtime that only keeps books.
type paper struct {
	node string
	pods map[types.UID]*paperPod
}

type paperPod struct {
	in     kubelet.Input
	last   int
	events []plan.Event
	told   map[string]bool
	gone   bool
}

func (r *paper) plan(in reconcile.Input) (res plan.Result) {
	pod := view.Get[*corev1.Pod](in.View, kinds.Pod, in.Key.Namespace, in.Key.Name)
	if pod == nil || pod.Spec.NodeName != r.node {
		return res
	}
	p := r.pods[pod.UID]
	if p == nil {
		p = &paperPod{told: map[string]bool{}, in: kubelet.Input{NodeIP: "192.0.2.1", Images: map[string]kubelet.Image{}, Failures: map[string]kubelet.Failed{}, Probes: map[string]kubelet.Probes{}}}
		r.pods[pod.UID] = p
		var others []*corev1.Pod
		for o := range view.List[*corev1.Pod](in.View, kinds.Pod, "") {
			if mine := r.pods[o.UID]; mine != nil && o.UID != pod.UID {
				others = append(others, o)
			}
		}
		p.in.Rejected = kubelet.Admit(pod, kubelet.Room{Allocatable: nodeStatus(in.Now).Allocatable, Pods: others})
	}
	p.in.Pod, p.in.Now = pod, in.Now
	p.in.Evicted = pod.Annotations["paper/evicted"]
	var out kubelet.Result
	for range 50 {
		p.probe(pod)
		out = kubelet.Pod(p.in)
		p.in.Since = out.Since
		for _, e := range out.Events {
			p.tell(pod, e.Container, e.Warning, e.Reason, e.Message)
		}
		if len(out.Actions) == 0 || p.gone {
			break
		}
		for _, a := range out.Actions {
			p.act(in.View, pod, a)
		}
	}
	res.Events, p.events = p.events, nil
	switch {
	case p.gone && pod.DeletionTimestamp != nil:
		now := int64(0)
		res.Actions = append(res.Actions, plan.Action{Verb: plan.Delete, Ref: kinds.RefTo(kinds.Pod, pod), UID: pod.UID, GraceSeconds: &now})
	case !apiequality.Semantic.DeepEqual(out.Status, pod.Status):
		next := *pod
		next.Status = out.Status
		res.Actions = append(res.Actions, plan.Action{Verb: plan.Update, Ref: kinds.RefTo(kinds.Pod, pod).WithSub("status"), Object: &next})
	}
	if !out.Wake.IsZero() {
		res.After = max(time.Millisecond, out.Wake.Sub(in.Now))
	}
	for i := range p.in.Containers {
		if c := &p.in.Containers[i]; c.State == kubelet.Running && in.Now.Sub(c.Started) < 2*time.Second {
			res.After = time.Second // probes begin
		}
	}
	return res
}

// tell an event once, as the kubelet does by counting.
func (p *paperPod) tell(pod *corev1.Pod, container string, warning bool, reason, message string) {
	key := reason + container + message + p.in.Now.Truncate(10*time.Second).String()
	if p.told[key] {
		return
	}
	p.told[key] = true
	e := plan.Event{Regarding: kinds.RefTo(kinds.Pod, pod), UID: pod.UID, Type: corev1.EventTypeNormal, Reason: reason, Message: message}
	if warning {
		e.Type = corev1.EventTypeWarning
	}
	if container != "" {
		e.FieldPath = "spec.containers{" + container + "}"
	}
	p.events = append(p.events, e)
}

func (p *paperPod) id() string { p.last++; return "id" + strconv.Itoa(p.last) }

func (p *paperPod) act(s *view.Snapshot, pod *corev1.Pod, a kubelet.Action) {
	c := containerOf(pod, a.Container)
	switch a.Op {
	case kubelet.PrepareVolumes:
		if err := volumes(s, pod); err != nil {
			p.in.Volumes.Failed = kubelet.Failed{Reason: "FailedMount", Message: err.Error(), At: p.in.Now, Count: p.in.Volumes.Failed.Count + 1}
			p.tell(pod, "", true, "FailedMount", err.Error())
			return
		}
		p.in.Volumes = kubelet.Volumes{Ready: true}
	case kubelet.CreateSandbox:
		p.in.Sandboxes = []kubelet.Sandbox{{ID: p.id(), Ready: true, Attempt: a.Attempt, Created: p.in.Now, IPs: []string{address(pod)}}}
	case kubelet.EnsureImage:
		p.image(s, pod, c, a)
	case kubelet.StartContainer:
		p.start(s, pod, c, a)
	case kubelet.KillContainer:
		p.tell(pod, a.Container, false, "Killing", a.Message)
		p.end(a.ID, 137, "", "")
	case kubelet.StopSandbox:
		for i := range p.in.Sandboxes {
			p.in.Sandboxes[i].Ready = false
		}
	case kubelet.CleanUp:
		p.in.Volumes.Cleaned = true
	case kubelet.RemoveSandboxes:
		p.in.Sandboxes, p.in.Containers = nil, nil
	case kubelet.Delete:
		p.gone = true
	}
}

func containerOf(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// volumes as the kubelet's volumes would be set up, with the same errors.
func volumes(s *view.Snapshot, pod *corev1.Pod) error {
	for _, v := range pod.Spec.Volumes {
		var err error
		switch {
		case v.ConfigMap != nil:
			cm := view.Get[*corev1.ConfigMap](s, kinds.ConfigMap, pod.Namespace, v.ConfigMap.Name)
			if cm == nil {
				err = apierrors.NewNotFound(kinds.ConfigMap.GroupResource(), v.ConfigMap.Name)
				break
			}
			for _, it := range v.ConfigMap.Items {
				if _, ok := cm.Data[it.Key]; !ok {
					err = fmt.Errorf("configmap references non-existent key: %s", it.Key)
				}
			}
		case v.Secret != nil:
			if view.Get[*corev1.Secret](s, kinds.Secret, pod.Namespace, v.Secret.SecretName) == nil {
				err = apierrors.NewNotFound(kinds.Secret.GroupResource(), v.Secret.SecretName)
			}
		}
		if err != nil {
			return fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err)
		}
	}
	return nil
}

func (p *paperPod) image(s *view.Snapshot, pod *corev1.Pod, c *corev1.Container, a kubelet.Action) {
	im := kubelet.Image{Attempt: a.Attempt, Spec: c.Image, Delay: p.in.Images[c.Name].Delay}
	fail := func(reason, message string) {
		im.Reason, im.Message, im.At, im.Delay = reason, message, p.in.Now, kubelet.NextPull(im.Delay)
		if reason == "ErrImagePull" {
			p.tell(pod, c.Name, true, "Failed", fmt.Sprintf("Failed to pull image %q: %s", c.Image, message))
		} else {
			p.tell(pod, c.Name, true, reason, message)
		}
		p.tell(pod, c.Name, true, "Failed", "Error: "+reason)
	}
	if c.ImagePullPolicy != corev1.PullNever {
		for _, ref := range pod.Spec.ImagePullSecrets {
			if view.Get[*corev1.Secret](s, kinds.Secret, pod.Namespace, ref.Name) == nil {
				p.tell(pod, "", true, "FailedToRetrieveImagePullSecret", fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name))
			}
		}
	}
	host, _, _ := strings.Cut(c.Image, "/")
	const failed = "rpc error: code = Unknown desc = failed to pull and unpack image %q: failed to resolve reference %q: "
	words := fmt.Sprintf(failed, c.Image, c.Image)
	_, err := reference.ParseNormalizedNamed(c.Image)
	switch {
	case err != nil:
		fail("InvalidImageName", fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %s", c.Image, c.Image, err))
	case c.ImagePullPolicy == corev1.PullNever:
		fail("ErrImageNeverPull", fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image))
	case host == "missing.example":
		fail("ErrImagePull", strings.Replace(words, "Unknown", "NotFound", 1)+c.Image+": not found")
	case host == "private.example":
		fail("ErrImagePull", words+`pull access denied, repository does not exist or may require authorization: authorization failed: no basic auth credentials`)
	case host == "away.example":
		fail("ErrImagePull", words+`failed to do request: Head "https://away.example/v2/x/manifests/1": dial tcp: lookup away.example: no such host`)
	default:
		im.Ready, im.ID, im.Delay = true, "sha256:1", 0
	}
	p.in.Images[c.Name] = im
}

func (p *paperPod) start(s *view.Snapshot, pod *corev1.Pod, c *corev1.Container, a kubelet.Action) {
	_, err := spec.Env(pod, c, spec.Lookup{
		ConfigMap: func(name string) (*corev1.ConfigMap, error) {
			return view.Get[*corev1.ConfigMap](s, kinds.ConfigMap, pod.Namespace, name), nil
		},
		Secret: func(name string) (*corev1.Secret, error) {
			return view.Get[*corev1.Secret](s, kinds.Secret, pod.Namespace, name), nil
		},
	})
	if err == nil {
		err = spec.VerifyNonRoot(pod, c, &runtimeapi.Image{Id: "sha256:1"})
	}
	if err != nil {
		f := p.in.Failures[c.Name]
		p.in.Failures[c.Name] = kubelet.Failed{Reason: "CreateContainerConfigError", Message: err.Error(), At: p.in.Now, Count: f.Count + 1}
		p.tell(pod, c.Name, true, "Failed", "Error: "+err.Error())
		return
	}
	delete(p.in.Failures, c.Name)
	made := kubelet.Container{ID: p.id(), SandboxID: p.in.Sandboxes[0].ID, Name: c.Name, Attempt: a.Attempt, Hash: kubelet.Hash(c), Image: c.Image,
		State: kubelet.Running, Created: p.in.Now, Started: p.in.Now, Backoff: a.Backoff}
	p.in.Containers = append(p.in.Containers, made)
	id := made.ID
	if h := c.Lifecycle; h != nil && h.PostStart != nil && h.PostStart.Exec != nil && h.PostStart.Exec.Command[0] == "false" {
		p.tell(pod, c.Name, true, "FailedPostStartHook", "PostStartHook failed")
		p.in.Containers[len(p.in.Containers)-1].Hook = kubelet.HookFailed
		return
	}
	if len(c.Command) == 0 {
		return
	}
	switch c.Command[0] {
	case "exit":
		code, err := strconv.Atoi(c.Command[1])
		if err != nil {
			panic(err)
		}
		p.end(id, int32(code), "", strings.Join(c.Command[2:], " "))
	case "oom":
		p.end(id, 137, "OOMKilled", "")
	case "nope":
		const words = `failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init: exec: "nope": executable file not found in $PATH`
		p.tell(pod, c.Name, true, "Failed", "Error: "+words)
		p.end(id, 128, "StartError", words)
	}
}

func (p *paperPod) end(id string, code int32, reason, message string) {
	for i := range p.in.Containers {
		if c := &p.in.Containers[i]; c.ID == id && c.State == kubelet.Running {
			c.State, c.ExitCode, c.Reason, c.Message, c.Finished = kubelet.Exited, code, reason, message, p.in.Now
		}
	}
}

// probe what runs, once the probe's thresholds of failures have passed.
func (p *paperPod) probe(pod *corev1.Pod) {
	for i := range p.in.Containers {
		c := &p.in.Containers[i]
		s := containerOf(pod, c.Name)
		if c.State != kubelet.Running || s == nil {
			continue
		}
		judge := func(kind kubelet.Kind, probe *corev1.Probe) kubelet.Outcome {
			why := ""
			switch {
			case probe == nil:
				return kubelet.NoOutcome
			case probe.Exec != nil && probe.Exec.Command[0] == "false":
				why = "command failed: exit status 1"
			case probe.TCPSocket != nil && probe.TCPSocket.Port.IntValue() != 80:
				why = fmt.Sprintf("dial tcp 10.0.0.1:%d: connect: connection refused", probe.TCPSocket.Port.IntValue())
			case probe.HTTPGet != nil && probe.HTTPGet.Port.IntValue() != 80:
				why = "HTTP probe failed with statuscode: 500"
			default:
				return kubelet.Success
			}
			if p.in.Now.Sub(c.Started) < time.Second {
				return kubelet.NoOutcome
			}
			p.tell(pod, c.Name, true, "Unhealthy", string(kind)+" probe failed: "+why)
			return kubelet.Failure
		}
		before := p.in.Probes[c.ID]
		before.Startup = judge(kubelet.Startup, s.StartupProbe)
		if s.StartupProbe == nil || before.Startup == kubelet.Success {
			before.Liveness, before.Readiness = judge(kubelet.Liveness, s.LivenessProbe), judge(kubelet.Readiness, s.ReadinessProbe)
		}
		p.in.Probes[c.ID] = before
	}
}
