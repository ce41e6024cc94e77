package authguard

import (
	"net/netip"
	"testing"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

// try sends one request from addr whose authentication ends with failure, and returns Retry-After if it was refused.
func try(w *policytest.World, h policy.Hooks, addr, failure string) (retry string) {
	x := w.Exchange("/")
	defer x.Close()
	x.ClientAddr = netip.MustParseAddr(addr)
	if err := h.Request(x); err != nil {
		value, _ := x.ToClient.Value("Retry-After")
		retry = string(value)
	} else {
		x.AuthFailure = failure
	}
	h.Done(x)
	return retry
}

func TestGuard(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "")
	f := func(addr, failure string, times int, want string) {
		t.Helper()
		for range times {
			if got := try(w, h, addr, failure); got != want {
				t.Fatalf("%s %s: Retry-After %q, want %q", addr, failure, got, want)
			}
		}
	}
	f("192.0.2.1", "bad_signature", 20, "")
	f("192.0.2.1", "bad_signature", 100, "3")
	f("192.0.2.1", "", 1, "3") // a good credential too: it may be a guess
	f("192.0.2.2", "", 100, "")
	w.Advance(3 * time.Second)
	f("192.0.2.1", "unknown_key", 1, "")
	f("192.0.2.1", "unknown_key", 1, "3")
	w.Advance(time.Hour)
	f("192.0.2.1", "", 100, "")
	f("192.0.2.1", "wrong_password", 20, "")
	f("192.0.2.1", "wrong_password", 1, "3")

	for _, failure := range []string{"missing", "expired", "not_yet_valid", "no_keys"} {
		f("192.0.2.9", failure, 100, "")
	}
	f("2001:db8::1", "malformed", 10, "")
	f("2001:db8::2:1", "malformed", 10, "")
	f("2001:db8::3", "malformed", 1, "3")
	f("2001:db8:0:1::1", "malformed", 1, "")
}

func TestSettings(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{failures: 1, per: 1h}")
	if try(w, h, "192.0.2.1", "malformed") != "" || try(w, h, "192.0.2.1", "malformed") != "3600" {
		t.Fatal("one failure an hour")
	}
	w.Fails(t, Definition, "failures: 0", "out of range")
	w.Fails(t, Definition, "per: 10", "no unit")
}

func TestCountsAreSharedAndOutliveReloads(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "failures: 2")
	try(w, h, "192.0.2.1", "malformed")
	try(w, w.MustBuild(t, Definition, "failures: 2"), "192.0.2.1", "malformed")
	end := w.Reload()
	h = w.MustBuild(t, Definition, "failures: 2")
	end()
	if try(w, h, "192.0.2.1", "") == "" {
		t.Fatal("failures were forgotten")
	}
	if w.Living.Len() != 1 {
		t.Fatal(w.Living.Len())
	}
	w.DryRun = true
	w.MustBuild(t, Definition, "failures: 3")
	if w.Living.Len() != 1 {
		t.Fatal("a validation holds state")
	}
}

func TestAllocations(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "failures: 1")
	pass := func(what, failure string, want error) {
		w.NoAllocations(t, what, func(x *exchange.Exchange) {
			if err := h.Request(x); err != want {
				t.Fatal(err)
			}
			x.AuthFailure = failure
			h.Done(x)
		})
	}
	pass("pass", "", nil)
	try(w, h, "192.0.2.1", "malformed")
	pass("refused", "malformed", refused)
}

func BenchmarkPass(b *testing.B) {
	w := policytest.New(b, "")
	h := w.MustBuild(b, Definition, "")
	x := w.Exchange("/")
	b.ReportAllocs()
	for b.Loop() {
		if h.Request(x) != nil {
			b.Fatal("refused")
		}
		h.Done(x)
	}
}
