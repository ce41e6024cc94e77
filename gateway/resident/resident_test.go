package resident

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
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

func TestSettle(t *testing.T) {
	if fixed, err := loadedInPlace("/proc/self/exe"); err != nil || !fixed {
		t.Fatalf("the test's binary: %v, %v", fixed, err)
	}
	before := ofFiles(t)
	if err := Settle(); err != nil {
		t.Fatal(err)
	}
	if after := ofFiles(t); after >= before {
		t.Errorf("%d KiB of files resident before, %d after", before, after)
	}
	// Code and constants are there again as they are used.
	if out, err := exec.Command("/proc/self/exe", "-test.run", "^$").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestConstant(t *testing.T) {
	f := func(line string, from, to uintptr, ok bool) {
		t.Helper()
		if a, b, found := constant(line, "/bin/a b"); a != from || b != to || found != ok {
			t.Errorf("%s: %x-%x, %v", line, a, b, found)
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
