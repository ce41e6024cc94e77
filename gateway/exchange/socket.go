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

// IsWebSocket reports whether the request asks to switch to WebSocket (RFC 6455, section 4.1), as far as that may be asked:
// over HTTP/1.1, by one Upgrade field that its Connection fields name.
func (x *Exchange) IsWebSocket() bool {
	upgrades, named := 0, false
	for i := range x.Fields {
		switch f := &x.Fields[i]; f.Kind {
		case KindUpgrade:
			if upgrades++; !EqualFold(f.Value, "websocket") {
				return false
			}
		case KindConnection:
			for rest := f.Value; len(rest) > 0; {
				var token []byte
				token, rest = cutByte(rest, ',')
				named = named || EqualFold(TrimOWS(token), "upgrade")
			}
		}
	}
	return upgrades == 1 && named && x.Protocol == "" && x.Request.Header.IsHTTP11()
}
