package compression

import (
	"bytes"

	"sluice/gateway/coding"
	"sluice/gateway/exchange"
)

// weight is a qvalue in thousandths, plus one; 0 where none was given.
type weight uint16

// full is the weight of 1.
const full = weight(1001)

func (w weight) given() bool { return w > 0 }

// acceptance is what the Accept-Encoding fields of a request say.
type acceptance struct {
	given  bool
	any    weight // of *
	weight [coding.Count]weight
}

// read reads the fields. A member that is malformed counts for nothing, since
// what a client has not said well must not be sent to it.
func (a *acceptance) read(x *exchange.Exchange) {
	for i := range x.Fields {
		f := &x.Fields[i]
		if len(f.Name) != len("accept-encoding") || !exchange.EqualFold(f.Name, "accept-encoding") {
			continue
		}
		a.given = true
		for rest := f.Value; len(rest) > 0; {
			var member []byte
			member, rest, _ = bytes.Cut(rest, comma)
			a.add(member)
		}
	}
}

var comma = []byte(",")

func (a *acceptance) add(member []byte) {
	name, parameters, weighted := bytes.Cut(member, []byte(";"))
	w := full
	if weighted {
		if w = parseWeight(exchange.TrimOWS(parameters)); !w.given() {
			return
		}
	}
	to := &a.any
	switch name = exchange.TrimOWS(name); {
	case string(name) == "*":
	case exchange.EqualFold(name, "gzip"), exchange.EqualFold(name, "x-gzip"):
		to = &a.weight[coding.Gzip]
	case exchange.EqualFold(name, "br"):
		to = &a.weight[coding.Brotli]
	case exchange.EqualFold(name, "zstd"):
		to = &a.weight[coding.Zstd]
	case exchange.EqualFold(name, "identity"):
		to = &a.weight[coding.Identity]
	default:
		return
	}
	if !to.given() {
		*to = w
	}
}

// parseWeight reads q=0.123; 0 is for what is none (RFC 9110, section 12.4.2).
func parseWeight(b []byte) weight {
	if len(b) < 3 || b[0]|0x20 != 'q' || b[1] != '=' || len(b) > len("q=0.123") || len(b) > 3 && b[3] != '.' {
		return 0
	}
	n, unit := weight(b[2]-'0')*1000, weight(100)
	if b[2] != '0' && b[2] != '1' {
		return 0
	}
	for _, c := range b[min(4, len(b)):] {
		if c < '0' || c > '9' {
			return 0
		}
		n += weight(c-'0') * unit
		unit /= 10
	}
	if n > 1000 {
		return 0
	}
	return n + 1
}

// of is the weight of a coding as things stand: 1 is not acceptable.
func (a *acceptance) of(c coding.Coding) weight {
	switch {
	case a.weight[c].given():
		return a.weight[c]
	case a.any.given():
		return a.any
	}
	return 1
}

// accepts reports whether the client wants to be sent this coding.
func (a *acceptance) accepts(c coding.Coding) bool { return a.of(c) > 1 }

// refusesIdentity reports whether a body that is not coded is not acceptable:
// that has to be said (RFC 9110, section 12.5.3).
func (a *acceptance) refusesIdentity() bool {
	if w := a.weight[coding.Identity]; w.given() {
		return w == 1
	}
	return a.any == 1
}

// choose returns the coding that the client likes best, of equals the first in
// order. Without a coding that is as welcome as a plain body it is Identity.
func (a *acceptance) choose(order []coding.Coding) coding.Coding {
	best, most := coding.Identity, max(a.weight[coding.Identity], 2)-1
	for _, c := range order {
		if w := a.of(c); w > most && w > 1 {
			best, most = c, w
		}
	}
	return best
}
