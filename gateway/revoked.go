package gateway

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"sluice/gateway/cluster"
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
	if err != nil || w.Cluster == nil {
		return err
	}
	list, store := w.Revoked, w.Cluster
	_, err = policy.LivingAs(w, fmt.Sprintf("revoked/%s/book/%p", dir, store), func() (*revokedBook, error) { return shareRevoked(list, store), nil })
	return err
}

// revokedBook is where instances tell each other what is revoked.
type revokedBook struct {
	*cluster.Book
	stop func()
}

// Close ends it.
func (b *revokedBook) Close() {
	b.stop()
	b.Book.Close()
}

func shareRevoked(list *revocation.List, store *cluster.Store) *revokedBook {
	text := func(e *revocation.Entry) string {
		b, err := json.Marshal(e)
		if err != nil {
			panic("BUG: " + err.Error())
		}
		return string(b)
	}
	b := new(revokedBook)
	b.Book = store.OpenBook("revoked", cluster.BookOptions{
		Learn: func(id, value string) string {
			var e revocation.Entry
			if value != "" && json.Unmarshal([]byte(value), &e) == nil && e.ID == id {
				if now := list.Learn(e); now != nil {
					return text(now)
				}
			}
			if e, ok := list.Get(id); ok {
				return text(&e)
			}
			return ""
		},
		All: func(yield func(id, value string) bool) {
			for _, e := range list.Entries() {
				if !yield(e.ID, text(&e)) {
					return
				}
			}
		},
	})
	b.stop = list.Share(func(e *revocation.Entry) { b.Write(e.ID, text(e)) }, func(e *revocation.Entry) { b.Write(e.ID, "") })
	return b
}

// Revoked are the tokens that count no more, nil before there is a configuration.
func (g *Gateway) Revoked() *revocation.List {
	if gen := g.current.Load(); gen != nil {
		return gen.world.Revoked
	}
	return nil
}
