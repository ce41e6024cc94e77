// Package resident keeps small what the process holds of memory once it has started.
package resident

import (
	"bufio"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Settle gives back what only starting needed: free heap, and the pages of the binary that
// are mapped. Code and constants come back from the page cache, without reading a disk, as they
// are used: of tens of MiB that initialisation and read-ahead have touched, serving needs a part.
// It does nothing to a position independent binary, whose constants the loader has written to.
func Settle() error {
	debug.FreeOSMemory()
	fixed, err := loadedInPlace("/proc/self/exe")
	if err != nil || !fixed {
		return err
	}
	name, err := filepath.EvalSymlinks("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		from, to, ok := constant(lines.Text(), name)
		if !ok {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			return os.NewSyscallError("madvise", errno)
		}
	}
	return nil
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
func constant(line, name string) (from, to uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || strings.Join(fields[5:], " ") != name || strings.Contains(fields[1], "w") {
		return 0, 0, false
	}
	low, high, ok := strings.Cut(fields[0], "-")
	a, err1 := strconv.ParseUint(low, 16, 64)
	b, err2 := strconv.ParseUint(high, 16, 64)
	return uintptr(a), uintptr(b), ok && err1 == nil && err2 == nil && a < b
}
