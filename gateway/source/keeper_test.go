package source

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
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
