package gateway_test

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/gateway"
)

// charge is a request with a key.
func charge(path, key, body string, headers ...string) string {
	more := ""
	for _, h := range headers {
		more += h + "\r\n"
	}
	return "POST " + path + " HTTP/1.1\r\nHost: a\r\nIdempotency-Key: " + key + "\r\nContent-Type: application/json\r\n" + more +
		"Content-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
}

// counting is a backend that numbers its answers; answer gives head and body of the nth.
func counting(t testing.TB, answer func(n int64, path string) string) (s *server, calls *atomic.Int64) {
	calls = new(atomic.Int64)
	return answering(t, func(head, _ string) string { return answer(calls.Add(1), strings.Fields(head)[1]) }), calls
}

func created(n int64, _ string) string {
	return fmt.Sprintf("HTTP/1.1 201 Created\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nLocation: /charges/%d\r\nSet-Cookie: s=%d\r\nX-RateLimit-Left: %d\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"n\":%d}", n, n, n, n)
}

const idempotent = "policies: {idempotency: {}}"

func TestIdempotencyReplay(t *testing.T) {
	s, calls := counting(t, created)
	g := forward(t, s, "", idempotent, "")
	c := g.client()
	c.send(charge("/charges?x=1", `"k-1"`, `{"amount":1}`))
	first := c.wants(201, `{"n":1}`)
	for _, key := range []string{`"k-1"`, "k-1"} {
		c.send(charge("/charges?x=1", key, `{"amount":1}`))
		again := c.wants(201, `{"n":1}`)
		for name, want := range map[string]string{
			"Idempotent-Replayed": "true", "Location": "/charges/1", "Content-Type": "application/json", "Set-Cookie": "", "X-RateLimit-Left": "", "Via": "1.1 sluice",
		} {
			if got, _ := field(again, name); got != want || len(fields(again, name)) > 1 {
				t.Errorf("%s: %q, want %q", name, fields(again, name), want)
			}
		}
		if date, _ := field(again, "Date"); date == "" || strings.Contains(date, "1970") {
			t.Errorf("the Date of the first answer: %q", date)
		}
		a, _ := field(first, "X-Correlation-ID")
		b, _ := field(again, "X-Correlation-ID")
		if a == "" || b == "" || a == b || len(fields(again, "X-Correlation-ID")) != 1 {
			t.Errorf("correlation ids %q and %q", a, b)
		}
	}
	if _, ok := field(first, "Idempotent-Replayed"); ok {
		t.Error("the first answer says that it is repeated")
	}
	for _, other := range []string{
		charge("/charges?x=1", "k-1", `{"amount":2}`), charge("/charges?x=2", "k-1", `{"amount":1}`), charge("/refunds?x=1", "k-1", `{"amount":1}`),
		strings.Replace(charge("/charges?x=1", "k-1", `{"amount":1}`), "application/json", "text/plain", 1),
		strings.Replace(charge("/charges?x=1", "k-1", `{"amount":1}`), "POST", "PATCH", 1),
	} {
		c.send(other)
		c.refused(422, "idempotency_key_reused")
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
	c.send(charge("/charges?x=1", "k-2", `{"amount":1}`))
	c.wants(201, `{"n":2}`)
	// Other methods and requests without a key are none of its business.
	c.send("POST /charges HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
	c.wants(201, `{"n":3}`)
	c.send("GET /charges HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k-1\r\n\r\n")
	c.wants(201, `{"n":4}`)
	// The body may come in chunks, and after the client was asked for it.
	c.send("POST /charges?x=1 HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k-1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(`{"amount":1}`, 5) + "0\r\n\r\n")
	c.wants(201, `{"n":1}`)
	c.send("POST /charges?x=1 HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k-1\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 12\r\n\r\n")
	if head := c.head(); statusOf(head) != 100 {
		t.Fatalf("%q", head)
	}
	c.send(`{"amount":1}`)
	c.wants(201, `{"n":1}`)
	if got := g.metric(`sluice_idempotency_requests_total{route="r",result="replayed"}`); got != 4 {
		t.Errorf("%v replays were counted", got)
	}
	if g.metric("sluice_idempotency_bytes") < 600 {
		t.Error("the keys take no memory")
	}
	// Keys live over a reload.
	g.apply(forwarding(s, "", "policies: {idempotency: {ttl: 1h, required: true}}", ""))
	c.send(charge("/charges?x=1", "k-1", `{"amount":1}`))
	c.wants(201, `{"n":1}`)
	c.send("POST /charges HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
	head := c.refused(400, "idempotency_key_missing")
	if link, _ := field(head, "Link"); !strings.Contains(link, `rel="describedby"`) {
		t.Errorf("Link %q", link)
	}
}

func TestIdempotencyRefuses(t *testing.T) {
	s, calls := counting(t, created)
	g := forward(t, s, "", "policies: {idempotency: {max_body: 1KiB}}", "")
	f := func(request string, status int, reason string) {
		t.Helper()
		c := g.client()
		c.send(request)
		c.refused(status, reason)
	}
	f(charge("/", `"unfinished`, "{}"), 400, "idempotency_key_malformed")
	f(charge("/", "two keys", "{}"), 400, "idempotency_key_malformed")
	f(charge("/", "", "{}"), 400, "idempotency_key_malformed")
	f(charge("/", "one", "{}", "Idempotency-Key: two"), 400, "idempotency_key_malformed")
	f(charge("/", strings.Repeat("k", 256), "{}"), 400, "idempotency_key_malformed")
	f(charge("/", "k", strings.Repeat("x", 1025)), 413, "idempotency_body_too_large")
	f("POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nTransfer-Encoding: chunked\r\n\r\n"+chunked(strings.Repeat("x", 1025), 500)+"0\r\n\r\n", 413, "idempotency_body_too_large")
	if n := calls.Load(); n != 0 {
		t.Errorf("%d calls", n)
	}
}

// What asks to try again frees the key; what was carried out and can not be repeated keeps it.
func TestIdempotencyOutcomes(t *testing.T) {
	s := backend(t, func(p *peer) {
		for n := 0; ; n++ {
			head := p.head()
			if head == "" {
				return
			}
			p.body(head)
			switch path := strings.Fields(head)[1]; path {
			case "/cut":
				p.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
				p.close()
			case "/cut-chunked":
				p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n")
				p.close()
			case "/large":
				p.send("HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + text(3000))
			case "/large-chunked":
				p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(text(3000), 500) + "0\r\n\r\n")
			case "/chunked":
				p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(text(900), 500) + "0\r\n\r\n")
			case "/events":
				p.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked("data: 1\n\n", 500) + "0\r\n\r\n")
			case "/204":
				p.send("HTTP/1.1 204 No Content\r\n\r\n")
			case "/malformed":
				p.send("nonsense\r\n\r\n")
				p.close()
			default:
				status, _ := strconv.Atoi(path[1:])
				p.send(reply(status, "x"))
			}
		}
	})
	g := forward(t, s, `, retries: {attempts: 0}, circuit_breaker: off, outlier_detection: off`[2:], "policies: {idempotency: {max_response: 1KiB}}", "")
	first := func(path string) (head string) {
		c := g.client()
		c.send(charge(path, path[1:], "{}"))
		head = c.head()
		c.close()
		return head
	}
	f := func(path string, wantStatus int, wantReason string) {
		t.Helper()
		first(path)
		// The client of the first may be gone before its exchange has ended.
		once(t, "the first request of "+path+" ends", func() bool { return g.metric(`sluice_requests_in_flight{route="r"}`) == 0 })
		c := g.client()
		c.send(charge(path, path[1:], "{}"))
		head := c.head()
		_, replayed := field(head, "Idempotent-Replayed")
		switch body, _ := c.body(head); {
		case statusOf(head) != wantStatus, wantReason == "replayed" != replayed,
			wantReason != "replayed" && wantReason != "" && !strings.Contains(body, wantReason):
			t.Errorf("%s: %q %q, want %d %s", path, head, abbreviate(body), wantStatus, wantReason)
		}
		c.close()
	}
	f("/200", 200, "replayed")
	f("/chunked", 200, "replayed")
	f("/204", 204, "replayed")
	f("/400", 400, "replayed")
	f("/404", 404, "replayed")
	f("/422", 422, "replayed")
	for _, status := range []int{401, 408, 409, 425, 429, 500, 502, 503, 504} {
		f("/"+strconv.Itoa(status), status, "")
	}
	f("/malformed", 502, "upstream_malformed")
	f("/large", 409, "idempotency_answer_lost")
	f("/large-chunked", 409, "idempotency_answer_lost")
	f("/events", 409, "idempotency_answer_lost")
	f("/cut", 409, "idempotency_answer_lost")
	f("/cut-chunked", 409, "idempotency_answer_lost")
}

// Of many equal requests at once one is carried out, whatever the others get.
func TestIdempotencyConcurrently(t *testing.T) {
	const n = 200
	f := func(settings string) (replayed, refused int) {
		t.Helper()
		var calls atomic.Int64
		open := make(chan struct{})
		s := answering(t, func(string, string) string {
			<-open
			return created(calls.Add(1), "")
		})
		g := forward(t, s, "", "policies: {idempotency: {"+settings+"}}", "")
		type answer struct {
			status   int
			replayed bool
			body     string
		}
		answers := make(chan answer, n)
		var all sync.WaitGroup
		for range n {
			all.Go(func() {
				conn, err := net.Dial("tcp", g.addr)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				p := newPeer(t, conn)
				p.serves = true // ends its own goroutine
				p.send(charge("/charges", "same", `{"amount":1}`))
				head, body := p.response()
				_, again := field(head, "Idempotent-Replayed")
				answers <- answer{statusOf(head), again, body}
			})
		}
		// All are there, or have their answer, before the backend gives the first.
		once(t, "all requests have come", func() bool {
			return g.metric(`sluice_idempotency_requests_total{route="r",result="first"}`) == 1 &&
				int(g.metric(`sluice_requests_in_flight{route="r"}`))+len(answers) >= n
		})
		close(open)
		all.Wait()
		close(answers)
		firsts := 0
		for a := range answers {
			switch {
			case a.status == 409:
				refused++
			case a.status != 201 || a.body != `{"n":1}`:
				t.Errorf("%d %q", a.status, a.body)
			case a.replayed:
				replayed++
			default:
				firsts++
			}
		}
		if calls.Load() != 1 || firsts != 1 || replayed+refused != n-1 {
			t.Errorf("%s: %d calls, %d first, %d replayed, %d refused", settings, calls.Load(), firsts, replayed, refused)
		}
		return replayed, refused
	}
	if replayed, refused := f("in_flight: reject"); refused == 0 {
		t.Errorf("%d replayed, %d refused while the first was in flight", replayed, refused)
	}
	if replayed, refused := f("in_flight: wait"); refused != 0 {
		t.Errorf("%d replayed, %d refused although they wait", replayed, refused)
	}
}

// Whoever waits for a request that frees its key becomes the next.
func TestIdempotencyWaitsForTheNext(t *testing.T) {
	release := make(chan int)
	var calls atomic.Int64
	s := answering(t, func(string, string) string {
		calls.Add(1)
		return reply(<-release, "x")
	})
	g := forward(t, s, "retries: {attempts: 0}", "policies: {idempotency: {in_flight: wait}}", "")
	a, b := g.client(), g.client()
	a.send(charge("/", "k", "{}"))
	once(t, "the first is there", func() bool { return calls.Load() == 1 })
	b.send(charge("/", "k", "{}"))
	once(t, "the second is there", func() bool { return g.metric(`sluice_requests_in_flight{route="r"}`) == 2 })
	release <- 503
	a.wants(503, "x")
	release <- 200
	b.wants(200, "x")
	a.send(charge("/", "k", "{}"))
	a.wants(200, "x")
	if n := calls.Load(); n != 2 {
		t.Errorf("%d calls", n)
	}
	// One that does not want to wait for so long.
	g.apply(forwarding(s, "", "policies: {idempotency: {in_flight: wait, wait_timeout: 20ms}}", ""))
	a.send(charge("/", "k2", "{}"))
	once(t, "the third is there", func() bool { return calls.Load() == 3 })
	b.send(charge("/", "k2", "{}"))
	if retry, _ := field(b.refused(409, "idempotency_in_flight"), "Retry-After"); retry != "1" {
		t.Errorf("Retry-After %q", retry)
	}
	release <- 200
	a.wants(200, "x")
}

// A client that leaves does not end what it has begun: the answer is there when it comes back.
func TestIdempotencyOutlivesTheClient(t *testing.T) {
	var calls atomic.Int64
	begun, release, gone := make(chan struct{}, 2), make(chan struct{}), make(chan struct{})
	s := backend(t, func(p *peer) {
		head := p.head()
		if head == "" {
			return
		}
		p.body(head)
		begun <- struct{}{}
		if strings.HasPrefix(head, "GET") {
			// Of a request without a key the gateway gives up the connection.
			p.rest()
			close(gone)
			return
		}
		calls.Add(1)
		<-release
		p.send(reply(201, "done"))
	})
	g := forward(t, s, "", idempotent, "")
	a, b := g.client(), g.client()
	a.send(charge("/", "k", "{}"))
	b.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	within(t, "a request at the backend", begun)
	within(t, "the other request at the backend", begun)
	a.close()
	b.close()
	within(t, "the gateway notices that clients have gone", gone)
	close(release)
	var head, body string
	for end := time.Now().Add(patience); ; {
		c := g.client()
		c.send(charge("/", "k", "{}"))
		if head, body = c.response(); statusOf(head) != 409 || time.Now().After(end) {
			break
		}
		c.close()
	}
	if _, replayed := field(head, "Idempotent-Replayed"); statusOf(head) != 201 || body != "done" || !replayed || calls.Load() != 1 {
		t.Errorf("%q %q after %d calls", head, body, calls.Load())
	}
}

// With a key a POST may be sent again by the rules for retries, unless that is turned off.
func TestIdempotencyRetries(t *testing.T) {
	f := func(settings string, wantStatus int) {
		t.Helper()
		var calls atomic.Int64
		s := backend(t, func(p *peer) {
			for {
				head := p.head()
				if head == "" {
					return
				}
				p.body(head)
				if calls.Add(1) == 1 {
					p.close()
					return
				}
				p.send(reply(201, "done"))
			}
		})
		g := forward(t, s, "", "policies: {idempotency: {"+settings+"}}", "")
		c := g.client()
		for _, size := range []int{10, 200_000} {
			calls.Store(0)
			c.send(charge("/", "k"+strconv.Itoa(size), strings.Repeat("x", size)))
			if head, _ := c.response(); statusOf(head) != wantStatus {
				t.Errorf("%s, %d bytes: %q", settings, size, head)
			}
		}
	}
	f("", 201)
	f("retry: false", 502)
}

func TestIdempotencyFull(t *testing.T) {
	s, calls := counting(t, func(int64, string) string { return reply(200, text(30_000)) })
	var c clock
	o := c.options()
	g := serve(t, gateway.Options{Now: o.Now}, forwarding(s, "", "policies: {idempotency: {max_size: 64KiB, max_response: 40KiB, ttl: 1h}}", ""))
	p := g.client()
	status := func(key string) (int, string) {
		p.send(charge("/", key, "{}"))
		head, body := p.response()
		return statusOf(head), head + body
	}
	for i := range 2 {
		if got, text := status("k" + strconv.Itoa(i)); got != 200 {
			t.Fatal(text)
		}
	}
	before := calls.Load()
	full := 0
	for i := range 200 {
		if got, text := status("m" + strconv.Itoa(i)); got == 503 && strings.Contains(text, "idempotency_full") {
			if retry, _ := field(text, "Retry-After"); retry == "" {
				t.Error("no Retry-After")
			}
			full++
		}
	}
	if full == 0 || int64(full)+calls.Load()-before != 200 {
		t.Errorf("%d refused, %d calls", full, calls.Load()-before)
	}
	// What was promised is kept.
	if got, text := status("k0"); got != 200 || !strings.Contains(text, "Idempotent-Replayed") {
		t.Error(abbreviate(text))
	}
	c.advance(2 * time.Hour)
	if got, text := status("new"); got != 200 {
		t.Error(abbreviate(text))
	}
}
