package upstream

import "sluice/gateway/breaker"

// Hint tells the circuit breaker of an endpoint, or with "" the service's, that another instance has found it failing. It reports
// whether that made a difference: there may be no such endpoint here, or no breaker, and none opens on hearsay.
func (s *Service) Hint(now int64, endpoint string) bool {
	b := s.breakerOf(endpoint)
	if b == nil || !b.Hint(now) {
		return false
	}
	s.metrics.BreakerHints.Inc()
	return true
}

func (s *Service) breakerOf(endpoint string) *breaker.Breaker {
	if endpoint == "" {
		return s.breaker
	}
	for _, ep := range s.live.Load().endpoints {
		if ep.name == endpoint {
			return ep.breaker
		}
	}
	return nil
}
