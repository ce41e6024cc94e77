package router

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestCanonicalSuccess(t *testing.T) {
	f := func(raw, want string) {
		t.Helper()
		// Every alignment of the eight-byte reads.
		for pad := range 17 {
			lead := "/" + strings.Repeat("p", pad+1) + strings.Repeat("/q", pad%3)
			got, err := Canonical(nil, []byte(lead+raw))
			if err != nil || string(got) != lead+want {
				t.Errorf("Canonical(%q) = %q, %v; want %q", lead+raw, got, err, lead+want)
			}
		}
		got, err := Canonical(make([]byte, 3, 4), []byte(raw))
		if err != nil || string(got) != want {
			t.Errorf("Canonical(%q) = %q, %v; want %q", raw, got, err, want)
		}
		inPlace := []byte(raw)
		if got, err := Canonical(inPlace[:0], inPlace); err != nil || string(got) != want {
			t.Errorf("Canonical(%q) in place = %q, %v; want %q", raw, got, err, want)
		}
	}
	f("/", "/")
	f("/a/b", "/a/b")
	f("/a/b/", "/a/b/")
	f("//a///b//", "/a/b/")
	f("/./a/./b/.", "/a/b/")
	f("/a/../b", "/b")
	f("/a/b/..", "/a/")
	f("/a/b/../", "/a/")
	f("/a/b/../..", "/")
	f("/a//../b", "/b")
	f("/a/%2e%2E/b", "/b")
	f("/a/.%2e/b", "/b")
	f("/a/%2e/b", "/a/b")
	f("/%61%7e%7E", "/a~~")
	f("/%252e%252e/a", "/%2e%2e/a")
	f("/%25", "/%")
	f("/a%3Fb%23c%20d", "/a?b#c d")
	f("/a b\"<>^`{|}", "/a b\"<>^`{|}")
	f("/caf%c3%a9\xc3\xa9", "/caféé")
	f("/.well-known/x", "/.well-known/x")
	f("/...", "/...")
	f("/..a/.b/a..", "/..a/.b/a..")
	f("/a;v=1/b;x", "/a;v=1/b;x")
	f("/a..;/b", "/a..;/b")
	f("/...;/b", "/...;/b")
	f("/+%2B", "/++")
}

func TestCanonicalFailure(t *testing.T) {
	f := func(raw string, want error) {
		t.Helper()
		for pad := range 17 {
			text := raw
			if strings.HasPrefix(raw, "/") && want != ErrPathAboveRoot {
				text = "/" + strings.Repeat("p", pad+1) + raw
			}
			got, err := Canonical(nil, []byte(text))
			if !errors.Is(err, want) || got != nil {
				t.Errorf("Canonical(%q) = %q, %v; want %v", text, got, err, want)
			}
		}
	}
	f("", ErrPathNotRooted)
	f("*", ErrPathNotRooted)
	f("a/b", ErrPathNotRooted)
	f("/a%2fb", ErrPathEncodedSlash)
	f("/a%2Fb", ErrPathEncodedSlash)
	f("/a%5cb", ErrPathBackslash)
	f("/a%5Cb", ErrPathBackslash)
	f(`/a\b`, ErrPathBackslash)
	f("/a%00", ErrPathControl)
	f("/a\x00", ErrPathControl)
	f("/a%0d%0ab", ErrPathControl)
	f("/a\nb", ErrPathControl)
	f("/a\x7f", ErrPathControl)
	f("/a%7f", ErrPathControl)
	f("/a%", ErrPathEscape)
	f("/a%2", ErrPathEscape)
	f("/a%2/", ErrPathEscape)
	f("/a%zz", ErrPathEscape)
	f("/a%u002e", ErrPathEscape)
	f("/a#b", ErrPathFragment)
	f("/a?b", ErrPathQuery)
	f("/..;/a", ErrPathDotParameter)
	f("/a/..;x=1/b", ErrPathDotParameter)
	f("/a/.;/b", ErrPathDotParameter)
	f("/a/.;", ErrPathDotParameter)
	f("/a/%2e.%3b/b", ErrPathDotParameter)
	f("/..", ErrPathAboveRoot)
	f("/../x", ErrPathAboveRoot)
	f("//../x", ErrPathAboveRoot)
	f("/./../x", ErrPathAboveRoot)
	f("/a/../../x", ErrPathAboveRoot)
	f("/%2e%2e/x", ErrPathAboveRoot)
}

func TestCanonicalKeepsWhatIsCanonical(t *testing.T) {
	for _, s := range []string{"/", "/api/v1/users/1234567", "/.well-known/acme", "/with space/and-more.html/"} {
		raw := []byte(s)
		got, err := Canonical(nil, raw)
		if err != nil || &got[0] != &raw[0] || len(got) != len(raw) {
			t.Errorf("%q was copied", s)
		}
	}
}

func TestAppendEncoded(t *testing.T) {
	f := func(path, want string) {
		t.Helper()
		if got := AppendEncoded([]byte("GET "), []byte(path)); string(got) != "GET "+want {
			t.Errorf("AppendEncoded(%q) = %q, want %q", path, got, want)
		}
	}
	f("/", "/")
	f("/a-b._~!$&'()*+,;=:@/", "/a-b._~!$&'()*+,;=:@/")
	f("/%2e", "/%252e")
	f("/é ?#[]", "/%C3%A9%20%3F%23%5B%5D")
}

// checkCanonical holds what everything behind the gateway relies on.
func checkCanonical(t *testing.T, raw []byte) {
	t.Helper()
	path, err := Canonical(nil, raw)
	if again, err2 := Canonical(make([]byte, 0, len(raw)), raw); !bytes.Equal(path, again) || !errors.Is(err2, err) {
		t.Fatalf("Canonical(%q) is %q %v, then %q %v", raw, path, err, again, err2)
	}
	if err != nil {
		return
	}
	want, ok := naiveCanonical(string(raw))
	if !ok || want != string(path) {
		t.Fatalf("Canonical(%q) = %q, want %q %v", raw, path, want, ok)
	}
	for _, bad := range []string{"//", "/../", "/./", "/..;", "/.;", "\\", "\x00"} {
		if bytes.Contains(path, []byte(bad)) {
			t.Fatalf("Canonical(%q) = %q has %q", raw, path, bad)
		}
	}
	if path[0] != '/' || bytes.HasSuffix(path, []byte("/..")) || bytes.HasSuffix(path, []byte("/.")) || len(path) > len(raw) {
		t.Fatalf("Canonical(%q) = %q", raw, path)
	}
	encoded := AppendEncoded(nil, path)
	if back, err := Canonical(nil, encoded); err != nil || !bytes.Equal(back, path) {
		t.Fatalf("%q is sent as %q, which is %q %v", path, encoded, back, err)
	}
}

func naiveCanonical(raw string) (string, bool) {
	var stack []string
	segs := strings.Split(raw, "/")
	for i, s := range segs[1:] {
		var d []byte
		for k := 0; k < len(s); k++ {
			c := s[k]
			if c == '%' {
				if k+2 >= len(s) {
					return "", false
				}
				c = unhex[s[k+1]]<<4 | unhex[s[k+2]]
				k += 2
			}
			d = append(d, c)
		}
		last := i == len(segs)-2
		switch s = string(d); {
		case s == "..":
			if len(stack) == 0 {
				return "", false
			}
			stack = stack[:len(stack)-1]
		case s != "" && s != ".":
			stack = append(stack, s)
			if last {
				return "/" + strings.Join(stack, "/"), true
			}
		}
	}
	if len(stack) == 0 {
		return "/", true
	}
	return "/" + strings.Join(stack, "/") + "/", true
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{"/", "/a/../b//c/./d", "/%2e%2e/..;/%252f", "/caf%c3%a9/%25/;x/a\\b\x00", "/0123456/.89abcde/%%2"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) { checkCanonical(t, raw) })
}

// All short strings over the bytes that matter.
func TestCanonicalExhaustively(t *testing.T) {
	alphabet := []string{"/", ".", "a", ";", "%2e", "%", "\\"}
	var grow func(s string, n int)
	grow = func(s string, n int) {
		checkCanonical(t, []byte(s))
		checkCanonical(t, []byte("/1234567"+s))
		if n > 0 {
			for _, c := range alphabet {
				grow(s+c, n-1)
			}
		}
	}
	grow("/", 5)
}

func TestNormalizeHost(t *testing.T) {
	f := func(host, want string) {
		t.Helper()
		if got := NormalizeHost(nil, []byte(host)); string(got) != want {
			t.Errorf("NormalizeHost(%q) = %q, want %q", host, got, want)
		}
	}
	f("", "")
	f("example.com", "example.com")
	f("EXAMPLE.com:8080", "example.com")
	f("example.com:", "example.com")
	f("example.com.:443", "example.com")
	f("Example.COM.", "example.com")
	f("[::1]:80", "::1")
	f("[FE80::A]", "fe80::a")
	f("::1", "::1")
	f("[::1", "[::1")
	f("a:b", "a:b")
	f("[::1]x", "[::1]x")
	f(".", ".")
	raw := []byte("UP.example:80")
	if got := NormalizeHost(raw[:0], raw); string(got) != "up.example" {
		t.Errorf("in place: %q", got)
	}
}

func TestPathAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	buf, enc := make([]byte, 0, 128), make([]byte, 0, 128)
	for _, s := range []string{"/api/v1/users/7", "/a//b/../%63/caf%C3%A9", "/..;/", "/%zz"} {
		raw, host := []byte(s), []byte("API.Example.com:80")
		n := countMallocs(func() {
			path, _ := Canonical(buf, raw)
			enc = AppendEncoded(enc[:0], path)
			NormalizeHost(buf, host)
		})
		if n > 5 { // the runtime's own
			t.Errorf("%q: %d allocations in 10,000", s, n)
		}
	}
}
