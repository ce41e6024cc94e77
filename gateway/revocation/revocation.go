// Package revocation is the list of credentials that count no more although they have not expired: tokens by themselves or by their jti, and
// all that was issued for a subject until some time. It guarantees that what was revoked is refused from then on, also after a restart where
// there is a folder to keep the list in; that looking costs one atomic load where nothing is revoked, and never waits or allocates; and that
// a token stands nowhere in it: what is kept is its hash.
package revocation

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Kind is by what credentials are known.
type Kind string

// The kinds.
const (
	// Token is one token, as it is sent: a JWT, or what forward_auth passes on. Value is its SHA-256, hexadecimal.
	Token Kind = "token"
	// JTI is the JWT with that identifier (RFC 7519, section 4.1.7).
	JTI Kind = "jti"
	// Subject is every token that was issued for it (RFC 7519, section 4.1.2) until Before.
	Subject Kind = "subject"
)

// Entry is one revocation.
type Entry struct {
	// ID names it, and follows from Kind, Issuer and Value.
	ID    string `json:"id"`
	Kind  Kind   `json:"kind"`
	Value string `json:"value"`
	// Issuer bounds it to tokens with this iss; "" is every issuer's. Always "" of a Token.
	Issuer string `json:"issuer,omitempty"`
	// Before is of a Subject: tokens issued later, by their iat, are good. Those that do not say when they were issued are not.
	Before time.Time `json:"before,omitzero"`
	// Until is when the entry ends: when everything that it means has expired by itself.
	Until time.Time `json:"until"`
}

// Bounds of a list.
const (
	MaxEntries = 100_000
	maxValue   = 512
	// Furthest is how far ahead Until may be.
	Furthest = 366 * 24 * time.Hour
)

// ErrFull: there are too many entries that have not ended.
var ErrFull = errors.New("there are too many revocations; revoke by subject what belongs together")

// SpecError says what is wrong with one setting of an Entry.
type SpecError struct{ Setting, Message string }

func (e *SpecError) Error() string { return e.Setting + ": " + e.Message }

// OfToken is the Value of a token.
func OfToken(token []byte) string {
	sum := sha256.Sum256(token)
	return hex.EncodeToString(sum[:])
}

// check completes an entry.
func (e *Entry) check(now time.Time) error {
	wrong := func(setting, format string, a ...any) error { return &SpecError{setting, fmt.Sprintf(format, a...)} }
	switch e.Kind {
	case Token:
		if raw, err := hex.DecodeString(e.Value); err != nil || len(raw) != sha256.Size || e.Value != strings.ToLower(e.Value) || e.Issuer != "" {
			return wrong("token", "is known by its SHA-256, and of no issuer")
		}
	case JTI, Subject:
		if e.Value == "" || len(e.Value) > maxValue || len(e.Issuer) > maxValue {
			return wrong(string(e.Kind), "must have 1 to %d bytes, as its issuer may", maxValue)
		}
	default:
		return wrong("kind", "is token, jti or subject")
	}
	if (e.Kind == Subject) == e.Before.IsZero() {
		return wrong("before", "belongs to a subject, and to nothing else")
	}
	if !e.Until.After(now) || e.Until.Sub(now) > Furthest {
		return wrong("until", "must lie ahead, by a year at most")
	}
	e.Before, e.Until = e.Before.UTC(), e.Until.UTC()
	sum := sha256.Sum256([]byte(string(e.Kind) + "\x00" + e.Issuer + "\x00" + e.Value))
	e.ID = "rev_" + hex.EncodeToString(sum[:10])
	return nil
}

// Credential is what is asked about. All of it is borrowed.
type Credential struct {
	// Token is the whole of it.
	Token []byte
	// JTI, Issuer and Subject are a JWT's claims, "" for those it has not; Issued is its iat in Unix seconds, 0 for none.
	JTI, Issuer, Subject string
	Issued               float64
}

// List is what is revoked. Its zero value is of no use: make one with Open.
type List struct {
	o    Options
	some atomic.Bool // there are entries

	mu       sync.RWMutex
	byID     map[string]*Entry
	tokens   map[[sha256.Size]byte]*Entry
	jtis     map[string][]*Entry
	subjects map[string][]*Entry

	writing sync.Mutex // of the file, and of what the book is told
	file    *file
	share   *sharing // nil: nobody is to be told

	stop chan struct{}
	done sync.WaitGroup
}

// sharing tells other instances of an entry, or that it has ended.
type sharing struct{ tell, ended func(*Entry) }

// Options of a List. Log and Now are required.
type Options struct {
	// Dir is the folder to keep it in; "": it ends with the process.
	Dir string
	Log *slog.Logger
	Now func() time.Time
}

// lookEvery is how often it is looked for what other processes have written in the folder, and for what has ended.
const lookEvery = 500 * time.Millisecond

// Open reads the list of a folder, which is made where there is none, and keeps it up to date until Close. A line that is damaged is an error:
// what is missing would pass.
func Open(o Options) (*List, error) {
	l := &List{o: o, byID: make(map[string]*Entry), tokens: make(map[[sha256.Size]byte]*Entry), jtis: make(map[string][]*Entry), subjects: make(map[string][]*Entry), stop: make(chan struct{})}
	if o.Dir != "" {
		l.file = newFile(o.Dir)
		if err := l.file.read(l.learn); err != nil {
			return nil, err
		}
	}
	l.done.Go(l.run)
	return l, nil
}

// Close ends it.
func (l *List) Close() {
	close(l.stop)
	l.done.Wait()
}

func (l *List) run() {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	failed := false
	for {
		select {
		case <-l.stop:
			return
		case <-t.C:
		}
		l.sweep()
		if l.file == nil {
			continue
		}
		l.writing.Lock()
		err := l.file.read(l.learn)
		if err == nil && l.file.lines > 2*l.Len()+1000 {
			err = l.file.rewrite(l.Entries, l.learn)
		}
		l.writing.Unlock()
		if err != nil && !failed {
			l.o.Log.Error("cannot keep the list of what is revoked; what was known of it stays", "file", l.file.path, "error", err.Error())
		}
		failed = err != nil
	}
}

// Revoke adds an entry, completed, or makes one that is there mean more. It is in force when this returns, also with an error,
// which then says that it could not be kept.
func (l *List) Revoke(e Entry) (Entry, error) {
	if err := e.check(l.o.Now()); err != nil {
		return e, err
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	if !l.learn(e) {
		return e, ErrFull
	}
	l.mu.RLock()
	e = *l.byID[e.ID]
	l.mu.RUnlock()
	if l.share != nil {
		l.share.tell(&e)
	}
	if l.file == nil {
		return e, nil
	}
	return e, l.file.append(e, l.learn)
}

// Share has tell called for every entry that is made here from now on, and ended for those that have ended, in the place of whoever asked
// for that before. stop ends it.
func (l *List) Share(tell, ended func(*Entry)) (stop func()) {
	mine := &sharing{tell, ended}
	l.writing.Lock()
	defer l.writing.Unlock()
	l.share = mine
	return func() {
		l.writing.Lock()
		defer l.writing.Unlock()
		if l.share == mine {
			l.share = nil
		}
	}
}

// Learn takes up an entry of another instance, and returns how it stands now; of one that is not well-formed, or over, nil.
func (l *List) Learn(e Entry) *Entry {
	id := e.ID
	if err := e.check(l.o.Now()); err != nil || e.ID != id {
		return nil
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.RLock()
	old := l.byID[id]
	l.mu.RUnlock()
	if !l.learn(e) {
		return nil
	}
	l.mu.RLock()
	now := l.byID[id]
	l.mu.RUnlock()
	if l.file != nil && (old == nil || *old != *now) {
		if err := l.file.append(*now, l.learn); err != nil {
			l.o.Log.Error("a revocation of another instance can not be kept", "file", l.file.path, "error", err.Error())
		}
	}
	return now
}

// learn puts an entry into force. Of two of the same the one that means more stands: the later Before and Until. It is false where there
// are too many.
func (l *List) learn(e Entry) bool {
	if !e.Until.After(l.o.Now()) {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.byID[e.ID]
	if old != nil {
		if old.Before.After(e.Before) {
			e.Before = old.Before
		}
		if old.Until.After(e.Until) {
			e.Until = old.Until
		}
		if *old == e {
			return true
		}
	} else if len(l.byID) >= MaxEntries {
		return false
	}
	l.remove(old)
	l.byID[e.ID] = &e
	switch e.Kind {
	case Token:
		l.tokens[sumOf(&e)] = &e
	case JTI:
		l.jtis[e.Value] = append(slices.Clone(l.jtis[e.Value]), &e)
	case Subject:
		l.subjects[e.Value] = append(slices.Clone(l.subjects[e.Value]), &e)
	}
	l.some.Store(true)
	return true
}

func sumOf(e *Entry) (sum [sha256.Size]byte) {
	_, _ = hex.Decode(sum[:], []byte(e.Value))
	return sum
}

// remove forgets an entry. l.mu is held.
func (l *List) remove(e *Entry) {
	if e == nil {
		return
	}
	delete(l.byID, e.ID)
	without := func(m map[string][]*Entry) {
		if m[e.Value] = slices.DeleteFunc(slices.Clone(m[e.Value]), func(o *Entry) bool { return o == e }); len(m[e.Value]) == 0 {
			delete(m, e.Value)
		}
	}
	switch e.Kind {
	case Token:
		delete(l.tokens, sumOf(e))
	case JTI:
		without(l.jtis)
	case Subject:
		without(l.subjects)
	}
}

// sweep forgets what has ended.
func (l *List) sweep() {
	if !l.some.Load() {
		return
	}
	now := l.o.Now()
	var ended []*Entry
	l.mu.Lock()
	for _, e := range l.byID {
		if !e.Until.After(now) {
			l.remove(e)
			ended = append(ended, e)
		}
	}
	l.some.Store(len(l.byID) > 0)
	l.mu.Unlock()
	l.writing.Lock()
	defer l.writing.Unlock()
	for _, e := range ended {
		if l.share != nil {
			l.share.ended(e)
		}
	}
}

// Get returns an entry that has not ended.
func (l *List) Get(id string) (Entry, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if e := l.byID[id]; e != nil {
		return *e, true
	}
	return Entry{}, false
}

// Len is the number of entries.
func (l *List) Len() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.byID)
}

// Entries are all of them, by their id.
func (l *List) Entries() []Entry {
	l.mu.RLock()
	defer l.mu.RUnlock()
	all := make([]Entry, 0, len(l.byID))
	for _, id := range slices.Sorted(maps.Keys(l.byID)) {
		all = append(all, *l.byID[id])
	}
	return all
}

// Some reports whether anything is revoked.
func (l *List) Some() bool { return l.some.Load() }

// Revoked reports whether a credential is.
func (l *List) Revoked(c *Credential) bool {
	if !l.some.Load() {
		return false
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(l.tokens) > 0 && len(c.Token) > 0 && l.tokens[sha256.Sum256(c.Token)] != nil {
		return true
	}
	if c.JTI != "" {
		for _, e := range l.jtis[c.JTI] {
			if e.Issuer == "" || e.Issuer == c.Issuer {
				return true
			}
		}
	}
	if c.Subject != "" {
		for _, e := range l.subjects[c.Subject] {
			if (e.Issuer == "" || e.Issuer == c.Issuer) && math.Floor(c.Issued) <= float64(e.Before.Unix()) {
				return true
			}
		}
	}
	return false
}
