package ratelimit

import (
	"slices"
	"sync"

	"sluice/gateway/cluster"
	"sluice/gateway/limiter"
	"sluice/gateway/policy"
)

// maxWaiters bounds the requests that are delayed at the same time, in the whole process.
const maxWaiters = 10_000

// State are the buckets of all rate limits of the process. Their keys begin with the scope of a block, so that one bounded store serves
// ten thousand blocks, and a block finds its buckets again after a reload.
type State struct {
	store   *limiter.Store
	waiters policy.Waiters

	mu     sync.Mutex
	scopes map[string][]*scope // by scope; the youngest generation's is the last
}

// scope is what one generation says of the windows of a block, for Inspect.
type scope struct {
	groups  []group
	cluster *cluster.Limiter // nil where the buckets are this instance's alone
}

func newState() *State {
	return &State{
		store: limiter.New(limiter.Options{}), waiters: policy.Waiters{Max: maxWaiters}, scopes: map[string][]*scope{},
	}
}

// Sweep is called once a minute: it drops full buckets, so that the memory of a flood of keys comes back.
func (s *State) Sweep(now int64) int { return s.store.Sweep(now) }

// register tells Inspect of a block, until forget is called. A block compiled for several routes is registered by each.
func (s *State) register(name string, groups []group, shared *cluster.Limiter) (forget func()) {
	mine := &scope{groups, shared}
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

var _ policy.LimitInspector = (*State)(nil)

// Inspect implements policy.LimitInspector.
func (s *State) Inspect(q policy.LimitQuery) []policy.LimitEntry {
	type named struct {
		scope string
		*group
	}
	groups := make(map[string]named) // by prefix; the youngest generation's
	shared := make(map[*cluster.Limiter]struct{})
	s.mu.Lock()
	for name, all := range s.scopes {
		for _, sc := range all {
			if sc.cluster != nil {
				shared[sc.cluster] = struct{}{}
			}
			for i := range sc.groups {
				groups[sc.groups[i].key.Prefix] = named{name, &sc.groups[i]}
			}
		}
	}
	s.mu.Unlock()
	list := policy.NewLimitList(q)
	add := func(key []byte, windows func(g *group) []policy.LimitWindow) {
		g, rest, ok := policy.SplitKey(string(key), groups)
		if !ok {
			return
		}
		if tenant, who := g.key.Show(rest); list.Wants(tenant, who) {
			list.Add(policy.LimitEntry{Policy: "rate_limit", Scope: g.scope, Tenant: tenant, Key: who, Windows: windows(g.group)})
		}
	}
	s.store.Range(nil, limiter.DefaultMaxKeys, func(e limiter.Entry) bool {
		add(e.Key, func(g *group) []policy.LimitWindow { return s.windows(q.Now, g, e.Key) })
		return true
	})
	for l := range shared {
		l.Each(q.Now, func(key []byte, _ *cluster.Limits, _ int64, out []limiter.Result) bool {
			add(key, func(g *group) []policy.LimitWindow { return g.standing(out) })
			return true
		})
	}
	return list.Entries()
}

func (s *State) windows(now int64, g *group, key []byte) []policy.LimitWindow {
	var out [limiter.MaxWindows]limiter.Result
	s.store.Peek(now, key, g.limits, 0, out[:])
	return g.standing(out[:])
}

func (g *group) standing(out []limiter.Result) []policy.LimitWindow {
	ws := make([]policy.LimitWindow, len(g.limits))
	for i, l := range g.limits[:min(len(g.limits), len(out))] {
		burst := l.Burst
		if burst == 0 {
			burst = l.Requests
		}
		ws[i] = policy.LimitWindow{
			Name: g.names[i], Requests: l.Requests, Per: l.Per.Seconds(), Burst: burst,
			Remaining: out[i].Remaining, Used: max(0, burst-out[i].Remaining), Reset: out[i].Reset.Seconds(), Shadow: g.shadow,
		}
	}
	return ws
}
