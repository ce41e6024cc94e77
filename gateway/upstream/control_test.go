package upstream

import (
	"net"
	"strings"
	"testing"
	"time"
)

// A service of a cluster whose name leads to this machine, or to what the network tells it alone, led requests there.
func TestWhereServicesOfSourcesMayBe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	f := func(source, address string, resolve map[string]string, refused bool) {
		t.Helper()
		p := NewPool(PoolSettings{Network: "tcp", Address: address, Source: source, MaxConns: 1}, nil, resolve)
		p.connect.Store(int64(time.Second))
		c, err := p.dial()
		if err == nil {
			_ = c.Close()
		}
		if is := err != nil && strings.Contains(err.Error(), "is no address that a service of the source"); is != refused {
			t.Errorf("%s %s: %v", source, address, err)
		}
	}
	f("", "127.0.0.1:"+port, nil, false)
	f("consul", "127.0.0.1:"+port, nil, false)
	f("kubernetes", "127.0.0.1:"+port, nil, true)
	f("kubernetes", "localhost:"+port, nil, true)
	f("kubernetes", "[::ffff:127.0.0.1]:"+port, nil, true)
	f("kubernetes", "[::1]:"+port, nil, true)
	f("kubernetes", "a.ns.svc:80", map[string]string{"a.ns.svc:80": "127.0.0.1:" + port}, false) // --resolve is the operator's
	for _, source := range []string{"kubernetes", "consul"} {
		f(source, "169.254.169.254:80", nil, true)
		f(source, "[::ffff:169.254.169.254]:80", nil, true)
		f(source, "[fd00:ec2::254]:80", nil, true)
		f(source, "0.0.0.0:"+port, nil, true)
	}
}
