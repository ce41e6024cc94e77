package listener

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
)

// proxyHeader is what the first bytes of a connection say in the PROXY
// protocol, version 1 or 2, by the specification of HAProxy.
type proxyHeader struct {
	verdict proxyVerdict
	// length of the whole header if it is good. In version 2 it may go beyond
	// the bytes that were looked at: what follows the addresses is of no interest.
	length int
	// client is whom the proxy speaks for; not valid where that is itself, or
	// where the header does not tell: then it is the peer of the socket.
	client netip.Addr
}

type proxyVerdict uint8

const (
	proxyMore   proxyVerdict = iota // what has come may be the beginning of a header
	proxyAbsent                     // it is none
	proxyBad                        // it is one, and malformed or too long
	proxyGood
)

const (
	proxyV1 = "PROXY "
	proxyV2 = "\r\n\r\n\x00\r\nQUIT\n"
	// maxProxyV1 is the longest line of version 1, with its end.
	maxProxyV1 = 107
	// proxyV2Fixed is what comes before the addresses, proxyUnix the longest of those.
	proxyV2Fixed = len(proxyV2) + 4
	proxyUnix    = 216
	// proxyLook is how many bytes are enough for a verdict.
	proxyLook = proxyV2Fixed + proxyUnix
	// maxProxyV2 bounds a header of version 2 with all that it carries beside the
	// addresses.
	maxProxyV2 = 4 << 10
)

// readProxyHeader looks for a header at the beginning of a connection, whose
// first bytes are b.
func readProxyHeader(b []byte) proxyHeader {
	switch {
	case begins(b, proxyV1):
		if len(b) > len(proxyV1) {
			return readProxyV1(b[:min(len(b), maxProxyV1)])
		}
	case begins(b, proxyV2):
		if len(b) > len(proxyV2) {
			return readProxyV2(b)
		}
	default:
		return proxyHeader{verdict: proxyAbsent}
	}
	return proxyHeader{verdict: proxyMore}
}

// begins reports whether b and s agree as far as the shorter of them goes.
func begins(b []byte, s string) bool {
	n := min(len(b), len(s))
	return string(b[:n]) == s[:n]
}

var badProxyHeader = proxyHeader{verdict: proxyBad}

// readProxyV1 reads the line of version 1, of which b is the beginning.
func readProxyV1(b []byte) proxyHeader {
	line := string(b)
	end := strings.IndexAny(line, "\r\n")
	switch {
	case end < 0 && len(line) == maxProxyV1:
		return badProxyHeader
	case end < 0 || end == len(line)-1 && line[end] == '\r' && len(line) < maxProxyV1:
		return proxyHeader{}
	case !strings.HasPrefix(line[end:], "\r\n"):
		return badProxyHeader
	}
	h := proxyHeader{verdict: proxyGood, length: end + 2}
	fields := strings.Split(line[len(proxyV1):end], " ")
	if fields[0] == "UNKNOWN" {
		// What stands behind it is to be ignored.
		return h
	}
	if len(fields) != 5 || !isPort(fields[3]) || !isPort(fields[4]) {
		return badProxyHeader
	}
	client, err := netip.ParseAddr(fields[1])
	server, err2 := netip.ParseAddr(fields[2])
	if err != nil || err2 != nil || client.Zone() != "" || server.Zone() != "" {
		return badProxyHeader
	}
	switch {
	case fields[0] == "TCP4" && client.Is4() && server.Is4():
	case fields[0] == "TCP6" && client.Is6() && server.Is6():
	default:
		return badProxyHeader
	}
	h.client = client.Unmap()
	return h
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && strconv.FormatUint(n, 10) == s
}

// readProxyV2 reads the addresses of version 2; b has more than the signature.
func readProxyV2(b []byte) proxyHeader {
	const (
		local, proxy = 0x20, 0x21 // version and command
		unspecified  = 0x00       // family and transport
		tcp4, udp4   = 0x11, 0x12
		tcp6, udp6   = 0x21, 0x22
		unix, unixDG = 0x31, 0x32
	)
	b = b[len(proxyV2):]
	command := b[0]
	if command != local && command != proxy {
		return badProxyHeader
	}
	if len(b) < 4 {
		return proxyHeader{}
	}
	size := int(binary.BigEndian.Uint16(b[2:]))
	h := proxyHeader{verdict: proxyGood, length: proxyV2Fixed + size}
	if h.length > maxProxyV2 {
		return badProxyHeader
	}
	if command == local {
		// The proxy speaks for itself, to see whether anybody is there. All else in
		// the header is to be ignored.
		return h
	}
	addresses := b[4:]
	want := 0
	switch b[1] {
	case unspecified:
	case tcp4, udp4:
		want = 12
	case tcp6, udp6:
		want = 36
	case unix, unixDG:
		want = proxyUnix
	default:
		return badProxyHeader
	}
	if size < want {
		return badProxyHeader
	}
	if len(addresses) < want {
		return proxyHeader{}
	}
	switch b[1] {
	case tcp4:
		h.client = netip.AddrFrom4([4]byte(addresses))
	case tcp6:
		h.client = netip.AddrFrom16([16]byte(addresses)).Unmap()
	}
	return h
}
