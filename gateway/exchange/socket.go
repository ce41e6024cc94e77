package exchange

import (
	"time"

	"sluice/gateway/wswire"
)

// SocketLimits is what a client may do over a WebSocket. A zero in it is no limit.
type SocketLimits struct {
	// MaxMessage bounds a message of the client, MaxAnswer one of the service, in bytes as they are on the wire.
	MaxMessage, MaxAnswer int64
	// Pace bounds the client's messages and control frames.
	Pace wswire.Pace
	// Idle is the longest time without a message in either direction, Ping the longest without a byte of the client before
	// it is asked whether it is there; one that says nothing for as long again is not.
	Idle, Ping time.Duration
}

// Tighten takes over what is tighter in o.
func (l *SocketLimits) Tighten(o *SocketLimits) {
	l.MaxMessage, l.MaxAnswer = tighter(l.MaxMessage, o.MaxMessage), tighter(l.MaxAnswer, o.MaxAnswer)
	l.Idle, l.Ping = tighter(l.Idle, o.Idle), tighter(l.Ping, o.Ping)
	if o.Pace.Interval > l.Pace.Interval {
		l.Pace = o.Pace
	}
}

func tighter[T ~int64](a, b T) T {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// IsWebSocket reports whether the request asks to switch to WebSocket (RFC 6455, section 4.2.1), as far as that may be asked:
// over HTTP/1.1, by one Upgrade field that its Connection fields name. WebSocket may be one of several protocols in it, of which a
// service takes whichever it likes.
func (x *Exchange) IsWebSocket() bool {
	upgrades, asked, named := 0, false, false
	for i := range x.Fields {
		switch f := &x.Fields[i]; f.Kind {
		case KindUpgrade:
			upgrades++
			asked = hasToken(f.Value, "websocket")
		case KindConnection:
			named = named || hasToken(f.Value, "upgrade")
		}
	}
	return upgrades == 1 && asked && named && x.Protocol == "" && x.Request.Header.IsHTTP11()
}

func hasToken(list []byte, name string) bool {
	for len(list) > 0 {
		var token []byte
		if token, list = cutByte(list, ','); EqualFold(TrimOWS(token), name) {
			return true
		}
	}
	return false
}
