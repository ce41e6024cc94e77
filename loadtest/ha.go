package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"sluice/loadtest/ha"
)

// The limit of the route /limited in config/ha.yaml.
const (
	limitPerSecond = 50
	limitBurst     = 50
)

var deployed = &scenario{
	name:   "ha",
	proves: "Three gateways behind haproxy, with Redis and etcd, go on when any of these parts is killed or paused: clients notice nothing of Redis and etcd, nothing of a gateway that is told to stop, and of one that is killed only what was under way there.",
	apart:  true,
	run: func(t *trial) error {
		d, err := deploy(t)
		if err != nil {
			return err
		}
		for _, a := range acts {
			if t.fault != nil && a.name != acts[0].name && !a.answersFor(t.fault.misses) {
				continue
			}
			if err := d.play(a); err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
		}
		most := 0
		for _, stretch := range d.admitted {
			most = max(most, beyond(stretch, limitPerSecond))
		}
		atMost(t, "passed beyond what the limit earns, in any stretch while Redis answers", most, limitBurst)
		exactly(t, "orders with a key that were carried out twice", d.twice(), 0)
		t.tables = append(t.tables, d.table)
		return nil
	},
	faults: []*fault{
		{name: "a gateway that is out without its Redis", misses: "failed requests: Redis paused for 5 s", set: []string{"state.redis.on_failure=deny"}},
		{name: "no limit without its Redis", misses: "passed the limit: Redis paused for 5 s", set: []string{"state.redis.on_failure=allow"}},
		{name: "no time to drain", misses: "failed requests: gateway 1 stopped by SIGTERM", args: []string{"--drain-delay", "0s", "--drain-timeout", "0s"}},
		{name: "gateways that do not follow etcd", misses: "gateways that have what was changed: etcd paused for 3 s", args: []string{"--watch=false"}},
		{name: "a limit each", misses: "passed beyond what the limit earns, in any stretch while Redis answers", set: []string{"state.redis.addresses=127.0.0.1:1"}},
		{name: "keys that nobody looks at", misses: "orders with a key that were carried out twice", set: []string{"routes.orders.policies.idempotency=off"}},
	},
}

// act is something that is done to a part while clients go on.
type act struct {
	name   string
	length time.Duration
	do     func(d *deployment) error
	most   int    // requests that may fail
	none   bool   // promises nothing of those
	quick  bool   // reads wait for nobody
	parts  bool   // of the limit, which each gateway has while Redis is gone
	shows  string // a threshold of the whole scenario
}

// answersFor tells whether the threshold is of what the act shows.
func (a *act) answersFor(threshold string) bool {
	return strings.HasSuffix(threshold, ": "+a.name) || a.shows == threshold
}

// What a gateway has under way when it is killed or paused: of its third of 300 requests/s those of 100 ms.
const underWay = 10

var acts = []*act{
	{name: "nothing happens", length: 6 * time.Second, do: func(*deployment) error { return nil }},
	{name: "gateway 1 killed", length: 5 * time.Second, do: killed(0), most: underWay, shows: "orders with a key that were carried out twice"},
	{name: "gateway 2 killed", length: 5 * time.Second, do: killed(1), most: underWay, shows: "orders with a key that were carried out twice"},
	{name: "gateway 3 killed", length: 5 * time.Second, do: killed(2), most: underWay, shows: "orders with a key that were carried out twice"},
	{name: "gateway 1 stopped by SIGTERM", length: 6 * time.Second, do: func(d *deployment) error {
		if err := d.after(time.Second); err != nil {
			return err
		}
		return d.replace(0)
	}},
	// Orders without a key wait there for as long as haproxy does until it has noticed, and are not sent again.
	{name: "gateway 2 paused for 3 s", length: 6 * time.Second, most: 3 * underWay, do: func(d *deployment) error {
		if err := d.after(time.Second); err != nil {
			return err
		}
		p := d.gateways[1].cmd.Process
		d.t.mark("gateway 2 is paused")
		_ = p.Signal(syscall.SIGSTOP)
		err := d.after(3 * time.Second)
		_ = p.Signal(syscall.SIGCONT)
		d.t.mark("gateway 2 goes on")
		return err
	}},
	{name: "etcd paused for 3 s", length: 7 * time.Second, quick: true, do: func(d *deployment) error {
		if err := d.after(time.Second); err != nil {
			return err
		}
		d.t.mark("etcd is paused")
		d.etcd.Pause()
		return d.change("etcd paused for 3 s", "generation-1", func() error {
			err := d.after(3 * time.Second)
			d.etcd.Resume()
			d.t.mark("etcd goes on")
			return err
		})
	}},
	{name: "etcd killed, and gateway 3 replaced without it", length: 15 * time.Second, quick: true, do: func(d *deployment) error {
		if err := d.after(time.Second); err != nil {
			return err
		}
		d.t.mark("etcd is killed")
		d.etcd.Kill()
		return d.change("etcd killed, and gateway 3 replaced without it", "generation-2", func() error {
			if err := d.replace(2); err != nil {
				return err
			}
			d.t.mark("etcd begins again")
			return d.etcd.Start(d.t.ctx)
		})
	}},
	{name: "Redis paused for 5 s", length: 8 * time.Second, quick: true, parts: true, do: func(d *deployment) error {
		if err := d.after(time.Second); err != nil {
			return err
		}
		d.t.mark("Redis is paused")
		d.redisAnswers(false)
		d.redis.Pause()
		err := d.after(5 * time.Second)
		d.redis.Resume()
		d.t.mark("Redis goes on")
		return cmp.Or(err, d.found())
	}},
	{name: "Redis killed, and empty after 3 s", length: 7 * time.Second, quick: true, parts: true, do: func(d *deployment) error {
		if err := d.after(time.Second); err != nil {
			return err
		}
		d.t.mark("Redis is killed")
		d.redisAnswers(false)
		d.redis.Kill()
		if err := d.after(3 * time.Second); err != nil {
			return err
		}
		d.t.mark("Redis begins again")
		return cmp.Or(d.redis.Start(d.t.ctx), d.found())
	}},
	{name: "haproxy killed for 1 s", length: 4 * time.Second, none: true, do: func(d *deployment) error {
		if err := d.after(time.Second); err != nil {
			return err
		}
		d.t.mark("haproxy is killed")
		d.balancer.Kill()
		if err := d.after(time.Second); err != nil {
			return err
		}
		d.t.mark("haproxy begins again")
		return d.balancer.Start(d.t.ctx)
	}},
	{name: "nothing happens any more", length: 5 * time.Second, do: func(*deployment) error { return nil }},
}

// deployment is what clients come to.
type deployment struct {
	t        *trial
	balancer *ha.Balancer
	redis    *ha.Part
	etcd     *ha.Part
	servers  []ha.Server
	gateways []*gateway
	table    table
	starts   int

	mu       sync.Mutex
	admitted [][]span // of the limit, in each stretch of time in which Redis answered throughout
	answers  bool     // Redis does
	done     map[string]int
}

// span is when a request was sent and when it was answered.
type span struct{ sent, answered time.Duration }

// deploy starts everything and returns when the balancer sends requests to all gateways.
func deploy(t *trial) (*deployment, error) {
	d := &deployment{t: t, answers: true, admitted: make([][]span, 1), done: make(map[string]int), table: table{
		Title: "What clients saw",
		Head:  []string{"phase", "requests", "failed", "with status", "no answer", "reads 50 %", "99 %", "orders 50 %", "99 %", "passed the limit", "may pass"},
	}}
	t.backend.does(d.serve)
	at := ha.Places{Dir: t.dir, Log: filepath.Join(t.out, t.scenario.name+"-")}
	var err error
	if d.redis, err = ha.Redis(at); err != nil {
		return nil, err
	}
	if d.etcd, err = ha.Etcd(at); err != nil {
		return nil, err
	}
	for _, p := range []*ha.Part{d.redis, d.etcd} {
		t.ends = append(t.ends, p.Kill)
		if err := p.Start(t.ctx); err != nil {
			return nil, err
		}
	}
	if err := d.etcd.Put(t.ctx, "/sluice/sluice.yaml", t.config); err != nil {
		return nil, err
	}
	free, err := ha.FreeAddresses(6)
	if err != nil {
		return nil, err
	}
	d.gateways = make([]*gateway, 3)
	for i := range d.gateways {
		d.servers = append(d.servers, ha.Server{Name: fmt.Sprintf("gateway-%d", i+1), Address: free[2*i], Admin: free[2*i+1]})
		if err := d.start(i); err != nil {
			return nil, err
		}
	}
	if d.balancer, err = ha.NewBalancer(at, d.servers); err != nil {
		return nil, err
	}
	t.ends = append(t.ends, d.balancer.Kill)
	if err := d.balancer.Start(t.ctx); err != nil {
		return nil, err
	}
	t.config += "\n---\n" + d.balancer.Config // for the report
	// Gateways that do not find each other are for the thresholds to notice.
	_ = d.found()
	return d, d.complete()
}

// serve is the backend: an order takes its time, and each is counted by its key.
func (d *deployment) serve(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodPost {
		taking(5*time.Millisecond, plain)(w, req)
		return
	}
	if key := req.Header.Get("X-Order"); key != "" {
		d.mu.Lock()
		d.done[key]++
		d.mu.Unlock()
	}
	// It is carried out, whether the caller waits or not.
	time.Sleep(100 * time.Millisecond)
	plain(w, req)
}

// start runs a gateway, on its own ports with what it has kept.
func (d *deployment) start(i int) error {
	s := d.servers[i]
	d.starts++
	g, err := d.t.launch(fmt.Sprintf("%s-start-%d", s.Name, d.starts), []string{
		"-c", "etcd://" + d.etcd.Address + "/sluice", "--state", filepath.Join(d.t.dir, s.Name),
		"--listen", s.Address, "--admin-address", s.Admin, "--drain-delay", "1500ms", "--drain-timeout", "5s",
	}, []string{"REDIS=" + d.redis.Address})
	d.gateways[i] = g
	return err
}

// replace stops a gateway as a deployment does, and starts another in its place.
func (d *deployment) replace(i int) error {
	g := d.gateways[i]
	d.t.mark(d.servers[i].Name + " is told to stop")
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-g.ended:
	case <-time.After(10 * time.Second):
		return fmt.Errorf("%s does not end", d.servers[i].Name)
	}
	if g.code != 0 {
		return fmt.Errorf("%s ended with code %d", d.servers[i].Name, g.code)
	}
	d.t.mark(d.servers[i].Name + " begins again")
	return d.start(i)
}

func killed(i int) func(*deployment) error {
	return func(d *deployment) error {
		if err := d.after(time.Second); err != nil {
			return err
		}
		d.t.mark(d.servers[i].Name + " is killed")
		_ = d.gateways[i].cmd.Process.Kill()
		<-d.gateways[i].ended
		if err := d.after(1500 * time.Millisecond); err != nil {
			return err
		}
		d.t.mark(d.servers[i].Name + " begins again")
		return d.start(i)
	}
}

// change puts another configuration into etcd while it is gone, which break ends, and waits until all gateways have it.
func (d *deployment) change(name, generation string, mend func() error) error {
	text, _, _ := strings.Cut(d.t.config, "\n---\n")
	written := make(chan error, 1)
	go func() {
		written <- d.etcd.Put(d.t.ctx, "/sluice/sluice.yaml", strings.ReplaceAll(text, "generation-0", generation))
	}()
	if err := mend(); err != nil {
		return err
	}
	if err := <-written; err != nil {
		return err
	}
	d.t.mark("the configuration is changed")
	begun, have := time.Now(), 0
	_ = wait(d.t.ctx, 20*time.Second, "the configuration", func() (bool, error) {
		have = 0
		for _, s := range d.servers {
			if generationAt(d.t.ctx, s.Address) == generation {
				have++
			}
		}
		return have == len(d.servers), nil
	})
	d.t.mark(fmt.Sprintf("%d gateways have it", have))
	exactly(d.t, "gateways that have what was changed: "+name, have, len(d.servers))
	d.t.note(fmt.Sprintf("%s: the change was at all gateways %s after etcd had it", name, show(time.Since(begun))))
	return nil
}

func generationAt(ctx context.Context, address string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/api", nil)
	if err != nil {
		return ""
	}
	res, err := operator.Do(req)
	if err != nil {
		return ""
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.Header.Get("X-Generation")
}

// after lets clients go on for a time.
func (d *deployment) after(length time.Duration) error {
	select {
	case <-time.After(length):
		return nil
	case <-d.t.ctx.Done():
		return d.t.ctx.Err()
	}
}

// found waits until all gateways know each other through Redis, from when on it answers.
func (d *deployment) found() error {
	err := wait(d.t.ctx, 10*time.Second, "the gateways to find each other through Redis", func() (bool, error) {
		for _, g := range d.gateways {
			up, err := g.metric(d.t.ctx, "sluice_store_up")
			if err != nil || up != 1 {
				return false, err
			}
			if n, err := g.metric(d.t.ctx, "sluice_store_instances"); err != nil || int(n) != len(d.gateways) {
				return false, err
			}
		}
		return true, nil
	})
	if err == nil {
		d.redisAnswers(true)
	}
	return err
}

// redisAnswers begins and ends stretches in which the limit is one.
func (d *deployment) redisAnswers(yes bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if yes && !d.answers {
		d.admitted = append(d.admitted, nil)
	}
	d.answers = yes
}

// complete waits until the balancer sends requests to all gateways.
func (d *deployment) complete() error {
	return wait(d.t.ctx, 20*time.Second, "the balancer to use all gateways", func() (bool, error) {
		n, err := d.balancer.Up(d.t.ctx)
		return n == len(d.servers), err
	})
}

// play has clients come while something is done, and notes what they saw.
func (d *deployment) play(a *act) error {
	const rate = 300
	var reads, orders []hit
	passed := 0
	p := d.t.begin(load{name: a.name, pace: perSecond(rate), length: a.length, next: clients(a.name), to: func() string { return "http://" + d.balancer.Address },
		good: func(r *vegeta.Result) bool {
			return r.Code == 200 || r.Code == 429 && strings.HasSuffix(r.URL, "/limited")
		},
		seen: func(r *vegeta.Result) {
			h := hit{latency: r.Latency, good: r.Code == 200}
			switch {
			case r.Method == http.MethodPost:
				orders = append(orders, h)
				return
			case strings.HasSuffix(r.URL, "/limited") && h.good:
				passed++
				d.pass(r.Timestamp.Sub(d.t.began), r.Latency)
			}
			reads = append(reads, h)
		}})
	var control *phase
	if a.quick {
		control = d.t.control(a.length)
	}
	err := a.do(d)
	p.wait()
	if control != nil {
		control.wait()
	}
	if err != nil {
		return err
	}
	slowest := func(of []hit, q float64) time.Duration { return quantile(of, q, func(h hit) bool { return h.good }) }
	first, last := p.span()
	earned := int((last - first).Seconds() * limitPerSecond)
	d.table.Rows = append(d.table.Rows, []string{
		a.name, show(len(p.hits)), show(p.failed()), codes(p), show(p.answered(0)),
		show(slowest(reads, 0.5)), show(slowest(reads, 0.99)), show(slowest(orders, 0.5)), show(slowest(orders, 0.99)),
		show(passed), show(limitBurst + earned),
	})
	if !a.none {
		atMost(d.t, "failed requests: "+a.name, p.failed(), a.most)
	}
	if a.quick {
		atMost(d.t, "99 % of reads: "+a.name, slowest(reads, 0.99), control.usual())
	}
	if a.parts {
		// Each may begin with its part of a full bucket, and the store with a full one again.
		within(d.t, "passed the limit: "+a.name, passed, earned*7/10, earned+2*limitBurst)
	}
	if a == acts[0] {
		atLeast(d.t, "of the limit that was passed: "+a.name, of(passed, limitBurst+earned), 0.9)
	}
	return d.complete()
}

// pass notes a request that the limit let through while Redis answers.
func (d *deployment) pass(sent, latency time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if last := len(d.admitted) - 1; d.answers {
		d.admitted[last] = append(d.admitted[last], span{sent, sent + latency})
	}
}

// codes are the statuses of the requests that failed.
func codes(p *phase) string {
	by := make(map[int]int)
	for _, h := range p.hits {
		if !h.good && h.code != 0 {
			by[h.code]++
		}
	}
	var parts []string
	for code := range 600 {
		if by[code] > 0 {
			parts = append(parts, fmt.Sprintf("%d × %d", by[code], code))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "-")
}

// clients read, read what is limited, and order, mostly with a key. Sixteen kinds in turn: the balancer's turns are of three, and each
// gateway has to get some of each.
func clients(phase string) func(int) request {
	order, name := []byte(`{"item": "a book"}`), strings.NewReplacer(" ", "-", ",", "").Replace(phase)
	return func(n int) request {
		switch n % 16 {
		case 0, 3, 6, 9, 12:
			return request{path: "/limited"}
		case 1, 8:
			key := fmt.Sprintf("%s-%d", name, n)
			return request{method: http.MethodPost, path: "/orders", body: order, header: http.Header{"Idempotency-Key": {key}, "X-Order": {key}}}
		case 4:
			return request{method: http.MethodPost, path: "/orders", body: order}
		}
		return request{path: "/api"}
	}
}

// twice counts the orders that were carried out more than once.
func (d *deployment) twice() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, times := range d.done {
		if times > 1 {
			n++
		}
	}
	return n
}

// beyond is by how many requests the most crowded stretch of time had more than the rate allows: at most the burst, if the limit
// holds. When a request was let through is only known to be between when it was sent and answered, so that those count whose
// whole time lies in the stretch.
func beyond(all []span, perSecond float64) (most int) {
	all = slices.SortedFunc(slices.Values(all), func(a, b span) int { return cmp.Compare(a.answered, b.answered) })
	for _, from := range all {
		n := 0
		for _, s := range all {
			if s.sent < from.sent {
				continue
			}
			n++
			most = max(most, n-int(perSecond*(s.answered-from.sent).Seconds()))
		}
	}
	return most
}
