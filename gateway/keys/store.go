package keys

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a store.
const (
	shards         = 256
	maxKeys        = 1_000_000
	maxPerConsumer = 1000
	// remembered is how long keys that are over are shown.
	remembered = 90 * 24 * time.Hour
)

// Errors of a store.
var (
	// ErrNotFound: the consumer has no key of that id.
	ErrNotFound = errors.New("there is no such key")
	// ErrOver: a key that is revoked or expired can not be rotated.
	ErrOver = errors.New("the key is over; make a new one")
	// ErrReplaced: a key has one successor; two would be good where their owner knows of one. The error names it.
	ErrReplaced = errors.New("the key has been replaced")
	// ErrElsewhere: another process writes in the folder.
	ErrElsewhere = errors.New("another process writes in state.dir; change keys there, or when it has ended")
	// ErrFull: there are too many keys.
	ErrFull = errors.New("there are too many keys; revoke some that nobody uses")
)

// Store is the keys of a folder. Find may be called by everybody at any time. What is changed here goes through commit, and
// what other instances have changed through Learn.
type Store struct {
	seed   maphash.Seed
	shards [shards]atomic.Pointer[map[uint64][]*Key]
	log    *slog.Logger
	now    func() time.Time

	mu         sync.Mutex // of what follows
	byID       map[string]*Key
	byConsumer map[string][]*Key // in the order of their making
	file       journal
	books      []Book
	unwritten  map[string]struct{} // ids of keys whose latest version was learned or could not be written, and may not be in the file
	noteAt     time.Time           // when uses are noted next

	learned chan struct{}
	stop    chan struct{}
	done    sync.WaitGroup
}

// Options of a Store. Both are required.
type Options struct {
	Log *slog.Logger
	Now func() time.Time
}

// Open reads the keys of a folder, which is made when it is not there, and keeps them up to date until Close. A file that
// can not be read to its end is an error: what is missing may be that a key was revoked.
func Open(dir string, o Options) (*Store, error) {
	s := &Store{
		seed: maphash.MakeSeed(), log: o.Log, now: o.Now, file: journal{dir: dir}, unwritten: make(map[string]struct{}),
		learned: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	owned, err := s.file.acquire()
	if err == nil {
		err = s.load()
	}
	if err != nil {
		s.file.release()
		return nil, err
	}
	if !owned {
		s.log.Warn("another process writes the API keys of state.dir; until it ends, keys can not be changed through this one", "dir", dir)
	}
	s.done.Go(s.run)
	return s, nil
}

// Close writes when keys were last used.
func (s *Store) Close() {
	close(s.stop)
	s.done.Wait()
}

// clear forgets all keys, but for the requests that look at this moment. s.mu is held.
func (s *Store) clear() {
	s.byID, s.byConsumer = make(map[string]*Key), make(map[string][]*Key)
	for i := range s.shards {
		s.shards[i].Store(&map[uint64][]*Key{})
	}
}

// Find returns the key with this SHA-256, nil if there is none. Its caller asks Refused.
func (s *Store) Find(sum *[sha256.Size]byte) *Key {
	// Hashed under a seed of this process: who measures a lookup learns about no key.
	at := maphash.Bytes(s.seed, sum[:])
	for _, k := range (*s.shards[at%shards].Load())[at] {
		if subtle.ConstantTimeCompare(k.sum[:], sum[:]) == 1 {
			return k
		}
	}
	return nil
}

// List returns the keys of a consumer in the order of their making.
func (s *Store) List(consumer string) []*Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.byConsumer[consumer])
}

// Get returns a key of a consumer.
func (s *Store) Get(consumer, id string) (*Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.get(consumer, id)
}

func (s *Store) get(consumer, id string) (*Key, error) {
	k := s.byID[id]
	if k == nil || k.Consumer != consumer {
		return nil, ErrNotFound
	}
	return k, nil
}

// Len is the number of keys, those that are over included.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byID)
}

// Create makes a key. What is returned as secret is nowhere else.
func (s *Store) Create(spec Spec) (secret string, k *Key, err error) {
	r, err := spec.record(s.now().UTC().Truncate(time.Second))
	if err != nil {
		return "", nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if secret, k, err = s.make(r); err != nil {
		return "", nil, err
	}
	return secret, k, s.commit(k)
}

// make gives a record a key of its own. s.mu is held.
func (s *Store) make(r *Record) (secret string, k *Key, err error) {
	now, active := s.now(), 0
	for _, have := range s.byConsumer[r.Consumer] {
		if have.State(now) == "active" {
			active++
		}
	}
	if active >= maxPerConsumer || len(s.byID) >= maxKeys {
		return "", nil, ErrFull
	}
	secret = generate()
	sum := sha256.Sum256([]byte(secret))
	r.ID, r.Hash, r.Hint = newID(), hex.EncodeToString(sum[:]), secret[:hintSize]
	k, err = newKey(r, nil)
	return secret, k, err
}

// Rotate makes a key that takes the place of another: with its limits, and until its own end if until is zero. The old one is
// valid for the overlap, if it is not over before that, and can not be rotated again.
func (s *Store) Rotate(consumer, id string, overlap time.Duration, until time.Time) (secret string, k, old *Key, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, err = s.get(consumer, id); err != nil {
		return "", nil, nil, err
	}
	now := s.now().UTC().Truncate(time.Second)
	if old.State(s.now()) != "active" {
		return "", nil, nil, ErrOver
	}
	if old.ReplacedBy != "" {
		return "", nil, nil, fmt.Errorf("%w by %s; rotate that one", ErrReplaced, old.ReplacedBy)
	}
	r := old.Record
	r.Created, r.Replaces, r.ReplacedBy, r.LastUsed = now, old.ID, "", time.Time{}
	if !until.IsZero() {
		if !until.After(now) {
			return "", nil, nil, &SpecError{"expires", until.Format(time.RFC3339) + " has passed"}
		}
		r.Expires = until
	}
	if secret, k, err = s.make(&r); err != nil {
		return "", nil, nil, err
	}
	changed := old.View()
	changed.ReplacedBy = k.ID
	if end := now.Add(overlap); overlap <= 0 {
		changed.Revoked = now
	} else if changed.Expires.IsZero() || end.Before(changed.Expires) {
		changed.Expires = end
	}
	before, err := newKey(&changed, old.used)
	if err != nil {
		return "", nil, nil, err
	}
	return secret, k, before, s.commit(k, before)
}

// Revoke ends a key at once. Where the disk fails it is revoked as long as this process lives, and that is the error.
func (s *Store) Revoke(consumer, id string) (*Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.get(consumer, id)
	switch {
	case err != nil:
		return nil, err
	case s.file.lock == nil:
		return nil, ErrElsewhere
	}
	r := k.View()
	if r.Revoked.IsZero() { // else it is written once more, since that may have failed
		r.Revoked = s.now().UTC().Truncate(time.Second)
	}
	over, err := newKey(&r, k.used)
	if err != nil {
		return nil, err
	}
	s.put(over)
	if err := s.commit(over); err != nil {
		s.tell(over)
		s.toWrite(over) // again and again, as long as this process lives
		return nil, fmt.Errorf("the key is refused from now on, but until it can be written, which is tried again, a restart would let it in again: %w", err)
	}
	return over, nil
}

// commit writes changes, and then has them count. s.mu is held.
func (s *Store) commit(changed ...*Key) error {
	if err := s.file.append(changed...); err != nil {
		return err
	}
	for _, k := range changed {
		s.put(k)
		delete(s.unwritten, k.ID)
		s.tell(k)
	}
	return nil
}

// put has a key take the place of the one with its id. s.mu is held.
func (s *Store) put(k *Key) {
	old := s.byID[k.ID]
	s.byID[k.ID] = k
	list := s.byConsumer[k.Consumer]
	if i := slices.Index(list, old); old != nil && i >= 0 {
		list = slices.Clone(list)
		list[i] = k
	} else {
		list = append(list, k)
	}
	s.byConsumer[k.Consumer] = list
	s.index(k, func(have []*Key) []*Key {
		next := slices.DeleteFunc(slices.Clone(have), func(o *Key) bool { return sameKey(o, k) })
		return append(next, k)
	})
}

// drop forgets a key. s.mu is held.
func (s *Store) drop(k *Key) {
	delete(s.byID, k.ID)
	delete(s.unwritten, k.ID)
	s.byConsumer[k.Consumer] = slices.DeleteFunc(slices.Clone(s.byConsumer[k.Consumer]), func(o *Key) bool { return o == k })
	if len(s.byConsumer[k.Consumer]) == 0 {
		delete(s.byConsumer, k.Consumer)
	}
	s.index(k, func(have []*Key) []*Key {
		return slices.DeleteFunc(slices.Clone(have), func(o *Key) bool { return sameKey(o, k) })
	})
}

// index replaces the place of a key in what Find reads.
func (s *Store) index(k *Key, change func([]*Key) []*Key) {
	at := maphash.Bytes(s.seed, k.sum[:])
	shard := &s.shards[at%shards]
	next := maps.Clone(*shard.Load())
	if list := change(next[at]); len(list) > 0 {
		next[at] = list
	} else {
		delete(next, at)
	}
	shard.Store(&next)
}

// load takes what the file has, in the place of what is known but was not learned from other instances. They are told of
// what is new in it. s.mu is held.
func (s *Store) load() error {
	records, err := s.file.read()
	if err != nil {
		return err
	}
	byID := make(map[string]*Key, len(records))
	var order, changed []*Key
	var written []string
	for i := range records {
		r := &records[i]
		have := s.byID[r.ID]
		if _, heard := s.unwritten[r.ID]; heard {
			mine := have.View()
			if merged := merge(&mine, r); sameState(merged, r) {
				written = append(written, r.ID)
			} else {
				r = merged
			}
		}
		k, err := newKey(r, usedOf(have))
		if err != nil {
			return fmt.Errorf("%s: the key %s %w", s.file.path(), r.ID, err)
		}
		if have != nil {
			k.told = have.told
		}
		if len(s.books) > 0 && (have == nil || !sameState(&have.Record, r)) {
			changed = append(changed, k)
		}
		byID[r.ID] = k
		order = append(order, k)
	}
	for id := range s.unwritten {
		if byID[id] == nil {
			byID[id] = s.byID[id]
			order = append(order, s.byID[id])
		}
	}
	var indexes [shards]map[uint64][]*Key
	for i := range indexes {
		indexes[i] = make(map[uint64][]*Key)
	}
	byConsumer := make(map[string][]*Key)
	for _, k := range order {
		byConsumer[k.Consumer] = append(byConsumer[k.Consumer], k)
		at := maphash.Bytes(s.seed, k.sum[:])
		indexes[at%shards][at] = append(indexes[at%shards][at], k)
	}
	s.byID, s.byConsumer = byID, byConsumer
	for i := range s.shards {
		s.shards[i].Store(&indexes[i])
	}
	for _, id := range written {
		delete(s.unwritten, id)
	}
	for _, k := range changed {
		s.tell(k)
	}
	return nil
}

// all returns every key in the order of making. s.mu is held.
func (s *Store) all() []*Key {
	list := slices.Collect(maps.Values(s.byID))
	slices.SortFunc(list, func(a, b *Key) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list
}

// Pauses of run.
const (
	noteEvery = 30 * time.Second       // uses into the file
	lookEvery = 250 * time.Millisecond // at the file of another process
)

func (s *Store) run() {
	t := time.NewTimer(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			s.mu.Lock()
			s.tend()
			s.file.release()
			s.mu.Unlock()
			return
		case <-s.learned:
		case <-t.C:
		}
		t.Reset(s.turn())
	}
}

// turn does what is due, and returns the pause until the next turn.
func (s *Store) turn() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	pause := noteEvery
	if s.file.lock == nil {
		pause = lookEvery
		s.follow()
	}
	s.writeLearned()
	if now := time.Now(); !now.Before(s.noteAt) {
		s.noteAt = now.Add(noteEvery)
		s.tend()
	}
	return pause
}

// follow takes up what another process has written, and takes the file over when that has ended. s.mu is held.
func (s *Store) follow() {
	owned, err := s.file.acquire()
	if err == nil && (owned || s.file.changed()) {
		err = s.load()
	}
	if err != nil {
		s.file.release() // who has not read the file must not write in it
		s.log.Error("cannot take up the API keys of state.dir; those that were known stay", "file", s.file.path(), "error", err.Error())
	}
}

// tend forgets keys that have been over for long, notes uses, and writes the file anew when it has grown. s.mu is held.
func (s *Store) tend() {
	s.forget()
	s.tellUses()
	s.writeLearned()
	if s.file.lock == nil {
		return
	}
	uses := make(map[string]int64)
	for id, k := range s.byID {
		if at := k.used.Load(); at != k.noted {
			uses[id] = at
		}
	}
	if len(uses) > 0 {
		if err := s.file.note(uses); err != nil {
			s.log.Error("cannot write when API keys were used", "file", s.file.path(), "error", err.Error())
			return
		}
		for id, at := range uses {
			s.byID[id].noted = at
		}
	}
	if !s.file.grown() {
		return
	}
	if err := s.file.rewrite(s.all()); err != nil {
		s.log.Error("cannot write the file of API keys anew", "file", s.file.path(), "error", err.Error())
	}
}
