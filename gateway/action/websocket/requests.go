package websocket

import (
	"bytes"
	"time"
	"unicode/utf8"

	"github.com/valyala/fasthttp"

	"sluice/gateway/document"
	"sluice/gateway/exchange"
	"sluice/gateway/telemetry"
	"sluice/gateway/wsconn"
	"sluice/gateway/wswire"
)

// Rejections of requests.
var (
	rejectClosed   = exchange.NewReject(fasthttp.StatusBadGateway, "websocket_closed", "the service ended the WebSocket before it had answered")
	rejectMessages = exchange.NewReject(fasthttp.StatusBadGateway, "upstream_malformed", "the service does not speak valid WebSocket")
	rejectMany     = exchange.NewReject(fasthttp.StatusServiceUnavailable, "websocket_connections", "too many requests are under way; try again later", exchange.Header("Retry-After", "1"))
	rejectValues   = exchange.NewReject(fasthttp.StatusBadRequest, "request_value", "the request has no value, or none that can be used, for what is sent to the service")
	rejectEncoding = exchange.NewReject(fasthttp.StatusUnsupportedMediaType, "unsupported_encoding", "the request body is encoded; send it as it is, without Content-Encoding")
)

// serveRequest is the action for clients that speak HTTP.
func (br *bridge) serveRequest(x *exchange.Exchange) error {
	body, err := br.bodyOf(x)
	if err != nil {
		return err
	}
	if !br.server.Group.Enter(x, br.server.Most) {
		return rejectMany
	}
	until := x.Clock.Now() + int64(br.timeout)
	if at := x.Deadline(); at != 0 {
		until = min(until, at)
	}
	q := &question{br: br, x: x, watcher: &watcher{client: x.Client}, until: until}
	answered := false
	defer func() {
		if !answered {
			q.end()
		}
	}()
	if err := q.open(); err != nil {
		return err
	}
	if len(body) > 0 {
		m := wsconn.Message{Data: body, Text: br.kind == "text" || br.kind == "auto" && utf8.Valid(body)}
		if q.conn.Write(m) != nil {
			return q.explain()
		}
	}
	if accepts(x.RequestHeader(fasthttp.HeaderAccept)) {
		q.conn.SetReadDeadline(time.Time{})
		answered = true
		q.stream()
		return nil
	}
	m, err := q.conn.Read()
	if err != nil {
		return q.explain()
	}
	q.conn.Close(wswire.Normal, "")
	res := x.Response
	res.Reset()
	res.Header.DisableNormalizing()
	res.SetStatusCode(fasthttp.StatusOK)
	res.Header.SetContentType(br.typeOfAnswer(m))
	res.SetBodyRaw(m.Data)
	x.Answer, x.Head, x.UpstreamStatus = exchange.Proxied, nil, fasthttp.StatusOK
	return nil
}

// bodyOf reads what is to be sent.
func (br *bridge) bodyOf(x *exchange.Exchange) ([]byte, error) {
	if br.body != nil {
		body, ok := br.body.payload(&scope{x: x})
		if !ok || len(body) > br.maxMessage || br.kind == "text" && !utf8.Valid(body) {
			return nil, rejectValues
		}
		return body, nil
	}
	if x.Body == nil && !x.HasBody() {
		return nil, nil
	}
	if v := x.RequestHeader(fasthttp.HeaderContentEncoding); len(v) > 0 && !exchange.EqualFold(v, "identity") {
		return nil, rejectEncoding
	}
	if x.Body == nil && x.Request.Header.ContentLength() > br.maxMessage {
		return nil, exchange.RejectBodyTooLarge
	}
	body, whole, err := x.HoldBody(br.maxMessage + 1)
	switch {
	case err != nil:
		return nil, err
	case !whole || len(body) > br.maxMessage:
		return nil, exchange.RejectBodyTooLarge
	case br.kind == "text" && !utf8.Valid(body):
		return nil, rejectValues
	}
	return body, nil
}

// accepts tells whether a client wants a stream of events: it names them, and not last of all.
func accepts(accept []byte) bool {
	first, _, _ := bytes.Cut(accept, []byte(","))
	media, _, _ := bytes.Cut(first, []byte(";"))
	return exchange.EqualFold(exchange.TrimOWS(media), typeEvents)
}

// typeOfAnswer is the media type of a message of the service.
func (br *bridge) typeOfAnswer(m wsconn.Message) string {
	switch {
	case br.contentType != "":
		return br.contentType
	case !m.Text:
		return "application/octet-stream"
	}
	if _, err := document.Check(m.Data); err == nil {
		return typeJSON
	}
	return "text/plain; charset=utf-8"
}

// question is a request on its way to a service that speaks WebSocket.
type question struct {
	br      *bridge
	x       *exchange.Exchange
	child   *exchange.Exchange
	conn    *wsconn.Conn
	watcher *watcher
	until   int64
}

// open makes the connection.
func (q *question) open() error {
	x, br := q.x, q.br
	child, ok := br.child(x, q.watcher, br.path, &scope{})
	q.child = child
	if !ok {
		return rejectValues
	}
	left := time.Duration(q.until - x.Clock.Now())
	if left <= 0 {
		return rejectLate
	}
	tellDeadline(child, left)
	began := x.Clock.Now()
	conn, err := wsconn.Dial(br.service, child, exchange.SocketLimits{MaxMessage: int64(br.maxAnswer)}, br.subprotocols)
	x.Attempts += child.Attempts
	x.UpstreamTime += x.Clock.Now() - began
	x.Service, x.Endpoint = child.Service, child.Endpoint
	if err != nil {
		for _, e := range child.ToClient.List() {
			x.ToClient.Set(e.Name, x.Copy(e.Value))
		}
		return q.refused(err)
	}
	q.conn = conn
	conn.SetReadDeadline(time.Now().Add(time.Duration(q.until - x.Clock.Now())))
	return nil
}

func (q *question) refused(err error) error {
	if q.child.Aborted.Load() {
		q.x.Aborted.Store(true)
		return rejectGone
	}
	return rejection(err)
}

// explain says why there is no answer.
func (q *question) explain() error {
	by, code := q.conn.End()
	switch {
	case q.child.Aborted.Load():
		q.x.Aborted.Store(true)
		return rejectGone
	case q.x.Clock.Now() >= q.until:
		return rejectLate
	case by == telemetry.ByGateway && code == wswire.TooBig:
		return rejectLarge
	case by == telemetry.ByGateway:
		return rejectMessages
	}
	return rejectClosed
}

// end gives up the connection.
func (q *question) end() {
	if q.conn != nil {
		q.conn.Close(wswire.Normal, "")
	}
	q.watcher.over.Store(true)
	if q.child != nil {
		_ = q.child.Close()
	}
}

// stream makes the service's messages events of the answer.
func (q *question) stream() {
	res := q.x.Response
	res.Reset()
	res.Header.DisableNormalizing()
	res.SetStatusCode(fasthttp.StatusOK)
	res.Header.SetContentType(typeEvents)
	res.Header.Set(fasthttp.HeaderCacheControl, "no-cache")
	f := &feed{question: q}
	f.Messages = exchange.Messages{X: q.x, Next: f.next, End: f.stop}
	res.SetBodyStream(f, -1)
	res.ImmediateHeaderFlush = true
	q.x.Answer, q.x.Head, q.x.UpstreamStatus = exchange.Proxied, nil, fasthttp.StatusOK
}

// feed is the body of an answer of events.
type feed struct {
	exchange.Messages
	*question
}

var (
	_ fasthttp.BodyWriterTo   = (*feed)(nil)
	_ exchange.ResponseStream = (*feed)(nil)
)

// next is what the next message, or the end, adds to the body.
func (f *feed) next() ([]byte, error) {
	var chunk []byte
	m, err := f.conn.Read()
	if err == nil {
		chunk = appendEvent(nil, m)
	} else {
		f.Over = true
		by, code := f.conn.End()
		switch {
		case f.child.Aborted.Load():
			f.x.Aborted.Store(true)
			return nil, exchange.ErrClientGone
		case by == telemetry.ByService && (code == wswire.Normal || code == wswire.GoingAway || code == wswire.NoStatus):
		default:
			r := rejection(f.explainStream(by, code))
			f.x.Reason = r.Reason
			problem := r.AppendProblem(nil, f.x.Path, f.x.RequestID)
			chunk = append(append([]byte("event: error\ndata: "), problem...), '\n')
		}
	}
	if f.x.HasBodyHooks() {
		return f.x.PushBody(chunk, f.Over)
	}
	return chunk, nil
}

// stop ends the conversation with the service.
func (f *feed) stop() {
	if f.child != nil {
		f.end()
		f.child = nil
	}
}

func (f *feed) explainStream(by telemetry.Closer, code int) error {
	switch {
	case by == telemetry.ByGateway && code == wswire.TooBig:
		return rejectLarge
	case by == telemetry.ByGateway:
		return rejectMessages
	}
	return rejectClosed
}

// appendEvent appends a message as an event. A message of bytes is one all the same, if it is text.
func appendEvent(b []byte, m wsconn.Message) []byte {
	data := m.Data
	if !m.Text {
		data = bytes.ToValidUTF8(data, []byte("\ufffd"))
	}
	for {
		end := bytes.IndexAny(data, "\r\n")
		b = append(b, "data: "...)
		if end < 0 {
			b = append(b, data...)
			return append(b, "\n\n"...)
		}
		b = append(append(b, data[:end]...), '\n')
		if data[end] == '\r' && end+1 < len(data) && data[end+1] == '\n' {
			end++
		}
		data = data[end+1:]
	}
}
