//go:build linux

// Command slowloris measures what ordinary clients of Sluice notice while a
// thousand others each hold a connection with a request head that never ends.
// Rounds are interleaved: nobody else; the slow clients at another server, which
// is what they cost the machine; the slow clients at the gateway. It also says
// what memory slow and idle connections take. The gateway has a core of its own.
package main

import (
	"bufio"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"sluice/bench/load"
	"sluice/bench/program"
)

//go:embed config/sluice.yaml.tmpl
var configs embed.FS

type options struct {
	rounds, connections, rate int
	warm, measure             time.Duration
	core, loadCore, tries     int
	foreign                   float64
	out                       string
}

func main() {
	if role := program.Role(); role != "" {
		if err := play(role); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %s\n", role, err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.IntVar(&o.rounds, "rounds", 7, "rounds")
	flag.IntVar(&o.connections, "connections", 1000, "slow clients")
	flag.IntVar(&o.rate, "rate", 2000, "requests per second of the ordinary clients, an open loop over 64 connections")
	flag.DurationVar(&o.warm, "warm", 2*time.Second, "load before each measurement")
	flag.DurationVar(&o.measure, "seconds", 12*time.Second, "length of each measurement; longer than a head may take, so that clients are cut off in it")
	flag.IntVar(&o.core, "core", 0, "core of the gateway")
	flag.IntVar(&o.loadCore, "load-core", 1, "core of everything else")
	flag.IntVar(&o.tries, "tries", 3, "how often a round that others disturb is measured at most; the least disturbed counts")
	flag.Float64Var(&o.foreign, "foreign", 0.05, "share of a core's time that is a disturbance")
	flag.StringVar(&o.out, "out", filepath.Join("bench", "results"), "folder of slowloris.md")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, &o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "slowloris:", err)
		os.Exit(1)
	}
}

// job is what a load process is asked for.
type job struct {
	Spec    load.Spec
	Gateway []int // its processes
	Own     []int // further processes whose time is not foreign
	Cores   []int
}

// sample is one measurement.
type sample struct {
	P50, P99, P999 time.Duration
	CPU            time.Duration // of the gateway, by request
	Unanswered     int64
	Foreign        float64 // share of a core's time
	Cut            int64   // slow clients that were cut off, from their beginning to their end
}

// play makes this process one of those that surround the gateway.
func play(role string) error {
	in := bufio.NewReader(os.Stdin)
	switch role {
	case "backend":
		debug.SetGCPercent(1000)
		b, err := load.NewBackend(map[string][]byte{"/300": load.Answer(300, "")})
		if err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, b.Addr())
		go func() {
			_, _ = io.Copy(io.Discard, in)
			os.Exit(0)
		}()
		return b.Serve()
	case "sink":
		return sink(in)
	}
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	if role == "slow" {
		var a attack
		if err := json.Unmarshal(line, &a); err != nil {
			return err
		}
		return a.run(in, os.Stdout)
	}
	var j job
	if err := json.Unmarshal(line, &j); err != nil {
		return err
	}
	if role == "hold" {
		held, err := load.Hold(j.Spec)
		if err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, "open")
		_, _ = io.Copy(io.Discard, in)
		return held.Close()
	}
	s, err := drive(&j)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

// drive is the ordinary clients.
func drive(j *job) (*sample, error) {
	own := append([]int{os.Getpid()}, j.Own...)
	type times struct{ gateway, own, all time.Duration }
	now := func() times {
		return times{program.CPUTime(j.Gateway), program.CPUTime(own), program.Busy(j.Cores)}
	}
	var before, after times
	r, err := load.Run(j.Spec, func() { before = now() }, func() { after = now() })
	if err != nil {
		return nil, err
	}
	if r.Requests == 0 {
		return nil, errors.New("no answer within the measured time")
	}
	gateway := after.gateway - before.gateway
	return &sample{
		P50: r.Latency.Quantile(0.5), P99: r.Latency.Quantile(0.99), P999: r.Latency.Quantile(0.999),
		CPU: gateway / time.Duration(r.Requests), Unanswered: r.Unanswered,
		Foreign: max(float64(after.all-before.all-gateway-(after.own-before.own)), 0) / float64(r.Elapsed),
	}, nil
}

// scene is the gateway with all that surrounds it.
type scene struct {
	*options
	dir, binary   string
	gateway       *program.Running
	address, sink string
	own           []int // processes that are not the gateway's
	stops         []func()
}

func run(ctx context.Context, o *options) error {
	if o.core == o.loadCore || max(o.core, o.loadCore) >= runtime.NumCPU() {
		return fmt.Errorf("the gateway on core %d and the load on core %d need two different cores of the %d here", o.core, o.loadCore, runtime.NumCPU())
	}
	dir, err := os.MkdirTemp("", "sluice-slowloris-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary, err := program.Sluice(ctx, dir)
	if err != nil {
		return err
	}
	if files := program.RaiseFiles(); files < o.connections+1000 {
		return fmt.Errorf("only %d open files are allowed", files)
	}
	if err := program.PinSelf(o.loadCore); err != nil {
		return fmt.Errorf("cannot pin to core %d: %w", o.loadCore, err)
	}
	r := &report{options: o, began: time.Now(), version: program.Version(binary, "version")}
	s := &scene{options: o, dir: dir, binary: binary}
	defer s.stop()
	if err := s.set(ctx); err != nil {
		return err
	}
	for round := range o.rounds {
		if err := s.round(ctx, round, r); err != nil {
			return err
		}
	}
	if r.slowMemory, r.idleMemory, err = s.memory(ctx); err != nil {
		return err
	}
	r.write(os.Stdout)
	return r.save(o.out)
}

// set starts everything but the clients.
func (s *scene) set(ctx context.Context) error {
	s.own = []int{os.Getpid()}
	backend, err := s.child("backend")
	if err != nil {
		return err
	}
	if s.sink, err = s.child("sink"); err != nil {
		return err
	}
	ports, err := program.Ports(2)
	if err != nil {
		return err
	}
	s.address = ports[0]
	config, err := program.Render(configs, "config/sluice.yaml.tmpl", s.dir, struct{ Listen, Admin, Backend string }{ports[0], ports[1], backend})
	if err != nil {
		return err
	}
	if err := program.Pinned(s.core, func() error {
		s.gateway, err = program.Start("sluice", s.dir, s.binary, "run", "-c", config, "--log-level", "warn", "--watch=false", "--drain-delay", "0s", "--drain-timeout", "1s")
		return err
	}); err != nil {
		return err
	}
	s.stops = append(s.stops, s.gateway.Stop)
	return s.gateway.Await(ctx, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+"/300", http.NoBody)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			err = res.Body.Close()
		}
		return err
	})
}

// stop ends it all.
func (s *scene) stop() {
	for _, stop := range s.stops {
		stop()
	}
	s.stops = nil
}

// child starts a server and returns its address.
func (s *scene) child(role string) (string, error) {
	c, err := program.Play(role)
	if err != nil {
		return "", err
	}
	s.stops = append(s.stops, c.Stop)
	s.own = append(s.own, c.Process())
	line, err := c.Out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("the %s does not start: %w", role, err)
	}
	return strings.TrimSpace(line), nil
}

// begin starts clients that hold connections, and returns when they do.
func (s *scene) begin(role string, what any) (c *program.Child, err error) {
	if c, err = program.Play(role); err != nil {
		return nil, err
	}
	err = c.Send(what)
	if err == nil {
		_, err = c.Out.ReadString('\n')
	}
	if err != nil {
		c.Stop()
		return nil, fmt.Errorf("the connections can not be opened: %w", err)
	}
	return c, nil
}

// The states that are compared, and the order of their columns.
const (
	alone     = iota // ordinary clients alone
	elsewhere        // slow clients at another server
	attacked         // slow clients at the gateway
	states
)

// round measures every state, again while something else takes processor time,
// and keeps the least disturbed try.
func (s *scene) round(ctx context.Context, round int, r *report) error {
	var best [states]sample
	worst := func(all *[states]sample) (share float64) {
		for i := range all {
			share = max(share, all[i].Foreign)
		}
		return share
	}
	for try := range max(s.tries, 1) {
		var all [states]sample
		for n := range states {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			state := (n + round) % states // each is first in turn
			got, err := s.measure(state)
			if err != nil {
				return err
			}
			all[state] = *got
			fmt.Fprintf(os.Stderr, "round %d, %-28s p50 %5d µs, p99 %6d µs, %5.1f µs CPU, %d cut off, %.1f%% of a core to others\n",
				round+1, names[state], got.P50.Microseconds(), got.P99.Microseconds(), micro(got.CPU), got.Cut, got.Foreign*100)
		}
		if try == 0 || worst(&all) < worst(&best) {
			best = all
		}
		if worst(&best) <= s.foreign {
			break
		}
	}
	r.rounds = append(r.rounds, best)
	return nil
}

func (s *scene) measure(state int) (*sample, error) {
	own := s.own
	var slow *program.Child
	if state != alone {
		a := attack{Address: s.sink, Connections: s.connections}
		if state == attacked {
			a.Address = s.address
		}
		var err error
		if slow, err = s.begin("slow", a); err != nil {
			return nil, err
		}
		defer slow.Stop()
		own = append(own[:len(own):len(own)], slow.Process())
	}
	c, err := program.Play("load")
	if err != nil {
		return nil, err
	}
	defer c.Stop()
	if err := c.Send(job{Spec: s.spec(64), Gateway: s.gateway.Processes(), Own: own, Cores: []int{s.core, s.loadCore}}); err != nil {
		return nil, err
	}
	var got sample
	if err := json.NewDecoder(c.Out).Decode(&got); err != nil {
		return nil, errors.New("ordinary clients were not answered as they should be")
	}
	if slow != nil {
		if err := slow.Send("stop"); err != nil {
			return nil, err
		}
		if _, err := fmt.Fscan(slow.Out, &got.Cut); err != nil {
			return nil, fmt.Errorf("the slow clients have failed: %w", err)
		}
	}
	return &got, nil
}

func (s *scene) spec(connections int) load.Spec {
	return load.Spec{
		Address: s.address, Requests: []string{"GET /300 HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: bench/1\r\nAccept: */*\r\n\r\n"},
		Connections: connections, Rate: s.rate, Warm: s.warm, Measure: s.options.measure, Status: 200, Body: 300,
	}
}

// settles is how long the gateway comes to rest before its memory is looked at.
const settles = 2 * time.Second

// memory returns what a slow and an idle connection take, in KiB.
func (s *scene) memory(ctx context.Context) (slow, idle float64, err error) {
	look := func(role string, what any) (float64, error) {
		if err := pause(ctx, settles); err != nil {
			return 0, err
		}
		before := program.PSS(s.gateway.Processes())
		c, err := s.begin(role, what)
		if err != nil {
			return 0, err
		}
		defer c.Stop()
		if err := pause(ctx, settles); err != nil {
			return 0, err
		}
		return float64(program.PSS(s.gateway.Processes())-before) / float64(s.connections), nil
	}
	// What the rounds left free would be used again and not be seen: each time
	// it is a fresh gateway that is looked at.
	s.stop()
	if err = s.set(ctx); err == nil {
		slow, err = look("slow", attack{s.address, s.connections})
	}
	s.stop()
	if err == nil {
		err = s.set(ctx)
	}
	if err == nil {
		idle, err = look("hold", job{Spec: s.spec(s.connections)})
	}
	return slow, idle, err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
