package cache

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

func TestRecorderSuccess(t *testing.T) {
	header := `Date: ` + httpDate(0) + `
ETag: W/"1"
Content-Type: text/plain
Content-Length: 40000
Age: 5
Connection: close, X-Hop
X-Hop: 1
Keep-Alive: 5
Transfer-Encoding: chunked
Set-Cookie: a=b
set-cookie: c=d
X-Secret: s
Cache-Control: max-age=60, private="x-secret"
Surrogate-Key: red  green
Cache-Tag: blue, dark red`
	body := strings.Repeat("0123456789", 4000)
	res := response(200, header)
	v := res.Judge(new(Request), new(Rules))
	r := Record(&Draft{Key: []byte("key"), Response: res, Freshness: v.Freshness, Limit: 40000, Route: "users", Path: []byte("example.com/users")}, nil)
	message(header, r.Field)
	for i := 0; i < len(body); i += 1000 {
		if !r.Write([]byte(body[i : i+1000])) {
			t.Fatal("gave up")
		}
	}
	e := r.Finish()
	want := "Date: " + httpDate(0) + "\r\nETag: W/\"1\"\r\nContent-Type: text/plain\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\n" +
		"Cache-Control: max-age=60, private=\"x-secret\"\r\nSurrogate-Key: red  green\r\nCache-Tag: blue, dark red\r\n"
	if string(e.Header()) != want {
		t.Errorf("got header %q, want %q", e.Header(), want)
	}
	if string(e.Body()) != body || e.Status() != 200 || string(e.Key()) != "key" || e.Route() != "users" || string(e.Path()) != "example.com/users" ||
		string(e.ETag()) != `W/"1"` || e.ContentLength() != 40000 || e.HeadOnly() || e.Date() != testNow/second || e.Lifetime != 60*second {
		t.Errorf("got %d %q %q %q %q %d %d", e.Status(), e.Key(), e.Route(), e.Path(), e.ETag(), e.ContentLength(), e.Date())
	}
	for tag, want := range map[string]bool{"red": true, "green": true, "blue": true, "dark red": true, "dark": false, "": false, "re": false} {
		if e.Tagged([]byte(tag)) != want {
			t.Errorf("tag %q: not %v", tag, want)
		}
	}
	var lines []string
	for name, value := range e.All() {
		lines = append(lines, fmt.Sprintf("%s: %s\r\n", name, value))
	}
	if strings.Join(lines, "") != want {
		t.Errorf("All gave %q", lines)
	}
	if string(e.Value([]byte("content-type"))) != "text/plain" || e.Value([]byte("x-hop")) != nil {
		t.Error("Value is wrong")
	}
	if exact := int64(entrySize + indexSize + len(e.head) + len(e.body)); e.Size() < exact || e.Size() > exact+exact/8+16<<10 {
		t.Errorf("size %d for %d bytes", e.Size(), exact)
	}
}

// RFC 9110 6.6.1: a missing or invalid Date is the time of arrival.
func TestRecorderDate(t *testing.T) {
	f := func(header, want string) {
		t.Helper()
		if e := record(t, "k", nil, 200, header, ""); string(e.Header()) != want {
			t.Errorf("%q: got %q", header, e.Header())
		}
	}
	now := "Date: " + httpDate(0) + "\r\n"
	f("", now)
	f("X-A: b", now+"X-A: b\r\n")
	f("Date: 12", now)
	f("Date: Sun, 06 Nov 1994 08:49:37 GMT", "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n")
}

// RFC 9111 3.3: what is not whole is not stored.
func TestRecorderFailure(t *testing.T) {
	f := func(header string, head bool, limit int, body string, want bool) {
		t.Helper()
		res := response(200, header)
		r := Record(&Draft{Key: []byte("k"), Response: res, Limit: limit, Head: head}, nil)
		message(header, r.Field)
		for i := range body {
			r.Write([]byte(body[i : i+1]))
		}
		recording := r.Recording()
		e := r.Finish()
		if (e != nil) != want || want && !recording {
			t.Errorf("%q, limit %d, %d bytes: got %v", header, limit, len(body), e != nil)
		}
		if e != nil && !bytes.Equal(e.Body(), []byte(body)) {
			t.Errorf("body is %q", e.Body())
		}
	}
	f("", false, 5, "12345", true)
	f("", false, 5, "123456", false)
	f("", false, 0, "", true)
	f("Content-Length: 5", false, 5, "12345", true)
	f("Content-Length: 5", false, 5, "1234", false)
	f("Content-Length: 3", false, 5, "1234", false)
	f("Content-Length: 6", false, 5, "", false)
	f("Content-Length: 600", true, 5, "", true)
	f("Content-Length: 1", true, 5, "1", false)
	f("Vary: *", false, 5, "", false)
	f("X-A: a\x00b", false, 5, "", false)
	f("X-A: a\rb", false, 5, "", false)
	f("X A: b", false, 5, "", false)
	f("X-A: "+strings.Repeat("x", maxHead), false, 5, "", false)
	f("Cache-Tag: "+strings.Repeat("x\nCache-Tag: ", maxLines), false, 5, "", false)

	head := response(200, "Content-Length: 600")
	r := Record(&Draft{Key: []byte("k"), Response: head, Head: true}, nil)
	if e := r.Finish(); !e.HeadOnly() || e.ContentLength() != 600 || e.Body() != nil {
		t.Errorf("an answer to HEAD has length %d", e.ContentLength())
	}
	r = Record(&Draft{Key: []byte("k"), Response: response(200, ""), Limit: 100}, nil)
	r.Write([]byte("half"))
	r.Discard()
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a recorder was used after its end")
			}
		}()
		r.Finish()
	}()
}
