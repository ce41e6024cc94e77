package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// busy is how much processor time has passed on the machine in work of any
// process, and of this one with the gateways that it ran.
type busy struct {
	at       time.Time
	all, own time.Duration
}

const (
	ticksPerSecond = 100 // of /proc/stat, on every platform that Go runs on
	disturbed      = 0.2 // of the processors, from which on a missed threshold says nothing
)

func howBusy() (b busy, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return b, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	// user nice system idle iowait irq softirq steal; guests are in user already.
	fields := strings.Fields(first)
	if len(fields) < 9 || fields[0] != "cpu" {
		return b, fmt.Errorf("/proc/stat begins with %q", first)
	}
	for i, f := range fields[1:9] {
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return b, fmt.Errorf("/proc/stat: %w", err)
		}
		if i != 3 && i != 4 {
			b.all += time.Duration(ticks) * time.Second / ticksPerSecond
		}
	}
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			return b, err
		}
		b.own += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	b.at = time.Now()
	return b, nil
}

// others is the share of the machine's processors that went to other processes since then.
func (b busy) others(since busy) share {
	available := b.at.Sub(since.at) * time.Duration(runtime.NumCPU())
	foreign := (b.all - since.all) - (b.own - since.own)
	return share(max(foreign, 0)) / share(max(available, 1))
}
