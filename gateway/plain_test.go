package gateway_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
)

// answerKind is what a backend answers for a kind; echo is a body that tells what it saw. hangUp ends its connection.
func answerKind(kind, echo string) (answer string, hangUp bool) {
	const date = "Date: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
	whole := func(fields, body string) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\n%sX-Kind: %s\r\nContent-Length: %d\r\n\r\n%s", fields, kind, len(body), body)
	}
	switch kind {
	case "dated":
		return whole(date, echo), false
	case "long":
		return whole(date, echo+text(20_000)), false
	case "longer":
		return whole("", echo+text(50_000)), false
	case "streamed":
		return whole("Set-Cookie: a=b\r\n", echo+text(200_000)), false
	case "manyfields":
		return whole(date+strings.Repeat("X-Filler: "+text(100)+"\r\n", 200), echo), false
	case "chunked":
		return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-C: d\r\n\r\n" + chunked(echo, 50) + "0\r\n\r\n", false
	case "chunkedlong":
		return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(echo+text(90_000), 5000) + "0\r\n\r\n", false
	case "unframed":
		return "HTTP/1.1 200 OK\r\nX-U: v\r\n\r\n" + echo, true
	case "old":
		return "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold", true
	case "204":
		return "HTTP/1.1 204 No Content\r\n\r\n", false
	case "204bare":
		return "HTTP/1.1 204\r\n\r\n", false
	case "304":
		return "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 12\r\n\r\n", false
	case "404":
		return "HTTP/1.1 404 Nowhere\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nno", false
	case "hints":
		return "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + whole("", echo), false
	case "lengths":
		return "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", true
	case "both":
		return "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true
	case "behind":
		return whole("", echo) + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", false
	case "cut":
		return "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + echo[:10], true
	case "503":
		return "HTTP/1.1 503 Later\r\nX-L: m\r\nContent-Length: 5\r\n\r\nlater", false
	case "503bare":
		return "HTTP/1.1 503 Later\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false
	case "reset":
		return "", true
	case "close":
		return whole("Connection: close\r\n", echo), true
	case "hop":
		return whole("Connection: X-Hop, X-Kind\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n", echo), false
	case "garbage":
		return "SSH-2.0-x\r\n", true
	case "empty":
		return "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", false
	}
	return whole("", echo), false
}

var answerKinds = []string{"plain", "plain", "dated", "long", "longer", "streamed", "manyfields", "chunked", "chunkedlong", "unframed", "old", "204", "204bare",
	"304", "404", "hints", "lengths", "both", "behind", "cut", "503", "503bare", "reset", "close", "hop", "garbage", "empty"}

// telling is a backend that answers as the query wants, with what it saw of the request.
func telling(t testing.TB) *server {
	return backend(t, func(p *peer) {
		for {
			_ = p.conn.SetDeadline(time.Time{})
			head := p.head()
			if head == "" {
				return
			}
			body, trailer := p.body(head)
			if len(body) > 100 {
				body = fmt.Sprintf("%d %x", len(body), sha256.Sum256([]byte(body)))
			}
			_, kind, _ := strings.Cut(strings.Fields(head)[1], "kind=")
			kind, _, _ = strings.Cut(kind, "&")
			echo := head + "|" + body + "|" + trailer
			answer, hangUp := answerKind(kind, echo)
			if strings.HasPrefix(head, "HEAD ") {
				answer = headOf(answer)
			}
			if _, err := io.WriteString(p.conn, answer); err != nil || hangUp {
				return
			}
		}
	})
}

// headOf is an answer without its body, after interim ones.
func headOf(answer string) string {
	from := max(strings.Index(answer, "HTTP/1.1 200"), 0)
	if end := strings.Index(answer[from:], "\r\n\r\n"); end >= 0 {
		return answer[:from+end+len("\r\n\r\n")]
	}
	return answer
}

// outcome reads an answer; last says that nothing can follow.
func (p *peer) outcome(method string) (s string, last bool) {
	_ = p.conn.SetReadDeadline(time.Now().Add(patience))
	var b strings.Builder
	for {
		res, err := http.ReadResponse(p.r, &http.Request{Method: method})
		if err != nil {
			return b.String() + "error: " + strings.Split(err.Error(), " tcp 127.")[0], true
		}
		fmt.Fprintf(&b, "%s %d\n", res.Proto, res.StatusCode) // a phrase goes on or not, and says nothing (RFC 9112, section 4)
		if n := len(res.Header["Date"]); n == 1 && res.Header.Get("Date") != "Mon, 01 Jan 2024 00:00:00 GMT" {
			res.Header.Set("Date", "own")
		}
		if a := res.Header.Get("Age"); a != "" {
			res.Header.Set("Age", "n")
		}
		for _, name := range slices.Sorted(maps.Keys(res.Header)) {
			fmt.Fprintf(&b, "%s: %q\n", name, res.Header[name])
		}
		fmt.Fprintf(&b, "length %d %v close %v\n", res.ContentLength, res.TransferEncoding, res.Close)
		if res.StatusCode < 200 {
			continue
		}
		body, err := io.ReadAll(res.Body)
		if len(body) > 4000 {
			body = fmt.Appendf(nil, "%d %x %s", len(body), sha256.Sum256(body), body[:2000])
		}
		fmt.Fprintf(&b, "%s\nwhole %v", body, err == nil)
		return b.String(), res.Close || err != nil
	}
}

// wish is a request.
type wish struct{ method, head, body string }

func someWish(r *rand.Rand) (w wish) {
	one := func(of ...string) string { return pick(r, of) }
	w.method = one("GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PURGE", "get")
	path := one("/", "/", "/a//b", "/item/7", "/item/8/", "/item/%41", "/item/a%20b", "/item/%e4", "/key/a", "/key/b", "/cached/a", "/cached/b", "/edit", "/none/such", "/%2f", "/a/../b",
		"/..", "/%00", "/\\", "//a", "/a;b", "/\xe4", "/a\"b", "/streaming", "/waf", "/'+or+1=1")
	query := "?kind=" + one(answerKinds...) + one("", "", "&a=b&a=c", "&x=?y", "&\xff", "&q=%zz")
	host := one("Host: a\r\n", "Host: a\r\n", "host:A.example:8080\r\n", "HOST:  1.2.3.4  \r\n", "Host: a.\r\n", "Host: a:\r\n", "Host: a%41\r\n", "Host: [::1]:80\r\n", "Host: a:0\r\n", "Host: \r\n", "Host: a,b\r\n", "Host: a\r\nHost: a\r\n", "Host: a b\r\n", "Host: a@b\r\n", "")
	var b strings.Builder
	for range r.IntN(6) {
		b.WriteString(one("User-Agent: x\r\n", "Cookie: a=b\r\n", "Cookie: session=1; c=d\r\n", "Accept: */*\r\n", "X-Empty:\r\n", "X-Empty: \r\n", "X-Space:a  \r\n", "x-y:  z\r\n", "X-Y: z\r\n",
			"Connection: keep-alive\r\n", "Connection: Keep-Alive\r\n", "Connection: close\r\n", "Connection: X-Y\r\n", "Connection: keep-alive, x-y\r\n", "Connection:\r\n", "Keep-Alive: timeout=1\r\n",
			"Proxy-Connection: keep-alive\r\n", "TE: trailers\r\n", "TE: gzip\r\n", "Trailer: X-T\r\n", "Upgrade: websocket\r\n", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nConnection: Upgrade, HTTP2-Settings\r\n",
			"HTTP2-Settings: AAMA\r\n", "X-API-Key: alice-key\r\n", "X-API-Key: bob-key\r\n", "X-API-Key: wrong\r\n", "X-User-ID: root\r\n", "X-Consumer-ID: root\r\n", "X-Consumer-Groups: admin\r\n",
			"X-Forwarded-For: 9.9.9.9\r\n", "X-Forwarded-Host: evil\r\n", "Forwarded: for=9.9.9.9\r\n", "X-Forwarded-Port: 1\r\n", "Via: 1.0 x\r\n", "Max-Forwards: 0\r\n", "If-None-Match: \"a\"\r\n", "Range: bytes=0-1\r\n",
			"Cache-Control: no-cache\r\n", "Origin: http://o\r\n", "Accept-Encoding: gzip\r\n", "X-Tab: a\tb\r\n", "X-High: \xe4\r\n", "X-Long: "+strings.Repeat("l", 3000)+"\r\n", "Content-Type: text/plain\r\n",
			"Content-Type: application/json\r\n", "Authorization: Basic YTpi\r\n", "Proxy-Authorization: Basic YTpi\r\n", "X-Nul: a\x00b\r\n", "X-Del: \x7f\r\n", "X Y: z\r\n", "X-Y : z\r\n", " folded\r\n", "\tfolded\r\n", "X-CR: a\rb\r\n", "X-LF: a\nb\r\n", "nocolon\r\n", ": none\r\n",
			"X-Y: z\n", "Expect: 100-continue\r\n", "Expect: x\r\n"))
	}
	fields := b.String()
	if r.IntN(3) > 0 {
		// Most of them are to be ordinary.
		host = "Host: a\r\n"
		fields = one("", "X-Y: z\r\nX-API-Key: alice-key\r\n", "X-API-Key: bob-key\r\nAccept: */*\r\n", "Cookie: a=b\r\nCookie: c=d\r\n")
	}
	switch r.IntN(8) {
	case 0, 1:
		w.body = text(pick(r, []int{1, 4, 300, 5000, 20_000, 40_000, 70_000}))
		fields += fmt.Sprintf("Content-Length: %d\r\n", len(w.body))
	case 2:
		w.body = chunked(text(pick(r, []int{1, 300, 20_000})), 100) + "0\r\n\r\n"
		fields += one("Transfer-Encoding: chunked\r\n", "transfer-encoding:CHUNKED \r\n")
	case 3:
		w.body = "abc"
		fields += one("Content-Length: 003\r\n", "Content-Length:3 \r\n", "Content-Length: 3\r\nContent-Length: 3\r\n", "Content-Length: 3, 3\r\n", "Content-Length: +3\r\n", "Content-Length: 0x3\r\n",
			"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: identity\r\n", "Transfer-Encoding: xchunked\r\n", "Transfer-Encoding: chunked, chunked\r\n", "Content-Length: -3\r\n", "Content-Length: 3 \t\r\n", "Content-Length:\r\n", "Content_Length: 3\r\n", "Content-Length: 99999999999999999999\r\n")
	case 4:
		fields += "Content-Length: 0\r\n"
	}
	target := path + query
	if r.IntN(20) == 0 {
		target = one("*", "http://a/"+query, "HTTPS://a"+query, "http://b/", "a:80", "", "/a#b", "/a b", "/a\tb", "?a", "/\x7f")
	}
	line := w.method + " " + target + " " + one("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ") + "\r\n"
	w.head = line + host + fields + "\r\n"
	return w
}

func pick[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

const plainRoutes = `
listeners: {main: {address: "127.0.0.1:0", engine: %[2]s}}
limits: {max_header_size: 16KiB}
services:
  s: {endpoints: ["http://%[1]s"], circuit_breaker: off, outlier_detection: off, retries: {attempts: 1, budget: 100%%, when: [connect_failure, reset, "503"]}}
  t: {endpoints: ["http://%[1]s", "http://%[1]s/base"], circuit_breaker: off, outlier_detection: off, retries: off, load_balancer: {strategy: consistent_hash, by: path}, pass_host: true}
consumers:
  alice: {groups: [partners], api_keys: [{id: a, hash: "sha256:72ee9d4355ccb9d3a4c9dbf37382e38e75c1b1a225b5bd1f729ee91bbda30c20"}]}
  bob: {api_keys: [{id: b, hash: "sha256:9b94dc1a51a38769f135edf04033ad7f2f487b6c25929be7a861cfc1ab10cf98"}]}
policies: {correlation_id: off}
routes:
  all: {match: {paths: [/]}, service: s}
  item: {match: {paths: ["/item/{id}"]}, service: t, policies: {request_transform: {add: {headers: {X-Id: "${path.id}"}}}}}
  key: {match: {paths: ["/key"]}, service: s, strip_prefix: true, policies: {api_key: {}}}
  cached: {match: {paths: ["/cached"]}, service: s, policies: {cache: {ttl: 1h}}}
  edit: {match: {paths: ["/edit"]}, service: s, rewrite: "/edited/{path}", policies: {response_transform: {add: {headers: {X-Out: "1"}}, remove: {headers: [X-Kind]}}}}
  streaming: {match: {paths: ["/streaming"]}, service: s, streaming: true}
  waf: {match: {paths: ["/waf"]}, service: s, policies: {compression: {}}}
`

// Whether a request is plain, what came before it on its connection and what on others has no part in what the backend
// sees of it, nor in its answer.
func TestPlainRequestsAreAsAllOthers(t *testing.T) {
	for _, engine := range []string{"fasthttp", "loop"} {
		t.Run(engine, func(t *testing.T) { asAllOthers(t, engine) })
	}
}

func asAllOthers(t *testing.T, engine string) {
	s := telling(t)
	g := serve(t, gateway.Options{}, fmt.Sprintf(plainRoutes, s.addr, engine))
	// What is in the cache has an answer of its own; so it is asked for by one way first.
	fixed := func(w wish) bool { return !strings.Contains(w.head, "/cached") }
	r := rand.New(rand.NewPCG(20, 1))
	clients, differing := make([]*peer, 3), 0
	for n := range 250 {
		w := someWish(r)
		if strings.Contains(w.head, "kind=behind") && w.method != "GET" {
			continue
		}
		// The reference: never plain, on a connection of its own.
		ref := g.client()
		ref.send("\r\n" + w.head + w.body)
		want, _ := ref.outcome(w.method)
		ref.close()
		p := &clients[r.IntN(len(clients))]
		if *p == nil {
			*p = g.client()
		}
		c := *p
		_ = c.conn.SetDeadline(time.Now().Add(patience))
		way := r.IntN(4)
		switch way {
		case 0, 1:
			c.send(w.head + w.body)
		case 2:
			c.send(w.head)
			if w.body != "" {
				c.send(w.body)
			}
		case 3:
			all := w.head + w.body
			at := r.IntN(len(all))
			c.send(all[:at])
			c.send(all[at:])
		}
		got, last := c.outcome(w.method)
		if got != want && fixed(w) {
			if t.Errorf("step %d, way %d: %.500q:\ngot %.3000s\nwant %.3000s", n, way, w.head, got, want); differing == 5 {
				return
			}
			differing++
		}
		if last || got != want || c.r.Buffered() > 0 {
			c.close()
			*p = nil
		}
	}
}

// Two requests of any kind in one piece have the answers that each has alone.
func TestPlainRequestsInPipelines(t *testing.T) {
	for _, engine := range []string{"fasthttp", "loop"} {
		t.Run(engine, func(t *testing.T) { inPipelines(t, engine) })
	}
}

func inPipelines(t *testing.T, engine string) {
	s := telling(t)
	g := serve(t, gateway.Options{}, fmt.Sprintf(plainRoutes, s.addr, engine))
	r := rand.New(rand.NewPCG(20, 2))
	for n := range 80 {
		ws := []wish{someWish(r), someWish(r), someWish(r)}
		var all bytes.Buffer
		var wants []string
		ended := false
		for _, w := range ws {
			if strings.Contains(w.head, "/cached") || strings.Contains(w.head, "kind=behind") || strings.Contains(w.head, "kind=hints") || strings.Contains(w.head, "Expect") {
				w = wish{"GET", "GET /item/9?kind=dated HTTP/1.1\r\nHost: a\r\n\r\n", ""}
			}
			all.WriteString(w.head + w.body)
			if ended {
				continue
			}
			ref := g.client()
			ref.send("\r\n" + w.head + w.body)
			want, last := ref.outcome(w.method)
			ref.close()
			wants = append(wants, w.method, want)
			ended = last
		}
		c := g.client()
		c.send(all.String())
		for i := 0; i < len(wants); i += 2 {
			got, _ := c.outcome(wants[i])
			if strings.HasPrefix(got, "HTTP/1.1 400") && strings.HasPrefix(wants[i+1], "HTTP/1.1 400") {
				break // which of two refused requests the reason is of is not told
			}
			if got != wants[i+1] {
				t.Errorf("step %d: answer %d to %.1500q:\ngot %.2000s\nwant %.2000s", n, i/2, all.String(), got, wants[i+1])
				return
			}
		}
		c.close()
	}
}

// The access log has of a plain request what it has of any.
func TestPlainRequestsInTheAccessLog(t *testing.T) {
	for _, engine := range []string{"fasthttp", "loop"} {
		s := telling(t)
		path := t.TempDir() + "/access.log"
		g := serve(t, gateway.Options{}, strings.Replace(fmt.Sprintf(plainRoutes, s.addr, engine), "{correlation_id: off}", "{correlation_id: off, access_log: {path: "+path+"}}", 1))
		n := 0
		for _, request := range []string{
			"GET /?kind=dated HTTP/1.1\r\nHost: A.example:80\r\nUser-Agent: x\r\nReferer: y\r\n\r\n",
			"HEAD /item/9?kind=dated HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\n\r\n",
			"POST /item/9?kind=long HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
			"POST /key/9 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-API-Key: alice-key\r\n\r\nhello",
			"POST /key/9 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
			"GET /?kind=204 HTTP/1.1\r\nHost: a\r\n\r\n",
			"GET /?kind=503 HTTP/1.1\r\nHost: a\r\n\r\n",
			"GET /?kind=cut HTTP/1.1\r\nHost: a\r\n\r\n",
			"GET /?kind=streamed HTTP/1.1\r\nHost: a\r\n\r\n",
			"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n",
			"GET /none HTTP/1.1\r\nHost: a\r\n\r\n",
		} {
			for _, before := range []string{"", "\r\n"} {
				c := g.client()
				c.send(before + request)
				c.outcome(strings.Fields(request)[0])
				c.close()
				n++
				once(t, "the line is there", func() bool {
					b, _ := os.ReadFile(path)
					return bytes.Count(b, []byte("\n")) == n
				})
			}
		}
		b, _ := os.ReadFile(path)
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		for i := 0; i < len(lines); i += 2 {
			var x, y map[string]any
			if json.Unmarshal([]byte(lines[i]), &x) != nil || json.Unmarshal([]byte(lines[i+1]), &y) != nil {
				t.Fatal(lines[i], lines[i+1])
			}
			for name := range x {
				if strings.HasSuffix(name, "_ms") || name == "time" || name == "connection" || name == "request_id" {
					continue
				}
				if !reflect.DeepEqual(x[name], y[name]) {
					t.Errorf("%s: %s: %v, %v\n%s\n%s", engine, name, x[name], y[name], lines[i], lines[i+1])
				}
			}
			if len(x) != len(y) {
				t.Errorf("%s\n%s\n%s", engine, lines[i], lines[i+1])
			}
		}
	}
}
