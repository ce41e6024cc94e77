package concurrency

import (
	"container/heap"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

// model is a backend with a number of workers and a queue before them, and clients that send whatever it can do. It runs on
// the clock of its World and is the same in every run. Under more work than workers everything takes longer, as where memory or
// a database is shared, so that a backend that is not protected serves less than it could.
type model struct {
	workers int
	service time.Duration // of one request, exponentially distributed
	rate    float64       // requests a second
	mix     [classes]float64
	patient time.Duration // who waits longer than that gets nothing out of its answer

	w      *policytest.World
	h      policy.Hooks
	random *rand.Rand
	events events
	queue  []*job
	busy   int
	at     time.Duration
	seq    int

	// since is when counting began.
	since         time.Duration
	offered, good [classes]int
	peak          int
}

type job struct {
	x     *exchange.Exchange
	class class
	since time.Duration
}

type event struct {
	at  time.Duration
	seq int
	job *job // that ends; nil: one arrives
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func newModel(t *testing.T, settings string, workers int, service time.Duration, load float64) *model {
	m := &model{workers: workers, service: service, patient: 20 * service, mix: [classes]float64{0.1, 0.6, 0.3}, random: rand.New(rand.NewPCG(1, 2))}
	m.w = policytest.New(t, "")
	m.h = m.w.MustBuild(t, Definition, settings)
	m.rate = load * m.capacity()
	m.after(0, nil)
	return m
}

// capacity is how many requests a second the backend can serve.
func (m *model) capacity() float64 { return float64(m.workers) / m.service.Seconds() }

func (m *model) after(d time.Duration, j *job) {
	m.seq++
	heap.Push(&m.events, event{m.at + d, m.seq, j})
}

// run lets time pass.
func (m *model) run(d time.Duration) {
	for end := m.at + d; len(m.events) > 0 && m.events[0].at <= end; {
		e := heap.Pop(&m.events).(event)
		m.w.Advance(e.at - m.at)
		m.at = e.at
		if e.job != nil {
			m.end(e.job)
		} else {
			m.after(time.Duration(m.random.ExpFloat64()/m.rate*1e9), nil)
			m.arrive()
		}
	}
}

// count begins to count.
func (m *model) count() {
	m.since, m.offered, m.good, m.peak = m.at, [classes]int{}, [classes]int{}, 0
}

func (m *model) arrive() {
	at, r := high, m.random.Float64()
	for r >= m.mix[at] && at < low {
		r -= m.mix[at]
		at++
	}
	m.offered[at]++
	x := m.w.Exchange("/", "X-Priority: "+[...]string{"high", "normal", "low"}[at])
	if err := m.h.Request(x); err != nil {
		x.Render(err)
		m.h.Done(x)
		return
	}
	m.queue = append(m.queue, &job{x, at, m.at})
	m.peak = max(m.peak, len(m.queue)+m.busy)
	m.work()
}

func (m *model) work() {
	for m.busy < m.workers && len(m.queue) > 0 {
		j := m.queue[0]
		m.queue = m.queue[1:]
		m.busy++
		crowd := 1 + 0.1*float64(len(m.queue))/float64(m.workers)
		m.after(time.Duration(m.random.ExpFloat64()*float64(m.service)*crowd), j)
	}
}

func (m *model) end(j *job) {
	m.busy--
	took := m.at - j.since
	j.x.Answer, j.x.Attempts, j.x.UpstreamTime = exchange.Proxied, 1, int64(took)
	j.x.Response.SetStatusCode(fasthttp.StatusOK)
	m.h.Done(j.x)
	if took <= m.patient {
		m.good[j.class]++
	}
	m.work()
}

// goodput is the share of the backend's capacity that came to good since counting began.
func (m *model) goodput() float64 {
	sum := 0
	for _, n := range m.good {
		sum += n
	}
	return float64(sum) / (m.at - m.since).Seconds() / m.capacity()
}

// kept is the share of the requests of a class that came to good.
func (m *model) kept(at class) float64 { return float64(m.good[at]) / float64(m.offered[at]) }

func (m *model) report(t *testing.T, what string) {
	t.Helper()
	t.Logf("%s: goodput %.3f of capacity; high %.4f, normal %.3f, low %.3f of what was offered; at most %d in the backend", what, m.goodput(), m.kept(high), m.kept(normal), m.kept(low), m.peak)
}

const priorities = `priority: {by: "header:X-Priority", high: [high], low: [low]}`

// At three times what the backend can serve it serves nine tenths of that, and nearly all of what has high priority.
func TestOverload(t *testing.T) {
	f := func(settings string, workers int, service time.Duration) {
		t.Helper()
		m := newModel(t, settings, workers, service, 3)
		m.run(10 * time.Second)
		m.count()
		m.run(25 * time.Second)
		m.report(t, settings)
		if g := m.goodput(); g < 0.9 {
			t.Errorf("%s for %d workers: goodput %.3f", settings, workers, g)
		}
		if m.kept(high) < 0.99 {
			t.Errorf("%s for %d workers: high priority keeps %.4f", settings, workers, m.kept(high))
		}
		if m.kept(low) > m.kept(normal) {
			t.Errorf("%s for %d workers: low priority keeps %.3f, normal %.3f", settings, workers, m.kept(low), m.kept(normal))
		}
	}
	f("{adaptive: true, "+priorities+"}", 20, 10*time.Millisecond)
	f("{adaptive: true, "+priorities+"}", 50, 50*time.Millisecond)
	f("{adaptive: true, "+priorities+"}", 100, 100*time.Millisecond)
	f("{max: 40, "+priorities+"}", 20, 10*time.Millisecond)
	if testing.Verbose() { // what would be without
		m := newModel(t, "{max: 100000}", 20, 10*time.Millisecond, 3)
		m.run(20 * time.Second)
		m.report(t, "no bound")
	}
}

// The bound follows a backend that becomes slower or quicker, and does not grow where nothing asks for it.
func TestAdaptiveFollows(t *testing.T) {
	m := newModel(t, "{adaptive: true}", 20, 20*time.Millisecond, 3)
	f := func(what string, run time.Duration) {
		t.Helper()
		m.run(run)
		m.count()
		m.run(8 * time.Second)
		m.report(t, what)
		if g := m.goodput(); g < 0.9 {
			t.Errorf("%s: goodput %.3f", what, g)
		}
		if m.peak > 6*m.workers {
			t.Errorf("%s: %d in a backend of %d workers", what, m.peak, m.workers)
		}
	}
	f("as it is", 5*time.Second)
	m.service = 80 * time.Millisecond
	m.patient = 20 * m.service
	f("slower", 40*time.Second)
	m.service = 20 * time.Millisecond
	m.rate = 3 * m.capacity()
	f("quicker", 20*time.Second)
	m.workers = 60
	m.rate = 3 * m.capacity()
	f("larger", 10*time.Second)
	m.workers = 10
	f("smaller", 10*time.Second)
}

// All but nothing is refused of what the backend can serve.
func TestAdaptiveWithoutOverload(t *testing.T) {
	m := newModel(t, "{adaptive: true}", 20, 10*time.Millisecond, 0.5)
	m.run(5 * time.Second)
	m.count()
	m.run(30 * time.Second)
	m.report(t, "half of the capacity")
	for at := range classes {
		if m.kept(at) < 0.999 {
			t.Errorf("%.4f of class %d", m.kept(at), at)
		}
	}
	var g *gate
	m.w.Living.Range(func(_ string, v any, _ int) bool { g = v.(*gate); return false })
	if full := g.estimator.full.Load(); full > 100 {
		t.Errorf("the bound has grown to %d without need", full)
	}
}
