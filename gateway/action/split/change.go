package split

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Change is what the admin API asks of a split: one of weights, a switch, or a word for the rollout.
type Change struct {
	// Weights of all services by name.
	Weights map[string]int `json:"weights"`
	// Services are the weights as a configuration has them, all of them.
	Services []Weighted `json:"services"`
	// Switch gives everything to this service.
	Switch string `json:"switch"`
	// Rollout is one of pause, resume, advance, abort, restart.
	Rollout string `json:"rollout"`
}

// Weighted is a service with its weight; left out it is 1, as in a configuration.
type Weighted struct {
	Service string `json:"service"`
	Weight  *int   `json:"weight"`
}

// ParseChange reads a Change from JSON: an object, or a list of services.
func ParseChange(data []byte) (*Change, error) {
	c := &Change{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var into any = c
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '[' {
		into = &c.Services
	}
	err := d.Decode(into)
	if err == nil && d.More() {
		err = errors.New("there is more behind it")
	}
	if err != nil {
		return nil, fmt.Errorf(`send {"weights": {"stable": 95, "canary": 5}}, {"switch": "canary"}, [{"service": "stable", "weight": 95}, …] or {"rollout": "pause"}: %w`, err)
	}
	given := 0
	for _, is := range [...]bool{c.Weights != nil, c.Services != nil, c.Switch != "", c.Rollout != ""} {
		if is {
			given++
		}
	}
	if given != 1 {
		return nil, errors.New("send exactly one of weights, services, switch, rollout")
	}
	return c, nil
}

// ErrChanged says that the split is not the one that was meant.
var ErrChanged = errors.New("the split is another one than If-Match names; get it again")

// ConflictError says that a rollout is in no state for what was asked.
type ConflictError struct{ message string }

func (e *ConflictError) Error() string { return e.message }

// Change carries out what the admin API asks, all of it at once or nothing. meant, which may be nil, is asked whether the version is the
// one that the change is for. Weights that are set by hand end a rollout.
func (s *State) Change(c *Change, by string, meant func(version uint64) bool) (View, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if meant != nil && !meant(s.version) {
		return View{}, 0, ErrChanged
	}
	var err error
	if c.Rollout != "" {
		err = s.steer(c.Rollout)
	} else {
		err = s.reweigh(c, by)
	}
	if err != nil {
		return View{}, 0, err
	}
	return s.look(), s.version, nil
}

// maxWeight is that of a configuration.
const maxWeight = 1_000_000

func (s *State) reweigh(c *Change, by string) error {
	given := make(map[string]int)
	maps.Copy(given, c.Weights)
	for _, m := range c.Services {
		if _, twice := given[m.Service]; twice {
			return fmt.Errorf("services: %q stands here twice", m.Service)
		}
		given[m.Service] = 1
		if m.Weight != nil {
			given[m.Service] = *m.Weight
		}
	}
	if c.Switch != "" {
		for _, member := range s.members {
			given[member] = 0
		}
		given[c.Switch] = 100
	}
	weights := make([]int, len(s.members))
	total := 0
	for i, member := range s.members {
		w, ok := given[member]
		switch {
		case !ok:
			return fmt.Errorf("there is no weight for %q; give one for each of %s", member, strings.Join(s.members, ", "))
		case w < 0 || w > maxWeight:
			return fmt.Errorf("the weight of %q is %d; it must be from 0 to %d", member, w, maxWeight)
		}
		weights[i], total = w, total+w
		delete(given, member)
	}
	if len(given) > 0 {
		return fmt.Errorf("%q is no service of this split; there are: %s", slices.Sorted(maps.Keys(given))[0], strings.Join(s.members, ", "))
	}
	if total == 0 {
		return errors.New("every weight is 0, so no service would get a request")
	}
	from := s.table.Load().String()
	s.source = "admin"
	s.set(weights)
	s.log.Info("split", "route", s.route, "services", strings.Join(s.members, ","), "from", from, "to", s.table.Load().String(), "by", by)
	if r := s.rollout; r != nil && r.state != overridden {
		r.state, r.reason = overridden, ""
		s.note("overridden")
		return nil
	}
	s.keep()
	return nil
}

// steer does what an operator says about the rollout.
func (s *State) steer(word string) error {
	r := s.rollout
	if r == nil {
		return &ConflictError{"this split has no rollout"}
	}
	now := s.clock.Now()
	wrong := func() error {
		return &ConflictError{fmt.Sprintf("the rollout is %s; that leaves nothing to %s", r.state, word)}
	}
	switch word {
	case "pause":
		if r.state != running {
			return wrong()
		}
		r.state = paused
		s.note("paused")
	case "resume":
		if r.state != paused {
			return wrong()
		}
		r.state = running
		r.enter(r.step, now)
		s.note("resumed")
	case "advance":
		if !r.active() {
			return wrong()
		}
		s.advance(now)
	case "abort":
		if !r.active() && r.state != complete {
			return wrong()
		}
		r.state, r.reason = aborted, ""
		s.move("aborted")
	case "restart":
		r.state, r.reason, r.judged = running, "", false
		r.enter(0, now)
		s.move("started")
	default:
		return fmt.Errorf("rollout: %q is none of pause, resume, advance, abort, restart", word)
	}
	return nil
}
