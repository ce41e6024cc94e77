package gateway

import (
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
	_, err = policy.LivingAs(w, fmt.Sprintf("revoked/book/%p/%p", list, store), func() (*sharedRevoked, error) {
		shared := &sharedRevoked{list: list}
		list.Share(func() revocation.Book {
			shared.book = store.OpenBook(revokedBook, cluster.BookOptions{Learn: list.Learn, All: list.All})
			return shared.book
		})
		shared.book.Await()
		return shared, nil
	})
	return err
}

// revokedBook is the book in which instances tell each other what is revoked.
const revokedBook = "revoked"

type sharedRevoked struct {
	list *revocation.List
	book *cluster.Book
}

// Close implements io.Closer.
func (s *sharedRevoked) Close() error {
	s.list.Unshare(s.book)
	s.book.Close()
	return nil
}

// Revoked are the tokens that count no more, nil before there is a configuration.
func (g *Gateway) Revoked() *revocation.List {
	if gen := g.current.Load(); gen != nil {
		return gen.world.Revoked
	}
	return nil
}
