package listener

import (
	"crypto/tls"
	"encoding/binary"
	"log/slog"
	"net"
	"runtime"
	"strings"

	"github.com/valyala/fasthttp"
	"golang.org/x/net/http2"

	"sluice/gateway/exchange"
)

// What the engine of HTTP/2 refuses by itself never comes to ServeHTTP, and it
// has no hook for most of that. What it then sends tells: it is looked at, frame
// by frame, on its way to the client. So every request that was lost there gets
// its exchange after all, with an access log line and its count, and every
// error of a client is counted.

// watched is the connection as the engine reads from it and writes to it.
type watched struct {
	net.Conn
	h *h2conn
}

// Read spares the engine, which asks for the head of each frame by itself, half of the reads.
func (w watched) Read(p []byte) (int, error) { return w.h.read.Read(p) }

// Write lets go of the processor once: what other streams have to say by then, the engine collects while this write is
// under way, and sends with one more. So a busy connection gets a few writes for many answers.
func (w watched) Write(p []byte) (int, error) {
	runtime.Gosched()
	sent := 0
	for {
		n, malformed := w.h.out.feed(p[sent:])
		n, err := w.Conn.Write(p[sent : sent+n])
		if sent += n; err != nil || malformed == 0 {
			return sent, err
		}
		// The engine leaves it at its answer, but a malformed request is an error of its stream (RFC 9113, section 8.1.1).
		reset := [frameHead + 4]byte{2: 4, 3: byte(http2.FrameRSTStream), frameHead + 3: byte(http2.ErrCodeProtocol)}
		binary.BigEndian.PutUint32(reset[5:], malformed)
		if _, err := w.Conn.Write(reset[:]); err != nil {
			return sent, err
		}
	}
}

// watchedTLS is watched where TLS is spoken, of which the engine makes demands.
type watchedTLS struct{ watched }

func (w watchedTLS) ConnectionState() tls.ConnectionState { return w.h.conn.ConnectionState() }

// frameWatch reads the frames that the engine sends. One goroutine writes at a time.
type frameWatch struct {
	h    *h2conn
	skip int // bytes of a payload that is of no interest
	have int // bytes in kept
	kept [frameHead + longestOwn]byte
}

const (
	frameHead = 9
	// longestOwn and shortestOwn bound the bodies that the engine answers with by itself.
	longestOwn  = 63
	shortestOwn = 40
)

// ownAnswers are the bodies of the engine's own answers, and what they stand for.
var ownAnswers = func() map[string]*exchange.Reject {
	answers := map[string]*exchange.Reject{
		"<h1>HTTP Error 431</h1><p>Request Header Field(s) Too Large</p>": rejectHeadSize,
		"request header \"TE\" may only be \"trailers\" in HTTP/2\n":      rejectConnectionField,
	}
	for _, name := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade"} {
		answers["request header \""+name+"\" is not valid in HTTP/2\n"] = rejectConnectionField
	}
	return answers
}()

var rejectConnectionField = refuse(fasthttp.StatusBadRequest, "connection_field", "a header field belongs to a connection of HTTP/1.1")

// feed reads on in p, to its end or that of the answer to a malformed request, whose stream it names.
func (w *frameWatch) feed(p []byte) (read int, malformed uint32) {
	for read < len(p) {
		if w.skip > 0 {
			n := min(w.skip, len(p)-read)
			w.skip -= n
			read += n
			continue
		}
		want := frameHead
		if w.have >= frameHead {
			want += w.length()
		}
		n := copy(w.kept[w.have:want], p[read:])
		w.have += n
		read += n
		if w.have < want {
			return read, 0
		}
		if want == frameHead && w.interesting() && w.length() > 0 {
			continue
		}
		w.have = 0
		if want == frameHead {
			w.skip = w.length()
		} else if w.see(w.kept[frameHead:want]) {
			return read, binary.BigEndian.Uint32(w.kept[5:])
		}
	}
	return read, 0
}

func (w *frameWatch) length() int {
	return int(w.kept[0])<<16 | int(w.kept[1])<<8 | int(w.kept[2])
}

// interesting reports whether the payload of a frame is to be looked at.
func (w *frameWatch) interesting() bool {
	switch http2.FrameType(w.kept[3]) {
	case http2.FrameData:
		n := w.length()
		return n <= longestOwn && n >= shortestOwn
	case http2.FrameRSTStream:
		return w.length() == 4
	case http2.FrameGoAway:
		return w.length() >= 8 && w.length() <= longestOwn
	}
	return false
}

// see looks at the payload of a frame. It tells the end of an answer to a malformed request.
func (w *frameWatch) see(payload []byte) (malformed bool) {
	switch http2.FrameType(w.kept[3]) {
	case http2.FrameData:
		if reject := ownAnswers[string(payload)]; reject != nil {
			w.h.lost(reject)
			return reject == rejectConnectionField && http2.Flags(w.kept[4]).Has(http2.FlagDataEndStream)
		}
	case http2.FrameRSTStream:
		code := http2.ErrCode(binary.BigEndian.Uint32(payload))
		switch code {
		case http2.ErrCodeNo, http2.ErrCodeInternal, http2.ErrCodeCancel:
			// The gateway's own: there was an exchange.
			return false
		}
		w.h.count(streamError, code)
		if w.h.explained.Add(-1) < 0 {
			// Nothing but a head that it could not make sense of goes without a word.
			w.h.explained.Add(1)
			w.h.lost(rejectMalformed)
		}
	case http2.FrameGoAway:
		if code := http2.ErrCode(binary.BigEndian.Uint32(payload[4:])); code != http2.ErrCodeNo {
			w.h.count(connectionError, code)
		}
	}
	return false
}

// explain is told by the engine why it is about to reset a stream, or to end
// the connection.
func (h *h2conn) explain(what string) {
	scope, rest, _ := strings.Cut(what, "_")
	switch {
	case scope == "stream":
		h.explained.Add(1)
		for _, suffix := range lostRequests {
			if strings.HasSuffix(rest, suffix) {
				h.lost(rejectMalformed)
				return
			}
		}
	case what == "frame_windowupdate_zero_inc_stream":
		h.explained.Add(1)
	}
}

// lostRequests are the explanations of what would have been a request.
var lostRequests = []string{
	"bad_connect", "bad_path_method", "bad_path", "authority_host_mismatch", "multiple_host_headers", "userinfo_in_authority", "invalid_authority",
}

// lost stands in for a request that the engine kept to itself.
func (h *h2conn) lost(reject *exchange.Reject) {
	s := h.server
	var req fasthttp.Request
	var res fasthttp.Response
	x := s.pool.Get(&req, &res, s.ended)
	x.Unread, x.Protocol = true, "HTTP/2.0"
	h.conn.identify(x)
	x.ClientAddr = x.PeerAddr
	s.handler.Answer(x, reject)
	x.BytesOut = 0 // the engine's answer is not known here
	_ = x.Close()
}

// errorScope is what an error of HTTP/2 ends (RFC 9113, section 5.4).
type errorScope uint8

const (
	streamError errorScope = iota
	connectionError
	errorScopes // their number
)

var errorScopeWords = [errorScopes]string{"stream", "connection"}

// errorWords name the error codes of RFC 9113, section 7; what is none of them
// counts as the first.
var errorWords = [...]string{
	"other", "protocol_error", "internal_error", "flow_control_error", "settings_timeout", "stream_closed", "frame_size_error",
	"refused_stream", "cancel", "compression_error", "connect_error", "enhance_your_calm", "inadequate_security", "http_1_1_required",
}

// count counts an error of a client, and says so now and then.
func (h *h2conn) count(scope errorScope, code http2.ErrCode) {
	if int(code) >= len(errorWords) {
		code = 0
	}
	l := h.conn.owner
	if n := l.counters.Load(); n != nil {
		n.countHTTP2(scope, int(code))
	}
	word := errorWords[code]
	l.say.Log(slog.LevelInfo, word, "ended a "+errorScopeWords[scope]+" of HTTP/2 for an error of the client",
		"listener", l.Name(), "client", h.conn.peer.String(), "code", word)
}
