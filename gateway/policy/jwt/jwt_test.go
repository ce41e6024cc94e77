package jwt

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

const usual = "secret: your-secret-key\nclaims_to_verify: []"

func sent(x *exchange.Exchange, header string) string {
	v, _ := x.ToBackend.Value(header)
	return string(v)
}

func TestAuthenticateFindsTheToken(t *testing.T) {
	w := policytest.New(t, "")
	good := token(`{"sub":"alice"}`)
	f := func(settings, target, want string, headers ...string) {
		t.Helper()
		x := w.Exchange(target, headers...)
		defer x.Close()
		switch err := w.MustBuild(t, Definition, usual+"\n"+settings).Authenticate(x); {
		case want == "none":
			if err != exchange.ErrNoCredential {
				t.Errorf("%q: %v, want no credential", headers, err)
			}
		case want == "ok":
			if err != nil || x.AuthFailure != "" || string(x.Identity.Subject) != "alice" {
				t.Errorf("%q: %v, %s", headers, err, x.AuthFailure)
			}
		case err != invalid || x.AuthFailure != want || x.Identity.Authenticated:
			t.Errorf("%q: %v, %s, want %s", headers, err, x.AuthFailure, want)
		}
	}
	f("", "/", "none")
	f("", "/", "ok", "Authorization: Bearer "+good)
	f("", "/", "ok", "authorization: bEARER   "+good)
	f("", "/", "none", "Authorization: Basic YTpi")
	f("", "/", "none", "Authorization: Bearer")
	f("", "/", "none", "Authorization: Bearer ")
	f("", "/", "none", "Authorization: "+good)
	f("", "/", "none", "Authorization: Bearer"+good)
	f("", "/", "malformed", "Authorization: Bearer garbage")
	f("", "/", "malformed", "Authorization: Bearer "+good+" "+good)
	f("", "/", "malformed", "Authorization: Bearer "+good, "Authorization: Bearer "+good)
	f("", "/?token="+good, "none", "Cookie: token="+good)
	f("from: {cookie: token}", "/", "ok", "Cookie: a=b; token="+good)
	f("from: {query: token}", "/?a=b&token="+good, "ok")
	f("from: {query: token}", "/?token="+good+"&token="+good, "malformed")
	f("from: {query: token, cookie: token}", "/?token="+good, "malformed", "Authorization: Bearer garbage", "Cookie: token="+good)
	f("from: {header: '', query: token}", "/?token="+good, "ok", "Authorization: Bearer garbage")
	f("from: {header: x-token}", "/", "ok", "X-Token: "+good)
	f("from: {header: x-token}", "/", "ok", "X-Token: bearer "+good)
	f("", "/", "bad_signature", "Authorization: Bearer "+signed("HS256", []byte("other"), `{"alg":"HS256"}`, `{}`))
}

func TestChallenge(t *testing.T) {
	if len(invalid.Headers) != 1 || string(invalid.Headers[0].Value) != `Bearer error="invalid_token"` || invalid.Status != 401 {
		t.Fatal(invalid.Headers)
	}
	if h := policytest.New(t, "").MustBuild(t, Definition, usual); h.Challenge != "Bearer" {
		t.Fatal(h.Challenge)
	}
}

func TestForward(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings, payload, header, want string) {
		t.Helper()
		h := w.MustBuild(t, Definition, usual+"\n"+settings)
		x := w.Exchange("/", "Authorization: Bearer "+token(payload), "X-User-ID: mallory", "X-Email: mallory")
		defer x.Close()
		if h.Request != nil {
			h.Request(x)
		}
		if err := h.Authenticate(x); err != nil {
			t.Fatal(err)
		}
		if got := sent(x, header); got != want {
			t.Errorf("%s, %s: %s is %q, want %q", settings, payload, header, got, want)
		}
	}
	f("", `{"sub":"alice"}`, "X-User-ID", "alice")
	f("", `{"sub":42}`, "X-User-ID", "42")
	f("", `{}`, "X-User-ID", "192.0.2.1")
	f("", `{"sub":""}`, "X-User-ID", "192.0.2.1")
	f("forward: {X-Email: contact.mail}", `{"sub":"alice","contact":{"mail":"a@b.c"}}`, "X-Email", "a@b.c")
	f("forward: {X-Email: contact.mail}", `{"sub":"alice"}`, "X-User-ID", "alice")
	f("forward: {X-Email: email}", `{"email":"a\nb"}`, "X-Email", "")
	f("forward: {x-user-id: uid}", `{"sub":"alice","uid":"u1"}`, "X-User-ID", "u1")
	f("forward: {x-user-id: uid}", `{"sub":"alice"}`, "X-User-ID", "")
	f("forward: {X-User-ID: ''}", `{"sub":"alice"}`, "X-User-ID", "")
}

// A client can not fill the headers that are meant for claims, whatever credential it shows otherwise.
func TestForwardedHeadersAreStripped(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, usual+"\nforward: {X-Email: email}")
	for _, authorization := range []string{"", "Bearer garbage", "Bearer " + token(`{"sub":"alice"}`)} {
		x := w.Exchange("/", "Authorization: "+authorization, "X-Email: mallory")
		h.Request(x)
		h.Authenticate(x)
		if value, decided := x.ToBackend.Value("X-Email"); !decided || value != nil {
			t.Errorf("with %q the client's own X-Email passes", authorization)
		}
		x.Close()
	}
}

func TestForwardedHeadersAreStrippedBesideOtherPolicies(t *testing.T) {
	w := policytest.New(t, "")
	p := policy.NewProgram([]policy.Step{
		{Name: "jwt", Hooks: w.MustBuild(t, Definition, usual+"\nforward: {X-Email: email}")},
		{Name: "api_key", Hooks: policy.Hooks{Authenticate: func(x *exchange.Exchange) error {
			x.ToBackend.Set("X-User-ID", []byte("bob"))
			return nil
		}}},
	})
	x := w.Exchange("/", "X-Email: mallory")
	defer x.Close()
	if err := p.Enter(x); err != nil {
		t.Fatal(err)
	}
	if value, decided := x.ToBackend.Value("X-Email"); !decided || value != nil {
		t.Error("the client's own X-Email passes with an API key")
	}
	if sent(x, "X-User-ID") != "bob" {
		t.Error("X-User-ID of the policy that succeeded is lost")
	}
}

func TestConsumer(t *testing.T) {
	w := policytest.New(t, `
consumers:
  alice: {groups: [staff]}
  acme: {jwt: [{issuer: acme, secret: acme-secret}, {issuer: acme2, public_key: "`+strings.ReplaceAll(publicPEM(ec256Key), "\n", `\n`)+`"}]}
`)
	f := func(settings, token, want string) {
		t.Helper()
		x := w.Exchange("/", "Authorization: Bearer "+token)
		defer x.Close()
		if err := w.MustBuild(t, Definition, settings).Authenticate(x); err != nil {
			t.Fatalf("%s: %s", err, x.AuthFailure)
		}
		got := ""
		if x.Identity.Consumer != nil {
			got = x.Identity.Consumer.Name
		}
		if got != want || !x.Identity.Authenticated || x.Identity.Method != "jwt" {
			t.Errorf("%s: consumer %q, want %q", settings, got, want)
		}
	}
	f(usual, token(`{"sub":"alice"}`), "alice")
	f(usual, token(`{"sub":"stranger"}`), "")
	f(usual, token(`{}`), "")
	f(usual+"\nconsumer_claim: azp", token(`{"sub":"x","azp":"alice"}`), "alice")
	f(usual, signed("HS256", []byte("acme-secret"), `{"alg":"HS256"}`, `{"iss":"acme","sub":"alice"}`), "acme")
	f("claims_to_verify: []", signed("ES256", ec256Key, `{"alg":"ES256"}`, `{"iss":"acme2"}`), "acme")

	h := w.MustBuild(t, Definition, usual+"\nanonymous: alice")
	if h.Anonymous != w.Consumers["alice"] {
		t.Error("anonymous")
	}
}

func TestBuildFailure(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings, want string) {
		t.Helper()
		w.Fails(t, Definition, settings, want)
	}
	f("{}", "no key verifies tokens")
	f("secret: ''", "no key verifies tokens")
	f("{secret: s, algorithms: [RS256]}", "routes.users.policies.jwt.secret: a secret verifies")
	f("{secret: s, algorithms: [none]}", "is not one of")
	f("{public_key: nonsense}", "jwt.public_key: not PEM")
	f("{jwks_url: nonsense}", "jwt.jwks_url")
	f("{issuer: acme}", "jwt.issuer")
	f("{secret: s, forward: {Host: sub}}", "has a meaning of its own")
	f("{secret: s, from: {header: 'X Y'}}", "jwt.from.header")
	f("{jwks_url: 'https://i/', algorithms: [HS256]}", "a key set verifies")
	f("{secret: s, forward: {'X Y': sub}}", "can not be the name of a header")
	f("{secret: s, from: {header: ''}}", "names no place")
	f("{secret: s, anonymous: nobody}", `no consumer "nobody"`)
	f("{secret: s, leeway: 2h}", "out of range")
	f("{secret: s, secrets: t}", "unknown setting")

	w = policytest.New(t, "consumers: {acme: {jwt: [{issuer: i, public_key: nonsense}]}}")
	f("secret: s", "consumers.acme.jwt[0]")
}

func TestShortSecretWarns(t *testing.T) {
	w := policytest.New(t, "")
	w.MustBuild(t, Definition, "secret: your-secret-key")
	if got := w.Warnings(); len(got) != 1 || !strings.Contains(got[0], "15 bytes is short for HS256") || strings.Contains(got[0], "your-secret-key") {
		t.Fatal(got)
	}
	w = policytest.New(t, "")
	w.MustBuild(t, Definition, "secret: "+strings.Repeat("x", 32))
	if got := w.Warnings(); len(got) != 0 {
		t.Fatal(got)
	}
}

func TestReloadKeepsVerifiedTokens(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings string) *Verifier {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		x := w.Exchange("/", "Authorization: Bearer "+token(`{"sub":"alice"}`))
		defer x.Close()
		if err := h.Authenticate(x); err != nil {
			t.Fatal(x.AuthFailure)
		}
		var found *Verifier
		w.Living.Range(func(_ string, v any, leases int) bool {
			if leases > 0 {
				found = v.(*Verifier)
			}
			return true
		})
		return found
	}
	reload := func(settings string) *Verifier {
		end := w.Reload()
		v := f(settings)
		end()
		return v
	}
	first := f(usual)
	if again := reload(usual); again != first || again.cache.len.Load() != 1 {
		t.Fatal("verified tokens are forgotten although nothing changed")
	}
	if reload(usual + "\nleeway: 1s"); w.Living.Len() != 1 {
		t.Fatal("the old verifier stays")
	}
	w.Living.Range(func(_ string, v any, _ int) bool {
		if v == any(first) {
			t.Fatal("verified tokens outlive a change of the policy")
		}
		return true
	})
}

func TestKeySetOverHTTP(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	keys := jwks(jwkES("a", ec256Key, ""))
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/keys":
			w.Write([]byte(keys))
		case "/.well-known/openid-configuration":
			w.Write([]byte(`{"issuer":"` + server.URL + `","jwks_uri":"` + server.URL + `/keys"}`))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	w := policytest.New(t, "consumers: {acme: {jwt: [{issuer: acme, jwks_url: '"+server.URL+"/keys'}]}}")
	f := func(settings, payload, wantFailure string) {
		t.Helper()
		h := w.MustBuild(t, Definition, "claims_to_verify: []\n"+settings)
		if !h.Blocking {
			t.Error("a policy that may wait for keys says that it does not")
		}
		x := w.Exchange("/", "Authorization: Bearer "+signed("ES256", ec256Key, `{"alg":"ES256","kid":"a"}`, payload))
		defer x.Close()
		err := h.Authenticate(x)
		if x.AuthFailure != wantFailure {
			t.Errorf("%s: %q, want %q", settings, x.AuthFailure, wantFailure)
		}
		if (err == keyless) != (wantFailure == "no_keys") {
			t.Errorf("%s: %v", settings, err)
		}
	}
	f("jwks_url: "+server.URL+"/keys", `{"sub":"alice"}`, "")
	f("issuer: "+server.URL, `{"sub":"alice","iss":"`+server.URL+`"}`, "")
	f("issuer: "+server.URL, `{"sub":"alice","iss":"other"}`, "wrong_issuer")
	f("jwks_url: "+server.URL+"/nowhere", `{}`, "no_keys")
	f("", `{"iss":"acme"}`, "")
	f("", `{"iss":"other"}`, "unknown_key")
	w.Leases.Close()
}

func TestDryRunOpensNothing(t *testing.T) {
	w := policytest.New(t, "")
	w.DryRun = true
	w.MustBuild(t, Definition, "jwks_url: http://127.0.0.1:1/keys")
	if w.Living.Len() != 0 {
		t.Fatal("a validation holds state")
	}
}

func TestAuthenticateAllocations(t *testing.T) {
	w := policytest.New(t, "consumers: {alice: {}}")
	h := w.MustBuild(t, Definition, "secret: your-secret-key\nforward: {X-Name: name}")
	f := func(authorization string, want error) {
		t.Helper()
		w.NoAllocations(t, authorization, func(x *exchange.Exchange) {
			if err := h.Request(x); err != nil {
				t.Fatal(err)
			}
			if err := h.Authenticate(x); err != want {
				t.Fatal(err)
			}
		}, "Authorization: "+authorization)
	}
	f("Bearer "+token(`{"sub":"alice","name":"Alice","exp":1900000000}`), nil)
	f("Bearer "+token(`{"sub":"alice","exp":1}`), invalid)
	f("Bearer garbage", invalid)
	f("", exchange.ErrNoCredential)
}

func BenchmarkAuthenticate(b *testing.B) {
	w := policytest.New(b, "consumers: {alice: {}}")
	h := w.MustBuild(b, Definition, "secret: your-secret-key")
	x := w.Exchange("/", "Authorization: Bearer "+token(`{"sub":"alice","exp":1900000000}`))
	b.ReportAllocs()
	for b.Loop() {
		if err := h.Authenticate(x); err != nil {
			b.Fatal(err, x.AuthFailure)
		}
	}
}
