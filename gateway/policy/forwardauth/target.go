package forwardauth

import (
	"errors"
	"net"
	"net/url"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// maxBody bounds the body of an answer in bytes, maxHead its head.
const (
	maxBody = 64 << 10
	maxHead = 16 << 10
)

// target is the connections to a service. They outlive the configuration.
type target struct {
	client  *fasthttp.HostClient
	uri     string
	waiters policy.Waiters
}

func newTarget(u *url.URL, timeout time.Duration, connections int) *target {
	addr := u.Host
	if u.Port() == "" {
		port := "80"
		if u.Scheme == "https" {
			port = "443"
		}
		addr = net.JoinHostPort(u.Hostname(), port)
	}
	return &target{
		uri:     u.String(),
		waiters: policy.Waiters{Max: maxWaiting},
		client: &fasthttp.HostClient{
			Addr: addr, IsTLS: u.Scheme == "https",
			Dial:                          func(addr string) (net.Conn, error) { return net.DialTimeout("tcp", addr, timeout) },
			MaxConns:                      connections,
			MaxConnWaitTimeout:            timeout,
			MaxIdleConnDuration:           10 * time.Second,
			ReadTimeout:                   timeout,
			WriteTimeout:                  timeout,
			MaxResponseBodySize:           maxBody,
			ReadBufferSize:                maxHead,
			MaxIdemponentCallAttempts:     2, // an idle connection may be closed by the other end
			NoDefaultUserAgentHeader:      true,
			DisablePathNormalizing:        true,
			DisableHeaderNamesNormalizing: false,
		},
	}
}

// Close closes idle connections; those in use end with their requests.
func (t *target) Close() error {
	t.client.CloseIdleConnections()
	return nil
}

// ask asks the service. It returns nil if that gives no decision.
func (a *authenticator) ask(x *exchange.Exchange) *decision {
	t := a.target
	if !t.waiters.Enter() {
		return nil
	}
	defer t.waiters.Leave()
	req, res := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(res)
	req.SetRequestURI(t.uri)
	h := &req.Header
	h.SetMethod(fasthttp.MethodGet)
	for _, name := range a.sent {
		for _, value := range x.PeekAll(name) {
			h.AddBytesV(name, value)
		}
	}
	h.SetBytesV("X-Forwarded-Method", x.Method())
	h.Set("X-Forwarded-Proto", x.Scheme)
	h.SetBytesV("X-Forwarded-Host", x.Host)
	h.SetBytesV("X-Forwarded-Uri", appendURI(nil, x))
	h.SetBytesV("X-Forwarded-For", x.ClientAddr.Unmap().AppendTo(nil))
	if len(x.RequestID) > 0 {
		h.SetBytesV("X-Correlation-ID", x.RequestID)
	}
	if o := x.Observer; o != nil {
		o.CallBegins(x, "forward_auth", fasthttp.MethodGet, t.uri, h.SetBytesV)
	}
	err := t.client.DoTimeout(req, res, a.timeout)
	if o := x.Observer; o != nil {
		switch {
		case err == nil:
			o.CallEnds(x, res.StatusCode(), "")
		case errors.Is(err, fasthttp.ErrTimeout):
			o.CallEnds(x, 0, "timeout")
		default:
			o.CallEnds(x, 0, "unreachable")
		}
	}
	if err != nil {
		return nil
	}
	return a.read(res)
}

// appendURI appends the canonical path, encoded, and the query: what the backend is going to get, and not what a client may have
// written for it.
func appendURI(dst []byte, x *exchange.Exchange) []byte {
	const upper = "0123456789ABCDEF"
	for _, c := range x.Path {
		if plain[c] {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', upper[c>>4], upper[c&15])
		}
	}
	if len(x.Query) > 0 {
		dst = append(append(dst, '?'), x.Query...)
	}
	return dst
}

// plain is what stands for itself in a path (RFC 3986, section 3.3).
var plain = func() (is [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@/") {
		is[c] = true
	}
	return is
}()
