//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// attack is many clients that each send a request head which never ends, a
// field a second, and begin anew when they are cut off.
type attack struct {
	Address     string
	Connections int
}

const dripEvery = time.Second

// run says "open" when every client has begun, goes on until in has a line or ends, and
// then says how often clients were cut off.
func (a *attack) run(in *bufio.Reader, out io.Writer) error {
	var (
		clients sync.WaitGroup
		begun   sync.WaitGroup
		cut     atomic.Int64
		stop    = make(chan struct{})
	)
	begun.Add(a.Connections)
	for range a.Connections {
		clients.Go(func() {
			var once sync.Once
			for {
				c, err := net.Dial("tcp4", a.Address)
				if err == nil {
					_, err = io.WriteString(c, "GET /300 HTTP/1.1\r\nHost: api.example.com\r\n")
				}
				once.Do(begun.Done)
				for err == nil {
					// They do not beat in time.
					if !rest(stop, dripEvery/2+rand.N(dripEvery)) {
						_ = c.Close()
						return
					}
					if _, err = io.WriteString(c, "X-A: b\r\n"); err != nil {
						cut.Add(1)
						_ = c.Close()
					}
				}
				if !rest(stop, rand.N(dripEvery)/10) {
					return
				}
			}
		})
	}
	begun.Wait()
	fmt.Fprintln(out, "open")
	_, _ = in.ReadString('\n')
	close(stop)
	clients.Wait()
	fmt.Fprintln(out, cut.Load())
	return nil
}

// rest waits, and is false where it was cut short.
func rest(stop <-chan struct{}, d time.Duration) bool {
	select {
	case <-stop:
		return false
	case <-time.After(d):
		return true
	}
}

// sink takes connections, reads nothing, and ends each after the time that the
// gateway gives a head: what the clients of an attack cost their own machine
// is the same with it.
func sink(in io.Reader) error {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, ln.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, in)
		os.Exit(0)
	}()
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		time.AfterFunc(headTimeout, func() { _ = c.Close() })
	}
}

// headTimeout is limits.header_timeout without settings.
const headTimeout = 10 * time.Second
