// Package consul finds the healthy instances of a service of Consul, by blocking queries to its health API.
package consul

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"sluice/config"
	"sluice/gateway/consul"
	"sluice/gateway/discovery"
)

// Definition of the source.
var Definition = &discovery.Definition{Name: "consul", Open: open}

type source struct{ c config.DiscoveryConsul }

func open(d *config.Discovery) (discovery.Source, error) {
	s := &source{c: d.Consul}
	_, err := consul.Connect(s.settings())
	return s, err
}

func (s *source) settings() consul.Settings {
	return consul.Settings{Address: s.c.Address, Datacenter: s.c.Datacenter, Namespace: s.c.Namespace, Token: s.c.Token.Reveal(), Stale: s.c.Stale, Wait: s.c.Wait, CA: s.c.CA}
}

func (s *source) Where() string {
	where := "consul " + s.c.Service + " at " + s.c.Address
	if s.c.Datacenter != "" {
		where += " in " + s.c.Datacenter
	}
	return where
}

func (s *source) Watch(ctx context.Context, tell discovery.Tell) error {
	client, err := consul.Connect(s.settings())
	if err != nil {
		return err
	}
	defer client.Close()
	q := url.Values{}
	if !s.c.Warning {
		q.Set("passing", "1")
	}
	for _, tag := range s.c.Tags {
		q.Add("tag", tag)
	}
	return client.Follow(ctx, "/v1/health/service/"+url.PathEscape(s.c.Service), q, func(answer []byte) error {
		var instances []instance
		if err := json.Unmarshal(answer, &instances); err != nil {
			return fmt.Errorf("the answer is not a list of instances: %w", err)
		}
		tell(s.endpoints(instances), nil)
		return nil
	})
}

// instance is an element of the answer of /v1/health/service/NAME.
type instance struct {
	Node struct {
		Address    string
		Datacenter string
		Meta       map[string]string
	}
	Service struct {
		Address string
		Port    int
		Weights *struct{ Passing, Warning int }
		Meta    map[string]string
	}
	Checks []struct{ Status string }
}

func (s *source) endpoints(instances []instance) []discovery.Endpoint {
	set := make([]discovery.Endpoint, 0, len(instances))
	for i := range instances {
		in := &instances[i]
		weight, warned, out := 1, false, false
		for _, check := range in.Checks {
			switch check.Status {
			case "passing":
			case "warning":
				warned = true
			default: // critical, maintenance
				out = true
			}
		}
		if out || warned && !s.c.Warning {
			continue
		}
		if w := in.Service.Weights; w != nil {
			if weight = w.Passing; warned {
				weight = w.Warning
			}
		}
		host := in.Service.Address
		if host == "" {
			host = in.Node.Address
		}
		zone := in.Service.Meta["zone"]
		if zone == "" {
			zone = in.Node.Meta["zone"]
		}
		set = append(set, discovery.Endpoint{Address: net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(in.Service.Port)), Weight: weight, Zone: zone})
	}
	return set
}
