package cri_test

import (
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type unixStat = syscall.Stat_t

// ask sends a question mark from the node and returns what comes back, or the
// error as text.
func (n *node) ask(network, addr string) string {
	c, err := n.dialNode(network, addr)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	return question(c, patience)
}

func question(c net.Conn, limit time.Duration) string {
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return err.Error()
	}
	if _, err := c.Write([]byte("?")); err != nil {
		return err.Error()
	}
	buf := make([]byte, 1500)
	n, err := c.Read(buf)
	if err != nil && err != io.EOF {
		return err.Error()
	}
	return string(buf[:n])
}

func serve(network, port, text string) func(*containerConfig) {
	return command("probe", "serve", network, port, text)
}

// hostPort that nobody else of the suite uses.
func (t *T) hostPort() int32 { return int32(20000 + t.counter.Add(1)) }

func ports(list ...*runtimeapi.PortMapping) func(*podConfig) {
	return func(c *podConfig) { c.PortMappings = list }
}

var networkCases = []testCase{
	{"network/pods reach each other and the node", func(t *T) {
		p, q := t.pod(), t.pod()
		p.start(serve("tcp", "8080", "hello")).says("serving")
		t.equal("from the node", t.ask("tcp", p.ip()+":8080"), "hello ?")
		t.equal("from another pod", q.sees("echo '?' | nc "+p.ip()+" 8080"), "hello ?")
		t.equal("from another container of the pod", p.sees("echo '?' | nc 127.0.0.1 8080"), "hello ?")
		if p.ip() == q.ip() {
			t.errorf("two pods have the address %s", p.ip())
		}
	}},
	{"network/two containers of a pod serve", func(t *T) {
		p := t.pod()
		p.start(serve("tcp", "8081", "one")).says("serving")
		p.start(serve("tcp", "8082", "two")).says("serving")
		t.equal("one", t.ask("tcp", p.ip()+":8081"), "one ?")
		t.equal("two", t.ask("tcp", p.ip()+":8082"), "two ?")
	}},
	{"network/address of a stopped pod", func(t *T) {
		p := t.pod()
		ip := p.ip()
		t.must(p.stop())
		if got := p.status().GetNetwork().GetIp(); got != "" && got != ip {
			t.errorf("another address: %s", got)
		}
	}},
	{"network/only a container port", func(t *T) {
		p := t.pod(ports(&runtimeapi.PortMapping{ContainerPort: 8080}))
		p.start(serve("tcp", "8080", "inside")).says("serving")
		t.equal("answer", t.ask("tcp", p.ip()+":8080"), "inside ?")
		if c, err := t.dialNode("tcp", nodeAddress+":8080"); err == nil {
			_ = c.Close()
			t.errorf("the node listens on the container's port")
		}
	}},
	{"network/host port TCP", func(t *T) {
		port := t.hostPort()
		p := t.pod(ports(&runtimeapi.PortMapping{ContainerPort: 8080, HostPort: port}))
		p.start(serve("tcp", "8080", "mapped")).says("serving")
		t.equal("answer", t.ask("tcp", address(t.nodeIP(), port)), "mapped ?")
		t.equal("answer to another pod", t.pod().sees("echo '?' | nc "+t.nodeIP()+" "+address("", port)[1:]), "mapped ?")
		t.must(p.stop())
		if c, err := t.dialNode("tcp", address(t.nodeIP(), port)); err == nil {
			_ = c.Close()
			t.errorf("the port of a stopped pod is open")
		}
	}},
	{"network/host port UDP beside TCP", func(t *T) {
		port := t.hostPort()
		p := t.pod(ports(
			&runtimeapi.PortMapping{Protocol: runtimeapi.Protocol_UDP, ContainerPort: 8053, HostPort: port},
			&runtimeapi.PortMapping{Protocol: runtimeapi.Protocol_TCP, ContainerPort: 8054, HostPort: port},
		))
		p.start(serve("udp", "8053", "by packet")).says("serving")
		p.start(serve("tcp", "8054", "by stream")).says("serving")
		t.equal("UDP", t.ask("udp", address(t.nodeIP(), port)), "by packet ?")
		t.equal("TCP", t.ask("tcp", address(t.nodeIP(), port)), "by stream ?")
	}},
	{"network/host port at one address", func(t *T) {
		port := t.hostPort()
		p := t.pod(ports(&runtimeapi.PortMapping{ContainerPort: 8080, HostPort: port, HostIp: t.nodeIP()}))
		p.start(serve("tcp", "8080", "there")).says("serving")
		t.equal("at the address", t.ask("tcp", address(t.nodeIP(), port)), "there ?")
		if c, err := t.dialNode("tcp", address("127.0.0.1", port)); err == nil {
			_ = c.Close()
			t.errorf("the port is open at another address")
		}
	}},
	{"network/host port at the node's loopback", func(t *T) {
		port := t.hostPort()
		t.pod(ports(&runtimeapi.PortMapping{ContainerPort: 8080, HostPort: port})).start(serve("tcp", "8080", "mapped")).says("serving")
		t.equal("answer", t.ask("tcp", address("127.0.0.1", port)), "mapped ?")
	}},
	{"network/host port again", func(t *T) {
		port := t.hostPort()
		for _, text := range []string{"first", "second"} {
			p := t.pod(ports(&runtimeapi.PortMapping{ContainerPort: 8080, HostPort: port}))
			p.start(serve("tcp", "8080", text)).says("serving")
			t.equal("answer", t.ask("tcp", address(t.nodeIP(), port)), text+" ?")
			t.must(p.stop())
		}
	}},
	{"network/host port 0 is none", func(t *T) {
		p := t.pod(ports(&runtimeapi.PortMapping{ContainerPort: 8080, HostPort: 0}, &runtimeapi.PortMapping{ContainerPort: 0, HostPort: 0}))
		t.equal("state", p.status().State, ready)
	}},
	{"network/DNS config", func(t *T) {
		p := t.pod(func(c *podConfig) {
			c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"10.10.10.10", "2001:db8::1"}, Searches: []string{"a.example", "b.example"}, Options: []string{"ndots:8", "rotate"}}
		})
		t.equal("resolv.conf", p.sees("cat /etc/resolv.conf"), "search a.example b.example\nnameserver 10.10.10.10\nnameserver 2001:db8::1\noptions ndots:8 rotate")
	}},
	{"network/DNS config of the node", func(t *T) {
		want, err := readTrim("/etc/resolv.conf")
		t.must(err)
		t.equal("without a config", t.pod().sees("cat /etc/resolv.conf"), want)
	}},
	{"network/DNS config that is empty", func(t *T) {
		// A kubelet never sends it: dnsPolicy None needs a server.
		want, err := readTrim("/etc/resolv.conf")
		t.must(err)
		if got := t.pod(func(c *podConfig) { c.DnsConfig = &runtimeapi.DNSConfig{} }).sees("cat /etc/resolv.conf"); got != "" && got != want {
			t.errorf("neither empty nor the node's: %s", got)
		}
	}},
	{"network/DNS config that is refused", func(t *T) {
		for name, d := range map[string]*runtimeapi.DNSConfig{
			"line break in a server": {Servers: []string{"10.10.10.10\nnameserver 10.9.9.9"}},
			"line break in a search": {Searches: []string{"a.example\nnameserver 10.9.9.9"}},
			"line break in options":  {Options: []string{"ndots:5\nnameserver 10.9.9.9"}},
		} {
			p, err := t.tryPod(func(c *podConfig) { c.DnsConfig = d })
			if err != nil {
				continue
			}
			for line := range strings.Lines(p.sees("cat /etc/resolv.conf")) {
				if strings.HasPrefix(line, "nameserver 10.9.9.9") {
					t.errorf("%s: it made a server", name)
				}
			}
		}
	}},
	{"network/loopback is up", func(t *T) {
		t.contains("lo", t.pod().sees("ip addr show lo"), "127.0.0.1/8", "UP")
	}},
}

func address(host string, port int32) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// nodeIP is an address of the node that is not its loopback's.
func (t *T) nodeIP() (ip string) {
	t.must(t.in(func() error {
		addrs, err := net.InterfaceAddrs()
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() && ip == "" {
				ip = n.IP.String()
			}
		}
		return err
	}))
	if ip == "" {
		t.fatalf("the node has no address")
	}
	return ip
}

func readTrim(path string) (string, error) {
	data, err := os.ReadFile(path)
	return strings.TrimSpace(string(data)), err
}
