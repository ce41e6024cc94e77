package gateway_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"sluice/gateway/cluster/redistest"
	"sluice/gateway/revocation"
)

func (g *gate) revoke(e revocation.Entry) {
	g.t.Helper()
	e.Until = time.Now().Add(time.Hour)
	if _, err := g.Revoked().Revoke(e); err != nil {
		g.t.Fatal(err)
	}
}

// What is revoked at one gateway the others refuse, also what was revoked while the store was gone, and after the store has lost it.
func TestRevokedEverywhere(t *testing.T) {
	const secret = "a-secret-of-at-least-thirty-two-bytes"
	redis := redistest.Start(t)
	gs := trio(t, plain(t), redis.Address, "timeout: 100ms", fmt.Sprintf("policies: {jwt: {algorithms: [HS256], secret: %s}}", secret))
	token := func(jti string) string {
		signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "alice", "jti": jti, "exp": time.Now().Add(time.Hour).Unix()}).SignedString([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		return "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + signed + "\r\n\r\n"
	}
	one, two := token("1"), token("2")
	for _, g := range gs {
		if g.status(one) != 200 || g.status(two) != 200 {
			t.Fatal("a token is refused")
		}
	}
	gs[0].revoke(revocation.Entry{Kind: revocation.JTI, Value: "1"})
	for i, g := range gs {
		once(t, fmt.Sprintf("gateway %d refuses what is revoked", i), func() bool { return g.status(one) == 401 })
		if g.status(two) != 200 {
			t.Error("another one is refused")
		}
	}
	redis.Pause()
	once(t, "the store is gone", func() bool { return gs[1].metric("sluice_store_up") == 0 })
	gs[1].revoke(revocation.Entry{Kind: revocation.JTI, Value: "2"})
	if gs[1].status(two) != 401 {
		t.Error("what is revoked passes while the store is gone")
	}
	redis.Resume()
	redis.Do("FLUSHALL")
	for i, g := range gs {
		once(t, fmt.Sprintf("gateway %d refuses what was revoked meanwhile", i), func() bool { return g.status(two) == 401 })
		if g.status(one) != 401 {
			t.Error("what the store has lost passes again")
		}
	}
}

// A gateway that comes later knows what is revoked before it answers the first request.
func TestRevokedBefore(t *testing.T) {
	const secret = "a-secret-of-at-least-thirty-two-bytes"
	redis := redistest.Start(t)
	state := "state: {redis: {addresses: [%q], timeout: 10s}}\npolicies: {jwt: {algorithms: [HS256], secret: " + secret + "}}"
	backend := plain(t)
	first := forward(t, backend, "", "", fmt.Sprintf(state, redis.Address))
	signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "alice", "jti": "1", "exp": time.Now().Add(time.Hour).Unix()}).SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	first.revoke(revocation.Entry{Kind: revocation.JTI, Value: "1"})
	once(t, "it is told", func() bool { return strings.HasPrefix(redis.Do("HLEN", "sluice:{revoked}"), ":5") })
	slow := redistest.NewProxy(t, redis.Address)
	slow.Delay(20 * time.Millisecond)
	second := forward(t, backend, "", "", fmt.Sprintf(state, slow.Address))
	if got := second.status("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + signed + "\r\n\r\n"); got != 401 {
		t.Errorf("status %d, want 401", got)
	}
}

// Of a token with an ECDSA signature anybody can make another one that is as good: it is the same token.
func TestRevokedWithAnotherSignature(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := strconv.Quote(string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	g := forward(t, plain(t), "", "policies: {jwt: {algorithms: [ES256], public_key: "+public+"}}", "")
	one, err := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	signed := one[:strings.LastIndex(one, ".")+1]
	signature, err := base64.RawURLEncoding.DecodeString(one[len(signed):])
	if err != nil {
		t.Fatal(err)
	}
	s := new(big.Int).SetBytes(signature[32:])
	s.Sub(key.Params().N, s).FillBytes(signature[32:])
	two := signed + base64.RawURLEncoding.EncodeToString(signature)
	ask := func(token string, want int) {
		t.Helper()
		if got := g.status("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + token + "\r\n\r\n"); got != want {
			t.Errorf("status %d, want %d", got, want)
		}
	}
	ask(one, 200)
	ask(two, 200)
	g.revoke(revocation.Entry{Kind: revocation.Token, Value: revocation.OfToken([]byte(one))})
	ask(one, 401)
	ask(two, 401)
}

// forward_auth does not ask about what is revoked, and asks anew about a subject that is.
func TestRevokedAtForwardAuth(t *testing.T) {
	var asked atomic.Int64
	auth := answering(t, func(string, string) string {
		asked.Add(1)
		return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-User: alice\r\n\r\n"
	})
	g := forward(t, plain(t), "", `policies: {forward_auth: {url: "http://`+auth.addr+`/check", request_headers: [Authorization], subject_header: X-User, cache: {ttl: 1h, by: [Authorization]}}}`, "")
	ask := func(credential string, status int, times int64) {
		t.Helper()
		asked.Store(0)
		if got := g.status("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: " + credential + "\r\n\r\n"); got != status || asked.Load() != times {
			t.Errorf("%s: status %d after %d questions, want %d and %d", credential, got, asked.Load(), status, times)
		}
	}
	ask("Bearer abc", 200, 1)
	ask("Bearer abc", 200, 0)
	ask("Bearer def", 200, 1)
	g.revoke(revocation.Entry{Kind: revocation.Token, Value: revocation.OfToken([]byte("abc"))})
	ask("Bearer abc", 401, 0)
	ask("bearer  abc", 401, 0)
	ask("Bearer def", 200, 0)
	g.revoke(revocation.Entry{Kind: revocation.Subject, Value: "alice", Before: time.Now()})
	ask("Bearer def", 200, 1)
	if !strings.Contains(fmt.Sprint(g.Revoked().Entries()), "alice") {
		t.Error(g.Revoked().Entries())
	}
}
