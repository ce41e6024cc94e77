package ratelimit

import (
	"crypto/sha256"
	"fmt"
	"net/textproto"
	"strings"

	"sluice/gateway/exchange"
)

// kind is a dimension by which requests share buckets.
type kind uint8

const (
	byConsumer kind = iota
	byIP
	byHeader
	byClaim
	byRoute
	byGlobal
)

// by is a parsed `by`.
type by struct {
	kind kind
	name string // of the header, canonical, or the claim
	text string // as it was configured, the header's name canonical
}

func parseBy(s string) (by, error) {
	switch s {
	case "consumer":
		return by{kind: byConsumer, text: s}, nil
	case "ip":
		return by{kind: byIP, text: s}, nil
	case "route":
		return by{kind: byRoute, text: s}, nil
	case "global":
		return by{kind: byGlobal, text: s}, nil
	case "tenant":
		return by{}, fmt.Errorf("tenants are not built yet; limit by consumer, ip, header:NAME, claim:NAME, route or global")
	}
	what, name, _ := strings.Cut(s, ":")
	switch {
	case what == "header" && exchange.IsToken(name):
		name = textproto.CanonicalMIMEHeaderKey(name)
		return by{kind: byHeader, name: name, text: "header:" + name}, nil
	case what == "claim" && name != "":
		return by{kind: byClaim, name: name, text: s}, nil
	}
	return by{}, fmt.Errorf("%q is not one of consumer, ip, header:NAME, claim:NAME, tenant, route, global", s)
}

const (
	// keySize is what a key has room for on the stack; a longer one, of a very long subject, is allocated.
	keySize = 512
	// maxValue is the longest value of a header or claim that stands in a key itself. Of a longer one its hash does.
	maxValue = 256
)

// key appends the bucket's key for a request: the group's prefix, and who it is with a letter for the kind.
func (g *group) key(dst []byte, x *exchange.Exchange) []byte {
	dst = append(dst, g.prefix...)
	switch g.by.kind {
	case byConsumer:
		return x.Caller(dst)
	case byIP:
		return x.AppendClientKey(dst)
	case byHeader:
		if v := x.RequestHeader(g.by.name); len(v) > 0 {
			return appendValue(dst, v)
		}
		return x.AppendClientKey(dst)
	case byClaim:
		if c := x.Identity.Claims; c != nil {
			if v, ok := c.Claim(g.by.name); ok && len(v) > 0 {
				return appendValue(dst, v)
			}
		}
		return x.AppendClientKey(dst)
	default:
		return dst
	}
}

func appendValue(dst, v []byte) []byte {
	if len(v) > maxValue {
		sum := sha256.Sum256(v)
		return append(append(dst, "h:"...), sum[:]...)
	}
	return append(append(dst, "v:"...), v...)
}
