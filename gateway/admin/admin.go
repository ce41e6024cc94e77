// Package admin is the operators' listener: health, metrics, what runs and how it does, and the writes that change it.
//
// It guarantees who may use it. With a token everything but /health, /livez, /readyz, /metrics and the index wants
// `Authorization: Bearer TOKEN`; a developer's own page wants the token of a signed link instead. Without one the listener is on a loopback address or a Unix socket, or is not opened at
// all, and a request must name a loopback host and come from no other site: a page in a browser on the same machine can
// not reach it by rebinding a name or by sending forms across sites. No answer holds a secret of the configuration.
package admin

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fasthttp/router"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/handover"
)

// Options of a Server. Gateway is required.
type Options struct {
	Gateway *gateway.Gateway
	// Log is the operator log, where every write is noted; default: none.
	Log *slog.Logger
	// Address is host:port or unix:/path; "" listens nowhere until Configure.
	Address string
	// Token that requests must carry; "" for none, which only a loopback address or a Unix socket may have.
	Token string
	// Sockets are those that the process was started with; default: none.
	Sockets *handover.Sockets
	// Reload loads the configuration from its source again and applies it; nil: reloading is refused.
	Reload func() error
	// WriteBack replaces the single file that the configuration comes from, atomically; nil: PUT /api/config is refused with 409.
	WriteBack func(data []byte) error
	// Store keeps the configuration where others may change it too; it takes the place of WriteBack and Read.
	Store Store
	// Parse reads what WriteBack would be given, with the flags and the environment of the running configuration; default:
	// config.Parse with the environment of the process.
	Parse func(data []byte) (*config.Config, error)
	// Read returns the file that WriteBack replaces: then the ETag of the configuration also tells of edits that were not
	// loaded yet, and the file is restored when what was written can not be applied. Nil: neither.
	Read func() ([]byte, error)
}

// Store is a configuration with versions, which are the same for all who ask.
type Store interface {
	// Text returns what Write replaces, and its version.
	Text() (text []byte, version string, err error)
	// Write replaces the text that has this version, and returns the new one; source.ErrChanged when it has another.
	Write(text []byte, version string) (string, error)
}

// Server is the admin listener. Make one with New, open it with Start, end it with Close.
type Server struct {
	o      Options
	log    *slog.Logger
	router *router.Router
	rates  rates
	nonce  [32]byte // makes ETags those of this process
	now    func() time.Time

	tenants atomic.Pointer[tenantTokens]

	writing sync.Mutex // one change of the configuration at a time
	linking sync.Mutex // one writer of the key that links are signed with

	mu      sync.Mutex // of what follows
	face    *face      // nil while nothing is listened on
	started bool
	closed  bool
	retired sync.WaitGroup // faces that are being closed
}

// New returns a Server that listens nowhere yet.
func New(o Options) *Server {
	if o.Gateway == nil {
		panic("BUG: admin.Options.Gateway is nil")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Parse == nil {
		o.Parse = func(data []byte) (*config.Config, error) {
			return config.Parse("configuration", data, config.Options{Environ: os.Environ()})
		}
	}
	s := &Server{o: o, log: o.Log, now: time.Now}
	_, _ = rand.Read(s.nonce[:]) // never fails
	s.router = s.routes()
	return s
}

// Start listens and serves. It returns the error of listening, or that the address may not be used without a token.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.started {
		return errors.New("admin: was started or closed before")
	}
	s.rates.sample(s.now(), s.o.Gateway.Snapshot())
	if err := s.listen(s.o.Address, s.o.Token); err != nil {
		return err
	}
	s.started = true
	return nil
}

// Configure changes address and token; an empty address closes the listener. A new address is listened on before the old
// one is given up, whose requests in flight are completed; on an error everything stays as it was. It may be called
// while the listener serves a request, also from that request.
func (s *Server) Configure(address, token string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("admin: is closed")
	}
	if !s.started {
		s.o.Address, s.o.Token = address, token
		return nil
	}
	old := s.face
	if old != nil && old.address == address {
		if err := mayListen(address, token); err != nil {
			return err
		}
		old.setToken(token)
		return nil
	}
	if err := s.listen(address, token); err != nil {
		return err
	}
	if old != nil {
		s.retired.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), retireTime)
			defer cancel()
			if err := old.close(ctx); err != nil {
				s.log.Warn("closed connections of the former admin address that were in use", "address", old.address)
			}
		})
	}
	return nil
}

// retireTime is how long requests on a former address may go on.
const retireTime = 10 * time.Second

// listen makes a new face the current one. s.mu is held.
func (s *Server) listen(address, token string) error {
	if address == "" {
		s.face = nil
		return nil
	}
	f, err := openFace(s, address, token)
	if err != nil {
		return err
	}
	s.face = f
	f.start()
	s.log.Info("admin is listening", "address", f.ln.Addr().String(), "authenticated", token != "")
	return nil
}

// Addr returns the address that is listened on, "" while there is none.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.face == nil {
		return ""
	}
	return s.face.ln.Addr().String()
}

// Socket is what is listened on, for a successor; nothing where there is none.
func (s *Server) Socket() []handover.Socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.face == nil {
		return nil
	}
	return []handover.Socket{{Key: socketKey(s.face.address), Shared: s.face.shared, Conn: s.face.ln.(syscall.Conn)}}
}

func socketKey(address string) string { return "admin " + address }

// Leave is Close where another process has the socket and serves it.
func (s *Server) Leave(ctx context.Context) error {
	s.mu.Lock()
	if s.face != nil {
		if u, ok := s.face.ln.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
	}
	s.mu.Unlock()
	return s.Close(ctx)
}

// Close stops listening and waits for requests in flight until ctx ends; those that are left are cut off and ctx's error
// is returned.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	f := s.face
	s.face, s.closed = nil, true
	s.mu.Unlock()
	var err error
	if f != nil {
		err = f.close(ctx)
	}
	s.retired.Wait()
	return err
}

// mayListen refuses an address that others can reach when there is no token.
func mayListen(address, token string) error {
	if token != "" || isUnix(address) {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("admin address %q: must be host:port or unix:/path", address)
	}
	if !isLoopback(host) {
		return fmt.Errorf("admin address %q can be reached by others: set admin.token, or use a loopback address such as 127.0.0.1:9901", address)
	}
	return nil
}

func isUnix(address string) bool { return strings.HasPrefix(address, "unix:") }

// isLoopback tells whether a host is one of the names of this machine for itself: localhost, 127.0.0.0/8, ::1.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
