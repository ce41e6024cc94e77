package listener

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

// stream is one request over HTTP/2 or HTTP/3 on its way through the same
// pipeline as those over HTTP/1.1: its head is written out as one of HTTP/1.1
// and read by the same reader, its bodies pass unbuffered. It is the exchange's
// client connection and the request's body. It belongs to the stream's
// goroutine, but for what mu and the stamps are there for.
type stream struct {
	mux *mux
	in  *http.Request
	out http.ResponseWriter

	req  fasthttp.Request
	res  fasthttp.Response
	head []byte
	src  bytes.Reader
	br   *bufio.Reader

	values []byte
	slab   []string
	cuts   []cut
	ahead  []byte // of the request body, read before it was known that there is one
	first  [512]byte
	done   bool // the request body was read to its end
	pacing *pacing

	// mu guards out for other goroutines than the stream's: the engine takes it
	// back when the stream ends.
	mu         sync.Mutex
	ended      bool
	trailers   []trailer
	quiet      atomic.Bool  // silence of the client is no stall
	readSince  atomic.Int64 // a body read waits since then, 0: none
	writeSince atomic.Int64

	prev, next *stream
}

// trailer is a field behind the answer.
type trailer struct{ name, value string }

// cut is where a value ends in the buffer of all values.
type cut struct {
	name string
	end  int
}

// maxKeptHead is how much memory for heads an idle stream keeps.
const maxKeptHead = 16 << 10

var streams = sync.Pool{New: func() any { return &stream{br: bufio.NewReaderSize(nil, 4<<10)} }}

// makeRoom has the goroutine's stack grow while there is next to nothing on it. Each stream has a fresh goroutine, and what
// serves it needs some kilobytes: the runtime would find that out half way down, and move all that stands there by then.
//
//go:noinline
func makeRoom(at int) byte {
	var room [6 << 10]byte
	room[at&1] = 1
	return room[0]
}

// serve serves a stream: the engine's call, on a goroutine of its own. peer is
// where the request comes from.
func (m *mux) serve(w http.ResponseWriter, r *http.Request, peer netip.Addr) {
	makeRoom(len(r.Method))
	defer m.contain()
	s := m.server
	st := streams.Get().(*stream)
	st.mux, st.in, st.out, st.ended, st.done = m, r, w, false, false
	m.add(st)
	x := s.pool.Get(&st.req, &st.res, s.ended)
	defer st.close(x)
	st.res.Header.DisableNormalizing()
	st.res.Header.SetNoDefaultContentType(true)
	m.conn.identify(x)
	x.Client, x.Protocol = st, m.protocol
	if x.PeerAddr != peer { // a QUIC connection has moved
		x.PeerAddr, x.PeerText = peer, nil
	}
	var err error
	if reject := st.read(x); reject != nil {
		x.ClientAddr = x.PeerAddr
		err = reject
	} else {
		err = st.decide(x)
	}
	s.handler.Answer(x, err)
	s.secure(m.conn, x)
	if !st.send(x) {
		// Without its end the client can not take the answer for whole.
		panic(http.ErrAbortHandler)
	}
}

// decide has the gateway decide. A client that waits to be told to send its body
// is told once that is wanted; where the engine has done so, Expect is gone.
func (st *stream) decide(x *exchange.Exchange) error {
	s := st.mux.server
	if !x.HasField(exchange.KindExpect) || !x.HasBody() {
		return s.handler.Decide(x)
	}
	if err := s.decideAhead(x); err != nil && !x.Paused {
		return err
	}
	st.out.WriteHeader(http.StatusContinue)
	if x.Paused {
		return s.handler.Decide(x)
	}
	return nil
}

func (st *stream) close(x *exchange.Exchange) {
	st.mux.remove(st)
	if st.in.Context().Err() != nil {
		x.Aborted.Store(true)
	}
	_ = st.res.CloseBodyStream() // it is part of the exchange
	_ = x.Close()
	st.mu.Lock()
	st.ended = true
	st.mu.Unlock()
	st.req.Reset()
	st.res.Reset()
	st.mux, st.in, st.out, st.ahead = nil, nil, nil, nil
	st.readSince.Store(0)
	st.writeSince.Store(0)
	st.quiet.Store(false)
	st.pacing.off()
	clear(st.trailers)
	st.trailers = st.trailers[:0]
	clear(st.slab)
	clear(st.cuts)
	if cap(st.head)+cap(st.values) > maxKeptHead {
		st.head, st.values = nil, nil
	}
	streams.Put(st)
}

// read makes the request of the exchange. The engine has checked what RFC
// 9113, section 8.3 and RFC 9114, section 4.3 want of pseudo header fields, that
// names are in lower case, that values hold no control bytes, and that nothing
// is there that belongs to a connection.
func (st *stream) read(x *exchange.Exchange) *exchange.Reject {
	r := st.in
	x.Unread = true
	if r.Method == http.MethodConnect && r.Proto != st.mux.protocol {
		return rejectConnect // RFC 9220, section 3
	}
	if !isToken([]byte(r.Method)) || r.Method == http.MethodConnect {
		return rejectTarget
	}
	b := append(append(st.head[:0], r.Method...), ' ')
	target := len(b)
	b = append(b, r.RequestURI...)
	for _, c := range b[target:] {
		if c <= ' ' || c == 0x7f {
			return rejectTarget
		}
	}
	b = append(append(b, " HTTP/1.1\r\nHost: "...), r.Host...)
	b = append(b, "\r\n"...)
	for name, values := range r.Header {
		if name == "Host" {
			continue // the same, as the engine has seen to
		}
		for _, v := range values {
			b = append(append(b, name...), ": "...)
			b = append(append(b, v...), "\r\n"...)
		}
	}
	for name := range r.Trailer {
		b = append(append(append(b, "Trailer: "...), name...), "\r\n"...)
	}
	b = append(b, "\r\n"...)
	st.head = b
	if r.Host == "" || strings.ContainsAny(r.Host, " \t") {
		return rejectHost
	}
	if lengths := r.Header["Content-Length"]; len(lengths) > 0 {
		n, err := strconv.ParseInt(lengths[0], 10, 64)
		if err != nil || len(lengths) > 1 || n != r.ContentLength {
			return rejectFraming
		}
	}
	st.src.Reset(b)
	br := st.br
	if len(b) > br.Size() {
		br = bufio.NewReaderSize(nil, len(b))
	}
	br.Reset(&st.src)
	if st.req.Header.Read(br) != nil {
		st.req.Header.Reset()
		return rejectMalformed
	}
	x.Unread = false
	if reject := readHead(x, &st.req.Header); reject != nil {
		return reject
	}
	length := r.ContentLength
	if length < 0 && seldomBody(r.Method) {
		some, reject := st.lookAhead()
		if reject != nil {
			return reject
		}
		if !some {
			length = 0
		}
	}
	if length != 0 {
		st.req.SetBodyStream(st, int(length))
	}
	return nil
}

// seldomBody reports whether content has no meaning for the method (RFC 9110,
// section 9.3). A stream may end behind its head without the head saying so;
// for these methods that is waited for, so that the backend is not promised a
// body that is none.
func seldomBody(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// lookAhead reads the beginning of the body; it is false if there is no body.
func (st *stream) lookAhead() (bool, *exchange.Reject) {
	for {
		n, err := st.Read(st.first[:])
		switch {
		case n > 0:
			st.ahead = st.first[:n]
			return true, nil
		case err == io.EOF:
			return false, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return false, exchange.RejectBodySlow
		case err != nil:
			return false, exchange.RejectBodyCut
		}
	}
}

// Read reads the request body.
func (st *stream) Read(p []byte) (int, error) {
	if len(st.ahead) > 0 {
		n := copy(p, st.ahead)
		st.ahead = st.ahead[n:]
		return n, nil
	}
	st.readSince.Store(st.mux.conn.owner.coarse.Load())
	n, err := st.in.Body.Read(p)
	st.readSince.Store(0)
	if err != nil && err != io.EOF {
		return 0, err // what came with it may be too much, and must not be taken for the end
	}
	if err == io.EOF && !st.done {
		st.done = true
		for name, values := range st.in.Trailer {
			for _, v := range values {
				if st.req.Header.AddTrailer(name) == nil {
					st.req.Header.Add(name, v)
				}
			}
		}
	}
	return n, err
}

// send sends the answer. It is false where the answer did not come to its end.
func (st *stream) send(x *exchange.Exchange) bool {
	res := x.Response
	status := res.StatusCode()
	body := status >= 200 && status != fasthttp.StatusNoContent && status != fasthttp.StatusNotModified
	header := st.out.Header()
	st.fill(header, &res.Header, body)
	if st.mux.isHTTP2 && st.mux.server.draining.Load() {
		header["Connection"] = closing // the engine's word for GOAWAY
	}
	source := res.BodyStream()
	mute := !body || res.SkipBody || x.Request.Header.IsHead()
	switch {
	case !body:
	case source != nil:
		if n := res.Header.ContentLength(); n >= 0 {
			header["Content-Length"] = []string{strconv.Itoa(n)}
		}
	case res.SkipBody:
		if n := res.Header.Peek("Content-Length"); len(n) > 0 {
			header["Content-Length"] = []string{string(n)}
		}
	case len(res.Body()) > engineCounts || mute || !st.mux.isHTTP2:
		header["Content-Length"] = []string{strconv.Itoa(len(res.Body()))}
	}
	if _, ok := header["Content-Length"]; mute && !ok {
		header["Content-Length"] = nil // none is made up
	}
	st.out.WriteHeader(status)
	w := (*writer)(st)
	switch {
	case mute:
	case source == nil:
		if b := res.Body(); len(b) > 0 {
			if n, err := w.write(b); err != nil {
				x.Aborted.Store(true)
				// What was more than the engine's buffer had left it.
				x.Begun, x.BytesOut = n > engineCounts, int64(n)
				return false
			}
		}
	default:
		if res.ImmediateHeaderFlush {
			_ = w.flush() // the copy meets the same
		}
		if _, err := io.Copy(w, source); err != nil {
			return false
		}
	}
	if !st.mux.isHTTP2 {
		// net/http2 has copied the fields; here they are sent before they are gone.
		if err := w.flush(); err != nil {
			x.Aborted.Store(true)
			return false
		}
	}
	if mute {
		return true
	}
	for _, name := range res.Header.PeekTrailerKeys() {
		for _, v := range res.Header.PeekAll(string(name)) {
			header.Add(http.TrailerPrefix+string(name), string(v))
		}
	}
	for _, t := range st.trailers {
		header.Add(http.TrailerPrefix+t.name, t.value)
	}
	return true
}

// Trailer adds a field to be sent behind the answer, while its body is
// written. Unlike those of the response it may have the name of a field of the head.
func (st *stream) Trailer(name, value string) {
	st.trailers = append(st.trailers, trailer{name, value})
}

// Context ends when the client has given the request up.
func (st *stream) Context() context.Context { return st.in.Context() }

// Patient says that a client that sends nothing has not stalled: calls of gRPC
// may be silent for as long as their deadline lets them.
func (st *stream) Patient() { st.quiet.Store(true) }

// engineCounts is up to which size the engine finds out the length of a body itself.
const engineCounts = 4000

var closing = []string{"close"}

// fill copies the fields of the answer, but for those of the connection. Names
// and values share memory that is this stream's: the engine copies or sends them
// before it ends.
func (st *stream) fill(header http.Header, h *fasthttp.ResponseHeader, body bool) {
	st.values, st.cuts = st.values[:0], st.cuts[:0]
	for name, value := range h.All() {
		switch exchange.KindOf(name) {
		case exchange.KindContentLength, exchange.KindTransferEncoding, exchange.KindConnection, exchange.KindHop, exchange.KindUpgrade:
			continue
		}
		st.values = append(st.values, value...)
		st.cuts = append(st.cuts, cut{fieldName(name), len(st.values)})
	}
	values := string(st.values)
	if cap(st.slab) < len(st.cuts) {
		st.slab = make([]string, 0, 2*len(st.cuts))
	}
	st.slab = st.slab[:len(st.cuts)]
	start := 0
	for i, c := range st.cuts {
		st.slab[i] = values[start:c.end]
		start = c.end
		if have, ok := header[c.name]; ok {
			header[c.name] = append(have, st.slab[i])
		} else {
			header[c.name] = st.slab[i : i+1 : i+1]
		}
	}
	if _, ok := header["Content-Type"]; !ok && body {
		header["Content-Type"] = nil // none is made up
	}
}

// fieldName returns the name as the engine looks it up.
func fieldName(name []byte) string {
	if s, ok := fieldNames[string(name)]; ok {
		return s
	}
	return http.CanonicalHeaderKey(string(name))
}

// fieldNames spare the usual names of answers an allocation.
var fieldNames = func() map[string]string {
	names := make(map[string]string)
	for _, n := range [...]string{
		"Accept-Ranges", "Access-Control-Allow-Credentials", "Access-Control-Allow-Headers", "Access-Control-Allow-Methods",
		"Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Access-Control-Max-Age", "Age", "Allow", "Alt-Svc", "Cache-Control",
		"Cache-Status", "Content-Disposition", "Content-Encoding", "Content-Language", "Content-Range", "Content-Security-Policy",
		"Content-Type", "Date", "Deprecation", "Etag", "Expires", "Last-Modified", "Link", "Location", "Pragma", "Referrer-Policy", "Retry-After",
		"Server", "Server-Timing", "Set-Cookie", "Strict-Transport-Security", "Sunset", "Vary", "Via", "Www-Authenticate",
		"X-Content-Type-Options", "X-Frame-Options", "X-Response-Time", "X-Correlation-Id", "X-Request-Id", "Ratelimit", "Ratelimit-Policy",
	} {
		names[n] = n
		names[string(bytes.ToLower([]byte(n)))] = n
	}
	for spelling, n := range map[string]string{
		"ETag": "Etag", "WWW-Authenticate": "Www-Authenticate", "X-Correlation-ID": "X-Correlation-Id", "X-Request-ID": "X-Request-Id",
		"RateLimit": "Ratelimit", "RateLimit-Policy": "Ratelimit-Policy",
	} {
		names[spelling] = n
	}
	return names
}()

// writer is the way of a streamed body to the client: nothing waits for more.
type writer stream

func (w *writer) Write(p []byte) (int, error) {
	n, err := w.write(p)
	if err == nil {
		err = w.flush()
	}
	return n, err
}

func (w *writer) write(p []byte) (int, error) {
	if w.pacing.on() {
		return w.writePaced(p)
	}
	return w.writeNow(p)
}

func (w *writer) writeNow(p []byte) (int, error) {
	w.writeSince.Store(w.mux.conn.owner.coarse.Load())
	n, err := w.out.Write(p)
	w.writeSince.Store(0)
	return n, err
}

func (w *writer) flush() error {
	w.writeSince.Store(w.mux.conn.owner.coarse.Load())
	err := w.out.(interface{ FlushError() error }).FlushError()
	w.writeSince.Store(0)
	return err
}

// Gone implements exchange.ClientConn.
func (st *stream) Gone() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.ended || st.in.Context().Err() != nil
}

// InterruptRead implements exchange.ClientConn.
func (st *stream) InterruptRead() {
	st.interrupt(func(w deadlines) { _ = w.SetReadDeadline(past) })
}

// interruptWrite resets the stream, so that a write that waits for the client ends.
func (st *stream) interruptWrite() {
	st.interrupt(func(w deadlines) { _ = w.SetWriteDeadline(past) })
}

type deadlines interface {
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

func (st *stream) interrupt(f func(deadlines)) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.ended {
		f(st.out.(deadlines))
	}
}

// Interim implements exchange.ClientConn: it sends an interim response.
func (st *stream) Interim(head []byte) {
	line, rest, _ := bytes.Cut(head, []byte("\r\n"))
	if len(line) < 12 {
		return
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil || status < 101 || status > 199 || status == fasthttp.StatusSwitchingProtocols {
		return
	}
	header := st.out.Header()
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		if name, value, ok := bytes.Cut(line, []byte(":")); ok {
			header.Add(string(name), string(exchange.TrimOWS(value)))
		}
	}
	st.out.WriteHeader(status)
	clear(header)
}
