//go:build linux

package program

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Tree is a process and all that descend from it.
func Tree(root int) []int {
	children := make(map[int][]int)
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			continue // it has ended
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
		// "PID (NAME) STATE PARENT …", and NAME may hold anything.
		f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if len(f) < 2 {
			continue
		}
		parent, _ := strconv.Atoi(string(f[1]))
		children[parent] = append(children[parent], pid)
	}
	all := []int{root}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// CPUTime is the user and system time of processes, all their threads included,
// those that have ended too. It asks the processes' clocks, which count
// nanoseconds; /proc/PID/stat has the same in hundredths of a second.
func CPUTime(pids []int) time.Duration {
	var sum time.Duration
	for _, pid := range pids {
		const cpuClockScheduler = 2
		var ts unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|cpuClockScheduler), &ts); err == nil {
			sum += time.Duration(ts.Nano())
		}
	}
	return sum
}

// PSS is the memory of processes in KiB; what several share counts in parts.
func PSS(pids []int) int64 {
	var sum int64
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue
		}
		_, after, _ := strings.Cut(string(b), "\nPss:")
		if f := strings.Fields(after); len(f) > 0 {
			n, _ := strconv.ParseInt(f[0], 10, 64)
			sum += n
		}
	}
	return sum
}

// Busy is the time that cores spent on anything, stolen time included.
func Busy(cores []int) time.Duration {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	return busyIn(string(b), cores)
}

// busyIn reads it from the text of /proc/stat, which counts hundredths of a second.
func busyIn(stat string, cores []int) time.Duration {
	var ticks int64
	for _, core := range cores {
		_, after, ok := strings.Cut(stat, "\ncpu"+strconv.Itoa(core)+" ")
		if !ok {
			continue
		}
		line, _, _ := strings.Cut(after, "\n")
		// user nice system idle iowait irq softirq steal guest guest_nice
		for i, f := range strings.Fields(line) {
			if i <= 2 || i >= 5 && i <= 7 {
				n, _ := strconv.ParseInt(f, 10, 64)
				ticks += n
			}
		}
	}
	return time.Duration(ticks) * (time.Second / 100)
}

// PinSelf pins every thread of this process, and so all that it starts.
func PinSelf(core int) error {
	var set unix.CPUSet
	set.Set(core)
	tasks, err := filepath.Glob("/proc/self/task/[0-9]*")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		tid, _ := strconv.Atoi(filepath.Base(t))
		if err := unix.SchedSetaffinity(tid, &set); err != nil && err != unix.ESRCH {
			return err
		}
	}
	return nil
}

// Pinned calls f, and what processes it starts are pinned to core from their
// beginning: a Go program counts its processors when it starts.
func Pinned(core int, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	set.Set(core)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("cannot pin to core %d: %w", core, err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &before) }()
	return f()
}

// RaiseFiles raises the bound on open files as far as it may, and returns it.
func RaiseFiles() int {
	l := unix.Rlimit{Cur: 65536, Max: 65536}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &l) == nil {
		return int(l.Cur)
	}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 1024
	}
	l.Cur = l.Max
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
	return int(min(l.Cur, 65536))
}

// Machine says what the figures were taken on.
func Machine() string {
	model := "unknown processor"
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == "model name" {
				model = strings.TrimSpace(v)
				break
			}
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%s, %d processors, Linux %s, %s", model, runtime.NumCPU(), strings.TrimSpace(string(kernel)), runtime.Version())
}
