package cache

import (
	"bytes"
	"hash/maphash"
	"strconv"
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

// claims are words by claim.
type claims map[string]string

func (c claims) Claim(path string) ([]byte, bool) {
	v, ok := c[path]
	return []byte(v), ok
}

func (c claims) ClaimHas(string, string) bool { return false }

// Whether what differs between two requests makes their keys differ.
func TestKeys(t *testing.T) {
	w := policytest.New(t, "")
	shared, _ := newShared()
	f := func(vary string, differ bool, change func(x *exchange.Exchange), head ...string) {
		t.Helper()
		c := &cacher{shared: shared}
		var err error
		if c.dimensions, err = dimensionsOf([]string{vary}); err != nil {
			t.Fatal(err)
		}
		var keys [2][]byte
		for i := range keys {
			h := []string{"X-A: 1", "Authorization: Bearer a"}
			if i > 0 {
				h = append(h, head...)
			}
			x := w.Exchange("/a?q=1&p=2", h...)
			if i > 0 {
				change(x)
			}
			keys[i] = c.makeKey(nil, x, classGET)
			if n := uriLen(keys[i][uriAt:]); n > len(keys[i])-uriAt {
				t.Errorf("the URI is said to have %d bytes", n)
			}
			x.Close()
		}
		if bytes.Equal(keys[0], keys[1]) == differ {
			t.Errorf("%s, %v: the keys differ: %t", vary, head, !differ)
		}
	}
	same := func(*exchange.Exchange) {}
	caller := func(name string) func(x *exchange.Exchange) {
		return func(x *exchange.Exchange) {
			x.Identity = exchange.Identity{Authenticated: true, Subject: []byte(name), Claims: claims{"tier": name}}
		}
	}
	f("path:id", false, same)
	f("path:id", true, func(x *exchange.Exchange) { x.Path = []byte("/b") })
	f("path:id", true, func(x *exchange.Exchange) { x.Query = []byte("q=1") })
	f("path:id", true, func(x *exchange.Exchange) { x.SetUpstreamQuery(nil) })
	f("path:id", true, func(x *exchange.Exchange) { x.Host = []byte("b") })
	f("path:id", true, func(x *exchange.Exchange) { x.Scheme = "https" })
	f("path:id", false, caller("alice"))
	f("header:X-B", false, same)
	f("header:X-B", true, same, "X-B: ")
	f("header:X-B", false, same, "X-C: 1")
	f("header:x-a", true, same, "X-A: 2")
	f("query:q", false, caller("alice"))
	f("query:q", true, func(x *exchange.Exchange) { x.SetUpstreamQuery(x.Query); x.Query = []byte("q=2&p=2") })
	f("claim:tier", true, caller("alice"))
	f("claim:none", false, caller("alice"))
	f("consumer", true, caller("alice"))
	f("consumer", true, func(x *exchange.Exchange) { x.Identity.Consumer = &exchange.Consumer{Name: "alice"} })
	f("ip", true, func(x *exchange.Exchange) { x.ClientAddr = x.ClientAddr.Next() })
	if _, err := dimensionsOf([]string{"moon"}); err == nil {
		t.Error("a dimension that nobody knows is accepted")
	}
}

func TestPlaces(t *testing.T) {
	w := policytest.New(t, "")
	seen := make(map[[placeLen]byte]bool)
	for _, b := range []policy.Build{{}, {Service: "a"}, {Service: "b"}, {Answers: policy.Answers{Shape: "a"}}} {
		b.World = w.World
		for _, c := range []Config{{}, {Shared: true}, {RespectOrigin: true}} {
			seen[placeOf(&b, &c)] = true
		}
	}
	if len(seen) != 12 {
		t.Errorf("%d places of 12", len(seen))
	}
}

// Who owns an entry: equal keys are one caller.
func TestOwners(t *testing.T) {
	w := policytest.New(t, "")
	owner := func(id exchange.Identity, head ...string) string {
		x := w.Exchange("/", head...)
		defer x.Close()
		x.Identity = id
		key, ok := appendOwner(nil, x, x.RequestHeader("Authorization"))
		if !ok {
			return ""
		}
		return string(key)
	}
	alice := exchange.Identity{Authenticated: true, Method: "jwt", Subject: []byte("alice")}
	from := func(issuer string) exchange.Identity {
		id := alice
		id.Claims = claims{"iss": issuer}
		return id
	}
	method := func(m string) exchange.Identity {
		id := alice
		id.Method = m
		return id
	}
	f := func(same bool, a, b string) {
		t.Helper()
		if a == "" || b == "" || (a == b) != same {
			t.Errorf("%q and %q, want them to be the same: %t", a, b, same)
		}
	}
	f(true, owner(alice, "Authorization: Bearer 1"), owner(alice, "Authorization: bearer 2"))
	f(false, owner(alice, "Authorization: Bearer 1"), owner(alice, "Authorization: Other 1"))
	f(false, owner(from("a")), owner(from("b")))
	f(false, owner(method("jwt")), owner(method("basic_auth")))
	f(true, owner(method("basic_auth"), "Authorization: Basic a"), owner(method("basic_auth"), "Authorization: Basic b"))
	f(false, owner(method("api_key"), "Authorization: Basic a"), owner(method("api_key"), "Authorization: Basic b"))
	f(false, owner(exchange.Identity{}, "Authorization: a"), owner(exchange.Identity{}, "Authorization: b"))
	f(false, owner(exchange.Identity{Consumer: &exchange.Consumer{Name: "alice"}}), owner(alice))
	if owner(exchange.Identity{}) != "" || owner(exchange.Identity{Authenticated: true, Method: "mtls_auth"}) != "" {
		t.Error("nobody owns an entry")
	}
	if owner(exchange.Identity{Authenticated: true, Method: "x"}, "Authorization: a") == "" {
		t.Error("a credential is no owner")
	}
}

func TestURIs(t *testing.T) {
	s, _ := newShared()
	u, a := &s.uris, []byte("a")
	first := u.stamp(a)
	u.invalidate(a)
	if u.stamp(a) != first {
		t.Error("the stamp of what is not stored changes")
	}
	u.touch(a)
	u.touch(a)
	if u.stamp(a) != first {
		t.Error("storing changes the stamp")
	}
	u.invalidate(a)
	if u.stamp(a) == first {
		t.Error("the stamp does not change")
	}
}

// Changes of some URIs took away what was stored for others, whose hash was like theirs.
func TestChangesLeaveOthersAlone(t *testing.T) {
	u := &uris{seed: maphash.MakeSeed()}
	const n = 2000
	uri := func(kind string, i int) []byte { return []byte(kind + strconv.Itoa(i)) }
	for i := range n {
		u.touch(uri("stored", i))
	}
	for i := range n {
		u.invalidate(uri("changed", i))
	}
	lost := 0
	for i := range n {
		if u.stamp(uri("stored", i)) != 0 {
			lost++
		}
	}
	if lost > 3 {
		t.Errorf("%d of %d are lost", lost, n)
	}

	// What follows a change is found under the next stamp, unless something else came between.
	a := []byte("a")
	u.touch(a)
	stamp := u.stamp(a)
	next, ok := u.succeed(a, stamp)
	if !ok || next == stamp || u.stamp(a) != next {
		t.Errorf("%d, %v after %d", next, ok, stamp)
	}
	if _, ok := u.succeed(a, stamp); ok || u.stamp(a) == next {
		t.Error("a change in the meantime is not noticed")
	}
}
