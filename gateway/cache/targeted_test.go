package cache

import "testing"

// RFC 9213 2.1 and RFC 8941 3.2.
func TestParseDictionary(t *testing.T) {
	f := func(line string, ok bool, present Directives, maxAge int64) {
		t.Helper()
		c, got := parseDictionary([][]byte{[]byte(line)})
		if got != ok || c.Present != present || c.MaxAge != maxAge {
			t.Errorf("%q: %v, %b, %d", line, got, c.Present, c.MaxAge)
		}
	}
	f("max-age=60", true, MaxAge, 60)
	f("  max-age=60  ", true, MaxAge, 60)
	f("max-age=60,no-store", true, MaxAge|NoStore, 60)
	f("max-age=60\t,\tno-store;a=1; b=\"x\"", true, MaxAge|NoStore, 60)
	f("max-age=-1", true, MaxAge, 0)
	f("max-age=999999999999999", true, MaxAge, MaxSeconds)
	f("max-age=1, max-age=2", true, MaxAge, 2)
	f("no-store, no-store=?0", true, 0, 0)
	f("no-store=?1", true, NoStore, 0)
	f(`private="x-a, x-b"`, true, PrivateFields, 0)
	f("no-cache", true, NoCache, 0)
	f("private, public, immutable, must-revalidate, proxy-revalidate, must-understand, no-transform", true,
		Private|Public|Immutable|MustRevalidate|ProxyRevalidate|MustUnderstand|NoTransform, 0)
	f("s-maxage=1, stale-while-revalidate=2, stale-if-error=3", true, SMaxAge|StaleWhileRevalidate|StaleIfError, 0)
	f(`a=tok/en:*, b=1.5, c="q\"\\", d=:aGk=:, e=(1 "b";x c), f=(), g=?0, *h`, true, 0, 0)
	for _, bad := range []string{"", " ", "max-age =60", "max-age= 60", "max-age=60,", ",max-age=60", "Max-Age=60", "max-age", "max-age=?1",
		`max-age="60"`, "max-age=6o", "max-age=1000000000000000", "max-age=1.", "max-age=-", "no-store=1", "a=(1", "a=(1 2", "a=\"b", "a=\"\\x\"", "a=?2", "a=:b", "a;=1",
		"a;b=", "a b", "&", "a=\x80"} {
		f(bad, false, 0, 0)
	}
}

func FuzzParseDictionary(f *testing.F) {
	f.Add(`max-age=60;a="b", private="x", c=(1 2);d, e=:aa:`)
	f.Fuzz(func(t *testing.T, line string) {
		c, ok := parseDictionary([][]byte{[]byte(line)})
		if !ok && c.Present != 0 {
			t.Fatal("a malformed field has directives")
		}
		parseSurrogate([][]byte{[]byte(line)})
	})
}

// What differs in nothing that matters selects the same variant, and is stored as the same.
func TestPreferences(t *testing.T) {
	f := func(one, other string, same bool) {
		t.Helper()
		for _, name := range []string{"Accept-Language", "Accept-Encoding", "Accept-Charset"} {
			e := record(t, "k", selector(name+": "+one), 200, "Vary: "+name, "")
			if got := e.Selected(selector(name + ": " + other)); got != same {
				t.Errorf("%s: %q and %q: %v", name, one, other, got)
			}
		}
	}
	f("en, de", "de,EN", true)
	f("en;q=1, de;q=0.5", "de; q=0.500, en", true)
	f("en;q=0.5, de", "en, de;q=0.5", false)
	f("en;q=0.5", "en;q=0.51", false)
	f("en;q=0", "en", false)
	f("en", "en, en", false)
	f("en;500", "en;q=0.5", false)
	f("en;q=2", "en", false)
	f("en;x=y", "EN;x=y", false) // of no known syntax: as it stands
	f("en, de", "en de", false)
	long := "a"
	for range 20 {
		long += ", a"
	}
	f(long, long, true)
	f(long, "a", false)
}
