package keys

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"sluice/gateway/durable"
)

const (
	fileName = "keys"
	lockName = "keys.lock"
	// magic is the first line of the file.
	magic = "sluice keys 1\n"
	// slack is how many bytes beyond twice what is needed the file may have before it is written anew.
	slack = 1 << 20
)

// journal is the file. Each line after the first has the CRC-32C of an entry, a space, and the entry; later entries of a key
// stand in for earlier ones. One process writes at a time, the one that has the lock beside the file.
type journal struct {
	dir  string
	lock *os.File // nil while another process has it
	file *os.File // nil: opened when it is needed next
	size int64    // of what is good in it
	base int64    // size when it was written anew
	seen fs.FileInfo
}

// entry is one line.
type entry struct {
	Put  *Record          `json:"put,omitempty"`
	Used map[string]int64 `json:"used,omitempty"` // Unix seconds by id
}

func (j *journal) path() string { return filepath.Join(j.dir, fileName) }

// acquire makes this process the writer, if no other one is.
func (j *journal) acquire() (owned bool, err error) {
	if j.lock != nil {
		return true, nil
	}
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		return false, err
	}
	f, err := durable.Owner(j.dir, lockName)
	if err != nil || f == nil {
		return false, err
	}
	j.lock = f
	return true, nil
}

func (j *journal) release() {
	if j.file != nil {
		_ = j.file.Close()
		j.file = nil
	}
	if j.lock != nil {
		_ = j.lock.Close()
		j.lock = nil
	}
}

// changed tells whether the file is another one than was read.
func (j *journal) changed() bool {
	info, err := os.Stat(j.path())
	if err != nil || j.seen == nil {
		return err == nil
	}
	return !os.SameFile(info, j.seen) || info.Size() != j.seen.Size()
}

// read returns the records of the file in the order in which they came first.
func (j *journal) read() ([]Record, error) {
	if j.file != nil {
		_ = j.file.Close()
		j.file = nil
	}
	info, err := os.Stat(j.path())
	if errors.Is(err, os.ErrNotExist) {
		j.seen, j.size = nil, 0
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(j.path())
	if err != nil {
		return nil, err
	}
	records, size, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w. Put a good copy in its place: without the line a key that was revoked could be valid again", j.path(), err)
	}
	j.seen, j.size, j.base = info, int64(size), int64(size)
	return records, nil
}

// syncDir is durable.SyncDir, but for tests of a disk that fails.
var syncDir = durable.SyncDir

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// decode reads entries. size is how much of the file they are: behind them a line may have been begun that a crash has cut
// off, and that nobody was told of.
func decode(data []byte) (records []Record, size int, err error) {
	if len(data) < len(magic) && bytes.HasPrefix([]byte(magic), data) {
		return nil, 0, nil
	}
	if !bytes.HasPrefix(data, []byte(magic)) {
		return nil, 0, errors.New("line 1 does not say that this is a file of API keys")
	}
	places := make(map[string]int)
	size = len(magic)
	for line := 2; size < len(data); line++ {
		end := bytes.IndexByte(data[size:], '\n')
		if end < 0 {
			break
		}
		e, ok := decodeLine(data[size : size+end])
		if !ok {
			return nil, 0, fmt.Errorf("line %d is damaged", line)
		}
		size += end + 1
		if e.Put != nil {
			i, known := places[e.Put.ID]
			if !known {
				i = len(records)
				places[e.Put.ID] = i
				records = append(records, Record{})
			}
			records[i] = *e.Put
		}
		for id, at := range e.Used {
			if i, known := places[id]; known {
				records[i].LastUsed = time.Unix(at, 0).UTC()
			}
		}
	}
	return records, size, nil
}

func decodeLine(line []byte) (e entry, ok bool) {
	if len(line) < 9 || line[8] != ' ' {
		return e, false
	}
	sum, err := strconv.ParseUint(string(line[:8]), 16, 32)
	if err != nil || uint32(sum) != crc32.Checksum(line[9:], castagnoli) {
		return e, false
	}
	return e, json.Unmarshal(line[9:], &e) == nil
}

func appendEntry(dst []byte, e entry) []byte {
	text, err := json.Marshal(e)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return append(fmt.Appendf(dst, "%08x ", crc32.Checksum(text, castagnoli)), append(text, '\n')...)
}

// append writes changes, all or none of them, and returns when they are on the disk.
func (j *journal) append(changed ...*Key) error {
	var b []byte
	for _, k := range changed {
		r := k.View()
		b = appendEntry(b, entry{Put: &r})
	}
	return j.write(b, true)
}

// note writes when keys were used.
func (j *journal) note(uses map[string]int64) error {
	return j.write(appendEntry(nil, entry{Used: uses}), false)
}

func (j *journal) write(b []byte, sync bool) error {
	if j.lock == nil {
		return ErrElsewhere
	}
	if err := j.open(); err != nil {
		return err
	}
	n, err := j.file.WriteAt(b, j.size)
	if err == nil && sync {
		err = j.file.Sync()
	}
	if err != nil {
		// What was written of it is no line of the file; the next one goes in its place.
		_ = j.file.Truncate(j.size)
		_ = j.file.Close()
		j.file = nil
		return fmt.Errorf("cannot write %s: %w", j.path(), err)
	}
	j.size += int64(n)
	return nil
}

// open opens the file for writing behind what is good in it.
func (j *journal) open() error {
	if j.file != nil {
		return nil
	}
	if j.size == 0 {
		return j.rewrite(nil)
	}
	f, err := os.OpenFile(j.path(), os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := f.Truncate(j.size); err != nil {
		_ = f.Close()
		return err
	}
	j.file = f
	return nil
}

// grown tells whether the file is to be written anew.
func (j *journal) grown() bool { return j.size > 2*j.base+slack }

// rewrite puts a file of these keys in the place of the old one.
func (j *journal) rewrite(all []*Key) error {
	b := []byte(magic)
	for _, k := range all {
		r := k.View()
		b = appendEntry(b, entry{Put: &r})
	}
	next := j.path() + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(next, j.path())
	}
	if err != nil {
		_ = f.Close()
		return err
	}
	// From here on the old file has no name: what is written there would be lost, whether or not the folder can be synced.
	if j.file != nil {
		_ = j.file.Close()
	}
	j.file, j.size, j.base = f, int64(len(b)), int64(len(b))
	return syncDir(j.dir)
}
