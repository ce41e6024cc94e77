package botfilter

import (
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func TestFilter(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings, agent string, pass bool) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		var headers []string
		if agent != "" {
			headers = []string{"User-Agent: " + agent}
		}
		x := w.Exchange("/", headers...)
		defer x.Close()
		if err := h.Request(x); err != nil && err != refused || (err == nil) != pass {
			t.Errorf("%s, %q: %v", settings, agent, err)
		}
	}
	f("deny: ['(?i)badbot', '^curl/']", "Mozilla/5.0 BadBot", false)
	f("deny: ['(?i)badbot', '^curl/']", "curl/8", false)
	f("deny: ['(?i)badbot', '^curl/']", "libcurl/8", true)
	f("deny: ['(?i)badbot', '^curl/']", "CURL/8", true)
	f("deny: [badbot]", "", true)
	f("deny: ['^$']", "", false)
	f("deny: ['^$']", "x", true)
	f("{deny: [bot], allow: [goodbot]}", "goodbot", true)
	f("{deny: [bot], allow: [goodbot]}", "bot", false)
	f("{deny: [bot], allow: [goodbot]}", "Mozilla", true)
	f("allow: [Mozilla, 'a|b']", "Mozilla", true)
	f("allow: [Mozilla, 'a|b']", "b", true)
	f("allow: [Mozilla, 'a|b']", "curl", false)
	f("allow: [Mozilla]", "", false)
}

func TestBuildFailure(t *testing.T) {
	w := policytest.New(t, "")
	w.Fails(t, Definition, "{}", "names no pattern")
	w.Fails(t, Definition, "deny: [ok, '(']", "bot_filter.deny[1]: missing closing )")
	w.Fails(t, Definition, "deny: ['a)|(b']", "bot_filter.deny[0]: unexpected )")
}

func TestAllocations(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{deny: ['(?i)badbot|crawler/[0-9.]+', '^curl/'], allow: ['goodbot$']}")
	for agent, want := range map[string]error{"Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101": nil, "curl/8": refused, "x goodbot": nil} {
		w.NoAllocations(t, agent, func(x *exchange.Exchange) {
			if err := h.Request(x); err != want {
				t.Fatal(err)
			}
		}, "User-Agent: "+agent)
	}
}

func BenchmarkFilter(b *testing.B) {
	w := policytest.New(b, "")
	h := w.MustBuild(b, Definition, "deny: ['(?i)badbot|crawler/[0-9.]+', '^curl/']")
	x := w.Exchange("/", "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0")
	b.ReportAllocs()
	for b.Loop() {
		if err := h.Request(x); err != nil {
			b.Fatal(err)
		}
	}
}
