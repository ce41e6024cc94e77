package config

import (
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const entriesText = `version: 1
listeners: {main: {address: ":0"}}
policies:
  rate_limit: {requests: 5, per: 1s}
services:
  users:
    endpoints: ["http://127.0.0.1:1/base", {url: "http://127.0.0.1:2", weight: 2}]
    timeouts: {response: 5s}
    policies: {api_key: {header: X-Service-Key}}
  other:
    endpoints: ["http://127.0.0.1:3"]
consumers:
  alice:
    hmac: [{username: a, secret: hush-alice-hush-alice-hush-alice-1}]
  bob:
    hmac: [{username: b, secret: hush-bob-hush-bob-hush-bob-hush-bob}]
routes:
  users:
    match: {paths: [/api/v1/users], headers: {X-Api-Key: hush-header}}
    service: users
    retries: off
    policies:
      jwt: {secret: hush-jwt}
  posts:
    match: {paths: [/api/v1/users], methods: [POST]}
    service: users
  side: {match: {paths: [/side], hosts: [a.example]}, service: other}
`

// Each edit is applied where its text is found.
var entriesEdits = [][2]string{
	{"version: 1\n", "version: 1\n# moves every line\n\n"},
	{"secret: hush-alice", "secret: hush-ecila"}, {"username: a, ", "username: c, "},
	{"    hmac: [{username: b, secret: hush-bob-hush-bob-hush-bob-hush-bob}]\n", "    groups: [x]\n"},
	{"  bob:\n    hmac: [{username: b, secret: hush-bob-hush-bob-hush-bob-hush-bob}]\n", ""},
	{"hush-header", "hush-other"}, {"hush-jwt", "hush-next"}, {"127.0.0.1:2", "127.0.0.1:4"},
	{"retries: off", "retries: {attempts: 2}"}, {"    retries: off\n", ""},
	{"service: users\n    retries", "service: users\n    strip_prefix: false\n    retries"},
	{"service: other}", "service: other, strip_prefix: true}"}, {"hosts: [a.example]", "hosts: []"},
	{"methods: [POST]", "methods: [\"POST\"]"}, {"paths: [/side]", "paths: \"/side\""}, {"paths: [/side]", "paths: [/side, /more]"},
	{"paths: [/side], hosts: [a.example]", "hosts: [a.example], paths: [/side]"},
	{"requests: 5", "requests: 6"}, {"X-Service-Key", "X-Other"}, {"weight: 2", "weight: 3"}, {"weight: 2", "weight: 1"},
	{"response: 5s", "response: 5000ms"}, {"address: \":0\"", "address: \":1\""},
	{"  posts:\n", "  renamed:\n"}, {"routes:\n", "routes:\n  fresh: {match: {paths: [/fresh]}, service: other}\n"},
}

// What is told by entries has to be what whole views tell.
func TestEntriesDiffAsWholeViewsDo(t *testing.T) {
	if _, err := Parse("sluice.yaml", []byte(entriesText), Options{}); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	var all []*Config
	for round := range 60 {
		text := entriesText
		for range min(round, 1+round%4) {
			edit := entriesEdits[r.IntN(len(entriesEdits))]
			text = strings.Replace(text, edit[0], edit[1], 1)
		}
		if c, err := Parse("sluice.yaml", []byte(text), Options{}); err == nil {
			all = append(all, c)
		}
	}
	for i, edit := range entriesEdits {
		if !strings.Contains(entriesText, edit[0]) {
			t.Errorf("edit %d finds nothing", i)
		}
		if c, err := Parse("sluice.yaml", []byte(strings.Replace(entriesText, edit[0], edit[1], 1)), Options{}); err == nil {
			all = append(all, c)
		}
	}
	if len(all) < 50 {
		t.Fatalf("only %d configurations are valid", len(all))
	}
	changed, same := 0, 0
	for _, a := range all {
		for range 10 {
			b := all[r.IntN(len(all))]
			from, to := a.View().(map[string]any), b.View().(map[string]any)
			for _, section := range EntrySections() {
				x, _ := from[section].(map[string]any)
				y, _ := to[section].(map[string]any)
				ex, ey := a.Entries(section), b.Entries(section)
				if !slices.Equal(slices.Sorted(slices.Values(ex.Names())), slices.Sorted(maps.Keys(x))) {
					t.Fatal(section, ex.Names(), x)
				}
				for _, name := range slices.Concat(ex.Names(), ey.Names()) {
					if ex.Has(name) != (x[name] != nil) || !reflect.DeepEqual(ex.View(name), x[name]) {
						t.Fatalf("%s.%s is viewed otherwise alone", section, name)
					}
					want := DiffValues("", x[name], y[name])
					if got := DiffValues("", ex.View(name), ey.View(name)); !reflect.DeepEqual(got, want) {
						t.Fatalf("%s.%s: got %v, want %v", section, name, got, want)
					}
					if !ex.Same(ey, name) {
						changed++
						continue
					}
					if same++; len(want) > 0 {
						t.Fatalf("%s.%s counts as the same, and has changed: %v", section, name, want)
					}
				}
				delete(from, section)
				delete(to, section)
			}
			delete(from, "policies")
			delete(to, "policies")
			if got, want := DiffValues("", a.ViewRest(), b.ViewRest()), DiffValues("", from, to); !reflect.DeepEqual(got, want) {
				t.Fatalf("the rest: got %v, want %v", got, want)
			}
		}
	}
	if changed == 0 || same < changed {
		t.Errorf("%d entries count as changed and %d as the same", changed, same)
	}
}
