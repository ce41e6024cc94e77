package websocketlimit

import (
	"strings"
	"testing"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

var upgrade = []string{"Connection: Upgrade", "Upgrade: websocket"}

func TestRequest(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, `{max_message: 1KiB, max_service_message: 2KiB, rate: {messages: 10, per: 1s}, idle_timeout: 1m, ping: 10s, max_connections: 2, origins: ["https://App.example.com/"]}`)
	x := w.Exchange("/", upgrade...)
	if err := h.Request(x); err != nil {
		t.Fatal(err)
	}
	l := x.Sockets
	if l == nil || l.MaxMessage != 1024 || l.MaxAnswer != 2048 || l.Pace.Interval != int64(100*time.Millisecond) || l.Pace.Burst != 10 || l.Idle != time.Minute || l.Ping != 10*time.Second {
		t.Errorf("%+v", l)
	}
	f := func(want error, headers ...string) *exchange.Exchange {
		t.Helper()
		x := w.Exchange("/", headers...)
		if err := h.Request(x); err != want {
			t.Errorf("%v: %v", headers, err)
		}
		return x
	}
	// Others are neither bounded nor counted.
	if f(nil).Sockets != nil || f(nil, "Connection: Upgrade", "Upgrade: h2c").Sockets != nil || f(nil, "Upgrade: websocket").Sockets != nil {
		t.Error("a request that is no WebSocket has limits")
	}
	f(rejectOrigin, append(upgrade, "Origin: https://evil.example.com")...)
	f(rejectOrigin, append(upgrade, "Origin: null")...)
	second := f(nil, append(upgrade, "Origin: https://app.example.com")...)
	f(rejectFull, upgrade...)
	h.Done(f(nil))
	f(rejectFull, upgrade...)
	h.Done(second)
	h.Done(second)
	f(nil, upgrade...)
	f(rejectFull, upgrade...)
}

// Each has its own where the bound is by somebody.
func TestBy(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, `{max_connections: 1, by: "header:X-Team"}`)
	f := func(team string, want error) *exchange.Exchange {
		t.Helper()
		x := w.Exchange("/", append(upgrade, "X-Team: "+team)...)
		if err := h.Request(x); err != want {
			t.Errorf("%s: %v", team, err)
		}
		return x
	}
	a := f("a", nil)
	f("a", rejectOwn)
	f("b", nil)
	h.Done(a)
	f("a", nil)
	long := strings.Repeat("x", 10_000)
	f(long, nil)
	f(long, rejectOwn)
}

func TestNoAllocations(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, `{max_message: 1KiB, max_connections: 1}`)
	w.NoAllocations(t, "another request", func(x *exchange.Exchange) { _ = h.Request(x) })
	unbounded := w.MustBuild(t, Definition, `{max_message: 1KiB}`)
	w.NoAllocations(t, "a handshake", func(x *exchange.Exchange) { _ = unbounded.Request(x) }, upgrade...)
	full := w.Exchange("/", upgrade...)
	if err := h.Request(full); err != nil {
		t.Fatal(err)
	}
	w.NoAllocations(t, "a refusal", func(x *exchange.Exchange) { _ = h.Request(x) }, upgrade...)
}
