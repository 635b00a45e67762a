package cri

import (
	"context"
	"reflect"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Services are a runtime in this process: what it would serve at a socket.
type Services struct {
	Runtime runtimeapi.RuntimeServiceServer
	Image   runtimeapi.ImageServiceServer
}

// Direct makes a client of a runtime in this process. There is no codec between
// the two: neither side may change a request or an answer afterwards. Errors
// are what they would be over a connection.
func Direct(s Services, node string, ops *Operations) *Client {
	d := &direct{methods: map[string]bound{}, ops: ops}
	d.bind(&runtimeapi.RuntimeService_ServiceDesc, s.Runtime)
	d.bind(&runtimeapi.ImageService_ServiceDesc, s.Image)
	return &Client{Runtime: runtimeapi.NewRuntimeServiceClient(d), Image: runtimeapi.NewImageServiceClient(d), services: s, node: node}
}

// direct is a grpc.ClientConnInterface that calls the services' own functions.
type direct struct {
	methods map[string]bound // by the name that gRPC has for them
	ops     *Operations
}

type bound struct {
	server any
	handle grpc.MethodHandler
}

func (d *direct) bind(desc *grpc.ServiceDesc, server any) {
	for _, m := range desc.Methods {
		d.methods["/"+desc.ServiceName+"/"+m.MethodName] = bound{server, m.Handler}
	}
}

// Invoke implements grpc.ClientConnInterface.
func (d *direct) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	began := time.Now()
	err := d.call(ctx, method, args, reply)
	d.ops.count(method, args, time.Since(began), err)
	return err
}

func (d *direct) call(ctx context.Context, method string, args, reply any) error {
	m, ok := d.methods[method]
	if !ok {
		return status.Errorf(codes.Unimplemented, "unknown method %s", method)
	}
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	// The handler would decode a request of its own; the interceptor puts the
	// one that is there in its place.
	none := func(any) error { return nil }
	out, err := m.handle(m.server, ctx, none, func(ctx context.Context, _ any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		return next(ctx, args)
	})
	if err != nil {
		if _, ok := status.FromError(err); ok {
			return err
		}
		return status.FromContextError(err).Err() // as gRPC's servers do; Unknown for most
	}
	reflect.ValueOf(reply).Elem().Set(reflect.ValueOf(out).Elem())
	return nil
}

// NewStream implements grpc.ClientConnInterface: Events is the only stream that
// is needed, and goes its own way.
func (d *direct) NewStream(_ context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Errorf(codes.Unimplemented, "no streams in process: %s", method)
}

// Tells reports whether the runtime may say by itself what happens. One behind
// a socket is not relied on: what containerd sends can be lost with its
// connection, and a list each second is cheap for one node.
func (c *Client) Tells() bool { return c.services.Runtime != nil }

// Events calls fn with what a runtime in this process says of its containers,
// in the runtime's goroutine, until ctx ends; fn must be quick and must not
// call the runtime. The error has the code Unimplemented if it says nothing.
func (c *Client) Events(ctx context.Context, fn func(*runtimeapi.ContainerEventResponse)) error {
	if !c.Tells() {
		return status.Error(codes.Unimplemented, "no events from a runtime behind a socket")
	}
	return c.services.Runtime.GetContainerEvents(&runtimeapi.GetEventsRequest{}, &events{ctx, fn})
}

// events is the stream that the runtime sends into.
type events struct {
	ctx context.Context
	fn  func(*runtimeapi.ContainerEventResponse)
}

func (e *events) Send(ev *runtimeapi.ContainerEventResponse) error {
	if err := e.ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	e.fn(ev)
	return nil
}

func (e *events) Context() context.Context     { return e.ctx }
func (e *events) SetHeader(metadata.MD) error  { return nil }
func (e *events) SendHeader(metadata.MD) error { return nil }
func (e *events) SetTrailer(metadata.MD)       {}
func (e *events) RecvMsg(any) error {
	return status.Error(codes.Internal, "nothing is sent to the runtime")
}

func (e *events) SendMsg(m any) error {
	ev, ok := m.(*runtimeapi.ContainerEventResponse)
	if !ok {
		return status.Errorf(codes.Internal, "%T is no event", m)
	}
	return e.Send(ev)
}
