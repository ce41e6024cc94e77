package aggregate

import (
	"strings"
	"testing"

	"sluice/config"
	"sluice/gateway/action"
	"sluice/gateway/action/actiontest"
	"sluice/gateway/document"
	"sluice/gateway/exchange"
	"sluice/gateway/upstream"
)

const services = `
services:
  users: {endpoints: ["http://127.0.0.1:1"]}
  orders: {endpoints: ["http://127.0.0.1:2"]}
  calls: {protocol: grpc, endpoints: ["http://127.0.0.1:3"]}
`

func TestSettings(t *testing.T) {
	actiontest.New(t, services).Files(t, Definition)
}

func TestWarnsOfPolicies(t *testing.T) {
	w := actiontest.New(t, `services: {users: {endpoints: ["http://127.0.0.1:1"], policies: {request_size: {}}}}`)
	w.MustBuild(t, Definition, "calls: {a: {service: users, path: /}}")
	if len(w.Warnings()) != 1 {
		t.Error(w.Warnings())
	}
}

func parsed(t testing.TB, text string) *document.Value {
	t.Helper()
	if text == "" {
		return nil
	}
	v, err := document.Check([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// reader compiles templates that read the calls a and b.
func reader() *compiler {
	return &compiler{c: &Config{}, ordered: []*Call{{Name: "a"}, {Name: "b"}}, call: &Call{Name: "c"}}
}

func TestText(t *testing.T) {
	w := actiontest.New(t, services)
	x := w.Exchange("/?q=1%2F2")
	defer x.Close()
	s := &scope{x: x, body: parsed(t, `{"n":1.10,"list":["x","y"]}`), values: []*document.Value{parsed(t, `{"id":7,"name":"a b","big":12345678901234567890.10,"items":[{"id":1},{"id":"2"}],"none":null}`), nil}}
	k := reader()
	f := func(text, want string, filled bool) {
		t.Helper()
		got, is, wrong := k.template("query.q", text).text(s)
		if wrong != nil || string(got) != want || is != filled {
			t.Errorf("%s: %q %t %v", text, got, is, wrong)
		}
	}
	f("plain", "plain", true)
	f("", "", true)
	f("${calls.a.id}", "7", true)
	f("${calls.a.name}/${calls.a.big}", "a b/12345678901234567890.10", true)
	f("${calls.a.items[*].id}", "1,2", true)
	f("${calls.a.items[1].id}${query.q}", "21/2", true)
	f("x${calls.a.none}", "x", false)
	f("x${calls.a.missing}${calls.b.id}", "x", false)
	f("${body.n} ${body.list[*]}", "1.10 x,y", true)
	for _, text := range []string{"${calls.a}", "${calls.a.items}", "${calls.a.items[*]}"} {
		if _, _, wrong := k.template("query.q", text).text(s); wrong != rejectValue {
			t.Errorf("%s: %v", text, wrong)
		}
	}
	if _, _, wrong := k.template("query.q", "${body}").text(s); wrong != rejectInput {
		t.Error(wrong)
	}
}

// A value never leaves the segment that it stands in.
func TestSegments(t *testing.T) {
	w := actiontest.New(t, services)
	k := reader()
	f := func(template, answer, want string) {
		t.Helper()
		x := w.Exchange("/")
		defer x.Close()
		s := &scope{x: x, values: []*document.Value{parsed(t, answer), nil}}
		got, wrong := k.template("path", template).segments(s)
		if want == "" {
			if wrong != rejectValue {
				t.Errorf("%s of %s: %q %v", template, answer, got, wrong)
			}
		} else if wrong != nil || string(got) != want {
			t.Errorf("%s of %s: %q %v", template, answer, got, wrong)
		}
	}
	f("/u/${calls.a}/o", `"7"`, "/u/7/o")
	f("/u/${calls.a}", `"a b?c#d%2Fé;x"`, "/u/a b?c#d%2Fé;x")
	f("/u/${calls.a}", `"..."`, "/u/...")
	for _, bad := range []string{`""`, `null`, `"a/b"`, `"/"`, `".."`, `"."`, `"..;x"`, `".;"`, `"a\\b"`, `"a\u0000"`, `"a\r\nb"`, `"\u007f"`, `{}`, `[1]`} {
		f("/u/${calls.a}", bad, "")
		f("/u/${calls.a}/x", bad, "")
	}
	f("/u/.${calls.a}", `"."`, "")
	f("/u/${calls.a}${calls.a}", `"."`, "")
}

func FuzzSegments(f *testing.F) {
	for _, s := range []string{"7", "..", "a/b", "%2e%2e", "..;", "\\", "é", "\x00"} {
		f.Add(s)
	}
	k := reader()
	path := k.template("path", "/u/${calls.a}/o")
	f.Fuzz(func(t *testing.T, value string) {
		s := &scope{values: []*document.Value{parsed(t, string(document.Quote(value))), nil}}
		got, wrong := path.segments(s)
		if wrong != nil {
			return
		}
		slashes := 0
		for _, c := range got {
			if c == '/' {
				slashes++
			}
		}
		if slashes != 3 || action.LeavesSegment(got) {
			t.Errorf("%q becomes %q", value, got)
		}
	})
}

func TestPayload(t *testing.T) {
	w := actiontest.New(t, services)
	x := w.Exchange("/?q=say%20%22hi%22")
	defer x.Close()
	s := &scope{x: x, body: parsed(t, `{"n":1.10}`), values: []*document.Value{parsed(t, `{"id":7.0,"o":{"b":1,"a":2},"items":[{"id":1},{"id":"2"}]}`), nil}}
	k := reader()
	f := func(v any, want string) {
		t.Helper()
		got, wrong := k.payload("body", v).fill(s, 1000)
		if wrong != nil || string(got) != want {
			t.Errorf("%v: %s %v", v, got, wrong)
		}
	}
	f("${body}", `{"n":1.10}`)
	f(map[string]any{"id": "${calls.a.id}", "o": "${calls.a.o}", "t": "is ${calls.a.id}", "q": "${query.q}", "none": "${calls.a.x}", "n": int64(5)},
		`{"id":7.0,"n":5,"none":null,"o":{"b":1,"a":2},"q":"say \"hi\"","t":"is 7.0"}`)
	f([]any{"${calls.a.items[*].id}", "${calls.b[*]}", "${calls.b}", true, nil, "x"}, `[[1,"2"],[],null,true,null,"x"]`)
	if _, wrong := k.payload("body", "${calls.a}").fill(s, 10); wrong != rejectLarge {
		t.Error(wrong)
	}
}

// merging builds a document of answers, "" for one that failed.
func merging(t *testing.T, settings string, answers ...string) string {
	t.Helper()
	w := actiontest.New(t, services)
	block, err := config.ParseBlock("routes.users.aggregate", settings)
	if err != nil {
		t.Fatal(err)
	}
	c := &Config{}
	if errs := block.Decode(c); len(errs) > 0 {
		t.Fatal(errs)
	}
	k := newCompiler(&action.Build{
		World: w.World.World, Route: &exchange.Route{Name: "users"}, RouteConfig: &config.Route{}, Path: "routes.users.aggregate",
		Service: func(name string) *upstream.Service { return w.Services[name] },
	}, c)
	a := k.compile()
	if len(k.errs) > 0 {
		t.Fatal(k.errs)
	}
	r := &run{a: a}
	for _, text := range answers {
		r.values = append(r.values, parsed(t, text))
		r.partial = r.partial || text == ""
	}
	body, fits := a.merge(a, r, nil)
	if !fits {
		return "too large"
	}
	return string(body)
}

func TestMerge(t *testing.T) {
	f := func(settings, want string, answers ...string) {
		t.Helper()
		if got := merging(t, settings, answers...); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", settings, got, want)
		}
	}
	const call = "{service: users, path: /}"
	f("calls: {z: "+call+", a: "+call+"}", `{"z":{"b": 1.0,"a":2},"a":[1e400]}`, ` {"b": 1.0,"a":2} `, `[1e400]`)
	f("calls: {z: "+call+", a: {service: users, path: /, target: 'the \"a\"'}}", `{"the \"a\"":1,"partial":true}`, ``, `1`)
	f("{merge: flat, calls: {z: "+call+", a: "+call+"}}", `{"x":3,"y":2,"w":0.10}`, `{"x":1,"y":2}`, `{"x":3,"w":0.10}`)
	f("{merge: flat, calls: {z: "+call+", a: {service: users, path: /, target: a}}}", `{"partial":true,"x":1,"a":[]}`, `{"partial":false,"x":1}`, `[]`, ``)
	const first = "{merge: list, key: id, calls: {u: " + call + ", o: "
	f(first+call+"}}", `{"items":[{"id":1,"n":"a","t":5},{"id":"1","n":"b"},7,{"n":"c"}]}`,
		`[{"id":1,"n":"x"},{"id":"1","n":"b"},7,{"n":"c"}]`, `[{"id":1,"n":"a","t":5},{"id":2,"t":6},{"t":7},8]`)
	f(first+"{service: users, path: /, key: user, target: orders, many: true}}}", `{"items":[{"id":1,"orders":[{"user":1,"o":1},{"user":1,"o":2}]},{"id":2,"orders":[]}]}`,
		`[{"id":1},{"id":2}]`, `[{"user":1,"o":1},{"user":3},{"user":1,"o":2}]`)
	f(first+"{service: users, path: /, target: o}}}", `{"items":[{"id":1,"o":{"id":1,"x":2}},{"id":2}]}`, `[{"id":1},{"id":2}]`, `[{"id":1},{"id":1,"x":2}]`)
	f(first+"{service: users, path: /, target: o, many: true}}}", `{"items":[{"id":1}],"partial":true}`, `[{"id":1}]`, ``)
	f(first+call+"}}", `{"items":[],"partial":true}`, ``, `[{"id":1}]`)
	// What is joined to many elements stands in all of them: the document is bounded beside the answers.
	elements := `[{"id":1}` + strings.Repeat(`,{"id":1}`, 1000) + `]`
	f("{merge: list, key: id, max_response: 16KiB, calls: {u: "+call+", o: {service: users, path: /, target: o, many: true}}}", "too large", elements, elements)
}

func TestFreshness(t *testing.T) {
	f := func(want string, lines ...string) {
		t.Helper()
		var fresh freshness
		for _, line := range lines {
			out := outcome{says: line != ""}
			out.control.Add([]byte(line))
			fresh.add(&out)
		}
		if got := fresh.control(); got != want {
			t.Errorf("%q: %q, want %q", lines, got, want)
		}
	}
	f("", "", "")
	f("max-age=5", "max-age=10", "max-age=5")
	f("max-age=3", "max-age=10, s-maxage=3", "public, max-age=5")
	f("no-store", "max-age=10", "")
	f("no-store", "max-age=10", "no-store")
	f("private, max-age=1", "private, max-age=1", "max-age=10")
	f("no-cache", "no-cache", "")
	var fresh freshness
	fresh.add(&outcome{varies: []string{"Accept-Encoding", " Accept-Language"}})
	fresh.add(&outcome{varies: []string{"accept-language", "Origin"}})
	if got := fresh.vary(); got != "Accept-Language, Origin" {
		t.Error(got)
	}
}

func TestIsJSON(t *testing.T) {
	for text, want := range map[string]bool{
		"application/json": true, "Application/JSON; charset=utf-8": true, "application/problem+json": true, "text/json": false, "text/plain": false, "": false, "application/jsonx": false,
	} {
		if isJSON([]byte(text)) != want {
			t.Error(text)
		}
	}
}
