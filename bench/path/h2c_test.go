//go:build linux

package path_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2"

	"sluice/bench/load"
)

// h2c repeats a request over HTTP/2 without TLS, on one connection.
type h2c struct {
	spec      load.Spec
	method    string
	url       string
	header    http.Header
	body      []byte
	transport *http2.Transport
}

func newH2C(s load.Spec) (client, error) {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(s.Requests[0])))
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	return &h2c{
		spec: s, method: r.Method, url: "http://" + s.Address + r.RequestURI, header: r.Header, body: body,
		transport: &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		}},
	}, nil
}

func (c *h2c) Close() { c.transport.CloseIdleConnections() }

func (c *h2c) Do(n int64) error {
	var left atomic.Int64
	left.Store(n)
	var once sync.Once
	var failed error
	var streams sync.WaitGroup
	for range c.spec.Connections {
		streams.Go(func() {
			for left.Add(-1) >= 0 {
				if err := c.exchange(); err != nil {
					once.Do(func() { failed = err })
					return
				}
			}
		})
	}
	streams.Wait()
	return failed
}

func (c *h2c) exchange() error {
	req, err := http.NewRequest(c.method, c.url, bytes.NewReader(c.body))
	if err != nil {
		return err
	}
	req.Header = c.header
	res, err := c.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	if err == nil && (res.StatusCode != c.spec.Status || n != int64(c.spec.Body)) {
		err = fmt.Errorf("an answer has status %d and %d bytes, expected %d and %d", res.StatusCode, n, c.spec.Status, c.spec.Body)
	}
	return err
}
