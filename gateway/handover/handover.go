// Package handover passes listening sockets on: from a process to the one that takes its
// place, and from systemd to the first. A socket that is passed never closes, so that no
// connection is refused or reset: what waits in its queue is accepted by whoever is left.
package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// variable tells a successor what it was given: the sockets, whose descriptors begin at
// firstFile in the same order. Two pipes follow them: ready, that it writes to
// once it serves, and alive, that ends with its predecessor.
const (
	variable  = "_SLUICE_HANDOVER"
	firstFile = 3
)

// Sockets are those a process was started with. A nil *Sockets has none.
type Sockets struct {
	mu      sync.Mutex
	left    map[string]inherited // by key or, of systemd's, by name
	systemd bool
	ready   *os.File
	gone    chan struct{} // closed when the predecessor has ended; nil without one
}

type inherited struct {
	*os.File
	shared bool
}

// Inherit takes what the process was given. Call it once, before anything is opened.
func Inherit() (*Sockets, error) {
	s := &Sockets{left: make(map[string]inherited)}
	given, ok := os.LookupEnv(variable)
	if !ok {
		for i, f := range activation.Files(true) {
			name := f.Name()
			if _, taken := s.left[name]; taken || name == "" {
				name = fmt.Sprintf("%s (%d)", name, i)
			}
			s.left[name], s.systemd = inherited{f, true}, true
		}
		return s, nil
	}
	_ = os.Unsetenv(variable)
	var sockets []Socket
	if err := json.Unmarshal([]byte(given), &sockets); err != nil {
		return nil, fmt.Errorf("the variable %s is for processes that a gateway starts: %w", variable, err)
	}
	next := firstFile
	take := func(name string) *os.File {
		unix.CloseOnExec(next)
		next++
		return os.NewFile(uintptr(next-1), name)
	}
	for _, socket := range sockets {
		s.left[socket.Key] = inherited{take(socket.Key), socket.Shared}
	}
	s.ready = take("ready")
	alive := take("alive")
	s.gone = make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, alive)
		_ = alive.Close()
		close(s.gone)
	}()
	return s, nil
}

// Predecessor is closed once the process that started this one has ended. It is nil where
// there was none.
func (s *Sockets) Predecessor() <-chan struct{} {
	if s == nil {
		return nil
	}
	return s.gone
}

// Listener is the inherited socket for an address, host:port or the path of a Unix socket;
// nil when there is none. A predecessor's is known by its key, systemd's by the name that
// its unit gives it (FileDescriptorName=) or by its address. It is shared where systemd keeps
// it: then nothing may be done to the socket that would outlast this process.
func (s *Sockets) Listener(key, name, network, address string) (ln net.Listener, shared bool, err error) {
	if s == nil {
		return nil, false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.systemd {
		key = s.named(name, network, address)
	}
	f, ok := s.left[key]
	if !ok {
		return nil, false, nil
	}
	ln, err = net.FileListener(f.File) // of a copy of the descriptor
	if err != nil {
		return nil, false, fmt.Errorf("the inherited socket %s can not be listened on: %w", key, err)
	}
	if u, ok := ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(!f.shared)
	}
	delete(s.left, key)
	_ = f.Close()
	return ln, f.shared, nil
}

// named finds a socket of systemd's.
func (s *Sockets) named(name, network, address string) string {
	if _, ok := s.left[name]; ok {
		return name
	}
	for key, f := range s.left {
		ln, err := net.FileListener(f.File)
		if err != nil {
			continue
		}
		if u, ok := ln.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
		same := sameAddress(ln.Addr(), network, address)
		_ = ln.Close()
		if same {
			return key
		}
	}
	return ""
}

func sameAddress(at net.Addr, network, address string) bool {
	if at.Network() != network {
		return false
	}
	if network == "unix" {
		return at.String() == address
	}
	want, err := net.ResolveTCPAddr(network, address)
	have, ok := at.(*net.TCPAddr)
	if err != nil || !ok || want.Port != have.Port {
		return false
	}
	everywhere := func(ip net.IP) bool { return len(ip) == 0 || ip.IsUnspecified() }
	return want.IP.Equal(have.IP) || everywhere(want.IP) && everywhere(have.IP)
}

// Ready says that this process serves: its predecessor stops accepting. Sockets that
// nobody took are closed; their names are returned.
func (s *Sockets) Ready() (unused []string) {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, f := range s.left {
		unused = append(unused, key)
		_ = f.Close()
	}
	clear(s.left)
	if s.ready != nil {
		_, _ = s.ready.Write([]byte{1})
		_ = s.ready.Close()
		s.ready = nil
	}
	return unused
}

// Socket is one to pass on.
type Socket struct {
	Key    string
	Shared bool         // with systemd
	Conn   syscall.Conn `json:"-"`
}

// program is what is started as a successor: the file that is now where this process's
// program was when it began.
var program, here, programErr = func() (string, string, error) {
	path, err := exec.LookPath(os.Args[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	dir, _ := os.Getwd()
	return path, dir, err
}()

// Start starts a successor with the same arguments and environment, gives it the sockets,
// and waits until it serves. On an error, also when ctx ends first, there is none, and all
// is as before. Keep life open as long as this process lives.
func Start(ctx context.Context, sockets []Socket) (pid int, life io.Closer, err error) {
	if programErr != nil {
		return 0, nil, fmt.Errorf("the program to start is not known: %w", programErr)
	}
	files := []uintptr{0, 1, 2}
	for _, s := range sockets {
		raw, err := s.Conn.SyscallConn()
		if err != nil {
			return 0, nil, fmt.Errorf("%s: %w", s.Key, err)
		}
		var fd int
		var dupErr error
		// os.File would make the socket a blocking one, for this process too.
		if err := raw.Control(func(of uintptr) { fd, dupErr = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) }); err != nil || dupErr != nil {
			return 0, nil, fmt.Errorf("%s: %w", s.Key, errors.Join(err, dupErr))
		}
		defer func() { _ = unix.Close(fd) }()
		files = append(files, uintptr(fd))
	}
	given, err := json.Marshal(sockets)
	if err != nil {
		return 0, nil, err
	}
	ready, sayReady, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	defer ready.Close()
	defer sayReady.Close()
	alive, mine, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	defer alive.Close()
	defer func() {
		if err != nil {
			_ = mine.Close()
		}
	}()
	files = append(files, sayReady.Fd(), alive.Fd())

	env := make([]string, 0, len(os.Environ())+1)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, variable+"=") {
			env = append(env, v)
		}
	}
	pid, _, err = syscall.StartProcess(program, os.Args, &syscall.ProcAttr{Dir: here, Env: append(env, variable+"="+string(given)), Files: files})
	if err != nil {
		return 0, nil, fmt.Errorf("cannot start %s: %w", program, err)
	}
	child, err := os.FindProcess(pid)
	if err != nil {
		return 0, nil, err
	}
	_ = sayReady.Close()
	serves := make(chan bool, 1)
	go func() {
		n, _ := ready.Read(make([]byte, 1))
		serves <- n == 1
	}()
	select {
	case <-ctx.Done():
		err = fmt.Errorf("%s (process %d) was not ready in time, and was ended", program, pid)
	case ok := <-serves:
		if ok {
			// It is this process's child; whoever ends it as a zombie does so with it.
			go func() { _, _ = child.Wait() }()
			return pid, mine, nil
		}
	}
	_ = child.Kill()
	state, waitErr := child.Wait()
	if err == nil {
		err = fmt.Errorf("%s (process %d) ended before it served: %v%s", program, pid, state, errorText(waitErr))
	}
	return 0, nil, err
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
}
