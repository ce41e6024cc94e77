package upstream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"sluice/config"
	"sluice/gateway/grpcwire"
	"sluice/gateway/upstream/h2"
)

// probeStream asks one endpoint over HTTP/2, on a connection of its own: by
// the health protocol of gRPC, or with GET where the service is not of gRPC.
func (s *Service) probeStream(ctx context.Context, ep *endpoint, hc *config.HealthCheck) error {
	pool := h2.NewPool(h2.Settings{MaxConns: 1, Dial: ep.pool.dialStreams})
	defer func() { _ = pool.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !s.rpc && hc.GRPC == "" {
		res, err := roundTrip(ctx, pool, ep.newRequest(ctx, http.MethodGet, hc.Path, nil))
		if err != nil {
			return err
		}
		_ = res.Body.Close()
		if res.StatusCode < 200 || res.StatusCode > 299 {
			return fmt.Errorf("status %d", res.StatusCode)
		}
		return nil
	}
	// grpc.health.v1.HealthCheckRequest{service: 1}; a service's name is short.
	var message []byte
	if n := len(hc.GRPC); n > 0 {
		message = append(binary.AppendUvarint([]byte{1<<3 | 2}, uint64(n)), hc.GRPC...)
	}
	res, err := roundTrip(ctx, pool, ep.newCall(ctx, "/grpc.health.v1.Health/Check", bytes.NewReader(grpcwire.AppendFrame(nil, 0, message))))
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	const longest = 64 // the answer is an enum
	answer, err := io.ReadAll(io.LimitReader(res.Body, longest))
	if err != nil {
		return err
	}
	if err := StatusOf(res); err != nil {
		return err
	}
	switch {
	case len(answer) == grpcwire.FrameHead+2 && answer[grpcwire.FrameHead] == 1<<3 && answer[grpcwire.FrameHead+1] == 1:
		return nil
	case len(answer) == grpcwire.FrameHead+2 && answer[grpcwire.FrameHead+1] == 2:
		return errors.New("the service says that it is not serving")
	}
	return errors.New("the service does not say that it is serving")
}

// StatusError is a status of gRPC other than OK.
type StatusError struct {
	Code    grpcwire.Code
	Message string
}

func (e *StatusError) Error() string {
	return "gRPC status " + e.Code.Name() + ": " + e.Message
}

// StatusOf returns the status of an answer of gRPC whose body was read to its
// end: nil for OK, else a *StatusError.
func StatusOf(res *http.Response) error {
	h := res.Trailer
	if len(h["Grpc-Status"]) == 0 {
		h = res.Header
	}
	v := h["Grpc-Status"]
	switch {
	case len(v) == 0 && res.StatusCode != http.StatusOK:
		return &StatusError{grpcwire.OfHTTP(res.StatusCode), fmt.Sprintf("HTTP status %d", res.StatusCode)}
	case len(v) == 0:
		return &StatusError{grpcwire.Unknown, "the answer has no status"}
	}
	if code, _ := grpcwire.ParseCode(v[0]); code != grpcwire.OK {
		return &StatusError{code, grpcwire.Message(h.Get("Grpc-Message"))}
	}
	return nil
}

// Invoke calls a method of gRPC beside all exchanges, at an endpoint that is
// up. body is the messages in their frames; the caller closes the answer's.
func (s *Service) Invoke(ctx context.Context, path string, body io.Reader) (*http.Response, error) {
	from := s.live.Load()
	i := from.set.PickIndex(s.sweeper.now(), 0, nil)
	if i < 0 {
		return nil, errors.New("no server of the service is available")
	}
	ep := from.endpoints[i]
	return roundTrip(ctx, ep.pool.streams, ep.newCall(ctx, path, body))
}

func roundTrip(ctx context.Context, pool *h2.Pool, req *http.Request) (*http.Response, error) {
	conn, err := pool.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return conn.RoundTrip(req)
}

func (ep *endpoint) newCall(ctx context.Context, path string, body io.Reader) *http.Request {
	req := ep.newRequest(ctx, http.MethodPost, path, body)
	req.Header["Content-Type"] = []string{"application/grpc"}
	req.Header["Te"] = []string{"trailers"}
	if deadline, ok := ctx.Deadline(); ok {
		req.Header["Grpc-Timeout"] = []string{string(grpcwire.AppendTimeout(nil, time.Until(deadline)))}
	}
	return req
}

func (ep *endpoint) newRequest(ctx context.Context, method, path string, body io.Reader) *http.Request {
	req := &http.Request{
		Method: method, Proto: "HTTP/2.0", ProtoMajor: 2, Host: string(ep.host),
		URL:    &url.URL{Scheme: ep.scheme, Host: string(ep.host), Opaque: string(ep.basePath) + path},
		Header: http.Header{"User-Agent": {"sluice"}},
	}
	if body != nil {
		req.Body, req.ContentLength = io.NopCloser(body), -1
	}
	return req.WithContext(ctx)
}
