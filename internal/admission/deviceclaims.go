package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"

	"knarr.dev/knarr/internal/kinds"
)

// deviceClaims: devices that others use too are for namespaces that an
// administrator has labelled; who binds a claim needs a permission of its own,
// and so does who writes what a driver says. Upstream does this in the storage
// of the kinds; it is no plugin of theirs.
type deviceClaims struct{ c *Config }

func (deviceClaims) Name() string { return "ResourceClaimAuthorization" }

func (deviceClaims) Mutate(context.Context, *Request) error { return nil }

func (p deviceClaims) Validate(ctx context.Context, r *Request) error {
	if r.Operation != Create && r.Operation != Update {
		return nil
	}
	var errs field.ErrorList
	switch o := r.Object.(type) {
	case *resourcev1.ResourceClaim:
		if old, ok := r.Old.(*resourcev1.ResourceClaim); ok && r.Ref.Sub == "status" {
			granted, err := p.admin(ctx, r, grantsAdmin(&o.Status), grantsAdmin(&old.Status) != nil)
			if err != nil {
				return err
			}
			errs = append(granted, p.status(ctx, r, &o.Status, &old.Status)...)
			break
		}
		wanted, err := p.admin(ctx, r, wantsAdmin(&o.Spec), r.Operation == Update)
		if err != nil {
			return err
		}
		errs = wanted
	case *resourcev1.ResourceClaimTemplate:
		wanted, err := p.admin(ctx, r, wantsAdmin(&o.Spec.Spec), r.Operation == Update)
		if err != nil {
			return err
		}
		errs = wanted
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(r.Ref.Kind.GVK.GroupKind(), r.Ref.Name, errs)
}

// wantsAdmin is the first request for a device that others use, or nil.
func wantsAdmin(spec *resourcev1.ResourceClaimSpec) *field.Path {
	for i, r := range spec.Devices.Requests {
		if r.Exactly != nil && r.Exactly.AdminAccess != nil && *r.Exactly.AdminAccess {
			return field.NewPath("spec", "devices", "requests").Index(i).Child("adminAccess")
		}
	}
	return nil
}

func grantsAdmin(s *resourcev1.ResourceClaimStatus) *field.Path {
	if s.Allocation == nil {
		return nil
	}
	for i, r := range s.Allocation.Devices.Results {
		if r.AdminAccess != nil && *r.AdminAccess {
			return field.NewPath("status", "allocation", "devices", "results").Index(i).Child("adminAccess")
		}
	}
	return nil
}

// admin checks the namespace if there is a request at and none that had been
// let through before.
func (p deviceClaims) admin(ctx context.Context, r *Request, at *field.Path, before bool) (field.ErrorList, error) {
	if at == nil || before {
		return nil, nil
	}
	ns, err := find[*corev1.Namespace](ctx, p.c, kinds.Namespace, "", r.Ref.Namespace)
	if err != nil {
		return nil, err
	}
	if ns == nil || ns.Labels[resourcev1.DRAAdminNamespaceLabelKey] != "true" {
		return field.ErrorList{field.Forbidden(at, fmt.Sprintf("admin access to devices requires the `%s: true` label on the containing namespace", resourcev1.DRAAdminNamespaceLabelKey))}, nil
	}
	return nil, nil
}

func (p deviceClaims) status(ctx context.Context, r *Request, s, old *resourcev1.ResourceClaimStatus) field.ErrorList {
	var errs field.ErrorList
	ask := request{verb: r.Verb, group: resourcev1.GroupName, resource: r.Ref.Kind.Resource, sub: resourcev1.SubresourceBinding}
	if (!equality.Semantic.DeepEqual(s.Allocation, old.Allocation) || !equality.Semantic.DeepEqual(s.ReservedFor, old.ReservedFor)) && !may(ctx, p.c.Authz, r.User, ask) {
		errs = append(errs, field.Forbidden(field.NewPath("status", "allocation"),
			fmt.Sprintf("changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=%q permission", r.Verb)))
	}
	if s.Allocation == nil {
		return errs // what was said of its devices goes with them
	}
	verbs := []string{resourcev1.VerbPrefixArbitraryNode + r.Verb}
	if node := onlyNode(s.Allocation); node != "" && p.runsOn(r, node) {
		verbs = append([]string{resourcev1.VerbPrefixAssociatedNode + r.Verb}, verbs...)
	}
	for _, driver := range changedDrivers(s.Devices, old.Devices) {
		if !slices.ContainsFunc(verbs, func(verb string) bool {
			return may(ctx, p.c.Authz, r.User, request{verb: verb, group: ask.group, resource: ask.resource, sub: resourcev1.SubresourceDriver, namespace: r.Ref.Namespace, name: driver})
		}) {
			errs = append(errs, field.Forbidden(field.NewPath("status", "devices"),
				fmt.Sprintf("changing status.devices requires resource=\"resourceclaims/driver\", verb=%q permission for driver %q", verbs, driver)))
		}
	}
	return errs
}

// runsOn: the user is a service account whose token is bound to the node.
func (p deviceClaims) runsOn(r *Request, node string) bool {
	names := r.User.GetExtra()[serviceaccount.NodeNameKey]
	return strings.HasPrefix(r.User.GetName(), serviceaccount.ServiceAccountUsernamePrefix) && len(names) == 1 && names[0] == node
}

// onlyNode is the one node that an allocation is for, if it names one.
func onlyNode(a *resourcev1.AllocationResult) string {
	if a.NodeSelector == nil || len(a.NodeSelector.NodeSelectorTerms) != 1 {
		return ""
	}
	t := a.NodeSelector.NodeSelectorTerms[0]
	if len(t.MatchExpressions) != 0 || len(t.MatchFields) != 1 {
		return ""
	}
	f := t.MatchFields[0]
	if f.Key != "metadata.name" || f.Operator != corev1.NodeSelectorOpIn || len(f.Values) != 1 {
		return ""
	}
	return f.Values[0]
}

// changedDrivers are those of which more, less or something else is said.
func changedDrivers(list, old []resourcev1.AllocatedDeviceStatus) []string {
	type key struct{ driver, pool, device, share string }
	keyOf := func(d *resourcev1.AllocatedDeviceStatus) key {
		k := key{driver: d.Driver, pool: d.Pool, device: d.Device}
		if d.ShareID != nil {
			k.share = *d.ShareID
		}
		return k
	}
	before := make(map[key]*resourcev1.AllocatedDeviceStatus, len(old))
	for i := range old {
		before[keyOf(&old[i])] = &old[i]
	}
	drivers := sets.New[string]()
	for i := range list {
		k := keyOf(&list[i])
		if was := before[k]; was == nil || !equality.Semantic.DeepEqual(was, &list[i]) {
			drivers.Insert(list[i].Driver)
		}
		delete(before, k)
	}
	for k := range before {
		drivers.Insert(k.driver)
	}
	return sets.List(drivers)
}
