package snapshot

import (
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/usage"
)

// routeStep keeps what is counted for the consumers of one route away from that of the next.
const routeStep = 37

// countUsage counts a request that has ended for whoever asked.
func countUsage(c *usage.Counter, x *exchange.Exchange) {
	var s usage.Sample // filled in field by field: a literal would be made, and then copied here
	took := max(x.Ended-x.Start, 0)
	s.Status, s.BytesIn, s.BytesOut, s.Version = x.Status, x.BytesIn, x.BytesOut, x.APIVersion
	s.Duration, s.Ended = time.Duration(took), (x.Arrived.UnixNano()+took)/int64(time.Second)
	if r := x.Route; r != nil {
		s.Route, s.Near = r.Name, uint32(r.ID)*routeStep
	} else {
		s.Route = usage.Unrouted
	}
	if x.Tenant != nil {
		s.Tenant = x.Tenant.Name
	}
	switch id := &x.Identity; {
	case id.Consumer != nil:
		s.Consumer = id.Consumer.Name
		s.Near += uint32(id.Consumer.Index)
	case id.Authenticated:
		s.Subject = id.Subject
	}
	if x.Reject != nil && x.Status < 500 {
		s.Reason = x.Reject.Reason
	}
	c.Count(&s)
}
