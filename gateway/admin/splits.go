package admin

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/valyala/fasthttp"

	"sluice/gateway/action/split"
)

// split returns the living split of the route that the path names; without one it answers.
func (s *Server) split(ctx *fasthttp.RequestCtx) (route string, live *split.State) {
	current := s.snapshot(ctx)
	if current == nil {
		return "", nil
	}
	route = pathValue(ctx, "name")
	found, known := current.Live(route)
	live, ok := found.(*split.State)
	switch {
	case !known:
		fail(ctx, fasthttp.StatusNotFound, "no_such_route", fmt.Sprintf("there is no route %q%s", route, s.routeHint(route)))
	case !ok:
		fail(ctx, fasthttp.StatusConflict, "no_split", fmt.Sprintf("the route %q has no split", route))
	}
	return route, live
}

func (s *Server) showSplit(ctx *fasthttp.RequestCtx) {
	if route, live := s.split(ctx); live != nil {
		v, version := live.Look()
		ctx.Response.Header.Set(fasthttp.HeaderETag, s.splitTag(route, version))
		reply(ctx, v)
	}
}

func (s *Server) changeSplit(ctx *fasthttp.RequestCtx) {
	route, live := s.split(ctx)
	if live == nil {
		return
	}
	c, err := split.ParseChange(ctx.PostBody())
	if err != nil {
		fail(ctx, fasthttp.StatusBadRequest, "bad_request", err.Error())
		return
	}
	var meant func(version uint64) bool
	if given := ctx.Request.Header.PeekAll(fasthttp.HeaderIfMatch); len(given) > 0 {
		meant = func(version uint64) bool { return names(given, s.splitTag(route, version)) }
	}
	before, _ := live.Look()
	v, version, err := live.Change(c, ctx.RemoteAddr().String(), meant)
	var conflict *split.ConflictError
	switch {
	case errors.Is(err, split.ErrChanged):
		fail(ctx, fasthttp.StatusPreconditionFailed, "changed_meanwhile", err.Error())
	case errors.As(err, &conflict):
		fail(ctx, fasthttp.StatusConflict, "conflict", err.Error())
	case err != nil:
		fail(ctx, fasthttp.StatusBadRequest, "bad_request", err.Error())
	default:
		ctx.Response.Header.Set(fasthttp.HeaderETag, s.splitTag(route, version))
		reply(ctx, v)
		changed(ctx, before, v)
	}
}

// splitTag is the ETag of a split.
func (s *Server) splitTag(route string, version uint64) string {
	h := hmac.New(sha256.New, s.nonce[:])
	h.Write(strconv.AppendUint([]byte("split/"+route+"/"), version, 10))
	return `"` + hex.EncodeToString(h.Sum(nil)[:16]) + `"`
}

// names tells whether one of the values of If-Match is the tag (RFC 9110, section 13.1.1).
func names(given [][]byte, tag string) bool {
	for _, field := range given {
		for one := range strings.SplitSeq(string(field), ",") {
			if one = strings.TrimSpace(one); one == tag || one == "*" {
				return true
			}
		}
	}
	return false
}
