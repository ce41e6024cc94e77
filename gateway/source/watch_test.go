package source

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// settings is a configuration that can be told from others by n.
func settings(n int) string { return fmt.Sprintf("limits: {max_connections: %d}\n", n) }

// world is a folder with a File in it that is watched.
type world struct {
	*testing.T
	dir     string
	prepare func(f *File)
	file    *File
	told    chan string // what each call of changed loaded: the number of settings, or the error
}

// scenario runs f twice: where the system tells of changes and there is no other way, and by looking alone.
func scenario(t *testing.T, f func(w *world)) {
	run := func(name string, prepare func(f *File)) {
		t.Run(name, func(t *testing.T) {
			f(&world{T: t, dir: t.TempDir(), prepare: prepare, told: make(chan string, 1000)})
		})
	}
	run("told", func(f *File) { f.poll, f.quiet = time.Hour, 20*time.Millisecond })
	run("looking", func(f *File) { f.notify, f.poll, f.quiet = false, 10*time.Millisecond, 10*time.Millisecond })
}

// watch loads the path and watches it until the test ends.
func (w *world) watch(path string) {
	w.Helper()
	w.file = Open(path, config.Options{})
	w.prepare(w.file)
	if _, err := w.file.Load(); err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.file.Watch(ctx, func() {
			c, err := w.file.Load()
			if err != nil {
				w.told <- err.Error()
				return
			}
			w.told <- fmt.Sprint(c.Limits.MaxConnections)
		})
	}()
	w.Cleanup(func() {
		cancel()
		<-done
	})
}

// next waits until changed was called and loaded something with want in it. What was loaded on the way there, from a
// change half made, may be anything but stale.
func (w *world) next(want, stale string) {
	w.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case got := <-w.told:
			if _, err := strconv.Atoi(want); got == want || err != nil && strings.Contains(got, want) {
				return
			}
			if got == stale {
				w.Fatalf("told again of %s, where nothing has changed", got)
			}
		case <-timeout:
			w.Fatalf("not told of %s", want)
		}
	}
}

func (w *world) path(elements ...string) string {
	return filepath.Join(append([]string{w.dir}, elements...)...)
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// write writes in place: for a moment the file is empty.
func (w *world) write(path, text string) {
	w.Helper()
	w.must(os.WriteFile(path, []byte(text), 0o644))
}

// replace renames a new file over the old, as editors and deployments do.
func (w *world) replace(path, text string) {
	w.Helper()
	w.write(path+".new", text)
	w.must(os.Rename(path+".new", path))
}

// link makes a symbolic link, or swaps it at once.
func (w *world) link(target, path string) {
	w.Helper()
	w.must(os.Symlink(target, path+".new"))
	w.must(os.Rename(path+".new", path))
}

func (w *world) folder(path string) {
	w.Helper()
	w.must(os.MkdirAll(path, 0o755))
}

func TestWritten(t *testing.T) {
	scenario(t, func(w *world) {
		path := w.path("sluice.yaml")
		w.replace(path, settings(1))
		w.watch(path)
		for n := 2; n < 6; n++ {
			w.write(path, settings(n))
			w.next(fmt.Sprint(n), "none")
		}
	})
}

func TestRenamedOver(t *testing.T) {
	scenario(t, func(w *world) {
		path := w.path("sluice.yaml")
		w.replace(path, settings(1))
		w.watch(path)
		for n := 2; n < 6; n++ {
			w.replace(path, settings(n))
			w.next(fmt.Sprint(n), fmt.Sprint(n-1))
		}
		w.replace(path, settings(5)) // the same again is no change
		w.replace(path, settings(6))
		w.next("6", "5")
	})
}

func TestBrokenAndMended(t *testing.T) {
	scenario(t, func(w *world) {
		path := w.path("sluice.yaml")
		w.replace(path, settings(1))
		w.watch(path)
		w.replace(path, "limits: nonsense\n")
		w.next("limits", "1")
		w.replace(path, settings(1))
		w.next("1", "limits")
	})
}

func TestDeletedAndMadeAgain(t *testing.T) {
	scenario(t, func(w *world) {
		path := w.path("sluice.yaml")
		w.replace(path, settings(1))
		w.watch(path)
		w.must(os.Remove(path))
		w.next("can not be read", "1")
		w.replace(path, settings(2))
		w.next("2", "1")
	})
}

func TestFolderReplaced(t *testing.T) {
	scenario(t, func(w *world) {
		path := w.path("conf", "sluice.yaml")
		w.folder(w.path("conf"))
		w.replace(path, settings(1))
		w.watch(path)
		w.must(os.RemoveAll(w.path("conf")))
		w.next("can not be read", "1")
		w.folder(w.path("conf"))
		w.replace(path, settings(2))
		w.next("2", "1")
		w.replace(path, settings(3))
		w.next("3", "2")
	})
}

func TestLinkSwapped(t *testing.T) {
	scenario(t, func(w *world) {
		for n := 1; n <= 3; n++ {
			w.folder(w.path("versions"))
			w.replace(w.path("versions", fmt.Sprint(n)), settings(n))
		}
		path := w.path("sluice.yaml")
		w.link("versions/1", path)
		w.watch(path)
		w.link("versions/2", path)
		w.next("2", "1")
		w.link(w.path("versions", "3"), path)
		w.next("3", "2")
		w.replace(w.path("versions", "3"), settings(4))
		w.next("4", "3")
		w.replace(w.path("versions", "3"), settings(5))
		w.next("5", "4")
	})
}

// A link in the middle of the path, as where releases are switched by "current".
func TestFolderLinkSwapped(t *testing.T) {
	scenario(t, func(w *world) {
		for n := 1; n <= 3; n++ {
			w.folder(w.path("releases", fmt.Sprint(n), "conf"))
			w.replace(w.path("releases", fmt.Sprint(n), "conf", "sluice.yaml"), settings(n))
		}
		w.link("releases/1", w.path("current"))
		w.watch(w.path("current", "conf", "sluice.yaml"))
		for n := 2; n <= 3; n++ {
			w.link(fmt.Sprintf("releases/%d", n), w.path("current"))
			w.next(fmt.Sprint(n), fmt.Sprint(n-1))
		}
		w.replace(w.path("releases", "3", "conf", "sluice.yaml"), settings(4))
		w.next("4", "3")
	})
}

// Kubernetes mounts a ConfigMap as links through ..data, and swaps that one.
func TestConfigMap(t *testing.T) {
	f := func(w *world, watched string) {
		version := func(n int) {
			name := fmt.Sprintf("..2027_%d", n)
			w.folder(w.path(name))
			w.replace(w.path(name, "sluice.yaml"), settings(n))
			w.link(name, w.path("..data"))
			if n > 1 {
				w.must(os.RemoveAll(w.path(fmt.Sprintf("..2027_%d", n-1))))
			}
		}
		version(1)
		w.link("..data/sluice.yaml", w.path("sluice.yaml"))
		w.watch(watched)
		for n := 2; n < 6; n++ {
			version(n)
			w.next(fmt.Sprint(n), fmt.Sprint(n-1))
		}
	}
	t.Run("file", func(t *testing.T) { scenario(t, func(w *world) { f(w, w.path("sluice.yaml")) }) })
	t.Run("directory", func(t *testing.T) { scenario(t, func(w *world) { f(w, w.dir) }) })
}

func TestDirectory(t *testing.T) {
	scenario(t, func(w *world) {
		w.replace(w.path("a.yaml"), "version: 1\n")
		w.watch(w.dir)
		w.replace(w.path("notes.txt"), settings(8))    // not of the configuration
		w.replace(w.path(".hidden.yaml"), settings(9)) // nor is this
		w.replace(w.path("limits.yaml"), settings(2))
		w.next("2", "0")
		w.replace(w.path("limits.yaml"), settings(3))
		w.next("3", "2")
		w.must(os.Rename(w.path("limits.yaml"), w.path("zlimits.yaml")))
		w.next("3", "2")
		w.must(os.Remove(w.path("zlimits.yaml")))
		w.next("0", "3")
	})
}

func TestIncluded(t *testing.T) {
	scenario(t, func(w *world) {
		path := w.path("sluice.yaml")
		w.folder(w.path("secrets"))
		w.replace(w.path("secrets", "n"), "1")
		w.replace(path, `limits: {max_connections: "${file:secrets/n}"}`)
		w.watch(path)
		w.replace(w.path("secrets", "n"), "2")
		w.next("2", "1")
		// What is missing is waited for, wherever it belongs.
		w.replace(path, `limits: {max_connections: "${file:later/n}"}`)
		w.next("later/n", "2")
		w.folder(w.path("later"))
		w.replace(w.path("later", "n"), "3")
		w.next("3", "2")
	})
}

func TestFollow(t *testing.T) {
	scenario(t, func(w *world) {
		path, cert := w.path("sluice.yaml"), w.path("tls", "api.crt")
		w.replace(path, settings(1))
		w.folder(w.path("tls"))
		w.replace(cert, "old")
		w.watch(path)
		w.file.Follow([]string{path, cert})
		w.replace(cert, "new")
		w.next("1", "none")
		w.replace(cert, "newer")
		w.next("1", "none")
		w.must(os.Remove(cert))
		w.next("1", "none")
		w.file.Follow([]string{path})
		w.replace(cert, "of no interest")
		w.replace(path, settings(2))
		w.next("2", "1")
	})
}

// A change between Load and Watch is not lost.
func TestChangedBeforeWatch(t *testing.T) {
	scenario(t, func(w *world) {
		path := w.path("sluice.yaml")
		w.replace(path, settings(1))
		f := Open(path, config.Options{})
		w.prepare(f)
		if _, err := f.Load(); err != nil {
			w.Fatal(err)
		}
		w.replace(path, settings(2))
		ctx, cancel := context.WithCancel(context.Background())
		f.Watch(ctx, cancel) // it returns only because it is told
	})
}

// Without Load, Watch starts from what is there.
func TestWatchWithoutLoad(t *testing.T) {
	scenario(t, func(w *world) {
		path := w.path("sluice.yaml")
		w.replace(path, settings(1))
		f := Open(path, config.Options{})
		w.prepare(f)
		f.begin()
		w.replace(path, settings(2))
		ctx, cancel := context.WithCancel(context.Background())
		f.Watch(ctx, cancel)
	})
}

// Files that come and go beside the configuration, as logs do, do not put off its change.
func TestBusyFolder(t *testing.T) {
	scenario(t, func(w *world) {
		path := w.path("sluice.yaml")
		w.replace(path, settings(1))
		w.watch(path)
		stop := make(chan struct{})
		var busy sync.WaitGroup
		busy.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					w.replace(w.path("access.log"), "line\n")
				}
			}
		})
		defer busy.Wait()
		defer close(stop)
		w.replace(path, settings(2))
		w.next("2", "1")
		w.replace(path, settings(3))
		w.next("3", "2")
	})
}

// Load and Follow from elsewhere, as a reload by signal or API, may meet a change being told.
func TestConcurrentUse(t *testing.T) {
	scenario(t, func(w *world) {
		path := w.path("sluice.yaml")
		w.replace(path, settings(1))
		w.watch(path)
		var others sync.WaitGroup
		for i := range 4 {
			others.Go(func() {
				for j := range 20 {
					_, _ = w.file.Load()
					w.file.Follow([]string{path, w.path(fmt.Sprint(i, j))})
				}
			})
		}
		for n := 2; n < 10; n++ {
			w.replace(path, settings(n))
		}
		others.Wait()
		w.replace(path, settings(10))
		w.next("10", "none")
	})
}

// A configuration that comes through a pipe is left to whoever loads it.
func TestPipeIsNotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip(err)
	}
	f := Open(path, config.Options{})
	if a, b := f.look(), f.look(); !a.equal(b) { // looking does not wait for a writer
		t.Error("a pipe changes by being looked at")
	}
}

func TestLinkToItself(t *testing.T) {
	w := &world{T: t, dir: t.TempDir()}
	w.must(os.Symlink("b", w.path("a")))
	w.must(os.Symlink("a", w.path("b")))
	places(w.path("a"), func(string) {}, func(name string) { t.Errorf("leads to %s", name) })
}
