package exchange

// Identity is what authentication established about the caller. Its zero value
// is nobody.
type Identity struct {
	// Authenticated is true once a credential was verified; also for an
	// anonymous consumer it stays false.
	Authenticated bool
	// Consumer is the configured consumer, nil where the subject is not one.
	Consumer *Consumer
	// Method is the policy that verified it, such as "jwt".
	Method string
	// Subject is the caller's name by its credential: a token's sub, a user
	// name. Nil where the credential names nobody.
	Subject []byte
	// Claims are the verified statements of a token, nil without one.
	Claims Claims
	// Credential is the id of the credential, nil where it has none of its own.
	Credential []byte
}

// Claims gives access to a token's verified claims. Implementations do not allocate.
type Claims interface {
	// Claim returns the claim at a dotted path as text: strings without their
	// quotes, anything else as JSON. It is borrowed.
	Claim(path string) (value []byte, ok bool)
	// ClaimHas reports whether the claim equals value, or is a list or a
	// space-separated string (RFC 6749, section 3.3) that contains it.
	ClaimHas(path, value string) bool
}

// Consumer is a configured consumer as the request path knows it.
type Consumer struct {
	// Name is its name in the configuration.
	Name string
	// Index numbers the consumers of a generation.
	Index int
	// Groups are its groups in configured order.
	Groups []string
	// GroupsHeader is the value of X-Consumer-Groups: the groups, comma-separated.
	GroupsHeader []byte
	// NameHeader is the name as bytes, for headers and keys.
	NameHeader []byte
	// Lines are header lines, each with its end, that tell backends of the consumer in the place of its name and groups; nil
	// for those.
	Lines []byte
	// Tenant is whose consumer it is, nil for nobody's.
	Tenant *Tenant
	// PolicySet numbers the set of policies that it brings along: its own, its
	// plan's and its tenant's; 0 for none. Consumers with equal sets share the number.
	PolicySet int
	// OwnSet numbers the policies of a consumer without a tenant among those of
	// others like it, 0 for none: on a host of a tenant the tenant's stand behind them.
	OwnSet int
}

// Tenant is a configured tenant as the request path knows it.
type Tenant struct {
	// Name is its name in the configuration.
	Name string
	// Index numbers the tenants of a generation.
	Index int
	// PolicySet numbers the set of policies of its requests that have no consumer, 0 for none.
	PolicySet int
}

// InGroup reports whether the consumer is a member of group.
func (c *Consumer) InGroup(group string) bool {
	for _, g := range c.Groups {
		if g == group {
			return true
		}
	}
	return false
}

// Caller returns the key of `by: consumer`: the consumer's name, else the
// authenticated subject, else the client's address; kind tells them apart.
// It is appended to dst.
func (x *Exchange) Caller(dst []byte) []byte {
	switch id := &x.Identity; {
	case id.Consumer != nil:
		dst = append(dst, "c:"...)
		return append(dst, id.Consumer.Name...)
	case id.Authenticated && len(id.Subject) > 0:
		dst = append(dst, "s:"...)
		return append(dst, id.Subject...)
	default:
		return x.AppendClientKey(dst)
	}
}

// AppendClientKey appends the client's address as a key of limits: IPv4 whole,
// IPv6 by its /64, the smallest block that one customer is given (RFC 6177).
func (x *Exchange) AppendClientKey(dst []byte) []byte {
	a := x.ClientAddr.Unmap()
	if a.Is4() {
		b := a.As4()
		dst = append(dst, "4:"...)
		return append(dst, b[:]...)
	}
	b := a.As16()
	dst = append(dst, "6:"...)
	return append(dst, b[:8]...)
}
