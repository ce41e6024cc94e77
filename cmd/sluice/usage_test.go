package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/gateway/ledger/postgrestest"
)

// callers are the consumers of the load, each with one key, and requests how many there are at least of what is counted to the
// last one. make test-usage has more of both.
var (
	callers  = fromEnv("SLUICE_TEST_CONSUMERS", 20)
	requests = uint64(fromEnv("SLUICE_TEST_REQUESTS", 3000))
)

func fromEnv(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return otherwise
}

// load sends requests as many consumers at once and keeps count of those that were answered.
type load struct {
	t       testing.TB
	addr    string
	path    string
	stop    chan struct{}
	wg      sync.WaitGroup
	counts  []atomic.Uint64
	answers sync.Mutex
	times   []time.Time // of all answers, where they are asked for
	timed   bool
}

func startLoad(t testing.TB, addr, path string, timed bool) *load {
	l := &load{t: t, addr: addr, path: path, stop: make(chan struct{}), counts: make([]atomic.Uint64, callers), timed: timed}
	for w := range 4 {
		l.wg.Go(func() { l.work(w) })
	}
	return l
}

func (l *load) work(first int) {
	var conn net.Conn
	var br *bufio.Reader
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for i := first; ; i++ {
		select {
		case <-l.stop:
			return
		default:
		}
		if conn == nil {
			var err error
			if conn, err = net.Dial("tcp", l.addr); err != nil {
				return // it was killed
			}
			br = bufio.NewReader(conn)
		}
		who := i % callers
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: a\r\nX-API-Key: key-%d\r\n\r\n", l.path, who)
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode != 200 {
			l.t.Errorf("status %d", res.StatusCode)
			return
		}
		l.counts[who].Add(1)
		if !l.timed {
			continue
		}
		l.answers.Lock()
		l.times = append(l.times, time.Now())
		l.answers.Unlock()
	}
}

func (l *load) answered() (n uint64) {
	for i := range l.counts {
		n += l.counts[i].Load()
	}
	return n
}

// until lets the load run until so many requests were answered.
func (l *load) until(n uint64) {
	l.t.Helper()
	last, end := uint64(0), time.Now().Add(time.Minute)
	for now := l.answered(); now < n; now = l.answered() {
		if now > last {
			last, end = now, time.Now().Add(time.Minute)
		}
		if time.Now().After(end) {
			l.t.Fatalf("%d requests were answered, want %d", now, n)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (l *load) end() {
	close(l.stop)
	l.wg.Wait()
}

// used is what GET /api/usage says.
type used struct {
	Rows []struct {
		Consumer string `json:"consumer"`
		Requests uint64 `json:"requests"`
	} `json:"rows"`
	Total struct {
		Requests uint64 `json:"requests"`
	} `json:"total"`
	Gaps    []struct{ From, To time.Time } `json:"gaps"`
	Waiting string                         `json:"waiting"`
}

func usageOf(t testing.TB, r *running) (u used) {
	t.Helper()
	from := time.Now().Add(-2 * time.Hour).Unix()
	res, err := http.Get(r.admin + fmt.Sprintf("/api/usage?step=total&from=%d", from))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	if err := json.Unmarshal(text, &u); err != nil || res.StatusCode != 200 {
		t.Fatalf("%s %s %v", res.Status, text, err)
	}
	return u
}

// settled waits until the gateway has nothing to write, and has counted so many requests: one is counted when its last byte is
// gone, which its client may see first.
func settled(t testing.TB, r *running, requests uint64) (u used) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if u = usageOf(t, r); u.Waiting == "" && u.Total.Requests >= requests {
			return u
		}
		if time.Now().After(end) {
			t.Fatalf("waits in vain: %q, %d requests of %d", u.Waiting, u.Total.Requests, requests)
		}
	}
}

func usageConfig(state string) string {
	var consumers strings.Builder
	for i := range callers {
		fmt.Fprintf(&consumers, "  c%d: {api_keys: [{hash: %q}]}\n", i, sha256Of(fmt.Sprintf("key-%d", i)))
	}
	return `
listeners: {main: {address: "127.0.0.1:0"}}
admin: {address: "127.0.0.1:0"}
state: ` + state + `
policies: {api_key: {}}
routes:
  a: {match: {paths: [/a]}, respond: {body: hello}}
  b: {match: {paths: [/b]}, respond: {body: hello}}
consumers:
` + consumers.String()
}

// Totals of every consumer are those that the generator of the load counts itself.
func (l *load) equals(u used) {
	l.t.Helper()
	got := make(map[string]uint64)
	for _, r := range u.Rows {
		got[r.Consumer] += r.Requests
	}
	for i := range l.counts {
		if name := fmt.Sprint("c", i); got[name] != l.counts[i].Load() {
			l.t.Errorf("%s: %d requests, the generator counts %d", name, got[name], l.counts[i].Load())
		}
	}
	if u.Total.Requests != l.answered() {
		l.t.Errorf("%d requests in all, the generator counts %d", u.Total.Requests, l.answered())
	}
}

func TestUsageTotals(t *testing.T) {
	file := write(t, "sluice.yaml", usageConfig(fmt.Sprintf("{dir: %q, usage: {flush: 200ms}}", t.TempDir())))
	r := launch(t, sluice(t, nil, "run", "--watch=false", "--drain-delay=0s", "-c", file))
	addr := strings.TrimPrefix(r.url, "http://")
	l := startLoad(t, addr, "/a", false)
	l.until(requests)
	l.end()
	l.equals(settled(t, r, l.answered()))

	// Killed while it serves: what is missing came after the last write, which is where the gap begins.
	before := l.answered()
	second := startLoad(t, addr, "/b", true)
	second.until(3000)
	if err := r.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = r.Wait()
	second.wg.Wait()
	r = launch(t, sluice(t, nil, "run", "--watch=false", "--drain-delay=0s", "-c", file))
	u := settled(t, r, before)
	if len(u.Gaps) != 1 || u.Gaps[0].To.Before(u.Gaps[0].From) {
		t.Fatalf("the gap is not told: %+v", u.Gaps)
	}
	kept, answered := u.Total.Requests-before, second.answered()
	late := uint64(0)
	for _, at := range second.times {
		if !at.Before(u.Gaps[0].From) {
			late++
		}
	}
	t.Logf("killed after %d answers, %d are counted, %d were answered after the beginning of the gap", answered, kept, late)
	// Of each connection one may have been served and not been answered.
	if kept > answered+4 || kept+late < answered {
		t.Errorf("%d of %d requests are counted, and %d came after the beginning of the gap", kept, answered, late)
	}

	// A clean end loses nothing.
	third := startLoad(t, strings.TrimPrefix(r.url, "http://"), "/a", false)
	third.until(1000)
	third.end()
	if err := r.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = r.Wait()
	r = launch(t, sluice(t, nil, "run", "--watch=false", "-c", file))
	if u := settled(t, r, 0); u.Total.Requests != before+kept+third.answered() || len(u.Gaps) != 1 {
		t.Errorf("%d requests, want %d; gaps %v", u.Total.Requests, before+kept+third.answered(), u.Gaps)
	}
}

func TestUsageWithPostgreSQLGone(t *testing.T) {
	pg := postgrestest.Start(t)
	file := write(t, "sluice.yaml", usageConfig(fmt.Sprintf("{usage: {store: postgres, dsn: %q, flush: 100ms}}", pg.DSN())))
	r := launch(t, sluice(t, nil, "run", "--watch=false", "-c", file))
	l := startLoad(t, strings.TrimPrefix(r.url, "http://"), "/a", false)
	l.until(1000)
	settled(t, r, 1)
	pg.Stop()
	l.until(l.answered() + requests) // nobody waits for it
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, text := fetch(t, r.admin+"/metrics"); !strings.Contains(text, `sluice_usage_writes_total{result="failure"} 0`+"\n") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no write has failed")
		}
	}
	pg.Run()
	l.until(l.answered() + 1000)
	l.end()
	u := settled(t, r, l.answered())
	l.equals(u)
	if len(u.Gaps) != 0 {
		t.Error(u.Gaps)
	}
}

func sha256Of(key string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(key))) }
