package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"

	"github.com/valyala/fasthttp"

	"sluice/gateway/admin/apidocs"
)

// docs shows the APIs that routes describe.
func (s *Server) docs(ctx *fasthttp.RequestCtx) {
	current := s.snapshot(ctx)
	if current == nil {
		return
	}
	page, err := apidocs.Page(current.Documents)
	if err != nil {
		fail(ctx, fasthttp.StatusInternalServerError, "internal", err.Error())
		return
	}
	ctx.Response.Header.Set(fasthttp.HeaderContentSecurityPolicy, apidocs.Policy)
	ctx.SetContentType("text/html; charset=utf-8")
	ctx.SetBody(page)
}

// mergedDocs is the same as one OpenAPI document.
func (s *Server) mergedDocs(ctx *fasthttp.RequestCtx) {
	current := s.snapshot(ctx)
	if current == nil {
		return
	}
	merged, err := apidocs.Merge(current.Documents)
	if err != nil {
		fail(ctx, fasthttp.StatusInternalServerError, "internal", err.Error())
		return
	}
	ctx.SetContentType("application/json")
	ctx.SetBody(merged)
}

// readsDocs tells whether a request is for the documentation, which browsers show: they can send the token as a password,
// under any name. It changes nothing, so that what a browser sends along by itself does no harm.
func readsDocs(ctx *fasthttp.RequestCtx) bool {
	switch string(ctx.URI().PathOriginal()) {
	case "/docs", "/docs/openapi.json":
		return ctx.IsGet() || ctx.IsHead()
	}
	return false
}

// passwordIs reports whether the password of basic authentication is the token that is wanted.
func passwordIs(h *fasthttp.RequestHeader, want *[sha256.Size]byte) bool {
	const scheme = "basic "
	given := string(h.Peek(fasthttp.HeaderAuthorization))
	if len(given) <= len(scheme) || !strings.EqualFold(given[:len(scheme)], scheme) {
		return false
	}
	pair, err := base64.StdEncoding.DecodeString(strings.TrimSpace(given[len(scheme):]))
	if err != nil {
		return false
	}
	_, password, ok := strings.Cut(string(pair), ":")
	sum := sha256.Sum256([]byte(password))
	return ok && subtle.ConstantTimeCompare(sum[:], want[:]) == 1
}
