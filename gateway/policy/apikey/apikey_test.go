package apikey

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func hashOf(key string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(key))) }

func world(t testing.TB) *policytest.World {
	return policytest.New(t, fmt.Sprintf(`
consumers:
  alice: {api_keys: [{id: k1, hash: %q}, {id: k2, hash: %q, expires: %s}]}
  bob: {api_keys: [{hash: "sha256:%X"}]}
`, hashOf("alices-key"), hashOf("alices-old-key"), policytest.Epoch.Add(time.Hour).Format(time.RFC3339), sha256.Sum256([]byte("bob's key+&="))))
}

func TestAuthenticate(t *testing.T) {
	w := world(t)
	f := func(settings, target, want string, headers ...string) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		x := w.Exchange(target, headers...)
		defer x.Close()
		err := h.Authenticate(x)
		user, _ := x.ToBackend.Value("X-User-ID")
		switch {
		case err == nil:
			if x.Identity.Consumer == nil || x.Identity.Consumer.Name != want || string(user) != want || !x.Identity.Authenticated || x.AuthFailure != "" {
				t.Errorf("%s %s %q: %+v, want %s", settings, target, headers, x.Identity, want)
			}
		case err == exchange.ErrNoCredential:
			if want != "none" {
				t.Errorf("%s %s %q: no credential, want %s", settings, target, headers, want)
			}
		case err != invalid || x.AuthFailure != want || x.Identity.Authenticated || user != nil:
			t.Errorf("%s %s %q: %v, %s, want %s", settings, target, headers, err, x.AuthFailure, want)
		}
	}
	f("", "/", "alice", "X-API-Key: alices-key")
	f("", "/", "alice", "x-api-key: alices-old-key")
	f("", "/", "bob", "X-API-Key: bob's key+&=")
	f("", "/", "none")
	f("", "/", "none", "X-API-Key:")
	f("", "/?X-API-Key=alices-key", "none")
	f("", "/", "unknown_key", "X-API-Key: alices-kez")
	f("", "/", "unknown_key", "X-API-Key: "+hashOf("alices-key"))
	f("", "/", "unknown_key", "X-API-Key: "+hashOf("alices-key")[7:])
	f("", "/", "malformed", "X-API-Key: alices-key", "X-API-Key: alices-key")
	f("", "/", "malformed", "X-API-Key: "+strings.Repeat("x", MaxKeySize+1))
	f("query: key", "/?a=b&key=bob%27s+key%2B%26%3D", "bob")
	f("query: key", "/?key=x", "alice", "X-API-Key: alices-key")
	f("query: key", "/?key=alices-key&key=alices-key", "malformed")
	f("{header: '', query: key}", "/", "none", "X-API-Key: alices-key")
	f("header: apikey", "/", "alice", "Apikey: alices-key")

	w.Advance(time.Hour - 1)
	f("", "/", "alice", "X-API-Key: alices-old-key")
	w.Advance(1)
	f("", "/", "expired", "X-API-Key: alices-old-key")
	f("", "/", "alice", "X-API-Key: alices-key")
}

func TestHide(t *testing.T) {
	w := world(t)
	f := func(settings, target, wantQuery string, wantHidden bool) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		x := w.Exchange(target, "X-API-Key: alices-key")
		defer x.Close()
		if h.Request != nil {
			h.Request(x)
		}
		if _, hidden := x.ToBackend.Value("X-API-Key"); hidden != wantHidden {
			t.Errorf("%s: header hidden %t", settings, hidden)
		}
		if got := string(x.BackendQuery()); got != wantQuery {
			t.Errorf("%s: query %q, want %q", settings, got, wantQuery)
		}
		if err := h.Authenticate(x); err != nil {
			t.Errorf("%s: %v, although only the backend is kept from the key", settings, err)
		}
	}
	f("", "/?key=1&b", "key=1&b", true)
	f("query: key", "/?a=%41&key=1&b&key=2", "a=%41&b", true)
	f("query: key", "/?key=1", "", true)
	f("query: key", "/?a=1", "a=1", true)
	f("{query: key, hide: false}", "/?key=1", "key=1", false)
}

func TestBuildFailure(t *testing.T) {
	w := world(t)
	w.Fails(t, Definition, "{header: ''}", "names no place")
	w.Fails(t, Definition, "{header: 'X Y'}", "can not be the name")
	w.Fails(t, Definition, "anonymous: nobody", `no consumer "nobody"`)
	w.Fails(t, Definition, "heder: x", "did you mean header?")
	if h := w.MustBuild(t, Definition, "anonymous: bob"); h.Anonymous != w.Consumers["bob"] {
		t.Error("anonymous")
	}
}

func TestAllocations(t *testing.T) {
	w := world(t)
	h := w.MustBuild(t, Definition, "query: key")
	f := func(header string, want error) {
		t.Helper()
		w.NoAllocations(t, header, func(x *exchange.Exchange) {
			if h.Request(x) != nil {
				t.Fatal("request")
			}
			if err := h.Authenticate(x); err != want {
				t.Fatal(err)
			}
		}, "X-API-Key: "+header)
	}
	f("alices-key", nil)
	f("wrong", invalid)
	f("", exchange.ErrNoCredential)
}

func BenchmarkAuthenticate(b *testing.B) {
	w := world(b)
	h := w.MustBuild(b, Definition, "")
	x := w.Exchange("/", "X-API-Key: alices-key")
	b.ReportAllocs()
	for b.Loop() {
		if err := h.Authenticate(x); err != nil {
			b.Fatal(err)
		}
	}
}

// A key that expires in 9999, as people write who mean never, is good.
func TestExpiresLate(t *testing.T) {
	w := policytest.New(t, fmt.Sprintf("consumers: {alice: {api_keys: [{id: k1, hash: %q, expires: 9999-12-31}]}}", hashOf("alices-key")))
	h := w.MustBuild(t, Definition, "")
	x := w.Exchange("/", "X-API-Key: alices-key")
	defer x.Close()
	if err := h.Authenticate(x); err != nil {
		t.Error(err, x.AuthFailure)
	}
}
