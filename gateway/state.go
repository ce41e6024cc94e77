package gateway

import (
	"path/filepath"
	"time"

	"sluice/config"
	"sluice/gateway/chain"
	"sluice/gateway/keys"
	"sluice/gateway/policy"
)

// changesFile is where in state.dir stands who has changed what through the admin listener.
const changesFile = "audit/admin.log"

// changesSize is when that file gets a successor.
const changesSize = 64 << 20

// openState opens what a generation keeps in state.dir beside what its policies do.
func (g *Gateway) openState(w *policy.World) (changes *chain.Log, err error) {
	dir := w.Config.State.Dir
	if dir == "" {
		return nil, nil
	}
	wrong := func(what string, err error) error {
		return config.Errors{w.Config.Errorf("state.dir", "%s can not be kept here: %v", what, err)}
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, wrong("nothing", err)
	}
	w.Keys, err = policy.LivingAs(w, "keys/"+dir, func() (*keys.Store, error) {
		return keys.Open(dir, keys.Options{Log: g.log, Now: g.clock.Time})
	})
	if err != nil {
		return nil, wrong("API keys", err)
	}
	changes, err = policy.LivingAs(w, "audit/"+filepath.Join(dir, changesFile), func() (*chain.Log, error) {
		return chain.Open(filepath.Join(dir, changesFile), chain.Options{Log: g.log, Now: time.Now, MaxSize: changesSize, Buffer: 1})
	})
	if err != nil {
		return nil, wrong("the log of changes", err)
	}
	return changes, nil
}

// Keys are the API keys made at run time, nil without state.dir.
func (g *Gateway) Keys() *keys.Store {
	if gen := g.current.Load(); gen != nil {
		return gen.world.Keys
	}
	return nil
}

// Changes is the log of what is changed through the admin listener, nil without state.dir.
func (g *Gateway) Changes() *chain.Log {
	if gen := g.current.Load(); gen != nil {
		return gen.changes
	}
	return nil
}
