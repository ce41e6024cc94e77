package upstream

import (
	"errors"
	"sync"
)

// Errors of Drain.
var (
	ErrNoSuchEndpoint = errors.New("the service has no such endpoint")
	ErrLastEndpoint   = errors.New("it is the last endpoint that takes requests")
)

// draining lets one endpoint at a time be taken out, so that two requests can not take the last two.
var draining sync.Mutex

// Drain takes an endpoint out of the choice, or back in with a slow start; what is in flight is not touched. It holds over
// reloads, for as long as the service has the endpoint. Unless forced, the last one that takes requests stays.
func (s *Service) Drain(name string, out, force bool, now int64) error {
	draining.Lock()
	defer draining.Unlock()
	var found *endpoint
	others := false
	c := s.live.Load()
	for i, m := range c.set.Members() {
		switch ep := c.endpoints[i]; {
		case ep.name == name:
			found = ep
		case m.Weight > 0 && ep.InOrder():
			others = true
		}
	}
	switch {
	case found == nil:
		return ErrNoSuchEndpoint
	case out && !others && !force && found.InOrder():
		return ErrLastEndpoint
	}
	found.SetDraining(out, now)
	return nil
}
