package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseTreeSuccess(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		n, errs := parseTree("f", []byte(text))
		if len(errs) > 0 {
			t.Errorf("%q: %v", text, errs)
			return
		}
		if got := string(n.canonical()); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
	f("", "null")
	f("# nothing\n", "null")
	f("---\na: 1\n", `{"a":1}`)
	f("\ufeffa: 1\r\nb: 2\r\n", `{"a":1,"b":2}`)
	f("{a: off, b: ~, c: , d: }", `{"a":"off","b":null,"c":null,"d":null}`)
	f("a: [1, 1.5, -2, 1e3, 0x10, 1_000, .5, 012]", `{"a":[1,1.5,-2,1000,"0x10","1_000",0.5,12]}`)
	f(`a: ["1", 'true', true, yes, 1.2.3]`, `{"a":["1","true",true,"yes","1.2.3"]}`)
	f("x: |\n  a\n  b\n", `{"x":"a\nb\n"}`)
	f("x: >-\n  a\n  b\n", `{"x":"a b"}`)
	f("{\"a\":\"b\",\"c\":[\"d:e\",{\"f\":null}]}", `{"a":"b","c":["d:e",{"f":null}]}`)

	// Texts with colons, in every bracket.
	f("{address: :8080, b: 127.0.0.1:9901, c: ::1}", `{"address":":8080","b":"127.0.0.1:9901","c":"::1"}`)
	f("[http://a:80, unix:/x, a:b:c, ::1]", `["http://a:80","unix:/x","a:b:c","::1"]`)
	f("{a: [http://a:80, x], b: [unix:/x]}", `{"a":["http://a:80","x"],"b":["unix:/x"]}`)
	f("{a: [::1, 2001:db8::/32 , y]}", `{"a":["::1","2001:db8::/32","y"]}`)
	f("{a: [\n  http://x:80,\n  z:1\n  ]}", `{"a":["http://x:80","z:1"]}`)
	f("{a: [b: c, {d: e}, \"x\":y]}", `{"a":[{"b":"c"},{"d":"e"},{"x":"y"}]}`)

	// Anchors, aliases, merge keys.
	f("a: &x {b: 1, c: [2]}\nd: *x\n", `{"a":{"b":1,"c":[2]},"d":{"b":1,"c":[2]}}`)
	f("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\n", `{"a":{"b":1,"c":2},"d":{"b":1,"c":3}}`)
	f("a: &x {b: 1}\nc: &y {b: 2, d: 3}\ne: {<<: [*x, *y]}\n", `{"a":{"b":1},"c":{"b":2,"d":3},"e":{"b":1,"d":3}}`)
	f("a: &x 1\nb: &x 2\nc: *x\n", `{"a":1,"b":2,"c":2}`)
}

func TestParseTreeFailure(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		_, errs := parseTree("f", []byte(text))
		if !strings.Contains(errs.Error(), want) {
			t.Errorf("%.100q: got %v, want %s", text, errs, want)
		}
	}
	f("a: &x [*x]\n", "f:1:8: a[0]: no anchor &x stands before this alias")
	f("a: *.example.com", "f:1:4: no anchor &.example.com stands before this alias; quote a text that begins with *")
	f("a: {<<: [1]}", "only blocks can be merged")
	f("{a:b}", "no space follows the colon")
	f("a: {k: ${X}}", "quote a text that has one of { } [ ] ,")
	f("a: 1\na: 2", "f:2:1: a: this key stands here a second time; the first is in line 1")
	f("a: {b: 1, b: 2}", "f:1:11: a.b: this key stands here a second time")
	f("a: \x01", "f:1:4: the file is not text")
	f(strings.Repeat("a", maxFileSize+1), "larger than 16 MiB")
	f(strings.Repeat("- ", 1<<20), "more than 64 levels")
	f(strings.Repeat("{a: ", 1<<18), "more than 64 levels")
	f(strings.Repeat("? ", 1<<18), "more than 64 levels")
	f(strings.Repeat("&a ", 1<<18), "not YAML")
	// What copies itself out deeper than a file may be.
	deep := "a0: &a0 {x: 1}\n"
	for i := range 3 {
		deep += fmt.Sprintf("a%d: &a%d %s*a%d%s\n", i+1, i+1, strings.Repeat("{x: ", 30), i, strings.Repeat("}", 30))
	}
	f(deep, "f:4:129: a3"+strings.Repeat(".x", 30)+": more than 64 levels of nesting, with the aliases copied out")
	// What the parser would need gigabytes for.
	f("a: ["+strings.Repeat("a,", 8<<20-8)+"]", "f:1:1: more than 2097152 lines")
	f(strings.Repeat("---\n", 4<<20-1), "f:1048577:1: more than 2097152 lines")
	f(strings.Repeat("a: 1\n", 3<<20), "f:1048577:1: more than 2097152 lines")
	f(strings.Repeat("a: b\n", 50_000), "f:101:1: the file has more mistakes than are told")
}

func TestPath(t *testing.T) {
	f := func(text string, want ...string) {
		t.Helper()
		segments, ok := parsePath(text)
		if !ok || len(segments) != len(want) {
			t.Fatalf("%s: got %v, %v", text, segments, ok)
		}
		for i, s := range segments {
			if s.String() != want[i] {
				t.Errorf("%s: got %v, want %v", text, segments, want)
			}
		}
	}
	f("a", "a")
	f("limits.idle_timeout", "limits", "idle_timeout")
	f(`routes["a.b"].match.paths[0]`, "routes", "a.b", "match", "paths", "[0]")
	f(`routes["a\"]b"][12][3].x`, "routes", `a"]b`, "[12]", "[3]", "x")
	f(`a.502.b`, "a", "502", "b")
	for _, bad := range []string{"", ".", "a.", "a..b", "a[", "a[x]", "a[-1]", `a["b]`, `a["b"]c`, "a]"} {
		if segments, ok := parsePath(bad); ok && bad != "a]" {
			t.Errorf("%q: got %v", bad, segments)
		}
	}
	if got := joinIndex(joinKey(joinKey("routes", "a.b"), "paths"), 3); got != `routes["a.b"].paths[3]` {
		t.Error(got)
	}
}
