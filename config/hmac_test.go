package config

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestHMACCredentials(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		_, err := Parse("sluice.yaml", []byte(text), Options{})
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: error %v, want one with %q", text, err, want)
		}
	}
	f("consumers: {a: {hmac: [{secret: s}, {username: b, secret: s}]}}", "")
	f("consumers: {a: {hmac: [{username: c, secret: s}]}, b: {hmac: [{username: c, secret: t}]}}", "consumers.b.hmac[0].username: this user name stands also at consumers.a.hmac[0].username")
	f("consumers: {a: {hmac: [{secret: s}]}, b: {hmac: [{username: a, secret: t}]}}", "consumers.b.hmac[0].username: this user name")
	f("consumers: {a: {hmac: [{username: a}]}}", "consumers.a.hmac[0].secret")
	f(`consumers: {a: {hmac: [{username: 'a"b', secret: s}]}}`, "consumers.a.hmac[0].username")
	f(`consumers: {a: {hmac: [{username: 'a\b', secret: s}]}}`, "consumers.a.hmac[0].username")
	f("consumers: {a: {hmac: [{username: a, secret: s, hash: x}]}}", "consumers.a.hmac[0].hash")
}

func TestHMACSecretsAreMasked(t *testing.T) {
	c, err := Parse("sluice.yaml", []byte("consumers: {a: {hmac: [{secret: hush-hush}]}}"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	shown, err := json.Marshal(c.View())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(shown), "hush") || !strings.Contains(string(shown), masked) {
		t.Errorf("%s", shown)
	}
}
