package revocation

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// board is a Book that others do not read.
type board struct{ entries sync.Map }

func (b *board) Write(id, value string) { b.entries.Store(id, value) }

func (b *board) get(id string) string {
	value, ok := b.entries.Load(id)
	if !ok {
		return "nothing was written"
	}
	return value.(string)
}

func (l *List) shareOn() *board {
	b := new(board)
	l.Share(func() Book { return b })
	return b
}

// Clocks of instances differ: none takes out of the book what is in force at another, nor writes again what is over.
func TestClocksDiffer(t *testing.T) {
	here, there := clockAt(start), clockAt(start)
	a, b := open(t, "", here), open(t, "", there)
	board := a.shareOn()
	e := revoke(t, a, Entry{Kind: JTI, Value: "1", Until: start.Add(time.Hour)})
	value := board.get(e.ID)
	f := func(what string, l *List, told, want string) {
		t.Helper()
		if got := l.Learn(e.ID, told); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	there.set(e.Until.Add(10 * time.Minute))
	f("ended there", b, value, value)
	f("taken out by mistake", a, "", value)
	here.set(e.Until)
	a.sweep()
	if board.get(e.ID) != value {
		t.Error("it is taken out while it may be in force elsewhere")
	}
	f("ended here", a, value, value)
	f("ended and taken out", a, "", "")
	there.set(e.Until.Add(doubt + 1))
	f("ended everywhere", b, value, "")
	here.set(e.Until.Add(doubt))
	a.sweep()
	if got := board.get(e.ID); got != "" {
		t.Errorf("it is not taken out: %q", got)
	}

	// One that ends as late as it may is taken also where the clock is behind.
	there.set(here.get().Add(-10 * time.Minute))
	e = revoke(t, a, Entry{Kind: JTI, Value: "2", Until: here.get().Add(Furthest)})
	f("as late as may be", b, board.get(e.ID), board.get(e.ID))
	if !knows(b, "2") {
		t.Error("a revocation is not in force where the clock is behind")
	}
}

// What is revoked anew is not taken out of the book because it had ended before.
func TestRevokedAgain(t *testing.T) {
	now := clockAt(start)
	l := open(t, "", now)
	board := l.shareOn()
	e := revoke(t, l, Entry{Kind: JTI, Value: "1", Until: start.Add(time.Hour)})
	now.set(e.Until)
	l.sweep()
	revoke(t, l, Entry{Kind: JTI, Value: "1", Until: now.get().Add(100 * time.Hour)})
	now.set(e.Until.Add(doubt))
	l.sweep()
	if !strings.Contains(board.get(e.ID), "{") || !knows(l, "1") {
		t.Errorf("%q", board.get(e.ID))
	}
}

// A configuration that is given up leaves the book of the one in force alone.
func TestBookOfAnotherConfiguration(t *testing.T) {
	now := clockAt(start)
	l := open(t, "", now)
	board := l.shareOn()
	other := &struct{ Book }{}
	l.Share(func() Book { return other })
	l.Unshare(other)
	if e := revoke(t, l, Entry{Kind: JTI, Value: "1", Until: start.Add(time.Hour)}); !strings.Contains(board.get(e.ID), "{") {
		t.Error("other instances are not told any more")
	}
}

// What is no entry, and what is one too many, is not taken away from the other instances.
func TestNotTaken(t *testing.T) {
	now := clockAt(start)
	l := open(t, "", now)
	f := func(id, value string) {
		t.Helper()
		before := l.Len()
		if got := l.Learn(id, value); got != value || l.Len() != before {
			t.Errorf("%s: %q, %d more", id, got, l.Len()-before)
		}
	}
	e := Entry{Kind: JTI, Value: "1", Until: start.Add(time.Hour)}
	if err := e.check(); err != nil {
		t.Fatal(err)
	}
	good := text(&e)
	f("rev_other", good)
	f(e.ID, "garbage")
	f(e.ID, "null")
	f(e.ID, strings.Replace(good, `"jti"`, `"of a later version"`, 1))
	f(e.ID, strings.Replace(good, "2030", "2130", 1))
	for i := range 2 * MaxEntries {
		o := Entry{ID: fmt.Sprint("rev_", i), Kind: JTI, Value: fmt.Sprint("v", i), Until: start.Add(time.Hour)}
		if !l.learn(o) {
			t.Fatal(i)
		}
		if i == MaxEntries {
			if _, err := l.Revoke(e); err != ErrFull {
				t.Error(err)
			}
		}
	}
	f(e.ID, good)
}
