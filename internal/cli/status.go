package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/client/remote"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/server"
)

func statusCommand() *cobra.Command {
	var dataDir string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what runs here; exits 1 if it is not well",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, running, err := server.ReadInstance(dataDir)
			if err != nil {
				return err
			}
			return status(cmd.Context(), in, running)
		},
	}
	dataDirFlag(cmd, &dataDir)
	return cmd
}

func status(ctx context.Context, in *server.Instance, running bool) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintf(w, "data\t%s\nlog\t%s\n", in.DataDir, filepath.Join(in.DataDir, "knarr.log"))
	if !running {
		fmt.Fprintf(w, "state\tstopped\n")
		return fmt.Errorf("knarr is not running; `knarr %s%s` starts it", role(in), dataDirArg(in))
	}
	rss, anonymous := server.MemoryOf(in.PID)
	fmt.Fprintf(w, "state\trunning %s as pid %d since %s\n", in.Version, in.PID, in.Started.Local().Format(time.DateTime))
	fmt.Fprintf(w, "memory\t%d MiB resident, %d MiB of it anonymous\n", rss>>20, anonymous>>20)
	fmt.Fprintf(w, "roles\t%s\nAPI\t%s\n", roles(in), in.APIURL)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if !in.Server {
		return serverAnswers(ctx, in)
	}
	api, err := remote.FromKubeconfig(filepath.Join(in.DataDir, "kubeconfig"), "knarr-cli")
	if err != nil {
		return err
	}
	resp, err := api.Do(ctx, http.MethodGet, "/readyz", nil, "", "*/*", nil)
	if err != nil {
		if strings.Contains(err.Error(), "[-]disk") {
			return fmt.Errorf("the disk of %s is full: the API server reads and deletes, and writes again once some is freed", in.DataDir)
		}
		return fmt.Errorf("the API server is not ready: %w", err)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return err
	}
	return nodeLines(ctx, w, api)
}

// serverAnswers asks an agent's server, as nobody: whoever can reach it may.
func serverAnswers(ctx context.Context, in *server.Instance) error {
	ca, err := os.ReadFile(filepath.Join(in.DataDir, "agent", "pki", "ca.crt"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	api, err := remote.New(remote.Config{Server: in.APIURL, UserAgent: "knarr-cli", TLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}})
	if err != nil {
		return err
	}
	resp, err := api.Do(ctx, http.MethodGet, "/readyz", nil, "", "*/*", nil)
	if err != nil {
		return fmt.Errorf("the server does not answer, or is not ready; what runs here goes on: %w", err)
	}
	return resp.Body.Close()
}

func roles(in *server.Instance) string {
	var r []string
	if in.Server {
		r = append(r, "server")
	}
	if in.Agent {
		r = append(r, "node "+in.NodeName)
	}
	return strings.Join(r, ", ")
}

func nodeLines(ctx context.Context, w io.Writer, api *remote.Client) error {
	list, err := api.List(ctx, kinds.Node, "", metav1.ListOptions{})
	if err != nil {
		return err
	}
	nodes, ok := list.(*corev1.NodeList)
	if !ok {
		return fmt.Errorf("the API server answered with a %T", list)
	}
	var sick []string
	for _, n := range nodes.Items {
		state := "not ready"
		for _, c := range n.Status.Conditions {
			if c.Type != corev1.NodeReady {
				continue
			}
			if c.Status == corev1.ConditionTrue {
				state = "ready"
			} else if c.Message != "" {
				state += ": " + c.Message
			}
		}
		if state != "ready" {
			sick = append(sick, n.Name)
		}
		fmt.Fprintf(w, "node %s\t%s\n", n.Name, state)
	}
	if len(sick) > 0 {
		return fmt.Errorf("not ready: %s", strings.Join(sick, ", "))
	}
	return nil
}
