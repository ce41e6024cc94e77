package cache

import (
	"time"

	store "sluice/gateway/cache"

	"sluice/gateway/exchange"
	"sluice/gateway/telemetry"
)

// state is what the policy knows of one exchange.
type state struct {
	// Made once for the pooled exchange that they belong to.
	x       *exchange.Exchange
	sel     store.Selector
	capture exchange.BodyHook
	reply   *exchange.Reply // for answers that no entry holds ready

	lookup
	req store.Request

	fetching bool // fetch is in use
	fetch
	judged bool           // res is in use
	res    store.Response // what a response is judged by
}

// lookup is what each request needs that is looked for in the store.
type lookup struct {
	c       *cacher
	key     []byte             // with the owner, if there is one
	common  int                // the length of the key that all callers share
	result  *telemetry.Counter // what the exchange counts as; nil for nothing
	named   bool               // it is known whether there is an owner
	owned   bool               // the key has an owner
	byOwner bool               // what the gateway stores for the caller on its own account is for an owner
	served  bool
}

// fetch is what a request needs beside that which is not answered from the store at once.
type fetch struct {
	asked   bool   // the store was asked, and the response may be stored
	forward string // why the request was forwarded, in words of RFC 9211 section 2.2
	// stale is what is stored for the request and may not answer it now: it stands in for an error, and where validating is
	// set the request asks the backend whether it is still good.
	stale      *store.Entry
	validating bool
	posted     bool  // a POST whose response may be stored
	requested  int64 // unix nanoseconds
	epoch      uint64
	flight     *store.Flight
	ownFlight  bool // flight is for the owner only
	recorder   *store.Recorder
	edits      []exchange.HeaderEdit // those of x.ToClient that are not part of what is stored
	lines      []store.Line          // of a response that confirms what is stored
	draft      store.Draft
}

var states = exchange.NewSlot[state]()

const maxKept = 4 << 10 // bytes of a key's buffer that stay with an idle exchange

// Reset makes the state ready for the next exchange.
func (st *state) Reset() {
	key := st.key[:0]
	if cap(key) > maxKept {
		key = nil
	}
	st.lookup = lookup{key: key}
	st.req.Reset()
	if st.fetching {
		st.resetFetch()
	}
}

func (st *state) resetFetch() {
	clear(st.edits)
	clear(st.lines)
	st.fetch, st.fetching = fetch{edits: st.edits[:0], lines: st.lines[:0]}, false
	if st.judged {
		st.res, st.judged = store.Response{}, false
	}
}

func (st *state) begin(c *cacher, x *exchange.Exchange) {
	if st.c = c; st.sel == nil {
		st.x, st.sel, st.capture = x, st.selectLine, st.captureChunk
	}
}

// selectLine is the store.Selector of the request. Fields that the gateway writes itself count as absent: the client's own
// do not reach the backend.
func (st *state) selectLine(name []byte, i int) ([]byte, bool) {
	for j := range st.x.Fields {
		f := &st.x.Fields[j]
		if len(f.Name) != len(name) || !sameName(f.Name, name) || f.Kind == exchange.KindIdentity || f.Kind == exchange.KindForwarded {
			continue
		}
		if i == 0 {
			return f.Value, true
		}
		i--
	}
	return nil, false
}

func (st *state) keyOf(own bool) []byte {
	if own {
		return st.key
	}
	return st.key[:st.common]
}

// request looks for a stored response. Most are found fresh, and asked for without a condition: that is all there is to those.
func (c *cacher) request(x *exchange.Exchange) error {
	if !c.resized.Load() {
		c.begin(x)
	}
	st := states.Of(x)
	st.begin(c, x)
	class := byte(classGET)
	switch method := x.Method(); {
	case c.get && string(method) == "GET":
	case c.head && string(method) == "HEAD":
		class = classHEAD
	default:
		c.change(st, x, method)
		return nil
	}
	waits, passes := c.read(st, x)
	if passes {
		c.bypass(st, x)
		return nil
	}
	c.nameRequest(st, x, class)
	now := x.Arrived.UnixNano()
	e := c.find(st, x, now)
	if e != nil && st.req.Plain() && e.Fresh(now) {
		return c.serve(st, x, e, now)
	}
	return c.decide(st, x, e, now, waits)
}

// decide says whether an entry that is not simply fresh answers the request all the same, and if not, who fetches the response.
func (c *cacher) decide(st *state, x *exchange.Exchange, e *store.Entry, now int64, waits bool) error {
	st.fetching = true
	c.nameOwner(st, x)
	if e == nil {
		st.forward = "uri-miss"
	} else {
		switch e.Reuse(&st.req, now) {
		case store.Serve, store.ServeStale:
			return c.serve(st, x, e, now)
		case store.ServeWhileRevalidating:
			if c.refresh(st, x, e, now) {
				return c.serve(st, x, e, now)
			}
		}
		st.stale = e
		if st.forward = "stale"; e.TTL(now) > 0 && !e.NoCache {
			st.forward, waits = "request", false
		}
	}
	x.CacheResult, st.result = "miss", c.miss
	if st.req.OnlyIfCached() {
		return notCached
	}
	if e == nil && (c.responses.Has(st.keyOf(false)) || st.owned && c.responses.Has(st.keyOf(true))) {
		st.forward = "vary-miss"
	}
	st.asked = true
	c.touch(st)
	// What it brings when it is forwarded as it is must be a whole response, to answer others as well.
	if waits && (e != nil && e.HasValidator() || !st.req.Ranged() && !st.req.Conditional()) {
		if err := c.join(st, x); err != nil {
			return err
		}
	}
	st.prepare(x)
	return nil
}

// bypass notes that the store has nothing to do with the request.
func (c *cacher) bypass(st *state, x *exchange.Exchange) {
	st.fetching, st.forward = true, "bypass"
	x.CacheResult, st.result = "bypass", c.bypassed
}

// prepare readies the request for its way to the backend.
func (st *state) prepare(x *exchange.Exchange) {
	if st.stale != nil {
		st.validate(x)
	}
	if st.c.rules.SurrogateControl {
		x.ToBackend.Add("Surrogate-Capability", surrogateCapability)
	}
	st.edits = append(st.edits, x.ToClient.List()...)
	st.requested = x.Clock.Time().UnixNano()
}

var surrogateCapability = []byte(store.SurrogateCapability)

// validate makes the request ask whether the stale response is still good (RFC 9111 section 4.3.1), in the place of what the
// client asks about its own copy: that is answered from what the backend says.
func (st *state) validate(x *exchange.Exchange) {
	etag, modified := st.stale.Validators()
	if etag == nil && modified == nil {
		return
	}
	st.validating = true
	if st.req.Ranged() {
		x.ToBackend.Remove("Range")
		x.ToBackend.Remove("If-Range")
	}
	if st.req.Conditional() {
		x.ToBackend.Remove("If-None-Match")
		x.ToBackend.Remove("If-Modified-Since")
	}
	if etag != nil {
		x.ToBackend.Set("If-None-Match", etag)
	}
	if modified != nil {
		x.ToBackend.Set("If-Modified-Since", modified)
	}
}

// change notes what an unsafe method may invalidate: the URI as it is now, before the path is changed for the backend.
func (c *cacher) change(st *state, x *exchange.Exchange, method []byte) {
	c.bypass(st, x)
	st.forward = "method"
	if c.get && !c.rules.IgnoreOrigin && string(method) == "POST" {
		st.posted = true
		c.read(st, x)
		c.nameRequest(st, x, classGET)
		c.nameOwner(st, x)
		c.touch(st)
		st.prepare(x)
		return
	}
	query := x.BackendQuery()
	st.key = resize(st.key, uriAt+uriSize(x.Host, x.Path, query))
	putURI(st.key[uriAt:], x.Scheme, x.Host, x.Path, query)
}

// touch marks that the response may be stored; what is purged from here on keeps it from that.
func (c *cacher) touch(st *state) {
	c.shared.uris.touch(st.uri())
	st.epoch = c.responses.Epoch()
}

// uri is the part of the key that is invalidated as one.
func (st *state) uri() []byte { return st.key[uriAt:][:uriLen(st.key[uriAt:])] }

// refresh has the response fetched anew in the background, by one request at a time. It returns false when it can not be.
func (c *cacher) refresh(st *state, x *exchange.Exchange, e *store.Entry, now int64) bool {
	if c.repeat == nil || st.req.Control.Has(store.NoStore) {
		return false
	}
	own := len(e.Key()) > st.common
	flight, role := c.responses.flights.Begin(now, st.keyOf(own))
	switch role {
	case store.Follow:
		return true
	case store.Alone:
		return false
	}
	begun := c.repeat(x, func(copied *exchange.Exchange) {
		of := states.Of(copied)
		of.begin(c, copied)
		of.fetching, of.req = true, st.req
		of.req.Unconditional()
		of.key, of.common, of.named, of.owned, of.byOwner = append(of.key[:0], st.key...), st.common, true, st.owned, st.byOwner
		of.asked, of.forward, of.stale = true, "stale", e
		of.flight, of.ownFlight = flight, own
		c.touch(of)
		copied.ToBackend.Remove("Range")
		copied.ToBackend.Remove("If-Range")
		copied.ToBackend.Remove("If-None-Match")
		copied.ToBackend.Remove("If-Modified-Since")
		of.prepare(copied)
	})
	if !begun {
		flight.Abort()
	}
	return begun
}

// read reads the request's header. It returns whether the request may wait for others, and others for it, as far as the
// client has a say in it, and whether it passes the store by.
func (c *cacher) read(st *state, x *exchange.Exchange) (waits, passes bool) {
	waits = true
	for i := range x.Fields {
		f := &x.Fields[i]
		switch len(f.Name) {
		case 5, 6, 8, 13, 17, 19: // as all names that a cache is asked by have
			waits = c.readField(st, f) && waits
		}
		passes = passes || f.Kind == exchange.KindUpgrade || f.Kind == exchange.KindTransferEncoding
	}
	st.req.Identified = x.Identity.Authenticated || x.Identity.Consumer != nil
	passes = passes || x.Body != nil || x.Request.Header.ContentLength() > 0
	if st.req.Plain() {
		return waits, passes
	}
	return waits && !st.req.Control.Has(store.NoStore|store.NoCache|store.NoCacheFields|store.MinFresh), passes || st.req.ForOrigin()
}

// readField reads a field by which a cache may be asked. It returns whether the client may be kept waiting for others.
func (c *cacher) readField(st *state, f *exchange.Field) (waits bool) {
	switch {
	case len(f.Name) == len("accept") && f.Name[0]|0x20 == 'a':
		return len(f.Value) != len("text/event-stream") || !exchange.EqualFold(f.Name, "accept") || !exchange.EqualFold(f.Value, "text/event-stream")
	case c.rules.IgnoreOrigin && (exchange.EqualFold(f.Name, "cache-control") || exchange.EqualFold(f.Name, "pragma")):
		return true
	}
	st.req.Field(f.Name, f.Value)
	return true
}

// nameRequest makes the key, as far as all callers share it.
func (c *cacher) nameRequest(st *state, x *exchange.Exchange, class byte) {
	st.key = c.makeKey(st.key, x, class)
	st.common = len(st.key)
	st.byOwner = !c.rules.Shared && (st.req.Identified || len(st.req.Credential()) > 0)
}

// nameOwner adds the caller to the key, where the gateway stores what it gets on the caller's account. It returns whether
// that names anybody.
func (c *cacher) nameOwner(st *state, x *exchange.Exchange) bool {
	if st.byOwner && !st.named {
		key, ok := appendOwner(st.key, x, st.req.Credential())
		if !ok {
			key = key[:st.common]
		}
		st.key, st.owned, st.named = key, ok, true
	}
	return st.owned
}

// find returns the entry for the request, fresh or stale, or nil. An answer to HEAD is looked for among those to GET first.
func (c *cacher) find(st *state, x *exchange.Exchange, now int64) *store.Entry {
	if st.key[0] == classGET {
		return c.findClass(st, x, now)
	}
	class := st.key[0]
	st.key[0] = classGET
	e := c.findClass(st, x, now)
	if st.key[0] = class; e != nil {
		return e
	}
	return c.findClass(st, x, now)
}

func (c *cacher) findClass(st *state, x *exchange.Exchange, now int64) *store.Entry {
	e, ok := c.responses.Get(now, st.keyOf(false), st.sel)
	if !ok || !c.mayHave(st, e) {
		e = nil
	}
	if e != nil && e.TTL(now) > 0 || !c.nameOwner(st, x) {
		return e
	}
	// A stale one that is for everyone does not hide a later one of the caller's own.
	if own, ok := c.responses.Get(now, st.keyOf(true), st.sel); ok && (e == nil || own.Received >= e.Received) {
		return own
	}
	return e
}

// mayHave tells whether an entry that is for everyone is for this caller too. One who brings a credential that the gateway
// does not know is given what somebody without was answered only if the backend itself made it cacheable.
func (c *cacher) mayHave(st *state, e *store.Entry) bool {
	return st.req.Identified || !st.byOwner || e.Explicit
}

// usable tells whether the entry answers the request now.
func (c *cacher) usable(st *state, e *store.Entry, now int64) bool {
	reuse := e.Reuse(&st.req, now)
	return reuse == store.Serve || reuse == store.ServeStale
}

// maxTurns bounds how often a request looks again because the one that it waited for went away.
const maxTurns = 16

// join makes the request the one that fetches the response, or lets it wait for the one that does. It returns nil when the
// request is to be forwarded.
//
// Whether a response is for everyone is not known before it comes, so that the first request leads for all callers; once
// it turned out to be for its owner, callers wait for requests of their own only.
func (c *cacher) join(st *state, x *exchange.Exchange) error {
	began := x.Clock.Now()
	// Without a word of the backend that counts, what is stored belongs to the caller.
	own := st.owned && c.rules.IgnoreOrigin
	if st.byOwner && !st.owned && c.rules.IgnoreOrigin {
		return nil // can not be stored at all
	}
	for range maxTurns {
		now := x.Clock.Time().UnixNano()
		flight, role := c.responses.flights.Begin(now, st.keyOf(own))
		if role == store.Lead {
			return c.lead(st, x, flight, own, now)
		}
		outcome := store.OnItsOwn
		if role == store.Follow {
			left := maxWait - time.Duration(x.Clock.Now()-began)
			if left <= 0 || !c.shared.waiters.Enter() {
				return nil
			}
			ended, err := c.shared.waiters.Wait(x, left, flight.Done())
			c.shared.waiters.Leave()
			if err != nil || !ended {
				return err
			}
			now = x.Clock.Time().UnixNano()
			var e *store.Entry
			if e, outcome = flight.Result(st.sel); outcome == store.Filled {
				switch {
				case !own && !c.mayHave(st, e):
				case e.Reuse(&st.req, now) != store.Revalidate:
					return c.serveFor(st, x, e, now, "; collapsed")
				case e == st.stale && e.OnError(&st.req, now):
					// The leader has met an error that this stands in for.
					return c.serveFor(st, x, e, now, "; collapsed")
				}
				return nil
			}
		}
		if outcome == store.Again {
			if e := c.find(st, x, now); e != nil {
				if c.usable(st, e, now) {
					return c.serve(st, x, e, now)
				}
				st.stale = e
			}
			continue
		}
		if own || !st.owned {
			return nil
		}
		own = true
	}
	return nil
}

// lead looks once more, since the last leader may just have filled the entry, before it takes the flight.
func (c *cacher) lead(st *state, x *exchange.Exchange, flight *store.Flight, own bool, now int64) error {
	e := c.find(st, x, now)
	if e == nil || !c.usable(st, e, now) {
		st.flight, st.ownFlight = flight, own
		// What was purged while the request waited is not to be minded any more.
		st.epoch = c.responses.Epoch()
		if e != nil {
			st.stale = e
		}
		return nil
	}
	if string(e.Key()) == string(st.keyOf(own)) {
		flight.Fill(e)
	}
	flight.Abort()
	return c.serve(st, x, e, now)
}

// serve answers a request from the store that was not forwarded, and waited for no other that was. It allocates nothing.
func (c *cacher) serve(st *state, x *exchange.Exchange, e *store.Entry, now int64) error {
	tail, ttl := c.answer(st, x, e, now)
	if !c.kong {
		tail = appendSeconds(append(tail, "\r\nCache-Status: sluice; hit; ttl="...), ttl)
	}
	x.Tail = x.Keep(append(tail, "\r\n"...))
	return exchange.Replied
}

// serveFor answers from the store in the place of the backend's answer. how goes on with Cache-Status behind the reason why the
// request was forwarded.
func (c *cacher) serveFor(st *state, x *exchange.Exchange, e *store.Entry, now int64, how string) error {
	tail, ttl := c.answer(st, x, e, now)
	if !c.kong {
		tail = append(append(append(tail, "\r\nCache-Status: sluice; fwd="...), st.forward...), how...)
		tail = appendSeconds(append(tail, "; ttl="...), ttl)
	}
	x.Tail = x.Keep(append(tail, "\r\n"...))
	return exchange.Replied
}

// answer makes the entry the answer. It returns the beginning of what the client is told of it, and for
// how many nanoseconds it is fresh yet.
func (c *cacher) answer(st *state, x *exchange.Exchange, e *store.Entry, now int64) (tail []byte, ttl int64) {
	st.served = true
	reply := e.Attached().(*exchange.Reply)
	if !st.req.Plain() {
		reply = st.replyFrom(x, e, reply)
	}
	age := e.Age(now)
	ttl = e.Lifetime - age
	if x.Reply, x.CacheResult, st.result = reply, "hit", c.hit; ttl <= 0 {
		x.CacheResult, st.result = "stale", c.stale
	}
	if c.kong {
		c.tell(st, x, kongHit)
	}
	return appendSeconds(append(x.Scratch(), "Age: "...), age), ttl
}

// replyFrom is what of the entry's reply answers the request: conditions come before ranges (RFC 9110 section 13.2.2).
func (st *state) replyFrom(x *exchange.Exchange, e *store.Entry, reply *exchange.Reply) *exchange.Reply {
	if e.NotModified(&st.req) {
		return st.notModified(reply)
	}
	if !st.req.Ranged() || !x.Request.Header.IsGet() {
		return reply
	}
	switch first, last, portion := e.Range(&st.req); portion {
	case store.Part:
		return st.partial(x, reply, first, last)
	case store.Unsatisfiable:
		return st.unsatisfiable(x, reply)
	}
	return reply
}

// appendSeconds appends nanoseconds as whole seconds. It is one piece of code for Age and for the time to live.
//
//go:noinline
func appendSeconds(dst []byte, ns int64) []byte {
	n := ns / int64(time.Second)
	if n < 0 {
		dst, n = append(dst, '-'), -n
	}
	var digits [20]byte
	i := len(digits)
	for done := false; !done; n /= 10 {
		i--
		digits[i] = byte('0' + n%10)
		done = n < 10
	}
	return append(dst, digits[i:]...)
}

// done ends what the exchange began in the store, however it ended.
func (c *cacher) done(x *exchange.Exchange) {
	st := states.Of(x)
	if st.fetching {
		st.discard()
		if st.flight != nil {
			st.flight.Abort()
		}
	}
	if st.result != nil {
		st.result.Inc()
	}
}

func (st *state) discard() {
	if st.recorder != nil {
		st.recorder.Discard()
		st.recorder = nil
	}
}

func sameName(a, b []byte) bool {
	for i := range a {
		if a[i] != b[i] && (a[i]^b[i] != 0x20 || a[i]|0x20 < 'a' || a[i]|0x20 > 'z') {
			return false
		}
	}
	return true
}
