package ipfilter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func TestFilter(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings, addr string, pass bool) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		x := w.Exchange("/")
		defer x.Close()
		x.ClientAddr = netip.Addr{}
		if addr != "" {
			x.ClientAddr = netip.MustParseAddr(addr)
		}
		if err := h.Request(x); err != nil && err != refused || (err == nil) != pass {
			t.Errorf("%s, %s: %v", settings, addr, err)
		}
	}
	f("allow: [10.0.0.0/8]", "10.255.255.255", true)
	f("allow: [10.0.0.0/8]", "11.0.0.0", false)
	f("allow: [10.0.0.0/8]", "9.255.255.255", false)
	f("allow: [10.0.0.0/8]", "::ffff:10.1.2.3", true)
	f("allow: [10.0.0.0/8]", "::1", false)
	f("allow: [10.0.0.0/8]", "", false)
	f("allow: [0.0.0.0/0]", "255.255.255.255", true)
	f("allow: [0.0.0.0/0]", "::1", false)
	f("allow: ['::/0']", "fe80::1%eth0", true)
	f("allow: ['::/0']", "10.0.0.1", false)
	f("allow: [192.0.2.7, '2001:db8::/32']", "192.0.2.7", true)
	f("allow: [192.0.2.7, '2001:db8::/32']", "192.0.2.8", false)
	f("allow: [192.0.2.7, '2001:db8::/32']", "2001:db8:ffff::1", true)
	f("deny: [10.0.0.0/8]", "10.0.0.0", false)
	f("deny: [10.0.0.0/8]", "192.0.2.1", true)
	f("deny: [10.0.0.0/8]", "", true)
	f("{allow: [10.0.0.0/8], deny: [10.1.0.0/16]}", "10.1.2.3", false)
	f("{allow: [10.0.0.0/8], deny: [10.1.0.0/16]}", "10.2.0.0", true)
	f("{allow: [10.1.0.0/16], deny: [10.0.0.0/8]}", "10.1.2.3", false)
}

// The merged ranges agree with asking each network in turn.
func TestRangesAgreeWithNetworks(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := func() netip.Addr {
		// Few distinct bytes, so that networks nest, touch and overlap.
		b := make([]byte, []int{4, 16}[rng.IntN(2)])
		for i := range b {
			b[i] = []byte{0, 1, 0x7f, 0x80, 0xff}[rng.IntN(5)]
		}
		a, _ := netip.AddrFromSlice(b)
		return a
	}
	for range 300 {
		var networks []config.CIDR
		for range rng.IntN(12) {
			a := random()
			p, _ := a.Prefix(rng.IntN(a.BitLen() + 1))
			networks = append(networks, config.CIDR{Prefix: p})
		}
		r := newRanges(networks)
		for range 300 {
			addr, want := random(), false
			for _, n := range networks {
				want = want || n.Contains(addr)
			}
			if r.contain(addr) != want {
				t.Fatalf("%v, %s: %t", networks, addr, !want)
			}
		}
	}
}

func TestBuildFailure(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings, want string) {
		t.Helper()
		w.Fails(t, Definition, settings, want)
	}
	f("{}", "names no network")
	f("allow: [10.0.0.1/8]", "write 10.0.0.0/8")
	f("allow: [nonsense]", "neither an address nor a network")
	f("alow: []", "did you mean allow?")
}

func TestAllocations(t *testing.T) {
	w := policytest.New(t, "")
	for settings, want := range map[string]error{"deny: [10.0.0.0/8]": nil, "allow: [10.0.0.0/8, '::/0']": refused} {
		h := w.MustBuild(t, Definition, settings)
		w.NoAllocations(t, settings, func(x *exchange.Exchange) {
			if err := h.Request(x); err != want {
				t.Fatal(err)
			}
		})
	}
}

func BenchmarkFilter(b *testing.B) {
	for _, n := range []int{1, 16, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var networks []config.CIDR
			for i := range n {
				networks = append(networks, config.CIDR{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(i >> 8), byte(i), 0}), 25)})
			}
			f := &filter{deny: newRanges(networks)}
			x := policytest.New(b, "").Exchange("/")
			b.ReportAllocs()
			for b.Loop() {
				f.request(x)
			}
		})
	}
}
