package tracing

import "sluice/gateway/exchange"

// fields are the header fields of a request that are about its trace. Their values are borrowed.
type fields struct {
	traceparent  []byte
	traceparents int
	tracestates  int
	baggage      int // bytes in all such fields
	baggages     int
	b3           []byte
	b3s          int

	multi [len(multiNames)][]byte
	sent  uint8 // a bit for each of multi that the request has
}

// multiNames are the headers of B3 in its older form.
var multiNames = [...]string{"X-B3-TraceId", "X-B3-SpanId", "X-B3-Sampled", "X-B3-Flags", "X-B3-ParentSpanId"}

const (
	multiTrace = iota
	multiSpan
	multiSampled
	multiFlags
	multiParent
)

// concernsTrace tells whether a field may be one of those: by the length of its name and the first letter, which nearly no others have.
func concernsTrace(all []exchange.Field) bool {
	const lengths = 1<<len("b3") | 1<<len("baggage") | 1<<len("tracestate") | 1<<len("traceparent") | 1<<len("X-B3-TraceId") | 1<<len("X-B3-ParentSpanId")
	for i := range all {
		f := &all[i]
		if f.Kind != exchange.KindOther || len(f.Name) >= 32 || 1<<len(f.Name)&lengths == 0 {
			continue
		}
		switch f.Name[0] | 0x20 {
		case 't', 'b', 'x':
			return true
		}
	}
	return false
}

func (f *fields) read(all []exchange.Field) {
	for i := range all {
		field := &all[i]
		switch len(field.Name) {
		case len("b3"):
			if exchange.EqualFold(field.Name, "b3") {
				f.b3 = exchange.TrimOWS(field.Value)
				f.b3s++
			}
		case len("baggage"):
			if exchange.EqualFold(field.Name, "baggage") {
				f.baggage += len(field.Value)
				f.baggages++
			}
		case len("tracestate"), len("traceparent"), len("X-B3-TraceId"), len("X-B3-ParentSpanId"):
			f.readLong(field)
		}
	}
}

func (f *fields) readLong(field *exchange.Field) {
	switch field.Name[0] | 0x20 {
	case 't':
		if exchange.EqualFold(field.Name, "traceparent") {
			f.traceparent = exchange.TrimOWS(field.Value)
			f.traceparents++
		} else if exchange.EqualFold(field.Name, "tracestate") {
			f.tracestates++
		}
	case 'x':
		for i, name := range multiNames {
			if exchange.EqualFold(field.Name, name) {
				f.multi[i] = exchange.TrimOWS(field.Value)
				f.sent |= 1 << i
			}
		}
	}
}

// parent finds out which span the request is part of; known is false if it does not say, and then p may still hold a decision of B3's.
// w3c tells that it was said by a traceparent, which goes before B3.
func (f *fields) parent(p *parent, forms forms) (known, w3c bool) {
	if forms.w3c && f.traceparents == 1 && parseTraceparent(f.traceparent, p) {
		return true, true
	}
	if !forms.b3 && !forms.b3multi {
		return false, false
	}
	if f.b3s == 1 && parseB3(f.b3, p) {
		return true, false
	}
	if f.b3s == 0 && f.sent != 0 {
		return parseB3Multi(f.multi[multiTrace], f.multi[multiSpan], f.multi[multiSampled], f.multi[multiFlags], p), false
	}
	return false, false
}

// tracestate gives the members of all tracestate fields as one value, nil if there are none or any is not valid.
func tracestate(x *exchange.Exchange) []byte {
	m := members{list: x.Scratch()}
	for i := range x.Fields {
		if f := &x.Fields[i]; exchange.EqualFold(f.Name, "tracestate") {
			m.add(f.Value)
		}
	}
	if m.bad || m.n == 0 {
		return nil
	}
	return x.Keep(m.list)
}
