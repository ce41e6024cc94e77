package cache

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"strings"
	"sync"
	"time"

	store "sluice/gateway/cache"

	"sluice/gateway/policy"
)

const (
	maxFlights = 8192
	maxMarks   = 4096
	// maxWait is how long a request waits for others that fetch the same response, in all.
	maxWait = 5 * time.Second
	// maxWaiting bounds the requests that wait, in the whole process.
	maxWaiting = 1 << 16
)

// shared is what all caches of a gateway have in common.
type shared struct {
	uris    uris
	waiters policy.Waiters

	mu  sync.Mutex
	all map[*Responses]struct{}
}

func newShared() (*shared, error) {
	s := &shared{all: make(map[*Responses]struct{})}
	s.uris.seed = maphash.MakeSeed()
	s.waiters.Max = maxWaiting
	return s, nil
}

// bytes is what all caches hold.
func (s *shared) bytes() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := int64(0)
	for r := range s.all {
		total += r.Bytes()
	}
	return float64(total)
}

// Responses is the store of one block of settings. It lives over reloads.
type Responses struct {
	*store.Store
	flights *store.Flights
	shared  *shared
}

func newResponses(s *shared, maxSize, maxEntry int64) *Responses {
	r := &Responses{Store: store.NewStore(maxSize, maxEntry), flights: store.NewFlights(maxFlights, maxMarks, int64(maxWait)), shared: s}
	s.mu.Lock()
	s.all[r] = struct{}{}
	s.mu.Unlock()
	return r
}

// Close implements io.Closer. Exchanges that still use the store may go on.
func (r *Responses) Close() error {
	r.shared.mu.Lock()
	delete(r.shared.all, r)
	r.shared.mu.Unlock()
	return nil
}

// Purge removes stored responses and returns how many there were; what is being fetched at that moment is not stored
// either. kind says what value means:
//
//	""        everything; value is ""
//	"route"   those recorded on the route of this name
//	"tag"     those that the backend tagged so, in Surrogate-Key or Cache-Tag
//	"prefix"  those whose canonical path begins with value ("/api/v1/"), or whose host and path do
//	          ("api.example.com/v1/", also behind http:// or https://)
//
// Consumers and variants of a response are purged alike.
func (r *Responses) Purge(kind, value string) (int, error) {
	if kind != "" && value == "" {
		return 0, fmt.Errorf("cannot purge by %s: no value is given", kind)
	}
	switch kind {
	case "":
		return r.Store.Purge(store.Everything), nil
	case "route":
		return r.Store.Purge(store.ByRoute(value)), nil
	case "tag":
		return r.Store.Purge(store.ByTag([]byte(value))), nil
	case "prefix":
		return r.Store.Purge(byPrefix(value)), nil
	}
	return 0, fmt.Errorf("cannot purge by %s: give prefix, tag or route", kind)
}

func byPrefix(prefix string) func(*store.Entry) bool {
	if _, rest, ok := strings.Cut(prefix, "://"); ok {
		prefix = rest
	}
	if !strings.HasPrefix(prefix, "/") {
		host, path, _ := strings.Cut(prefix, "/")
		if strings.Contains(prefix, "/") {
			path = "/" + path
		}
		return store.ByPrefix([]byte(strings.ToLower(host) + path))
	}
	want := []byte(prefix)
	return func(e *store.Entry) bool {
		path := e.Path()
		i := bytes.IndexByte(path, '/')
		return i >= 0 && bytes.HasPrefix(path[i:], want)
	}
}
