//go:build linux

package program

import (
	"os"
	"slices"
	"testing"
	"time"
)

func TestBusy(t *testing.T) {
	const stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 400 500 6 7 8 0 0\ncpu1 100 0 0 0 0 0 0 0 0 0\ncpu10 5 0 0 0 0 0 0 0 0 0\nintr 1\n"
	f := func(want time.Duration, cores ...int) {
		t.Helper()
		if got := busyIn(stat, cores); got != want {
			t.Errorf("cores %v: %v, want %v", cores, got, want)
		}
	}
	f(270*time.Millisecond, 0)
	f(1270*time.Millisecond, 0, 1)
	f(50*time.Millisecond, 10)
	f(0, 2)
}

func TestOwnProcess(t *testing.T) {
	self := []int{os.Getpid()}
	before := CPUTime(self)
	if before <= 0 || CPUTime(self) < before || PSS(self) <= 0 {
		t.Errorf("processor time %v, PSS %d KiB", before, PSS(self))
	}
	if !slices.Contains(Tree(os.Getppid()), os.Getpid()) {
		t.Error("the process is not among its parent's")
	}
}
