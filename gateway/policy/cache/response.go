package cache

import (
	"bytes"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"

	store "sluice/gateway/cache"

	"sluice/gateway/exchange"
	"sluice/gateway/router"
)

const (
	// refusedFor is for how long requests do not wait for each other after the response could not be stored, ownedFor after
	// it was for its caller only. Both in nanoseconds.
	refusedFor = 10 * int64(time.Second)
	ownedFor   = 60 * int64(time.Second)
)

// response stores what the backend answered, or lets a stale response stand in for an error.
//
// It sees the response as it is behind the policies that change it. A body that is held has passed their hooks by then;
// one that streams passes this policy's after theirs.
func (c *cacher) response(x *exchange.Exchange) error {
	st := states.Of(x)
	switch {
	case st.served:
		return nil
	case !st.asked:
		if x.Answer == exchange.Proxied {
			if store.Invalidates(x.Method(), x.Response.StatusCode()) {
				c.invalidate(st, x)
			}
			st.report(x, "")
		}
		return nil
	}
	now := x.Clock.Time().UnixNano()
	if c.standsIn(st, x, now) {
		st.refuse(0)
		return exchange.Replied
	}
	if x.Answer != exchange.Proxied {
		if x.Aborted.Load() {
			return nil // the flight is aborted, so that another leads
		}
		st.refuse(0)
		return nil
	}
	why := c.record(st, x, now)
	switch {
	case why == "":
	case x.Response.StatusCode() >= 500:
		st.refuse(0) // it may be over soon, and then the backend is better not met by all at once
	default:
		st.refuse(now + refusedFor)
	}
	st.report(x, why)
	return nil
}

// record judges the response and begins to store it. It returns why it is not stored, "" if it is.
func (c *cacher) record(st *state, x *exchange.Exchange, now int64) string {
	res := &st.res
	st.judged = true
	res.Reset(x.Response.StatusCode(), st.requested, now)
	st.fields(x, res)
	if c.vary != nil {
		res.Field(varyName, c.vary)
	}
	head := x.Request.Header.IsHead()
	streams := x.Response.IsBodyStream()
	if !head && (!streams || x.HasBodyHooks() || x.ResizesBody) {
		res.ContentLength = -1 // is not, or need not be, that of the body; what is cut off is an error all the same
	}
	verdict := res.Judge(&st.req, &c.rules)
	if verdict.Scope == store.Nobody {
		return verdict.Reason.String()
	}
	switch limit := reach(x); {
	case limit == store.Nobody:
		return store.VaryAny.String()
	case limit == store.Owner && (st.byOwner || st.req.Identified):
		verdict.Scope = store.Owner
	}
	fresh := &verdict.Freshness
	switch {
	case fresh.NoCache || fresh.NoStale && fresh.TTL(now) <= 0:
		return "not-fresh" // could not be used without revalidation
	case verdict.Scope == store.Owner && !st.owned:
		return "private"
	case endless(res.ContentType):
		return "endless"
	}
	own := verdict.Scope == store.Owner
	if own && !st.ownFlight {
		st.refuse(now + ownedFor)
	}
	recorder := store.Record(&store.Draft{
		Key: st.keyOf(own), Response: res, Freshness: verdict.Freshness, Epoch: st.epoch,
		Route: c.route, Path: x.Keep(append(append(x.Scratch(), x.Host...), x.Path...)), Head: head, Limit: int(c.maxEntry),
	}, st.sel)
	st.recorder = recorder
	st.fields(x, recorder)
	if !recorder.Recording() {
		st.discard()
		return "too-large"
	}
	if streams && !head {
		x.PushBodies(st.capture)
		return ""
	}
	if !head && !recorder.Write(x.Response.Body()) {
		st.discard()
		return "too-large"
	}
	return st.finish(now)
}

// captureChunk is the hook of a body that streams.
func (st *state) captureChunk(x *exchange.Exchange, chunk []byte, last bool) ([]byte, error) {
	if st.recorder == nil {
		return chunk, nil
	}
	if !st.recorder.Write(chunk) {
		st.discard()
		st.refuse(x.Clock.Time().UnixNano() + refusedFor)
		return chunk, nil
	}
	if last && st.finish(x.Clock.Time().UnixNano()) != "" {
		st.refuse(0)
	}
	return chunk, nil
}

// finish stores a response that is complete, and gives it to those who wait. It returns why it is not stored.
func (st *state) finish(now int64) string {
	e := st.recorder.Finish()
	st.recorder = nil
	if e == nil {
		return "length"
	}
	reply, size := newReply(e)
	if reply == nil {
		return "malformed"
	}
	e.Attach(reply, size)
	if !st.c.responses.Put(now, e) {
		return "no-room"
	}
	if st.flight != nil {
		if st.led(e.Key()) {
			st.flight.Fill(e)
		}
		st.flight.Abort() // those who wait under another key look into the store
	}
	return ""
}

// led tells whether the flight is the one for key.
func (st *state) led(key []byte) bool { return st.ownFlight == (len(key) > st.common) }

// refuse ends the flight: who waits goes on alone, and until the given time, unless it is 0, so do those who come.
func (st *state) refuse(until int64) {
	if st.flight != nil {
		st.flight.Refuse(until)
	}
}

// fields reads the header of the response, with the changes that policies behind this one have made to it, into to.
func (st *state) fields(x *exchange.Exchange, to interface{ Field(name, value []byte) }) {
	edits := x.ToClient.List()
	for name, value := range x.Response.Header.All() {
		if !st.replaced(edits, name) {
			to.Field(name, value)
		}
	}
	for i := range edits {
		if e := &edits[i]; e.Op != exchange.EditRemove && !st.foreign(e) {
			to.Field(x.CopyString(e.Name), e.Value)
		}
	}
}

// foreign tells whether the edit was there before the request was forwarded: those who made it make it again for each
// answer from the store.
func (st *state) foreign(e *exchange.HeaderEdit) bool {
	for i := range st.edits {
		if f := &st.edits[i]; f.Op == e.Op && f.Name == e.Name && bytes.Equal(f.Value, e.Value) {
			return true
		}
	}
	return false
}

func (st *state) replaced(edits []exchange.HeaderEdit, name []byte) bool {
	for i := range edits {
		if e := &edits[i]; e.Op != exchange.EditAdd && len(e.Name) == len(name) && exchange.EqualFold(name, e.Name) && !st.foreign(e) {
			return true
		}
	}
	return false
}

var varyName = []byte("Vary")

// reach is the widest scope that Vary leaves a response in, where it names what the gateway itself tells the backend: the
// client's own fields can not select such a response.
func reach(x *exchange.Exchange) store.Scope {
	scope := store.Everyone
	for name, list := range x.Response.Header.All() {
		if len(name) != 4 || !exchange.EqualFold(name, "vary") {
			continue
		}
		for len(list) > 0 {
			var member []byte
			member, list, _ = bytes.Cut(list, comma)
			member = bytes.TrimSpace(member)
			switch kind := exchange.KindOf(member); {
			case kind == exchange.KindForwarded && !exchange.EqualFold(member, "x-forwarded-proto") && !exchange.EqualFold(member, "x-forwarded-host"):
				return store.Nobody
			case kind == exchange.KindIdentity, x.ToBackend.Replaces(member):
				scope = store.Owner
			}
		}
	}
	return scope
}

var comma = []byte(",")

// endless tells a response whose end nobody waits for.
func endless(contentType []byte) bool {
	contentType, _, _ = bytes.Cut(contentType, []byte(";"))
	contentType = bytes.TrimSpace(contentType)
	return exchange.EqualFold(contentType, "text/event-stream") || exchange.EqualFold(contentType, "multipart/x-mixed-replace")
}

// standsIn puts a stale response in the place of an error of the backend, where that is allowed (RFC 5861 section 4).
func (c *cacher) standsIn(st *state, x *exchange.Exchange, now int64) bool {
	if st.stale == nil {
		return false
	}
	status := x.Response.StatusCode()
	switch status {
	case 500, 502, 503, 504:
	default:
		return false
	}
	if !st.stale.OnError(&st.req, now) {
		return false
	}
	_ = c.serve(st, x, st.stale, now, "; fwd-status="+strconv.Itoa(status))
	x.Response.Reset() // gives a body that streams up, and says so in the reason
	x.Reject, x.Reason = nil, ""
	x.ToClient.Remove("Retry-After")
	return true
}

// report tells the client why the request was forwarded and whether the response is stored (RFC 9211).
func (st *state) report(x *exchange.Exchange, why string) {
	b := append(append(x.Scratch(), "sluice; fwd="...), st.forward...)
	switch {
	case !st.asked:
	case why == "":
		b = append(b, "; stored"...)
	default:
		b = append(append(b, "; detail="...), why...)
	}
	x.ToClient.Add("Cache-Status", x.Keep(b))
}

// invalidate makes what is stored for the target unreachable, and for what Location and Content-Location name on the same
// origin (RFC 9111 section 4.4).
func (c *cacher) invalidate(st *state, x *exchange.Exchange) {
	c.shared.uris.invalidate(st.key)
	c.invalidateReference(x, x.ResponseHeader(fasthttp.HeaderLocation))
	c.invalidateReference(x, x.ResponseHeader("Content-Location"))
}

func (c *cacher) invalidateReference(x *exchange.Exchange, ref []byte) {
	if len(ref) == 0 {
		return
	}
	if i := bytes.Index(ref, []byte("://")); i > 0 {
		if !exchange.EqualFold(ref[:i], x.Scheme) {
			return
		}
		ref = ref[i+1:]
	}
	if bytes.HasPrefix(ref, []byte("//")) {
		ref = ref[2:]
		end := bytes.IndexAny(ref, "/?#")
		if end < 0 {
			end = len(ref)
		}
		if host := router.NormalizeHost(nil, ref[:end]); !bytes.Equal(host, x.Host) {
			return
		}
		if ref = ref[end:]; len(ref) == 0 || ref[0] != '/' {
			ref = append([]byte("/"), ref...)
		}
	}
	ref, _, _ = bytes.Cut(ref, []byte("#"))
	raw, query, _ := bytes.Cut(ref, []byte("?"))
	if len(raw) > 0 && raw[0] != '/' { // relative to the target
		raw = append(bytes.Clone(x.Path[:bytes.LastIndexByte(x.Path, '/')+1]), raw...)
	}
	path, err := router.Canonical(make([]byte, 0, len(raw)), raw)
	if err != nil {
		return
	}
	c.shared.uris.invalidate(appendURI(nil, x.Scheme, x.Host, path, query))
	if c.strip && x.MatchedPrefix > 0 { // the backend may mean its own paths
		outer := append(bytes.Clone(x.Path[:x.MatchedPrefix]), path...)
		c.shared.uris.invalidate(appendURI(nil, x.Scheme, x.Host, outer, query))
	}
}
