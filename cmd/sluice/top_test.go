package main

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

func TestTop(t *testing.T) {
	r := launch(t, sluice(t, nil, "run", "--watch=false", "-c", write(t, "sluice.yaml", `
listeners: {main: {address: "127.0.0.1:0"}}
admin: {address: "127.0.0.1:0", token: a-token-of-some-length}
services: {s: {endpoints: ["http://127.0.0.1:1"]}}
routes:
  hello: {match: {paths: [/hello]}, respond: {body: hello}, policies: {rate_limit: {requests: 1, per: 1h}}}
  other: {match: {paths: [/other]}, service: s}
`)))
	for range 3 {
		fetch(t, r.url+"/hello")
	}
	admin := strings.TrimPrefix(r.admin, "http://")
	show := func(env []string, args ...string) (string, error) {
		out, err := sluice(t, env, append([]string{"top", "--admin-address", admin}, args...)...).CombinedOutput()
		return string(out), err
	}
	if out, err := show(nil); err == nil || err.(*exec.ExitError).ExitCode() != 1 || !strings.Contains(out, "wants its token") {
		t.Errorf("%v %s", err, out)
	}
	out, err := show([]string{"SLUICE_ADMIN_TOKEN=a-token-of-some-length"}, "--count", "2", "--interval", "100ms", "--rows", "2")
	if err != nil {
		t.Fatalf("%v %s", err, out)
	}
	for _, want := range []string{
		`requests/s, .* in flight, configuration 1\n`, `listener main: \d connections at work`, `(?m)^ROUTE +REQ/S`, `(?m)^hello +\d`, `and 1 more`,
		`(?m)^s +closed +http://127.0.0.1:1 +up`,
	} {
		if n := len(regexp.MustCompile(want).FindAllString(out, -1)); n != 2 {
			t.Errorf("%s is there %d times in %s", want, n, out)
		}
	}
	if strings.Contains(out, "\x1b") || strings.Contains(out, "a-token") {
		t.Errorf("%q", out)
	}
	if out, err := show(nil, "--interval", "1ms"); err == nil || !strings.Contains(out, "100ms at least") {
		t.Errorf("%v %s", err, out)
	}
}
