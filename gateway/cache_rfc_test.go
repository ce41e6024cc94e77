package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/registry"
)

// A case of a shared cache is written in a few words, each a step:
//
//	"< 404 | Name: value | #body"   what the backend answers from here on; the status may be left out (200), the body too:
//	                                it is then b and the number of the call. It has a Date unless it says !Date, and answers a
//	                                condition that its ETag or Last-Modified meets with 304, unless it says ~full.
//	                                ~dead closes the connection instead, ~cut in the middle of the body, ~chunked sends chunks,
//	                                ~trailer Name: value behind them, ~103 Name: value an interim response ahead.
//	"+30s"                          the clock moves.
//	"hit", "miss", "valid"          a request that is answered from the store, forwarded, or forwarded as a validation of what
//	                                is stored, which the backend confirms. "ask" is forwarded with a condition, "any" is not
//	                                held to anything.
//	"stale"                         a request that is answered from the store whether or not another is under way behind it;
//	                                "soon" ahead of a step repeats it until it is as it says.
//	" POST /path"                   behind that: other than GET /
//	" | Name: value"                a header of the request
//	" -> 304 | Name: value | !Name | #body | ^Name: value | ^!Name"
//	                                what the client gets, and with ^ what the backend got.
//
// {0} is the HTTP date of now, {-60} of a minute ago, {850:60} and {c:60} are dates in the obsolete forms; {base} is the URL
// of the case, {path} its path and {host} its host.
type cacheCase struct {
	rfc   string
	route string
	name  string
	steps []string
}

// cacheSite is a gateway in front of a backend that speaks HTTP by hand.
type cacheSite struct {
	*gateway.Gateway
	addr   string
	client *http.Client
	begun  time.Time
	ahead  atomic.Int64

	mu     sync.Mutex
	answer []string                 // the items of the answer
	calls  map[string]int           // by case
	asked  map[string]*http.Request // by case, the last
}

func newCacheSite(t testing.TB, text string) *cacheSite {
	t.Helper()
	s := &cacheSite{begun: time.Now().Truncate(time.Second), calls: make(map[string]int), asked: make(map[string]*http.Request)}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go s.converse(conn)
		}
	}()
	c, err := config.Parse("test.yaml", []byte(strings.ReplaceAll(text, "BACKEND", ln.Addr().String())), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.Gateway = gateway.New(gateway.Options{Registry: registry.All(), Now: s.now})
	if err := s.Apply(c); err != nil {
		t.Fatal(err)
	}
	s.addr = s.Listeners()[0].Address
	s.client = &http.Client{
		Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       30 * time.Second,
	}
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		s.Shutdown(t.Context())
		_ = ln.Close()
	})
	return s
}

func (s *cacheSite) now() time.Time { return s.begun.Add(time.Duration(s.ahead.Load())) }

// converse answers the requests of one connection.
func (s *cacheSite) converse(conn net.Conn) {
	defer conn.Close()
	br := bufio.NewReader(conn)
	for {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		s.mu.Lock()
		which := strings.Split(req.URL.Path, "/")[2]
		s.calls[which]++
		s.asked[which] = req
		raw, keep := s.render(req, s.calls[which])
		s.mu.Unlock()
		if _, err := io.WriteString(conn, raw); err != nil || !keep {
			return
		}
	}
}

// render writes the answer out.
func (s *cacheSite) render(req *http.Request, call int) (raw string, keep bool) {
	status, body, head, before := 200, "b"+strconv.Itoa(call), "", ""
	dated, full, cut, chunked, trailer := false, false, false, false, ""
	var etag, modified string
	for _, item := range s.answer {
		switch {
		case item == "":
		case item == "~dead":
			return "", false
		case item == "~cut":
			cut = true
		case item == "~full":
			full = true
		case item == "~chunked":
			chunked = true
		case item == "!Date":
			dated = true
		case strings.HasPrefix(item, "~trailer "):
			chunked, trailer = true, item[len("~trailer "):]+"\r\n"
		case strings.HasPrefix(item, "~103 "):
			before = "HTTP/1.1 103 Early Hints\r\n" + item[len("~103 "):] + "\r\n\r\n"
		case item[0] == '#':
			body = item[1:]
		default:
			if n, err := strconv.Atoi(item); err == nil {
				status = n
				continue
			}
			name, value, _ := strings.Cut(item, ": ")
			switch strings.ToLower(name) {
			case "date":
				dated = true
			case "etag":
				etag = value
			case "last-modified":
				modified = value
			}
			head += item + "\r\n"
		}
	}
	if !dated {
		head += "Date: " + s.now().UTC().Format(http.TimeFormat) + "\r\n"
	}
	if none := req.Header.Get("If-None-Match"); status == 200 && !full {
		if etag != "" && none == etag || none == "" && modified != "" && req.Header.Get("If-Modified-Since") == modified {
			status = 304
		}
	}
	line := fmt.Sprintf("HTTP/1.1 %d X\r\n", status)
	switch {
	case status == 304 || status == 204:
		return before + line + head + "\r\n", true
	case chunked:
		return before + line + head + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n%s\r\n", len(body), body, trailer), true
	}
	if !strings.Contains(head, "Content-Length:") {
		n := len(body)
		if cut {
			n += 100
		}
		head += fmt.Sprintf("Content-Length: %d\r\n", n)
	}
	if req.Method == "HEAD" {
		body = ""
	}
	return before + line + head + "\r\n" + body, !cut
}

var placeholder = regexp.MustCompile(`\{(850:|c:)?(-?\d+)\}`)

func (s *cacheSite) expand(text, base string) string {
	text = strings.NewReplacer("{base}", "http://"+s.addr+base, "{path}", base, "{host}", s.addr).Replace(text)
	return placeholder.ReplaceAllStringFunc(text, func(p string) string {
		m := placeholder.FindStringSubmatch(p)
		n, _ := strconv.Atoi(m[2])
		at := s.now().UTC().Add(time.Duration(n) * time.Second)
		switch m[1] {
		case "850:":
			return at.Format("Monday, 02-Jan-06 15:04:05 GMT")
		case "c:":
			return at.Format(time.ANSIC)
		}
		return at.Format(http.TimeFormat)
	})
}

// play takes a case through.
func (s *cacheSite) play(t *testing.T, number int, c cacheCase) {
	which := "c" + strconv.Itoa(number)
	base := "/" + c.route + "/" + which
	for i, step := range c.steps {
		step = s.expand(step, base)
		switch step[0] {
		case '<':
			s.mu.Lock()
			s.answer = strings.Split(strings.TrimSpace(step[1:]), " | ")
			s.mu.Unlock()
		case '+':
			d, err := time.ParseDuration(step[1:])
			if err != nil {
				t.Fatal(err)
			}
			s.ahead.Add(int64(d))
		default:
			step, soon := strings.CutPrefix(step, "soon ")
			fault := s.step(t, which, base, step)
			for deadline := time.Now().Add(10 * time.Second); soon && fault != "" && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
				fault = s.step(t, which, base, step)
			}
			if fault != "" {
				t.Errorf("RFC %s, %s: step %d, %q: %s", c.rfc, c.name, i, step, fault)
				return
			}
		}
	}
}

func (s *cacheSite) count(which string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[which]
}

// step makes a request and returns what is wrong with how it was answered.
func (s *cacheSite) step(t *testing.T, which, base, step string) string {
	step, wants, _ := strings.Cut(step, " -> ")
	items := strings.Split(step, " | ")
	words := strings.Fields(items[0])
	method, target := "GET", "/"
	if len(words) > 1 {
		method = words[1]
	}
	if len(words) > 2 {
		target = words[2]
	}
	var body io.Reader
	switch method {
	case "POST", "PUT", "PATCH", "M-SEARCH":
		body = strings.NewReader("request")
	}
	req, err := http.NewRequest(method, "http://"+s.addr+base+target, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range items[1:] {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Add(name, value)
	}
	var interim http.Header
	req = req.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
			interim = http.Header(header).Clone()
			return nil
		},
	}))
	before := s.count(which)
	res, err := s.client.Do(req)
	if err != nil {
		return err.Error()
	}
	got, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil {
		return err.Error()
	}
	calls := s.count(which) - before
	s.mu.Lock()
	asked := s.asked[which]
	s.mu.Unlock()
	status := res.Header.Get("Cache-Status")
	seen := fmt.Sprintf(" (%d, %d calls, Cache-Status %q, body %q)", res.StatusCode, calls, status, got)
	conditional := func() bool {
		return calls == 1 && (asked.Header.Get("If-None-Match") != "" || asked.Header.Get("If-Modified-Since") != "")
	}
	ok := true
	switch words[0] {
	case "hit":
		ok = calls == 0 && strings.HasPrefix(status, "sluice; hit")
	case "miss":
		ok = calls == 1 && !strings.Contains(status, "hit") && !strings.Contains(status, "fwd-status=304")
	case "valid":
		ok = conditional() && strings.Contains(status, "fwd-status=304")
	case "ask":
		ok = conditional()
	case "stale":
		ok = strings.HasPrefix(status, "sluice; hit")
	case "none":
		ok = calls == 0
	case "any":
	default:
		t.Fatalf("no such step: %q", step)
	}
	if !ok {
		return "not so" + seen
	}
	for _, want := range strings.Split(wants, " | ") {
		if want == "" {
			continue
		}
		header := res.Header
		switch want[0] {
		case '^':
			header, want = asked.Header, want[1:]
		case '%':
			header, want = interim, want[1:]
		}
		name, value, named := strings.Cut(want, ": ")
		switch {
		case want == "":
		case want[0] == '#':
			if string(got) != want[1:] {
				return want + seen
			}
		case want[0] == '!':
			if header.Values(want[1:]) != nil {
				return want + " is " + strings.Join(header.Values(want[1:]), " & ") + seen
			}
		case named:
			if all := strings.Join(header.Values(name), " & "); all != value {
				return fmt.Sprintf("%s is %q, want %q%s", name, all, value, seen)
			}
		default:
			if strconv.Itoa(res.StatusCode) != want {
				return "want " + want + seen
			}
		}
	}
	return ""
}

const cacheRoutes = `
listeners: {main: {address: "127.0.0.1:0"}}
services: {s: {endpoints: ["http://BACKEND"], retries: {attempts: 0}, circuit_breaker: off, outlier_detection: off}}
routes:
  rfc: {match: {paths: [/rfc]}, service: s, policies: {cache: {ttl: 0s}}}
  ttl: {match: {paths: [/ttl]}, service: s, policies: {cache: {ttl: 60s}}}
  listed: {match: {paths: [/listed]}, service: s, policies: {cache: {ttl: 60s, statuses: [200, 404], content_types: [text/plain, "image/*"], vary: [X-Device]}}}
  stale: {match: {paths: [/stale]}, service: s, policies: {cache: {ttl: 0s, stale_while_revalidate: 30s, stale_if_error: 60s}}}
  kong: {match: {paths: [/kong]}, service: s, policies: {cache: {ttl: 60s, respect_origin: false}}}
  get: {match: {paths: [/get]}, service: s, policies: {cache: {ttl: 0s, methods: [GET]}}}
  sur: {match: {paths: [/sur]}, service: s, policies: {cache: {ttl: 0s, targeted: [Surrogate-Control, CDN-Cache-Control]}}}
  notcdn: {match: {paths: [/notcdn]}, service: s, policies: {cache: {ttl: 0s, targeted: []}}}
`

// The gateway as a shared cache, case by case from the RFCs.
func TestCacheByTheRFCs(t *testing.T) {
	s := newCacheSite(t, cacheRoutes)
	if n := len(cacheCases); n < 200 {
		t.Errorf("%d cases", n)
	}
	t.Logf("%d cases", len(cacheCases))
	for i, c := range cacheCases {
		s.play(t, i, c)
	}
}
