package cluster

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/gateway/cluster/redistest"
)

// elsewhere is the variable that makes the test's program an instance in a network namespace, which does what it is told on its
// standard input and says on its standard output what came of it.
const elsewhere = "SLUICE_TEST_ELSEWHERE"

const partitionPrefix = "partition"

// partitioned is the limit of this test: it earns next to nothing meanwhile.
func partitioned() *Limits { return bucketOf(1000, 24*time.Hour, 1000) }

func runElsewhere(address string) {
	s := Open(Options{
		Addresses: []string{address}, Prefix: partitionPrefix, Timeout: 50 * time.Millisecond,
		Now: func() int64 { return int64(time.Since(start)) + 1 }, Wall: time.Now,
	})
	l := partitioned()
	defer s.limiter.Register(l)()
	s.Start()
	take := taking(s, "k", l)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var n, passed int
		if _, err := fmt.Sscanf(in.Text(), "take %d", &n); err == nil {
			for range n {
				if take() == Passed {
					passed++
				}
			}
		}
		fmt.Println(s.Up(), s.Instances(), passed)
	}
	_ = s.Close()
}

// instance is one that runs elsewhere.
type instance struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
}

func (i *instance) take(n int) (up bool, instances, passed int) {
	i.t.Helper()
	fmt.Fprintf(i.in, "take %d\n", n)
	line, err := i.out.ReadString('\n')
	if err == nil {
		_, err = fmt.Sscan(line, &up, &instances, &passed)
	}
	if err != nil {
		i.t.Fatalf("the instance in the namespace says %q: %v", line, err)
	}
	return up, instances, passed
}

// A namespace with a link to here, which cut and mend take down and up.
type namespace struct {
	t                *testing.T
	name, link, here string
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may make a network namespace")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("there is no ip (iproute2) to make a network namespace with")
	}
	pid := os.Getpid()
	n := &namespace{t: t, name: fmt.Sprintf("sluice-%d", pid), link: fmt.Sprintf("sl%d", pid)}
	if out, err := exec.Command("ip", "netns", "add", n.name).CombinedOutput(); err != nil {
		t.Skipf("network namespaces are not permitted here: %s", strings.TrimSpace(string(out)))
	}
	t.Cleanup(func() { n.ip("netns", "del", n.name) })
	// Of the network that is set aside for measurements (RFC 2544), a part that other runs on this machine have not got.
	net := fmt.Sprintf("198.18.%d.%d", pid>>6&255, pid&63*4)
	net = net[:strings.LastIndex(net, ".")+1]
	n.here = fmt.Sprint(net, pid&63*4+1)
	there := "p" + n.link
	if out, err := exec.Command("ip", "link", "add", n.link, "type", "veth", "peer", "name", there, "netns", n.name).CombinedOutput(); err != nil {
		t.Skipf("links between network namespaces are not permitted here: %s", strings.TrimSpace(string(out)))
	}
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", n.link).Run() })
	n.ip("addr", "add", n.here+"/30", "dev", n.link)
	n.ip("link", "set", n.link, "up")
	n.ip("-n", n.name, "addr", "add", fmt.Sprint(net, pid&63*4+2, "/30"), "dev", there)
	n.ip("-n", n.name, "link", "set", there, "up")
	return n
}

func (n *namespace) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func (n *namespace) cut()  { n.ip("link", "set", n.link, "down") }
func (n *namespace) mend() { n.ip("link", "set", n.link, "up") }

func (n *namespace) start(address string) *instance {
	n.t.Helper()
	cmd := exec.Command("ip", "netns", "exec", n.name, os.Args[0])
	cmd.Env = append(os.Environ(), elsewhere+"="+address)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		_ = in.Close()
		end := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		end.Stop()
	})
	return &instance{n.t, in, bufio.NewReader(out)}
}

// An instance that the network has parted from the store and from the others goes on with its share, and what it has used meanwhile
// is missing from the limit when it is back.
func TestNetworkPartition(t *testing.T) {
	n := newNamespace(t)
	server := redistest.Start(t, "--bind", "127.0.0.1", n.here, "--protected-mode", "no")
	_, port, _ := net.SplitHostPort(server.Address)
	far := n.start(net.JoinHostPort(n.here, port))
	near := open(t, func(o *Options) { o.Prefix = partitionPrefix }, server.Address)
	l := partitioned()
	defer near.limiter.Register(l)()
	take := taking(near, "k", l)
	eventually(t, "both know of each other", func() bool {
		up, instances, _ := far.take(0)
		return up && instances == 2 && near.Up() && near.Instances() == 2
	})
	total := 0
	for range 50 {
		if take() == Passed {
			total++
		}
	}
	_, _, passed := far.take(50)
	if total += passed; total != 100 {
		t.Fatalf("%d of 100 passed", total)
	}

	n.cut()
	eventually(t, "the instance is parted", func() bool {
		up, _, _ := far.take(0)
		return !up
	})
	_, _, alone := far.take(2000)
	t.Logf("parted, it has passed %d of 1000", alone)
	if total += alone; alone == 0 || alone > 500 {
		t.Errorf("%d passed while it was parted, want its share, at most half of 1000", alone)
	}
	eventually(t, "the other one is alone", func() bool { return near.Up() && near.Instances() == 1 })
	eventually(t, "the other one still serves", func() bool { return take() == Passed })
	total++

	n.mend()
	eventually(t, "it is back", func() bool {
		up, instances, _ := far.take(0)
		return up && instances == 2 && near.Instances() == 2
	})
	// What it has used alone is told by its first request at the latest; then both use up all that is left.
	for quiet := time.Now(); time.Since(quiet) < 3*time.Second; time.Sleep(time.Millisecond) {
		_, _, passed := far.take(1)
		if take() == Passed {
			passed++
		}
		if passed > 0 {
			quiet, total = time.Now(), total+passed
		}
	}
	t.Logf("%d passed of 1000 in all", total)
	if total < 997 || total > 1003 {
		t.Errorf("%d passed of a bucket of 1000", total)
	}
}
