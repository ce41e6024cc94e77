// Package revocation is the list of credentials that count no more although they have not expired: tokens by themselves or by their jti, and
// all that was issued for a subject until some time. It guarantees that what was revoked is refused from then on, also after a restart where
// there is a folder to keep the list in; that looking costs one atomic load where nothing is revoked, and never waits or allocates; and that
// a token stands nowhere in it: what is kept is its hash.
package revocation

import (
	"bytes"
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
	// Token is one token, as it is sent: a JWT, or what forward_auth passes on. Value is its SHA-256, hexadecimal, of a JWT without the signature.
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
	// Furthest is how far ahead Until may be: longer than any token should be valid, since from then on it would be taken again.
	Furthest = 10 * 366 * 24 * time.Hour
)

// ErrFull: there are too many entries that have not ended.
var ErrFull = errors.New("there are too many revocations; revoke by subject what belongs together")

// SpecError says what is wrong with one setting of an Entry.
type SpecError struct{ Setting, Message string }

func (e *SpecError) Error() string { return e.Setting + ": " + e.Message }

// OfToken is the Value of a token.
func OfToken(token []byte) string {
	sum := sha256.Sum256(identity(token))
	return hex.EncodeToString(sum[:])
}

// identity is what makes a token this one: of a JWT (RFC 7515, section 7.1) what is signed, since whoever has one with an ECDSA signature can make
// another signature of it that is as good.
func identity(token []byte) []byte {
	// The first segment is {", or { and white space, in base64.
	if len(token) < 2 || token[0] != 'e' || token[1] != 'y' && token[1] != 'w' || bytes.Count(token, dot) != 2 {
		return token
	}
	return token[:bytes.LastIndexByte(token, '.')]
}

var dot = []byte{'.'}

// check completes an entry.
func (e *Entry) check() error {
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
	// Without the reading of the monotonic clock, so that equal times are equal.
	e.Before, e.Until = e.Before.UTC().Round(0), e.Until.UTC().Round(0)
	sum := sha256.Sum256([]byte(string(e.Kind) + "\x00" + e.Issuer + "\x00" + e.Value))
	e.ID = "rev_" + hex.EncodeToString(sum[:10])
	return nil
}

// checkUntil bounds when an entry ends.
func (e *Entry) checkUntil(now time.Time) error {
	if !e.Until.After(now) || e.Until.Sub(now) > Furthest {
		return &SpecError{"until", "must lie ahead, by ten years at most"}
	}
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
	soonest  time.Time // none ends before it
	// unkept are the ids of those that the file may not have.
	unkept map[string]struct{}

	writing sync.Mutex // of the file, and of what other instances are told
	file    *file

	stop chan struct{}
	done sync.WaitGroup
	sharing
}

// Options of a List. Log and Now are required.
type Options struct {
	// Dir is the folder to keep it in; "": it ends with the process.
	Dir string
	Log *slog.Logger
	Now func() time.Time
}

// lookEvery is how often it is looked for what other processes have written in the folder, and for what has ended.
const lookEvery = 500 * time.Millisecond

// sweepEvery is how often all entries are looked at, though none has ended.
const sweepEvery = time.Hour

// Open reads the list of a folder, which is made where there is none, and keeps it up to date until Close. A line that is damaged is an error:
// what is missing would pass.
func Open(o Options) (*List, error) {
	l := &List{o: o, byID: make(map[string]*Entry), tokens: make(map[[sha256.Size]byte]*Entry), jtis: make(map[string][]*Entry), subjects: make(map[string][]*Entry), unkept: make(map[string]struct{}), stop: make(chan struct{})}
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
			if l.file != nil {
				_ = l.keep()
			}
			return
		case <-t.C:
		}
		l.sweep()
		if l.file == nil {
			continue
		}
		err := l.keep()
		if err != nil && !failed {
			l.o.Log.Error("cannot keep the list of what is revoked; what was known of it stays, and it is tried again", "file", l.file.path, "error", err.Error())
		}
		failed = err != nil
	}
}

// keep brings list and file up to date with each other.
func (l *List) keep() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	err := l.file.read(l.learn)
	if err != nil {
		return err
	}
	unkept := l.takeUnkept()
	switch {
	case l.file.lost || l.file.lines > 2*l.Len()+1000:
		err = l.file.rewrite(l.Entries, l.learn)
	case len(unkept) > 0:
		err = l.file.append(unkept, l.learn)
	}
	if err != nil {
		l.mu.Lock()
		for i := range unkept {
			l.unkept[unkept[i].ID] = struct{}{}
		}
		l.mu.Unlock()
	}
	return err
}

// takeUnkept returns what the file may not have.
func (l *List) takeUnkept() (all []Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.unkept {
		if e := l.byID[id]; e != nil {
			all = append(all, *e)
		}
	}
	clear(l.unkept)
	return all
}

// Revoke adds an entry, completed, or makes one that is there mean more. It is in force when this returns, also with an error,
// which then says that it could not be kept; that is tried again as long as the process lives.
func (l *List) Revoke(e Entry) (Entry, error) {
	if err := e.check(); err != nil {
		return e, err
	}
	if err := e.checkUntil(l.o.Now()); err != nil {
		return e, err
	}
	l.writing.Lock()
	if !l.put(e, MaxEntries, true) {
		l.writing.Unlock()
		return e, ErrFull
	}
	if now, ok := l.Get(e.ID); ok {
		e = now
	}
	l.tell(&e)
	l.writing.Unlock()
	if l.file == nil {
		return e, nil
	}
	return e, l.keep()
}

// learn puts an entry of the file into force.
func (l *List) learn(e Entry) bool { return l.put(e, 2*MaxEntries, false) }

// put puts an entry into force. Of two of the same the one that means more stands: the later Before and Until. It is false where there
// are most already; what others have revoked is put where there are more than may be made, since both may have been about to be full.
func (l *List) put(e Entry, most int, keep bool) bool {
	if !e.Until.After(l.o.Now()) {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old, heard := l.byID[e.ID], e
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
	} else if len(l.byID) >= most {
		return false
	}
	l.remove(old)
	if len(l.byID) == 0 || e.Until.Before(l.soonest) {
		l.soonest = e.Until
	}
	l.byID[e.ID] = &e
	if l.file != nil && (keep || e != heard) {
		l.unkept[e.ID] = struct{}{}
	}
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
	delete(l.unkept, e.ID)
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

// sweep forgets what has ended. Requests wait for it no longer than that takes: it looks at all beside them, and only when one is due.
func (l *List) sweep() {
	now := l.o.Now()
	var ended []*Entry
	l.mu.RLock()
	due := len(l.byID) > 0 && !l.soonest.After(now)
	l.mu.RUnlock()
	if due {
		l.mu.Lock()
		l.soonest = now.Add(sweepEvery) // at the latest, and what comes meanwhile may end earlier
		l.mu.Unlock()
		l.mu.RLock()
		next := now.Add(sweepEvery)
		for _, e := range l.byID {
			if !e.Until.After(now) {
				ended = append(ended, e)
			} else if e.Until.Before(next) {
				next = e.Until
			}
		}
		l.mu.RUnlock()
		l.mu.Lock()
		if next.Before(l.soonest) {
			l.soonest = next
		}
		ended = slices.DeleteFunc(ended, func(e *Entry) bool {
			if l.byID[e.ID] != e {
				return true // it means more by now
			}
			l.remove(e)
			return false
		})
		l.some.Store(len(l.byID) > 0)
		l.mu.Unlock()
	}
	l.writing.Lock()
	l.tellEnded(ended, now)
	l.writing.Unlock()
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
	if len(l.tokens) > 0 && len(c.Token) > 0 && l.tokens[sha256.Sum256(identity(c.Token))] != nil {
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
			if (e.Issuer == "" || e.Issuer == c.Issuer) && !(math.Floor(c.Issued) > float64(e.Before.Unix())) { // also where it is no number
				return true
			}
		}
	}
	return false
}
