package balance

import "time"

// Outlier are the settings of outlier detection: an endpoint that answers several requests in a row with errors gets
// none for a while. The zero value switches it off.
type Outlier struct {
	Consecutive int           // errors in a row that eject; 0: off
	Ejection    time.Duration // length of a first ejection; 0: 30 s
	MaxEjected  float64       // share of a service's endpoints that may be ejected at a time, in (0, 1]; 0: 0.5
}

const (
	defaultEjection = 30 * time.Second
	maxEjection     = 5 * time.Minute
)

func (o Outlier) withDefaults() Outlier {
	if o.Ejection <= 0 {
		o.Ejection = defaultEjection
	}
	if o.MaxEjected <= 0 {
		o.MaxEjected = 0.5
	}
	return o
}

// Event is what outlier detection did.
type Event uint8

const (
	Ejected  Event = iota // the endpoint gets no requests for the duration told
	Returned              // the first request of an endpoint whose ejection is over has ended
	Spared                // an ejection was due, but too many endpoints, or all others, are out already
)

func (e Event) String() string { return [...]string{"ejected", "returned", "spared"}[e] }

// eject takes an endpoint out of the choice. Counting the ejected and adding one to them is one step under the group's
// lock, so that endpoints which fail together, also in different generations of the configuration, never exceed the
// limit. One endpoint may always go as long as another can take its requests. The n-th ejection in a row lasts n times
// as long, at most five minutes (or one ejection, if that is longer); each such length of time without an ejection
// takes one back.
func (s *Set) eject(e *Endpoint, now int64) {
	event, d := Spared, time.Duration(0)
	g := s.group
	g.ejecting.Lock()
	if e.ejectedUntil.Load() > now {
		g.ejecting.Unlock()
		return
	}
	out, others := 0, 0
	for i := range s.members {
		switch m := s.members[i].Endpoint; {
		case m == e:
		case m.ejectedUntil.Load() > now:
			out++
		case m.state.Load()&(stateDraining|stateUnhealthy) == 0:
			others++
		}
	}
	limit := max(1, int(s.outlier.MaxEjected*float64(len(s.members))+1e-9))
	if others > 0 && out < limit {
		if until := e.ejectedUntil.Load(); e.streak > 0 {
			e.streak = max(0, e.streak-int((now-until)/int64(s.outlier.Ejection)))
		}
		e.streak++
		event, d = Ejected, min(s.outlier.Ejection*time.Duration(e.streak), max(maxEjection, s.outlier.Ejection))
		e.ejectedUntil.Store(now + int64(d))
		e.state.Or(stateEjected)
		e.consecutive.Store(0)
	}
	g.ejecting.Unlock()
	if s.event != nil {
		s.event(event, e, d)
	}
}

// settle clears the mark of an ejection that is over.
func (s *Set) settle(e *Endpoint, now int64) {
	if e.ejectedUntil.Load() > now {
		return
	}
	g := s.group
	g.ejecting.Lock()
	over := e.ejectedUntil.Load() <= now && e.state.Load()&stateEjected != 0
	if over {
		e.state.And(^uint32(stateEjected))
	}
	g.ejecting.Unlock()
	if over && s.event != nil {
		s.event(Returned, e, 0)
	}
}
