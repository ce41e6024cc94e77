package gateway

import (
	"path/filepath"

	"sluice/gateway/policy"
	"sluice/gateway/revocation"
)

// openRevoked gives a generation the list of tokens that are revoked: kept in state.dir where there is one, and shared where there is a store.
func (g *Gateway) openRevoked(w *policy.World) (err error) {
	dir := w.Config.State.Dir
	if dir != "" {
		if dir, err = filepath.Abs(dir); err != nil {
			return err
		}
	}
	w.Revoked, err = policy.LivingAs(w, "revoked/"+dir, func() (*revocation.List, error) {
		return revocation.Open(revocation.Options{Dir: dir, Log: g.log, Now: g.clock.Time})
	})
	if err != nil {
		return err
	}
	return shareBook(w, "revoked", w.Revoked)
}

// Revoked are the tokens that count no more, nil before there is a configuration.
func (g *Gateway) Revoked() *revocation.List {
	if gen := g.current.Load(); gen != nil {
		return gen.world.Revoked
	}
	return nil
}
