//go:build linux

package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/config"
)

func TestCachegrind(t *testing.T) {
	const text = `desc: I1 cache:         32768 B, 64 B, 8-way associative
cmd: sluice run
events: Ir
fl=???
fn=runtime.findRunnable
0 70
fn=runtime.futex.abi0
0 7
fn=sluice/gateway.(*Gateway).serve
0 1000
12 500
fn=runtime.memmove
0 30
summary: 1607
`
	waits := map[string]bool{"runtime.findRunnable": true, "runtime.futex": true}
	got, err := readCachegrind(strings.NewReader(text), waits)
	if want := (count{requests: 1530, scheduler: 77}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	simulated := "events: Ir I1mr ILmr Dr D1mr DLmr Dw D1mw DLmw\nfn=a\n0 100 9 1 50 8 2 40 7 3\n12 10 1\nsummary: 110 10 1 50 8 2 40 7 3\n"
	got, err = readCachegrind(strings.NewReader(simulated), nil)
	if want := (count{requests: 110, misses: misses{code: 10, data: 15, far: 6}}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if _, err := readCachegrind(strings.NewReader("events: Ir\n"), nil); err == nil {
		t.Error("a file without counts is read")
	}
	if _, err := readCachegrind(strings.NewReader("events: Ir\nfn=a\n1 x\n"), nil); err == nil {
		t.Error("a count that is no number is read")
	}
}

func TestPerf(t *testing.T) {
	f := func(text string, want count, good bool) {
		t.Helper()
		out := filepath.Join(t.TempDir(), "out")
		if err := os.WriteFile(out, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := (perf{}).read(out, ""); got != want || (err == nil) != good {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	f("# started on Fri\n\n123456,,instructions:u,3401,100.00,,\n", count{requests: 123456}, true)
	f("<not supported>,,instructions:u,0,100.00,,\n", count{}, false)
	f("<not counted>,,instructions:u,0,0.00,,\n", count{}, false)
	f("", count{}, false)
}

func TestScheduler(t *testing.T) {
	f := func(file string, want bool) {
		t.Helper()
		if got := isScheduler(file); got != want {
			t.Errorf("%s: %v", file, got)
		}
	}
	f("/usr/local/go/src/runtime/proc.go", true)
	f("/usr/local/go/src/runtime/lock_spinbit.go", true)
	f("/usr/local/go/src/runtime/sys_linux_amd64.s", true)
	f("runtime/netpoll_epoll.go", true)
	f("/usr/local/go/src/internal/runtime/syscall/linux/syscall_linux.go", true)
	f("/usr/local/go/src/runtime/malloc.go", false)
	f("/usr/local/go/src/runtime/memmove_amd64.s", false)
	f("/usr/local/go/src/time/time.go", false)
	f("/src/sluice/gateway/proc.go", false)
}

// The functions of this program's scheduler are known, by the names that
// valgrind gives them.
func TestSchedulerOfThisProgram(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	got, err := schedulerOf(self)
	if err != nil || !got["runtime.findRunnable"] || !got["runtime.futex"] || !got["runtime.netpoll"] || got["runtime.mallocgc"] {
		t.Errorf("%d functions, %v", len(got), err)
	}
}

func TestGate(t *testing.T) {
	r := &runner{
		options: options{requests: 100, limit: 5}, works: []*work{{name: "a"}, {name: "b"}}, builds: []binary{{name: "old"}, {name: "now"}},
		least: map[string]map[string]count{
			"old": {idle(false): {requests: 1000}, "a": {requests: 11000}, "b": {requests: 21000, scheduler: 300}},
			"now": {idle(false): {requests: 2000}, "a": {requests: 12400}, "b": {requests: 23200, scheduler: 500}},
		},
	}
	if got := r.above(); !slices.Equal(got, []string{"b"}) || r.settled() {
		t.Errorf("%v", got)
	}
	for limit, want := range map[float64]bool{10: false, 13: true} {
		if r.limit = limit; r.settled() != want {
			t.Errorf("with a limit of %g: settled is %v", limit, !want)
		}
	}
	r.limit = 5
	var b strings.Builder
	r.write(&b)
	for _, want := range []string{"a                   100          104    +4.00%", "b                   200          212    +6.00%", "ABOVE 5%"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("missing %q in\n%s", want, b.String())
		}
	}
}

func TestChoose(t *testing.T) {
	if works, err := choose("cached,refused"); err != nil || len(works) != 2 || works[0].name != "cached" {
		t.Errorf("%v, %v", works, err)
	}
	if _, err := choose("nothing"); err == nil {
		t.Error("an unknown work is chosen")
	}
	if works, err := choose(""); err != nil || len(works) < 5 {
		t.Errorf("%d works, %v", len(works), err)
	}
}

func TestConfigurationIsValid(t *testing.T) {
	text := configuration("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "/tmp/access.log")
	if _, err := config.Parse("sluice.yaml", []byte(text), config.Options{}); err != nil {
		t.Error(err)
	}
}

func TestNothingThatCounts(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if err := os.WriteFile(filepath.Join(os.Getenv("PATH"), "true"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := findCounter(t.Context(), t.TempDir(), false)
	if _, ok := errors.AsType[*uncounted](err); !ok || !strings.Contains(err.Error(), "perf: ") || !strings.Contains(err.Error(), "valgrind") {
		t.Errorf("%v", err)
	}
}

// The program under perf is another process than perf.
func TestPerfRunsTheProgram(t *testing.T) {
	bin := t.TempDir()
	script := "#!/bin/sh\n# stat -x , -e instructions:u -o OUT -- PROGRAM …\nout=$7\nshift 8\n\"$@\"\necho 77,,instructions:u,1,100.00,, > \"$out\"\n"
	if err := os.WriteFile(filepath.Join(bin, "perf"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	out := filepath.Join(t.TempDir(), "out")
	g, err := start(perf{}.command(out, "sleep", "600"))
	if err != nil {
		t.Fatal(err)
	}
	defer g.output.Close()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if _, err := (perf{}).process(g.cmd); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if err := g.end(perf{}); err != nil {
		t.Fatal(err)
	}
	if got, err := (perf{}).read(out, ""); err != nil || got.requests != 77 {
		t.Errorf("%+v, %v", got, err)
	}
}
