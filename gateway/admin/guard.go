package admin

import (
	"net/url"
	"strings"

	"github.com/valyala/fasthttp"

	"sluice/gateway/admin/dashboard"
)

// open are the paths that want no token: what probes and scrapers ask for, and the dashboard with the index, which say
// nothing by themselves.
var open = map[string]bool{"/": true, "/api": true, "/health": true, "/livez": true, "/readyz": true, "/metrics": true}

func isOpen(path []byte) bool { return open[string(path)] || dashboard.Has(path) }

// handle lets in whoever may come in. Everything is closed unless it stands in open, whether it exists or not.
func (f *face) handle(ctx *fasthttp.RequestCtx) {
	protect(ctx)
	path := ctx.URI().PathOriginal() // what the router goes by
	public := isOpen(path)
	ctx.SetUserValue(actorKey, "token")
	if token := f.token.Load(); token == nil {
		ctx.SetUserValue(actorKey, "local")
		if why := foreign(&ctx.Request.Header, public); why != "" {
			fail(ctx, fasthttp.StatusForbidden, "foreign_request", why)
			return
		}
	} else if docs := readsDocs(ctx); !public && !wantsLink(path) && !authorized(&ctx.Request.Header, token) && !(docs && passwordIs(&ctx.Request.Header, token)) && !f.server.admitTenant(ctx) {
		if docs {
			ctx.Response.Header.Add(fasthttp.HeaderWWWAuthenticate, `Basic realm="sluice admin: the token is the password", charset="UTF-8"`)
		}
		ctx.Response.Header.Add(fasthttp.HeaderWWWAuthenticate, `Bearer realm="sluice admin"`)
		fail(ctx, fasthttp.StatusUnauthorized, "token_required", "send the admin token as Authorization: Bearer TOKEN")
		return
	}
	if wantsLink(path) && !public && !f.server.admitLink(ctx) {
		refuseLink(ctx)
		return
	}
	f.server.router.Handler(ctx)
}

// protect sets the headers that keep browsers from doing anything with an answer but showing it.
func protect(ctx *fasthttp.RequestCtx) {
	h := &ctx.Response.Header
	h.Set(fasthttp.HeaderCacheControl, "no-store")
	h.Set(fasthttp.HeaderXContentTypeOptions, "nosniff")
	h.Set(fasthttp.HeaderXFrameOptions, "DENY")
	h.Set(fasthttp.HeaderReferrerPolicy, "no-referrer")
	h.Set(fasthttp.HeaderContentSecurityPolicy, "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
}

// foreign says why a request without token may come from another site: its Host is no loopback name, so that a
// foreign name may have been bound to this machine, or a browser says that another site sent it. "" when it may not.
// A link from elsewhere to a public path may be followed: what it shows stays in a window of its own.
func foreign(h *fasthttp.RequestHeader, public bool) string {
	host := string(h.Host())
	if !isLoopback(hostname(host)) {
		return "without admin.token the host must be localhost, 127.0.0.1 or [::1]"
	}
	for _, origin := range h.PeekAll(fasthttp.HeaderOrigin) {
		u, err := url.Parse(string(origin))
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || !strings.EqualFold(u.Host, host) {
			return "requests of other origins are refused"
		}
	}
	// This gateway's proxy says so of every request, and no route can take that away: a service that names this listener as its
	// endpoint is no operator of this machine.
	if !public && (len(h.Peek("Via")) > 0 || len(h.Peek("X-Forwarded-For")) > 0 || len(h.Peek("Forwarded")) > 0) {
		return "without admin.token requests that a proxy passes on are refused"
	}
	switch site := string(h.Peek("Sec-Fetch-Site")); site {
	case "", "none", "same-origin":
		return ""
	default:
		if public && h.IsGet() && string(h.Peek("Sec-Fetch-Mode")) == "navigate" && string(h.Peek("Sec-Fetch-Dest")) == "document" {
			return ""
		}
		return "requests of other sites are refused"
	}
}

// hostname cuts the port off a Host.
func hostname(host string) string {
	if rest, ok := strings.CutPrefix(host, "["); ok {
		name, after, closed := strings.Cut(rest, "]")
		if !closed || after != "" && !strings.HasPrefix(after, ":") {
			return ""
		}
		return name
	}
	name, _, _ := strings.Cut(host, ":")
	return name
}

// handleError answers what is no request.
func (f *face) handleError(ctx *fasthttp.RequestCtx, err error) {
	protect(ctx)
	ctx.SetConnectionClose()
	switch {
	case isTooLarge(err):
		fail(ctx, fasthttp.StatusRequestEntityTooLarge, "body_too_large", "the request body is too large")
	case isTimeout(err):
		fail(ctx, fasthttp.StatusRequestTimeout, "request_timeout", "the request did not arrive in time")
	case isSmallBuffer(err):
		fail(ctx, fasthttp.StatusRequestHeaderFieldsTooLarge, "head_too_large", "the request head is too large")
	default:
		fail(ctx, fasthttp.StatusBadRequest, "malformed_request", "the request is not valid HTTP")
	}
}
