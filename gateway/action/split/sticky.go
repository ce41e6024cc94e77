package split

import (
	"math/rand/v2"
	"net/textproto"
	"strconv"
	"strings"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/upstream/balance"
)

// Sticky keeps a client at the service that it got first. It is decided by a hash of what the client is recognised by, so that
// nothing has to be remembered and all gateways decide alike.
type Sticky struct {
	// Off: every request is divided anew.
	Off bool `yaml:"-"`
	// By what a client is recognised: `consumer` (the consumer, else the authenticated subject, else the client's address), `header:NAME`, or `cookie`, which the gateway gives to whoever has none. Requests without the header are divided anew each time.
	By string `yaml:"by" required:"true"`
	// Cookie is the name of the cookie of `by: cookie`. It holds a random number that names nobody and no service; any other value is replaced. It is HttpOnly, SameSite=Lax, and Secure over https.
	Cookie string `yaml:"cookie" default:"sluice_split"`
	// CookiePath is the Path of the cookie.
	CookiePath string `yaml:"cookie_path" default:"/"`
	// CookieMaxAge is how long browsers keep the cookie; 0s: until they are closed.
	CookieMaxAge config.Duration `yaml:"cookie_max_age" default:"30d" max:"400d"`
}

func (c *Sticky) check() (errs config.Errors) {
	switch kind, name, named := strings.Cut(c.By, ":"); {
	case c.By == "cookie" || c.By == "consumer":
	case kind == "header" && exchange.IsToken(name):
	case kind == "cookie" && named:
		errs = append(errs, config.Errorf("by", "the name of the cookie stands under cookie; write by: cookie"))
	default:
		errs = append(errs, config.Errorf("by", "%q is none of cookie, consumer, header:NAME", c.By))
	}
	if !exchange.IsToken(c.Cookie) {
		errs = append(errs, config.Errorf("cookie", "%q can not be the name of a cookie", c.Cookie))
	}
	if !strings.HasPrefix(c.CookiePath, "/") || strings.ContainsFunc(c.CookiePath, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ';' || r == ',' }) {
		errs = append(errs, config.Errorf("cookie_path", "%q can not be the path of a cookie; write it as /", c.CookiePath))
	}
	return prefixed("sticky", errs)
}

// prefixed places errors below a setting.
func prefixed(setting string, errs config.Errors) config.Errors {
	for _, e := range errs {
		e.Path = setting + "." + e.Path
	}
	return errs
}

// sticky is the compiled block.
type sticky struct {
	// by returns the key of the client, 0 for none; nil when off.
	by func(x *exchange.Exchange) uint64

	name   string
	before []byte // NAME=
	after  []byte // the attributes
}

func newSticky(c *Sticky) sticky {
	s := sticky{name: c.Cookie}
	kind, name, _ := strings.Cut(c.By, ":")
	switch kind {
	case "consumer":
		s.by = func(x *exchange.Exchange) uint64 { return balance.HashBytes(x.Caller(x.Scratch())) }
	case "header":
		name = textproto.CanonicalMIMEHeaderKey(name)
		s.by = func(x *exchange.Exchange) uint64 {
			value := x.RequestHeader(name)
			if len(value) == 0 {
				return 0
			}
			return balance.HashBytes(value)
		}
	default:
		s.before = []byte(c.Cookie + "=")
		attributes := "; Path=" + c.CookiePath
		if c.CookieMaxAge > 0 {
			attributes += "; Max-Age=" + strconv.FormatInt(int64(c.CookieMaxAge.Seconds()), 10)
		}
		s.after = []byte(attributes + "; HttpOnly; SameSite=Lax")
		s.by = s.byCookie
	}
	return s
}

// idLen is the length of what the cookie holds: 128 random bits in hexadecimal digits.
const idLen = 32

// byCookie recognises a client by its cookie and gives one to whoever has none. A client that writes its own gains nothing that
// it would not by dropping it: another draw.
func (s *sticky) byCookie(x *exchange.Exchange) uint64 {
	id := x.Cookie(s.name)
	if !isID(id) {
		cookie := append(x.Scratch(), s.before...)
		cookie = appendHex(appendHex(cookie, rand.Uint64()), rand.Uint64())
		id = cookie[len(cookie)-idLen:]
		key := balance.HashBytes(id)
		cookie = append(cookie, s.after...)
		if x.Scheme == "https" {
			cookie = append(cookie, "; Secure"...)
		}
		x.ToClient.Add("Set-Cookie", x.Keep(cookie))
		return key
	}
	return balance.HashBytes(id)
}

func isID(b []byte) bool {
	if len(b) != idLen {
		return false
	}
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func appendHex(dst []byte, n uint64) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, digits[n>>shift&15])
	}
	return dst
}

// Override lets a header or a cookie of the request choose the service. Whoever may send it chooses, so what it chooses is
// kept from what decides about a rollout.
type Override struct {
	// Off: nothing chooses.
	Off bool `yaml:"-"`
	// Header that is looked at first.
	Header string `yaml:"header"`
	// Cookie that is looked at where the header chooses nothing.
	Cookie string `yaml:"cookie"`
	// Values of the header or the cookie, each with the service that it chooses, also one with a weight of 0. Other values choose nothing.
	Values map[string]string `yaml:"values" required:"true"`
}

func (c *Override) check(split *Config) (errs config.Errors) {
	if c.Header == "" && c.Cookie == "" {
		errs = append(errs, config.Errorf("header", "this setting is missing; give the name of a header, or of a cookie under cookie"))
	}
	if c.Header != "" && !exchange.IsToken(c.Header) {
		errs = append(errs, config.Errorf("header", "%q can not be the name of a header", c.Header))
	}
	if c.Cookie != "" && !exchange.IsToken(c.Cookie) {
		errs = append(errs, config.Errorf("cookie", "%q can not be the name of a cookie", c.Cookie))
	}
	for value, service := range c.Values {
		if split.member(service) < 0 {
			names := make([]string, len(split.Services))
			for i, m := range split.Services {
				names[i] = m.Service
			}
			errs = append(errs, config.Errorf("values["+strconv.Quote(value)+"]", "%q is no service of this split; there are: %s", service, strings.Join(names, ", ")))
		}
	}
	return prefixed("override", errs)
}

type override struct {
	header, cookie string
	members        map[string]int
}

func newOverride(c *Override, names []string) *override {
	o := &override{cookie: c.Cookie, members: make(map[string]int)}
	if c.Header != "" {
		o.header = textproto.CanonicalMIMEHeaderKey(c.Header)
	}
	for value, service := range c.Values {
		for i, name := range names {
			if name == service {
				o.members[value] = i
			}
		}
	}
	return o
}

// choose returns the member that the request asks for, -1 for none.
func (o *override) choose(x *exchange.Exchange) int {
	if o.header != "" {
		if i, ok := o.members[string(x.RequestHeader(o.header))]; ok {
			return i
		}
	}
	if o.cookie != "" {
		if i, ok := o.members[string(x.Cookie(o.cookie))]; ok {
			return i
		}
	}
	return -1
}
