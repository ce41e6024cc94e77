package listener

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"
)

func v2(command, family byte, block string) string {
	return proxyV2 + string([]byte{command, family}) + string(binary.BigEndian.AppendUint16(nil, uint16(len(block)))) + block
}

var (
	block4   = "\x01\x02\x03\x04\x05\x06\x07\x08\x00\x50\x01\xbb"
	block6   = "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x01" + strings.Repeat("\x00", 15) + "\x01" + "\x00\x50\x01\xbb"
	mapped   = strings.Repeat("\x00", 10) + "\xff\xff\x01\x02\x03\x04" + strings.Repeat("\x00", 15) + "\x01" + "\x00\x50\x01\xbb"
	unixPair = strings.Repeat("/a", 108)
)

func TestProxyHeaderSuccess(t *testing.T) {
	f := func(header, client string) {
		t.Helper()
		for _, rest := range []string{"", "GET / HTTP/1.1\r\n\r\n", "\r\n", header} {
			b := []byte(header + rest)
			h := readProxyHeader(b[:min(len(b), proxyLook)])
			if h.verdict != proxyGood || h.length != len(header) {
				t.Errorf("%q: %+v, want %d bytes", header, h, len(header))
			}
			if got := h.client.String(); h.client.IsValid() && got != client || !h.client.IsValid() && client != "" {
				t.Errorf("%q: %s, want %q", header, got, client)
			}
		}
		// Until the addresses are there, more is awaited, wherever it is cut.
		for n := range header {
			switch h := readProxyHeader([]byte(header[:n])); {
			case h.verdict == proxyMore:
			case h.verdict == proxyGood && header[0] == '\r' && n >= proxyV2Fixed && h.length == len(header):
			default:
				t.Errorf("%q: %+v", header[:n], h)
			}
		}
	}
	f("PROXY TCP4 1.2.3.4 5.6.7.8 1234 80\r\n", "1.2.3.4")
	f("PROXY TCP4 255.255.255.255 0.0.0.0 0 65535\r\n", "255.255.255.255")
	f("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", "2001:db8::1")
	f("PROXY TCP6 2001:DB8:0:0:0:0:0:1 ::1 1 2\r\n", "2001:db8::1")
	f("PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
	f("PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n", "1.2.3.4")
	f("PROXY UNKNOWN\r\n", "")
	f("PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", "")
	f("PROXY UNKNOWN whatever  stands here\x00\r\n", "")
	f("PROXY UNKNOWN "+strings.Repeat("x", maxProxyV1-16)+"\r\n", "")

	f(v2(0x21, 0x11, block4), "1.2.3.4")
	f(v2(0x21, 0x21, block6), "2001:db8::1")
	f(v2(0x21, 0x21, mapped), "1.2.3.4")
	f(v2(0x21, 0x12, block4), "")
	f(v2(0x21, 0x22, block6), "")
	f(v2(0x21, 0x31, unixPair), "")
	f(v2(0x21, 0x32, unixPair), "")
	f(v2(0x21, 0x00, ""), "")
	f(v2(0x21, 0x00, "anything"), "")
	f(v2(0x20, 0x00, ""), "")
	f(v2(0x20, 0x11, ""), "")
	f(v2(0x20, 0x11, block4), "")
	f(v2(0x20, 0xff, "anything"), "")
	f(v2(0x21, 0x11, block4+strings.Repeat("t", maxProxyV2-proxyV2Fixed-len(block4))), "1.2.3.4")
	f(v2(0x21, 0x31, unixPair+strings.Repeat("t", 1000)), "")
}

func TestProxyHeaderFailure(t *testing.T) {
	f := func(header string, want proxyVerdict) {
		t.Helper()
		if h := readProxyHeader([]byte(header)); h.verdict != want {
			t.Errorf("%q: %+v, want %d", header, h, want)
		}
	}
	for _, none := range []string{
		"GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PROPFIND / HTTP/1.1\r\n", "POST", "PROXYX", "proxy TCP4 ",
		"\x16\x03\x01", "\r\nGET / HTTP/1.1\r\n", "\r\n\r\n\x00\r\nQUIX", "\n", " PROXY ",
	} {
		f(none, proxyAbsent)
	}
	for _, line := range []string{
		"TCP4 1.2.3.4 5.6.7.8 1 2 ", " TCP4 1.2.3.4 5.6.7.8 1 2", "TCP4  1.2.3.4 5.6.7.8 1 2", "TCP4 1.2.3.4 5.6.7.8 1", "TCP4 1.2.3.4 5.6.7.8 1 2 3",
		"TCP4", "TCP4 ", "", "TCP5 1.2.3.4 5.6.7.8 1 2", "tcp4 1.2.3.4 5.6.7.8 1 2", "UDP4 1.2.3.4 5.6.7.8 1 2", "unknown", "UNKNOWNX",
		"/ HTTP/1.1", "TCP4\t1.2.3.4\t5.6.7.8\t1\t2",
		"TCP4 1.2.3.4.5 5.6.7.8 1 2", "TCP4 1.2.3 5.6.7.8 1 2", "TCP4 01.2.3.4 5.6.7.8 1 2", "TCP4 1.2.3.256 5.6.7.8 1 2", "TCP4 a.b.c.d 5.6.7.8 1 2",
		"TCP4 ::1 ::1 1 2", "TCP6 1.2.3.4 5.6.7.8 1 2", "TCP6 ::1 5.6.7.8 1 2", "TCP4 1.2.3.4 ::1 1 2", "TCP6 fe80::1%eth0 ::1 1 2", "TCP6 ::1 fe80::1%eth0 1 2",
		"TCP4 1.2.3.4 5.6.7.8 65536 2", "TCP4 1.2.3.4 5.6.7.8 1 65536", "TCP4 1.2.3.4 5.6.7.8 -1 2", "TCP4 1.2.3.4 5.6.7.8 01 2", "TCP4 1.2.3.4 5.6.7.8 +1 2",
		"TCP4 1.2.3.4 5.6.7.8 1 0x2", "TCP4 1.2.3.4 5.6.7.8  2", "TCP4 1.2.3.4 5.6.7.8 1 2\x00",
	} {
		f(proxyV1+line+"\r\n", proxyBad)
	}
	f("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", proxyBad)
	f("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r", proxyMore)
	f("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rX", proxyBad)
	f("PROXY UNKNOWN \rX\r\n", proxyBad)
	f("PROXY UNKNOWN "+strings.Repeat("x", maxProxyV1-15)+"\r\n", proxyBad)
	f("PROXY UNKNOWN "+strings.Repeat("x", maxProxyV1-15)+"\r", proxyBad)
	f("PROXY UNKNOWN "+strings.Repeat("x", 500), proxyBad)

	for _, command := range []byte{0x22, 0x2f, 0x11, 0x31, 0x01, 0x00, 0xff} {
		f(v2(command, 0x11, block4), proxyBad)
		f(proxyV2+string(command), proxyBad)
	}
	for _, family := range []byte{0x01, 0x10, 0x13, 0x20, 0x23, 0x30, 0x33, 0x41, 0xff} {
		f(v2(0x21, family, block4+unixPair), proxyBad)
	}
	f(v2(0x21, 0x11, block4[1:]), proxyBad)
	f(v2(0x21, 0x11, ""), proxyBad)
	f(v2(0x21, 0x21, block6[1:]), proxyBad)
	f(v2(0x21, 0x21, block4), proxyBad)
	f(v2(0x21, 0x31, unixPair[1:]), proxyBad)
	f(v2(0x21, 0x11, block4+strings.Repeat("t", maxProxyV2)), proxyBad)
	f(v2(0x20, 0x00, strings.Repeat("t", 65535)), proxyBad)
}

// FuzzProxyHeader compares with the reader that Traefik and Caddy use: what is
// taken for a header here is one there, of the same length and with the same
// client, and no cut between two reads changes a verdict.
func FuzzProxyHeader(f *testing.F) {
	for _, s := range []string{
		"PROXY TCP4 1.2.3.4 5.6.7.8 1234 80\r\nGET", "PROXY TCP6 2001:db8::1 ::1 1 2\r\n", "PROXY UNKNOWN\r\n", "PROXY UNKNOWN x y\r\n", "GET / HTTP/1.1\r\n\r\n",
		v2(0x21, 0x11, block4), v2(0x21, 0x21, block6+"\x04\x00\x01x"), v2(0x20, 0x00, ""), v2(0x21, 0x31, unixPair), v2(0x21, 0x12, block4), "PROXY TCP4 1.2.3.4\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h := readProxyHeader(b[:min(len(b), proxyLook)])
		for n := range min(len(b), proxyLook) {
			cut := readProxyHeader(b[:n])
			if cut.verdict != proxyMore && cut != h {
				t.Fatalf("%q: %+v, all of it: %+v", b[:n], cut, h)
			}
		}
		if h.verdict == proxyGood && h.length > len(b) {
			b = append(bytes.Clone(b), make([]byte, h.length-len(b))...)
		}
		r := bufio.NewReaderSize(bytes.NewReader(b), 1<<17)
		other, err := proxyproto.Read(r)
		switch {
		case h.verdict == proxyGood && err != nil:
			// It refuses what the specification leaves open: a proxy that does not tell,
			// and a family that is to be ignored.
			if h.client.IsValid() || b[0] != '\r' {
				t.Fatalf("%q: %+v, the other says %v", b, h, err)
			}
		case h.verdict == proxyGood:
			if got := len(b) - r.Buffered(); got != h.length {
				t.Fatalf("%q: %d bytes, for the other %d", b, h.length, got)
			}
			if !h.client.IsValid() {
				return
			}
			a, ok := other.SourceAddr.(*net.TCPAddr)
			if !ok {
				t.Fatalf("%q: %+v, for the other %v", b, h, other.SourceAddr)
			}
			if ip, _ := netip.AddrFromSlice(a.IP); ip.Unmap() != h.client {
				t.Fatalf("%q: %v, for the other %v", b, h.client, a)
			}
		case h.verdict != proxyBad && err == nil:
			t.Fatalf("%q: %+v, and the other finds one: %+v", b, h, other)
		}
	})
}
