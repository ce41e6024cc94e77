// Package exchange holds Exchange: one request, its response, and everything
// decided about them on the way. Engines fill it, hooks read it and ask it for
// changes, and its Close is the single end of every request: it runs exactly
// once, after the last byte or the abort, and hands the Exchange back to its
// pool. Nothing here performs I/O.
package exchange

import (
	"crypto/tls"
	"iter"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/gateway/grpcwire"
)

// Answer tells who made the response.
type Answer uint8

// The makers of a response.
const (
	// Unanswered: no response yet.
	Unanswered Answer = iota
	// Own: the gateway itself: a rejection, a redirect, a fixed response.
	Own
	// Proxied: a backend.
	Proxied
	// Stored: the cache.
	Stored
	// Tunnel: a backend that switched protocols, or the gateway in its place.
	Tunnel
)

// Exchange is one request and its response. It comes from a Pool, belongs to
// one goroutine at a time, and is invalid after Close. Byte slices in it are
// borrowed: they live as long as the Exchange unless their field says less.
//
// Between a request and its answer many others have their turn, so each line of
// memory that a request touches has to be fetched again. That decides the order of
// fields here and in facts: what every request touches lies together.
type Exchange struct {
	pool  *Pool
	done  func(*Exchange)
	open  bool
	inUse uint64 // a bit for each slot whose state was used
	slots []slot

	// Clock tells the time of this gateway.
	Clock *Clock
	// Aborted is set when the client went away before it had its answer.
	Aborted atomic.Bool

	arena     []byte
	ahead     *ahead // of bodies that HoldBody has read; made when the first is
	bodyHooks []BodyHook
	values    [][]byte // of PeekAll
	// Fields are the header fields of the request in the order and spelling of
	// the wire, checked by the engine. What goes to the backend is built from them.
	Fields []Field
	// ToClient collects headers for the client; they are applied when the response is complete, over whatever a backend sent.
	ToClient HeaderEdits
	// ToBackend collects changes to the headers of the request on its way to the backend.
	ToBackend HeaderEdits
	// Idle is an Observer that stays here from one exchange to the next, for who made it to use it again.
	Idle Observer

	facts

	// Params are the values of ParamNames in the same order.
	Params [MaxParams][]byte
}

// facts are what the request is, what was found out about it and what became of
// it. They are zeroed as one when it has ended: nothing of one request is to be
// seen by the next.
type facts struct {
	// Request is the client's request: its request line, its host, and what
	// frames its body, but no other field for certain; those are in Fields. Hooks
	// read it and never change it: changes for the backend go through ToBackend.
	Request *fasthttp.Request
	// Response is what the client gets. Until the action answered it is empty;
	// headers that the gateway adds go through ToClient.
	Response *fasthttp.Response

	// Start is when the head was complete, on the monotonic clock in nanoseconds.
	Start int64
	// Ended is when the exchange ended, on the same clock; 0 before its done hooks run.
	Ended int64
	// Arrived is the wall-clock time of Start.
	Arrived time.Time

	// Path is the canonical path: decoded and normalised once. Routing,
	// policies, cache key and backend use this form alone.
	Path []byte
	// Query is the raw query without the question mark.
	Query []byte
	// Host is the normalised host: lower case, without port.
	Host []byte
	// ForwardedHost and ForwardedPort are what X-Forwarded-Host and X-Forwarded-Port tell the backend.
	ForwardedHost []byte
	ForwardedPort []byte
	// Scheme is "http" or "https", as the client spoke it to the gateway or to a trusted proxy.
	Scheme string
	// PeerAddr is the address of the other end of the connection.
	PeerAddr netip.Addr
	// PeerText is PeerAddr as text, nil where nobody has it at hand.
	PeerText []byte
	// ClientAddr is the client's address: the peer's, or the one a trusted proxy vouches for.
	ClientAddr netip.Addr
	// Listener is the name of the listener in the configuration.
	Listener string
	// TLS is the state of the client's TLS connection, nil without TLS.
	TLS *tls.ConnectionState
	// ConnID numbers the client's connection within the process.
	ConnID uint64
	// Client is the engine's handle of the client's connection, for noticing
	// that the client went away.
	Client ClientConn

	// Steps is how many request steps of the program were reached, First the first of them that is this exchange's, which
	// is not 0 for a repetition; the program's own.
	Steps, First int
	// Route is the matched route, nil before routing and when nothing matched.
	Route *Route
	// Member is the number of the service that a split has chosen, 0 without one.
	Member int
	// Pattern is the path pattern of the route that matched, as the configuration has it; "" where it has none.
	Pattern string
	// ParamNames are the names in the path pattern that matched.
	ParamNames []string
	// MatchedPrefix is the length of the part of Path that the route's prefix covers.
	MatchedPrefix int
	// CutFrom and CutTo are the part of Path that is not for the backend, with the slash before it; none if they are equal.
	CutFrom, CutTo int
	// UpstreamPath and UpstreamQuery, below, replace path and query towards the backend when set (decoded path, raw query).
	UpstreamPath []byte

	// BodyLimit bounds the request body in bytes; 0 is no bound.
	BodyLimit int64
	// Body is the request body once it is held; nil while it is not, or there is none.
	Body []byte
	// Until is the reading of the clock after which nobody has a use for a backend's answer, 0 for none: a call that is not over then is given up.
	Until int64

	// TrustedPeer reports whether the peer is one of trusted_proxies.
	TrustedPeer bool
	// Unread says that the head could not be read: method and target are unknown.
	Unread        bool
	queryReplaced bool
	// KeepsBody says that a body which is small enough is to be in Body once it was sent, for somebody who comes later. Otherwise
	// one that can be sent only once may never get there.
	KeepsBody bool
	// BodyLater is set by the engine while the client waits to be asked for the
	// body, Paused by HoldBody when a hook needs it before it can decide.
	BodyLater, Paused bool
	// Replayable says that the request may be sent twice although its method is not idempotent.
	Replayable bool
	// OutlivesClient says that the backend's answer is waited for although the client has gone: somebody else has a use for it.
	OutlivesClient bool
	// Verbatim is set by an engine that sends a head as it came, and stays set while
	// nobody needs it parsed. Then Head may be it: status line and fields, with the
	// gateway's Via, without those of the connection and the framing, each line with
	// its end. Status and body are in Response as ever, and what goes beside it is in
	// ToClient.
	//
	// Of a stored answer Head has the framing too, and Tail what is told of it at this
	// moment, Age above all, in whole lines.
	Verbatim bool
	// Answer tells who answered, Status with what: it is set once the response is complete.
	Answer Answer
	// RPCStatus is the status of gRPC that the client is told plus one; 0 where the call was none.
	RPCStatus uint8
	// ResizesBody says that a body hook changes the length of the response body.
	ResizesBody bool
	// Begun says that a part of an answer that streams is with the client.
	Begun      bool
	Status     int
	Head, Tail []byte
	// Reject is the rejection that ended the request, nil otherwise.
	Reject *Reject
	// Reply is the answer given with Replied, nil otherwise.
	Reply *Reply
	// Service and Endpoint name the backend that answered last.
	Service  string
	Endpoint string
	// Attempts counts the tries at a backend.
	Attempts int
	// UpstreamStatus is the status of the backend's answer, 0 while none has come; also where the client got something else in its place.
	UpstreamStatus int
	// UpstreamTime is the time spent waiting for backends until their response head, in nanoseconds.
	UpstreamTime int64
	// TunnelTime is how long Tunnel has had the connection, in nanoseconds.
	TunnelTime int64
	// BytesIn and BytesOut count body bytes from and to the client.
	BytesIn  int64
	BytesOut int64
	// Reason says in one word why a request did not pass, or what a policy
	// that only watches found; for logs and metrics.
	Reason string
	// Observer is told of what is asked of others for this request, nil where nobody wants to know.
	Observer Observer
	// APIVersion is the version of the API that the request speaks, "" where no policy tells versions apart. It is a string of the configuration.
	APIVersion string
	// AuthFailure is why the last credential was refused, "" if none was. It is for logs and metrics, never for the client.
	AuthFailure string
	// Tenant is whose request it is: the tenant of its host until the caller is
	// known, then that of its consumer if it has one. Nil for nobody's.
	Tenant *Tenant
	// Identity is what authentication found.
	Identity Identity

	// From here on few requests come by.

	// RequestID is the correlation id: for logs, error bodies and the backend.
	RequestID []byte
	// TraceID is the id of the trace that the request belongs to, 32 hexadecimal digits; nil where requests are not traced.
	TraceID       []byte
	UpstreamQuery []byte
	// Protocol is the version that the client speaks, as HTTP/2.0, where it is not the one in the request's head; "" where it is.
	Protocol string
	// CacheResult is "" where no cache was asked, else hit, miss, stale, bypass or revalidated.
	CacheResult string
	// Operation is the name of the operation that a request of GraphQL asks for, "" where it has none.
	Operation string
	// Problem writes a Reject into the response in another form than RFC 9457's; nil for that. The response is empty then.
	Problem func(x *Exchange, r *Reject)
	// Tunnel has the connection after a 101 answer; the engine runs it.
	Tunnel Tunneler
	// Sockets bounds what the client may do over a WebSocket; nil where nothing does.
	Sockets *SocketLimits
}

// MaxParams bounds the parameters of a path template.
const MaxParams = 16

// ClientConn is the engine's side of a client connection.
type ClientConn interface {
	// Gone reports whether the client has closed the connection. It costs a
	// system call and is meant for requests that have waited for long.
	Gone() bool
	// InterruptRead ends a read of the request body that another goroutine waits in.
	InterruptRead()
	// Interim sends an interim response (1xx) if that can be done in order; head is complete and borrowed.
	Interim(head []byte)
}

// Tunneler is what has a client's connection once that has switched protocols.
type Tunneler interface {
	// Run returns when both directions have ended.
	Run(client net.Conn)
	// GoAway asks for that because the gateway goes away; code says so to a WebSocket. It does not wait, and may be called from
	// anywhere, and again, while Run has not returned.
	GoAway(code int)
}

// Route is what hooks may know of the matched route.
type Route struct {
	// ID is the number of the route in its generation.
	ID int
	// Name is the route's name in the configuration.
	Name string
}

// Pool recycles Exchanges. The zero value is not usable; see NewPool.
type Pool struct {
	p     sync.Pool
	clock *Clock
}

// NewPool returns a pool whose Exchanges tell the time by clock.
func NewPool(clock *Clock) *Pool {
	return &Pool{clock: clock}
}

// Get returns an open Exchange. done runs exactly once, in Close.
func (p *Pool) Get(req *fasthttp.Request, res *fasthttp.Response, done func(*Exchange)) *Exchange {
	x, _ := p.p.Get().(*Exchange)
	if x == nil {
		x = &Exchange{pool: p, Clock: p.clock, arena: make([]byte, 0, 512)}
	}
	x.Request, x.Response, x.done, x.open = req, res, done, true
	x.Start, x.Arrived = p.clock.Read()
	return x
}

// Close ends the exchange: it runs the done function given to Get, and returns
// the Exchange to its pool. Further calls do nothing. It implements io.Closer,
// so that fasthttp calls it once the last byte is gone, for buffered, streamed,
// aborted and hijacked responses alike.
func (x *Exchange) Close() error {
	if !x.open {
		return nil
	}
	x.open = false
	x.done(x)
	x.reset()
	x.pool.p.Put(x)
	return nil
}

// Discard gives back an exchange that turned out to stand for no request. Nobody hears of it.
func (x *Exchange) Discard() {
	x.open = false
	x.reset()
	x.pool.p.Put(x)
}

// maxKeptFields bounds the room for fields that stays with a pooled Exchange.
const maxKeptFields = 256

func (x *Exchange) reset() {
	if x.inUse != 0 {
		x.resetSlots()
	}
	clear(x.Params[:len(x.ParamNames)])
	x.facts = facts{}
	if x.Aborted.Load() {
		x.Aborted.Store(false)
	}
	if x.Fields = x.Fields[:0]; cap(x.Fields) > maxKeptFields {
		// One head of thousands of empty fields must not be paid for ever after.
		x.Fields, x.values = nil, nil
	}
	x.ToClient.reset()
	x.ToBackend.reset()
	if len(x.bodyHooks) > 0 {
		clear(x.bodyHooks)
		x.bodyHooks = x.bodyHooks[:0]
	}
	if x.ahead != nil {
		x.ahead.reset()
	}
	if x.arena = x.arena[:0]; cap(x.arena) > maxArena {
		x.arena = make([]byte, 0, 512)
	}
}

// maxArena is how much scratch memory an idle Exchange may keep.
const maxArena = 16 << 10

// Scratch returns an empty slice to append a short value to; hand the result
// to Keep, and it lives as long as the Exchange.
func (x *Exchange) Scratch() []byte {
	return x.arena[len(x.arena):]
}

// Keep takes back what was appended to Scratch and returns it with its length
// as capacity. Between the two no other Scratch may be filled.
func (x *Exchange) Keep(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	n := len(x.arena)
	if cap(b) <= cap(x.arena)-n && &x.arena[:n+1][n] == &b[0] {
		x.arena = x.arena[:n+len(b)]
		return b[:len(b):len(b)]
	}
	// append had to move the bytes. The arena grows, so that the next request
	// of this size finds room; earlier values keep the old memory alive.
	grown := make([]byte, len(b), max(2*cap(x.arena), 2*len(b)))
	copy(grown, b)
	x.arena = grown
	return grown[:len(b):len(b)]
}

// Copy returns a copy of b that lives as long as the Exchange.
func (x *Exchange) Copy(b []byte) []byte {
	return x.Keep(append(x.Scratch(), b...))
}

// CopyString is Copy of a string.
func (x *Exchange) CopyString(s string) []byte {
	return x.Keep(append(x.Scratch(), s...))
}

// Method returns the request's method, nil if the head could not be read.
func (x *Exchange) Method() []byte {
	if x.Unread {
		return nil
	}
	return x.Request.Header.Method()
}

// RequestHeader returns the client's value of a header, nil without one. Of repeated headers it is the first, but of
// Cookie all of them as one list.
func (x *Exchange) RequestHeader(name string) []byte {
	for i := range x.Fields {
		if f := &x.Fields[i]; len(f.Name) == len(name) && EqualFold(f.Name, name) {
			if name == fasthttp.HeaderCookie {
				return x.cookies(i)
			}
			return f.Value
		}
	}
	return nil
}

// cookies returns the value of the field of that number, with those of further ones behind it: a client over HTTP/2 may
// have parted its cookies (RFC 9113, section 8.2.3).
func (x *Exchange) cookies(first int) []byte {
	list, joined := x.Fields[first].Value, false
	for i := first + 1; i < len(x.Fields); i++ {
		f := &x.Fields[i]
		if !EqualFold(f.Name, fasthttp.HeaderCookie) {
			continue
		}
		if !joined {
			list, joined = slices.Clone(list), true // the scratch may be being filled by who asks
		}
		list = append(append(list, "; "...), f.Value...)
	}
	return list
}

// PeekAll returns the client's values of a header, in order, whatever the case of its name; its cookies are one. The list is
// overwritten by the next call.
func (x *Exchange) PeekAll(name string) [][]byte {
	x.values = x.values[:0]
	for i := range x.Fields {
		f := &x.Fields[i]
		if len(f.Name) != len(name) || !EqualFold(f.Name, name) {
			continue
		}
		if EqualFold(f.Name, fasthttp.HeaderCookie) {
			x.values = append(x.values, x.cookies(i))
			break
		}
		x.values = append(x.values, f.Value)
	}
	return x.values
}

// RPC tells whether the request is a call of gRPC, by its content type.
func (x *Exchange) RPC() grpcwire.Kind {
	for i := range x.Fields {
		if f := &x.Fields[i]; len(f.Name) == len("content-type") && EqualFold(f.Name, "content-type") {
			return grpcwire.KindOf(f.Value)
		}
	}
	return grpcwire.Other
}

// HasField reports whether the request has a field of this kind.
func (x *Exchange) HasField(k Kind) bool {
	for i := range x.Fields {
		if x.Fields[i].Kind == k {
			return true
		}
	}
	return false
}

// RequestTrailers yields the trailer fields of the request; they are complete once its body was read.
func (x *Exchange) RequestTrailers() iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for _, name := range x.Request.Header.PeekTrailerKeys() {
			if !yield(name, x.Request.Header.PeekBytes(name)) {
				return
			}
		}
	}
}

// SetUpstreamQuery replaces the query towards the backend, also by an empty one.
func (x *Exchange) SetUpstreamQuery(q []byte) {
	x.UpstreamQuery, x.queryReplaced = q, true
}

// BackendQuery returns the raw query for the backend.
func (x *Exchange) BackendQuery() []byte {
	if x.queryReplaced {
		return x.UpstreamQuery
	}
	return x.Query
}

// BackendPath returns the decoded path for the backend.
func (x *Exchange) BackendPath() []byte {
	if x.UpstreamPath != nil {
		return x.UpstreamPath
	}
	return x.Path
}

// Param returns the value of a named path parameter, nil without one.
func (x *Exchange) Param(name string) []byte {
	for i, n := range x.ParamNames {
		if n == name {
			return x.Params[i]
		}
	}
	return nil
}
