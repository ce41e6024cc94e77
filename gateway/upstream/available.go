package upstream

// Available reports whether a request for the service would be tried: its breaker admits one, and health and breaker
// of one of its endpoints do. It is a look at the moment; whoever sends a request may still be refused.
func (s *Service) Available(now int64) bool {
	if s.breaker != nil && s.breaker.RetryAfter(now) > 0 {
		return false
	}
	for _, ep := range s.live.Load().endpoints {
		if ep.InOrder() && (ep.breaker == nil || ep.breaker.RetryAfter(now) == 0) {
			return true
		}
	}
	return false
}
