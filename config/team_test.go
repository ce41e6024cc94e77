package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const teamsRoot = `
teams:
  pay: {hosts: ["pay.example.com", "*.pay.example.com"], path_prefixes: [/pay], max_routes: 2, max_services: 2, max_endpoints: 1, allowed_policies: [rate_limit, mirror]}
  shop: {path_prefixes: [/shop]}
services: {core: {endpoints: ["http://core:80"]}}
routes: {core: {match: {paths: [/core]}, service: core}}
`

// input makes the input of a root file and one file for each team, "NAME", "TEXT", ….
func input(root string, teams ...string) Input {
	in := Input{Files: []File{{Name: "root.yaml", Data: []byte(root)}}, Teams: map[string][]File{}}
	for i := 0; i < len(teams); i += 2 {
		in.Teams[teams[i]] = append(in.Teams[teams[i]], File{Name: "teams/" + teams[i] + "/a.yaml", Data: []byte(teams[i+1])})
	}
	return in
}

func TestTeamSuccess(t *testing.T) {
	c, err := input(teamsRoot, "pay", `
services: {api: {endpoints: ["http://api:80"]}, next: {endpoints: ["http://next:80"]}}
routes:
  all: {service: api}
  some:
    match: {hosts: [eu.pay.example.com], paths: ["=/pay/x", "/pay/{id}/y"]}
    split: {services: [{service: api}, {service: next}], override: {header: X, values: {always: next}}}
    policies: {rate_limit: {requests: 1, per: 1s}, mirror: {service: next}}
`, "shop", "routes: {r: {respond: {body: hi}}}").Load(Options{})
	if err != nil {
		t.Fatal(err)
	}
	all := c.Routes["pay/all"]
	if all == nil || all.Service != "pay/api" || all.Team != "pay" || all.Name != "pay/all" {
		t.Fatalf("%+v", all)
	}
	if !slices.Equal(all.Match.Hosts, []string{"pay.example.com", "*.pay.example.com"}) || !slices.Equal(all.Match.Paths, []string{"/pay"}) {
		t.Errorf("%+v", all.Match)
	}
	if got := string(c.Routes["pay/some"].Split.Canonical()); got != `{"override":{"header":"X","values":{"always":"pay/next"}},"services":[{"service":"pay/api"},{"service":"pay/next"}]}` {
		t.Error(got)
	}
	if got := string(c.Routes["pay/some"].Policies["mirror"].Canonical()); got != `{"service":"pay/next"}` {
		t.Error(got)
	}
	if c.Services["pay/api"].Team != "pay" || c.Services["core"].Team != "" || c.Routes["shop/r"] == nil {
		t.Errorf("%+v", c.Services)
	}
}

func TestTeamFailure(t *testing.T) {
	f := func(team, text, want string) {
		t.Helper()
		in := input(teamsRoot, team, text)
		_, err := in.Load(Options{Environ: []string{"SECRET=s3cret"}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
			return
		}
		// Each is the team's mistake, and no one else's.
		for _, e := range err.(Errors) {
			if in.TeamOf(e.Pos.File) != team || e.Pos.Line == 0 {
				t.Errorf("%s: whose is %v?", text, e)
			}
		}
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", text, err)
		}
	}
	ok := `services: {api: {endpoints: ["http://api:80"]}}` + "\n"
	f("other", ok, `there is no team "other"`)
	f("pay", "listeners: {}", "a team's file holds services and routes alone")
	f("pay", "policies: {}", "a team's file holds services and routes alone")
	f("pay", "consumers: {}", "a team's file holds services and routes alone")
	f("pay", "teams: {pay: {}}", "a team's file holds services and routes alone")
	f("pay", "routes: {r: {service: core}}", `there is no service "pay/core"`)
	f("pay", ok+"routes: {r: {match: {hosts: [example.com]}, service: api}}", `"example.com" is not the team's`)
	f("pay", ok+"routes: {r: {match: {hosts: [\"*.example.com\"]}, service: api}}", `is not the team's`)
	f("pay", ok+"routes: {r: {match: {paths: [/payments]}, service: api}}", `"/payments" is not the team's`)
	f("pay", ok+"routes: {r: {match: {paths: [/]}, service: api}}", `"/" is not the team's`)
	f("pay", ok+"routes: {r: {match: {paths: [\"~^/pay/.*\"]}, service: api}}", `is not the team's`)
	f("pay", ok+"routes: {r: {match: {paths: [\"/{x}\"]}, service: api}}", `is not the team's`)
	f("pay", ok+"routes: {a: {service: api}, b: {service: api}, c: {service: api}}", "the team pay may have 2 routes")
	f("pay", strings.Repeat("x", 0)+`services: {a: {endpoints: ["http://a:1"]}, b: {endpoints: ["http://a:1"]}, c: {endpoints: ["http://a:1"]}}`, "the team pay may have 2 services")
	f("pay", `services: {a: {endpoints: ["http://a:1", "http://b:1"]}}`, "may have 1 endpoints")
	f("pay", `services: {a: {endpoints: ["unix:/var/run/docker.sock"]}}`, "sockets of the gateway's machine")
	f("pay", `services: {a: {discovery: {file: /etc/passwd}}}`, "found by dns alone")
	f("pay", `services: {a: {protocol: https, endpoints: ["https://a:1"], tls: {ca: /etc/ssl/x.pem}}}`, "files of the gateway")
	f("pay", ok+"routes: {r: {service: api, policies: {jwt: off}}}", "may not set or turn off this policy; allowed: rate_limit, mirror")
	f("shop", `services: {a: {endpoints: ["http://a:1"], policies: {cache: {}}}}`, "allowed: none")
	f("pay", `routes: {r: {respond: {body: "${SECRET}"}}}`, "sees neither the environment nor the files")
	f("pay", `routes: {r: {respond: {body: "${SECRET:-x}"}}}`, "sees neither the environment nor the files")
	f("pay", `routes: {r: {respond: {body: "${file:/etc/passwd}"}}}`, "sees neither the environment nor the files")
	f("pay", `routes: {r: {health: {}}}`, "not for teams")
	f("pay", `routes: {"a/b": {respond: {}}}`, "the name has a slash")
	f("pay", "routes: {r: {grpc: {service: x, descriptors: /etc/x}}}", "files of the gateway")
	f("pay", ok+"routes: {r: {service: api, openapi: /etc/passwd}}", `routes["pay/r"].openapi: files of the gateway`)
	f("pay", ok+"routes: {r: {service: api, policies: {openapi: {file: /etc/passwd}}}}", "files of the gateway")
	f("pay", `services: {a: {endpoints: ["http://a:1"], policies: {openapi: /etc/passwd}}}`, "files of the gateway")
	f("pay", "routes: [", "")
}

func TestTeamsOfTheRoot(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if _, err := input("teams: " + text).Load(Options{}); err == nil && want != "" || err != nil && (want == "" || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	f("{a: {hosts: [a.example]}, b: {hosts: [b.example]}}", "")
	f("{a: {hosts: [a.example], path_prefixes: [/a]}, b: {hosts: [a.example], path_prefixes: [/b]}}", "")
	f("{a: {}}", "nothing says which requests are the team's")
	f("{a: {hosts: [a.example]}, b: {hosts: [a.example]}}", "some of the same hosts")
	f("{a: {hosts: [a.example]}, b: {path_prefixes: [/b]}}", "some of the same hosts")
	f("{a: {path_prefixes: [/a]}, b: {path_prefixes: [/a/b]}}", "some of the same hosts")
	f("{a: {hosts: [\"*.example\"]}, b: {hosts: [b.example]}}", "some of the same hosts")
	f("{a: {path_prefixes: [\"~^/x\"]}}", "is no prefix")
	f("{\"a b\": {hosts: [a.example]}}", "is no name of a team")
}

func TestTeamsOfADirectory(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("a.yaml", "teams: {pay: {hosts: [pay.example.com]}}")
	put("teams/pay/one.yaml", `services: {api: {endpoints: ["http://api:80"]}}`)
	put("teams/pay/two.yaml", "routes: {r: {service: api}}")
	put("teams/README.md", "not a team")
	c, err := Load(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Routes["pay/r"] == nil || len(c.Files()) != 3 {
		t.Errorf("%v %v", c.Routes, c.Files())
	}
	put("teams/pay/two.yaml", "routes: {r: {service: apo}}")
	if _, err = Load(dir, Options{}); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "teams/pay/two.yaml")+`:1:23: routes["pay/r"].service: there is no service "pay/apo"; did you mean pay/api?`) {
		t.Error(err)
	}
}
