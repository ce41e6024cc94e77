package apiversion

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"sluice/config"
	"sluice/gateway/document"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

func TestVersionsAreOrdered(t *testing.T) {
	f := func(less, more string) {
		t.Helper()
		a, errA := parseVersion(less)
		b, errB := parseVersion(more)
		if errA != nil || errB != nil || a.compare(b) >= 0 || b.compare(a) <= 0 {
			t.Errorf("%s is not before %s (%v, %v)", less, more, errA, errB)
		}
	}
	f("1", "2")
	f("v9", "10")
	f("1.9", "1.10")
	f("1", "1.0.1")
	f("2023-12-31", "2024-01-01")
	f("2024-01-02", "2024-01-10")
	for _, text := range []string{"", "v", "1.", ".1", "01", "1.2.3.4", "-1", "2024-1-1", "2024-02-30", "x", "1a"} {
		if _, err := parseVersion(text); err == nil {
			t.Errorf("%q was taken for a version", text)
		}
	}
}

func TestPathTemplate(t *testing.T) {
	f := func(template, path, version, rest string) {
		t.Helper()
		p, err := parsePathTemplate(template)
		if err != nil {
			t.Fatal(err)
		}
		got, from, to := p.find([]byte(path))
		if string(got) != version || path[:from]+path[to:] != rest {
			t.Errorf("%s in %s: %q, rest %q", template, path, got, path[:from]+path[to:])
		}
	}
	f("/v{version}", "/v2/users", "2", "/users")
	f("/v{version}", "/v2", "2", "")
	f("/v{version}", "/v2/", "2", "/")
	f("/v{version}", "/v2.1/x/v3", "2.1", "/x/v3")
	f("/v{version}", "/videos/1", "", "/videos/1")
	f("/v{version}", "/v/1", "", "/v/1")
	f("/{version}", "/2024-10-01/users", "2024-10-01", "/users")
	f("/{version}", "/v2/users", "v2", "/users")
	f("/api/v{version}", "/api/v2/users", "2", "/api/users")
	f("/api/v{version}", "/other/v2/users", "", "/other/v2/users")
	for _, bad := range []string{"v{version}", "/v", "/v{version}.json", "/{a}/{version}", "/v{version}/x"} {
		if _, err := parsePathTemplate(bad); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

const twoVersions = `
from: {query: version, path: "/v{version}"}
default: "1"
versions: {"1": {deprecated: 2026-01-01, sunset: 2026-06-01, link: /docs, successor: /v2}, "2": {}, "3": {}}
`

func TestWhereTheVersionStands(t *testing.T) {
	w := policytest.New(t, "consumers: {alice: {api_version: v2}, bob: {}}")
	h := w.MustBuild(t, Definition, twoVersions)
	f := func(consumer, target, want string, headers ...string) {
		t.Helper()
		x := w.Exchange(target, headers...)
		x.Identity.Consumer = w.Consumers[consumer]
		explained := h.Explain(x)
		err := h.Ahead(x)
		got := x.APIVersion
		if err != nil {
			got = err.Error()
		} else if !strings.Contains(explained, "version "+got+" ") {
			t.Errorf("%s: explained as %q", target, explained)
		}
		if got != want {
			t.Errorf("%s %s %v: %s, want %s", consumer, target, headers, got, want)
		}
	}
	f("", "/users", "1")
	f("bob", "/users", "1")
	f("alice", "/users", "2")
	f("alice", "/users?version=3", "3")
	f("alice", "/users?version=3", "1", "X-API-Version: 1")
	f("alice", "/v3/users?version=1", "3", "X-API-Version: 1")
	f("", "/users", "2", "x-api-version: v2")
	f("", "/users", "api_version_unknown", "X-API-Version: 4")
	f("", "/users", "api_version_unknown", "X-API-Version: latest")
	f("", "/users", "api_version_unknown", "X-API-Version: ")
	f("", "/users", "api_version_unknown", "X-API-Version: 1", "X-API-Version: 2")
	f("", "/users?version=1&version=2", "api_version_unknown")
	f("", "/v4/users", "api_version_unknown")
	f("", "/videos", "1")
	w = policytest.New(t, "consumers: {alice: {api_version: v7}}")
	w.Fails(t, Definition, twoVersions, "api_version: is no version of routes.users.policies.api_version; there are: 1, 2, 3")
}

func TestWhatClientsAreTold(t *testing.T) {
	w := policytest.New(t, "")
	told := func(settings, version string) (string, error) {
		h := w.MustBuild(t, Definition, settings)
		x := w.Exchange("/", "X-API-Version: "+version)
		err := h.Ahead(x)
		var b strings.Builder
		for _, e := range x.ToClient.List() {
			fmt.Fprintf(&b, "%s: %s\n", e.Name, e.Value)
		}
		return b.String(), err
	}
	got, err := told(twoVersions, "1")
	if want := "X-API-Version: 1\nDeprecation: @1767225600\nSunset: Mon, 01 Jun 2026 00:00:00 GMT\nLink: </docs>; rel=\"deprecation\"\n" +
		"Link: </v2>; rel=\"successor-version\"\nVary: X-API-Version\n"; got != want || err != nil {
		t.Errorf("%v\n%s", err, got)
	}
	if got, err = told(twoVersions, "3"); got != "X-API-Version: 3\nVary: X-API-Version\n" || err != nil {
		t.Errorf("%v\n%s", err, got)
	}
	gone := strings.Replace(twoVersions, "sunset: 2026-06-01", "sunset: 2026-06-01, enforce: true", 1)
	if got, err = told(gone, "1"); fmt.Sprint(err) != "api_version_gone" || !strings.Contains(got, "Sunset:") || !strings.Contains(got, "Deprecation:") {
		t.Errorf("%v\n%s", err, got) // the tests' clock is in 2027
	}
	if _, err = told(strings.Replace(gone, "2026-06-01", "2027-06-01", 1), "1"); err != nil {
		t.Error(err)
	}
}

func TestPatterns(t *testing.T) {
	f := func(pattern, path string, want bool) {
		t.Helper()
		w, err := compileWhere(&Change{Paths: []string{pattern}})
		if err != nil {
			t.Fatal(err)
		}
		if w.matches([]byte("GET"), []byte(path)) != want {
			t.Errorf("%s, %s: not %t", pattern, path, want)
		}
	}
	f("/users", "/users", true)
	f("/users", "/users/7", true)
	f("/users", "/users/", true)
	f("/users", "/usersx", false)
	f("/", "/anything", true)
	f("=/users", "/users", true)
	f("=/users", "/users/7", false)
	f("/users/{id}", "/users/7", true)
	f("/users/{id}", "/users", false)
	f("=/users/{id}/orders", "/users/7/orders", true)
	f("=/users/{id}/orders", "/users/7/orders/1", false)
	f("/users/{id}/orders", "/users/7/carts", false)
}

// compiled makes one change's step.
func compiled(t *testing.T, text string) *step {
	t.Helper()
	block, err := config.ParseBlock("change", text)
	if err != nil {
		t.Fatal(err)
	}
	var c Change
	if errs := block.Decode(&c); len(errs) > 0 {
		t.Fatal(errs)
	}
	w := &wrongs{build: &policy.Build{World: policytest.New(t, "").World, Path: "change"}}
	s := compileChange(w, "", &c)
	if len(w.errs) > 0 {
		t.Fatal(w.errs)
	}
	return s
}

func changed(t *testing.T, f func(*document.Value), text string) string {
	t.Helper()
	v, err := document.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if f != nil {
		f(v)
	}
	return string(v.Append(nil))
}

func TestChanges(t *testing.T) {
	f := func(change, old, current, back string) {
		t.Helper()
		s := compiled(t, change)
		if got := changed(t, s.up, old); got != current {
			t.Errorf("%s: up %s, want %s", change, got, current)
		}
		if got := changed(t, s.down, current); got != back {
			t.Errorf("%s: down %s, want %s", change, got, back)
		}
	}
	same := func(change, old, current string) { t.Helper(); f(change, old, current, old) }
	same(`{rename: {field: name, to: full_name}}`, `{"a":1.0,"name":"x","b":2}`, `{"a":1.0,"full_name":"x","b":2}`)
	same(`{rename: {field: "users[*].name", to: full_name}}`, `{"users":[{"name":"x"},{"id":1},{"name":null}]}`, `{"users":[{"full_name":"x"},{"id":1},{"full_name":null}]}`)
	same(`{rename: {field: "[*].id", to: key}}`, `[{"id":12345678901234567890}]`, `[{"key":12345678901234567890}]`)
	same(`{move: {field: "items[*].price", to: "items[*].cost.amount"}}`, `{"items":[{"price":1.10}]}`, `{"items":[{"cost":{"amount":1.10}}]}`)
	same(`{move: {field: data, to: $}}`, `{"data":{"a":1}}`, `{"a":1}`)
	same(`{add: {field: a.b, value: [1, x]}}`, `{"c":1}`, `{"c":1,"a":{"b":[1,"x"]}}`)
	f(`{remove: {field: legacy, value: false}}`, `{"legacy":true,"a":1}`, `{"a":1}`, `{"a":1,"legacy":false}`)
	f(`{default: {field: size, value: 20}}`, `{"a":1}`, `{"a":1,"size":20}`, `{"a":1,"size":20}`)
	f(`{default: {field: size, value: 20}}`, `{"size":5}`, `{"size":5}`, `{"size":5}`)
	same(`{split: {field: name, to: [first, last]}}`, `{"name":"Ada King Lovelace"}`, `{"first":"Ada","last":"King Lovelace"}`)
	same(`{split: {field: name, to: [first, last]}}`, `{"name":"Plato"}`, `{"first":"Plato"}`)
	same(`{split: {field: name, to: [first, last]}}`, `{"name":null}`, `{"name":null}`)
	same(`{split: {field: "[*].at", to: ["[*].t.day", "[*].t.hour"], separator: T}}`, `[{"at":"2024-01-01T10"}]`, `[{"t":{"day":"2024-01-01","hour":"10"}}]`)
	same(`{merge: {fields: [street, city], to: address, separator: ", "}}`, `{"street":"Main 1","city":"Ulm, Donau"}`, `{"address":"Main 1, Ulm, Donau"}`)
	same(`{map: {field: s, values: [{from: active, to: on_}, {from: 0, to: "zero"}, {from: null, to: none}]}}`, `{"s":"active"}`, `{"s":"on_"}`)
	same(`{map: {field: s, values: [{from: active, to: on_}, {from: 0, to: "zero"}, {from: null, to: none}]}}`, `{"s":0}`, `{"s":"zero"}`)
	same(`{map: {field: "s[*]", values: [{from: active, to: true}, {from: 0, to: "zero"}, {from: null, to: none}]}}`, `{"s":[null,"active",7,{}]}`, `{"s":["none",true,7,{}]}`)
	f(`{map: {field: s, values: [{from: a, to: x}, {from: b, to: x}]}, in: request}`, `{"s":"b"}`, `{"s":"x"}`, `{"s":"x"}`)
	f(`{rename: {field: a, to: b}, in: response}`, `{"a":1}`, `{"a":1}`, `{"a":1}`)
	// A member's name may be written with escapes.
	f(`{rename: {field: name, to: b}}`, `{"na\u006de":1}`, `{"b":1}`, `{"name":1}`)
}

// What a version has changed is undone on the way back, whatever the document: up and then down gives the document of the old version. The
// documents are such as that version has: without fields that it does not know.
func TestUpAndDownIsTheSame(t *testing.T) {
	names := []string{"a", "b", "c", "d"} // what changes are about is among them; n… are of the new version
	r := rand.New(rand.NewPCG(3, 4))
	var value func(depth int) any
	value = func(depth int) any {
		switch n := r.IntN(12); {
		case depth == 0 || n < 6:
			return []any{"x", "x y", "x y z", " ", "", json.Number("1.50"), json.Number("123456789012345678901"), true, nil, "on", "ü\"\\"}[r.IntN(11)]
		case n < 8:
			list := make([]any, r.IntN(4))
			for i := range list {
				list[i] = value(depth - 1)
			}
			return list
		default:
			m := map[string]any{}
			for range 1 + r.IntN(3) {
				m[names[r.IntN(len(names))]] = value(depth - 1)
			}
			return m
		}
	}
	paths := []string{"a", "a.b", "a[*].b", "[*].a", "[*].b[*].a", "c.a", "a[0].b", "b.c.d"}
	pick := func() string { return paths[r.IntN(len(paths))] }
	sibling := func(p, name string) string {
		if i := strings.LastIndexAny(p, "."); i >= 0 {
			return p[:i+1] + name
		}
		return name
	}
	under := func(p, rest string) string { // in the scope of p
		if i := strings.LastIndex(p, "[*]"); i >= 0 {
			return p[:i+3] + "." + rest
		}
		return rest
	}
	change := func() string {
		p := pick()
		switch r.IntN(6) {
		case 0:
			return fmt.Sprintf(`{rename: {field: %q, to: n1}}`, p)
		case 1:
			return fmt.Sprintf(`{move: {field: %q, to: %q}}`, p, under(p, []string{"n1", "n1.n2", "n1.n2.n3"}[r.IntN(3)]))
		case 2:
			return fmt.Sprintf(`{add: {field: %q, value: {x: [1]}}}`, sibling(p, "n1"))
		case 3:
			return fmt.Sprintf(`{split: {field: %q, to: [%q, %q]}}`, p, sibling(p, "n1"), under(p, "n2.n3"))
		case 4:
			return fmt.Sprintf(`{map: {field: %q, values: [{from: x, to: n1}, {from: true, to: n2}, {from: 1.5, to: 7}]}}`, p)
		default:
			return fmt.Sprintf(`{default: {field: %q, value: 1}, in: response}`, p)
		}
	}
	decode := func(text string) (v any) {
		d := json.NewDecoder(bytes.NewReader([]byte(text)))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return v
	}
	steps, texts := map[string]*step{}, 0
	for range 20_000 {
		root := any(map[string]any{"a": value(3), "b": value(3), "c": value(3)})
		if r.IntN(3) == 0 {
			root = []any{root, value(3)}
		}
		text, err := json.Marshal(root)
		if err != nil {
			t.Fatal(err)
		}
		c := change()
		if strings.HasPrefix(c, "{default") {
			continue
		}
		if steps[c] == nil {
			steps[c] = compiled(t, c)
		}
		current := changed(t, steps[c].up, string(text))
		back := changed(t, steps[c].down, current)
		if current != string(text) {
			texts++
		}
		if !reflect.DeepEqual(decode(back), decode(string(text))) {
			t.Fatalf("%s:\n%s\nup %s\ndown %s", c, text, current, back)
		}
		if strings.HasPrefix(c, "{rename") && back != string(text) {
			t.Fatalf("%s: %s came back as %s", c, text, back)
		}
	}
	if texts < 2000 {
		t.Errorf("only %d documents were changed", texts)
	}
}

func TestCurrentVersionAllocatesNothing(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, `
from: {query: version}
versions:
  "1": {deprecated: 2026-01-01}
  "2": {changes: [{rename: {field: a, to: b}}, {paths: [/users], headers: {rename: {X-Old: X-New}}}]}
`)
	run := func(x *exchange.Exchange) {
		if h.Ahead(x) != nil || h.Request(x) != nil || h.Response(x) != nil {
			t.Fatal("refused")
		}
	}
	w.NoAllocations(t, "the current version", run)
	w.NoAllocations(t, "an old version without a body", run, "X-API-Version: 1")
}
