// Package consul follows the services of Consul whose tags are meant for this gateway, in its catalog.
package consul

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"

	"sluice/config"
	tags "sluice/config/consul"
	"sluice/gateway/consul"
	"sluice/gateway/source"
)

// Watches are those that the settings ask for.
func Watches(s *config.SourceConsul) []source.Watch {
	if s.Off {
		return nil
	}
	settings := consul.Settings{Address: s.Address, Datacenter: s.Datacenter, Namespace: s.Namespace, Token: s.Token.Reveal(), Stale: s.Stale, Wait: s.Wait, CA: s.CA}
	w := watch(settings)
	where := "the catalog at " + s.Address
	if s.Datacenter != "" {
		where += " in " + s.Datacenter
	}
	return []source.Watch{{Name: name, Source: "consul", Identity: fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%+v", settings))), Where: where, Run: w.run}}
}

const name = "consul services"

type watch consul.Settings

func (w watch) run(ctx context.Context, tell func(map[string]config.Object)) error {
	client, err := consul.Connect(consul.Settings(w))
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Follow(ctx, "/v1/catalog/services", nil, func(answer []byte) error {
		var services map[string][]string
		if err := json.Unmarshal(answer, &services); err != nil {
			return fmt.Errorf("the answer is no catalog of services: %w", err)
		}
		objects := make(map[string]config.Object)
		for service, all := range services {
			if !tags.Concerned(all) {
				continue
			}
			slices.Sort(all)
			text, err := json.Marshal(map[string]any{"service": service, "tags": all})
			if err != nil {
				return err
			}
			objects["consul service "+service] = config.Object{Source: "consul", Watch: name, Data: text}
		}
		tell(objects)
		return nil
	})
}
