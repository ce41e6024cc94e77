package snapshot

import (
	"bytes"
	"net/netip"

	"sluice/gateway/exchange"
)

// place finds out where the request comes from. What it says about that itself
// counts only if its peer is a trusted proxy.
func (s *Snapshot) place(x *exchange.Exchange) {
	x.ClientAddr = x.PeerAddr
	if len(s.trusted) > 0 && s.isTrusted(x.PeerAddr) {
		s.placeTrusted(x)
	} else if len(x.ForwardedPort) == 0 {
		x.ForwardedPort = portOf(x.Scheme)
	}
}

// placeTrusted believes what the request says.
func (s *Snapshot) placeTrusted(x *exchange.Exchange) {
	x.TrustedPeer = true
	host, port := x.ForwardedHost, []byte(nil)
	var forwarded, chain []byte
	for i := range x.Fields {
		f := &x.Fields[i]
		if f.Kind != exchange.KindForwarded {
			continue
		}
		switch {
		case exchange.EqualFold(f.Name, "forwarded"):
			forwarded = f.Value
		case exchange.EqualFold(f.Name, "x-forwarded-for"):
			chain = f.Value
		case exchange.EqualFold(f.Name, "x-forwarded-proto"):
			if p := lastElement(f.Value); exchange.EqualFold(p, "https") {
				x.Scheme = "https"
			} else if exchange.EqualFold(p, "http") {
				x.Scheme = "http"
			}
		case exchange.EqualFold(f.Name, "x-forwarded-host"):
			host = f.Value
		case exchange.EqualFold(f.Name, "x-forwarded-port"):
			port = f.Value
		}
	}
	switch {
	case chain != nil:
		x.ClientAddr = s.clientOf(chain, x.PeerAddr, parseAddr)
	case forwarded != nil:
		x.ClientAddr = s.clientOf(forwarded, x.PeerAddr, parseForwarded)
	}
	if port == nil {
		port = portIn(host)
	}
	if port == nil {
		port = portOf(x.Scheme)
	}
	x.ForwardedHost, x.ForwardedPort = host, port
}

func (s *Snapshot) isTrusted(a netip.Addr) bool {
	for _, p := range s.trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// clientOf walks a list of hops from the right, past every trusted proxy: the
// first address that is not one is the client's. What stands left of it was
// said by the client and proves nothing.
func (s *Snapshot) clientOf(list []byte, peer netip.Addr, parse func([]byte) (netip.Addr, bool)) netip.Addr {
	client := peer
	for len(list) > 0 {
		var hop []byte
		if i := bytes.LastIndexByte(list, ','); i >= 0 {
			hop, list = list[i+1:], list[:i]
		} else {
			hop, list = list, nil
		}
		a, ok := parse(bytes.Trim(hop, " \t"))
		if !ok {
			return client
		}
		client = a
		if !s.isTrusted(a) {
			return client
		}
	}
	return client
}

// parseAddr reads an address, with a port or without.
func parseAddr(b []byte) (netip.Addr, bool) {
	if len(b) == 0 || len(b) > 64 {
		return netip.Addr{}, false
	}
	if b[0] == '[' {
		end := bytes.IndexByte(b, ']')
		if end < 0 {
			return netip.Addr{}, false
		}
		b = b[1:end]
	} else if i := bytes.IndexByte(b, ':'); i >= 0 && bytes.IndexByte(b[i+1:], ':') < 0 {
		b = b[:i]
	}
	a, err := netip.ParseAddr(string(b))
	return a.Unmap().WithZone(""), err == nil
}

// parseForwarded reads the for= of one element of Forwarded (RFC 7239, section 4).
func parseForwarded(b []byte) (netip.Addr, bool) {
	for len(b) > 0 {
		var pair []byte
		if i := bytes.IndexByte(b, ';'); i >= 0 {
			pair, b = b[:i], b[i+1:]
		} else {
			pair, b = b, nil
		}
		pair = bytes.Trim(pair, " \t")
		if len(pair) > 4 && exchange.EqualFold(pair[:4], "for=") {
			return parseAddr(bytes.Trim(pair[4:], `"`))
		}
	}
	return netip.Addr{}, false
}

func lastElement(list []byte) []byte {
	if i := bytes.LastIndexByte(list, ','); i >= 0 {
		list = list[i+1:]
	}
	return bytes.Trim(list, " \t")
}

var port80, port443 = []byte("80"), []byte("443")

// portIn returns the port that a host names, nil for none.
func portIn(host []byte) []byte {
	if i := bytes.LastIndexByte(host, ':'); i >= 0 && i < len(host)-1 && bytes.IndexByte(host[i:], ']') < 0 {
		return host[i+1:]
	}
	return nil
}

// portOf returns the port of a scheme.
func portOf(scheme string) []byte {
	if scheme == "https" {
		return port443
	}
	return port80
}
