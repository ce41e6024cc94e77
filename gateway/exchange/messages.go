package exchange

import "io"

// Messages is the body of an answer that comes message by message: each is written when it
// has come. An error leaves the client's answer unfinished, so that it can not be mistaken for whole.
type Messages struct {
	X *Exchange
	// Next is what the next message, or the end, adds to the body, as it has passed the hooks. It sets Over with the last.
	Next func() ([]byte, error)
	// End ends what the messages come from, which may have ended.
	End  func()
	Over bool

	left []byte // of a message that Read did not take whole
}

var _ ResponseStream = (*Messages)(nil)

// Hold implements ResponseStream: nobody waits for the last of the messages.
func (m *Messages) Hold(int) (body []byte, whole bool, err error) { return nil, false, nil }

// More implements ResponseStream: nobody knows when the next message comes.
func (m *Messages) More() bool { return false }

// Discard implements ResponseStream.
func (m *Messages) Discard() {
	m.Over = true
	m.End()
}

// Close implements io.Closer.
func (m *Messages) Close() error {
	m.Discard()
	return nil
}

// SupportsBodyWriteTo tells fasthttp to use WriteTo.
func (m *Messages) SupportsBodyWriteTo() bool { return true }

// WriteTo implements io.WriterTo.
func (m *Messages) WriteTo(to io.Writer) (written int64, err error) {
	defer m.Discard()
	m.X.Begun = true
	for !m.Over {
		chunk, err := m.Next()
		if err != nil {
			return written, err
		}
		if len(chunk) == 0 {
			continue
		}
		n, err := to.Write(chunk)
		written += int64(n)
		m.X.BytesOut += int64(n)
		if err != nil {
			m.X.Aborted.Store(true)
			return written, err
		}
	}
	return written, nil
}

// Read is for readers that want the body in their own buffer.
func (m *Messages) Read(p []byte) (int, error) {
	m.X.Begun = true
	for len(m.left) == 0 {
		if m.Over {
			m.Discard()
			return 0, io.EOF
		}
		chunk, err := m.Next()
		if err != nil {
			m.Discard()
			return 0, err
		}
		m.left = chunk
	}
	n := copy(p, m.left)
	m.left = m.left[n:]
	m.X.BytesOut += int64(n)
	return n, nil
}
