package compression

import (
	"bytes"
	"runtime"
	"slices"
	"strings"
	"testing"

	"sluice/gateway/coding"
	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

func TestAccept(t *testing.T) {
	w := policytest.New(t, "")
	f := func(field string, order string, want string, refusesIdentity bool) {
		t.Helper()
		x := w.Exchange("/")
		defer x.Close()
		for _, line := range strings.Split(field, "|") {
			if line != "-" {
				x.Fields = append(x.Fields, exchange.Field{Name: []byte("accept-encoding"), Value: []byte(line)})
			}
		}
		var list []coding.Coding
		for _, name := range strings.Fields(order) {
			c, _ := coding.Named(name)
			list = append(list, c)
		}
		var a acceptance
		a.read(x)
		if got := a.choose(list).String(); got != want || a.refusesIdentity() != refusesIdentity {
			t.Errorf("%q: %s, refuses identity %t", field, got, a.refusesIdentity())
		}
	}
	const all = "zstd br gzip"
	f("-", all, "identity", false)
	f("", all, "identity", false)
	f("gzip", all, "gzip", false)
	f("x-gzip", all, "gzip", false)
	f("GZIP, BR", all, "br", false)
	f("gzip, deflate, br, zstd", all, "zstd", false)
	f("gzip, deflate, br, zstd", "gzip br zstd", "gzip", false)
	f("gzip|br", all, "br", false)
	f("deflate", all, "identity", false)
	f("gzip;q=1.0, br;q=0.9", all, "gzip", false)
	f("gzip;q=0.5, br;q=0.501", all, "br", false)
	f("gzip ; q=0.5 , br; Q=0.4", all, "gzip", false)
	f("gzip;q=0", all, "identity", false)
	f("gzip;q=0.000", all, "identity", false)
	f("gzip;q=0.001", all, "gzip", false)
	f("*", all, "zstd", false)
	f("*;q=0.5, gzip", all, "gzip", false)
	f("gzip;q=0.5, *", all, "zstd", false)
	f("zstd;q=0, *", all, "br", false)
	f("*;q=0", all, "identity", true)
	f("gzip, *;q=0", all, "gzip", true)
	f("identity, *;q=0", all, "identity", false)
	f("identity;q=0", all, "identity", true)
	f("identity;q=0, gzip;q=0.1", all, "gzip", true)
	f("identity, gzip;q=0.5", all, "identity", false)
	f("identity;q=0.5, gzip;q=0.5", all, "gzip", false)
	f("identity;q=0.5, gzip", all, "gzip", false)
	// What is malformed counts for nothing.
	f("gzip;q=2, br;q=1.1, zstd;q=x", all, "identity", false)
	f("gzip;q=0.1234, br;q=, zstd;q", all, "identity", false)
	f("gzip;q=1.001, br;q=1.000", all, "br", false)
	f(",, ,gzip,", all, "gzip", false)
	f("gzip;level=1", all, "identity", false)
	f("gzip;q=0, gzip", all, "identity", false)
}

func TestMediaTypes(t *testing.T) {
	f := func(patterns, contentType string, want bool) {
		t.Helper()
		var list []mediaType
		for _, text := range strings.Fields(patterns) {
			p, err := parseType(text)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, p)
		}
		if got := matches(list, []byte(contentType)); got != want {
			t.Errorf("%s of %s: %t", contentType, patterns, got)
		}
	}
	f("text/*", "text/html; charset=utf-8", true)
	f("text/*", "TEXT/Plain", true)
	f("text/*", "text/event-stream", false)
	f("text/*", "text/Event-Stream;charset=utf-8", false)
	f("application/*", "application/grpc+proto", false)
	f("application/*", "application/grpc-web", false)
	f("application/*+json", "application/problem+json", true)
	f("application/*+json", "application/json", false)
	f("application/*+json", "application/+json", true)
	f("application/json", "application/json;charset=utf-8", true)
	f("application/json", "application/jsonp", false)
	f("application/json", "", false)
	f("text/html application/json", "image/png", false)
}

// answer gives x an answer of a backend, held.
func answer(x *exchange.Exchange, body string, headers ...string) {
	h := &x.Response.Header
	h.Reset()
	h.DisableNormalizing()
	h.SetNoDefaultContentType(true)
	x.Answer = exchange.Proxied
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	x.Response.SetBodyRaw([]byte(body))
}

// seen is the head as the client gets it, without the type, in the order of names.
func seen(x *exchange.Exchange) string {
	x.ToClient.Apply(&x.Response.Header)
	var lines []string
	for k, v := range x.Response.Header.All() {
		if string(k) != "Content-Type" && string(k) != "Content-Length" {
			lines = append(lines, string(k)+"="+string(v))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

var long = strings.Repeat("something that repeats ", 100)

func TestHeld(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings, accept, body, want string, headers ...string) {
		t.Helper()
		x := w.Exchange("/", "Accept-Encoding: "+accept)
		defer x.Close()
		h := w.MustBuild(t, Definition, settings)
		if err := h.Request(x); err != nil {
			t.Fatal(err)
		}
		answer(x, body, append([]string{"Content-Type: text/plain"}, headers...)...)
		if err := h.Response(x); err != nil {
			t.Fatal(err)
		}
		got := seen(x)
		if got != want {
			t.Errorf("%s of %q: %s, want %s", accept, headers, got, want)
		}
		encoding := exchange.PeekResponse(&x.Response.Header, "Content-Encoding")
		if len(encoding) > 0 && !strings.Contains(strings.Join(headers, ""), "Content-Encoding: br") {
			if decoded, err := coding.Decode(encoding, x.Response.Body(), 1<<20); err != nil || string(decoded) != body {
				t.Errorf("%s: %q, %v", accept, decoded, err)
			}
		} else if string(x.Response.Body()) != body {
			t.Errorf("%s: the body changed", accept)
		}
	}
	const vary = "Vary=Accept-Encoding"
	f("", "gzip", long, "Content-Encoding=gzip "+vary)
	f("", "br", long, "Content-Encoding=br "+vary)
	f("", "zstd", long, "Content-Encoding=zstd "+vary)
	f("", "gzip;q=0", long, vary)
	f("", "", long, vary)
	f("", "gzip", "short", "")
	f("", "gzip, identity;q=0", "short", "Content-Encoding=gzip "+vary)
	f("", "gzip, identity;q=0", "", "")
	f("min_size: 5", "gzip", strings.Repeat("abc", 100), "Content-Encoding=gzip "+vary)
	f("min_size: 5", "gzip", "incompressible", vary) // what would grow stays
	f("encodings: [gzip]", "br", long, vary)
	f("", "gzip", long, "Content-Encoding=gzip Vary=Origin, accept-encoding", "Vary: Origin, accept-encoding")
	f("", "gzip", long, "Content-Encoding=gzip Vary=Accept-Encoding Vary=Origin", "Vary: Origin")
	f("", "gzip", long, "Content-Encoding=gzip Vary=*", "Vary: *")
	f("", "gzip", long, "Content-Encoding=gzip ETag=\"a~gzip\" "+vary, `etag: "a"`, "Accept-Ranges: bytes", "Content-MD5: x", "Repr-Digest: x")
	f("", "gzip", long, "Content-Encoding=gzip ETag=W/\"a\" "+vary, `ETag: W/"a"`)
	f("", "gzip", long, "Content-Encoding=gzip "+vary, "Content-Encoding: identity")
	f("", "gzip", long, "Content-Encoding=br", "Content-Encoding: br")
	f("", "gzip", long, "Cache-Control=public, no-transform", "Cache-Control: public, no-transform")
	f("", "gzip", long, "Content-Range=bytes 0-1/2", "Content-Range: bytes 0-1/2")
}

func TestNoTransformOfRequest(t *testing.T) {
	w := policytest.New(t, "")
	x := w.Exchange("/", "Accept-Encoding: gzip", "Cache-Control: max-age=0, No-Transform")
	defer x.Close()
	h := w.MustBuild(t, Definition, "")
	answer(x, long, "Content-Type: text/plain")
	if err := h.Response(x); err != nil || string(x.Response.Body()) != long {
		t.Error(err, seen(x))
	}
}

func TestConditions(t *testing.T) {
	w := policytest.New(t, "")
	f := func(name, list, accept, want, tag, wantTag string) {
		t.Helper()
		x := w.Exchange("/", name+": "+list, "Accept-Encoding: "+accept)
		defer x.Close()
		h := w.MustBuild(t, Definition, "")
		if err := h.Request(x); err != nil {
			t.Fatal(err)
		}
		if got := string(x.RequestHeader(name)); got != want {
			t.Errorf("%s: %s went on as %s, want %s", name, list, got, want)
		}
		answer(x, "", "ETag: "+tag)
		x.Response.SetStatusCode(304)
		if err := h.Response(x); err != nil {
			t.Fatal(err)
		}
		if got := string(x.ResponseHeader("ETag")); got != wantTag {
			t.Errorf("%s: %s gave %s, want %s", name, list, got, wantTag)
		}
	}
	const none = "If-None-Match"
	f(none, `"a~gzip"`, "gzip", `"a"`, `"a"`, `"a~gzip"`)
	f(none, `"a~gzip", "b~br" ,W/"c~gzip", "d"`, "gzip, br", `"a", "b" ,W/"c", "d"`, `"b"`, `"b~br"`)
	f(none, `"a", "a~gzip"`, "gzip", `"a", "a"`, `"a"`, `"a~gzip"`)
	f(none, `"a~gzip", "a~br"`, "gzip, br;q=0.5", `"a", "a"`, `"a"`, `"a~gzip"`)
	f(none, `"a~gzip", "a~br"`, "gzip;q=0.5, br", `"a", "a"`, `"a"`, `"a~br"`)
	f(none, `"a~gzip"`, "gzip;q=0.5, br", `"a"`, `"a"`, `"a~gzip"`)
	f(none, `"a~gzip"`, "br", `"a~gzip"`, `"x"`, `"x"`)
	f(none, `"a~gzip"`, "gzip", `"a"`, `W/"a"`, `W/"a"`)
	f(none, `"a~gzip~b"`, "gzip", `"a~gzip~b"`, `"a"`, `"a"`)
	f(none, `*`, "gzip", `*`, `"a"`, `"a"`)
	f("If-Match", `"a~gzip", "b"`, "br", `"a", "b"`, `"a"`, `"a"`)
	f("If-Range", `"a~gzip"`, "gzip", `"a~gzip"`, `"a"`, `"a"`)
}

// stored puts a stored reply into an exchange.
func stored(x *exchange.Exchange, r *exchange.Reply) {
	x.Reply = r
	x.Render(exchange.Replied)
}

func newStored(body string) *exchange.Reply {
	r := exchange.NewReply(200, exchange.Stored)
	r.Head.SetNoDefaultContentType(false)
	r.Head.SetContentType("text/plain")
	r.Body = []byte(body)
	return r
}

// A stored response is coded once, and its form goes with it.
func TestStored(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "")
	reply := newStored(long)
	var first []byte
	for range 3 {
		x := w.Exchange("/", "Accept-Encoding: br")
		stored(x, reply)
		if err := h.Response(x); err != nil {
			t.Fatal(err)
		}
		got := x.Response.Body()
		if decoded, err := coding.Decode([]byte("br"), got, 1<<20); err != nil || string(decoded) != long {
			t.Fatal(string(decoded), err)
		}
		form := reply.Coded[coding.Brotli].Load()
		if form == nil || !bytes.Equal(form.Body, got) {
			t.Fatal(form)
		}
		if first == nil {
			first = form.Body
		} else if &got[0] != &first[0] {
			t.Error("it was coded again")
		} else if !form.Used.Load() {
			t.Error("its use does not count")
		}
		_ = x.Close()
	}
	if string(reply.Body) != long {
		t.Error("the stored body changed")
	}
}

func TestForms(t *testing.T) {
	f, _ := newForms()
	f.bound(10 * (formSize + 16))
	replies := make([]*exchange.Reply, 30)
	for i := range replies {
		replies[i] = newStored(long)
		f.keep(replies[i], coding.Gzip, make([]byte, 16))
		if used := replies[0].Coded[coding.Gzip].Load(); used != nil {
			used.Used.Store(true)
		}
	}
	have := 0
	for _, r := range replies {
		if r.Coded[coding.Gzip].Load() != nil {
			have++
		}
	}
	if have != 10 || f.size != 10*(formSize+16) || kept.Load() != f.size {
		t.Errorf("%d forms, %d bytes, %d in all", have, f.size, kept.Load())
	}
	if replies[0].Coded[coding.Gzip].Load() == nil || replies[29].Coded[coding.Gzip].Load() == nil {
		t.Error("what is used, or new, went before what is not")
	}
	// What would not fit at all is not kept, and what saves nothing as nothing.
	r := newStored(long)
	f.keep(r, coding.Gzip, make([]byte, 2000))
	f.keep(r, coding.Brotli, make([]byte, len(long)))
	if r.Coded[coding.Gzip].Load() != nil || r.Coded[coding.Brotli].Load() == nil || r.Coded[coding.Brotli].Load().Body != nil {
		t.Error("kept")
	}
	// The queue keeps no response alive.
	gone := make(chan struct{})
	for i := range replies {
		if i == 29 {
			runtime.AddCleanup(replies[i], func(c chan struct{}) { close(c) }, gone)
		}
		replies[i] = nil
	}
	for collected := false; !collected; {
		runtime.GC()
		select {
		case <-gone:
			collected = true
		default:
		}
	}
	_ = f.Close()
	if f.size != 0 || len(f.queue) != 0 || kept.Load() != 0 {
		t.Errorf("%d bytes are left", f.size)
	}
}

func TestNoAllocations(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "")
	f := func(what string, r *exchange.Reply, headers ...string) {
		t.Helper()
		w.NoAllocations(t, what, func(x *exchange.Exchange) {
			if err := h.Request(x); err != nil {
				t.Fatal(err)
			}
			stored(x, r)
			if err := h.Response(x); err != nil {
				t.Fatal(err)
			}
			x.ToClient.Apply(&x.Response.Header)
		}, headers...)
	}
	tagged := newStored(long)
	tagged.Head.Set("ETag", `"a"`)
	f("a stored form", tagged, "Accept-Encoding: gzip, deflate, br, zstd")
	f("not wanted", newStored(long))
	f("too small", newStored("small"), "Accept-Encoding: gzip")
	f("a condition", tagged, "Accept-Encoding: gzip", `If-None-Match: "a~gzip"`)
}
