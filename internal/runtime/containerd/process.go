package containerd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// process is a running containerd, our child or an adopted one. A pidfd holds
// on to it, so that a recycled pid is never taken for it.
type process struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"` // clock ticks since boot, proc(5)
	BootID    string `json:"bootID"`
	Config    string `json:"config"` // digest of the configuration that it runs with

	pidfd *os.File
}

// wait blocks until the process has ended (true) or ctx has (false).
func (p *process) wait(ctx context.Context) bool {
	_ = p.pidfd.SetReadDeadline(time.Time{}) // of an earlier wait that ended early
	stop := context.AfterFunc(ctx, func() { _ = p.pidfd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return true
	}
	ended := false
	err = raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		ended = err == nil && n == 1
		return ended
	})
	return ended || (err != nil && ctx.Err() == nil)
}

func (p *process) signal(sig unix.Signal) error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return errors.Join(cerr, err)
}

func (p *process) close() { _ = p.pidfd.Close() }

// end asks the process to end and insists after stopTimeout.
func (p *process) end(ctx context.Context) error {
	defer p.close()
	if err := p.signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("containerd: cannot stop process %d: %w", p.PID, err)
	}
	soft, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if p.wait(soft) {
		return nil
	}
	if err := p.signal(unix.SIGKILL); err != nil {
		return fmt.Errorf("containerd: cannot kill process %d: %w", p.PID, err)
	}
	hard, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if !p.wait(hard) {
		return fmt.Errorf("containerd: process %d does not end", p.PID)
	}
	return nil
}

// openProcess holds on to pid; the caller checks that it is who it should be.
func openProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	p := &process{PID: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}
	if p.StartTime, err = startTime(pid); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// startTime reads field 22 of /proc/PID/stat; the second one is a name that
// may contain anything, so count from its closing parenthesis.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	s := string(data)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("unreadable /proc/%d/stat", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

func bootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // empty on a kernel without: then equal to itself
	return strings.TrimSpace(string(data))
}

func (r *Runtime) recordFile() string { return filepath.Join(r.cfg.State, "containerd.json") }

// running finds the process that an earlier start recorded; nil if it is gone.
func (r *Runtime) running() (*process, error) {
	data, err := os.ReadFile(r.recordFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("containerd: %w", err)
	}
	var rec process
	if err := json.Unmarshal(data, &rec); err != nil || rec.PID <= 1 {
		return nil, nil // a torn write of a machine that crashed: nothing survived that
	}
	p, err := openProcess(rec.PID)
	if err != nil {
		return nil, nil // gone
	}
	if p.StartTime != rec.StartTime || rec.BootID != bootID() {
		p.close()
		return nil, nil // somebody else under the same number
	}
	p.BootID, p.Config = rec.BootID, rec.Config
	return p, nil
}

// adopt returns the running containerd of this instance if it answers, has the
// configuration that it should have and lives in our namespaces; it ends it
// otherwise.
func (r *Runtime) adopt(ctx context.Context, conf []byte) (*process, error) {
	p, err := r.running()
	if p == nil || err != nil {
		return nil, err
	}
	reason := ""
	switch {
	case p.Config != digest(conf):
		reason = "its configuration changed"
	case !sameNamespaces(p.PID):
		reason = "it lives in other namespaces"
	default:
		// It may have been started a moment ago.
		err := r.await(ctx, p, adoptTimeout)
		if err == nil {
			r.cfg.Log.Info("containerd adopted", "pid", p.PID)
			return p, nil
		}
		if ctx.Err() != nil {
			p.close()
			return nil, ctx.Err()
		}
		reason = err.Error()
	}
	r.cfg.Log.Info("containerd is restarted", "pid", p.PID, "reason", reason)
	return nil, p.end(ctx)
}

func sameNamespaces(pid int) bool {
	for _, ns := range []string{"net", "mnt"} {
		// The thread's, for those are what a child inherits.
		ours, err1 := os.Readlink("/proc/thread-self/ns/" + ns)
		its, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		if err1 != nil || err2 != nil || ours != its {
			return false
		}
	}
	return true
}

func digest(conf []byte) string {
	sum := sha256.Sum256(conf)
	return hex.EncodeToString(sum[:])
}

// start runs a new containerd and returns once it answers. If ctx ends before
// that, it is left alone.
func (r *Runtime) start(ctx context.Context, programs programs, conf []byte) (*process, error) {
	logs, err := os.OpenFile(r.LogFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("containerd: %w", err)
	}
	defer logs.Close()
	cmd := exec.Command(programs.containerd, "--config", r.configFile())
	cmd.Env = environment(programs)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = logs, logs // a file, no pipe: it must outlive us
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("containerd: %w", err)
	}
	p, err := openProcess(cmd.Process.Pid)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, fmt.Errorf("containerd: %w", err)
	}
	go func() { _ = cmd.Wait() }() // reap; the pidfd tells of the end
	p.BootID, p.Config = bootID(), digest(conf)
	rec, err := json.Marshal(p)
	if err == nil {
		err = writeFile(r.recordFile(), rec)
	}
	if err == nil {
		err = r.await(ctx, p, startTimeout)
	}
	if ctx.Err() != nil {
		p.close() // knarr ends; the next one adopts what is coming up
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(err, p.end(ctx))
	}
	r.cfg.Log.Info("containerd started", "pid", p.PID, "socket", r.cfg.Socket)
	return p, nil
}

// environment keeps what pulls need; shims inherit it, so nothing else.
func environment(p programs) []string {
	dirs := []string{filepath.Dir(p.containerd), filepath.Dir(p.shim), filepath.Dir(p.runc)}
	env := []string{"PATH=" + strings.Join(append(dirs, searchDirs...), ":")}
	for _, k := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	return env
}

// await polls until the CRI answers; containerd has no way of telling us.
func (r *Runtime) await(ctx context.Context, p *process, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for delay := 5 * time.Millisecond; ; delay = min(2*delay, 100*time.Millisecond) {
		err := ping(ctx, r.cfg.Socket)
		if err == nil {
			if err := os.Chmod(r.cfg.Socket, 0o600); err != nil {
				return fmt.Errorf("containerd: %w", err)
			}
			return nil
		}
		if status.Code(err) == codes.Unimplemented {
			return fmt.Errorf("containerd: its CRI plugin did not load: %s", lastLine(r.LogFile()))
		}
		pause, cancel := context.WithTimeout(ctx, delay)
		ended := p.wait(pause)
		cancel()
		if ended {
			return fmt.Errorf("containerd: ended while starting: %s", lastLine(r.LogFile()))
		}
		if ctx.Err() != nil {
			return fmt.Errorf("containerd: no answer on %s after %s: %w; its log is %s", r.cfg.Socket, timeout, err, r.LogFile())
		}
	}
}

// dial opens a CRI connection; it connects when first used.
func dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
}

// ping asks the CRI for its version.
func ping(ctx context.Context, socket string) error {
	if _, err := os.Stat(socket); err != nil {
		return err
	}
	conn, err := dial(socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = runtimeapi.NewRuntimeServiceClient(conn).Version(ctx, &runtimeapi.VersionRequest{})
	return err
}
