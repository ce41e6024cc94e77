// Package actiontest builds a single action outside a gateway, so that its test can send it exchanges. It stands on
// policytest: the same configuration around it, clock and exchanges, and the services of that configuration besides.
package actiontest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/config"
	"sluice/gateway/action"
	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
	"sluice/gateway/upstream"
)

// World is a configuration for actions to stand in.
type World struct {
	*policytest.World
	// Health is what Build.Health returns.
	Health []byte

	services map[string]*upstream.Service
}

// New returns a World with this configuration, which may be empty. It ends with the test.
func New(t testing.TB, configuration string) *World {
	t.Helper()
	w := &World{World: policytest.New(t, configuration), services: make(map[string]*upstream.Service)}
	sweeper := upstream.NewSweeper(w.Clock, time.Second)
	sweeper.Start()
	t.Cleanup(func() { _ = sweeper.Close() })
	for name, sc := range w.Config.Services {
		s, err := upstream.Compile(&upstream.Environment{
			Living: w.Living, Leases: w.Leases, Metrics: w.Metrics, Generation: w.Generation, Clock: w.Clock, Sweeper: sweeper, Log: w.Log,
		}, sc)
		if err != nil {
			t.Fatal(err)
		}
		w.services[name] = s
	}
	w.Services = w.services
	return w
}

// Build compiles settings, written as YAML, for the route called users: that of the configuration where it has one.
func (w *World) Build(d *action.Definition, settings string) (*action.Action, error) {
	path := "routes.users." + d.Name
	block, err := config.ParseBlock(path, settings)
	if err != nil {
		return nil, err
	}
	route := w.Config.Routes["users"]
	if route == nil {
		route = &config.Route{Name: "users"}
	}
	a, errs := d.Build(&action.Build{
		World: w.World.World, Route: &exchange.Route{Name: "users"}, RouteConfig: route, Path: path,
		Service: func(name string) *upstream.Service { return w.services[name] },
		Health:  func() []byte { return w.Health },
	}, block)
	return a, errs.Err()
}

// MustBuild is Build for settings that are good.
func (w *World) MustBuild(t testing.TB, d *action.Definition, settings string) *action.Action {
	t.Helper()
	a, err := w.Build(d, settings)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Fails holds a build to an error that contains want.
func (w *World) Fails(t testing.TB, d *action.Definition, settings, want string) {
	t.Helper()
	switch _, err := w.Build(d, settings); {
	case err == nil:
		t.Errorf("%s: built, want an error with %q", settings, want)
	case !strings.Contains(err.Error(), want):
		t.Errorf("%s: error %q, want one with %q", settings, err, want)
	}
}

// Files builds every testdata/valid-*.yaml, and holds every testdata/invalid-*.yaml to the errors in its comments, one
// for each line "# want: TEXT".
func (w *World) Files(t *testing.T, d *action.Definition) {
	t.Helper()
	names, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		settings := string(data)
		if strings.HasPrefix(filepath.Base(name), "valid-") {
			if _, err := w.Build(d, settings); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		wanted := 0
		for line := range strings.Lines(settings) {
			if want, ok := strings.CutPrefix(line, "# want: "); ok {
				wanted++
				w.Fails(t, d, settings, strings.TrimSpace(want))
			}
		}
		if wanted == 0 {
			t.Errorf("%s: no line \"# want: TEXT\"", name)
		}
	}
}

// Answer lets the action answer the exchange and renders what it gave, with the headers for the client.
func Answer(a *action.Action, x *exchange.Exchange) {
	x.Render(a.Serve(x))
	x.ToClient.Apply(&x.Response.Header)
}
