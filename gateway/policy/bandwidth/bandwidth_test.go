package bandwidth

import (
	"testing"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

// client is a connection that is told a pace.
type client struct {
	pace  exchange.Pace
	meter exchange.Meter
}

func (c *client) Pace(p exchange.Pace, key []byte) {
	c.pace, c.meter.Slowed = p, false
	c.meter.Key = append(c.meter.Key[:0], key...)
}
func (*client) Gone() bool     { return false }
func (*client) InterruptRead() {}
func (*client) Interim([]byte) {}

func TestPiece(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings string, n, piece int, waits ...time.Duration) {
		t.Helper()
		c := &client{}
		x := w.Exchange("/")
		x.Client, x.ConnID = c, 7
		if err := w.MustBuild(t, Definition, settings).Request(x); err != nil {
			t.Fatal(err)
		}
		for i, want := range waits {
			if got, wait := c.pace.Piece(&c.meter, n); got != piece || wait != want {
				t.Errorf("%s, piece %d: %d bytes after %s, want %d after %s", settings, i, got, wait, piece, want)
			}
		}
		_ = x.Close()
		w.Advance(time.Hour)
	}
	const ms = time.Millisecond
	f("rate: 10KiB", 1<<20, 1<<10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100*ms, 200*ms)
	f("{rate: 10KiB, burst: 2KiB}", 1<<20, 1<<10, 0, 0, 100*ms, 200*ms)
	f("{rate: 10KiB, burst: 1KiB}", 512, 512, 0, 0, 50*ms)
	f("{rate: 100MiB, burst: 64KiB}", 1<<20, 64<<10, 0, 625*time.Microsecond)
	f("{rate: 1KiB, burst: 1KiB}", 1<<20, 1<<10, 0, time.Second)
}

// Those who leave while they wait do not have those who come after them wait.
func TestUnsent(t *testing.T) {
	w := policytest.New(t, "")
	c := &client{}
	x := w.Exchange("/")
	defer x.Close()
	x.Client = c
	if err := w.MustBuild(t, Definition, "{rate: 10KiB, burst: 1KiB, by: route}").Request(x); err != nil {
		t.Fatal(err)
	}
	c.pace.Piece(&c.meter, 1<<10)
	for i := range 1000 {
		n, wait := c.pace.Piece(&c.meter, 1<<10)
		if wait != 100*time.Millisecond {
			t.Fatalf("after %d that left: waits %s", i, wait)
		}
		c.pace.Unsent(&c.meter, n)
	}
}

// Who shares a rate waits for the others, and nobody else does.
func TestBy(t *testing.T) {
	f := func(by string, shared bool, change func(x *exchange.Exchange)) {
		t.Helper()
		w := policytest.New(t, "")
		h := w.MustBuild(t, Definition, "{rate: 10KiB, burst: 1KiB, by: '"+by+"'}")
		take := func(change func(x *exchange.Exchange)) time.Duration {
			c := &client{}
			x := w.Exchange("/")
			defer x.Close()
			x.Client, x.ConnID = c, 1
			change(x)
			if err := h.Request(x); err != nil {
				t.Fatal(err)
			}
			_, wait := c.pace.Piece(&c.meter, 1<<10)
			return wait
		}
		take(func(*exchange.Exchange) {})
		if wait := take(change); wait > 0 != shared {
			t.Errorf("by %s: the second waits %s", by, wait)
		}
	}
	same := func(*exchange.Exchange) {}
	conn := func(x *exchange.Exchange) { x.ConnID = 2 }
	alice := func(x *exchange.Exchange) {
		x.Identity.Authenticated, x.Identity.Consumer = true, &exchange.Consumer{Name: "alice"}
	}
	tenant := func(x *exchange.Exchange) { x.Tenant = &exchange.Tenant{Name: "acme"} }
	f("connection", true, same)
	f("connection", false, conn)
	f("ip", true, conn)
	f("route", true, conn)
	f("global", true, tenant)
	f("consumer", false, alice)
	f("tenant", false, tenant)
	f("connection", true, tenant)
}

func TestSlowedOnce(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{rate: 10KiB, burst: 1KiB}")
	c := &client{}
	x := w.Exchange("/")
	defer x.Close()
	x.Client = c
	_ = h.Request(x)
	for range 5 {
		c.pace.Piece(&c.meter, 1<<10)
	}
	if n := w.Metrics.RateLimited.With(w.Generation, "users", "bandwidth").Value(); n != 1 {
		t.Errorf("%d answers were slowed", n)
	}
}

// A copy of a request and a call of an aggregate have no client of their own.
func TestNobodyToPace(t *testing.T) {
	w := policytest.New(t, "")
	x := w.Exchange("/")
	defer x.Close()
	x.Client = nil
	if err := w.MustBuild(t, Definition, "rate: 10KiB").Request(x); err != nil {
		t.Error(err)
	}
}

func TestNoAllocations(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "rate: 1GiB")
	c := &client{}
	w.NoAllocations(t, "pass", func(x *exchange.Exchange) {
		x.Client = c
		_ = h.Request(x)
		c.pace.Piece(&c.meter, 1<<10)
		x.Client = nil
	})
}
