package admin

import (
	"crypto/sha256"
	"strings"

	"github.com/valyala/fasthttp"

	"sluice/config"
)

// tenantTokens are the tenants of a configuration by the hash of their token.
type tenantTokens struct {
	of     *config.Config
	byHash map[[sha256.Size]byte]string
}

// admitTenant lets in who carries the token of a tenant, as that tenant. A token is good as long as the configuration has it.
func (s *Server) admitTenant(ctx *fasthttp.RequestCtx) bool {
	given := bearer(&ctx.Request.Header)
	c := s.o.Gateway.Config()
	if given == "" || c == nil {
		return false
	}
	known := s.tenants.Load()
	if known == nil || known.of != c {
		known = &tenantTokens{c, make(map[[sha256.Size]byte]string)}
		for name, t := range c.Tenants {
			if token := t.AdminToken.Reveal(); token != "" {
				known.byHash[sha256.Sum256([]byte(token))] = name
			}
		}
		s.tenants.Store(known)
	}
	tenant, ok := known.byHash[sha256.Sum256([]byte(given))]
	if ok {
		ctx.SetUserValue(tenantKey, tenant)
		ctx.SetUserValue(actorKey, "tenant:"+tenant)
	}
	return ok
}

// bearer is the token of a request, "" without one.
func bearer(h *fasthttp.RequestHeader) string {
	const scheme = "bearer "
	given := string(h.Peek(fasthttp.HeaderAuthorization))
	if len(given) <= len(scheme) || !strings.EqualFold(given[:len(scheme)], scheme) {
		return ""
	}
	return strings.TrimSpace(given[len(scheme):])
}

// forOperators refuses what no tenant may ask.
func forOperators(h fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		if tenantOf(ctx) != "" {
			fail(ctx, fasthttp.StatusForbidden, "operators_only", "the token of a tenant opens the tenant's consumers, keys, limits and usage alone")
			return
		}
		h(ctx)
	}
}

// scope is the tenant that an answer is about: the one whose token was sent, else the one that an operator names, "" for all.
func scope(ctx *fasthttp.RequestCtx) string {
	if tenant := tenantOf(ctx); tenant != "" {
		return tenant
	}
	return string(ctx.QueryArgs().Peek("tenant"))
}
