package listener

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"sluice/gateway/exchange"
	"sluice/gateway/telemetry"
)

// losses is a handler that keeps what it is asked to answer with.
type losses struct{ reasons []string }

func (l *losses) Decide(*exchange.Exchange) error { panic("BUG: nobody decides on what is lost") }
func (l *losses) Answer(x *exchange.Exchange, err error) {
	x.Render(err)
	l.reasons = append(l.reasons, err.Error())
}
func (l *losses) Handle(*exchange.Exchange) { panic("BUG: nobody decides on what is lost") }
func (l *losses) Done(*exchange.Exchange)   { l.reasons = append(l.reasons, "done") }

// feed is what writing does.
func feed(w *frameWatch, piece []byte) (malformed []uint32) {
	for {
		n, stream := w.feed(piece)
		if piece = piece[n:]; stream == 0 {
			return malformed
		}
		malformed = append(malformed, stream)
	}
}

// However the engine's frames are cut into writes, the same is seen in them.
func TestFrameWatch(t *testing.T) {
	var out bytes.Buffer
	fr := http2.NewFramer(&out, nil)
	_ = fr.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 20})
	_ = fr.WriteData(1, false, make([]byte, 10_000))
	_ = fr.WriteRSTStream(1, http2.ErrCodeProtocol)
	_ = fr.WriteRSTStream(3, http2.ErrCodeNo)
	_ = fr.WriteRSTStream(3, http2.ErrCodeInternal)
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 5, BlockFragment: []byte("whatever"), EndHeaders: true})
	for body := range ownAnswers {
		if len(body) > longestOwn || len(body) < shortestOwn {
			t.Errorf("nobody looks at %q", body)
		}
	}
	_ = fr.WriteData(5, true, []byte("<h1>HTTP Error 431</h1><p>Request Header Field(s) Too Large</p>"))
	_ = fr.WriteData(7, true, []byte(strings.Repeat("x", longestOwn)))
	_ = fr.WriteData(7, true, nil)
	_ = fr.WriteData(9, true, []byte("request header \"Upgrade\" is not valid in HTTP/2\n"))
	_ = fr.WritePing(true, [8]byte{})
	_ = fr.WriteGoAway(9, http2.ErrCodeEnhanceYourCalm, nil)
	_ = fr.WriteGoAway(9, http2.ErrCodeNo, make([]byte, 1000))
	_ = fr.WriteRSTStream(11, http2.ErrCodeProtocol)

	want := []string{"malformed_request", "done", "head_too_large", "done", "connection_field", "done"}
	for n := 1; n < out.Len(); n += 1 + n/8 {
		name := "main"
		l := &Listener{say: telemetry.NewLimited(slog.New(slog.DiscardHandler), refusalsEvery)}
		l.name.Store(&name)
		m := telemetry.NewMetrics(telemetry.Options{})
		l.Count(m, nil)
		seen := &losses{}
		s := &Server{l: l, handler: seen, pool: exchange.NewPool(exchange.NewClock(nil))}
		s.ended = s.done
		h := &h2conn{mux: mux{server: s, conn: &conn{owner: l}}}
		h.out.h = h
		// The second reset is explained, as that of a stream that had a request.
		var malformed []uint32
		for piece := range slices.Chunk(out.Bytes()[:out.Len()-13], n) {
			malformed = append(malformed, feed(&h.out, piece)...)
		}
		if !slices.Equal(malformed, []uint32{9}) {
			t.Errorf("in pieces of %d: streams %d are to be reset", n, malformed)
		}
		h.explain("stream_PROTOCOL_ERROR_send_too_much")
		for piece := range slices.Chunk(out.Bytes()[out.Len()-13:], n) {
			feed(&h.out, piece)
		}
		if !slices.Equal(seen.reasons, want) {
			t.Fatalf("in pieces of %d: %q", n, seen.reasons)
		}
		if got := m.HTTP2Errors.With(nil, "main", "stream", "protocol_error").Value(); got != 2 {
			t.Errorf("in pieces of %d: %d errors", n, got)
		}
		if got := m.HTTP2Errors.With(nil, "main", "connection", "enhance_your_calm").Value(); got != 1 {
			t.Errorf("in pieces of %d: %d errors", n, got)
		}
	}
}
