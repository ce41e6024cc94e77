// Package chain is a log to which records are only ever added, each with a number and the hash of the one before it. It
// guarantees that what is on the disk can be checked: a record that was changed, removed or put between others breaks the
// chain at its line, and what the process could not write is itself a record. A chain goes on over restarts and from file
// to file. It protects against changes, not against whoever may write the file and makes all of it anew: for that, note the
// number and hash of its end elsewhere, as the operator log does.
package chain

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"sluice/gateway/durable"
	"sluice/gateway/stripe"
)

// ErrElsewhere: another process writes the log.
var ErrElsewhere = errors.New("another process writes this log")

// Options of a Log.
type Options struct {
	// Log is the operator log. Required.
	Log *slog.Logger
	// Now is the clock. Required.
	Now func() time.Time
	// MaxSize is the size in bytes at which a file gets a successor; 0: never.
	MaxSize int64
	// Buffer is how many bytes of records may wait; 0: 8 MiB.
	Buffer int
	// Exclusive: while another process writes the log, opening it is ErrElsewhere.
	Exclusive bool
	// Lost is called with the number of records that could not be taken or written; nil: nobody is told but the chain.
	Lost func(n int)
}

const (
	defaultBuffer = 8 << 20
	minShard      = 256 << 10
	maxRecord     = 64 << 10
	flushEvery    = 500 * time.Millisecond
	anchorEvery   = time.Hour
)

// Log is the end of a chain. All methods may be called concurrently; one goroutine, or whoever Commits, writes.
type Log struct {
	path string
	o    Options

	shards []shard // a power of two
	lost   atomic.Int64

	mu      sync.Mutex // of what follows
	file    *os.File   // nil: could not be opened, or is another process's
	size    int64
	seq     uint64
	head    [sha256.Size]byte
	failure error // of the last write; nil: it worked
	line    []byte
	spare   []byte
	anchor  time.Time

	stop chan struct{}
	done sync.WaitGroup
}

// A shard collects records of few cores. Its buffer never grows.
type shard struct {
	mu     sync.Mutex
	buf    []byte
	closed bool
	_      [64]byte
}

// Open opens the log at path, makes it if it is not there, and goes on where its chain ends: in the file, or in the last one
// that was put aside beside it. A file whose last record is damaged is an error. While another process writes it, records
// wait for that to end.
func Open(path string, o Options) (*Log, error) {
	l := &Log{path: path, o: o, stop: make(chan struct{}), anchor: o.Now()}
	if o.Buffer <= 0 {
		o.Buffer = defaultBuffer
	}
	n := stripe.Count()
	for n > 1 && o.Buffer/n < minShard {
		n /= 2
	}
	l.shards = make([]shard, n)
	for i := range l.shards {
		l.shards[i].buf = make([]byte, 0, max(o.Buffer/n, minShard))
	}
	l.spare = make([]byte, 0, max(o.Buffer/n, minShard))
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.open(); err != nil && (o.Exclusive || !errors.Is(err, ErrElsewhere)) {
		return nil, err
	} else if err != nil {
		o.Log.Warn("another process writes this log; until it ends records wait", "file", path)
	}
	l.done.Go(l.run)
	return l, nil
}

// Close writes what waits.
func (l *Log) Close() {
	close(l.stop)
	l.done.Wait()
}

// Path is the file that is written.
func (l *Log) Path() string { return l.path }

// Head is the number and hash of the last record.
func (l *Log) Head() (seq uint64, hash string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seq, hex.EncodeToString(l.head[:])
}

// Ready says why no record can be written, nil if none is known to fail. After a failure it tries, by a record that says so:
// where nothing is done without a record, nobody else would find that the disk takes them again.
func (l *Log) Ready() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		if err := l.open(); err != nil {
			return err
		}
	}
	if l.failure == nil {
		return nil
	}
	return l.write(l.event("resumed"))
}

// Append hands over the members of a record, as `"time":"…","status":200`, which do not name seq, prev or hash. It allocates
// nothing and waits for nothing: what finds no room is lost, and how many were is a record itself.
func (l *Log) Append(members []byte) bool {
	if len(members) <= maxRecord {
		first := stripe.Mine()
		for i := range l.shards {
			s := &l.shards[(int(first)+i)&(len(l.shards)-1)]
			s.mu.Lock()
			if taken := !s.closed && cap(s.buf)-len(s.buf) > len(members); taken {
				s.buf = append(append(s.buf, members...), '\n')
				s.mu.Unlock()
				return true
			}
			s.mu.Unlock()
		}
	}
	l.lost.Add(1)
	return false
}

// Commit adds a record and returns when it is on the disk.
func (l *Log) Commit(members []byte) (seq uint64, err error) {
	if len(members) > maxRecord {
		return 0, errors.New("the record is too long")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.write(append(append([]byte(nil), members...), '\n')); err != nil {
		return 0, err
	}
	return l.seq, nil
}

// Reopen opens the file anew, after it was renamed. The new one begins with a record of its own, so that the chain can be
// followed from file to file.
func (l *Log) Reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush(false)
	before := l.file
	if info, err := os.Stat(l.path); before != nil && err == nil {
		if have, err := before.Stat(); err == nil && os.SameFile(info, have) {
			return nil
		}
	}
	if l.file = nil; before != nil {
		_ = before.Close()
		return l.begin()
	}
	return l.open()
}

func (l *Log) run() {
	t := time.NewTicker(flushEvery)
	defer t.Stop()
	for {
		select {
		case <-l.stop:
			l.mu.Lock()
			l.flush(true)
			if l.file != nil {
				l.tell("the log is closed")
				_ = l.file.Close()
				l.file = nil
			}
			l.mu.Unlock()
			return
		case <-t.C:
		}
		l.mu.Lock()
		l.flush(false)
		if now := l.o.Now(); now.Sub(l.anchor) >= anchorEvery && l.seq > 0 {
			l.anchor = now
			l.tell("the log goes on")
		}
		l.mu.Unlock()
	}
}

// tell notes the end of the chain where whoever changes the file may not be able to.
func (l *Log) tell(what string) {
	l.o.Log.Info(what, "file", l.path, "seq", l.seq, "hash", hex.EncodeToString(l.head[:]))
}

// flush writes what waits. l.mu is held.
func (l *Log) flush(last bool) {
	if l.file == nil {
		// Until it can be opened records wait in the shards, which have their bound.
		err := l.open()
		if err != nil && !errors.Is(err, ErrElsewhere) && l.failure == nil {
			l.o.Log.Error("cannot open a log", "file", l.path, "error", err.Error())
		}
		if err != nil && !last {
			l.failure = err
			return
		}
	}
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		s.closed = last
		records := s.buf
		if len(records) > 0 {
			s.buf = l.spare[:0]
		}
		s.mu.Unlock()
		if len(records) == 0 {
			continue
		}
		if err := l.write(records); err != nil {
			l.drop(bytes.Count(records, newline))
			l.o.Log.Error("cannot write a log", "file", l.path, "error", err.Error(), "lost_records", bytes.Count(records, newline))
		}
		l.spare = records
	}
	if n := l.lost.Swap(0); n > 0 {
		text := fmt.Appendf(nil, "\"time\":%q,\"event\":\"lost\",\"records\":%d\n", l.o.Now().UTC().Format(time.RFC3339Nano), n)
		if err := l.write(text); err != nil {
			l.lost.Add(n)
			return
		}
		if l.o.Lost != nil {
			l.o.Lost(int(n))
		}
	}
}

// drop counts records that were not written; the next one that is tells of them.
func (l *Log) drop(n int) { l.lost.Add(int64(n)) }

var newline = []byte{'\n'}

// write adds records, each the members of one and a newline. All of them or none is part of the chain. l.mu is held.
func (l *Log) write(records []byte) error {
	if l.file == nil {
		if err := l.open(); err != nil {
			return err
		}
	}
	if l.o.MaxSize > 0 && l.size >= l.o.MaxSize {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	seq, head := l.seq, l.head
	l.line = l.line[:0]
	for len(records) > 0 {
		end := bytes.IndexByte(records, '\n')
		l.line, head = appendLine(l.line, seq+1, records[:end], head)
		seq++
		records = records[end+1:]
	}
	_, err := l.file.WriteAt(l.line, l.size)
	if err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		// What was written of it is cut off: the next record goes in its place.
		_ = l.file.Truncate(l.size)
		l.failure = fmt.Errorf("cannot write %s: %w", l.path, err)
		return l.failure
	}
	l.failure = nil
	l.seq, l.head, l.size = seq, head, l.size+int64(len(l.line))
	if cap(l.line) > 4<<20 {
		l.line = nil
	}
	return nil
}

// appendLine appends a record as it stands in the file. Its hash is that of the line up to the comma before "hash".
func appendLine(dst []byte, seq uint64, members []byte, prev [sha256.Size]byte) (line []byte, hash [sha256.Size]byte) {
	from := len(dst)
	dst = strconv.AppendUint(append(dst, `{"seq":`...), seq, 10)
	if len(members) > 0 {
		dst = append(append(dst, ','), members...)
	}
	dst = hex.AppendEncode(append(dst, `,"prev":"`...), prev[:])
	dst = append(dst, '"')
	hash = sha256.Sum256(dst[from:])
	dst = hex.AppendEncode(append(dst, `,"hash":"`...), hash[:])
	return append(dst, "\"}\n"...), hash
}

// open opens the file and finds the end of the chain. l.mu is held.
func (l *Log) open() error {
	if err := os.MkdirAll(filepath.Dir(l.path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := durable.Lock(f); err != nil {
		_ = f.Close()
		if errors.Is(err, durable.ErrLocked) {
			return ErrElsewhere
		}
		return err
	}
	end, torn, err := lastRecord(f)
	if err == nil && end.seq == 0 {
		end, err = l.aside()
	}
	if err != nil {
		_ = f.Close()
		return err
	}
	info, err := f.Stat()
	if err == nil && torn > 0 {
		err = f.Truncate(info.Size() - torn)
	}
	if err != nil {
		_ = f.Close()
		return err
	}
	l.file, l.size, l.seq, l.head, l.failure = f, info.Size()-torn, end.seq, end.hash, nil
	if torn > 0 {
		l.o.Log.Warn("the log ends within a record, as after a crash; what there is of it was cut off", "file", l.path, "bytes", torn)
		return l.write(fmt.Appendf(nil, "\"time\":%q,\"event\":\"cut\",\"bytes\":%d\n", l.o.Now().UTC().Format(time.RFC3339Nano), torn))
	}
	if l.seq > 0 && l.size == 0 {
		return l.write(l.event("opened"))
	}
	return nil
}

// event is a record of the log's own.
func (l *Log) event(name string) []byte {
	return fmt.Appendf(nil, "\"time\":%q,\"event\":%q\n", l.o.Now().UTC().Format(time.RFC3339Nano), name)
}

// begin makes the next file of the chain, whose end is known. l.mu is held.
func (l *Log) begin() error {
	f, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Size() > 0 {
		err = fmt.Errorf("%s has been put in the place of the log and is not empty; remove it", l.path)
	}
	if err == nil {
		err = durable.Lock(f)
	}
	if err != nil {
		_ = f.Close()
		return err
	}
	l.file, l.size = f, 0
	return l.write(l.event("opened"))
}

// rotate gives the file the number of its first record and begins the next one. l.mu is held.
func (l *Log) rotate() error {
	first, err := firstRecord(l.file)
	if err != nil {
		return err
	}
	if err := os.Rename(l.path, fmt.Sprintf("%s.%020d", l.path, first)); err != nil {
		return err
	}
	_ = l.file.Close()
	l.file = nil
	if err := l.begin(); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(l.path))
}

// aside is the end of the chain in the last file beside the log.
func (l *Log) aside() (record, error) {
	files, err := Files(l.path)
	if err != nil || len(files) < 2 {
		return record{}, err
	}
	f, err := os.Open(files[len(files)-2])
	if err != nil {
		return record{}, err
	}
	defer f.Close()
	end, torn, err := lastRecord(f)
	if err == nil && torn > 0 {
		err = fmt.Errorf("%s ends within a record", f.Name())
	}
	return end, err
}

// Members encodes a value that encodes as a JSON object for Append and Commit.
func Members(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(text) < 2 || text[0] != '{' {
		return nil, errors.New("is no object")
	}
	return text[1 : len(text)-1], nil
}
