package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// volume is how much the tests of constant memory move each way.
func volume() int64 {
	if testing.Short() || raceEnabled {
		return 128 << 20
	}
	return 1 << 30
}

// watchHeap samples the heap until stop is called, and returns by how much it
// was larger than at the start at most.
func watchHeap() (stop func() int64) {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	start, most := int64(m.HeapAlloc), int64(0)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				// What is held counts, not what waits to be collected.
				runtime.GC()
				runtime.ReadMemStats(&m)
				most = max(most, int64(m.HeapAlloc)-start)
			}
		}
	}()
	return func() int64 {
		close(done)
		<-ended
		return most
	}
}

const heapBound = 64 << 20

// skipChunk reads past a chunk, whose size it returns, without memory of its own.
func (p *peer) skipChunk() int64 {
	p.t.Helper()
	line, err := p.r.ReadSlice('\n')
	if err != nil {
		p.fail("cannot read a chunk: %v", err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(line)), 16, 64)
	if err != nil {
		p.fail("bad chunk size %q", line)
	}
	if n > 0 {
		if _, err := io.CopyN(io.Discard, p.r, n+2); err != nil {
			p.fail("cannot read a chunk: %v", err)
		}
	}
	return n
}

func TestStreamDown(t *testing.T) {
	piece := bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
	s := backend(t, func(p *peer) {
		_ = p.conn.SetDeadline(time.Time{})
		for {
			head := p.head()
			if head == "" {
				return
			}
			n := volume()
			if strings.HasPrefix(head, "GET /chunked") {
				n /= 4
				p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
				for ; n > 0; n -= int64(len(piece)) {
					p.send(strconv.FormatInt(int64(len(piece)), 16) + "\r\n")
					_, _ = p.conn.Write(piece)
					p.send("\r\n")
				}
				p.send("0\r\n\r\n")
				continue
			}
			p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", n))
			for ; n > 0; n -= int64(len(piece)) {
				_, _ = p.conn.Write(piece)
			}
		}
	})
	g := forward(t, s, "", "", "")
	c := g.client()
	_ = c.conn.SetDeadline(time.Time{})
	stop := watchHeap()
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if head := c.head(); statusOf(head) != 200 {
		t.Fatal(head)
	}
	if n, err := io.CopyN(io.Discard, c.r, volume()); err != nil {
		t.Fatal(n, err)
	}
	c.send("GET /chunked HTTP/1.1\r\nHost: a\r\n\r\n")
	_ = c.head()
	var n int64
	for {
		m := c.skipChunk()
		if m == 0 {
			break
		}
		n += m
	}
	if n != volume()/4 {
		t.Errorf("%d bytes came through", n)
	}
	if grown := stop(); grown > heapBound {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

func TestStreamUp(t *testing.T) {
	s := backend(t, func(p *peer) {
		_ = p.conn.SetDeadline(time.Time{})
		for {
			head := p.head()
			if head == "" {
				return
			}
			var n int64
			if v, ok := field(head, "Content-Length"); ok {
				length, _ := strconv.ParseInt(v, 10, 64)
				n, _ = io.CopyN(io.Discard, p.r, length)
			} else {
				for {
					m := p.skipChunk()
					if m == 0 {
						break
					}
					n += m
				}
				_ = p.head()
			}
			b := strconv.FormatInt(n, 10)
			p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b))
		}
	})
	g := forward(t, s, "", "streaming: true", "")
	c := g.client()
	_ = c.conn.SetDeadline(time.Time{})
	piece := bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
	stop := watchHeap()
	c.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", volume()))
	for n := volume(); n > 0; n -= int64(len(piece)) {
		if _, err := c.conn.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	c.wants(200, strconv.FormatInt(volume(), 10))
	c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
	for n := volume() / 4; n > 0; n -= int64(len(piece)) {
		c.send(strconv.FormatInt(int64(len(piece)), 16) + "\r\n")
		if _, err := c.conn.Write(piece); err != nil {
			t.Fatal(err)
		}
		c.send("\r\n")
	}
	c.send("0\r\n\r\n")
	c.wants(200, strconv.FormatInt(volume()/4, 10))
	if grown := stop(); grown > heapBound {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

// Every piece reaches the client before the backend sends the next: the
// backend waits for the client to have seen it.
func TestNoDelay(t *testing.T) {
	seen := make(chan struct{})
	large := text(70_000)
	s := backend(t, func(p *peer) {
		for {
			head := p.head()
			if head == "" {
				return
			}
			switch strings.Fields(head)[1] {
			case "/sse":
				p.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
				<-seen
				for range 5 {
					p.send("7\r\ndata:x\n\r\n")
					<-seen
				}
				p.send("0\r\n\r\n")
			case "/length":
				p.send("HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n")
				<-seen
				for i := 0; i < 70_000; i += 14_000 {
					p.send(large[i : i+14_000])
					<-seen
				}
			case "/end":
				p.send("HTTP/1.1 200 OK\r\n\r\n")
				<-seen
				for range 5 {
					p.send("piece")
					<-seen
				}
				return
			}
		}
	})
	g := forward(t, s, "", "", "")
	c := g.client()
	for range 2 {
		c.send("GET /sse HTTP/1.1\r\nHost: a\r\n\r\n")
		_ = c.head()
		seen <- struct{}{}
		for range 5 {
			if data, _ := c.chunk(); data != "data:x\n" {
				t.Fatalf("%q", data)
			}
			seen <- struct{}{}
		}
		if s := c.bytes(5); s != "0\r\n\r\n" {
			t.Fatalf("%q", s)
		}
		c.send("GET /length HTTP/1.1\r\nHost: a\r\n\r\n")
		_ = c.head()
		seen <- struct{}{}
		for i := 0; i < 70_000; i += 14_000 {
			if got := c.bytes(14_000); got != large[i:i+14_000] {
				t.Fatalf("at %d: %q", i, abbreviate(got))
			}
			seen <- struct{}{}
		}
		c.send("GET /end HTTP/1.1\r\nHost: a\r\n\r\n")
		_ = c.head()
		seen <- struct{}{}
		for range 5 {
			if data, _ := c.chunk(); data != "piece" {
				t.Fatalf("%q", data)
			}
			seen <- struct{}{}
		}
		if s := c.bytes(5); s != "0\r\n\r\n" {
			t.Fatalf("%q", s)
		}
	}
	// HTTP/1.0: the same, unframed.
	c.send("GET /sse HTTP/1.0\r\n\r\n")
	_ = c.head()
	seen <- struct{}{}
	for range 5 {
		if data := c.bytes(7); data != "data:x\n" {
			t.Fatalf("%q", data)
		}
		seen <- struct{}{}
	}
	c.ended()
}

// Both bodies stream at once, each piece answered before the next is sent.
func TestBothWays(t *testing.T) {
	s := backend(t, func(p *peer) {
		for {
			if p.head() == "" {
				return
			}
			p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for {
				data, ok := p.chunk()
				if !ok {
					break
				}
				p.send(chunked("echo "+data, 1000))
			}
			_ = p.head()
			p.send("0\r\n\r\n")
		}
	})
	g := forward(t, s, "", "", "")
	c := g.client()
	for range 3 {
		c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
		_ = c.head()
		for i := range 20 {
			c.send(chunked(strconv.Itoa(i), 100))
			if data, _ := c.chunk(); data != "echo "+strconv.Itoa(i) {
				t.Fatalf("%q", data)
			}
		}
		c.send("0\r\n\r\n")
		if s := c.bytes(5); s != "0\r\n\r\n" {
			t.Fatalf("%q", s)
		}
	}
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections to the backend, want one", n)
	}
}

// A body that ends early is not made whole: the client's connection is cut.
func TestTruncatedAnswer(t *testing.T) {
	arrived := make(chan struct{})
	s := backend(t, func(p *peer) {
		head := p.head()
		if head == "" {
			return
		}
		switch path := strings.Fields(head)[1]; path {
		case "/fixed":
			p.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + text(80_000))
		case "/chunked":
			p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(text(80_000), 1000))
		case "/inchunk":
			p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc")
		case "/badsize":
			p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n0\r\n\r\n")
			_, _ = p.rest()
		case "/badend":
			p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n")
			_, _ = p.rest()
		case "/lf":
			p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n")
			_, _ = p.rest()
		case "/trailer":
			p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nbad trailer\r\n\r\n")
			_, _ = p.rest()
		case "/reset":
			p.send("HTTP/1.1 200 OK\r\n\r\n" + text(80_000))
			// What was sent has to arrive before the reset, which would take it along.
			<-arrived
			_ = p.conn.(*net.TCPConn).SetLinger(0)
		case "/small":
			p.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
		case "/none":
			p.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
		}
	})
	g := forward(t, s, "circuit_breaker: off, retries: off", "", "")
	f := func(path string) {
		t.Helper()
		c := g.client()
		c.send("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n")
		head := c.head()
		got, _ := c.rest()
		if head != "" && statusOf(head) != 200 {
			t.Errorf("%s: %q", path, head)
		}
		if v, ok := field(head, "Content-Length"); ok && v == strconv.Itoa(len(got)) || strings.HasSuffix(got, "0\r\n\r\n") {
			t.Errorf("%s looks whole: %q %q", path, head, abbreviate(got))
		}
	}
	f("/fixed")
	f("/chunked")
	f("/inchunk")
	f("/badsize")
	f("/badend")
	f("/lf")
	f("/trailer")

	c := g.client()
	c.send("GET /reset HTTP/1.1\r\nHost: a\r\n\r\n")
	_ = c.head()
	for n := 0; n < 80_000; {
		data, _ := c.chunk()
		n += len(data)
	}
	close(arrived)
	c.ended()

	// HTTP/1.0 has nothing but the reset to tell it.
	c = g.client()
	c.send("GET /chunked HTTP/1.0\r\n\r\n")
	_ = c.head()
	if got, whole := c.rest(); whole {
		t.Errorf("HTTP/1.0: looks whole: %q", abbreviate(got))
	}
	// A body that is held is not begun before it is there: there is an answer to give.
	for _, path := range []string{"/small", "/none"} {
		c = g.client()
		c.send("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n")
		c.refused(502, "upstream_reset")
	}
}
