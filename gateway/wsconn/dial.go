package wsconn

import (
	"slices"
	"strings"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
	"sluice/gateway/telemetry"
	"sluice/gateway/upstream"
	"sluice/gateway/wswire"
)

// rejectService is for a service that does not take the handshake.
var rejectService = exchange.NewReject(fasthttp.StatusBadGateway, "websocket_refused", "the service did not take up the WebSocket")

// Dial opens a WebSocket to a service by x, an exchange made for that, which the connection ends with at the latest: its handshake goes the way
// of all requests, and x has its fields, without any about WebSocket. limits.MaxMessage is of the service's messages. An error is
// the answer for the client.
func Dial(s *upstream.Service, x *exchange.Exchange, limits exchange.SocketLimits, subprotocols []string) (*Conn, error) {
	key := wswire.NewKey()
	add := func(name, value string) {
		x.Fields = append(x.Fields, exchange.Field{Name: []byte(name), Value: []byte(value), Kind: exchange.KindOf([]byte(name))})
	}
	x.Request.Header.SetMethod(fasthttp.MethodGet)
	x.Request.Header.SetProtocol("HTTP/1.1")
	x.Body = nil
	add("Connection", "Upgrade")
	add("Upgrade", "websocket")
	add("Sec-WebSocket-Version", "13")
	add("Sec-WebSocket-Key", string(key))
	if len(subprotocols) > 0 {
		add("Sec-WebSocket-Protocol", strings.Join(subprotocols, ", "))
	}
	if err := s.Forward(x); err != nil {
		return nil, err
	}
	t, switched := x.Tunnel.(*upstream.Tunnel)
	if !switched || x.Answer != exchange.Tunnel {
		return nil, rejectService
	}
	head := func(name string) string { return string(x.ResponseHeader(name)) }
	chosen := head("Sec-WebSocket-Protocol")
	switch {
	case !strings.EqualFold(head("Upgrade"), "websocket"), head("Sec-WebSocket-Accept") != string(wswire.AppendAccept(nil, key)),
		head("Sec-WebSocket-Extensions") != "", chosen != "" && !slices.Contains(subprotocols, chosen):
		return nil, rejectService
	}
	c, err := newConn(t.Conn(), x.Clock, limits, telemetry.ByService)
	if err != nil {
		return nil, rejectService
	}
	return c, nil
}
