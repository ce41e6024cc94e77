// Package resident keeps small what the process holds of memory once it has started.
package resident

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Settle gives back what only starting needed: free heap, and the pages of the binary that
// are mapped. Code and constants come back from the page cache, without reading a disk, as they
// are used: of tens of MiB that initialisation and read-ahead have touched, serving needs a part.
// So it is with what the first connections and collections of garbage touch. The pages are given
// back again after a moment, and every while, until ctx is done: those that are needed cost some
// hundred page faults, and the others stay away.
//
// It leaves alone the pages of a position independent binary, whose constants the loader has written to.
func Settle(ctx context.Context) error {
	debug.FreeOSMemory()
	pages, err := constants()
	if err == nil {
		err = giveBack(pages)
	}
	if err != nil || len(pages) == 0 {
		return err
	}
	go func() {
		for wait := moment; ; wait = while {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
				_ = giveBack(pages) // as it went before
			}
		}
	}()
	return nil
}

const (
	moment = 2 * time.Second
	while  = 10 * time.Second
)

// span is a range of addresses.
type span struct{ from, to uintptr }

func giveBack(pages []span) error {
	for _, p := range pages {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, p.from, p.to-p.from, unix.MADV_DONTNEED); errno != 0 {
			return os.NewSyscallError("madvise", errno)
		}
	}
	return nil
}

// constants returns where the binary is mapped that nobody writes to.
func constants() (pages []span, err error) {
	fixed, err := loadedInPlace("/proc/self/exe")
	if err != nil || !fixed {
		return nil, err
	}
	name, err := filepath.EvalSymlinks("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		if p, ok := constant(lines.Text(), name); ok {
			pages = append(pages, p)
		}
	}
	return pages, lines.Err()
}

// loadedInPlace tells an executable whose pages are those of its file.
func loadedInPlace(name string) (bool, error) {
	f, err := os.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	const fileType, executable = 16, 2 // e_type and ET_EXEC of the ELF header
	head := make([]byte, fileType+2)
	if _, err := io.ReadFull(f, head); err != nil {
		return false, err
	}
	return string(head[:4]) == "\x7fELF" && binary.NativeEndian.Uint16(head[fileType:]) == executable, nil
}

// constant reads a line of /proc/self/maps: the range of a mapping of the file that nobody can write to.
func constant(line, name string) (span, bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || strings.Join(fields[5:], " ") != name || strings.Contains(fields[1], "w") {
		return span{}, false
	}
	low, high, ok := strings.Cut(fields[0], "-")
	a, err1 := strconv.ParseUint(low, 16, 64)
	b, err2 := strconv.ParseUint(high, 16, 64)
	return span{uintptr(a), uintptr(b)}, ok && err1 == nil && err2 == nil && a < b
}
