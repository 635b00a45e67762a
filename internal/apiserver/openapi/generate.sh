#!/bin/sh
# Makes internal/apiserver/openapi/docs anew from k8s.io/api and the table of
# kinds, and what field ownership must know of lists and maps. Run it after a change of either; the documents are committed.
set -eu
cd "$(dirname "$0")/../../.."
defs=internal/apiserver/openapi/gen/defs
api=k8s.io/api
machinery=k8s.io/apimachinery/pkg
mkdir -p $defs internal/apiserver/openapi/docs internal/apiserver/ownership
trap 'rm -f "$defs/zz_generated.openapi.go"' EXIT
go tool openapi-gen --output-dir $defs --output-pkg knarr.dev/knarr/$defs \
	--output-file zz_generated.openapi.go --report-filename /dev/null --go-header-file /dev/null \
	$api/core/v1 $api/apps/v1 $api/rbac/v1 $api/discovery/v1 $api/events/v1 $api/coordination/v1 \
	$api/certificates/v1 $api/networking/v1 $api/scheduling/v1 $api/authentication/v1 \
	$api/authorization/v1 $api/autoscaling/v1 $api/autoscaling/v2 $api/policy/v1 $api/batch/v1 \
	$api/admissionregistration/v1 $api/flowcontrol/v1 $api/node/v1 $api/resource/v1 $api/storage/v1 \
	$api/storagemigration/v1 $api/scheduling/v1alpha3 \
	k8s.io/kube-aggregator/pkg/apis/apiregistration/v1 k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1 \
	k8s.io/metrics/pkg/apis/metrics/v1beta1 \
	$machinery/apis/meta/v1 $machinery/runtime $machinery/api/resource $machinery/util/intstr $machinery/version
CGO_ENABLED=0 go run -tags openapigen ./internal/apiserver/openapi/gen -out internal/apiserver/openapi/docs \
	-relations internal/apiserver/ownership/relations.txt
