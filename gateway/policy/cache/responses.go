package cache

import (
	"hash/maphash"
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

// Responses is the store of one block of settings. It lives over reloads, and is purged while it does: it is the living
// state with the methods Purge, Len and Bytes.
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
