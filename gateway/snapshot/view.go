package snapshot

import (
	"sluice/config"
	"sluice/gateway/action"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// RouteView is a route as operators see it.
type RouteView struct {
	Route  string `json:"route"`
	Source string `json:"source"`
	// Match has what the configuration has, with secret values hidden.
	Match    map[string]any `json:"match"`
	Action   string         `json:"action"`
	Services []string       `json:"services,omitempty"`
	// Policies are the names of the policies in force, in their order; of a split those of its first service.
	Policies []string `json:"policies"`
	// Split is the living part of a split: its weights and its rollout.
	Split any `json:"split,omitempty"`
}

// RouteViews shows the routes by name.
func (s *Snapshot) RouteViews() []RouteView {
	views := make([]RouteView, 0, len(s.routes))
	for _, r := range s.routes {
		views = append(views, s.viewRoute(r))
	}
	return views
}

func (s *Snapshot) viewRoute(r *route) RouteView {
	name, _ := r.config.Action()
	v := RouteView{
		Route: r.Name, Source: s.source("routes", r.Name), Match: matches(&r.config.Match),
		Action: name, Services: s.servicesOf(r), Policies: []string{},
	}
	for _, step := range r.members[0].program.Steps() {
		v.Policies = append(v.Policies, step.Name)
	}
	if name == "split" && r.action.Live != nil {
		v.Split = r.action.Live.View()
	}
	return v
}

// RouteDetail is a route with all that is in force on it, whoever calls.
type RouteDetail struct {
	RouteView
	// Effective are the policies with their settings, in their order. Where a split chooses the service, those that depend on
	// it are with the services.
	Effective []ExplainedPolicy  `json:"effective"`
	Ends      ExplainedAction    `json:"ends"`
	Targets   []ExplainedService `json:"targets,omitempty"`
}

// RouteDetail shows one route; false without it. Policies of consumers, tenants and their plans are not in it: Explain shows
// those of one caller.
func (s *Snapshot) RouteDetail(name string) (RouteDetail, bool) {
	for _, r := range s.routes {
		if r.Name == name {
			return s.detail(r), true
		}
	}
	return RouteDetail{}, false
}

func (s *Snapshot) detail(r *route) RouteDetail {
	steps := make([][]policy.Step, 0, len(r.members))
	for i := range r.members {
		steps = append(steps, r.members[i].program.Steps())
	}
	d := RouteDetail{RouteView: s.viewRoute(r), Effective: s.explainSteps(nil, common(steps[0], steps), caller{}), Ends: s.explainAction(r)}
	for i, service := range d.Services {
		v := s.explainService(r, service)
		if len(d.Services) > 1 && i < len(steps) {
			v.Policies = s.explainSteps(nil, peculiar(steps[i], steps), caller{})
		}
		d.Targets = append(d.Targets, v)
	}
	return d
}

// Live returns the living part of a route's action, nil without one; known tells whether there is such a route.
func (s *Snapshot) Live(route string) (live action.Live, known bool) {
	for _, r := range s.routes {
		if r.Name == route {
			return r.action.Live, true
		}
	}
	return nil, false
}

func matches(m *config.Match) map[string]any {
	out := make(map[string]any)
	for name, list := range map[string][]string{
		"hosts": m.Hosts, "paths": m.Paths, "methods": m.Methods, "listeners": m.Listeners, "schemes": m.Schemes, "snis": m.SNIs,
	} {
		if len(list) > 0 {
			out[name] = list
		}
	}
	for name, conditions := range map[string]map[string]config.StringList{"headers": m.Headers, "query": m.Query} {
		if len(conditions) == 0 {
			continue
		}
		shown := make(map[string][]string, len(conditions))
		for key, values := range conditions {
			if shown[key] = values; config.SoundsSecret(key) {
				shown[key] = []string{"***"}
			}
		}
		out[name] = shown
	}
	return out
}

// RouteStats yields the counts of every route by name, and last those of requests that no route took.
func (s *Snapshot) RouteStats(yield func(route string, stats telemetry.RouteStats) bool) {
	for _, r := range s.routes {
		// All but the requests is of the route whatever the service.
		stats := r.members[0].metrics.Stats()
		for _, m := range r.members[1:] {
			other := m.metrics.Stats()
			stats.Requests += other.Requests
			for i, n := range other.ByClass {
				stats.ByClass[i] += n
			}
		}
		if !yield(r.Name, stats) {
			return
		}
	}
	yield(telemetry.Unrouted, s.nowhere.Stats())
}

// Distributions reads how long the requests of all routes took, and what of it was the gateway's own time.
func (s *Snapshot) Distributions() (durations, overheads telemetry.Distribution) {
	for _, r := range s.routes {
		r.members[0].metrics.AddTo(&durations, &overheads)
	}
	s.nowhere.AddTo(&durations, &overheads)
	return durations, overheads
}
