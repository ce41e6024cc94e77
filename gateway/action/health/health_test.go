package health

import (
	"testing"

	"sluice/gateway/action/actiontest"
	"sluice/gateway/exchange"
)

func TestSettings(t *testing.T) {
	w := actiontest.New(t, "")
	w.Files(t, Definition)
	for _, settings := range []string{"{}", "true", "on", ""} {
		w.MustBuild(t, Definition, settings)
	}
	w.Fails(t, Definition, "nonsense", "want a block of settings")
}

func TestServe(t *testing.T) {
	w := actiontest.New(t, "")
	a := w.MustBuild(t, Definition, "{}")
	for _, body := range []string{`{"status":"healthy","services":{"users":"closed"}}`, `{"status":"healthy","services":{"users":"open"}}`} {
		w.Health = []byte(body)
		x := w.Exchange("/health")
		actiontest.Answer(a, x)
		h := &x.Response.Header
		if got := string(x.Response.Body()); got != body || h.StatusCode() != 200 {
			t.Errorf("%d %q, want 200 %q", h.StatusCode(), got, body)
		}
		if string(h.ContentType()) != "application/json" || string(h.Peek("Cache-Control")) != "no-store" {
			t.Errorf("head %q", h.String())
		}
		x.Close()
	}
}

func TestAllocations(t *testing.T) {
	w := actiontest.New(t, "")
	w.Health = []byte(`{"status":"healthy"}`)
	a := w.MustBuild(t, Definition, "{}")
	w.NoAllocations(t, "health", func(x *exchange.Exchange) { actiontest.Answer(a, x) })
}
