// Command probe is what the suite's images run where a shell does not do.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		fail("probe euid | serve NETWORK [ADDRESS:]PORT TEXT | eat MIB | signals | swap PATH PATH | overwrite")
	}
	switch os.Args[1] {
	case "euid":
		fmt.Println(os.Getuid(), os.Geteuid())
	case "serve":
		serve(os.Args[2], os.Args[3], os.Args[4])
	case "eat":
		eat(os.Args[2])
	case "signals":
		signals()
	case "swap":
		swap(os.Args[2], os.Args[3])
	case "overwrite":
		overwrite()
	default:
		fail("no such probe: " + os.Args[1])
	}
}

func fail(why any) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}

// serve answers every connection or packet with a text and what came first.
func serve(network, port, text string) {
	if !strings.Contains(port, ":") {
		port = ":" + port
	}
	if network == "udp" {
		c, err := net.ListenPacket("udp", port)
		if err != nil {
			fail(err)
		}
		fmt.Println("serving")
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				fail(err)
			}
			_, _ = c.WriteTo([]byte(text+" "+string(buf[:n])), from)
		}
	}
	l, err := net.Listen("tcp", port)
	if err != nil {
		fail(err)
	}
	fmt.Println("serving")
	for {
		c, err := l.Accept()
		if err != nil {
			fail(err)
		}
		go func() {
			defer c.Close()
			buf := make([]byte, 1500)
			if n, err := c.Read(buf); err == nil {
				fmt.Fprint(c, text+" "+string(buf[:n]))
			}
		}()
	}
}

// eat takes memory, says so and waits.
func eat(mib string) {
	n, err := strconv.Atoi(mib)
	if err != nil {
		fail(err)
	}
	b := make([]byte, n<<20)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	fmt.Println("ate", len(b)>>20)
	time.Sleep(time.Hour)
	fmt.Println(b[len(b)/2])
}

// signals says which ones come and ends at the first.
func signals() {
	c := make(chan os.Signal, 1)
	signal.Notify(c)
	signal.Reset(syscall.SIGURG) // the Go runtime's own
	fmt.Println("waiting")
	fmt.Println("got", int((<-c).(syscall.Signal)))
}

// swap makes two paths change places until it is killed, thousands of times in
// a second, and leaves the machine to those that shall meet it.
func swap(a, b string) {
	fmt.Println("swapping")
	for ; ; time.Sleep(50 * time.Microsecond) {
		if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
			fail(err)
		}
	}
}

// overwrite looks for a process whose executable is not of this image, tries
// to write to that, and says what became of it.
func overwrite() {
	own := map[string]bool{"": true, "/bin/busybox": true, "/bin/probe": true}
	fmt.Println("looking")
	for {
		procs, err := os.ReadDir("/proc")
		if err != nil {
			fail(err)
		}
		for _, p := range procs {
			link := "/proc/" + p.Name() + "/exe"
			if exe, _ := os.Readlink(link); own[exe] {
				continue
			}
			// The descriptor keeps the file when the process is gone.
			f, err := os.Open(link)
			if err != nil {
				continue
			}
			fmt.Println("found", attack(f))
			f.Close()
		}
	}
}

// attack tries for a second: nobody can write to what is being executed.
func attack(f *os.File) string {
	name := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	var err error
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		var w *os.File
		if w, err = os.OpenFile(name, os.O_WRONLY, 0); err == nil {
			// The first byte of every executable: it does no harm.
			_, err = w.WriteAt([]byte{0x7f}, 0)
			w.Close()
			if err == nil {
				return "it was written"
			}
		}
		if !errors.Is(err, unix.ETXTBSY) {
			return "refused: " + err.Error()
		}
	}
	if seals, serr := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); serr == nil && seals&unix.F_SEAL_WRITE != 0 {
		return "sealed"
	}
	var at unix.Statfs_t
	if serr := unix.Fstatfs(int(f.Fd()), &at); serr == nil && at.Flags&unix.ST_RDONLY != 0 {
		return "refused: its mount is read-only"
	}
	return "only busy: " + err.Error()
}
