package quota

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

const lasting = "{requests: 5, per: month, durable: true, by: 'header:X-Org'}"

// process is a gateway that keeps its quotas in dir, until end is called.
func process(t *testing.T, dir string) (w *policytest.World, h policy.Hooks, end func()) {
	t.Helper()
	w = policytest.New(t, "state: {dir: "+dir+"}")
	h = w.MustBuild(t, Definition, lasting)
	return w, h, w.Leases.Close
}

// left is what an org has left after a request.
func left(t *testing.T, w *policytest.World, h policy.Hooks, org, want string) {
	t.Helper()
	if got := send(t, h, w.Exchange("/", "X-Org: "+org)); !strings.HasPrefix(got.standing, `"month";r=`+want+";") {
		t.Errorf("%s: %+v, want %s left", org, got, want)
	}
}

func TestSurvivesARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "for it")
	w, h, end := process(t, dir)
	left(t, w, h, "a", "4")
	left(t, w, h, "a", "3")
	left(t, w, h, "b", "4")
	end()
	w, h, end = process(t, dir)
	left(t, w, h, "a", "2")
	left(t, w, h, "b", "3")
	left(t, w, h, "c", "4")
	if got := inspect(w, policy.LimitQuery{Most: 10, Prefix: "b"}); !strings.Contains(got, "=2+3/5") {
		t.Error(got)
	}
	end()
	if info, err := os.Stat(filepath.Join(dir, fileName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	// In the next month nothing is left of it, neither in memory nor in the file.
	w = policytest.New(t, "state: {dir: "+dir+"}")
	w.Advance(31 * 24 * time.Hour)
	h = w.MustBuild(t, Definition, lasting)
	left(t, w, h, "a", "4")
	w.Leases.Close()
	if data, err := os.ReadFile(filepath.Join(dir, fileName)); err != nil || bytes.Contains(data, []byte("v:b")) {
		t.Errorf("%v: %q", err, data)
	}
}

// A process that is killed loses no more than a second: what it had written by then is there although it never closed the file.
func TestSurvivesBeingKilled(t *testing.T) {
	dir := t.TempDir()
	w, h, end := process(t, dir)
	left(t, w, h, "a", "4")
	left(t, w, h, "a", "3")
	written := func() []byte {
		data, err := os.ReadFile(filepath.Join(dir, fileName))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	deadline := time.Now().Add(time.Minute)
	for !bytes.Contains(written(), []byte("v:a")) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is written")
		}
		time.Sleep(10 * time.Millisecond)
	}
	image := t.TempDir()
	if err := os.WriteFile(filepath.Join(image, fileName), written(), 0o600); err != nil {
		t.Fatal(err)
	}
	end()
	w, h, end = process(t, image)
	left(t, w, h, "a", "2")
	end()
}

// While another process has the folder, as the old binary during an upgrade, the new one counts in memory, and then adds both.
func TestTakesOverFromAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	oldW, oldH, oldEnd := process(t, dir)
	left(t, oldW, oldH, "a", "4")
	w, h, end := process(t, dir)
	if !strings.Contains(w.Logged(), "another process keeps its quotas") {
		t.Errorf("not said: %q", w.Logged())
	}
	left(t, w, h, "a", "4")
	left(t, oldW, oldH, "a", "3")
	oldEnd()
	deadline := time.Now().Add(time.Minute)
	for !strings.Contains(inspect(w, policy.LimitQuery{Most: 10}), "=3+2/5") {
		if time.Now().After(deadline) {
			t.Fatal(inspect(w, policy.LimitQuery{Most: 10}))
		}
		time.Sleep(10 * time.Millisecond)
	}
	end()
	w, h, end = process(t, dir)
	left(t, w, h, "a", "1")
	end()
}

// A reload that turns durability off and on again counts nothing twice.
func TestDurableOffAndOn(t *testing.T) {
	w, h, _ := process(t, t.TempDir())
	left(t, w, h, "a", "4")
	release := w.Reload()
	h = w.MustBuild(t, Definition, strings.Replace(lasting, "true", "false", 1))
	release()
	left(t, w, h, "a", "3")
	release = w.Reload()
	h = w.MustBuild(t, Definition, lasting)
	release()
	left(t, w, h, "a", "2")
	w.Leases.Close()
}

// What another process has counted while durability was off here is not overwritten, and what both know counts once.
func TestDurableElsewhereMeanwhile(t *testing.T) {
	dir := t.TempDir()
	w, h, _ := process(t, dir)
	left(t, w, h, "a", "4")
	left(t, w, h, "b", "4")
	release := w.Reload()
	h = w.MustBuild(t, Definition, strings.Replace(lasting, "true", "false", 1))
	release()
	other, oh, otherEnd := process(t, dir)
	left(t, other, oh, "a", "3")
	left(t, other, oh, "a", "2")
	left(t, other, oh, "c", "4")
	otherEnd()
	left(t, w, h, "a", "3") // two of five here, three there, one of which is the same
	release = w.Reload()
	h = w.MustBuild(t, Definition, lasting)
	release()
	left(t, w, h, "a", "0")
	left(t, w, h, "b", "3")
	left(t, w, h, "c", "3")
	w.Leases.Close()
	w, h, end := process(t, dir)
	left(t, w, h, "b", "2")
	left(t, w, h, "c", "2")
	if got := send(t, h, w.Exchange("/", "X-Org: a")); got.verdict != "429" {
		t.Errorf("%+v", got)
	}
	end()
}

// Whatever is in the file, the gateway serves, what can be read of it counts, and the rest is said.
func TestBrokenFile(t *testing.T) {
	dir := t.TempDir()
	w, h, end := process(t, dir)
	for _, org := range []string{"a", "b", "c", "d"} {
		left(t, w, h, org, "4")
	}
	end()
	path := filepath.Join(dir, fileName)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f := func(what string, data []byte, said string, lost int) {
		t.Helper()
		_ = os.Remove(path + ".damaged")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		w, h, end := process(t, dir)
		defer end()
		anew := 0
		for _, org := range []string{"a", "b", "c", "d"} {
			switch got := send(t, h, w.Exchange("/", "X-Org: "+org)); {
			case strings.HasPrefix(got.standing, `"month";r=4;`):
				anew++
			case !strings.HasPrefix(got.standing, `"month";r=3;`):
				t.Errorf("%s: %s: %+v", what, org, got)
			}
		}
		if anew != lost {
			t.Errorf("%s: %d begin anew, want %d", what, anew, lost)
		}
		if log := w.Logged(); !strings.Contains(log, said) || said == "" && log != "" {
			t.Errorf("%s: %q, want %q", what, log, said)
		}
		kept, err := os.ReadFile(path + ".damaged")
		if strings.Contains(said, "damaged") != (err == nil) || err == nil && !bytes.Equal(kept, data) {
			t.Errorf("%s: kept %q, %v", what, kept, err)
		}
	}
	changed := func(at int) []byte {
		data := bytes.Clone(good)
		data[at] ^= 0x40
		return data
	}
	record := (len(good) - len(magic)) / 4
	f("whole", good, "", 0)
	f("torn", good[:len(good)-3], "ends within a record", 1)
	f("torn in the head", good[:len(good)-record+1], "ends within a record", 1)
	f("empty", nil, "", 4)
	f("a flipped bit", changed(len(magic)+record+20), "damaged", 1)
	f("a wrong length", changed(len(magic)+lengthFrom+1), "damaged", 1)
	f("something else", []byte(strings.Repeat("who knows what this is? ", 1000)), "damaged", 4)
	f("no name", good[len(magic):], "damaged", 0)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	w, h, end = process(t, dir)
	left(t, w, h, "a", "4")
	if !strings.Contains(w.Logged(), "can not be read") {
		t.Error(w.Logged())
	}
	end()
}

func TestFolderThatCanNotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w := policytest.New(t, "state: {dir: "+file+"/state}")
	w.Fails(t, Definition, lasting, "state.dir: durable quotas can not be kept here")
}

// The file does not grow with the number of requests.
func TestFileIsWrittenAnew(t *testing.T) {
	dir := t.TempDir()
	w, h, end := process(t, dir)
	var j *Journal
	w.Living.Range(func(_ string, v any, _ int) bool { j, _ = v.(*Journal); return j == nil })
	send(t, h, w.Exchange("/", "X-Org: a"))
	close(j.stop)
	j.done.Wait()
	j.stop = make(chan struct{})
	s := j.state
	for range 100_000 {
		for i := range s.shards {
			sh := &s.shards[i]
			sh.mu.Lock()
			for _, c := range sh.counts {
				sh.note(c)
			}
			sh.mu.Unlock()
		}
		if j.size > 2*j.base+slack {
			break
		}
		if owned, err := j.acquire(); !owned || err != nil {
			t.Fatal(owned, err)
		}
		if j.file == nil {
			if err := j.rewrite(); err != nil {
				t.Fatal(err)
			}
		}
		j.buf = s.appendChanged(j.buf[:0])
		n, err := j.file.Write(j.buf)
		if err != nil {
			t.Fatal(err)
		}
		j.size += int64(n)
	}
	if !j.write(false) || j.size > 1000 {
		t.Errorf("%d bytes for one count", j.size)
	}
	j.release()
	j.done.Go(func() { <-j.stop })
	end()
}
