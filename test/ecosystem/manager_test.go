package ecosystem

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

const beaconCRD = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"beacons.harbour.example"},
"spec":{"group":"harbour.example","scope":"Namespaced","names":{"plural":"beacons","singular":"beacon","kind":"Beacon","listKind":"BeaconList"},
"versions":[{"name":"v1","served":true,"storage":true,"subresources":{"status":{}},"schema":{"openAPIV3Schema":{"type":"object","properties":{
"spec":{"type":"object","properties":{"colour":{"type":"string","enum":["red","green"]}}},
"status":{"type":"object","properties":{"lit":{"type":"boolean"},"observedGeneration":{"type":"integer"}}}}}}}]}}`

var beaconKind = schema.GroupVersionKind{Group: "harbour.example", Version: "v1", Kind: "Beacon"}

const finalizer = "harbour.example/put-out"

// keeper keeps one config map per beacon and puts the beacon out before it goes.
type keeper struct {
	client.Client
	scheme *runtime.Scheme
	out    chan string // beacons that were put out
}

func (k *keeper) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	b := beacon("", "")
	if err := k.Get(ctx, req.NamespacedName, b); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !b.GetDeletionTimestamp().IsZero() {
		if controllerutil.RemoveFinalizer(b, finalizer) {
			k.out <- b.GetName()
			return ctrl.Result{}, k.Update(ctx, b)
		}
		return ctrl.Result{}, nil
	}
	if controllerutil.AddFinalizer(b, finalizer) {
		return ctrl.Result{}, k.Update(ctx, b)
	}
	colour, _, _ := unstructured.NestedString(b.Object, "spec", "colour")
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: b.GetNamespace(), Name: b.GetName()}}
	if _, err := controllerutil.CreateOrUpdate(ctx, k.Client, cm, func() error {
		cm.Data = map[string]string{"colour": colour}
		return controllerutil.SetControllerReference(b, cm, k.scheme)
	}); err != nil {
		return ctrl.Result{}, err
	}
	if lit, _, _ := unstructured.NestedInt64(b.Object, "status", "observedGeneration"); lit == b.GetGeneration() {
		return ctrl.Result{}, nil
	}
	b.Object["status"] = map[string]any{"lit": true, "observedGeneration": b.GetGeneration()}
	return ctrl.Result{}, k.Status().Update(ctx, b)
}

func beacon(name, colour string) *unstructured.Unstructured {
	b := &unstructured.Unstructured{}
	b.SetGroupVersionKind(beaconKind)
	b.SetNamespace("default")
	b.SetName(name)
	if colour != "" {
		b.Object["spec"] = map[string]any{"colour": colour}
	}
	return b
}

// customs is the webhook: it stamps config maps, and refuses contraband.
type customs struct{}

func (customs) Default(_ context.Context, cm *corev1.ConfigMap) error {
	if cm.Labels == nil {
		cm.Labels = map[string]string{}
	}
	cm.Labels["stamped"] = "yes"
	return nil
}

func (customs) ValidateCreate(_ context.Context, cm *corev1.ConfigMap) (admission.Warnings, error) {
	if cm.Data["colour"] == "contraband" {
		return nil, errors.New("contraband is refused")
	}
	if cm.Data["colour"] == "" {
		return admission.Warnings{"a colour is advisable"}, nil
	}
	return nil, nil
}

func (c customs) ValidateUpdate(ctx context.Context, _, cm *corev1.ConfigMap) (admission.Warnings, error) {
	return c.ValidateCreate(ctx, cm)
}

func (customs) ValidateDelete(context.Context, *corev1.ConfigMap) (admission.Warnings, error) {
	return nil, nil
}

// manager is one process of an operator.
type manager struct {
	ctrl.Manager
	stop func()
	done chan error
}

func newManager(t *testing.T, conf *rest.Config, certs string, port int, out chan string) *manager {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	m, err := ctrl.NewManager(conf, ctrl.Options{
		Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
		LeaderElection: true, LeaderElectionID: "beacons", LeaderElectionNamespace: "default", LeaderElectionReleaseOnCancel: true,
		WebhookServer: webhook.NewServer(webhook.Options{CertDir: certs, Port: port}),
		Controller:    config.Controller{SkipNameValidation: ptr.To(true)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := ctrl.NewControllerManagedBy(m).For(beacon("", "")).Owns(&corev1.ConfigMap{}).Complete(&keeper{m.GetClient(), scheme, out}); err != nil {
		t.Fatal(err)
	}
	if err := ctrl.NewWebhookManagedBy(m, &corev1.ConfigMap{}).WithDefaulter(customs{}).WithValidator(customs{}).Complete(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &manager{Manager: m, stop: cancel, done: make(chan error, 1)}
	go func() { r.done <- m.Start(ctx) }()
	t.Cleanup(func() { r.end(t) })
	return r
}

func (m *manager) end(t *testing.T) {
	if m.stop == nil {
		return
	}
	m.stop()
	m.stop = nil
	if err := <-m.done; err != nil {
		t.Errorf("the manager ended with %v", err)
	}
}

// servingCert writes what the webhook server presents, and returns its authority.
func servingCert(t *testing.T, dir string, ip net.IP) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "customs"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{ip}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"tls.crt": cert, "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert
}

func register(t *testing.T, c client.Client, base string, ca []byte) {
	t.Helper()
	rule := []admissionregistrationv1.RuleWithOperations{{Operations: []admissionregistrationv1.OperationType{"CREATE", "UPDATE"},
		Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}}
	cc := func(path string) admissionregistrationv1.WebhookClientConfig {
		return admissionregistrationv1.WebhookClientConfig{URL: ptr.To(base + path), CABundle: ca}
	}
	only := &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "default"}}
	none := ptr.To(admissionregistrationv1.SideEffectClassNone)
	fail := ptr.To(admissionregistrationv1.Fail)
	objects := []client.Object{
		&admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "customs"}, Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "stamp.harbour.example", ClientConfig: cc("/mutate--v1-configmap"), Rules: rule, NamespaceSelector: only, SideEffects: none, FailurePolicy: fail, AdmissionReviewVersions: []string{"v1"}}}},
		&admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "customs"}, Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "inspect.harbour.example", ClientConfig: cc("/validate--v1-configmap"), Rules: rule, NamespaceSelector: only, SideEffects: none, FailurePolicy: fail, AdmissionReviewVersions: []string{"v1"}}}},
	}
	for _, o := range objects {
		if err := c.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Delete(context.Background(), o); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestManager: an operator as most are written: a cache over a custom resource
// and what it owns, a finalizer, status, webhooks, and a second process that
// takes over.
func TestManager(t *testing.T) {
	needCluster(t)
	ctrl.SetLogger(zap.New(zap.WriteTo(t.Output())))
	conf, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(conf, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	crd := &unstructured.Unstructured{}
	if err := crd.UnmarshalJSON([]byte(beaconCRD)); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), crd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(context.Background(), crd); err != nil {
			t.Error(err)
		}
	})
	until(t, "the custom resource is served", func() error {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(beaconKind)
		return c.List(t.Context(), list)
	})
	out := make(chan string, 10)
	host, err := url.Parse(conf.Host)
	if err != nil {
		t.Fatal(err)
	}
	certs := t.TempDir()
	ca := servingCert(t, certs, net.ParseIP(host.Hostname()))
	first := newManager(t, conf, certs, 9443, out)
	<-first.Elected()
	second := newManager(t, conf, certs, 9444, out)
	register(t, c, "https://"+net.JoinHostPort(host.Hostname(), strconv.Itoa(9443)), ca)

	name := types.NamespacedName{Namespace: "default", Name: "north"}
	until(t, "the webhook answers", func() error { return client.IgnoreAlreadyExists(c.Create(t.Context(), beacon("north", "green"))) })
	cm := &corev1.ConfigMap{}
	until(t, "the config map is there, stamped", func() error {
		if err := c.Get(t.Context(), name, cm); err != nil {
			return err
		}
		if cm.Data["colour"] != "green" || cm.Labels["stamped"] != "yes" || len(cm.OwnerReferences) != 1 {
			return errors.New(cm.String())
		}
		return nil
	})
	until(t, "the status says so", func() error {
		b := beacon("", "")
		if err := c.Get(t.Context(), name, b); err != nil {
			return err
		}
		if lit, _, _ := unstructured.NestedBool(b.Object, "status", "lit"); !lit {
			return errors.New("not lit")
		}
		return nil
	})
	bad := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "bad"}, Data: map[string]string{"colour": "contraband"}}
	if err := c.Create(t.Context(), bad); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `admission webhook "inspect.harbour.example" denied the request: contraband is refused`) {
		t.Errorf("contraband: %v", err)
	}
	if err := c.Create(t.Context(), beacon("south", "blue")); !apierrors.IsInvalid(err) {
		t.Errorf("a colour that is not in the enum: %v", err)
	}

	// The config map comes back, by the one that is not the leader's client.
	if err := second.GetClient().Delete(t.Context(), cm); err != nil {
		t.Fatal(err)
	}
	until(t, "the config map is there again", func() error {
		again := &corev1.ConfigMap{}
		if err := c.Get(t.Context(), name, again); err != nil {
			return err
		}
		if again.UID == cm.UID {
			return errors.New("the old one")
		}
		return nil
	})

	for _, what := range []client.Object{&admissionregistrationv1.MutatingWebhookConfiguration{}, &admissionregistrationv1.ValidatingWebhookConfiguration{}} {
		// The second process answers from now on.
		what.SetName("customs")
		patch := []byte(`[{"op":"replace","path":"/webhooks/0/clientConfig/url","value":"https://` + net.JoinHostPort(host.Hostname(), "9444") + map[bool]string{true: "/mutate--v1-configmap", false: "/validate--v1-configmap"}[isMutating(what)] + `"}]`)
		if err := c.Patch(t.Context(), what, client.RawPatch(types.JSONPatchType, patch)); err != nil {
			t.Fatal(err)
		}
	}
	first.end(t)
	<-second.Elected()
	if err := c.Delete(t.Context(), beacon("north", "")); err != nil {
		t.Fatal(err)
	}
	if got := <-out; got != "north" {
		t.Errorf("%s was put out", got)
	}
	until(t, "the beacon and its config map are gone", func() error {
		for _, o := range []client.Object{beacon("", ""), &corev1.ConfigMap{}} {
			if err := c.Get(t.Context(), name, o); !apierrors.IsNotFound(err) {
				return errors.Join(errors.New("still there"), err)
			}
		}
		return nil
	})
}

func isMutating(o client.Object) bool {
	_, ok := o.(*admissionregistrationv1.MutatingWebhookConfiguration)
	return ok
}

// until polls for a state that shows in no other way.
func until(t *testing.T, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within 3 minutes: %s: %v", what, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}
