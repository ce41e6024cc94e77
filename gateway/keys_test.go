package gateway_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	gojwt "github.com/golang-jwt/jwt/v5"
)

// Who sends a token while the gateway has never seen a key is not told that the
// token is invalid, and is not let in either. With the first key set, and
// without the provider afterwards, it is the token that counts.
func TestProviderOutOfReach(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(key *ecdsa.PrivateKey, kid string) string {
		tok := gojwt.NewWithClaims(gojwt.SigningMethodES256, gojwt.MapClaims{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()})
		tok.Header["kid"] = kid
		s, err := tok.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	good, bad := sign(key, "a"), sign(other, "a")

	idp := nobody(t)
	s := answering(t, echoHead)
	g := forward(t, s, "", fmt.Sprintf("policies: {jwt: {jwks_url: \"http://%s/keys\"}}", idp), "")
	ask := func(authorization string) *peer {
		t.Helper()
		c := g.client()
		c.send("GET / HTTP/1.1\r\nHost: a\r\n" + authorization + "\r\n")
		return c
	}
	for range 30 { // more than auth_guard would forgive
		head := ask("Authorization: Bearer "+good+"\r\n").refused(503, "keys_unavailable")
		if v, _ := field(head, "Retry-After"); v == "" {
			t.Errorf("%q", head)
		}
		if _, ok := field(head, "WWW-Authenticate"); ok {
			t.Errorf("%q", head)
		}
	}
	ask("").refused(401, "credential_missing")
	ask("Authorization: Bearer e30.e30.e30\r\n").refused(401, "credential_invalid")
	ask("Authorization: Bearer garbage\r\n").refused(401, "credential_invalid")
	once(t, "all failures are counted", func() bool {
		return g.metric(`sluice_auth_failures_total{route="r",reason="no_keys"}`) == 30
	})

	public, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	coordinate := func(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
	keys := fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","kid":"a","alg":"ES256","x":%q,"y":%q}]}`, coordinate(public[1:33]), coordinate(public[33:]))
	ln, err := net.Listen("tcp", idp)
	if err != nil {
		t.Fatal(err)
	}
	provider := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(keys)) })}
	go func() { _ = provider.Serve(ln) }()
	once(t, "the keys are there", func() bool {
		head, _ := ask("Authorization: Bearer " + good + "\r\n").response()
		return statusOf(head) == 200
	})
	_ = provider.Close()
	ask("Authorization: Bearer "+bad+"\r\n").refused(401, "credential_invalid")
	ask("Authorization: Bearer "+sign(other, "b")+"\r\n").refused(401, "credential_invalid")
	if head, _ := ask("Authorization: Bearer " + good + "\r\n").response(); statusOf(head) != 200 {
		t.Errorf("%q", head)
	}
}
