package requesttransform

import (
	"net/url"
	"slices"
	"testing"

	"sluice/gateway/exchange"
)

// Each edit of a raw query means what it would mean to the decoded one, and leaves all other parameters alone.
func FuzzQuery(f *testing.F) {
	for _, q := range []string{"", "a=1", "a=1&b=2&a=3", "%61=x&b", "a&b=&=c&&", "a+b=1&a%20b=2", "b=%zz&a=%"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		before, err := url.ParseQuery(raw)
		if err != nil {
			return // what is not decoded the same way everywhere is only passed on
		}
		check := func(what string, got []byte, want url.Values) {
			after, err := url.ParseQuery(string(got))
			if err != nil || !sameValues(after, want) {
				t.Errorf("%s of %q: %q, which is %v, want %v (%v)", what, raw, got, after, want, err)
			}
		}
		if hasParameter([]byte(raw), "a") != before.Has("a") {
			t.Errorf("%q has a: %v", raw, !before.Has("a"))
		}
		without := clone(before)
		without.Del("a")
		check("without a", exchange.QueryWithout(nil, []byte(raw), "a"), without)
		if !before.Has("a") {
			return
		}
		renamed := clone(without)
		renamed["b c"] = before["a"]
		check("a to b c", appendRenamed(nil, []byte(raw), &rename{"a", "b c"}), renamed)
		replaced := clone(without)
		replaced["a"] = []string{"x", "y"}
		check("a=x&a=y", appendReplaced(nil, []byte(raw), "a", []byte("a=x&a=y")), replaced)
	})
}

func clone(v url.Values) url.Values {
	c := url.Values{}
	for name, values := range v {
		c[name] = slices.Clone(values)
	}
	return c
}

// sameValues compares without the empty name, which is no parameter here.
func sameValues(a, b url.Values) bool {
	a.Del("")
	b.Del("")
	if len(a) != len(b) {
		return false
	}
	for name := range a {
		if !slices.Equal(a[name], b[name]) {
			return false
		}
	}
	return true
}
