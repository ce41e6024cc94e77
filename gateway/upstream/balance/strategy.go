package balance

import "math/bits"

// draws is how often the quick way draws before it leaves the matter to search.
const draws = 8

// draw returns a member by weight that is fresh and not `except`, with the share of its weight that slow start grants;
// -1 when it met none.
func (s *Set) draw(now int64, tried *Tried, except int) (int, float64) {
	for range draws {
		i := s.drawn()
		if i == except || s.class(i, now, tried) != fresh {
			continue
		}
		f := s.ramp(i, now)
		if f == 1 || s.uniform() < f {
			return i, f
		}
	}
	return -1, 0
}

// drawTwo returns two different members by weight; the second is -1 when there is no other.
func (s *Set) drawTwo(now int64, tried *Tried) (i int, fi float64, j int, fj float64) {
	if i, fi = s.draw(now, tried, -1); i < 0 {
		return -1, 0, -1, 0
	}
	n := len(s.members)
	if n > 2 {
		if j, fj = s.draw(now, tried, i); j >= 0 {
			return i, fi, j, fj
		}
	}
	// Two members leave no choice for the second; among many a very heavy one hides the others from draw.
	hi, _ := bits.Mul64(s.random(), uint64(n-1))
	if j = int(hi); j >= i {
		j++
	}
	if s.class(j, now, tried) != fresh {
		return i, fi, -1, 0
	}
	if fj = s.ramp(j, now); fj < 1 && s.uniform() >= fj {
		return i, fi, -1, 0
	}
	return i, fi, j, fj
}

func (s *Set) pickLeastRequest(now int64, tried *Tried) int {
	i, fi, j, fj := s.drawTwo(now, tried)
	if j < 0 {
		return i
	}
	a, b, mine := &s.members[i], &s.members[j], s.group.mine()
	if float64(b.inFlight(now, mine))*a.weight*fi < float64(a.inFlight(now, mine))*b.weight*fj {
		return j
	}
	return i
}

// noise is added to every latency: below a millisecond a difference says more about schedulers than about endpoints.
const noise = 1e6

// maxErrors bounds what errors in a row add to the cost of an endpoint.
const maxErrors = 10

func (s *Set) pickPeakEWMA(now int64, tried *Tried) int {
	i, fi, j, fj := s.drawTwo(now, tried)
	if j < 0 {
		return i
	}
	a, b := &s.members[i], &s.members[j]
	la, lb := float64(a.latency.at(now)), float64(b.latency.at(now))
	// An endpoint that was never measured is taken to be as fast as its rival, so only requests in flight count
	// against it: it is neither flooded nor left out.
	if la == 0 {
		la = lb
	} else if lb == 0 {
		lb = la
	}
	mine := s.group.mine()
	ca, cb := a.cost(la, fi, a.inFlight(now, mine)), b.cost(lb, fj, b.inFlight(now, mine))
	if ca <= cb {
		return i
	}
	if r := cb / ca; s.uniform() < r*r*r {
		return i
	}
	return j
}

// cost is what a request more would wait at this member. Weight divides only the requests in flight: the draw already
// honours it, and an idle service would else send everything to its heaviest endpoint. An endpoint that fails fast
// looks idle, so errors in a row count as requests in flight.
func (m *member) cost(latency, ramp float64, inFlight int64) float64 {
	busy := float64(inFlight)/(m.relative*ramp) + float64(min(m.consecutive.Load(), maxErrors))
	return (latency + noise) * (1 + busy)
}

// pickRoundRobin gives a turn whose endpoint can not take it to the next in a second walk over the same cycle: the
// turns of a missing endpoint are so shared out by weight, where the plain next one would fall to its neighbour.
func (s *Set) pickRoundRobin(now int64, tried *Tried) int {
	for k := range draws {
		var turn uint64
		if k == 0 {
			turn = s.group.nextTurn(now)
		} else {
			turn = s.group.spill.Add(1) - 1
		}
		i := int(s.turns[turn%uint64(len(s.turns))])
		if s.class(i, now, tried) == fresh {
			if f := s.ramp(i, now); f == 1 || s.uniform() < f {
				return i
			}
		}
	}
	return -1
}

// A core whose last turns went within freshFor takes turnsAhead turns at once, so that cores do not queue for the counter.
// Each turn is given once, and where requests are fewer than that they are given in order.
const (
	turnsAhead = 16
	turnShift  = 8
)

// nextTurn is a position in the endless repetition of the cycle.
func (g *Group) nextTurn(now int64) uint64 {
	own := &g.lanes[g.mine()]
	for {
		w := own.turns.Load()
		if left := w & (1<<turnShift - 1); left > 0 {
			if own.turns.CompareAndSwap(w, w+1<<turnShift-1) {
				return w >> turnShift
			}
			continue
		}
		since := now - own.takenAt.Load()
		own.takenAt.Store(now)
		if since < 0 || since >= freshFor {
			return g.turn.Add(1) - 1
		}
		first := g.turn.Add(turnsAhead) - turnsAhead
		// Where another goroutine has taken turns for this core meanwhile, the rest of these is nobody's.
		own.turns.CompareAndSwap(w, (first+1)<<turnShift|(turnsAhead-1))
		return first
	}
}

// maxCycle bounds the memory of a cycle; weights that need a longer one are rounded.
const maxCycle = 4096

// smoothCycle lays out one cycle in which member i has weights[i] turns, spread as evenly as they go.
func smoothCycle(weights []int) []uint32 {
	g, sum := 0, 0
	for _, w := range weights {
		g, sum = gcd(w, g), sum+w
	}
	each, length := make([]int, len(weights)), 0
	for i, w := range weights {
		if w /= g; sum/g > maxCycle {
			w = max(1, int(float64(w)*maxCycle/float64(sum/g)))
		}
		each[i] = w
		length += w
	}
	cycle, credit := make([]uint32, 0, length), make([]int, len(weights))
	if length == len(weights) {
		for i := range weights {
			cycle = append(cycle, uint32(i))
		}
		return cycle
	}
	for range length {
		best := 0
		for i, w := range each {
			if credit[i] += w; credit[i] > credit[best] {
				best = i
			}
		}
		credit[best] -= length
		cycle = append(cycle, uint32(best))
	}
	return cycle
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// aliasSlot belongs to the alias method (Walker, Vose): a member by weight from one random word, in constant time.
type aliasSlot struct {
	keep  uint32 // chance to keep this slot's own member, in 2^-32
	other uint32
}

func (s *Set) drawn() int {
	r := s.random()
	i := int(r >> 32 * uint64(len(s.alias)) >> 32)
	if a := s.alias[i]; uint32(r) > a.keep {
		return int(a.other)
	}
	return i
}

func aliasTable(weights []int) []aliasSlot {
	sum := 0.0
	for _, w := range weights {
		sum += float64(w)
	}
	n := len(weights)
	table, p := make([]aliasSlot, n), make([]float64, n)
	var under, over []int
	for i, w := range weights {
		table[i] = aliasSlot{keep: 1<<32 - 1, other: uint32(i)}
		if p[i] = float64(w) * float64(n) / sum; p[i] < 1 {
			under = append(under, i)
		} else {
			over = append(over, i)
		}
	}
	for len(under) > 0 && len(over) > 0 {
		u, o := under[len(under)-1], over[len(over)-1]
		under = under[:len(under)-1]
		table[u] = aliasSlot{keep: uint32(p[u] * (1<<32 - 1)), other: uint32(o)}
		if p[o] -= 1 - p[u]; p[o] < 1 {
			over = over[:len(over)-1]
			under = append(under, o)
		}
	}
	return table
}
