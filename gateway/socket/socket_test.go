//go:build linux

package socket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// pair returns the two ends of a connection, the first as New has it.
func pair(t testing.TB, network string) (*Conn, net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = t.TempDir() + "/socket"
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	a, err := net.Dial(network, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return New(a).(*Conn), b
}

func TestReadAndWrite(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		c, peer := pair(t, network)
		want := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // more than any buffer takes at once
		go func() {
			_, _ = c.Write(want)
			_ = c.CloseWrite()
		}()
		if got, err := io.ReadAll(peer); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes came, %v", network, len(got), err)
		}
		go func() {
			_, _ = peer.Write(want)
			_ = peer.Close()
		}()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes came back, %v", network, len(got), err)
		}
	}
}

func TestWriteBoth(t *testing.T) {
	f := func(first, p int) {
		t.Helper()
		c, peer := pair(t, "tcp")
		want := make([]byte, first+p)
		for i := range want {
			want[i] = byte(i >> 3)
		}
		go func() {
			if n, err := c.WriteBoth(want[:first], want[first:]); n != len(want) || err != nil {
				t.Errorf("%d bytes sent, %v", n, err)
			}
			_ = c.CloseWrite()
		}()
		if got, err := io.ReadAll(peer); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes came of %d and %d, %v", len(got), first, p, err)
		}
	}
	f(0, 10)
	f(10, 0)
	f(4096, 6000)
	f(16<<20, 16<<20) // the socket takes a part of the first, then of both
}

func TestSendThenRead(t *testing.T) {
	f := func(request []byte) {
		t.Helper()
		c, peer := pair(t, "tcp")
		go func() {
			_, _ = io.ReadFull(peer, make([]byte, len(request)))
			_, _ = peer.Write([]byte("answer"))
		}()
		b := make([]byte, 64)
		if n, err := c.SendThenRead(request, b); err != nil || string(b[:n]) != "answer" {
			t.Errorf("%q, %v", b[:n], err)
		}
	}
	f([]byte("request"))
	f(bytes.Repeat([]byte("x"), 32<<20)) // the socket takes a part only
}

func TestSendThenReadToOneThatClosed(t *testing.T) {
	c, peer := pair(t, "tcp")
	_ = peer.(*net.TCPConn).SetLinger(0)
	_ = peer.Close()
	_, err := c.SendThenRead([]byte("request"), make([]byte, 64))
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("%v", err)
	}
}

func TestDeadlineEndsTheWait(t *testing.T) {
	c, _ := pair(t, "tcp")
	f := func(what string, call func() error) {
		t.Helper()
		time.AfterFunc(time.Millisecond, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
		if err := call(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v", what, err)
		}
		_ = c.SetDeadline(time.Time{})
	}
	b := make([]byte, 64)
	f("read", func() error { _, err := c.Read(b); return err })
	f("send", func() error { _, err := c.SendThenRead([]byte("x"), b); return err })
	f("write", func() error { _, err := c.Write(make([]byte, 64<<20)); return err })
}

func TestCloseEndsTheWait(t *testing.T) {
	c, _ := pair(t, "tcp")
	time.AfterFunc(time.Millisecond, func() { _ = c.Close() })
	if _, err := c.Read(make([]byte, 64)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}

func TestReadAndWriteAllocateNothing(t *testing.T) {
	c, peer := pair(t, "tcp")
	p := New(peer)
	go func() {
		b := make([]byte, 64)
		for {
			n, err := p.Read(b)
			if err != nil {
				return
			}
			_, _ = p.Write(b[:n])
		}
	}()
	b, request := make([]byte, 64), []byte("request")
	if n := testing.AllocsPerRun(1000, func() {
		_, _ = c.Write(request)
		_, _ = c.Read(b)
		_, _ = c.SendThenRead(request, b)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestNewLeavesWhatIsNoSocket(t *testing.T) {
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	if New(a) != a {
		t.Error("a pipe was taken for a socket")
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	f := func(name string, wrap func(net.Conn) net.Conn) {
		b.Run(name, func(b *testing.B) {
			c, peer := pair(b, "tcp")
			x, y := wrap(c.Conn), wrap(peer)
			go func() {
				buf := make([]byte, 64)
				for {
					n, err := y.Read(buf)
					if err != nil {
						return
					}
					_, _ = y.Write(buf[:n])
				}
			}()
			buf := make([]byte, 64)
			for b.Loop() {
				_, _ = x.Write(buf)
				_, _ = x.Read(buf)
			}
		})
	}
	f("net", func(c net.Conn) net.Conn { return c })
	f("socket", New)
}

func TestQuiet(t *testing.T) {
	c, peer := pair(t, "tcp")
	f := func(want bool) {
		t.Helper()
		quiet := !want
		for until := time.Now().Add(10 * time.Second); quiet != want && time.Now().Before(until); time.Sleep(time.Millisecond) {
			raw, _ := c.SyscallConn()
			_ = raw.Control(func(fd uintptr) { quiet = Quiet(fd) })
		}
		if quiet != want {
			t.Errorf("quiet is %v", quiet)
		}
	}
	f(true)
	_, _ = peer.Write([]byte("x"))
	f(false)
	_, _ = c.Read(make([]byte, 1))
	f(true)
	_ = peer.Close()
	f(false)
}
