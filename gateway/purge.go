package gateway

import (
	"bytes"
	"fmt"
	"strings"

	"sluice/gateway/cache"
	"sluice/gateway/router"
)

// Purge says what is taken out of the caches. The zero value is everything.
type Purge struct {
	// By is url, prefix, tag or route; "" for everything.
	By string
	// Value is the URL, what it begins with, the tag, or the name of the route.
	Value string
}

// purger is a living cache.
type purger interface {
	// Purge removes the entries that match wants removed and returns how many there were.
	Purge(match func(*cache.Entry) bool) int
}

// Purged is what a purge has done.
type Purged struct {
	// Caches of this instance that were looked through, Entries that were removed from them.
	Caches, Entries int
	// Others is how the other instances have been told: "" where there is no shared store, told, or later while it does not answer.
	Others string
}

// Purge takes entries out of the caches of this instance, and has the others do the same.
func (g *Gateway) Purge(p Purge) Purged {
	done := g.purgeHere(p)
	if s := g.store(); s != nil {
		done.Others = "told"
		if err := s.Purge(p.String()); err != nil {
			done.Others = "later"
			g.log.Warn("the other instances can not be told of a purge of the cache", "error", err.Error())
		}
	}
	return done
}

func (g *Gateway) purgeHere(p Purge) (done Purged) {
	match := p.match()
	g.EachLiving(func(_ string, v any) bool {
		if c, ok := v.(purger); ok {
			done.Caches++
			done.Entries += c.Purge(match)
		}
		return true
	})
	return done
}

// String is how instances write it to each other.
func (p Purge) String() string {
	if p.By == "" {
		return ""
	}
	return p.By + " " + p.Value
}

func parsePurge(s string) (Purge, error) {
	by, value, _ := strings.Cut(s, " ")
	switch by {
	case "", "url", "prefix", "tag", "route":
		return Purge{by, value}, nil
	}
	return Purge{}, fmt.Errorf("a purge by %q is not known", by)
}

func (p Purge) match() func(*cache.Entry) bool {
	value := []byte(p.Value)
	switch p.By {
	case "url":
		return byURL(value)
	case "prefix":
		return byPrefix(value)
	case "tag":
		return cache.ByTag(value)
	case "route":
		return cache.ByRoute(p.Value)
	}
	return cache.Everything
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
