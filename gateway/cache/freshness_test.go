package cache

import (
	"strings"
	"testing"
	"time"
)

// message turns "Name: value" lines into fields.
func message(text string, field func(name, value []byte)) {
	for _, line := range strings.Split(text, "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok {
			field([]byte(strings.TrimSpace(name)), []byte(strings.TrimPrefix(value, " ")))
		}
	}
}

func request(text string) *Request {
	r := new(Request)
	message(text, r.Field)
	return r
}

// response arrives at testNow, a second after it was asked for.
func response(status int, text string) *Response {
	r := new(Response)
	r.Reset(status, testNow-second, testNow)
	message(text, r.Field)
	return r
}

func httpDate(offset time.Duration) string {
	return string(AppendDate(nil, testNow/second+int64(offset/time.Second)))
}

// defaults are those of a route that says nothing but cache.
var defaults = Rules{TTL: 300 * second, Statuses: []int{200}}

func TestLifetime(t *testing.T) {
	f := func(rules Rules, status int, header string, want time.Duration, explicit bool) {
		t.Helper()
		v := response(status, header).Judge(new(Request), &rules)
		if got := time.Duration(v.Freshness.Lifetime); got != want || v.Freshness.Explicit != explicit {
			t.Errorf("%d %q: got %v, explicit %v, want %v, %v", status, header, got, v.Freshness.Explicit, want, explicit)
		}
	}
	date := "Date: " + httpDate(0) + "\n"
	// RFC 9111 4.2.1: the order of what is explicit.
	f(defaults, 200, "Cache-Control: s-maxage=1, max-age=2\nExpires: "+httpDate(time.Hour), time.Second, true)
	f(defaults, 200, "Cache-Control: max-age=2\nExpires: "+httpDate(time.Hour), 2*time.Second, true)
	f(defaults, 200, date+"Expires: "+httpDate(time.Hour), time.Hour, true)
	f(defaults, 200, "Expires: "+httpDate(time.Hour), time.Hour, true) // without Date: when it arrived
	f(defaults, 200, "Date: "+httpDate(-time.Minute)+"\nExpires: "+httpDate(time.Hour), time.Hour+time.Minute, true)
	f(defaults, 200, "Date: nonsense\nExpires: "+httpDate(time.Hour), time.Hour, true)
	f(defaults, 500, "Cache-Control: max-age=2", 2*time.Second, true)
	f(defaults, 200, "Cache-Control: max-age=99999999999", MaxSeconds*time.Second, true)
	f(defaults, 200, "Expires: Fri, 31 Dec 9999 23:59:59 GMT", MaxSeconds*time.Second, true)
	// RFC 9111 5.3: an invalid or past Expires is stale, not absent.
	f(defaults, 200, "Expires: 0", 0, true)
	f(defaults, 200, "Expires:", 0, true)
	f(defaults, 200, "Expires: -1", 0, true)
	f(defaults, 200, "Expires: "+httpDate(time.Hour)[:26]+"EST", 0, true)
	f(defaults, 200, date+"Expires: "+httpDate(-time.Hour), 0, true)
	f(defaults, 200, date+"Expires: "+httpDate(time.Hour)+"\nExpires: "+httpDate(time.Hour), time.Hour, true)
	f(defaults, 200, date+"Expires: "+httpDate(time.Hour)+"\nExpires: "+httpDate(time.Minute), 0, true)
	f(defaults, 200, date+"Expires: 0\nExpires: "+httpDate(time.Minute), 0, true)
	f(defaults, 200, "Cache-Control: max-age=x\nExpires: "+httpDate(time.Hour), 0, true)
	// The route's ttl, then heuristics.
	f(defaults, 200, "", 301*time.Second, false) // it took a second to come
	f(defaults, 200, "Age: 1000", 1301*time.Second, false)
	f(defaults, 200, date+"Last-Modified: "+httpDate(-100*time.Hour), 301*time.Second, false)
	f(Rules{}, 200, "", 0, false)
	f(Rules{}, 200, date+"Last-Modified: "+httpDate(-100*time.Minute), 10*time.Minute, false) // RFC 9111 4.2.2
	f(Rules{}, 200, date+"Last-Modified: "+httpDate(-1000*24*time.Hour), 24*time.Hour, false) // at most a day
	f(Rules{}, 200, date+"Last-Modified: "+httpDate(time.Hour), 0, false)                     // not from the future
	f(Rules{}, 404, date+"Last-Modified: "+httpDate(-100*time.Minute), 10*time.Minute, false) // heuristically cacheable
	f(Rules{}, 500, date+"Last-Modified: "+httpDate(-100*time.Minute), 0, false)              // not
	f(Rules{}, 500, date+"Cache-Control: public\nLast-Modified: "+httpDate(-100*time.Minute), 10*time.Minute, false)
	f(Rules{TTL: second, IgnoreOrigin: true}, 200, "Cache-Control: max-age=50\nExpires: 0", time.Second, false)
}

// RFC 9111 4.2.3.
func TestAge(t *testing.T) {
	f := func(header string, after, want time.Duration) {
		t.Helper()
		v := response(200, header).Judge(new(Request), &defaults)
		if got := time.Duration(v.Freshness.Age(testNow + int64(after))); got != want {
			t.Errorf("%q after %v: got %v, want %v", header, after, got, want)
		}
	}
	f("", 0, time.Second) // the delay of the response
	f("", time.Minute, 61*time.Second)
	f("Age: 10", 0, 11*time.Second)
	f("Age: 10", time.Minute, 71*time.Second)
	f("Date: "+httpDate(-30*time.Second), 0, 30*time.Second)
	f("Date: "+httpDate(-30*time.Second)+"\nAge: 10", 0, 30*time.Second)
	f("Date: "+httpDate(-30*time.Second)+"\nAge: 60", 0, 61*time.Second)
	f("Date: "+httpDate(30*time.Second), 0, time.Second) // a clock ahead of ours
	f("Age: 99999999999", 0, (MaxSeconds+1)*time.Second)
	f("Age: 99999999999", 1<<62, time.Duration((MaxSeconds+1)*second+1<<62))
	f("Age: 99999999999\nDate: "+httpDate(-30*time.Second), 1<<63-1-time.Duration(testNow), 1<<63-1)
	// RFC 9111 5.1: the first of a list; invalid ones are ignored.
	f("Age: 10, 20", 0, 11*time.Second)
	f("Age: 10\nAge: 20", 0, 11*time.Second)
	f("Age: -5", 0, time.Second)
	f("Age: x\nAge: 20", 0, time.Second)
	f("", -time.Minute, time.Second) // a clock that went back

	r := new(Response)
	r.Reset(200, testNow+999_000_000, testNow+999_000_000)
	r.Field([]byte("Date"), []byte(httpDate(0)))
	if v := r.Judge(new(Request), &defaults); v.Freshness.InitialAge != 0 {
		t.Errorf("a response of this second is %v old", time.Duration(v.Freshness.InitialAge))
	}
}

func TestJudge(t *testing.T) {
	f := func(rules Rules, req string, status int, header string, scope Scope, reason Reason) {
		t.Helper()
		v := response(status, header).Judge(request(req), &rules)
		if v.Scope != scope || v.Reason != reason {
			t.Errorf("%q -> %d %q: got %d, %v, want %d, %v", req, status, header, v.Scope, v.Reason, scope, reason)
		}
	}
	d := defaults
	// RFC 9111 3.
	f(d, "", 200, "", Everyone, Stored)
	f(d, "", 200, "Cache-Control: no-store, max-age=10", Nobody, ResponseNoStore)
	f(d, "", 200, "Cache-Control: no-store, max-age=10, public", Nobody, ResponseNoStore)
	f(d, "", 200, "Cache-Control: max-age=10\nCache-Control: no-store", Nobody, ResponseNoStore)
	f(d, "", 200, "Cache-Control: private, max-age=10", Nobody, ResponsePrivate)
	f(d, "", 200, "Cache-Control: private, s-maxage=10", Nobody, ResponsePrivate)
	f(d, "", 200, `Cache-Control: private="x-a", max-age=10`, Everyone, Stored)
	f(d, "Cache-Control: no-store", 200, "Cache-Control: max-age=10", Nobody, RequestNoStore) // 5.2.1.5
	f(d, "Cache-Control: no-cache", 200, "Cache-Control: max-age=10", Everyone, Stored)
	f(d, "", 103, "Cache-Control: max-age=10", Nobody, PartialStatus)
	f(d, "", 206, "Cache-Control: max-age=10", Nobody, PartialStatus)
	f(d, "", 304, "Cache-Control: max-age=10", Nobody, PartialStatus)
	f(Rules{TTL: second, Statuses: []int{206}}, "", 206, "", Nobody, PartialStatus)
	// Explicit freshness stands whatever the status and type; without it the route decides.
	f(d, "", 500, "Cache-Control: max-age=10", Everyone, Stored)
	f(d, "", 599, "Cache-Control: max-age=10", Everyone, Stored)
	f(d, "", 404, "", Nobody, StatusNotListed)
	f(d, "", 404, "Cache-Control: public", Nobody, StatusNotListed)
	f(Rules{TTL: second, Statuses: []int{200, 404}}, "", 404, "", Everyone, Stored)
	f(Rules{TTL: second}, "", 404, "", Everyone, Stored)
	f(Rules{TTL: second}, "", 500, "", Nobody, StatusNotListed)
	f(Rules{TTL: second}, "", 500, "Cache-Control: public", Everyone, Stored)
	json := Rules{TTL: second, ContentTypes: []string{"application/json"}}
	f(json, "", 200, "Content-Type: application/json", Everyone, Stored)
	f(json, "", 200, "Content-Type: text/html", Nobody, TypeNotListed)
	f(json, "", 200, "", Nobody, TypeNotListed)
	f(json, "", 200, "Content-Type: text/html\nCache-Control: max-age=10", Everyone, Stored)
	// RFC 9111 5.2.2.3.
	f(d, "", 200, "Cache-Control: must-understand, no-store, max-age=10", Everyone, Stored)
	f(d, "", 299, "Cache-Control: must-understand, no-store, max-age=10", Nobody, UnknownStatus)
	f(d, "", 299, "Cache-Control: must-understand, max-age=10", Nobody, UnknownStatus)
	f(d, "", 200, "Cache-Control: must-understand, no-store, private, max-age=10", Nobody, ResponsePrivate)
	// What can never be used is not stored.
	f(d, "", 200, "Cache-Control: max-age=0", Nobody, NotFresh)
	f(d, "", 200, "Cache-Control: max-age=5, must-revalidate\nAge: 10", Nobody, NotFresh)
	f(d, "", 200, "Cache-Control: max-age=5\nAge: 10", Everyone, Stored) // for max-stale
	f(d, "", 200, "Expires: 0", Nobody, NotFresh)
	f(d, "", 200, "Cache-Control: no-cache", Nobody, NotFresh)
	f(Rules{}, "", 200, "", Nobody, NotFresh)
	f(d, "", 200, "Cache-Control: max-age=0\nETag: \"a\"", Everyone, Stored)
	f(d, "", 200, "Cache-Control: no-cache\nLast-Modified: "+httpDate(0), Everyone, Stored)
	f(d, "", 200, "Cache-Control: max-age=0, stale-while-revalidate=5", Everyone, Stored)
	// RFC 9111 4.1.
	f(d, "", 200, "Vary: Accept, Accept-Encoding", Everyone, Stored)
	f(d, "", 200, "Vary: *", Nobody, VaryAny)
	f(d, "", 200, "Vary: Accept\nVary: Cookie, *\nCache-Control: public, max-age=10", Nobody, VaryAny)
	f(d, "", 200, "Vary: \"x", Nobody, VaryAny)
	f(d, "", 200, "Vary: a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q", Nobody, VaryAny)
	// RFC 9111 7.3: cookies are shared only by the origin's word.
	f(d, "", 200, "Set-Cookie: a=b", Nobody, SetsCookie)
	f(d, "", 200, "Set-Cookie: a=b\nCache-Control: max-age=10", Everyone, Stored)
	f(d, "", 200, "Set-Cookie: a=b\nCache-Control: no-cache=\"set-cookie\"", Everyone, Stored)
	f(Rules{}, "", 200, "Set-Cookie: a=b\nLast-Modified: "+httpDate(-time.Hour), Nobody, SetsCookie)
	// RFC 9111 3.5.
	auth := "Authorization: Bearer x"
	f(d, auth, 200, "", Owner, Stored)
	f(d, auth, 200, "Cache-Control: max-age=10", Owner, Stored)
	f(d, auth, 200, "Cache-Control: max-age=10, proxy-revalidate", Owner, Stored)
	f(d, auth, 200, "Cache-Control: max-age=10, public", Everyone, Stored)
	f(d, auth, 200, "Cache-Control: s-maxage=10", Everyone, Stored)
	f(d, auth, 200, "Cache-Control: max-age=10, must-revalidate", Everyone, Stored)
	f(d, auth, 200, "Cache-Control: private, must-revalidate, max-age=10", Nobody, ResponsePrivate)
	f(Rules{TTL: second, Shared: true}, auth, 200, "", Everyone, Stored)
	// Kong's way.
	kong := Rules{TTL: second, Statuses: []int{200}, ContentTypes: []string{"text/plain"}, IgnoreOrigin: true}
	plain := "Content-Type: text/plain\n"
	f(kong, "", 200, plain+"Cache-Control: no-store, private\nExpires: 0", Everyone, Stored)
	f(kong, "", 404, plain+"Cache-Control: max-age=10", Nobody, StatusNotListed)
	f(kong, "", 200, "Cache-Control: max-age=10", Nobody, TypeNotListed)
	f(kong, "", 200, plain+"Set-Cookie: a=b\nCache-Control: max-age=10", Nobody, SetsCookie)
	f(kong, "", 200, plain+"Vary: *", Nobody, VaryAny)
	f(kong, auth, 200, plain+"Cache-Control: private, must-revalidate", Owner, Stored)
	f(Rules{IgnoreOrigin: true}, "", 200, "ETag: \"a\"", Nobody, NotFresh)

	req := new(Request)
	req.Identified = true // by an API key, say
	if v := response(200, "").Judge(req, &d); v.Scope != Owner {
		t.Errorf("what an identified caller was answered has scope %d", v.Scope)
	}
}

func TestReuse(t *testing.T) {
	names := []string{"revalidate", "serve", "stale", "while"}
	f := func(header string, after time.Duration, req, want string) {
		t.Helper()
		r := response(200, header)
		r.Requested = testNow
		v := r.Judge(new(Request), &Rules{TTL: 10 * second})
		if got := names[v.Freshness.Reuse(request(req), testNow+int64(after))]; got != want {
			t.Errorf("%q after %v, %q: got %s, want %s", header, after, req, got, want)
		}
	}
	const s = time.Second
	// RFC 9111 4.2: fresh while the lifetime exceeds the age.
	f("Cache-Control: max-age=10", 10*s-1, "", "serve")
	f("Cache-Control: max-age=10", 10*s, "", "revalidate")
	f("Cache-Control: max-age=10\nAge: 6", 4*s, "", "revalidate")
	f("", 9*s, "", "serve")
	f("", 11*s, "", "revalidate")
	// RFC 9111 5.2.2.4.
	f("Cache-Control: no-cache, max-age=10\nETag: \"a\"", 0, "", "revalidate")
	f("Cache-Control: no-cache=\"x-a\", max-age=10", 0, "", "serve")
	f("Cache-Control: no-cache, max-age=10\nETag: \"a\"", 0, "Cache-Control: max-stale", "revalidate")
	// RFC 9111 5.2.1.4 and 5.4.
	f("Cache-Control: max-age=10", s, "Cache-Control: no-cache", "revalidate")
	f("Cache-Control: max-age=10", s, "Pragma: no-cache", "revalidate")
	f("Cache-Control: max-age=10", s, "Pragma: x, No-Cache", "revalidate")
	f("Cache-Control: max-age=10", s, "Pragma: no-cache\nCache-Control: max-stale", "serve")
	f("Cache-Control: max-age=10", s, "Pragma: nothing", "serve")
	f("Cache-Control: max-age=10", s, "Cache-Control: no-store", "serve")
	// RFC 9111 5.2.1.1.
	f("Cache-Control: max-age=10", 5*s, "Cache-Control: max-age=5", "serve")
	f("Cache-Control: max-age=10", 5*s+1, "Cache-Control: max-age=5", "revalidate")
	f("Cache-Control: max-age=10", 1, "Cache-Control: max-age=0", "revalidate")
	f("Cache-Control: max-age=10", 11*s, "Cache-Control: max-age=50", "revalidate")
	// RFC 9111 5.2.1.3.
	f("Cache-Control: max-age=10", 5*s, "Cache-Control: min-fresh=5", "serve")
	f("Cache-Control: max-age=10", 5*s+1, "Cache-Control: min-fresh=5", "revalidate")
	// RFC 9111 5.2.1.2 and 4.2.4.
	f("Cache-Control: max-age=10", 15*s, "Cache-Control: max-stale=5", "stale")
	f("Cache-Control: max-age=10", 15*s+1, "Cache-Control: max-stale=5", "revalidate")
	f("Cache-Control: max-age=10", 1000*s, "Cache-Control: max-stale", "stale")
	f("Cache-Control: max-age=10", 15*s, "Cache-Control: max-stale=5, max-age=12", "revalidate")
	f("Cache-Control: max-age=10", 15*s, "Cache-Control: max-stale=5, max-age=15", "stale")
	f("Cache-Control: max-age=10, must-revalidate", 11*s, "Cache-Control: max-stale", "revalidate")
	f("Cache-Control: max-age=10, proxy-revalidate", 11*s, "Cache-Control: max-stale", "revalidate")
	f("Cache-Control: s-maxage=10", 11*s, "Cache-Control: max-stale", "revalidate")
	// RFC 5861 3.
	f("Cache-Control: max-age=10, stale-while-revalidate=5", 9*s, "", "serve")
	f("Cache-Control: max-age=10, stale-while-revalidate=5", 10*s, "", "while")
	f("Cache-Control: max-age=10, stale-while-revalidate=5", 15*s, "", "revalidate")
	f("Cache-Control: s-maxage=10, stale-while-revalidate=5", 12*s, "", "while")
	f("Cache-Control: max-age=10, stale-while-revalidate=5, must-revalidate", 12*s, "", "revalidate")
	f("Cache-Control: max-age=10, stale-while-revalidate=5", 12*s, "Cache-Control: max-age=20", "revalidate")
	f("Cache-Control: max-age=10, stale-while-revalidate=5", 12*s, "Cache-Control: max-stale=1", "revalidate")
	f("Cache-Control: max-age=10, stale-while-revalidate=5", 12*s, "Cache-Control: max-stale=3", "while")
}

// RFC 5861 4.
func TestOnError(t *testing.T) {
	f := func(rules Rules, header string, after time.Duration, req string, want bool) {
		t.Helper()
		r := response(200, header)
		r.Requested = testNow
		v := r.Judge(new(Request), &rules)
		if got := v.Freshness.OnError(request(req), testNow+int64(after)); got != want {
			t.Errorf("%q after %v, %q: got %v", header, after, req, got)
		}
	}
	const s = time.Second
	own, set := Rules{}, Rules{StaleIfError: 60 * second}
	f(own, "Cache-Control: max-age=10, stale-if-error=5", 15*s, "", true)
	f(own, "Cache-Control: max-age=10, stale-if-error=5", 15*s+1, "", false)
	f(own, "Cache-Control: max-age=10", 11*s, "", false)
	f(own, "Cache-Control: max-age=10", 15*s, "Cache-Control: stale-if-error=5", true)
	f(own, "Cache-Control: s-maxage=10", 15*s, "Cache-Control: stale-if-error=5", false)
	f(set, "Cache-Control: max-age=10", 60*s, "", true)
	f(set, "Cache-Control: max-age=10, stale-if-error=5", 60*s, "", false)
	f(set, "Cache-Control: max-age=10, must-revalidate", 11*s, "", false)
	f(set, "Cache-Control: s-maxage=10", 11*s, "", false)
	f(own, "Cache-Control: s-maxage=10, stale-if-error=5", 11*s, "", true)
}

func TestTypeMatches(t *testing.T) {
	f := func(want, got string, match bool) {
		t.Helper()
		if typeMatches(want, []byte(got)) != match {
			t.Errorf("%q, %q: not %v", want, got, match)
		}
	}
	f("text/html", "text/html", true)
	f("text/html", "Text/HTML ; charset=utf-8", true)
	f("text/html", "text/html5", false)
	f("text/html", "text/htm", false)
	f("text/*", "text/plain; x=y", true)
	f("text/*", "textual/plain", false)
	f("text/*", "tex", false)
	f("*/*", "a/b", true)
	f("*/*", "", false)
	f("text/html; charset=utf-8", "text/html;charset=UTF-8", true)
	f("text/html;charset=utf-8", "text/html; charset=utf-8", true)
	f("text/html; charset=utf-8", "text/html", false)
	f("text/html; charset=utf-8", "text/html; charset=utf-16", false)
}

// RFC 9111 4.4.
func TestInvalidates(t *testing.T) {
	f := func(method string, status int, want bool) {
		t.Helper()
		if Invalidates([]byte(method), status) != want {
			t.Errorf("%s %d: not %v", method, status, want)
		}
	}
	f("POST", 201, true)
	f("PURGE", 302, true)
	f("DELETE", 404, false)
	f("PUT", 500, false)
	f("GET", 200, false)
	f("OPTIONS", 200, false)
}

func TestHopeless(t *testing.T) {
	f := func(fresh Freshness, validator bool, after int64, want bool) {
		t.Helper()
		if fresh.hopeless(validator, after) != want {
			t.Errorf("%+v after %d: not %v", fresh, after, want)
		}
	}
	f(Freshness{Lifetime: 10, NoStale: true}, false, 9, false)
	f(Freshness{Lifetime: 10, NoStale: true}, false, 11, true)
	f(Freshness{Lifetime: 10, NoStale: true}, true, 11, false)
	f(Freshness{Lifetime: 10, NoStale: true, StaleIfError: 5}, false, 12, false)
	f(Freshness{Lifetime: 10}, false, 11, false) // max-stale may want it
}
