package admin

import (
	"os"
	"path/filepath"
	"strconv"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/pprofhandler"
)

// maxProfile bounds the time that a profile is taken for, in seconds.
const maxProfile = 300

func (s *Server) pprof(ctx *fasthttp.RequestCtx) {
	if seconds := ctx.QueryArgs().Peek("seconds"); len(seconds) > 0 {
		if n, err := strconv.Atoi(string(seconds)); err != nil || n < 0 || n > maxProfile {
			fail(ctx, fasthttp.StatusBadRequest, "bad_parameter", "seconds must be a whole number up to 300")
			return
		}
	}
	if string(ctx.Path()) == "/debug/pprof/cmdline" {
		// Flags can hold secrets; tools only want to know what to call the profile.
		ctx.SetContentType("text/plain; charset=utf-8")
		ctx.SetBodyString(filepath.Base(os.Args[0]))
		return
	}
	pprofhandler.PprofHandler(ctx)
	if ctx.Response.StatusCode() == fasthttp.StatusNotFound {
		fail(ctx, fasthttp.StatusNotFound, "not_found", "there is no such profile; GET /debug/pprof/ lists them")
	}
}
