// Command probe is what the suite's images run where a shell does not do.
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fail("probe euid | serve NETWORK [ADDRESS:]PORT TEXT | eat MIB | signals")
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
