package kinds

import (
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/internal/kinds/prepare"
	"knarr.dev/knarr/internal/kinds/validate"
	"knarr.dev/knarr/internal/kinds/warnings"
)

// RuntimeClass names a way of running pods, and what it costs.
var RuntimeClass = &Kind{
	GVK: nodev1.SchemeGroupVersion.WithKind("RuntimeClass"), Resource: "runtimeclasses", Singular: "runtimeclass",
	Prefix: "runtimeclasses",
	New:    func() Object { return &nodev1.RuntimeClass{} }, NewList: func() runtime.Object { return &nodev1.RuntimeClassList{} },
	PrepareCreate: do(prepare.Create[*nodev1.RuntimeClass]), PrepareUpdate: doBoth(prepare.Keep[*nodev1.RuntimeClass]),
	Validate: check(validate.RuntimeClass), ValidateUpdate: checkBoth(validate.RuntimeClassUpdate),
	Warnings: warn(warnings.RuntimeClass),
	Columns: []Column{
		nameColumn,
		cell("Handler", "string", "What the container runtime calls it.", func(rc *nodev1.RuntimeClass) any { return rc.Handler }),
		ageColumn,
	},
	AllowCreateOnUpdate: true,
	RequireVersion:      true,
}

var nodeKinds = []*Kind{RuntimeClass}
