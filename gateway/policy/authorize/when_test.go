package authorize

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

// payload is a token's claims as JSON.
type payload string

func (p payload) members() (m map[string]json.RawMessage) {
	if err := json.Unmarshal([]byte(p), &m); err != nil {
		panic(err)
	}
	return m
}

func (p payload) JSON() []byte { return []byte(p) }

func (p payload) Member(name string) ([]byte, bool) {
	v, ok := p.members()[name]
	return v, ok
}

func (p payload) Claim(name string) ([]byte, bool) {
	v, ok := p.members()[name]
	return []byte(strings.Trim(string(v), `"`)), ok
}

func (p payload) ClaimHas(name, value string) bool {
	v, _ := p.Claim(name)
	return string(v) == value
}

func TestFiles(t *testing.T) { policytest.Files(t, Definition) }

func TestWhen(t *testing.T) {
	w := world(t)
	const token = `{"sub":"alice","level":3,"ratio":0.5,"admin":true,"nothing":null,"roles":["dev","ops"],"org":{"id":7,"tags":["x"]},"twice":{"a":1,"a":2}}`
	f := func(when, target, want string, headers ...string) {
		t.Helper()
		settings, err := json.Marshal(map[string]string{"when": when})
		if err != nil {
			t.Fatal(err)
		}
		h := w.MustBuild(t, Definition, string(settings))
		x := w.Exchange(target, headers...)
		defer x.Close()
		x.Identity.Authenticated, x.Identity.Claims, x.Identity.Consumer = true, payload(token), w.Consumers["both"]
		got := ""
		if err := h.Request(x); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s for %s %q: %q, want %q", when, target, headers, got, want)
		}
	}
	const no, unsure = "forbidden", "condition_error"

	f(`request.method == "GET" && request.path.startsWith("/a/") && request.host == "api.example.com" && request.scheme == "http"`, "/a/b", "")
	f(`request.method in ["POST", "PUT"]`, "/", no)
	f(`client_ip == "192.0.2.1"`, "/", "")
	f(`cidr("192.0.2.0/24").containsIP(client_ip)`, "/", "")
	f(`cidr("10.0.0.0/8").containsIP(client_ip)`, "/", no)

	f(`request.headers["x-stage"] == "canary"`, "/", "", "X-Stage: canary")
	f(`request.headers["x-stage"] == "canary"`, "/", no, "X-Stage: beta")
	f(`request.headers["x-stage"] == "canary"`, "/", unsure)
	f(`request.headers["x-stage"] == "canary"`, "/", no, "X-Stage: canary", "X-Stage: beta")
	f(`request.headers["x-stage"] == "a, b"`, "/", "", "X-Stage: a", "X-Stage: b")
	f(`request.headers["X-Stage"] == "canary"`, "/", unsure, "X-Stage: canary")
	f(`"x-stage" in request.headers`, "/", no)
	f(`request.headers.?host.orValue("") == "api.example.com"`, "/", "")
	f(`request.headers[?"x-stage"].orValue("none") == "none"`, "/", "")
	f(`request.headers.exists(h, h.startsWith("x-debug"))`, "/", "", "X-Debug-Level: 1")
	f(`request.headers.exists(h, h.startsWith("x-debug"))`, "/", no)
	f(`size(request.headers) == 2`, "/", "", "X-A: 1")

	f(`request.query["id"] == "a b"`, "/?id=a%20b", "")
	f(`request.query["id"] == "1"`, "/?id=1&id=2", unsure)
	f(`request.query["id"] != "2"`, "/?id=1&id=2", unsure)
	f(`!("debug" in request.query)`, "/?debug=1&%64ebug=2", unsure)
	f(`!("debug" in request.query)`, "/?id=1", "")
	f(`request.query.all(k, k in ["a", "b"])`, "/?a=1&b=2", "")
	f(`request.query.all(k, k in ["a", "b"])`, "/?a=1&c=2", no)
	f(`request.query.all(k, true)`, "/?a=1&a=2", unsure)
	f(`request.query == {"a": "1"}`, "/?a=1", "")

	f(`claims.sub == "alice" && claims.level >= 3 && claims.level % 2 == 1 && claims.ratio < 1 && claims.admin == true`, "/", "")
	f(`"ops" in claims.roles && claims.org.id == 7 && claims.org.tags[0] == "x"`, "/", "")
	f(`claims.nothing == null && !has(claims.absent) && has(claims.org.id)`, "/", "")
	f(`claims.absent == "x"`, "/", unsure)
	f(`claims.absent != "x"`, "/", unsure)
	f(`claims.level == "3"`, "/", no)
	f(`claims.twice.a == 1`, "/", unsure)
	f(`claims.exists(c, c == "level")`, "/", unsure) // the whole has a name twice
	f(`claims["level"] == 3`, "/", "")

	f(`consumer.name == "both" && "banned" in consumer.groups`, "/", "")
	f(`consumer.groups.exists(g, g.startsWith("sta"))`, "/", "")
	f(`request.path.matches("^/users/[0-9]+$")`, "/users/7", "")
	f(`request.path.split("/")[1].upperAscii() == "A"`, "/a/b", "")

	// What costs too much is no decision.
	f(`[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, [1,2,3,4,5,6,7,8,9,10].all(e, request.path != string(a+b+c+d+e))))))`, "/", unsure)
}

// An expression over the request alone is for everybody, and any other for nobody who is nobody.
func TestWhenForNobody(t *testing.T) {
	w := world(t)
	f := func(settings string, want error) {
		t.Helper()
		if err := w.MustBuild(t, Definition, settings).Request(w.Exchange("/")); err != want {
			t.Errorf("%s: %v, want %v", settings, err, want)
		}
	}
	f(`when: request.method == "GET"`, nil)
	f(`when: request.method == "POST"`, forbidden)
	f(`when: "!has(claims.banned)"`, forbidden)
	f(`when: consumer.name != "mallory"`, forbidden)
	f(`{when: request.method == "GET", groups: {deny: [banned]}}`, forbidden)
}

func TestWhenFailure(t *testing.T) {
	w := world(t)
	f := func(when, want string) {
		t.Helper()
		settings, _ := json.Marshal(map[string]string{"when": when})
		w.Fails(t, Definition, string(settings), "authorize.when: "+want)
	}
	f(`request.method`, "gives a string and not true or false")
	f(`claims.admin`, "may give anything and not only true or false; compare it, as in claims.admin == true")
	f(`request.methd == "GET"`, "undeclared reference")
	f(`request == "GET"`, "undeclared reference")
	f(`request.method == 1`, "found no matching overload")
	f(`request.method ==`, "Syntax error")
	f("true &&\n  user", "undeclared reference to 'user' (line 2, column 3 of the expression)")
	f(`request.path.matches("[")`, "error parsing regexp")
}

func TestWhenVaries(t *testing.T) {
	w := world(t)
	f := func(when string, want ...string) {
		t.Helper()
		settings, _ := json.Marshal(map[string]string{"when": when})
		if got := w.MustBuild(t, Definition, string(settings)).Varies; !slices.Equal(got, want) {
			t.Errorf("%s varies by %q, want %q", when, got, want)
		}
	}
	f(`request.method == "GET" && request.path == "/" && request.query["x"] == "1" && request.host == request.scheme`)
	f(`request.headers["x-a"] == "1" || "x-b" in request.headers || has(request.headers.accept) || request.headers[?"x-c"].orValue("") == ""`,
		"header:accept", "header:x-a", "header:x-b", "header:x-c")
	f(`request.headers[request.path] == "1"`, "request.headers")
	f(`request.headers.exists(h, h == "a")`, "request.headers")
	f(`claims.org.id == 1 && claims["sub"] == "a" && claims.?x.orValue(1) == 1`, "claim:org", "claim:sub", "claim:x")
	f(`size(claims) > 1`, "claims")
	f(`consumer.name == "a" && "b" in consumer.groups`, "consumer")
	f(`client_ip == "192.0.2.1"`, "ip")
}

func TestUndecidedIsCounted(t *testing.T) {
	w := world(t)
	h := w.MustBuild(t, Definition, `when: claims.level > 3`)
	x := w.Exchange("/")
	x.Identity.Authenticated = true
	for range 3 {
		if err := h.Request(x); err != undecided {
			t.Fatal(err)
		}
	}
	if n := w.Metrics.AuthFailures.With(w.Generation, "users", "condition_error").Value(); n != 3 {
		t.Errorf("counted %d of 3", n)
	}
	if undecided.Detail != forbidden.Detail || undecided.Status != forbidden.Status {
		t.Error("the client learns more than that it is forbidden")
	}
}

// An evaluation allocates only for what the expression names.
func TestWhenAllocations(t *testing.T) {
	if testing.CoverMode() != "" {
		t.Skip("counts differ")
	}
	w := world(t)
	f := func(when string, most float64) {
		t.Helper()
		settings, _ := json.Marshal(map[string]string{"when": when})
		h := w.MustBuild(t, Definition, string(settings))
		x := w.Exchange("/users/7?a=1", "X-A: 1", "X-B: 2", "X-C: 3", "X-D: 4")
		x.Identity.Authenticated = true
		x.Identity.Claims = claims{"role": "admin"}
		n := testing.AllocsPerRun(1000, func() {
			if err := h.Request(x); err != nil && err != exchange.Replied {
				t.Fatal(err)
			}
		})
		if n > most && !raceEnabled {
			t.Errorf("%s: %v allocations, want %v at most", when, n, most)
		}
	}
	f(`request.method == "GET"`, 8)
	f(`request.headers["x-a"] == "1" && request.path.startsWith("/users/")`, 18)
	f(`claims.role == "admin"`, 9)
}
