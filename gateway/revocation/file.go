package revocation

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"sluice/gateway/durable"
)

const (
	fileName = "revoked"
	lockName = "revoked.lock"
	// lockFor is how long a process waits for another one that writes.
	lockFor = 5 * time.Second
)

// file is the list in a folder. Each line has the CRC-32C of an entry, a space, and the entry. All processes of the folder write in it, one at
// a time, and read what the others have written.
type file struct {
	dir, path string
	seen      fs.FileInfo // what was read of
	at        int64       // how far
	lines     int
	lost      bool // somebody has taken the file away
}

func newFile(dir string) *file { return &file{dir: dir, path: filepath.Join(dir, fileName)} }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// locked calls f while no other process writes.
func (f *file) locked(do func() error) error {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	for end := time.Now().Add(lockFor); ; time.Sleep(time.Millisecond) {
		lock, err := durable.Owner(f.dir, lockName)
		if err != nil {
			return err
		}
		if lock != nil {
			defer func() { _ = lock.Close() }()
			return do()
		}
		if time.Now().After(end) {
			return fmt.Errorf("another process holds %s", filepath.Join(f.dir, lockName))
		}
	}
}

// read takes up what was written since. A line that is not whole is being written, or was when a process died.
func (f *file) read(learn func(Entry) bool) error {
	in, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		f.lost = f.lost || f.seen != nil
		f.seen, f.at, f.lines = nil, 0, 0
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if f.seen == nil || !os.SameFile(f.seen, info) || info.Size() < f.at {
		f.at, f.lines = 0, 0 // another file
	}
	f.seen = info
	if info.Size() == f.at {
		return nil
	}
	if _, err := in.Seek(f.at, io.SeekStart); err != nil {
		return err
	}
	r := bufio.NewReader(in)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		sum, text, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
		var e Entry
		if string(sum) != checksum(text) || json.Unmarshal(text, &e) != nil {
			return fmt.Errorf("line %d of %s is damaged, and what it revoked would pass: take the line out, or bring the file back", f.lines+1, f.path)
		}
		f.at += int64(len(line))
		f.lines++
		learn(e)
	}
}

func checksum(text []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(text, castagnoli)) }

func lineOf(e *Entry) ([]byte, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	return append([]byte(checksum(text)+" "), append(text, '\n')...), nil
}

// append writes entries, to the disk.
func (f *file) append(entries []Entry, learn func(Entry) bool) error {
	var lines []byte
	for i := range entries {
		line, err := lineOf(&entries[i])
		if err != nil {
			return err
		}
		lines = append(lines, line...)
	}
	return f.locked(func() error {
		if err := f.read(learn); err != nil {
			return err
		}
		out, err := os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		if f.seen != nil && f.seen.Size() > f.at {
			err = out.Truncate(f.at) // what a process that died has left of a line
		}
		if err == nil {
			_, err = out.Write(lines)
		}
		if err == nil {
			err = out.Sync()
		}
		if err = errors.Join(err, out.Close()); err != nil {
			return err
		}
		if f.seen == nil {
			return durable.SyncDir(f.dir)
		}
		return nil
	})
}

// rewrite leaves out what has ended.
func (f *file) rewrite(list func() []Entry, learn func(Entry) bool) error {
	return f.locked(func() error {
		if err := f.read(learn); err != nil {
			return err
		}
		entries := list()
		var all bytes.Buffer
		for i := range entries {
			line, err := lineOf(&entries[i])
			if err != nil {
				return err
			}
			all.Write(line)
		}
		if err := durable.Replace(f.path, all.Bytes()); err != nil {
			return err
		}
		f.lost = false
		return f.read(learn)
	})
}
