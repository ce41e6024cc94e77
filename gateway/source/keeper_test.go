package source

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sluice/config"
)

func file(name, text string) config.File { return config.File{Name: name, Data: []byte(text)} }

// teamsInput has two teams with a route each, which answers with a text.
func teamsInput(root, one, two string) config.Input {
	return config.Input{
		Files: []config.File{file("root.yaml", "teams: {one: {hosts: [one.test]}, two: {hosts: [two.test]}}\n"+root)},
		Teams: map[string][]config.File{"one": {file("teams/one/a.yaml", one)}, "two": {file("teams/two/a.yaml", two)}},
	}
}

func answer(body string) string { return "routes: {r: {respond: {body: " + body + "}}}" }

// in applies an input and returns what the routes of both teams answer.
func inForce(t *testing.T, k *Keeper, in config.Input, refuse func(*config.Config) error) (one, two string, broken map[string]error, err error) {
	t.Helper()
	all, err := k.Apply(in, nil, func(c *config.Config) error {
		if refuse != nil {
			if err := refuse(c); err != nil {
				return err
			}
		}
		body := func(name string) string {
			if r := c.Routes[name]; r != nil {
				return string(r.Respond.Canonical())
			}
			return "none"
		}
		one, two = body("one/r"), body("two/r")
		return nil
	})
	return one, two, all.Teams, err
}

func TestBrokenTeamIsAlone(t *testing.T) {
	var log bytes.Buffer
	k := NewKeeper(KeeperOptions{Log: slog.New(slog.NewTextHandler(&log, nil))})
	f := func(in config.Input, wantOne, wantTwo, wantBroken string) {
		t.Helper()
		one, two, broken, err := inForce(t, k, in, nil)
		names := ""
		for team := range broken {
			names += team
		}
		if err != nil || !strings.Contains(one, wantOne) || !strings.Contains(two, wantTwo) || names != wantBroken {
			t.Errorf("%v: %s, %s, broken %v", err, one, two, broken)
		}
	}
	f(teamsInput("", answer("a1"), "routes: {"), "a1", "none", "two") // never good: left out
	f(teamsInput("", answer("a1"), answer("b1")), "a1", "b1", "")
	f(teamsInput("", answer("a2"), "nonsense: 1"), "a2", "b1", "two")
	f(teamsInput("", answer("a3"), answer("b3")+"\nlisteners: {}"), "a3", "b1", "two")
	f(teamsInput("limits: {idle_timeout: 3s}", answer("a4"), answer("b4")), "a4", "b4", "")
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "teams/two/a.yaml:1:1: nonsense") {
		t.Errorf("not loud: %s", log.String())
	}
	// What the gateway itself has wrong is everybody's.
	if _, _, _, err := inForce(t, k, teamsInput("nonsense: 1", answer("a5"), answer("b5")), nil); err == nil {
		t.Error("no error")
	}
	// What the configuration does not allow any more is not good any more.
	in := teamsInput("", answer("a6"), answer("b6"))
	in.Files[0] = file("root.yaml", "teams: {one: {hosts: [one.test]}}")
	f(in, "a6", "none", "two")
}

// What only shows when the configuration is compiled is the team's too.
// An object with thousands of mistakes wrote a line of megabytes into the log.
func TestMistakesThatAreToldAreBounded(t *testing.T) {
	k := NewKeeper(KeeperOptions{})
	var routes strings.Builder
	for n := range 500 {
		fmt.Fprintf(&routes, "\n  r%d: {nonsense: 1}", n)
	}
	_, _, broken, err := inForce(t, k, teamsInput("", answer("a"), "routes:"+routes.String()), nil)
	if err != nil {
		t.Fatal(err)
	}
	text := broken["two"].Error()
	if n := strings.Count(text, "\n"); n != maxShown-1 || !strings.HasSuffix(text, "(and 480 more mistakes)") {
		t.Errorf("%d lines: %s", n, text)
	}
}

func TestTeamBreaksCompilation(t *testing.T) {
	k := NewKeeper(KeeperOptions{})
	bad := func(c *config.Config) error {
		if r := c.Routes["two/r"]; r != nil && strings.Contains(string(r.Respond.Canonical()), "bad") {
			return config.Errors{c.Errorf(`routes["two/r"].respond`, "is bad")}
		}
		return nil
	}
	if _, _, broken, err := inForce(t, k, teamsInput("", answer("a"), answer("b")), bad); err != nil || len(broken) > 0 {
		t.Fatal(err, broken)
	}
	one, two, broken, err := inForce(t, k, teamsInput("", answer("a2"), answer("bad")), bad)
	if err != nil || !strings.Contains(one, "a2") || !strings.Contains(two, `"b"`) || broken["two"] == nil {
		t.Errorf("%s %s %v %v", one, two, broken, err)
	}
	// An error that is no configuration's is nobody's.
	if _, _, _, err = inForce(t, k, teamsInput("", answer("a3"), answer("b")), func(*config.Config) error { return errors.New("no socket") }); err == nil {
		t.Error("no error")
	}
}

func TestKept(t *testing.T) {
	dir := t.TempDir()
	k := NewKeeper(KeeperOptions{Source: "etcd://a/b", Dir: dir, Whole: true})
	if _, err := k.Kept(); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Error(err)
	}
	if _, _, _, err := inForce(t, k, teamsInput("", answer("a1"), answer("b1")), nil); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := inForce(t, k, teamsInput("nonsense: 1", answer("a2"), answer("b2")), nil); err == nil {
		t.Fatal("no error")
	}
	next := NewKeeper(KeeperOptions{Source: "etcd://a/b", Dir: dir, Whole: true})
	in, err := next.Kept()
	if err != nil {
		t.Fatal(err)
	}
	if one, two, broken, err := inForce(t, next, in, nil); err != nil || !strings.Contains(one, "a1") || !strings.Contains(two, "b1") || len(broken) > 0 {
		t.Errorf("%s %s %v %v", one, two, broken, err)
	}
	// A team that is broken at the start has what it had.
	later := NewKeeper(KeeperOptions{Source: "etcd://a/b", Dir: dir})
	if one, two, broken, err := inForce(t, later, teamsInput("", answer("a9"), "x: y"), nil); err != nil || !strings.Contains(one, "a9") || !strings.Contains(two, "b1") || broken["two"] == nil {
		t.Errorf("%s %s %v %v", one, two, broken, err)
	}
	if info, err := os.Stat(filepath.Join(dir, keptFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if _, err := NewKeeper(KeeperOptions{Source: "etcd://other", Dir: dir}).Kept(); err == nil || !strings.Contains(err.Error(), "holds the configuration of etcd://a/b") {
		t.Error(err)
	}
	if _, err := NewKeeper(KeeperOptions{Source: "etcd://a/b"}).Kept(); err == nil || !strings.Contains(err.Error(), "--state") {
		t.Error(err)
	}
}

// An object is alone with its mistake; one that is broken in its last good form too has nothing.
func TestBrokenObjectIsAlone(t *testing.T) {
	translate := func(o config.Tree) (config.Tree, config.Errors, config.Errors) {
		if message := o.Get("broken"); message.Is() {
			return config.Tree{}, nil, config.Errors{message.Errorf("broken", "%s", message.Text())}
		}
		name := "test." + o.Get("name").Text()
		route := config.NewMap(o).Set("match", config.NewMap(o).Set("paths", config.NewTexts(o, "/"+name)))
		return config.NewMap(o).Set("routes", config.NewMap(o).Set(name, route.Set("respond", config.NewMap(o)))), nil, nil
	}
	var log bytes.Buffer
	dir := t.TempDir()
	keeper := func() *Keeper {
		return NewKeeper(KeeperOptions{
			Dir: dir, Options: config.Options{Objects: map[string]config.ManifestTranslator{"test": translate}}, Log: slog.New(slog.NewTextHandler(&log, nil)),
		})
	}
	conflict := "" // a route that does not compile
	f := func(k *Keeper, wantRoutes, wantBroken string, objects map[string]string) {
		t.Helper()
		in := config.Input{Files: []config.File{file("root.yaml", "version: 1")}, Objects: map[string]config.Object{}}
		for name, text := range objects {
			in.Objects[name] = config.Object{Source: "test", Data: []byte(text)}
		}
		routes := ""
		broken, err := k.Apply(in, nil, func(c *config.Config) error {
			if c.Routes[conflict] != nil {
				return config.Errors{c.Errorf(config.Path("routes", conflict), "conflicts")}
			}
			routes = strings.Join(slices.Sorted(maps.Keys(c.Routes)), " ")
			return nil
		})
		if got := strings.Join(slices.Sorted(maps.Keys(broken.Objects)), " "); err != nil || routes != wantRoutes || got != wantBroken {
			t.Errorf("%v: %q, broken %q, want %q, %q", err, routes, got, wantRoutes, wantBroken)
		}
	}
	k := keeper()
	f(k, "test.a test.b", "c", map[string]string{"a": "{name: a}", "b": "{name: b}", "c": "{broken: x}"})
	f(k, "test.a test.b2", "a", map[string]string{"a": "{broken: x}", "b": "{name: b2}"})
	f(k, "test.a test.b2", "a b", map[string]string{"a": "{broken: x}", "b": "{"})
	// Its mistake is said once, however often it is met.
	if n := strings.Count(log.String(), "object=a "); n != 1 {
		t.Errorf("said %d times: %s", n, log.String())
	}
	// A process that begins has what was good, be it broken now or, as sources that can not be asked would have it, not told.
	next := keeper()
	if kept := next.Objects(config.Input{}); string(kept["a"].Data) != "{name: a}" || string(kept["b"].Data) != "{name: b2}" {
		t.Errorf("%v", kept)
	}
	f(next, "test.a test.b2", "a", map[string]string{"a": "{broken: x}", "b": "{name: b2}"})
	// What does not compile is found by its place, dots in its name or not; here the last good form has the same mistake.
	conflict = "test.a"
	f(next, "test.b2", "a", map[string]string{"a": "{name: a}", "b": "{name: b2}"})
	f(next, "test.b2", "a", map[string]string{"a": "{broken: y}", "b": "{name: b2}"})
	f(next, "", "", nil)
}
