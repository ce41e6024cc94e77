package exchange

// Kind classes the header fields that a proxy must treat in a way of its own.
type Kind uint8

// The kinds of request header fields.
const (
	// KindOther passes end to end.
	KindOther Kind = iota
	// KindHop is hop-by-hop (RFC 9110, section 7.6.1) and never passes.
	KindHop
	// KindConnection is Connection: hop-by-hop, and names further such fields.
	KindConnection
	// KindUpgrade is Upgrade.
	KindUpgrade
	// KindTE is TE.
	KindTE
	// KindHost is Host.
	KindHost
	// KindContentLength and KindTransferEncoding frame the body.
	KindContentLength
	KindTransferEncoding
	// KindExpect is Expect.
	KindExpect
	// KindForwarded is one of the fields that say where a request came from;
	// the gateway writes them itself.
	KindForwarded
	// KindIdentity is one of the fields that say who the caller is; only the
	// gateway may set them.
	KindIdentity
	// KindVia is Via.
	KindVia
)

// Field is one header field of the request as it stood on the wire. Name and
// Value are borrowed from the engine's buffer.
type Field struct {
	Name, Value []byte
	Kind        Kind
}

// KindOf classes a field name. Underscores count as hyphens for identity
// fields: many backends fold the two (CGI, RFC 3875, section 4.1.18).
func KindOf(name []byte) Kind {
	if len(name) == 0 || initials[len(name)&31]>>(name[0]&31)&1 == 0 {
		return KindOther
	}
	return kindOf(name)
}

// initials has for each length, all below 32, the first letters of the names that
// kindOf knows, a bit for each. Nearly all fields of a request are none of them.
var initials = func() (set [32]uint32) {
	for _, name := range [...]string{
		"connection", "content-length", "expect", "forwarded", "host", "keep-alive", "proxy-connection", "proxy-authenticate",
		"proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade", "via",
	} {
		set[len(name)] |= 1 << (name[0] & 31)
	}
	for n := range set {
		set[n] |= 1 << ('x' & 31)
	}
	return set
}()

func kindOf(name []byte) Kind {
	switch name[0] | 0x20 {
	case 'c':
		switch len(name) {
		case 10:
			return kindIf(name, "connection", KindConnection)
		case 14:
			return kindIf(name, "content-length", KindContentLength)
		}
	case 'e':
		return kindIf(name, "expect", KindExpect)
	case 'f':
		return kindIf(name, "forwarded", KindForwarded)
	case 'h':
		return kindIf(name, "host", KindHost)
	case 'k':
		return kindIf(name, "keep-alive", KindHop)
	case 'p':
		switch len(name) {
		case 16:
			return kindIf(name, "proxy-connection", KindHop)
		case 18:
			return kindIf(name, "proxy-authenticate", KindHop)
		case 19:
			return kindIf(name, "proxy-authorization", KindHop)
		}
	case 't':
		switch len(name) {
		case 2:
			return kindIf(name, "te", KindTE)
		case 7:
			return kindIf(name, "trailer", KindHop)
		case 17:
			return kindIf(name, "transfer-encoding", KindTransferEncoding)
		}
	case 'u':
		return kindIf(name, "upgrade", KindUpgrade)
	case 'v':
		return kindIf(name, "via", KindVia)
	case 'x':
		return kindOfX(name)
	}
	return KindOther
}

func kindIf(name []byte, want string, k Kind) Kind {
	if EqualFold(name, want) {
		return k
	}
	return KindOther
}

func kindOfX(name []byte) Kind {
	if len(name) < 9 || name[1] != '-' && name[1] != '_' {
		return KindOther
	}
	switch name[2] | 0x20 {
	case 'f':
		for _, f := range [...]string{"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix"} {
			if foldedEqual(name, f) {
				return KindForwarded
			}
		}
	case 'r':
		if foldedEqual(name, "x-real-ip") {
			return KindForwarded
		}
	case 'u':
		if foldedEqual(name, "x-user-id") {
			return KindIdentity
		}
	case 'c':
		for _, f := range [...]string{"x-consumer-id", "x-consumer-groups", "x-consumer-custom-id", "x-consumer-username", "x-credential-identifier"} {
			if foldedEqual(name, f) {
				return KindIdentity
			}
		}
	case 'a':
		if foldedEqual(name, "x-anonymous-consumer") || foldedEqual(name, "x-authenticated-groups") {
			return KindIdentity
		}
	}
	return KindOther
}

// SameField reports whether a field of the client is the one called name for a backend that reads underscores as hyphens.
func SameField(field []byte, name string) bool { return foldedEqual(field, name) }

// foldedEqual compares like EqualFold, with underscores read as hyphens on both sides.
func foldedEqual(name []byte, want string) bool {
	if len(name) != len(want) {
		return false
	}
	for i := range name {
		if folded(name[i]) != folded(want[i]) {
			return false
		}
	}
	return true
}

func folded(c byte) byte {
	if c == '_' {
		return '-'
	}
	return lower(c)
}
