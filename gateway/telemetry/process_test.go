package telemetry

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

// The metrics are there also where no file can be opened any more.
func TestProcessWithoutFiles(t *testing.T) {
	if lines := readProcess(); len(lines["process_open_fds"]) == 0 || len(lines["go_goroutines"]) == 0 {
		t.Errorf("%q", lines)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	lines := readProcess()
	var all bytes.Buffer
	_, err := NewRegistry(RegistryOptions{Process: true}).WriteTo(&all)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err != nil || len(lines["go_goroutines"]) == 0 || !bytes.Contains(all.Bytes(), []byte("\ngo_goroutines ")) {
		t.Errorf("%v\n%s", err, all.String())
	}
}

func TestProcessPanics(t *testing.T) {
	reached := false
	tryTo(func() {
		reached = true
		var nowhere *struct{ n int }
		nowhere.n++
	})
	if !reached {
		t.Error("it was not tried")
	}
}
