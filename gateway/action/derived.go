package action

import "sluice/gateway/exchange"

// unfit are fields of a client's request that say something untrue, or unwanted, of a request of
// the gateway's own that is made for it: what its body is, which answer it wants, how long it has,
// and which method is meant.
var unfit = [...]string{
	"Accept", "Accept-Charset", "Accept-Encoding",
	"Content-Type", "Content-Length", "Content-Encoding", "Content-Language", "Content-Location", "Content-Disposition", "Content-Range",
	"Content-MD5", "Digest", "Content-Digest", "Repr-Digest",
	"Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since",
	"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override",
	exchange.DeadlineHeader, "Grpc-Timeout",
	"Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol", "Sec-WebSocket-Accept",
}

// GoesOn tells whether a field of the client's request may stand in one that is made for it.
func GoesOn(f *exchange.Field) bool {
	switch f.Kind {
	case exchange.KindConnection, exchange.KindForwarded, exchange.KindVia:
		return true // the wire needs them to tell what passes
	case exchange.KindOther:
	default:
		return false
	}
	return !IsUnfit(f.Name)
}

// IsUnfit tells a field whose value is for the action to say.
func IsUnfit(name []byte) bool {
	for _, n := range unfit {
		if exchange.SameField(name, n) {
			return true
		}
	}
	return false
}

// Derive leaves to a copy of the client's exchange the fields that go on, and of those that say
// nothing of the request itself the ones that passes wants; nil wants all. What policies have
// decided of the others is undone too: the action says them anew.
func Derive(x *exchange.Exchange, passes func(name []byte) bool) {
	kept := x.Fields[:0]
	for i := range x.Fields {
		f := x.Fields[i]
		if GoesOn(&f) && (f.Kind != exchange.KindOther || passes == nil || passes(f.Name)) {
			kept = append(kept, f)
		}
	}
	x.Fields = kept
	for _, name := range unfit {
		if _, decided := x.ToBackend.Value(name); decided {
			x.ToBackend.Remove(name)
		}
	}
}
