package upstream

import "net"

// Sweeper is what looks after the service's connections.
func (s *Service) Sweeper() *Sweeper { return s.sweeper }

// Conn is the connection to the backend, for an action that speaks the other protocol itself in the place of a client. It ends with
// the exchange. A read ends when the exchange's client is gone, or when its time is over.
func (t *Tunnel) Conn() net.Conn { return switched{t.conn, t} }

type switched struct {
	*Conn
	tunnel *Tunnel
}

// Read implements net.Conn.
func (s switched) Read(p []byte) (int, error) {
	s.awaitBytes(0)
	n, err := s.tunnel.br.Read(p)
	return n, s.gotBytes(err)
}

// Close implements net.Conn: the exchange closes the connection.
func (s switched) Close() error { return nil }
