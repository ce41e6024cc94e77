package limiter

import (
	"math/big"
	"math/rand/v2"
	"testing"
	"time"
)

// model is a bucket of rational numbers.
type model struct {
	tokens *big.Rat
	last   int64
}

func (m *model) refill(now int64, l Limit) {
	if now > m.last {
		m.tokens.Add(m.tokens, new(big.Rat).SetFrac(
			new(big.Int).Mul(big.NewInt(now-m.last), big.NewInt(l.Requests)), big.NewInt(int64(l.Per))))
		m.last = now
	}
	if burst := new(big.Rat).SetInt64(l.burst()); m.tokens.Cmp(burst) > 0 {
		m.tokens = burst
	}
}

func (m *model) whole() int64 { // towards zero is enough: it is never negative
	return new(big.Int).Quo(m.tokens.Num(), m.tokens.Denom()).Int64()
}

func (m *model) until(n int64, l Limit) time.Duration {
	need := new(big.Rat).Sub(new(big.Rat).SetInt64(n), m.tokens)
	if need.Sign() <= 0 {
		return 0
	}
	need.Mul(need, new(big.Rat).SetFrac64(int64(l.Per), l.Requests))
	d := new(big.Int).Add(need.Num(), new(big.Int).Sub(need.Denom(), big.NewInt(1)))
	d.Quo(d, need.Denom())
	if !d.IsInt64() {
		return Never
	}
	return time.Duration(d.Int64())
}

// Every answer equals that of rational arithmetic, over the whole range of settings and thousands of calls.
func TestAgainstRationals(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	upTo := func(n int64) int64 { // of any size, not mostly large ones
		return 1 + r.Int64N(1+r.Int64N(max(1, n>>r.IntN(50))))
	}
	for range 300 {
		l := Limit{Requests: upTo(1e9), Per: time.Duration(upTo(int64(31 * 24 * time.Hour)))}
		if r.IntN(2) == 0 {
			l.Burst = upTo(1e9)
		}
		s := New(Options{})
		m := model{tokens: new(big.Rat).SetInt64(l.burst())}
		now := int64(0)
		for range 200 {
			switch r.IntN(4) {
			case 0: // exactly what was announced, or one less
				now += max(0, min(int64(m.until(m.whole()+1, l)), 1<<50)-r.Int64N(2))
			case 1:
				now += upTo(int64(l.Per))
			case 2:
				now += r.Int64N(10)
			}
			cost := min(upTo(l.burst()), 1+m.whole()*2)
			got := s.Take(now, []byte("k"), l, cost)
			m.refill(now, l)
			want := Result{Allowed: cost <= m.whole()}
			if want.Allowed {
				m.tokens.Sub(m.tokens, new(big.Rat).SetInt64(cost))
			} else if cost > l.burst() {
				want.RetryAfter = Never
			} else {
				want.RetryAfter = m.until(cost, l)
			}
			want.Remaining, want.Reset = m.whole(), m.until(l.burst(), l)
			if got != want {
				t.Fatalf("%+v at %d cost %d: got %+v, want %+v", l, now, cost, got, want)
			}
		}
	}
}

// A bucket asked every few nanoseconds earns exactly what one asked once does.
func TestNoDrift(t *testing.T) {
	s := New(Options{})
	l := Limit{Requests: 1_000_003, Per: 7 * time.Second, Burst: 1 << 40}
	s.Take(0, []byte("k"), l, 1<<40)
	const calls, step = 200_000, 1013
	for i := int64(1); i <= calls; i++ {
		s.Take(i*step, []byte("k"), l, 1<<40)
	}
	want := int64(calls*step) * l.Requests / int64(l.Per)
	if r := s.Take(calls*step, []byte("k"), l, 0); r.Remaining != want {
		t.Errorf("%d tokens, want %d", r.Remaining, want)
	}
}

func TestExtremes(t *testing.T) {
	f := func(l Limit, idle int64, want int64) {
		t.Helper()
		s := New(Options{})
		s.Take(-1<<62, []byte("k"), l, l.burst())
		if r := s.Take(-1<<62+idle, []byte("k"), l, 0); r.Remaining != want {
			t.Errorf("%+v: %+v, want %d remaining", l, r, want)
		}
	}
	const month = 31 * 24 * time.Hour
	f(Limit{Requests: 1e9, Per: month}, int64(month)-1, 1e9-1)
	f(Limit{Requests: 1e9, Per: month}, int64(month), 1e9)
	f(Limit{Requests: 1e9, Per: 1}, 1<<62+1<<61, 1e9)
	f(Limit{Requests: MaxTokens, Per: 1}, 1, MaxTokens)
	f(Limit{Requests: 1, Per: month, Burst: MaxTokens}, int64(month), 1)
}
