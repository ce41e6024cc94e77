package idempotency

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"sluice/gateway/exchange"
)

// maxKey is the length of the longest key in bytes.
const maxKey = 255

// parseKey reads the value of the header: a string of structured fields (RFC 9651, section 3.3.3), or a bare key as clients
// send it that know no quotes. Both forms of a key are the same key. The result is in dst if it had to be decoded.
func parseKey(dst, value []byte) (key []byte, ok bool) {
	if len(value) == 0 {
		return nil, false
	}
	if value[0] != '"' {
		for _, c := range value {
			// A comma divides the members of a list, a semicolon parameters: such a value is not one key.
			if c <= ' ' || c > '~' || c == '"' || c == '\\' || c == ',' || c == ';' {
				return nil, false
			}
		}
		return value, len(value) <= maxKey
	}
	for i := 1; i < len(value); i++ {
		c := value[i]
		switch {
		case c == '"':
			return dst, i == len(value)-1 && len(dst) > 0 && len(dst) <= maxKey
		case c == '\\':
			if i++; i == len(value) || value[i] != '"' && value[i] != '\\' {
				return nil, false
			}
			c = value[i]
		case c < ' ' || c > '~':
			return nil, false
		}
		dst = append(dst, c)
	}
	return nil, false
}

// Key names a record: a digest of route, host, caller and key.
type Key [sha256.Size]byte

// Fingerprint is a digest of what a repetition has in common with the first request.
type Fingerprint [sha256.Size]byte

// digest hashes parts, each with its length, so that no two lists of parts are the same bytes.
type digest struct {
	h   hash.Hash
	len [8]byte
}

func (d *digest) begin() {
	if d.h == nil {
		d.h = sha256.New()
	}
	d.h.Reset()
}

func (d *digest) part(b []byte) {
	binary.LittleEndian.PutUint64(d.len[:], uint64(len(b)))
	_, _ = d.h.Write(d.len[:])
	_, _ = d.h.Write(b)
}

func (d *digest) sum(to *[sha256.Size]byte) { d.h.Sum(to[:0]) }

// keyOf is the record's name for this caller.
func (g *guard) keyOf(st *state, x *exchange.Exchange, key []byte) {
	d := &st.digest
	d.begin()
	d.part(append(st.buf[:0], g.route...))
	d.part(x.Host)
	st.buf = appendCaller(st.buf[:0], x)
	d.part(st.buf)
	d.part(key)
	d.sum((*[sha256.Size]byte)(&st.key))
}

// fingerprintOf covers the request and the credential that is the backend's to judge: with another one, what the first was
// answered is not for this one.
func (g *guard) fingerprintOf(st *state, x *exchange.Exchange, body []byte) {
	d := &st.digest
	d.begin()
	d.part(x.Method())
	d.part(x.Path)
	d.part(x.Query)
	d.part(x.RequestHeader("Content-Type"))
	d.part(x.RequestHeader("Content-Encoding"))
	d.part(body)
	st.buf = append(st.buf[:0], x.APIVersion...)
	d.part(st.buf)
	if isNamed(x) {
		d.part(foreignCredential(x))
	}
	d.sum((*[sha256.Size]byte)(&st.fingerprint))
}

// isNamed tells whether the gateway knows who the caller is.
func isNamed(x *exchange.Exchange) bool {
	return x.Identity.Consumer != nil || x.Identity.Authenticated && len(x.Identity.Subject) > 0
}

// appendCaller appends who the caller is by what the gateway knows. A token that it does not know the meaning of tells callers
// apart as well as a name does; an address has to do where there is nothing else.
func appendCaller(dst []byte, x *exchange.Exchange) []byte {
	id := &x.Identity
	switch credential := foreignCredential(x); {
	case id.Consumer != nil:
		return append(append(dst, 'c'), id.Consumer.Name...)
	case isNamed(x):
		dst = append(append(dst, 's'), id.Method...)
		var issuer []byte
		if id.Claims != nil {
			issuer, _ = id.Claims.Claim("iss")
		}
		dst = append(dst, 0)
		dst = binary.LittleEndian.AppendUint32(dst, uint32(len(issuer)))
		return append(append(dst, issuer...), id.Subject...)
	case len(credential) > 0:
		return append(append(dst, 'a'), credential...)
	}
	return x.AppendClientKey(append(dst, 'i'))
}

// foreignCredential is the Authorization that the gateway has not verified itself.
func foreignCredential(x *exchange.Exchange) []byte {
	credential := x.RequestHeader("Authorization")
	scheme := ""
	switch x.Identity.Method {
	case "jwt":
		scheme = "bearer "
	case "basic_auth":
		scheme = "basic "
	case "hmac_auth":
		scheme = "hmac " // every signature differs, and says no more than who signed
	}
	if scheme != "" && len(credential) >= len(scheme) && exchange.EqualFold(credential[:len(scheme)], scheme) {
		return nil
	}
	return credential
}
