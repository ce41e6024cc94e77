package config

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// window is a policy's settings as its owner would write them.
type window struct {
	Requests int                `yaml:"requests" required:"true" min:"1"`
	Per      Duration           `yaml:"per" default:"1m"`
	By       string             `yaml:"by" default:"consumer"`
	Excess   string             `yaml:"excess" enum:"reject|delay" default:"reject"`
	Methods  []string           `yaml:"methods" default:"GET,HEAD" enum:"GET|HEAD|POST"`
	Statuses []int              `yaml:"statuses" default:"200"`
	Max      Size               `yaml:"max" default:"64MiB"`
	Key      Secret             `yaml:"key"`
	Weights  map[string]float64 `yaml:"weights" min:"0"`
	Claims   map[string]any     `yaml:"claims"`
	Inner    *inner             `yaml:"inner"`
	Raw      *Block             `yaml:"raw"`
	Allow    []CIDR             `yaml:"allow"`
	Shadow   bool               `yaml:"shadow"`
}

type inner struct {
	URL    string  `yaml:"url" required:"true"`
	Sample float64 `yaml:"sample" default:"0.5" max:"1"`
}

func (inner) Shorthand() string { return "url" }

func (w *window) Validate() error {
	if w.By == "nobody" {
		return errors.Join(Errorf("by", "%q is not known", w.By), Errorf("weights.x", "no weight"), errors.New("in general"))
	}
	return nil
}

func TestBlockDecodeSuccess(t *testing.T) {
	f := func(text string, check func(w window)) {
		t.Helper()
		b, err := ParseBlock("policies.p", text)
		if err != nil {
			t.Fatal(err)
		}
		var w window
		if errs := b.Decode(&w); len(errs) > 0 {
			t.Fatalf("%s: %v", text, errs)
		}
		check(w)
	}
	f("{requests: 5}", func(w window) {
		equal(t, "defaults", w.Per, time.Minute)
		equal(t, "defaults", w.Methods, []string{"GET", "HEAD"})
		equal(t, "defaults", w.Statuses, []int{200})
		equal(t, "defaults", w.Max, 64<<20)
		equal(t, "left out", w.Inner, nil)
	})
	f("{requests: '5', per: 1d, excess: delay, methods: [POST], statuses: [404, '500'], max: 1KB, key: abc, weights: {a: 1, b: 0.5}, shadow: on}", func(w window) {
		equal(t, "requests", w.Requests, 5)
		equal(t, "per", w.Per, 24*time.Hour)
		equal(t, "statuses", w.Statuses, []int{404, 500})
		equal(t, "max", w.Max, 1000)
		equal(t, "key", w.Key.Reveal(), "abc")
		equal(t, "weights", w.Weights, map[string]float64{"a": 1, "b": 0.5})
		equal(t, "shadow", w.Shadow, true)
	})
	f("{requests: 5, claims: {a: 1, b: [x, true], c: {d: '1'}, e: ~}, inner: 'http://x', raw: {anything: [1]}, allow: [10.0.0.0/8, '::1'], by: '${claim.sub}'}", func(w window) {
		equal(t, "claims", w.Claims, map[string]any{"a": int64(1), "b": []any{"x", true}, "c": map[string]any{"d": "1"}, "e": nil})
		equal(t, "shorthand", *w.Inner, inner{URL: "http://x", Sample: 0.5})
		equal(t, "raw", string(w.Raw.Canonical()), `{"anything":[1]}`)
		equal(t, "raw path", w.Raw.Path(), "policies.p.raw")
		equal(t, "allow", w.Allow[1].String(), "::1/128")
		equal(t, "template", w.By, "${claim.sub}")
	})
}

func TestBlockDecodeFailure(t *testing.T) {
	f := func(text string, want ...string) {
		t.Helper()
		b, err := ParseBlock("policies.p", text)
		if err != nil {
			t.Fatal(err)
		}
		var w window
		equal(t, text, b.Decode(&w).Error(), strings.Join(want, "\n"))
	}
	f("{}", "block:1:1: policies.p.requests: this setting is missing; want a whole number")
	f("~", "block:1:1: policies.p.requests: this setting is missing; want a whole number")
	f("on", "block:1:1: policies.p.requests: this setting is missing; want a whole number")
	f("off", "block:1:1: policies.p: this block can not be turned off; want a block of settings")
	f("7", "block:1:1: policies.p: found a single value, want a block of settings")
	f("requests: 0\nexces: delay\nmethods: [GET, PUT]\nweights: {a: -1}\ninner: {sample: 2}\n",
		"block:1:11: policies.p.requests: 0 is out of range; it must be at least 1",
		"block:2:1: policies.p.exces: unknown setting; did you mean excess?",
		`block:3:16: policies.p.methods[1]: "PUT" is not one of GET, HEAD, POST`,
		"block:4:14: policies.p.weights.a: -1 is out of range; it must be at least 0",
		"block:5:1: policies.p.inner.url: this setting is missing; want a text",
		"block:5:17: policies.p.inner.sample: 2 is out of range; it must be at most 1")
	f("{requests: 1, key: '${secret}'}", "block:1:20: policies.p.key: ${secret} is no environment variable, whose names are upper case, and this setting takes no templates; write ${SECRET}, or $${ for a literal ${")
	f("{requests: 1,\nby: nobody}",
		"block:1:1: policies.p: in general",
		"block:1:1: policies.p.weights.x: no weight",
		`block:2:5: policies.p.by: "nobody" is not known`)
}

func TestBlock(t *testing.T) {
	b, err := ParseBlock("policies.p", "[{requests: 1}, {requests: 2}]")
	if err != nil {
		t.Fatal(err)
	}
	items := b.Items()
	equal(t, "items", len(items), 2)
	equal(t, "path", items[1].Path(), "policies.p[1]")
	equal(t, "error", items[1].Errorf("requests", "bad").Error(), "block:1:28: policies.p[1].requests: bad")
	same, err := ParseBlock("other", "[{requests: 1},\n  {'requests': 2}] # the same")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "equal", b.Equal(same), true)
	equal(t, "not equal", b.Equal(items[0]), false)
	equal(t, "item of itself", items[0].Items()[0], items[0])
	for text, want := range map[string]bool{"off": true, "false": true, "on": false, "{}": false, "": false, "[]": false} {
		b, err := ParseBlock("p", text)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, text, b.Off(), want)
	}
}

func TestScalars(t *testing.T) {
	duration := func(text string, want Duration) {
		t.Helper()
		got, err := ParseDuration(text)
		if err != nil || got != want {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
	duration("0", 0)
	duration("0s", 0)
	duration("250ms", 250*time.Millisecond)
	duration("1.5h", 90*time.Minute)
	duration("1h30m", 90*time.Minute)
	duration("1d", 24*time.Hour)
	duration("1.5d", 36*time.Hour)
	duration("1d12h", 36*time.Hour)
	for _, bad := range []string{"", "5", "1.5", "-1s", "1y", "s", "1d-1h", "dd", "NaNd", "1e3d", "9999999d", "9999999h", "1 s", "1d1d"} {
		if d, err := ParseDuration(bad); err == nil {
			t.Errorf("%q is read as %v", bad, d)
		}
	}
	for want, d := range map[string]Duration{"0s": 0, "75s": 75 * time.Second, "5m": 5 * time.Minute, "90m": 90 * time.Minute, "2d": 48 * time.Hour, "1500ms": 1500 * time.Millisecond, "1ns": 1} {
		equal(t, "FormatDuration", FormatDuration(d), want)
	}
	size := func(text string, want Size) {
		t.Helper()
		var got Size
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
	size("0", 0)
	size("4096", 4096)
	size("64KiB", 64<<10)
	size("10 MiB", 10<<20)
	size("1MB", 1e6)
	size("5B", 5)
	for _, bad := range []string{"", "-1", "1.5MiB", "MiB", "9999999999TiB", "1 K", "1KIB"} {
		var s Size
		if s.UnmarshalText([]byte(bad)) == nil {
			t.Errorf("%q is read as %v", bad, s)
		}
	}
	for _, text := range []string{"0", "64KiB", "10MiB", "1000"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s.String() != text {
			t.Errorf("%s: %v, %v", text, s, err)
		}
	}
	for text, want := range map[string]Percent{"0%": 0, "50%": 0.5, "2.5%": 0.025, "100%": 1} {
		var p Percent
		if err := p.UnmarshalText([]byte(text)); err != nil || p != want || p.String() != text {
			t.Errorf("%s: %v, %v", text, p, err)
		}
	}
	for text, want := range map[string]string{"10.0.0.0/8": "10.0.0.0/8", "192.0.2.7": "192.0.2.7/32", "::1": "::1/128", "::ffff:10.0.0.1": "10.0.0.1/32", "::ffff:10.0.0.0/104": "10.0.0.0/8"} {
		var c CIDR
		if err := c.UnmarshalText([]byte(text)); err != nil || c.String() != want {
			t.Errorf("%s: %v, %v", text, c, err)
		}
	}
}

// What stands in the query of a URL under the name of a secret is hidden with the rest.
func TestRedactURL(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if got := redactURL(text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	f("http://user:word@idp/k?token=a&b=c#d", "http://***@idp/k?token=***&b=c#d")
	f("https://idp/k?a=b&api_key=1&sig=2", "https://idp/k?a=b&api_key=***&sig=***")
	f("no url? token=1", "no url? token=1")
}
