package waf

import (
	"net/http"
	"runtime"

	"github.com/corazawaf/coraza/v3/experimental/plugins/plugintypes"
	"github.com/corazawaf/coraza/v3/types"

	"sluice/gateway/exchange"
)

// firewall is the policy in one place.
type firewall struct {
	rules     *ruleset
	detect    bool
	partial   bool // of a body over the limit the first part is inspected
	limit     int
	responses bool
	most      int // of a response body
	report    *report
}

// state is the policy's part of one exchange.
type state struct {
	f       *firewall
	tx      types.Transaction
	seen    int // of the transaction's matches, how many were reported
	hits    []int
	blocked bool // or would have been, were it not for mode detect
	whole   bool // the request was inspected to its end
	counted bool

	// The response body while it is held back.
	held   []byte
	judged bool
}

var states = exchange.NewSlot[state]()

// Reset makes the state ready for the next exchange.
func (st *state) Reset() {
	held := st.held[:0]
	if cap(held) > maxKept {
		held = nil
	}
	*st = state{hits: st.hits[:0], held: held}
}

// maxKept is how much memory for a response body stays with an idle exchange.
const maxKept = 16 << 10

// heavy is the size in bytes from which a body takes a place to be inspected.
// There are fewer places than processors where there are several: what takes
// tens of milliseconds must not keep all else from being served. A place is
// held for computing alone, never while a client or a backend is waited for.
const heavy = 8 << 10

var places = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1))

// request inspects the request. It runs a second time if it had to wait until
// the client was asked for the body.
func (f *firewall) request(x *exchange.Exchange) error {
	st := states.Of(x)
	if st.tx == nil {
		f.begin(st, x)
		if in := st.tx.ProcessRequestHeaders(); in != nil {
			return f.refuse(st, x, in)
		}
	}
	if f.reads(st, x) {
		body, err := f.body(st, x)
		if err != nil {
			return err
		}
		if len(body) > heavy {
			places <- struct{}{}
			defer func() { <-places }()
		}
		if _, _, err := st.tx.WriteRequestBody(body); err != nil {
			return f.refuse(st, x, &types.Interruption{})
		}
	}
	// A body over the limit has been processed when it was written; then this only tells how that ended.
	in, err := st.tx.ProcessRequestBody()
	switch {
	case st.tx.IsInterrupted():
		return f.refuse(st, x, st.tx.Interruption())
	case in != nil || err != nil && !f.detect:
		return f.refuse(st, x, &types.Interruption{})
	}
	st.whole = true
	f.collect(st, x)
	if f.responses {
		x.ToBackend.Remove("Accept-Encoding")
	}
	return nil
}

// begin hands the head of the request to a new transaction.
func (f *firewall) begin(st *state, x *exchange.Exchange) {
	tx := f.rules.NewTransactionWithID(string(x.RequestID))
	st.f, st.tx = f, tx
	h := &x.Request.Header
	tx.ProcessConnection(x.ClientAddr.String(), 0, "", 0)
	// As it came: the gateway's canonical path would hide what the rules look for.
	protocol := x.Protocol
	if protocol == "" {
		protocol = string(h.Protocol())
	}
	tx.ProcessURI(string(h.RequestURI()), string(x.Method()), protocol)
	tx.SetServerName(string(x.Host))
	for i := range x.Fields {
		tx.AddRequestHeader(string(x.Fields[i].Name), string(x.Fields[i].Value))
	}
	for i, name := range x.ParamNames {
		tx.AddPathRequestArgument(name, string(x.Params[i]))
	}
	for i := range f.rules.scoped {
		if s := &f.rules.scoped[i]; s.covers(x.Path) {
			tx.(plugintypes.TransactionState).Variables().TX().Set(s.variable, []string{"1"})
		}
	}
}

// covers reports whether path has one of the prefixes, by segments.
func (s *scope) covers(path []byte) bool {
	for _, p := range s.paths {
		if len(path) >= len(p) && string(path[:len(p)]) == p && (len(path) == len(p) || p[len(p)-1] == '/' || path[len(p)] == '/') {
			return true
		}
	}
	return false
}

// reads reports whether the rules look into the body: it is of a kind that they can parse.
func (f *firewall) reads(st *state, x *exchange.Exchange) bool {
	if !x.HasBody() || !st.tx.IsRequestBodyAccessible() {
		return false
	}
	if st.tx.(plugintypes.TransactionState).Variables().RequestBodyProcessor().Get() != "" {
		return true
	}
	contentType := x.RequestHeader("Content-Type")
	return len(contentType) == 0 || len(contentType) >= len(plainText) && exchange.EqualFold(contentType[:len(plainText)], plainText)
}

const plainText = "text/plain"

// body reads the body as far as it is inspected.
func (f *firewall) body(st *state, x *exchange.Exchange) ([]byte, error) {
	if !f.partial && x.Request.Header.ContentLength() > f.limit {
		return nil, f.tooLarge(st)
	}
	// One byte more than the limit tells that a body is over it, also to the rules.
	body, _, err := x.HoldBody(f.limit + 1)
	switch {
	case err != nil:
		return nil, err
	case len(body) <= f.limit:
		return body, nil
	case !f.partial:
		return nil, f.tooLarge(st)
	}
	return body[:f.limit+1], nil
}

func (f *firewall) tooLarge(st *state) error {
	st.counted = true
	f.report.tooLarge.Inc()
	return exchange.RejectBodyTooLarge
}

// refuse ends the request, or the response, for an interruption.
func (f *firewall) refuse(st *state, x *exchange.Exchange, in *types.Interruption) error {
	st.blocked = true
	f.collect(st, x)
	unread := x.HasBody() && x.Body == nil
	switch {
	case x.Answer == exchange.Proxied || x.Answer == exchange.Stored:
		return rejectResponse
	case unread:
		return rejectUnread
	case in.Status == http.StatusBadRequest:
		return rejectMalformed
	}
	return rejectBlocked
}

// response tells what was found, and inspects the answer where that is on.
func (f *firewall) response(x *exchange.Exchange) error {
	st := states.Of(x)
	if st.tx == nil {
		return nil
	}
	if f.responses && st.whole && (x.Answer == exchange.Proxied || x.Answer == exchange.Stored) {
		// Rendered here, so that the reason can be completed.
		x.Render(f.answer(st, x))
	}
	st.explain(x)
	return nil
}

// answer inspects the response.
func (f *firewall) answer(st *state, x *exchange.Exchange) error {
	encoded := false
	for name, value := range x.Response.Header.All() {
		st.tx.AddResponseHeader(string(name), string(value))
		encoded = encoded || exchange.EqualFold(name, "content-encoding") && !exchange.EqualFold(value, "identity")
	}
	if in := st.tx.ProcessResponseHeaders(x.Response.StatusCode(), "HTTP/1.1"); in != nil {
		return f.refuse(st, x, in)
	}
	switch {
	case encoded || x.Response.SkipBody || x.Request.Header.IsHead() || !st.tx.IsResponseBodyAccessible() || !st.tx.IsResponseBodyProcessable():
		return st.judge(x)
	case !x.Response.IsBodyStream() && (x.Answer == exchange.Stored || !x.HasBodyHooks()):
		st.held = append(st.held, x.Response.Body()...)
		return st.judge(x)
	}
	x.PushBodies(captured)
	return nil
}

// captured holds the response body back until it was inspected.
func captured(x *exchange.Exchange, chunk []byte, last bool) ([]byte, error) {
	st := states.Of(x)
	if st.judged {
		return chunk, nil
	}
	st.held = append(st.held, chunk...)
	if !last && len(st.held) < st.f.most {
		return nil, nil
	}
	err := st.judge(x)
	st.explain(x)
	return st.held, err
}

// judge inspects what is held of the response body.
func (st *state) judge(x *exchange.Exchange) error {
	st.judged = true
	f := st.f
	if held := st.held[:min(len(st.held), f.most)]; len(held) > 0 {
		if len(held) > heavy {
			places <- struct{}{}
			defer func() { <-places }()
		}
		if _, _, err := st.tx.WriteResponseBody(held); err != nil && !f.detect {
			return f.refuse(st, x, &types.Interruption{})
		}
	}
	_, err := st.tx.ProcessResponseBody()
	switch {
	case st.tx.IsInterrupted():
		return f.refuse(st, x, st.tx.Interruption())
	case err != nil && !f.detect:
		return f.refuse(st, x, &types.Interruption{})
	}
	f.collect(st, x)
	return nil
}

// done counts the request and gives the transaction back.
func (f *firewall) done(x *exchange.Exchange) {
	st := states.Of(x)
	if st.tx == nil {
		return
	}
	f.collect(st, x)
	f.report.count(st)
	_ = st.tx.Close() // removes what the parser of multipart bodies has put aside
	st.tx = nil
}

// explain puts the rules that matched into the reason of a request that was
// blocked, or would have been.
func (st *state) explain(x *exchange.Exchange) {
	switch {
	case !st.blocked:
	case x.Reject == rejectBlocked, x.Reject == rejectUnread, x.Reject == rejectMalformed, x.Reject == rejectResponse:
		x.Reason = reason(x.Reject.Reason, st.hits)
	case x.Answer == exchange.Proxied && !st.f.detect:
		x.Reason = reason("waf_response", st.hits)
	case x.Reason == "":
		x.Reason = reason("waf_detected", st.hits)
	}
}
