package source

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sluice/config"
)

func TestWriteBack(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sluice.yaml")
	f := func(to, text, want string, mode os.FileMode) {
		t.Helper()
		if err := WriteBack(to, []byte(text)); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil || string(data) != want {
			t.Errorf("content %q, %v, want %q", data, err, want)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("mode %v, %v, want %v", info.Mode(), err, mode)
		}
	}
	f(path, "one", "one", 0o600)
	f(path, "two", "two", 0o600)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	f(path, "", "", 0o640)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	f(link, "three", "three", 0o640)
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestSingle(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sluice.yaml")
	f := func(path string, want bool) {
		t.Helper()
		if got := Open(path, config.Options{}).Single(); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
	f(path, false)
	f(dir, false)
	f(os.DevNull, false)
	if err := WriteBack(path, nil); err != nil {
		t.Fatal(err)
	}
	f(path, true)
}

func TestWriteBackFailure(t *testing.T) {
	f := func(path, want string) {
		t.Helper()
		if err := WriteBack(path, []byte("x")); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "cannot write "+path) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	dir := t.TempDir()
	f(dir, "it is no regular file")
	f(filepath.Join(dir, "none", "sluice.yaml"), "no such file or directory")
	f(os.DevNull, "it is no regular file")
}

// A reader finds the old content or the new one, never a part.
func TestWriteBackIsAtomic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sluice.yaml")
	long, short := strings.Repeat("a", 1<<20), "b"
	if err := WriteBack(path, []byte(short)); err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	stop := make(chan struct{})
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if data, err := os.ReadFile(path); err != nil || string(data) != short && string(data) != long {
				t.Errorf("%d bytes, %v", len(data), err)
				return
			}
		}
	})
	for range 20 {
		for _, text := range []string{long, short} {
			if err := WriteBack(path, []byte(text)); err != nil {
				t.Error(err)
			}
		}
	}
	close(stop)
	readers.Wait()
}

// Who writes back and loads is not told of that change again, but of the next.
func TestWriteBackAndLoad(t *testing.T) {
	scenario(t, func(w *world) {
		path := w.path("sluice.yaml")
		w.replace(path, settings(1))
		f := Open(path, config.Options{})
		w.prepare(f)
		w.must(WriteBack(path, []byte(settings(2))))
		if _, err := f.Load(); err != nil {
			w.Fatal(err)
		}
		w.replace(path, settings(3))
		ctx, cancel := context.WithCancel(context.Background())
		calls := 0
		f.Watch(ctx, func() {
			calls++
			cancel()
		})
		if calls != 1 {
			w.Errorf("told %d times", calls)
		}
	})
}
