package upstream

import (
	"errors"
	"io"
	"sync"

	"sluice/gateway/exchange"
)

// outgoing is the request body of an exchange on its way to a backend over
// HTTP/2. One goroutine reads it from the client when somebody wants more, so
// that an attempt can end while the client is silent. What was read is kept
// while it is little, for another attempt.
type outgoing struct {
	x      *exchange.Exchange
	stream io.Reader
	limit  int64
	// counted: whoever gives the stream counts what comes from the client.
	counted bool

	mu      sync.Mutex
	changed sync.Cond
	kept    []byte // sent, or to be sent, by attempts from its first byte on
	keep    bool   // kept holds all that was read
	fresh   []byte // read and not sent yet, where it is not kept
	total   int64
	err     error // why there is no more; io.EOF at the end
	wanted  bool
	running bool
	reading bool
	stopped bool
}

// begin makes o the body of x; nil without one.
func (o *outgoing) begin(x *exchange.Exchange) bool {
	o.x, o.limit, o.keep = x, x.BodyLimit, true
	o.changed.L = &o.mu
	if x.Body != nil {
		o.kept, o.err = x.Body, io.EOF
		return true
	}
	o.stream = x.BodyStream()
	return o.stream != nil && x.HasBody()
}

var errAttemptOver = errors.New("the attempt has ended")

// attemptBody is the body as one attempt reads it.
type attemptBody struct {
	o      *outgoing
	at     int // in kept
	closed bool
	ended  bool
	// trailer is called when the body has ended well, before its end is told; whole then.
	trailer, whole func()
}

// Read implements io.Reader.
func (b *attemptBody) Read(p []byte) (int, error) {
	o := b.o
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		switch {
		case b.closed:
			return 0, errAttemptOver
		case b.at < len(o.kept):
			n := copy(p, o.kept[b.at:])
			b.at += n
			if !o.keep && b.at == len(o.kept) {
				o.kept, b.at = nil, 0
			}
			return n, nil
		case len(o.fresh) > 0:
			n := copy(p, o.fresh)
			o.fresh = o.fresh[n:]
			return n, nil
		case o.err != nil:
			if o.err == io.EOF && !b.ended {
				b.ended = true
				if b.trailer != nil {
					b.trailer()
				}
				if b.whole != nil {
					b.whole()
				}
			}
			return 0, o.err
		}
		o.wanted = true
		if !o.running && !o.stopped {
			o.running = true
			go o.pump()
		}
		o.changed.Broadcast()
		o.changed.Wait()
	}
}

// Close ends the attempt's interest.
func (b *attemptBody) Close() error {
	b.o.mu.Lock()
	b.closed = true
	b.o.changed.Broadcast()
	b.o.mu.Unlock()
	return nil
}

// pump reads on when more is wanted.
func (o *outgoing) pump() {
	buf := uploadBuffers.Get().(*[]byte)
	o.mu.Lock()
	for o.err == nil {
		for !o.stopped && (!o.wanted || len(o.fresh) > 0) {
			o.changed.Wait()
		}
		if o.stopped {
			o.err = errBodyCut
			break
		}
		o.wanted, o.reading = false, true
		o.mu.Unlock()
		n, err := o.stream.Read(*buf)
		o.mu.Lock()
		o.reading = false
		if !o.counted {
			o.x.BytesIn += int64(n)
		}
		switch o.total += int64(n); {
		case o.limit > 0 && o.total > o.limit:
			o.err = errBodyTooLarge
		case o.keep && len(o.kept)+n <= heldBody:
			o.kept = append(o.kept, (*buf)[:n]...)
		default:
			o.keep = false
			o.fresh = (*buf)[:n]
		}
		switch {
		case o.err != nil || err == nil:
		case err == io.EOF:
			o.err = io.EOF
		default:
			o.err = bodyFault(err)
		}
		o.changed.Broadcast()
	}
	for !o.stopped && len(o.fresh) > 0 {
		o.changed.Wait() // the buffer is still in use
	}
	o.fresh, o.running = nil, false
	o.changed.Broadcast()
	o.mu.Unlock()
	uploadBuffers.Put(buf)
}

// settled says that there will be no further attempt.
func (o *outgoing) settled() {
	o.mu.Lock()
	o.keep = false
	o.mu.Unlock()
}

// replayable reports whether another attempt can send the body from its beginning.
func (o *outgoing) replayable() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.keep && (o.err == nil || o.err == io.EOF)
}

// fault is why the body ended before its end, nil if it did not.
func (o *outgoing) fault() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == io.EOF {
		return nil
	}
	return o.err
}

// stop ends the reading and waits until nothing touches the client's connection any more.
func (o *outgoing) stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.changed.L == nil {
		return
	}
	o.stopped = true
	o.changed.Broadcast()
	if o.running && o.reading && o.x.Client != nil {
		o.mu.Unlock()
		// What is left of the body is not wanted: a backend has answered without it.
		o.x.Client.InterruptRead()
		o.mu.Lock()
	}
	for o.running {
		o.changed.Wait()
	}
}
