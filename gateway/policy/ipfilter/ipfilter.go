// Package ipfilter lets requests pass by the address of the client. Networks are merged into sorted ranges when the
// configuration is compiled; a lookup is two binary searches without an allocation.
package ipfilter

import (
	"errors"
	"net/netip"
	"slices"
	"sort"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// Config are the settings of the policy `ip_filter`. The address is the client's, behind trusted proxies the one they vouch for.
type Config struct {
	// Allow: only these networks may pass. Default: all.
	Allow []config.CIDR `yaml:"allow"`
	// Deny: these networks may not pass, whatever is allowed.
	Deny []config.CIDR `yaml:"deny"`
}

// Definition is the policy `ip_filter`.
var Definition = policy.Define("ip_filter", policy.Edge, build)

var refused = exchange.NewReject(403, "address_not_allowed", "this address is not allowed here")

type filter struct {
	allow, deny ranges
	restricted  bool // only what is allowed may pass
}

func build(_ *policy.Build, c *Config) (policy.Hooks, error) {
	if len(c.Allow)+len(c.Deny) == 0 {
		return policy.Hooks{}, errors.New("names no network; give allow or deny, or off")
	}
	f := &filter{allow: newRanges(c.Allow), deny: newRanges(c.Deny), restricted: len(c.Allow) > 0}
	return policy.Hooks{Request: f.request}, nil
}

func (f *filter) request(x *exchange.Exchange) error {
	// Unmap: a dual-stack socket shows IPv4 clients as ::ffff:a.b.c.d. A client without an address, on a Unix socket, is in
	// no network.
	addr := x.ClientAddr.Unmap().WithZone("")
	if f.deny.contain(addr) || f.restricted && !f.allow.contain(addr) {
		return refused
	}
	return nil
}

// ranges are disjoint and sorted; IPv4 addresses come before IPv6.
type ranges []addrRange

type addrRange struct{ first, last netip.Addr }

func newRanges(networks []config.CIDR) ranges {
	all := make(ranges, len(networks))
	for i, n := range networks {
		all[i] = addrRange{n.Masked().Addr(), lastOf(n.Prefix)}
	}
	slices.SortFunc(all, func(a, b addrRange) int { return a.first.Compare(b.first) })
	merged := all[:0]
	for _, r := range all {
		if n := len(merged); n > 0 && merged[n-1].first.BitLen() == r.first.BitLen() && r.first.Compare(merged[n-1].last) <= 0 {
			if merged[n-1].last.Less(r.last) {
				merged[n-1].last = r.last
			}
			continue
		}
		merged = append(merged, r)
	}
	return slices.Clip(merged)
}

// lastOf is the highest address of a network.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

func (r ranges) contain(addr netip.Addr) bool {
	if !addr.IsValid() {
		return false
	}
	// The first range that ends at or after addr is the only one that can hold it.
	i := sort.Search(len(r), func(i int) bool { return !r[i].last.Less(addr) })
	return i < len(r) && !addr.Less(r[i].first)
}
