package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/gateway/handover"
)

// Bounds of the listener. They hold for whoever can connect, before anything is known about them.
const (
	maxConnections = 256
	maxHead        = 16 << 10
	maxBody        = 64 << 10 // of all but a configuration
	pageSize       = 32 << 10 // leaves in one write: a browser does not paint half a page
	maxConfigBody  = 16 << 20
	readTimeout    = 10 * time.Second // a whole request
	configTimeout  = time.Minute      // likewise, of a configuration
	writeTimeout   = time.Minute
	idleTimeout    = time.Minute
)

// face is one address that is listened on, with the token that is wanted there: an address that is being given up keeps
// its own.
type face struct {
	address string
	server  *Server
	fast    *fasthttp.Server
	ln      net.Listener
	shared  bool                              // with systemd
	token   atomic.Pointer[[sha256.Size]byte] // nil: none is wanted
	served  chan struct{}

	mu    sync.Mutex
	conns map[*trackedConn]struct{} // nil once they were cut off
}

func openFace(s *Server, address, token string) (*face, error) {
	if err := mayListen(address, token); err != nil {
		return nil, err
	}
	ln, shared, err := listen(address, s.o.Sockets)
	if err != nil {
		return nil, err
	}
	if a, ok := ln.Addr().(*net.TCPAddr); ok && token == "" && !a.IP.IsLoopback() {
		// localhost need not mean what it says.
		_ = ln.Close()
		return nil, fmt.Errorf("admin address %q is %s, which others can reach: set admin.token", address, a)
	}
	f := &face{address: address, server: s, ln: ln, shared: shared, served: make(chan struct{}), conns: make(map[*trackedConn]struct{})}
	f.setToken(token)
	f.fast = &fasthttp.Server{
		Handler:                      f.handle,
		ErrorHandler:                 f.handleError,
		HeaderReceived:               f.allowance,
		Concurrency:                  maxConnections,
		ReadBufferSize:               maxHead,
		WriteBufferSize:              pageSize,
		ReadTimeout:                  readTimeout,
		WriteTimeout:                 writeTimeout,
		IdleTimeout:                  idleTimeout,
		MaxRequestBodySize:           maxBody,
		NoDefaultServerHeader:        true,
		DisablePreParseMultipartForm: true,
		SecureErrorLogMessage:        true,
		CloseOnShutdown:              true,
		Logger:                       fastLog{s.log},
	}
	return f, nil
}

// listen opens host:port or unix:/path. A socket that a dead process left behind is replaced; only the user who runs
// the gateway may connect to one. A socket that the process was given is taken instead.
func listen(address string, given *handover.Sockets) (ln net.Listener, shared bool, err error) {
	network, key := "tcp", socketKey(address)
	path, unix := strings.CutPrefix(address, "unix:")
	if unix {
		network, address = "unix", path
	}
	if ln, shared, err = given.Listener(key, "admin", network, address); ln != nil || err != nil {
		return ln, shared, err
	}
	if unix {
		dialer := net.Dialer{Timeout: time.Second}
		if c, err := dialer.DialContext(context.Background(), "unix", path); err == nil {
			_ = c.Close()
			return nil, false, fmt.Errorf("cannot listen on unix:%s: another process does", path)
		}
		if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket != 0 {
			_ = os.Remove(path)
		}
	}
	ln, err = net.Listen(network, address) //nolint:noctx // nothing can cancel it
	if err != nil {
		return nil, false, fmt.Errorf("cannot listen on %s: %w", address, err)
	}
	if network == "unix" {
		if err := os.Chmod(address, 0o600); err != nil {
			_ = ln.Close()
			return nil, false, fmt.Errorf("cannot protect unix:%s: %w", address, err)
		}
	}
	return ln, false, nil
}

func (f *face) start() {
	go func() {
		defer close(f.served)
		if err := f.fast.Serve(tracker{f.ln, f}); err != nil && !errors.Is(err, net.ErrClosed) {
			f.server.log.Error("admin stopped", "address", f.address, "error", err.Error())
		}
	}()
}

// close stops listening and waits for the requests in flight until ctx ends, then it cuts the connections.
func (f *face) close(ctx context.Context) error {
	err := f.fast.ShutdownWithContext(ctx)
	f.mu.Lock()
	left := f.conns
	f.conns = nil
	f.mu.Unlock()
	for c := range left {
		_ = c.Close()
	}
	_ = f.ln.Close()
	<-f.served
	return err
}

func (f *face) setToken(token string) {
	if token == "" {
		f.token.Store(nil)
		return
	}
	sum := sha256.Sum256([]byte(token))
	f.token.Store(&sum)
}

// authorized reports whether a request carries the token that is wanted, nil for none. The time it takes does not
// depend on how much of it is right.
func authorized(h *fasthttp.RequestHeader, want *[sha256.Size]byte) bool {
	if want == nil {
		return true
	}
	const scheme = "bearer "
	given := string(h.Peek(fasthttp.HeaderAuthorization))
	if len(given) <= len(scheme) || !strings.EqualFold(given[:len(scheme)], scheme) {
		return false
	}
	sum := sha256.Sum256([]byte(strings.TrimSpace(given[len(scheme):])))
	return subtle.ConstantTimeCompare(sum[:], want[:]) == 1
}

// allowance lets a request send a configuration, if it may: bodies are read before the request is looked at.
func (f *face) allowance(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
	if h.IsPut() && authorized(h, f.token.Load()) {
		return fasthttp.RequestConfig{ReadTimeout: configTimeout, MaxRequestBodySize: maxConfigBody}
	}
	return fasthttp.RequestConfig{}
}

// tracker knows the open connections, so that they can be cut off.
type tracker struct {
	net.Listener
	face *face
}

func (t tracker) Accept() (net.Conn, error) {
	for {
		nc, err := t.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &trackedConn{Conn: nc, face: t.face}
		t.face.mu.Lock()
		open := t.face.conns != nil
		if open {
			t.face.conns[c] = struct{}{}
		}
		t.face.mu.Unlock()
		if open {
			return c, nil
		}
		_ = nc.Close()
	}
}

type trackedConn struct {
	net.Conn
	face *face
}

func (c *trackedConn) Close() error {
	c.face.mu.Lock()
	delete(c.face.conns, c)
	c.face.mu.Unlock()
	return c.Conn.Close()
}

// fastLog passes fasthttp's own messages on at debug level.
type fastLog struct{ log *slog.Logger }

func (l fastLog) Printf(format string, _ ...any) { l.log.Debug("fasthttp", "message", format) }
