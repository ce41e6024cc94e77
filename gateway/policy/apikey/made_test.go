package apikey

import (
	"testing"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/keys"
	"sluice/gateway/policy/policytest"
)

func withKeys(t testing.TB) *policytest.World {
	w := policytest.New(t, "tenants: {acme: {}}\nconsumers: {alice: {}, bob: {tenant: acme}}")
	store, err := keys.Open(t.TempDir(), keys.Options{Log: w.Log, Now: w.Clock.Time})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	w.Keys = store
	return w
}

func mint(t testing.TB, w *policytest.World, spec keys.Spec) (string, *keys.Key) {
	t.Helper()
	secret, k, err := w.Keys.Create(spec)
	if err != nil {
		t.Fatal(err)
	}
	return secret, k
}

// Keys made at run time work at once and end at once, without another generation.
func TestKeysMadeAtRunTime(t *testing.T) {
	w := withKeys(t)
	h := w.MustBuild(t, Definition, "")
	f := func(secret string, want error, failure, consumer, id string) {
		t.Helper()
		x := w.Exchange("/orders/7", "X-API-Key: "+secret)
		defer x.Close()
		if err := h.Authenticate(x); err != want || x.AuthFailure != failure {
			t.Errorf("%v %q, want %v %q", err, x.AuthFailure, want, failure)
		}
		if want == nil && (x.Identity.Consumer.Name != consumer || string(x.Identity.Credential) != id || x.Identity.Method != "api_key") {
			t.Errorf("%+v", x.Identity)
		}
		if _, told := x.ToBackend.Value("X-User-ID"); told != (want == nil) {
			t.Error("X-User-ID")
		}
	}
	f("slk_guess", invalid, "unknown_key", "", "")
	secret, k := mint(t, w, keys.Spec{Consumer: "alice", Expires: w.Clock.Time().Add(time.Hour)})
	f(secret, nil, "", "alice", k.ID)
	if !k.View().LastUsed.Equal(policytest.Epoch) {
		t.Error(k.View().LastUsed)
	}
	w.Advance(time.Hour)
	f(secret, invalid, "expired", "", "")
	secret, k = mint(t, w, keys.Spec{Consumer: "bob", Tenant: "acme"})
	f(secret, nil, "", "bob", k.ID)
	if _, err := w.Keys.Revoke("bob", k.ID); err != nil {
		t.Fatal(err)
	}
	f(secret, invalid, "revoked", "", "")
	secret, _ = mint(t, w, keys.Spec{Consumer: "alice", Methods: []string{"POST"}})
	f(secret, elsewhere, "key_method", "", "")
	secret, _ = mint(t, w, keys.Spec{Consumer: "alice", Paths: []string{"/users"}})
	f(secret, elsewhere, "key_path", "", "")
	secret, _ = mint(t, w, keys.Spec{Consumer: "alice", CIDRs: []string{"10.0.0.0/8"}})
	f(secret, elsewhere, "key_address", "", "")
	// A consumer that has left the configuration, and one of the name in another tenant.
	secret, _ = mint(t, w, keys.Spec{Consumer: "carol"})
	f(secret, invalid, "unknown_consumer", "", "")
	secret, _ = mint(t, w, keys.Spec{Consumer: "bob"})
	f(secret, invalid, "unknown_consumer", "", "")
}

func TestMadeKeysDoNotAllocate(t *testing.T) {
	w := withKeys(t)
	h := w.MustBuild(t, Definition, "query: key")
	secret, _ := mint(t, w, keys.Spec{Consumer: "alice", CIDRs: []string{"192.0.2.0/24"}, Methods: []string{"GET"}, Paths: []string{"/"}})
	w.NoAllocations(t, "a key made at run time", func(x *exchange.Exchange) {
		x.Query = nil
		if err := h.Authenticate(x); err != nil {
			t.Fatal(err)
		}
	}, "X-API-Key: "+secret)
}

func BenchmarkMadeKey(b *testing.B) {
	w := withKeys(b)
	h := w.MustBuild(b, Definition, "")
	secret, _ := mint(b, w, keys.Spec{Consumer: "alice"})
	x := w.Exchange("/", "X-API-Key: "+secret)
	b.ReportAllocs()
	for b.Loop() {
		if err := h.Authenticate(x); err != nil {
			b.Fatal(err)
		}
	}
}
