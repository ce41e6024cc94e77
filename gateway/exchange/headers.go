package exchange

import (
	"slices"

	"github.com/valyala/fasthttp"
)

// EditOp is what a header edit does.
type EditOp uint8

// The header edits.
const (
	// EditSet puts the value in place of all others of that name.
	EditSet EditOp = iota
	// EditAdd appends one more field.
	EditAdd
	// EditRemove takes all fields of that name away.
	EditRemove
)

// HeaderEdit is one change to a set of headers.
type HeaderEdit struct {
	Name  string
	Value []byte
	Op    EditOp
}

// HeaderEdits is an ordered list of changes to headers that a message does not
// have yet. Values are borrowed and must live as long as the Exchange; names
// are strings of the configuration.
type HeaderEdits struct {
	list []HeaderEdit
}

// Set replaces every field called name, including earlier edits of it. It is one piece of code for all who set something.
//
//go:noinline
func (h *HeaderEdits) Set(name string, value []byte) {
	h.drop(name)
	h.list = append(h.list, HeaderEdit{Name: name, Value: value, Op: EditSet})
}

// Add appends a field beside those that are there.
func (h *HeaderEdits) Add(name string, value []byte) {
	h.list = append(h.list, HeaderEdit{Name: name, Value: value, Op: EditAdd})
}

// Remove takes away every field called name, including earlier edits of it.
func (h *HeaderEdits) Remove(name string) {
	h.drop(name)
	h.list = append(h.list, HeaderEdit{Name: name, Op: EditRemove})
}

// Restore puts the list in place of all edits.
func (h *HeaderEdits) Restore(list []HeaderEdit) {
	h.reset()
	h.list = append(h.list, list...)
}

// List returns the edits in order. It is borrowed.
func (h *HeaderEdits) List() []HeaderEdit { return h.list }

// Decides reports whether an edit sets or removes a field, so that one that is
// there may not pass.
func (h *HeaderEdits) Decides() bool {
	for i := range h.list {
		if h.list[i].Op != EditAdd {
			return true
		}
	}
	return false
}

// Names reports whether an edit sets or removes the field called name.
func (h *HeaderEdits) Names(name []byte) bool {
	for i := range h.list {
		if e := &h.list[i]; e.Op != EditAdd && EqualFold(name, e.Name) {
			return true
		}
	}
	return false
}

// Replaces reports whether an edit sets or removes name, so that an original
// field of that name must not pass. An underscore in name is taken for a
// hyphen: many backends fold the two, and would find the original instead.
func (h *HeaderEdits) Replaces(name []byte) bool {
	for i := range h.list {
		e := &h.list[i]
		if e.Op != EditAdd && len(e.Name) == len(name) && foldedEqual(name, e.Name) {
			return true
		}
	}
	return false
}

// Value returns the value that the edits give name, and whether they decide
// it: a removed header is decided and nil.
func (h *HeaderEdits) Value(name string) (value []byte, decided bool) {
	for i := len(h.list) - 1; i >= 0; i-- {
		e := &h.list[i]
		if len(e.Name) == len(name) && equalFoldString(e.Name, name) {
			return e.Value, true
		}
	}
	return nil, false
}

func (h *HeaderEdits) drop(name string) {
	for i := 0; i < len(h.list); i++ {
		if len(h.list[i].Name) == len(name) && equalFoldString(h.list[i].Name, name) {
			h.list = slices.Delete(h.list, i, i+1)
			i--
		}
	}
}

func (h *HeaderEdits) reset() {
	if len(h.list) > 0 {
		clear(h.list)
		h.list = h.list[:0]
	}
}

// Apply carries the edits out on a response.
func (h *HeaderEdits) Apply(r *fasthttp.ResponseHeader) {
	for i := range h.list {
		e := &h.list[i]
		switch e.Op {
		case EditSet:
			DelResponse(r, e.Name)
			r.AddBytesV(e.Name, e.Value)
		case EditAdd:
			r.AddBytesV(e.Name, e.Value)
		case EditRemove:
			DelResponse(r, e.Name)
		}
	}
}

// ResponseHeader returns the first value of a header of the response,
// whatever the case a backend wrote its name in; nil without one.
func (x *Exchange) ResponseHeader(name string) []byte {
	return PeekResponse(&x.Response.Header, name)
}

// PeekResponse finds a response header without regard to case. Response names
// keep the case that the backend wrote, so fasthttp's own Peek can miss them.
func PeekResponse(r *fasthttp.ResponseHeader, name string) []byte {
	if v := r.Peek(name); v != nil {
		return v
	}
	for k, v := range r.All() {
		if len(k) == len(name) && EqualFold(k, name) {
			return v
		}
	}
	return nil
}

// DelResponse deletes every field called name from a response, whatever its case.
func DelResponse(r *fasthttp.ResponseHeader, name string) {
	if equalFoldString(name, fasthttp.HeaderContentType) {
		r.SetNoDefaultContentType(true) // else it comes back
	}
	// The key that is there is found first: deleting moves the fields that the
	// iteration stands on.
	for {
		var found []byte
		for k := range r.All() {
			if len(k) == len(name) && EqualFold(k, name) {
				found = k
				break
			}
		}
		if found == nil {
			return
		}
		r.DelBytes(found)
	}
}

// EqualFold reports whether a field name equals name without regard to ASCII case.
func EqualFold(a []byte, name string) bool {
	if len(a) != len(name) {
		return false
	}
	for i := range a {
		if lower(a[i]) != lower(name[i]) {
			return false
		}
	}
	return true
}

func equalFoldString(a, b string) bool {
	if a == b {
		return true
	}
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}
