package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/kinds/validate"
	"knarr.dev/knarr/internal/view"
)

// Upstream's figures: the lease says that the node lives, its status is
// written when it changes and every five minutes.
const (
	leaseEvery   = 10 * time.Second
	leaseSeconds = 40
	statusEvery  = 5 * time.Minute
	// nodeCheck is how often the node is looked at for changes of itself.
	nodeCheck   = 10 * time.Second
	nodeTimeout = 20 * time.Second
)

// runNode registers the node and keeps its status true.
func (k *Kubelet) runNode(ctx context.Context) error {
	var once sync.Once
	var written time.Time
	failing := false
	for {
		ready, wrote, err := k.syncNode(ctx, k.cfg.Now().Sub(written) >= statusEvery)
		pause := nodeCheck
		switch {
		case err != nil && ctx.Err() == nil:
			if !failing { // once: a server may be away for hours
				k.cfg.Log.Warn("cannot write the node; it is tried every second", "error", err)
			}
			failing, pause = true, time.Second
		case wrote:
			written = k.cfg.Now()
		}
		if err == nil && failing {
			failing = false
			k.cfg.Log.Info("the node can be written again")
		}
		if err == nil && ready {
			once.Do(func() { close(k.ready) })
			if !k.measured() { // nothing of it changes by itself
				pause = statusEvery
			}
		} else if err == nil {
			pause = time.Second
		}
		select {
		case <-ctx.Done():
			return nil
		case <-k.nodeNow:
		case <-time.After(pause):
		}
	}
}

// seenNode is the node as the view has it; nil: not yet.
func (k *Kubelet) seenNode() *corev1.Node {
	return view.Get[*corev1.Node](k.cfg.View.Snapshot(), kinds.Node, "", k.cfg.NodeName)
}

// syncNode creates or updates the node; force writes the heartbeat too.
func (k *Kubelet) syncNode(ctx context.Context, force bool) (ready, wrote bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	ref := kinds.Ref{Kind: kinds.Node, Name: k.cfg.NodeName}
	old := k.seenNode()
	if old == nil {
		o, err := k.cfg.Client.Get(ctx, ref)
		if apierrors.IsNotFound(err) {
			o, err = k.cfg.Client.Create(ctx, kinds.Ref{Kind: kinds.Node}, k.node(ctx))
			wrote = true
		}
		if err != nil {
			return false, false, err
		}
		old = o.(*corev1.Node)
	}
	if err := k.nodeLabels(ctx, ref, old); err != nil {
		return false, false, err
	}
	status := k.nodeStatus(ctx, old)
	ready = isReady(&status)
	if !force && sameStatus(&old.Status, &status) {
		k.tellNode(old, &status)
		return ready && isReady(&old.Status), wrote, nil
	}
	data, err := nodePatch(old, &status)
	if err != nil {
		return false, false, err
	}
	if _, err := k.cfg.Client.Patch(ctx, ref.WithSub("status"), types.StrategicMergePatchType, data); err != nil {
		return false, false, err
	}
	k.tellNode(old, &status)
	return ready, true, nil
}

func (k *Kubelet) tellNode(n *corev1.Node, next *corev1.NodeStatus) {
	for _, e := range k.nodeTold.tell(n, next) {
		k.cfg.Events.Emit(e)
	}
}

func isReady(st *corev1.NodeStatus) bool {
	return statusOf(st, corev1.NodeReady) == corev1.ConditionTrue
}

// sameStatus compares without heartbeats.
func sameStatus(a, b *corev1.NodeStatus) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	for _, s := range []*corev1.NodeStatus{x, y} {
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return equality.Semantic.DeepEqual(x, y)
}

func nodePatch(old *corev1.Node, status *corev1.NodeStatus) ([]byte, error) {
	before, err := json.Marshal(&corev1.Node{Status: old.Status})
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(&corev1.Node{Status: *status})
	if err != nil {
		return nil, err
	}
	// Addresses are replaced as a whole: as a map by type, two of one type
	// would be merged into one.
	data, err := strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Node{})
	if err != nil {
		return nil, err
	}
	return data, nil
}

func (k *Kubelet) labelsOfNode() map[string]string {
	return map[string]string{
		corev1.LabelHostname: k.cfg.NodeName, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	}
}

// node as it is first registered.
func (k *Kubelet) node(ctx context.Context) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: k.cfg.NodeName, Labels: k.labelsOfNode()}}
	n.Status = k.nodeStatus(ctx, n)
	return n
}

// nodeLabels puts the node's own labels right if somebody removed them.
func (k *Kubelet) nodeLabels(ctx context.Context, ref kinds.Ref, old *corev1.Node) error {
	missing := map[string]string{}
	for name, v := range k.labelsOfNode() {
		if old.Labels[name] != v {
			missing[name] = v
		}
	}
	if len(missing) == 0 {
		return nil
	}
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": missing}})
	if err != nil {
		return err
	}
	_, err = k.cfg.Client.Patch(ctx, ref, types.MergePatchType, data)
	return err
}

// allocatable is what pods may ask for together.
func (k *Kubelet) allocatable() corev1.ResourceList {
	l := k.capacity()
	l[corev1.ResourceMemory] = *resource.NewQuantity(max(0, k.machine.memory-evictMemory), resource.BinarySI)
	// A tenth of the disk stays free for what is not a pod's.
	l[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(k.machine.disk(k.cfg.RootDir)/10*9, resource.BinarySI)
	return l
}

func (k *Kubelet) capacity() corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(k.machine.cpus), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(k.machine.memory, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(int64(k.cfg.MaxPods), resource.DecimalSI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(k.machine.disk(k.cfg.RootDir), resource.BinarySI),
	}
}

// withExtended adds the resources that others have given the node: of those
// nothing is kept back.
func withExtended(own, from corev1.ResourceList) corev1.ResourceList {
	for name, q := range from {
		if !validate.NativeResource(name) {
			own[name] = q
		}
	}
	return own
}

func (k *Kubelet) nodeStatus(ctx context.Context, old *corev1.Node) corev1.NodeStatus {
	st := *old.Status.DeepCopy()
	st.Capacity = withExtended(k.capacity(), old.Status.Capacity)
	st.Allocatable = withExtended(k.allocatable(), old.Status.Capacity)
	st.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: k.cfg.NodeIP}, {Type: corev1.NodeHostName, Address: k.cfg.NodeName}}
	st.DaemonEndpoints = corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(k.cfg.Port)}}
	st.NodeInfo = k.machine.info
	st.NodeInfo.KubeletVersion, st.NodeInfo.OperatingSystem, st.NodeInfo.Architecture = k.cfg.Version, runtime.GOOS, runtime.GOARCH
	if v := k.runtimeVersion(ctx); v != "" {
		st.NodeInfo.ContainerRuntimeVersion = v
	} else {
		st.NodeInfo.ContainerRuntimeVersion = old.Status.NodeInfo.ContainerRuntimeVersion
	}
	now := metav1.NewTime(k.cfg.Now().Truncate(time.Second))
	for _, c := range k.nodeConditions(ctx) {
		c.LastHeartbeatTime, c.LastTransitionTime = now, now
		at := -1
		for i := range st.Conditions {
			if st.Conditions[i].Type == c.Type {
				at = i
			}
		}
		if at < 0 {
			st.Conditions = append(st.Conditions, c)
			continue
		}
		if st.Conditions[at].Status == c.Status {
			c.LastTransitionTime = st.Conditions[at].LastTransitionTime
		}
		st.Conditions[at] = c
	}
	if can := k.features.Load(); can != nil {
		st.RuntimeHandlers, st.Features = can.handlers, can.node
	}
	return st
}

func (k *Kubelet) runtimeVersion(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	v, err := k.cri.Runtime.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return ""
	}
	k.runtime.Store(&v.RuntimeName)
	k.oldCDI.Store(withoutCDI(v.RuntimeName, v.RuntimeVersion))
	return v.RuntimeName + "://" + v.RuntimeVersion
}

// runtimeName is what the runtime last called itself; empty before it was
// asked.
func (k *Kubelet) runtimeName() string {
	if name := k.runtime.Load(); name != nil {
		return *name
	}
	return ""
}

func (k *Kubelet) nodeConditions(ctx context.Context) []corev1.NodeCondition {
	check := func(t corev1.NodeConditionType, bad bool, has, hasNot, yes, no string) corev1.NodeCondition {
		if bad {
			return corev1.NodeCondition{Type: t, Status: corev1.ConditionTrue, Reason: has, Message: yes}
		}
		return corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, Reason: hasNot, Message: no}
	}
	_, pids := k.machine.pressure(k.cfg.RootDir)
	pressure := k.pressure()
	return []corev1.NodeCondition{
		check(corev1.NodeMemoryPressure, slices.Contains(pressure, corev1.NodeMemoryPressure), "KubeletHasInsufficientMemory", "KubeletHasSufficientMemory", "kubelet has insufficient memory available", "kubelet has sufficient memory available"),
		check(corev1.NodeDiskPressure, slices.Contains(pressure, corev1.NodeDiskPressure), "KubeletHasDiskPressure", "KubeletHasNoDiskPressure", "kubelet has disk pressure", "kubelet has no disk pressure"),
		check(corev1.NodePIDPressure, pids < 0.05, "KubeletHasInsufficientPID", "KubeletHasSufficientPID", "kubelet has insufficient PID available", "kubelet has sufficient PID available"),
		k.readyCondition(ctx),
	}
}

func (k *Kubelet) readyCondition(ctx context.Context) corev1.NodeCondition {
	c := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionFalse, Reason: "KubeletNotReady"}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	st, err := k.cri.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		c.Message = "container runtime is down: " + clean(err).Error()
		return c
	}
	can := featuresOf(st, k.machine.mapped)
	k.features.Store(&can)
	for _, r := range st.GetStatus().GetConditions() {
		if !r.Status {
			c.Message = fmt.Sprintf("container runtime network not ready: %s=false reason:%s message:%s", r.Type, r.Reason, r.Message)
			return c
		}
	}
	c.Status, c.Reason, c.Message = corev1.ConditionTrue, "KubeletReady", "kubelet is posting ready status"
	return c
}

// runLease renews the node's heartbeat.
func (k *Kubelet) runLease(ctx context.Context) error {
	var held *coordinationv1.Lease
	for {
		var err error
		held, err = k.renew(ctx, held)
		pause := leaseEvery
		if err != nil && ctx.Err() == nil {
			k.cfg.Log.Debug("cannot renew the node's lease", "error", err)
			held, pause = nil, time.Second
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func (k *Kubelet) renew(ctx context.Context, held *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	ref := kinds.Ref{Kind: kinds.Lease, Namespace: corev1.NamespaceNodeLease, Name: k.cfg.NodeName}
	now := metav1.NewMicroTime(k.cfg.Now())
	if held == nil {
		o, err := k.cfg.Client.Get(ctx, ref)
		if apierrors.IsNotFound(err) {
			return k.createLease(ctx, ref, now)
		}
		if err != nil {
			return nil, err
		}
		held = o.(*coordinationv1.Lease)
	}
	l := held.DeepCopy()
	l.OwnerReferences = leaseOwner(l.OwnerReferences, k.seenNode())
	holder, seconds := k.cfg.NodeName, int32(leaseSeconds)
	l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds, l.Spec.RenewTime = &holder, &seconds, &now
	o, err := k.cfg.Client.Update(ctx, ref, l)
	if err != nil {
		return nil, err
	}
	return o.(*coordinationv1.Lease), nil
}

func (k *Kubelet) createLease(ctx context.Context, ref kinds.Ref, now metav1.MicroTime) (*coordinationv1.Lease, error) {
	holder, seconds := k.cfg.NodeName, int32(leaseSeconds)
	l := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: ref.Namespace, Name: ref.Name, OwnerReferences: leaseOwner(nil, k.seenNode())},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &now},
	}
	o, err := k.cfg.Client.Create(ctx, kinds.Ref{Kind: ref.Kind, Namespace: ref.Namespace}, l)
	if err != nil {
		return nil, err
	}
	return o.(*coordinationv1.Lease), nil
}

// leaseOwner is the node, so that the lease goes with it; at the first start the
// lease is there before the node is known.
func leaseOwner(have []metav1.OwnerReference, n *corev1.Node) []metav1.OwnerReference {
	if n == nil || slices.ContainsFunc(have, func(r metav1.OwnerReference) bool { return r.UID == n.UID }) {
		return have
	}
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID}}
}

func portText(n int) string { return strconv.Itoa(n) }
