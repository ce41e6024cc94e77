// Package discovery keeps the endpoints of a service up to date from a source outside of the configuration. A Source,
// one of the packages below this one, tells what it finds; a Watcher decides what of it is believed, keeps the last
// good set while nothing better is known, and hands each new one to those who subscribed.
//
// Its guarantee: a source that fails, is empty or half empty never takes a service down, and is never silent about it.
package discovery

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	"sluice/config"
)

// Endpoint is one server as a source tells of it.
type Endpoint struct {
	// Address is host:port, or a URL where the source knows more.
	Address string `json:"address"`
	// Host names the server to it, and in TLS, where its address does not: host:port.
	Host string `json:"host,omitempty"`
	// Weight is the share of requests relative to the others; 0 gets none.
	Weight int `json:"weight"`
	// Zone the server stands in.
	Zone string `json:"zone,omitempty"`
}

func (e Endpoint) compare(o Endpoint) int {
	return cmp.Or(strings.Compare(e.Address, o.Address), strings.Compare(e.Host, o.Host), strings.Compare(e.Zone, o.Zone), cmp.Compare(e.Weight, o.Weight))
}

// Source is a place that endpoints are found in.
type Source interface {
	// Where says in a few words what is watched, without secrets.
	Where() string
	// Watch calls tell with the whole set each time that it hears of it, changed or not, or with what is wrong while it goes
	// on watching. It returns when ctx is done, or with what went wrong; then it is called again after a pause. An empty
	// set is one that the source vouches for.
	Watch(ctx context.Context, tell Tell) error
}

// Tell takes what a source has to tell: a set of endpoints, or an error.
type Tell func(set []Endpoint, err error)

// Definition is a kind of source.
type Definition struct {
	// Name of the source in the configuration.
	Name string
	// Open makes the source of a service's settings. It connects to nothing; an error names the setting below the
	// source's own block, as "path: what is wrong".
	Open func(d *config.Discovery) (Source, error)
}

// maxEndpoints bounds a set: of more, the rest is left out.
const maxEndpoints = 4096

// tidy sorts a set, so that equal ones are the same, and leaves out what stands in it twice.
func tidy(set []Endpoint) (tidied []Endpoint, more int) {
	set = slices.Clone(set)
	for i := range set {
		set[i].Weight = min(max(set[i].Weight, 0), 1_000_000)
	}
	slices.SortFunc(set, Endpoint.compare)
	set = slices.CompactFunc(set, func(a, b Endpoint) bool { return a.Address == b.Address })
	if more = len(set) - maxEndpoints; more > 0 {
		return set[:maxEndpoints], more
	}
	return set, 0
}

// difference lists the addresses that came and went between two tidy sets.
func difference(from, to []Endpoint) (came, went []string) {
	had, has := make(map[string]bool, len(from)), make(map[string]bool, len(to))
	for _, e := range from {
		had[e.Address] = true
	}
	for _, e := range to {
		has[e.Address] = true
		if !had[e.Address] {
			came = append(came, e.Address)
		}
	}
	for _, e := range from {
		if !has[e.Address] {
			went = append(went, e.Address)
		}
	}
	return came, went
}

// list names a few of many.
func list(addresses []string) string {
	const shown = 8
	if len(addresses) > shown {
		return strings.Join(addresses[:shown], " ") + " and " + strconv.Itoa(len(addresses)-shown) + " more"
	}
	return strings.Join(addresses, " ")
}
