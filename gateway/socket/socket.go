//go:build linux

// Package socket reads from and writes to sockets without telling the scheduler. A socket that does not block gives its
// answer in microseconds, in which Go's ordinary way makes the processor up for grabs twice, and keeps the runtime's
// monitor awake to look for those that are taken for stuck. Waiting is the ordinary way's: a goroutine that waits costs
// nothing, and deadlines and closing end its wait.
package socket

import (
	"errors"
	"io"
	"net"
	"syscall"
	"unsafe"
)

// Conn is a connection whose Read and Write are system calls and nothing else. One goroutine may read while another one
// writes; two must not do the same at a time.
type Conn struct {
	net.Conn
	raw syscall.RawConn

	// What the callbacks do and did; bound once, so that a call allocates nothing.
	readFn, writeFn, sendFn, laterFn func(fd uintptr) bool
	reading, writing                 transfer
	vector                           [2]syscall.Iovec
	buffers                          Buffers
}

// Buffers gives a buffer to read into, and takes one back that nothing was read into.
type Buffers interface {
	Take() []byte
	GiveBack()
}

// transfer is one direction's call.
type transfer struct {
	first []byte // still to be sent ahead of b, or ahead of reading
	b     []byte // to be filled, or still to be sent
	n     int    // bytes read or sent
	err   error
}

var errPartial = errors.New("partly sent")

// New returns nc with Read and Write of this package. A connection that is no socket is returned as it is.
func New(nc net.Conn) net.Conn {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nc
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nc
	}
	c := &Conn{Conn: nc, raw: raw}
	c.readFn, c.writeFn, c.sendFn = c.readOnce, c.writeOnce, c.sendOnce
	return c
}

// SyscallConn gives access to the descriptor.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

// CloseWrite ends the sending direction.
func (c *Conn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SetLinger sets what Close does with bytes that are not sent yet; see [net.TCPConn.SetLinger].
func (c *Conn) SetLinger(sec int) error {
	if h, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok {
		return h.SetLinger(sec)
	}
	return errors.ErrUnsupported
}

// Read reads what has come, waiting for the first byte.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.reading = transfer{b: p}
	return c.finish(c.raw.Read(c.readFn))
}

// finish returns what a read brought, and lets go of the buffer.
func (c *Conn) finish(err error) (int, error) {
	n := c.reading.n
	if err == nil {
		err = c.reading.err
	}
	c.reading = transfer{}
	switch {
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

func (c *Conn) readOnce(fd uintptr) bool {
	t := &c.reading
	n, errno := rawRead(fd, t.b)
	if errno == syscall.EAGAIN {
		return false
	}
	if t.n = n; errno != 0 {
		t.err = errno
	}
	return true
}

// ReadLater is Read into a buffer that is taken only while there may be something to read.
func (c *Conn) ReadLater(b Buffers) (int, error) {
	if c.laterFn == nil {
		c.laterFn = c.readWhenThere
	}
	c.buffers = b
	err := c.raw.Read(c.laterFn)
	c.buffers = nil
	return c.finish(err)
}

func (c *Conn) readWhenThere(fd uintptr) bool {
	c.reading = transfer{b: c.buffers.Take()}
	if c.readOnce(fd) {
		return true
	}
	c.reading = transfer{}
	c.buffers.GiveBack()
	return false
}

// ErrNotYet is what TryRead says where a read would have to wait.
var ErrNotYet = errors.New("nothing to read yet")

// Poll calls try until it reports true, and waits for something to read in between.
func (c *Conn) Poll(try func(fd uintptr) bool) error { return c.raw.Read(try) }

// TryRead reads what is there, for a function that Poll calls.
func TryRead(fd uintptr, p []byte) (int, error) {
	n, errno := rawRead(fd, p)
	switch {
	case errno == syscall.EAGAIN:
		return 0, ErrNotYet
	case errno != 0:
		return 0, errno
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// TryWrite sends what the socket takes of p, for a function that Poll calls.
func TryWrite(fd uintptr, p []byte) (int, error) {
	n, errno := rawWrite(fd, p)
	switch errno {
	case 0:
		return n, nil
	case syscall.EAGAIN:
		return 0, ErrNotYet
	}
	return 0, errno
}

// Quiet reports whether there is nothing to read from a socket, not even its end or an error.
func Quiet(fd uintptr) bool {
	var b [1]byte
	for {
		_, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b)), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
		if errno != syscall.EINTR {
			return errno == syscall.EAGAIN
		}
	}
}

// Write sends all of p, waiting for room.
func (c *Conn) Write(p []byte) (int, error) { return c.WriteBoth(nil, p) }

// WriteBoth sends first and then p, in one system call as long as there is room.
func (c *Conn) WriteBoth(first, p []byte) (int, error) {
	c.writing = transfer{first: first, b: p}
	err := c.raw.Write(c.writeFn)
	if err == nil {
		err = c.writing.err
	}
	n := c.writing.n
	c.writing = transfer{}
	return n, err
}

func (c *Conn) writeOnce(fd uintptr) bool {
	t := &c.writing
	for len(t.first)+len(t.b) > 0 {
		var n int
		var errno syscall.Errno
		switch {
		case len(t.first) == 0:
			n, errno = rawWrite(fd, t.b)
		case len(t.b) == 0:
			n, errno = rawWrite(fd, t.first)
		default:
			n, errno = c.writeVector(fd)
		}
		switch errno {
		case 0:
			t.n += n
			of := min(n, len(t.first))
			t.first, t.b = t.first[of:], t.b[n-of:]
		case syscall.EAGAIN:
			return false
		default:
			t.err = errno
			return true
		}
	}
	return true
}

func (c *Conn) writeVector(fd uintptr) (int, syscall.Errno) {
	t := &c.writing
	c.vector[0].Base, c.vector[1].Base = &t.first[0], &t.b[0]
	c.vector[0].SetLen(len(t.first))
	c.vector[1].SetLen(len(t.b))
	n, errno := raw(syscall.SYS_WRITEV, fd, unsafe.Pointer(&c.vector), len(c.vector))
	c.vector = [2]syscall.Iovec{}
	return n, errno
}

// SendThenRead sends out and reads the answer into p. The bytes go to the socket when the wait has been prepared, so that
// none can be missed and the read that would only say "not yet" is spared. That holds where the other side says nothing
// unasked: what lay there before is found only when more comes. Nothing may write meanwhile.
func (c *Conn) SendThenRead(out, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.reading = transfer{first: out, b: p}
	err := c.raw.Read(c.sendFn)
	if err == nil && c.reading.err == errPartial {
		// The socket took a part: the rest goes the ordinary way.
		rest := c.reading.first
		c.reading = transfer{}
		if _, err = c.Write(rest); err != nil {
			return 0, err
		}
		return c.Read(p)
	}
	return c.finish(err)
}

func (c *Conn) sendOnce(fd uintptr) bool {
	t := &c.reading
	if t.first == nil {
		return c.readOnce(fd)
	}
	switch n, errno := rawWrite(fd, t.first); {
	case errno == 0 && n == len(t.first):
		t.first = nil
		return false
	case errno == 0 || errno == syscall.EAGAIN:
		t.first, t.err = t.first[n:], errPartial
	default:
		t.err = errno
	}
	return true
}

func rawRead(fd uintptr, p []byte) (int, syscall.Errno) {
	return raw(syscall.SYS_READ, fd, unsafe.Pointer(unsafe.SliceData(p)), len(p))
}

func rawWrite(fd uintptr, p []byte) (int, syscall.Errno) {
	return raw(syscall.SYS_WRITE, fd, unsafe.Pointer(unsafe.SliceData(p)), len(p))
}

func raw(call, fd uintptr, p unsafe.Pointer, n int) (int, syscall.Errno) {
	for {
		done, _, errno := syscall.RawSyscall(call, fd, uintptr(p), uintptr(n))
		if errno == 0 {
			return int(done), 0
		}
		if errno != syscall.EINTR {
			return 0, errno
		}
	}
}
