package ha

import (
	"strings"
	"testing"
)

func TestCountUp(t *testing.T) {
	f := func(text string, want int, known bool) {
		t.Helper()
		if n, err := countUp([]byte(text)); n != want || (err == nil) != known {
			t.Errorf("%d, %v", n, err)
		}
	}
	head := "# pxname,svname,status,\n"
	f(head+"clients,FRONTEND,OPEN,\ngateways,gateway-1,UP,\ngateways,gateway-2,DOWN 1/2,\ngateways,gateway-3,UP 1/2,\ngateways,BACKEND,UP,\n", 2, true)
	f(head, 0, true)
	f("# pxname,svname,\n", 0, false)
	f("<html>", 0, false)
}

func TestBalancer(t *testing.T) {
	dir := t.TempDir()
	b, err := NewBalancer(Places{Dir: dir, Log: dir + "/"}, []Server{{"gateway-1", "127.0.0.1:1", "127.0.0.1:2"}, {"gateway-2", "127.0.0.1:3", "127.0.0.1:4"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"bind " + b.Address + "\n", "server gateway-1 127.0.0.1:1 check port 2\n", "server gateway-2 127.0.0.1:3 check port 4\n"} {
		if !strings.Contains(b.Config, want) {
			t.Errorf("the configuration has no %q:\n%s", want, b.Config)
		}
	}
}
