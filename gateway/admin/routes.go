package admin

import (
	"net/url"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/fasthttp/router"
	"github.com/valyala/fasthttp"

	"sluice/gateway/admin/dashboard"
)

// endpoint is one thing that operators can ask for.
type endpoint struct {
	methods string
	path    string // of fasthttp/router
	shown   string // on the index; "" hides it
	about   string
	handler fasthttp.RequestHandler
}

// ofTenants are the paths that the token of a tenant opens: what is answered there is the tenant's own.
var ofTenants = map[string]bool{
	"/": true, "/health": true, "/livez": true, "/readyz": true, "/metrics": true,
	"/api/consumers": true, "/api/consumers/{name}/keys": true, "/api/consumers/{name}/keys/{id}": true, "/api/consumers/{name}/keys/{id}/rotate": true,
	"/api/consumers/{name}/links": true, dashboard.DeveloperPath: true, dashboard.DeveloperPath + "{file:*}": true,
	"/api/limits": true, "/api/usage": true, "/api/top": true,
}

func (s *Server) endpoints() []endpoint {
	return []endpoint{
		{"GET", "/", "/", "the dashboard", dashboard.Page},
		{"GET", dashboard.Path + "{file:*}", "", "", dashboardFile},
		{"GET", "/api", "", "", s.index},
		{"GET", "/health", "/health", "the process and the breaker of each service", s.health},
		{"GET", "/livez", "/livez?verbose", "whether the process lives", s.livez},
		{"GET", "/readyz", "/readyz?verbose", "whether requests can be served; 503 while draining", s.readyz},
		{"GET", "/metrics", "/metrics", "metrics as Prometheus text", s.metrics},
		{"GET", "/api/config", "/api/config", "the configuration in force, with the source of each value", s.config},
		{"PUT", "/api/config", "/api/config", "replaces the configuration (YAML); with If-Match only the one of that ETag, without whatever is there", s.replaceConfig},
		{"POST", "/api/config/reload", "/api/config/reload", "loads the configuration again", s.reload},
		{"GET", "/api/reloads", "/api/reloads", "the last reloads, and what each has changed for requests", s.listReloads},
		{"GET", "/api/routes", "/api/routes", "routes with their policies", s.listRoutes},
		{"GET", "/api/routes/{name}", "/api/routes/NAME", "a route with the settings in force and their sources", s.showRoute},
		{"GET", "/api/routes/{name}/split", "/api/routes/NAME/split", "the weights of a split and its rollout", s.showSplit},
		{"PUT", "/api/routes/{name}/split", "/api/routes/NAME/split", `sets weights, {"weights": {"stable": 95, "canary": 5}} or {"switch": "canary"}, or steers the rollout, {"rollout": "pause|resume|advance|abort|restart"}; with If-Match only the split of that ETag`, s.changeSplit},
		{"GET", "/api/services", "/api/services", "services, endpoints, breakers", s.listServices},
		{"PUT", "/api/services/{name}/endpoints", "/api/services/NAME/endpoints", `drains an endpoint or takes it back, {"endpoint": "http://host:port", "draining": true}; the last one only with "force": true`, s.drainEndpoint},
		{"GET", "/api/certificates", "/api/certificates", "certificates in use, with their names and when they end", s.listCertificates},
		{"GET", "/api/consumers", "/api/consumers", "consumers with their keys, without what could be tried", s.listConsumers},
		{"GET", "/api/consumers/{name}/keys", "/api/consumers/NAME/keys", "the API keys of a consumer", s.listKeys},
		{"POST", "/api/consumers/{name}/keys", "/api/consumers/NAME/keys", `makes a key, which is shown this once: {"name", "ttl": "90d" or "expires", "cidrs", "methods", "paths"}`, s.createKey},
		{"GET", "/api/consumers/{name}/keys/{id}", "/api/consumers/NAME/keys/ID", "a key, and when it was last used", s.showKey},
		{"POST", "/api/consumers/{name}/keys/{id}/rotate", "/api/consumers/NAME/keys/ID/rotate", `makes a key that takes the place of this one, which stays valid for a while: {"overlap": "24h", "ttl" or "expires"}`, s.rotateKey},
		{"DELETE", "/api/consumers/{name}/keys/{id}", "/api/consumers/NAME/keys/ID", "revokes a key at once", s.revokeKey},
		{"POST", "/api/consumers/{name}/links", "/api/consumers/NAME/links", `makes a link to the consumer's own page, which shows its keys, usage and limits: {"ttl": "24h" or "expires", "may_change": false}; may_change lets keys be rotated and revoked there`, s.createLink},
		{"DELETE", "/api/links", "/api/links", "ends all links to consumers' own pages at once", s.endLinks},
		{"GET", "/api/revocations", "/api/revocations", "tokens that count no more, and until when", s.listRevocations},
		{"POST", "/api/revocations", "/api/revocations", `revokes a token of jwt or forward_auth: {"token"}, {"jti", "issuer"}, or all that were issued for {"subject", "issuer"} until now; "ttl": "24h" or "until" is when all of them have expired, for a JWT by itself its exp`, s.revoke},
		{"GET", dashboard.DeveloperPath, dashboard.DeveloperPath, "a consumer's own page, for who has a link to it", dashboard.Developer},
		{"GET", dashboard.DeveloperPath + "{file:*}", "", "", dashboardFile},
		{"GET", developerAPI + "self", "", "", s.showDeveloper},
		{"GET", developerAPI + "usage", "", "", s.listUsage},
		{"POST", developerAPI + "keys/{id}/rotate", "", "", s.rotateKey},
		{"DELETE", developerAPI + "keys/{id}", "", "", s.revokeKey},
		{"GET", "/api/usage", "/api/usage?consumer=&from=&to=&step=&format=", "usage by consumer; step is minute, hour, day or total, by names what rows are told apart by, format is json, csv or ndjson", s.listUsage},
		{"GET", "/api/stats", "/api/stats?top=", "requests, rates, latencies, connections, cache; top is how many routes to list, the busiest first", s.stats},
		{"GET", "/api/top", "/api/top", "what the last minutes were like: who calls most, what is refused and why, which routes are slow", s.top},
		{"GET", "/api/mirrors", "/api/mirrors", "copies of requests: how many were answered alike, and what differed", s.listMirrors},
		{"GET", "/api/limits", "/api/limits?key=", "living rate limits with what remains; key is a prefix", s.limits},
		{"POST", "/api/explain", "/api/explain", `what would happen to {"method", "url", "headers", "ip", "listener", "consumer"}`, s.explain},
		{"DELETE", "/api/cache", "/api/cache?url=|prefix=|tag=|route=", "purges cached answers; without a parameter all", s.purge},
		{"GET", "/docs", "/docs", "the APIs that routes describe, as a page; a browser may send the token as the password", s.docs},
		{"GET", "/docs/openapi.json", "/docs/openapi.json", "the same as one OpenAPI document", s.mergedDocs},
		{"GET,POST", "/debug/pprof/{profile:*}", "/debug/pprof/", "profiles of the process", s.pprof},
	}
}

// pathValue is a part of the path that names something. The router takes paths as they come, so that a slash in a name is
// none of the path.
func pathValue(ctx *fasthttp.RequestCtx, name string) string {
	text, _ := ctx.UserValue(name).(string)
	value, err := url.PathUnescape(text)
	if err != nil {
		return "" // names nothing
	}
	return value
}

func dashboardFile(ctx *fasthttp.RequestCtx) {
	if !dashboard.File(ctx) {
		notFound(ctx)
	}
}

func notFound(ctx *fasthttp.RequestCtx) {
	fail(ctx, fasthttp.StatusNotFound, "not_found", "nothing is here; GET /api lists what is")
}

func (s *Server) routes() *router.Router {
	r := router.New()
	r.RedirectTrailingSlash, r.RedirectFixedPath, r.HandleOPTIONS = false, false, false
	r.HandleMethodNotAllowed = true
	for _, e := range s.endpoints() {
		for method := range strings.SplitSeq(e.methods, ",") {
			h := e.handler
			switch {
			case wantsLink([]byte(e.path)):
				h = ofLink(h)
			case ofTenants[e.path]:
				h = closedToLinks(h)
			default:
				h = forOperators(closedToLinks(h))
			}
			if method != fasthttp.MethodGet && !asks[e.path] {
				h = s.noted(h)
			}
			r.Handle(method, e.path, h)
			if method == fasthttp.MethodGet {
				r.HEAD(e.path, h)
			}
		}
	}
	r.NotFound = notFound
	r.MethodNotAllowed = func(ctx *fasthttp.RequestCtx) {
		// The router lists OPTIONS whether or not it is answered.
		allowed := strings.Split(string(ctx.Response.Header.Peek(fasthttp.HeaderAllow)), ", ")
		allowed = slices.DeleteFunc(allowed, func(m string) bool { return m == fasthttp.MethodOptions })
		slices.Sort(allowed)
		ctx.Response.Header.Set(fasthttp.HeaderAllow, strings.Join(allowed, ", "))
		fail(ctx, fasthttp.StatusMethodNotAllowed, "method_not_allowed", "the method is not allowed here")
	}
	r.PanicHandler = func(ctx *fasthttp.RequestCtx, cause any) {
		s.log.Error("admin request panicked", "path", string(ctx.Path()), "request_id", requestID(ctx), "cause", cause, "stack", string(debug.Stack()))
		fail(ctx, fasthttp.StatusInternalServerError, "internal", "the request failed; the log has the cause")
	}
	return r
}

// asks are the paths whose POST changes nothing.
var asks = map[string]bool{"/api/explain": true, "/debug/pprof/{profile:*}": true}
