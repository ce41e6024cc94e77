package apiversion

import (
	"strconv"

	"github.com/valyala/fasthttp"

	"sluice/gateway/document"
	"sluice/gateway/exchange"
)

// response brings the answer down to the version of the request.
func (p *api) response(x *exchange.Exchange) error {
	st, v := states.Of(x), p.versionOf(x)
	if len(v.down) == 0 || x.Reject != nil || x.Answer == exchange.Tunnel {
		return nil //nolint:nilerr // the gateway's own refusal is no failure of this hook
	}
	if err := p.descend(st, v, x); err != nil {
		return err
	}
	for _, s := range v.down {
		if !s.where.matches(x.Method(), st.path) {
			continue
		}
		if s.headersDown {
			for i := range s.headers {
				s.headers[i].down(x)
			}
		}
		if s.statusTo == x.Response.StatusCode() {
			x.SetStatus(s.statusFrom)
		}
	}
	return nil
}

// descend changes the body.
func (p *api) descend(st *state, v *version, x *exchange.Exchange) error {
	status := x.Response.StatusCode()
	if status == fasthttp.StatusNotModified && st.marked {
		v.mark(x)
	}
	if status < 200 || status > 299 || !isJSON(x.ResponseHeader(fasthttp.HeaderContentType)) || !p.changesAnswer(st, v, x) {
		return nil
	}
	h := &x.Response.Header
	v.mark(x)
	exchange.DelResponse(h, fasthttp.HeaderAcceptRanges) // of it there are no parts
	if x.Request.Header.IsHead() {
		h.SetContentLength(-1) // is that of another body
	}
	if !x.HasResponseBody() {
		return nil
	}
	if e := x.ResponseHeader(fasthttp.HeaderContentEncoding); len(e) > 0 && !exchange.EqualFold(e, "identity") {
		return rejectAnswerEncoded
	}
	body, whole, err := x.HoldResponse(p.maxBody)
	switch {
	case err != nil:
		return err
	case !whole:
		return p.answerTooLarge
	}
	d, err := document.Parse(body)
	if err != nil {
		return nil //nolint:nilerr // what the backend calls JSON and is not passes
	}
	for _, s := range v.down {
		if s.down != nil && s.where.matches(x.Method(), st.path) {
			s.down(d)
		}
	}
	if !d.Changed() {
		return nil
	}
	st.response = d.Append(st.response[:0])
	x.Response.SetBodyRaw(st.response)
	for _, name := range digests {
		exchange.DelResponse(h, name)
	}
	return nil
}

func plural(n int) string {
	if n == 1 {
		return "1 change"
	}
	return strconv.Itoa(n) + " changes"
}
