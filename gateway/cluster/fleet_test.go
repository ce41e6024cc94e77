package cluster

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/gateway/cluster/redistest"
	"sluice/gateway/limiter"
)

func TestMain(m *testing.M) {
	if address := os.Getenv(elsewhere); address != "" {
		runElsewhere(address)
		return
	}
	// The client looks at the nodes once more a second after it was closed, and that ends by itself.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"))
}

// epoch is the time of day at which every group begins.
var epoch = time.Unix(1_800_000_000, 0).UTC()

// group are instances on one real server, in a time of their own, also the server's: calls are made and messages arrive when the test
// says so.
type group struct {
	t    *testing.T
	name string
	now  int64 // nanoseconds
	all  []*Store
	rand *rand.Rand
}

var groups int

func newGroup(t *testing.T, address string, n int) *group {
	t.Helper()
	groups++
	g := &group{t: t, name: "group" + strconv.Itoa(groups), now: int64(time.Hour), rand: rand.New(rand.NewPCG(1, 2))}
	for range n {
		g.join(address)
	}
	g.beat()
	return g
}

// join adds an instance.
func (g *group) join(address string) *Store {
	g.t.Helper()
	s := Open(Options{
		Addresses: []string{address}, Prefix: g.name, Timeout: 10 * time.Second, // a slow machine is not what is tested
		Now:  func() int64 { return g.now },
		Wall: func() time.Time { return epoch.Add(time.Duration(g.now)) },
	})
	s.limiter.horizon = 400 * time.Millisecond // that of the default timeout
	s.serverNow = func() int64 { return epoch.UnixMicro() + g.now/1000 }
	s.beat()
	if !s.up.Load() {
		g.t.Fatal("the server does not answer")
	}
	s.done.Go(s.deliver)
	g.t.Cleanup(func() {
		s.stop()
		s.done.Wait()
		(*s.client.Load()).Close()
	})
	g.all = append(g.all, s)
	return s
}

// beat has everybody learn of everybody.
func (g *group) beat() {
	for range maxBeats {
		for _, s := range g.all {
			s.beat()
		}
	}
	for _, s := range g.all {
		if n := s.Instances(); n != len(g.all) {
			g.t.Fatalf("%d instances, want %d", n, len(g.all))
		}
	}
}

// step moves the time and has done what is due then, in a random order.
func (g *group) step(d time.Duration) {
	g.now += int64(d)
	for _, i := range g.rand.Perm(len(g.all)) {
		g.work(g.all[i])
	}
}

// work does what is due for one instance.
func (g *group) work(s *Store) {
	if loans, _ := s.limiter.turn(g.now, 1<<20); len(loans) > 0 {
		s.limiter.settle(loans)
	}
	for {
		select {
		case m := <-s.events.out:
			for _, other := range g.all {
				if other.up.Load() {
					other.events.handle(m)
				}
			}
			continue
		default:
		}
		return
	}
}

func (g *group) take(i int, key string, l *Limits) Verdict {
	var out [MaxWindows]limiter.Result
	return g.all[i].limiter.Take(g.now, []byte(key), l, out[:])
}

// strict takes strictly; the call is delivered by the store's own goroutine.
func (g *group) strict(i int, key string, l *Limits) Verdict {
	var out [MaxWindows]limiter.Result
	return g.all[i].limiter.TakeStrict(g.now, []Charge{{[]byte(key), l, out[:]}})
}

// counter counts what passes, and that over no time it is more than a bucket allows.
type counter struct {
	t           *testing.T
	burst, rate float64 // rate a nanosecond
	level       float64 // of a bucket that gives what passed
	at          int64
	passed      int64
	worst       float64
}

func (c *counter) count(now int64, n int64) {
	c.t.Helper()
	c.level = min(c.burst, c.level+float64(now-c.at)*c.rate) - float64(n)
	c.at = now
	c.passed += n
	c.worst = min(c.worst, c.level)
}

func bucketOf(requests int64, per time.Duration, burst int64) *Limits {
	return NewLimits("test", []Window{{Requests: requests, Per: per, Burst: burst}}, 1, false)
}

func (c *counter) check() {
	c.t.Helper()
	if c.worst < -0.001 {
		c.t.Errorf("%.3f more passed than the limit allows", -c.worst)
	}
}

// Three instances share 10,000 requests a second, and are asked for them unevenly.
func TestUnevenLoad(t *testing.T) {
	server := redistest.Start(t)
	f := func(name string, burst int64, load ...int) {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, server.Address, len(load))
			l := bucketOf(10_000, time.Second, burst)
			for i := range g.all {
				g.all[i].limiter.Register(l)
			}
			c := &counter{t: t, burst: float64(burst), rate: 1e-5, level: float64(burst), at: g.now}
			due := make([]float64, len(load))
			var seconds []int64
			for ms := range 6000 {
				for i, rate := range load {
					for due[i] += float64(rate) / 1000; due[i] >= 1; due[i]-- {
						if g.take(i, "k", l) == Passed {
							c.count(g.now, 1)
						}
					}
				}
				g.step(time.Millisecond)
				if ms%1000 == 999 {
					seconds = append(seconds, c.passed)
					c.passed = 0
				}
			}
			c.check()
			t.Logf("passed in each second: %v", seconds)
			// What was saved is used up by then. What is held when a second begins may still be used in it.
			for _, n := range seconds[3:] {
				if n < 9700 || n > 10_050 {
					t.Errorf("%d passed in a second; all: %v", n, seconds)
				}
			}
		})
	}
	f("saturated", 10_000, 8000, 5000, 3000)
	f("one of three", 10_000, 15_000, 0, 0)
	f("one idles", 10_000, 9000, 7000, 20)
	f("small burst", 1000, 8000, 5000, 3000)
	f("tiny burst", 200, 8000, 5000, 3000)
	f("five", 10_000, 8000, 4000, 2000, 1000, 500)
}

// Whatever is asked of whom, and when: no more passes than the limit, and none of a limit that is wanted is left lying.
func TestNeverMoreThanTheLimit(t *testing.T) {
	server := redistest.Start(t)
	r := rand.New(rand.NewPCG(7, 8))
	for round := range 8 {
		t.Run(strconv.Itoa(round), func(t *testing.T) {
			n := 1 + r.IntN(5)
			requests := int64(40*n) << r.IntN(9)
			per := time.Duration(1+r.IntN(5000)) * time.Millisecond
			burst := requests >> r.IntN(2)
			g := newGroup(t, server.Address, n)
			l := bucketOf(requests, per, burst)
			for _, s := range g.all {
				s.limiter.Register(l)
			}
			rate := float64(requests) / float64(per)
			c := &counter{t: t, burst: float64(burst), rate: rate, level: float64(burst), at: g.now}
			load, due := make([]float64, n), make([]float64, n)
			for ms := range 2000 {
				if ms%250 == 0 {
					for i := range load { // some ask for nothing, some for more than all of it
						load[i] = max(0, r.Float64()*4-1.5) * rate * 1e6
					}
				}
				for i := range load {
					for due[i] = min(due[i]+load[i], 200); due[i] >= 1; due[i]-- {
						if g.take(i, "k", l) == Passed {
							c.count(g.now, 1)
						}
					}
				}
				g.step(time.Millisecond)
			}
			c.check()
			// One of them wants everything from now on.
			for range 600 {
				for range 1 + int(3*rate*1e6) {
					if g.take(0, "k", l) == Passed {
						c.count(g.now, 1)
					}
				}
				g.step(time.Millisecond)
			}
			c.check()
			c.count(g.now, 0)
			if unused, most := c.level, c.burst*float64(n)/untoldPart+rate*float64(n)*1e8+float64(2*n); unused > most {
				t.Errorf("%+v of %d instances: %.0f tokens lie unused, want %.0f at most", l.windows, n, unused, most)
			}
		})
	}
}

// A window of the clock has no more than its limit, and the next one has all of it again.
func TestWindowsOfTheClock(t *testing.T) {
	server := redistest.Start(t)
	g := newGroup(t, server.Address, 3)
	l := NewLimits("test", []Window{{Requests: 3000, ByClock: true, Clock: limiter.Second}, {Requests: 5000, ByClock: true, Clock: limiter.Minute}}, 1, false)
	for _, s := range g.all {
		s.limiter.Register(l)
	}
	passed := make(map[int64]int)
	minute := make(map[int64]int)
	for range 125_000 / 5 {
		for i := range g.all {
			for range (i + 1) * 10 { // 12,000 a second
				if g.take(i, "k", l) == Passed {
					passed[g.now/1e9]++
					minute[g.now/60e9]++
				}
			}
		}
		g.step(5 * time.Millisecond)
		if g.now%60e9 > 3e9 { // nothing is left of the minute
			g.now += 60e9 - g.now%60e9 - 5e6
		}
		if g.now > int64(time.Hour)+int64(4*time.Minute) {
			break
		}
	}
	for s, n := range passed {
		if n > 3000 || s%60 == 0 && s < 64*60 && n < 2910 {
			t.Errorf("%d passed in second %d", n, s)
		}
	}
	for m, n := range minute {
		if m < 64 && (n > 5000 || n < 4850) {
			t.Errorf("%d passed in minute %d", n, m)
		}
	}
	if len(minute) < 4 {
		t.Errorf("%v", minute)
	}
}

// What a few requests took of a bucket is told, so that all the rest of it can be used by another instance, and then the first one is refused.
func TestEveryTokenCanBeUsedByOne(t *testing.T) {
	server := redistest.Start(t)
	f := func(n int, requests int64, before int) {
		t.Helper()
		g := newGroup(t, server.Address, n)
		l := bucketOf(requests, time.Hour, requests) // earns nothing while the test lasts, or one or two
		for _, s := range g.all {
			s.limiter.Register(l)
		}
		passed := 0
		for range before {
			for i := range g.all {
				if g.take(i, "k", l) == Passed {
					passed++
				}
			}
			g.step(time.Millisecond)
		}
		for range 4000 { // what the others hold comes back when nobody has asked them for a while
			if g.take(0, "k", l) == Passed {
				passed++
			}
			g.step(time.Millisecond)
		}
		if earned := requests / 500; int64(passed) < requests || int64(passed) > requests+earned {
			t.Errorf("%d instances: %d of %d passed", n, passed, requests)
		}
		for i := range g.all {
			if i > 0 && g.take(i, "k", l) != Refused {
				t.Errorf("%d instances, %d requests: one more passed elsewhere", n, requests)
			}
		}
	}
	f(1, 100, 0)
	f(3, 100, 0)
	f(3, 100, 5)
	f(5, 200, 1)
	f(3, 1000, 20)
}
