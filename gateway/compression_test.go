package gateway_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	brotli "github.com/molecule-man/go-brrr"

	"sluice/gateway"
)

// decompress reads a body in a coding.
func decompress(t testing.TB, coding string, r io.Reader) io.Reader {
	t.Helper()
	var (
		out io.Reader
		err error
	)
	switch coding {
	case "gzip":
		out, err = gzip.NewReader(r)
	case "br":
		out = brotli.NewReader(r)
	case "zstd":
		out, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	default:
		return r
	}
	if err != nil {
		t.Fatalf("%s: %v", coding, err)
	}
	return out
}

func decompressed(t testing.TB, coding, body string) string {
	t.Helper()
	got, err := io.ReadAll(decompress(t, coding, strings.NewReader(body)))
	if err != nil {
		t.Fatalf("%s of %d bytes: %v", coding, len(body), err)
	}
	return string(got)
}

// textual is framed with a type, a tag and what the target's query adds to the head.
func textual(head, body string) string {
	extra := "Content-Type: text/plain\r\nETag: \"v1\"\r\nAccept-Ranges: bytes\r\n"
	if v, ok := field(head, "If-None-Match"); ok && strings.Contains(v, `"v1"`) {
		return "HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\n\r\n"
	}
	if v, ok := field(head, "If-Match"); ok {
		return reply(200, "if-match "+v)
	}
	if strings.Contains(head, "/part/") {
		return "HTTP/1.1 206 Partial Content\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1999/5000\r\nContent-Length: 2000\r\n\r\n" + text(2000)
	}
	answer := framed(head, body)
	line, rest, _ := strings.Cut(answer, "\r\n")
	return line + "\r\n" + extra + rest
}

func TestCompression(t *testing.T) {
	s := answering(t, textual)
	g := forward(t, s, "", "", "policies: {compression: {}}\n")
	c := g.client()
	for _, coding := range []string{"gzip", "br", "zstd", "identity"} {
		for _, framing := range []string{"length", "chunked"} {
			for _, n := range []int{1, 1023, 1024, 5000, 65_536, 65_537, 300_000} {
				eligible := n >= 1024 || framing == "chunked" // whose length is not known
				coded := coding != "identity" && eligible
				want := text(n)
				check := func(head, body, over string) {
					t.Helper()
					got, _ := field(head, "Content-Encoding")
					tag, _ := field(head, "ETag")
					ranges, _ := field(head, "Accept-Ranges")
					wantCoding, wantTag, wantRanges := "", `"v1"`, "bytes"
					if coded {
						wantCoding, wantTag, wantRanges = coding, `"v1~`+coding+`"`, ""
					}
					varies := strings.Contains(head, "Vary: Accept-Encoding\r\n")
					if got != wantCoding || tag != wantTag || ranges != wantRanges || varies != eligible {
						t.Errorf("%s %s %d over %s: %s", coding, framing, n, over, head)
						return
					}
					if body := decompressed(t, got, body); body != want {
						t.Errorf("%s %s %d over %s: %q, want %q", coding, framing, n, over, abbreviate(body), abbreviate(want))
					}
				}
				request := fmt.Sprintf("GET /%s/%d HTTP/1.1\r\nHost: a\r\nAccept-Encoding: %s\r\n\r\n", framing, n, coding)
				c.send(request)
				head := c.head()
				body, _ := c.body(head)
				check(head, body, "HTTP/1.1")
				old := g.client()
				old.send(strings.Replace(request, "HTTP/1.1", "HTTP/1.0", 1))
				head = old.head()
				body, whole := old.rest()
				if !whole {
					t.Errorf("%s: the connection broke", request)
				}
				check(head, body, "HTTP/1.0")
			}
		}
	}
	c.send("GET /part/2000 HTTP/1.1\r\nHost: a\r\nRange: bytes=0-1999\r\nAccept-Encoding: gzip\r\n\r\n")
	if head := c.head(); statusOf(head) != 206 || strings.Contains(head, "Content-Encoding") {
		t.Error(head)
	} else if body, _ := c.body(head); body != text(2000) {
		t.Error("the part changed")
	}
}

func TestBridgeCompression(t *testing.T) {
	bridges(t, func(t *testing.T, b bridge) {
		s := answering(t, textual)
		g := b.forward(t, s, "", "policies: {compression: {}}\n")
		client := b.client(g)
		for _, coding := range []string{"gzip", "br", "zstd"} {
			for _, target := range []string{"/length/5000", "/chunked/5000", "/length/200000", "/chunked/200000"} {
				res, body := g.get2(client, b.request(g, "GET", target, nil, "Accept-Encoding: "+coding))
				n, _ := strconv.Atoi(target[strings.LastIndexByte(target, '/')+1:])
				if got := res.Header.Get("Content-Encoding"); got != coding || decompressed(t, coding, body) != text(n) {
					t.Errorf("%s in %s: %v", target, coding, res.Header)
				}
			}
		}
	})
}

// HEAD tells what GET would, as far as it is known.
func TestCompressionHead(t *testing.T) {
	s := answering(t, textual)
	g := forward(t, s, "", "policies: {compression: {}, cache: {ttl: 1h}}", "")
	c := g.client()
	const fields = " HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n"
	f := func(request, encoding, length string) {
		t.Helper()
		c.send(request + fields)
		head := c.head()
		if strings.HasPrefix(request, "GET") {
			_, _ = c.body(head)
		}
		gotEncoding, _ := field(head, "Content-Encoding")
		gotLength, _ := field(head, "Content-Length")
		if statusOf(head) != 200 || gotEncoding != encoding || gotLength != length && length != "?" {
			t.Errorf("%s: %s", request, head)
		}
	}
	f("HEAD /head/5000", "gzip", "")
	f("HEAD /head/500", "", "500")
	f("GET /length/5000", "gzip", "?")
	c.send("GET /length/5000" + fields)
	head := c.head()
	body, _ := c.body(head)
	f("HEAD /length/5000", "gzip", strconv.Itoa(len(body)))
	f("GET /length/5000", "gzip", strconv.Itoa(len(body)))
}

// A piece that a backend has sent can be read by the client before the next is sent.
func TestCompressionDoesNotDelay(t *testing.T) {
	seen := make(chan struct{})
	pieces := []string{"first piece ", "and second ", "third ", "x"}
	s := backend(t, func(p *peer) {
		for range 3 {
			if p.head() == "" {
				return
			}
			p.send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
			for _, piece := range pieces {
				p.send(fmt.Sprintf("%x\r\n%s\r\n", len(piece), piece))
				<-seen
			}
			p.send("0\r\n\r\n")
		}
	})
	g := forward(t, s, "", "", "policies: {compression: {}}\n")
	for _, coding := range []string{"gzip", "br", "zstd"} {
		c := g.client()
		c.send("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: " + coding + "\r\n\r\n")
		res, err := http.ReadResponse(c.r, nil)
		if err != nil || res.Header.Get("Content-Encoding") != coding {
			t.Fatal(res, err)
		}
		body := bufio.NewReader(decompress(t, coding, res.Body))
		for _, piece := range pieces {
			got := make([]byte, len(piece))
			if _, err := io.ReadFull(body, got); err != nil || string(got) != piece {
				t.Fatalf("%s: %q, %v", coding, got, err)
			}
			seen <- struct{}{}
		}
		if rest, err := io.ReadAll(body); err != nil || len(rest) > 0 {
			t.Errorf("%s: %q, %v", coding, rest, err)
		}
	}
}

// A body that breaks off is broken for the client too.
func TestCompressionTruncated(t *testing.T) {
	s := backend(t, func(p *peer) {
		if p.head() != "" {
			p.send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 200000\r\n\r\n" + text(100_000))
		}
	})
	g := forward(t, s, "", "", "policies: {compression: {}}\n")
	c := g.client()
	c.send("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, res.Body); err == nil {
		t.Errorf("%d bytes passed for the whole", n)
	}
}

// The cache stores the plain form once, and gives it in whatever form a client
// accepts; what the backend has encoded is left as it is.
func TestCompressionOfStored(t *testing.T) {
	var calls atomic.Int64
	s := answering(t, func(head, body string) string {
		calls.Add(1)
		if strings.Contains(head, "/encoded/") {
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			_, _ = io.WriteString(z, text(5000))
			_ = z.Close()
			return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nVary: Accept-Encoding\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", b.Len(), b.String())
		}
		return textual(head, body)
	})
	g := forward(t, s, "", "policies: {compression: {}, cache: {ttl: 1h}}", "")
	c := g.client()
	get := func(target, fields string) (head, body string) {
		t.Helper()
		c.send("GET " + target + " HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n")
		head = c.head()
		body, _ = c.body(head)
		return head, body
	}
	for i, target := range []string{"/length/5000", "/chunked/100000"} {
		n, _ := strconv.Atoi(target[strings.LastIndexByte(target, '/')+1:])
		for range 3 {
			for _, coding := range []string{"gzip", "br", "zstd", "identity", "gzip"} {
				head, body := get(target, "Accept-Encoding: "+coding+"\r\n")
				got, _ := field(head, "Content-Encoding")
				if got != coding && (coding != "identity" || got != "") || decompressed(t, got, body) != text(n) {
					t.Errorf("%s in %s: %s", target, coding, head)
				}
			}
		}
		if got := int(calls.Load()); got != i+1 {
			t.Errorf("%d calls of the backend", got)
		}
	}
	before := g.metric(`sluice_compressed_bytes_total{route="r",coding="br",side="in"}`)
	get("/length/5000", "Accept-Encoding: br\r\n")
	if after := g.metric(`sluice_compressed_bytes_total{route="r",coding="br",side="in"}`); after != before || after == 0 {
		t.Errorf("%v bytes were compressed before a hit and %v after", before, after)
	}
	if g.metric("sluice_compression_kept_bytes") <= 0 {
		t.Error("nothing is kept")
	}
	for range 2 {
		head, body := get("/encoded/1", "Accept-Encoding: br, gzip\r\n")
		if got, _ := field(head, "Content-Encoding"); got != "gzip" || decompressed(t, got, body) != text(5000) {
			t.Error(head)
		}
	}

	// Conditions work for each form, and only for it.
	f := func(fields string, status int, tag string) {
		t.Helper()
		head, _ := get("/length/5000", fields)
		if got, _ := field(head, "ETag"); statusOf(head) != status || got != tag || !strings.Contains(head, "hit") {
			t.Errorf("%q: %s", fields, head)
		}
	}
	f("Accept-Encoding: gzip\r\nIf-None-Match: \"v1~gzip\"\r\n", 304, `"v1~gzip"`)
	f("Accept-Encoding: br\r\nIf-None-Match: \"v1~gzip\"\r\n", 200, `"v1~br"`)
	f("Accept-Encoding: br\r\nIf-None-Match: W/\"v1~br\"\r\n", 304, `"v1~br"`)
	f("If-None-Match: \"v1\"\r\n", 304, `"v1"`)
	f("If-None-Match: \"v1~gzip\"\r\n", 200, `"v1"`)
	f("Accept-Encoding: gzip\r\nIf-None-Match: \"v2~gzip\"\r\n", 200, `"v1~gzip"`)
	// A part is one of the plain form, and continues no other.
	f("Accept-Encoding: gzip\r\nRange: bytes=0-1\r\n", 206, `"v1"`)
	f("Accept-Encoding: gzip\r\nRange: bytes=0-1\r\nIf-Range: \"v1\"\r\n", 206, `"v1"`)
	f("Accept-Encoding: gzip\r\nRange: bytes=0-1\r\nIf-Range: \"v1~gzip\"\r\n", 200, `"v1~gzip"`)
}

// A condition that the backend judges.
func TestCompressionConditions(t *testing.T) {
	s := answering(t, textual)
	g := forward(t, s, "", "", "policies: {compression: {}}\n")
	c := g.client()
	c.send("GET /length/5000 HTTP/1.1\r\nHost: a\r\nAccept-Encoding: br\r\nIf-None-Match: \"v1~br\"\r\n\r\n")
	if head := c.head(); statusOf(head) != 304 || !strings.Contains(head, `ETag: "v1~br"`) || !strings.Contains(head, "Vary: Accept-Encoding") {
		t.Error(head)
	}
	c.send("PUT /length/5000 HTTP/1.1\r\nHost: a\r\nAccept-Encoding: br\r\nIf-Match: \"v1~br\"\r\nContent-Length: 1\r\n\r\nx")
	c.wants(200, `if-match "v1"`)
}

// Events pass as they are, and a response hook that inspects sees the plain body.
func TestCompressionLeavesEventsAlone(t *testing.T) {
	s := answering(t, func(string, string) string {
		return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(text(5000), 500) + "0\r\n\r\n"
	})
	g := forward(t, s, "", "", "policies: {compression: {content_types: ['text/*']}}\n")
	c := g.client()
	c.send("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
	head := c.head()
	if body, _ := c.body(head); strings.Contains(head, "Content-Encoding") || body != text(5000) {
		t.Error(head)
	}
}

// Hooks of other policies over the same body come first.
func TestCompressionBehindHooks(t *testing.T) {
	s := answering(t, textual)
	for _, do := range []string{"double", "hold", "both"} {
		g := serve(t, changers(), changing(t, s, "{do: "+do+", limit: 30KiB}", "", "policies: {compression: {}, cache: {ttl: 1h}}\n"))
		c := g.client()
		for _, target := range []string{"/length/5000", "/length/100000", "/chunked/5000", "/chunked/40000"} {
			n, _ := strconv.Atoi(target[strings.LastIndexByte(target, '/')+1:])
			want, _ := changed(do, 30<<10, text(n))
			for range 3 {
				c.send("GET " + target + " HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
				head := c.head()
				body, _ := c.body(head)
				got, _ := field(head, "Content-Encoding")
				if got != "gzip" || decompressed(t, got, body) != want {
					t.Errorf("%s %s: %s", do, target, head)
				}
			}
		}
	}
}

// A fixed answer of the gateway is compressed, its refusals are not.
func TestCompressionOfOwn(t *testing.T) {
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
policies: {compression: {min_size: 1}}
routes:
  fixed: {match: {paths: [/fixed]}, respond: {status: 200, body: %q, content_type: text/plain}}
  no: {match: {paths: [/no]}, respond: {status: 200}, policies: {ip_filter: {deny: [127.0.0.0/8]}}}
`, text(4000)))
	c := g.client()
	for range 2 {
		c.send("GET /fixed HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
		head := c.head()
		body, _ := c.body(head)
		if got, _ := field(head, "Content-Encoding"); got != "gzip" || decompressed(t, got, body) != text(4000) {
			t.Error(head)
		}
	}
	c.send("GET /no HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
	if head := c.head(); statusOf(head) != 403 || strings.Contains(head, "Content-Encoding") {
		t.Error(head)
	}
}
