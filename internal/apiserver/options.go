package apiserver

import (
	"net/http"
	"strings"
	"unicode"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
)

// writeOptions reads the parameters of a create, an update or a patch, which
// are those of CreateOptions, UpdateOptions and PatchOptions.
func (c *call) writeOptions(r *http.Request) error {
	q := r.URL.Query()
	var o metav1.PatchOptions
	if err := metav1.Convert_url_Values_To_v1_PatchOptions(&q, &o, nil); err != nil {
		return badRequest("%v", err)
	}
	var errs field.ErrorList
	var kind string
	switch c.verb {
	case "create":
		kind, errs = "CreateOptions", metavalidation.ValidateCreateOptions(&metav1.CreateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation})
	case "update":
		kind, errs = "UpdateOptions", metavalidation.ValidateUpdateOptions(&metav1.UpdateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation})
	default:
		kind, errs = "PatchOptions", metavalidation.ValidatePatchOptions(&o, patchType(r))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
	}
	c.dryRun = len(o.DryRun) > 0
	c.force = o.Force != nil && *o.Force
	c.said = o.FieldManager
	if c.manager = o.FieldManager; c.manager == "" {
		c.manager = managerOf(r.UserAgent())
	}
	return nil
}

// patchType is what the body of a PATCH says it is.
func patchType(r *http.Request) types.PatchType {
	t, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return types.PatchType(strings.TrimSpace(t))
}

// managerOf a client that does not name one is the program by its user agent.
func managerOf(agent string) string {
	agent, _, _ = strings.Cut(agent, "/")
	var b strings.Builder
	for _, r := range agent {
		if !unicode.IsPrint(r) {
			continue
		}
		if b.Len()+len(string(r)) > metavalidation.FieldManagerMaxLength {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}

// managerName of a component in this process: the program that upstream has
// for it.
func managerName(u user.Info) string {
	switch name := u.GetName(); {
	case name == "system:kube-scheduler":
		return "kube-scheduler"
	case name == "system:apiserver", name == "system:kube-aggregator":
		return "kube-apiserver"
	case name == "system:kube-controller-manager", strings.HasPrefix(name, "system:serviceaccount:kube-system:"):
		return "kube-controller-manager"
	case strings.HasPrefix(name, "system:node:"):
		return "kubelet"
	}
	return "knarr"
}
