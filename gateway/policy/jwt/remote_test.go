package jwt

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// idp is an identity provider without a network.
type idp struct {
	mu      sync.Mutex
	answers map[string]string // by URL
	down    bool
	slow    time.Duration
	fetches atomic.Int64
}

func (p *idp) RoundTrip(req *http.Request) (*http.Response, error) {
	p.fetches.Add(1)
	p.mu.Lock()
	body, ok := p.answers[req.URL.String()]
	down, slow := p.down, p.slow
	p.mu.Unlock()
	select {
	case <-time.After(slow):
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	if down {
		return nil, errors.New("connection refused")
	}
	res := &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: req}
	if !ok {
		res.StatusCode, res.Status = 404, "404 Not Found"
	}
	return res, nil
}

func (p *idp) set(f func()) {
	p.mu.Lock()
	f()
	p.mu.Unlock()
}

const jwksURL = "https://idp.example/keys"

func jwkES(kid string, k *ecdsa.PrivateKey, more string) string {
	x, y := coordinates(k)
	return fmt.Sprintf(`{"kty":"EC","crv":"P-256","kid":%q,"x":%q,"y":%q%s}`, kid, x, y, more)
}

func jwkRSA(kid, more string) string {
	return fmt.Sprintf(`{"kty":"RSA","kid":%q,"n":%q,"e":%q%s}`, kid, base64.RawURLEncoding.EncodeToString(rsaKey.N.Bytes()),
		base64.RawURLEncoding.EncodeToString(big.NewInt(int64(rsaKey.E)).Bytes()), more)
}

func jwks(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

func es256Token(kid string, k *ecdsa.PrivateKey) []byte {
	header := `{"alg":"ES256"}`
	if kid != "" {
		header = `{"alg":"ES256","kid":"` + kid + `"}`
	}
	return []byte(signed("ES256", k, header, `{"sub":"alice"}`))
}

// started returns a verifier with one Remote at p, which ends with the test.
func started(t *testing.T, p *idp, set RemoteSettings) (*Verifier, *Remote, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	set.Client = &http.Client{Transport: p, CheckRedirect: noDowngrade}
	set.Log = slog.New(slog.NewTextHandler(&log, nil))
	r := must(NewRemote(set))
	r.Start()
	return NewVerifier(Settings{Own: Source{Remote: r}}), r, &log
}

func expect(t *testing.T, v *Verifier, token []byte, want Reason) {
	t.Helper()
	if _, reason := v.Verify(token, testNow.UnixNano()); reason != want {
		t.Fatalf("%q, want %q", reason, want)
	}
}

func TestRemoteRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		newKey := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
		p := &idp{answers: map[string]string{jwksURL: jwks(jwkES("old", ec256Key, ""))}, slow: time.Second}
		v, r, _ := started(t, p, RemoteSettings{URL: jwksURL})
		defer r.Close()
		expect(t, v, es256Token("old", ec256Key), 0) // waits for the first fetch
		expect(t, v, es256Token("", ec256Key), 0)
		expect(t, v, es256Token("old", newKey), BadSignature)
		if n := p.fetches.Load(); n != 1 {
			t.Fatalf("%d fetches", n)
		}

		// A new key is fetched when the first token names it, by one fetch for all that wait.
		p.set(func() { p.answers[jwksURL] = jwks(jwkES("old", ec256Key, ""), jwkES("new", newKey, "")) })
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { expect(t, v, es256Token("new", newKey), 0) })
		}
		wg.Wait()
		if n := p.fetches.Load(); n != 2 {
			t.Fatalf("%d fetches for one new key", n)
		}

		// Invented key ids do not hammer the provider.
		for range 20 {
			expect(t, v, es256Token("invented", newKey), UnknownKey)
		}
		if n := p.fetches.Load(); n != 2 {
			t.Fatalf("%d fetches within 30 s", n)
		}
		time.Sleep(refetchEvery)
		expect(t, v, es256Token("invented", newKey), UnknownKey)
		if n := p.fetches.Load(); n != 3 {
			t.Fatalf("%d fetches after 30 s", n)
		}

		// A withdrawn key takes its remembered tokens along; the other's stay good.
		p.set(func() { p.answers[jwksURL] = jwks(jwkES("new", newKey, "")) })
		expect(t, v, es256Token("old", ec256Key), 0)
		time.Sleep(refreshEvery + 2*time.Second)
		expect(t, v, es256Token("old", ec256Key), UnknownKey)
		expect(t, v, es256Token("new", newKey), 0)
	})
}

func TestRemoteProviderIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &idp{answers: map[string]string{jwksURL: jwks(jwkES("a", ec256Key, ""))}, down: true}
		v, r, log := started(t, p, RemoteSettings{URL: jwksURL})
		defer r.Close()
		good := es256Token("a", ec256Key)
		expect(t, v, good, NoKeys)
		expect(t, v, es256Token("", ec256Key), NoKeys)
		time.Sleep(5 * time.Second) // it is tried again by itself
		if n := p.fetches.Load(); n < 3 {
			t.Fatalf("%d fetches", n)
		}
		synctest.Wait()
		if !strings.Contains(log.String(), "connection refused") {
			t.Fatalf("log: %s", log)
		}
		p.set(func() { p.down = false })
		time.Sleep(refetchEvery)
		expect(t, v, good, 0)

		// Known keys stay while it is down again, answers nonsense, or never ends to answer.
		for _, f := range []func(){
			func() { p.down = true },
			func() { p.down, p.answers[jwksURL] = false, "<html>" },
			func() { p.answers[jwksURL] = `{"error":"maintenance"}` },
			func() { p.answers[jwksURL] = `{"keys":[` + strings.Repeat(" ", maxDocument) + `]}` },
			func() { delete(p.answers, jwksURL) },
			func() { p.slow = time.Hour },
		} {
			p.set(f)
			time.Sleep(2 * refreshEvery)
			expect(t, v, good, 0)
			expect(t, v, es256Token("", ec256Key), 0)
		}
		begin := time.Now()
		expect(t, v, es256Token("other", ec256Key), UnknownKey)
		if waited := time.Since(begin); waited > 2*fetchTimeout {
			t.Fatalf("an unknown key waits %s for a provider that does not answer", waited)
		}
	})
}

func TestRemoteDiscovery(t *testing.T) {
	const issuer = "https://idp.example/realm/"
	const document = "https://idp.example/realm/.well-known/openid-configuration"
	f := func(doc string, want Reason, wantLog string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			p := &idp{answers: map[string]string{document: doc, jwksURL: jwks(jwkES("a", ec256Key, "")), "http://plain.example/": jwks(jwkES("a", ec256Key, ""))}}
			v, r, log := started(t, p, RemoteSettings{Issuer: issuer})
			expect(t, v, es256Token("a", ec256Key), want)
			r.Close()
			if !strings.Contains(log.String(), wantLog) {
				t.Errorf("log %q, want %q", log, wantLog)
			}
		})
	}
	f(`{"issuer":"`+issuer+`","jwks_uri":"`+jwksURL+`"}`, 0, "")
	f(`{"issuer":"https://mallory.example","jwks_uri":"`+jwksURL+`"}`, NoKeys, "of issuer")
	f(`{"issuer":"https://idp.example/realm","jwks_uri":"`+jwksURL+`"}`, NoKeys, "of issuer")
	f(`{"issuer":"`+issuer+`","jwks_uri":"http://plain.example/"}`, NoKeys, "not https")
	f(`{"issuer":"`+issuer+`"}`, NoKeys, "jwks_uri")
	f(`{`, NoKeys, "discovery document")
}

func TestRemoteKeys(t *testing.T) {
	f := func(names []string, key string, want algorithms) {
		t.Helper()
		r := must(NewRemote(RemoteSettings{URL: jwksURL, Algorithms: names, Log: slog.New(slog.DiscardHandler)}))
		set, err := r.read([]byte(jwks(`{"kty":"unheard of","kid":"x"}`, `7`, key)))
		if err != nil {
			t.Fatal(err)
		}
		got := algorithms(0)
		if len(set.all) > 0 {
			got = set.all[0].allowed
		}
		if got != want || len(set.all) > 1 {
			t.Fatalf("%v, %s: verifies %q, want %q", names, key, got, want)
		}
	}
	f(nil, jwkRSA("a", ""), rs256)
	f(nil, jwkRSA("a", `,"alg":"PS512"`), ps512)
	f(nil, jwkRSA("a", `,"alg":"RS256","use":"sig","key_ops":["verify"]`), rs256)
	f(nil, jwkRSA("a", `,"alg":"ES256"`), 0)
	f(nil, jwkRSA("a", `,"alg":"HS256"`), 0)
	f(nil, jwkRSA("a", `,"use":"enc"`), 0)
	f(nil, jwkRSA("a", `,"key_ops":["encrypt"]`), 0)
	f([]string{"RS256", "PS256"}, jwkRSA("a", ""), rs256|ps256)
	f([]string{"RS256", "HS256"}, jwkRSA("a", ""), rs256)
	f([]string{"RS256"}, jwkRSA("a", `,"alg":"RS512"`), 0)
	f([]string{"RS256"}, jwkES("a", ec256Key, ""), 0)
	f(nil, jwkES("a", ec256Key, ""), es256)
	f(nil, jwkES("a", ec256Key, `,"d":"`+base64.RawURLEncoding.EncodeToString(must(ec256Key.Bytes()))+`"`), es256)
	f(nil, `{"kty":"OKP","crv":"Ed25519","kid":"a","x":"`+base64.RawURLEncoding.EncodeToString(edKey.Public().(ed25519.PublicKey))+`"}`, eddsa)
	f(nil, `{"kty":"oct","kid":"a","k":"c2VjcmV0"}`, 0)

	if _, err := NewRemote(RemoteSettings{URL: jwksURL, Algorithms: []string{"HS256"}}); err == nil {
		t.Fatal("a key set verifies HS256")
	}
	if _, err := NewRemote(RemoteSettings{URL: "ftp://x/"}); err == nil {
		t.Fatal("keys from ftp")
	}
}

func TestRemoteNeverDowngrades(t *testing.T) {
	from, _ := http.NewRequest(http.MethodGet, "https://a.example/", nil)
	to, _ := http.NewRequest(http.MethodGet, "http://a.example/", nil)
	if noDowngrade(to, []*http.Request{from}) == nil || noDowngrade(from, []*http.Request{to}) != nil {
		t.Fatal("redirects")
	}
}

func TestClosedRemoteKeepsItsKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &idp{answers: map[string]string{jwksURL: jwks(jwkES("a", ec256Key, ""))}}
		v, r, _ := started(t, p, RemoteSettings{URL: jwksURL})
		expect(t, v, es256Token("a", ec256Key), 0)
		r.Close()
		expect(t, v, es256Token("", ec256Key), 0)
		expect(t, v, es256Token("b", ec256Key), UnknownKey)
	})
}
