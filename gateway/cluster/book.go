package cluster

import (
	"context"
	_ "embed"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

//go:embed book.lua
var bookText string

var bookScript = newScript(bookText)

const (
	// lookEvery is how often a book is looked at, whatever was heard.
	lookEvery = 500 * time.Millisecond
	// maxWritten is how many entries are written in one call.
	maxWritten = 500
)

// Book is a table of few and small entries that all instances have a copy of, which they go by whatever becomes of the store. Who keeps the copy
// decides what stands where two have written the same entry: Learn must come to the same result in whichever order it hears of them.
type Book struct {
	store *Store
	name  string
	o     BookOptions
	stop  context.CancelFunc
	done  chan struct{}
	wake  chan struct{}
	read  chan struct{} // closed when all was read for the first time

	mu      sync.Mutex
	pending map[string]string // to be written

	// run's own: how far it has read, and whether that failed the last time.
	birth   string
	version int64
	failed  bool
}

// BookOptions are the two sides of a Book. Both functions are called by one goroutine, and must not wait for it.
type BookOptions struct {
	// Learn takes up what stands in the store, "" for an entry that was taken away, and returns what is to stand there: that is written with
	// the next look, since instances that disagree would otherwise do nothing but correct each other.
	Learn func(id, value string) string
	// All yields every entry of this instance's copy: those the store has not, as when it has lost all, are written there.
	All func(yield func(id, value string) bool)
}

// OpenBook begins to keep a book up to date. Close ends it.
func (s *Store) OpenBook(name string, o BookOptions) *Book {
	ctx, stop := context.WithCancel(s.ctx)
	b := &Book{store: s, name: name, o: o, stop: stop, done: make(chan struct{}), wake: make(chan struct{}, 1), read: make(chan struct{}), pending: make(map[string]string)}
	s.events.follow(b)
	go b.run(ctx)
	return b
}

// Close ends it. What was written and could not be told is told by who has it in a copy, when that is opened again.
func (b *Book) Close() {
	b.store.events.leave(b)
	b.stop()
	<-b.done
}

// Await waits until this instance has read what the others have written before it came, as long as the store is there, and for no longer than that
// may take. Who is let in by what they say should not be let in before.
func (b *Book) Await() {
	t := time.NewTimer(firstWait)
	defer t.Stop()
	if !b.store.up.Load() {
		return
	}
	select {
	case <-b.read:
	case <-b.done:
	case <-t.C:
		b.store.o.Log.Warn("what other instances have written is not read yet; it is taken up when it is", "book", b.name)
	}
}

// Write has all instances told of an entry, now or when the store is back; an empty value takes it away.
func (b *Book) Write(id, value string) {
	b.mu.Lock()
	b.pending[id] = value
	b.mu.Unlock()
	b.rouse()
}

func (b *Book) rouse() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *Book) run(ctx context.Context) {
	defer close(b.done)
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.wake:
		case <-t.C:
		}
		for ctx.Err() == nil && b.store.up.Load() && b.turn() {
		}
		t.Reset(lookEvery)
	}
}

// turn writes what is to be written and reads what others have. It tells whether there is more to do.
func (b *Book) turn() (more bool) {
	written, more := b.take()
	args := []string{b.birth, number(b.version)}
	for id, value := range written {
		args = append(args, id, value)
	}
	ctx, cancel := context.WithTimeout(b.store.ctx, max(patience, b.store.o.Timeout))
	defer cancel()
	sent := time.Now()
	defer b.store.watch(sent)()
	birth, version, whole, entries, err := readBook(b.store.exec(ctx, []command{{&bookScript, b.store.key("{" + b.name + "}"), args}})[0])
	b.store.observe("book", sent, err)
	if err != nil {
		b.store.fault(err)
		b.putBack(written)
		if !b.failed && ctx.Err() == nil && b.store.up.Load() { // else it is the store that is gone
			b.failed = true
			b.store.o.Log.Error("what instances tell each other can not be read; this one goes by what it knows", "book", b.name, "error", describe(err))
		}
		return false
	}
	b.birth, b.version, b.failed = birth, version, false
	seen := make(map[string]bool, len(entries)/2)
	for i := 0; i+1 < len(entries); i += 2 {
		id, value := entries[i], entries[i+1]
		seen[id] = true
		if better := b.o.Learn(id, value); better != value {
			b.keep(id, better)
		}
	}
	if whole {
		b.o.All(func(id, value string) bool {
			if !seen[id] {
				b.keep(id, value)
			}
			return true
		})
	}
	if len(written) > 0 {
		b.store.events.send("book", b.name)
	}
	select {
	case <-b.read:
	default:
		close(b.read)
	}
	return more
}

func readBook(r rueidis.RedisResult) (birth string, version int64, whole bool, entries []string, err error) {
	all, err := r.ToArray()
	if err != nil || len(all) < 3 {
		return "", 0, false, nil, cmpErr(err)
	}
	if birth, err = all[0].ToString(); err != nil {
		return "", 0, false, nil, err
	}
	if version, err = all[1].AsInt64(); err != nil {
		return "", 0, false, nil, err
	}
	n, err := all[2].AsInt64()
	if err != nil {
		return "", 0, false, nil, err
	}
	for _, m := range all[3:] {
		text, err := m.ToString()
		if err != nil {
			return "", 0, false, nil, err
		}
		entries = append(entries, text)
	}
	return birth, version, n == 1, entries, nil
}

// take takes entries to be written, and tells whether there are more.
func (b *Book) take() (some map[string]string, more bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.pending) <= maxWritten {
		all := b.pending
		b.pending = make(map[string]string)
		return all, false
	}
	some = make(map[string]string, maxWritten)
	for id, value := range b.pending {
		some[id] = value
		delete(b.pending, id)
		if len(some) == maxWritten {
			break
		}
	}
	return some, true
}

// putBack has what could not be written written later, but for what has been replaced meanwhile.
func (b *Book) putBack(written map[string]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, value := range written {
		if _, newer := b.pending[id]; !newer {
			b.pending[id] = value
		}
	}
}

// keep has an entry written unless a newer one is to be.
func (b *Book) keep(id, value string) { b.putBack(map[string]string{id: value}) }
