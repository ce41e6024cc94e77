package upstream

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

func TestParseResponseHeadSuccess(t *testing.T) {
	f := func(head string, want responseHead) {
		t.Helper()
		var got responseHead
		err := ParseResponseHead([]byte(head), &got)
		got.own, got.owns = want.own, 0 // TestAppendResponseHead has them
		if err != nil || got != want {
			t.Errorf("%q: %+v %v, want %+v", head, got, err, want)
		}
	}
	none := Framing{Length: -1}
	f("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", responseHead{status: 200, framing: Framing{Length: 5}})
	f("HTTP/1.1 200\r\ncontent-length:5\r\n\r\n", responseHead{status: 200, framing: Framing{Length: 5}})
	f("HTTP/1.1 200 \r\n\r\n", responseHead{status: 200, framing: none, unframed: true})
	f("HTTP/1.1 599 \xff\r\nTRANSFER-ENCODING: Chunked\r\n\r\n", responseHead{status: 599, framing: Framing{Chunked: true, Length: -1}})
	f("HTTP/1.0 200 OK\r\n\r\n", responseHead{status: 200, framing: none, unframed: true, close: true})
	f("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n", responseHead{status: 200, hop: true})
	f("HTTP/1.1 200 OK\r\nConnection: keep-alive, CLOSE\r\nContent-Length: 0\r\n\r\n", responseHead{status: 200, hop: true, close: true})
	f("HTTP/1.1 200 OK\r\nConnection: x\r\nContent-Length: 0\r\n\r\n", responseHead{status: 200, hop: true, named: true})
	f("HTTP/1.1 101 X\r\nUpgrade: a\r\n\r\n", responseHead{status: 101, framing: none, unframed: true, hop: true, upgrade: true})
}

// A head that is cut anywhere is one that goes on, or is refused for what has come.
func TestParseResponseHeadInPieces(t *testing.T) {
	head := "HTTP/1.1 200 OK\r\nA: b\tc\r\nContent-Length: 5\r\n:\r\n"
	var h responseHead
	for _, whole := range []string{head[:len(head)-3] + "\r\n", "HTTP/1.0 404\r\nConnection: a, keep-alive\r\n\r\n"} {
		for i := range len(whole) {
			if n, err := parseHead([]byte(whole[:i]), &h); n != 0 || err != nil {
				t.Errorf("%q: %d, %v", whole[:i], n, err)
			}
		}
		if n, err := parseHead([]byte(whole+"HTTP"), &h); n != len(whole) || err != nil {
			t.Errorf("%q: %d, %v", whole, n, err)
		}
	}
	for _, bad := range []string{head, "HTTQ", "HTTP/1.1 2x0 OK\r\n", "HTTP/1.1 200OK\r\n", "HTTP/1.1 200 OK\n", "HTTP/1.1 200 OK\rX", "HTTP/1.1 200 OK\r\nA b", "HTTP/1.1 200 OK\r\nA\r\n",
		"HTTP/1.1 200 OK\r\nA: \x00", "HTTP/1.1 200 OK\r\nA: b\n", "HTTP/1.1 200 OK\r\n A: b", "HTTP/1.1 200 OK\r\n\rX"} {
		if n, err := parseHead([]byte(bad), &h); n != 0 || err == nil {
			t.Errorf("%q: %d, %v", bad, n, err)
		}
	}
}

func TestAppendResponseHead(t *testing.T) {
	f := func(head, want string) {
		t.Helper()
		var h responseHead
		if err := ParseResponseHead([]byte(head), &h); err != nil {
			t.Fatal(err)
		}
		if got := string(AppendResponseHead([]byte("x"), []byte(head), &h)); got != "x"+want {
			t.Errorf("%q: %q, want %q", head, got[1:], want)
		}
	}
	f("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 200 OK\r\n")
	f("HTTP/1.0 404\r\nA: 1\r\nconnection: close\r\nB:2\r\na: 3\r\n\r\n", "HTTP/1.1 404 \r\nA: 1\r\nB:2\r\na: 3\r\n")
	f("HTTP/1.1 200 \r\nKeep-Alive: x\r\nTE: y\r\nUpgrade: z\r\nTransfer-Encoding: chunked\r\nX-Forwarded-For: a\r\n\r\n", "HTTP/1.1 200 \r\nX-Forwarded-For: a\r\n")
	f("HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\nConnection: b, keep-alive\r\nC: 3\r\n\r\n", "HTTP/1.1 200 OK\r\nA: 1\r\nC: 3\r\n")
	many := strings.Repeat("Keep-Alive: x\r\n", maxOwn+1)
	f("HTTP/1.1 200 OK\r\n"+many+"A: 1\r\n"+many+"\r\n", "HTTP/1.1 200 OK\r\nA: 1\r\n")
}

func TestAppendInterim(t *testing.T) {
	f := func(head, want string) {
		t.Helper()
		if got := string(AppendInterim(nil, []byte(head))); got != want {
			t.Errorf("%q: %q, want %q", head, got, want)
		}
	}
	f("HTTP/1.0 103 Early Hints\r\n\r\n", "HTTP/1.1 103 Early Hints\r\n\r\n")
	f("HTTP/1.1 103\r\nLink: a\r\nLINK: b\r\nConnection: close, x-a\r\nX-A: 1\r\nKeep-Alive: 1\r\nContent-Length: 5\r\nX-User-ID: a\r\n\r\n", "HTTP/1.1 103\r\nLink: a\r\nLINK: b\r\n\r\n")
}

func TestReadTrailer(t *testing.T) {
	f := func(section, want string, fails error) {
		t.Helper()
		var got strings.Builder
		err := readTrailer(newReader(strings.NewReader(section), 4096), func(name, value []byte) {
			got.WriteString(string(name) + "=" + string(value) + ";")
		})
		if got.String() != want || err != fails {
			t.Errorf("%q: %q %v", section, got.String(), err)
		}
	}
	f("\r\n", "", nil)
	f("A: 1\r\nb:2 \r\nContent-Type: x\r\nTransfer-Encoding: x\r\nX-User-ID: x\r\n\r\n", "A=1;b=2;", nil)
	f("A: 1\r\n", "A=1;", io.ErrUnexpectedEOF)
	f("A: 1\n\r\n", "", errTrailer)
	f(" A: 1\r\n\r\n", "", errTrailer)
	f("A : 1\r\n\r\n", "", errTrailer)
	f(strings.Repeat("A: "+strings.Repeat("x", 1000)+"\r\n", 20)+"\r\n", strings.Repeat("A="+strings.Repeat("x", 1000)+";", 16), errTrailerLarge)
}

func TestJoinChunks(t *testing.T) {
	f := func(in, want string, size int, wantOK bool) {
		t.Helper()
		b := []byte(in)
		body, n, ok := joinChunks(b)
		if string(body) != want || n != size || ok != wantOK || !ok && string(b) != in {
			t.Errorf("%q: %q %d %v, left %q", in, body, n, ok, b)
		}
	}
	f("0\r\n\r\n", "", 5, true)
	f("5\r\nhello\r\n0\r\n\r\n", "hello", 15, true)
	f("5;a=b\r\nhello\r\n00A\r\n, world!!!\r\n0;x\r\n\r\nHTTP", "hello, world!!!", 38, true)
	f("", "", 0, false)
	f("0\r\n", "", 0, false)
	f("0\r\n\r", "", 0, false)
	f("0\r\nX: 1\r\n\r\n", "", 0, false)
	f("5\r\nhello\r\n", "", 0, false)
	f("5\r\nhello\r\n0\r\n", "", 0, false)
	f("5\r\nhello0\r\n\r\n", "", 0, false)
	f("5\nhello\r\n0\r\n\r\n", "", 0, false)
	f("fffffffffffffff\r\nhello\r\n0\r\n\r\n", "", 0, false)
	f("-1\r\n0\r\n\r\n", "", 0, false)
}

// What is read here and what fasthttp reads of the same bytes must be one
// message: between two opinions a response can be split.
func FuzzParseResponseHead(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\nSet-Cookie: a=b\r\n\r\nhello"))
	f.Add([]byte("HTTP/1.0 404 \r\nConnection: keep-alive\r\nTrailer: X\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 304 X\r\nTransfer-Encoding: chunked\r\nUpgrade: a\r\n\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		end := endOfHead(data, 0)
		if end == 0 {
			return
		}
		head := data[:end]
		var got responseHead
		if ParseResponseHead(head, &got) != nil {
			return
		}
		if got.status < 200 {
			AppendInterim(nil, head)
			return
		}
		var h fasthttp.ResponseHeader
		h.DisableNormalizing()
		r := bufio.NewReaderSize(bytes.NewReader(data), max(len(data), 16))
		if h.Read(r) != nil {
			return // refused after all
		}
		if left := len(data) - len(head); r.Buffered() != left {
			t.Fatalf("%q: fasthttp's head ends %d bytes before the end, ours %d", data, r.Buffered(), left)
		}
		if h.StatusCode() != got.status {
			t.Fatalf("%q: status %d and %d", head, h.StatusCode(), got.status)
		}
		length := got.framing.Length
		if !got.framing.Chunked && got.unframed {
			length = -2
		}
		if int64(h.ContentLength()) != length {
			t.Fatalf("%q: length %d and %d", head, h.ContentLength(), length)
		}
	})
}

func FuzzChunked(f *testing.F) {
	f.Add([]byte("5\r\nhello\r\n0\r\n\r\n"))
	f.Add([]byte("5;a=b\r\nhello\r\n00\r\nX: 1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := bytes.Clone(data)
		joined, size, whole := joinChunks(b)
		var read []byte
		defer func() {
			if whole && (!bytes.Equal(joined, read) || size > len(data)) {
				t.Fatalf("%q: joined %q of %d, read %q", data, joined, size, read)
			}
		}()
		br := newReader(bytes.NewReader(data), 2*maxChunkLine)
		for {
			n, err := readChunkSize(br)
			if err != nil {
				return
			}
			if n < 0 {
				t.Fatalf("%q: a chunk of %d bytes", data, n)
			}
			if n == 0 {
				_ = readTrailer(br, func(name, value []byte) {
					if exchange.TokenLen(name) != len(name) || !exchange.IsFieldValue(value) {
						t.Fatalf("%q: trailer %q %q", data, name, value)
					}
				})
				return
			}
			if n > int64(len(data)) {
				return
			}
			piece := make([]byte, n)
			if _, err := io.ReadFull(br, piece); err != nil {
				return
			}
			read = append(read, piece...)
			if readChunkEnd(br) != nil {
				return
			}
		}
	})
}

func TestChunkExtensions(t *testing.T) {
	f := func(line string, want int64) {
		t.Helper()
		n, err := parseChunkLine([]byte(line))
		if err != nil {
			n = -1
		}
		if n != want {
			t.Errorf("%q: %d, want %d", line, n, want)
		}
	}
	f("a;b\r\n", 10)
	f("a; b = c ;d=\"e;\\\"\xff\"\r\n", 10)
	f("a \r\n", -1)
	f("a ;b\r\n", -1)
	f("a;\r\n", -1)
	f("a;b=\r\n", -1)
	f("a;b=\"c\r\n", -1)
	f("a;b=\"c\\\r\n", -1)
	f("a;b=\"c\"d\r\n", -1)
	f("a;b c\r\n", -1)
	f("a;b=\x01\r\n", -1)
}
