package exchange

import "time"

// Pacer is a client's connection that can be told how fast to write. It forgets with the next request.
type Pacer interface {
	// Pace has what is written from now on wait for its turn. key is borrowed for the call.
	Pace(p Pace, key []byte)
}

// Pace says how fast bytes go to a client.
type Pace interface {
	// Piece returns how many of n bytes go out as the next piece, and after which wait. They count as sent.
	Piece(m *Meter, n int) (piece int, wait time.Duration)
	// Unsent takes back that n bytes of a piece count: the client went away while they waited.
	Unsent(m *Meter, n int)
}

// Meter is what a connection keeps of a Pace.
type Meter struct {
	Key []byte
	// Slowed is the Pace's: something has had to wait since the request came.
	Slowed bool
}
