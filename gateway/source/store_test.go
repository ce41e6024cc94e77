package source

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/config"
	"sluice/gateway/etcd/etcdtest"
)

func openStore(t *testing.T, s *etcdtest.Server) *Store {
	t.Helper()
	st, err := OpenStore("etcd://"+strings.TrimPrefix(s.URL, "http://")+"/sluice/main/", StoreOptions{Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Close)
	return st
}

func TestStoreReads(t *testing.T) {
	s := etcdtest.Start(t)
	st := openStore(t, s)
	if _, err := st.Read(); err == nil || !strings.Contains(err.Error(), "there is no configuration; put one into a key, as etcdctl put /sluice/main/sluice.yaml") {
		t.Error(err)
	}
	s.Put("/sluice/main/a.yaml", settings(1))
	s.Put("/sluice/main/b.yaml", "teams: {pay: {hosts: [pay.test]}}")
	s.Put("/sluice/main/notes.txt", "nonsense")
	s.Put("/sluice/main/.hidden.yaml", "nonsense")
	s.Put("/sluice/main/deep/er.yaml", "nonsense")
	s.Put("/sluice/mainly.yaml", "nonsense")
	s.Put("/sluice/main/teams/pay/x.yaml", "routes: {r: {respond: {}}}")
	in, err := st.Read()
	if err != nil || len(in.Files) != 2 || len(in.Teams["pay"]) != 1 {
		t.Fatalf("%+v %v", in, err)
	}
	c, err := in.Load(config.Options{})
	if err != nil || c.Limits.MaxConnections != 1 || c.Routes["pay/r"] == nil {
		t.Errorf("%v", err)
	}
	s.Put("/sluice/main/b.yaml", "nonsense: 1")
	in, _ = st.Read()
	if _, err = in.Load(config.Options{}); err == nil || !strings.Contains(err.Error(), st.name+"/b.yaml:1:1: nonsense: unknown setting") {
		t.Error(err)
	}
}

func TestStoreAddresses(t *testing.T) {
	f := func(address, want string) {
		t.Helper()
		st, err := OpenStore(address, StoreOptions{})
		var got string
		if err != nil {
			got = err.Error()
		} else {
			got = strings.Join(st.settings.Servers, ",") + " " + st.prefix
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
	f("etcd://a:2379/x", "http://a:2379 /x")
	f("etcd://a,b:1/x/y/", "http://a:2379,http://b:1 /x/y")
	f("etcds://a/x", "https://a:2379 /x")
	f("etcd://a:2379", "names no prefix")
	f("etcd://a:2379/x/../y", "names no prefix")
	f("etcd:///x", "names no server")
	f("etcd://me:secret@a/x", "SLUICE_ETCD_PASSWORD")
}

// watchStore runs Watch and keeps what was read at each change.
type watched struct {
	mu   sync.Mutex
	seen []string
}

func (w *watched) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.seen) == 0 {
		return ""
	}
	return w.seen[len(w.seen)-1]
}

func (w *watched) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.seen)
}

func watchStore(t *testing.T, st *Store) *watched {
	t.Helper()
	w := &watched{}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		st.Watch(ctx, func() {
			in, err := st.Read()
			text := fmt.Sprint(err)
			if err == nil {
				text = ""
				for _, f := range in.Files {
					text += string(f.Data)
				}
			}
			w.mu.Lock()
			w.seen = append(w.seen, text)
			w.mu.Unlock()
		})
	})
	t.Cleanup(func() { cancel(); done.Wait() })
	return w
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
	}
}

func TestStoreWatches(t *testing.T) {
	s := etcdtest.Start(t)
	s.Put("/sluice/main/a.yaml", "one")
	st := openStore(t, s)
	if _, err := st.Read(); err != nil {
		t.Fatal(err)
	}
	w := watchStore(t, st)
	s.Put("/sluice/main/a.yaml", "two")
	eventually(t, "the change", func() bool { return w.last() == "two" })
	s.Put("/sluice/main/other", "of no interest")
	s.Put("/sluice/main/a.yaml", "three")
	eventually(t, "the change", func() bool { return w.last() == "three" })
	if w.count() != 2 {
		t.Errorf("told %d times", w.count())
	}
	// Killed; another writer is quicker than the watch, and history is forgotten.
	s.Kill()
	s.Restart()
	s.Put("/sluice/main/a.yaml", "four")
	s.Compact()
	eventually(t, "what changed meanwhile", func() bool { return w.last() == "four" })
}

func TestStoreThatDoesNotAnswer(t *testing.T) {
	s := etcdtest.Start(t)
	s.Put("/sluice/main/a.yaml", "one")
	st := openStore(t, s)
	s.Kill()
	if _, err := st.Read(); err == nil || !strings.Contains(err.Error(), "cannot read /sluice/main of etcd at "+s.URL+": no answer in time") {
		t.Error(err)
	}
	w := watchStore(t, st)
	s.Restart()
	eventually(t, "what was never read", func() bool { return w.last() == "one" })
}

// Two writers that have read the same: the second one learns that it was not alone.
func TestStoreComparesAndSwaps(t *testing.T) {
	s := etcdtest.Start(t)
	a, b := openStore(t, s), openStore(t, s)
	_, version, err := a.Text()
	if err != nil {
		t.Fatal(err)
	}
	first, err := a.Write([]byte("by a"), version)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Write([]byte("by b"), version); !errors.Is(err, ErrChanged) {
		t.Errorf("%v", err)
	}
	text, now, err := b.Text()
	if err != nil || string(text) != "by a" || now != first {
		t.Errorf("%q %q %q %v", text, now, first, err)
	}
	// Many at once: one after the other, and none is lost.
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			st := openStore(t, s)
			for done := 0; done < 10; {
				text, version, err := st.Text()
				if err != nil {
					t.Error(err)
					return
				}
				switch _, err = st.Write([]byte(string(text)+"."), version); {
				case err == nil:
					done++
				case !errors.Is(err, ErrChanged):
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	if text, _, _ = a.Text(); string(text) != "by a"+strings.Repeat(".", 40) {
		t.Errorf("%q", text)
	}
	s.Put("/sluice/main/more.yaml", "")
	if _, _, err := a.Text(); !errors.Is(err, ErrParts) {
		t.Errorf("%v", err)
	}
}
