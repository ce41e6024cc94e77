package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	gojwt "github.com/golang-jwt/jwt/v5"
)

const testSecret = "your-secret-key"

var (
	testNow     = time.Unix(1_800_000_000, 0)
	rsaKey      = must(rsa.GenerateKey(rand.Reader, 2048))
	ec256Key    = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	ec384Key    = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	ec521Key    = must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	_, edKey, _ = ed25519.GenerateKey(rand.Reader)
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// signed makes a token of a header and a payload as they are written.
func signed(alg string, key any, header, payload string) string {
	text := b64(header) + "." + b64(payload)
	return text + "." + base64.RawURLEncoding.EncodeToString(must(gojwt.GetSigningMethod(alg).Sign(text, key)))
}

func tokenWith(header, payload string) string {
	return signed("HS256", []byte(testSecret), header, payload)
}

func token(payload string) string { return tokenWith(`{"alg":"HS256","typ":"JWT"}`, payload) }

func secretVerifier(set Settings) *Verifier {
	set.Own.Keys = []*Key{must(NewSecretKey(testSecret, 0))}
	return NewVerifier(set)
}

func publicPEM(key crypto.Signer) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(key.Public()))}))
}

func TestVerifySuccess(t *testing.T) {
	f := func(set Settings, payload, wantSubject string) {
		t.Helper()
		v := secretVerifier(set)
		for range 2 { // the second time from memory
			c, reason := v.Verify([]byte(token(payload)), testNow.UnixNano())
			if reason != 0 {
				t.Fatalf("%s: refused as %s", payload, reason)
			}
			if c.Subject != wantSubject {
				t.Fatalf("%s: subject %q, want %q", payload, c.Subject, wantSubject)
			}
		}
	}
	f(Settings{}, `{"sub":"alice"}`, "alice")
	f(Settings{}, `{"sub":"alice","exp":1800000001,"nbf":1800000000,"iat":1800000000}`, "alice")
	f(Settings{}, `{"sub":"alice","exp":1800000001.9,"nbf":1799999999.5}`, "alice")
	f(Settings{}, `{"exp":253402300799}`, "")
	f(Settings{}, `{"sub":42}`, "42")
	f(Settings{}, `{"sub":"al\u0069ce \ud83d\ude00"}`, "alice 😀")
	f(Settings{}, `{}`, "")
	f(Settings{Leeway: 30 * time.Second}, `{"sub":"a","exp":1799999971,"nbf":1800000030,"iat":1800000030}`, "a")
	f(Settings{Required: []string{"exp", "jti"}}, `{"exp":1800000001,"jti":"x"}`, "")
	f(Settings{Issuer: "https://i"}, `{"iss":"https:\/\/i"}`, "")
	f(Settings{Audience: []string{"a", "b"}}, `{"aud":"b"}`, "")
	f(Settings{Audience: []string{"a", "b"}}, `{"aud":["x","a"]}`, "")
}

func TestVerifyFailure(t *testing.T) {
	f := func(set Settings, token string, want Reason) {
		t.Helper()
		v := secretVerifier(set)
		for range 2 {
			if c, reason := v.Verify([]byte(token), testNow.UnixNano()); reason != want || c != nil {
				t.Fatalf("%q: reason %q, want %q", token, reason, want)
			}
		}
		if n := v.cache.len.Load(); n != 0 {
			t.Fatalf("%q: a refused token is remembered", token)
		}
	}
	good := token(`{"sub":"alice"}`)
	parts := strings.Split(good, ".")

	// What is not a token.
	f(Settings{}, "", Missing)
	f(Settings{}, "garbage", Malformed)
	f(Settings{}, "..", Malformed)
	f(Settings{}, parts[0]+"."+parts[1], Malformed)
	f(Settings{}, good+".", Malformed)
	f(Settings{}, good+".x.y", Malformed)
	f(Settings{}, " "+good, Malformed)
	f(Settings{}, good+"\n", Malformed)
	f(Settings{}, parts[0]+".\r\n"+parts[1]+"."+parts[2], Malformed)
	f(Settings{}, good+"=", Malformed)
	f(Settings{}, strings.Replace(good, ".", "%2e", 1), Malformed)
	f(Settings{}, token(`{"x":"`+strings.Repeat("x", MaxTokenSize)+`"}`), Malformed)

	// Another signature, another payload, no signature, a short one, stray bits in its last character.
	f(Settings{}, parts[0]+"."+parts[1]+"."+b64(strings.Repeat("x", 32)), BadSignature)
	f(Settings{}, parts[0]+"."+b64(`{"sub":"mallory"}`)+"."+parts[2], BadSignature)
	f(Settings{}, parts[0]+"."+parts[1]+".", BadSignature)
	f(Settings{}, parts[0]+"."+parts[1]+"."+b64("x"), BadSignature)
	last := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", good[len(good)-1])
	f(Settings{}, good[:len(good)-1]+string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last^1]), Malformed)

	// Headers.
	f(Settings{}, b64(`{"alg":"none"}`)+"."+parts[1]+".", WrongAlgorithm)
	f(Settings{}, b64(`{"alg":"None"}`)+"."+parts[1]+".", WrongAlgorithm)
	f(Settings{}, tokenWith(`{"alg":"none"}`, `{}`), WrongAlgorithm)
	f(Settings{}, tokenWith(`{"alg":"hs256"}`, `{}`), WrongAlgorithm)
	f(Settings{}, signed("HS512", []byte(testSecret), `{"alg":"HS512"}`, `{}`), WrongAlgorithm)
	f(Settings{}, signed("RS256", rsaKey, `{"alg":"RS256"}`, `{}`), WrongAlgorithm)
	f(Settings{}, tokenWith(`{"alg":"HS384"}`, `{}`), WrongAlgorithm)
	f(Settings{}, tokenWith(`{"typ":"JWT"}`, `{}`), Malformed)
	f(Settings{}, tokenWith(`{"alg":["HS256"]}`, `{}`), Malformed)
	f(Settings{}, tokenWith(`{"alg":"HS256","alg":"none"}`, `{}`), Malformed)
	f(Settings{}, tokenWith(`{"alg":"HS256","\u0061lg":"HS256"}`, `{}`), Malformed)
	f(Settings{}, tokenWith(`{"alg":"HS256","crit":["exp"],"exp":1}`, `{}`), Malformed)
	f(Settings{}, tokenWith(`{"alg":"HS256","crit":[]}`, `{}`), Malformed)
	f(Settings{}, tokenWith(`{"alg":"HS256","b64":false}`, `{}`), Malformed)
	f(Settings{}, tokenWith(`{"alg":"HS256","kid":1}`, `{}`), Malformed)
	f(Settings{}, tokenWith(`{"alg":"HS256"} `+"\x00", `{}`), Malformed)
	f(Settings{}, tokenWith(`{"alg":"HS256"}{}`, `{}`), Malformed)
	f(Settings{}, tokenWith(`["HS256"]`, `{}`), Malformed)
	f(Settings{}, tokenWith(`null`, `{}`), Malformed)
	f(Settings{}, tokenWith("{\"alg\":\"HS256\",\"x\":\"\xff\"}", `{}`), Malformed)
	f(Settings{}, tokenWith(`{"alg":"HS256","x":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+`}`, `{}`), Malformed)

	// Payloads.
	f(Settings{}, token(``), Malformed)
	f(Settings{}, token(`null`), Malformed)
	f(Settings{}, token(`[]`), Malformed)
	f(Settings{}, token(`"text"`), Malformed)
	f(Settings{}, token(`{"sub":"a",}`), Malformed)
	f(Settings{}, token(`{"sub":"alice","sub":"mallory"}`), Malformed)
	f(Settings{}, token(`{"exp":1800000001,"e\u0078p":1}`), Malformed)
	f(Settings{}, token(`{"sub":"\ud800"}`), Malformed)
	f(Settings{}, token(`{"sub":"a\u000d\u000aX-Admin: 1"}`), Malformed)
	f(Settings{}, token(`{"sub":{"a":1}}`), Malformed)
	f(Settings{}, token(`{"sub":null}`), Malformed)
	f(Settings{}, token(`{"iss":1}`), Malformed)
	f(Settings{}, token(`{"aud":[1]}`), Malformed)
	f(Settings{}, token(`{"aud":{}}`), Malformed)

	// Times.
	f(Settings{}, token(`{"exp":1800000000}`), Expired)
	f(Settings{}, token(`{"exp":1800000000.9}`), Expired)
	f(Settings{}, token(`{"exp":0}`), Expired)
	f(Settings{}, token(`{"exp":-1}`), Expired)
	f(Settings{}, token(`{"exp":"1900000000"}`), Malformed)
	f(Settings{}, token(`{"exp":null}`), Malformed)
	f(Settings{}, token(`{"exp":true}`), Malformed)
	f(Settings{}, token(`{"exp":01900000000}`), Malformed)
	f(Settings{}, token(`{"exp":1e300}`), Malformed)
	f(Settings{}, token(`{"exp":1e999}`), Malformed)
	f(Settings{}, token(`{"exp":1900000000000}`), Malformed)
	f(Settings{}, token(`{"nbf":1800000001}`), NotYetValid)
	f(Settings{}, token(`{"nbf":1800000000.5}`), NotYetValid)
	f(Settings{}, token(`{"iat":1800000001}`), NotYetValid)
	f(Settings{Leeway: 30 * time.Second}, token(`{"exp":1799999970}`), Expired)
	f(Settings{Leeway: 30 * time.Second}, token(`{"nbf":1800000031}`), NotYetValid)

	// Expectations.
	f(Settings{Required: []string{"exp"}}, good, MissingClaim)
	f(Settings{Issuer: "i"}, good, WrongIssuer)
	f(Settings{Issuer: "i"}, token(`{"iss":"I"}`), WrongIssuer)
	f(Settings{Audience: []string{"a"}}, good, WrongAudience)
	f(Settings{Audience: []string{"a"}}, token(`{"aud":[]}`), WrongAudience)
	f(Settings{Audience: []string{"a"}}, token(`{"aud":"a b"}`), WrongAudience)
}

func TestEveryAlgorithm(t *testing.T) {
	keys := map[string]crypto.Signer{"RS": rsaKey, "PS": rsaKey, "ES256": ec256Key, "ES384": ec384Key, "ES512": ec521Key, "EdDSA": edKey}
	for _, m := range methods {
		alg := m.Alg()
		var private any = []byte(testSecret)
		key, err := NewSecretKey(testSecret, algorithmOf(alg))
		if alg[0] != 'H' {
			signer := keys[alg]
			if signer == nil {
				signer = keys[alg[:2]]
			}
			private = signer
			key, err = NewPublicKey(publicPEM(signer), algorithmOf(alg))
		}
		if err != nil {
			t.Fatalf("%s: %s", alg, err)
		}
		v := NewVerifier(Settings{Own: Source{Keys: []*Key{key}}})
		for _, other := range methods {
			text := signed(alg, private, `{"alg":"`+other.Alg()+`"}`, `{"sub":"a"}`)
			want := WrongAlgorithm
			if other == m {
				want = 0
			}
			if _, reason := v.Verify([]byte(text), testNow.UnixNano()); reason != want {
				t.Fatalf("key %s, token %s: %q, want %q", alg, other.Alg(), reason, want)
			}
		}
	}
}

// A public key is public: whoever uses its bytes as the secret of an HMAC must get nowhere.
func TestPublicKeyIsNoSecret(t *testing.T) {
	text := publicPEM(rsaKey)
	v := NewVerifier(Settings{Own: Source{Keys: []*Key{
		must(NewPublicKey(text, rs256|hs256)), must(NewSecretKey(testSecret, rs256|hs256)),
	}}})
	f := func(token string, want Reason) {
		t.Helper()
		if _, reason := v.Verify([]byte(token), testNow.UnixNano()); reason != want {
			t.Fatalf("%q, want %q", reason, want)
		}
	}
	f(signed("HS256", []byte(text), `{"alg":"HS256"}`, `{}`), BadSignature)
	f(signed("HS256", []byte(strings.TrimSpace(text)), `{"alg":"HS256"}`, `{}`), BadSignature)
	f(signed("HS256", must(x509.MarshalPKIXPublicKey(&rsaKey.PublicKey)), `{"alg":"HS256"}`, `{}`), BadSignature)
	f(signed("RS256", rsaKey, `{"alg":"RS256"}`, `{}`), 0)
	f(token(`{}`), 0)
}

func TestEmbeddedKeysAreIgnored(t *testing.T) {
	v := NewVerifier(Settings{Own: Source{Keys: []*Key{must(NewPublicKey(publicPEM(ec256Key), 0))}}})
	mallory := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	jx, jy := coordinates(mallory)
	jwk := `{"kty":"EC","crv":"P-256","x":"` + jx + `","y":"` + jy + `"}`
	for _, header := range []string{`"jwk":` + jwk, `"jku":"https://mallory.example/jwks"`, `"x5u":"https://mallory.example/c"`, `"x5c":["MII"]`} {
		text := signed("ES256", mallory, `{"alg":"ES256",`+header+`}`, `{}`)
		if _, reason := v.Verify([]byte(text), testNow.UnixNano()); reason != BadSignature {
			t.Fatalf("%s: %q", header, reason)
		}
	}
}

// coordinates are those of a P-256 key as a JWK has them.
func coordinates(k *ecdsa.PrivateKey) (x, y string) {
	point := must(k.PublicKey.Bytes()) // 4, x, y
	return base64.RawURLEncoding.EncodeToString(point[1:33]), base64.RawURLEncoding.EncodeToString(point[33:])
}

func TestKeyFailure(t *testing.T) {
	f := func(_ *Key, err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Fatalf("error %v, want %q", err, want)
		}
	}
	secret := func(s string, a algorithms) func(string) {
		return func(want string) {
			t.Helper()
			k, err := NewSecretKey(s, a)
			f(k, err, want)
		}
	}
	public := func(s string, a algorithms) func(string) {
		return func(want string) {
			t.Helper()
			k, err := NewPublicKey(s, a)
			f(k, err, want)
		}
	}
	secret("", 0)("empty")
	secret("s", rs256)("lists only RS256")
	public("nonsense", 0)("not PEM")
	public(publicPEM(rsaKey), hs256|es256)("lists only HS256, ES256")
	public(publicPEM(ec256Key), es384)("verifies ES256")
	public(string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)})), 0)("private key")
	public(string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")})), 0)("asn1")
	if _, err := parseAlgorithms([]string{"none"}); err == nil || !strings.Contains(err.Error(), "never") {
		t.Fatal(err)
	}
	if _, err := parseAlgorithms([]string{"HS257"}); err == nil || !strings.Contains(err.Error(), "unknown algorithm") {
		t.Fatal(err)
	}
}

func TestPublicKeyFormats(t *testing.T) {
	f := func(kind string, der []byte) {
		t.Helper()
		k, err := NewPublicKey("\n  "+string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})), 0)
		if err != nil || k.allowed != rs256 {
			t.Fatalf("%s: %v", kind, err)
		}
	}
	f("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(&rsaKey.PublicKey)))
	f("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey))
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: testNow}
	f("CERTIFICATE", must(x509.CreateCertificate(rand.Reader, cert, cert, &rsaKey.PublicKey, rsaKey)))
}

func TestShortSecret(t *testing.T) {
	f := func(n int, a algorithms, want int) {
		t.Helper()
		if got := shortSecret(strings.Repeat("x", n), a); got != want {
			t.Fatalf("%d bytes, %s: %d, want %d", n, a, got, want)
		}
	}
	f(15, 0, 32)
	f(32, 0, 0)
	f(32, hs256|hs512, 64)
	f(64, hs256|hs384|hs512, 0)
}

func TestConsumersOwnKeys(t *testing.T) {
	mine := must(NewSecretKey("mine", 0))
	theirs := must(NewSecretKey("theirs", 0))
	v := NewVerifier(Settings{
		Own:    Source{Keys: []*Key{must(NewSecretKey(testSecret, 0))}},
		Issuer: "gateway",
		ByIssuer: map[string][]Source{
			"acme":   {{Keys: []*Key{mine}, Consumer: "alice"}, {Keys: []*Key{theirs}, Consumer: "bob"}},
			"globex": {{Keys: []*Key{theirs}, Consumer: "carol"}},
		},
	})
	f := func(secret, payload, wantConsumer string, want Reason) {
		t.Helper()
		text := signed("HS256", []byte(secret), `{"alg":"HS256"}`, payload)
		c, reason := v.Verify([]byte(text), testNow.UnixNano())
		if reason != want || reason == 0 && c.Consumer != wantConsumer {
			t.Fatalf("%s: %q, want %q", payload, reason, want)
		}
	}
	f("mine", `{"iss":"acme"}`, "alice", 0)
	f("theirs", `{"iss":"acme"}`, "bob", 0)
	f("theirs", `{"iss":"globex"}`, "carol", 0)
	f("mine", `{"iss":"globex"}`, "", BadSignature)
	f("mine", `{"iss":"gateway"}`, "", BadSignature)
	f("mine", `{}`, "", BadSignature)
	f("mine", `{"iss":"acme","iss":"acme"}`, "", BadSignature)
	f(testSecret, `{"iss":"gateway"}`, "", 0)
	f(testSecret, `{"iss":"acme"}`, "", WrongIssuer)
}

func TestRememberedTokenExpires(t *testing.T) {
	v := secretVerifier(Settings{Leeway: time.Second})
	text := []byte(token(`{"exp":1800000010,"nbf":1799999990}`))
	f := func(after time.Duration, want Reason) {
		t.Helper()
		if _, reason := v.Verify(text, testNow.Add(after).UnixNano()); reason != want {
			t.Fatalf("after %s: %q, want %q", after, reason, want)
		}
	}
	f(0, 0)
	f(11*time.Second-1, 0)
	f(11*time.Second, Expired)
	f(time.Hour, Expired)
	f(-11*time.Second, 0)
	f(-12*time.Second, NotYetValid)
}

func TestClaims(t *testing.T) {
	const payload = `{"sub":"alice","n":4.50,"yes":true,"none":null,"roles":["admin","o\u0070s",7],"scope":"read write",
		"https://e.example/x":"url","realm":{"roles":["r"],"deep":{"er":"b\u006fttom"},"a.b":"dot","twice":1,"twice":2},"realm.flat":"flat"}`
	c, reason := secretVerifier(Settings{Forward: []string{"realm.deep.er", "roles", "nowhere"}}).Verify([]byte(token(payload)), testNow.UnixNano())
	if reason != 0 {
		t.Fatal(reason)
	}
	f := func(path, want string, ok bool) {
		t.Helper()
		if got, has := c.Claim(path); string(got) != want || has != ok {
			t.Fatalf("%s: %q %t, want %q %t", path, got, has, want, ok)
		}
	}
	f("sub", "alice", true)
	f("n", "4.50", true)
	f("yes", "true", true)
	f("roles", `["admin","o\u0070s",7]`, true)
	f("https://e.example/x", "url", true)
	f("realm.roles", `["r"]`, true)
	f("realm.deep.er", "bottom", true)
	f("realm.a.b", "dot", true)
	f("realm.flat", "flat", true)
	f("realm.twice", "", false)
	f("realm.nowhere", "", false)
	f("sub.x", "", false)
	f("nowhere", "", false)
	f("", "", false)

	has := func(path, value string, want bool) {
		t.Helper()
		if got := c.ClaimHas(path, value); got != want {
			t.Fatalf("%s has %q: %t", path, value, got)
		}
	}
	has("sub", "alice", true)
	has("sub", "ali", false)
	has("roles", "admin", true)
	has("roles", "ops", true)
	has("roles", "7", true)
	has("roles", "adm", false)
	has("scope", "write", true)
	has("scope", "rea", false)
	has("scope", "read write", true)
	has("realm.roles", "r", true)
	has("yes", "true", true)
	has("none", "null", false)
	has("none", "", false)
	has("nowhere", "", false)

	if c.Forwarded(0) != "bottom" || c.Forwarded(2) != "" || !json.Valid([]byte(c.Forwarded(1))) {
		t.Fatal(c.forward)
	}
}
