package idempotency

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

func TestParseKeySuccess(t *testing.T) {
	f := func(value, want string) {
		t.Helper()
		if key, ok := parseKey(nil, []byte(value)); !ok || string(key) != want {
			t.Errorf("%s: %q, %t", value, key, ok)
		}
	}
	f(`"8e03978e-40d5-43dd-bc93-6894a57f9324"`, "8e03978e-40d5-43dd-bc93-6894a57f9324")
	f("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324")
	f(`"a b, c; d"`, "a b, c; d")
	f(`"a\"b\\c"`, `a"b\c`)
	f("YWJj+/8=", "YWJj+/8=")
	f(strings.Repeat("k", 255), strings.Repeat("k", 255))
	f(`"`+strings.Repeat("k", 255)+`"`, strings.Repeat("k", 255))
}

func TestParseKeyFailure(t *testing.T) {
	for _, value := range []string{
		"", `""`, `"`, `"a`, `a"`, `"a"b`, `"a";p=1`, `"a\b"`, `"a\`, "a b", "a,b", "a;b", "\"a\tb\"", "\"ä\"", "ä",
		strings.Repeat("k", 256), `"` + strings.Repeat("k", 256) + `"`,
	} {
		if key, ok := parseKey(nil, []byte(value)); ok {
			t.Errorf("%s: taken as %q", value, key)
		}
	}
}

func newStore(t *testing.T) *Memory {
	s, err := newShared()
	if err != nil {
		t.Fatal(err)
	}
	return newMemory(s)
}

func keyNamed(s string) Key        { return sha256.Sum256([]byte(s)) }
func printOf(s string) Fingerprint { return sha256.Sum256([]byte(s)) }
func answerOf(size int64) *Answer {
	return &Answer{Reply: exchange.NewReply(201, exchange.Stored), Size: size}
}
func (f Finding) is(o Outcome) string { return fmt.Sprint(f.Outcome == o, f) }

func TestMemory(t *testing.T) {
	const room = 10_000
	m := newStore(t)
	begin := func(key, print string, now int64, want Outcome) Finding {
		t.Helper()
		f := m.Begin(keyNamed(key), printOf(print), now, room)
		if f.Outcome != want {
			t.Fatalf("%s %s: outcome %d, want %d", key, print, f.Outcome, want)
		}
		return f
	}
	first := begin("a", "x", 0, Claimed)
	waiting := begin("a", "x", 1, InFlight)
	begin("a", "y", 1, Reused)
	begin("b", "x", 1, Claimed)
	select {
	case <-waiting.Settled:
		t.Fatal("settled while in flight")
	default:
	}
	m.Release(first.Claim)
	<-waiting.Settled
	second := begin("a", "y", 2, Claimed)
	// A claim that was ended does nothing any more.
	m.Release(first.Claim)
	m.Complete(first.Claim, answerOf(1), 2, 100, room)
	begin("a", "y", 2, InFlight)
	m.Complete(second.Claim, answerOf(100), 3, 103, room)
	if f := begin("a", "y", 102, Answered); f.Answer.Size != 100 {
		t.Error("another answer")
	}
	begin("a", "x", 102, Reused)
	begin("a", "x", 103, Claimed)
	// Without an answer the key stays used.
	lost := begin("c", "x", 103, Claimed)
	m.Complete(lost.Claim, nil, 103, 203, room)
	begin("c", "x", 202, Lost)
	begin("c", "x", 203, Claimed)
}

// When the store is full new keys are refused, and none that is remembered is forgotten before its time.
func TestMemoryIsBounded(t *testing.T) {
	const room = 4*recordSize + 1000
	m := newStore(t)
	claims := make([]Claim, 0, 4)
	for i := range 4 {
		f := m.Begin(keyNamed(fmt.Sprint(i)), printOf("x"), 0, room)
		if f.Outcome != Claimed {
			t.Fatal(f)
		}
		claims = append(claims, f.Claim)
	}
	m.Complete(claims[0], answerOf(600), 0, 50, room)
	m.Complete(claims[1], answerOf(600), 0, 40, room) // no room for it
	for key, want := range map[string]Outcome{"0": Answered, "1": Lost, "2": InFlight} {
		if f := m.Begin(keyNamed(key), printOf("x"), 1, room); f.Outcome != want {
			t.Errorf("%s: %s", key, f.is(want))
		}
	}
	big := recordSize + 1000 + 1
	m.Complete(claims[2], answerOf(300), 0, 60, room)
	if m.Bytes() > room {
		t.Errorf("%d bytes, more than %d", m.Bytes(), room)
	}
	f := m.Begin(keyNamed("new"), printOf("x"), 10, int64(big))
	if f.Outcome != Full || f.FreeIn != 30 {
		t.Errorf("%s", f.is(Full))
	}
	if n := m.Sweep(60); n != 3 || m.Len() != 1 {
		t.Errorf("%d forgotten, %d left", n, m.Len())
	}
	m.Release(claims[3])
	if m.Bytes() != 0 || m.Len() != 0 {
		t.Errorf("%d bytes of %d keys", m.Bytes(), m.Len())
	}
}

func TestMemoryConcurrently(t *testing.T) {
	m := newStore(t)
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			for i := range 2000 {
				key := fmt.Sprint(i % 50)
				f := m.Begin(keyNamed(key), printOf("x"), int64(i), 1<<20)
				switch {
				case f.Outcome != Claimed:
				case (i+n)%3 == 0:
					m.Release(f.Claim)
				default:
					m.Complete(f.Claim, answerOf(10), int64(i), int64(i+20), 1<<20)
				}
			}
		})
	}
	all.Wait()
	m.Sweep(1 << 40)
	if m.Bytes() != 0 || m.Len() != 0 || len(m.settled) != 0 {
		t.Errorf("%d bytes of %d keys", m.Bytes(), m.Len())
	}
}

func post(w *policytest.World, body string, headers ...string) *exchange.Exchange {
	x := w.Exchange("/charges", headers...)
	x.Request.Header.SetMethod("POST")
	x.Request.Header.SetContentLength(len(body))
	x.Request.SetBodyStream(bytes.NewReader([]byte(body)), len(body))
	return x
}

// Nobody is given what another caller was answered.
func TestCallersAreApart(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{}")
	named := func(x *exchange.Exchange, consumer string) *exchange.Exchange {
		x.Identity.Consumer = &exchange.Consumer{Name: consumer}
		return x
	}
	subject := func(x *exchange.Exchange, method, sub string) *exchange.Exchange {
		x.Identity.Authenticated, x.Identity.Method, x.Identity.Subject = true, method, []byte(sub)
		return x
	}
	const key = "Idempotency-Key: k"
	elsewhere := post(w, "{}", key)
	elsewhere.Host = []byte("other.example.com")
	for i, x := range []*exchange.Exchange{
		post(w, "{}", key), named(post(w, "{}", key), "alice"), named(post(w, "{}", key), "bob"),
		subject(post(w, "{}", key), "jwt", "alice"), subject(post(w, "{}", key), "basic_auth", "alice"),
		post(w, "{}", key, "Authorization: Bearer x"), post(w, "{}", key, "Authorization: Bearer y"), elsewhere,
	} {
		if err := h.Request(x); err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	// The same request in another version of the API.
	x := named(post(w, "{}", key), "alice")
	x.APIVersion = "2"
	if err := h.Request(x); err == nil || err.Error() != "idempotency_key_reused" {
		t.Errorf("another version: %v", err)
	}
	// The same consumer with a credential of the backend's that differs.
	if err := h.Request(named(post(w, "{}", key, "Authorization: Bearer x"), "alice")); err == nil || err.Error() != "idempotency_key_reused" {
		t.Errorf("another end user: %v", err)
	}
}

// State lives over a reload, and an exchange that ends without an answer frees its key.
func TestReloadAndFault(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{}")
	x := post(w, "{}", `Idempotency-Key: "k"`)
	if err := h.Request(x); err != nil || !x.Replayable || !x.OutlivesClient || x.Body == nil {
		t.Fatal(err, x.Replayable, x.OutlivesClient)
	}
	end := w.Reload()
	next := w.MustBuild(t, Definition, "{ttl: 1h}")
	end()
	again := func(want string) {
		t.Helper()
		if err := next.Request(post(w, "{}", `Idempotency-Key: k`)); fmt.Sprint(err) != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	again("idempotency_in_flight")
	h.Done(x)
	again("<nil>")
}

// A fault behind the backend's answer leaves the key used.
func TestFaultBehindTheAnswer(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{}")
	x := post(w, "{}", "Idempotency-Key: k")
	if err := h.Request(x); err != nil {
		t.Fatal(err)
	}
	x.UpstreamStatus = 200
	x.Render(exchange.NewReject(500, "internal_error", "a fault"))
	h.Done(x)
	if err := h.Request(post(w, "{}", "Idempotency-Key: k")); fmt.Sprint(err) != "idempotency_answer_lost" {
		t.Error(err)
	}
	w.Advance(25 * time.Hour)
	if err := h.Request(post(w, "{}", "Idempotency-Key: k")); err != nil {
		t.Error(err)
	}
}

func TestWithoutKeyNothingIsAllocated(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{methods: [POST, PATCH]}")
	run := func(x *exchange.Exchange) {
		if h.Request(x) != nil || h.Response(x) != nil {
			t.Fatal("refused")
		}
		h.Done(x)
	}
	w.NoAllocations(t, "no key", run, "Content-Type: application/json")
	w.NoAllocations(t, "another method", run, "Idempotency-Key: k")
}
