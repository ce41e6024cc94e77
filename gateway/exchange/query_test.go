package exchange

import (
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
)

func TestQueryValue(t *testing.T) {
	f := func(query, name, want string, count int) {
		t.Helper()
		x := NewPool(NewClock(nil)).Get(&fasthttp.Request{}, &fasthttp.Response{}, func(*Exchange) {})
		defer x.Close()
		x.Query = []byte(query)
		if got, n := x.QueryValue(name); string(got) != want || n != count {
			t.Errorf("%q of %q: %q %d, want %q %d", name, query, got, n, want, count)
		}
	}
	f("", "key", "", 0)
	f("key=1", "key", "1", 1)
	f("a=1&key=2&key=3&b", "key", "2", 2)
	f("key", "key", "", 1)
	f("keys=1&ke=2&=3", "key", "", 0)
	f("=3", "", "", 0)
	f("k%65y=a%2Bb+c%zz%4", "key", "a+b c%zz%4", 1)
	f("a+b=1", "a b", "1", 1)
	f("key=a=b", "key", "a=b", 1)
}

func TestQueryWithout(t *testing.T) {
	f := func(query, want string) {
		t.Helper()
		if got := QueryWithout([]byte("x?"), []byte(query), "key"); string(got) != "x?"+want {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
	}
	f("", "")
	f("key=1", "")
	f("a=%41&key=1&b&k%65y=2", "a=%41&b")
	f("keys=1&&c", "keys=1&&c")
}

func TestCookie(t *testing.T) {
	f := func(header, name, want string) {
		t.Helper()
		x := NewPool(NewClock(nil)).Get(&fasthttp.Request{}, &fasthttp.Response{}, func(*Exchange) {})
		defer x.Close()
		for value := range strings.SplitSeq(header, "|") {
			x.Fields = append(x.Fields, Field{Name: []byte("cookie"), Value: []byte(value)}, Field{Name: []byte("X"), Value: []byte("c=1")})
		}
		if got := x.Cookie(name); string(got) != want {
			t.Errorf("%q of %q: %q, want %q", name, header, got, want)
		}
	}
	f("", "a", "")
	f("a=1; b=2", "b", "2")
	f("ab=1;a=2 ;a=3", "a", "2")
	f(`a="quoted"; b=2`, "a", "quoted")
	f("a", "a", "")
	f("a=1|b=2|c=3", "b", "2") // several fields are one list
	f("a=1|b=2|c=3", "c", "3")
}

// Who puts something together in the scratch may ask for cookies meanwhile.
func TestCookiesBesideScratch(t *testing.T) {
	x := NewPool(NewClock(nil)).Get(&fasthttp.Request{}, &fasthttp.Response{}, func(*Exchange) {})
	defer x.Close()
	for _, value := range []string{"a=1", "b=2"} {
		x.Fields = append(x.Fields, Field{Name: []byte("Cookie"), Value: []byte(value)})
	}
	key := append(x.Scratch(), "the key of a limit"...)
	if got := string(x.RequestHeader("Cookie")); got != "a=1; b=2" || string(key) != "the key of a limit" {
		t.Errorf("%q, %q", got, key)
	}
	if got := x.PeekAll("cookie"); len(got) != 1 || string(got[0]) != "a=1; b=2" {
		t.Errorf("%q", got)
	}
}
