package grpc

import (
	"encoding/json"
	"io"
	"strings"

	"github.com/valyala/fasthttp"
	"google.golang.org/protobuf/types/dynamicpb"

	"sluice/gateway/exchange"
	"sluice/gateway/upstream"
)

// form is how a stream of messages is written.
type form uint8

const (
	array  form = iota // of JSON
	ndjson             // a message a line
	events             // server-sent
	raw                // the bytes of google.api.HttpBody
)

var formTypes = [...]string{array: jsonType, ndjson: "application/x-ndjson", events: "text/event-stream"}

// formOf chooses by Accept: the first form in it that there is.
func formOf(accept string) form {
	for part := range strings.SplitSeq(accept, ",") {
		media, params, _ := strings.Cut(part, ";")
		if strings.ReplaceAll(params, " ", "") == "q=0" {
			continue
		}
		switch strings.ToLower(strings.TrimSpace(media)) {
		case "application/x-ndjson", "application/ndjson", "application/jsonl":
			return ndjson
		case "text/event-stream":
			return events
		case "application/json", "*/*", "application/*":
			return array
		}
	}
	return array
}

// stream answers with messages as they come. A call that failed before it sent
// anything is answered as one that sends one message.
func (w *writer) stream() error {
	x := w.x
	f := formOf(string(x.RequestHeader(fasthttp.HeaderAccept)))
	contentType := formTypes[f]
	s := &streamed{writer: w, form: f}
	s.Messages = exchange.Messages{X: w.x, Next: s.next, End: w.answer.Close}
	if len(w.answer.Header["Grpc-Status"]) > 0 {
		defer w.answer.Close()
		if _, err := w.next(); err != io.EOF {
			if err == nil {
				err = errMalformed
			}
			return w.explain(err)
		}
		if status := w.answer.Status(); status != nil {
			return w.fail(status.(*upstream.StatusError))
		}
		w.head(fasthttp.StatusOK, contentType)
		if f == array {
			x.Response.SetBodyRaw([]byte("[]"))
		}
		return nil
	}
	if name := w.b.method.Output().FullName(); name == httpBody || w.b.response != nil && w.b.response.Message() != nil && !w.b.response.IsList() && w.b.response.Message().FullName() == httpBody {
		// The type of all of it is that of the first.
		s.form = raw
		m, err := w.next()
		if err == nil {
			if s.first, contentType, err = w.body(m); err != nil {
				err = errMalformed
			}
		}
		if err != nil && err != io.EOF {
			defer w.answer.Close()
			return w.explain(err)
		}
		if err == io.EOF {
			defer w.answer.Close()
			if status := w.answer.Status(); status != nil {
				return w.fail(status.(*upstream.StatusError))
			}
			w.head(fasthttp.StatusOK, "")
			return nil
		}
	}
	if s.form == array {
		// An array has no place for an error: one that comes first has the status.
		m, err := w.next()
		switch {
		case err == nil:
			if s.first, err = s.render(m); err != nil {
				defer w.answer.Close()
				return rejectAnswer
			}
		case err != io.EOF:
			defer w.answer.Close()
			return w.explain(err)
		default:
			defer w.answer.Close()
			if status := w.answer.Status(); status != nil {
				return w.fail(status.(*upstream.StatusError))
			}
			w.head(fasthttp.StatusOK, contentType)
			x.Response.SetBodyRaw(s.end())
			return nil
		}
	}
	w.head(fasthttp.StatusOK, contentType)
	if s.form == events {
		x.Response.Header.Set(fasthttp.HeaderCacheControl, "no-cache")
	}
	x.Response.SetBodyStream(s, -1)
	x.Response.ImmediateHeaderFlush = true
	return nil
}

// streamed is the body of an answer of many messages.
type streamed struct {
	exchange.Messages
	*writer
	form  form
	first []byte // what was read ahead of the head
	count int

	ahead   []byte // held of a body that is not whole, and has passed aheadOf hooks
	aheadOf int
}

var (
	_ fasthttp.BodyWriterTo   = (*streamed)(nil)
	_ exchange.ResponseStream = (*streamed)(nil)
)

// Hold implements exchange.ResponseStream: only an array is one document.
func (s *streamed) Hold(limit int) (body []byte, whole bool, err error) {
	if s.form != array {
		return nil, false, nil
	}
	held := []byte{}
	for len(held) <= limit {
		chunk, err := s.next()
		if err != nil {
			s.Discard()
			if reject, ok := err.(*exchange.Reject); ok {
				return nil, false, reject
			}
			return nil, false, exchange.ErrResponseBody
		}
		held = append(held, chunk...)
		if s.Over {
			s.Discard()
			return held, true, nil
		}
	}
	s.ahead, s.aheadOf = held, s.x.BodyHooks()
	return held[:limit], false, nil
}

// next is the next piece as it has passed the hooks.
func (s *streamed) next() ([]byte, error) {
	if s.ahead != nil {
		chunk := s.ahead
		s.ahead = nil
		return s.x.PushBodyFrom(s.aheadOf, chunk, false)
	}
	chunk, err := s.piece()
	if err == nil && s.x.HasBodyHooks() {
		chunk, err = s.x.PushBody(chunk, s.Over)
	}
	return chunk, err
}

// piece is what the next message, or the end, adds to the body.
func (s *streamed) piece() ([]byte, error) {
	if s.first != nil {
		b := s.first
		s.first = nil
		return b, nil
	}
	m, err := s.writer.next()
	if err == nil {
		return s.render(m)
	}
	s.Over = true
	var p *problem
	if err == io.EOF {
		status := s.answer.Status()
		if status == nil {
			return s.end(), nil
		}
		p = s.problemOf(status.(*upstream.StatusError))
	} else {
		reject, ok := s.explain(err).(*exchange.Reject)
		if !ok || s.x.Aborted.Load() {
			return nil, err
		}
		s.x.Reason = reject.Reason
		p = &problem{Type: "urn:sluice:" + reject.Reason, Status: reject.Status, Title: fasthttp.StatusMessage(reject.Status), Detail: reject.Detail,
			Code: "UNAVAILABLE", Instance: string(s.x.Path), RequestID: string(s.x.RequestID)}
	}
	body, jerr := json.Marshal(p)
	if jerr != nil {
		return nil, jerr
	}
	switch s.form {
	case ndjson:
		return append(append([]byte(`{"error":`), body...), "}\n"...), nil
	case events:
		return append(append([]byte("event: error\ndata: "), body...), "\n\n"...), nil
	}
	// Neither an array nor bytes have a place for it: the answer breaks off.
	if s.x.Reason == "" {
		s.x.Reason = "grpc_" + strings.ToLower(p.Code)
	}
	return nil, errMalformed
}

func (s *streamed) render(m *dynamicpb.Message) ([]byte, error) {
	body, _, err := s.body(m)
	if err != nil {
		return nil, errMalformed
	}
	s.count++
	switch s.form {
	case ndjson:
		return append(body, '\n'), nil
	case events:
		return append(append([]byte("data: "), body...), "\n\n"...), nil
	case array:
		before := ","
		if s.count == 1 {
			before = "["
		}
		return append([]byte(before), body...), nil
	}
	return body, nil
}

func (s *streamed) end() []byte {
	if s.form != array {
		return nil
	}
	if s.count == 0 {
		return []byte("[]")
	}
	return []byte("]")
}
