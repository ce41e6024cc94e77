package openapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth is how deep a body may nest.
const maxDepth = 256

// decodeJSON reads a body that every reader reads alike: one value in UTF-8 whose objects have each name once.
func decodeJSON(body []byte) (any, *fault) {
	if !utf8.Valid(body) {
		return nil, wrong("body", "is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	r := reader{d: d}
	value := r.value(0)
	if r.fault == nil {
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			return nil, wrong("body", "has something behind its JSON")
		}
	}
	return value, r.fault
}

// Bounds of a number: whatever 64 bits hold can be written within them. Beyond, readers differ, and to check it, which is exact, would
// take milliseconds for every few bytes.
const (
	maxNumber   = 1100
	maxExponent = 400
)

func fits(number string) bool {
	if len(number) > maxNumber {
		return false
	}
	at := strings.IndexAny(number, "eE")
	if at < 0 {
		return true
	}
	exponent, err := strconv.Atoi(number[at+1:])
	return err == nil && exponent >= -maxExponent && exponent <= maxExponent
}

// reader makes values of tokens.
type reader struct {
	d     *json.Decoder
	path  []string
	fault *fault
}

func (r *reader) malformed() any {
	if r.fault == nil {
		r.fault = wrong("body", "is no JSON, from byte %d on", r.d.InputOffset())
	}
	return nil
}

func (r *reader) value(depth int) any {
	token, err := r.d.Token()
	if err != nil {
		return r.malformed()
	}
	if n, ok := token.(json.Number); ok && !fits(string(n)) {
		r.fault = wrong(place("body", r.path), "is a number that not every reader can hold")
		return nil
	}
	delim, nested := token.(json.Delim)
	switch {
	case !nested:
		return token
	case depth == maxDepth:
		r.fault = wrong("body", "nests deeper than %d", maxDepth)
		return nil
	case delim == '{':
		return r.object(depth)
	case delim == '[':
		return r.array(depth)
	}
	return r.malformed()
}

func (r *reader) object(depth int) any {
	members := make(map[string]any)
	for r.fault == nil && r.d.More() {
		token, err := r.d.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return r.malformed()
		}
		r.path = append(r.path, name)
		if _, twice := members[name]; twice {
			r.fault = wrong(place("body", r.path), "stands more than once")
			return nil
		}
		members[name] = r.value(depth + 1)
		r.path = r.path[:len(r.path)-1]
	}
	return r.end(members)
}

func (r *reader) array(depth int) any {
	elements := []any{}
	for r.fault == nil && r.d.More() {
		r.path = append(r.path, strconv.Itoa(len(elements)))
		elements = append(elements, r.value(depth+1))
		r.path = r.path[:len(r.path)-1]
	}
	return r.end(elements)
}

// end takes the bracket at the end.
func (r *reader) end(value any) any {
	if r.fault != nil {
		return nil
	}
	if _, err := r.d.Token(); err != nil {
		return r.malformed()
	}
	return value
}
