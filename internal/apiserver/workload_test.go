package apiserver_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	batchURL  = "/apis/batch/v1/namespaces/default/"
	budgetURL = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
)

func TestJobs(t *testing.T) {
	w := newWorld(t)
	body := func(name, more string) string {
		return `{"metadata": {"name": "` + name + `", "labels": {"l": "` + name + `"}}, "spec": {` + more + `"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}`
	}
	a := w.must(t, 201, "POST", batchURL+"jobs", body("a", ""))
	uid, _ := a.at("metadata.uid").(string)
	if uid == "" || !strings.Contains(a.raw, `"matchLabels":{"batch.kubernetes.io/controller-uid":"`+uid+`"}`) || a.at("spec.backoffLimit") != 6.0 ||
		a.at("metadata.generation") != 1.0 || a.header.Get("Warning") != "" {
		t.Errorf("created: %s %v", a.raw, a.header)
	}
	// A job without labels has those of its pods, in the first answer as in all others.
	made := w.must(t, 201, "POST", batchURL+"jobs", `{"metadata": {"name": "plain"}, "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}`)
	read := w.must(t, 200, "GET", batchURL+"jobs/plain", "")
	if l := fmt.Sprint(read.at("metadata.labels")); l != fmt.Sprint(made.at("metadata.labels")) || !strings.Contains(l, "job-name:plain") {
		t.Errorf("labels:\n%s\n%s", made.raw, read.raw)
	}
	a = w.must(t, 422, "POST", batchURL+"jobs", strings.Replace(body("b", ""), "Never", "Always", 1))
	if !strings.Contains(a.raw, `spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"`) {
		t.Errorf("restarts: %s", a.raw)
	}
	a = w.must(t, 422, "PATCH", batchURL+"jobs/a", `{"spec": {"completions": 3}}`, "Content-Type", mergeType)
	if !strings.Contains(a.raw, "spec.completions: Invalid value: 3: field is immutable") {
		t.Errorf("immutable: %s", a.raw)
	}
	// What upstream's conformance test "should apply changes to a job status" does.
	a = w.must(t, 200, "PATCH", batchURL+"jobs/a/status", `{"metadata": {"annotations": {"patched": "true"}}, "status": {"startTime": "2026-01-01T00:00:00Z", "ready": 0, "terminating": 0, "uncountedTerminatedPods": {}}}`, "Content-Type", mergeType)
	if a.at("metadata.annotations.patched") != "true" || a.at("status.startTime") != "2026-01-01T00:00:00Z" {
		t.Errorf("status: %s", a.raw)
	}
	w.must(t, 200, "PATCH", batchURL+"jobs/a/status", `{"status": {"succeeded": 1, "completionTime": "2026-01-01T00:01:00Z", "conditions": [{"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Complete", "status": "True"}]}}`, "Content-Type", mergeType)
	a = w.must(t, 422, "PATCH", batchURL+"jobs/a/status", `{"status": {"conditions": [{"type": "SuccessCriteriaMet", "status": "True"}]}}`, "Content-Type", mergeType)
	if !strings.Contains(a.raw, "cannot disable the terminal Complete=True condition") {
		t.Errorf("undone: %s", a.raw)
	}
	a = w.must(t, 200, "GET", batchURL+"jobs?fieldSelector=status.successful%3D1", "", "Accept", tableType)
	if !slices.Equal(a.cells(), []string{"a"}) || !strings.Contains(a.raw, `"Complete","1/1","60s"`) {
		t.Errorf("list: %s", a.raw)
	}
	// Without a word, dependents are left alone.
	if a = w.must(t, 200, "DELETE", batchURL+"jobs/a", ""); fmt.Sprint(a.at("metadata.finalizers")) != "[orphan]" {
		t.Errorf("deleted: %s", a.raw)
	}
	w.must(t, 200, "DELETE", batchURL+"jobs/plain?propagationPolicy=Background", "")
	w.must(t, 404, "GET", batchURL+"jobs/plain", "")
}

func TestCronJobs(t *testing.T) {
	w := newWorld(t)
	body := func(name, schedule, zone string) string {
		return `{"metadata": {"name": "` + name + `"}, "spec": {"schedule": "` + schedule + `", "timeZone": "` + zone + `", "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "i"}]}}}}}}`
	}
	a := w.must(t, 201, "POST", batchURL+"cronjobs", body("nightly", "0 3 * * *", "Europe/Berlin"))
	if a.at("spec.concurrencyPolicy") != "Allow" || a.at("spec.successfulJobsHistoryLimit") != 3.0 || a.at("spec.suspend") != false {
		t.Errorf("created: %s", a.raw)
	}
	a = w.must(t, 422, "POST", batchURL+"cronjobs", body("bad", "60 * * * *", "Nowhere/Land"))
	if !strings.Contains(a.raw, "spec.schedule: Invalid value") || !strings.Contains(a.raw, "unknown time zone Nowhere/Land") {
		t.Errorf("bad: %s", a.raw)
	}
	a = w.must(t, 200, "PATCH", batchURL+"cronjobs/nightly/status", `{"metadata": {"annotations": {"p": "1"}}, "spec": {"schedule": "@daily"}, "status": {"lastScheduleTime": "2026-01-01T00:00:00Z"}}`, "Content-Type", mergeType)
	if a.at("status.lastScheduleTime") != "2026-01-01T00:00:00Z" || a.at("metadata.annotations.p") != "1" || a.at("spec.schedule") != "0 3 * * *" || a.at("metadata.generation") != 1.0 {
		t.Errorf("status: %s", a.raw)
	}
	if a = w.must(t, 200, "GET", "/apis/batch/v1", ""); !strings.Contains(a.raw, `"shortNames":["cj"]`) || !strings.Contains(a.raw, `"cronjobs/status"`) {
		t.Errorf("discovery: %s", a.raw)
	}
}

func TestAutoscalers(t *testing.T) {
	w := newWorld(t)
	const v1, v2 = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers"
	a := w.must(t, 201, "POST", v1, `{"metadata": {"name": "a"}, "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "maxReplicas": 5}}`)
	if a.at("apiVersion") != "autoscaling/v1" || a.at("spec.targetCPUUtilizationPercentage") != 80.0 || a.at("spec.minReplicas") != 1.0 {
		t.Errorf("created: %s", a.raw)
	}
	a = w.must(t, 200, "PATCH", v2+"/a", `{"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}}}}`, "Content-Type", strategicType)
	if a.at("apiVersion") != "autoscaling/v2" || a.at("metadata.generation") != 2.0 || !strings.Contains(a.raw, `"scaleUp":{"stabilizationWindowSeconds":0,"selectPolicy":"Max"`) {
		t.Errorf("behaviour: %s", a.raw)
	}
	w.must(t, 200, "PATCH", v2+"/a/status", `{"status": {"currentReplicas": 2, "conditions": [{"type": "AbleToScale", "status": "True", "reason": "r"}]}}`, "Content-Type", mergeType)
	a = w.must(t, 200, "PATCH", v1+"/a", `{"spec": {"targetCPUUtilizationPercentage": 50}}`, "Content-Type", mergeType)
	notes, _ := a.at("metadata.annotations").(map[string]any)
	if !strings.Contains(fmt.Sprint(notes["autoscaling.alpha.kubernetes.io/conditions"]), "AbleToScale") || !strings.Contains(fmt.Sprint(notes["autoscaling.alpha.kubernetes.io/behavior"]), `"StabilizationWindowSeconds":60`) {
		t.Errorf("version 1: %s", a.raw)
	}
	a = w.must(t, 200, "GET", v2+"/a", "")
	if a.at("metadata.annotations") != nil || a.at("status.currentReplicas") != 2.0 || !strings.Contains(a.raw, `"averageUtilization":50`) || !strings.Contains(a.raw, `"stabilizationWindowSeconds":60`) || !strings.Contains(a.raw, "AbleToScale") {
		t.Errorf("there and back: %s", a.raw)
	}
	a = w.must(t, 422, "PATCH", v1+"/a", `{"spec": {"maxReplicas": 0}}`, "Content-Type", mergeType)
	if !strings.Contains(a.raw, "spec.maxReplicas: Required value: must be set and greater than 0") {
		t.Errorf("judged: %s", a.raw)
	}
	a = w.must(t, 200, "GET", v1, "", "Accept", tableType)
	if !strings.Contains(a.raw, `"a","Deployment/web","cpu: \u003cunknown\u003e/50%","1",5,2`) && !strings.Contains(a.raw, `"a","Deployment/web","cpu: <unknown>/50%","1",5,2`) {
		t.Errorf("table: %s", a.raw)
	}
	// Two versions of one object have one owner of each field.
	apply := func(url, manager, version, spec string) answer {
		return w.do(t, "PATCH", url+"/b?fieldManager="+manager, `{"apiVersion": "`+version+`", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "b"}, "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, `+spec+`}}`, "Content-Type", "application/apply-patch+yaml")
	}
	if a = apply(v1, "one", "autoscaling/v1", `"maxReplicas": 5`); a.code != 201 {
		t.Fatalf("applied: %s", a.raw)
	}
	if a = apply(v2, "two", "autoscaling/v2", `"maxReplicas": 7`); a.code != 409 || !strings.Contains(a.raw, `conflict with \"one\": .spec.maxReplicas`) {
		t.Errorf("applied by another: %d %s", a.code, a.raw)
	}
	if a = w.must(t, 200, "GET", "/apis/autoscaling", ""); a.at("preferredVersion.version") != "v2" {
		t.Errorf("group: %s", a.raw)
	}
	w.must(t, 200, "DELETE", v1+"/a", "")
	w.must(t, 404, "GET", v2+"/a", "")
}

// guarded makes a running pod, ready or not, that a budget selects.
func (w *world) guarded(t *testing.T, name, ready string) {
	t.Helper()
	w.must(t, 201, "POST", podURL, `{"metadata": {"name": "`+name+`", "labels": {"app": "web"}}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}}`)
	w.must(t, 200, "PATCH", podURL+"/"+name+"/status", `{"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "`+ready+`"}]}}`, "Content-Type", strategicType)
}

func (w *world) evict(t *testing.T, code int, pod, more string) answer {
	t.Helper()
	return w.must(t, code, "POST", podURL+"/"+pod+"/eviction", `{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "`+pod+`"}`+more+`}`)
}

// TestEviction: a budget is asked, and only for pods that it counts.
func TestEviction(t *testing.T) {
	w := newWorld(t)
	status := func(s string) {
		t.Helper()
		w.must(t, 200, "PATCH", budgetURL+"/b/status", `{"status": `+s+`}`, "Content-Type", mergeType)
	}
	for _, p := range []string{"a", "b", "c"} {
		w.guarded(t, p, "True")
	}
	w.must(t, 201, "POST", budgetURL, `{"metadata": {"name": "b"}, "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}}`)
	// Nobody has counted yet.
	a := w.evict(t, 429, "a", "")
	if a.header.Get("Retry-After") != "10" || a.at("reason") != "TooManyRequests" || a.at("message") != "Cannot evict pod as it would violate the pod's disruption budget." ||
		!strings.Contains(a.raw, `{"reason":"DisruptionBudget","message":"The disruption budget b is still being processed by the server."}`) {
		t.Errorf("uncounted: %s %v", a.raw, a.header)
	}
	status(`{"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 2, "desiredHealthy": 2}`)
	a = w.evict(t, 429, "a", "")
	if a.header.Get("Retry-After") != "" || !strings.Contains(a.raw, "The disruption budget b needs 2 healthy pods and has 2 currently") {
		t.Errorf("too few: %s %v", a.raw, a.header)
	}
	status(`{"conditions": [{"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "found no controllers", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}`)
	if a = w.evict(t, 429, "a", ""); !strings.Contains(a.raw, "The disruption budget b does not allow evicting pods currently because it failed sync: found no controllers") {
		t.Errorf("not counted: %s", a.raw)
	}
	status(`{"disruptionsAllowed": 1, "currentHealthy": 3, "conditions": null}`)
	w.must(t, 201, "POST", podURL+"/a/eviction?dryRun=All", `{"metadata": {"name": "a"}}`)
	if a = w.must(t, 200, "GET", budgetURL+"/b", ""); a.at("status.disruptionsAllowed") != 1.0 || a.at("status.disruptedPods") != nil {
		t.Errorf("after a dry run: %s", a.raw)
	}
	w.evict(t, 422, "a", `, "deleteOptions": {"dryRun": ["Some"]}`)
	w.evict(t, 201, "a", "")
	a = w.must(t, 200, "GET", budgetURL+"/b", "")
	if a.at("status.disruptionsAllowed") != 0.0 || a.at("status.disruptedPods.a") == nil || !strings.Contains(a.raw, `"reason":"InsufficientPods"`) {
		t.Errorf("taken: %s", a.raw)
	}
	a = w.must(t, 200, "GET", podURL+"/a", "")
	if a.at("metadata.deletionTimestamp") == nil || !strings.Contains(a.raw, `"reason":"EvictionByEvictionAPI","message":"Eviction API: evicting"`) {
		t.Errorf("evicted: %s", a.raw)
	}
	w.evict(t, 429, "b", "")
	w.evict(t, 201, "a", "") // it is going anyway
	w.must(t, 200, "PATCH", podURL+"/b/status", `{"status": {"phase": "Failed"}}`, "Content-Type", strategicType)
	w.evict(t, 201, "b", "") // so is one that has ended
	status(`{"disruptionsAllowed": 0, "disruptedPods": null}`)
	w.must(t, 201, "POST", budgetURL, `{"metadata": {"name": "two"}, "spec": {"selector": {}}}`)
	const twice = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
	if a = w.evict(t, 500, "c", ""); a.at("message") != twice || a.at("status") != "Failure" || a.at("code") != 500.0 || a.at("reason") != nil {
		t.Errorf("two budgets: %s", a.raw)
	}
	var failed apierrors.APIStatus
	if err := w.client.CoreV1().Pods("default").EvictV1(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "c"}}); !errors.As(err, &failed) || failed.Status().Code != 500 || err.Error() != twice {
		t.Errorf("two budgets, as client-go tells it: %v", err)
	}
	_, err := w.server.Client(admin).Create(t.Context(), refOf("pods", "c").WithSub("eviction"), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "c"}})
	if !errors.As(err, &failed) || failed.Status().Code != 500 || err.Error() != twice {
		t.Errorf("two budgets, in process: %v", err)
	}
	w.must(t, 200, "DELETE", budgetURL+"/two", "")
	w.must(t, 200, "DELETE", budgetURL+"/b", "")
	w.evict(t, 409, "c", `, "deleteOptions": {"preconditions": {"uid": "other"}}`)
	if a = w.must(t, 200, "GET", podURL+"/c", ""); strings.Contains(a.raw, "DisruptionTarget") {
		t.Errorf("marked, but another one was meant: %s", a.raw)
	}
	w.evict(t, 201, "c", fmt.Sprintf(`, "deleteOptions": {"gracePeriodSeconds": 0, "preconditions": {"resourceVersion": "%v"}}`, a.at("metadata.resourceVersion")))
	w.must(t, 404, "GET", podURL+"/c", "")
	if a = w.must(t, 400, "POST", podURL+"/c/eviction", `{"metadata": {"name": "d"}}`); !strings.Contains(a.raw, "name in URL does not match name in Eviction object") {
		t.Errorf("names: %s", a.raw)
	}
	w.evict(t, 404, "c", "")
}

func TestEvictionOfUnhealthyPods(t *testing.T) {
	w := newWorld(t)
	budget := func(policy, status string) {
		t.Helper()
		w.do(t, "DELETE", budgetURL+"/b", "")
		w.must(t, 201, "POST", budgetURL, `{"metadata": {"name": "b"}, "spec": {`+policy+`"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}}`)
		w.must(t, 200, "PATCH", budgetURL+"/b/status", `{"status": {"observedGeneration": 1, `+status+`}}`, "Content-Type", mergeType)
	}
	w.guarded(t, "a", "False")
	w.guarded(t, "b", "False")
	budget("", `"currentHealthy": 0, "desiredHealthy": 1`)
	if a := w.evict(t, 429, "a", ""); !strings.Contains(a.raw, "needs 1 healthy pods and has 0 currently") {
		t.Errorf("%s", a.raw)
	}
	budget("", `"currentHealthy": 1, "desiredHealthy": 1`)
	w.evict(t, 201, "a", "") // enough others are healthy
	budget(`"unhealthyPodEvictionPolicy": "AlwaysAllow", `, `"currentHealthy": 0, "desiredHealthy": 1`)
	w.evict(t, 201, "b", "")
	if a := w.must(t, 200, "GET", budgetURL+"/b", ""); a.at("status.disruptedPods") != nil {
		t.Errorf("counted: %s", a.raw)
	}
	// Budgets are written at a version, as upstream's.
	a := w.must(t, 200, "GET", budgetURL+"/b", "")
	if a = w.must(t, 422, "PUT", budgetURL+"/b", `{"metadata": {"name": "b"}, "spec": {}}`); !strings.Contains(a.raw, "must be specified for an update") {
		t.Errorf("without a version: %s", a.raw)
	}
}

func TestRuntimeClasses(t *testing.T) {
	w := newWorld(t)
	const classes = "/apis/node.k8s.io/v1/runtimeclasses"
	w.must(t, 201, "POST", classes, `{"metadata": {"name": "sandboxed"}, "handler": "runsc", "overhead": {"podFixed": {"cpu": "250m"}}}`)
	a := w.must(t, 422, "PATCH", classes+"/sandboxed", `{"handler": "kata"}`, "Content-Type", mergeType)
	if !strings.Contains(a.raw, "handler: Invalid value: \\\"kata\\\": field is immutable") {
		t.Errorf("%s", a.raw)
	}
	if a = w.must(t, 422, "POST", classes, `{"metadata": {"name": "x"}, "handler": "A.b"}`); !strings.Contains(a.raw, "handler: Invalid value") {
		t.Errorf("%s", a.raw)
	}
	if a = w.must(t, 200, "GET", classes, "", "Accept", tableType); !slices.Equal(a.cells(), []string{"sandboxed"}) {
		t.Errorf("%s", a.raw)
	}
}
