package router

import (
	"bytes"
	"net/netip"
	"strings"
)

// maxHost is the length of the longest name that DNS can carry. Longer hosts still
// match routes without hosts.
const maxHost = 255

// NormalizeHost returns the form of a Host field, an authority or a server name that
// Request wants: lower case, without port, brackets of an IPv6 literal or the dot
// of a fully qualified name. It judges nothing; what is malformed comes back as it
// is and matches no configured host.
//
// The result shares memory with host when no letter changes, else it is written over dst[:0],
// which needs the capacity of host to save an allocation. dst may be host[:0].
func NormalizeHost(dst, host []byte) []byte {
	if len(host) > 0 && host[0] == '[' {
		if end := bytes.IndexByte(host, ']'); end > 0 && isPort(host[end+1:]) {
			host = host[1:end]
		}
	} else if colon := bytes.IndexByte(host, ':'); colon >= 0 && isPort(host[colon:]) {
		host = host[:colon]
	}
	if n := len(host); n > 1 && host[n-1] == '.' {
		host = host[:n-1]
	}
	for i, c := range host {
		if 'A' <= c && c <= 'Z' {
			out := append(dst[:0], host...)
			for ; i < len(out); i++ {
				if c := out[i]; 'A' <= c && c <= 'Z' {
					out[i] = c | 0x20
				}
			}
			return out
		}
	}
	return host
}

// isPort accepts nothing, or a colon and digits: RFC 3986 allows an empty port.
func isPort(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	if b[0] != ':' {
		return false
	}
	for _, c := range b[1:] {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// hostPattern is an exact name, or a wildcard when wild: then name is the suffix with
// its leading dot. The zero value stands for any host.
type hostPattern struct {
	name string
	wild bool
}

// parseHost reads one entry of Route.Hosts or Route.SNIs; a problem is told by reason.
func parseHost(text string) (p hostPattern, reason string) {
	if text == "*" {
		return p, ""
	}
	name := string(NormalizeHost(nil, []byte(text)))
	if rest, ok := strings.CutPrefix(name, "*."); ok {
		p = hostPattern{"." + rest, true}
	} else {
		p = hostPattern{name, false}
	}
	literal := strings.TrimPrefix(p.name, ".")
	switch {
	case literal == "":
		return p, "is empty"
	case len(text) > maxHost:
		return p, "is longer than any host name"
	case strings.Contains(literal, "*"):
		return p, `has a "*" that is not the whole first label: write "*.example.org"`
	case strings.ContainsAny(literal, "/?#@ "):
		return p, "is not a host name: leave out scheme, user and path"
	case strings.HasPrefix(literal, ".") || strings.HasSuffix(literal, ".") || strings.Contains(literal, ".."):
		return p, "has an empty label"
	}
	if ip, err := netip.ParseAddr(literal); strings.Contains(text, ":") && (err != nil || !ip.Is6() || strings.HasPrefix(text, "[") && !strings.HasSuffix(text, "]")) {
		return p, "has a port: hosts are matched without it, limit the route to a listener instead"
	}
	for _, c := range []byte(literal) {
		if c <= ' ' || c >= 0x7f {
			return p, `has bytes that no Host field carries: write an international name as "xn--…"`
		}
	}
	return p, ""
}

// matches is the plain form of what the host index of a Table answers.
func (p hostPattern) matches(host string) bool {
	if p.wild {
		return len(host) <= maxHost && len(host) > len(p.name) && strings.HasSuffix(host, p.name)
	}
	return p.name == "" || p.name == host
}

// overlaps reports whether some host matches both.
func (p hostPattern) overlaps(q hostPattern) bool {
	switch {
	case p.name == "" || q.name == "":
		return true
	case p.wild && q.wild:
		return strings.HasSuffix(p.name, q.name) || strings.HasSuffix(q.name, p.name)
	case p.wild:
		return p.matches(q.name)
	}
	return q.matches(p.name)
}

func (p hostPattern) String() string {
	switch {
	case p.name == "":
		return "any host"
	case p.wild:
		return "*" + p.name
	}
	return p.name
}
