package requestsize

import (
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

func TestRequest(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings string, length int, limit int64, wantLimit int64, want error) {
		t.Helper()
		x := w.Exchange("/")
		defer x.Close()
		x.Request.Header.SetContentLength(length)
		x.BodyLimit = limit
		if err := w.MustBuild(t, Definition, settings).Request(x); err != want || x.BodyLimit != wantLimit {
			t.Errorf("%s, length %d, limit %d: %v, limit %d", settings, length, limit, err, x.BodyLimit)
		}
	}
	const chunked = -1
	f("max: 100", 0, 0, 100, nil)
	f("max: 100", 100, 0, 100, nil)
	f("max: 100", 101, 0, 0, rejectTooLarge)
	f("max: 100", chunked, 0, 100, nil)
	f("max: 100", chunked, 1000, 100, nil)
	f("max: 100", chunked, 10, 10, nil)
	f("", chunked, 0, 1<<20, nil)
	f("", 1<<20+1, 10<<20, 10<<20, rejectTooLarge)
	if !rejectTooLarge.Close || rejectTooLarge.Status != 413 {
		t.Error("a connection whose body is not read is used again")
	}
}

func TestNoAllocations(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "max: 100")
	w.NoAllocations(t, "pass", func(x *exchange.Exchange) { _ = h.Request(x) })
	w.NoAllocations(t, "refusal", func(x *exchange.Exchange) { _ = h.Request(x) }, "Content-Length: 1000")
}
