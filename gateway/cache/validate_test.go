package cache

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

// record makes an entry of a response that arrived whole, with all of its header.
func record(t testing.TB, key string, sel Selector, status int, header, body string) *Entry {
	t.Helper()
	res := response(status, header)
	v := res.Judge(new(Request), &Rules{TTL: 300 * second})
	r := Record(&Draft{Key: []byte(key), Response: res, Freshness: v.Freshness, Limit: 1 << 20, Route: "r", Path: []byte("host/" + key)}, sel)
	message(header, r.Field)
	r.Write([]byte(body))
	e := r.Finish()
	if e == nil {
		t.Fatalf("%q was not recorded", header)
	}
	return e
}

// selector is the header of a request.
func selector(text string) Selector {
	type line struct{ name, value []byte }
	var all []line
	message(text, func(name, value []byte) { all = append(all, line{name, value}) })
	return func(name []byte, i int) ([]byte, bool) {
		for _, l := range all {
			if equalFold(l.name, name) {
				if i == 0 {
					return l.value, true
				}
				i--
			}
		}
		return nil, false
	}
}

func TestNotModified(t *testing.T) {
	f := func(status int, header, req string, want bool) {
		t.Helper()
		e := record(t, "k", nil, status, header, "x")
		if got := e.NotModified(request(req)); got != want {
			t.Errorf("%q, %q: got %v", header, req, got)
		}
	}
	strong, weak := `ETag: "a,b"`, `ETag: W/"a"`
	f(200, strong, "", false)
	// RFC 9110 8.8.3.2 and 13.1.2: weak comparison, lists.
	f(200, strong, `If-None-Match: "a,b"`, true)
	f(200, strong, `If-None-Match: W/"a,b"`, true)
	f(200, weak, `If-None-Match: "a"`, true)
	f(200, weak, `If-None-Match: W/"a"`, true)
	f(200, weak, `If-None-Match: "x", W/"y" ,"a"`, true)
	f(200, weak, `If-None-Match: , ,"a",`, true)
	f(200, weak, "If-None-Match: \"x\"\nIf-None-Match: \"a\"", true)
	f(200, weak, `If-None-Match: "A"`, false)
	f(200, weak, `If-None-Match: w/"a"`, false)
	f(200, weak, `If-None-Match: W/ "a"`, false)
	f(200, weak, `If-None-Match: a`, false)
	f(200, weak, `If-None-Match: x"a"`, false)
	f(200, weak, `If-None-Match: "a`, false)
	f(200, weak, `If-None-Match: "x\", "a"`, true) // a backslash in a tag is itself
	f(200, `ETag: a`, `If-None-Match: "a"`, false)
	f(200, `ETag: a`, `If-None-Match: a`, true) // malformed, and sent back as it came
	f(200, "", `If-None-Match: "a"`, false)
	f(200, weak, `If-None-Match: *`, true)
	f(200, "", `If-None-Match: * `, true)
	f(200, weak, `If-None-Match: "*"`, false)
	f(200, weak, `If-None-Match: *, "x"`, false)
	// RFC 9110 13.2.1: only where the answer would be 2xx.
	f(404, weak, `If-None-Match: "a"`, false)
	f(404, weak, `If-None-Match: *`, false)
	// RFC 9110 13.1.3.
	lm := "Last-Modified: " + httpDate(-time.Hour)
	f(200, lm, "If-Modified-Since: "+httpDate(-time.Hour), true)
	f(200, lm, "If-Modified-Since: "+httpDate(-time.Minute), true)
	f(200, lm, "If-Modified-Since: "+httpDate(-time.Hour-time.Second), false)
	f(200, lm, "If-Modified-Since: yesterday", false)
	f(200, lm, "If-Modified-Since: "+httpDate(0)+"\nIf-Modified-Since: "+httpDate(0), false)
	f(200, lm+"\n"+weak, "If-Modified-Since: "+httpDate(0)+"\nIf-None-Match: \"x\"", false)
	f(200, lm+"\n"+weak, "If-Modified-Since: "+httpDate(-2*time.Hour)+"\nIf-None-Match: \"a\"", true)
	// RFC 9111 4.3.2: without Last-Modified, Date counts, and without that the time of arrival.
	f(200, "Date: "+httpDate(-time.Hour), "If-Modified-Since: "+httpDate(-time.Hour), true)
	f(200, "Date: "+httpDate(-time.Hour), "If-Modified-Since: "+httpDate(-2*time.Hour), false)
	f(200, "", "If-Modified-Since: "+httpDate(0), true)
	f(200, "", "If-Modified-Since: "+httpDate(-time.Second), false)
}

// RFC 9110 15.4.5.
func TestIn304(t *testing.T) {
	for _, name := range []string{"ETag", "Date", "Vary", "Cache-Control", "Content-Location", "Expires", "X-Any"} {
		if !In304([]byte(name)) {
			t.Errorf("%s is not sent", name)
		}
	}
	for _, name := range []string{"Content-Type", "content-length", "Content-Encoding", "Content-Language", "Content-Range"} {
		if In304([]byte(name)) {
			t.Errorf("%s is sent", name)
		}
	}
}

func TestRequestFields(t *testing.T) {
	f := func(text string, forOrigin, ranged, onlyIfCached bool) {
		t.Helper()
		r := request(text)
		if r.ForOrigin() != forOrigin || r.Ranged() != ranged || r.OnlyIfCached() != onlyIfCached {
			t.Errorf("%q: %v %v %v", text, r.ForOrigin(), r.Ranged(), r.OnlyIfCached())
		}
	}
	f("If-Match: *", true, false, false)
	f("If-Unmodified-Since: x", true, false, false)
	f("Range: bytes=0-1\nIf-Range: \"a\"", false, true, false)
	f("Cache-Control: only-if-cached", false, false, true)
	r := request("Cache-Control: no-store\nIf-None-Match: *\nAuthorization: a\nAuthorization: b")
	if string(r.Credential()) != "a" {
		t.Errorf("the credential is %q", r.Credential())
	}
	r.Identified = true
	if r.Reset(); !reflect.DeepEqual(*r, Request{}) {
		t.Errorf("Reset left %+v", *r)
	}
}

func TestPlainRequests(t *testing.T) {
	f := func(text string, want bool) {
		t.Helper()
		if r := request(text); r.Plain() != want {
			t.Errorf("%q: plain is %v", text, r.Plain())
		}
	}
	f("", true)
	f("Accept: */*\nCookie: a=b\nHost: h\nAuthorization: Bearer x\nX-Range: bytes=0-1\nIf-Any: x", true)
	for _, asks := range []string{
		"cache-control: max-age=0", "Pragma: no-cache", "Range: bytes=0-1", "If-Range: x", "If-Match: *", "If-None-Match: *",
		"If-Modified-Since: x", "If-Unmodified-Since: x",
	} {
		f(asks, false)
		f("Authorization: Bearer x\n"+asks+"\nAccept: a", false)
	}
}

// RFC 9111 4.1.
func TestSelected(t *testing.T) {
	f := func(vary, stored, asked string, want bool) {
		t.Helper()
		e := record(t, "k", selector(stored), 200, vary, "")
		if got := e.Selected(selector(asked)); got != want {
			t.Errorf("%q, stored for %q, asked for by %q: got %v", vary, stored, asked, got)
		}
		// What selects it also says the same when it is stored, or replacing variants would not find it.
		again := record(t, "k", selector(asked), 200, vary, "")
		if same := bytes.Equal(e.head[e.selecting:e.written], again.head[again.selecting:again.written]); same != want {
			t.Errorf("%q: stored for %q and for %q: same is %v", vary, stored, asked, same)
		}
	}
	f("", "Accept: a", "Accept: b", true)
	f("Vary: ", "Accept: a", "Accept: b", true)
	f("Vary: accept", "Accept: a", "ACCEPT: a", true)
	f("Vary: Accept", "Accept: a", "Accept: b", false)
	f("Vary: Accept", "Accept: a", "Accept: A", false)
	f("Vary: Accept", "Accept: a", "Accept: a\nCookie: x", true)
	// Absent only matches absent; an empty one is there.
	f("Vary: Accept", "", "", true)
	f("Vary: Accept", "", "Accept: a", false)
	f("Vary: Accept", "Accept: a", "", false)
	f("Vary: Accept", "Accept:", "", false)
	f("Vary: Accept", "Accept:", "Accept: ", true)
	// A first line that is written alike is not all of a field.
	f("Vary: Accept", "Accept: a", "Accept: a\nAccept: b", false)
	f("Vary: Accept-Encoding", "Accept-Encoding: gzip, br", "Accept-Encoding: gzip, br", true)
	f("Vary: Accept-Encoding", "Accept-Encoding: gzip, br", "Accept-Encoding: br,gzip", true)
	f("Vary: Accept-Encoding", "Accept-Encoding: gzip", "Accept-Encoding: gzip\nAccept-Encoding: br", false)
	f("Vary: Accept-Encoding, Accept", "Accept-Encoding: gzip", "Accept-Encoding: gzip\nAccept: a", false)
	f("Vary: Accept-Encoding, Accept", "Accept-Encoding: gzip\nAccept: a", "Accept: a\nAccept-Encoding: gzip", true)
	f("Vary: Accept, Accept-Encoding", "Accept: "+strings.Repeat("a", 300)+"\nAccept-Encoding: gzip",
		"Accept: "+strings.Repeat("a", 300)+"\nAccept-Encoding: br", false)
	// Spaces and lines do not matter, order and strings do.
	f("Vary: Accept", "Accept: a,b", "Accept:  a ,\tb ", true)
	f("Vary: Accept", "Accept: a,b", "Accept: a\nAccept: b", true)
	f("Vary: Accept", "Accept: a\nAccept: b", "Accept: a,,b,", true)
	f("Vary: Accept", "Accept: a,b", "Accept: b,a", false)
	f("Vary: Accept", "Accept: a,b", "Accept: a", false)
	f("Vary: Accept", "Accept: a", "Accept: a,b", false)
	f("Vary: Accept", "Accept: ab", "Accept: a,b", false)
	f("Vary: Accept", "Accept: a,b", "Accept: ab", false)
	f("Vary: Accept", `Accept: "a, b"`, `Accept: "a,b"`, false)
	f("Vary: Accept", `Accept: "a, b"`, `Accept: a, b`, false)
	// Several fields, in one line or more.
	f("Vary: Accept, X-A\nVary: X-B", "Accept: a\nX-B: 1", "X-B: 1\nAccept: a", true)
	f("Vary: Accept, X-A\nVary: X-B", "Accept: a\nX-B: 1", "Accept: a\nX-B: 2", false)
	f("Vary: Accept, X-A", "Accept: a\nX-A: b", "Accept: b\nX-A: a", false)

	e := record(t, "k", selector("Accept: a"), 200, "Vary: Accept", "")
	if e.Selected(nil) {
		t.Error("a request without a header selects a variant that has one")
	}
}

func FuzzSelected(f *testing.F) {
	f.Add("a, b", "c", "a,b,c", "")
	f.Add("a, b", "-", "a, b", "c")
	f.Add("a, b", "-", "a, b", "-")
	f.Add(`"a, b"`, "", `"a`, `b"`)
	f.Fuzz(func(t *testing.T, stored1, stored2, asked1, asked2 string) {
		two := func(a, b string) Selector {
			return func(_ []byte, i int) ([]byte, bool) {
				return []byte([]string{a, b, ""}[i]), i == 0 || i == 1 && b != "-"
			}
		}
		res := response(200, "Vary: X-A")
		one, other := appendSelecting(nil, res, two(stored1, stored2)), appendSelecting(nil, res, two(asked1, asked2))
		written := appendWritten(nil, one, two(stored1, stored2))
		if got := matches(one, written, two(asked1, asked2)); got != bytes.Equal(one, other) {
			t.Fatalf("matches says %v of %q and %q", got, one, other)
		}
		if !matches(one, written, two(stored1, stored2)) {
			t.Fatalf("%q does not match itself", one)
		}
	})
}
