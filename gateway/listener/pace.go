package listener

import (
	"net"
	"time"

	"sluice/gateway/exchange"
)

// pacing is how fast a client is written to. It belongs to the goroutine that
// writes; a connection that was never paced has none.
type pacing struct {
	pace  exchange.Pace // nil: as fast as it goes
	meter exchange.Meter
	timer *time.Timer
}

func (p *pacing) set(pace exchange.Pace, key []byte) {
	p.pace, p.meter.Slowed = pace, false
	p.meter.Key = append(p.meter.Key[:0], key...)
}

// on tells whether there is a pace; p may be nil.
func (p *pacing) on() bool { return p != nil && p.pace != nil }

// off ends the pace of an answer; p may be nil.
func (p *pacing) off() {
	if p != nil {
		p.pace = nil
	}
}

// goneEvery is how often a wait looks whether there is still a client.
const goneEvery = 250 * time.Millisecond

// next waits for the turn of the first piece of b, and returns that.
func (p *pacing) next(b []byte, gone func() bool) ([]byte, error) {
	n, wait := p.pace.Piece(&p.meter, len(b))
	for wait > 0 {
		d := min(wait, goneEvery)
		if wait -= d; p.timer == nil {
			p.timer = time.NewTimer(d)
		} else {
			p.timer.Reset(d)
		}
		if <-p.timer.C; gone() {
			p.pace.Unsent(&p.meter, n)
			return nil, net.ErrClosed
		}
	}
	return b[:n], nil
}

var (
	_ exchange.Pacer = (*conn)(nil)
	_ exchange.Pacer = (*stream)(nil)
)

// Pace implements exchange.Pacer.
func (c *conn) Pace(pace exchange.Pace, key []byte) {
	if c.pacing == nil {
		c.pacing = &pacing{}
	}
	c.pacing.set(pace, key)
}

// writePaced writes piece by piece.
func (c *conn) writePaced(p []byte) (written int, err error) {
	for written < len(p) {
		piece, err := c.pacing.next(p[written:], c.Gone)
		if err != nil {
			return written, err
		}
		c.writeSince.Store(c.owner.coarse.Load())
		n, err := c.Conn.Write(piece)
		c.writeSince.Store(0)
		if written += n; err != nil {
			return written, err
		}
	}
	return written, nil
}

// Pace implements exchange.Pacer.
func (st *stream) Pace(pace exchange.Pace, key []byte) {
	if st.pacing == nil {
		st.pacing = &pacing{}
	}
	st.pacing.set(pace, key)
}

func (w *writer) writePaced(p []byte) (written int, err error) {
	st := (*stream)(w)
	for written < len(p) {
		piece, err := st.pacing.next(p[written:], st.Gone)
		if err != nil {
			return written, err
		}
		n, err := w.writeNow(piece)
		if written += n; err == nil {
			err = w.flush() // else the engine would keep small pieces
		}
		if err != nil {
			return written, err
		}
	}
	return written, nil
}
