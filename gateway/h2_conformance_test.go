package gateway_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"sluice/gateway"
)

// What RFC 9113 and RFC 7541 say of single frames, section by section. TestHTTP2Conformance
// has what they say of requests.

// violation is what a client sends that the specification has a word on.
type violation struct {
	section, name string
	// want is the verdict, alternatives with "|" between: "GOAWAY CODE", where
	// the connection has to end as well, "RST_STREAM CODE", a status, or "pong"
	// where the connection goes on as if nothing had been.
	want string
	act  func(f *violator) string
}

// violator is a client with requests of its own.
type violator struct {
	*frames
	get  []string // a whole request
	good []string // one that the backend is to see
	post []string // one whose body of 9 bytes is to come
	held []string // one that the backend does not answer
}

// The verdicts.
const (
	pong        = "pong"
	protocol    = "GOAWAY PROTOCOL_ERROR"
	frameSize   = "GOAWAY FRAME_SIZE_ERROR"
	flowControl = "GOAWAY FLOW_CONTROL_ERROR"
	compression = "GOAWAY COMPRESSION_ERROR"
	resetBad    = "RST_STREAM PROTOCOL_ERROR"
	resetFlow   = "RST_STREAM FLOW_CONTROL_ERROR"
	resetSize   = "RST_STREAM FRAME_SIZE_ERROR"
	resetClosed = "RST_STREAM STREAM_CLOSED"
	closedErr   = "GOAWAY STREAM_CLOSED"
)

// pongs sends a ping and returns what comes first: its answer, or the end.
func (f *violator) pongs() string {
	f.t.Helper()
	data := [8]byte{'a', 'l', 'i', 'v', 'e'}
	if f.fr.WritePing(false, data) != nil {
		return f.status(0)
	}
	verdict := "closed"
	f.until(func(fr http2.Frame) bool {
		switch fr := fr.(type) {
		case *http2.PingFrame:
			if fr.IsAck() && fr.Data == data {
				verdict = pong
				return true
			}
		case *http2.GoAwayFrame:
			verdict = "GOAWAY " + fr.ErrCode.String()
			return true
		case *http2.RSTStreamFrame:
			verdict = "RST_STREAM " + fr.ErrCode.String()
			return true
		}
		return false
	})
	return verdict
}

// raw writes a frame whose header may be anything.
func (f *violator) raw(kind http2.FrameType, flags http2.Flags, stream uint32, payload string) {
	f.t.Helper()
	f.rawOf(len(payload), kind, flags, stream, payload)
}

func (f *violator) rawOf(length int, kind http2.FrameType, flags http2.Flags, stream uint32, payload string) {
	f.t.Helper()
	head := []byte{byte(length >> 16), byte(length >> 8), byte(length), byte(kind), byte(flags), 0, 0, 0, 0}
	binary.BigEndian.PutUint32(head[5:], stream)
	_, _ = f.conn.Write(append(head, payload...)) // what it meets, reading tells
}

// open begins a request whose body is to come.
func (f *violator) open(stream uint32) { f.t.Helper(); f.headers(stream, false, f.post...) }

// halfClosed sends a request that is not answered yet.
func (f *violator) halfClosed(stream uint32) { f.t.Helper(); f.headers(stream, true, f.held...) }

// answered sends a request and reads its answer to the end.
func (f *violator) answered(stream uint32) {
	f.t.Helper()
	f.headers(stream, true, f.good...)
	if f.until(func(fr http2.Frame) bool {
		d, ok := fr.(*http2.DataFrame)
		return ok && d.StreamID == stream && d.StreamEnded()
	}) == nil {
		f.t.Error("a good request is not answered")
	}
}

// cancelled begins a request and takes it back.
func (f *violator) cancelled(stream uint32) {
	f.t.Helper()
	f.open(stream)
	f.write(f.fr.WriteRSTStream(stream, http2.ErrCodeCancel))
}

// fragment sends a header block as it is.
func (f *violator) fragment(block ...byte) string {
	f.t.Helper()
	f.write(f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndStream: true, EndHeaders: true}))
	return f.status(1)
}

// begin sends all of a request's head but the end of its block.
func (f *violator) begin(stream uint32) {
	f.t.Helper()
	f.write(f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: f.block(f.get...), EndStream: true}))
}

func (f *violator) settings(s ...http2.Setting) { f.t.Helper(); f.write(f.fr.WriteSettings(s...)) }

func violations() (table []violation) {
	section := ""
	add := func(name, want string, act func(f *violator) string) {
		table = append(table, violation{section: section, name: name, want: want, act: act})
	}
	// first judges by the first stream, after by a ping behind it all.
	first := func(name, want string, send func(f *violator)) {
		add(name, want, func(f *violator) string { f.t.Helper(); send(f); return f.status(1) })
	}
	after := func(name, want string, send func(f *violator)) {
		add(name, want, func(f *violator) string { f.t.Helper(); send(f); return f.pongs() })
	}
	ping := "12345678"
	priority := "\x00\x00\x00\x00\x10"

	section = "4.1 Frame format"
	after("unknown type", pong, func(f *violator) { f.raw(0x16, 0, 0, ping) })
	after("unknown type on an idle stream", pong, func(f *violator) { f.raw(0x16, 0xff, 7, ping) })
	after("unknown type, empty", pong, func(f *violator) { f.raw(0xff, 0, 0, "") })
	after("unknown flags of PING", pong, func(f *violator) { f.raw(http2.FramePing, 0x16, 0, ping) })
	after("unknown flags of SETTINGS", pong, func(f *violator) { f.raw(http2.FrameSettings, 0xfe, 0, "") })
	after("reserved bit of PING", pong, func(f *violator) { f.raw(http2.FramePing, 0, 1<<31, ping) })
	first("reserved bit of HEADERS", "200", func(f *violator) {
		f.raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream, 1|1<<31, string(f.block(f.get...)))
	})

	section = "4.2 Frame size"
	first("DATA of 16 KiB", "413", func(f *violator) { // larger than the limit of this gateway, not of frames
		f.headers(1, false, f.post[:8]...)
		f.write(f.fr.WriteData(1, true, make([]byte, 16<<10)))
	})
	first("DATA larger than allowed", frameSize+"|"+resetSize, func(f *violator) {
		f.open(1)
		f.raw(http2.FrameData, http2.FlagDataEndStream, 1, text(16<<10+1))
	})
	first("HEADERS larger than allowed", frameSize, func(f *violator) {
		f.raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream, 1, text(16<<10+1))
	})
	after("SETTINGS larger than allowed", frameSize, func(f *violator) { f.raw(http2.FrameSettings, 0, 0, text(16<<10+2)) })
	after("unknown type larger than allowed", frameSize, func(f *violator) { f.raw(0x16, 0, 0, text(16<<10+1)) })
	after("the largest length there is", frameSize, func(f *violator) { f.rawOf(1<<24-1, http2.FrameData, 0, 1, "") })

	section = "4.3 Field section compression"
	first("block that is none", compression, func(f *violator) { f.raw(http2.FrameHeaders, 5, 1, "\xff\xff\xff\xff\xff\xff") })
	first("PRIORITY within a block", protocol, func(f *violator) { f.begin(1); f.raw(http2.FramePriority, 0, 1, priority) })
	first("HEADERS within a block", protocol, func(f *violator) { f.begin(1); f.headers(3, true, f.get...) })
	first("DATA within a block", protocol, func(f *violator) { f.begin(1); f.write(f.fr.WriteData(1, true, []byte("x"))) })
	first("SETTINGS within a block", protocol, func(f *violator) { f.begin(1); f.settings() })
	first("RST_STREAM within a block", protocol, func(f *violator) { f.begin(1); f.write(f.fr.WriteRSTStream(1, http2.ErrCodeCancel)) })
	first("WINDOW_UPDATE within a block", protocol, func(f *violator) { f.begin(1); f.write(f.fr.WriteWindowUpdate(0, 1)) })
	first("unknown type within a block", protocol, func(f *violator) { f.begin(1); f.raw(0x16, 0, 1, ping) })

	section = "5.1 Stream states"
	after("idle: DATA", protocol, func(f *violator) { f.raw(http2.FrameData, 0, 1, "x") })
	after("idle: RST_STREAM", protocol, func(f *violator) { f.write(f.fr.WriteRSTStream(1, http2.ErrCodeCancel)) })
	after("idle: WINDOW_UPDATE", protocol, func(f *violator) { f.write(f.fr.WriteWindowUpdate(1, 100)) })
	after("idle: CONTINUATION", protocol, func(f *violator) { f.write(f.fr.WriteContinuation(1, true, nil)) })
	after("idle: PRIORITY", pong, func(f *violator) { f.raw(http2.FramePriority, 0, 1, priority) })
	after("half-closed: DATA", resetClosed+"|"+closedErr, func(f *violator) { f.halfClosed(1); f.write(f.fr.WriteData(1, true, []byte("x"))) })
	after("half-closed: HEADERS", resetClosed+"|"+closedErr, func(f *violator) { f.halfClosed(1); f.headers(1, true, "x", "y") })
	after("half-closed: CONTINUATION", protocol+"|"+closedErr, func(f *violator) { f.halfClosed(1); f.write(f.fr.WriteContinuation(1, true, nil)) })
	after("half-closed: WINDOW_UPDATE", pong, func(f *violator) { f.halfClosed(1); f.write(f.fr.WriteWindowUpdate(1, 100)) })
	after("half-closed: PRIORITY", pong, func(f *violator) { f.halfClosed(1); f.raw(http2.FramePriority, 0, 1, priority) })
	after("half-closed: RST_STREAM", pong, func(f *violator) { f.halfClosed(1); f.write(f.fr.WriteRSTStream(1, http2.ErrCodeCancel)) })
	after("reset: DATA", resetClosed+"|"+closedErr, func(f *violator) { f.cancelled(1); f.write(f.fr.WriteData(1, true, []byte("x"))) })
	after("reset: HEADERS", resetClosed+"|"+closedErr+"|"+protocol, func(f *violator) { f.cancelled(1); f.headers(1, true, f.get...) })
	after("reset: CONTINUATION", protocol+"|"+closedErr, func(f *violator) { f.cancelled(1); f.write(f.fr.WriteContinuation(1, true, nil)) })
	after("reset: WINDOW_UPDATE", pong, func(f *violator) { f.cancelled(1); f.write(f.fr.WriteWindowUpdate(1, 100)) })
	after("reset: RST_STREAM", pong, func(f *violator) { f.cancelled(1); f.write(f.fr.WriteRSTStream(1, http2.ErrCodeCancel)) })
	after("reset: PRIORITY", pong, func(f *violator) { f.cancelled(1); f.raw(http2.FramePriority, 0, 1, priority) })
	after("closed: DATA", resetClosed+"|"+closedErr, func(f *violator) { f.answered(1); f.write(f.fr.WriteData(1, true, []byte("x"))) })
	after("closed: HEADERS", closedErr+"|"+protocol, func(f *violator) { f.answered(1); f.headers(1, true, f.get...) })
	after("closed: CONTINUATION", protocol+"|"+closedErr, func(f *violator) { f.answered(1); f.write(f.fr.WriteContinuation(1, true, nil)) })
	after("closed: WINDOW_UPDATE", pong, func(f *violator) { f.answered(1); f.write(f.fr.WriteWindowUpdate(1, 100)) })
	after("closed: RST_STREAM", pong, func(f *violator) { f.answered(1); f.write(f.fr.WriteRSTStream(1, http2.ErrCodeCancel)) })
	after("closed: PRIORITY", pong, func(f *violator) { f.answered(1); f.raw(http2.FramePriority, 0, 1, priority) })

	section = "5.1.1 Stream identifiers"
	after("even", protocol, func(f *violator) { f.headers(2, true, f.get...) })
	after("0", protocol, func(f *violator) { f.headers(0, true, f.get...) })
	after("smaller than before", protocol+"|"+closedErr, func(f *violator) { f.open(5); f.headers(3, true, f.get...) })
	add("the largest", "200", func(f *violator) string { f.headers(1<<31-1, true, f.get...); return f.status(1<<31 - 1) })
	after("behind the largest", protocol+"|"+closedErr, func(f *violator) { f.answered(1<<31 - 1); f.headers(1, true, f.get...) })

	section = "5.1.2 Stream concurrency"
	add("one too many", resetBad+"|RST_STREAM REFUSED_STREAM", func(f *violator) string {
		for i := range uint32(251) {
			f.open(2*i + 1)
		}
		return f.status(501)
	})

	section = "5.3 Prioritization, which is ignored or refused"
	first("HEADERS that depend on themselves", "200|"+resetBad+"|"+protocol, func(f *violator) {
		f.write(f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block(f.get...), EndStream: true, EndHeaders: true, Priority: http2.PriorityParam{StreamDep: 1}}))
	})
	after("PRIORITY that depends on itself", pong+"|"+resetBad+"|"+protocol, func(f *violator) { f.raw(http2.FramePriority, 0, 1, "\x00\x00\x00\x01\x10") })
	first("HEADERS with priority", "200", func(f *violator) {
		f.write(f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block(f.get...), EndStream: true, EndHeaders: true,
			Priority: http2.PriorityParam{StreamDep: 99, Exclusive: true, Weight: 255}}))
	})
	after("PRIORITY in a circle", pong, func(f *violator) {
		f.raw(http2.FramePriority, 0, 1, "\x00\x00\x00\x03\x10")
		f.raw(http2.FramePriority, 0, 3, "\x80\x00\x00\x01\x10")
	})
	after("PRIORITY_UPDATE", pong, func(f *violator) { f.raw(0x10, 0, 0, "\x00\x00\x00\x01u=1") })

	section = "5.4 Error handling"
	add("a connection error names the last stream", "3", func(f *violator) string {
		f.answered(1)
		f.answered(3)
		f.raw(http2.FramePing, 0, 1, ping)
		g, _ := f.until(func(fr http2.Frame) bool { return fr.Header().Type == http2.FrameGoAway }).(*http2.GoAwayFrame)
		if g == nil {
			return "closed"
		}
		return fmt.Sprint(g.LastStreamID)
	})
	add("a stream error leaves others alone", "200", func(f *violator) string {
		f.open(1)
		f.write(f.fr.WriteWindowUpdate(1, 0))
		f.headers(3, true, f.get...)
		return f.status(3)
	})
	after("a reset is not answered with one", pong, func(f *violator) {
		f.halfClosed(1)
		f.write(f.fr.WriteRSTStream(1, 0xfffffff0)) // of no known code
		f.write(f.fr.WriteRSTStream(1, http2.ErrCodeCancel))
	})

	section = "5.5 Extensions"
	after("unknown setting", pong, func(f *violator) { f.settings(http2.Setting{ID: 0xfff0, Val: 1<<32 - 1}) })
	first("unknown type between HEADERS and DATA", "200", func(f *violator) {
		f.open(1)
		f.raw(0x16, 0, 1, ping)
		f.write(f.fr.WriteData(1, true, []byte("123456789")))
	})

	section = "6.1 DATA"
	after("stream 0", protocol, func(f *violator) { f.raw(http2.FrameData, 0, 0, "x") })
	after("padding as long as the frame", protocol+"|"+resetBad, func(f *violator) {
		f.open(1)
		f.raw(http2.FrameData, http2.FlagDataPadded|http2.FlagDataEndStream, 1, "\x06abcde")
	})
	after("padded, but empty", protocol+"|"+frameSize+"|"+resetSize+"|closed", func(f *violator) {
		f.open(1)
		f.raw(http2.FrameData, http2.FlagDataPadded, 1, "")
	})
	first("empty ones", "200", func(f *violator) {
		f.open(1)
		for range 5 {
			f.write(f.fr.WriteData(1, false, nil))
		}
		f.write(f.fr.WriteData(1, false, []byte("123456789")))
		f.write(f.fr.WriteData(1, true, nil))
	})
	first("padding alone", "200", func(f *violator) {
		f.open(1)
		f.write(f.fr.WriteDataPadded(1, false, nil, make([]byte, 100)))
		f.write(f.fr.WriteDataPadded(1, true, []byte("123456789"), make([]byte, 255)))
	})

	section = "6.2 HEADERS"
	after("stream 0", protocol, func(f *violator) { f.headers(0, true, f.get...) })
	after("padding longer than the frame", protocol+"|"+resetBad, func(f *violator) { f.raw(http2.FrameHeaders, http2.FlagHeadersPadded|5, 1, "\xff\x82") })
	after("padded, but empty", protocol+"|"+frameSize+"|closed", func(f *violator) { f.raw(http2.FrameHeaders, http2.FlagHeadersPadded|5, 1, "") })
	after("priority that is cut", protocol+"|"+frameSize+"|closed", func(f *violator) { f.raw(http2.FrameHeaders, http2.FlagHeadersPriority|5, 1, "\x00\x00\x00") })
	first("padding", "200", func(f *violator) {
		f.write(f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block(f.get...), EndStream: true, EndHeaders: true, PadLength: 255}))
	})
	first("trailers that do not end the stream", resetBad, func(f *violator) { f.open(1); f.headers(1, false, "x", "y") })
	first("trailers", "200", func(f *violator) {
		f.open(1)
		f.write(f.fr.WriteData(1, false, []byte("123456789")))
		f.headers(1, true, "x-sum", "y")
	})
	first("no field at all", resetBad, func(f *violator) { f.raw(http2.FrameHeaders, 5, 1, "") })

	section = "6.3 PRIORITY"
	after("stream 0", protocol, func(f *violator) { f.raw(http2.FramePriority, 0, 0, priority) })
	after("too short", frameSize+"|"+resetSize, func(f *violator) { f.raw(http2.FramePriority, 0, 1, priority[1:]) })
	after("too long", frameSize+"|"+resetSize, func(f *violator) { f.raw(http2.FramePriority, 0, 1, priority+"x") })

	section = "6.4 RST_STREAM"
	after("stream 0", protocol, func(f *violator) { f.raw(http2.FrameRSTStream, 0, 0, "\x00\x00\x00\x08") })
	after("too short", frameSize, func(f *violator) { f.open(1); f.raw(http2.FrameRSTStream, 0, 1, "\x00\x00\x08") })
	after("too long", frameSize, func(f *violator) { f.open(1); f.raw(http2.FrameRSTStream, 0, 1, "\x00\x00\x00\x00\x08") })

	section = "6.5 SETTINGS"
	after("acknowledgement with a payload", frameSize, func(f *violator) { f.raw(http2.FrameSettings, http2.FlagSettingsAck, 0, "\x00\x03\x00\x00\x00\x64") })
	after("acknowledgement of nothing", protocol, func(f *violator) { f.write(f.fr.WriteSettingsAck()); f.write(f.fr.WriteSettingsAck()) })
	after("on a stream", protocol, func(f *violator) { f.raw(http2.FrameSettings, 0, 1, "") })
	after("of five bytes", frameSize, func(f *violator) { f.raw(http2.FrameSettings, 0, 0, "\x00\x03\x00\x00\x00") })
	after("of seven bytes", frameSize, func(f *violator) { f.raw(http2.FrameSettings, 0, 0, "\x00\x03\x00\x00\x00\x64\x00") })

	section = "6.5.2 Settings"
	after("more than a hundred", pong+"|"+protocol, func(f *violator) {
		var all []http2.Setting
		for i := range 101 {
			all = append(all, http2.Setting{ID: http2.SettingID(0xff00 + i)})
		}
		f.settings(all...)
	})
	after("push of 2", protocol, func(f *violator) { f.settings(http2.Setting{ID: http2.SettingEnablePush, Val: 2}) })
	after("push of 1", pong, func(f *violator) { f.settings(http2.Setting{ID: http2.SettingEnablePush, Val: 1}) })
	after("window of 2^31", flowControl, func(f *violator) { f.settings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31}) })
	after("window of 2^31-1", pong, func(f *violator) { f.settings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1}) })
	after("frames smaller than 16 KiB", protocol, func(f *violator) { f.settings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 16<<10 - 1}) })
	after("frames larger than 2^24-1", protocol, func(f *violator) { f.settings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 24}) })
	after("frames of 2^24-1", pong, func(f *violator) { f.settings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1<<24 - 1}) })
	after("extended CONNECT of 2", protocol+"|"+pong, func(f *violator) { f.settings(http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 2}) })
	first("table of nothing", "200", func(f *violator) {
		f.settings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
		f.headers(1, true, f.get...)
	})
	first("table of 4 GiB", "200", func(f *violator) {
		f.settings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 1<<32 - 1})
		f.headers(1, true, f.get...)
	})
	// The engine hangs up on what no client sends: a setting twice in a frame.
	add("the last of one kind holds", "1 bytes|"+protocol, func(f *violator) string {
		window := func(n uint32) http2.Setting { return http2.Setting{ID: http2.SettingInitialWindowSize, Val: n} }
		f.settings(window(100), window(1))
		f.headers(1, true, f.get...)
		return f.data(1)
	})

	section = "6.5.3 Settings synchronization"
	add("each is acknowledged", "yes", func(f *violator) string {
		for range 3 { // the first of them is what frames() has sent
			if f.until(func(fr http2.Frame) bool { s, ok := fr.(*http2.SettingsFrame); return ok && s.IsAck() }) == nil {
				return "closed"
			}
			f.settings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 20_000})
		}
		return "yes"
	})

	section = "6.6 PUSH_PROMISE"
	after("of a client", protocol, func(f *violator) {
		f.open(1)
		f.write(f.fr.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: f.block(f.get...), EndHeaders: true}))
	})
	after("on stream 0", protocol, func(f *violator) { f.raw(http2.FramePushPromise, 4, 0, "\x00\x00\x00\x02\x82") })

	section = "6.7 PING"
	after("is answered", pong, func(f *violator) {})
	after("acknowledgement is not answered", pong, func(f *violator) { f.write(f.fr.WritePing(true, [8]byte{1})) })
	after("on a stream", protocol, func(f *violator) { f.raw(http2.FramePing, 0, 1, ping) })
	after("too short", frameSize, func(f *violator) { f.raw(http2.FramePing, 0, 0, ping[1:]) })
	after("too long", frameSize, func(f *violator) { f.raw(http2.FramePing, 0, 0, ping+"9") })

	section = "6.8 GOAWAY"
	after("on a stream", protocol, func(f *violator) { f.raw(http2.FrameGoAway, 0, 1, "\x00\x00\x00\x00\x00\x00\x00\x00") })
	after("too short", frameSize, func(f *violator) { f.raw(http2.FrameGoAway, 0, 0, "\x00\x00\x00\x00\x00\x00\x00") })
	first("behind a request, which is answered", "200", func(f *violator) {
		f.headers(1, true, f.get...)
		f.write(f.fr.WriteGoAway(0, http2.ErrCodeNo, []byte("so long")))
	})

	section = "6.9 WINDOW_UPDATE"
	after("of 0", protocol, func(f *violator) { f.write(f.fr.WriteWindowUpdate(0, 0)) })
	first("of 0 on a stream", resetBad, func(f *violator) { f.open(1); f.write(f.fr.WriteWindowUpdate(1, 0)) })
	after("of 0 with the reserved bit", protocol, func(f *violator) { f.raw(http2.FrameWindowUpdate, 0, 0, "\x80\x00\x00\x00") })
	after("too short", frameSize, func(f *violator) { f.raw(http2.FrameWindowUpdate, 0, 0, "\x00\x00\x01") })
	after("too long", frameSize, func(f *violator) { f.raw(http2.FrameWindowUpdate, 0, 0, "\x00\x00\x00\x00\x01") })

	section = "6.9.1 The flow-control window"
	after("of the connection, too large", flowControl, func(f *violator) { f.write(f.fr.WriteWindowUpdate(0, 1<<31-1)) })
	after("of the connection, too large in two steps", flowControl, func(f *violator) {
		f.write(f.fr.WriteWindowUpdate(0, 1<<31-1-65535))
		f.write(f.fr.WriteWindowUpdate(0, 1))
	})
	first("of a stream, too large", resetFlow, func(f *violator) { f.halfClosed(1); f.write(f.fr.WriteWindowUpdate(1, 1<<31-1)) })
	add("of one byte", "1 bytes", func(f *violator) string {
		f.settings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
		f.headers(1, true, f.get...)
		return f.data(1)
	})

	section = "6.9.2 Initial flow-control window size"
	add("opened later", "2 bytes", func(f *violator) string {
		f.settings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		f.headers(1, true, f.get...)
		if s := f.status(1); s != "200" {
			return s
		}
		f.settings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100})
		return f.data(1)
	})
	add("below zero, and up again", "1 bytes", func(f *violator) string {
		f.settings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
		f.headers(1, true, f.get...)
		if s := f.data(1); s != "1 bytes" { // of two
			return s
		}
		f.settings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}) // now at -1
		f.write(f.fr.WriteWindowUpdate(1, 1))                                 // 0
		f.write(f.fr.WriteWindowUpdate(1, 1))
		return f.data(1)
	})
	// The engine finds out where the stream's window is looked at next.
	after("that makes a stream's too large", flowControl+"|"+resetFlow, func(f *violator) {
		f.halfClosed(1)
		f.write(f.fr.WriteWindowUpdate(1, 1<<31-1-65535))
		f.settings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 65536})
		f.write(f.fr.WriteWindowUpdate(1, 1))
	})

	section = "6.10 CONTINUATION"
	first("several", "200", func(f *violator) {
		block := f.block(f.get...)
		f.write(f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:1], EndStream: true}))
		for _, b := range block[1:] {
			f.write(f.fr.WriteContinuation(1, false, []byte{b}))
		}
		f.write(f.fr.WriteContinuation(1, true, nil))
	})
	first("behind the end of a block", protocol, func(f *violator) { f.halfClosed(1); f.write(f.fr.WriteContinuation(1, true, nil)) })
	first("behind DATA", protocol, func(f *violator) {
		f.open(1)
		f.write(f.fr.WriteData(1, false, []byte("x")))
		f.write(f.fr.WriteContinuation(1, true, nil))
	})
	first("on stream 0", protocol, func(f *violator) { f.begin(1); f.write(f.fr.WriteContinuation(0, true, nil)) })
	first("on another stream", protocol, func(f *violator) { f.begin(1); f.write(f.fr.WriteContinuation(3, true, nil)) })
	after("behind trailers", protocol, func(f *violator) {
		f.headers(1, false, f.good...)
		f.headers(1, true, "x", "y")
		f.write(f.fr.WriteContinuation(1, true, nil))
	})

	section = "8.1 Message framing"
	first("length and several DATA", resetBad+"|400", func(f *violator) {
		f.open(1)
		f.write(f.fr.WriteData(1, false, []byte("12345")))
		f.write(f.fr.WriteData(1, true, []byte("123")))
	})
	first("more DATA than its length", resetBad, func(f *violator) {
		f.headers(1, false, append(slices.Clone(f.held), "content-length", "9")...)
		f.write(f.fr.WriteData(1, false, []byte("123456789")))
		f.write(f.fr.WriteData(1, true, []byte("0")))
	})
	first("length, and trailers instead of DATA", resetBad+"|400", func(f *violator) { f.open(1); f.headers(1, true, "x", "y") })
	first("trailers with a pseudo field", resetBad, func(f *violator) { f.open(1); f.headers(1, true, ":status", "200") })
	first("trailers with a field in upper case", resetBad, func(f *violator) { f.open(1); f.headers(1, true, "X-Sum", "y") })

	section = "RFC 7541, 2.3 and 6.1 Indexing"
	get := []byte{0x82, 0x86, 0x84, 0x41, 9, 'x', '.', 'e', 'x', 'a', 'm', 'p', 'l', 'e'} // GET, http, /, x.example
	add("from the static table", "200", func(f *violator) string { return f.fragment(get...) })
	add("0", compression, func(f *violator) string { return f.fragment(append(slices.Clone(get), 0x80)...) })
	add("beyond the tables", compression, func(f *violator) string { return f.fragment(append(slices.Clone(get), 0x80|126)...) })
	add("of a name, beyond the tables", compression, func(f *violator) string { return f.fragment(append(slices.Clone(get), 0x40|63, 0, 1, 'x')...) })
	add("of what another stream has added", "200", func(f *violator) string {
		f.headers(1, true, append(slices.Clone(f.get), "x-long", text(500))...)
		_ = f.status(1)
		f.headers(3, true, append(slices.Clone(f.get), "x-long", text(500))...)
		return f.status(3)
	})
	add("of what was evicted", compression, func(f *violator) string {
		block := append(slices.Clone(get), 0x40, 1, 'x', 1, 'y') // index 62
		block = append(append([]byte{0x20}, block...), 0x80|62)  // but the table is of size 0
		return f.fragment(block...)
	})

	section = "RFC 7541, 4.2 Maximum table size"
	add("larger than allowed", compression, func(f *violator) string {
		return f.fragment(append([]byte{0x3f, 0xe2, 0x1f}, get...)...) // 4097
	})
	add("as large as allowed", "200", func(f *violator) string { return f.fragment(append([]byte{0x3f, 0xe1, 0x1f}, get...)...) })
	add("behind a field", compression, func(f *violator) string { return f.fragment(append(slices.Clone(get), 0x20)...) })
	add("twice, the smaller first", "200", func(f *violator) string { return f.fragment(append([]byte{0x20, 0x3f, 0xe1, 0x1f}, get...)...) })

	section = "RFC 7541, 5.1 Integers"
	add("too large", compression, func(f *violator) string {
		return f.fragment(append(slices.Clone(get), 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f)...)
	})
	add("cut", compression, func(f *violator) string { return f.fragment(append(slices.Clone(get), 0x7f, 0x80)...) })

	section = "RFC 7541, 5.2 Strings"
	literal := func(value ...byte) []byte { return append(append(slices.Clone(get), 0x00, 1, 'x'), value...) }
	add("plain", "200", func(f *violator) string { return f.fragment(literal(1, 'y')...) })
	add("longer than the block", compression, func(f *violator) string { return f.fragment(literal(9, 'y')...) })
	add("of 2^28 bytes", compression, func(f *violator) string { return f.fragment(literal(0x7f, 0x81, 0xff, 0xff, 0x7f)...) })
	add("Huffman", "200", func(f *violator) string {
		return f.fragment(literal(append([]byte{0x80 | byte(hpack.HuffmanEncodeLength("yes"))}, hpack.AppendHuffmanString(nil, "yes")...)...)...)
	})
	add("Huffman with more than 7 bits of padding", compression, func(f *violator) string { return f.fragment(literal(0x82, 0x1f, 0xff)...) })
	add("Huffman padded with zeros", compression, func(f *violator) string { return f.fragment(literal(0x81, 0x18)...) })
	add("Huffman with the end of string in it", compression, func(f *violator) string { return f.fragment(literal(0x84, 0xff, 0xff, 0xff, 0xff)...) })

	section = "RFC 7541, 6.2 Literals"
	add("never indexed", "200", func(f *violator) string { return f.fragment(append(slices.Clone(get), 0x10, 1, 'x', 1, 'y')...) })
	add("of no name", resetBad, func(f *violator) string { return f.fragment(append(slices.Clone(get), 0x00, 0, 1, 'y')...) })
	add("no value", compression, func(f *violator) string { return f.fragment(append(slices.Clone(get), 0x00, 1, 'x')...) })
	return table
}

// data returns how many bytes the next DATA frame of a stream brings.
func (f *violator) data(stream uint32) string {
	f.t.Helper()
	verdict := "closed"
	f.until(func(fr http2.Frame) bool {
		switch fr := fr.(type) {
		case *http2.DataFrame:
			if fr.StreamID == stream && fr.Length > 0 {
				verdict = fmt.Sprintf("%d bytes", len(fr.Data()))
				return true
			}
		case *http2.GoAwayFrame:
			verdict = "GOAWAY " + fr.ErrCode.String()
			return true
		}
		return false
	})
	return verdict
}

var refusal = regexp.MustCompile("^(GOAWAY|RST_STREAM|4)")

func TestHTTP2Frames(t *testing.T) {
	table := violations()
	if len(table) < 100 {
		t.Errorf("only %d cases", len(table))
	}
	var mu sync.Mutex
	reached := make(map[string]bool)
	release := make(chan struct{})
	s := answering(t, func(head, _ string) string {
		target := strings.Fields(head)[1]
		if strings.HasPrefix(target, "/held/") {
			<-release
		}
		mu.Lock()
		defer mu.Unlock()
		reached[target] = true
		return okAnswer
	})
	t.Cleanup(func() { close(release) })
	g := serve(t, gateway.Options{}, "listeners: {main: {address: \"127.0.0.1:0\", h2c: true}}\n"+
		forwarding(s, "connections: {max_per_endpoint: 1000}", "", "limits: {max_header_size: 8KiB, max_body_size: 1000}\n"))
	names := make(map[string]bool)
	var ending []*violator
	for i, c := range table {
		name := c.section + "/" + c.name
		if names[name] {
			t.Errorf("%s is there twice", name)
		}
		names[name] = true
		t.Run(name, func(t *testing.T) {
			path := fmt.Sprintf("/%d", i)
			request := func(method, path string, more ...string) []string {
				return append([]string{":method", method, ":scheme", "http", ":authority", "x.example", ":path", path}, more...)
			}
			f := &violator{frames: g.frames(), get: request("GET", path), good: request("GET", "/good"), post: request("POST", path, "content-length", "9"), held: request("GET", "/held"+path)}
			f.t = t
			got := c.act(f)
			if !slices.Contains(strings.Split(c.want, "|"), got) {
				t.Errorf("%s, want %s", got, c.want)
			}
			if strings.HasPrefix(got, "GOAWAY ") {
				ending = append(ending, f)
			}
			mu.Lock()
			defer mu.Unlock()
			if reached[path] && refusal.MatchString(got) {
				t.Error("it reached the backend")
			}
		})
	}
	for _, f := range ending {
		f.t = t
		_ = f.conn.SetDeadline(time.Now().Add(patience))
		f.until(func(http2.Frame) bool { return false })
	}
	t.Logf("%d cases", len(table))
	if res, body := g.get2(g.http2Client(), g.request("GET", "/", nil)); res.StatusCode != 200 || body != "ok" {
		t.Error(res.StatusCode, body)
	}
}

// A connection begins with the preface and SETTINGS, or it is none.
func TestHTTP2Preface(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	g := prior(t, s, "", "limits: {header_timeout: 500ms}\n")
	f := &violator{frames: &frames{peer: g.client()}}
	f.send(http2.ClientPreface)
	f.fr = http2.NewFramer(f.conn, f.r)
	f.write(f.fr.WritePing(false, [8]byte{}))
	f.wantGoAway(http2.ErrCodeProtocol)

	f = &violator{frames: &frames{peer: g.client()}}
	f.send(http2.ClientPreface)
	f.fr = http2.NewFramer(f.conn, f.r)
	f.write(f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82, 0x86, 0x84}, EndStream: true, EndHeaders: true}))
	f.wantGoAway(http2.ErrCodeProtocol)

	// What only begins like it is refused as HTTP/1.1.
	p := g.client()
	p.send("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n")
	p.refused(400, "bad_version")
	p.ended()
}

// Floods of frames that cost the one who sends them next to nothing: each ends
// the connection, or is worked off within bounds, and others do not notice.
func TestHTTP2FrameFloods(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector this is too slow to be a flood")
	}
	s := backend(t, func(p *peer) {
		for {
			head := p.head()
			if head == "" {
				return
			}
			if strings.HasPrefix(head, "GET /held") {
				_, _ = p.rest() // until the gateway gives up
				return
			}
			p.send(okAnswer)
		}
	})
	g := serve(t, gateway.Options{}, "listeners: {main: {address: \"127.0.0.1:0\", h2c: true}}\n"+forwarding(s, "circuit_breaker: off", "", ""))
	request := func(path string) []string {
		return []string{":method", "GET", ":scheme", "http", ":authority", "x", ":path", path}
	}
	inFlight := func() float64 { return g.metric(`sluice_requests_in_flight{route="r"}`) }
	flood := func(name string, want []string, many int, send func(f *violator, i uint32) error) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			f := &violator{frames: g.frames(), get: request("/"), held: request("/held")}
			f.t = t
			_ = f.conn.SetDeadline(time.Now().Add(10 * patience)) // on a slow machine many frames take long
			sent := make(chan struct{})
			writer := &violator{frames: &frames{peer: f.peer, fr: http2.NewFramer(f.conn, nil)}}
			writer.fr.AllowIllegalWrites = true
			writer.enc = hpack.NewEncoder(&writer.buf)
			go func() {
				defer close(sent)
				for i := range uint32(many) {
					if send(writer, i) != nil {
						return
					}
				}
				_ = writer.fr.WritePing(false, [8]byte{'e', 'n', 'd'})
			}()
			got := "closed"
			f.until(func(fr http2.Frame) bool {
				switch fr := fr.(type) {
				case *http2.GoAwayFrame:
					got = "GOAWAY " + fr.ErrCode.String()
					return true
				case *http2.PingFrame:
					got = pong
					return fr.IsAck()
				}
				return false
			})
			if !slices.Contains(want, got) {
				t.Errorf("%s, want %v", got, want)
			}
			_ = f.conn.(*net.TCPConn).Close()
			<-sent
			once(t, "what it began has ended", func() bool { return inFlight() == 0 })
			if res, body := g.get2(g.http2Client(), g.request("GET", "/", nil)); res.StatusCode != 200 || body != "ok" {
				t.Error(res.StatusCode, body)
			}
		})
	}
	const calm = "GOAWAY ENHANCE_YOUR_CALM"
	// Each of these ends the connection where it comes too fast, and is worked
	// off at no more cost than its own else.
	verdicts := []string{pong, calm, protocol, "closed"}
	// Whoever resets the streams, no more requests are under way than may be open.
	const many, maxStreams = 20_000, 250
	open := func(w *violator, i uint32) error {
		if i%100 == 0 {
			if n := inFlight(); n > maxStreams {
				t.Errorf("%v requests at once", n)
			}
		}
		return w.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: w.block(request("/held")...), EndStream: true, EndHeaders: true})
	}
	flood("resets of the client", verdicts, 2000, func(w *violator, i uint32) error {
		return errors.Join(open(w, i), w.fr.WriteRSTStream(2*i+1, http2.ErrCodeCancel))
	})
	flood("resets that the gateway is made to send", verdicts, 2000, func(w *violator, i uint32) error {
		return errors.Join(open(w, i), w.fr.WriteWindowUpdate(2*i+1, 0))
	})
	flood("requests beyond the streams allowed", verdicts, many, open)
	flood("PRIORITY", verdicts, many, func(w *violator, i uint32) error {
		return w.fr.WritePriority(2*(i%(1<<20))+1, http2.PriorityParam{Weight: byte(i)})
	})
	flood("WINDOW_UPDATE", verdicts, many, func(w *violator, _ uint32) error { return w.fr.WriteWindowUpdate(0, 1) })
	flood("empty DATA", verdicts, many, func(w *violator, i uint32) error {
		if i == 0 {
			return w.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.block(append(request("/"), "content-length", "1")...), EndHeaders: true})
		}
		return w.fr.WriteData(1, false, nil)
	})
	flood("empty CONTINUATION", verdicts, many, func(w *violator, i uint32) error {
		if i == 0 {
			return w.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.block(request("/")...), EndStream: true})
		}
		return w.fr.WriteContinuation(1, i == many-1, nil)
	})
	flood("unknown types", verdicts, many, func(w *violator, _ uint32) error { return w.fr.WriteRawFrame(0x16, 0xff, 1, []byte("12345678")) })
}

// A head that comes drop by drop and never ends does not keep a connection
// that does nothing else.
func TestHTTP2SlowHead(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	g := prior(t, s, "", "limits: {idle_timeout: 200ms}\n")
	f := g.frames()
	block := f.block(":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/"+text(7000))
	f.write(f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:1], EndStream: true}))
	told := make(chan struct{})
	dripped := make(chan struct{})
	go func() {
		defer close(dripped)
		w := http2.NewFramer(f.conn, nil)
		for i := 1; i < len(block); i++ {
			select {
			case <-told:
				return
			case <-time.After(5 * time.Millisecond):
			}
			if w.WriteContinuation(1, false, block[i:i+1]) != nil {
				return
			}
		}
	}()
	f.wantGoAway(http2.ErrCodeNo)
	if f.until(func(http2.Frame) bool { return false }) != nil {
		t.Error("the connection goes on")
	}
	close(told)
	<-dripped
}
