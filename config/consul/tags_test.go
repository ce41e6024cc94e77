package consul

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"sluice/config"
)

// load reads a configuration in which Consul has a service with these tags.
func load(t *testing.T, text string, tags ...string) (*config.Config, error) {
	t.Helper()
	data, err := json.Marshal(map[string]any{"service": "users", "tags": tags})
	if err != nil {
		t.Fatal(err)
	}
	in := config.Input{
		Files:   []config.File{{Name: "gateway.yaml", Data: []byte(text)}},
		Objects: map[string]config.Object{"consul service users": {Source: "consul", Data: data}},
	}
	return in.Load(config.Options{Objects: map[string]config.ManifestTranslator{"consul": Translate}})
}

func TestTranslateSuccess(t *testing.T) {
	f := func(text, want string, tags ...string) *config.Config {
		t.Helper()
		c, err := load(t, text, tags...)
		if err != nil {
			t.Error(err)
			return nil
		}
		var got []string
		for _, name := range slices.Sorted(maps.Keys(c.Routes)) {
			r := c.Routes[name]
			line := fmt.Sprintf("%s: %v %v %v %s of %s", name, r.Match.Hosts, r.Match.Paths, r.Match.Methods, r.Service, r.Source)
			if r.StripPrefix {
				line += " stripped"
			}
			if r.Rewrite != "" {
				line += " as " + r.Rewrite
			}
			if r.Timeouts != nil {
				line += " within " + config.FormatDuration(*r.Timeouts.Response)
			}
			got = append(got, line)
		}
		if text := strings.Join(got, "\n"); text != want {
			t.Errorf("got\n%s\nwant\n%s", text, want)
		}
		return c
	}
	f("version: 1", "consul.users: [] [/users] [] consul.users of consul", "v1", "traefik.enable=true", "sluice.paths=/users")
	f("version: 1", "consul.users: [a.test b.test] [] [GET POST] consul.users of consul stripped as /x within 3s",
		"sluice.enable=true", "sluice.hosts=a.test, b.test", "sluice.methods=GET,POST", "sluice.strip_prefix=true", "sluice.rewrite=/x", "sluice.timeout=3s")
	f("version: 1", "consul.users: [] [/a] [] consul.users of consul\nconsul.users/v1.2: [] [/b] [] consul.users of consul", "sluice.paths=/a", "sluice.routes.v1.2.paths=/b")
	f("sources: {consul: {hosts: [a.test]}}", "consul.users: [a.test] [/a] [] consul.users of consul", "sluice.paths=/a")
	c := f(`sources: {consul: {address: "https://consul:8501", token: s3cret, datacenter: dc2, stale: false}}`, "consul.users: [] [/a] [] consul.users of consul", "sluice.paths=/a", "sluice.protocol=h2c")
	d := c.Services["consul.users"]
	if got := d.Discovery.Consul; got.Address != "https://consul:8501" || got.Token.Reveal() != "s3cret" || got.Datacenter != "dc2" || got.Stale || got.Service != "users" || d.Protocol != "h2c" || d.Source != "consul" {
		t.Errorf("%+v", d)
	}
	// A service of the file under that name goes before it.
	c = f(`services: {consul.users: {endpoints: ["http://10.0.0.1:80"]}}`, "consul.users: [] [/a] [] consul.users of consul", "sluice.paths=/a")
	if s := c.Services["consul.users"]; len(s.Endpoints) != 1 || s.Source != "" {
		t.Errorf("%+v", s)
	}
}

func TestTranslateFailure(t *testing.T) {
	f := func(text, want string, tags ...string) {
		t.Helper()
		_, err := load(t, text, tags...)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "consul service users:") {
			t.Errorf("%v: %v, want %s", tags, err, want)
		}
	}
	f("version: 1", "sluice.path is not known; the tags are enable, protocol, and hosts", "sluice.path=/a")
	f("version: 1", "sluice.routes.a.policies is not known", "sluice.routes.a.policies=none")
	f("version: 1", "is no setting of a route", "sluice.routes.paths=/a")
	f("version: 1", "has no value; write it as sluice.paths=/users", "sluice.enable")
	f("version: 1", "neither true nor false", "sluice.enable=yes")
	f("version: 1", "nothing says which requests are the service's", "sluice.enable=true")
	f("version: 1", "nothing says which requests are the route's", "sluice.methods=GET")
	f("version: 1", "with several values", "sluice.paths=/a", "sluice.paths=/b")
	f("version: 1", "does not begin with a slash", "sluice.paths=a")
	f("version: 1", "strip_prefix", "sluice.paths=/a", "sluice.strip_prefix=maybe")
	f("version: 1", "protocol", "sluice.paths=/a", "sluice.protocol=gopher")
	f("version: 1", "timeouts.response", "sluice.paths=/a", "sluice.timeout=soon")
	f("sources: {consul: {hosts: [a.test]}}", `"b.test" is not the source's; it may have a.test`, "sluice.hosts=b.test")
	f("sources: {consul: {path_prefixes: [/a]}}", `"/b" is not the source's; it may have /a`, "sluice.paths=/b")
	f("routes: {consul.users: {match: {paths: [/x]}, respond: {body: x}}}", "this stands also in gateway.yaml:1:10, which goes first", "sluice.paths=/b")
}

// Whoever could register one service had the gateway compare its tags with each other for minutes.
func TestTagsAreBounded(t *testing.T) {
	tags := make([]string, 50_000)
	for i := range tags {
		tags[i] = fmt.Sprintf("sluice.routes.r%d.paths=/%d", i, i)
	}
	if _, err := load(t, "version: 1", tags...); err == nil || !strings.Contains(err.Error(), "more than 2000 tags that begin with sluice.; give it fewer routes") {
		t.Error(err)
	}
	c, err := load(t, "version: 1", tags[:maxTags]...)
	if err != nil || len(c.Routes) != maxTags {
		t.Error(err)
	}
	long := strings.Repeat("x", 600)
	if _, err := load(t, "version: 1", "sluice.routes."+long+".paths=/a"); err == nil || !strings.Contains(err.Error(), "is longer than 512 bytes") {
		t.Error(err)
	}
	if _, err := load(t, "version: 1", "sluice.paths=/a", strings.Repeat("x", 3<<20)); err == nil || !strings.Contains(err.Error(), "the object is larger than 2 MiB") {
		t.Error(err)
	}
}

// What somebody writes into tags reads neither the environment nor files of the gateway.
func TestNothingIsExpanded(t *testing.T) {
	t.Setenv("PATHS", "/secret")
	c, err := load(t, "version: 1", "sluice.paths=/${PATHS}")
	if err == nil {
		t.Errorf("%v", c.Routes["consul.users"].Match.Paths)
	}
}
