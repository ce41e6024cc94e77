package cache

import "bytes"

// Request is what a GET or a HEAD says to a cache; no other method is looked up or stored. Fill it with one Field call a header
// line; it borrows their bytes and can be reused after Reset. A route that does not let clients steer its cache leaves out Cache-Control and Pragma.
type Request struct {
	// Identified says that the gateway authenticated the caller, by whatever means. An Authorization field counts as the
	// same (RFC 9111 3.5).
	Identified bool

	asks                           bool // any of what follows the credential
	authorization                  bool
	credential                     []byte
	hasControl, pragma             bool
	conditionsForOrigin            bool
	modifiedSince, ranges, ifRange []byte
	modifiedSinceLines             int
	rangeLines, ifRangeLines       int

	Control Control

	noneMatch lines
}

// Reset forgets everything.
func (r *Request) Reset() {
	r.Identified, r.authorization, r.credential = false, false, nil
	if r.asks {
		*r = Request{}
	}
}

// Plain tells that the request says nothing to a cache: any stored response that is fresh answers it, as it is stored.
func (r *Request) Plain() bool { return !r.asks }

// Credential is the first Authorization field, nil without one.
func (r *Request) Credential() []byte { return r.credential }

// Field reads one header line.
func (r *Request) Field(name, value []byte) {
	if len(name) == len("authorization") && is(name, "authorization") {
		if !r.authorization {
			r.authorization, r.credential = true, value
		}
		return
	}
	asked := true
	switch {
	case is(name, "range"):
		r.ranges = value
		r.rangeLines++
	case is(name, "pragma"):
		r.pragma = r.pragma || listed([][]byte{value}, []byte("no-cache"))
	case is(name, "if-match"), is(name, "if-unmodified-since"):
		r.conditionsForOrigin = true
	case is(name, "if-range"):
		r.ifRange = value
		r.ifRangeLines++
	case is(name, "cache-control"):
		r.hasControl = true
		r.Control.Add(value)
	case is(name, "if-none-match"):
		r.noneMatch.add(value)
	case is(name, "if-modified-since"):
		r.modifiedSince = value
		r.modifiedSinceLines++
	default:
		asked = false
	}
	r.asks = r.asks || asked
}

// Conditional tells that the request carries If-None-Match or If-Modified-Since: forwarded as it is it may bring a 304,
// which fills nothing, so it must not lead a flight.
func (r *Request) Conditional() bool { return r.noneMatch.n > 0 || r.modifiedSinceLines > 0 }

// ForOrigin tells that the request carries If-Match or If-Unmodified-Since, which a cache must not evaluate
// (RFC 9111 4.3.2): it is forwarded, neither answered from the store nor joined with others.
func (r *Request) ForOrigin() bool { return r.conditionsForOrigin }

// Ranged tells that the request has a Range field. A fill that it leads would bring a 206, which is not stored: it must not
// lead a flight with the field left in.
func (r *Request) Ranged() bool { return r.rangeLines > 0 }

// Unconditional forgets conditions, ranges and directives: for a request that goes on without its client.
func (r *Request) Unconditional() {
	*r = Request{Identified: r.Identified, authorization: r.authorization, credential: r.credential}
}

// OnlyIfCached tells that the client wants 504 rather than a forwarded request (RFC 9111 5.2.1.7).
func (r *Request) OnlyIfCached() bool { return r.Control.Has(OnlyIfCached) }

// noCache is the no-cache directive, or Pragma where there is no Cache-Control (RFC 9111 5.4).
func (r *Request) noCache() bool {
	return r.Control.Has(NoCache|NoCacheFields) || r.pragma && !r.hasControl
}

// Response is what a response says to a cache. Reset it, then give it one Field call a header line; it borrows their
// bytes until the Recorder made from it has seen all fields.
type Response struct {
	Status int

	// Requested and Received are when the request was sent and its response head arrived, in unix nanoseconds
	// (request_time and response_time of RFC 9111 4.2.3).
	Requested, Received int64

	Control Control

	// ETag and ContentType are the first lines of their fields, or nil.
	ETag, ContentType []byte

	// ContentLength is in bytes, or -1 when absent or invalid.
	ContentLength int64

	date, expires, lastModified          int64 // unix seconds
	hasDate, hasExpires, hasLastModified bool
	expiresInvalid, hasAge, setCookie    bool
	sawDate, targeted, hidesSurrogate    bool
	age                                  int64 // seconds
	expiresLine                          []byte
	vary, connection, keys, tags         lines
	cdn, surrogate                       target
}

// Reset starts a new response.
func (r *Response) Reset(status int, requested, received int64) {
	*r = Response{Status: status, Requested: requested, Received: received, ContentLength: -1}
}

// Field reads one header line. Request fields that select an answer though the origin does not say so are added as one
// more Vary line, in the same order each time.
func (r *Response) Field(name, value []byte) {
	switch len(name) {
	case 3:
		if is(name, "age") {
			r.readAge(value)
		}
	case 4:
		switch {
		case is(name, "date"):
			if !r.sawDate {
				r.sawDate = true
				r.date, r.hasDate = ParseDate(trim(value), r.Received)
			}
		case is(name, "etag"):
			if r.ETag == nil {
				r.ETag = trim(value)
			}
		case is(name, "vary"):
			r.vary.add(value)
		}
	case 7:
		if is(name, "expires") {
			r.readExpires(trim(value))
		}
	case 9:
		if is(name, "cache-tag") {
			r.tags.add(value)
		}
	case 10:
		switch {
		case is(name, "connection"):
			r.connection.add(value)
		case is(name, "set-cookie"):
			r.setCookie = true
		}
	case 12:
		if is(name, "content-type") && r.ContentType == nil {
			r.ContentType = trim(value)
		}
	case 13:
		switch {
		case is(name, "cache-control"):
			r.Control.Add(value)
		case is(name, "last-modified"):
			if !r.hasLastModified {
				r.lastModified, r.hasLastModified = ParseDate(trim(value), r.Received)
			}
		case is(name, "surrogate-key"):
			r.keys.add(value)
		}
	case 14:
		if is(name, "content-length") {
			r.ContentLength = length(trim(value))
		}
	case 17:
		switch {
		case is(name, "cdn-cache-control"):
			r.cdn.add(value)
		case is(name, "surrogate-control"):
			r.surrogate.add(value)
		}
	}
}

// readAge takes the first member of the first line; an invalid one is ignored (RFC 9111 5.1).
func (r *Response) readAge(value []byte) {
	if r.hasAge {
		return
	}
	r.hasAge = true
	first, _, _ := element(value, true)
	r.age, _ = seconds(first)
}

// readExpires holds an invalid date, "0" above all, and dates that contradict each other for a time in the past
// (RFC 9111 5.3 and 4.2.1).
func (r *Response) readExpires(value []byte) {
	if r.hasExpires && !bytes.Equal(value, r.expiresLine) {
		r.expiresInvalid = true
		return
	}
	var ok bool
	r.expires, ok = ParseDate(value, r.Received)
	r.hasExpires, r.expiresLine = true, value
	r.expiresInvalid = r.expiresInvalid || !ok
}

// Keep tells whether a field belongs into what is stored (RFC 9111 3.1). Left out are what concerns one connection,
// what Connection, no-cache="…" or private="…" names, and what is made anew for each answer: Age and the framing.
func (r *Response) Keep(name []byte) bool {
	switch len(name) {
	case 2:
		if is(name, "te") {
			return false
		}
	case 3:
		if is(name, "age") {
			return false
		}
	case 7:
		if is(name, "upgrade") || is(name, "trailer") {
			return false
		}
	case 10:
		if is(name, "connection") || is(name, "keep-alive") {
			return false
		}
	case 14:
		if is(name, "content-length") {
			return false
		}
	case 16:
		if is(name, "proxy-connection") {
			return false
		}
	case 17:
		if is(name, "transfer-encoding") || r.hidesSurrogate && is(name, "surrogate-control") {
			return false
		}
	case 18:
		if is(name, "proxy-authenticate") {
			return false
		}
	case 19:
		if is(name, "proxy-authorization") {
			return false
		}
	case 25:
		if is(name, "proxy-authentication-info") {
			return false
		}
	}
	return !r.Control.Excludes(name) && (r.connection.n == 0 || !listed(r.connection.all(), name))
}

func (r *Response) hasValidator() bool { return len(r.ETag) > 0 || r.hasLastModified }

func length(b []byte) int64 {
	if len(b) == 0 || len(b) > 18 {
		return -1
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int64(c-'0')
	}
	return n
}
