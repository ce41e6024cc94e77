package exchange

import (
	"bytes"
	"errors"
	"strconv"
	"sync/atomic"
	"unsafe"

	"github.com/valyala/fasthttp"

	"sluice/gateway/grpcwire"
)

// Reply is a complete answer that a hook or an action gives without a backend:
// a cache hit, a preflight, a redirect. Its contents are shared and immutable.
type Reply struct {
	// Head holds the status and every header but the framing; it is copied.
	Head fasthttp.ResponseHeader
	// Body is sent as it is. A HEAD request gets its length alone.
	Body []byte
	// Answer is Own or Stored.
	Answer Answer
	// Verbatim is Head as it may be sent, with the framing and Via, lines of text
	// without the empty one at the end; nil where that is not known.
	Verbatim []byte
	// Coded are content codings of Body that somebody has made of it and may make
	// again, each under a number of theirs.
	Coded [4]atomic.Pointer[Coded]
}

// Coded is the body of a Reply in a content coding.
type Coded struct {
	// Body is nil where the coding is not worth it.
	Body []byte
	// Used is set with each use, for whoever bounds what is kept.
	Used atomic.Bool
}

// Replied is what a hook returns after it put its answer into Exchange.Reply.
var Replied = errors.New("replied")

// Render puts the answer that err stands for into the response: a Reject, the
// Reply of Replied, or for any other error a plain 500. It does nothing for nil.
func (x *Exchange) Render(err error) {
	switch err := err.(type) {
	case nil:
		return
	case *Reject:
		x.renderReject(err)
		return
	}
	if err == Replied && x.Reply != nil {
		x.renderReply(x.Reply)
		return
	}
	x.renderReject(internalError)
}

var internalError = NewReject(fasthttp.StatusInternalServerError, "internal_error", "the gateway could not handle this request")

var problemJSON = []byte("application/problem+json")

func (x *Exchange) renderReject(r *Reject) {
	x.Reject, x.Answer, x.Reason, x.Head, x.Tail = r, Own, r.Reason, nil, nil
	x.discardResponse()
	res := x.Response
	res.Reset()
	res.Header.DisableNormalizing()
	if r.Close {
		res.SetConnectionClose()
	}
	switch kind := x.RPC(); {
	case kind == grpcwire.Native && x.Protocol != "", kind == grpcwire.Web, kind == grpcwire.WebText:
		x.renderStatus(r, kind)
		return
	case x.Problem != nil:
		x.Problem(x, r)
		return
	}
	res.SetStatusCode(r.Status)
	res.Header.SetContentTypeBytes(problemJSON)
	for i := range r.Headers {
		res.Header.AddBytesV(r.Headers[i].Name, r.Headers[i].Value)
	}
	// The path as it came, without the query: that may carry credentials.
	instance := x.Path
	if instance == nil && !x.Unread {
		instance = rawPath(x.Request.Header.RequestURI())
	}
	res.SetBodyRaw(x.Keep(r.AppendProblem(x.Scratch(), instance, x.RequestID)))
}

// renderStatus refuses a call of gRPC in its own words: a head that is all
// trailers, whose status says what the one of HTTP can not.
func (x *Exchange) renderStatus(r *Reject, kind grpcwire.Kind) {
	h := &x.Response.Header
	code := r.RPC
	if code == grpcwire.OK {
		code = grpcwire.OfHTTP(r.Status)
	}
	x.RPCStatus = uint8(code) + 1
	x.Response.SetStatusCode(fasthttp.StatusOK)
	if kind == grpcwire.Native {
		h.SetContentType("application/grpc")
		x.Response.SkipBody = true
	} else {
		h.SetContentTypeBytes(x.RequestHeader(fasthttp.HeaderContentType))
	}
	for i := range r.Headers {
		h.AddBytesV(r.Headers[i].Name, r.Headers[i].Value)
	}
	h.AddBytesV("grpc-status", x.Keep(strconv.AppendUint(x.Scratch(), uint64(code), 10)))
	h.AddBytesV("grpc-message", x.Keep(grpcwire.AppendMessage(x.Scratch(), r.Detail)))
}

func (x *Exchange) renderReply(r *Reply) {
	x.Answer, x.Head = r.Answer, nil
	x.discardResponse()
	if x.Verbatim && r.Verbatim != nil {
		x.Head = r.Verbatim
		x.Response.SetStatusCode(r.Head.StatusCode())
		x.Response.SetBodyRaw(r.Body)
		return
	}
	x.Response.Reset()
	r.Head.CopyTo(&x.Response.Header)
	x.Response.Header.DisableNormalizing()
	x.Response.SetBodyRaw(r.Body)
	x.parseTail()
}

// parseTail makes fields for the client of the lines that would go out behind Head.
func (x *Exchange) parseTail() {
	rest := x.Tail
	for x.Tail = nil; len(rest) > 0; {
		colon, end := bytes.IndexByte(rest, ':'), bytes.IndexByte(rest, '\r')
		x.ToClient.Add(unsafe.String(&rest[0], colon), rest[colon+len(": "):end:end])
		rest = rest[end+len("\r\n"):]
	}
}

// Via is what a message is told that has come through the gateway.
const Via = "1.1 sluice"

// ViaLine is the line of it.
const ViaLine = "Via: " + Via + "\r\n"

// NewReply returns a Reply with this status and no headers yet.
func NewReply(status int, answer Answer) *Reply {
	r := &Reply{Answer: answer}
	r.Head.DisableNormalizing()
	r.Head.SetNoDefaultContentType(true)
	r.Head.SetStatusCode(status)
	return r
}

// rawPath cuts query, fragment and excess length off a request target.
func rawPath(uri []byte) []byte {
	for i, c := range uri {
		if c == '?' || c == '#' || i == 1024 {
			return uri[:i]
		}
	}
	return uri
}
