package apiserver_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"knarr.dev/knarr/internal/admission"
	"knarr.dev/knarr/internal/apiserver"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

// limited is a world with quotas, and nobody who counts again.
type limited struct {
	*world
	view *view.View
}

func newLimited(t *testing.T) *limited {
	l := &limited{}
	l.world = newWorld(t, func(c *apiserver.Config) {
		l.view = view.New(slices.DeleteFunc(slices.Clone(c.Kinds.All()), func(k *kinds.Kind) bool { return !k.Stored() }), view.Shared()...)
		c.Cache.Feed(l.view)
		plugins, err := admission.Default(admission.Config{View: l.view, Authz: allRules{}, Table: c.Kinds, AccountPatience: -1,
			Self: func() admission.Self { return l.server.Client(admin) }})
		if err != nil {
			t.Fatal(err)
		}
		c.Admission = slices.DeleteFunc(plugins, func(p admission.Plugin) bool { return p.Name() == "ServiceAccount" })
	})
	l.seen(t, l.must(t, 201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"default"}}`), kinds.Namespace)
	return l
}

func (l *limited) seen(t *testing.T, a answer, k *kinds.Kind) {
	t.Helper()
	rev, err := strconv.ParseInt(a.at("metadata.resourceVersion").(string), 10, 64)
	if err == nil {
		err = l.view.WaitRev(t.Context(), k, rev)
	}
	if err != nil {
		t.Fatal(err)
	}
}

const quotaURL = "/api/v1/namespaces/default/resourcequotas"

func (l *limited) quota(t *testing.T, name, hard, used string) {
	t.Helper()
	l.must(t, 201, "POST", quotaURL, fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"hard":%s}}`, name, hard))
	l.seen(t, l.must(t, 200, "PATCH", quotaURL+"/"+name+"/status", fmt.Sprintf(`{"status":{"hard":%s,"used":%s}}`, hard, used), "Content-Type", mergeType), kinds.ResourceQuota)
}

// A burst gets what there is, no more and no less, with few writes.
func TestQuotaInABurst(t *testing.T) {
	l := newLimited(t)
	l.quota(t, "q", `{"pods":"30","requests.cpu":"100"}`, `{"pods":"0","requests.cpu":"0"}`)
	before := l.must(t, 200, "GET", quotaURL+"/q", "").at("metadata.resourceVersion").(string)
	var wg sync.WaitGroup
	var mu sync.Mutex
	codes := map[int]int{}
	var refusal string
	for i := range 60 {
		wg.Go(func() {
			a := l.do(t, "POST", podURL, fmt.Sprintf(`{"metadata":{"name":"p%d"},"spec":{"containers":[{"name":"c","image":"i","resources":{"requests":{"cpu":"1"}}}]}}`, i))
			mu.Lock()
			defer mu.Unlock()
			if codes[a.code]++; a.code == 403 {
				refusal = a.at("message").(string)
			}
		})
	}
	wg.Wait()
	if codes[201] != 30 || codes[403] != 30 {
		t.Errorf("answers %v", codes)
	}
	if !strings.HasSuffix(refusal, "is forbidden: exceeded quota: q, requested: pods=1, used: pods=30, limited: pods=30") {
		t.Errorf("refused with %q", refusal)
	}
	a := l.must(t, 200, "GET", quotaURL+"/q", "")
	used, _ := a.at("status.used").(map[string]any)
	if used["pods"] != "30" || used["requests.cpu"] != "30" {
		t.Errorf("used %v, before it was %s", used, before)
	}
}

func TestQuotaLeavesTheRest(t *testing.T) {
	l := newLimited(t)
	l.quota(t, "q", `{"configmaps":"1","services.nodeports":"1"}`, `{"configmaps":"0","services.nodeports":"0"}`)
	const url = "/api/v1/namespaces/default/configmaps"
	l.must(t, 201, "POST", url+"?dryRun=All", `{"metadata":{"name":"a"}}`)
	l.must(t, 201, "POST", url+"?dryRun=All", `{"metadata":{"name":"a"}}`)
	l.seen(t, l.must(t, 201, "POST", url, `{"metadata":{"name":"a"}}`), kinds.ConfigMap)
	l.must(t, 200, "PATCH", url+"/a", `{"data":{"x":"y"}}`, "Content-Type", mergeType)
	if a := l.must(t, 403, "POST", url, `{"metadata":{"generateName":"b"}}`); !strings.Contains(a.at("message").(string), "exceeded quota: q, requested: configmaps=1, used: configmaps=1, limited: configmaps=1") {
		t.Errorf("%s", a.raw)
	}
	const services = "/api/v1/namespaces/default/services"
	l.must(t, 201, "POST", services, `{"metadata":{"name":"s"},"spec":{"ports":[{"name":"a","port":80},{"name":"b","port":81}]}}`)
	l.must(t, 403, "PATCH", services+"/s", `{"spec":{"type":"NodePort"}}`, "Content-Type", mergeType)
	l.must(t, 200, "PATCH", services+"/s", `{"spec":{"type":"NodePort","ports":[{"name":"a","port":80}]}}`, "Content-Type", mergeType)
	used, _ := l.must(t, 200, "GET", quotaURL+"/q", "").at("status.used").(map[string]any)
	if used["configmaps"] != "1" || used["services.nodeports"] != "1" {
		t.Errorf("used %v", used)
	}
}

// A binding brings the labels of the node's place to the pod.
func TestBindingBringsLabels(t *testing.T) {
	l := newLimited(t)
	l.seen(t, l.must(t, 201, "POST", "/api/v1/nodes", `{"metadata":{"name":"n","labels":{"topology.kubernetes.io/zone":"z"}}}`), kinds.Node)
	l.must(t, 201, "POST", podURL, `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`)
	l.must(t, 201, "POST", podURL+"/p/binding", `{"target":{"kind":"Node","name":"n"}}`)
	if got := l.must(t, 200, "GET", podURL+"/p", "").at("metadata.labels"); fmt.Sprint(got) != "map[topology.kubernetes.io/zone:z]" {
		t.Errorf("labels %v", got)
	}
}
