package hmacauth

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

const consumers = `consumers:
  alice: {hmac: [{secret: a-secret-of-alice-that-is-long}, {username: alice2, secret: same-for-two-of-them-and-long}]}
  bob: {hmac: [{username: bob2, secret: same-for-two-of-them-and-long}]}
  guest: {}
`

const aliceSecret = "a-secret-of-alice-that-is-long"

var hashes = map[string]func() hash.Hash{"hmac-sha1": sha1.New, "hmac-sha256": sha256.New, "hmac-sha384": sha512.New384, "hmac-sha512": sha512.New}

func sign(alg, secret string, lines ...string) string {
	m := hmac.New(hashes[alg], []byte(secret))
	m.Write([]byte(strings.Join(lines, "\n")))
	return base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// header is a credential over these headers, signed over these lines.
func header(user, alg, secret, headers string, lines ...string) string {
	return fmt.Sprintf(`Authorization: hmac username="%s", algorithm="%s", headers="%s", signature="%s"`, user, alg, headers, sign(alg, secret, lines...))
}

func at(t time.Time) string { return t.UTC().Format(http.TimeFormat) }

var (
	date = at(policytest.Epoch)
	// What a usual client signs.
	usual = []string{"host: api.example.com", "date: " + date, "get /users?a=b"}
)

const usualHeaders = "host date @request-target"

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

// A tester sends requests through one policy.
type tester struct {
	*testing.T
	w *policytest.World
	h policy.Hooks
}

func newTester(t *testing.T, settings string) *tester {
	w := policytest.New(t, consumers)
	return &tester{t, w, w.MustBuild(t, Definition, settings)}
}

// send returns the failure, "" for a request that passes, and the consumer.
func (f *tester) send(target string, headers ...string) (failure, consumer string) {
	x := f.w.Exchange(target, headers...)
	defer x.Close()
	switch err := f.h.Authenticate(x); err {
	case nil:
		if id, _ := x.ToBackend.Value("X-User-ID"); string(id) != string(x.Identity.Subject) || !x.Identity.Authenticated || x.Identity.Method != "hmac_auth" {
			f.Errorf("identity %+v, X-User-ID %q", x.Identity, id)
		}
		return "", x.Identity.Consumer.Name
	case exchange.ErrNoCredential:
		return "missing", ""
	case busy:
		return "busy", ""
	case invalid:
		if x.AuthFailure == "" {
			f.Error("refused without a reason")
		}
		return x.AuthFailure, ""
	default:
		f.Errorf("error %v", err)
		return err.Error(), ""
	}
}

func (f *tester) want(want, target string, headers ...string) {
	f.Helper()
	if got, _ := f.send(target, headers...); got != want {
		f.Errorf("%s %q: %q, want %q", target, headers, got, want)
	}
}

func TestSuccess(t *testing.T) {
	f := func(settings, wantConsumer, target string, headers ...string) {
		t.Helper()
		failure, consumer := newTester(t, settings).send(target, headers...)
		if failure != "" || consumer != wantConsumer {
			t.Errorf("%q: %q as %q, want %q", headers, failure, consumer, wantConsumer)
		}
	}
	f("{}", "alice", "/users?a=b", "Date: "+date, header("alice", "hmac-sha256", aliceSecret, usualHeaders, usual...))
	f("{}", "alice", "/users?a=b", "Date: "+date, header("alice", "hmac-sha384", aliceSecret, usualHeaders, usual...))
	f("{}", "alice", "/users?a=b", "Date: "+date, header("alice", "hmac-sha512", aliceSecret, usualHeaders, usual...))
	f("algorithms: [hmac-sha1]", "alice", "/users?a=b", "Date: "+date, header("alice", "hmac-sha1", aliceSecret, usualHeaders, usual...))
	f("{}", "alice", "/users?a=b", "Date: "+date, "Proxy-"+header("alice", "hmac-sha256", aliceSecret, usualHeaders, usual...))
	f("{}", "alice", "/users?a=b", "Date: "+date, header("alice2", "hmac-sha256", "same-for-two-of-them-and-long", usualHeaders, usual...))
	f("{}", "bob", "/users?a=b", "Date: "+date, header("bob2", "hmac-sha256", "same-for-two-of-them-and-long", usualHeaders, usual...))
	// Any order and case of the names, the request line, other headers, X-Date.
	f("{}", "alice", "/users?a=b", "X-Date: "+date, "X-A: 1", "X-A: two",
		header("alice", "hmac-sha256", aliceSecret, "X-A Request-Line  X-DATE Host", "x-a: 1, two", "GET /users?a=b HTTP/1.1", "x-date: "+date, "host: api.example.com"))
	f("signed_headers: []", "alice", "/", "Date: "+date, header("alice", "hmac-sha256", aliceSecret, "date", "date: "+date))
	f("{}", "alice", "/", "Date: 2027-01-15T08:00:00.125Z", header("alice", "hmac-sha256", aliceSecret, usualHeaders, "host: api.example.com", "date: 2027-01-15T08:00:00.125Z", "get /"))
	// The edges of the skew.
	for _, skew := range []time.Duration{-300 * time.Second, 300 * time.Second} {
		d := at(policytest.Epoch.Add(skew))
		f("{}", "alice", "/", "Date: "+d, header("alice", "hmac-sha256", aliceSecret, usualHeaders, "host: api.example.com", "date: "+d, "get /"))
	}
}

func TestFailure(t *testing.T) {
	f := newTester(t, "signed_headers: [host, date, '@request-target', x-tenant]")
	lines := append(append([]string{}, usual...), "x-tenant: acme")
	const names = usualHeaders + " x-tenant"
	good := header("alice", "hmac-sha256", aliceSecret, names, lines...)
	send := func(want, target, credential string, headers ...string) {
		t.Helper()
		f.want(want, target, append([]string{"Date: " + date, "X-Tenant: acme", credential}, headers...)...)
	}
	f.want("missing", "/users?a=b", "Date: "+date, "X-Tenant: acme")
	send("missing", "/users?a=b", "Authorization: Bearer abc")
	send("missing", "/users?a=b", "Authorization: hmac")
	send("missing", "/users?a=b", "Authorization: hmacs username=\"alice\"")

	// Anything that is signed, changed.
	send("bad_signature", "/users?a=c", good)
	send("bad_signature", "/Users?a=b", good)
	send("bad_signature", "/users", good)
	f.want("bad_signature", "/users?a=b", "Date: "+date, "X-Tenant: other", good)
	send("bad_signature", "/users?a=b", good, "X-Tenant: other")
	f.want("bad_signature", "/users?a=b", "Date: "+at(policytest.Epoch.Add(time.Second)), "X-Tenant: acme", good)
	send("bad_signature", "/users?a=b", header("alice", "hmac-sha256", "another secret", names, lines...))
	send("bad_signature", "/users?a=b", header("alice2", "hmac-sha256", aliceSecret, names, lines...))
	send("bad_signature", "/users?a=b", strings.Replace(good, "sha256", "sha512", 1))
	send("bad_signature", "/users?a=b", strings.Replace(good, `headers="host date`, `headers="date host`, 1))
	send("unknown_user", "/users?a=b", header("mallory", "hmac-sha256", aliceSecret, names, lines...))
	send("unknown_user", "/users?a=b", header("guest", "hmac-sha256", "", names, lines...))
	send("unknown_user", "/users?a=b", header("Alice", "hmac-sha256", aliceSecret, names, lines...))
	send("wrong_algorithm", "/users?a=b", header("alice", "hmac-sha1", aliceSecret, names, lines...))
	send("wrong_algorithm", "/users?a=b", strings.Replace(good, "hmac-sha256", "none", 1))
	send("wrong_algorithm", "/users?a=b", strings.Replace(good, "hmac-sha256", "HMAC-SHA256", 1))

	// Signatures that cover less than they must.
	send("malformed", "/users?a=b", header("alice", "hmac-sha256", aliceSecret, usualHeaders, usual...))
	send("malformed", "/users?a=b", header("alice", "hmac-sha256", aliceSecret, "host @request-target x-tenant", "host: api.example.com", "get /users?a=b", "x-tenant: acme"))
	send("malformed", "/users?a=b", header("alice", "hmac-sha256", aliceSecret, names+" x-absent", append(lines, "x-absent: ")...))

	// Credentials that are none, or could be read in two ways.
	value := strings.TrimPrefix(good, "Authorization: hmac ")
	for _, v := range []string{
		"x", "username", `username=alice`, strings.ReplaceAll(value, `"`, ""), value + ", ", value + `, username="bob2"`, value + `, realm="x"`, value + " x",
		strings.Replace(value, ", headers", " headers", 1), strings.Replace(value, `username="alice", `, "", 1), strings.Replace(value, `username="alice"`, `username=""`, 1),
		strings.Replace(value, `username="alice"`, `username="al\ice"`, 1), value[:len(value)-1], strings.Replace(value, `signature="`, `signature=" `, 1),
		strings.Replace(value, `="`+sign("hmac-sha256", aliceSecret, lines...), `="`+sign("hmac-sha256", aliceSecret, lines...)[:40], 1)[:len(value)-6] + `!"`,
		`username="alice", algorithm="hmac-sha256", headers="` + names + `", signature="` + strings.Repeat("A", 200) + `"`,
		strings.Replace(value, `="alice"`, `="`+strings.Repeat("a", maxCredential)+`"`, 1),
	} {
		send("malformed", "/users?a=b", "Authorization: hmac "+v)
	}
	send("malformed", "/users?a=b", good, good)
	many := strings.Repeat("x-tenant ", maxNames)
	send("malformed", "/users?a=b", header("alice", "hmac-sha256", aliceSecret, names+" "+many, lines...))

	// Dates.
	dated := func(want, d string, more ...string) {
		t.Helper()
		f.want(want, "/users?a=b", append([]string{"X-Tenant: acme", "Date: " + d, header("alice", "hmac-sha256", aliceSecret, names, "host: api.example.com", "date: "+d, "get /users?a=b", "x-tenant: acme")}, more...)...)
	}
	dated("expired", at(policytest.Epoch.Add(-301*time.Second)))
	dated("not_yet_valid", at(policytest.Epoch.Add(301*time.Second)))
	dated("expired", "Thu, 01 Jan 1970 00:00:00 GMT")
	dated("malformed", "yesterday")
	dated("malformed", "Thu, 01 Jan 1970 00:00:00 UTC")
	dated("malformed", "1800000000")
	dated("malformed", strings.Repeat("1", 100))
	dated("malformed", date, "Date: "+date)

	// After all of this the right one still passes.
	send("", "/users?a=b", good)
}

func TestReplay(t *testing.T) {
	f := newTester(t, "{}")
	at := func(when time.Time, id string) []string {
		d := when.UTC().Format(http.TimeFormat)
		return []string{"Date: " + d, "X-ID: " + id, header("alice", "hmac-sha256", aliceSecret, usualHeaders+" x-id", "host: api.example.com", "date: "+d, "get /", "x-id: "+id)}
	}
	past, future := policytest.Epoch.Add(-200*time.Second), policytest.Epoch.Add(300*time.Second)
	f.want("", "/", at(past, "1")...)
	f.want("replayed", "/", at(past, "1")...)
	f.want("", "/", at(past, "2")...)
	f.want("", "/", at(future, "3")...)
	f.w.Advance(99 * time.Second)
	f.want("replayed", "/", at(past, "1")...)
	f.w.Advance(2 * time.Second)
	f.want("expired", "/", at(past, "1")...)
	f.w.Advance(499 * time.Second)
	f.want("replayed", "/", at(future, "3")...)
	f.w.Advance(2 * time.Second)
	f.want("expired", "/", at(future, "3")...)
}

// A signature that was used stays used over a reload, on another route, and under a longer skew.
func TestReplayOverReload(t *testing.T) {
	f := newTester(t, "clock_skew: 60s")
	request := []string{"Date: " + date, header("alice", "hmac-sha256", aliceSecret, usualHeaders, "host: api.example.com", "date: "+date, "get /")}
	f.want("", "/", request...)
	end := f.w.Reload()
	f.h = f.w.MustBuild(t, Definition, "clock_skew: 600s")
	end()
	f.w.Advance(500 * time.Second)
	f.want("replayed", "/", request...)
	f.h = f.w.MustBuild(t, Definition, "{clock_skew: 600s, replay_protection: false}")
	f.want("", "/", request...)
	f.want("", "/", request...)
}

// Of all that come at once with the same signature one passes.
func TestReplayAtOnce(t *testing.T) {
	f := newTester(t, "{}")
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if failure, _ := f.send("/users?a=b", "Date: "+date, header("alice", "hmac-sha256", aliceSecret, usualHeaders, usual...)); failure == "" {
				passed.Add(1)
			}
		})
	}
	wg.Wait()
	if passed.Load() != 1 {
		t.Errorf("%d passed", passed.Load())
	}
}

func TestSeen(t *testing.T) {
	s := newSeen()
	s.keepFor(100)
	sum := func(i int) []byte {
		h := sha256.Sum256(binary.AppendVarint(nil, int64(i)))
		return h[:]
	}
	user := []byte("alice")
	const most = 1 << 15
	added := 0
	for s.add(user, sum(added), 1000, 1000, most) == fresh {
		added++
	}
	if added < most/3 || added > most {
		t.Errorf("%d found room in %d", added, most)
	}
	for i := range added {
		if v := s.add(user, sum(i), 1000, 1100, most); v != again {
			t.Fatalf("%d of %d was forgotten: %d", i, added, v)
		}
	}
	if s.add([]byte("bob"), sum(0), 1000, 1000, 2*most) != fresh {
		t.Error("another user's signature is taken for the same")
	}
	// What is too old makes room.
	for i := range added {
		if v := s.add(user, sum(i), 1101, 1101, most); v != fresh {
			t.Fatalf("%d: %d", i, v)
		}
	}
	total := 0
	for i := range s.shards {
		total += len(s.shards[i].slots)
	}
	if total > 2*most {
		t.Errorf("%d slots", total)
	}
}

func TestFull(t *testing.T) {
	f := newTester(t, "max_seen: 1024")
	got := ""
	for i := 0; got == "" && i < 2000; i++ {
		id := fmt.Sprint(i)
		got, _ = f.send("/", "Date: "+date, "X-ID: "+id, header("alice", "hmac-sha256", aliceSecret, usualHeaders+" x-id", "host: api.example.com", "date: "+date, "get /", "x-id: "+id))
	}
	if got != "busy" {
		t.Errorf("%q with a full store", got)
	}
}

func TestHidden(t *testing.T) {
	w := policytest.New(t, consumers)
	h := w.MustBuild(t, Definition, "{anonymous: guest}")
	if h.Anonymous != w.Consumers["guest"] || h.Challenge == "" || h.Blocking {
		t.Errorf("hooks %+v", h)
	}
	f := func(value string, want bool) {
		t.Helper()
		x := w.Exchange("/", "Authorization: "+value)
		_ = h.Request(x)
		if _, hidden := x.ToBackend.Value("Authorization"); hidden != want {
			t.Errorf("%s: hidden %t", value, hidden)
		}
	}
	f(`HMAC username="x"`, true)
	f("Bearer x", false)
	if h := w.MustBuild(t, Definition, "hide: false"); h.Request != nil {
		t.Error("hides what it is told not to")
	}
}

func TestWarnings(t *testing.T) {
	w := policytest.New(t, "consumers: {a: {hmac: [{secret: short}]}}")
	w.MustBuild(t, Definition, "{algorithms: [hmac-sha1], signed_headers: [date]}")
	all := strings.Join(w.Warnings(), "\n")
	for _, want := range []string{"consumers.a.hmac[0].secret: 5 bytes is short", "algorithms: hmac-sha1", "signed_headers: without @request-target"} {
		if !strings.Contains(all, want) {
			t.Errorf("no warning with %q in %q", want, all)
		}
	}
}

func TestAllocations(t *testing.T) {
	w := policytest.New(t, consumers)
	f := func(what, settings, credential string, want error) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		w.NoAllocations(t, what, func(x *exchange.Exchange) {
			if err := h.Authenticate(x); err != want {
				t.Fatal(err, x.AuthFailure)
			}
		}, "Date: "+date, credential)
	}
	root := []string{"host: api.example.com", "date: " + date, "get /"}
	good := header("alice", "hmac-sha256", aliceSecret, usualHeaders, root...)
	f("pass", "replay_protection: false", good, nil)
	f("unknown user", "{}", header("mallory", "hmac-sha256", aliceSecret, usualHeaders, root...), invalid)
	f("wrong", "{}", header("alice", "hmac-sha512", "wrong", usualHeaders, root...), invalid)
	s, user, sum := newSeen(), []byte("alice"), make([]byte, 32)
	s.keepFor(1)
	now := int64(1)
	w.NoAllocations(t, "remember", func(*exchange.Exchange) {
		now += 10
		binary.LittleEndian.PutUint64(sum, uint64(now%1024))
		if s.add(user, sum, now, now, 1<<20) != fresh {
			t.Fatal("not fresh")
		}
	})
}
