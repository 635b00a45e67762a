package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/knarr/internal/client/remote"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/server"
)

const (
	demoImage    = "registry.knarr.dev/demo:1"
	demoReplicas = 3
	demoTimeout  = 2 * time.Minute
)

// deployDemo creates the demo Deployment and its Service unless they are there,
// waits until all replicas have answered over the node port and prints the URL.
func deployDemo(ctx context.Context, in *server.Instance) error {
	ctx, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	api, err := remote.FromKubeconfig(filepath.Join(in.DataDir, "kubeconfig"), "knarr-cli")
	if err != nil {
		return err
	}
	for k, obj := range map[*kinds.Kind]kinds.Object{kinds.Deployment: demoDeployment(), kinds.Service: demoService()} {
		_, err := api.Create(ctx, kinds.Ref{Kind: k, Namespace: "default"}, obj)
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("cannot create the demo's %s: %w", k, err)
		}
	}
	url, err := demoURL(ctx, api, in)
	if err != nil {
		return err
	}
	began := time.Now()
	pods, err := waitForAnswers(ctx, url)
	if err != nil {
		return fmt.Errorf("%w; `kubectl describe pods -l app=demo` says more", err)
	}
	fmt.Printf("%6.1fs  the demo answers at %s from %s\n", time.Since(began).Seconds(), url, strings.Join(pods, ", "))
	return nil
}

func demoURL(ctx context.Context, api *remote.Client, in *server.Instance) (string, error) {
	obj, err := api.Get(ctx, kinds.Ref{Kind: kinds.Service, Namespace: "default", Name: "demo"})
	if err != nil {
		return "", err
	}
	svc, ok := obj.(*corev1.Service)
	if !ok || len(svc.Spec.Ports) == 0 || svc.Spec.Ports[0].NodePort == 0 {
		return "", fmt.Errorf("the service default/demo has no node port; delete it and try again")
	}
	return fmt.Sprintf("http://%s:%d/", in.NodeIP, svc.Spec.Ports[0].NodePort), nil
}

// waitForAnswers asks until as many different pods as there are replicas have
// answered; each names itself.
func waitForAnswers(ctx context.Context, url string) ([]string, error) {
	var pods []string
	seen := map[string]bool{}
	// A connection each: one that is kept stays with its pod.
	c := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var last error
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Accept", "application/json")
		resp, err := c.Do(req)
		if err != nil {
			last = err
		} else {
			var answer struct{ Pod string }
			err = json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer)
			_ = resp.Body.Close()
			if err == nil && answer.Pod != "" && !seen[answer.Pod] {
				seen[answer.Pod] = true
				pods = append(pods, answer.Pod)
			}
		}
		if len(pods) >= demoReplicas {
			return pods, nil
		}
		pause := 20 * time.Millisecond
		if err != nil {
			pause = 200 * time.Millisecond
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			if last == nil {
				last = ctx.Err()
			}
			return nil, fmt.Errorf("only %d of %d demo pods answered at %s: %w", len(pods), demoReplicas, url, last)
		}
	}
}

func demoDeployment() *appsv1.Deployment {
	labels := map[string]string{"app": "demo"}
	replicas := int32(demoReplicas)
	fromField := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	no, nonRoot := false, true
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "demo", Namespace: "default", Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					AutomountServiceAccountToken: &no,
					Containers: []corev1.Container{{
						Name: "demo", Image: demoImage,
						Env:   []corev1.EnvVar{fromField("POD_NAME", "metadata.name"), fromField("POD_NAMESPACE", "metadata.namespace"), fromField("NODE_NAME", "spec.nodeName"), fromField("POD_IP", "status.podIP")},
						Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
						ReadinessProbe: &corev1.Probe{PeriodSeconds: 2, ProbeHandler: corev1.ProbeHandler{
							HTTPGet: &corev1.HTTPGetAction{Path: "/readyz", Port: intstr.FromString("http")}}},
						SecurityContext: &corev1.SecurityContext{
							AllowPrivilegeEscalation: &no, RunAsNonRoot: &nonRoot, ReadOnlyRootFilesystem: &nonRoot,
							Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
						},
					}},
				},
			},
		},
	}
}

func demoService() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "demo", Namespace: "default", Labels: map[string]string{"app": "demo"}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"app": "demo"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http")}},
		},
	}
}
