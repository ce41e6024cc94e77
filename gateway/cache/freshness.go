package cache

import "math"

// Rules are a route's settings. They decide where a response has no explicit freshness; explicit freshness (s-maxage,
// max-age, Expires) follows RFC 9111 whatever the status and the type.
type Rules struct {
	// TTL is how long a response without explicit freshness is fresh, in nanoseconds from its arrival, however old it is
	// by then. 0: heuristics (RFC 9111 4.2.2), a tenth of the time since Last-Modified and at most a day.
	TTL int64

	// Statuses that may be stored without explicit freshness. Empty: those that are heuristically cacheable
	// (RFC 9110 15.1). 206 and 304 are never stored.
	Statuses []int

	// ContentTypes that may be stored without explicit freshness; empty: all. "text/html" holds whatever its parameters,
	// "text/*" holds for the family, and with parameters it must be equal, spaces aside.
	ContentTypes []string

	// IgnoreOrigin leaves Cache-Control, Expires, Age and Last-Modified of the response out of account: TTL, Statuses and
	// ContentTypes decide alone, and a TTL of 0 stores nothing. Vary, and the fields that no-cache="…" and private="…"
	// name, are still minded.
	IgnoreOrigin bool

	// Shared lets what an identified caller was answered be given to everyone.
	Shared bool

	// CDNCacheControl and SurrogateControl let the field of that name of a response take the place of its Cache-Control and
	// Expires (RFC 9213, Edge Architecture Specification), in this order where it has both.
	CDNCacheControl, SurrogateControl bool

	// StaleWhileRevalidate and StaleIfError, in nanoseconds, hold where the response does not set its own and does not
	// forbid staleness (RFC 5861).
	StaleWhileRevalidate, StaleIfError int64
}

// Scope says who may be given what is stored.
type Scope uint8

const (
	// Nobody: it must not be stored.
	Nobody Scope = iota
	// Owner: only the caller who was answered. It may be stored under a key that holds the caller's identity (the
	// consumer, or else the credential itself), and where there is no such key it must not be stored.
	Owner
	// Everyone: a shared key will do.
	Everyone
)

// Reason says why a response is not stored.
type Reason uint8

// The reasons of a Verdict whose scope is Nobody.
const (
	Stored          Reason = iota
	PartialStatus          // 1xx, 206, 304
	StatusNotListed        // not in Rules.Statuses
	TypeNotListed          // not in Rules.ContentTypes
	UnknownStatus          // must-understand on a status that the cache does not know
	RequestNoStore
	ResponseNoStore
	ResponsePrivate
	VaryAny    // Vary: *, or one that can not be followed
	SetsCookie // without explicit freshness
	NotFresh   // stale on arrival, and nothing to validate it with
)

var reasons = [...]string{"stored", "partial", "status", "content-type", "must-understand", "request-no-store", "no-store", "private", "vary", "set-cookie", "not-fresh"}

// String is a word for Cache-Status details and metrics.
func (r Reason) String() string { return reasons[r] }

// Verdict is what Judge finds.
type Verdict struct {
	Scope     Scope
	Reason    Reason
	Freshness Freshness
}

// Freshness is when a stored response may be used. Its zero value is stale.
type Freshness struct {
	// Received is when it arrived, unix nanoseconds; InitialAge how old it was then, in nanoseconds
	// (corrected_initial_age of RFC 9111 4.2.3).
	Received, InitialAge int64

	// Lifetime is the freshness lifetime (RFC 9111 4.2.1) in nanoseconds.
	Lifetime int64

	// StaleWhileRevalidate and StaleIfError are in nanoseconds after Lifetime; 0 where staleness is forbidden.
	StaleWhileRevalidate, StaleIfError int64

	// Explicit tells that the origin gave the lifetime.
	Explicit bool

	// NoCache: never used without validation. NoStale: not once stale (must-revalidate, proxy-revalidate, s-maxage).
	NoCache, NoStale bool
}

const heuristicMax = day * second

// Judge decides whether, for whom and for how long the response to req may be stored (RFC 9111 3 and 4.2). req is a GET
// or a HEAD.
//
// Set-Cookie does not forbid storing in RFC 9111 7.3, and with explicit freshness it does not here: the origin has said
// that the response may be shared. Without explicit freshness such a response is not stored, since nobody but the
// gateway's defaults would have decided to give one client's cookie to another.
func (r *Response) Judge(req *Request, rules *Rules) Verdict {
	if !rules.IgnoreOrigin {
		r.target(rules)
	}
	c := &r.Control
	v := Verdict{Freshness: r.freshness(rules)}
	f := &v.Freshness
	setsCookie := r.setCookie && !f.Explicit && !c.Excludes([]byte("set-cookie"))
	known := understood(r.Status)
	switch {
	case r.Status < 200 || r.Status > 999 || r.Status == 206 || r.Status == 304:
		v.Reason = PartialStatus
	case req.Control.Has(NoStore):
		v.Reason = RequestNoStore
	case !r.selectable():
		v.Reason = VaryAny
	case rules.IgnoreOrigin:
		v.Reason = r.listed(rules)
	case c.Has(MustUnderstand) && !known:
		v.Reason = UnknownStatus
	case c.Has(NoStore) && !c.Has(MustUnderstand): // a known status overrules it (RFC 9111 5.2.2.3)
		v.Reason = ResponseNoStore
	case c.Has(Private):
		v.Reason = ResponsePrivate
	case !f.Explicit:
		v.Reason = r.listed(rules)
	}
	switch {
	case v.Reason != Stored:
	case setsCookie:
		v.Reason = SetsCookie
	case rules.IgnoreOrigin && rules.TTL <= 0, !f.worthwhile(r.hasValidator()):
		v.Reason = NotFresh
	}
	switch {
	case v.Reason != Stored:
		v.Scope = Nobody
	case !req.Identified && !req.authorization, rules.Shared,
		!rules.IgnoreOrigin && c.Has(Public|SMaxAge|MustRevalidate): // RFC 9111 3.5
		v.Scope = Everyone
	default:
		v.Scope = Owner
	}
	return v
}

// listed applies the settings that stand in for explicit freshness.
func (r *Response) listed(rules *Rules) Reason {
	if len(rules.Statuses) == 0 {
		if !heuristic(r.Status) && (rules.IgnoreOrigin || !r.Control.Has(Public)) {
			return StatusNotListed
		}
	} else if !contains(rules.Statuses, r.Status) {
		return StatusNotListed
	}
	if len(rules.ContentTypes) == 0 {
		return Stored
	}
	for _, want := range rules.ContentTypes {
		if typeMatches(want, r.ContentType) {
			return Stored
		}
	}
	return TypeNotListed
}

func (r *Response) freshness(rules *Rules) Freshness {
	c := &r.Control
	f := Freshness{Received: r.Received}
	if rules.IgnoreOrigin {
		f.Lifetime = rules.TTL
		f.StaleWhileRevalidate, f.StaleIfError = rules.StaleWhileRevalidate, rules.StaleIfError
		return f
	}
	f.InitialAge = r.initialAge()
	f.NoCache = c.Has(NoCache)
	f.NoStale = c.Has(MustRevalidate | ProxyRevalidate | SMaxAge)

	// A shared cache: s-maxage over max-age over Expires (RFC 9111 4.2.1).
	switch {
	case c.Has(SMaxAge):
		f.Lifetime, f.Explicit = c.SMaxAge*second, true
	case c.Has(MaxAge):
		f.Lifetime, f.Explicit = c.MaxAge*second, true
	case r.hasExpires && !r.targeted:
		f.Explicit = true
		if !r.expiresInvalid {
			f.Lifetime = min(max(r.expires-r.dateOrReceived(), 0), MaxSeconds) * second
		}
	case rules.TTL > 0:
		f.Lifetime = addClamped(f.InitialAge, rules.TTL)
	case r.hasLastModified && (heuristic(r.Status) || c.Has(Public)):
		f.Lifetime = min(min(max(r.dateOrReceived()-r.lastModified, 0), MaxSeconds)*second/10, heuristicMax)
	}

	// must-revalidate, proxy-revalidate and no-cache forbid stale answers outright (RFC 9111 4.2.4). s-maxage does so by
	// implication, which the stale directives of the same origin lift; the route's settings do not.
	if f.NoCache || c.Has(MustRevalidate|ProxyRevalidate) {
		return f
	}
	implied := c.Has(SMaxAge)
	switch {
	case c.Has(StaleWhileRevalidate):
		f.StaleWhileRevalidate = c.StaleWhileRevalidate * second
	case !implied:
		f.StaleWhileRevalidate = rules.StaleWhileRevalidate
	}
	switch {
	case c.Has(StaleIfError):
		f.StaleIfError = c.StaleIfError * second
	case !implied:
		f.StaleIfError = rules.StaleIfError
	}
	return f
}

// initialAge is corrected_initial_age (RFC 9111 4.2.3). Date has whole seconds, so the apparent age has them too: else a
// response would be most of a second old when it is born.
func (r *Response) initialAge() int64 {
	apparent := min(max(floorDiv(r.Received, second)-r.dateOrReceived(), 0), MaxSeconds) * second
	return max(apparent, r.age*second+max(r.Received-r.Requested, 0))
}

// dateOrReceived is in unix seconds (RFC 9110 6.6.1).
func (r *Response) dateOrReceived() int64 {
	if r.hasDate {
		return r.date
	}
	return floorDiv(r.Received, second)
}

// worthwhile tells whether it could ever answer a request. What was fresh once, and came old, may answer one that accepts
// it stale.
func (f *Freshness) worthwhile(validator bool) bool {
	if f.NoCache {
		return validator
	}
	return validator || f.Lifetime > f.InitialAge || f.StaleWhileRevalidate > 0 || f.StaleIfError > 0 || f.Lifetime > 0 && !f.NoStale
}

// NeedsOrigin tells whether no request at all is answered without asking the origin now.
func (f *Freshness) NeedsOrigin(now int64) bool {
	over := -f.TTL(now)
	return f.NoCache || over >= 0 && over >= f.StaleWhileRevalidate
}

// Age is the current age in nanoseconds (RFC 9111 4.2.3); the Age field carries it in whole seconds.
func (f *Freshness) Age(now int64) int64 { return addClamped(f.InitialAge, max(now-f.Received, 0)) }

// TTL is how much longer it is fresh, in nanoseconds; negative by how long it has been stale.
func (f *Freshness) TTL(now int64) int64 { return f.Lifetime - f.Age(now) }

// Fresh tells whether it answers any request that is Plain.
func (f *Freshness) Fresh(now int64) bool { return !f.NoCache && f.TTL(now) > 0 }

// Reuse says what may be done with a stored response.
type Reuse uint8

const (
	// Revalidate: not without asking the origin.
	Revalidate Reuse = iota
	// Serve: it is fresh.
	Serve
	// ServeStale: the client accepts it as stale as it is (max-stale).
	ServeStale
	// ServeWhileRevalidating: it is answered at once, and one request fetches the next (RFC 5861 3).
	ServeWhileRevalidating
)

// Reuse decides whether the stored response may answer req (RFC 9111 4 and 5.2.1).
func (f *Freshness) Reuse(req *Request, now int64) Reuse {
	c := &req.Control
	age := f.Age(now)
	ttl := f.Lifetime - age
	switch {
	case f.NoCache, req.noCache(),
		c.Has(MaxAge) && age > c.MaxAge*second,
		c.Has(MinFresh) && ttl < c.MinFresh*second:
		return Revalidate
	case ttl > 0:
		return Serve
	case c.Has(MaxStale):
		switch {
		case -ttl > c.MaxStale*second:
			return Revalidate
		case -ttl < f.StaleWhileRevalidate:
			return ServeWhileRevalidating
		case f.NoStale:
			return Revalidate
		}
		return ServeStale
	case c.Has(MaxAge | MinFresh): // such a client does not want it stale
		return Revalidate
	case -ttl < f.StaleWhileRevalidate:
		return ServeWhileRevalidating
	}
	return Revalidate
}

// OnError decides whether the stored response may stand in for an error of the origin: no answer, or 500, 502, 503, 504
// (RFC 5861 4). The client can ask for it too, but not against what the origin forbids.
func (f *Freshness) OnError(req *Request, now int64) bool {
	window := f.StaleIfError
	if c := &req.Control; c.Has(StaleIfError) && !f.NoStale && !f.NoCache {
		window = max(window, c.StaleIfError*second)
	}
	return window > 0 && -f.TTL(now) <= window
}

// hopeless tells that it is stale and that neither a client nor the origin can make use of it any more.
func (f *Freshness) hopeless(validator bool, now int64) bool {
	if validator || !f.NoStale && !f.NoCache {
		return false
	}
	over := -f.TTL(now)
	return over >= 0 && over > f.StaleWhileRevalidate && over > f.StaleIfError
}

// Invalidates tells whether a response makes what is stored for its target, and for the Location and Content-Location of
// the same origin, invalid (RFC 9111 4.4): a successful answer to an unsafe method.
func Invalidates(method []byte, status int) bool {
	switch string(method) {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return false
	}
	return status >= 200 && status < 400
}

// heuristic are the statuses of RFC 9110 15.1, without 206.
func heuristic(status int) bool {
	switch status {
	case 200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501:
		return true
	}
	return false
}

// understood are the final statuses of RFC 9110 15 whose caching needs nothing more than this package does.
func understood(status int) bool {
	switch {
	case status >= 200 && status <= 205, status >= 300 && status <= 303, status == 305, status == 307, status == 308,
		status >= 400 && status <= 417, status == 421, status == 422, status == 426,
		status >= 500 && status <= 505:
		return true
	}
	return false
}

func contains(list []int, n int) bool {
	for _, v := range list {
		if v == n {
			return true
		}
	}
	return false
}

// typeMatches compares a configured media type with the one of a response.
func typeMatches(want string, got []byte) bool {
	exact := false
	for i := range len(want) {
		exact = exact || want[i] == ';'
	}
	if !exact {
		for i, c := range got {
			if c == ';' {
				got = trim(got[:i])
				break
			}
		}
		if n := len(want); n >= 2 && want[n-2:] == "/*" {
			if want == "*/*" {
				return len(got) > 0
			}
			if len(got) < n-1 {
				return false
			}
			want, got = want[:n-1], got[:n-1]
		}
	}
	i := 0
	for _, c := range got {
		if c == ' ' || c == '\t' {
			continue
		}
		for i < len(want) && (want[i] == ' ' || want[i] == '\t') {
			i++
		}
		if i == len(want) || lower(c) != lower(want[i]) {
			return false
		}
		i++
	}
	for i < len(want) && (want[i] == ' ' || want[i] == '\t') {
		i++
	}
	return i == len(want)
}

func addClamped(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
