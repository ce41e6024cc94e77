package tracing

// parseB3 reads the single header of B3: TRACE-SPAN, with -SAMPLED and then -PARENT behind it as they please, or the decision about
// sampling alone. known says that there is a span to be part of.
func parseB3(v []byte, p *parent) (known bool) {
	if len(v) == 1 {
		p.decide(v)
		return false
	}
	end := indexByte(v, '-')
	if end < 0 || !p.readTrace(v[:end]) || len(v) < end+1+16 || !p.readSpan(v[end+1:end+1+16]) {
		*p = parent{}
		return false
	}
	if v = v[end+1+16:]; len(v) == 0 {
		return true
	}
	var above spanID
	ok := len(v) >= 2 && v[0] == '-' && p.decide(v[1:2]) || len(v) == 17
	switch {
	case !ok || v[0] != '-':
	case len(v) == 2:
		return true
	case len(v) == 17: // the parent without a decision
		if above.read(v[1:]) {
			p.decided, p.debug, p.flags = false, false, p.flags&^flagSampled
			return true
		}
	case len(v) == 19 && v[2] == '-' && above.read(v[3:]):
		return true
	}
	*p = parent{}
	return false
}

// parseB3Multi reads the headers X-B3-TraceId, X-B3-SpanId, X-B3-Sampled and X-B3-Flags.
func parseB3Multi(trace, span, sampled, flags []byte, p *parent) (known bool) {
	switch {
	case string(flags) == "1":
		p.decide([]byte{'d'})
	case string(sampled) == "true": // of old senders
		p.decide([]byte{'1'})
	case string(sampled) == "false":
		p.decide([]byte{'0'})
	case len(sampled) == 1 && sampled[0] != 'd':
		p.decide(sampled)
	}
	decision := *p
	if p.readTrace(trace) && p.readSpan(span) {
		return true
	}
	*p = decision
	p.trace, p.span = traceID{}, 0
	return false
}

// decide takes 0, 1, or d for debug.
func (p *parent) decide(v []byte) bool {
	switch v[0] {
	case '0':
		p.decided = true
	case '1':
		p.decided, p.flags = true, p.flags|flagSampled
	case 'd':
		p.decided, p.debug, p.flags = true, true, p.flags|flagSampled
	default:
		return false
	}
	return true
}

// readTrace takes an id of 128 bits, or of 64, which becomes the lower half of one.
func (p *parent) readTrace(v []byte) bool {
	switch len(v) {
	case 16:
		var half spanID
		ok := half.read(v)
		p.trace = traceID{low: uint64(half)}
		return ok && half != 0
	case 32:
		return p.trace.read(v) && p.trace != traceID{}
	}
	return false
}

func (p *parent) readSpan(v []byte) bool {
	return len(v) == 16 && p.span.read(v) && p.span != 0
}

// b3Len is the length of the single header that is sent: TRACE-SPAN-SAMPLED-PARENT.
const b3Len = 32 + 1 + 16 + 1 + 1 + 1 + 16

// Where the parts of the single header stand.
const atB3Span, atB3Sampled, atB3Parent = 33, 50, 52
