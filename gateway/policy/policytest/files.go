package policytest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// Files builds every testdata/valid-*.yaml, and holds every testdata/invalid-*.yaml to the errors in its comments, one for each line
// "# want: TEXT".
func Files(t *testing.T, d *policy.Definition) {
	t.Helper()
	for _, file := range glob(t, "testdata/valid-*.yaml") {
		if _, err := New(t, "").Build(d, read(t, file)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	for _, file := range glob(t, "testdata/invalid-*.yaml") {
		text, wants := read(t, file), 0
		_, err := New(t, "").Build(d, text)
		if err == nil {
			t.Errorf("%s: built, want an error", file)
			continue
		}
		for line := range strings.Lines(text) {
			if want, ok := strings.CutPrefix(line, "# want: "); ok {
				wants++
				if want = strings.TrimSpace(want); !strings.Contains(err.Error(), want) {
					t.Errorf("%s: error %q, want one with %q", file, err, want)
				}
			}
		}
		if wants == 0 {
			t.Errorf("%s: has no line with # want: and got %v", file, err)
		}
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no file matches %s: %v", pattern, err)
	}
	return files
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Fields fills x.Fields from the parsed request, as an engine does.
func Fields(x *exchange.Exchange) *exchange.Exchange {
	x.Fields = x.Fields[:0]
	for name, value := range x.Request.Header.All() {
		x.Fields = append(x.Fields, exchange.Field{Name: name, Value: value, Kind: exchange.KindOf(name)})
	}
	return x
}

// Benchmark measures f on exchanges of GET / with these headers, which begin and end around each call.
func (w *World) Benchmark(b *testing.B, f func(x *exchange.Exchange), headers ...string) {
	b.Helper()
	once := w.repeat(f, headers)
	b.ReportAllocs()
	for b.Loop() {
		once()
	}
}

// BenchmarkParallel is Benchmark on all processors at once; f may be called concurrently.
func (w *World) BenchmarkParallel(b *testing.B, f func(x *exchange.Exchange), headers ...string) {
	b.Helper()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		once := w.repeat(f, headers)
		for pb.Next() {
			once()
		}
	})
}

// repeat gives a function that calls f with an exchange from the pool.
func (w *World) repeat(f func(x *exchange.Exchange), headers []string) func() {
	first := w.Exchange("/", headers...)
	req, res, route := first.Request, first.Response, first.Route
	_ = first.Close()
	end := func(*exchange.Exchange) {}
	return func() {
		x := w.pool.Get(req, res, end)
		x.Path, x.Scheme, x.ClientAddr, x.PeerAddr, x.Route = root, "http", client, client, route
		f(Fields(x))
		_ = x.Close()
	}
}
