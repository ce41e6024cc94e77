package exchange_test

import (
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

func TestHoldBody(t *testing.T) {
	pool := exchange.NewPool(exchange.NewClock(nil))
	// announced is the Content-Length, -1 for chunks.
	f := func(body string, announced, limit int, want string, wantWhole bool, wantErr error) {
		t.Helper()
		var req fasthttp.Request
		var res fasthttp.Response
		x := pool.Get(&req, &res, func(*exchange.Exchange) {})
		defer x.Close()
		req.SetBodyStream(iotest.OneByteReader(strings.NewReader(body)), announced)
		x.BodyLimit = 100
		got, whole, err := x.HoldBody(limit)
		if string(got) != want || whole != wantWhole || err != wantErr {
			t.Errorf("%q of %d, limit %d: %q, whole %t, %v", body, announced, limit, got, whole, err)
		}
		if err != nil {
			return
		}
		if (x.Body != nil) != (whole && announced != 0) {
			t.Errorf("%q of %d, limit %d: x.Body is %q", body, announced, limit, x.Body)
		}
		more, whole, err := x.HoldBody(limit + 2)
		if string(more) != body[:min(len(body), limit+2)] || err != nil {
			t.Errorf("%q of %d, limit %d, then 2 more: %q, whole %t, %v", body, announced, limit, more, whole, err)
		}
		less, _, _ := x.HoldBody(1)
		if x.Body == nil && string(less) != body[:min(len(body), 1)] {
			t.Errorf("%q of %d, then one byte: %q", body, announced, less)
		}
		if announced == 0 {
			return
		}
		all, err := io.ReadAll(x.BodyStream())
		if string(all) != body || err != nil {
			t.Errorf("%q of %d, limit %d: the stream is %q, %v", body, announced, limit, all, err)
		}
	}
	f("", 0, 10, "", true, nil)
	f("abc", 3, 10, "abc", true, nil)
	f("abc", 3, 3, "abc", true, nil)
	f("abc", 3, 2, "ab", false, nil)
	f("abc", -1, 10, "abc", true, nil)
	f("abc", -1, 3, "abc", false, nil) // its end has not come
	f("abc", -1, 2, "ab", false, nil)
	f("", -1, 2, "", true, nil)
	f("abc", 5, 10, "", false, exchange.RejectBodyCut)
	f(strings.Repeat("x", 101), -1, 1000, "", false, exchange.RejectBodyTooLarge)
	f(strings.Repeat("x", 100), -1, 1000, strings.Repeat("x", 100), true, nil)
}

func TestHoldBodyFaults(t *testing.T) {
	pool := exchange.NewPool(exchange.NewClock(nil))
	f := func(fault, want error) {
		t.Helper()
		var req fasthttp.Request
		var res fasthttp.Response
		x := pool.Get(&req, &res, func(*exchange.Exchange) {})
		defer x.Close()
		req.SetBodyStream(io.MultiReader(strings.NewReader("ab"), iotest.ErrReader(fault)), 3)
		if _, _, err := x.HoldBody(10); err != want || x.Body != nil {
			t.Errorf("%v: %v", fault, err)
		}
	}
	f(os.ErrDeadlineExceeded, exchange.RejectBodySlow)
	f(io.ErrUnexpectedEOF, exchange.RejectBodyCut)
}

func TestHoldBodyLater(t *testing.T) {
	var req fasthttp.Request
	var res fasthttp.Response
	x := exchange.NewPool(exchange.NewClock(nil)).Get(&req, &res, func(*exchange.Exchange) {})
	defer x.Close()
	x.BodyLater = true
	if _, whole, err := x.HoldBody(10); !whole || err != nil || x.Paused {
		t.Errorf("without a body: whole %t, %v, paused %t", whole, err, x.Paused)
	}
	req.Header.SetContentLength(3)
	if _, _, err := x.HoldBody(10); err != exchange.ErrBodyLater || !x.Paused {
		t.Errorf("%v, paused %t", err, x.Paused)
	}
}
