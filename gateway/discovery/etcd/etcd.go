// Package etcd finds endpoints below a prefix of etcd.
package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"sluice/config"
	"sluice/gateway/discovery"
	"sluice/gateway/etcd"
)

// Definition of the source.
var Definition = &discovery.Definition{Name: "etcd", Open: open}

type source struct {
	prefix        string
	settings      etcd.Settings
	ca, cert, key string
}

func open(d *config.Discovery) (discovery.Source, error) {
	c := &d.Etcd
	if _, err := etcd.ClientTLS(c.CA, c.Cert, c.Key); err != nil {
		return nil, err
	}
	settings := etcd.Settings{Servers: c.Servers, Username: c.Username, Password: c.Password.Reveal(), Timeout: c.Timeout}
	return &source{c.Prefix, settings, c.CA, c.Cert, c.Key}, nil
}

func (s *source) Where() string {
	return "etcd " + s.prefix + " at " + strings.Join(s.settings.Servers, ",")
}

func (s *source) Watch(ctx context.Context, tell discovery.Tell) error {
	// The watch may outlive certificates: those that the files have now.
	settings := s.settings
	var err error
	if settings.TLS, err = etcd.ClientTLS(s.ca, s.cert, s.key); err != nil {
		return err
	}
	client, err := etcd.Open(ctx, settings)
	if err != nil {
		return err
	}
	defer client.Close()
	var last []discovery.Endpoint
	var broken error
	return client.Follow(ctx, s.prefix, func(c *etcd.Content) {
		set, err := read(c)
		if broken = err; err == nil {
			last = set
		}
		tell(last, broken)
	}, func() {
		if broken == nil {
			tell(last, nil)
		}
	})
}

// read makes endpoints of keys. One that is broken breaks the set: what is left would be taken for all there is.
func read(c *etcd.Content) ([]discovery.Endpoint, error) {
	set := make([]discovery.Endpoint, 0, len(c.KVs))
	for _, kv := range c.KVs {
		e, err := endpoint(kv.Value)
		if err != nil {
			return nil, fmt.Errorf("the key %s: %w", kv.Key, err)
		}
		set = append(set, e)
	}
	return set, nil
}

func endpoint(value []byte) (discovery.Endpoint, error) {
	text := strings.TrimSpace(string(value))
	var naming struct{ Addr string }
	if strings.HasPrefix(text, "{") && json.Unmarshal(value, &naming) == nil && naming.Addr != "" {
		return discovery.Endpoint{Address: naming.Addr, Weight: 1}, nil
	}
	set, err := discovery.ReadList([]byte("[" + text + "]"))
	if err != nil || len(set) != 1 {
		return discovery.Endpoint{}, fmt.Errorf(`the value is none of host:port, a URL, {"url": …, "weight": …, "zone": …}, {"Addr": …}`)
	}
	return set[0], nil
}
