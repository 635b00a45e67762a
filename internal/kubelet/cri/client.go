// Package cri speaks the container runtime interface and translates what it
// shows into the terms of the kubelet's plan.
package cri

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/internal/kubelet/plan"
)

// Labels and annotations by which everything is found again. The names are
// those that crictl and other tools of the field read.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"

	AnnotationHash         = "io.kubernetes.container.hash"
	AnnotationRestartCount = "io.kubernetes.container.restartCount"
	AnnotationTermination  = "io.kubernetes.container.terminationMessagePath"
	AnnotationPolicy       = "io.kubernetes.container.terminationMessagePolicy"
	AnnotationBackoff      = "knarr.dev/restart-backoff-seconds"
	AnnotationAmounts      = "knarr.dev/resources"
	AnnotationGrace        = "io.kubernetes.pod.terminationGracePeriod"
	// LabelNode tells several nodes on one runtime apart.
	LabelNode = "knarr.dev/node"
)

// maxMessage bounds answers: a list of a thousand containers with labels.
const maxMessage = 16 << 20

// Client of one runtime.
type Client struct {
	Runtime runtimeapi.RuntimeServiceClient
	Image   runtimeapi.ImageServiceClient
	conn    *grpc.ClientConn // nil: in this process
	node    string

	services Services // those in this process
}

// New makes a client that connects when it is used. Its calls are counted in
// ops.
func New(endpoint, node string, ops *Operations) (*Client, error) {
	conn, err := grpc.NewClient(endpoint,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(ops.intercept),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		// The runtime restarts in a moment: the default pause of up to two
		// minutes between attempts would be felt.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: quick(), MinConnectTimeout: 5 * time.Second}))
	if err != nil {
		return nil, fmt.Errorf("cannot use the runtime at %s: %w", endpoint, err)
	}
	return &Client{Runtime: runtimeapi.NewRuntimeServiceClient(conn), Image: runtimeapi.NewImageServiceClient(conn), conn: conn, node: node}, nil
}

// Close the connection.
func (c *Client) Close() error {
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// Pod is what the runtime has of one pod.
type Pod struct {
	UID, Namespace, Name string
	Sandboxes            []*runtimeapi.PodSandbox
	Containers           []*runtimeapi.Container
	// Print changes whenever a sandbox or container appears, goes or changes
	// its state.
	Print string
}

// Pods lists everything that this node's kubelet made, by pod UID.
func (c *Client) Pods(ctx context.Context) (map[string]*Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	boxes, err := c.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{
		Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{LabelNode: c.node}}})
	if err != nil {
		return nil, fmt.Errorf("cannot list sandboxes: %w", err)
	}
	list, err := c.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{
		Filter: &runtimeapi.ContainerFilter{LabelSelector: map[string]string{LabelNode: c.node}}})
	if err != nil {
		return nil, fmt.Errorf("cannot list containers: %w", err)
	}
	return group(boxes.Items, list.Containers), nil
}

// Pod lists what the runtime has of one pod.
func (c *Client) Pod(ctx context.Context, uid string) (*Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	labels := map[string]string{LabelNode: c.node, LabelPodUID: uid}
	boxes, err := c.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: labels}})
	if err != nil {
		return nil, fmt.Errorf("cannot list sandboxes: %w", err)
	}
	list, err := c.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{LabelSelector: labels}})
	if err != nil {
		return nil, fmt.Errorf("cannot list containers: %w", err)
	}
	if p := group(boxes.Items, list.Containers)[uid]; p != nil {
		return p, nil
	}
	return &Pod{UID: uid}, nil
}

func group(boxes []*runtimeapi.PodSandbox, containers []*runtimeapi.Container) map[string]*Pod {
	pods := map[string]*Pod{}
	of := func(labels map[string]string) *Pod {
		uid := labels[LabelPodUID]
		p := pods[uid]
		if p == nil {
			p = &Pod{UID: uid, Namespace: labels[LabelPodNamespace], Name: labels[LabelPodName]}
			pods[uid] = p
		}
		return p
	}
	for _, b := range boxes {
		p := of(b.Labels)
		p.Sandboxes = append(p.Sandboxes, b)
	}
	for _, c := range containers {
		p := of(c.Labels)
		p.Containers = append(p.Containers, c)
	}
	for _, p := range pods {
		p.sort()
	}
	return pods
}

// sandboxState and containerState are the runtime's words in the plan's.
func containerState(s runtimeapi.ContainerState) plan.State {
	switch s {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return plan.Created
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return plan.Running
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return plan.Exited
	}
	return plan.Unknown
}

func number(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0
	}
	return uint32(n)
}

func at(nanos int64) time.Time {
	if nanos == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos).UTC()
}
