package apiserver

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion/queryparams"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/kinds"
)

// admitCreated completes a new object, before it has a UID and, if that is to
// be generated, a name. What webhooks and policies changed is treated like what
// clients send: the server's fields stay the server's.
func (s *Server) admitCreated(c *call, k *kinds.Kind, obj kinds.Object, req *admission.Request) error {
	if err := s.mutate(c.ctx, req); err != nil {
		return err
	}
	c.singleOwners(obj, true)
	if req.Patched {
		if err := checkScope(c.ref, obj); err != nil {
			return err
		}
		unborn(obj)
	}
	if k.Default != nil {
		k.Default(obj)
	}
	return nil
}

// request is what admission is asked.
func (c *call) request(op admission.Operation, obj, old runtime.Object) *admission.Request {
	return &admission.Request{User: c.user, Operation: op, Ref: c.ref, Object: obj, Old: old, DryRun: c.dryRun, FieldManager: c.said, Warn: c.warn,
		Annotate: c.in.audit.Annotator(), AnnotateContent: c.in.audit.ContentAnnotator(), Waited: c.in.wait}
}

// updateRequest is what admission is asked about an update.
func (c *call) updateRequest(obj, old kinds.Object) *admission.Request {
	req := c.request(admission.Update, obj, old)
	req.Verb = c.verb
	if c.scale != nil {
		req.Ref.Sub, req.Object, req.Old = "scale", scaleOf(c.scale, obj), scaleOf(c.scale, old)
	}
	return req
}

// admitUpdated completes a changed object, as admitCreated does a new one.
func (s *Server) admitUpdated(c *call, k *kinds.Kind, obj, old kinds.Object, req *admission.Request, prepare func(obj, old kinds.Object)) error {
	if err := s.mutate(c.ctx, req); err != nil {
		return err
	}
	c.singleOwners(obj, true)
	if req.Patched {
		if scale, ok := req.Object.(*autoscalingv1.Scale); ok && c.scale != nil {
			c.scale.Set(obj, scale.Spec.Replicas)
		}
		if err := s.fitsOld(c, obj, old); err != nil {
			return err
		}
		if prepare != nil {
			prepare(obj, old)
		}
		if k.Stamp != nil {
			k.Stamp(obj, old, metav1.NewTime(s.now().Truncate(time.Second)))
		}
	}
	if k.Default != nil {
		k.Default(obj)
	}
	return nil
}

// admit asks about a connection. Its options are the object, and what changes
// them changes the query that is passed on. Logs are only read.
func (p *kubeletProxy) admit(w *recorder, r *http.Request, in *info, ref kinds.Ref, u user.Info) error {
	if in.sub == "log" {
		return nil
	}
	options, err := connectOptions(ref, in.rest, r.URL.Query())
	if err != nil {
		return err
	}
	req := &admission.Request{User: u, Operation: admission.Connect, Ref: ref, Object: options, Warn: warner(w), Annotate: in.audit.Annotator(), AnnotateContent: in.audit.ContentAnnotator()}
	if err := p.s.mutate(r.Context(), req); err != nil {
		return err
	}
	if err := p.s.validate(r.Context(), req); err != nil || !req.Patched {
		return err
	}
	if in.sub == "proxy" {
		return apierrors.NewInternalError(fmt.Errorf("admission has changed the path of a proxied request, which is not supported"))
	}
	q, err := queryparams.Convert(options)
	if err == nil {
		r.URL.RawQuery = q.Encode()
	}
	return err
}

// connectOptions reads the query of a connection.
func connectOptions(ref kinds.Ref, path string, q url.Values) (runtime.Object, error) {
	switch ref.Sub {
	case "exec":
		return &corev1.PodExecOptions{Stdin: truth(q, "stdin"), Stdout: truth(q, "stdout"), Stderr: truth(q, "stderr"), TTY: truth(q, "tty"),
			Container: q.Get("container"), Command: q["command"]}, nil
	case "attach":
		return &corev1.PodAttachOptions{Stdin: truth(q, "stdin"), Stdout: truth(q, "stdout"), Stderr: truth(q, "stderr"), TTY: truth(q, "tty"),
			Container: q.Get("container")}, nil
	case "portforward":
		o := &corev1.PodPortForwardOptions{}
		for _, text := range q["ports"] {
			n, err := strconv.ParseInt(text, 10, 32)
			if err != nil {
				return nil, badRequest("ports: Invalid value: %q: %v", text, err)
			}
			o.Ports = append(o.Ports, int32(n))
		}
		return o, nil
	}
	switch ref.Kind {
	case kinds.Pod:
		return &corev1.PodProxyOptions{Path: path}, nil
	case kinds.Service:
		return &corev1.ServiceProxyOptions{Path: path}, nil
	}
	return &corev1.NodeProxyOptions{Path: path}, nil
}
