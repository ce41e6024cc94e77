package jwt

import (
	"encoding/json"
	"testing"
	"time"

	gojwt "github.com/golang-jwt/jwt/v5"
)

// FuzzJWT holds the verifier against golang-jwt: whatever that refuses with the same key must never be accepted, neither as
// it stands nor with a good signature put under it.
func FuzzJWT(f *testing.F) {
	for _, payload := range []string{
		`{}`, `{"sub":"alice","exp":1900000000,"nbf":1700000000.5,"iat":17e8}`, `{"exp":-0.0}`, `{"exp":1e999}`, `{"a":[1,{"b":null}]}`,
		`{"exp":1800000000.999999999}`, `{"aud":["x","y"],"iss":"i"}`, `{"s":"\u00e9\ud83d\ude00"}`, "{\"s\":\"\xff\"}", `{"sub":"a","sub":"b"}`,
	} {
		f.Add(`{"alg":"HS256","typ":"JWT"}`, payload, false)
		f.Add(`{"alg":"HS256","kid":"a","crit":["b64"],"b64":false}`, payload, false)
	}
	f.Add(token(`{"sub":"alice"}`), "", true)
	f.Add("..", "", true)
	v := secretVerifier(Settings{})
	golang := gojwt.NewParser(gojwt.WithTimeFunc(func() time.Time { return testNow }), gojwt.WithIssuedAt(), gojwt.WithValidMethods([]string{"HS256"}))
	f.Fuzz(func(t *testing.T, header, payload string, asIs bool) {
		text := header
		if !asIs {
			text = tokenWith(header, payload)
		}
		for range 2 {
			c, reason := v.Verify([]byte(text), testNow.UnixNano())
			if reason != 0 {
				if c != nil {
					t.Fatal("refused, and yet it has claims")
				}
				continue
			}
			claims := gojwt.MapClaims{}
			if _, err := golang.ParseWithClaims(text, claims, func(*gojwt.Token) (any, error) { return []byte(testSecret), nil }); err != nil {
				t.Fatalf("accepted %q, which golang-jwt refuses: %s", text, err)
			}
			if sub, ok := claims["sub"].(string); ok && sub != c.Subject {
				t.Fatalf("subject %q, golang-jwt reads %q", c.Subject, sub)
			}
			for name, want := range claims {
				got, ok := c.Claim(name)
				if ok != (want != nil) {
					t.Fatalf("claim %q: found %t", name, ok)
				}
				if text, isText := want.(string); isText && text != string(got) {
					t.Fatalf("claim %q: %q, golang-jwt reads %q", name, got, text)
				}
				c.ClaimHas(name, "x")
				c.Claim(name + "." + payload)
			}
		}
	})
}

// FuzzScanner holds the scanner against encoding/json: it accepts nothing that the other refuses, and what it refuses
// beyond that is named in its documentation.
func FuzzScanner(f *testing.F) {
	for _, s := range []string{`{"a":1}`, ` { "a" : [ ] , "b\n" : -0.1E+7 } `, `{"a":{"b":"\ud83d\ude00"}}`, `{`, `{"a":1}x`, `{"a":tru}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		names := map[string]int{}
		m := object(s)
		for {
			name, value, ok := m.next()
			if !ok {
				break
			}
			names[unescape(name)]++
			var v any
			if err := json.Unmarshal([]byte(value), &v); err != nil {
				t.Fatalf("value %q: %s", value, err)
			}
			if text, ok := quoted(value); ok && text != v {
				t.Fatalf("%q reads as %q, want %q", value, text, v)
			}
		}
		if m.bad {
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal([]byte(s), &want); err != nil {
			t.Fatalf("accepted %q: %s", s, err)
		}
		if len(want) != len(names) {
			t.Fatalf("%q has %d names, want %d", s, len(names), len(want))
		}
	})
}
