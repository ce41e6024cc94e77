package ratelimit

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/limiter"
	"sluice/gateway/policy"
)

const (
	// maxWaiters bounds the requests that are delayed at the same time, in the whole process.
	maxWaiters = 10_000
	sweepEvery = time.Minute
)

// State are the buckets of all rate limits of the process. Their keys begin with the scope of a block, so that one bounded store serves
// ten thousand blocks, and a block finds its buckets again after a reload.
type State struct {
	store   *limiter.Store
	waiters policy.Waiters

	mu     sync.Mutex
	scopes map[string][]*scope // by scope; the youngest generation's is the last

	stop, done chan struct{}
}

// scope is what one generation says of the windows of a block, for Inspect.
type scope struct{ groups []group }

func newState() *State {
	return &State{
		store: limiter.New(limiter.Options{}), waiters: policy.Waiters{Max: maxWaiters}, scopes: map[string][]*scope{},
		stop: make(chan struct{}), done: make(chan struct{}),
	}
}

// start sweeps full buckets out, so that the memory of a flood of keys comes back.
func (s *State) start(clock *exchange.Clock) {
	go func() {
		defer close(s.done)
		tick := time.NewTicker(sweepEvery)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				return
			case <-tick.C:
				s.store.Sweep(clock.Now())
			}
		}
	}()
}

// Close ends the sweeping.
func (s *State) Close() {
	close(s.stop)
	<-s.done
}

// register tells Inspect of a block, until forget is called. A block compiled for several routes is registered by each.
func (s *State) register(name string, groups []group) (forget func()) {
	mine := &scope{groups}
	s.mu.Lock()
	s.scopes[name] = append(s.scopes[name], mine)
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		left := slices.DeleteFunc(s.scopes[name], func(have *scope) bool { return have == mine })
		if len(left) == 0 {
			delete(s.scopes, name)
			return
		}
		s.scopes[name] = left
	}
}

// Buckets is the number of buckets.
func (s *State) Buckets() int { return s.store.Len() }

// Inspector is what the living state of rate limits offers to operators.
type Inspector interface {
	// Inspect lists at most limit buckets whose key begins with prefix, with or without its kind: "alice", "consumer:alice", "ip:192.0.2.".
	// now is a reading of the gateway's monotonic clock.
	Inspect(now int64, prefix string, limit int) []Entry
}

var _ Inspector = (*State)(nil)

// Entry is one bucket.
type Entry struct {
	// Scope is the block it belongs to: "routes.users", "global".
	Scope string `json:"scope"`
	// Key says whose it is: "consumer:alice", "subject:42", "ip:192.0.2.1", "header:X-Tenant=acme", "claim:org=acme", "route:users", "global".
	Key string `json:"key"`
	// Windows are its windows.
	Windows []WindowEntry `json:"windows"`
}

// WindowEntry is one window of a bucket.
type WindowEntry struct {
	Name     string `json:"name"`
	Requests int64  `json:"requests"`
	// Per and Reset are in seconds; Reset is the time until the bucket is full.
	Per       float64 `json:"per"`
	Burst     int64   `json:"burst"`
	Remaining int64   `json:"remaining"`
	Reset     float64 `json:"reset"`
	Shadow    bool    `json:"shadow,omitempty"`
}

// Inspect implements Inspector. It looks through all buckets and is meant for operators, not for the path of a request.
func (s *State) Inspect(now int64, prefix string, limit int) []Entry {
	s.mu.Lock()
	type named struct {
		name string
		*scope
	}
	var scopes []named
	for name, all := range s.scopes {
		seen := map[string]bool{}
		for i := len(all) - 1; i >= 0; i-- {
			// Blocks for several routes have equal groups, but for the key by route.
			if id := all[i].identity(); !seen[id] {
				seen[id] = true
				scopes = append(scopes, named{name, all[i]})
			}
		}
	}
	s.mu.Unlock()
	slices.SortFunc(scopes, func(a, b named) int { return strings.Compare(a.name, b.name) })
	var entries []Entry
	for _, sc := range scopes {
		for i := range sc.groups {
			g := &sc.groups[i]
			s.store.Range([]byte(g.prefix), limiter.DefaultMaxKeys, func(e limiter.Entry) bool {
				if len(entries) >= limit {
					return false
				}
				if key := g.show(string(e.Key[len(g.prefix):])); matches(key, prefix) {
					entries = append(entries, Entry{Scope: sc.name, Key: key, Windows: s.windows(now, g, e.Key)})
				}
				return true
			})
		}
	}
	slices.SortFunc(entries, func(a, b Entry) int {
		if c := strings.Compare(a.Scope, b.Scope); c != 0 {
			return c
		}
		return strings.Compare(a.Key, b.Key)
	})
	return entries
}

// identity is the same for scopes with the same bucket keys.
func (s *scope) identity() string {
	var b strings.Builder
	for i := range s.groups {
		b.WriteString(s.groups[i].prefix)
	}
	return b.String()
}

func matches(key, prefix string) bool {
	if strings.HasPrefix(key, prefix) {
		return true
	}
	_, value, _ := strings.Cut(key, ":")
	if strings.HasPrefix(value, prefix) {
		return true
	}
	_, value, _ = strings.Cut(value, "=")
	return strings.HasPrefix(value, prefix)
}

func (s *State) windows(now int64, g *group, key []byte) []WindowEntry {
	var out [limiter.MaxWindows]limiter.Result
	s.store.Peek(now, key, g.limits, 0, out[:])
	ws := make([]WindowEntry, len(g.limits))
	for i, l := range g.limits {
		burst := l.Burst
		if burst == 0 {
			burst = l.Requests
		}
		ws[i] = WindowEntry{
			Name: g.names[i], Requests: l.Requests, Per: l.Per.Seconds(), Burst: burst,
			Remaining: out[i].Remaining, Reset: out[i].Reset.Seconds(), Shadow: g.shadow,
		}
	}
	return ws
}

// show makes what follows the prefix of a key readable.
func (g *group) show(key string) string {
	switch g.by.kind {
	case byRoute:
		parts := strings.Split(g.prefix, "\x00")
		return "route:" + parts[len(parts)-2]
	case byGlobal:
		return "global"
	}
	kind, value, ok := strings.Cut(key, ":")
	if !ok {
		return key
	}
	switch kind {
	case "c":
		return "consumer:" + value
	case "s":
		return "subject:" + value
	case "v":
		return g.by.text + "=" + value
	case "h":
		return g.by.text + "=sha256:" + hex.EncodeToString([]byte(value))
	case "4":
		if a, ok := netip.AddrFromSlice([]byte(value)); ok {
			return "ip:" + a.String()
		}
	case "6":
		var b [16]byte
		copy(b[:], value)
		return "ip:" + netip.PrefixFrom(netip.AddrFrom16(b), 64).String()
	}
	return key
}
