//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"debug/gosym"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// count is a number of instructions in user space.
type count struct {
	// requests is what counts. Under valgrind the scheduler is not in it: how
	// often it looks for work and finds none is a matter of the clock, which goes
	// on while valgrind takes fifty times as long for everything.
	requests  float64
	scheduler float64
	misses    misses // of caches, where they are simulated; with the scheduler's
}

func (c count) minus(o count) count {
	return count{c.requests - o.requests, c.scheduler - o.scheduler, c.misses.minus(o.misses)}
}

func (c count) over(n float64) count {
	return count{c.requests / n, c.scheduler / n, c.misses.over(n)}
}

// misses are lines of 64 bytes that had to be fetched: of code and of data into the first level, of both from beyond the second.
type misses struct{ code, data, far float64 }

func (m misses) minus(o misses) misses {
	return misses{m.code - o.code, m.data - o.data, m.far - o.far}
}

func (m misses) over(n float64) misses { return misses{m.code / n, m.data / n, m.far / n} }

// counter runs a program and counts its instructions.
type counter interface {
	name() string
	// command runs a program; out is where the count goes when it ends.
	command(out string, program ...string) *exec.Cmd
	// process is the id of the program itself.
	process(started *exec.Cmd) (int, error)
	read(out, program string) (count, error)
}

// findCounter gives the first counter that counts here: a try decides, as
// virtual machines have the programs but not the processor's counters. Caches
// are simulated by valgrind alone.
func findCounter(ctx context.Context, dir string, caches bool) (counter, error) {
	var reasons []string
	program, err := exec.LookPath("true")
	if err != nil {
		return nil, err
	}
	counters := []counter{perf{}, valgrind{}}
	if caches {
		counters = []counter{valgrind{caches: true}}
	}
	for _, c := range counters {
		err := try(ctx, c, filepath.Join(dir, "try"), program)
		if err == nil {
			return c, nil
		}
		reasons = append(reasons, fmt.Sprintf("%s: %s", c.name(), err))
	}
	return nil, &uncounted{"no counter works here; " + strings.Join(reasons, "; ")}
}

// try counts a program that ends by itself.
func try(ctx context.Context, c counter, out string, program ...string) error {
	cmd := c.command(out, program...)
	said, err := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...).CombinedOutput()
	if err == nil {
		_, err = c.read(out, program[0])
	} else if len(said) > 0 {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(said))
	}
	return err
}

// perf reads the processor's counter.
type perf struct{}

func (perf) name() string { return "perf" }

func (perf) command(out string, program ...string) *exec.Cmd {
	return exec.Command("perf", slices.Concat([]string{"stat", "-x", ",", "-e", "instructions:u", "-o", out, "--"}, program)...)
}

func (perf) process(started *exec.Cmd) (int, error) {
	pid := started.Process.Pid
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, err
	}
	children := strings.Fields(string(b))
	if len(children) != 1 {
		return 0, fmt.Errorf("perf has %d children", len(children))
	}
	return strconv.Atoi(children[0])
}

func (perf) read(out, program string) (count, error) {
	b, err := os.ReadFile(out)
	if err != nil {
		return count{}, err
	}
	for line := range strings.Lines(string(b)) { // "123,,instructions:u,…"
		value, rest, _ := strings.Cut(line, ",")
		if !strings.Contains(rest, "instructions") {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return count{}, fmt.Errorf("it says %q", value)
		}
		return count{requests: n}, nil
	}
	return count{}, errors.New("it says nothing")
}

// valgrind executes the program in software. Its cachegrind also tells which
// function an instruction is of; which file that is of, the program itself tells:
// valgrind would read it from what debuggers need, at each start and for longer
// than a run takes.
type valgrind struct{ caches bool }

func (valgrind) name() string { return "valgrind, the scheduler apart" }

func (v valgrind) command(out string, program ...string) *exec.Cmd {
	simulated := []string{"--cache-sim=no"}
	if v.caches { // as large as those of a core of many a server
		simulated = []string{"--cache-sim=yes", "--I1=32768,8,64", "--D1=32768,8,64", "--LL=524288,8,64"}
	}
	return exec.Command("valgrind", slices.Concat([]string{"--tool=cachegrind", "--cachegrind-out-file=" + out}, simulated, program)...)
}

// process is valgrind's own: the program runs inside.
func (valgrind) process(started *exec.Cmd) (int, error) { return started.Process.Pid, nil }

func (valgrind) read(out, program string) (count, error) {
	f, err := os.Open(out)
	if err != nil {
		return count{}, err
	}
	defer f.Close()
	waits, err := schedulerOf(program)
	if err != nil {
		return count{}, err
	}
	return readCachegrind(f, waits)
}

// readCachegrind sums the counts of a file of cachegrind. Functions that waits
// has are the scheduler's.
func readCachegrind(in io.Reader, waits map[string]bool) (count, error) {
	var c count
	var events []string
	scheduler := false
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if function, ok := strings.CutPrefix(line, "fn="); ok {
			scheduler = waits[strings.TrimSuffix(function, ".abi0")] // assembly's symbols are called so
			continue
		}
		if names, ok := strings.CutPrefix(line, "events: "); ok {
			events = strings.Fields(names)
			continue
		}
		if line == "" || line[0] < '0' || line[0] > '9' {
			continue
		}
		for i, value := range strings.Fields(line)[1:] { // LINE COUNT…, without zeros at the end
			n, err := strconv.ParseFloat(value, 64)
			if err != nil || i >= len(events) {
				return count{}, fmt.Errorf("cachegrind wrote %q for %q", line, events)
			}
			switch event := events[i]; {
			case event == "Ir" && scheduler:
				c.scheduler += n
			case event == "Ir":
				c.requests += n
			case event == "I1mr":
				c.misses.code += n
			case strings.HasPrefix(event, "D1m"):
				c.misses.data += n
			case strings.Contains(event, "Lm"): // ILmr, DLmr, DLmw
				c.misses.far += n
			}
		}
	}
	if c == (count{}) {
		return count{}, errors.New("it counted nothing")
	}
	return c, lines.Err()
}

// schedulerOf gives the functions of a program's scheduler; a program that is
// not Go's has none.
func schedulerOf(program string) (map[string]bool, error) {
	f, err := elf.Open(program)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, table := f.Section(".text"), f.Section(".gopclntab")
	if text == nil || table == nil {
		return nil, nil
	}
	lines, err := table.Data()
	if err != nil {
		return nil, err
	}
	symbols, err := gosym.NewTable(nil, gosym.NewLineTable(lines, text.Addr))
	if err != nil {
		return nil, err
	}
	functions := make(map[string]bool)
	for i := range symbols.Funcs {
		function := &symbols.Funcs[i]
		if file, _, _ := symbols.PCToLine(function.Entry); isScheduler(file) {
			functions[function.Name] = true
		}
	}
	return functions, nil
}

// schedulers are the files of Go's runtime that find work, sleep and wake.
var schedulers = []string{
	"proc.go", "runtime2.go", "netpoll.go", "netpoll_epoll.go", "lock_*.go", "time.go", "time_*.s", "time_nofake.go", "timestub.go",
	"preempt.go", "sys_linux_*.s", "os_linux.go", "mgclimit.go", "rand.go", "select.go", "mprof.go", "runtime1.go", "signal_*.go", "sema.go",
	"linux/syscall_linux.go", "linux/asm_linux_*.s",
}

func isScheduler(file string) bool {
	if !strings.Contains(file, "/runtime/") && !strings.HasPrefix(file, "runtime/") {
		return false
	}
	for _, pattern := range schedulers {
		name := path.Base(file)
		if strings.Contains(pattern, "/") {
			name = path.Join(path.Base(path.Dir(file)), name)
		}
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
	}
	return false
}
