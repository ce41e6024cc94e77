package apiversion

import "sluice/gateway/exchange"

// headerChange is a header called from that is called to since. One that is new has no from, one that is gone no to.
type headerChange struct {
	from, to string
	value    []byte // for who lacks it
}

// up changes the request on its way to the backend.
func (h *headerChange) up(x *exchange.Exchange) {
	switch {
	case h.from == "":
		if _, there := toBackend(x, h.to); !there {
			x.ToBackend.Set(h.to, h.value)
		}
	case h.to == "":
		x.ToBackend.Remove(h.from)
	default:
		if value, there := toBackend(x, h.from); there {
			x.ToBackend.Remove(h.from)
			x.ToBackend.Set(h.to, value)
		}
	}
}

// toBackend is the value that the backend would get as things stand.
func toBackend(x *exchange.Exchange, name string) (value []byte, there bool) {
	if value, decided := x.ToBackend.Value(name); decided {
		return value, value != nil
	}
	for i := range x.Fields {
		if f := &x.Fields[i]; f.Kind == exchange.KindOther && exchange.SameField(f.Name, name) {
			return f.Value, true
		}
	}
	return nil, false
}

// down changes the answer on its way to the client.
func (h *headerChange) down(x *exchange.Exchange) {
	r := &x.Response.Header
	switch {
	case h.from == "":
		exchange.DelResponse(r, h.to)
	case h.to == "":
		if x.ResponseHeader(h.from) == nil {
			r.AddBytesV(h.from, h.value)
		}
	default:
		if value := x.ResponseHeader(h.to); value != nil {
			value = x.Copy(value) // deleting moves the fields
			exchange.DelResponse(r, h.to)
			exchange.DelResponse(r, h.from)
			r.AddBytesV(h.from, value)
		}
	}
}
