// Package split is the action that divides a route's requests between services by weight, as between a stable version
// and a canary. A service is chosen before its Transform policies run, so that each member has its own.
package split

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"sluice/config"
	"sluice/gateway/action"
	"sluice/gateway/exchange"
	"sluice/gateway/upstream"
)

// Config of the action.
type Config struct {
	// Services that share the requests.
	Services []Member `yaml:"services" required:"true"`
	// Sticky keeps a client at the service that it got first. Off when left out.
	Sticky Sticky `yaml:"sticky" default:"off"`
	// Override lets a header choose the service. Off when left out.
	Override Override `yaml:"override" default:"off"`
	// Rollout moves the weight to the last service step by step. Off when left out.
	Rollout Rollout `yaml:"rollout" default:"off"`
}

// Member is a service with its share of the requests.
type Member struct {
	// Service that gets the requests, by name.
	Service string `yaml:"service" required:"true"`
	// Weight is the share relative to the other weights; 0 gets none.
	Weight int `yaml:"weight" default:"1" min:"0" max:"1000000"`
}

// Sticky keeps a client at the service that it got first.
type Sticky struct {
	// Off: every request is divided anew.
	Off bool `yaml:"-"`
	// By what a client is recognised: `cookie`, `consumer` or `header:NAME`.
	By string `yaml:"by" required:"true"`
}

// Override lets a header of the request choose the service.
type Override struct {
	// Off: no header chooses.
	Off bool `yaml:"-"`
	// Header that is looked at.
	Header string `yaml:"header" required:"true"`
	// Values of the header, each with the service that it chooses.
	Values map[string]string `yaml:"values" required:"true"`
}

// Rollout moves the weight to the last service step by step, and back when that service is worse than the others.
type Rollout struct {
	// Off: the weights stay as they are.
	Off bool `yaml:"-"`
	// Steps are the shares of the last service in percent, in the order in which they are tried.
	Steps []int `yaml:"steps" default:"5,20,50,100" min:"0" max:"100"`
	// Every is how long a step is watched before the next.
	Every config.Duration `yaml:"every" default:"5m" min:"1s"`
	// MaxErrorRatio is the share of failed requests above which the rollout goes back.
	MaxErrorRatio config.Percent `yaml:"max_error_ratio" default:"1%"`
	// MaxLatencyRatio is how many times the latency of the others is accepted.
	MaxLatencyRatio float64 `yaml:"max_latency_ratio" default:"1.2" min:"0"`
}

// Validate reports weights that choose nothing, and what the gateway does not act on yet.
func (c *Config) Validate() error {
	var errs config.Errors
	for _, later := range [...]struct {
		name string
		off  bool
	}{{"sticky", c.Sticky.Off}, {"override", c.Override.Off}, {"rollout", c.Rollout.Off}} {
		if !later.off {
			errs = append(errs, config.Errorf(later.name, "is not built yet; leave it out"))
		}
	}
	total := 0
	for i, m := range c.Services {
		total += m.Weight
		if first := slices.IndexFunc(c.Services, func(other Member) bool { return other.Service == m.Service }); first < i {
			errs = append(errs, config.Errorf(setting(i), "%q stands here twice; add the weights", m.Service))
		}
	}
	if total == 0 {
		errs = append(errs, config.Errorf("services", "every weight is 0, so no service would get a request"))
	}
	return errs.Err()
}

func setting(i int) string { return "services[" + strconv.Itoa(i) + "].service" }

// Definition is the action split.
var Definition = action.Define("split", build)

// split is the compiled action. It is immutable.
type split struct {
	services []*upstream.Service
	// upTo[i] is the sum of the weights up to and with member i; the last is the total.
	upTo []uint64
}

func build(b *action.Build, c *Config) (*action.Action, error) {
	var errs config.Errors
	s := &split{}
	names := make([]string, len(c.Services))
	total := uint64(0)
	for i, m := range c.Services {
		service := b.Service(m.Service)
		if service == nil {
			existing := slices.Sorted(maps.Keys(b.World.Config.Services))
			errs = append(errs, b.World.Config.Errorf(b.Path+"."+setting(i), "there is no service %q; there are: %s", m.Service, strings.Join(existing, ", ")))
		}
		total += uint64(m.Weight)
		names[i] = m.Service
		s.services = append(s.services, service)
		s.upTo = append(s.upTo, total)
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return &action.Action{Members: names, Choose: s.choose, Serve: s.serve}, nil
}

// choose draws a member by weight. The generator is the runtime's own, one for each processor.
func (s *split) choose(*exchange.Exchange) int {
	drawn := rand.Uint64N(s.upTo[len(s.upTo)-1])
	for i, end := range s.upTo {
		if drawn < end {
			return i
		}
	}
	panic("BUG: a number beyond the sum of the weights was drawn")
}

// serve forwards to the member that was chosen.
func (s *split) serve(x *exchange.Exchange) error {
	return s.services[x.Member].Forward(x)
}
