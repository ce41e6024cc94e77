package gateway

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"sluice/config"
	"sluice/gateway/chain"
	"sluice/gateway/cluster"
	"sluice/gateway/keys"
	"sluice/gateway/policy"
)

// changesFile is where in state.dir stands who has changed what through the admin listener. A process that finds it in the
// hands of another one, as while a new binary takes over, has a file and a chain of its own: admin.2.log and so on.
const (
	changesFile = "audit/admin%s.log"
	mostFiles   = 9
)

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
	changes, err = policy.LivingAs(w, "changes/"+dir, func() (*chain.Log, error) { return g.openChanges(dir) })
	if err != nil {
		return nil, wrong("the log of changes", err)
	}
	return changes, nil
}

// shareKeys has the API keys of a generation told through its store.
func shareKeys(w *policy.World) error {
	if w.Keys == nil {
		return nil
	}
	return shareBook(w, "keys", w.Keys)
}

// told is a collection whose entries instances tell each other in a book.
type told interface {
	Share(open func() keys.Book)
	Unshare(keys.Book)
	Learn(id, value string) string
	All(yield func(id, value string) bool)
}

// shareBook opens the book of that name for what a generation keeps, where it has a store. It is living state of both, and ends before either.
func shareBook(w *policy.World, name string, kept told) error {
	if w.Cluster == nil {
		return nil
	}
	_, err := policy.LivingAs(w, fmt.Sprintf("%s/book/%p/%p", name, kept, w.Cluster), func() (*sharedBook, error) {
		shared := &sharedBook{kept: kept}
		kept.Share(func() keys.Book {
			shared.Book = w.Cluster.OpenBook(name, cluster.BookOptions{Learn: kept.Learn, All: kept.All})
			return shared.Book
		})
		shared.Await()
		return shared, nil
	})
	return err
}

type sharedBook struct {
	*cluster.Book
	kept told
}

// Close implements io.Closer.
func (s *sharedBook) Close() error {
	s.kept.Unshare(s.Book)
	s.Book.Close()
	return nil
}

// KeysTold says when other instances know of a change of an API key: "" where no store is shared with them, soon, or later
// while the store does not answer.
func (g *Gateway) KeysTold() string {
	switch s := g.store(); {
	case s == nil:
		return ""
	case s.Up():
		return "soon"
	}
	return "later"
}

func (g *Gateway) openChanges(dir string) (log *chain.Log, err error) {
	for n := 1; n <= mostFiles; n++ {
		number := ""
		if n > 1 {
			number = "." + strconv.Itoa(n)
		}
		log, err = chain.Open(filepath.Join(dir, fmt.Sprintf(changesFile, number)), chain.Options{
			Log: g.log, Now: time.Now, MaxSize: changesSize, Buffer: 1, Exclusive: true,
		})
		if !errors.Is(err, chain.ErrElsewhere) {
			break
		}
	}
	return log, err
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
