package cache

import (
	"runtime"
	"strconv"
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

// answer lets the backend answer x.
func answer(x *exchange.Exchange, h policy.Hooks, body []byte, head ...string) {
	x.Answer = exchange.Proxied
	x.Response.Reset()
	x.Response.Header.DisableNormalizing()
	x.Response.Header.SetNoDefaultContentType(true)
	for i := 0; i < len(head); i += 2 {
		x.Response.Header.Add(head[i], head[i+1])
	}
	x.Response.SetBodyRaw(body)
	x.Render(h.Response(x))
}

var sampleHead = []string{"Content-Type", "application/json", "ETag", `"v1"`, "Vary", "Accept-Encoding", "Cache-Control", "max-age=60", "X-Content-Type-Options", "nosniff"}

func TestAllocations(t *testing.T) {
	var w *policytest.World
	f := func(what string, want error, lead bool, head []string, request ...string) {
		t.Helper()
		w = policytest.New(t, "")
		h := w.MustBuild(t, Definition, "{}")
		body := make([]byte, 1000)
		if lead {
			x := w.Exchange("/", request...)
			x.Scheme, x.Path, x.Host = "http", []byte("/"), nil
			if err := h.Request(x); err != nil {
				t.Fatal(err)
			}
			answer(x, h, body, head...)
			h.Done(x)
			x.Close()
		}
		w.NoAllocations(t, what, func(x *exchange.Exchange) {
			policytest.Fields(x)
			if err := h.Request(x); err != want {
				t.Fatal(what, err)
			}
			if want == nil {
				answer(x, h, body, head...)
			} else {
				x.Render(want)
			}
			_ = h.Response(x)
			h.Done(x)
		}, request...)
	}
	f("what can not be stored", nil, true, []string{"Cache-Control", "no-store"}, "Accept-Encoding: gzip")
	f("a bypass", nil, false, nil, `If-Match: "a"`)
	f("a hit", exchange.Replied, true, sampleHead, "Accept-Encoding: gzip", "User-Agent: test")
	h := w.MustBuild(t, Definition, "{}")
	w.NoAllocations(t, "a 304", func(x *exchange.Exchange) {
		policytest.Fields(x)
		if err := h.Request(x); err != exchange.Replied {
			t.Fatal(err)
		}
		if x.Render(exchange.Replied); x.Response.StatusCode() != 304 {
			t.Fatal(x.Response.StatusCode())
		}
		h.Done(x)
	}, "Accept-Encoding: gzip", "User-Agent: test", `If-None-Match: "v1"`)
}

// A scan over many times what fits leaves the heap within a tenth of the bound.
func TestScanStaysWithinTheBound(t *testing.T) {
	if testing.Short() {
		t.Skip("collects garbage")
	}
	for _, size := range []int{100, 4000, 200_000} {
		const bound = 16 << 20
		w := policytest.New(t, "")
		h := w.MustBuild(t, Definition, "max_size: 16MiB")
		body := make([]byte, size)
		scan := func(n int) {
			for i := range n {
				x := w.Exchange("/" + strconv.Itoa(n) + "/" + strconv.Itoa(i))
				_ = h.Request(x)
				answer(x, h, body, sampleHead...)
				h.Done(x)
				x.Close()
			}
		}
		before := heapSize()
		scan(4 * bound / (size + 1200))
		if took := heapSize() - before; took > bound*11/10 {
			t.Errorf("bodies of %d: the heap grew by %d for a bound of %d", size, took, bound)
		} else {
			t.Logf("bodies of %d: the heap grew by %d%% of the bound", size, took*100/bound)
		}
		runtime.KeepAlive(h)
	}
}

func heapSize() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// What the store counts is what the heap holds.
func TestMemoryIsCounted(t *testing.T) {
	if testing.Short() {
		t.Skip("collects garbage")
	}
	const n = 5000
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "max_size: 1GiB")
	var responses *Responses
	w.Living.Range(func(_ string, v any, _ int) bool {
		if r, ok := v.(*Responses); ok {
			responses = r
		}
		return true
	})
	before := heapSize()
	for i := range n {
		x := w.Exchange("/" + strconv.Itoa(i))
		_ = h.Request(x)
		answer(x, h, []byte("body"), sampleHead...)
		h.Done(x)
		x.Close()
	}
	took := heapSize() - before
	if responses.Len() != n {
		t.Fatalf("%d entries of %d", responses.Len(), n)
	}
	t.Logf("%d bytes an entry, %d are counted", took/n, responses.Bytes()/n)
	if counted := responses.Bytes(); counted < took*9/10 || counted > took*13/10 {
		t.Errorf("%d bytes are counted of %d", counted, took)
	}
	runtime.KeepAlive(responses)
}
