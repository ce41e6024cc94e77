package admin

import (
	"cmp"
	"slices"

	"github.com/valyala/fasthttp"

	"sluice/gateway/policy/mirror"
)

// listMirrors shows what became of the copies of requests, by route.
func (s *Server) listMirrors(ctx *fasthttp.RequestCtx) {
	views := []mirror.View{}
	s.o.Gateway.EachLiving(func(_ string, v any) bool {
		if i, ok := v.(mirror.Inspector); ok {
			views = append(views, i.Mirrors()...)
		}
		return true
	})
	slices.SortFunc(views, func(a, b mirror.View) int {
		return cmp.Or(cmp.Compare(a.Route, b.Route), cmp.Compare(a.Service, b.Service))
	})
	reply(ctx, map[string]any{"mirrors": views})
}
