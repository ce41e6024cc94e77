package concurrency

import (
	"strings"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// class is the priority of a request; the lower the number, the later it is refused.
type class uint8

const (
	high class = iota
	normal
	low
	classes
)

// classifier tells the priority of a request. A nil classifier takes all for normal.
type classifier struct {
	kind  string // header, claim, consumer, group; "" for a fixed class
	name  string
	of    map[string]class
	fixed class
}

func newClassifier(b *policy.Build, p *Priority) (*classifier, error) {
	if p.By == "" {
		if len(p.High)+len(p.Low) > 0 {
			return nil, policy.Wrong("priority.by", "is missing; say what high and low are values of: route, consumer, group, header:NAME or claim:NAME")
		}
		return nil, nil
	}
	c := &classifier{of: make(map[string]class), fixed: normal}
	for i, values := range [...][]string{high: p.High, low: p.Low} {
		for _, v := range values {
			if at, twice := c.of[v]; twice && at != class(i) {
				return nil, policy.Wrong("priority.low", "%q is high already", v)
			}
			c.of[v] = class(i)
		}
	}
	if len(c.of) == 0 {
		return nil, policy.Wrong("priority", "names no values; give high or low")
	}
	c.kind, c.name, _ = strings.Cut(p.By, ":")
	switch {
	case c.kind == "route" && c.name == "":
		if strings.HasPrefix(b.Scope, "routes.") {
			return nil, policy.Wrong("priority.by", "this block is of one route alone; write it where several share it, under policies or a service")
		}
		if at, ok := c.of[b.Route.Name]; ok {
			c.fixed = at
		}
		for name := range c.of {
			if b.World.Config.Routes[name] == nil {
				return nil, policy.Wrong("priority", "there is no route %q", name)
			}
		}
		c.kind = ""
	case (c.kind == "consumer" || c.kind == "group") && c.name == "":
		for name := range c.of {
			if c.kind == "consumer" && b.World.Consumers[name] == nil {
				return nil, policy.Wrong("priority", "there is no consumer %q", name)
			}
		}
	case c.kind == "header" && exchange.IsToken(c.name), c.kind == "claim" && c.name != "":
	default:
		return nil, policy.Wrong("priority.by", "%q is none of route, consumer, group, header:NAME, claim:NAME", p.By)
	}
	return c, nil
}

func (c *classifier) classOf(x *exchange.Exchange) class {
	if c == nil {
		return normal
	}
	id := &x.Identity
	switch c.kind {
	case "header":
		if at, ok := c.of[string(x.RequestHeader(c.name))]; ok {
			return at
		}
	case "claim":
		if id.Claims != nil {
			value, _ := id.Claims.Claim(c.name)
			if at, ok := c.of[string(value)]; ok {
				return at
			}
		}
	case "consumer":
		if id.Consumer != nil {
			if at, ok := c.of[id.Consumer.Name]; ok {
				return at
			}
		}
	case "group":
		best := classes
		if id.Consumer != nil {
			for _, g := range id.Consumer.Groups {
				if at, ok := c.of[g]; ok {
					best = min(best, at)
				}
			}
		}
		if best < classes {
			return best
		}
	}
	return c.fixed
}

// bound is how much may be in flight for a request of this class to be let in: the rest is reserved for those above it, a tenth of
// the whole for each class, and enough to ride out a burst.
func (c *classifier) bound(at class, full, usual uint32) uint32 {
	if c == nil {
		return usual
	}
	reserve := max(full/10, 5)
	switch at {
	case high:
		return full
	case low:
		return max(less(usual, 2*reserve), usual/4, 1)
	}
	return max(less(usual, reserve), usual/2, 1)
}

func less(a, b uint32) uint32 {
	if a < b {
		return 0
	}
	return a - b
}
