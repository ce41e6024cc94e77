package websocket

import (
	"encoding/base64"
	"io"
	"runtime/debug"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/valyala/fasthttp"

	"sluice/gateway/coding"
	"sluice/gateway/document"
	"sluice/gateway/exchange"
	"sluice/gateway/wsconn"
	"sluice/gateway/wswire"
)

// serveMessages is the action for clients that speak WebSocket.
func (br *bridge) serveMessages(x *exchange.Exchange) error {
	return br.server.Accept(x, func(c *wsconn.Conn) { br.converse(x, c) })
}

// talk is what a connection is about. It belongs to the connection's goroutine; requests under way know their part of it.
type talk struct {
	br      *bridge
	x       *exchange.Exchange
	conn    *wsconn.Conn
	watcher *watcher
	number  int64
	// slots are taken by requests that wait for their answer, streams by those whose answer is events.
	slots, streams chan struct{}
	left           chan struct{} // closed when nothing more is to begin
	turn           chan struct{} // closed when the answer to the last message is sent; nil before the first
	attempts       atomic.Int64
}

func (br *bridge) converse(x *exchange.Exchange, c *wsconn.Conn) {
	t := &talk{
		br: br, x: x, conn: c, watcher: &watcher{client: x.Client},
		slots: make(chan struct{}, br.inFlight), streams: make(chan struct{}, br.inFlight), left: make(chan struct{}),
	}
	x.Service = br.service.Name()
	defer func() {
		t.watcher.over.Store(true)
		x.Attempts += int(t.attempts.Load())
	}()
	c.OnLeave(t.settle)
	if br.open != nil {
		t.begin(wsconn.Message{}, true)
	}
	for {
		m, err := c.Read()
		if err != nil {
			return
		}
		t.begin(m, false)
	}
}

// settle waits until what is under way has its answer. Nothing begins after that.
func (t *talk) settle() {
	defer close(t.left)
	late := time.NewTimer(t.br.timeout)
	defer late.Stop()
	for range cap(t.slots) {
		select {
		case t.slots <- struct{}{}:
		case <-late.C:
			return
		}
	}
}

// request is one message on its way.
type request struct {
	*talk
	x      *exchange.Exchange
	id     []byte // JSON
	opens  bool
	failed bool // there was no good answer
	wrong  *exchange.Reject
	before chan struct{} // the turn of the message before; nil for none to wait for
	done   chan struct{}
}

// begin makes a request of a message and sends it on its way, as soon as there is room.
func (t *talk) begin(m wsconn.Message, opens bool) {
	r := t.prepare(m, opens)
	select {
	case t.slots <- struct{}{}:
		go r.send()
	case <-t.left:
		if r.done != nil {
			close(r.done)
		}
		_ = r.x.Close()
	}
}

func (t *talk) prepare(m wsconn.Message, opens bool) *request {
	br := t.br
	r := &request{talk: t, opens: opens}
	s := &scope{message: m.Data}
	if br.readsMessage && m.Text {
		s.json, _ = document.Check(m.Data)
	}
	if !opens {
		t.number++
	}
	if v := s.at(br.id); v != nil && (v.Kind() == document.String || v.Kind() == document.Number) {
		r.id = v.Append(nil)
	} else {
		r.id = strconv.AppendInt(nil, t.number, 10)
		if opens {
			r.id = []byte("0")
		}
	}
	if br.ordered && !opens {
		r.before, r.done = t.turn, make(chan struct{})
		t.turn = r.done
	}
	method, path := fasthttp.MethodPost, br.path
	if opens {
		method, path = fasthttp.MethodGet, br.open
	}
	var ok bool
	if r.x, ok = br.child(t.x, t.watcher, path, s); !ok {
		r.wrong = rejectValue
		return r
	}
	if br.method != nil && !opens {
		text, _, ok := br.method.fill(s, nil)
		if method = string(text); !ok || !isMethod(method) {
			r.wrong = rejectValue
			return r
		}
	}
	h := &r.x.Request.Header
	h.SetMethod(method)
	edits := &r.x.ToBackend
	hasBody := method == fasthttp.MethodPost || method == fasthttp.MethodPut || method == fasthttp.MethodPatch
	switch {
	case opens:
	case br.body != nil:
		if r.x.Body, ok = br.body.payload(s); !ok {
			r.wrong = rejectValue
			return r
		}
		if r.x.Body == nil && hasBody {
			r.x.Body = []byte{} // so that it has a length
		}
	case hasBody:
		r.x.Body = m.Data
	}
	if len(r.x.Body) > 0 || hasBody && br.body == nil {
		edits.Set(fasthttp.HeaderContentType, []byte(br.typeOf(m.Text, r.x.Body)))
	}
	if _, decided := edits.Value(fasthttp.HeaderAccept); !decided {
		edits.Set(fasthttp.HeaderAccept, []byte("application/json, text/event-stream, */*;q=0.5"))
	}
	edits.Set(fasthttp.HeaderAcceptEncoding, []byte("identity"))
	return r
}

// typeOf is the media type of what is sent.
func (br *bridge) typeOf(text bool, body []byte) string {
	switch {
	case br.contentType != "":
		return br.contentType
	case !text && !utf8.Valid(body):
		return "application/octet-stream"
	}
	if _, err := document.Check(body); err == nil {
		return typeJSON
	}
	if !text {
		return "application/octet-stream"
	}
	return "text/plain; charset=utf-8"
}

const typeJSON = "application/json"

// send carries the request out and sends its answer. It runs on a goroutine of its own.
func (r *request) send() {
	settled := false
	settle := func() {
		if !settled {
			settled = true
			<-r.slots
			if r.done != nil {
				close(r.done)
			}
		}
	}
	defer settle()
	defer func() {
		if fault := recover(); fault != nil {
			// The exchange is in no state to be used again.
			r.br.faulty(fault, debug.Stack())
			_ = r.conn.Write(r.refusal(rejectFault))
		}
	}()
	m, stream := r.forward()
	if stream != nil {
		select {
		case r.streams <- struct{}{}:
			defer func() { <-r.streams }()
		default:
			m, stream = r.refusal(rejectStreams), nil
		}
	}
	if stream == nil && r.before != nil {
		<-r.before
	}
	if stream == nil {
		if !r.watcher.over.Load() {
			_ = r.conn.Write(m)
		}
	} else {
		settle()
		r.relay(stream)
	}
	r.attempts.Add(int64(r.x.Attempts))
	_ = r.x.Response.CloseBodyStream()
	_ = r.x.Close()
	switch {
	case !r.opens:
	case r.failed:
		r.conn.Close(wswire.Internal, "")
	case stream != nil:
		r.conn.Close(wswire.Normal, "")
	}
}

var rejectStreams = exchange.NewReject(fasthttp.StatusServiceUnavailable, "websocket_streams", "too many streams are open on this connection")

// forward sends the request. It returns the message for the client, or the stream of events that it will be.
func (r *request) forward() (m wsconn.Message, stream io.Reader) {
	if r.wrong != nil {
		return r.refusal(r.wrong), nil
	}
	x := r.x
	until := x.Clock.Now() + int64(r.br.timeout)
	if !r.opens {
		tellDeadline(x, r.br.timeout)
	}
	if err := r.br.service.Forward(x); err != nil {
		return r.refusal(rejection(err)), nil
	}
	if isEvents(x) && x.Response.StatusCode() == fasthttp.StatusOK && x.Response.IsBodyStream() {
		return m, x.Response.BodyStream()
	}
	body, err := r.read(until)
	if err != nil {
		return r.refusal(rejection(err)), nil
	}
	return r.answer(body), nil
}

func isEvents(x *exchange.Exchange) bool {
	media := x.ResponseHeader(fasthttp.HeaderContentType)
	if len(media) < len(typeEvents) || !exchange.EqualFold(media[:len(typeEvents)], typeEvents) {
		return false
	}
	rest := exchange.TrimOWS(media[len(typeEvents):])
	return len(rest) == 0 || rest[0] == ';'
}

const typeEvents = "text/event-stream"

// read takes the body of the answer in, as far as there is room and time for it.
func (r *request) read(until int64) ([]byte, error) {
	x := r.x
	if !x.HasResponseBody() {
		return nil, nil
	}
	var body []byte
	if !x.Response.IsBodyStream() {
		if body = x.Response.Body(); len(body) > r.br.maxAnswer {
			return nil, rejectLarge
		}
	} else {
		stream := x.Response.BodyStream()
		for {
			body = slices.Grow(body, 4<<10)
			n, err := stream.Read(body[len(body):cap(body)])
			body = body[:len(body)+n]
			switch {
			case len(body) > r.br.maxAnswer:
				return nil, rejectLarge
			case err == io.EOF:
			case err != nil:
				return nil, exchange.ErrResponseBody
			case x.Clock.Now() >= until:
				return nil, rejectLate
			case r.watcher.over.Load():
				return nil, rejectGone
			}
			if err != nil {
				break
			}
		}
	}
	decoded, err := coding.Decode(x.ResponseHeader(fasthttp.HeaderContentEncoding), body, r.br.maxAnswer)
	switch {
	case err == coding.ErrTooLarge:
		return nil, rejectLarge
	case err != nil:
		return nil, rejectCoded
	}
	return decoded, nil
}

// refusal is the message that tells the gateway's own answer.
func (r *request) refusal(reject *exchange.Reject) wsconn.Message {
	r.failed = true
	problem := reject.AppendProblem(nil, r.x.Path, r.x.RequestID)
	problem = problem[:len(problem)-1] // its line end
	if r.br.bodyAlone {
		return wsconn.Message{Text: true, Data: problem}
	}
	b := r.head(reject.Status)
	b = append(append(b, `,"body":`...), problem...)
	return wsconn.Message{Text: true, Data: append(b, '}')}
}

// head begins an answer.
func (r *request) head(status int) []byte {
	b := append(append([]byte(`{"id":`), r.id...), `,"status":`...)
	return strconv.AppendInt(b, int64(status), 10)
}

// answer is the message for an answer of the service.
func (r *request) answer(body []byte) wsconn.Message {
	x := r.x
	r.failed = x.Response.StatusCode() >= 300
	if r.br.bodyAlone {
		return wsconn.Message{Text: utf8.Valid(body), Data: slices.Clone(body)}
	}
	b := r.head(x.Response.StatusCode())
	names := 0
	for _, name := range r.br.back {
		v := x.ResponseHeader(name)
		if v == nil {
			continue
		}
		if names++; names == 1 {
			b = append(b, `,"headers":{`...)
		} else {
			b = append(b, ',')
		}
		b = exchange.AppendJSONString(b, []byte(name))
		b = exchange.AppendJSONString(append(b, ':'), v)
	}
	if names > 0 {
		b = append(b, '}')
	}
	if len(body) > 0 {
		b = appendValue(b, "body", body, isJSON(x.ResponseHeader(fasthttp.HeaderContentType)))
	}
	return wsconn.Message{Text: true, Data: append(b, '}')}
}

// appendValue appends a member: the JSON of a value if it is some, else its text, else its bytes.
func appendValue(b []byte, name string, value []byte, maybeJSON bool) []byte {
	if maybeJSON {
		if v, err := document.Check(value); err == nil {
			return v.Append(append(append(append(b, ',', '"'), name...), '"', ':'))
		}
	}
	b = append(append(b, ',', '"'), name...)
	if utf8.Valid(value) {
		return exchange.AppendJSONString(append(b, '"', ':'), value)
	}
	b = append(b, `_base64":"`...)
	return append(base64.StdEncoding.AppendEncode(b, value), '"')
}

// isJSON tells whether a Content-Type is one of JSON (RFC 8259, section 11; RFC 6839, section 3.1).
func isJSON(contentType []byte) bool {
	for i, c := range contentType {
		if c == ';' {
			contentType = contentType[:i]
			break
		}
	}
	t := exchange.TrimOWS(contentType)
	const application, plus = "application/", "+json"
	return exchange.EqualFold(t, typeJSON) ||
		len(t) > len(application)+len(plus) && exchange.EqualFold(t[:len(application)], application) && exchange.EqualFold(t[len(t)-len(plus):], plus)
}
