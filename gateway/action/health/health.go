// Package health is the action that answers as GET /health of the admin listener does, for load balancers on the public
// side: 200 with the state of every service while the process serves.
package health

import (
	"github.com/valyala/fasthttp"

	"sluice/gateway/action"
	"sluice/gateway/exchange"
)

// Config of the action: it has no settings, so that `health: {}` and `health: true` are the same.
type Config struct{}

// Definition is the action health.
var Definition = action.Define("health", build)

// reply is an exchange's own Reply, because the body is of the moment: what it shows of breakers changes.
type reply struct{ exchange.Reply }

// Reset keeps the head, which is the same for every request.
func (r *reply) Reset() { r.Body = nil }

var replies = exchange.NewSlot[reply]()

var head = func() *fasthttp.ResponseHeader {
	h := &exchange.NewReply(fasthttp.StatusOK, exchange.Own).Head
	h.SetContentType("application/json")
	h.Set("Cache-Control", "no-store")
	return h
}()

func build(b *action.Build, _ *Config) (*action.Action, error) {
	body := b.Health
	return &action.Action{Serve: func(x *exchange.Exchange) error {
		r := replies.Of(x)
		if r.Answer != exchange.Own {
			head.CopyTo(&r.Head)
			r.Answer = exchange.Own
		}
		r.Body = body()
		x.Reply = &r.Reply
		return exchange.Replied
	}}, nil
}
