package policy

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/router"
)

// Assignment gives a header or a query parameter values that are templates.
type Assignment struct {
	Name   string
	Values []*exchange.Template
}

// Assignments compiles a block of names with their values, in the order of the names. setting is where it stands below the policy. check
// judges a name; a fixed value that can not stand in a header is an error too where it goes into one.
func Assignments(b *Build, setting string, values map[string]config.StringList, header bool, check func(name string) error) (all []Assignment, errs config.Errors) {
	wrong := func(at, format string, a ...any) {
		errs = append(errs, b.World.Config.Errorf(b.Path+"."+at, format, a...))
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		at := setting + "." + name
		if err := check(name); err != nil {
			wrong(at, "%v", err)
			continue
		}
		if len(values[name]) == 0 {
			wrong(at, `has no value; write "" for an empty one`)
		}
		a := Assignment{Name: name}
		for i, text := range values[name] {
			at := at
			if len(values[name]) > 1 {
				at += "[" + strconv.Itoa(i) + "]"
			}
			t, err := b.Template(text)
			switch {
			case err != nil:
				wrong(at, "%v", err)
				continue
			case header && !exchange.IsFieldValue([]byte(text)):
				wrong(at, "a header can not hold control characters, such as a line break")
				continue
			}
			a.Values = append(a.Values, t)
		}
		all = append(all, a)
	}
	return all, errs
}

// Template compiles a text that may hold places.
func (b *Build) Template(text string) (*exchange.Template, error) {
	t, err := exchange.ParseTemplate(text)
	if err != nil {
		return nil, err
	}
	return t, b.checkParams(t)
}

// checkParams refuses a path parameter that no path of the route has. A block that several routes share may name those of any.
func (b *Build) checkParams(t *exchange.Template) error {
	if b.RouteConfig == nil || !strings.HasPrefix(b.Scope, "routes.") {
		return nil
	}
	paramsOf := router.PathParams
	if b.World.Config.Compatibility == "kong" {
		paramsOf = router.KongParams
	}
	for _, name := range t.Params() {
		if !slices.ContainsFunc(b.RouteConfig.Match.Paths, func(path string) bool { return slices.Contains(paramsOf(path), name) }) {
			return errors.New("${path." + name + "}: no path of this route has {" + name + "}")
		}
	}
	return nil
}

// Varies collects what the values depend on, each once.
func Varies(all ...[]Assignment) []string {
	var names []string
	for _, assignments := range all {
		for _, a := range assignments {
			for _, t := range a.Values {
				names = append(names, t.Varies()...)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
