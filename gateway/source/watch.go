package source

import (
	"context"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watch calls changed after the content of the configuration, or of a file that is followed, has become another than at
// the last Load or call of changed, and returns when ctx is done. Without a Load before, it compares with the content
// at its own start. It is called once, on a goroutine of its own; changed runs on that goroutine and may call Load and
// Follow.
//
// The system tells of changes within about 100 ms. Where it can not, as on network file systems, or when its limit of
// watches is reached, the content is looked at every two seconds.
func (f *File) Watch(ctx context.Context, changed func()) {
	w := f.newWatcher()
	defer w.close()
	poll := time.NewTicker(f.poll)
	defer poll.Stop()
	settle := time.NewTimer(time.Hour)
	settle.Stop()
	defer settle.Stop()

	var candidate *content // what is waiting to settle, nil while nothing is
	var since time.Time
	suspect := func() {
		switch {
		case candidate == nil:
			candidate, since = f.look(), time.Now()
		case time.Since(since) > f.patience:
			return // among ceaseless events the timer must still come to its end
		}
		settle.Reset(f.quiet)
	}

	f.begin()
	w.sync(f.path, f.look())
	suspect() // it may have changed since Load, and until it was watched
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.woken:
			w.sync(f.path, f.look())
		case e := <-w.events:
			if w.concerns(e) {
				suspect()
			}
		case <-w.errors: //nolint:errcheck // events were lost; which, nobody knows
			suspect()
		case <-poll.C:
			now := f.look()
			w.sync(f.path, now)
			if candidate == nil && f.differs(now) {
				suspect()
			}
		case <-settle.C:
			now := f.look()
			added := w.sync(f.path, now)
			if (added || !now.equal(candidate)) && time.Since(since) < f.patience {
				candidate = now
				settle.Reset(f.quiet)
				continue
			}
			candidate = nil
			if f.changed(now) && ctx.Err() == nil {
				changed()
			}
		}
	}
}

// watcher keeps the watches of the system on the places where a change can happen. Without a backend it has none.
type watcher struct {
	backend *fsnotify.Watcher // nil where there is none
	events  <-chan fsnotify.Event
	errors  <-chan error
	dirs    map[string]bool
	files   map[string]bool
}

func (f *File) newWatcher() *watcher {
	w := &watcher{dirs: make(map[string]bool)}
	if !f.notify {
		return w
	}
	if backend, err := fsnotify.NewWatcher(); err == nil {
		w.backend, w.events, w.errors = backend, backend.Events, backend.Errors
	}
	return w
}

func (w *watcher) close() {
	if w.backend != nil {
		_ = w.backend.Close()
	}
}

// sync watches where the content comes from now, and reports whether a place is new.
func (w *watcher) sync(path string, c *content) (added bool) {
	if w.backend == nil {
		return false
	}
	dirs, files := make(map[string]bool), make(map[string]bool)
	dir, file := func(name string) { dirs[name] = true }, func(name string) { files[name] = true }
	places(absolute(path), dir, file)
	for name := range c.own {
		places(name, dir, file)
	}
	for name := range c.others {
		places(name, dir, file)
	}
	for name := range w.dirs {
		if !dirs[name] {
			_ = w.backend.Remove(name)
			delete(w.dirs, name)
		}
	}
	for name := range dirs {
		// Also where it is watched already: another directory may stand under this name by now.
		if err := w.backend.Add(name); err == nil && !w.dirs[name] {
			w.dirs[name] = true
			added = true
		}
	}
	w.files = files
	return added
}

// concerns reports whether an event can mean a change. In a directory that is watched other files may be written all
// the time; of those only their coming and going counts.
func (w *watcher) concerns(e fsnotify.Event) bool {
	return e.Op&^(fsnotify.Write|fsnotify.Chmod) != 0 || w.files[e.Name]
}
