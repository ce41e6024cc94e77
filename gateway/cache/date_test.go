package cache

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

var testNow = time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC).UnixNano()

// RFC 9110 5.6.7 and RFC 9111 4.2.
func TestParseDateSuccess(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		sec, ok := ParseDate([]byte(in), testNow)
		if !ok {
			t.Errorf("%q: not read", in)
		} else if got := time.Unix(sec, 0).UTC().Format(time.DateTime); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
	f("Sun, 06 Nov 1994 08:49:37 GMT", "1994-11-06 08:49:37")
	f("Sunday, 06-Nov-94 08:49:37 GMT", "1994-11-06 08:49:37")
	f("Sun Nov  6 08:49:37 1994", "1994-11-06 08:49:37")
	f("Wed Nov 16 08:49:37 1994", "1994-11-16 08:49:37")
	f("sun, 06 nOV 1994 08:49:37 gmt", "1994-11-06 08:49:37") // case does not matter to a cache
	f("Thu, 29 Feb 2024 23:59:59 GMT", "2024-02-29 23:59:59")
	f("Sat, 31 Dec 2016 23:59:60 GMT", "2017-01-01 00:00:00") // leap second
	f("Thu, 01 Jan 1970 00:00:00 GMT", "1970-01-01 00:00:00")
	f("Fri, 31 Dec 9999 23:59:59 GMT", "9999-12-31 23:59:59")
	f("Sat, 01 Jan 0000 00:00:00 GMT", "0000-01-01 00:00:00")
	// A two-digit year is never more than 50 years ahead.
	f("Monday, 15-Jun-76 12:00:00 GMT", "2076-06-15 12:00:00")
	f("Monday, 15-Jun-76 12:00:01 GMT", "1976-06-15 12:00:01")
	f("Monday, 01-Jan-99 00:00:00 GMT", "1999-01-01 00:00:00")
	f("Tuesday, 29-Feb-00 00:00:00 GMT", "2000-02-29 00:00:00")
}

func TestParseDateFailure(t *testing.T) {
	f := func(in string) {
		t.Helper()
		if sec, ok := ParseDate([]byte(in), testNow); ok {
			t.Errorf("%q: read as %d", in, sec)
		}
	}
	for _, s := range []string{
		"", "0", "-1", "now", "1994-11-06T08:49:37Z",
		"Sun, 06 Nov 1994 08:49:37 UTC", "Sun, 06 Nov 1994 08:49:37 EST", "Sun, 06 Nov 1994 08:49:37 +0000", "Sun, 06 Nov 1994 08:49:37",
		"Sun, 6 Nov 1994 08:49:37 GMT", "Sun,  6 Nov 1994 08:49:37 GMT", "Xun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nox 1994 08:49:37 GMT",
		"Sun, 31 Nov 1994 08:49:37 GMT", "Sun, 29 Feb 2023 08:49:37 GMT", "Sun, 00 Nov 1994 08:49:37 GMT",
		"Sun, 06 Nov 1994 24:00:00 GMT", "Sun, 06 Nov 1994 08:60:37 GMT", "Sun, 06 Nov 1994 08:49:61 GMT", "Sun, 06 Nov 1994 8:49:37 GMT ",
		"Sun, 06 Nov 1994 08.49.37 GMT", "Sun, 06-Nov-1994 08:49:37 GMT", "Sunday, 06-Nov-1994 08:49:37 GMT", "Sonntag, 06-Nov-94 08:49:37 GMT",
		"Sunday, 31-Nov-94 08:49:37 GMT", "Sun Nov 6 08:49:37 1994", "Sun Nov 06 08:49:37 1994 GMT", "Sun Nov  0 08:49:37 1994", "Sun Nov", "Sun,",
	} {
		f(s)
		f(s + " ")
	}
}

func TestAppendDate(t *testing.T) {
	for _, year := range []int{0, 1, 1899, 1900, 1969, 1970, 1999, 2000, 2024, 2026, 2100, 9999} {
		for d := range 366 {
			at := time.Date(year, 1, 1+d, d%24, d%60, (d*7)%60, 0, time.UTC)
			if at.Year() != year {
				continue
			}
			if got, want := string(AppendDate(nil, at.Unix())), at.Format(http.TimeFormat); got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		}
	}
}

func FuzzDate(f *testing.F) {
	for _, s := range []string{"Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "0", "Sat, 31 Dec 2016 23:59:60 GMT"} {
		f.Add(s, int64(784111777))
	}
	f.Fuzz(func(t *testing.T, s string, unix int64) {
		// What is read, net/http reads as the same time; it does not know leap seconds or other cases of letters, takes
		// the century from a table, and puts up with more than the grammar.
		if sec, ok := ParseDate([]byte(s), testNow); ok && !strings.Contains(s, ":60") {
			want, err := http.ParseTime(s)
			if err != nil {
				if want, err = http.ParseTime(canonicalDate(s)); err != nil {
					t.Fatalf("%q: read as %d, and net/http says %v", s, sec, err)
				}
			}
			if want.Unix() != sec && (strings.IndexByte(s, ',') <= 3 || want.AddDate(-100, 0, 0).Unix() != sec && want.AddDate(100, 0, 0).Unix() != sec) {
				t.Fatalf("%q: got %d, want %d", s, sec, want.Unix())
			}
		}
		// Every time is read from each of the forms it can be written in.
		const lastSecond = 253402300799
		at := time.Unix(((unix%lastSecond)+lastSecond)%lastSecond, 0).UTC()
		for _, layout := range []string{http.TimeFormat, time.ANSIC} {
			if sec, ok := ParseDate([]byte(at.Format(layout)), testNow); !ok || sec != at.Unix() {
				t.Fatalf("%s: got %d, %v, want %d", at.Format(layout), sec, ok, at.Unix())
			}
		}
		if got := string(AppendDate(nil, at.Unix())); got != at.Format(http.TimeFormat) {
			t.Fatalf("wrote %q for %s", got, at)
		}
		now := at.UnixNano()
		if at.Year() < 2200 {
			if sec, ok := ParseDate([]byte(at.Format("Monday, 02-Jan-06 15:04:05 GMT")), now); !ok || sec != at.Unix() {
				t.Fatalf("%s: got %d, %v", at, sec, ok)
			}
		}
	})
}

func canonicalDate(s string) string {
	b := []byte(strings.ToLower(s))
	word := true
	for i, c := range b {
		letter := 'a' <= c && c <= 'z'
		if letter && word {
			b[i] -= 'a' - 'A'
		}
		word = !letter
	}
	return strings.Replace(string(b), "Gmt", "GMT", 1)
}
