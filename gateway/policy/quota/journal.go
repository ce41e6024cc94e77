package quota

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"sluice/gateway/durable"
	"sluice/gateway/telemetry"
)

const (
	fileName = "quotas"
	lockName = "quotas.lock"

	// writeEvery is how much is lost at most when the process is killed.
	writeEvery = time.Second
	// retryAfter is the pause after a failure, since everything is written then.
	retryAfter = 10 * time.Second
	// slack is how many bytes beyond twice what is needed the file may have before it is written anew.
	slack = 1 << 20
)

// Journal keeps the durable counts of a State in a file of state.dir: what has changed is appended, and now and then the file is
// written anew and put in place of the old one. One process writes at a time: another one, as while a new binary takes over,
// counts in memory until it has the lock, and then adds what it finds in the file. What fails is said in the log and
// tried again; requests notice nothing of it.
type Journal struct {
	state *State
	dir   string
	log   *telemetry.Limited

	lock *os.File // nil until it is this process's
	file *os.File // to append to; nil: the file has to be written anew
	size int64
	base int64 // size when it was written anew
	buf  []byte

	stop chan struct{}
	done sync.WaitGroup
}

func openJournal(s *State, dir string, log *slog.Logger) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	j := &Journal{state: s, dir: dir, log: telemetry.NewLimited(log, time.Minute), stop: make(chan struct{})}
	switch owned, err := j.acquire(); {
	case err != nil:
		return nil, err
	case !owned:
		log.Warn("another process keeps its quotas in state.dir; until it ends those of this one are in memory alone", "dir", dir)
	default:
		// A folder that can not be written in now may be later, as when a disk is full.
		j.write(false)
	}
	j.done.Go(j.run)
	return j, nil
}

// acquire makes the folder this process's, and reads the counts in it.
func (j *Journal) acquire() (owned bool, err error) {
	if j.lock != nil {
		return true, nil
	}
	f, err := durable.Owner(j.dir, lockName)
	if err != nil || f == nil {
		return false, err
	}
	j.lock = f
	j.load(j.state.takeUp(j.dir))
	return true, nil
}

// release gives the folder up. The file stays open as it is left, since what another process counts from there on is what it adds to it.
func (j *Journal) release() {
	j.closeFile()
	if j.lock == nil {
		return
	}
	left, err := os.Open(j.path())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		j.state.log.Error("the quotas of state.dir can not be read; counts of another process may be added twice", "file", j.path(), "error", err.Error())
	}
	j.state.leave(j.dir, left)
	_ = j.lock.Close()
	j.lock = nil
}

// folder is one that this process kept its counts in before.
type folder struct{ left *os.File }

// leave notes how the file of a folder was left: nil where there is none.
func (s *State) leave(dir string, left *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.folders[dir] = folder{left}
}

// takeUp says how the file of a folder was left, if it was.
func (s *State) takeUp(dir string) (f folder, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, known = s.folders[dir]
	delete(s.folders, dir)
	return f, known
}

// Close ends it: nobody counts any more.
func (s *State) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.folders {
		f.close()
	}
	clear(s.folders)
}

func (f folder) close() {
	if f.left != nil {
		_ = f.left.Close()
	}
}

// records are the counts that the file had when it was left.
func (f folder) records() map[string]*count {
	if f.left == nil {
		return nil
	}
	data, err := io.ReadAll(f.left)
	if err != nil {
		return nil // rather counted twice
	}
	records, _, _ := decode(data)
	return records
}

// is tells whether a file is the one that was left. Every process that takes a folder up puts a file of its own in its place.
func (f folder) is(path string) bool {
	if f.left == nil {
		return false
	}
	now, err := os.Stat(path)
	if err != nil {
		return false
	}
	then, err := f.left.Stat()
	return err == nil && os.SameFile(now, then)
}

func (j *Journal) path() string { return filepath.Join(j.dir, fileName) }

// load adds the counts of the file to those in memory, or where this process has left it before, what another one has added since. A file that can not be read, or not all of it, never keeps the gateway
// from serving: it is put aside, and everybody hears of it.
func (j *Journal) load(before folder, known bool) {
	defer before.close()
	if known && before.is(j.path()) {
		return
	}
	data, err := os.ReadFile(j.path())
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil {
		j.state.log.Error("the quotas of state.dir can not be read; callers begin with unused quotas", "file", j.path(), "error", err.Error())
		j.putAside()
		return
	}
	records, damaged, torn := decode(data)
	j.state.adopt(records, before.records())
	switch {
	case damaged > 0:
		j.state.log.Error("the file of quotas is damaged; what could be read of it counts, the rest is forgotten",
			"file", j.path(), "read", len(records), "damaged_bytes", damaged, "kept_as", j.putAside())
	case torn:
		j.state.log.Warn("the file of quotas ends within a record, as after a crash; what was counted in the last second before it is forgotten", "file", j.path())
	}
}

func (j *Journal) putAside() string {
	aside := j.path() + ".damaged"
	_ = os.Remove(aside)
	if err := os.Rename(j.path(), aside); err != nil {
		j.state.log.Error("the damaged file of quotas can not be put aside", "file", j.path(), "error", err.Error())
		return ""
	}
	return aside
}

func (j *Journal) run() {
	tick := time.NewTicker(writeEvery)
	defer tick.Stop()
	var pause time.Time
	for {
		select {
		case <-j.stop:
			j.write(true)
			j.release()
			return
		case now := <-tick.C:
			if now.After(pause) && !j.write(false) {
				pause = now.Add(retryAfter)
			}
		}
	}
}

// Close writes what has changed.
func (j *Journal) Close() {
	close(j.stop)
	j.done.Wait()
}

// write brings the file up to date, and tells whether that worked.
func (j *Journal) write(last bool) bool {
	owned, err := j.acquire()
	switch {
	case err == nil && !owned:
		if last {
			j.log.Log(slog.LevelError, "last", "another process keeps its quotas in state.dir; what this one has counted is forgotten", "dir", j.dir)
		}
		return true
	case err != nil:
	case j.file == nil || j.size > 2*j.base+slack:
		err = j.rewrite()
	default:
		err = j.append()
	}
	if err != nil {
		j.closeFile()
		j.log.Log(slog.LevelError, "write", "cannot write the file of quotas; a restart would forget what is used since", "file", j.path(), "error", err.Error())
	}
	return err == nil
}

func (j *Journal) closeFile() {
	if j.file != nil {
		_ = j.file.Close()
		j.file = nil
	}
}

// append writes what has changed behind the rest.
func (j *Journal) append() error {
	j.buf = j.state.appendChanged(j.buf[:0])
	if len(j.buf) == 0 {
		return nil
	}
	n, err := j.file.Write(j.buf)
	j.size += int64(n)
	if err != nil {
		return err
	}
	return j.file.Sync()
}

// rewrite puts a file of all counts in place of the old one.
func (j *Journal) rewrite() error {
	j.closeFile()
	f, err := os.OpenFile(j.path()+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	j.size = 0
	write := func(b []byte) error {
		n, err := f.Write(b)
		j.size += int64(n)
		return err
	}
	err = write(append(j.buf[:0], magic...))
	for i := range j.state.shards {
		if err != nil {
			break
		}
		j.buf = j.state.appendShard(j.buf[:0], i)
		err = write(j.buf)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(f.Name(), j.path())
	}
	if err == nil {
		err = durable.SyncDir(j.dir)
	}
	if err != nil {
		_ = f.Close()
		return err
	}
	j.file, j.base = f, j.size
	return nil
}

// appendChanged appends the records of the durable counts that have changed since.
func (s *State) appendChanged(dst []byte) []byte {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for c := sh.dirty; c != nil; {
			dst = c.append(dst)
			next := c.next
			c.dirty, c.next = false, nil
			c = next
		}
		sh.dirty = nil
		sh.mu.Unlock()
	}
	return dst
}

// appendShard appends the records of all durable counts of a shard whose period is not over.
func (s *State) appendShard(dst []byte, i int) []byte {
	now := s.clock.Time().Unix()
	sh := &s.shards[i]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for c := sh.dirty; c != nil; {
		next := c.next
		c.dirty, c.next = false, nil
		c = next
	}
	sh.dirty = nil
	for _, c := range sh.counts {
		if c.durable && c.end > now {
			dst = c.append(dst)
		}
	}
	return dst
}

// adopt adds counts that another process, or an earlier one, has written. Of them this one knows what stood there before.
func (s *State) adopt(records, before map[string]*count) {
	now := s.clock.Time().Unix()
	for key, r := range records {
		if r.end <= now {
			continue
		}
		sh := s.shard([]byte(key))
		sh.mu.Lock()
		switch c := sh.counts[key]; {
		case c == nil:
			if len(sh.counts) >= maxKeys/shards {
				s.makeRoom(sh, now)
			}
			sh.counts[key] = r
		case c.start == r.start:
			c.used += r.used
			if b := before[key]; b != nil && b.start == r.start {
				c.used = max(0, c.used-b.used)
			}
			c.durable = true
		case c.start < r.start:
			c.start, c.end, c.used, c.durable = r.start, r.end, r.used, true
		}
		sh.mu.Unlock()
	}
}

// The file is a line that names it, and records: mark, checksum of what follows, length of the key, start and end of the period, what
// is used of it, the key. Of several records of a key the one of the latest period counts, and of those the last.
const (
	magic      = "sluice quotas 1\n"
	mark       = "\xf5q"
	headLen    = len(mark) + 4 + 2 + 3*8
	maxKeyLen  = 4096
	checkFrom  = len(mark) + 4
	lengthFrom = checkFrom
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (c *count) append(dst []byte) []byte {
	from := len(dst)
	dst = append(append(dst, mark...), 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(c.key)))
	for _, n := range [...]int64{c.start, c.end, c.used} {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(n))
	}
	dst = append(dst, c.key...)
	binary.LittleEndian.PutUint32(dst[from+len(mark):], crc32.Checksum(dst[from+checkFrom:], castagnoli))
	return dst
}

// decode reads the records of a file. damaged is how many bytes are no records; torn tells that the last one is not whole.
func decode(data []byte) (records map[string]*count, damaged int, torn bool) {
	records = make(map[string]*count)
	rest := data
	if len(rest) >= len(magic) && string(rest[:len(magic)]) == magic {
		rest = rest[len(magic):]
	} else if len(rest) > 0 {
		damaged++
	}
	lost := 0 // bytes since the last good record
	for len(rest) > 0 {
		c, n, err := readRecord(rest)
		if err != nil {
			lost++
			rest = rest[1:]
			continue
		}
		damaged, lost = damaged+lost, 0
		rest = rest[n:]
		if have := records[c.key]; have == nil || c.start >= have.start {
			records[c.key] = c
		}
	}
	if lost > 0 {
		// Less than a record that begins as one does is what a crash leaves.
		tail := data[len(data)-lost:]
		if torn = isTorn(tail); !torn {
			damaged += lost
		}
	}
	return records, damaged, torn
}

func readRecord(b []byte) (c *count, n int, err error) {
	if len(b) < headLen || string(b[:len(mark)]) != mark {
		return nil, 0, io.ErrUnexpectedEOF
	}
	n = headLen + int(binary.LittleEndian.Uint16(b[lengthFrom:]))
	if n > headLen+maxKeyLen || n > len(b) || crc32.Checksum(b[checkFrom:n], castagnoli) != binary.LittleEndian.Uint32(b[len(mark):]) {
		return nil, 0, io.ErrUnexpectedEOF
	}
	numbers := b[lengthFrom+2:]
	read := func(i int) int64 { return int64(binary.LittleEndian.Uint64(numbers[8*i:])) }
	return &count{start: read(0), end: read(1), used: read(2), key: string(b[headLen:n]), durable: true}, n, nil
}

// isTorn tells whether b is the beginning of a record.
func isTorn(b []byte) bool {
	n := min(len(b), len(mark))
	if string(b[:n]) != mark[:n] {
		return false
	}
	return len(b) < headLen || len(b) < headLen+int(binary.LittleEndian.Uint16(b[lengthFrom:]))
}
