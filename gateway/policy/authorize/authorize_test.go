package authorize

import (
	"strings"
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

// claims are words by claim.
type claims map[string]string

func (c claims) Claim(path string) ([]byte, bool) {
	v, ok := c[path]
	return []byte(v), ok
}

func (c claims) ClaimHas(path, value string) bool {
	for word := range strings.SplitSeq(c[path], " ") {
		if word == value && word != "" {
			return true
		}
	}
	return false
}

func world(t testing.TB) *policytest.World {
	return policytest.New(t, "consumers: {staff: {groups: [staff]}, both: {groups: [staff, banned]}, none: {}}")
}

func TestAuthorize(t *testing.T) {
	w := world(t)
	f := func(settings, consumer string, c claims, want string) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		x := w.Exchange("/")
		defer x.Close()
		x.Identity.Consumer = w.Consumers[consumer]
		if c != nil {
			x.Identity.Claims, x.Identity.Authenticated = c, true
		}
		got := ""
		if err := h.Request(x); err != nil {
			got = err.Error()
			if err.(*exchange.Reject).Status != 403 {
				t.Errorf("status of %v", err)
			}
		}
		if got != want {
			t.Errorf("%s for %s with %v: %q, want %q", settings, consumer, c, got, want)
		}
	}
	const no, unscoped = "forbidden", "insufficient_scope"

	f("groups: {allow: [staff, admin]}", "staff", nil, "")
	f("groups: {allow: [staff]}", "none", nil, no)
	f("groups: {allow: [staff]}", "", nil, no)
	f("groups: {allow: [staff]}", "", claims{"groups": "guests staff"}, "")
	f("groups: {allow: [staff]}", "", claims{"groups": "guests"}, no)
	f("groups: {allow: [staff]}", "none", claims{"groups": "staff"}, no)
	f("groups: {deny: [banned]}", "staff", nil, "")
	f("groups: {deny: [banned]}", "both", nil, no)
	f("groups: {deny: [banned]}", "", claims{}, "")
	f("groups: {deny: [banned]}", "", nil, no)
	f("groups: {allow: [staff], deny: [banned]}", "both", nil, no)

	f("scopes: [read, write]", "", claims{"scope": "write read x"}, "")
	f("scopes: [read, write]", "", claims{"scp": "write read"}, "")
	f("scopes: [read, write]", "", claims{"scope": "read"}, unscoped)
	f("scopes: [read]", "", claims{}, unscoped)
	f("scopes: [read]", "staff", nil, unscoped)

	f("claims: {role: [admin, ops], tier: gold}", "", claims{"role": "ops", "tier": "gold"}, "")
	f("claims: {role: [admin, ops], tier: gold}", "", claims{"role": "ops"}, no)
	f("claims: {role: [admin, ops]}", "staff", nil, no)
	f("claims: {email_verified: true}", "", claims{"email_verified": "true"}, "")
	f("{groups: {allow: [staff]}, scopes: [read]}", "staff", claims{"scope": "read"}, "")
	f("{groups: {allow: [staff]}, scopes: [read]}", "none", claims{"scope": "read"}, no)
}

func TestScopesAreNamed(t *testing.T) {
	w := world(t)
	h := w.MustBuild(t, Definition, "scopes: [read, write]")
	x := w.Exchange("/")
	x.Identity.Authenticated = true
	err := h.Request(x).(*exchange.Reject)
	if got := string(err.Headers[0].Value); got != `Bearer error="insufficient_scope", scope="read write"` {
		t.Fatal(got)
	}
}

func TestBuildFailure(t *testing.T) {
	w := world(t)
	f := func(settings, want string) {
		t.Helper()
		w.Fails(t, Definition, settings, want)
	}
	f("{}", "no condition")
	f("claims: {role: []}", "has no value")
	f("scopes: ['a b']", "is no scope")
	f("group: {}", "did you mean groups?")
}

func TestAllocations(t *testing.T) {
	w := world(t)
	h := w.MustBuild(t, Definition, "{groups: {allow: [staff], deny: [banned]}, scopes: [read], claims: {role: admin}}")
	var c exchange.Claims = claims{"scope": "read", "role": "admin"}
	for name, want := range map[string]error{"staff": nil, "none": forbidden} {
		w.NoAllocations(t, name, func(x *exchange.Exchange) {
			x.Identity.Consumer, x.Identity.Claims = w.Consumers[name], c
			if err := h.Request(x); err != want {
				t.Fatal(err)
			}
		})
	}
}
