package admin

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func TestRevocations(t *testing.T) {
	const secret = "a-secret-of-at-least-thirty-two-bytes"
	dir := t.TempDir()
	w := newWorld(t, fmt.Sprintf(`
listeners: {main: {address: "127.0.0.1:0"}}
state: {dir: %q}
routes: {r: {match: {paths: [/]}, redirect: {to: "https://elsewhere.example/"}, policies: {jwt: {algorithms: [HS256], secret: %s, from: {header: X-API-Key}}}}}
`, dir, secret), nil)
	sign := func(claims jwt.MapClaims) string {
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	exp := time.Now().Add(10 * time.Minute).Unix()
	passes := func(token string, want bool) {
		t.Helper()
		if got := w.call(token, "GET", "/"); got != map[bool]int{true: 308, false: 401}[want] {
			t.Errorf("%d, want %v", got, want)
		}
	}
	one, two, three := sign(jwt.MapClaims{"sub": "alice", "exp": exp, "jti": "1"}), sign(jwt.MapClaims{"sub": "bob", "iss": "us", "exp": exp, "jti": "2"}), sign(jwt.MapClaims{"sub": "carol", "iat": time.Now().Unix(), "exp": exp})
	for _, token := range []string{one, two, three, one} {
		passes(token, true)
	}
	v := w.want(201, "POST", "/api/revocations", `{"token": "`+one+`"}`)
	if strings.Contains(v, one) || !strings.Contains(v, "sha256") {
		t.Error(v)
	}
	passes(one, false)
	w.want(201, "POST", "/api/revocations", `{"jti": "2", "issuer": "them", "ttl": "1h"}`)
	passes(two, true)
	w.want(201, "POST", "/api/revocations", `{"jti": "2", "issuer": "us", "ttl": "1h"}`)
	passes(two, false)
	w.want(201, "POST", "/api/revocations", `{"subject": "carol", "ttl": "1h"}`)
	passes(three, false)
	passes(sign(jwt.MapClaims{"sub": "carol", "iat": time.Now().Unix() + 30, "exp": exp, "nbf": 0}), false) // iat lies ahead
	if v := w.object("GET", "/api/revocations", ""); len(v["revocations"].([]any)) != 4 {
		t.Error(v)
	}
	until := at(t, w.object("GET", "/api/revocations", ""), "revocations")
	if !strings.Contains(fmt.Sprint(until), time.Unix(exp, 0).Add(time.Hour).UTC().Format(time.RFC3339)) {
		t.Errorf("the token's revocation does not end after it has expired: %v", until)
	}

	// Those that are valid for years are revoked for years.
	old := sign(jwt.MapClaims{"sub": "dave", "exp": time.Now().AddDate(5, 0, 0).Unix()})
	w.want(201, "POST", "/api/revocations", `{"token": "`+old+`"}`)
	passes(old, false)

	f := func(want, body string) {
		t.Helper()
		if text := w.want(400, "POST", "/api/revocations", body); !strings.Contains(text, want) {
			t.Errorf("%s: %s", body, text)
		}
	}
	f("say what is revoked", `{}`)
	f("say what is revoked", `{"jti": "1", "subject": "x", "ttl": "1h"}`)
	f("ttl or until", `{"jti": "1"}`)
	f("ttl or until", `{"token": "opaque"}`)
	f("not both", `{"jti": "1", "ttl": "1h", "until": "2100-01-01T00:00:00Z"}`)
	f("ahead", `{"jti": "1", "until": "2100-01-01T00:00:00Z"}`)
	f("ahead", `{"jti": "1", "until": "2000-01-01T00:00:00Z"}`)
	f("ttl", `{"jti": "1", "ttl": "soon"}`)
	f("issuer", `{"token": "x", "issuer": "us", "ttl": "1h"}`)
	f("unknown field", `{"sub": "x"}`)

	// It stands in the log of changes, without the token, and is there after a restart.
	log, err := os.ReadFile(filepath.Join(dir, "audit", "admin.log"))
	if err != nil || strings.Contains(string(log), one) || !strings.Contains(string(log), `"carol"`) {
		t.Error(string(log), err)
	}
	kept, err := os.ReadFile(filepath.Join(dir, "revoked"))
	if err != nil || strings.Contains(string(kept), one) || strings.Count(string(kept), "\n") != 5 {
		t.Error(string(kept), err)
	}
	again := newWorld(t, fmt.Sprintf(`
listeners: {main: {address: "127.0.0.1:0"}}
state: {dir: %q}
routes: {r: {match: {paths: [/]}, redirect: {to: "https://elsewhere.example/"}, policies: {jwt: {algorithms: [HS256], secret: %s, from: {header: X-API-Key}}}}}
`, dir, secret), nil)
	for _, token := range []string{one, two, three} {
		if got := again.call(token, "GET", "/"); got != 401 {
			t.Errorf("%d after a restart", got)
		}
	}
}
