package resident

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// ofFiles is what of mapped files is resident, in KiB.
func ofFiles(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssFile:")
	size, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// touch reads a byte of each page.
func touch(pages []span) (sum int) {
	for _, p := range pages {
		for at := p.from; at < p.to; at += uintptr(os.Getpagesize()) {
			sum += int(*(*byte)(unsafe.Add(unsafe.Pointer(nil), at)))
		}
	}
	return sum
}

func TestSettle(t *testing.T) {
	pages, err := constants()
	if err != nil || len(pages) < 2 {
		t.Fatalf("the test's binary: %v, %v", pages, err)
	}
	size := 0
	for _, p := range pages {
		size += int(p.to-p.from) >> 10
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		shrinks := func(what string, f func()) {
			t.Helper()
			touch(pages)
			before := ofFiles(t)
			if before < size {
				t.Fatalf("%s: %d KiB of files are resident, of which the binary alone has %d", what, before, size)
			}
			f()
			if after := ofFiles(t); after > before-size/5 {
				t.Errorf("%s: %d KiB of files resident before, %d after", what, before, after)
			}
		}
		shrinks("at first", func() {
			if err := Settle(ctx); err != nil {
				t.Fatal(err)
			}
		})
		for _, when := range []time.Duration{moment, while, while} {
			shrinks("after "+when.String(), func() {
				time.Sleep(when)
				synctest.Wait()
			})
		}
	})
	// Code and constants are there again as they are used.
	if out, err := exec.Command("/proc/self/exe", "-test.run", "^$").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestConstant(t *testing.T) {
	f := func(line string, from, to uintptr, ok bool) {
		t.Helper()
		if p, found := constant(line, "/bin/a b"); p != (span{from, to}) || found != ok {
			t.Errorf("%s: %x, %v", line, p, found)
		}
	}
	f("00400000-01a3b000 r-xp 00000000 fe:00 1234      /bin/a b", 0x400000, 0x1a3b000, true)
	f("01a3b000-02000000 r--p 0163b000 fe:00 1234      /bin/a b", 0x1a3b000, 0x2000000, true)
	f("02000000-02100000 rw-p 01c00000 fe:00 1234      /bin/a b", 0, 0, false)
	f("02000000-02100000 r--p 01c00000 fe:00 1234      /bin/b", 0, 0, false)
	f("c000000000-c000400000 rw-p 00000000 00:00 0", 0, 0, false)
	f("zz-02100000 r--p 01c00000 fe:00 1234      /bin/a b", 0, 0x2100000, false)
	f("", 0, 0, false)
}
