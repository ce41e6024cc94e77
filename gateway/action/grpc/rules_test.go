package grpc

import (
	"strings"
	"testing"
)

func TestParseTemplate(t *testing.T) {
	f := func(path, want string) {
		t.Helper()
		tpl, err := parseTemplate(path)
		if err != nil {
			if want != "" {
				t.Errorf("%s: %v", path, err)
			}
			return
		}
		got := strings.Join(tpl.segments, "/")
		if tpl.verb != "" {
			got += ":" + tpl.verb
		}
		for i := range tpl.variables {
			v := &tpl.variables[i]
			got += " " + strings.Join(v.field, ".") + "=" + v.value(tpl.segments)
		}
		if got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	f("/v1/a", "v1/a")
	f("/", "")
	f("/v1/{name}", "v1/* name=*")
	f("/v1/{name=**}", "v1/** name=**")
	f("/v1/{name=a/*/b/*}/c:verb", "v1/a/*/b/*/c:verb name=a/*/b/*")
	f("/v1/{a.b}/{c}:x", "v1/*/*:x a.b=* c=*")
	f("/v1/*/x/**", "v1/*/x/**")
	f("/v1/a:b", "v1/a:b")
	for _, bad := range []string{
		"", "v1", "/v1/", "/v1//a", "/v1/{", "/v1/{}", "/v1/{a", "/v1/{a}b", "/v1/{a}/", "/v1/x{a}", "/v1/**/a", "/v1/{a=**}/b", "/v1/{a={b}}",
		"/v1/{a=}", "/v1/{a..b}", "/v1/a:", "/v1/a*",
	} {
		f(bad, "")
	}
}

func TestFind(t *testing.T) {
	var root table
	for _, rule := range []string{
		"GET /v1/items/{name}", "GET /v1/items/best", "POST /v1/items/{name}:do", "GET /v1/{name=items/**}", "GET /v1/{a}/{b}/c", "* /any", "POST /v1/items:do",
	} {
		method, path, _ := strings.Cut(rule, " ")
		tpl, err := parseTemplate(path)
		if err != nil {
			t.Fatal(err)
		}
		if root.insert(tpl, method, &binding{path: rule}) != nil {
			t.Fatal("twice")
		}
	}
	f := func(method, path, want string) {
		t.Helper()
		b, _, allowed := root.find(method, path)
		got := strings.Join(allowed, ",")
		if b != nil {
			got = b.path
		}
		if got != want {
			t.Errorf("%s %s: %q, want %q", method, path, got, want)
		}
	}
	f("GET", "/v1/items/best", "GET /v1/items/best")
	f("GET", "/v1/items/other", "GET /v1/items/{name}")
	f("GET", "/v1/items/a/b", "GET /v1/{name=items/**}")
	f("GET", "/v1/items/a/c", "GET /v1/{name=items/**}")
	f("GET", "/v1/things/a/c", "GET /v1/{a}/{b}/c")
	f("POST", "/v1/items/a:do", "POST /v1/items/{name}:do")
	f("GET", "/v1/items/a:do", "GET /v1/items/{name}")
	f("POST", "/v1/items/a", "GET")
	f("POST", "/v1/items:do", "POST /v1/items:do")
	f("PURGE", "/any", "* /any")
	f("GET", "/v2", "")
	f("GET", "/v1/items/", "GET /v1/{name=items/**}")
}

func TestPathAt(t *testing.T) {
	f := func(data, want string) {
		t.Helper()
		offset := strings.IndexByte(data, '^')
		if got := pathAt([]byte(strings.Replace(data, "^", "", 1)), offset); got != want {
			t.Errorf("%s: %q, want %q", data, got, want)
		}
	}
	f(`^{"a":1}`, "")
	f(`{"a":^1}`, "a")
	f(`{"a":1,"b":^"x"}`, "b")
	f(`{"a":{"b":[1,{"c":^true}]}}`, "a.b[1].c")
	f(`{"a":[1,2,^3]}`, "a[2]")
	f(`{"a":{},"b":{"c":^1}}`, "b.c")
	f(`{^"a":1}`, "a")
}

func FuzzTemplate(f *testing.F) {
	f.Add("/v1/{name=a/*}/b:c", "/v1/a/x/b:c")
	f.Fuzz(func(t *testing.T, rule, path string) {
		tpl, err := parseTemplate(rule)
		if err != nil {
			return
		}
		var root table
		root.insert(tpl, "GET", &binding{variables: tpl.variables})
		if b, segments, _ := root.find("GET", path); b != nil {
			for i := range b.variables {
				_ = b.variables[i].value(segments)
			}
		}
	})
}
