package keys

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// board is a book whose entries a test hands on as it likes.
type board struct {
	mu  sync.Mutex
	all [][2]string
}

func (b *board) Write(id, value string) {
	b.mu.Lock()
	b.all = append(b.all, [2]string{id, value})
	b.mu.Unlock()
}

func (b *board) taken() [][2]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.all
	b.all = nil
	return all
}

func shareOn(s *Store) *board {
	b := new(board)
	s.Share(func() Book { return b })
	return b
}

func record(id string, c *clock) Record {
	return Record{ID: id, Consumer: "alice", Hash: strings.Repeat("ab", 32), Hint: "slk_abcd", Created: c.now()}
}

const someID, otherID, thirdID = "key_aaaaaaaaaaaaaaaa", "key_bbbbbbbbbbbbbbbb", "key_cccccccccccccccc"

// Versions of a record come to the same in whichever order, however often and in whichever groups they are merged; what was
// taken away never comes back.
func TestMerge(t *testing.T) {
	c := newClock()
	r := rand.New(rand.NewPCG(1, 2))
	at := func() time.Time {
		if r.IntN(2) == 0 {
			return time.Time{}
		}
		zone := time.FixedZone("", r.IntN(3)*3600)
		return c.now().Add(time.Duration(r.IntN(5)) * time.Second).In(zone)
	}
	version := func() *Record {
		v := record(someID, c)
		v.Expires, v.Revoked, v.LastUsed = at(), at(), at()
		v.ReplacedBy = []string{"", otherID, thirdID}[r.IntN(3)]
		if r.IntN(8) == 0 { // one of another origin
			v.Consumer, v.Created = []string{"bob", "carol"}[r.IntN(2)], c.now().Add(time.Duration(r.IntN(3))*time.Second)
		}
		return &v
	}
	for range 3000 {
		all := []*Record{version(), version(), version(), version()}
		fold := func() *Record {
			work := slices.Clone(all)
			work = append(work, all[r.IntN(len(all))]) // told twice
			for len(work) > 1 {
				r.Shuffle(len(work), func(i, j int) { work[i], work[j] = work[j], work[i] })
				work = append(work[2:], merge(work[0], work[1]))
			}
			return work[0]
		}
		one, two := fold(), fold()
		if text(one) != text(two) {
			t.Fatalf("\n%s\n%s", text(one), text(two))
		}
		for _, v := range all {
			if !v.Revoked.IsZero() && one.Revoked.IsZero() || !v.Expires.IsZero() && (one.Expires.IsZero() || one.Expires.After(v.Expires)) || v.ReplacedBy != "" && one.ReplacedBy == "" {
				t.Fatalf("%s was taken back: %s", text(v), text(one))
			}
		}
	}
}

// Instances that change keys at the same time and hear of each other in any order have the same in the end, and after a restart.
func TestLearnInAnyOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 10 {
		c := newClock()
		var stores []*Store
		var boards []*board
		var dirs []string
		for range 3 {
			dirs = append(dirs, t.TempDir())
			s := open(t, dirs[len(dirs)-1], c)
			stores, boards = append(stores, s), append(boards, shareOn(s))
		}
		exchange := func() {
			for rest := true; rest; {
				rest = false
				for i, b := range boards {
					told := b.taken()
					told = append(told, told...)
					r.Shuffle(len(told), func(i, j int) { told[i], told[j] = told[j], told[i] })
					for _, e := range told {
						for j, s := range stores {
							if better := s.Learn(e[0], e[1]); j != i && better != e[1] {
								boards[j].Write(e[0], better)
								rest = true
							}
						}
					}
					rest = rest || len(told) > 0
				}
			}
		}
		var made []*Key
		for i := range 6 {
			_, k := create(t, stores[i%3], Spec{Consumer: "alice"})
			made = append(made, k)
		}
		exchange()
		for range 12 {
			c.advance(time.Second)
			s, k := stores[r.IntN(3)], made[r.IntN(len(made))]
			switch r.IntN(3) {
			case 0:
				_, _ = s.Revoke("alice", k.ID)
			case 1:
				if _, next, _, err := s.Rotate("alice", k.ID, time.Duration(r.IntN(2))*time.Hour, time.Time{}); err == nil {
					made = append(made, next)
				}
			case 2:
				exchange()
			}
		}
		exchange()
		state := func(s *Store) (lines []string) {
			for _, k := range s.all() {
				lines = append(lines, text(&k.Record))
			}
			return lines
		}
		want := state(stores[0])
		for _, s := range stores[1:] {
			if got := state(s); !slices.Equal(got, want) {
				t.Fatalf("\n%s\n\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		for i, s := range stores {
			s.Close()
			s = open(t, dirs[i], c)
			if got := state(s); !slices.Equal(got, want) {
				t.Fatalf("after a restart\n%s\n\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			s.Close()
		}
	}
}

// Of two keys that took the place of one at the same time one is good, and what took the place of the other is none either.
func TestRotatedTwice(t *testing.T) {
	c := newClock()
	a, b := open(t, t.TempDir(), c), open(t, t.TempDir(), c)
	defer a.Close()
	defer b.Close()
	onA, onB := shareOn(a), shareOn(b)
	first, k := create(t, a, Spec{Consumer: "alice"})
	for _, e := range onA.taken() {
		b.Learn(e[0], e[1])
	}
	ofA, one, _, err := a.Rotate("alice", k.ID, time.Hour, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	ofB, two, _, err := b.Rotate("alice", k.ID, time.Minute, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	againA, _, _, err := a.Rotate("alice", one.ID, time.Hour, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	againB, _, _, err := b.Rotate("alice", two.ID, time.Hour, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	toldA, toldB := onA.taken(), onB.taken()
	slices.Reverse(toldB)
	for _, e := range toldA {
		b.Learn(e[0], e[1])
	}
	for _, e := range toldB {
		a.Learn(e[0], e[1])
	}
	good := []string{ofA, againA}
	bad := []string{ofB, againB}
	if two.ID < one.ID {
		good, bad = bad, good
	}
	for _, s := range []*Store{a, b} {
		for i := range 2 {
			if refused(find(s, good[i]), c.now()) != "" || refused(find(s, bad[i]), c.now()) != "revoked" {
				t.Errorf("%d: %q, %q", i, refused(find(s, good[i]), c.now()), refused(find(s, bad[i]), c.now()))
			}
		}
		if refused(find(s, first), c.now()) != "" || refused(find(s, first), c.now().Add(time.Minute)) != "expired" {
			t.Error("the shorter overlap does not hold")
		}
	}
}

// What is no record of a key is left out, and the log has nothing of what it is.
func TestLearnInvalid(t *testing.T) {
	c := newClock()
	var log bytes.Buffer
	s, err := Open(t.TempDir(), Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f := func(id string, change func(r *Record)) {
		t.Helper()
		r := record(someID, c)
		r.Name = "SECRET"
		change(&r)
		value := text(&r)
		log.Reset()
		if got := s.Learn(id, value); got != value || s.Len() != 0 {
			t.Errorf("is taken: %s", value)
		}
		if !strings.Contains(log.String(), "left out") || strings.Contains(log.String(), "SECRET") {
			t.Error(log.String())
		}
	}
	f(otherID, func(*Record) {})
	f("SECRET", func(r *Record) { r.ID = "SECRET" })
	f(someID, func(r *Record) { r.Hash = "SECRET" })
	f(someID, func(r *Record) { r.Hash = r.Hash[:62] })
	f(someID, func(r *Record) { r.Hash += "ab" })
	f(someID, func(r *Record) { r.Consumer = "" })
	f(someID, func(r *Record) { r.Consumer = "a\nb" })
	f(someID, func(r *Record) { r.Tenant = strings.Repeat("x", maxWord+1) })
	f(someID, func(r *Record) { r.Name = strings.Repeat("x", maxName+1) })
	f(someID, func(r *Record) { r.Hint = "slk_SECRET" })
	f(someID, func(r *Record) { r.Created = time.Time{} })
	f(someID, func(r *Record) { r.Replaces = someID })
	f(someID, func(r *Record) { r.ReplacedBy = "SECRET" })
	f(someID, func(r *Record) { r.Paths = []string{""} })
	f(someID, func(r *Record) { r.Methods = []string{"get"} })
	f(someID, func(r *Record) { r.CIDRs = []netip.Prefix{{}} })
	f(someID, func(r *Record) { r.CIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")} })
	f(someID, func(r *Record) { r.Paths = slices.Repeat([]string{"/SECRET"}, maxLimits+1) })
	f(someID, func(r *Record) { r.Paths = []string{"/" + strings.Repeat("x", maxPath)} })
	for _, value := range []string{"SECRET", "{", `[]`, strings.Repeat(" ", maxValue+1), `{"id":"` + someID + `","expires":"SECRET"}`} {
		log.Reset()
		if got := s.Learn(someID, value); got != value || s.Len() != 0 || strings.Contains(log.String(), "SECRET") {
			t.Errorf("%.50q: %s", value, log.String())
		}
	}
	// A good one is taken; a damaged one does not spoil it, nor one of its hash under another id.
	r := record(someID, c)
	if value := text(&r); s.Learn(someID, value) != value || s.Len() != 1 || s.Learn(someID, "SECRET") != value {
		t.Error(s.Len())
	}
	double := record(otherID, c)
	if s.Learn(otherID, text(&double)); s.Len() != 1 {
		t.Error("two keys of one hash")
	}
	// Two that differ in what never changes: one is wrong, so neither is good.
	r.Consumer, r.Hash = "bob", strings.Repeat("cd", 32)
	s.Learn(someID, text(&r))
	if k := s.byID[someID]; k.State(c.now()) != "revoked" || s.Len() != 1 || len(s.List("alice"))+len(s.List("bob")) != 1 || s.Find(&k.sum) != k {
		t.Error(text(&k.Record))
	}
}

// Keys that have been over for long are forgotten here and in the book, and nobody brings them back.
func TestForget(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, c)
	b := shareOn(s)
	_, k := create(t, s, Spec{Consumer: "alice"})
	create(t, s, Spec{Consumer: "alice", Expires: c.now().Add(time.Hour)})
	_, kept := create(t, s, Spec{Consumer: "alice"})
	k, err := s.Revoke("alice", k.ID)
	if err != nil {
		t.Fatal(err)
	}
	was := text(&k.Record)
	if got := s.Learn(k.ID, ""); got != was {
		t.Error("a revocation is forgotten at another's word: ", got)
	}
	if got := s.Learn(kept.ID, ""); got != text(&kept.Record) {
		t.Error("a key is forgotten at another's word: ", got)
	}
	c.advance(remembered + 2*time.Hour)
	s.mu.Lock()
	s.tend()
	s.mu.Unlock()
	if !slices.Contains(b.taken(), [2]string{k.ID, ""}) {
		t.Error("nobody else is told to forget it")
	}
	s.Close() // the file has them still
	s = open(t, dir, c)
	defer s.Close()
	for id := range s.All {
		if id != kept.ID {
			t.Error("brought back: ", id)
		}
	}
	s.mu.Lock()
	s.tend()
	s.mu.Unlock()
	if s.Len() != 1 {
		t.Error(s.Len())
	}
	if got := s.Learn(k.ID, was); got != was || s.Len() != 1 {
		t.Error("it is known again, or a dispute of clocks has begun")
	}
	c.advance(doubt)
	if got := s.Learn(k.ID, was); got != "" || s.Len() != 1 {
		t.Error("it stays in the book")
	}
}

// A process that does not own the file goes by what it learns, also when the other one writes; once it has the file that is in it.
func TestLearnWithoutFile(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	owner, s := open(t, dir, c), open(t, dir, c)
	shareOn(s)
	secret, k := create(t, owner, Spec{Consumer: "alice"})
	once(t, "the other process knows the key", func() bool { return find(s, secret) != nil })
	over := k.View()
	over.Revoked = c.now()
	elsewhere := record(someID, c)
	s.Learn(k.ID, text(&over))
	s.Learn(someID, text(&elsewhere))
	more, _ := create(t, owner, Spec{Consumer: "alice"})
	once(t, "it knows what the owner has made since", func() bool { return find(s, more) != nil })
	if refused(find(s, secret), c.now()) != "revoked" || s.Len() != 3 || owner.Len() != 2 {
		t.Errorf("%q %d %d", refused(find(s, secret), c.now()), s.Len(), owner.Len())
	}
	owner.Close()
	once(t, "it has taken over", func() bool {
		_, _, err := s.Create(Spec{Consumer: "bob"})
		return err == nil
	})
	s.Close()
	s = open(t, dir, c)
	defer s.Close()
	if refused(find(s, secret), c.now()) != "revoked" || s.Len() != 4 {
		t.Errorf("%q %d", refused(find(s, secret), c.now()), s.Len())
	}
}

// Instances that all use a key tell each other once a minute, and not each time.
func TestTellUses(t *testing.T) {
	c := newClock()
	a, b := open(t, t.TempDir(), c), open(t, t.TempDir(), c)
	defer a.Close()
	defer b.Close()
	onA, onB := shareOn(a), shareOn(b)
	_, k := create(t, a, Spec{Consumer: "alice"})
	tell := func() (n int) {
		for _, s := range []*Store{a, b} {
			s.mu.Lock()
			s.tellUses()
			s.mu.Unlock()
			for _, e := range append(onA.taken(), onB.taken()...) {
				n++
				if a.Learn(e[0], e[1]) != e[1] || b.Learn(e[0], e[1]) != e[1] {
					t.Error("a use is disputed")
				}
			}
		}
		return n
	}
	tell()
	total := 0
	for range 600 {
		c.advance(time.Second)
		for _, s := range []*Store{a, b} {
			got, err := s.Get("alice", k.ID)
			if err != nil {
				t.Fatal(err)
			}
			got.Used(c.now())
		}
		total += tell()
	}
	if total < 9 || total > 11 {
		t.Errorf("told %d times in 10 minutes", total)
	}
	mine, _ := a.Get("alice", k.ID)
	c.advance(2 * time.Minute)
	mine.Used(c.now())
	tell()
	if theirs, _ := b.Get("alice", k.ID); !theirs.View().LastUsed.Equal(c.now()) {
		t.Error(theirs.View().LastUsed)
	}
}

// Of many keys that are in use a few are told of at a time, those first of which nothing was heard for longest.
func TestTellManyUses(t *testing.T) {
	c := newClock()
	s := open(t, t.TempDir(), c)
	defer s.Close()
	board := shareOn(s)
	for i := range mostTold + 100 {
		create(t, s, Spec{Consumer: strconv.Itoa(i)})
	}
	board.taken()
	c.advance(2 * tellEvery * time.Second)
	use := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, k := range s.byID {
			k.Used(c.now())
		}
		s.tellUses()
	}
	use()
	told := make(map[string]bool)
	for _, e := range board.taken() {
		told[e[0]] = true
	}
	if len(told) != mostTold {
		t.Errorf("told of %d", len(told))
	}
	c.advance(2 * tellEvery * time.Second)
	use()
	for _, e := range board.taken() {
		told[e[0]] = true
	}
	if len(told) != mostTold+100 {
		t.Errorf("told of %d", len(told))
	}
}
