package mirror

import (
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// queue is where the copies of one block of the configuration wait, with the workers that send them. It outlives configurations.
//
// A copy is sent through its service's own transport, in an exchange that no client stands behind: so endpoints, TLS, balancing,
// health and breaker are those of the service as they are for every other request, and a mirrored service that fails is left alone.
type queue struct {
	log    *telemetry.Limited
	clock  *exchange.Clock
	pool   *exchange.Pool
	wait   chan *job
	most   int64 // bytes that wait
	held   atomic.Int64
	flying atomic.Int64
	ending atomic.Bool
	stop   chan struct{}
	work   sync.WaitGroup

	mu      sync.Mutex
	tallies map[string]*tally // by route
}

// logEvery is how often a route's mismatches are logged, and its errors.
const logEvery = 10 * time.Second

func newQueue(w *policy.World, c *Config) *queue {
	return &queue{
		log: telemetry.NewLimited(w.Log, logEvery), clock: w.Clock, pool: exchange.NewPool(w.Clock),
		wait: make(chan *job, c.Queue), most: int64(c.MaxMemory), stop: make(chan struct{}), tallies: make(map[string]*tally),
	}
}

func (q *queue) start(workers int) {
	for range workers {
		q.work.Go(q.worker)
	}
}

// Close ends the workers; what is under way is given up, what waits is not sent. It does not wait for long: a call that is
// still connecting ends by itself.
func (q *queue) Close() error {
	q.ending.Store(true)
	close(q.stop)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		q.work.Wait()
	}()
	t := time.NewTimer(closeTime)
	defer t.Stop()
	select {
	case <-ended:
	case <-t.C:
	}
	return nil
}

const closeTime = 2 * time.Second

// fate is what became of a job.
type fate uint8

const (
	queued fate = iota
	full
	heavy
)

// put never waits. Unless the job is queued it stays the caller's.
func (q *queue) put(j *job) fate {
	size := j.size()
	if q.held.Add(size) > q.most {
		q.held.Add(-size)
		return heavy
	}
	select {
	case q.wait <- j:
		return queued
	default:
		q.held.Add(-size)
		return full
	}
}

// worker sends copies, one after the other.
type worker struct {
	*queue
	request  fasthttp.Request
	response fasthttp.Response
	patience patience
	body     []byte
	copied   answer
}

func (q *queue) worker() {
	w := &worker{queue: q, patience: patience{queue: q}}
	for {
		select {
		case <-q.stop:
			return
		case j := <-q.wait:
			q.held.Add(-j.size())
			q.flying.Add(1)
			w.survive(j)
			q.flying.Add(-1)
			j.free()
		}
	}
}

// survive sends a copy, whatever becomes of it.
func (w *worker) survive(j *job) {
	defer func() {
		if fault := recover(); fault != nil {
			w.request, w.response = fasthttp.Request{}, fasthttp.Response{}
			w.log.Log(slog.LevelError, "panic", "a mirrored request met a fault of the gateway; please report it",
				"route", j.mirror.route, "fault", fmt.Sprint(fault), "stack", string(debug.Stack()))
			j.mirror.errors.Inc()
		}
	}()
	w.send(j)
}

func (w *worker) send(j *job) {
	m := j.mirror
	w.request.Reset()
	w.response.Reset()
	w.response.Header.SetNoDefaultContentType(true)
	x := w.pool.Get(&w.request, &w.response, func(*exchange.Exchange) {})
	defer func() {
		_ = w.response.CloseBodyStream()
		_ = x.Close()
	}()
	j.pour(x)
	x.Client = &w.patience
	w.patience.until.Store(x.Start + int64(m.timeout))
	err := m.service.Forward(x)
	if err == nil {
		err = w.read(x, m)
	}
	switch {
	case err != nil:
		m.errors.Inc()
		w.log.Log(slog.LevelWarn, "error "+m.route, "a mirrored request was not answered", "route", m.route, "service", m.name, "reason", err.Error())
	case m.compare == nil:
		m.sent.Inc()
	default:
		w.judge(j)
	}
}

// maxRead is how much of an answer is read although it is not compared, so that its connection can be used again.
const maxRead = 64 << 10

// read takes the answer in: what is compared of it, and the rest for the sake of the connection.
func (w *worker) read(x *exchange.Exchange, m *mirror) error {
	a := &w.copied
	*a = answer{head: a.head[:0], status: w.response.StatusCode(), known: true, whole: true}
	limit := maxRead
	if m.compare != nil {
		a.read(m.compare, &w.response.Header)
		limit = max(limit, m.compare.maxBody)
	}
	w.body = w.body[:0]
	switch {
	case !x.HasResponseBody():
	case !w.response.IsBodyStream():
		a.body = w.response.Body()
	default:
		stream := w.response.BodyStream()
		if cap(w.body) < 4<<10 {
			w.body = make([]byte, 0, 4<<10)
		}
		for {
			if len(w.body) == cap(w.body) {
				if len(w.body) > limit {
					a.whole = false
					break
				}
				w.body = slices.Grow(w.body, len(w.body))
			}
			n, err := stream.Read(w.body[len(w.body):cap(w.body)])
			w.body = w.body[:len(w.body)+n]
			if err == io.EOF {
				break
			}
			if err != nil || w.patience.Gone() {
				return errCut
			}
		}
		a.body = w.body
	}
	if m.compare != nil && len(a.body) > m.compare.maxBody {
		a.whole = false
	}
	if cap(w.body) > maxArena {
		w.body = nil
	}
	return nil
}

var errCut = exchange.NewReject(fasthttp.StatusGatewayTimeout, "upstream_truncated", "the answer to a copy did not come to its end in time")

// judge compares the answers and tells what differs.
func (w *worker) judge(j *job) {
	m := j.mirror
	if !j.answer.known {
		m.uncompared.Inc()
		return
	}
	v := m.compare.compare(&j.answer, &w.copied)
	switch {
	case v.kinds != 0:
		m.mismatch.Inc()
		for i := range kindNames {
			if v.kinds&(1<<i) != 0 {
				m.kinds[i].Inc()
			}
		}
		s := Sample{
			Time: w.clock.Time(), Method: text(j.method), Path: text(j.path), RequestID: text(j.requestID), Kinds: v.names(), Detail: v.detail,
		}
		m.tally.keep(s)
		w.log.Log(slog.LevelWarn, "mismatch "+m.route, "a mirrored request was answered differently", "route", m.route, "service", m.name,
			"method", s.Method, "path", s.Path, "request_id", s.RequestID, "kinds", strings.Join(s.Kinds, ","), "detail", s.Detail)
	case v.uncompared:
		m.uncompared.Inc()
	default:
		m.match.Inc()
	}
}

// text is what is told of a request, bounded.
func text(b []byte) string {
	const most = 200
	if len(b) > most {
		return strings.ToValidUTF8(string(b[:most]), "\ufffd") + "…"
	}
	return strings.ToValidUTF8(string(b), "\ufffd")
}

// patience stands for the client of a copy: it is gone when the copy's time is over, and when the queue ends.
type patience struct {
	queue *queue
	until atomic.Int64
}

// Gone implements exchange.ClientConn.
func (p *patience) Gone() bool { return p.queue.ending.Load() || p.queue.clock.Now() >= p.until.Load() }

// InterruptRead implements exchange.ClientConn: the body of a copy is at hand.
func (p *patience) InterruptRead() {}

// Interim implements exchange.ClientConn: nobody waits for interim responses.
func (p *patience) Interim([]byte) {}

// tally is what became of a route's copies.
type tally struct {
	route, service string

	mu       sync.Mutex
	samples  []Sample  // the youngest last
	counters *counters // of the youngest configuration
}

// counters are a tally's series, as one configuration leases them.
type counters struct {
	sent, match, mismatch, uncompared, errors, dropped *telemetry.Counter
	kinds                                              [len(kindNames)]*telemetry.Counter
}

func (q *queue) tallyOf(route, service string) *tally {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.tallies[route]
	if t == nil {
		t = &tally{route: route, service: service}
		q.tallies[route] = t
	}
	return t
}

// lease holds the series for a generation.
func (t *tally) lease(m *telemetry.Metrics, g *telemetry.Generation) *counters {
	c := &counters{}
	for result, at := range map[string]**telemetry.Counter{
		"sent": &c.sent, "match": &c.match, "mismatch": &c.mismatch, "uncompared": &c.uncompared, "error": &c.errors, "dropped": &c.dropped,
	} {
		*at = m.MirrorRequests.With(g, t.route, t.service, result)
	}
	for i, kind := range kindNames {
		c.kinds[i] = m.MirrorMismatches.With(g, t.route, t.service, kind)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counters = c
	return c
}

// maxSamples is how many mismatches are kept of a route.
const maxSamples = 20

func (t *tally) keep(s Sample) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.samples) == maxSamples {
		t.samples = slices.Delete(t.samples, 0, 1)
	}
	t.samples = append(t.samples, s)
}

// Sample is a request whose copy was answered differently. It holds nothing of headers and bodies but names and paths.
type Sample struct {
	Time      time.Time `json:"time"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	RequestID string    `json:"request_id,omitempty"`
	Kinds     []string  `json:"kinds"`
	Detail    string    `json:"detail"`
}

// View is what became of a route's copies.
type View struct {
	Route      string            `json:"route"`
	Service    string            `json:"service"`
	Results    map[string]uint64 `json:"results"`
	Mismatches map[string]uint64 `json:"mismatches"`
	// Waiting, WaitingBytes and InFlight are those of the block, which several routes may share.
	Waiting      int   `json:"waiting"`
	WaitingBytes int64 `json:"waiting_bytes"`
	InFlight     int64 `json:"in_flight"`
	// Samples are the last mismatches, the youngest first.
	Samples []Sample `json:"samples"`
}

// Inspector is living state that tells of mirrors.
type Inspector interface{ Mirrors() []View }

var _ Inspector = (*queue)(nil)

// Mirrors implements Inspector.
func (q *queue) Mirrors() []View {
	q.mu.Lock()
	defer q.mu.Unlock()
	views := make([]View, 0, len(q.tallies))
	for _, t := range q.tallies {
		t.mu.Lock()
		v := View{
			Route: t.route, Service: t.service, Waiting: len(q.wait), WaitingBytes: q.held.Load(), InFlight: q.flying.Load(),
			Results:    make(map[string]uint64),
			Mismatches: make(map[string]uint64), Samples: slices.Clone(t.samples),
		}
		if c := t.counters; c != nil {
			v.Results = map[string]uint64{
				"sent": c.sent.Value(), "match": c.match.Value(), "mismatch": c.mismatch.Value(), "uncompared": c.uncompared.Value(), "error": c.errors.Value(), "dropped": c.dropped.Value(),
			}
			for i, kind := range kindNames {
				v.Mismatches[kind] = c.kinds[i].Value()
			}
		}
		t.mu.Unlock()
		slices.Reverse(v.Samples)
		if v.Samples == nil {
			v.Samples = []Sample{}
		}
		views = append(views, v)
	}
	slices.SortFunc(views, func(a, b View) int { return strings.Compare(a.Route, b.Route) })
	return views
}
