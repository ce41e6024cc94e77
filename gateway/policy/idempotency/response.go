package idempotency

import (
	"bytes"
	"unsafe"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

// response settles the key by what the backend has answered. The answer is recorded before the client gets the first byte of it, so that it
// does not matter whether the client is still there.
func (g *guard) response(x *exchange.Exchange) error {
	if !states.Has(x) {
		return nil
	}
	st := states.Of(x)
	if st.claim.number == 0 {
		return nil
	}
	switch g.verdict(x) {
	case free:
		g.release(st)
		return nil
	case used:
		g.complete(st, x, nil)
		return nil
	}
	if endless(x.ResponseHeader(fasthttp.HeaderContentType)) {
		g.complete(st, x, nil)
		return nil
	}
	body, whole, err := x.HoldResponse(g.maxResponse)
	if err != nil || !whole {
		g.complete(st, x, nil)
		return err
	}
	g.complete(st, x, st.answer(x, body))
	return nil
}

// done settles what ended without an answer: a fault of the gateway's own, or the end of the process.
func (g *guard) done(x *exchange.Exchange) {
	if !states.Has(x) {
		return
	}
	st := states.Of(x)
	switch {
	case st.claim.number == 0:
	case g.verdict(x) == free:
		g.release(st)
	default:
		g.complete(st, x, nil)
	}
}

func (g *guard) release(st *state) {
	g.store.Release(st.claim)
	st.claim = Claim{}
}

func (g *guard) complete(st *state, x *exchange.Exchange, a *Answer) {
	now := x.Clock.Now()
	g.store.Complete(st.claim, a, now, now+g.ttl, g.maxSize)
	st.claim = Claim{}
}

// verdict is what an answer means for the key.
type verdict uint8

const (
	free verdict = iota // the request may be carried out, again
	used                // it was carried out, and there is no answer that could be given again
	kept                // the answer is the answer
)

func (g *guard) verdict(x *exchange.Exchange) verdict {
	switch {
	case x.Answer == exchange.Tunnel:
		return used
	case x.Reject != nil:
		// A backend that has answered has acted, also if its answer broke off or was refused by a policy behind this one.
		if x.UpstreamStatus == 0 || isAgain(x.UpstreamStatus) {
			return free
		}
		return used
	case x.Answer == exchange.Unanswered || isAgain(x.Response.StatusCode()):
		return free
	}
	return kept
}

// isAgain tells statuses that ask to try again.
func isAgain(status int) bool {
	switch status {
	case fasthttp.StatusUnauthorized, fasthttp.StatusRequestTimeout, fasthttp.StatusConflict, fasthttp.StatusMisdirectedRequest,
		425, fasthttp.StatusTooManyRequests:
		return true
	}
	return status >= 500
}

// endless tells a response whose end nobody waits for.
func endless(contentType []byte) bool {
	contentType, _, _ = bytes.Cut(contentType, []byte(";"))
	contentType = bytes.TrimSpace(contentType)
	return exchange.EqualFold(contentType, "text/event-stream") || exchange.EqualFold(contentType, "multipart/x-mixed-replace")
}

// answer copies what is repeated.
func (st *state) answer(x *exchange.Exchange, body []byte) *Answer {
	r := exchange.NewReply(x.Response.StatusCode(), exchange.Stored)
	a := &Answer{Reply: r, Size: int64(unsafe.Sizeof(*r)) + int64(len(body))}
	edits := x.ToClient.List()
	field := func(name, value []byte) {
		if !isMomentary(name) {
			r.Head.AddBytesKV(name, value)
			a.Size += fieldSize + int64(len(name)+len(value))
		}
	}
	for name, value := range x.Response.Header.All() {
		if !st.replaced(edits, name) {
			field(name, value)
		}
	}
	for i := range edits {
		if e := &edits[i]; e.Op != exchange.EditRemove && !st.anew(e) {
			field([]byte(e.Name), e.Value)
		}
	}
	r.Body = bytes.Clone(body)
	return a
}

// fieldSize is what a header field takes beside its bytes.
const fieldSize = 64

// anew tells whether the edit was there before the request passed: those who made it make it again for each answer.
func (st *state) anew(e *exchange.HeaderEdit) bool {
	for i := range st.edits {
		if f := &st.edits[i]; f.Op == e.Op && f.Name == e.Name && bytes.Equal(f.Value, e.Value) {
			return true
		}
	}
	return false
}

// replaced tells whether an edit of a policy behind this one decides the field.
func (st *state) replaced(edits []exchange.HeaderEdit, name []byte) bool {
	for i := range edits {
		if e := &edits[i]; e.Op != exchange.EditAdd && exchange.EqualFold(name, e.Name) && !st.anew(e) {
			return true
		}
	}
	return false
}

// isMomentary tells fields that are about one message or one moment and not about the answer. A cookie is a credential, and where callers are
// told apart by their address alone it could reach another one.
func isMomentary(name []byte) bool {
	switch exchange.KindOf(name) {
	case exchange.KindOther:
	default:
		return true
	}
	for _, n := range [...]string{
		"Set-Cookie", "Date", "Age", "Cache-Status", "Retry-After", "Server-Timing", "X-Response-Time", "X-Correlation-Id", "X-Request-Id", "Traceparent",
		"Tracestate", "Alt-Svc", "Idempotent-Replayed", "Proxy-Authenticate",
	} {
		if exchange.EqualFold(name, n) {
			return true
		}
	}
	return hasPrefixFold(name, "ratelimit") || hasPrefixFold(name, "x-ratelimit") || hasPrefixFold(name, "x-rate-limit")
}

func hasPrefixFold(name []byte, prefix string) bool {
	return len(name) >= len(prefix) && exchange.EqualFold(name[:len(prefix)], prefix)
}
