package chain

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Result is what a chain that is whole amounts to.
type Result struct {
	Files       []string
	Records     uint64
	First, Last uint64 // numbers
	// Hash of the last record.
	Hash string
	// Lost is how many records the chain itself says are missing.
	Lost uint64

	want  string
	found bool
}

// BrokenError names the first line at which a chain is broken.
type BrokenError struct {
	File string
	Line int
	Why  string
}

func (e *BrokenError) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Why) }

// Files are the files of the log at path in the order of the chain: those that were put aside, by number, and the log itself
// where it is there.
func Files(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	type numbered struct {
		n    uint64
		path string
	}
	var aside []numbered
	here := false
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), filepath.Base(path))
		if !ok {
			continue
		}
		if rest == "" {
			here = true
			continue
		}
		if n, err := strconv.ParseUint(strings.TrimPrefix(rest, "."), 10, 64); err == nil && rest[0] == '.' {
			aside = append(aside, numbered{n, filepath.Join(filepath.Dir(path), e.Name())})
		}
	}
	slices.SortFunc(aside, func(a, b numbered) int {
		if a.n < b.n {
			return -1
		}
		return 1
	})
	var files []string
	for _, a := range aside {
		files = append(files, a.path)
	}
	if here {
		files = append(files, path)
	}
	return files, nil
}

// Verify checks files that follow each other. What came before the first is taken as that says, unless its first number is
// 1. A *BrokenError names the first line that is wrong. want is the hash of a record that has to be there, "" for none.
func Verify(want string, files ...string) (*Result, error) {
	r := &Result{Files: files, want: strings.ToLower(want), found: want == ""}
	var last record
	known := false
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		err = r.verify(f, file, &last, &known)
		_ = f.Close()
		if err != nil {
			return nil, err
		}
	}
	if !r.found {
		return nil, fmt.Errorf("there is no record with the hash %s: the log was cut off before it, or written anew", want)
	}
	r.Last, r.Hash = last.seq, hex.EncodeToString(last.hash[:])
	return r, nil
}

func (r *Result) verify(f io.Reader, file string, last *record, known *bool) error {
	in := bufio.NewReaderSize(f, 1<<16)
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(line) == 0 {
			return nil
		}
		broken := func(format string, a ...any) error { return &BrokenError{file, n, fmt.Sprintf(format, a...)} }
		if err != nil {
			return broken("the record is not whole, as after a crash; the gateway cuts it off when it opens the log again")
		}
		rec, err := parse(line[:len(line)-1])
		switch {
		case err != nil:
			return broken("%v", err)
		case *known && rec.seq != last.seq+1:
			return broken("is record %d behind record %d: what stood between them is missing, or in another order", rec.seq, last.seq)
		case *known && rec.prev != last.hash:
			return broken("does not follow the record before it: prev is not its hash")
		case !*known && rec.seq == 1 && rec.prev != [sha256.Size]byte{}:
			return broken("is the first record and yet names one before it")
		case !*known && rec.seq == 0:
			return broken("records are numbered from 1")
		}
		if !*known {
			r.First = rec.seq
		}
		*last, *known = rec, true
		r.Records++
		r.found = r.found || hex.EncodeToString(rec.hash[:]) == r.want
		r.Lost += rec.lost
	}
}

// record is what a line says of the chain.
type record struct {
	seq        uint64
	prev, hash [sha256.Size]byte
	lost       uint64
}

// hashedEnd begins the part of a line that its hash does not cover.
var hashedEnd = []byte(`,"hash":"`)

// parse reads a line without its newline and checks its own hash.
func parse(line []byte) (rec record, err error) {
	tail := len(hashedEnd) + 2*sha256.Size + len(`"}`)
	if len(line) < tail || !bytes.HasPrefix(line[len(line)-tail:], hashedEnd) || !bytes.HasSuffix(line, []byte(`"}`)) {
		return rec, errors.New("is no record: it does not end with its hash")
	}
	covered := line[:len(line)-tail]
	stated := line[len(line)-tail+len(hashedEnd) : len(line)-2]
	if _, err := hex.Decode(rec.hash[:], stated); err != nil {
		return rec, errors.New("its hash is not hexadecimal")
	}
	if sha256.Sum256(covered) != rec.hash {
		return rec, errors.New("was changed: its hash is not that of what it says")
	}
	var said struct {
		Seq     uint64 `json:"seq"`
		Prev    string `json:"prev"`
		Event   string `json:"event"`
		Records uint64 `json:"records"`
	}
	if err := json.Unmarshal(line, &said); err != nil {
		return rec, fmt.Errorf("is no JSON: %w", err)
	}
	rec.seq = said.Seq
	if said.Event == "lost" {
		rec.lost = said.Records
	}
	if n, err := hex.Decode(rec.prev[:], []byte(said.Prev)); err != nil || n != sha256.Size {
		return rec, errors.New("prev is no hash")
	}
	return rec, nil
}

// lastRecord reads the last whole record of a file, the zero one of an empty file. torn is how many bytes behind it are the
// beginning of another.
func lastRecord(f *os.File) (rec record, torn int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return rec, 0, err
	}
	// Twice the longest line holds the last whole one.
	from := max(0, info.Size()-4*maxRecord)
	tail := make([]byte, info.Size()-from)
	if _, err := f.ReadAt(tail, from); err != nil && !errors.Is(err, io.EOF) {
		return rec, 0, err
	}
	end := bytes.LastIndexByte(tail, '\n')
	if end < 0 {
		return rec, int64(len(tail)), nil
	}
	torn = int64(len(tail) - end - 1)
	line := tail[bytes.LastIndexByte(tail[:end], '\n')+1 : end]
	rec, err = parse(line)
	if err != nil {
		return rec, 0, fmt.Errorf("the last record of %s %w; put the file aside to begin a new log", f.Name(), err)
	}
	return rec, torn, nil
}

// firstRecord returns the number of the first record of a file.
func firstRecord(f *os.File) (uint64, error) {
	head := make([]byte, 2*maxRecord)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	line, _, found := bytes.Cut(head[:n], []byte{'\n'})
	if !found {
		return 0, fmt.Errorf("%s has no record", f.Name())
	}
	rec, err := parse(line)
	return rec.seq, err
}
