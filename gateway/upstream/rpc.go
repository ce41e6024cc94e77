package upstream

import (
	"bytes"
	"io"
	"net/http"

	"sluice/gateway/exchange"
	"sluice/gateway/grpcwire"
)

// RPC is a call of gRPC that an action makes for its exchange. It goes the way
// of all requests: balanced, within breakers, timeouts and retries.
type RPC struct {
	// Path is the method: /pkg.Service/Method.
	Path string
	// Held are the messages in their frames; or Stream is, where they come one by one.
	Held   []byte
	Stream io.Reader
}

// Answer is the answer to an RPC. Its reader gives the messages in their frames.
type Answer struct {
	// Header is the head of the answer.
	Header http.Header
	st     *stream
}

// Call makes a call for the exchange and returns once the head of its answer
// has come. Headers for the service are those of the exchange. The caller
// closes the answer.
func (s *Service) Call(x *exchange.Exchange, r *RPC) (*Answer, error) {
	c := calls.Of(x)
	c.rpc, c.spent = r, true
	if err := s.Forward(x); err != nil {
		return nil, err
	}
	return &Answer{Header: c.stream.res.Header, st: c.stream}, nil
}

// SpeaksHTTP2 reports whether the service can be called by gRPC.
func (s *Service) SpeaksHTTP2() bool { return s.http2 }

// beginCall makes the messages of an RPC the body.
func (o *outgoing) beginCall(x *exchange.Exchange, r *RPC) {
	o.x, o.keep, o.counted, o.changed.L = x, true, true, &o.mu
	if o.stream = r.Stream; o.stream == nil {
		o.kept, o.err = r.Held, io.EOF
	}
}

// Read implements io.Reader.
func (a *Answer) Read(p []byte) (int, error) {
	n, err := a.st.res.Body.Read(p)
	if err != nil && err != io.EOF {
		err = a.st.explain(err)
	}
	return n, err
}

// Status returns the status once everything was read: nil for OK, or a *StatusError.
func (a *Answer) Status() error {
	err := StatusOf(a.st.res)
	code := grpcwire.OK
	if s, ok := err.(*StatusError); ok {
		code = s.Code
	}
	a.st.x.RPCStatus = uint8(code) + 1
	return err
}

// Details is the google.rpc.Status that came with the status, encoded; nil without one.
func (a *Answer) Details() string {
	if v := a.st.res.Trailer.Get("Grpc-Status-Details-Bin"); v != "" {
		return v
	}
	return a.st.res.Header.Get("Grpc-Status-Details-Bin")
}

// Explain says as a rejection why reading failed.
func (a *Answer) Explain(err error) error {
	if err == errDeadline {
		return rejectDeadline
	}
	return a.st.c.rejectFor(err)
}

// Close ends the call, read or not.
func (a *Answer) Close() { a.st.close() }

// decodeText has the body read from its base64.
func (o *outgoing) decodeText() {
	from := o.stream
	if from == nil {
		from = bytes.NewReader(o.kept)
	}
	o.stream, o.kept, o.err = &textReader{from: from}, nil, nil
}
