package listener

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

// verdict feeds a stream in pieces of n bytes and tells what passes, how many
// requests have ended, and why it was refused.
func verdict(stream string, n int) (passed int, ended []int, bad *exchange.Reject, open bool) {
	var s strict
	b := []byte(stream)
	for passed < len(b) {
		piece := b[passed:min(len(b), passed+n)]
		for len(piece) > 0 {
			k := s.feed(piece)
			passed += k
			piece = piece[k:]
			if s.bad != nil {
				return passed, ended, s.bad, false
			}
			switch s.state {
			case atUpgraded:
				ended = append(ended, passed)
				s.next()
			case atStart:
				ended = append(ended, passed)
			}
		}
	}
	return passed, ended, s.bad, s.state != atStart
}

func TestStrict(t *testing.T) {
	f := func(stream string, passes int, want *exchange.Reject) {
		t.Helper()
		for n := 1; n <= len(stream); n++ {
			passed, _, bad, _ := verdict(stream, n)
			if passed != passes || bad != want {
				t.Fatalf("%q in pieces of %d: %d bytes pass, %v; want %d, %v", stream, n, passed, bad, passes, want)
			}
		}
	}
	ok := func(stream string) {
		t.Helper()
		f(stream, len(stream), nil)
		if _, _, _, open := verdict(stream, len(stream)); open {
			t.Errorf("%q: more is awaited", stream)
		}
	}
	// refused at the byte that good precedes.
	no := func(good, bad string, want *exchange.Reject) {
		t.Helper()
		f(good+bad, len(good), want)
	}
	ok("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	ok("\r\nGET / HTTP/1.0\r\n\r\n")
	ok("WHAT !\xff HTTP/1.1\r\nHoSt:\r\nX: \t\xff\t\r\n\r\n")
	ok("POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH:\t 003 \t\r\n\r\nabcGET / HTTP/1.0\r\n\r\n")
	ok("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ChunkED \r\n\r\n3\r\nabc\r\n00A;a;b=c;d=\"e\\\"\xff\"\r\n0123456789\r\n0\r\nX: 1\r\n\r\nGET / HTTP/1.0\r\n\r\n")
	ok("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding-X: 1\r\nContent-Lengths: x\r\nTransfer-Encodin: y\r\n\r\n")
	ok("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: b\r\nContent-Length: 2\r\n\r\nhiGET / HTTP/1.0\r\n\r\n")

	const line, host = "GET / HTTP/1.1\r\n", "Host: a\r\n"
	no("\r\n", "\r\n", rejectMalformed)
	no("\r", "x", rejectMalformed)
	no("", "\nGET", rejectMalformed)
	no("GET", "\t/ ", rejectMalformed)
	no("GET ", " / HTTP/1.1", rejectMalformed)
	no("GET /", "\x7f", rejectTarget)
	no("GET /", "\r\n", rejectTarget)
	no("GET / ", " HTTP/1.1", rejectVersion)
	no("GET / HTTP/1.", "2\r\n", rejectVersion)
	no("GET / HTTP/1.1", "\n", rejectVersion)
	no("GET / HTTP/1.1\r", "\r\n", rejectMalformed)
	no(line+host, " folded\r\n", rejectField)
	no(line+"Host", " : a\r\n", rejectField)
	no(line, ": a\r\n", rejectField)
	no(line+"A: b", "\nC: d", rejectField)
	no(line+"A: b\r", "c", rejectField)
	no(line+"A: b", "\x00c", rejectField)
	no(line+"A: 0123456789", "\x7f", rejectField)
	no(line+"A", "\r\n", rejectField)
	no(line+host+"\r", "x", rejectField)
	no(line+"A: b\r\n\r", "\n", rejectHost)
	no(line+host+"host", ": a\r\n", rejectHost)
	no(line+host+"Content-Length: 1\r\nContent-Length", ": 1\r\n", rejectFraming)
	no(line+host+"Content-Length: 1\r\nTransfer-Encoding", ": chunked\r\n", rejectFraming)
	no(line+host+"Content-Length: ", "\r\n", rejectFraming)
	no(line+host+"Content-Length: 1", ",1\r\n", rejectFraming)
	no(line+host+"Content-Length: 1 ", "1\r\n", rejectFraming)
	no(line+host+"Content-Length: 123456789012345678", "9\r\n", rejectFraming)
	no("GET / HTTP/1.0\r\nTransfer-Encoding", ": chunked\r\n", rejectFraming)
	no(line+host+"Transfer-Encoding: chunked", ", a\r\n", rejectFraming)
	no(line+host+"Transfer-Encoding: chunked ", "d\r\n", rejectFraming)
	no(line+host+"Transfer-Encoding: chunke", "\r\n", rejectFraming)
	no(line+host+"Transfer-Encoding: ", "\r\n", rejectFraming)

	const chunks = line + host + "Transfer-Encoding: chunked\r\n\r\n"
	no(chunks, "\r\n", rejectChunk)
	no(chunks, " 1\r\n", rejectChunk)
	no(chunks+"1", " \r\n", rejectChunk)
	no(chunks+"1", " ;a\r\n", rejectChunk)
	no(chunks+"000000000000001", "1\r\n", rejectChunk)
	no(chunks+"1", "\n", rejectChunk)
	no(chunks+"1\r", "\r\n", rejectChunk)
	no(chunks+"1\r\na", "b", rejectChunk)
	no(chunks+"1\r\na", "\n", rejectChunk)
	no(chunks+"1\r\na\r", "\r\n", rejectChunk)
	no(chunks+"1;", "\r\n", rejectChunk)
	no(chunks+"1;a=", "\r\n", rejectChunk)
	no(chunks+"1;a ", "b\r\n", rejectChunk)
	no(chunks+"1;a ", "\r\n", rejectChunk)
	no(chunks+"1;a=\"b", "\r\n\"\r\n", rejectChunk)
	no(chunks+"1;a=\"b\\", "\n\"\r\n", rejectChunk)
	no(chunks+"1;a=\"b\"", "c\r\n", rejectChunk)
	no(chunks+"1;a", "\n", rejectChunk)
	no(chunks+"0\r\nContent-Length", ": 1\r\n\r\n", rejectFraming)
	no(chunks+"0\r\nHost", ": a\r\n\r\n", rejectHost)
	no(chunks+"0\r\nX", " : a\r\n\r\n", rejectField)
	no(chunks+"0\r\nX: a\r\n\r", "x", rejectChunk)

	if _, _, bad, _ := verdict(chunks+strings.Repeat("1;a="+strings.Repeat("b", 1000)+"\r\nx\r\n", 17), 700); bad != rejectChunk {
		t.Errorf("extensions without end: %v", bad)
	}
	if _, _, bad, _ := verdict(chunks+"0\r\n"+strings.Repeat("X: "+strings.Repeat("b", 1000)+"\r\n", 17), 700); bad != rejectChunk {
		t.Errorf("trailers without end: %v", bad)
	}
}

// A writer of requests that are valid, and of what is nearly so.
type scribe struct {
	r *rand.Rand
	b []byte
}

func (w *scribe) one(of ...string) { w.b = append(w.b, of[w.r.IntN(len(of))]...) }

// mostly writes the first, and now and then another.
func (w *scribe) mostly(first string, others ...string) {
	if w.r.IntN(24) > 0 {
		w.b = append(w.b, first...)
		return
	}
	w.one(others...)
}

func (w *scribe) request() {
	if w.r.IntN(12) == 0 {
		w.b = append(w.b, "\r\n"...)
	}
	w.one("GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PURGE", "M-SEARCH")
	w.mostly(" ", "  ", "\t", "")
	w.one("/", "/a/b?c=d", "/%2e%2e/x", "http://a/x?y", "*", "/\xc3\xa9", "//x", "/?a=%00")
	w.mostly(" ", "  ", "\t", "")
	w.mostly("HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", "")
	w.end()
	body := w.r.IntN(3)
	fields := []func(){func() { w.mostly("Host: a", "Host: a\r\nHost: a", "Host:", "host : a", "X: y") }}
	for range w.r.IntN(4) {
		fields = append(fields, func() {
			w.one("X-A", "Accept", "Cookie", "X_b", "Via", "Connection", "Trailer", "Te")
			w.mostly(": ", ":", " : ", ":\t", "", "::")
			w.one("", "b", "a, b", "X-A", "\xff", "q=\"\\\"\"", "Content-Length")
			w.mostly("", " ", "\x00", "\r", "\x7f", "\n", "\r\n ", "\r\n\t")
		})
	}
	n := w.r.IntN(20)
	switch body {
	case 1:
		fields = append(fields, func() {
			w.mostly("Content-Length: ", "Content-Length:", "CONTENT-LENGTH:\t", "Content-Length : ", "Content_Length: ")
			w.mostly(fmt.Sprint(n), fmt.Sprintf("0%d", n), fmt.Sprintf("+%d", n), fmt.Sprintf("%d, %d", n, n), fmt.Sprintf("%d\r\nContent-Length: %d", n, n+1), "-1", "0x1", "")
		})
	case 2:
		fields = append(fields, func() {
			w.mostly("Transfer-Encoding: ", "transfer-encoding:", "Transfer-Encoding : ", "Content-Length: 3\r\nTransfer-Encoding: ")
			w.mostly("chunked", "Chunked", "gzip, chunked", "chunked, identity", "identity", "\"chunked\"", "chunked\r\nTransfer-Encoding: chunked", "xchunked")
		})
	}
	w.r.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	for _, f := range fields {
		f()
		w.end()
	}
	w.end()
	switch body {
	case 1:
		w.b = append(w.b, strings.Repeat("x", n)...)
	case 2:
		w.chunks()
	}
}

func (w *scribe) end() { w.mostly("\r\n", "\n", "\r", "\r\r\n", "\r\n\r\n", "") }

func (w *scribe) chunks() {
	for range w.r.IntN(4) {
		n := 1 + w.r.IntN(300)
		w.mostly(fmt.Sprintf("%x", n), fmt.Sprintf("%X", n), fmt.Sprintf("000%x", n), fmt.Sprintf("0x%x", n), fmt.Sprintf("-%x", n), fmt.Sprintf(" %x", n), "")
		w.mostly("", ";a", ";a=b", ";a=\"b;c\\\"\"", " ", "; a = b", ";", ";a=", ";a=\"\n\"", " ;a")
		w.end()
		for range n {
			w.b = append(w.b, byte(w.r.IntN(256)))
		}
		w.end()
	}
	w.mostly("0", "00", "0;a", "-0", "")
	w.end()
	if w.r.IntN(4) == 0 {
		w.mostly("X-Sum: 1", "X-Sum : 1", " X: 1", "Content-Length: 1", "X\x00: 1")
		w.end()
	}
	w.end()
}

// mutate changes some bytes as a fault or an attacker would.
func (w *scribe) mutate() {
	for range w.r.IntN(3) {
		if len(w.b) == 0 {
			return
		}
		i := w.r.IntN(len(w.b))
		switch w.r.IntN(4) {
		case 0:
			w.b[i] = byte(w.r.IntN(256))
		case 1:
			w.b = append(w.b[:i], w.b[i+1:]...)
		case 2:
			w.b = append(w.b[:i], append([]byte{"\r\n\t \x00:;,"[w.r.IntN(8)]}, w.b[i:]...)...)
		case 3:
			j := min(len(w.b), i+1+w.r.IntN(30))
			w.b = append(w.b[:j], append(bytes.Clone(w.b[i:j]), w.b[j:]...)...)
		}
	}
}

// compare holds net/http's reading against strict's: what strict lets through
// must be the same requests, ending at the same bytes. It returns how many were.
func compare(t *testing.T, stream []byte) (agreed int) {
	t.Helper()
	// Byte by byte every end shows.
	passed, ended, bad, _ := verdict(string(stream), 1)
	for _, n := range []int{len(stream), 7, 16} {
		if p, _, b, _ := verdict(string(stream), n); p != passed || b != bad {
			t.Fatalf("%q: cuts decide: %d %v, and %d %v", stream, passed, bad, p, b)
		}
	}
	start := 0
	for _, end := range ended {
		message := stream[start:end]
		start = end
		engineReads(t, message)
		message = bytes.TrimPrefix(message, []byte("\r\n"))
		br := bufio.NewReader(bytes.NewReader(message))
		r, err := http.ReadRequest(br)
		if err != nil {
			// Refused there, which is no other reading: an odd target, a Trailer
			// field, a Host that the gateway refuses as well.
			s := err.Error()
			if strings.Contains(s, "malformed Host") && !validHost(hostOf(message)) {
				continue
			}
			if strings.Contains(s, "parse ") || strings.Contains(s, "invalid URI") || strings.Contains(s, "bad trailer key") {
				continue
			}
			t.Fatalf("%q: net/http says: %v", message, err)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatalf("%q: net/http reads the body: %v", message, err)
		}
		if left := br.Buffered(); left != 0 {
			t.Fatalf("%q: for net/http the request ends %d bytes earlier", message, left)
		}
		head, rest, _ := bytes.Cut(message, []byte("\r\n\r\n"))
		line, fields, _ := strings.Cut(string(head), "\r\n")
		if got := r.Method + " " + r.RequestURI + " " + r.Proto; got != line {
			t.Fatalf("%q: net/http reads %q", message, got)
		}
		if len(r.TransferEncoding) == 0 && !bytes.Equal(body, rest) {
			t.Fatalf("%q: net/http's body is %q", message, body)
		}
		want := http.Header{}
		host := ""
		if fields != "" {
			for f := range strings.SplitSeq(fields, "\r\n") {
				name, value, _ := strings.Cut(f, ":")
				value = strings.Trim(value, " \t")
				switch {
				case strings.EqualFold(name, "host"):
					host = value
				case strings.EqualFold(name, "transfer-encoding"), strings.EqualFold(name, "trailer"):
				default:
					want.Add(name, value)
				}
			}
		}
		r.Header.Del("Trailer") // taken out where a trailer section follows
		if len(want) != len(r.Header) {
			t.Fatalf("%q: net/http's fields are %q, ours %q", message, r.Header, want)
		}
		for name, values := range want {
			if got := r.Header[name]; strings.Join(got, "\n") != strings.Join(values, "\n") {
				t.Fatalf("%q: net/http's %s is %q", message, name, got)
			}
		}
		if r.URL.Host == "" && r.Host != host {
			t.Fatalf("%q: net/http's host is %q", message, r.Host)
		}
		agreed++
	}
	return agreed
}

func hostOf(message []byte) []byte {
	for line := range bytes.SplitSeq(message, []byte("\r\n")) {
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && bytes.EqualFold(name, []byte("host")) {
			return exchange.TrimOWS(value)
		}
	}
	return nil
}

// engineReads holds fasthttp to the ends of messages that strict found.
func engineReads(t *testing.T, message []byte) {
	t.Helper()
	var r fasthttp.Request
	br := bufio.NewReaderSize(bytes.NewReader(message), 64<<10)
	if r.Header.Read(br) != nil {
		return // refused after all
	}
	if err := r.ContinueReadBodyStream(br, 1, false); err != nil {
		t.Fatalf("%q: fasthttp reads the body: %v", message, err)
	}
	if r.BodyStream() != nil {
		if _, err := io.Copy(io.Discard, r.BodyStream()); err != nil {
			if strings.Contains(err.Error(), "forbidden trailer") {
				return
			}
			t.Fatalf("%q: fasthttp reads the body: %v", message, err)
		}
	}
	if left := br.Buffered(); left != 0 {
		t.Fatalf("%q: for fasthttp the request ends %d bytes earlier", message, left)
	}
	var x exchange.Exchange
	readFields(&x, r.Header.RawHeaders())
	n := 0
	for line := range strings.SplitSeq(string(r.Header.RawHeaders()), "\r\n") {
		if line != "" {
			n++
		}
	}
	if len(x.Fields) != n {
		t.Fatalf("%q: %d fields of %d", message, len(x.Fields), n)
	}
}

// Nothing that passes is read differently by net/http.
func FuzzDifferential(f *testing.F) {
	for seed := range uint64(40) {
		f.Add(seed, []byte(nil))
	}
	f.Fuzz(func(t *testing.T, seed uint64, tail []byte) {
		w := scribe{r: rand.New(rand.NewPCG(seed, 1))}
		for range 1 + w.r.IntN(3) {
			w.request()
		}
		w.mutate()
		compare(t, append(w.b, tail...))
	})
}

func TestDifferential(t *testing.T) {
	n := 60_000
	if testing.Short() {
		n = 6000
	}
	agreed := 0
	for seed := range n {
		w := scribe{r: rand.New(rand.NewPCG(2, uint64(seed)))}
		for range 1 + w.r.IntN(3) {
			w.request()
		}
		w.mutate()
		agreed += compare(t, w.b)
	}
	// Where nearly nothing passes, nothing is compared.
	if agreed < n/4 {
		t.Errorf("of %d streams only %d requests were compared", n, agreed)
	}
	t.Logf("%d requests compared", agreed)
}
