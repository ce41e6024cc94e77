// Package split is the action that divides a route's requests between services by weight, as between a stable version
// and a canary. A service is chosen before its Transform policies run, so that each member has its own.
//
// Weights are living state: they begin as the file has them, the admin listener and a rollout change them, and they
// outlive every reload that leaves the block in the file as it is. Who is kept at a service (see Sticky) stays there
// while its share does not fall: a change of weights moves clients only to services whose share grows, and no more of
// them than it grows by.
package split

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"sluice/config"
	"sluice/gateway/action"
	"sluice/gateway/exchange"
	"sluice/gateway/upstream"
	"sluice/gateway/upstream/balance"
)

// Config of the action. The admin API tells the weights (`GET /api/routes/NAME/split`) and changes them at once: `PUT` of
// `{"weights": {"stable": 0, "canary": 100}}`, or `{"switch": "canary"}`. They hold until this block of the file is another one, over every other reload.
// A client who is kept moves only when the share of its service falls, and only to one whose share grows, so that nobody comes back from a canary that grows.
//
// A rollout compares the last service with the others over windows of time: requests that fail (a status of 500 and above, or no answer) and the 95th
// percentile of the time until the response head of those that do not. A window that is bad for its errors rolls back at once, two in succession that are bad for their
// latency do: the last service then gets nothing, and the state is `rolled_back`. With too few requests a window goes on, so that nothing moves without having been judged, and
// the time of a step begins with its first request. The others keep their weights beside each other; the last one's own is not used. Where the others get too little to be
// compared with, as at 100%, they count as when they last had enough. `{"rollout": "pause"}`, `resume`, `advance`, `abort` and `restart` steer it; a paused one goes back if it has to.
// Weights that are set by hand end it.
//
// With `state.dir`, weights and rollouts outlive the process while the block stays as it is: a gateway that starts again goes on with the step that it was in, watched for its whole
// time again, and what was rolled back stays so; `restart` begins with the first step. Without, a restart begins with what the file says.
type Config struct {
	// Services that share the requests. What goes to a service whose breaker is open or none of whose endpoints is healthy is divided among the others by their weights; where there is none with a weight, it is answered 503.
	Services []Member `yaml:"services" required:"true"`
	// Sticky keeps a client at the service that it got first, the same at all gateways, and for all routes that split between the same services. Off when left out.
	Sticky Sticky `yaml:"sticky" default:"off"`
	// Override lets a header or a cookie choose the service, whatever the weights. What is overridden does not count for a rollout. Off when left out.
	Override Override `yaml:"override" default:"off"`
	// Rollout moves the weight to the last service step by step while that does as well as the others, and takes it all away when it does not. Off when left out.
	Rollout Rollout `yaml:"rollout" default:"off"`
}

// Member is a service with its share of the requests.
type Member struct {
	// Service that gets the requests, by name.
	Service string `yaml:"service" required:"true" json:"service"`
	// Weight is the share relative to the other weights; 0 gets none. The admin API changes it for as long as this block stays as it is.
	Weight int `yaml:"weight" default:"1" min:"0" max:"1000000" json:"weight"`
}

// Validate reports weights that choose nothing, and settings that contradict each other.
func (c *Config) Validate() error {
	var errs config.Errors
	total := 0
	for i, m := range c.Services {
		total += m.Weight
		if c.member(m.Service) < i {
			errs = append(errs, config.Errorf(setting(i), "%q stands here twice; add the weights", m.Service))
		}
	}
	if total == 0 {
		errs = append(errs, config.Errorf("services", "every weight is 0, so no service would get a request"))
	}
	if !c.Sticky.Off {
		errs = append(errs, c.Sticky.check()...)
	}
	if !c.Override.Off {
		errs = append(errs, c.Override.check(c)...)
	}
	if !c.Rollout.Off {
		errs = append(errs, c.Rollout.check(c)...)
	}
	return errs.Err()
}

// member is the number of the service, -1 for none.
func (c *Config) member(service string) int {
	return slices.IndexFunc(c.Services, func(m Member) bool { return m.Service == service })
}

func setting(i int) string { return "services[" + strconv.Itoa(i) + "].service" }

// Definition is the action split.
var Definition = action.Define("split", build)

// split is the compiled action. It is immutable; what changes is in state.
type split struct {
	services []*upstream.Service
	salts    []uint64 // of the services' names
	state    *State
	sticky   sticky
	override *override // nil: nothing chooses
}

// mark is what choosing leaves for serving.
type mark struct{ overridden bool }

var marks = exchange.NewSlot[mark]()

func build(b *action.Build, c *Config) (*action.Action, error) {
	var errs config.Errors
	s := &split{}
	names := make([]string, len(c.Services))
	for i, m := range c.Services {
		service := b.Service(m.Service)
		if service == nil {
			existing := slices.Sorted(maps.Keys(b.World.Config.Services))
			errs = append(errs, b.World.Config.Errorf(b.Path+"."+setting(i), "there is no service %q; there are: %s", m.Service, strings.Join(existing, ", ")))
		}
		names[i] = m.Service
		s.services = append(s.services, service)
		s.salts = append(s.salts, balance.HashString(m.Service))
	}
	if len(errs) > 0 {
		return nil, errs
	}
	if !c.Sticky.Off {
		s.sticky = newSticky(&c.Sticky)
	}
	if !c.Override.Off {
		s.override = newOverride(&c.Override, names)
	}
	living, err := livingOf(b, c)
	if err != nil {
		return nil, err
	}
	s.state = living.state
	return &action.Action{
		Members: names, Choose: s.choose, Serve: s.serve,
		Start: living.start, Stop: living.stop, Live: s.state,
	}, nil
}

// choose picks the member for a request.
func (s *split) choose(x *exchange.Exchange) int {
	if s.override != nil {
		if i := s.override.choose(x); i >= 0 {
			if s.state.counts != nil {
				marks.Of(x).overridden = true
			}
			return i
		}
	}
	var key uint64
	if s.sticky.by == nil {
		key = rand.Uint64()
	} else if key = s.sticky.by(x); key == 0 {
		key = rand.Uint64()
	}
	t := s.state.table.Load()
	i := s.pick(t, key, 0)
	if s.services[i].Available(x.Start) {
		return i
	}
	// Where the rollout's own service is out of order, that is what the rollout is to notice.
	if s.state.counts != nil {
		s.state.counts.failed(i == len(s.services)-1)
	}
	if other := s.pick(t, key, x.Start); other >= 0 {
		return other
	}
	return i
}

// pick returns the member whose turn a key is: weighted rendezvous, in which every member draws its own number from the key
// and the greatest wins. Between two members it depends on nothing but their own weights, so that a key changes hands only
// towards a weight that grew beside the other. With a time, members that are not available then draw nothing; -1 if
// none is left.
func (s *split) pick(t *table, key uint64, available int64) int {
	best, least := -1, math.Inf(1)
	if t.only >= 0 && available == 0 {
		return t.only
	}
	for i, inverse := range t.inverse {
		if inverse == 0 || available != 0 && !s.services[i].Available(available) {
			continue
		}
		drawn := (float64(mix(key^s.salts[i])>>11) + 0.5) * 0x1p-53
		if score := -math.Log(drawn) * inverse; score < least {
			best, least = i, score
		}
	}
	return best
}

// mix spreads what differs in a few bits over all of them (splitmix64's finalizer).
func mix(h uint64) uint64 {
	h += 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// serve forwards to the member that was chosen.
func (s *split) serve(x *exchange.Exchange) error {
	err := s.services[x.Member].Forward(x)
	if s.state.counts != nil && !marks.Has(x) {
		s.state.counts.observe(x, x.Member == len(s.services)-1, err)
	}
	return err
}

// table is a set of weights. It is immutable.
type table struct {
	weights []int
	inverse []float64 // 1/weight, 0 for a weight of 0
	only    int       // the one member with a weight, -1 if there are several
}

func newTable(weights []int) *table {
	t := &table{weights: weights, inverse: make([]float64, len(weights)), only: -1}
	with := 0
	for i, w := range weights {
		if w > 0 {
			t.inverse[i] = 1 / float64(w)
			t.only = i
			with++
		}
	}
	if with != 1 {
		t.only = -1
	}
	return t
}

// share of a member, 0 to 1.
func (t *table) share(i int) float64 {
	total := 0
	for _, w := range t.weights {
		total += w
	}
	return float64(t.weights[i]) / float64(cmp.Or(total, 1))
}

func (t *table) String() string { return fmt.Sprint(t.weights) }
