package keys

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/gateway/durable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock stands still until it is moved.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2027, 1, 15, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func options(c *clock) Options {
	return Options{Log: slog.New(slog.DiscardHandler), Now: c.now}
}

func open(t *testing.T, dir string, c *clock) *Store {
	t.Helper()
	s, err := Open(dir, options(c))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func create(t *testing.T, s *Store, spec Spec) (string, *Key) {
	t.Helper()
	secret, k, err := s.Create(spec)
	if err != nil {
		t.Fatal(err)
	}
	return secret, k
}

func find(s *Store, secret string) *Key {
	sum := sha256.Sum256([]byte(secret))
	return s.Find(&sum)
}

var anywhere = netip.MustParseAddr("192.0.2.1")

func refused(k *Key, now time.Time) string {
	return k.Refused(now, anywhere, []byte("GET"), []byte("/"))
}

func TestLife(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, c)
	secret, k := create(t, s, Spec{Consumer: "alice", Name: "laptop", Expires: c.now().Add(time.Hour)})
	other, _ := create(t, s, Spec{Consumer: "bob"})
	if got := find(s, secret); got != k || refused(got, c.now()) != "" || k.State(c.now()) != "active" {
		t.Fatalf("%+v", got)
	}
	if find(s, secret+"x") != nil || !strings.HasPrefix(secret, "slk_") || !strings.HasPrefix(secret, k.Hint) || len(k.Hint) != 8 {
		t.Errorf("%s, %s", secret, k.Hint)
	}
	k.Used(c.now())
	s.Close()

	text, err := os.ReadFile(filepath.Join(dir, "keys"))
	if err != nil || bytes.Contains(text, []byte(secret)) || bytes.Contains(text, []byte(other)) {
		t.Fatalf("the file has a key: %v %s", err, text)
	}
	if info, err := os.Stat(filepath.Join(dir, "keys")); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}

	s = open(t, dir, c)
	k = find(s, secret)
	if k == nil || k.Name != "laptop" || !k.View().LastUsed.Equal(c.now()) {
		t.Fatalf("after a restart: %+v", k)
	}
	// Rotation: the old one for the overlap, the new one from now on.
	next, made, old, err := s.Rotate("alice", k.ID, 10*time.Minute, time.Time{})
	if err != nil || made.Replaces != k.ID || old.ReplacedBy != made.ID || made.Name != "laptop" || !made.Expires.Equal(k.Expires) || !made.View().LastUsed.IsZero() {
		t.Fatalf("%+v %+v %v", made, old, err)
	}
	if _, _, _, err := s.Rotate("alice", k.ID, time.Hour, time.Time{}); !errors.Is(err, ErrReplaced) || !strings.Contains(err.Error(), made.ID) || len(s.List("alice")) != 2 {
		t.Errorf("a key that was replaced is rotated once more: %v", err)
	}
	c.advance(10*time.Minute - 1)
	if refused(find(s, secret), c.now()) != "" || refused(find(s, next), c.now()) != "" {
		t.Error("within the overlap one of the keys is refused")
	}
	c.advance(1)
	if refused(find(s, secret), c.now()) != "expired" || refused(find(s, next), c.now()) != "" {
		t.Error("after the overlap")
	}
	if _, _, _, err := s.Rotate("alice", k.ID, 0, time.Time{}); !errors.Is(err, ErrOver) {
		t.Error(err)
	}
	if _, err := s.Revoke("bob", made.ID); !errors.Is(err, ErrNotFound) {
		t.Error("another consumer's key:", err)
	}
	if _, err := s.Revoke("alice", made.ID); err != nil || refused(find(s, next), c.now()) != "revoked" {
		t.Error("revoked:", err)
	}
	s.Close()
	s = open(t, dir, c)
	defer s.Close()
	if refused(find(s, next), c.now()) != "revoked" || refused(find(s, other), c.now()) != "" || len(s.List("alice")) != 2 || s.Len() != 3 {
		t.Error("after another restart")
	}
	if last, _, _, err := s.Rotate("bob", s.List("bob")[0].ID, 0, time.Time{}); err != nil || refused(find(s, other), c.now()) != "revoked" || refused(find(s, last), c.now()) != "" {
		t.Error("a rotation without overlap:", err)
	}
}

func TestLimits(t *testing.T) {
	c := newClock()
	s := open(t, t.TempDir(), c)
	defer s.Close()
	f := func(spec Spec, from, method, path, want string) {
		t.Helper()
		spec.Consumer = "alice"
		_, k := create(t, s, spec)
		if got := k.Refused(c.now(), netip.MustParseAddr(from), []byte(method), []byte(path)); got != want {
			t.Errorf("%+v: %s %s from %s: %q, want %q", spec, method, path, from, got, want)
		}
	}
	f(Spec{CIDRs: []string{"192.0.2.0/24"}}, "192.0.2.9", "GET", "/", "")
	f(Spec{CIDRs: []string{"192.0.2.0/24"}}, "::ffff:192.0.2.9", "GET", "/", "")
	f(Spec{CIDRs: []string{"192.0.2.7"}}, "192.0.2.9", "GET", "/", "key_address")
	f(Spec{CIDRs: []string{"2001:db8::/32", "192.0.2.7"}}, "2001:db8:1::1", "GET", "/", "")
	f(Spec{Methods: []string{"GET", "HEAD"}}, "192.0.2.9", "HEAD", "/", "")
	f(Spec{Methods: []string{"GET"}}, "192.0.2.9", "POST", "/", "key_method")
	f(Spec{Paths: []string{"/orders"}}, "192.0.2.9", "GET", "/orders/7", "")
	f(Spec{Paths: []string{"/orders/"}}, "192.0.2.9", "GET", "/orders", "")
	f(Spec{Paths: []string{"/orders"}}, "192.0.2.9", "GET", "/ordersx", "key_path")
	f(Spec{Paths: []string{"=/orders"}}, "192.0.2.9", "GET", "/orders/7", "key_path")
	f(Spec{Paths: []string{"=/orders"}}, "192.0.2.9", "GET", "/orders", "")
	f(Spec{Paths: []string{"/"}}, "192.0.2.9", "GET", "/orders", "")

	g := func(spec Spec, want ...string) {
		t.Helper()
		_, _, err := s.Create(spec)
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%+v: %v, want %s", spec, err, w)
			}
		}
	}
	g(Spec{CIDRs: []string{"home"}, Methods: []string{"get"}, Paths: []string{"orders"}, Expires: c.now()}, "cidrs: ", "methods: ", "paths: ", "expires: ")
	g(Spec{Name: "a\nb", Paths: []string{"/a/{id}"}, CIDRs: []string{"::ffff:1.2.3.0/120"}}, "name: ", "paths: ", "cidrs: ")
	g(Spec{Methods: make([]string, maxLimits+1)}, "are 101")
}

func TestTornAndDamaged(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, c)
	first, k := create(t, s, Spec{Consumer: "alice"})
	second, _ := create(t, s, Spec{Consumer: "alice"})
	if _, err := s.Revoke("alice", k.ID); err != nil {
		t.Fatal(err)
	}
	s.Close()
	path := filepath.Join(dir, "keys")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// What a crash leaves is a line without end: nobody was told of it.
	if err := os.WriteFile(path, append(bytes.Clone(whole), "0badc0de {\"put\":{"...), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, c)
	third, _ := create(t, s, Spec{Consumer: "alice"})
	s.Close()
	s = open(t, dir, c)
	if refused(find(s, first), c.now()) != "revoked" || refused(find(s, second), c.now()) != "" || find(s, third) == nil || s.Len() != 3 {
		t.Error("a torn line has spoiled others")
	}
	s.Close()
	// A damaged one may be the revocation of a key.
	lines := bytes.SplitAfter(whole, []byte("\n"))
	lines[3][20] ^= 1
	if err := os.WriteFile(path, bytes.Join(lines, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, options(c)); err == nil || !strings.Contains(err.Error(), "line 4 is damaged") {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("something else entirely\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, options(c)); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Error(err)
	}
}

// While two processes share a folder, as during a change of binaries, the second follows the first and takes over from it.
func TestTwoProcesses(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	a := open(t, dir, c)
	b := open(t, dir, c)
	defer b.Close()
	secret, k := create(t, a, Spec{Consumer: "alice"})
	once(t, "the other process knows the key", func() bool { return find(b, secret) != nil })
	if _, _, err := b.Create(Spec{Consumer: "alice"}); !errors.Is(err, ErrElsewhere) {
		t.Error(err)
	}
	if _, err := b.Revoke("alice", k.ID); !errors.Is(err, ErrElsewhere) || refused(find(b, secret), c.now()) != "" {
		t.Error(err)
	}
	if _, err := a.Revoke("alice", k.ID); err != nil {
		t.Fatal(err)
	}
	once(t, "the other process refuses it", func() bool { return refused(find(b, secret), c.now()) == "revoked" })
	a.Close()
	once(t, "the other process has taken over", func() bool {
		_, _, err := b.Create(Spec{Consumer: "alice"})
		return err == nil
	})
}

func once(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain: " + what)
		}
	}
}

// A key that was revoked is refused although the disk fails; the error says that a restart would let it in.
func TestRevokeWithoutDisk(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, c)
	defer s.Close()
	secret, k := create(t, s, Spec{Consumer: "alice"})
	s.mu.Lock()
	s.file.file.Close() // writes fail
	s.mu.Unlock()
	if _, err := s.Revoke("alice", k.ID); err == nil || !strings.Contains(err.Error(), "a restart would let it in again") {
		t.Error(err)
	}
	if refused(find(s, secret), c.now()) != "revoked" {
		t.Error("is let in")
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		again, err := os.ReadFile(filepath.Join(dir, "keys"))
		if err == nil && strings.Contains(string(again), `"revoked"`) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("it is not written when the disk is back: %v %s", err, again)
		}
	}
	if _, err := s.Revoke("alice", k.ID); err != nil {
		t.Error("the second try:", err)
	}
}

func TestRewrite(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, c)
	_, k := create(t, s, Spec{Consumer: "alice"})
	kept, _ := create(t, s, Spec{Consumer: "alice"})
	if _, err := s.Revoke("alice", k.ID); err != nil {
		t.Fatal(err)
	}
	c.advance(remembered + time.Hour)
	s.mu.Lock()
	s.file.base = -slack // as if it had grown
	s.tend()
	s.mu.Unlock()
	if s.Len() != 1 || find(s, kept) == nil {
		t.Error(s.Len())
	}
	more, _ := create(t, s, Spec{Consumer: "bob"})
	s.Close()
	s = open(t, dir, c)
	defer s.Close()
	if s.Len() != 2 || find(s, kept) == nil || find(s, more) == nil {
		t.Error(s.Len())
	}
}

func TestConcurrently(t *testing.T) {
	c := newClock()
	s := open(t, t.TempDir(), c)
	defer s.Close()
	secret, k := create(t, s, Spec{Consumer: "alice"})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2000 {
				if got := find(s, secret); got == nil {
					t.Error("not found")
					return
				}
				k.Used(c.now())
			}
		})
	}
	for i := range 50 {
		create(t, s, Spec{Consumer: fmt.Sprint("c", i%7)})
	}
	wg.Wait()
}

func TestFindDoesNotAllocate(t *testing.T) {
	c := newClock()
	s := open(t, t.TempDir(), c)
	defer s.Close()
	_, k := create(t, s, Spec{Consumer: "alice", CIDRs: []string{"192.0.2.0/24"}, Methods: []string{"GET"}, Paths: []string{"/a"}})
	now, method, path := c.now(), []byte("GET"), []byte("/a/b")
	if n := testing.AllocsPerRun(1000, func() {
		if got := s.Find(&k.sum); got.Refused(now, anywhere, method, path) != "" {
			t.Fatal("refused")
		}
		k.Used(now)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkFind(b *testing.B) {
	c := newClock()
	s, err := Open(b.TempDir(), options(c))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for i := range 1000 {
		if _, _, err := s.Create(Spec{Consumer: fmt.Sprint(i)}); err != nil {
			b.Fatal(err)
		}
	}
	_, k, err := s.Create(Spec{Consumer: "alice"})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			s.Find(&k.sum)
		}
	})
}

// Once the file was written anew, what is changed goes into the new one, although its folder could not be synced.
func TestRewriteWithoutSync(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, c)
	secret, k := create(t, s, Spec{Consumer: "alice"})
	s.mu.Lock()
	syncDir = func(string) error { return errors.New("the disk fails") }
	err := s.file.rewrite(s.all())
	syncDir = durable.SyncDir
	s.mu.Unlock()
	if err == nil {
		t.Fatal("says nothing")
	}
	if _, err := s.Revoke("alice", k.ID); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, dir, c)
	defer s.Close()
	if refused(find(s, secret), c.now()) != "revoked" {
		t.Error("a revocation that was acknowledged is lost with a restart")
	}
}

// A key that expires in 9999, as people write who mean never, is good.
func TestExpiresLate(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, c)
	defer s.Close()
	for _, year := range []int{2262, 2263, 2400, 2847, 9999} {
		_, k := create(t, s, Spec{Consumer: "alice", Expires: time.Date(year, 12, 31, 0, 0, 0, 0, time.UTC)})
		if got := refused(k, c.now()); got != "" || k.State(c.now()) != "active" {
			t.Errorf("%d: %s", year, got)
		}
	}
}
