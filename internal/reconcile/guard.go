package reconcile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/client"
	"knarr.dev/knarr/internal/plan"
)

// live asks the server for the action's preconditions on other objects.
func (e *executor) live(ctx context.Context, ctl *controller, conditions []plan.Live) error {
	for _, l := range conditions {
		ok, err := holds(ctx, ctl.client, l)
		if err != nil {
			return fmt.Errorf("cannot check %s: %w", l.Ref, err)
		}
		if !ok {
			return errStale
		}
	}
	return nil
}

func holds(ctx context.Context, c client.Client, l plan.Live) (bool, error) {
	if l.Want == plan.Empty {
		list, err := c.List(ctx, l.Ref.Kind, l.Ref.Namespace, metav1.ListOptions{Limit: 1})
		if err != nil {
			return false, err
		}
		return meta.LenList(list) == 0, nil
	}
	o, err := c.Get(ctx, l.Ref)
	if apierrors.IsNotFound(err) {
		return l.Want != plan.Alive, nil
	}
	if err != nil {
		return false, err
	}
	m, err := meta.Accessor(o)
	if err != nil {
		return false, err
	}
	same := m.GetUID() == l.UID
	switch l.Want {
	case plan.Absent:
		return l.UID != "" && !same, nil
	case plan.Waiting:
		return !same || m.GetDeletionTimestamp() != nil && slices.Contains(m.GetFinalizers(), metav1.FinalizerDeleteDependents), nil
	}
	return same && m.GetDeletionTimestamp() == nil, nil
}

func deleteOptions(a *plan.Action) metav1.DeleteOptions {
	o := metav1.DeleteOptions{GracePeriodSeconds: a.GraceSeconds}
	if a.Propagation != "" {
		o.PropagationPolicy = &a.Propagation
	}
	if a.UID != "" || a.ResourceVersion != "" {
		o.Preconditions = &metav1.Preconditions{}
		if a.UID != "" {
			o.Preconditions.UID = &a.UID
		}
		if a.ResourceVersion != "" {
			o.Preconditions.ResourceVersion = &a.ResourceVersion
		}
	}
	return o
}

// guard writes the action's preconditions into its patch, where the server
// finds them: a patch that names another UID or an older resourceVersion is a
// conflict.
func guard(a *plan.Action) ([]byte, error) {
	if a.UID == "" && a.ResourceVersion == "" {
		return a.Data, nil
	}
	if a.PatchType == types.JSONPatchType {
		return guardJSONPatch(a)
	}
	var body map[string]json.RawMessage
	if err := json.Unmarshal(a.Data, &body); err != nil {
		return nil, fmt.Errorf("cannot read patch: %w", err)
	}
	md := map[string]json.RawMessage{}
	if raw, ok := body["metadata"]; ok {
		if err := json.Unmarshal(raw, &md); err != nil {
			return nil, fmt.Errorf("cannot read patch: %w", err)
		}
	}
	if a.UID != "" {
		md["uid"] = quote(string(a.UID))
	}
	if a.ResourceVersion != "" {
		md["resourceVersion"] = quote(a.ResourceVersion)
	}
	raw, err := json.Marshal(md)
	if err != nil {
		return nil, err
	}
	if body == nil {
		body = map[string]json.RawMessage{}
	}
	body["metadata"] = raw
	return json.Marshal(body)
}

func guardJSONPatch(a *plan.Action) ([]byte, error) {
	var ops []json.RawMessage
	if err := json.Unmarshal(a.Data, &ops); err != nil {
		return nil, fmt.Errorf("cannot read patch: %w", err)
	}
	var tests []json.RawMessage
	add := func(path, value string) {
		var b bytes.Buffer
		fmt.Fprintf(&b, `{"op":"test","path":%s,"value":%s}`, quote(path), quote(value))
		tests = append(tests, b.Bytes())
	}
	if a.UID != "" {
		add("/metadata/uid", string(a.UID))
	}
	if a.ResourceVersion != "" {
		add("/metadata/resourceVersion", a.ResourceVersion)
	}
	return json.Marshal(append(tests, ops...))
}

func quote(s string) json.RawMessage {
	b, _ := json.Marshal(s) // a string always marshals
	return b
}
