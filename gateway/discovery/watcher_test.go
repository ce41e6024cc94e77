package discovery

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// script is a source that says what it is told to.
type script struct{ steps chan func(Tell) error }

func (s *script) Where() string { return "script" }

func (s *script) Watch(ctx context.Context, tell Tell) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case step := <-s.steps:
			if err := step(tell); err != nil {
				return err
			}
		}
	}
}

func (s *script) find(addresses ...string) {
	set := make([]Endpoint, len(addresses))
	for i, a := range addresses {
		set[i] = Endpoint{Address: a, Weight: 1}
	}
	s.steps <- func(tell Tell) error { tell(set, nil); return nil }
	synctest.Wait()
}

func (s *script) fail(text string) {
	s.steps <- func(Tell) error { return errors.New(text) }
	synctest.Wait()
}

type heard struct {
	mu  sync.Mutex
	log bytes.Buffer
	all []string
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.Write(p)
}

// watch runs f with a watcher in a bubble of its own time.
func watch(t *testing.T, o Settings, f func(w *Watcher, s *script, h *heard)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, h := &script{make(chan func(Tell) error)}, &heard{}
		o.Service, o.Kind, o.Source = "users", "script", s
		o.Log = slog.New(slog.NewTextHandler(h, nil))
		w := NewWatcher(o)
		w.Subscribe(func(set []Endpoint) { h.all = append(h.all, strings.Join(addresses(set), " ")) })
		w.Start()
		defer w.Close()
		f(w, s, h)
	})
}

func want(t *testing.T, h *heard, sets ...string) {
	t.Helper()
	if got := strings.Join(h.all, " | "); got != strings.Join(sets, " | ") {
		t.Fatalf("subscribers heard %q, want %q", got, strings.Join(sets, " | "))
	}
}

func TestEachSetIsToldOnce(t *testing.T) {
	watch(t, Settings{MaxLoss: 0.5}, func(w *Watcher, s *script, h *heard) {
		s.find("a", "b")
		s.find("b", "a")
		s.find("b", "a", "a")
		s.find("a", "b", "c")
		want(t, h, "a b", "a b c")
		if st := w.Status(); st.Updates != 2 || st.Endpoints != 3 || st.Confirmed == nil {
			t.Errorf("%+v", st)
		}
	})
}

func TestEmptyAndHalfGoneSetsAreRefused(t *testing.T) {
	watch(t, Settings{MaxLoss: 0.5, AcceptAfter: 5 * time.Minute}, func(w *Watcher, s *script, h *heard) {
		s.find("a", "b", "c", "d")
		s.find()
		s.find("a")
		want(t, h, "a b c d")
		if st := w.Status(); st.Refusals != 2 || st.Refused == "" || st.Endpoints != 4 {
			t.Errorf("%+v", st)
		}
		if got := h.log.String(); !strings.Contains(got, "level=ERROR") || !strings.Contains(got, "refused an empty set") {
			t.Errorf("not loud: %s", got)
		}
		time.Sleep(time.Minute)
		if age := w.age(); age != time.Minute {
			t.Errorf("age %s", age)
		}
		// Half of them is not beyond the bound.
		s.find("a", "b")
		want(t, h, "a b c d", "a b")
		if st := w.Status(); st.Refused != "" || w.age() != 0 {
			t.Errorf("%+v", st)
		}
		time.Sleep(time.Hour) // nothing of what was refused comes back
		synctest.Wait()
		want(t, h, "a b c d", "a b")
	})
}

func TestRefusedSetIsTakenWhenItStands(t *testing.T) {
	watch(t, Settings{MaxLoss: 0.5, AcceptAfter: 5 * time.Minute}, func(_ *Watcher, s *script, h *heard) {
		s.find("a", "b", "c", "d")
		s.find("a")
		time.Sleep(4 * time.Minute)
		s.find("b") // still too few: what stands is that few are there
		time.Sleep(61 * time.Second)
		synctest.Wait()
		want(t, h, "a b c d", "b")
	})
}

func TestEmptySetIsNeverTaken(t *testing.T) {
	watch(t, Settings{MaxLoss: 0.5, AcceptAfter: time.Minute}, func(w *Watcher, s *script, h *heard) {
		s.find("a")
		s.find()
		time.Sleep(time.Hour)
		synctest.Wait()
		want(t, h, "a")
		if age := w.age(); age != time.Hour {
			t.Errorf("age %s", age)
		}
		s.find("b", "c")
		want(t, h, "a", "b c")
	})
	watch(t, Settings{MaxLoss: 1}, func(_ *Watcher, s *script, h *heard) {
		s.find("a")
		s.find()
		want(t, h, "a", "")
	})
}

func TestFailureKeepsTheLastSet(t *testing.T) {
	watch(t, Settings{MaxLoss: 0.5}, func(w *Watcher, s *script, h *heard) {
		s.find("a")
		s.fail("connection refused")
		if st := w.Status(); !st.Failing || st.LastError != "connection refused" || st.Failures != 1 {
			t.Errorf("%+v", st)
		}
		time.Sleep(20 * time.Second)
		s.find("a", "b")
		want(t, h, "a", "a b")
		if st := w.Status(); st.Failing || st.LastError == "" {
			t.Errorf("%+v", st)
		}
	})
}

// A source that fails again and again is not asked without end.
func TestPausesGrow(t *testing.T) {
	watch(t, Settings{}, func(w *Watcher, s *script, _ *heard) {
		began, failures := time.Now(), 0
		for time.Since(began) < 10*time.Minute {
			s.fail("no")
			failures++
		}
		if failures < 20 || failures > 60 {
			t.Errorf("asked %d times in ten minutes", failures)
		}
		select {
		case <-w.Answered():
		default:
			t.Error("a failure is an answer too")
		}
	})
}

func TestStoreSurvivesARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "endpoints", "users.json")
	watch(t, Settings{MaxLoss: 0.5, Store: path, Identity: "1"}, func(_ *Watcher, s *script, _ *heard) { s.find("a", "b") })
	watch(t, Settings{MaxLoss: 0.5, Store: path, Identity: "1"}, func(w *Watcher, s *script, h *heard) {
		want(t, h, "a b")
		s.fail("down")
		s.steps <- func(tell Tell) error { tell(nil, nil); return nil }
		synctest.Wait()
		want(t, h, "a b")
		if st := w.Status(); !st.Stored || st.Refused == "" {
			t.Errorf("%+v", st)
		}
		s.find("a", "b")
		if st := w.Status(); st.Stored || st.Confirmed == nil {
			t.Errorf("%+v", st)
		}
	})
	// Of other settings it says nothing.
	watch(t, Settings{Store: path, Identity: "2"}, func(_ *Watcher, _ *script, h *heard) { want(t, h) })
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	watch(t, Settings{Store: path, Identity: "1"}, func(_ *Watcher, _ *script, h *heard) {
		if !strings.Contains(h.log.String(), "can not be read") {
			t.Errorf("not loud: %s", h.log.String())
		}
	})
}

// What another source had found serves until this one answers, and is no measure for it.
func TestSeed(t *testing.T) {
	watch(t, Settings{MaxLoss: 0.5, Seed: []Endpoint{{Address: "a"}, {Address: "b"}, {Address: "c"}}}, func(w *Watcher, s *script, h *heard) {
		want(t, h, "a b c")
		s.find()
		if st := w.Status(); st.Refused == "" {
			t.Errorf("%+v", st)
		}
		s.find("x")
		want(t, h, "a b c", "x")
	})
}

func TestTooManyEndpoints(t *testing.T) {
	many := make([]Endpoint, maxEndpoints+5)
	for i := range many {
		many[i].Address = strings.Repeat("x", i+1)
	}
	if set, more := tidy(many); len(set) != maxEndpoints || more != 5 {
		t.Errorf("%d, %d more", len(set), more)
	}
}

func TestReadList(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		set, err := ReadList([]byte(text))
		got := strings.Join(addresses(set), " ")
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	f("- http://a:1\n- b:2\n", "http://a:1 b:2")
	f(`[{"url": "http://a:1", "weight": 3}, "b:2"]`, "http://a:1 b:2")
	f("endpoints: [a:1]", "a:1")
	f("[]", "")
	f("[{url: a:1, wait: 3}]", "error")
	f("[", "error")
}
