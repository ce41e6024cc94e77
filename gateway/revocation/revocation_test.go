package revocation

import (
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var start = time.Date(2030, 1, 2, 3, 4, 5, 6e8, time.UTC)

// clock is one that a test sets.
type clock struct{ at atomic.Pointer[time.Time] }

func clockAt(at time.Time) *clock {
	c := new(clock)
	c.set(at)
	return c
}

func (c *clock) set(at time.Time) { c.at.Store(&at) }
func (c *clock) get() time.Time   { return *c.at.Load() }

func open(t *testing.T, dir string, now *clock) *List {
	t.Helper()
	l, err := Open(Options{Dir: dir, Log: slog.New(slog.DiscardHandler), Now: now.get})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func revoke(t *testing.T, l *List, e Entry) Entry {
	t.Helper()
	made, err := l.Revoke(e)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestRevoked(t *testing.T) {
	now := clockAt(start)
	l := open(t, "", now)
	f := func(c Credential, want bool) {
		t.Helper()
		if got := l.Revoked(&c); got != want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	f(Credential{Token: []byte("abc"), JTI: "1", Subject: "alice"}, false)
	until := start.Add(time.Hour)
	revoke(t, l, Entry{Kind: Token, Value: OfToken([]byte("abc")), Until: until})
	revoke(t, l, Entry{Kind: JTI, Value: "1", Issuer: "a", Until: until})
	revoke(t, l, Entry{Kind: JTI, Value: "2", Until: until})
	revoke(t, l, Entry{Kind: Subject, Value: "alice", Before: start, Until: until})
	revoke(t, l, Entry{Kind: Subject, Value: "bob", Issuer: "a", Before: start, Until: until})

	f(Credential{Token: []byte("abc")}, true)
	f(Credential{Token: []byte("abd")}, false)
	f(Credential{JTI: "1", Issuer: "a"}, true)
	f(Credential{JTI: "1", Issuer: "b"}, false)
	f(Credential{JTI: "2", Issuer: "b"}, true)
	f(Credential{JTI: "3"}, false)
	at := float64(start.Unix())
	f(Credential{Subject: "alice", Issuer: "x", Issued: at}, true) // within the second: rather once too often
	f(Credential{Subject: "alice", Issued: at + .99}, true)
	f(Credential{Subject: "alice", Issued: at + 1}, false)
	f(Credential{Subject: "alice"}, true) // does not say
	f(Credential{Subject: "alice", Issued: math.NaN()}, true)
	f(Credential{Subject: "bob", Issuer: "b"}, false)
	f(Credential{Subject: "bob", Issuer: "a"}, true)

	now.set(until)
	l.sweep()
	f(Credential{Token: []byte("abc")}, false)
	if l.Some() || l.Len() != 0 || len(l.jtis)+len(l.subjects)+len(l.tokens) != 0 {
		t.Error("what has ended is kept")
	}
}

// Who has a JWT that is revoked can not make another one of it by its signature alone; what is no JWT is all that is sent.
func TestOtherSignature(t *testing.T) {
	now := clockAt(start)
	l := open(t, "", now)
	f := func(revoked, sent string, want bool) {
		t.Helper()
		revoke(t, l, Entry{Kind: Token, Value: OfToken([]byte(revoked)), Until: start.Add(time.Hour)})
		if got := l.Revoked(&Credential{Token: []byte(sent)}); got != want {
			t.Errorf("%s, where %s is revoked: %v", sent, revoked, got)
		}
	}
	f("eyJhIjoxfQ.eyJiIjoxfQ.c2ln", "eyJhIjoxfQ.eyJiIjoxfQ.Z2lz", true)
	f("eyJhIjoxfQ.eyJiIjoxfQ.c2ln", "eyJhIjoxfQ.eyJiIjoyfQ.c2ln", false)
	f("ewogImEiOjF9.eyJiIjoxfQ.c2ln", "ewogImEiOjF9.eyJiIjoxfQ.Z2lz", true)
	f("v2.local.one", "v2.local.two", false)
	f("eyJ.a.b.c.d", "eyJ.a.b.c.e", false)
	f("eyJ.a", "eyJ.b", false)
	f("e", "f", false)
}

func TestWrongEntries(t *testing.T) {
	now := clockAt(start)
	l := open(t, "", now)
	until := start.Add(time.Hour)
	f := func(want string, e Entry) {
		t.Helper()
		if _, err := l.Revoke(e); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", e, err, want)
		}
	}
	f("kind", Entry{Value: "x", Until: until})
	f("token", Entry{Kind: Token, Value: "x", Until: until})
	f("token", Entry{Kind: Token, Value: OfToken(nil), Issuer: "a", Until: until})
	f("jti", Entry{Kind: JTI, Until: until})
	f("jti", Entry{Kind: JTI, Value: strings.Repeat("x", 513), Until: until})
	f("before", Entry{Kind: Subject, Value: "x", Until: until})
	f("before", Entry{Kind: JTI, Value: "x", Before: start, Until: until})
	f("until", Entry{Kind: JTI, Value: "x"})
	f("until", Entry{Kind: JTI, Value: "x", Until: start})
	f("until", Entry{Kind: JTI, Value: "x", Until: start.Add(Furthest + 1)})
	if l.Len() != 0 {
		t.Error(l.Entries())
	}
}

// In whichever order entries are heard of, the same stands.
func TestOrderDoesNotMatter(t *testing.T) {
	now := clockAt(start)
	var all []Entry
	for i := range 40 {
		e := Entry{Kind: Subject, Value: fmt.Sprint(i % 5), Before: start.Add(time.Duration(rand.IntN(50)) * time.Second), Until: start.Add(time.Duration(1+rand.IntN(50)) * time.Minute)}
		if err := e.check(); err != nil {
			t.Fatal(err)
		}
		all = append(all, e, e)
	}
	var want []Entry
	for range 20 {
		l := open(t, "", now)
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, e := range all {
			l.Learn(e.ID, text(&e))
		}
		if got := l.Entries(); want == nil {
			want = got
		} else if !reflect.DeepEqual(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
	}
	l := open(t, "", now)
	e := all[0]
	e.ID = "rev_other"
	if l.Learn(e.ID, text(&e)); l.Len() > 0 {
		t.Error("an entry with another's id is learned")
	}
}

func knows(l *List, jti string) bool { return l.Revoked(&Credential{JTI: jti}) }

func once(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within 10 s: " + what)
		}
	}
}

// Processes of one folder know what the others have revoked, also after a restart, and after one has died in the middle of a line.
func TestFolder(t *testing.T) {
	now := clockAt(start)
	dir := filepath.Join(t.TempDir(), "state")
	a, b := open(t, dir, now), open(t, dir, now)
	once := func(what string, ok func() bool) { t.Helper(); once(t, what, ok) }
	until := start.Add(time.Hour)
	revoke(t, a, Entry{Kind: JTI, Value: "1", Until: until})
	once("the other one knows", func() bool { return knows(b, "1") })
	f, err := os.OpenFile(filepath.Join(dir, fileName), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString(`0123abcd {"id":"rev_`)
	_ = f.Close()
	revoke(t, b, Entry{Kind: JTI, Value: "2", Until: until})
	revoke(t, a, Entry{Kind: JTI, Value: "3", Until: until})
	c := open(t, dir, now)
	for _, jti := range []string{"1", "2", "3"} {
		if !knows(c, jti) {
			t.Errorf("%s is not known after a restart", jti)
		}
	}
	once("all know all", func() bool { return a.Len() == 3 && b.Len() == 3 })
	info, err := os.Stat(filepath.Join(dir, fileName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	// Who writes the file anew loses nothing that another one has written meanwhile.
	revoke(t, b, Entry{Kind: JTI, Value: "4", Until: until})
	a.writing.Lock()
	err = a.file.rewrite(a.Entries, a.learn)
	a.writing.Unlock()
	if err != nil || a.file.lines != 4 {
		t.Error(err, a.file.lines)
	}
	once("the others read it", func() bool { return b.Len() == 4 && c.Len() == 4 })
	revoke(t, c, Entry{Kind: JTI, Value: "5", Until: until})
	once("and what is written in it", func() bool { return knows(a, "5") && knows(b, "5") })
}

func TestDamagedFile(t *testing.T) {
	now := clockAt(start)
	dir := t.TempDir()
	l := open(t, dir, now)
	for _, jti := range []string{"1", "2", "3"} {
		revoke(t, l, Entry{Kind: JTI, Value: jti, Until: start.Add(time.Hour)})
	}
	path := filepath.Join(dir, fileName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: dir, Log: slog.New(slog.DiscardHandler), Now: time.Now}); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Error(err)
	}
}

// What could not be kept is kept when that works again, without anybody asking for it.
func TestKeptLater(t *testing.T) {
	now := clockAt(start)
	dir := t.TempDir()
	path := filepath.Join(dir, fileName)
	l := open(t, dir, now)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Revoke(Entry{Kind: JTI, Value: "1", Until: start.Add(time.Hour)}); err == nil || !knows(l, "1") {
		t.Errorf("%v, or it is not in force", err)
	}
	e := Entry{Kind: JTI, Value: "2", Until: start.Add(time.Hour)}
	_ = e.check()
	l.Learn(e.ID, text(&e))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	once(t, "both are kept", func() bool { again := open(t, dir, now); return knows(again, "1") && knows(again, "2") })
}

// A file that was taken away is written again.
func TestFileIsTakenAway(t *testing.T) {
	now := clockAt(start)
	dir := t.TempDir()
	l := open(t, dir, now)
	until := start.Add(time.Hour)
	revoke(t, l, Entry{Kind: JTI, Value: "1", Until: until})
	once(t, "it was read", func() bool { l.writing.Lock(); defer l.writing.Unlock(); return l.file.lines == 1 })
	if err := os.Remove(filepath.Join(dir, fileName)); err != nil {
		t.Fatal(err)
	}
	revoke(t, l, Entry{Kind: JTI, Value: "2", Until: until})
	if again := open(t, dir, now); !knows(again, "1") || !knows(again, "2") {
		t.Error("a restart forgets what was revoked before")
	}
}

// Requests do not wait while it is looked for what has ended, and what has is forgotten, whatever came in between.
func TestSweep(t *testing.T) {
	now := clockAt(start)
	l := open(t, "", now)
	for i := range 100 {
		revoke(t, l, Entry{Kind: JTI, Value: fmt.Sprint(i), Until: start.Add(time.Duration(100-i) * time.Minute)})
	}
	l.mu.RLock()
	swept := make(chan struct{})
	go func() { l.sweep(); close(swept) }()
	select {
	case <-swept:
	case <-time.After(10 * time.Second):
		t.Error("it waits for those that look")
	}
	l.mu.RUnlock()
	<-swept
	for i := range 100 {
		now.set(start.Add(time.Duration(i+1) * time.Minute))
		l.sweep()
		if l.Len() != 99-i {
			t.Fatalf("%d are left after %d min", l.Len(), i+1)
		}
		if i == 50 { // ends before those that are there
			revoke(t, l, Entry{Kind: JTI, Value: "x", Until: now.get().Add(time.Second)})
			now.set(now.get().Add(time.Second))
			l.sweep()
			if l.Len() != 49 {
				t.Error("what came last is left")
			}
		}
	}
	if l.Some() {
		t.Error("nothing is revoked")
	}
}

func TestRevokedAllocates(t *testing.T) {
	now := clockAt(start)
	l := open(t, "", now)
	c := Credential{Token: []byte("abc"), JTI: "1", Subject: "alice", Issued: float64(start.Unix() + 5)}
	for range 2 {
		if n := testing.AllocsPerRun(100, func() { l.Revoked(&c) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
		revoke(t, l, Entry{Kind: Token, Value: OfToken([]byte("x")), Until: start.Add(time.Hour)})
		revoke(t, l, Entry{Kind: Subject, Value: "alice", Before: start, Until: start.Add(time.Hour)})
	}
}

func BenchmarkRevoked(b *testing.B) {
	for _, n := range []int{0, 10, MaxEntries} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l, err := Open(Options{Log: slog.New(slog.DiscardHandler), Now: time.Now})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			for i := range n {
				if _, err := l.Revoke(Entry{Kind: JTI, Value: fmt.Sprint(i), Until: time.Now().Add(time.Hour)}); err != nil {
					b.Fatal(err)
				}
			}
			c := Credential{Token: make([]byte, 300), JTI: "none", Subject: "alice"}
			b.ReportAllocs()
			for b.Loop() {
				if l.Revoked(&c) {
					b.Fatal("revoked")
				}
			}
		})
	}
}
