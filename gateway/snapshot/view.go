package snapshot

import (
	"sluice/config"
	"sluice/gateway/action"
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
		views = append(views, v)
	}
	return views
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
