package waf

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

// request is what a test sends.
type request struct {
	method, target string
	headers        []string
	body           string
	chunked        bool
}

// exchangeOf makes an exchange as an engine does, with the headers that every client sends.
func exchangeOf(w *policytest.World, r request) *exchange.Exchange {
	headers := r.headers
	has := func(name string) bool {
		return slices.ContainsFunc(headers, func(h string) bool { return strings.HasPrefix(h, name+":") })
	}
	for _, h := range []string{"User-Agent: test/1.0", "Accept: */*"} {
		if name, _, _ := strings.Cut(h, ":"); !has(name) {
			headers = append(headers, h)
		}
	}
	if r.body != "" && !has("Content-Type") {
		headers = append(headers, "Content-Type: application/x-www-form-urlencoded")
	}
	x := w.Exchange(r.target, headers...)
	if r.method != "" {
		x.Request.Header.SetMethod(r.method)
	} else if r.body != "" {
		x.Request.Header.SetMethod("POST")
	}
	policytest.Fields(x)
	if r.body != "" {
		size := len(r.body)
		if r.chunked {
			size = -1
			x.Fields = append(x.Fields, exchange.Field{Name: []byte("Transfer-Encoding"), Value: []byte("chunked")})
		} else {
			x.Fields = append(x.Fields, exchange.Field{Name: []byte("Content-Length"), Value: appendInt(nil, size)})
		}
		x.Request.SetBodyStream(strings.NewReader(r.body), size)
	}
	return x
}

func appendInt(b []byte, n int) []byte {
	if n >= 10 {
		b = appendInt(b, n/10)
	}
	return append(b, byte('0'+n%10))
}

// pass sends a request through the hooks, and answers it with OK if it passes.
func pass(h policy.Hooks, x *exchange.Exchange) (reason string, err error) {
	if err = h.Request(x); err != nil {
		x.Render(err)
	} else {
		x.Answer = exchange.Proxied
		x.Response.SetBodyString("ok")
	}
	_ = h.Response(x)
	reason = x.Reason
	h.Done(x)
	_ = x.Close()
	return reason, err
}

var (
	attack = request{target: "/?id=1%27%20OR%20%271%27=%271"}
	benign = request{target: "/?id=1"}
)

func form(body string) request { return request{target: "/", body: body} }

func jsonBody(body string) request {
	return request{target: "/", body: body, headers: []string{"Content-Type: application/json"}}
}

func TestVerdict(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings string, r request, want error) {
		t.Helper()
		if reason, err := pass(w.MustBuild(t, Definition, settings), exchangeOf(w, r)); err != want {
			t.Errorf("%s: %+v: %v (%s), want %v", settings, r, err, reason, want)
		}
	}
	f("", benign, nil)
	f("", attack, rejectBlocked)
	f("mode: detect", attack, nil)
	f("", form("a=b"), nil)
	f("", form("a=1'+OR+'1'='1"), rejectBlocked)
	f("", request{target: "/", body: "a=1'+OR+'1'='1", chunked: true}, rejectBlocked)
	f("", jsonBody(`{"a":{"b":["x","1' OR '1'='1"]}}`), rejectBlocked)
	f("", jsonBody(`{"a":{"b":["x","y"]}}`), nil)
	f("", jsonBody(`{"a":`), rejectMalformed)
	f("mode: detect", jsonBody(`{"a":`), nil)
	f("", request{target: "/", body: "a=<script>alert(1)</script>", headers: []string{"Content-Type: text/plain"}}, rejectBlocked)
	f("", request{target: "/", body: "<a><b>&lt;script&gt;alert(1)&lt;/script&gt;</b></a>", headers: []string{"Content-Type: application/xml"}}, rejectBlocked)
	f("", request{target: "/", body: "PNG\x00\x01", headers: []string{"Content-Type: application/octet-stream"}}, nil)
	multipart := func(value string) request {
		return request{target: "/", headers: []string{"Content-Type: multipart/form-data; boundary=b"},
			body: "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n" + value + "\r\n--b--\r\n"}
	}
	f("", multipart("hello"), nil)
	f("", multipart("1' OR '1'='1"), rejectBlocked)
	for _, method := range []string{"GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"} {
		f("", request{method: method, target: "/users/7"}, nil)
	}
	f("", request{method: "TRACK", target: "/users/7"}, rejectBlocked)
	f("", request{method: "POST", target: "/", body: "a=b", headers: []string{"Expect: 100-continue"}}, nil)
	// More arguments than are inspected.
	f("", form(strings.Repeat("a=b&", 1100)+"c=1'+OR+'1'='1"), rejectMalformed)
}

func TestBodyLimit(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings string, r request, want error) {
		t.Helper()
		if _, err := pass(w.MustBuild(t, Definition, settings), exchangeOf(w, r)); err != want {
			t.Errorf("%s: body of %d, chunked %t: %v, want %v", settings, len(r.body), r.chunked, err, want)
		}
	}
	late := strings.Repeat("a", 1000) + "=b&c=1'+OR+'1'='1"
	early := "c=1'+OR+'1'='1&" + strings.Repeat("a", 1000)
	for _, chunked := range []bool{false, true} {
		f("body_limit: 1KiB", request{target: "/", body: strings.Repeat("a", 1024), chunked: chunked}, nil)
		f("body_limit: 1KiB", request{target: "/", body: strings.Repeat("a", 1025), chunked: chunked}, exchange.RejectBodyTooLarge)
		f("{body_limit: 1KiB, over_limit: partial}", request{target: "/", body: strings.Repeat("a", 1025), chunked: chunked}, nil)
		f("{body_limit: 1KiB, mode: detect}", request{target: "/", body: strings.Repeat("a", 5000), chunked: chunked}, nil)
		f("{body_limit: 512, over_limit: partial}", request{target: "/", body: late, chunked: chunked}, nil)
		f("{body_limit: 512, over_limit: partial}", request{target: "/", body: early, chunked: chunked}, rejectUnread)
	}
	r := jsonBody(`{"c":"1' OR '1'='1","a":"` + strings.Repeat("a", 1000) + `"}`)
	f("{body_limit: 512, over_limit: partial}", r, rejectUnread)
	f("{body_limit: 512, over_limit: partial}", jsonBody(`{"a":"`+strings.Repeat("a", 1000)+`"}`), nil)
	if got := w.Metrics.WAFRequests.With(nil, "users", "too_large").Value(); got != 2 {
		t.Errorf("%d requests too large", got)
	}
}

func TestReport(t *testing.T) {
	w := policytest.New(t, "")
	count := func(result string) uint64 { return w.Metrics.WAFRequests.With(nil, "users", result).Value() }
	matches := func() uint64 { return w.Metrics.WAFMatches.With(nil, "users", "942100").Value() }
	h := w.MustBuild(t, Definition, "")
	_, _ = pass(h, exchangeOf(w, benign))
	reason, err := pass(h, exchangeOf(w, attack))
	if err != rejectBlocked || reason != "waf:942100" {
		t.Errorf("%v, reason %q", err, reason)
	}
	if count("passed") != 1 || count("blocked") != 1 || count("detected") != 0 || matches() != 1 {
		t.Errorf("passed %d, blocked %d, detected %d, matches %d", count("passed"), count("blocked"), count("detected"), matches())
	}
	d := w.MustBuild(t, Definition, "mode: detect")
	if reason, err = pass(d, exchangeOf(w, attack)); err != nil || reason != "waf_detected:942100" {
		t.Errorf("detect: %v, reason %q", err, reason)
	}
	if count("detected") != 1 || matches() != 2 {
		t.Errorf("detected %d, matches %d", count("detected"), matches())
	}
	for range 100 {
		_, _ = pass(h, exchangeOf(w, attack))
	}
	lines := func() int { return strings.Count(w.Logged(), "waf: rules matched") }
	if lines() != 2 {
		t.Errorf("%d lines in the log: %s", lines(), w.Logged())
	}
	w.Advance(2 * time.Second)
	_, _ = pass(h, exchangeOf(w, attack))
	if lines() != 3 || !strings.Contains(w.Logged(), "suppressed=100") {
		t.Errorf("%d lines in the log: %s", lines(), w.Logged())
	}
}

// Nothing of what a request brings stands in a log or an answer.
func TestNothingTold(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "")
	x := exchangeOf(w, request{target: "/login?token=hunter1", body: "password=hunter2'+OR+'1'='1", headers: []string{"Cookie: session=hunter3"}})
	err := h.Request(x)
	x.Render(err)
	_ = h.Response(x)
	if all := string(x.Response.Body()) + x.Reason + w.Logged(); err != rejectBlocked || strings.Contains(all, "hunter") || strings.Contains(string(x.Response.Body()), "942") {
		t.Errorf("%v: %s", err, all)
	}
	h.Done(x)
	_ = x.Close()
}

func TestExclude(t *testing.T) {
	w := policytest.New(t, "")
	f := func(exclude string, r request, want error) {
		t.Helper()
		if reason, err := pass(w.MustBuild(t, Definition, "exclude: "+exclude), exchangeOf(w, r)); err != want {
			t.Errorf("%s: %s: %v (%s), want %v", exclude, r.target, err, reason, want)
		}
	}
	search := request{target: "/search/x?id=1%27%20OR%20%271%27=%271"}
	xss := request{target: "/?id=%3Cscript%3Ealert(1)%3C/script%3E"}
	f("[942100]", attack, nil)
	f("[942000-942999]", attack, nil)
	f("[attack-sqli]", attack, nil)
	f("[attack-sqli]", xss, rejectBlocked)
	f("[attack-xss]", attack, rejectBlocked)
	f("[{rules: attack-sqli, targets: [\"ARGS:id\"]}]", attack, nil)
	f("[{rules: attack-sqli, targets: [\"ARGS:other\"]}]", attack, rejectBlocked)
	f("[{rules: [942100], paths: [/search]}]", search, nil)
	f("[{rules: [attack-sqli], paths: [/search], targets: [\"ARGS:id\"]}]", search, nil)
	f("[{rules: [attack-sqli], paths: [/search], targets: [\"ARGS:other\"]}]", search, rejectBlocked)
	f("[{rules: [942100], paths: [/search]}]", attack, rejectBlocked)
	f("[{rules: [942100], paths: [/sear]}]", search, rejectBlocked)
	f("[{rules: [942100], paths: [/a, /search/]}]", search, nil)
}

func TestOwnRules(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings string, r request, want error) {
		t.Helper()
		if reason, err := pass(w.MustBuild(t, Definition, settings), exchangeOf(w, r)); err != want {
			t.Errorf("%s: %s: %v (%s), want %v", settings, r.target, err, reason, want)
		}
	}
	const own = `rules: ['SecRule ARGS:role "@streq admin" "id:1000,phase:2,deny,status:403,log,msg:''no''"']`
	admin := request{target: "/?role=admin"}
	f(own, admin, rejectBlocked)
	f(own, attack, rejectBlocked)
	f("{ruleset: none, "+own+"}", admin, rejectBlocked)
	f("{ruleset: none, "+own+"}", attack, nil)
	f("{ruleset: none, "+own+", exclude: [1000]}", admin, nil)
	f(own, benign, nil)
	f(`rules: ['SecAction "id:1001,phase:1,pass,nolog,setvar:tx.allowed_methods=GET"']`, request{method: "PUT", target: "/"}, rejectBlocked)
	f(`rules: ['SecRuleUpdateTargetById 942100 "!ARGS:id"']`, attack, nil)
	f(`rules: ['SecRuleRemoveByTag attack-sqli']`, attack, nil)
	f("threshold: 100", attack, nil)
}

func TestSharing(t *testing.T) {
	w := policytest.New(t, "")
	a, b := w.MustBuild(t, Definition, ""), w.MustBuild(t, Definition, "over_limit: partial")
	c := w.MustBuild(t, Definition, "paranoia: 2")
	rules := func(h policy.Hooks) *ruleset {
		x := exchangeOf(w, benign)
		defer x.Close()
		_ = h.Request(x)
		defer h.Done(x)
		return states.Of(x).f.rules
	}
	if rules(a) != rules(b) || rules(a) == rules(c) {
		t.Error("rule sets are not shared by equal settings alone")
	}
	first := rules(a)
	end := w.Reload()
	d := w.MustBuild(t, Definition, "")
	end()
	if rules(d) != first {
		t.Error("the rule set is compiled anew by a reload")
	}
	if _, err := pass(d, exchangeOf(w, attack)); err != rejectBlocked {
		t.Errorf("after a reload: %v", err)
	}
}

func TestResponses(t *testing.T) {
	w := policytest.New(t, "")
	const leak = "You have an error in your SQL syntax; check the manual that corresponds to your MySQL server version"
	f := func(settings, contentType, encoding, body string, stream bool, want error, wantReason string) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		x := exchangeOf(w, benign)
		defer x.Close()
		if err := h.Request(x); err != nil {
			t.Fatal(err)
		}
		x.Answer = exchange.Proxied
		x.Response.Header.SetContentType(contentType)
		if encoding != "" {
			x.Response.Header.Set("Content-Encoding", encoding)
		}
		if stream {
			x.Response.SetBodyStream(strings.NewReader(body), -1)
		} else {
			x.Response.SetBodyString(body)
		}
		_ = h.Response(x)
		var err error
		if x.Reject != nil {
			err = x.Reject
		}
		if x.HasBodyHooks() {
			var got []byte
			for rest := []byte(body); err == nil; {
				n := min(len(rest), 100)
				var out []byte
				out, err = x.PushBody(rest[:n], n == len(rest))
				if err == nil {
					got = append(got, out...)
				}
				if n == len(rest) {
					break
				}
				rest = rest[n:]
			}
			if err == nil && string(got) != body {
				t.Errorf("%s: a body of %d came as %d bytes", settings, len(body), len(got))
			}
			if err != nil && bytes.Contains(got, []byte("SQL syntax")) {
				t.Errorf("%s: the leak got out", settings)
			}
		}
		if err != want || x.Reason != wantReason {
			t.Errorf("%s, %s, stream %t: %v, reason %q; want %v, %q", settings, contentType, stream, err, x.Reason, want, wantReason)
		}
		h.Done(x)
	}
	for _, stream := range []bool{false, true} {
		f("", "text/html", "", leak, stream, nil, "")
		f("response_bodies: true", "text/html", "", leak, stream, rejectResponse, "waf_response:951230")
		f("response_bodies: true", "application/json; charset=utf-8", "", `{"error":"`+leak+`"}`, stream, rejectResponse, "waf_response:951230")
		f("response_bodies: true", "text/html", "", "<p>all is well", stream, nil, "")
		f("response_bodies: true", "text/html", "gzip", leak, stream, nil, "")
		f("response_bodies: true", "image/png", "", leak, stream, nil, "")
		f("{response_bodies: true, mode: detect}", "text/html", "", leak, stream, nil, "waf_detected:951230")
		f("{response_bodies: true, response_limit: 1KiB}", "text/html", "", strings.Repeat("a", 1000)+"\n"+leak, stream, nil, "")
		f("{response_bodies: true, response_limit: 1KiB}", "text/html", "", leak+strings.Repeat("a", 1000), stream, rejectResponse, "waf_response:951230")
	}
}

// Many requests at once, through one rule set and another that shares its patterns, while configurations come and go.
func TestConcurrent(t *testing.T) {
	w := policytest.New(t, "")
	hooks := []policy.Hooks{w.MustBuild(t, Definition, ""), w.MustBuild(t, Definition, "{mode: detect, exclude: [attack-xss]}")}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			h := hooks[i%2]
			for j := range 20 {
				r, want := benign, error(nil)
				switch j % 3 {
				case 1:
					r = form("a=1'+OR+'1'='1")
				case 2:
					r = attack
				}
				if j%3 > 0 && i%2 == 0 {
					want = rejectBlocked
				}
				if reason, err := pass(h, exchangeOf(w, r)); err != want {
					t.Errorf("%v, %s; want %v", err, reason, want)
				}
			}
		})
	}
	for i := range 3 {
		w.MustBuild(t, Definition, "threshold: "+strconv.Itoa(10+i))
		_ = w.Logged()
	}
	all.Wait()
}

// A large body waits for its turn; small ones pass it by.
func TestPlaces(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{ruleset: none, rules: ['SecAction \"id:1,phase:1,pass,nolog\"']}")
	for range cap(places) {
		places <- struct{}{}
	}
	large := exchangeOf(w, form("a="+strings.Repeat("a", heavy)))
	passed := make(chan error)
	go func() {
		_, err := pass(h, large)
		passed <- err
	}()
	if _, err := pass(h, exchangeOf(w, form("a=b"))); err != nil {
		t.Error(err)
	}
	select {
	case <-passed:
		t.Error("a large body did not wait")
	default:
	}
	for range cap(places) {
		<-places
	}
	if err := <-passed; err != nil || len(places) > 0 {
		t.Errorf("%v; %d places are taken", err, len(places))
	}
}
