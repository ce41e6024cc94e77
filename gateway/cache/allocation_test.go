package cache

import (
	"runtime"
	"strconv"
	"strings"
	"testing"
)

type headerLine struct{ name, value []byte }

var (
	sampleRequest = linesOf(`Host: example.com
Accept: application/json
Accept-Encoding: gzip, br
Cache-Control: max-age=30
If-None-Match: W/"abc", "def"
If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT
User-Agent: x`)
	sampleResponse = linesOf(`Date: ` + httpDate(0) + `
Content-Type: application/json
Content-Length: 2000
Cache-Control: max-age=60, stale-while-revalidate=30, private="x-secret"
Expires: ` + httpDate(0) + `
Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT
ETag: "def"
Vary: Accept-Encoding
Surrogate-Key: a b`)
	sampleBody = []byte(strings.Repeat("x", 2000))
)

func linesOf(text string) (out []headerLine) {
	message(text, func(name, value []byte) { out = append(out, headerLine{name, value}) })
	return out
}

func sampleSelector(name []byte, i int) ([]byte, bool) {
	for _, l := range sampleRequest {
		if equalFold(l.name, name) {
			return l.value, i == 0
		}
	}
	return nil, false
}

func TestNothingAllocates(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	f := func(name string, want float64, run func()) {
		t.Helper()
		if got := testing.AllocsPerRun(1000, run); got != want {
			t.Errorf("%s: %v allocations, want %v", name, got, want)
		}
	}
	s := NewStore(1<<20, 10_000)
	stored := sample("key")
	s.Put(testNow, stored)
	key := []byte("key")
	var req Request
	var res Response
	lead := NewFlights(10, 10, second)
	marked, _ := lead.Begin(testNow, key)
	marked.Refuse(testNow + second)

	f("reading a request", 0, func() {
		req.Reset()
		for _, l := range sampleRequest {
			req.Field(l.name, l.value)
		}
	})
	f("reading and judging a response", 0, func() {
		res.Reset(200, testNow, testNow)
		for _, l := range sampleResponse {
			res.Field(l.name, l.value)
		}
		if v := res.Judge(&req, &defaults); v.Scope != Everyone {
			t.Fatal(v.Reason)
		}
	})
	accept := sampleRequest[2].value // what a closure over an exchange looks like
	f("a hit", 0, func() {
		e, ok := s.Get(testNow, key, func(name []byte, i int) ([]byte, bool) { return accept, i == 0 })
		if !ok || e.Reuse(&req, testNow) != Serve || !e.NotModified(&req) {
			t.Fatal("no hit")
		}
		for name, value := range e.All() {
			if len(name)+len(value) == 0 {
				t.Fatal("empty")
			}
		}
	})
	f("a miss", 0, func() {
		if _, ok := s.Get(testNow, key[:2], sampleSelector); ok {
			t.Fatal("a hit")
		}
	})
	f("going alone by a mark", 0, func() {
		if _, role := lead.Begin(testNow, key); role != Alone {
			t.Fatal("not alone")
		}
	})
	f("recording what is discarded", 0, func() {
		r := Record(&Draft{Key: key, Response: &res, Limit: 10_000}, func(name []byte, i int) ([]byte, bool) { return accept, i == 0 })
		for _, l := range sampleResponse {
			r.Field(l.name, l.value)
		}
		r.Write(sampleBody)
		r.Discard()
	})
	f("recording an entry", 3, func() { // the entry, its head, its body
		r := Record(&Draft{Key: key, Response: &res, Limit: 10_000}, sampleSelector)
		for _, l := range sampleResponse {
			r.Field(l.name, l.value)
		}
		r.Write(sampleBody)
		if r.Finish() == nil {
			t.Fatal("not recorded")
		}
	})
}

// sample is a stored response of 2,000 bytes.
func sample(key string) *Entry {
	var req Request
	var res Response
	res.Reset(200, testNow, testNow)
	for _, l := range sampleResponse {
		res.Field(l.name, l.value)
	}
	v := res.Judge(&req, &defaults)
	r := Record(&Draft{Key: []byte(key), Response: &res, Freshness: v.Freshness, Limit: 10_000, Route: "r"}, sampleSelector)
	for _, l := range sampleResponse {
		r.Field(l.name, l.value)
	}
	r.Write(sampleBody)
	return r.Finish()
}

// What Bytes says is what the heap grows by, also after a scan has replaced everything many times.
func TestBytesIsWhatTheHeapTakes(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	f := func(bodySize int) {
		t.Helper()
		heap := func() int64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.GC() // the pools give up their memory in two
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}
		before := heap()
		s := NewStore(16<<20, 1<<20)
		for i := range 4 * 16 << 20 / (bodySize + 600) {
			s.Put(testNow, entry(t, strconv.Itoa(i), bodySize+i%100))
		}
		grown, counted := heap()-before, s.Bytes()
		t.Logf("bodies of %d: %d entries, %d bytes counted, the heap grew by %d", bodySize, s.Len(), counted, grown)
		if ratio := float64(grown) / float64(counted); ratio < 0.85 || ratio > 1.05 {
			t.Errorf("bodies of %d: counted %d, the heap grew by %d", bodySize, counted, grown)
		}
		check(t, s)
		runtime.KeepAlive(s)
	}
	f(0)
	f(2000)
	f(100_000)
}
