//go:build linux

package load

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// Backend answers every request for a path with the same bytes, as cheaply as
// one goroutine can. Besides its pages it answers `/echo` with the body of the
// request, and `/hits` with the number of requests so far, itself not included.
type Backend struct {
	pages map[string][]byte
	fd    int
	poll  *poller
	conns map[int]*served
	hits  int64
	addr  string
}

const (
	maxRequest = 4 << 20
	listening  = -1 // the tag of the listening socket
)

// NewBackend listens on a free port of 127.0.0.1. Pages are raw answers by
// path; one whose path ends with a slash is for everything directly below.
func NewBackend(pages map[string][]byte) (*Backend, error) {
	b := &Backend{pages: pages, conns: make(map[int]*served)}
	var err error
	if b.poll, err = newPoller(); err != nil {
		return nil, err
	}
	b.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	err = unix.Bind(b.fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	if err == nil {
		err = unix.Listen(b.fd, 4096)
	}
	if err == nil {
		err = b.poll.add(b.fd, listening)
	}
	if err != nil {
		return nil, err
	}
	sa, err := unix.Getsockname(b.fd)
	if err != nil {
		return nil, err
	}
	b.addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(sa.(*unix.SockaddrInet4).Port))
	return b, nil
}

// Addr is where the backend listens.
func (b *Backend) Addr() string { return b.addr }

// Answer is a raw answer for a page: 200 with a body of so many bytes and
// further header lines, each ended by "\r\n".
func Answer(body int, headers string) []byte {
	a := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nServer: backend\r\nContent-Type: text/plain\r\n%sContent-Length: %d\r\n\r\n", headers, body)
	for i := range body {
		a = append(a, 'a'+byte(i%26))
	}
	return a
}

// Serve answers until the process ends, or returns why it can not.
func (b *Backend) Serve() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		events, err := b.poll.wait(-1)
		if err != nil {
			return err
		}
		for i := range events {
			tag := int(events[i].Fd)
			if tag == listening {
				if err := b.accept(); err != nil {
					return err
				}
				continue
			}
			if c := b.conns[tag]; c != nil && !b.progress(c) {
				delete(b.conns, tag)
				_ = unix.Close(tag)
			}
		}
	}
}

func (b *Backend) accept() error {
	for {
		fd, _, err := unix.Accept4(b.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		switch err {
		case nil:
		case unix.EAGAIN:
			return nil
		case unix.EINTR, unix.ECONNABORTED:
			continue
		default:
			return fmt.Errorf("cannot accept: %w", err)
		}
		if err := errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1), b.poll.add(fd, fd)); err != nil {
			_ = unix.Close(fd)
			continue
		}
		b.conns[fd] = &served{fd: fd, buf: make([]byte, 8<<10)}
	}
}

// served is one connection of a backend.
type served struct {
	fd     int
	buf    []byte
	n      int
	unsent []byte
}

// progress reads and answers what there is; false means that the connection is over.
func (b *Backend) progress(c *served) bool {
	if !c.write() {
		return false
	}
	for len(c.unsent) == 0 {
		n, err := unix.Read(c.fd, c.buf[c.n:])
		if err == unix.EAGAIN || err == unix.EINTR {
			return true
		}
		if err != nil || n == 0 {
			return false
		}
		c.n += n
		full := c.n == len(c.buf)
		if !b.answer(c) || !c.write() {
			return false
		}
		if c.n == len(c.buf) {
			if c.n >= maxRequest {
				return false
			}
			c.buf = append(c.buf, make([]byte, len(c.buf))...)
		} else if !full {
			return true // all that had arrived is read; the next byte is an event
		}
	}
	return true
}

// answer takes whole requests from the buffer; more than one only where a
// client pipelines.
func (b *Backend) answer(c *served) bool {
	for c.n > 0 {
		in := c.buf[:c.n]
		end := bytes.Index(in, blankLine)
		if end < 0 {
			return true
		}
		size, body := end+len(blankLine), 0
		if !bytes.HasPrefix(in, []byte("GET ")) {
			var ok bool
			if body, ok = length(in[:end]); !ok {
				return false
			}
		}
		if c.n < size+body {
			return true
		}
		out := b.page(in[:end], in[size:size+body])
		if len(c.unsent) == 0 {
			c.unsent = out
		} else {
			c.unsent = append(bytes.Clone(c.unsent), out...)
		}
		c.n = copy(c.buf, in[size+body:])
	}
	return true
}

func (b *Backend) page(head, body []byte) []byte {
	_, path, _ := bytes.Cut(head, []byte(" "))
	if i := bytes.IndexByte(path, ' '); i >= 0 {
		path = path[:i]
	}
	if a, ok := b.pages[string(path)]; ok {
		b.hits++
		return a
	}
	if i := bytes.LastIndexByte(path, '/'); i >= 0 {
		if a, ok := b.pages[string(path[:i+1])]; ok {
			b.hits++
			return a
		}
	}
	switch string(path) {
	case "/hits":
		body = strconv.AppendInt(nil, b.hits, 10)
	case "/echo":
		b.hits++
	default:
		b.hits++
		return []byte("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
	}
	return append(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body)), body...)
}

func (c *served) write() bool {
	for len(c.unsent) > 0 {
		n, err := unix.Write(c.fd, c.unsent)
		if err == unix.EAGAIN {
			return true
		}
		if err != nil {
			return false
		}
		c.unsent = c.unsent[n:]
	}
	return true
}
