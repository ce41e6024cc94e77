package acme

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/goleak"

	"sluice/gateway/certs/certstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Who may not write is told so; a dry look leaves nothing behind.
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	shut := filepath.Join(dir, "shut")
	if err := os.Mkdir(shut, 0o500); err != nil {
		t.Fatal(err)
	}
	f := func(folder, wantCheck, wantPrepare string) {
		t.Helper()
		for want, err := range map[string]error{"check: " + wantCheck: Check(folder), "prepare: " + wantPrepare: Prepare(folder)} {
			_, want, _ = strings.Cut(want, ": ")
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s: %v, want %q", folder, err, want)
			}
		}
	}
	if err := Check(filepath.Join(dir, "a", "b")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the look left something behind: %v", err)
	}
	f(filepath.Join(dir, "a", "b"), "", "")
	f(filepath.Join(dir, "a", "b"), "", "")
	f(file, "is no folder", "the folder can not be made")
	f(filepath.Join(file, "x"), "the folder can not be made", "the folder can not be made")
	if os.Geteuid() != 0 { // whom no mode keeps out
		f(shut, "can not be written", "the folder can not be written")
		f(filepath.Join(shut, "x"), "can not be written", "the folder can not be made")
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "a", "b")); len(left) > 0 {
		t.Errorf("%v was left behind", left)
	}
}

// One at a time has a lock, in this process and in others.
func TestLock(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	var holders, most int
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 4 {
		s := newStorage(dir)
		all.Go(func() {
			for range 3 {
				if err := s.Lock(ctx, "a/b c"); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				holders++
				most = max(most, holders)
				mu.Unlock()
				mu.Lock()
				holders--
				mu.Unlock()
				if err := s.Unlock(ctx, "a/b c"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if most != 1 {
		t.Errorf("%d held it at once", most)
	}
	a, b := newStorage(dir), newStorage(dir)
	if err := a.Lock(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	if ok, err := b.TryLock(ctx, "x"); ok || err != nil {
		t.Error(ok, err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.Lock(ended, "x"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if ok, err := b.TryLock(ctx, "y"); !ok || err != nil {
		t.Error(ok, err)
	}
	if err := b.Unlock(ctx, "x"); err == nil {
		t.Error("another's lock was given back")
	}
	if err := errors.Join(a.Unlock(ctx, "x"), b.Unlock(ctx, "y")); err != nil {
		t.Error(err)
	}
	if ok, err := b.TryLock(ctx, "x"); !ok || err != nil {
		t.Error(ok, err)
	}
	if err := b.Unlock(ctx, "x"); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "locks")); len(left) > 0 {
		t.Errorf("%v was left behind", left)
	}
}

// What a crash has left half written does not stand in the way for ever.
func TestDiscardBroken(t *testing.T) {
	a := certstest.New(t)
	cert, key := a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"x.example"}})
	_, other := a.Issue("y", certstest.Leaf{CN: "y"})
	read := func(path string) []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	s := newStorage(t.TempDir())
	keys := certmagic.StorageKeys
	f := func(cert, key, meta []byte, want bool) {
		t.Helper()
		for name, b := range map[string][]byte{keys.SiteCert("ca", "x.example"): cert, keys.SitePrivateKey("ca", "x.example"): key, keys.SiteMeta("ca", "x.example"): meta} {
			err := s.Delete(t.Context(), name)
			if b != nil {
				err = s.Store(t.Context(), name, b)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if got := s.discardBroken(t.Context(), "ca", "x.example"); got != want {
			t.Errorf("discarded: %t", got)
		}
		if left := s.Exists(t.Context(), keys.SitePrivateKey("ca", "x.example")); left == want && key != nil {
			t.Errorf("the key is there: %t", left)
		}
	}
	meta := []byte("{}")
	f(read(cert), read(key), meta, false)
	f(read(cert), read(key), nil, false)
	f(nil, read(key), meta, false)
	f(read(cert), read(other), meta, true)
	f(read(cert), []byte{}, meta, true)
	f([]byte("garbage"), read(key), meta, true)
	f(read(cert), read(key), []byte("{"), true)

	// Another gateway is between storing the one and the other.
	another := newStorage(s.Path)
	if err := another.Lock(t.Context(), issueLock+"x.example"); err != nil {
		t.Fatal(err)
	}
	f(read(cert), read(other), meta, false)
	if err := another.Unlock(t.Context(), issueLock+"x.example"); err != nil {
		t.Fatal(err)
	}
	f(read(cert), read(other), meta, true)
}

// A challenge is answered while it waits, by its name and token, whoever of
// those that share the folder is asked.
func TestChallenges(t *testing.T) {
	dir := t.TempDir()
	settings := Settings{Directory: "https://ca.example/dir", Storage: dir, TLSALPN: true, HTTP: true}
	here, there := New(settings, discard), New(settings, discard)
	defer here.Close()
	defer there.Close()
	f := func(want bool, kind string) {
		t.Helper()
		for _, a := range []*Authority{here, there} {
			if got := a.HTTPChallenge("a.example", HTTPPath+"token"); (got == "token.print") != (want && kind == acme.ChallengeTypeHTTP01) {
				t.Errorf("HTTP: %q", got)
			}
			if got := a.TLSChallenge("a.example"); (got != nil) != (want && kind == acme.ChallengeTypeTLSALPN01) {
				t.Errorf("TLS: %v", got)
			}
			for _, path := range []string{HTTPPath, HTTPPath + "toke", HTTPPath + "token/", HTTPPath + "../token", "/token", ""} {
				if got := a.HTTPChallenge("a.example", path); got != "" {
					t.Errorf("%s: %q", path, got)
				}
			}
			if a.HTTPChallenge("b.example", HTTPPath+"token") != "" || a.TLSChallenge("b.example") != nil {
				t.Error("another name is answered for")
			}
		}
	}
	f(false, "")
	for _, kind := range []string{acme.ChallengeTypeHTTP01, acme.ChallengeTypeTLSALPN01} {
		challenge := acme.Challenge{Type: kind, Token: "token", KeyAuthorization: "token.print", Identifier: acme.Identifier{Type: "dns", Value: "a.example"}}
		if err := here.challenges.Present(t.Context(), challenge); err != nil {
			t.Fatal(err)
		}
		f(true, kind)
		if err := here.challenges.CleanUp(t.Context(), challenge); err != nil {
			t.Fatal(err)
		}
		f(false, kind)
		// One that a crash has left behind.
		if err := here.challenges.Present(t.Context(), challenge); err != nil {
			t.Fatal(err)
		}
		clear(here.challenges.pending)
		path := here.storage.Filename(here.challenges.key("a.example"))
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-attemptTimeout-time.Minute)); err != nil {
			t.Fatal(err)
		}
		f(false, kind)
	}
}

func TestPauses(t *testing.T) {
	f := func(err error, failures int, longest time.Duration) {
		t.Helper()
		soonest, pause := pauses(failures, err)
		if pause > longest || pause < longest*4/5 || soonest > pause {
			t.Errorf("%d failures: %v, hurried %v; want up to %v", failures, pause, soonest, longest)
		}
	}
	down, refused := errors.New("connection refused"), fmt.Errorf("order: %w", acme.Problem{Type: acme.ProblemTypeUnauthorized})
	f(down, 1, 5*time.Second)
	f(down, 3, 20*time.Second)
	f(down, 1000, 5*time.Minute)
	f(refused, 1, 2*time.Minute)
	f(refused, 4, 16*time.Minute)
	f(refused, 1000, time.Hour)
}

// A certificate is looked at often enough to be renewed in the last third of
// its life, and once more than once if that fails.
func TestLook(t *testing.T) {
	a := certstest.New(t)
	for _, life := range []time.Duration{30 * time.Second, time.Hour, 24 * time.Hour, 90 * 24 * time.Hour} {
		c := a.Pair(a.Issue("x", certstest.Leaf{CN: "x", NotAfter: time.Now().Add(life - 2*time.Hour)}))
		if d := look(&c); d > life/3/3 || d < minLook || d > maxLook {
			t.Errorf("%v is looked at every %v", life, d)
		}
	}
	if look(nil) != maxLook || until((*tls.Certificate)(nil)) != "none" {
		t.Error("no certificate")
	}
}

// A name that failed is tried again when it is asked for, not when its pause is
// over: four pauses in a row would be more than half a minute.
func TestHurry(t *testing.T) {
	failures := make(chan struct{}, 100)
	a := New(Settings{Directory: "https://127.0.0.1:1/dir", Storage: t.TempDir(), TLSALPN: true}, slog.New(counting{slog.DiscardHandler, failures}))
	defer a.Close()
	late := time.After(20 * time.Second)
	for failed := 0; failed < 4; {
		a.Keep([]string{"a.example"})
		select {
		case <-failures:
			failed++
		case <-time.After(100 * time.Millisecond): // and once more: that may have come before its pause
		case <-late:
			t.Fatalf("%d attempts", failed)
		}
	}
}

// counting tells of each warning.
type counting struct {
	slog.Handler
	warnings chan struct{}
}

func (c counting) Enabled(context.Context, slog.Level) bool { return true }

func (c counting) Handle(_ context.Context, r slog.Record) error {
	if r.Level == slog.LevelWarn && r.Message == "cannot obtain a certificate" {
		c.warnings <- struct{}{}
	}
	return nil
}

var discard = slog.New(slog.DiscardHandler)
