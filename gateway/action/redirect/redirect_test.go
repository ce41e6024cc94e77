package redirect

import (
	"net/url"
	"strings"
	"testing"

	"sluice/gateway/action/actiontest"
	"sluice/gateway/exchange"
)

const route = `
services: {users: {endpoints: ["http://127.0.0.1:1"]}}
routes: {users: {match: {paths: ["/users/{id}/orders/{order}"]}, service: users}}
`

func TestSettings(t *testing.T) {
	actiontest.New(t, route).Files(t, Definition)
}

// exchangeOf is a request as it is after routing: target has a decoded, canonical path and a raw query.
func exchangeOf(w *actiontest.World, scheme, host, target string) *exchange.Exchange {
	x := w.Exchange("/")
	path, query, _ := strings.Cut(target, "?")
	x.Path, x.Query, x.Scheme, x.Host = []byte(path), []byte(query), scheme, []byte(host)
	x.ParamNames = []string{"id", "order"}
	x.Params[0], x.Params[1] = []byte("4/2"), []byte("ä&b")
	return x
}

func TestLocation(t *testing.T) {
	w := actiontest.New(t, route)
	from := func(scheme, host, target, to, want string) {
		t.Helper()
		x := exchangeOf(w, scheme, host, target)
		defer x.Close()
		actiontest.Answer(w.MustBuild(t, Definition, "to: '"+to+"'"), x)
		got := string(x.Response.Header.Peek("Location"))
		if got != want || x.Response.StatusCode() != 308 {
			t.Errorf("%s of %s: %d %s, want %s", to, target, x.Response.StatusCode(), got, want)
		}
		if _, err := url.Parse(got); err != nil {
			t.Error(err)
		}
	}
	f := func(target, to, want string) {
		t.Helper()
		from("http", "api.example.com", target, to, want)
	}
	f("/a?b=c", "https://new.example.com/here", "https://new.example.com/here")
	f("/a?b=c", "/here", "/here")
	f("/a?b=c", "https://${host}${uri}", "https://api.example.com/a?b=c")
	f("/a", "https://${host}${uri}", "https://api.example.com/a")
	f("/a?b=c", "${scheme}://www.${host}:8443${path}", "http://www.api.example.com:8443/a")
	f("/a?b=c", "https://${host}/v2${path}?${query}", "https://api.example.com/v2/a?b=c")
	f("/a", "https://${host}/v2${path}?${query}", "https://api.example.com/v2/a")
	f("/a", "https://${host}/v2${path}?x=1&${query}", "https://api.example.com/v2/a?x=1")
	f("/a", "https://${host}/v2${path}?${query}#top", "https://api.example.com/v2/a?#top")
	f("/a?b=c", "/v2/${path}", "/v2/a")
	f("/a?b=c", "/v2/${uri}#top", "/v2/a?b=c#top")
	f("/a?b=c", "https://example.com${uri}", "https://example.com/a?b=c")
	f("/a?b=c", "https://example.com/${uri}", "https://example.com/a?b=c")
	f("/", "https://example.com/people/${path.id}?order=${path.order}", "https://example.com/people/4%2F2?order=%C3%A4%26b")
	f("/", "/café?q=a|b", "/caf%C3%A9?q=a%7Cb")
	f("/a b?c=d&e=%20", "https://login.example.com?next=${uri}&from=${scheme}", "https://login.example.com?next=/a%2520b%3Fc%3Dd%26e%3D%2520&from=http")
	f("/a b&c", "https://login.example.com/?next=${path}&host=${host}", "https://login.example.com/?next=/a%2520b%26c&host=api.example.com")
	f("/a", "myapp://open${path}", "myapp://open/a")
	from("https", "2001:db8::1", "/a", "http://${host}:8080${uri}", "http://[2001:db8::1]:8080/a")
	from("https", "2001:db8::1", "/a", "/x?h=${host}", "/x?h=2001%3Adb8%3A%3A1")
}

// What a client sends can neither end the header nor choose another host.
func TestHostileRequest(t *testing.T) {
	w := actiontest.New(t, route)
	f := func(host, target, to, want string) {
		t.Helper()
		x := exchangeOf(w, "http", host, target)
		defer x.Close()
		actiontest.Answer(w.MustBuild(t, Definition, "to: '"+to+"'"), x)
		if got := string(x.Response.Header.Peek("Location")); got != want {
			t.Errorf("%s of %q: %q, want %q", to, target, got, want)
		}
	}
	f("api.example.com", "/a\r\nSet-Cookie: b", "https://${host}${uri}", "https://api.example.com/a%0D%0ASet-Cookie:%20b")
	f("api.example.com", "/a?b\r\nSet-Cookie: c", "https://${host}${uri}", "https://api.example.com/a?b%0D%0ASet-Cookie:%20c")
	f("api.example.com", "/a?b\"<>\\^`{|}\xff", "/x/${uri}", "/x/a?b%22%3C%3E%5C%5E%60%7B%7C%7D%FF")
	f("api.example.com", "/evil.example", "/${path}#top", "/evil.example#top")
	f("api.example.com", "/evil.example", "/${uri}#top", "/evil.example#top")
	f("api.example.com", "/", "https://${path.id}.example.com/x", "https://4%2F2.example.com/x")
	f("a@evil.example", "/", "https://${host}${uri}", "https://a%40evil.example/")
	f("a/evil\r\nb: c", "/", "https://${host}${uri}", "https://[a%2Fevil%0D%0Ab:%20c]/")
	f("api.example.com", "/@evil.example", "https://example.com${path}", "https://example.com/@evil.example")
	f("api.example.com", "/x?&a=b#c", "https://example.com/?x=1&${query}", "https://example.com/?x=1&&a=b%23c")
}

func FuzzLocation(f *testing.F) {
	f.Add("api.example.com", "/a b", "c=d")
	f.Add("a:b@c", "//x", "\r\n")
	w := actiontest.New(f, route)
	a := w.MustBuild(f, Definition, "to: 'https://example.com/x${path}?a=${host}&b=${uri}&c=${path.id}#${query}'")
	f.Fuzz(func(t *testing.T, host, path, query string) {
		x := exchangeOf(w, "http", host, "/")
		defer x.Close()
		x.Path, x.Query, x.Params[0] = []byte("/"+path), []byte(query), []byte(path)
		actiontest.Answer(a, x)
		location := string(x.Response.Header.Peek("Location"))
		if strings.ContainsFunc(location, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"<>\\^`{|}", r) }) {
			t.Fatalf("%q", location)
		}
		if strings.Count(location, "#") != 1 {
			t.Fatalf("%q", location)
		}
		rest, ok := strings.CutPrefix(location, "https://example.com/x/")
		if !ok {
			t.Fatalf("%q", location)
		}
		rest, _, _ = strings.Cut(rest, "#")
		got, values, _ := strings.Cut(rest, "?")
		if got, err := url.PathUnescape(got); err != nil || got != path {
			t.Fatalf("path %q, want %q", got, path)
		}
		v, err := url.ParseQuery(values)
		if err != nil || v.Get("a") != host || v.Get("c") != path {
			t.Fatalf("query %q of host %q: %v", values, host, err)
		}
		if next, err := url.Parse(v.Get("b")); err == nil && next.RawQuery == "" && next.Path != "/"+path && !strings.HasPrefix(path, "/") {
			t.Fatalf("uri %q of path %q", v.Get("b"), path)
		}
	})
}

func TestStatusAndBody(t *testing.T) {
	w := actiontest.New(t, route)
	f := func(settings string, status int, body string) {
		t.Helper()
		x := exchangeOf(w, "http", "api.example.com", "/")
		defer x.Close()
		actiontest.Answer(w.MustBuild(t, Definition, settings), x)
		if x.Response.StatusCode() != status || string(x.Response.Body()) != body || x.Answer != exchange.Own {
			t.Errorf("%s: %d %q", settings, x.Response.StatusCode(), x.Response.Body())
		}
	}
	f("{to: /x}", 308, "Permanent Redirect\n")
	f("{to: /x, status: 301}", 301, "Moved Permanently\n")
	f("{to: '${path}/', status: 302}", 302, "Found\n")
	f("{to: '/x${uri}', status: 303}", 303, "See Other\n")
	f("{to: '/x${uri}', status: 307}", 307, "Temporary Redirect\n")
}

func TestRequestWithoutHost(t *testing.T) {
	w := actiontest.New(t, route)
	x := exchangeOf(w, "http", "", "/")
	defer x.Close()
	if err := w.MustBuild(t, Definition, "to: 'https://${host}${uri}'").Serve(x); err != rejectNoHost {
		t.Errorf("%v", err)
	}
	if err := w.MustBuild(t, Definition, "to: 'https://example.com${uri}'").Serve(x); err != exchange.Replied {
		t.Errorf("%v", err)
	}
}

func TestToFailure(t *testing.T) {
	w := actiontest.New(t, route)
	f := func(to, want string) {
		t.Helper()
		w.Fails(t, Definition, "to: '"+to+"'", want)
	}
	const begin = "must begin with https://"
	f("", "must not be empty")
	f("example.com/x", begin)
	f("${host}/x", begin)
	f("${path.id}", begin)
	f("?a=b", begin)
	f("javascript:alert(1)", begin)
	f("${scheme}", begin)
	f("//example.com/x", "two slashes")
	f("${scheme}${host}", "behind ${scheme} comes ://")
	f("${scheme}/x", "behind ${scheme} comes ://")
	f("https://", "no host")
	f("https:///x", "no host")
	f("https://:8443/x", "no host")
	f("https://?x", "no host")
	f("https://${path}", "no host")
	f("https://${host}${host}", "can not stand here")
	f("https://${query}", "can not stand here")
	f("https://me:secret@example.com/", "holds a user")
	f("https://${host}@example.com/", "holds a user")
	f("https://exämple.com/", "xn--")
	f("https://exa\\mple.com/", "can not stand in a host")
	f("https://example.com/a b", "spaces")
	f("https://example.com/50%", "%25")
	f("https://example.com/%zz", "%25")
	f("https://example.com/${uri}/x", "brings its own query")
	f("https://example.com/${uri}${path}", "brings its own query")
	f("https://example.com${path}${query}", "stands behind a question mark")
	f("https://example.com/${path", "no closing brace")
	f("https://example.com/${remote}", "${remote} is unknown")
	f("https://example.com/${path.name}", "${path.name} is no parameter of every path")
	f("https://${path.id}/", "whole labels")
	f("https://example.com${path.id}/", "whole labels")
	f("https://x${path.id}.example.com/", "whole labels")
	f("https://${path.id}.", "whole labels")
	f("https://${path.id}.${path.order}/", "whole labels")
	f("${uri}", "never arrive")
	f("${path}?${query}", "never arrive")
	f("${scheme}://${host}${uri}", "never arrive")
}

func TestWarnsOfALoop(t *testing.T) {
	f := func(schemes, to, want string) {
		t.Helper()
		w := actiontest.New(t, strings.Replace(route, "match: {", "match: {schemes: "+schemes+", ", 1))
		w.MustBuild(t, Definition, "to: '"+to+"'")
		if got := strings.Join(w.Warnings(), "; "); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s: warnings %q, want %q", to, got, want)
		}
	}
	f("[]", "https://${host}${uri}", "routes.users.redirect.to: a request that came by https is redirected to itself; write match.schemes: [http]")
	f("[http, https]", "https://${host}${uri}", "by https")
	f("[http]", "http://${host}${uri}", "by http ")
	f("[http]", "https://${host}${uri}", "")
	f("[https]", "http://${host}${path}?${query}", "")
	f("[]", "https://www.${host}${uri}", "")
}

func TestParamsOfEveryPath(t *testing.T) {
	w := actiontest.New(t, strings.Replace(route, `["/users/{id}/orders/{order}"]`, `["/users/{id}/x", "/u/{id}/{order}"]`, 1))
	w.MustBuild(t, Definition, "to: '/p/${path.id}'")
	w.Fails(t, Definition, "to: '/p/${path.order}'", "no parameter of every path")
}

func TestAllocations(t *testing.T) {
	w := actiontest.New(t, route)
	f := func(to string) {
		t.Helper()
		a := w.MustBuild(t, Definition, "to: '"+to+"'")
		query, host := []byte("a=b"), []byte("api.example.com")
		w.NoAllocations(t, to, func(x *exchange.Exchange) {
			x.Query, x.Host = query, host
			actiontest.Answer(a, x)
		})
	}
	f("/fixed")
	f("https://${host}${uri}")
	f("https://example.com/login?next=${uri}&id=${path.id}")
}
