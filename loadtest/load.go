package main

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/http"
	"regexp"
	"slices"
	"sync/atomic"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// load is a stream of requests. They are sent when they are due, whether
// earlier ones were answered or not, and latency counts from then: a gateway
// that stalls can not hide it by slowing its clients down.
type load struct {
	name    string
	pace    vegeta.Pacer
	length  time.Duration             // 0: until the pacer ends
	next    func(n int) request       // the n-th request, from 0; called by several goroutines
	good    func(*vegeta.Result) bool // default: answered 200
	seen    func(*vegeta.Result)      // each result, one at a time
	to      func() string             // where it is sent; default: the trial's gateway
	fresh   bool                      // a new connection for every request
	workers uint64                    // requests that are under way at the same time; 0: as many as are due
	apart   bool                      // not part of the report's plots
}

type request struct {
	method, path string
	header       http.Header
	body         []byte
}

func get(path string) func(int) request {
	return func(int) request { return request{path: path} }
}

// perSecond is a steady rate.
func perSecond(n int) vegeta.Pacer { return vegeta.Rate{Freq: n, Per: time.Second} }

// atOnce are so many requests, as fast as they can be sent.
type atOnce int

func (n atOnce) Pace(_ time.Duration, sent uint64) (time.Duration, bool) { return 0, sent >= uint64(n) }
func (n atOnce) Rate(time.Duration) float64                              { return 0 }

// rising goes from one rate to another, and ends.
func rising(from, to int, length time.Duration) vegeta.Pacer {
	return vegeta.LinearPacer{StartAt: vegeta.Rate{Freq: from, Per: time.Second}, Slope: float64(to-from) / length.Seconds()}
}

// phase is what became of a load.
type phase struct {
	name  string
	apart bool
	hits  []hit
	wrong map[string]int // what failures look like
	done  chan struct{}
}

type hit struct {
	at      time.Duration // since the trial began
	latency time.Duration
	code    int // 0: no answer
	good    bool
}

// load sends requests and returns when all were answered.
func (t *trial) load(l load) *phase { return t.begin(l).wait() }

// begin sends requests beside what the caller does.
func (t *trial) begin(l load) *phase {
	p := &phase{name: l.name, apart: l.apart, wrong: make(map[string]int), done: make(chan struct{})}
	t.mu.Lock()
	t.phases = append(t.phases, p)
	t.mu.Unlock()
	if l.good == nil {
		l.good = func(r *vegeta.Result) bool { return r.Code == http.StatusOK }
	}
	if l.to == nil {
		l.to = func() string { return t.gateway.url }
	}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 10_000,
		DisableCompression:  true,
		DisableKeepAlives:   l.fresh,
	}
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	attacker := vegeta.NewAttacker(vegeta.Client(client), vegeta.Workers(50))
	if l.workers > 0 {
		attacker = vegeta.NewAttacker(vegeta.Client(client), vegeta.Workers(l.workers), vegeta.MaxWorkers(l.workers))
	}
	var n atomic.Int64
	results := attacker.Attack(func(target *vegeta.Target) error {
		r := l.next(int(n.Add(1) - 1))
		*target = vegeta.Target{Method: cmp.Or(r.method, http.MethodGet), URL: l.to() + r.path, Header: r.header, Body: r.body}
		return nil
	}, l.pace, l.length, l.name)
	go func() {
		defer close(p.done)
		defer transport.CloseIdleConnections()
		for r := range results {
			if t.ctx.Err() != nil {
				attacker.Stop()
			}
			h := hit{at: r.Timestamp.Sub(t.began), latency: r.Latency, code: int(r.Code), good: l.good(r)}
			p.hits = append(p.hits, h)
			if !h.good {
				p.wrong[failure(r)]++
			}
			if l.seen != nil {
				l.seen(r)
			}
		}
	}()
	return p
}

// control sends a few requests to the backend without the gateway, beside the
// loads: how long they take is what the machine does to everyone at the time.
func (t *trial) control(length time.Duration) *phase {
	return t.begin(load{name: "control, without the gateway", pace: perSecond(50), length: length, next: get(straight),
		to: func() string { return t.backend.url }, apart: true})
}

// usual is the most that the 99th percentile may be: a multiple of the same
// without the gateway, and what a scheduler may add on its longer way.
func (p *phase) usual() time.Duration { return 5*p.latency(0.99) + 100*time.Millisecond }

var ports = regexp.MustCompile(`127\.0\.0\.1:\d+`)

// failure says what a result that is not good looks like, without what differs between equal ones.
func failure(r *vegeta.Result) string {
	if r.Code != 0 {
		return fmt.Sprintf("%s %s answered %d", r.Method, ports.ReplaceAllString(r.URL, "…"), r.Code)
	}
	return ports.ReplaceAllString(r.Error, "…")
}

func (p *phase) wait() *phase {
	<-p.done
	return p
}

// failed counts the requests that were not answered as they should be.
func (p *phase) failed() int { return p.count(func(h hit) bool { return !h.good }) }

func (p *phase) answered(code int) int { return p.count(func(h hit) bool { return h.code == code }) }

func (p *phase) count(which func(hit) bool) (n int) {
	for _, h := range p.hits {
		if which(h) {
			n++
		}
	}
	return n
}

// latency is a quantile of the hits that were good.
func (p *phase) latency(q float64) time.Duration {
	return quantile(p.hits, q, func(h hit) bool { return h.good })
}

func quantile(hits []hit, q float64, which func(hit) bool) time.Duration {
	var all []time.Duration
	for _, h := range hits {
		if which(h) {
			all = append(all, h.latency)
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(int(q*float64(len(all))), len(all)-1)]
}

// rate is requests per second between the first and the last that were sent.
func (p *phase) rate() float64 {
	if len(p.hits) < 2 {
		return 0
	}
	first, last := p.span()
	return float64(len(p.hits)-1) / (last - first).Seconds()
}

// span is when the first and the last request were sent.
func (p *phase) span() (first, last time.Duration) {
	byTime := func(a, b hit) int { return cmp.Compare(a.at, b.at) }
	return slices.MinFunc(p.hits, byTime).at, slices.MaxFunc(p.hits, byTime).at
}

// failures are the commonest looks of failures.
func (p *phase) failures() []string {
	const most = 5
	looks := slices.SortedFunc(maps.Keys(p.wrong), func(a, b string) int {
		return cmp.Or(cmp.Compare(p.wrong[b], p.wrong[a]), cmp.Compare(a, b))
	})
	var lines []string
	for _, l := range looks[:min(most, len(looks))] {
		lines = append(lines, fmt.Sprintf("%d × %s", p.wrong[l], l))
	}
	return lines
}
