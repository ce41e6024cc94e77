package snapshot

import (
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/usage"
)

// countUsage counts a request that has ended for whoever asked.
func countUsage(c *usage.Counter, x *exchange.Exchange) {
	took := max(x.Ended-x.Start, 0)
	s := usage.Sample{
		Route: usage.Unrouted, Version: x.APIVersion, Status: x.Status, BytesIn: x.BytesIn, BytesOut: x.BytesOut,
		Duration: time.Duration(took), Ended: (x.Arrived.UnixNano() + took) / int64(time.Second),
	}
	if x.Route != nil {
		s.Route = x.Route.Name
	}
	if x.Tenant != nil {
		s.Tenant = x.Tenant.Name
	}
	switch id := &x.Identity; {
	case id.Consumer != nil:
		s.Consumer = id.Consumer.Name
	case id.Authenticated:
		s.Subject = id.Subject
	}
	if x.Reject != nil && x.Status < 500 {
		s.Reason = x.Reject.Reason
	}
	c.Count(&s)
}
