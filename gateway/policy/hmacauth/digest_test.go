package hmacauth

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"

	"sluice/gateway/exchange"
)

func digest(body string) string {
	sum := sha256.Sum256([]byte(body))
	return "SHA-256=" + base64.StdEncoding.EncodeToString(sum[:])
}

func TestDigest(t *testing.T) {
	f := newTester(t, "{validate_body: true, body_limit: 1KiB, replay_protection: false}")
	if !f.h.Blocking {
		t.Error("does not say that it may wait for the body")
	}
	send := func(wantFailure string, want error, body, digest string, signed bool, more ...string) {
		t.Helper()
		headers, names, lines := []string{"Date: " + date}, usualHeaders, append([]string{}, usual...)
		if digest != "" {
			headers = append(headers, "Digest: "+digest)
		}
		if signed {
			names += " digest"
			lines = append(lines, "digest: "+strings.Join(append([]string{digest}, more...), ", "))
		}
		for _, d := range more {
			headers = append(headers, "Digest: "+d)
		}
		x := f.w.Exchange("/users?a=b", append(headers, header("alice", "hmac-sha256", aliceSecret, names, lines...))...)
		defer x.Close()
		if body != "" {
			x.Request.SetBodyStream(bytes.NewReader([]byte(body)), len(body))
			x.Request.Header.SetContentLength(len(body))
		}
		if err := f.h.Authenticate(x); err != want || x.AuthFailure != wantFailure {
			t.Errorf("body %.20q with digest %q: %v %q, want %v %q", body, digest, err, x.AuthFailure, want, wantFailure)
		}
		if want == nil && body != "" && string(x.Body) != body {
			t.Errorf("the backend gets %q", x.Body)
		}
	}
	send("", nil, "hello", digest("hello"), true)
	send("", nil, "hello", strings.Replace(digest("hello"), "SHA", "sha", 1), true)
	send("", nil, "hello", "MD5=abc, "+digest("hello"), true)
	send("", nil, "", "", false)
	send("", nil, "", digest(""), true)
	send("bad_digest", invalid, "hello", digest("hallo"), true)
	send("bad_digest", invalid, "", digest("hello"), true)
	send("malformed", invalid, "hello", digest("hello"), false)
	send("malformed", invalid, "hello", "", false)
	send("malformed", invalid, "hello", "MD5=abc", true)
	send("malformed", invalid, "hello", "SHA-256=abc", true)
	send("malformed", invalid, "hello", digest("hello")+"A", true)
	send("malformed", invalid, "hello", digest("hello")+", "+digest("hallo"), true)
	send("malformed", invalid, "hello", digest("hello"), true, digest("hallo"))
	send("", nil, strings.Repeat("x", 1024), digest(strings.Repeat("x", 1024)), true)
	send("", exchange.RejectBodyTooLarge, strings.Repeat("x", 1025), digest(strings.Repeat("x", 1025)), true)
}

// A client that waits to be asked for its body is asked once its signature is found to be right, and is then no replay of itself.
func TestBodyLater(t *testing.T) {
	f := newTester(t, "validate_body: true")
	lines := append(append([]string{}, usual...), "digest: "+digest("hello"))
	request := func(secret string) *exchange.Exchange {
		x := f.w.Exchange("/users?a=b", "Date: "+date, "Digest: "+digest("hello"), header("alice", "hmac-sha256", secret, usualHeaders+" digest", lines...))
		x.Request.SetBodyStream(strings.NewReader("hello"), 5)
		x.Request.Header.SetContentLength(5)
		x.BodyLater = true
		return x
	}
	x := request("wrong")
	if err := f.h.Authenticate(x); err != invalid {
		t.Errorf("%v for a signature that is wrong", err)
	}
	x = request(aliceSecret)
	if err := f.h.Authenticate(x); err != exchange.ErrBodyLater {
		t.Fatalf("%v before the body is asked for", err)
	}
	x.BodyLater = false
	if err := f.h.Authenticate(x); err != nil {
		t.Fatalf("%v %s once it has come", err, x.AuthFailure)
	}
	x = request(aliceSecret)
	x.BodyLater = false
	if err := f.h.Authenticate(x); err != invalid || x.AuthFailure != "replayed" {
		t.Errorf("%v %s for a replay", err, x.AuthFailure)
	}
}
