package websocket

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
	"sluice/gateway/wsconn"
)

// event is one of a stream of server-sent events.
type event struct {
	name, data, id []byte
	has            bool // there is a line of data
}

// eventReader reads the events of a stream, as the HTML standard has them.
type eventReader struct {
	lines *bufio.Reader
	limit int
	began bool
	id    []byte // of the last event that had one; it stays
}

var errEventTooLarge = errors.New("the event is too large")

// next returns the next event that has data; io.EOF at the end of the stream, where an event that is not whole is lost.
func (r *eventReader) next() (*event, error) {
	e := &event{}
	for size := 0; ; {
		line, err := r.line()
		if err != nil {
			return nil, err
		}
		if size += len(line); size > r.limit {
			return nil, errEventTooLarge
		}
		if len(line) == 0 {
			if e.has {
				e.id = r.id
				return e, nil
			}
			*e, size = event{}, 0
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "event":
			e.name = bytes.Clone(value)
		case "data":
			if e.has {
				e.data = append(e.data, '\n')
			}
			e.data, e.has = append(e.data, value...), true
		case "id":
			if bytes.IndexByte(value, 0) < 0 {
				r.id = bytes.Clone(value)
			}
		}
	}
}

// line returns the next line without its end, which is CR LF, LF or CR. It is valid until the next call.
func (r *eventReader) line() ([]byte, error) {
	var line []byte
	for {
		c, err := r.lines.ReadByte()
		switch {
		case err != nil:
			return nil, err
		case c == '\n' && r.began:
			// The other half of a CR LF, whose line was told when its CR came: nobody waits for what may follow.
			r.began = false
			continue
		case c == '\r':
			r.began = true
			return bytes.TrimPrefix(line, bom), nil
		case c == '\n':
			return bytes.TrimPrefix(line, bom), nil
		}
		r.began = false
		if line = append(line, c); len(line) > r.limit {
			return nil, errEventTooLarge
		}
	}
}

var bom = []byte("\ufeff")

// relay sends a stream of events, as they come.
func (r *request) relay(stream io.Reader) {
	events := &eventReader{lines: bufio.NewReaderSize(stream, 2<<10), limit: r.br.maxAnswer}
	for {
		e, err := events.next()
		if err != nil {
			r.endStream(err)
			return
		}
		if r.conn.Write(r.eventMessage(e)) != nil {
			return
		}
	}
}

func (r *request) eventMessage(e *event) wsconn.Message {
	if r.br.bodyAlone {
		return wsconn.Message{Text: true, Data: bytes.ToValidUTF8(e.data, []byte("\ufffd"))}
	}
	b := append([]byte(`{"id":`), r.id...)
	if len(e.name) > 0 {
		b = exchange.AppendJSONString(append(b, `,"event":`...), e.name)
	}
	b = appendValue(b, "data", e.data, true)
	if len(e.id) > 0 {
		b = exchange.AppendJSONString(append(b, `,"last_event_id":`...), e.id)
	}
	return wsconn.Message{Text: true, Data: append(b, '}')}
}

// endStream tells that there are no more events.
func (r *request) endStream(err error) {
	if r.watcher.over.Load() {
		return
	}
	var reject *exchange.Reject
	switch err {
	case io.EOF:
		if r.br.bodyAlone {
			return
		}
		b := append(append([]byte(`{"id":`), r.id...), `,"end":true}`...)
		_ = r.conn.Write(wsconn.Message{Text: true, Data: b})
		return
	case errEventTooLarge:
		reject = rejectLarge
	default:
		reject = exchange.NewReject(fasthttp.StatusBadGateway, "upstream_truncated", "the service's events could not be read to their end")
	}
	m := r.refusal(reject)
	if !r.br.bodyAlone {
		m.Data = append(m.Data[:len(m.Data)-1], `,"end":true}`...)
	}
	_ = r.conn.Write(m)
}
