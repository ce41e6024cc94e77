package gateway_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// The cases of the Autobahn testsuite, class by class, against a gateway that takes up WebSockets itself. Answers are those of an
// echo, which come as text wherever they are some.

func TestAutobahn(t *testing.T) {
	address := plainBackend(t, echoing)
	g := bridging(t, address, `to: http, answer: body, max_message: 2MiB, max_answer: 4MiB, in_flight: 16`, "")
	long := func(n int) string { return strings.Repeat("*", n) }
	// f sends the chunks one after the other, wants the frames, each its first byte and its payload, and then a close with the code, or
	// nothing where that is 0: the case ends the connection itself then.
	f := func(name string, code int, sent []string, want ...string) {
		t.Helper()
		c := g.raw()
		for _, chunk := range sent {
			c.send(chunk)
		}
		for _, frame := range want {
			first, payload := c.readFrame()
			if got := string([]byte{first}) + payload; got != frame {
				t.Errorf("%s: frame %x %q, want %x", name, first, abbreviate(payload), abbreviate(frame))
				return
			}
		}
		if code == 0 {
			c.send(maskedFrame(0x88, "\x03\xe8"))
			code = 1000
		}
		first, payload := c.readFrame()
		got := 1005
		if len(payload) >= 2 {
			got = int(payload[0])<<8 | int(payload[1])
		}
		if first != 0x88 || got != code {
			t.Errorf("%s: frame %x %x, want a close with %d", name, first, abbreviate(payload), code)
		}
		// Nobody reads that where the client has said the end, or has begun what it does not end.
		_, _ = c.conn.Write([]byte(maskedFrame(0x88, payload)))
		_ = c.conn.(*net.TCPConn).CloseWrite()
		c.ended()
	}
	one := func(s ...string) []string { return []string{strings.Join(s, "")} }
	chopped := func(s string, n int) (chunks []string) {
		for len(s) > n {
			chunks, s = append(chunks, s[:n]), s[n:]
		}
		return append(chunks, s)
	}
	m := maskedFrame
	answered := func(payload string) string { return string([]byte{0x81}) + payload }
	pong := func(payload string) string { return string([]byte{0x8a}) + payload }

	// 1: framing.
	for _, n := range []int{0, 125, 126, 127, 128, 65535, 65536} {
		f("1.1", 0, one(m(0x81, long(n))), answered(long(n)))
		f("1.2", 0, one(m(0x82, long(n))), answered(long(n)))
	}
	f("1.1.8", 0, chopped(m(0x81, long(65536)), 997), answered(long(65536)))
	f("1.2, bytes", 0, one(m(0x82, "\xfe\xff")), "\x82\xfe\xff")

	// 2: pings and pongs.
	f("2.1", 0, one(m(0x89, "")), pong(""))
	f("2.2", 0, one(m(0x89, "Hello, world!")), pong("Hello, world!"))
	f("2.3", 0, one(m(0x89, "\x00\xff\xfe\xfd")), pong("\x00\xff\xfe\xfd"))
	f("2.4", 0, one(m(0x89, long(125))), pong(long(125)))
	f("2.5", 1002, one(m(0x89, long(126))))
	f("2.6", 0, chopped(m(0x89, long(125)), 1), pong(long(125)))
	f("2.7", 0, one(m(0x8a, "")))
	f("2.8", 0, one(m(0x8a, "unasked")))
	f("2.9", 0, one(m(0x8a, "unasked"), m(0x89, "asked")), pong("asked"))
	var pings string
	var pongs []string
	for _, c := range "0123456789" {
		pings += m(0x89, string(c))
		pongs = append(pongs, pong(string(c)))
	}
	f("2.10", 0, one(pings), pongs...)
	f("2.11", 0, chopped(pings, 1), pongs...)

	// 3: reserved bits.
	for _, bits := range []byte{0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70} {
		f("3", 1002, one(m(0x81|bits, "x")))
		f("3, ping", 1002, one(m(0x89|bits, "x")))
		f("3, close", 1002, one(m(0x88|bits, "")))
	}
	// 4: opcodes.
	for _, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		f("4", 1002, one(m(0x80|op, "")))
		f("4", 1002, chopped(m(0x80|op, "payload"), 1))
	}

	// 5: fragmentation.
	f("5.1", 1002, one(m(0x09, "a"), m(0x80, "b")))
	f("5.2", 1002, one(m(0x0a, "a"), m(0x80, "b")))
	f("5.3", 0, one(m(0x01, "a"), m(0x80, "b")), answered("ab"))
	f("5.5", 0, chopped(m(0x01, "a")+m(0x80, "b"), 1), answered("ab"))
	f("5.6", 0, one(m(0x01, "a"), m(0x89, "ping"), m(0x80, "b")), pong("ping"), answered("ab"))
	f("5.8", 0, chopped(m(0x01, "a")+m(0x89, "ping")+m(0x80, "b"), 1), pong("ping"), answered("ab"))
	f("5.9", 1002, one(m(0x80, "nothing"), m(0x81, "x")))
	f("5.12", 1002, one(m(0x00, "nothing"), m(0x81, "x")))
	f("5.16", 1002, one(m(0x00, "a"), m(0x01, "b"), m(0x80, "c")))
	f("5.18", 1002, one(m(0x01, "a"), m(0x81, "b")))
	f("5.19", 0, one(m(0x01, "a"), m(0x00, "b"), m(0x89, "1"), m(0x00, "c"), m(0x00, "d"), m(0x89, "2"), m(0x80, "e")), pong("1"), pong("2"), answered("abcde"))

	// 6: UTF-8.
	f("6.1", 0, one(m(0x01, ""), m(0x00, ""), m(0x80, "")), answered(""))
	f("6.1.3", 0, one(m(0x01, ""), m(0x00, "middle"), m(0x80, "")), answered("middle"))
	for _, s := range []string{
		"Hello-µ@ßöäüàá-UTF-8!!", "κόσμε", "\x00", "\u0080", "\u0800", "\U00010000", "\u007f", "\u07ff", "\uffff", "\ud7ff", "\ue000", "\ufffd", "\U0010ffff",
		"\ufffe", "\uffff", "\U0001fffe", "\U0010fffe",
	} {
		f("6, "+s, 0, one(m(0x81, s)), answered(s))
		f("6, "+s, 0, chopped(m(0x81, s), 1), answered(s))
		var pieces string
		for i := range len(s) {
			op := byte(0)
			if i == 0 {
				op = 1
			}
			pieces += m(op, s[i:i+1])
		}
		f("6, "+s, 0, one(pieces, m(0x80, "")), answered(s))
	}
	const begin = "κόσμε"
	for _, s := range []string{
		"\xed\xa0\x80edited", "\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80", "\xf7\xbf\xbf\xbf", "\xf4\x90\x80\x80", "\x80", "\xbf", "\x80\xbf",
		"\xfe", "\xff", "\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xc0\x80",
		"\xed\xad\xbf", "\xed\xbf\xbf", "\xed\xa0\x80\xed\xb0\x80", "\xce ", "\xf0\x90\x80x", "\xe1\x80\xc3",
	} {
		f("6, whole", 1007, one(m(0x81, begin+s)))
		// At once: neither the rest of the message nor that of the frame is waited for.
		f("6.4.1", 1007, one(m(0x01, begin), m(0x00, s)))
		whole := m(0x81, begin+s+long(100))
		f("6.4.3", 1007, one(whole[:len(whole)-100]))
	}
	f("6, unfinished", 1007, one(m(0x81, begin+"\xce")))
	f("6, unfinished", 1007, one(m(0x01, "\xf0\x90\x80"), m(0x80, "")))
	f("6, bytes", 0, one(m(0x02, "\xf0\x90"), m(0x80, "\x80")), "\x82\xf0\x90\x80")

	// 7: closes.
	f("7.1.1", 0, one(m(0x81, "x")), answered("x"))
	f("7.1.2", 1000, one(m(0x88, "\x03\xe8"), m(0x88, "\x03\xe8")))
	f("7.1.3", 1000, one(m(0x88, "\x03\xe8"), m(0x89, "ping")))
	f("7.1.4", 1000, one(m(0x88, "\x03\xe8"), m(0x81, "text")))
	f("7.1.5", 1000, one(m(0x01, "a"), m(0x88, "\x03\xe8"), m(0x80, "b")))
	f("7.3.1", 1005, one(m(0x88, "")))
	f("7.3.2", 1002, one(m(0x88, "a")))
	f("7.3.2", 1002, chopped(m(0x88, "a"), 1))
	f("7.3.2, behind a message", 1002, one(m(0x01, ""), m(0x88, "a")))
	f("7.3.4", 1000, one(m(0x88, "\x03\xe8reason")))
	f("7.3.5", 1000, one(m(0x88, "\x03\xe8"+long(123))))
	f("7.3.6", 1002, one(m(0x88, "\x03\xe8"+long(124))))
	f("7.5.1", 1002, one(m(0x88, "\x03\xe8"+begin+"\xed\xa0\x80")))
	closing := func(code int) string { return string([]byte{byte(code >> 8), byte(code)}) }
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999} {
		f("7.7", code, one(m(0x88, closing(code))))
	}
	for _, code := range []int{0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535} {
		f("7.9", 1002, one(m(0x88, closing(code))))
	}

	// 9 and 10: sizes.
	for _, n := range []int{1 << 16, 1 << 18, 1 << 20} {
		f("9.1", 0, one(m(0x81, long(n))), answered(long(n)))
		for _, size := range []int{64, 1300, 1 << 14} {
			var b strings.Builder
			op := byte(0x01)
			for _, piece := range chopped(long(n), size) {
				b.WriteString(m(op, piece))
				op = 0x00
			}
			b.WriteString(m(0x80, ""))
			f("9.3", 0, one(b.String()), answered(long(n)))
		}
	}
	f("9, too large", 1009, one(m(0x81, long(2<<20+1))[:1<<10]))
}

// A client that takes nothing holds what answers it only until its connection is over.
func TestSocketTakesNothing(t *testing.T) {
	address := plainBackend(t, echoing)
	g := bridging(t, address, `to: http, answer: body, max_message: 1MiB, in_flight: 2, idle_timeout: 100ms, ping: 0s`, "")
	c := g.raw()
	go func() {
		large := maskedFrame(0x82, text(1<<20))
		for range 64 {
			if _, err := c.conn.Write([]byte(large)); err != nil {
				return
			}
		}
	}()
	once(t, "it is open", func() bool { return g.metric(`sluice_websocket_messages_total{direction="in",route="r"}`) > 1 })
	once(t, "it is over", func() bool { return g.metric(`sluice_websocket_connections{route="r"}`) == 0 })
}

// What a client says stands in the body where it was put, whatever is in it.
func TestMessageStaysInItsPlace(t *testing.T) {
	address := plainBackend(t, echoing)
	g := bridging(t, address, `to: http, answer: body, body: '{"user": "${header.X-User}", "text": "<${message.text}>", "n": ${message.n}, "k": ${header.X-K}, "all": ${message}}'`, "")
	ws := g.dialSocket("/ws", `X-User: a", "role": "admin`, `X-K: 1, "b": 2`)
	f := func(message, want string) {
		t.Helper()
		if got := said(t, ws, message); got != want {
			t.Errorf("%s became %s, want %s", message, got, want)
		}
	}
	const head = `{"user": "a\", \"role\": \"admin", "text": "<`
	const key = `, "k": "1, \"b\": 2", "all": `
	f(`{"text":"x\", \"user\": \"root\\","n":{"a":[1]}}`, head+`x\", \"user\": \"root\\>", "n": {"a":[1]}`+key+`{"text":"x\", \"user\": \"root\\","n":{"a":[1]}}}`)
	f(`"}`, head+`>", "n": null`+key+`"\"}"}`)
	ws = g.dialSocket("/ws", `X-K: 12.5`)
	f(`{}`, `{"user": "", "text": "<>", "n": null, "k": 12.5, "all": {}}`)
	// What is no JSON is a text as it is.
	g = bridging(t, address, `to: http, answer: body, body: 'say "${message.text}"'`, "")
	ws = g.dialSocket("/ws")
	f(`{"text":"\"a\""}`, `say ""a""`)
}

// What a message says stays in its segment of a path, and its parameter of a query, as the service sees them on the wire.
func TestMessageStaysInItsSegment(t *testing.T) {
	address := plainBackend(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RequestURI) })
	g := bridging(t, address, `to: http, answer: body, path: "/rooms/${message.room}/say", query: {q: "${message.q}"}, headers: {X-H: "${message.h}"}`, "")
	ws := g.dialSocket("/ws")
	f := func(message, want string) {
		t.Helper()
		got := said(t, ws, message)
		if bad := strings.Contains(got, `"urn:sluice:message_value"`); bad != (want == "") || !bad && got != want {
			t.Errorf("%s became %s, want %s", message, got, want)
		}
	}
	f(`{"room":"a?b#c d%2fe;x","q":"1&r=2#?%00"}`, "/rooms/a%3Fb%23c%20d%252fe;x/say?q=1%26r%3D2%23%3F%2500")
	f(`{"room":"%2e%2e","q":""}`, "/rooms/%252e%252e/say")
	for _, room := range []string{"", "..", ".", "..;a", "a/b", "a\\\\b", "a\\r\\nb", "\\u0000"} {
		f(`{"room":"`+room+`"}`, "")
	}
	f(`{"room":"a","h":"x\r\nX-Admin: 1"}`, "")
	f(`{"room":["a"]}`, "")
}
