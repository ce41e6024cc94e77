package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"strings"
	"sync/atomic"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// A key is, in this order: the class of the method, the place of the policy, the stamp of the URI, the URI, the
// dimensions, and where an entry belongs to one caller, that caller. Everything of variable length carries its length, and
// the number of dimensions is the same for one place, so that different requests never share a key.
const (
	classGET  = 'G'
	classHEAD = 'H' // entries made from answers to HEAD; a stored GET answers HEAD as well

	placeLen = 16
	stampAt  = 1 + placeLen
	uriAt    = stampAt + 4
)

// placeOf tells places apart whose answers differ for the same URI: another route, another service, another rewriting of
// the path, other policies that change answers before they are stored. Settings that decide whose an entry is count too:
// what was shared while that was allowed must not be found when it no longer is.
func placeOf(b *policy.Build, c *Config) (place [placeLen]byte) {
	h := sha256.New()
	if b.RouteConfig != nil {
		fmt.Fprintf(h, "%q %q %t ", b.RouteConfig.Name, b.RouteConfig.Rewrite, b.RouteConfig.StripPrefix)
	}
	fmt.Fprintf(h, "%q %q %t %t", b.Service, b.Answers.Shape, c.Shared, c.RespectOrigin)
	copy(place[:], h.Sum(nil))
	return place
}

// dimension is something about a request, beside its URI, that an answer depends on. Whatever else callers come to be told
// apart by is one more kind: its word in dimensionsOf, what it adds to a key in append.
type dimension struct {
	kind dimensionKind
	name string
}

type dimensionKind uint8

const (
	ofHeader dimensionKind = iota
	ofQuery
	ofClaim
	ofCaller
	ofAddress
	ofTenant
	ofVersion
)

// dimensionsOf reads what policies and actions say that they vary on.
func dimensionsOf(varies []string) ([]dimension, error) {
	var out []dimension
	for _, v := range varies {
		kind, name, _ := strings.Cut(v, ":")
		switch kind {
		case "header":
			out = append(out, dimension{ofHeader, name})
		case "query":
			out = append(out, dimension{ofQuery, name})
		case "claim":
			out = append(out, dimension{ofClaim, name})
		case "consumer":
			out = append(out, dimension{ofCaller, ""})
		case "ip":
			out = append(out, dimension{ofAddress, ""})
		case "tenant":
			out = append(out, dimension{ofTenant, ""})
		case "api_version":
			out = append(out, dimension{ofVersion, ""})
		case "path", "host", "scheme", "method": // are in every key
		case "request_id": // tells requests apart, not answers: each has one towards the backend
		default:
			return nil, fmt.Errorf("can not store answers that depend on %s", v)
		}
	}
	return out, nil
}

// makeKey makes the key that all callers share, in the room of dst where that is enough.
func (c *cacher) makeKey(dst []byte, x *exchange.Exchange, class byte) []byte {
	query := x.BackendQuery()
	end := uriAt + uriSize(x.Host, x.Path, query)
	dst = resize(dst, end+partSize(x.ForwardedHost)+partSize(x.ForwardedPort))
	dst[0] = class
	*(*[placeLen]byte)(dst[1:]) = c.place
	putURI(dst[uriAt:end], x.Scheme, x.Host, x.Path, query)
	binary.LittleEndian.PutUint32(dst[stampAt:], c.shared.uris.stamp(dst[uriAt:end]))
	// Backends write absolute links from what they are told of host and port,
	// which says more than the host that routes.
	end = putPart(dst, end, x.ForwardedHost)
	putPart(dst, end, x.ForwardedPort)
	if len(c.dimensions) > 0 {
		dst = c.appendDimensions(dst, x)
	}
	return dst
}

func (c *cacher) appendDimensions(dst []byte, x *exchange.Exchange) []byte {
	for i := range c.dimensions {
		dst = c.dimensions[i].append(dst, x)
	}
	return dst
}

// newURI returns what is invalidated as one: scheme, host, canonical path and query.
func newURI(scheme string, host, path, query []byte) []byte {
	uri := make([]byte, uriSize(host, path, query))
	putURI(uri, scheme, host, path, query)
	return uri
}

func uriSize(host, path, query []byte) int {
	return 1 + partSize(host) + partSize(path) + partSize(query)
}

func putURI(dst []byte, scheme string, host, path, query []byte) {
	if dst[0] = 0; scheme == "https" {
		dst[0] = 1
	}
	n := putPart(dst, 1, host)
	n = putPart(dst, n, path)
	putPart(dst, n, query)
}

func partSize(part []byte) int { return 4 + len(part) }

// putPart writes a part, with its length before it, at dst[n:], and returns where it ends. It is one piece of code for all parts.
//
//go:noinline
func putPart(dst []byte, n int, part []byte) int {
	binary.LittleEndian.PutUint32(dst[n:], uint32(len(part)))
	return n + 4 + copy(dst[n+4:], part)
}

// resize returns n bytes, of dst if it has room for them.
func resize(dst []byte, n int) []byte {
	if cap(dst) < n {
		return roomFor(n)
	}
	return dst[:n]
}

//go:noinline
func roomFor(n int) []byte { return make([]byte, n, 2*n) }

// uriLen is the length of the URI that b begins with.
func uriLen(b []byte) int {
	n := 1
	for range 3 {
		n += 4 + int(binary.LittleEndian.Uint32(b[n:]))
	}
	return n
}

func appendPart[T []byte | string](dst []byte, part T) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(part)))
	return append(dst, part...)
}

func (d *dimension) append(dst []byte, x *exchange.Exchange) []byte {
	switch d.kind {
	case ofHeader:
		dst = appendLines(dst, x, d.name)
	case ofQuery:
		value, n := x.QueryValue(d.name)
		dst = binary.LittleEndian.AppendUint32(dst, uint32(n))
		dst = appendPart(dst, value)
	case ofClaim:
		if x.Identity.Claims != nil {
			if value, ok := x.Identity.Claims.Claim(d.name); ok {
				return appendPart(append(dst, 1), value)
			}
		}
		dst = append(dst, 0)
	case ofCaller:
		dst, _ = appendName(dst, x)
	case ofTenant:
		if x.Tenant == nil {
			return append(dst, 'n')
		}
		dst = appendPart(append(dst, 't'), x.Tenant.Name)
	case ofAddress:
		a := x.ClientAddr.As16()
		dst = append(dst, a[:]...)
	case ofVersion:
		dst = appendPart(dst, x.APIVersion)
	}
	return dst
}

// appendLines appends all lines of a request header.
func appendLines(dst []byte, x *exchange.Exchange, name string) []byte {
	for i := range x.Fields {
		if f := &x.Fields[i]; len(f.Name) == len(name) && exchange.EqualFold(f.Name, name) {
			dst = appendPart(append(dst, 1), f.Value)
		}
	}
	return append(dst, 0)
}

// appendOwner appends the caller to whom an entry belongs. It returns false where the caller can not be told from others.
//
// A credential that the gateway did not look at is the backend's: with it the same consumer may be answered differently.
func appendOwner(dst []byte, x *exchange.Exchange, credential []byte) ([]byte, bool) {
	dst, named := appendName(dst, x)
	switch x.Identity.Method {
	case "jwt":
		if hasScheme(credential, "bearer ") {
			return dst, named
		}
	case "basic_auth":
		if hasScheme(credential, "basic ") {
			return dst, named
		}
	case "hmac_auth":
		// Every signature differs, and says no more than who signed.
		if hasScheme(credential, "hmac ") {
			return dst, named
		}
	}
	return appendLines(dst, x, "Authorization"), named || len(credential) > 0
}

// appendName appends who the caller is by what the gateway knows. It returns false for nobody.
func appendName(dst []byte, x *exchange.Exchange) ([]byte, bool) {
	id := &x.Identity
	switch {
	case id.Consumer != nil:
		return appendPart(append(dst, 'c'), id.Consumer.Name), true
	case id.Authenticated && len(id.Subject) > 0:
		dst = appendPart(append(dst, 's'), id.Method)
		var issuer []byte
		if id.Claims != nil {
			issuer, _ = id.Claims.Claim("iss")
		}
		return appendPart(appendPart(dst, issuer), id.Subject), true
	}
	return append(dst, 0), false
}

func hasScheme(credential []byte, scheme string) bool {
	return len(credential) >= len(scheme) && exchange.EqualFold(credential[:len(scheme)], scheme)
}

// uris lets all that is stored under a URI, whatever else its keys hold, be invalidated at once: keys carry a stamp of
// their URI, and another stamp makes them unreachable, so that the store evicts them in time. URIs share stamps by their
// hash; each marks two bits beside the stamp when something may be stored under it, so that a change of a URI under which
// nothing is leaves the others alone. Where it does not, that costs no more than a miss.
type uris struct {
	seed  maphash.Seed
	slots [1 << 18]atomic.Uint64 // stamp and, below, the marks
}

const uriMarks = 36 // bits of a slot

// slot is where the stamp of the URI is, and its marks.
func (u *uris) slot(uri []byte) (at *atomic.Uint64, marks uint64) {
	h := maphash.Bytes(u.seed, uri)
	return &u.slots[h%uint64(len(u.slots))], 1<<(h>>18%uriMarks) | 1<<(h>>40%uriMarks)
}

func (u *uris) stamp(uri []byte) uint32 {
	at, _ := u.slot(uri)
	return uint32(at.Load() >> uriMarks)
}

// succeed invalidates what is stored under uri, and returns the stamp for what takes its place; false if anything else
// invalidated it since stamp was read and touched.
func (u *uris) succeed(uri []byte, stamp uint32) (next uint32, ok bool) {
	at, marks := u.slot(uri)
	for v := at.Load(); uint32(v>>uriMarks) == stamp; v = at.Load() {
		after := (v>>uriMarks + 1) << uriMarks
		if at.CompareAndSwap(v, after|marks) {
			return uint32(after >> uriMarks), true
		}
	}
	u.invalidate(uri)
	return 0, false
}

// touch says that something is going to be stored under uri. It is called before the request is forwarded, so that an
// invalidation in the meantime is not missed.
func (u *uris) touch(uri []byte) {
	at, marks := u.slot(uri)
	for v := at.Load(); v&marks != marks && !at.CompareAndSwap(v, v|marks); v = at.Load() {
	}
}

// invalidate makes what is stored under uri, and what is being fetched, unreachable.
func (u *uris) invalidate(uri []byte) {
	at, marks := u.slot(uri)
	for v := at.Load(); v&marks == marks && !at.CompareAndSwap(v, (v>>uriMarks+1)<<uriMarks); v = at.Load() {
	}
}
