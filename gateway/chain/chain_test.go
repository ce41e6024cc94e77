package chain

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options() Options {
	return Options{Log: slog.New(slog.DiscardHandler), Now: time.Now}
}

func open(t *testing.T, path string, o Options) *Log {
	t.Helper()
	l, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func commit(t *testing.T, l *Log, n int) {
	t.Helper()
	for i := range n {
		if _, err := l.Commit([]byte(fmt.Sprintf(`"n":%d`, i))); err != nil {
			t.Fatal(err)
		}
	}
}

// whole verifies a log with what was put aside of it.
func whole(t *testing.T, path string) *Result {
	t.Helper()
	files, err := Files(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Verify("", files...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestChainOverRestarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "audit.log")
	l := open(t, path, options())
	commit(t, l, 3)
	if !l.Append([]byte(`"queued":true`)) {
		t.Error("not taken")
	}
	l.Close()
	l = open(t, path, options())
	commit(t, l, 2)
	seq, hash := l.Head()
	l.Close()
	if r := whole(t, path); r.Records != 6 || r.First != 1 || r.Last != 6 || seq != 6 || r.Hash != hash {
		t.Errorf("%+v, head %d %s", r, seq, hash)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
}

func TestVerifyFindsTheFirstBrokenLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path, options())
	commit(t, l, 10)
	_, head := l.Head()
	l.Close()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f := func(what string, line int, why string, change func(lines [][]byte) [][]byte) {
		t.Helper()
		lines := bytes.SplitAfter(bytes.Clone(good), []byte("\n"))
		if err := os.WriteFile(path, bytes.Join(change(lines[:10]), nil), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Verify("", path)
		var broken *BrokenError
		if !errors.As(err, &broken) || broken.Line != line || !strings.Contains(broken.Why, why) || !strings.HasPrefix(err.Error(), path+":") {
			t.Errorf("%s: %v, want line %d: %s", what, err, line, why)
		}
	}
	f("changed", 4, "was changed", func(l [][]byte) [][]byte {
		l[3] = bytes.Replace(l[3], []byte(`"n":3`), []byte(`"n":4`), 1)
		return l
	})
	f("changed with its hash", 5, "prev is not its hash", func(l [][]byte) [][]byte {
		last, err := parse(l[2][:len(l[2])-1])
		if err != nil {
			t.Fatal(err)
		}
		l[3], _ = appendLine(nil, 4, []byte(`"n":7`), last.hash)
		return l
	})
	f("removed", 6, "is record 7 behind record 5", func(l [][]byte) [][]byte { return append(l[:5], l[6:]...) })
	f("twice", 3, "is record 2 behind record 2", func(l [][]byte) [][]byte { return append(l[:2], l[1:]...) })
	f("exchanged", 1, "first record and yet", func(l [][]byte) [][]byte {
		last, _ := parse(l[8][:len(l[8])-1])
		line, _ := appendLine(nil, 1, nil, last.hash)
		return [][]byte{line}
	})
	f("torn", 10, "not whole", func(l [][]byte) [][]byte {
		l[9] = l[9][:30]
		return l
	})
	f("no record", 2, "is no record", func(l [][]byte) [][]byte {
		l[1] = []byte("hello\n")
		return l
	})
	// What was cut off at the end is whole by itself; a hash noted elsewhere tells.
	if err := os.WriteFile(path, bytes.Join(bytes.SplitAfter(good, []byte("\n"))[:9], nil), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify("", path); err != nil {
		t.Error(err)
	}
	if _, err := Verify(head, path); err == nil || !strings.Contains(err.Error(), "cut off before it") {
		t.Error(err)
	}
}

func TestCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path, options())
	commit(t, l, 2)
	l.Close()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"seq":3,"half`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	l = open(t, path, options())
	commit(t, l, 1)
	l.Close()
	if r := whole(t, path); r.Records != 4 { // one says what was cut off
		t.Errorf("%+v", r)
	}
	text, _ := os.ReadFile(path)
	if !strings.Contains(string(text), `"event":"cut","bytes":14`) {
		t.Errorf("%s", text)
	}
	// A last record that was changed is nothing to go on from.
	if err := os.WriteFile(path, bytes.ReplaceAll(text, []byte(`"n":0,"prev":"`), []byte(`"n":9,"prev":"`)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, options()); err == nil || !strings.Contains(err.Error(), "was changed") {
		t.Error(err)
	}
}

func TestRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.log")
	o := options()
	o.MaxSize = 1200
	l := open(t, path, o)
	commit(t, l, 30)
	// By hand, as logrotate does.
	if err := os.Rename(path, filepath.Join(dir, "yesterday")); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal("again:", err)
	}
	commit(t, l, 2)
	l.Close()
	files, err := Files(path)
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	all := append(files[:len(files)-1:len(files)-1], filepath.Join(dir, "yesterday"), path)
	r, err := Verify("", all...)
	if err != nil || r.First != 1 {
		t.Fatal(r, err)
	}
	if r, err := Verify("", path); err != nil || r.First == 1 || r.Records != 3 {
		t.Errorf("a file alone: %+v %v", r, err)
	}
	var broken *BrokenError
	if _, err := Verify("", files...); !errors.As(err, &broken) || broken.Line != 1 {
		t.Error("a missing file was not noticed:", err)
	}
	// The log was put aside while nobody wrote: the chain goes on from what lies beside it.
	if err := os.Rename(path, path+"."+fmt.Sprintf("%020d", r.Last)); err != nil {
		t.Fatal(err)
	}
	l = open(t, path, o)
	seq, _ := l.Head()
	l.Close()
	if seq != r.Last+1 {
		t.Error(seq, r.Last)
	}
}

// Records of many goroutines are all there; what finds no room is counted in the chain itself.
func TestAppend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	o := options()
	o.Buffer = 1 // the smallest
	lost := 0
	o.Lost = func(n int) { lost += n }
	l := open(t, path, o)
	member := []byte(`"text":"` + strings.Repeat("x", 900) + `"`)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				l.Append(member)
			}
		})
	}
	l.Append(make([]byte, maxRecord+1))
	wg.Wait()
	l.Close()
	r := whole(t, path)
	if lost == 0 || r.Lost != uint64(lost) || r.Records+r.Lost < 2001 || r.Records > 2000 {
		t.Errorf("%+v, lost %d", r, lost)
	}
}

func TestTwoProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	a := open(t, path, options())
	commit(t, a, 1)
	b := open(t, path, options())
	defer b.Close()
	if _, err := b.Commit([]byte(`"n":1`)); !errors.Is(err, ErrElsewhere) {
		t.Error(err)
	}
	if err := b.Ready(); !errors.Is(err, ErrElsewhere) {
		t.Error(err)
	}
	o := options()
	o.Exclusive = true
	if _, err := Open(path, o); !errors.Is(err, ErrElsewhere) {
		t.Error(err)
	}
	b.Append([]byte(`"waits":true`))
	a.Close()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if seq, _ := b.Head(); seq == 2 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("what waited is not written")
		}
	}
	if r := whole(t, path); r.Records != 2 {
		t.Errorf("%+v", r)
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "audit.log"), options())
	defer l.Close()
	member := []byte(`"n":1`)
	if n := testing.AllocsPerRun(1000, func() { l.Append(member) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A disk that was full for a moment keeps nothing from being written afterwards, although nobody writes while it is said to be.
func TestReadyAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path, options())
	commit(t, l, 1)
	reading, err := os.Open(path) // can not be written
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Close()
	l.mu.Lock()
	good := l.file
	l.file = reading
	l.mu.Unlock()
	if _, err := l.Commit([]byte(`"n":1`)); err == nil || l.Ready() == nil {
		t.Error("is written")
	}
	l.mu.Lock()
	l.file = good
	l.mu.Unlock()
	if err := l.Ready(); err != nil {
		t.Error(err)
	}
	commit(t, l, 1)
	l.Close()
	if r := whole(t, path); r.Records != 3 {
		t.Errorf("%+v", r)
	}
}
