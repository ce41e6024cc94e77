package keys

import (
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
)

// Book is what tells other instances of keys, by their ids.
type Book = interface{ Write(id, value string) }

const (
	// maxValue bounds a record as it stands in a book, maxWord the names in it.
	maxValue = 1 << 20
	maxWord  = 1024
	// tellEvery is how often the others are told that a key is in use.
	tellEvery = 60 // seconds
	// mostTold bounds the uses that they are told of in one go: who is told of more than a book remembers reads all of it.
	mostTold = 500
	// doubt is by how much clocks of instances may differ when keys that are over are forgotten.
	doubt = 24 * time.Hour
	// maxAncestors bounds how far it is followed which key took the place of which.
	maxAncestors = 1000
)

// Share has changes told through the book that open returns, which asks Learn and All. Nothing is changed between its
// opening and the first change that it is told of. There may be several books, as while a configuration takes the place of another.
func (s *Store) Share(open func() Book) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.books = append(s.books, open())
}

// Unshare ends that.
func (s *Store) Unshare(b Book) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.books = slices.DeleteFunc(s.books, func(o Book) bool { return o == b })
}

// tell tells other instances of a key. s.mu is held.
func (s *Store) tell(k *Key) {
	if len(s.books) == 0 {
		return
	}
	r := k.View()
	k.told = k.used.Load()
	value := text(&r)
	for _, b := range s.books {
		b.Write(r.ID, value)
	}
}

// All yields all keys as other instances are told of them, but for those that are over and forgotten.
func (s *Store) All(yield func(id, value string) bool) {
	s.mu.Lock()
	all, now := s.all(), s.now()
	s.mu.Unlock()
	for _, k := range all {
		if k.overFor(now) >= remembered {
			continue
		}
		r := k.View()
		if !yield(r.ID, text(&r)) {
			return
		}
	}
}

// Learn takes up what another instance says of a key, "" where it is forgotten, and returns what is to be said of it. In
// whichever order instances hear of changes, they come to the same; see merge. The file has it a moment later.
func (s *Store) Learn(id, value string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	have, now := s.byID[id], s.now()
	if value == "" {
		if have == nil {
			return ""
		}
		if have.overFor(now) >= remembered-doubt {
			s.drop(have)
			return ""
		}
		r := have.View()
		return text(&r)
	}
	told, err := parse(id, value)
	if err == nil && have == nil {
		err = s.canTake(told)
	}
	if err != nil {
		if !isID(id) {
			id = "" // it could be anything
		}
		s.log.Warn("what the shared store has of an API key is left out", "id", id, "error", err.Error())
		if have == nil {
			return value
		}
		r := have.View()
		return text(&r)
	}
	if told.LastUsed.After(now.Add(doubt)) {
		told.LastUsed = time.Time{}
	}
	if have == nil {
		over := overFor(told, now)
		if over >= remembered+doubt {
			return ""
		}
		if over >= remembered {
			return value // whoever remembers it takes it away
		}
		s.take(told, nil)
	} else {
		mine := have.View()
		if merged := merge(&mine, told); sameState(merged, &mine) {
			have.use(told.LastUsed.Unix())
		} else {
			s.take(merged, have)
		}
	}
	k := s.byID[id]
	k.told = max(k.told, told.LastUsed.Unix())
	r := k.View()
	if sameState(&r, told) {
		return value
	}
	return text(&r)
}

// canTake says why a record of a key that is not known is not taken. s.mu is held.
func (s *Store) canTake(r *Record) error {
	k, err := newKey(r, nil)
	if err != nil {
		return err
	}
	if s.Find(&k.sum) != nil {
		return errors.New("has the hash of another key")
	}
	if len(s.byID) >= maxKeys {
		return ErrFull
	}
	return nil
}

// take has a record count that was heard of, in the place of have. s.mu is held.
func (s *Store) take(r *Record, have *Key) {
	k, err := newKey(r, usedOf(have))
	if err != nil {
		panic("BUG: " + err.Error()) // it was checked
	}
	if have != nil {
		k.told = have.told
		if !sameKey(have, k) || have.Consumer != k.Consumer {
			s.drop(have)
		}
	}
	s.put(k)
	s.toWrite(k)
	for _, o := range s.byConsumer[k.Consumer] {
		if (o == k || k.ReplacedBy != "") && o.Revoked.IsZero() && s.lost(o) {
			s.log.Warn("two instances had another key take the place of one API key at the same time; this one of the two is revoked", "id", o.ID, "consumer", o.Consumer)
			r := o.View()
			r.Revoked = s.now().UTC().Truncate(time.Second)
			over, err := newKey(&r, o.used)
			if err != nil {
				panic("BUG: " + err.Error())
			}
			s.put(over)
			s.toWrite(over)
			s.tell(over)
		}
	}
}

// lost tells whether a key took the place of one that another key has taken, or descends from such a key. s.mu is held.
func (s *Store) lost(k *Key) bool {
	for range maxAncestors {
		p := s.byID[k.Replaces]
		if p == nil || p.Consumer != k.Consumer {
			return false
		}
		// Where the other id is greater, it is that of the key that is lost: the record before has not been told of this one yet.
		if p.ReplacedBy != "" && p.ReplacedBy < k.ID {
			return true
		}
		k = p
	}
	return false
}

// toWrite has the file told of a key that counts already. s.mu is held.
func (s *Store) toWrite(k *Key) {
	s.unwritten[k.ID] = struct{}{}
	select {
	case s.learned <- struct{}{}:
	default:
	}
}

// writeLearned writes what was learned into the file. s.mu is held.
func (s *Store) writeLearned() {
	if s.file.lock == nil || len(s.unwritten) == 0 {
		return
	}
	changed := make([]*Key, 0, len(s.unwritten))
	for id := range s.unwritten {
		if k := s.byID[id]; k != nil {
			changed = append(changed, k)
		}
	}
	if err := s.file.append(changed...); err != nil {
		s.log.Error("cannot write what was revoked or what other instances say of API keys; it counts, and is tried again", "file", s.file.path(), "error", err.Error())
		return
	}
	clear(s.unwritten)
}

// tellUses tells other instances which keys are in use. s.mu is held.
func (s *Store) tellUses() {
	if len(s.books) == 0 {
		return
	}
	var due []*Key
	for _, k := range s.byID {
		if k.used.Load()-k.told >= tellEvery {
			due = append(due, k)
		}
	}
	if len(due) > mostTold {
		slices.SortFunc(due, func(a, b *Key) int { return cmp.Compare(a.told, b.told) })
		due = due[:mostTold]
	}
	for _, k := range due {
		s.tell(k)
	}
}

// forget drops keys that have been over for long, here and in the books. s.mu is held.
func (s *Store) forget() {
	now := s.now()
	for id, k := range s.byID {
		if k.overFor(now) < remembered {
			continue
		}
		s.drop(k)
		for _, b := range s.books {
			b.Write(id, "")
		}
	}
}

// merge returns what stands of two versions of a record. It is commutative, associative and idempotent, and only ever takes
// away: the earlier revocation and the earlier end stand; of two keys that took its place the one whose id is smaller. What
// else is told of a key never changes; where two versions differ in it one of them is wrong, and the key is good for nobody.
func merge(a, b *Record) *Record {
	m := *a
	x, y := identity(a), identity(b)
	if y < x {
		m = *b
	}
	m.Expires = earlier(a.Expires, b.Expires)
	m.Revoked = earlier(a.Revoked, b.Revoked)
	if x != y {
		m.Revoked = earlier(m.Revoked, earlier(a.Created, b.Created))
	}
	m.ReplacedBy = a.ReplacedBy
	if a.ReplacedBy == "" || b.ReplacedBy != "" && b.ReplacedBy < a.ReplacedBy {
		m.ReplacedBy = b.ReplacedBy
	}
	if m.LastUsed = a.LastUsed; b.LastUsed.After(a.LastUsed) {
		m.LastUsed = b.LastUsed
	}
	return &m
}

// earlier is the earlier of two times, where zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// identity is what of a record never changes.
func identity(r *Record) string {
	c := *r
	c.Expires, c.Revoked, c.LastUsed, c.ReplacedBy = time.Time{}, time.Time{}, time.Time{}, ""
	return text(&c)
}

// sameState compares all but the last use.
func sameState(a, b *Record) bool {
	c, d := *a, *b
	c.LastUsed, d.LastUsed = time.Time{}, time.Time{}
	return text(&c) == text(&d)
}

// latest is the last second that can be written.
var latest = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// text writes a record, equal ones alike.
func text(r *Record) string {
	c := *r
	for _, at := range []*time.Time{&c.Created, &c.Expires, &c.Revoked, &c.LastUsed} {
		if *at = at.UTC(); at.After(latest) {
			*at = latest
		}
	}
	b, err := json.Marshal(c)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return string(b)
}

// parse reads a record that another instance has written. Its errors tell nothing of what is in it.
func parse(id, value string) (*Record, error) {
	if len(value) > maxValue {
		return nil, errors.New("is too long")
	}
	r := new(Record)
	if json.Unmarshal([]byte(value), r) != nil {
		return nil, errors.New("is not written as one")
	}
	for _, at := range []*time.Time{&r.Created, &r.Expires, &r.Revoked, &r.LastUsed} {
		if *at = at.UTC(); at.Year() < 1 || at.After(latest) {
			return nil, errors.New("has a time that there is not")
		}
	}
	good := func(s string) bool { return len(s) <= maxWord && isLine(s) }
	switch {
	case !isID(id) || r.ID != id || r.Replaces != "" && !isID(r.Replaces) || r.ReplacedBy != "" && !isID(r.ReplacedBy) || r.Replaces == id || r.ReplacedBy == id:
		return nil, errors.New("has an id that is none")
	case r.Consumer == "" || !good(r.Consumer) || !good(r.Tenant) || len(r.Hint) > hintSize || !isLine(r.Hint):
		return nil, errors.New("has a name that is none")
	case r.Created.IsZero():
		return nil, errors.New("does not say when it was made")
	case len(r.Name) > maxName || !isLine(r.Name) || len(r.CIDRs) > maxLimits || len(r.Methods) > maxLimits || len(r.Paths) > maxLimits:
		return nil, errors.New("is over the bounds of a key")
	}
	for _, p := range r.CIDRs {
		if !p.IsValid() || p.Addr().Is4In6() || p != p.Masked() {
			return nil, errors.New("is limited to a network that is none")
		}
	}
	if slices.ContainsFunc(r.Methods, func(m string) bool { return !isMethod(m) }) || slices.ContainsFunc(r.Paths, func(p string) bool { return !isPath(p) }) {
		return nil, errors.New("is limited to a method or a path that is none")
	}
	_, err := newKey(r, nil)
	return r, err
}

// isID recognizes what newID makes.
func isID(s string) bool {
	rest, ok := strings.CutPrefix(s, idPrefix)
	return ok && len(rest) == idSize && !strings.ContainsFunc(rest, func(c rune) bool { return (c < 'a' || c > 'z') && (c < '2' || c > '7') })
}

// overFor is how long a key is over, negative or 0 if it is not.
func (k *Key) overFor(now time.Time) time.Duration { return overFor(&k.Record, now) }

func overFor(r *Record, now time.Time) time.Duration {
	end := earlier(r.Expires, r.Revoked)
	if end.IsZero() {
		return 0
	}
	return now.Sub(end)
}
