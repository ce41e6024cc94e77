package delivery

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"sluice/config"
	"sluice/gateway/telemetry"
)

// TCP sends lines over a connection that stays open.
type TCP struct {
	// Address to connect to: `HOST:PORT`, or `tls://HOST:PORT`.
	Address string `yaml:"address" required:"true"`
	// Timeout for connecting, and for each write.
	Timeout config.Duration `yaml:"timeout" default:"5s" min:"10ms" max:"1m"`
	// Retries after the first try to connect or to write; then the lines are lost. What a broken connection took may come twice, or not at all.
	Retries int `yaml:"retries" default:"3" min:"0" max:"10"`
	// TLS settings for an address with tls://.
	TLS TLS `yaml:"tls"`
}

// Shorthand is what a plain text stands for.
func (*TCP) Shorthand() string { return "address" }

// UDP sends each line as a datagram, without its newline.
type UDP struct {
	// Address to send to: `HOST:PORT`.
	Address string `yaml:"address" required:"true"`
}

// Shorthand is what a plain text stands for.
func (*UDP) Shorthand() string { return "address" }

// Target checks the settings.
func (c *TCP) Target() (*Target, error) {
	scheme, address, ok := strings.Cut(c.Address, "://")
	if !ok {
		scheme, address = "tcp", c.Address
	}
	if scheme != "tcp" && scheme != "tls" || !isHostPort(address) {
		return nil, config.Errorf("address", "this is no address to connect to; write HOST:PORT or tls://HOST:PORT")
	}
	secure, fingerprint, err := c.TLS.load(scheme == "tls")
	if err != nil {
		return nil, err
	}
	s := socket{network: "tcp", address: address, tls: secure, timeout: c.Timeout, retries: c.Retries}
	return &Target{
		Name:     scheme + "://" + address,
		Identity: identity("tcp", scheme, address, c.Timeout, c.Retries, c.TLS, fingerprint),
		Open:     s.open(func(line []byte, dst []byte) []byte { return append(append(dst, line...), '\n') }),
	}, nil
}

// Target checks the settings.
func (c *UDP) Target() (*Target, error) {
	address := strings.TrimPrefix(c.Address, "udp://")
	if !isHostPort(address) {
		return nil, config.Errorf("address", "this is no address to send to; write HOST:PORT")
	}
	s := socket{network: "udp", address: address, timeout: 5 * time.Second}
	return &Target{
		Name:     "udp://" + address,
		Identity: identity("udp", address),
		Open:     s.open(func(line []byte, dst []byte) []byte { return append(dst, line...) }),
	}, nil
}

func isHostPort(address string) bool {
	host, port, err := net.SplitHostPort(address)
	n, bad := strconv.Atoi(port)
	return err == nil && bad == nil && host != "" && n > 0 && n < 1<<16 && !strings.ContainsAny(host, "@/ ")
}

// socket is where messages go, one after the other. Its goroutine is the log's.
type socket struct {
	network string // tcp, udp, or unix: a socket of either kind in the file system
	address string
	tls     *tls.Config
	timeout time.Duration
	retries int

	frame  func(line, dst []byte) []byte // writes a message as it goes over the wire, or nothing for a line that is left out
	stop   <-chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
	conn   net.Conn
	gone   *atomic.Bool // the other side has closed conn
	whole  bool         // a message is one datagram
	wire   []byte
	ends   []int // of the messages in wire
}

// open returns what opens a copy of s.
func (s socket) open(frame func(line, dst []byte) []byte) func(stop <-chan struct{}) (telemetry.Output, error) {
	return func(stop <-chan struct{}) (telemetry.Output, error) {
		made := s
		made.frame = frame
		made.stop = stop
		made.ctx, made.cancel = withGrace(stop)
		return &made, nil
	}
}

// Lines sends a message for each line.
func (s *socket) Lines(lines []byte) (lost int, err error) {
	s.wire, s.ends = s.wire[:0], s.ends[:0]
	for line := range bytes.Lines(lines) {
		before := len(s.wire)
		if s.wire = s.frame(bytes.TrimSuffix(line, newline), s.wire); len(s.wire) > before {
			s.ends = append(s.ends, len(s.wire))
		}
	}
	sent := 0
	for sent < len(s.ends) {
		var n int
		failed := repeat(s.ctx, s.stop, s.retries, func() error {
			if err := s.connect(); err != nil {
				return err
			}
			done, err := s.write(sent + n)
			n += done
			return err
		})
		sent += n
		if failed == nil {
			continue
		}
		if err == nil {
			err = failed
		}
		var f final
		if !errors.As(failed, &f) {
			return lost + len(s.ends) - sent, err
		}
		lost++ // one message can not go; the next may
		sent++
	}
	return lost, err
}

// write sends the messages from the given one on, and says how many went out.
func (s *socket) write(from int) (n int, err error) {
	start := 0
	if from > 0 {
		start = s.ends[from-1]
	}
	if err := s.conn.SetWriteDeadline(s.deadline()); err != nil {
		s.drop()
		return 0, err
	}
	if !s.whole {
		done, err := s.conn.Write(s.wire[start:])
		for from+n < len(s.ends) && s.ends[from+n] <= start+done {
			n++
		}
		if err != nil {
			s.drop()
		}
		return n, err
	}
	for ; from+n < len(s.ends); n++ {
		end := s.ends[from+n]
		if _, err := s.conn.Write(s.wire[start:end]); err != nil {
			if isTooLong(err) {
				return n, final{err}
			}
			s.drop()
			if s.network == "udp" {
				// It tells of a datagram before this one; the next is as good a try as this.
				return n, final{err}
			}
			return n, err
		}
		start = end
	}
	return n, nil
}

func (s *socket) deadline() time.Time {
	at := time.Now().Add(s.timeout)
	if s.ctx.Err() != nil {
		return time.Now()
	}
	return at
}

func (s *socket) connect() error {
	if s.conn != nil && !s.gone.Load() {
		return nil
	}
	s.drop()
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	var (
		d    net.Dialer
		conn net.Conn
		err  error
	)
	switch s.network {
	case "unix": // the syslog of a system is a socket of datagrams mostly
		s.whole = true
		if conn, err = d.DialContext(ctx, "unixgram", s.address); err != nil {
			s.whole = false
			conn, err = d.DialContext(ctx, "unix", s.address)
		}
	case "udp":
		s.whole = true
		conn, err = d.DialContext(ctx, "udp", s.address)
	default:
		if s.tls != nil {
			conn, err = (&tls.Dialer{NetDialer: &d, Config: s.tls}).DialContext(ctx, "tcp", s.address)
		} else {
			conn, err = d.DialContext(ctx, "tcp", s.address)
		}
	}
	if err != nil {
		return err
	}
	s.conn, s.gone = conn, new(atomic.Bool)
	if !s.whole {
		// Whoever closes is noticed before lines are written into nothing. It ends with the connection.
		go func(gone *atomic.Bool) {
			_, _ = io.Copy(io.Discard, conn)
			gone.Store(true)
		}(s.gone)
	}
	return nil
}

func (s *socket) drop() {
	if s.conn != nil {
		_ = s.conn.Close()
		s.conn = nil
	}
}

// Close ends the connection.
func (s *socket) Close() error {
	s.cancel()
	s.drop()
	return nil
}
