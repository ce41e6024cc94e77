package openapi

import (
	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

// response looks at what a backend answered. It changes nothing and holds nothing back.
func (g *guard) response(x *exchange.Exchange) error {
	if !states.Has(x) || x.Answer != exchange.Proxied && x.Answer != exchange.Stored {
		return nil
	}
	st := states.Of(x)
	status := x.Response.StatusCode()
	if st.op == nil || status < 200 || status == fasthttp.StatusNotModified {
		return nil
	}
	ref := st.op.responses.Status(status)
	if ref == nil {
		ref = st.op.responses.Default()
	}
	switch {
	case ref == nil || ref.Value == nil:
		g.differs(x, st, wrong("status", "%d is not described", status))
		return nil
	case len(ref.Value.Content) == 0 || !x.HasResponseBody():
		g.fitting.Inc()
		return nil
	}
	described := ref.Value.Content.Get(string(x.Response.Header.ContentType()))
	if described == nil {
		g.differs(x, st, wrong("content type", "is not described for status %d", status))
		return nil
	}
	m := st.op.answers[described]
	if m == nil || m.check == nil {
		g.fitting.Inc()
		return nil
	}
	if coding := x.Response.Header.ContentEncoding(); len(coding) > 0 && !exchange.EqualFold(coding, "identity") {
		g.unseenResponses.Inc()
		return nil
	}
	st.g, st.media = g, m
	return x.FilterBody(watch, false)
}

// watch takes a copy of the body as it passes, and looks at it when it is complete.
func watch(x *exchange.Exchange, chunk []byte, last bool) ([]byte, error) {
	st := states.Of(x)
	g := st.g
	switch {
	case st.tooBig:
	case len(st.held)+len(chunk) > g.maxKept:
		st.tooBig = true
		st.held = st.held[:0]
		g.unseenResponses.Inc()
	case last && len(st.held) == 0:
		g.judge(x, st, chunk)
	default:
		if st.held = append(st.held, chunk...); last {
			g.judge(x, st, st.held)
		}
	}
	return chunk, nil
}

func (g *guard) judge(x *exchange.Exchange, st *state, body []byte) {
	value, f := decodeJSON(body)
	if f == nil {
		if err := st.media.check(value); err != nil {
			f = explain("body", err, st.media.schema)
		}
	}
	if f != nil {
		g.differs(x, st, f)
		return
	}
	g.fitting.Inc()
}

// differs tells of an answer that is not what the document promises.
func (g *guard) differs(x *exchange.Exchange, st *state, f *fault) {
	f.operation = st.op.name
	g.differing.Inc()
	if x.Reason == "" {
		x.Reason = "openapi_response_detected"
	}
	g.tell(x, "response", "openapi: a response does not fit the document", f)
}
