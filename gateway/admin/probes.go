package admin

import (
	"html"
	"strings"

	"github.com/valyala/fasthttp"
)

func (s *Server) health(ctx *fasthttp.RequestCtx) {
	ctx.SetContentType("application/json")
	ctx.SetBody(s.o.Gateway.Health())
}

type probe struct {
	Status string            `json:"status"`
	Checks map[string]string `json:"checks,omitempty"`
}

func (s *Server) livez(ctx *fasthttp.RequestCtx) {
	p := probe{Status: "alive"}
	if ctx.QueryArgs().Has("verbose") {
		p.Checks = map[string]string{"process": "ok"}
	}
	reply(ctx, p)
}

func (s *Server) readyz(ctx *fasthttp.RequestCtx) {
	ready, checks := s.o.Gateway.Ready()
	p, status := probe{Status: "ready"}, fasthttp.StatusOK
	if !ready {
		p.Status, status = "not ready", fasthttp.StatusServiceUnavailable
	}
	if ctx.QueryArgs().Has("verbose") {
		p.Checks = checks
	}
	write(ctx, status, "application/json", p)
}

func (s *Server) metrics(ctx *fasthttp.RequestCtx) {
	ctx.SetContentType("text/plain; version=0.0.4; charset=utf-8")
	if err := s.o.Gateway.WriteMetrics(ctx); err != nil {
		s.log.Error("cannot write metrics", "error", err.Error())
		fail(ctx, fasthttp.StatusInternalServerError, "internal", "the metrics could not be written")
	}
}

const indexHead = `<!doctype html><html lang="en"><meta charset="utf-8"><title>sluice</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color-scheme:light dark}td{padding:0 1em 0 0;vertical-align:top}code{white-space:nowrap}</style>
<h1>sluice</h1><table>
`

// index lists what can be asked for.
func (s *Server) index(ctx *fasthttp.RequestCtx) {
	var b strings.Builder
	b.WriteString(indexHead)
	for _, e := range s.endpoints() {
		if e.shown == "" {
			continue
		}
		method, _, _ := strings.Cut(e.methods, ",")
		path := html.EscapeString(e.shown)
		if method == fasthttp.MethodGet {
			path = `<a href="` + path + `">` + path + `</a>`
		}
		b.WriteString("<tr><td>" + method + "<td><code>" + path + "</code><td>" + html.EscapeString(e.about) + "\n")
	}
	b.WriteString("</table>\n")
	ctx.SetContentType("text/html; charset=utf-8")
	ctx.SetBodyString(b.String())
}
