package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"knarr.dev/knarr/internal/client/remote"
	"knarr.dev/knarr/internal/server"
)

// childEnv marks the process that --detach starts; it reports progress on file
// descriptor 3 and closes it when it is ready.
const childEnv = "KNARR_DETACHED"

// errorPrefix marks the line by which a child says why it ends.
const errorPrefix = "error: "

// readyTimeout bounds how long --detach waits. A cold start takes seconds; a
// first start on a slow disk may import images for a minute.
const readyTimeout = 5 * time.Minute

// settleTimeout is how long a knarr that is there may take to answer.
const settleTimeout = 15 * time.Second

// progressSink tells progress to the waiting parent, or to stderr, and returns
// what to call once everything is ready.
func progressSink() (progress func(string), ready func()) {
	if os.Getenv(childEnv) == "" {
		began := time.Now()
		say := func(text string) { fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(began).Seconds(), text) }
		return say, func() { say("ready") }
	}
	pipe := os.NewFile(3, "progress")
	return func(text string) { fmt.Fprintln(pipe, text) },
		func() {
			fmt.Fprintln(pipe, "ready")
			_ = pipe.Close()
		}
}

// runDetached starts this command again in the background, prints its progress
// and returns when it is ready. If one runs already, that is fine.
func (o *startOptions) runDetached(ctx context.Context) error {
	in, running, err := settled(ctx, o.cfg.DataDir)
	if err != nil {
		return err
	}
	if !running {
		cfg := o.cfg
		if err := cfg.Complete(); err != nil {
			return err
		}
		if err := cfg.Preflight(); err != nil {
			return err
		}
		if err := server.MakeDataDir(cfg.DataDir); err != nil {
			return err
		}
		if err := o.startChild(ctx); err != nil {
			return err
		}
		if in, _, err = server.ReadInstance(o.cfg.DataDir); err != nil {
			return err
		}
	} else if in.Server != o.cfg.Server || in.Agent != o.cfg.Agent {
		return fmt.Errorf("knarr is already running (pid %d) as %s; stop it with `knarr down%s`", in.PID, roles(in), dataDirArg(in))
	} else {
		fmt.Printf("knarr is already running (pid %d); its flags are those of its start\n", in.PID)
	}
	if o.demo {
		if err := deployDemo(ctx, in); err != nil {
			return err
		}
	}
	printHints(in)
	return nil
}

// settled reads the instance and says whether it runs and is well. One that
// holds the lock may be on its way up, or dying: it is given a moment to answer
// or to let go.
func settled(ctx context.Context, dataDir string) (in *server.Instance, running bool, err error) {
	for deadline := time.Now().Add(settleTimeout); ; {
		in, running, err = server.ReadInstance(dataDir)
		if errors.Is(err, server.ErrNotInstalled) {
			return nil, false, nil
		}
		if err != nil || !running || !in.Server {
			return in, running, err
		}
		api, err := remote.FromKubeconfig(filepath.Join(dataDir, "kubeconfig"), "knarr-cli")
		if err == nil {
			if resp, rerr := api.Do(ctx, http.MethodGet, "/readyz", nil, "", "*/*", nil); rerr == nil {
				return in, true, resp.Body.Close()
			} else {
				err = rerr
			}
		}
		if time.Now().After(deadline) {
			return nil, false, fmt.Errorf("knarr runs (pid %d) but does not answer; `knarr down%s` ends it: %w", in.PID, dataDirArg(in), err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// startChild starts the background process and waits for its "ready".
func (o *startOptions) startChild(ctx context.Context) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	logPath := filepath.Join(o.cfg.DataDir, "knarr.log")
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Env = append(os.Environ(), childEnv+"=1")
	if o.cfg.JoinToken != "" {
		cmd.Args = withoutToken(cmd.Args)
		cmd.Env = append(cmd.Env, "KNARR_TOKEN="+o.cfg.JoinToken)
	}
	if o.cfg.Etcd.ClusterKey != "" {
		cmd.Env = append(cmd.Env, clusterKeyEnv+"="+o.cfg.Etcd.ClusterKey)
	}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return err
	}
	if err := followProgress(ctx, r, cmd); err != nil {
		return fmt.Errorf("%w; the log is %s", err, logPath)
	}
	return cmd.Process.Release()
}

// followProgress prints what the child says until it is ready. A child that
// ends before has failed; one that takes too long, or whose parent is
// interrupted, is ended.
func followProgress(ctx context.Context, r io.Reader, cmd *exec.Cmd) error {
	began := time.Now()
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(r); s.Scan(); {
			lines <- s.Text()
		}
	}()
	timeout := time.After(readyTimeout)
	last := ""
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				_ = cmd.Wait()
				if msg, isErr := strings.CutPrefix(last, errorPrefix); isErr {
					return errors.New(msg)
				}
				return fmt.Errorf("knarr ended before it was ready (last step: %s)", last)
			}
			last = line
			if !strings.HasPrefix(line, errorPrefix) {
				fmt.Printf("%6.1fs  %s\n", time.Since(began).Seconds(), line)
			}
			if line == "ready" {
				return nil
			}
		case <-timeout:
			_ = cmd.Process.Signal(syscall.SIGTERM)
			return fmt.Errorf("not ready after %s (last step: %s)", readyTimeout, last)
		case <-ctx.Done():
			_ = cmd.Process.Signal(syscall.SIGTERM)
			return fmt.Errorf("interrupted (last step: %s)", last)
		}
	}
}

// withoutToken drops --token and --token-file with their values.
func withoutToken(args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		name, _, hasValue := strings.Cut(args[i], "=")
		if name == "--token" || name == "--token-file" {
			if !hasValue {
				i++
			}
			continue
		}
		out = append(out, args[i])
	}
	return out
}

func printHints(in *server.Instance) {
	if !in.Server {
		fmt.Printf("node %s runs; `knarr down%s` stops it\n", in.NodeName, dataDirArg(in))
		return
	}
	exe, err := os.Executable()
	if err != nil {
		exe = "knarr"
	}
	kubectl := "kubectl"
	if p := filepath.Join(filepath.Dir(exe), "kubectl"); fileExists(p) {
		kubectl = p
	}
	fmt.Printf(`
  export KUBECONFIG=%[1]s
  %[2]s get pods -A
  %[3]s status%[4]s      what runs
  %[3]s down%[4]s        stop it
`, filepath.Join(in.DataDir, "kubeconfig"), kubectl, exe, dataDirArg(in))
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
