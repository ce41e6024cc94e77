package cache

// Directives is a set of Cache-Control directives.
type Directives uint32

// The directives of RFC 9111 5.2, RFC 5861 and RFC 8246. NoCache and Private are the unqualified forms; the forms with
// field names are NoCacheFields and PrivateFields.
const (
	NoCache Directives = 1 << iota
	NoCacheFields
	NoStore
	NoTransform
	Private
	PrivateFields
	Public
	MustRevalidate
	ProxyRevalidate
	MustUnderstand
	Immutable
	OnlyIfCached
	MaxAge
	SMaxAge
	MaxStale
	MinFresh
	StaleWhileRevalidate
	StaleIfError
)

// MaxSeconds is what a larger number of seconds is read as (RFC 9111 1.2.2).
const MaxSeconds = 1 << 31

// maxQualified bounds how many no-cache="…" and private="…" are kept; more count as the unqualified form.
const maxQualified = 4

// Control is a parsed Cache-Control field of a request or a response. Its zero value is an absent field. It borrows the
// parsed bytes for the field names of NoCacheFields and PrivateFields.
type Control struct {
	// Present is the set of directives that were there.
	Present Directives

	// Seconds of the directives that carry them, 0 to MaxSeconds; meaningful where Present has the directive.
	MaxAge, SMaxAge, MaxStale, MinFresh int64
	StaleWhileRevalidate, StaleIfError  int64

	fields    [maxQualified][]byte
	qualified int
}

// ParseControl reads the lines of one Cache-Control field as a single list. Of a repeated directive the strictest
// value wins. Seconds that are not a number make a response stale, as RFC 9111 4.2.1 encourages: they read as 0, except
// min-fresh, which is then ignored. A max-stale without a value accepts any staleness (RFC 9111 5.2.1.2).
func ParseControl(values ...[]byte) Control {
	var c Control
	for _, v := range values {
		c.Add(v)
	}
	return c
}

// Has tells whether any of the directives is present.
func (c *Control) Has(d Directives) bool { return c.Present&d != 0 }

// Excludes tells whether no-cache="…" or private="…" names the field: it must not be stored by a shared cache
// (RFC 9111 5.2.2.7) or not be reused without validation (5.2.2.4), so it is left out of what is stored.
func (c *Control) Excludes(name []byte) bool {
	return c.qualified > 0 && listed(c.fields[:c.qualified], name)
}

// Add reads one more line of the field.
func (c *Control) Add(line []byte) {
	quotes := true
	for len(line) > 0 {
		var member []byte
		member, line, quotes = element(line, quotes)
		c.directive(member, quotes)
	}
}

// directive reads one member. sound is false after a quote that was never closed: then what restricts still counts and
// what permits does not.
func (c *Control) directive(member []byte, sound bool) {
	name, arg, has := member, []byte(nil), false
	for i, b := range member {
		if b == '=' {
			name, arg, has = trim(member[:i]), member[i+1:], true
			sound = sound && len(name) == i
			break
		}
	}
	if len(arg) >= 2 && arg[0] == '"' && arg[len(arg)-1] == '"' {
		arg = arg[1 : len(arg)-1] // either form is accepted for every argument (RFC 9111 5.2)
	}
	switch len(name) {
	case 6:
		if is(name, "public") && sound && !has {
			c.Present |= Public
		}
	case 7:
		switch {
		case is(name, "max-age"):
			c.least(MaxAge, &c.MaxAge, arg, sound)
		case is(name, "private"):
			c.qualify(Private, PrivateFields, arg, has)
		}
	case 8:
		switch {
		case is(name, "s-maxage"):
			c.least(SMaxAge, &c.SMaxAge, arg, sound)
		case is(name, "no-store"):
			c.Present |= NoStore
		case is(name, "no-cache"):
			c.qualify(NoCache, NoCacheFields, arg, has)
		}
	case 9:
		switch {
		case is(name, "max-stale"):
			if has || !sound {
				c.least(MaxStale, &c.MaxStale, arg, sound)
			} else if !c.Has(MaxStale) {
				c.Present |= MaxStale
				c.MaxStale = MaxSeconds
			}
		case is(name, "min-fresh"):
			if n, ok := seconds(arg); ok && sound {
				c.Present |= MinFresh
				c.MinFresh = max(c.MinFresh, n)
			}
		case is(name, "immutable"):
			if sound && !has {
				c.Present |= Immutable
			}
		}
	case 12:
		if is(name, "no-transform") {
			c.Present |= NoTransform
		}
	case 14:
		switch {
		case is(name, "only-if-cached"):
			c.Present |= OnlyIfCached
		case is(name, "stale-if-error"):
			c.least(StaleIfError, &c.StaleIfError, arg, sound)
		}
	case 15:
		switch {
		case is(name, "must-revalidate"):
			c.Present |= MustRevalidate
		case is(name, "must-understand"):
			if sound && !has {
				c.Present |= MustUnderstand
			}
		}
	case 16:
		if is(name, "proxy-revalidate") {
			c.Present |= ProxyRevalidate
		}
	case 22:
		if is(name, "stale-while-revalidate") {
			c.least(StaleWhileRevalidate, &c.StaleWhileRevalidate, arg, sound)
		}
	}
}

// least keeps the smallest of the values of a directive; an invalid one is the smallest of all.
func (c *Control) least(d Directives, to *int64, arg []byte, sound bool) {
	n, ok := seconds(arg)
	if !ok || !sound {
		n = 0
	}
	if c.Has(d) {
		n = min(n, *to)
	}
	c.Present |= d
	*to = n
}

// qualify keeps the field names of a qualified directive. Names it can not keep or trust make it unqualified, which is
// always the stricter reading.
func (c *Control) qualify(whole, some Directives, arg []byte, has bool) {
	names, quotes := 0, true
	for rest := arg; len(rest) > 0; {
		var name []byte
		name, rest, quotes = element(rest, quotes)
		switch {
		case len(name) == 0:
		case isToken(name):
			names++
		default:
			names, has, rest = 0, false, nil
		}
	}
	if !has || names == 0 || c.qualified == maxQualified {
		c.Present |= whole
		return
	}
	c.Present |= some
	c.fields[c.qualified] = arg
	c.qualified++
}

// seconds reads delta-seconds (RFC 9111 1.2.2).
func seconds(b []byte) (int64, bool) {
	if len(b) == 0 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n = n*10 + int64(c-'0'); n > MaxSeconds {
			n = MaxSeconds
		}
	}
	return n, true
}
