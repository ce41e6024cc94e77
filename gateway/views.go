package gateway

import (
	"encoding/json"
	"io"
	"time"

	"sluice/config"
	"sluice/gateway/listener"
	"sluice/gateway/snapshot"
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
	if teams := g.broken.Load(); teams != nil {
		s.Teams = *teams
	}
	return s
}

// NoteTeams says which teams did not get what their files say, and why; for all others they do.
func (g *Gateway) NoteTeams(broken map[string]error) {
	teams := make(map[string]string, len(broken))
	for team, err := range broken {
		teams[team] = err.Error()
	}
	g.broken.Store(&teams)
	next := g.metrics.Begin()
	if c := g.Config(); c != nil {
		for team := range c.Teams {
			_, bad := teams[team]
			value := 0.0
			if bad {
				value = 1
			}
			g.metrics.TeamBroken.With(next, func() float64 { return value }, team)
		}
	}
	if before := g.teams.Swap(next); before != nil {
		before.Close()
	}
}

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
