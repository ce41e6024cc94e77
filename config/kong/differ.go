package kong

import (
	"fmt"
	"slices"
	"strings"
)

// maxCompared bounds the routes that are compared with each other for notes.
const maxCompared = 2000

// differences notes where native matching would choose another route than Kong's, which compatibility keeps.
func (t *translation) differences() {
	if t.o.Notes == nil {
		return
	}
	type place struct {
		*route
		path   string
		index  int
		weight int
	}
	var all []place
	for _, r := range t.routes {
		if r.off {
			continue
		}
		weight := 0
		for _, name := range []string{"methods", "hosts", "headers", "snis", "paths"} {
			if v := r.values[name]; v.Scalar() || v.Len() > 0 {
				weight++
			}
		}
		for i, path := range r.texts("paths") {
			all = append(all, place{r, path, i, weight})
			if !strings.HasPrefix(path, "~") && !strings.HasSuffix(path, "/") {
				t.note(r.at("paths"), element(r.where("paths"), i), mapped, fmt.Sprintf("takes %s-suffix too, as in Kong; native matching is by whole segments", path))
			}
		}
	}
	if len(all) > maxCompared {
		all = all[:maxCompared]
	}
	for _, a := range all {
		for _, b := range all {
			if a.route == b.route || !meet(a.route, b.route) {
				continue
			}
			where := element(a.where("paths"), a.index)
			pattern := strings.HasPrefix(a.path, "~")
			switch {
			case strings.HasPrefix(b.path, "~"):
			case pattern && a.weight >= b.weight:
				t.note(a.block.at("paths"), where, mapped, fmt.Sprintf("a pattern goes before the prefix %s of %s, as in Kong; native matching tries prefixes first", b.path, b.label("route")))
			case !pattern && a.weight > b.weight && len(a.path) < len(b.path) && strings.HasPrefix(b.path, a.path):
				t.note(a.block.at("paths"), where, mapped, fmt.Sprintf("goes before the longer %s of %s, as in Kong, for its conditions are of more kinds; native matching takes the longer path first", b.path, b.label("route")))
			}
		}
	}
}

// meet tells whether one host may lead to both.
func meet(a, b *route) bool {
	x, y := a.texts("hosts"), b.texts("hosts")
	return len(x) == 0 || len(y) == 0 || slices.ContainsFunc(x, func(host string) bool { return slices.Contains(y, host) || strings.Contains(host, "*") })
}
