package gateway

import (
	"encoding/json"
	"io"
	"time"

	"sluice/config"
	"sluice/gateway/listener"
	"sluice/gateway/snapshot"
	origin "sluice/gateway/source"
	"sluice/gateway/telemetry"
)

// Health returns the body of GET /health: the process, and each service's breaker.
func (g *Gateway) Health() []byte {
	services := make(map[string]string)
	if gen := g.current.Load(); gen != nil {
		now := g.clock.Now()
		for name, s := range gen.Services() {
			services[name] = s.State(now)
		}
	}
	body, err := json.Marshal(struct {
		Status   string            `json:"status"`
		Services map[string]string `json:"services"`
	}{"healthy", services})
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return body
}

// Ready reports whether requests can be served, and the checks behind it. It
// waits neither for a reload nor for a drain.
func (g *Gateway) Ready() (bool, map[string]string) {
	checks := map[string]string{"configuration": "ok", "listeners": "ok", "draining": "no"}
	ready := true
	fail := func(check, why string) { checks[check], ready = why, false }
	if g.current.Load() == nil {
		fail("configuration", "none is loaded")
	}
	if len(g.listening()) == 0 {
		fail("listeners", "none is open")
	}
	if g.draining.Load() {
		fail("draining", "yes")
	}
	if n := g.noted.Load(); n != nil && n.outside != nil {
		// What it told before stays in force, so this is no reason to send requests elsewhere.
		for _, s := range n.outside.Status() {
			checks["source "+s.Watch] = s.State()
		}
	}
	return ready, checks
}

// WriteMetrics writes the Prometheus exposition.
func (g *Gateway) WriteMetrics(w io.Writer) error {
	_, err := g.metrics.WriteTo(w)
	return err
}

// Metrics gives access to the counters.
func (g *Gateway) Metrics() *telemetry.Metrics { return g.metrics }

// Snapshot returns the generation in force, nil before the first.
func (g *Gateway) Snapshot() *snapshot.Snapshot {
	if gen := g.current.Load(); gen != nil {
		return gen.Snapshot
	}
	return nil
}

// Status is what operators want to know of the configuration in force.
type Status struct {
	Generation uint64    `json:"generation"`
	Since      time.Time `json:"since"`
	Started    time.Time `json:"started"`
	Draining   bool      `json:"draining"`
	// LastError is why the last attempt to load a configuration failed, "" when it did not.
	LastError   string     `json:"last_error,omitempty"`
	LastErrorAt *time.Time `json:"last_error_at,omitempty"`
	// Teams are those whose files are broken, and why: they have what was good last.
	Teams map[string]string `json:"broken_teams,omitempty"`
	// Objects are those from outside that are broken, and why; Sources tell how what they come from does.
	Objects map[string]string `json:"broken_objects,omitempty"`
	Sources []origin.Status   `json:"sources,omitempty"`
}

// Status tells which generation is in force and whether the last reload failed.
func (g *Gateway) Status() Status {
	s := Status{Started: g.started, Draining: g.draining.Load()}
	if gen := g.current.Load(); gen != nil {
		s.Generation, s.Since = gen.number, gen.since
	}
	if f := g.failure.Load(); f != nil {
		s.LastError, s.LastErrorAt = f.err.Error(), &f.when
	}
	if n := g.noted.Load(); n != nil {
		s.Teams, s.Objects = n.teams, n.objects
		if n.outside != nil {
			s.Sources = n.outside.Status()
		}
	}
	return s
}

// noted is what is known of who is not in force as written.
type noted struct {
	teams, objects map[string]string
	outside        *origin.Outside
	series         *telemetry.Generation
}

// Note says which teams and objects did not get what they say, and why; for all others they do. outside is where objects
// come from, nil for nowhere.
func (g *Gateway) Note(broken origin.Broken, outside *origin.Outside) {
	n := &noted{texts(broken.Teams), texts(broken.Objects), outside, g.metrics.Begin()}
	if c := g.Config(); c != nil {
		for team := range c.Teams {
			_, bad := n.teams[team]
			value := 0.0
			if bad {
				value = 1
			}
			g.metrics.TeamBroken.With(n.series, func() float64 { return value }, team)
		}
	}
	if outside != nil {
		g.measureSources(n)
	}
	if before := g.noted.Swap(n); before != nil {
		before.series.Close()
	}
}

func (g *Gateway) measureSources(n *noted) {
	bad := make(map[string]int)
	objects := n.outside.Objects()
	for name := range n.objects {
		bad[objects[name].Source]++
	}
	told := make(map[string]int)
	for _, st := range n.outside.Status() {
		told[st.Source] += st.Objects
		g.metrics.SourceAge.With(n.series, func() float64 { return n.outside.Age(st.Watch).Seconds() }, st.Source, st.Watch)
	}
	for source, all := range told {
		broken := float64(bad[source])
		applied := float64(all) - broken
		g.metrics.SourceObjects.With(n.series, func() float64 { return applied }, source, "applied")
		g.metrics.SourceObjects.With(n.series, func() float64 { return broken }, source, "broken")
	}
}

func texts(errs map[string]error) map[string]string {
	all := make(map[string]string, len(errs))
	for name, err := range errs {
		all[name] = err.Error()
	}
	return all
}

// StillFailing notes that what failed before is still as it was, though another part of the configuration has come into
// force.
func (g *Gateway) StillFailing(err error) { g.failure.Store(&reloadFailure{time.Now(), err}) }

// Fail notes that a configuration could not even be read.
func (g *Gateway) Fail(err error) {
	g.failure.Store(&reloadFailure{time.Now(), err})
	g.history.add(&Reload{At: time.Now(), Err: err})
	g.metrics.ConfigReloads.With(nil, "failure").Inc()
}

// Config returns the configuration in force, nil before the first.
func (g *Gateway) Config() *config.Config {
	if gen := g.current.Load(); gen != nil {
		return gen.Config
	}
	return nil
}

// Now returns the gateway's monotonic clock.
func (g *Gateway) Now() int64 { return g.clock.Now() }

// EachLiving calls f for all state that outlives configurations.
func (g *Gateway) EachLiving(f func(name string, v any) bool) {
	g.living.Range(func(name string, v any, _ int) bool { return f(name, v) })
}

// ListenerView is one open socket.
type ListenerView struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Idle    int    `json:"idle"`
	Active  int    `json:"active"`
	Refused uint64 `json:"refused"`
}

// Listeners shows the open sockets by address; in a gateway that drains, those
// that it closes.
func (g *Gateway) Listeners() []ListenerView {
	servers := g.listening()
	views := make([]ListenerView, 0, len(servers))
	for _, s := range servers {
		l := s.Listener()
		idle, active, refused := l.Stats()
		views = append(views, ListenerView{Name: l.Name(), Address: l.Addr().String(), Idle: idle, Active: active, Refused: refused})
	}
	return views
}

func (g *Gateway) listening() []*listener.Server {
	if open := g.open.Load(); open != nil {
		return *open
	}
	return nil
}

// Check compiles a configuration as Apply would, without putting it in force.
func (g *Gateway) Check(c *config.Config) error {
	_, done, err := Compile(g.o, c)
	if err == nil {
		done()
	}
	return err
}
