package cache

import (
	"bytes"
	"encoding/binary"
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

// response stores what the backend answered, takes its word for what is stored, or lets a stale response stand in for an
// error.
//
// It sees the response as it is behind the policies that change it. A body that is held has passed their hooks by then;
// one that streams passes this policy's after theirs.
func (c *cacher) response(x *exchange.Exchange) error {
	err := c.answered(x)
	if err == nil && c.rules.SurrogateControl && x.Answer == exchange.Proxied {
		x.ToClient.Remove("Surrogate-Control")
	}
	return err
}

func (c *cacher) answered(x *exchange.Exchange) error {
	st := states.Of(x)
	switch {
	case st.served:
		return nil
	case !st.asked:
		if x.Answer == exchange.Proxied {
			c.changed(st, x)
		}
		return nil
	}
	now := x.Clock.Time().UnixNano()
	if c.standsIn(st, x, now) {
		return exchange.Replied
	}
	if x.Answer != exchange.Proxied {
		if x.Aborted.Load() {
			return nil // the flight is aborted, so that another leads
		}
		st.refuse(0)
		return nil
	}
	if c.confirms(st, x) && c.renew(st, x, now) {
		return exchange.Replied
	}
	why := c.record(st, x, now)
	switch {
	case why == "":
	case x.Response.StatusCode() >= 500:
		st.refuse(0) // it may be over soon, and then the backend is better not met by all at once
	default:
		if st.stale != nil && supersedes(x.Response.StatusCode()) {
			c.responses.Remove(st.stale)
		}
		st.refuse(now + refusedFor)
	}
	st.report(x, why)
	return nil
}

// supersedes tells whether a response that is not stored itself says that what is stored is out of date.
func supersedes(status int) bool {
	switch status {
	case 200, 203, 204, 301, 308, 404, 410:
		return true
	}
	return false
}

// changed deals with the response to a method that is not answered from the store.
func (c *cacher) changed(st *state, x *exchange.Exchange) {
	status := x.Response.StatusCode()
	switch {
	case !store.Invalidates(x.Method(), status):
	case st.posted && c.namesItself(st, x):
		stamp, alone := c.shared.uris.succeed(st.uri(), binary.LittleEndian.Uint32(st.key[stampAt:]))
		c.invalidateReferences(st, x)
		if alone {
			binary.LittleEndian.PutUint32(st.key[stampAt:], stamp)
			st.report(x, c.record(st, x, x.Clock.Time().UnixNano()))
			return
		}
	default:
		c.shared.uris.invalidate(st.uri())
		c.invalidateReferences(st, x)
	}
	st.report(x, notAsked)
}

// namesItself tells whether Content-Location says that the response is what a GET of the target would bring.
func (c *cacher) namesItself(st *state, x *exchange.Exchange) bool {
	same := false
	c.resolve(x, x.ResponseHeader("Content-Location"), func(uri []byte) { same = same || bytes.Equal(uri, st.uri()) })
	return same
}

// confirms tells whether the response is about the content that is stored, and collects its header.
func (c *cacher) confirms(st *state, x *exchange.Exchange) bool {
	if st.stale == nil {
		return false
	}
	switch status := x.Response.StatusCode(); {
	case status == fasthttp.StatusNotModified && st.validating:
		st.fields(x, st)
		return true
	case status == fasthttp.StatusOK && x.Request.Header.IsHead() && !st.stale.HeadOnly():
		st.fields(x, st)
		if st.stale.Agrees(st.lines) {
			return true
		}
		c.responses.Remove(st.stale)
	}
	return false
}

// Field collects a header line.
func (st *state) Field(name, value []byte) {
	st.lines = append(st.lines, store.Line{Name: name, Value: value})
}

// renew answers with the stored response as the backend has confirmed it, and stores that in the place of the old one
// (RFC 9111 sections 3.2, 4.3.4 and 4.3.5). It returns false for a HEAD whose response may not be stored.
func (c *cacher) renew(st *state, x *exchange.Exchange, now int64) bool {
	old, status := st.stale, x.Response.StatusCode()
	e := old
	if status == fasthttp.StatusOK || old.Confirmed(st.lines) {
		var stored bool
		if e, stored = c.renewed(st, x, old, now); !stored {
			c.responses.Remove(old)
			if status == fasthttp.StatusOK {
				return false
			}
			st.refuse(now + refusedFor)
		}
	} else {
		st.refuse(0)
	}
	how := "; fwd-status=304"
	if status == fasthttp.StatusOK {
		how = "; fwd-status=200"
	}
	c.standFor(st, x, e, now, how)
	x.CacheResult, st.result = "revalidated", c.revalidated
	return true
}

// renewed makes the entry that takes the place of old, and tells whether it is stored.
func (c *cacher) renewed(st *state, x *exchange.Exchange, old *store.Entry, now int64) (e *store.Entry, stored bool) {
	res := &st.res
	st.judged = true
	res.Reset(old.Status(), st.requested, now)
	old.Updated(st.lines, res.Field)
	if c.vary != nil {
		res.Field(varyName, c.vary)
	}
	verdict := res.Judge(&st.req, &c.rules)
	if c.scope(st, x, &verdict) == store.Everyone && len(old.Key()) > st.common {
		verdict.Scope = store.Owner // by a field that the confirmation does not repeat, such as Vary
	}
	own := verdict.Scope == store.Owner
	key := st.keyOf(own && st.owned)
	class := st.key[0]
	if st.key[0] = classGET; old.HeadOnly() {
		st.key[0] = classHEAD
	}
	recorder := store.Record(c.draft(st, x, key, verdict.Freshness, old.HeadOnly()), st.sel)
	st.key[0] = class
	old.Updated(st.lines, recorder.Field)
	if e = recorder.Renew(old); e == nil {
		return old, false
	}
	reply, size := newReply(e)
	if reply == nil {
		return old, false
	}
	e.Attach(reply, size)
	if verdict.Scope == store.Nobody || own && !st.owned || !c.responses.Put(now, e) {
		return e, false
	}
	st.fill(e, own, now)
	return e, true
}

// draft is what an entry under key is made from.
func (c *cacher) draft(st *state, x *exchange.Exchange, key []byte, fresh store.Freshness, head bool) *store.Draft {
	path := append(append(x.Scratch(), x.Host...), x.Path...)
	if query := x.BackendQuery(); len(query) > 0 {
		path = append(append(path, '?'), query...)
	}
	st.draft = store.Draft{
		Key: key, Response: &st.res, Freshness: fresh, Epoch: st.epoch, Route: c.route, Path: x.Keep(path), Head: head, Limit: int(c.maxEntry),
	}
	return &st.draft
}

// scope is whom the response is for, by what it says and by what it was selected with.
func (c *cacher) scope(st *state, x *exchange.Exchange, verdict *store.Verdict) store.Scope {
	if verdict.Scope == store.Nobody {
		return store.Nobody
	}
	switch limit := reach(x); {
	case limit == store.Nobody:
		verdict.Scope, verdict.Reason = store.Nobody, store.VaryAny
	case limit == store.Owner && (st.byOwner || st.req.Identified):
		verdict.Scope = store.Owner
	}
	return verdict.Scope
}

// standFor answers with an entry in the place of what the backend said. What policies behind this one did to the header of
// that is part of the entry, or is about something else.
func (c *cacher) standFor(st *state, x *exchange.Exchange, e *store.Entry, now int64, how string) {
	x.ToClient.Restore(st.edits)
	_ = c.serveFor(st, x, e, now, how)
	x.Reject, x.Reason = nil, ""
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
	switch {
	case c.scope(st, x, &verdict) == store.Nobody:
		return verdict.Reason.String()
	case st.posted && !verdict.Freshness.Explicit:
		return store.NotFresh.String()
	case verdict.Scope == store.Owner && !st.owned:
		return "private"
	case endless(res.ContentType):
		return "endless"
	}
	own := verdict.Scope == store.Owner
	if own && !st.ownFlight {
		st.refuse(now + ownedFor)
	}
	recorder := store.Record(c.draft(st, x, st.keyOf(own), verdict.Freshness, head), st.sel)
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
	st.fill(e, len(e.Key()) > st.common, now)
	return ""
}

// fill gives what was stored to those who wait. What has to be validated each time is no use to them, and those who come
// better do not wait for each other.
func (st *state) fill(e *store.Entry, own bool, now int64) {
	switch {
	case st.flight == nil:
		return
	case own && !st.ownFlight:
		st.refuse(now + ownedFor)
	case e.NeedsOrigin(now):
		st.refuse(now + refusedFor)
	case own == st.ownFlight:
		st.flight.Fill(e)
	}
	st.flight.Abort() // those who wait under another key look into the store
}

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
	c.standFor(st, x, st.stale, now, "; fwd-status="+strconv.Itoa(status))
	if st.flight != nil {
		st.flight.Fill(st.stale) // it stands in for those who wait as well
	}
	return true
}

// notAsked is why nothing is stored of a response that could not be.
const notAsked = "-"

// report tells the client why the request was forwarded and whether the response is stored (RFC 9211).
func (st *state) report(x *exchange.Exchange, why string) {
	if st.c.kong {
		word := kongBypass
		if st.asked && why == "" {
			word = kongMiss
			if st.stale != nil {
				word = kongRefresh
			}
		}
		st.c.tell(st, x, word)
		return
	}
	b := append(append(x.Scratch(), "sluice; fwd="...), st.forward...)
	switch why {
	case notAsked:
	case "":
		b = append(b, "; stored"...)
	default:
		b = append(append(b, "; detail="...), why...)
	}
	x.ToClient.Add("Cache-Status", x.Keep(b))
}

// invalidateReferences makes what is stored for what Location and Content-Location name on the same origin unreachable
// (RFC 9111 section 4.4). The target itself has been dealt with.
func (c *cacher) invalidateReferences(st *state, x *exchange.Exchange) {
	others := func(uri []byte) {
		if !bytes.Equal(uri, st.uri()) {
			c.shared.uris.invalidate(uri)
		}
	}
	c.resolve(x, x.ResponseHeader(fasthttp.HeaderLocation), others)
	c.resolve(x, x.ResponseHeader("Content-Location"), others)
}

// resolve gives the URI that a reference in the response means, as it stands in keys: none if it is of another origin, two
// if the backend may mean its own path or the gateway's.
func (c *cacher) resolve(x *exchange.Exchange, ref []byte, yield func(uri []byte)) {
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
		if !sameAuthority(x, ref[:end]) {
			return
		}
		if ref = ref[end:]; len(ref) == 0 || ref[0] != '/' {
			ref = append([]byte("/"), ref...)
		}
	}
	ref, _, _ = bytes.Cut(ref, []byte("#"))
	raw, query, _ := bytes.Cut(ref, []byte("?"))
	if len(raw) == 0 {
		raw = x.Path
	} else if raw[0] != '/' { // relative to the target
		raw = append(bytes.Clone(x.Path[:bytes.LastIndexByte(x.Path, '/')+1]), raw...)
	}
	path, err := router.Canonical(make([]byte, 0, len(raw)), raw)
	if err != nil {
		return
	}
	yield(newURI(x.Scheme, x.Host, path, query))
	if c.strip && x.MatchedPrefix > 0 {
		outer := append(bytes.Clone(x.Path[:x.MatchedPrefix]), path...)
		yield(newURI(x.Scheme, x.Host, outer, query))
	}
}

// sameAuthority tells whether a reference's host and port are the request's.
func sameAuthority(x *exchange.Exchange, authority []byte) bool {
	if !bytes.Equal(router.NormalizeHost(nil, authority), x.Host) {
		return false
	}
	port := []byte(nil)
	if i := bytes.LastIndexByte(authority, ':'); i >= 0 && bytes.IndexByte(authority[i:], ']') < 0 {
		port = authority[i+1:]
	}
	if len(port) == 0 {
		if port = []byte("80"); x.Scheme == "https" {
			port = []byte("443")
		}
	}
	return bytes.Equal(port, x.ForwardedPort)
}
