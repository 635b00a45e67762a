package main

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/kinds"
)

// Who elects and writes events, as on a server.
const manager = "system:kube-controller-manager"

// teller is who writes the process's events: those of controllers the controller
// manager, as a server has it.
func (p *process) teller() string {
	if strings.HasPrefix(p.user, "system:serviceaccount:"+metav1.NamespaceSystem+":") {
		return manager
	}
	return p.user
}

// telling is the client for events. None may be refused, unless what it is about
// goes away.
type telling struct {
	client.Client
	process *process
}

func (t telling) Create(ctx context.Context, ref kinds.Ref, obj runtime.Object) (runtime.Object, error) {
	o, err := t.Client.Create(ctx, ref, obj)
	return o, t.heard(err)
}

func (t telling) Patch(ctx context.Context, ref kinds.Ref, pt types.PatchType, data []byte) (runtime.Object, error) {
	o, err := t.Client.Patch(ctx, ref, pt, data)
	return o, t.heard(err)
}

func (t telling) heard(err error) error {
	refused := apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)
	if refused && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.process.world.audit.fail("an event of %s is refused: %w", t.process, err)
	}
	return err
}
