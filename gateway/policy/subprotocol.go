package policy

import (
	"bytes"
	"strings"

	"sluice/gateway/exchange"
)

// Subprotocol is a name under which WebSockets carry a credential among the subprotocols that they offer, for browsers, which can set no header for
// them: new WebSocket(url, [name, credential]), or [name + "." + credential]. "" is none.
type Subprotocol string

const protocolHeader = "Sec-WebSocket-Protocol"

// Find returns the credential of the handshake, nil without one, and how many there are.
func (s Subprotocol) Find(x *exchange.Exchange) (credential []byte, n int) {
	if s == "" || !x.IsWebSocket() {
		return nil, 0
	}
	s.each(x, func(_, value []byte) {
		if value == nil {
			return
		}
		if n++; n == 1 {
			credential = value
		}
	})
	return credential, n
}

// each calls f for every subprotocol but the name alone; value is what it carries, nil if it is another one.
func (s Subprotocol) each(x *exchange.Exchange, f func(whole, value []byte)) {
	named := false
	for i := range x.Fields {
		field := &x.Fields[i]
		if len(field.Name) != len(protocolHeader) || !exchange.EqualFold(field.Name, protocolHeader) {
			continue
		}
		for rest := field.Value; len(rest) > 0; {
			var token []byte
			if end := bytes.IndexByte(rest, ','); end >= 0 {
				token, rest = rest[:end], rest[end+1:]
			} else {
				token, rest = rest, nil
			}
			token = exchange.TrimOWS(token)
			switch {
			case len(token) == 0:
			case named:
				named = false
				f(token, token)
			case string(token) == string(s):
				named = true
			case len(token) > len(s)+1 && string(token[:len(s)]) == string(s) && token[len(s)] == '.':
				f(token, token[len(s)+1:])
			default:
				f(token, nil)
			}
		}
	}
}

// Hide keeps name and credential from the backend; other subprotocols go on. It is for a Request hook.
func (s Subprotocol) Hide(x *exchange.Exchange) {
	if s == "" || !x.IsWebSocket() {
		return
	}
	found := false
	others := x.Scratch()
	s.each(x, func(whole, value []byte) {
		switch {
		case value != nil:
			found = true
		case len(others) > 0:
			others = append(append(others, ", "...), whole...)
		default:
			others = append(others, whole...)
		}
	})
	switch {
	case !found:
	case len(others) == 0:
		x.ToBackend.Remove(protocolHeader)
	default:
		x.ToBackend.Set(protocolHeader, x.Keep(others))
	}
}

// Answer chooses the subprotocol that carried the credential where nobody has chosen another: browsers want one of those that they have offered.
// It is for a Response hook.
func (s Subprotocol) Answer(x *exchange.Exchange) {
	if s == "" || x.Answer != exchange.Tunnel || x.ResponseHeader(protocolHeader) != nil {
		return
	}
	s.each(x, func(whole, value []byte) {
		switch {
		case value == nil:
		case len(whole) == len(value):
			x.ToClient.Set(protocolHeader, x.CopyString(string(s)))
		default:
			x.ToClient.Set(protocolHeader, x.Copy(whole))
		}
	})
}

// CheckSubprotocol says why s can not be such a name.
func CheckSubprotocol(s string) error {
	if s == "" || exchange.IsToken(s) && !strings.HasSuffix(s, ".") {
		return nil
	}
	return Wrong("subprotocol", "%q can not be the name of a subprotocol; write one such as bearer", s)
}
