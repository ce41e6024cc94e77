package admin

import (
	"log/slog"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/chain"
)

// changeRecord is what is kept of a request that may change something.
type changeRecord struct {
	Time   time.Time `json:"time"`
	Event  string    `json:"event"` // change
	Actor  string    `json:"actor"` // token, tenant:NAME, link:ID, or local where no token is wanted
	Client string    `json:"client"`
	Method string    `json:"method"`
	Path   string    `json:"path"`
	Query  string    `json:"query,omitempty"`
	Status int       `json:"status"`
	Before any       `json:"before,omitempty"`
	After  any       `json:"after,omitempty"`
	// Cut says that before and after were too long.
	Cut bool `json:"cut,omitempty"`
}

// changed tells the log what a request has changed. Neither value holds a secret.
func changed(ctx *fasthttp.RequestCtx, before, after any) {
	ctx.SetUserValue("before", before)
	ctx.SetUserValue("after", after)
}

// noted has every request that may change something written to the operator log and, with state.dir, to a chain. While that
// can not be written nothing is changed.
func (s *Server) noted(h fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		log := s.o.Gateway.Changes()
		if log != nil {
			if err := log.Ready(); err != nil {
				s.log.Error("nothing can be changed through the admin listener, since its log can not be written", "file", log.Path(), "error", err.Error())
				fail(ctx, fasthttp.StatusServiceUnavailable, "log_unavailable", inward(ctx, "nothing was changed, since it could not be written down",
					"nothing was changed: who changes what is kept in "+log.Path()+", which can not be written: "+err.Error()))
				return
			}
		}
		h(ctx)
		s.log.Info("admin request", "method", string(ctx.Method()), "path", string(ctx.Path()),
			"client", ctx.RemoteAddr().String(), "actor", actorOf(ctx), "status", ctx.Response.StatusCode(), "request_id", requestID(ctx))
		if log != nil {
			s.keep(ctx, log)
		}
	}
}

func (s *Server) keep(ctx *fasthttp.RequestCtx, log *chain.Log) {
	r := changeRecord{
		Time: s.now().UTC(), Event: "change", Actor: actorOf(ctx), Client: ctx.RemoteAddr().String(),
		Method: string(ctx.Method()), Path: string(ctx.Path()), Query: string(ctx.URI().QueryString()), Status: ctx.Response.StatusCode(),
		Before: ctx.UserValue("before"), After: ctx.UserValue("after"),
	}
	members, err := chain.Members(r)
	if err == nil && len(members) > maxChange {
		r.Before, r.After, r.Cut = nil, nil, true
		members, err = chain.Members(r)
	}
	if err == nil {
		_, err = log.Commit(members)
	}
	if err != nil {
		s.log.Error("a change through the admin listener is not in its log", slog.String("file", log.Path()), slog.String("error", err.Error()))
	}
}

// maxChange bounds a record of a change.
const maxChange = 48 << 10

// configChange notes what a new configuration has changed.
func configChange(ctx *fasthttp.RequestCtx, from, to *config.Config, before, after uint64) {
	const most = 200
	v := map[string]any{"generation": after}
	if from != nil && to != nil {
		all := config.Diff(from, to)
		v["changes"] = all[:min(len(all), most)]
		if len(all) > most {
			v["more_changes"] = len(all) - most
		}
	}
	changed(ctx, map[string]any{"generation": before}, v)
}

// Who may ask is found out before anything else is done, and kept with the request.
const (
	actorKey  = "actor"
	tenantKey = "tenant"
)

func actorOf(ctx *fasthttp.RequestCtx) string {
	actor, _ := ctx.UserValue(actorKey).(string)
	return actor
}

// tenantOf is the tenant whose token a request carries, "" for an operator's.
func tenantOf(ctx *fasthttp.RequestCtx) string {
	tenant, _ := ctx.UserValue(tenantKey).(string)
	return tenant
}
