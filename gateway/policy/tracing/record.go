package tracing

import (
	"net/netip"
	"unicode/utf8"

	"sluice/gateway/exchange"
)

// recorded are requests that have ended and wait to be told of. A request leaves here what ends with it, as it is, and in one place; the
// exporter's goroutine makes spans of many at once.
type recorded struct {
	requests []request
	outgoing []outgoing // of all requests, in their order
	text     []byte     // what clients sent, in the order of request.texts, each behind its length
}

// request is what is told of one.
type request struct {
	trace          traceID
	server, parent spanID
	clock          int64 // the Unix time in nanoseconds at which the clock read 0
	began, ended   int64
	in, out        int64
	client, peer   netip.Addr
	method         string
	scheme         string
	version        string
	pattern        string
	route          string
	consumer       string
	cache          string
	reason         string
	status         int
	outgoing       int
	tags           int
	flags          byte
	remote         bool // there is a parent
	agent          bool // there is a User-Agent
	rejected       bool
}

// add takes a request that has ended.
func (w *recorded) add(x *exchange.Exchange, rec *recording) {
	w.outgoing = append(w.outgoing, rec.outgoing...)
	w.requests = append(w.requests, request{})
	r := &w.requests[len(w.requests)-1]
	r.trace, r.server, r.parent, r.remote, r.flags = rec.id, rec.server, rec.parent, rec.remote, rec.flags
	r.clock, r.began, r.ended = x.Arrived.UnixNano()-x.Start, x.Start, x.Ended
	r.in, r.out, r.status, r.cache, r.reason, r.rejected = x.BytesIn, x.BytesOut, x.Status, x.CacheResult, x.Reason, x.Reject != nil
	r.client, r.peer, r.scheme, r.version, r.pattern = x.ClientAddr, x.PeerAddr, x.Scheme, version(x), x.Pattern
	r.outgoing = len(rec.outgoing)
	if x.Route != nil {
		r.route = x.Route.Name
	}
	if c := x.Identity.Consumer; c != nil {
		r.consumer = c.Name
	}
	for i := len(w.outgoing) - len(rec.outgoing); i < len(w.outgoing); i++ {
		if o := &w.outgoing[i]; o.number > 0 && o.ended == 0 { // a tunnel, which ends with the exchange
			o.ended, o.status = x.Ended, x.UpstreamStatus
		}
	}

	var original, agent []byte
	r.method, original = knownMethod(x.Method())
	if a := x.RequestHeader("User-Agent"); a != nil {
		agent, r.agent = a, true
	}
	w.put(rec.state)
	w.value(original)
	w.value(pathOf(x))
	w.query(rec.tracer, x.Query)
	w.value(x.Host)
	w.value(x.ForwardedPort)
	w.value(agent)
	w.value(x.RequestID)
	if len(rec.outgoing) > 0 {
		w.value(x.BackendPath())
		w.query(rec.tracer, x.BackendQuery())
	}
	if tags := rec.tracer.tags; tags != "" {
		for i := range x.Fields {
			if f := &x.Fields[i]; exchange.EqualFold(f.Name, tags) {
				w.value(f.Value)
				r.tags++
			}
		}
	}
}

// texts are what a request has in recorded.text. They are read in the order in which add puts them.
type texts struct{ rest []byte }

func (t *texts) next() (v []byte) {
	n := int(t.rest[0]) | int(t.rest[1])<<8
	v, t.rest = t.rest[2:2+n], t.rest[2+n:]
	return v
}

// put adds a text; one that does not fit its length is none.
func (w *recorded) put(v []byte) {
	if len(v) > 0xffff {
		v = nil
	}
	w.text = append(w.text, byte(len(v)), byte(len(v)>>8))
	w.text = append(w.text, v...)
}

// value adds a text of which the beginning is told, and so much more that the encoder sees where its last character ends.
func (w *recorded) value(v []byte) { w.put(v[:min(len(v), maxValue+utf8.UTFMax)]) }

// query adds a query without what is not to be told.
func (w *recorded) query(t *tracer, query []byte) {
	at := len(w.text)
	w.text = append(w.text, 0, 0)
	if len(query) == 0 {
		return
	}
	w.text = t.appendQuery(w.text, query)
	n := min(len(w.text)-at-2, maxValue+utf8.UTFMax)
	w.text = w.text[:at+2+n]
	w.text[at], w.text[at+1] = byte(n), byte(n>>8)
}

// empty keeps the room for what comes next, unless it is too much to be held for long.
func (w *recorded) empty() {
	clear(w.requests)
	clear(w.outgoing)
	w.requests, w.outgoing, w.text = w.requests[:0], w.outgoing[:0], w.text[:0]
	if cap(w.requests) > maxKept || cap(w.outgoing) > 2*maxKept || cap(w.text) > maxBatch {
		*w = recorded{}
	}
}

// maxKept is for how many requests there is room while none waits.
const maxKept = 4096
