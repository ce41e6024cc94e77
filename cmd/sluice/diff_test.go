package main

import (
	"strings"
	"testing"
)

func TestDiff(t *testing.T) {
	old := write(t, "old.yaml", `
listeners: {main: {address: ":8080"}}
limits: {idle_timeout: 75s}
services:
  a: {endpoints: ["http://127.0.0.1:1"]}
  gone: {endpoints: ["http://127.0.0.1:2"]}
routes:
  r: {match: {paths: [/r]}, service: a, policies: {rate_limit: {requests: 10, per: 1m}}}
  s: {match: {paths: [/s]}, service: a}
  t: {match: {paths: [/t]}, service: gone}
policies: {jwt: {secret: "a-secret-of-thirty-two-bytes-or-more"}, ip_filter: {deny: [10.0.0.0/8]}}
`)
	next := write(t, "new.yaml", `
listeners: {main: {address: ":8080"}}
limits: {stall_timeout: 10s}
services:
  a: {endpoints: ["http://127.0.0.1:3"]}
  b: {endpoints: ["http://127.0.0.1:2"], timeouts: {connect: 1s}}
routes:
  r: {match: {paths: [/r]}, service: a, policies: {rate_limit: {requests: 20, per: 60s}}}
  s: {match: {paths: [/s, /s2]}, service: a, policies: {ip_filter: off}}
  u: {match: {paths: [/u]}, service: b}
policies: {jwt: {secret: "another-secret-of-thirty-two-bytes-or-more"}, ip_filter: {deny: [10.0.0.0/8]}}
`)
	out, err := sluice(t, nil, "diff", old, next).CombinedOutput()
	if err != nil {
		t.Fatalf("%v %s", err, out)
	}
	want := `~ route r
    ~ policies.jwt.secret: another secret
    ~ policies.rate_limit.burst: 10 -> 20
    ~ policies.rate_limit.requests: 10 -> 20
~ route s
    ~ match.paths: ["/s"] -> ["/s","/s2"]
    - policies.ip_filter: {"deny":["10.0.0.0/8"]}
    ~ policies.jwt.secret: another secret
- route t
+ route u
~ service a
    ~ endpoints: [{"url":"http://127.0.0.1:1","weight":1}] -> [{"url":"http://127.0.0.1:3","weight":1}]
+ service b
- service gone
~ limits
    ~ stall_timeout: "30s" -> "10s"
`
	if got := string(out); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if strings.Contains(string(out), "of-thirty") {
		t.Error("a secret is shown")
	}
	out, err = sluice(t, nil, "diff", "--json", old, next).CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"kind": "route",`) {
		t.Errorf("%v %s", err, out)
	}
	out, err = sluice(t, nil, "diff", old, old).CombinedOutput()
	if err != nil || string(out) != "nothing changes for requests\n" {
		t.Errorf("%v %s", err, out)
	}
	if out, err = sluice(t, nil, "diff", old, write(t, "bad.yaml", "routs: {}")).CombinedOutput(); err == nil || !strings.Contains(string(out), "bad.yaml:1:1") {
		t.Errorf("%v %s", err, out)
	}
}
