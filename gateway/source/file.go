// Package source is where configuration comes from: a file, a directory, or the keys below a prefix of etcd. It reads it,
// and tells when its content has changed, however that was done: written in place, renamed over, a symbolic link swapped
// anywhere on the path, deleted and made anew. A change is told once, after it has settled, and only when a byte is
// different. What is broken is told apart by whose it is: a team's mistake is the team's alone.
package source

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"sluice/config"
)

// File is a configuration in a file, or in the *.yaml files of a directory. Its methods may be called from any goroutine.
type File struct {
	path    string
	options config.Options

	// quiet is how long nothing must happen before a change counts as complete, patience after which it is taken as it
	// is, poll how often the content is looked at without being told of a change.
	quiet, patience, poll time.Duration
	notify                bool

	woken chan struct{} // by Follow, for Watch

	mu       sync.Mutex
	followed []string
	seen     *content // what was loaded last, nil before
}

// Open returns the configuration at path, a file or a directory. It reads nothing yet.
func Open(path string, o config.Options) *File {
	return &File{
		path: path, options: o, quiet: 100 * time.Millisecond, patience: time.Second, poll: 2 * time.Second, notify: true,
		woken: make(chan struct{}, 1),
	}
}

// Path returns the path that was given to Open.
func (f *File) Path() string { return f.path }

// Single reports whether the configuration is one regular file, which WriteBack can replace.
func (f *File) Single() bool {
	info, err := os.Stat(f.path)
	return err == nil && info.Mode().IsRegular()
}

// Read returns the text of the configuration, for who makes something of it. Errors are config.Errors. Watch tells of
// changes to what was read.
func (f *File) Read() (config.Input, error) {
	// The content is taken before it is read: what changes in between is read again, and never missed.
	now := f.look()
	in, errs := config.ReadInput(f.path)
	f.mu.Lock()
	f.remember(now)
	f.mu.Unlock()
	f.wake()
	return in, errs.Err()
}

// Load reads the configuration; its errors are config.Errors. Watch tells of changes to what Load has read, whether or
// not it was good.
func (f *File) Load() (*config.Config, error) {
	// The content is taken before it is read: what changes in between is loaded again, and never missed.
	now := f.look()
	c, err := config.Load(f.path, f.options)
	f.mu.Lock()
	f.remember(now)
	f.mu.Unlock()
	f.wake()
	return c, err
}

// Follow sets the files that are watched besides those of the configuration itself, such as keys and certificates that
// it names. Files that are new here count with their content of this moment. Those of config.Config.Files may be among
// them and need not be.
func (f *File) Follow(files []string) {
	files = slices.Clone(files)
	for i, name := range files {
		files[i] = absolute(name)
	}
	slices.Sort(files)
	files = slices.Compact(files)

	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.Equal(files, f.followed) {
		return
	}
	f.followed = files
	if f.seen != nil {
		f.remember(&content{own: f.seen.own})
	}
	f.wake()
}

func (f *File) wake() {
	select {
	case f.woken <- struct{}{}:
	default:
	}
}

// look takes the content of everything that is watched.
func (f *File) look() *content {
	f.mu.Lock()
	others := f.followed
	f.mu.Unlock()
	return read(absolute(f.path), others)
}

// Mark is for who reads the file without Load: Watch will tell of changes to its content of now.
func (f *File) Mark() { f.begin() }

// begin makes the present content what was seen last, unless Load did.
func (f *File) begin() {
	now := f.look()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen == nil {
		f.remember(now)
	}
}

// differs reports whether now is another content than what was seen last, after begin.
func (f *File) differs(now *content) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.seen.covers(now)
}

// changed is differs, and now becomes what was seen last.
func (f *File) changed(now *content) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	same := f.seen.covers(now)
	f.remember(now)
	return !same
}

// remember makes now what was seen last. f.mu is held. What was followed while now was taken keeps the content that it
// had then.
func (f *File) remember(now *content) {
	next := &content{own: now.own, others: make(map[string]digest, len(f.followed))}
	for _, name := range f.followed {
		d, ok := now.others[name]
		if !ok && f.seen != nil {
			d, ok = f.seen.others[name]
		}
		if !ok {
			d = digestOf(name)
		}
		next.others[name] = d
	}
	f.seen = next
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
