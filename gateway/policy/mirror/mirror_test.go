package mirror

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"sluice/gateway/action/actiontest"
	"sluice/gateway/exchange"
)

// shadowed is a configuration with a service for copies, at which nobody listens.
const shadowed = `services: {shadow: {endpoints: ["http://127.0.0.1:1"], circuit_breaker: off}}`

func TestSettings(t *testing.T) {
	w := actiontest.New(t, shadowed)
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		wants := 0
		for line := range strings.Lines(string(data)) {
			if want, ok := strings.CutPrefix(line, "# want: "); ok {
				wants++
				w.World.Fails(t, Definition, string(data), strings.TrimSpace(want))
			}
		}
		if strings.HasPrefix(filepath.Base(file), "valid-") != (wants == 0) {
			t.Errorf("%s: %d lines with # want:", file, wants)
		}
		if wants == 0 {
			w.World.MustBuild(t, Definition, string(data))
		}
	}
}

// of makes an answer of a comparison's.
func of(c *comparison, status int, contentType, encoding, body string, headers ...string) *answer {
	var h fasthttp.ResponseHeader
	h.SetNoDefaultContentType(true)
	h.DisableNormalizing()
	if contentType != "" {
		h.Set("Content-Type", contentType)
	}
	if encoding != "" {
		h.Set("content-encoding", encoding)
	}
	for i := 0; i < len(headers); i += 2 {
		h.Add(headers[i], headers[i+1])
	}
	a := &answer{known: true, whole: true, status: status, body: []byte(body)}
	a.read(c, &h)
	return a
}

func compressed(s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(s))
	_ = z.Close()
	return b.String()
}

func TestCompare(t *testing.T) {
	c, err := newComparison(&Compare{Headers: []string{"Content-Type", "X-Kind"}, Ignore: []string{"took", "items[*].id", "$.meta"}, MaxBody: 1000})
	if err != nil {
		t.Fatal(err)
	}
	f := func(a, b *answer, want string) {
		t.Helper()
		v := c.compare(a, b)
		got := strings.TrimPrefix(strings.Join(v.names(), ",")+": "+v.detail, ": ")
		if v.uncompared {
			got = "uncompared"
		}
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	plain := func(body string, headers ...string) *answer { return of(c, 200, "text/plain", "", body, headers...) }
	f(plain("a"), plain("a"), "")
	f(plain("a"), plain("bc"), "body: body: 1 bytes, of the copy 2 that are others")
	f(of(c, 200, "", "", "a"), of(c, 503, "text/html", "", "b"), "status: status 200, of the copy 503")
	f(plain("a", "X-Kind", "x"), plain("b", "x-kind", "y"), "header,body: header X-Kind; body: 1 bytes, of the copy 1 that are others")
	f(plain("", "X-Kind", "x", "X-Kind", "y"), plain("", "X-KIND", "x, y"), "")
	f(plain("", "X-Secret", "x"), plain(""), "")

	json := func(body string) *answer { return of(c, 200, "application/json; charset=utf-8", "", body) }
	j := func(a, b, want string) {
		t.Helper()
		if want != "" {
			want = "body: body: " + want
		}
		f(json(a), json(b), want)
	}
	j(`{"a": 1, "b": [1, 2]}`, `{"b":[1,2],"a":1}`, "")
	j(`{"a": 1.0}`, `{"a": 1}`, "")
	j(`{"a": 1e2}`, `{"a": 100}`, "")
	j(`{"a": 9007199254740993}`, `{"a": 9007199254740992}`, "a is another number")
	j(`{"took": 1}`, `{"took": 2}`, "")
	j(`{"took": 1}`, `{}`, "")
	j(`{}`, `{"took": 1}`, "")
	j(`{"meta": {"a": 1}}`, `{"meta": [1]}`, "")
	j(`{"items": [{"id": 1, "n": "x"}]}`, `{"items": [{"id": 2, "n": "x"}]}`, "")
	j(`{"items": [{"id": 1, "n": "secret"}]}`, `{"items": [{"id": 2, "n": "hidden"}]}`, "items.0.n is another text")
	j(`{"items": [1]}`, `{"items": [1, 2]}`, "items has 1 elements, in the copy 2")
	j(`{"a": 1}`, `{"a": "1"}`, "a is a number, in the copy a text")
	j(`{"a": null}`, `{"a": false}`, "a is null, in the copy a boolean")
	j(`{"a": true}`, `{"a": false}`, "a is another boolean")
	j(`{"a": null}`, `{}`, "a is missing in the copy")
	j(`{}`, `{"b": {}}`, "b is in the copy alone")
	j(`[]`, `{}`, "$ is a list, in the copy an object")
	j(`{"a":1} x`, `{"a":1} y`, "9 bytes, of the copy 9 that are others")
	j(`{"a":`, `{"a": 1}`, "5 bytes, of the copy 8 that are others")

	f(of(c, 200, "application/json", "gzip", compressed(`{"a":1}`)), of(c, 200, "application/json", "", `{"a": 1}`), "")
	f(of(c, 200, "application/json", "gzip", compressed(`{"a":1}`)), of(c, 200, "application/json", "gzip", compressed(`{"a":2}`)), "body: body: a is another number")
	f(of(c, 200, "", "br", "x"), of(c, 200, "", "br", "x"), "")
	f(of(c, 200, "", "br", "x"), of(c, 200, "", "br", "y"), "uncompared")
	f(of(c, 200, "", "gzip", "x"), of(c, 200, "", "gzip", "y"), "uncompared")
	short := plain("a")
	short.whole = false
	f(short, plain("a"), "uncompared")
	all, err := newComparison(&Compare{Ignore: []string{"$"}})
	if err != nil {
		t.Fatal(err)
	}
	if v := all.compare(of(all, 200, "", "", "a"), of(all, 200, "", "", "b")); v.kinds != 0 || v.uncompared {
		t.Errorf("%+v", v)
	}
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"", "$", "a.b", "a[0].b", "[*]", "$.a[", "..", "a]b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		segments, err := parsePath(path)
		for _, s := range segments {
			if s == "" && err == nil {
				t.Errorf("%q has an empty segment", path)
			}
		}
	})
}

// A client can not pass a request off as a copy, sampled or not.
func TestClientsDoNotMark(t *testing.T) {
	w := actiontest.New(t, shadowed)
	for _, sample := range []string{"0", "1"} {
		h := w.World.MustBuild(t, Definition, "{service: shadow, sample: "+sample+"}")
		x := w.Exchange("/", "X-Sluice-Mirror: 1")
		if err := h.Request(x); err != nil {
			t.Fatal(err)
		}
		if !x.ToBackend.Replaces([]byte("x_sluice_mirror")) {
			t.Errorf("sample %s: the client's mark passes", sample)
		}
		if states.Has(x) != (sample == "1") {
			t.Errorf("sample %s: copied %t", sample, states.Has(x))
		}
		_ = x.Close()
	}
}

func TestAllocations(t *testing.T) {
	w := actiontest.New(t, shadowed)
	pass := func(settings string, answer func(x *exchange.Exchange)) {
		t.Helper()
		h := w.World.MustBuild(t, Definition, settings)
		w.NoAllocations(t, settings, func(x *exchange.Exchange) {
			if h.Request(x) != nil {
				t.Fatal("refused")
			}
			x.Response.Reset()
			answer(x)
			if h.Response != nil && h.Response(x) != nil {
				t.Fatal("refused")
			}
			h.Done(x)
		}, "Content-Type: application/json", "X-Some: thing")
	}
	pass("{service: shadow, sample: 0, compare: {}}", func(*exchange.Exchange) {})
	// What no service has answered is not copied.
	pass("{service: shadow, compare: {}}", func(x *exchange.Exchange) { x.Answer = exchange.Proxied; x.Response.SetBodyRaw(page) })
	m := &mirror{mark: "X-Sluice-Mirror"}
	w.NoAllocations(t, "fill", func(x *exchange.Exchange) {
		j := jobs.Get().(*job)
		j.fill(m, x, &answer{head: page, body: page})
		j.free()
	}, "Content-Type: application/json", "X-Some: thing")
}

var page = bytes.Repeat([]byte("x"), 1000)
