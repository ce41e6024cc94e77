// Package correlationid gives every request an id that the client, the logs and the backend share. It guarantees that
// an id is always there, unique, and of characters that are safe in headers, logs and JSON.
package correlationid

import (
	"encoding/binary"
	"math/rand/v2"
	"net/textproto"
	"strconv"
	"sync/atomic"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// Config are the settings of the policy `correlation_id`. It is on without any configuration.
type Config struct {
	// Header that carries the id, to the backend and to the client.
	Header string `yaml:"header" default:"X-Correlation-ID" required:"true"`
	// Generator of ids: `uuid` is a random UUID (version 4) for each request; `uuid#counter` is one UUID for the process, a `#` and a number that counts up.
	Generator string `yaml:"generator" enum:"uuid|uuid#counter" default:"uuid"`
	// Echo tells the client the id.
	Echo bool `yaml:"echo" default:"true"`
	// Trust takes the id that the client sends, if it has 1 to 128 visible ASCII characters without quotes and backslashes; otherwise, and without one, an id is generated.
	Trust bool `yaml:"trust" default:"true"`
}

// Definition is the policy `correlation_id`.
var Definition = policy.Define("correlation_id", policy.Observe, build)

const (
	uuidLen = 36
	// maxTrusted is the longest id in bytes that is taken from a client.
	maxTrusted = 128
)

type identifier struct {
	header    string // as it is sent
	canonical string // as the request is asked for it
	echo      bool
	trust     bool
	counter   *counter // nil: random UUIDs
}

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	switch {
	case !exchange.IsToken(c.Header):
		return policy.Hooks{}, policy.Wrong("header", "%q can not be the name of a header", c.Header)
	case exchange.KindOf([]byte(c.Header)) != exchange.KindOther:
		return policy.Hooks{}, policy.Wrong("header", "%s has a meaning of its own; choose another, such as X-Correlation-ID or X-Request-ID", c.Header)
	}
	id := &identifier{header: c.Header, canonical: textproto.CanonicalMIMEHeaderKey(c.Header), echo: c.Echo, trust: c.Trust}
	if c.Generator == "uuid#counter" {
		counted, err := policy.LivingAs(b.World, "correlation_id/counter", newCounter)
		if err != nil {
			return policy.Hooks{}, err
		}
		id.counter = counted
	}
	return policy.Hooks{Request: id.request}, nil
}

func (c *identifier) request(x *exchange.Exchange) error {
	var id []byte
	if c.trust {
		if sent := x.RequestHeader(c.canonical); sane(sent) {
			id = sent
		}
	}
	if id == nil {
		dst := x.Scratch()
		if c.counter != nil {
			dst = c.counter.append(dst)
		} else {
			dst = appendUUID(dst)
		}
		id = x.Keep(dst)
	}
	x.RequestID = id
	x.ToBackend.Set(c.header, id)
	if c.echo {
		x.ToClient.Set(c.header, id)
	}
	return nil
}

// sane reports whether a client's id may go into headers, logs and JSON as it is.
func sane(id []byte) bool {
	if len(id) == 0 || len(id) > maxTrusted {
		return false
	}
	for _, c := range id {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '\'' || c == '\\' {
			return false
		}
	}
	return true
}

// appendUUID appends a random UUID (RFC 9562, section 5.4). The top-level functions of math/rand/v2 draw from the runtime's ChaCha8
// generators, one for each thread and seeded by the operating system: ids of many gateways do not collide, as those of a badly
// seeded generator would, and drawing one takes no lock and no system call. An id is no secret, so that is enough.
func appendUUID(dst []byte) []byte {
	a, b := rand.Uint64(), rand.Uint64()
	var text [uuidLen]byte
	binary.LittleEndian.PutUint64(text[0:], digits(uint32(a)))
	putGroups(text[8:], digits(uint32(a>>32)))
	putGroups(text[18:], digits(uint32(b)))
	binary.LittleEndian.PutUint64(text[28:], digits(uint32(b>>32)))
	text[14] = '4'         // the version
	text[19] = "89ab"[b&3] // the variant
	return append(dst, text[:]...)
}

// putGroups writes eight digits in two groups, with a hyphen before each.
func putGroups(dst []byte, eight uint64) {
	dst[0], dst[5] = '-', '-'
	binary.LittleEndian.PutUint32(dst[1:], uint32(eight))
	binary.LittleEndian.PutUint32(dst[6:], uint32(eight>>32))
}

// digits are the eight hexadecimal digits of 32 bits, all at once, a byte for each; in which order is all the same for random ones.
func digits(bits uint32) uint64 {
	const each = 0x0101010101010101
	n := uint64(bits)
	n = (n | n<<16) & 0x0000ffff0000ffff
	n = (n | n<<8) & 0x00ff00ff00ff00ff
	n = (n | n<<4) & 0x0f0f0f0f0f0f0f0f
	letters := (n + 6*each) >> 4 & each // 1 for a digit above 9
	return n + '0'*each + letters*('a'-'9'-1)
}

// counter numbers requests. One serves all routes and outlives configurations, so that no number comes twice.
type counter struct {
	prefix [uuidLen + 1]byte // UUID and #
	last   atomic.Uint64
}

func newCounter() (*counter, error) {
	c := new(counter)
	copy(c.prefix[:], append(appendUUID(nil), '#'))
	return c, nil
}

func (c *counter) append(dst []byte) []byte {
	return strconv.AppendUint(append(dst, c.prefix[:]...), c.last.Add(1), 10)
}
