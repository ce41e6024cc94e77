// Package kubernetes finds the endpoints of a service of Kubernetes in its EndpointSlices, which it lists once and then
// watches.
package kubernetes

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"sluice/config"
	"sluice/gateway/discovery"
	"sluice/gateway/kube"
)

// Definition of the source.
var Definition = &discovery.Definition{Name: "kubernetes", Open: open}

// source is what is to be watched; where the configuration leaves that to the pod, it is found when the watch begins, so
// that a configuration can be validated elsewhere.
type source struct{ c config.DiscoveryKubernetes }

func open(d *config.Discovery) (discovery.Source, error) {
	s := &source{c: d.Kubernetes}
	return s, s.settings().Check()
}

func (s *source) settings() kube.Settings {
	return kube.Settings{Server: s.c.Server, TokenFile: s.c.TokenFile, CA: s.c.CA}
}

func (s *source) Where() string {
	return "kubernetes " + cmp.Or(s.c.Namespace, "(the pod's namespace)") + "/" + s.c.Service + " at " + s.settings().Where()
}

func (s *source) Watch(ctx context.Context, tell discovery.Tell) error {
	client, err := kube.Connect(s.settings())
	if err != nil {
		return err
	}
	defer client.Close()
	namespace := s.c.Namespace
	if namespace == "" {
		if namespace, err = kube.Namespace(); err != nil {
			return fmt.Errorf("%w; name the service's as namespace: NAME", err)
		}
	}
	of := kube.Objects{
		Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices",
		Namespace: namespace, Labels: "kubernetes.io/service-name=" + s.c.Service,
	}
	return kube.Watch(ctx, client, of, func(all map[kube.Name]*slice) { tell(s.endpoints(all)) })
}

// slice is an EndpointSlice, as far as it matters here.
type slice struct {
	Endpoints []endpoint `json:"endpoints"`
	Ports     []port     `json:"ports"`
}

type endpoint struct {
	Addresses  []string `json:"addresses"`
	Conditions struct {
		Ready       *bool `json:"ready"`
		Serving     *bool `json:"serving"`
		Terminating *bool `json:"terminating"`
	} `json:"conditions"`
	Zone string `json:"zone"`
}

type port struct {
	Name     string `json:"name"`
	Port     *int   `json:"port"`
	Protocol string `json:"protocol"`
}

// endpoints are those that are ready. A pod that terminates is not ready, and so leaves while it still serves what it has.
func (s *source) endpoints(all map[kube.Name]*slice) ([]discovery.Endpoint, error) {
	set, without := []discovery.Endpoint{}, 0
	byName := func(a, b kube.Name) int { return strings.Compare(a.Name, b.Name) }
	for _, name := range slices.SortedFunc(maps.Keys(all), byName) {
		sl := all[name]
		if len(sl.Endpoints) == 0 {
			continue
		}
		number, err := s.port(sl)
		if err != nil {
			return nil, err
		}
		if number == 0 {
			without++
			continue
		}
		for i := range sl.Endpoints {
			e := &sl.Endpoints[i]
			if ready := e.Conditions.Ready; ready != nil && !*ready || len(e.Addresses) == 0 {
				continue
			}
			// All addresses of an endpoint are the same pod; the first is enough.
			set = append(set, discovery.Endpoint{Address: net.JoinHostPort(e.Addresses[0], strconv.Itoa(number)), Weight: 1, Zone: e.Zone})
		}
	}
	if len(set) == 0 && without > 0 {
		return nil, fmt.Errorf("the service %s has no port %q", s.c.Service, s.c.Port)
	}
	return set, nil
}

// port finds the port of a slice's endpoints; 0 where this slice has not got it: pods may call theirs differently while a
// new version is rolled out.
func (s *source) port(sl *slice) (int, error) {
	wanted, err := strconv.Atoi(s.c.Port)
	var found []int
	for _, p := range sl.Ports {
		if p.Port == nil || p.Protocol != "" && p.Protocol != "TCP" {
			continue
		}
		if s.c.Port == "" || p.Name == s.c.Port || err == nil && *p.Port == wanted {
			found = append(found, *p.Port)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1 && s.c.Port == "":
		return 0, fmt.Errorf("the service %s has %d ports; write which one is meant, as port: http", s.c.Service, len(found))
	case len(found) > 1:
		return found[0], nil
	}
	return 0, nil
}
