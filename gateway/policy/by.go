package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"net/textproto"
	"strings"

	"sluice/gateway/exchange"
)

// By is a dimension by which requests share a limit, as `by` in the configuration. It is comparable.
type By struct {
	kind byKind
	name string // of the header, canonical, or the claim
	text string // as it was configured, the header's name canonical
}

type byKind uint8

const (
	byConsumer byKind = iota
	byIP
	byHeader
	byClaim
	byTenant
	byRoute
	byGlobal
)

// ByGlobal is the dimension of all requests under a block.
var ByGlobal = By{kind: byGlobal, text: "global"}

// ParseBy reads consumer, ip, header:NAME, claim:NAME, tenant, route or global.
func ParseBy(s string) (By, error) {
	switch s {
	case "consumer":
		return By{kind: byConsumer, text: s}, nil
	case "ip":
		return By{kind: byIP, text: s}, nil
	case "tenant":
		return By{kind: byTenant, text: s}, nil
	case "route":
		return By{kind: byRoute, text: s}, nil
	case "global":
		return ByGlobal, nil
	}
	what, name, _ := strings.Cut(s, ":")
	switch {
	case what == "header" && exchange.IsToken(name):
		name = textproto.CanonicalMIMEHeaderKey(name)
		return By{kind: byHeader, name: name, text: "header:" + name}, nil
	case what == "claim" && name != "":
		return By{kind: byClaim, name: name, text: s}, nil
	}
	return By{}, fmt.Errorf("%q is not one of consumer, ip, header:NAME, claim:NAME, tenant, route, global", s)
}

// String is the dimension as it is configured.
func (b By) String() string { return b.text }

const (
	// KeySize is what a key of a limit has room for on the stack; a longer one, of a very long subject, is allocated.
	KeySize = 512
	// maxValue is the longest value of a header or claim that stands in a key itself. Of a longer one its hash does.
	maxValue = 256
)

// Key makes the keys under which the requests of a block are counted: its prefix, whose tenant's request it is, and who it is with a
// letter for the kind. Callers of different tenants never share one, except where the block is of the gateway, a service or a
// route, and counts all requests there on purpose.
type Key struct {
	By By
	// Prefix is what all keys begin with: scope and dimension. It has no bytes of a client's.
	Prefix string

	route          string
	tenant, caller bool
}

// Key returns the maker of keys for a dimension of the block. more tells apart limits by the same dimension.
func (b *Build) Key(by By, more string) Key {
	k := Key{By: by, Prefix: b.Scope + "\x00" + by.text + more}
	if by.kind == byRoute {
		k.route = b.Route.Name
		k.Prefix += "\x00" + b.Route.Name
	}
	k.Prefix += "\x00"
	// A consumer's own block counts that consumer alone, also where others have an equal one.
	k.caller = strings.HasPrefix(b.Scope, "consumers") && by.kind != byConsumer
	k.tenant = b.Taker != "" || by.kind != byRoute && by.kind != byGlobal
	return k
}

// Constant reports whether all requests have one key.
func (k *Key) Constant() bool {
	return !k.tenant && !k.caller && (k.By.kind == byRoute || k.By.kind == byGlobal)
}

// OfConsumer reports whether a consumer's requests have one key, which no other consumer's have.
func (k *Key) OfConsumer() bool { return k.By.kind == byConsumer || k.caller && k.By.kind == byGlobal }

// Append appends the key of a request.
func (k *Key) Append(dst []byte, x *exchange.Exchange) []byte {
	dst = append(dst, k.Prefix...)
	if x.Tenant != nil && k.tenant {
		dst = append(append(append(dst, '@'), x.Tenant.Name...), 0)
	}
	if k.caller && x.Identity.Consumer != nil {
		dst = append(append(append(dst, '#'), x.Identity.Consumer.Name...), 0)
	}
	switch k.By.kind {
	case byConsumer:
		return x.Caller(dst)
	case byIP:
		return x.AppendClientKey(dst)
	case byHeader:
		if v := x.RequestHeader(k.By.name); len(v) > 0 {
			return appendValue(dst, v)
		}
		return x.AppendClientKey(dst)
	case byClaim:
		if c := x.Identity.Claims; c != nil {
			if v, ok := c.Claim(k.By.name); ok && len(v) > 0 {
				return appendValue(dst, v)
			}
		}
		return x.AppendClientKey(dst)
	case byTenant:
		if x.Tenant == nil {
			return x.AppendClientKey(dst)
		}
		return dst
	}
	return dst
}

func appendValue(dst, v []byte) []byte {
	if len(v) > maxValue {
		sum := sha256.Sum256(v)
		return append(append(dst, "h:"...), sum[:]...)
	}
	return append(append(dst, "v:"...), v...)
}

// Show makes what follows the prefix of a key readable: the tenant, and who it is.
func (k *Key) Show(key string) (tenant, who string) {
	if rest, ok := strings.CutPrefix(key, "@"); ok {
		tenant, key, _ = strings.Cut(rest, "\x00")
	}
	if rest, ok := strings.CutPrefix(key, "#"); ok {
		who, key, _ = strings.Cut(rest, "\x00")
		who = "consumer:" + who + "/"
	}
	switch {
	case k.By.kind == byRoute:
		who += "route:" + k.route
	case k.By.kind == byGlobal:
		who += "global"
	case k.By.kind == byTenant && key == "":
		who += "tenant:" + tenant
	default:
		who += k.showWho(key)
	}
	return tenant, who
}

func (k *Key) showWho(key string) string {
	kind, value, ok := strings.Cut(key, ":")
	if !ok {
		return key
	}
	switch kind {
	case "c":
		return "consumer:" + value
	case "s":
		return "subject:" + value
	case "v":
		return k.By.text + "=" + value
	case "h":
		return k.By.text + "=sha256:" + hex.EncodeToString([]byte(value))
	case "4":
		if a, ok := netip.AddrFromSlice([]byte(value)); ok {
			return "ip:" + a.String()
		}
	case "6":
		var b [16]byte
		copy(b[:], value)
		return "ip:" + netip.PrefixFrom(netip.AddrFrom16(b), 64).String()
	}
	return key
}

// SplitKey finds the maker of a key among those by prefix. The names in a prefix have no NUL, which is what its parts end in.
func SplitKey[T any](key string, by map[string]T) (maker T, rest string, ok bool) {
	end, parts := 0, 0
	for parts < 3 {
		n := strings.IndexByte(key[end:], 0)
		if n < 0 {
			return maker, "", false
		}
		end += n + 1
		if parts++; parts < 2 {
			continue
		}
		if maker, ok = by[key[:end]]; ok {
			return maker, key[end:], true
		}
	}
	return maker, "", false
}
