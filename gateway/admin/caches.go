package admin

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/cache"
	"sluice/gateway/router"
)

// purger is a living cache.
type purger interface {
	// Purge removes the entries that match wants removed and returns how many there were.
	Purge(match func(*cache.Entry) bool) int
}

// sized is a living cache that tells what it holds.
type sized interface {
	purger
	Len() int
	Bytes() int64
}

func (s *Server) purge(ctx *fasthttp.RequestCtx) {
	match, given, route := cache.Everything, 0, ""
	for name, value := range ctx.QueryArgs().All() {
		given++
		value = append([]byte(nil), value...)
		switch string(name) {
		case "prefix":
			match = byPrefix(value)
		case "url":
			match = byURL(value)
		case "tag":
			match = cache.ByTag(value)
		case "route":
			route = string(value)
			match = cache.ByRoute(route)
		default:
			fail(ctx, fasthttp.StatusBadRequest, "bad_parameter", "give one of url, prefix, tag, route, or nothing for everything")
			return
		}
		if len(value) == 0 {
			// A variable that was empty in a script must not empty the cache.
			fail(ctx, fasthttp.StatusBadRequest, "bad_parameter", string(name)+" is empty; leave it out to purge everything")
			return
		}
	}
	if given > 1 {
		fail(ctx, fasthttp.StatusBadRequest, "bad_parameter", "give only one of url, prefix, tag, route")
		return
	}
	caches, purged := 0, 0
	s.o.Gateway.EachLiving(func(_ string, v any) bool {
		if p, ok := v.(purger); ok {
			caches++
			purged += p.Purge(match)
		}
		return true
	})
	if route != "" && purged == 0 {
		// The entries of a route that is gone are purged by its name, too.
		if c := s.o.Gateway.Config(); c == nil || c.Routes[route] == nil {
			fail(ctx, fasthttp.StatusNotFound, "no_such_route", fmt.Sprintf("there is no route %q%s", route, s.routeHint(route)))
			return
		}
	}
	reply(ctx, map[string]int{"caches": caches, "purged": purged})
	changed(ctx, nil, map[string]int{"purged": purged})
}

// routeHint suggests the route that was meant.
func (s *Server) routeHint(name string) string {
	c := s.o.Gateway.Config()
	if c == nil {
		return ""
	}
	return config.Hint(name, slices.Sorted(maps.Keys(c.Routes)))
}

// byURL matches one URL, with its query or, without one, with every query.
func byURL(url []byte) func(*cache.Entry) bool {
	host, rest := cutURL(url)
	if host != nil {
		if rest == nil {
			rest = []byte("/")
		}
		return cache.ByURL(append(host, rest...))
	}
	path, query, queried := bytes.Cut(rest, []byte("?"))
	return func(e *cache.Entry) bool {
		p, q, _ := bytes.Cut(pathOf(e), []byte("?"))
		return bytes.Equal(p, path) && (!queried || bytes.Equal(q, query))
	}
}

// byPrefix matches HOST/PATH, also written as a URL; a prefix that begins with a slash is of paths on any host.
func byPrefix(prefix []byte) func(*cache.Entry) bool {
	host, path := cutURL(prefix)
	if host != nil {
		return cache.ByPrefix(append(host, path...))
	}
	return func(e *cache.Entry) bool { return bytes.HasPrefix(pathOf(e), path) }
}

// cutURL cuts a URL, with or without its scheme, into the host as it routes, which has no port, and the rest; the host is
// nil in what begins with a slash.
func cutURL(url []byte) (host, rest []byte) {
	if scheme, after, ok := bytes.Cut(url, []byte("://")); ok && (string(scheme) == "http" || string(scheme) == "https") {
		url = after
	}
	slash := bytes.IndexByte(url, '/')
	switch {
	case slash == 0:
		return nil, url
	case slash < 0:
		return bytes.Clone(router.NormalizeHost(nil, url)), nil
	}
	return bytes.Clone(router.NormalizeHost(nil, url[:slash])), url[slash:]
}

// pathOf is the path of an entry with its query.
func pathOf(e *cache.Entry) []byte {
	if slash := bytes.IndexByte(e.Path(), '/'); slash >= 0 {
		return e.Path()[slash:]
	}
	return nil
}

type cacheStats struct {
	Caches  int   `json:"caches"`
	Entries int   `json:"entries"`
	Bytes   int64 `json:"bytes"`
}

func (s *Server) cacheStats() (c cacheStats) {
	s.o.Gateway.EachLiving(func(_ string, v any) bool {
		if store, ok := v.(sized); ok {
			c.Caches++
			c.Entries += store.Len()
			c.Bytes += store.Bytes()
		}
		return true
	})
	return c
}
