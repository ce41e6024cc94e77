//go:build linux

package load

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller waits for many sockets, edge-triggered. One goroutine uses it.
type poller struct {
	fd     int
	events [256]unix.EpollEvent
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return &poller{fd: fd}, err
}

func (p *poller) close() { _ = unix.Close(p.fd) }

// add watches a socket; tag comes back with its events.
func (p *poller) add(fd, tag int) error {
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff, Fd: int32(tag)}
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &e)
}

// wait returns what happened within timeout, to the nanosecond where the timer
// slack of the thread allows, or nothing when a signal came before; a negative
// timeout waits for ever. The events are valid until the next call.
func (p *poller) wait(timeout time.Duration) ([]unix.EpollEvent, error) {
	var ts *unix.Timespec
	if timeout >= 0 {
		t := unix.NsecToTimespec(int64(timeout))
		ts = &t
	}
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd),
		uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), uintptr(unsafe.Pointer(ts)), 0, 0)
	switch errno {
	case 0:
		return p.events[:n], nil
	case unix.EINTR:
		return nil, nil
	}
	return nil, errno
}
