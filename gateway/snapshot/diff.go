package snapshot

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"sluice/config"
	"sluice/gateway/policy"
)

// Difference is what a change of configuration means for one thing that it names.
type Difference struct {
	// Kind is route, service, consumer, or the section of the configuration; Name is empty for a section without names.
	Kind string `json:"kind"`
	Name string `json:"name,omitempty"`
	// Change is added, removed or changed.
	Change string `json:"change"`
	// Settings are those that changed, below the thing itself. For a route its policies are those in force, whoever wrote them.
	Settings []config.Change `json:"settings,omitempty"`
}

// Diff says what would change for requests if the configuration of `to` replaced that of s: first routes, then services and
// consumers, then all else. A policy that changed for all is a change of each route where it is in force.
func (s *Snapshot) Diff(to *Snapshot) []Difference {
	before, after := s.byName(), to.byName()
	var out []Difference
	for _, section := range config.EntrySections() {
		a, b := s.Config.Entries(section), to.Config.Entries(section)
		for _, name := range sorted(a.Names(), b.Names()) {
			d := Difference{Kind: strings.TrimSuffix(section, "s"), Name: name, Change: "changed"}
			switch {
			case !a.Has(name):
				d.Change = "added"
			case !b.Has(name):
				d.Change = "removed"
			default:
				if !a.Same(b, name) {
					d.Settings = config.DiffValues("", below(a.View(name), section), below(b.View(name), section))
				}
				if section == "routes" && !samePrograms(before[name], after[name]) {
					d.Settings = append(d.Settings, diffPrograms(s.program(before[name]), to.program(after[name]))...)
				}
				if len(d.Settings) == 0 {
					continue
				}
			}
			out = append(out, d)
		}
	}
	from, next := s.Config.ViewRest(), to.Config.ViewRest()
	for _, section := range both(from, next) {
		if changes := config.DiffValues("", from[section], next[section]); len(changes) > 0 {
			out = append(out, Difference{Kind: section, Change: "changed", Settings: changes})
		}
	}
	return out
}

// below is what of a block is compared as it is written: the policies of routes and services show in the programs.
func below(block any, section string) any {
	fields, ok := block.(map[string]any)
	if !ok || section == "consumers" {
		return block
	}
	fields = maps.Clone(fields)
	delete(fields, "policies")
	return fields
}

// both are the names of two maps, sorted.
func both[V any](a, b map[string]V) []string {
	return sorted(slices.Collect(maps.Keys(a)), slices.Collect(maps.Keys(b)))
}

func sorted(a, b []string) []string {
	names := slices.Concat(a, b)
	slices.Sort(names)
	return slices.Compact(names)
}

// samePrograms tells of most routes, without a look at each setting, that the same policies are in force on them.
func samePrograms(a, b *route) bool {
	return slices.EqualFunc(a.members, b.members, func(a, b member) bool {
		return slices.EqualFunc(a.program.Steps(), b.program.Steps(), func(a, b policy.Step) bool {
			return a.Name == b.Name && a.Block.Equal(b.Block)
		})
	})
}

func (s *Snapshot) byName() map[string]*route {
	routes := make(map[string]*route, len(s.routes))
	for _, r := range s.routes {
		routes[r.Name] = r
	}
	return routes
}

// program lists the policies in force on a route, those that depend on the service under its name.
func (s *Snapshot) program(r *route) map[string]ExplainedPolicy {
	all := make(map[string]ExplainedPolicy)
	services := s.servicesOf(r)
	for i := range r.members {
		for _, p := range s.explainSteps(nil, r.members[i].program.Steps(), caller{}) {
			path := "policies." + p.Policy
			if i > 0 {
				if maps.EqualFunc(settingsOf(all[path]), settingsOf(p), config.Setting.Same) {
					continue
				}
				path += "@" + services[i]
			}
			all[path] = p
		}
	}
	return all
}

// settingsOf are the settings of a policy by path.
func settingsOf(p ExplainedPolicy) map[string]config.Setting {
	settings := make(map[string]config.Setting, len(p.Settings))
	for _, s := range p.Settings {
		settings[s.Path] = s
	}
	return settings
}

func diffPrograms(from, to map[string]ExplainedPolicy) []config.Change {
	var changes []config.Change
	for _, name := range both(from, to) {
		a, had := from[name]
		b, has := to[name]
		old, new := settingsOf(a), settingsOf(b)
		switch {
		case !had:
			changes = append(changes, config.Change{Path: name, New: marshalAll(new)})
			continue
		case !has:
			changes = append(changes, config.Change{Path: name, Old: marshalAll(old)})
			continue
		}
		for _, setting := range both(old, new) {
			if old[setting].Same(new[setting]) {
				continue
			}
			path := name
			if setting != "" {
				path += "." + setting
			}
			changes = append(changes, config.Change{Path: path, Old: marshal(old[setting].Value), New: marshal(new[setting].Value)})
		}
	}
	return changes
}

func marshalAll(settings map[string]config.Setting) json.RawMessage {
	shown := make(map[string]any, len(settings))
	for path, s := range settings {
		shown[path] = s.Value
	}
	return marshal(shown)
}

func marshal(v any) json.RawMessage {
	if v == nil {
		return nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return text
}
