package responseratelimit

import (
	"testing"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

// answered lets a request and its answer pass, which says what it counts as.
func answered(t *testing.T, w *policytest.World, h policy.Hooks, said string, answer exchange.Answer) (x *exchange.Exchange, request, response error) {
	t.Helper()
	x = w.Exchange("/")
	if request = h.Request(x); request != nil {
		return x, request, nil
	}
	x.Answer = answer
	x.Response.SetStatusCode(200)
	if said != "" {
		x.Response.Header.Set("X-Kong-Limit", said)
	}
	return x, nil, h.Response(x)
}

func toMinute(w *policytest.World) {
	now := w.Clock.Time()
	w.Advance(now.Truncate(time.Hour).Add(time.Hour).Sub(now))
}

func TestAnswersCount(t *testing.T) {
	w := policytest.New(t, "")
	toMinute(w)
	h := w.MustBuild(t, Definition, "limits: {videos: {minute: 3, hour: 10}, images: {minute: 100}}")
	f := func(said string, refused bool, minute, hour, backend string) {
		t.Helper()
		x, request, response := answered(t, w, h, said, exchange.Proxied)
		defer func() { _ = x.Close() }()
		if request != nil || (response != nil) != refused {
			t.Fatalf("%q: request %v, response %v", said, request, response)
		}
		for name, want := range map[string]string{"X-RateLimit-Limit-videos-Minute": "3", "X-RateLimit-Remaining-videos-Minute": minute, "X-RateLimit-Remaining-videos-Hour": hour} {
			if got, _ := x.ToClient.Value(name); string(got) != want {
				t.Errorf("%q: %s is %q, want %q", said, name, got, want)
			}
		}
		if got, decided := x.ToClient.Value("X-Kong-Limit"); got != nil || !decided {
			t.Errorf("%q: the client is told %q", said, got)
		}
		if got, _ := x.ToBackend.Value("X-RateLimit-Remaining-videos"); string(got) != backend {
			t.Errorf("%q: the backend is told %q, want %q", said, got, backend)
		}
	}
	f("", false, "3", "10", "3")
	f("videos=2, images=5", false, "1", "8", "3")
	f("Videos", false, "0", "7", "1")
	f("images=1", false, "0", "7", "0") // another thing
	f("videos=1", true, "0", "6", "0")
	w.Advance(time.Minute)
	f("videos=1", false, "2", "5", "3")
}

func TestTheFirstLimitBlocksEverything(t *testing.T) {
	w := policytest.New(t, "")
	toMinute(w)
	h := w.MustBuild(t, Definition, "{limits: {videos: {minute: 1}}, block_on_first: true, headers: false}")
	x, request, response := answered(t, w, h, "videos", exchange.Proxied)
	if request != nil || response != nil || len(x.ToClient.List()) != 1 {
		t.Fatal(request, response, x.ToClient.List())
	}
	x.Close()
	x, request, _ = answered(t, w, h, "", exchange.Proxied)
	defer x.Close()
	if r, ok := request.(*exchange.Reject); !ok || r.Status != 429 {
		t.Errorf("the request passes: %v", request)
	}
}

// What the cache gives was counted when the backend was asked, and the gateway's own answers count nothing.
func TestOnlyWhatTheBackendAnswersCounts(t *testing.T) {
	w := policytest.New(t, "")
	toMinute(w)
	h := w.MustBuild(t, Definition, "limits: {videos: {minute: 1}}")
	for _, answer := range []exchange.Answer{exchange.Stored, exchange.Stored, exchange.Own, exchange.Proxied} {
		x, request, response := answered(t, w, h, "videos", answer)
		if request != nil || response != nil {
			t.Errorf("answer %d: %v %v", answer, request, response)
		}
		x.Close()
	}
}

func TestARequestAllocatesNothing(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "limits: {videos: {minute: 1000000000, month: 1000000000}}")
	w.NoAllocations(t, "a request within its limits", func(x *exchange.Exchange) {
		if err := h.Request(x); err != nil {
			t.Fatal(err)
		}
		x.Answer = exchange.Proxied
		if err := h.Response(x); err != nil {
			t.Fatal(err)
		}
	})
}
