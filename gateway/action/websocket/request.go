package websocket

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/gateway/action"
	"sluice/gateway/exchange"
)

// watcher stands for the client's connection in the exchanges that are made for it, and may outlive it with those that were given up.
type watcher struct {
	client exchange.ClientConn
	over   atomic.Bool
}

// Gone implements exchange.ClientConn.
func (w *watcher) Gone() bool { return w.over.Load() || w.client != nil && w.client.Gone() }

// InterruptRead implements exchange.ClientConn: what is sent is at hand.
func (w *watcher) InterruptRead() {}

// Interim implements exchange.ClientConn: nobody waits for interim responses.
func (w *watcher) Interim([]byte) {}

// maxTarget bounds path and query, maxValue a header that is made.
const (
	maxTarget = 8 << 10
	maxValue  = 8 << 10
)

// child makes an exchange for the service of the client's: with its headers as they go on, without its body, and with the target and
// headers of the settings. ok is false where a value can not stand in them.
func (br *bridge) child(x *exchange.Exchange, w *watcher, path *template, s *scope) (c *exchange.Exchange, ok bool) {
	c = br.pool.Repeat(x, func(*exchange.Exchange) {})
	c.Client = w
	action.Derive(c, func(name []byte) bool { return !exchange.SameField(name, "Idempotency-Key") }) // one request is not another
	edits := &c.ToBackend
	h := &c.Request.Header
	h.SetContentLength(0)
	// Places are filled from the copy, so that what they need of its memory goes with it.
	s.x = c
	if path != nil {
		if c.UpstreamPath, ok = path.segments(s, nil); !ok {
			return c, false
		}
	}
	if br.hasQuery {
		var query []byte
		for i := range br.query {
			p := &br.query[i]
			value, filled, ok := p.value.fill(s, nil)
			if !ok {
				return c, false
			}
			if !filled {
				continue
			}
			if len(query) > 0 {
				query = append(query, '&')
			}
			query = append(exchange.AppendQueryEscaped(query, p.name), '=')
			query = exchange.AppendQueryEscaped(query, value)
		}
		c.SetUpstreamQuery(query)
	}
	if len(c.BackendPath())+len(c.BackendQuery()) > maxTarget {
		return c, false
	}
	for i := range br.headers {
		p := &br.headers[i]
		value, filled, ok := p.value.fill(s, nil)
		switch {
		case !ok || len(value) > maxValue || !exchange.IsFieldValue(value):
			return c, false
		case filled:
			edits.Set(p.name, value)
		}
	}
	return c, true
}

// tellDeadline tells the service how long somebody waits.
func tellDeadline(c *exchange.Exchange, left time.Duration) {
	c.ToBackend.Set(exchange.DeadlineHeader, strconv.AppendFloat(nil, max(left, 0).Seconds(), 'f', 3, 64))
}

// Rejections of both directions.
var (
	rejectLate  = exchange.NewReject(fasthttp.StatusGatewayTimeout, "upstream_timeout", "the service did not answer in time")
	rejectLarge = exchange.NewReject(fasthttp.StatusBadGateway, "upstream_message_too_large", "the service's answer is too large")
	rejectCoded = exchange.NewReject(fasthttp.StatusBadGateway, "upstream_malformed", "the service's answer could not be read")
	rejectFault = exchange.NewReject(fasthttp.StatusInternalServerError, "internal_error", "the gateway could not handle this request")
	rejectGone  = exchange.NewReject(499, "client_gone", "the client closed the connection")
)

// rejection is the answer that an error stands for.
func rejection(err error) *exchange.Reject {
	if r, ok := err.(*exchange.Reject); ok {
		return r
	}
	return rejectFault
}
