package cache

import (
	"fmt"
	"strings"
	"testing"
)

var directiveNames = []struct {
	d    Directives
	name string
}{
	{NoCache, "no-cache"}, {NoCacheFields, "no-cache="}, {NoStore, "no-store"}, {NoTransform, "no-transform"}, {Private, "private"},
	{PrivateFields, "private="}, {Public, "public"}, {MustRevalidate, "must-revalidate"}, {ProxyRevalidate, "proxy-revalidate"},
	{MustUnderstand, "must-understand"}, {Immutable, "immutable"}, {OnlyIfCached, "only-if-cached"}, {MaxAge, "max-age"},
	{SMaxAge, "s-maxage"}, {MaxStale, "max-stale"}, {MinFresh, "min-fresh"}, {StaleWhileRevalidate, "swr"}, {StaleIfError, "sie"},
}

func show(c *Control) string {
	var out []string
	for _, n := range directiveNames {
		if !c.Has(n.d) {
			continue
		}
		s := n.name
		switch n.d {
		case MaxAge:
			s += fmt.Sprintf("=%d", c.MaxAge)
		case SMaxAge:
			s += fmt.Sprintf("=%d", c.SMaxAge)
		case MaxStale:
			s += fmt.Sprintf("=%d", c.MaxStale)
		case MinFresh:
			s += fmt.Sprintf("=%d", c.MinFresh)
		case StaleWhileRevalidate:
			s += fmt.Sprintf("=%d", c.StaleWhileRevalidate)
		case StaleIfError:
			s += fmt.Sprintf("=%d", c.StaleIfError)
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func parse(field string) Control {
	var values [][]byte
	for _, v := range strings.Split(field, "\n") {
		values = append(values, []byte(v))
	}
	return ParseControl(values...)
}

// Lines of a field are separated by "\n".
func TestParseControl(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		c := parse(in)
		if got := show(&c); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	// RFC 9111 5.2: the list, case, spaces, unknown directives.
	f("", "")
	f(" , ,\t,", "")
	f("max-age=10", "max-age=10")
	f("MAX-Age=10 ,\tPublic", "public max-age=10")
	f("public\nmax-age=10\n\ns-maxage=5", "public max-age=10 s-maxage=5")
	f("no-transform, immutable, must-understand, proxy-revalidate, only-if-cached", "no-transform proxy-revalidate must-understand immutable only-if-cached")
	f("community=\"UCI\", x, max-age=3", "max-age=3")
	f("no-storex, xno-store, no_store", "")
	// RFC 9111 5.2: either form of an argument.
	f(`max-age="10"`, "max-age=10")
	f(`private=set-cookie, no-cache="a, b"`, "no-cache= private=")
	// RFC 9110 5.6.4: quoted strings hide commas and directives.
	f(`x="a, no-store", max-age=5`, "max-age=5")
	f(`x="a\", no-store", max-age=5`, "max-age=5")
	// A quote that is never closed hides nothing that restricts and gives nothing that permits.
	f(`x="a, no-store, public, max-age=5, must-revalidate`, "no-store must-revalidate max-age=0")
	f(`private="set-cookie, x`, "private")
	// RFC 9111 1.2.2: large numbers.
	f("max-age=2147483648", "max-age=2147483648")
	f("max-age=2147483649", "max-age=2147483648")
	f("s-maxage=99999999999999999999999999999999", "s-maxage=2147483648")
	// RFC 9111 4.2.1: invalid freshness is stale.
	f("max-age", "max-age=0")
	f("max-age=", "max-age=0")
	f("max-age=-1", "max-age=0")
	f("max-age=1.5", "max-age=0")
	f("max-age=ten", "max-age=0")
	f("max-age= 10", "max-age=0")
	f("max-age =10", "max-age=0")
	f("s-maxage=0x10, stale-while-revalidate=x, stale-if-error", "s-maxage=0 swr=0 sie=0")
	// The strictest of repeated ones.
	f("max-age=10, max-age=5", "max-age=5")
	f("max-age=5\nmax-age=10", "max-age=5")
	f("max-age=5, max-age=x", "max-age=0")
	f("min-fresh=5, min-fresh=10, min-fresh=7", "min-fresh=10")
	f("stale-if-error=5, stale-if-error=10", "sie=5")
	// RFC 9111 5.2.1.2: max-stale with and without a value.
	f("max-stale", "max-stale=2147483648")
	f("max-stale=10", "max-stale=10")
	f("max-stale, max-stale=10", "max-stale=10")
	f("max-stale=10, max-stale", "max-stale=10")
	f("max-stale=x", "max-stale=0")
	// RFC 9111 5.2.1.3: what is no number asks for nothing.
	f("min-fresh=x", "")
	// Arguments where none belong: restrictions hold, permissions do not.
	f("no-store=1, must-revalidate=x, public=1, immutable=1", "no-store must-revalidate")
	// RFC 9111 5.2.2.4, 5.2.2.7: the qualified forms, and what is not one.
	f(`no-cache=""`, "no-cache")
	f(`no-cache=`, "no-cache")
	f(`no-cache="a b"`, "no-cache")
	f(`private="a", private`, "private private=")
	f(`private="a", private="b", private="c", private="d", private="e"`, "private private=")
}

func TestControlExcludes(t *testing.T) {
	f := func(in, name string, want bool) {
		t.Helper()
		c := parse(in)
		if got := c.Excludes([]byte(name)); got != want {
			t.Errorf("%q excludes %s: got %v, want %v", in, name, got, want)
		}
	}
	f(`private="Set-Cookie"`, "set-cookie", true)
	f(`no-cache="X-A, Set-Cookie"`, "SET-COOKIE", true)
	f("no-cache=\"x\"\nprivate=\"y\"", "Y", true)
	f("no-cache=x-a", "X-A", true)
	f(`private="Set-Cookie"`, "Set-Cookie2", false)
	f(`private`, "Set-Cookie", false)
}

func FuzzControl(f *testing.F) {
	for _, s := range []string{"max-age=10, public", `x="a, no-store`, `private="a,b", no-cache=c`, "max-stale", `",\",\",`, "max-age=99999999999999999999"} {
		f.Add(s, "no-store")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		joined := ParseControl([]byte(a), []byte(b))
		for _, n := range []int64{joined.MaxAge, joined.SMaxAge, joined.MaxStale, joined.MinFresh, joined.StaleWhileRevalidate, joined.StaleIfError} {
			if n < 0 || n > MaxSeconds {
				t.Fatalf("%q, %q: %d seconds", a, b, n)
			}
		}
		// Another line never takes a restriction away, nor makes one laxer.
		alone := ParseControl([]byte(a))
		if alone.Present&^joined.Present != 0 {
			t.Fatalf("%q, then %q: lost %b", a, b, alone.Present&^joined.Present)
		}
		if alone.Has(MaxAge) && joined.MaxAge > alone.MaxAge || alone.Has(SMaxAge) && joined.SMaxAge > alone.SMaxAge {
			t.Fatalf("%q, then %q: fresh for longer", a, b)
		}
		// Whatever else a line holds, no-store of its own is seen, unless it is inside a string that is closed.
		if c := ParseControl([]byte("no-store," + a)); !c.Has(NoStore) {
			t.Fatalf("no-store before %q is lost", a)
		}
		if !strings.Contains(a, `"`) {
			if c := ParseControl([]byte(a + ",no-store")); !c.Has(NoStore) {
				t.Fatalf("no-store after %q is lost", a)
			}
		}
		joined.Excludes([]byte(b))
	})
}
