package hmacauth

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"

	"sluice/gateway/exchange"
)

// digested holds the body to its Digest header (RFC 3230), which must be signed where there is a body. It may return
// exchange.ErrBodyLater, and is then asked again; nothing has been remembered of the request by then.
func (a *authenticator) digested(x *exchange.Exchange, c *credential) error {
	value, ok := digestOf(x)
	if len(value) == 0 && ok && !x.HasBody() {
		return nil
	}
	var want [sha256.Size + 2]byte
	if ok = ok && c.signs("digest") && len(value) == base64Size; ok {
		n, err := strict.Decode(want[:], value)
		ok = err == nil && n == sha256.Size
	}
	if !ok {
		x.AuthFailure = "malformed"
		return invalid
	}
	body, whole, err := x.HoldBody(a.body)
	if err != nil {
		return err
	}
	if !whole {
		return exchange.RejectBodyTooLarge
	}
	if got := sha256.Sum256(body); subtle.ConstantTimeCompare(got[:], want[:sha256.Size]) != 1 {
		x.AuthFailure = "bad_digest"
		return invalid
	}
	return nil
}

// base64Size is the length of a SHA-256 in base64.
const base64Size = 44

// digestOf returns the SHA-256 of the Digest header, empty if there is none; ok is false if there are several.
func digestOf(x *exchange.Exchange) (value []byte, ok bool) {
	const algorithm = "SHA-256="
	lines := 0
	for i := range x.Fields {
		if !exchange.EqualFold(x.Fields[i].Name, "digest") {
			continue
		}
		if lines++; lines > 1 {
			return nil, false
		}
		for part := range bytes.SplitSeq(x.Fields[i].Value, []byte{','}) {
			part = bytes.Trim(part, " \t")
			if len(part) < len(algorithm) || !exchange.EqualFold(part[:len(algorithm)], algorithm) {
				continue
			}
			if value != nil {
				return nil, false
			}
			value = part[len(algorithm):]
		}
		if value == nil {
			return nil, false // of another algorithm alone
		}
	}
	return value, true
}
