package apiserver_test

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"

	reviewv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/apiserver"
)

// refuser refuses what is called so.
type refuser struct{}

func (refuser) Name() string                                     { return "Refuser" }
func (refuser) Mutate(context.Context, *admission.Request) error { return nil }
func (refuser) Validate(_ context.Context, r *admission.Request) error {
	if r.Ref.Name == "refused" {
		return errors.New("refused")
	}
	return nil
}

// TestMetricNames: what upstream's dashboards and alerts ask for is there,
// with the labels that they select by.
func TestMetricNames(t *testing.T) {
	w := newWorld(t, func(c *apiserver.Config) { c.Admission = []admission.Plugin{refuser{}} })
	w.must(t, 201, "POST", cmURL, `{"metadata":{"name":"a"}}`)
	w.must(t, 201, "POST", cmURL+"?dryRun=All", `{"metadata":{"name":"b"}}`)
	w.do(t, "POST", cmURL, `{"metadata":{"name":"refused"}}`)
	w.must(t, 200, "GET", cmURL+"/a", "")
	w.must(t, 200, "GET", cmURL, "")
	w.must(t, 200, "GET", "/api/v1/configmaps", "")
	w.must(t, 200, "PATCH", cmURL+"/a", `{"data":{"x":"y"}}`, "Content-Type", "application/merge-patch+json")
	w.must(t, 200, "PATCH", cmURL+"/a?fieldManager=m", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"z":"y"}}`, "Content-Type", "application/apply-patch+yaml")
	s := w.watch(t, cmURL+"?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan")
	for range 2 {
		s.next()
	}
	w.must(t, 200, "GET", "/readyz", "")
	// The watch is counted once its first events are out.
	var got string
	for !strings.Contains(got, "\napiserver_watch_list_duration_seconds_count") && t.Context().Err() == nil {
		got = w.must(t, 200, "GET", "/metrics", "").raw
	}
	request := func(verb, scope string) string {
		return `component="apiserver",group="",resource="configmaps",scope="` + scope + `",subresource="",verb="` + verb + `",version="v1"}`
	}
	dry := func(verb, dry string) string {
		return `component="apiserver",dry_run="` + dry + `",group="",resource="configmaps",scope="resource",subresource="",verb="` + verb + `",version="v1"}`
	}
	for _, want := range []string{
		`apiserver_request_total{code="201",` + dry("POST", "") + " 1",
		`apiserver_request_total{code="201",` + dry("POST", "All") + " 1",
		`apiserver_request_total{code="200",` + dry("PATCH", "") + " 1",
		`apiserver_request_total{code="200",` + dry("APPLY", "") + " 1",
		`apiserver_request_duration_seconds_bucket{` + strings.TrimSuffix(dry("POST", ""), `verb="POST",version="v1"}`) + `verb="POST",version="v1",le="0.05"}`,
		`apiserver_request_sli_duration_seconds_count{` + request("LIST", "namespace") + " 1",
		`apiserver_request_sli_duration_seconds_count{` + request("LIST", "cluster") + " 1",
		`apiserver_response_sizes_count{` + request("GET", "resource") + " 1",
		`apiserver_longrunning_requests{` + request("WATCH", "namespace") + " 1",
		`apiserver_watch_events_total{group="",resource="configmaps",version="v1"} 1`,
		`apiserver_watch_events_sizes_count{group="",resource="configmaps",version="v1"} 1`,
		`apiserver_watch_list_duration_seconds_count{group="",resource="configmaps",scope="namespace",version="v1"} 1`,
		`apiserver_current_inflight_requests{request_kind="mutating"} 0`,
		`apiserver_admission_step_admission_duration_seconds_count{operation="CREATE",rejected="true",type="validate"} 1`,
		`apiserver_admission_controller_admission_duration_seconds_count{name="Refuser",operation="CREATE",rejected="true",type="validate"} 1`,
		`apiserver_admission_controller_admission_duration_seconds_count{name="Refuser",operation="UPDATE",rejected="false",type="admit"}`,
		`apiserver_resource_objects{group="",resource="configmaps"} 1`,
		`apiserver_tls_handshake_errors_total 0`,
		`authentication_attempts{result="success"}`,
		`authenticated_user_requests{username="admin"}`,
		`authorization_attempts_total{result="allowed"}`,
		`authorization_duration_seconds_count{result="allowed"}`,
		`kubernetes_build_info{`,
		`process_resident_memory_bytes`, `go_goroutines`,
	} {
		if !strings.Contains(got, "\n"+want) {
			t.Errorf("no %s", want)
		}
	}
	if t.Failed() {
		t.Log(strings.Join(regexp.MustCompile(`(?m)^[^#\n]*configmaps[^\n]*(_count|_total)?.*$`).FindAllString(got, -1), "\n"))
	}
	slis := w.must(t, 200, "GET", "/metrics/slis", "").raw
	for _, want := range []string{`kubernetes_healthcheck{name="etcd",type="readyz"} 1`, `kubernetes_healthchecks_total{name="ping",status="success",type="readyz"} 1`} {
		if !strings.Contains(slis, want) {
			t.Errorf("no %s in\n%s", want, slis)
		}
	}
	w.must(t, 404, "GET", "/metrics/none", "")
}

// TestWebhookMetrics: what webhooks say, and that they fail, is counted.
func TestWebhookMetrics(t *testing.T) {
	h := newHooked(t)
	h.says("/m", allows)
	h.says("/v", refuses(&metav1.Status{Code: 418, Message: "no"}))
	h.says("/b", func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse { return nil })
	h.add(t, mutating, "m", "/m", `"rules":[`+pods+`]`)
	h.add(t, validating, "b", "/b", `"rules":[`+configMaps+`],"failurePolicy":"Ignore"`)
	h.add(t, validating, "v", "/v", `"rules":[`+pods+`]`)
	h.must(t, 418, "POST", podURL, podBody)
	h.must(t, 201, "POST", cmURL, `{"metadata":{"name":"a"}}`)
	got := h.must(t, 200, "GET", "/metrics", "").raw
	const prefix = "apiserver_admission_webhook_"
	for _, want := range []string{
		`admission_duration_seconds_count{name="m.example.com",operation="CREATE",rejected="false",type="admit"} 1`,
		`admission_duration_seconds_count{name="v.example.com",operation="CREATE",rejected="true",type="validating"} 1`,
		`request_total{code="200",name="m.example.com",operation="CREATE",rejected="false",type="admit"} 1`,
		`request_total{code="418",name="v.example.com",operation="CREATE",rejected="true",type="validating"} 1`,
		`rejection_count{error_type="no_error",name="v.example.com",operation="CREATE",rejection_code="418",type="validating"} 1`,
		`fail_open_count{name="b.example.com",type="validating"} 1`,
		`request_total{code="500",name="b.example.com",operation="CREATE",rejected="false",type="validating"} 1`,
	} {
		if !strings.Contains(got, "\n"+prefix+want) {
			t.Errorf("no %s", prefix+want)
		}
	}
	if t.Failed() {
		t.Log(strings.Join(regexp.MustCompile(`(?m)^`+prefix+`[^\n]*(total|count).*$`).FindAllString(got, -1), "\n"))
	}
}
