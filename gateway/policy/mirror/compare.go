package mirror

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// answer is what is remembered of an answer.
type answer struct {
	known  bool // there was one
	whole  bool // body is all of it
	cut    bool // it was longer than is compared
	status int
	// head holds the values of the comparison's headers one after the other; the i-th ends at ends[i].
	head []byte
	ends [maxHeaders + 2]uint32
	body []byte
}

// maxHeaders bounds the headers that are compared.
const maxHeaders = 30

// read remembers the headers that matter.
func (a *answer) read(c *comparison, h *fasthttp.ResponseHeader) {
	a.head = a.head[:0]
	for i, name := range c.names {
		from := len(a.head)
		for k, v := range h.All() {
			if exchange.EqualFold(k, name) {
				if len(a.head) > from {
					a.head = append(a.head, ", "...)
				}
				a.head = append(a.head, v...)
			}
		}
		a.ends[i] = uint32(len(a.head))
	}
}

// value of the i-th header, empty without one.
func (a *answer) value(i int) []byte {
	from := uint32(0)
	if i > 0 {
		from = a.ends[i-1]
	}
	return a.head[from:a.ends[i]]
}

// comparison is the compiled block.
type comparison struct {
	names   []string // of headers; the last two are Content-Type and Content-Encoding, which say what bodies are
	ignore  [][]string
	maxBody int
}

func newComparison(c *Compare) (*comparison, error) {
	m := &comparison{maxBody: int(c.MaxBody)}
	if len(c.Headers) > maxHeaders {
		return nil, policy.Wrong("compare.headers", "has %d names; %d at most are compared", len(c.Headers), maxHeaders)
	}
	for i, name := range c.Headers {
		if !exchange.IsToken(name) {
			return nil, policy.Wrong("compare.headers["+strconv.Itoa(i)+"]", "%q can not be the name of a header", name)
		}
		m.names = append(m.names, name)
	}
	m.names = append(m.names, fasthttp.HeaderContentType, fasthttp.HeaderContentEncoding)
	for i, path := range c.Ignore {
		segments, err := parsePath(path)
		if err != nil {
			return nil, policy.Wrong("compare.ignore["+strconv.Itoa(i)+"]", "%q %v", path, err)
		}
		m.ignore = append(m.ignore, segments)
	}
	return m, nil
}

// parsePath reads $.items[*].id as items, *, id.
func parsePath(path string) ([]string, error) {
	rest := strings.TrimPrefix(path, "$")
	if rest == "" && path != "" {
		return []string{}, nil
	}
	rest = strings.TrimPrefix(rest, ".")
	rest = strings.ReplaceAll(strings.ReplaceAll(rest, "[", "."), "]", "")
	rest = strings.TrimPrefix(rest, ".")
	segments := strings.Split(rest, ".")
	if slices.Contains(segments, "") {
		return nil, errors.New("is no path in JSON; write it as meta.took, items[*].id or $")
	}
	return segments, nil
}

// The kinds of differences.
const (
	kindStatus = iota
	kindHeader
	kindBody
)

var kindNames = [...]string{"status", "header", "body"}

// verdict on two answers.
type verdict struct {
	kinds      uint8 // a bit for each kind that differs
	uncompared bool  // nothing differs, but the bodies could not be compared
	detail     string
}

func (v *verdict) names() []string {
	var names []string
	for i, name := range kindNames {
		if v.kinds&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// compare says what differs. Where the status does, all else is expected to.
func (c *comparison) compare(a, b *answer) (v verdict) {
	if a.status != b.status {
		return verdict{kinds: 1 << kindStatus, detail: fmt.Sprintf("status %d, of the copy %d", a.status, b.status)}
	}
	var details []string
	compared := len(c.names) - 2
	for i, name := range c.names[:compared] {
		if !bytes.Equal(a.value(i), b.value(i)) {
			v.kinds |= 1 << kindHeader
			details = append(details, "header "+name)
		}
	}
	if difference, known := c.compareBodies(a, b, compared, compared+1); !known {
		v.uncompared = v.kinds == 0
	} else if difference != "" {
		v.kinds |= 1 << kindBody
		details = append(details, "body: "+difference)
	}
	v.detail = text([]byte(strings.Join(details, "; ")))
	return v
}

// compareBodies says in words what differs, "" for nothing; known tells whether they could be compared.
func (c *comparison) compareBodies(a, b *answer, contentType, encoding int) (difference string, known bool) {
	if !a.whole || !b.whole {
		return "", false
	}
	if c.ignored(nil) || bytes.Equal(a.body, b.body) && bytes.Equal(a.value(encoding), b.value(encoding)) {
		return "", true
	}
	one, ok := decoded(a.body, a.value(encoding))
	other, okToo := decoded(b.body, b.value(encoding))
	if !ok || !okToo {
		return "", false
	}
	if isJSON(a.value(contentType)) && isJSON(b.value(contentType)) {
		x, err := parseJSON(one)
		y, errToo := parseJSON(other)
		if err == nil && errToo == nil {
			return c.diff(nil, x, y), true
		}
	}
	if bytes.Equal(one, other) {
		return "", true
	}
	return fmt.Sprintf("%d bytes, of the copy %d that are others", len(one), len(other)), true
}

// maxDecoded bounds what a compressed body is decoded to.
const maxDecoded = 8 << 20

// decoded undoes the content coding; ok is false for one that is not known.
func decoded(body, encoding []byte) (plain []byte, ok bool) {
	switch {
	case len(encoding) == 0 || exchange.EqualFold(encoding, "identity") || len(body) == 0:
		return body, true
	case exchange.EqualFold(encoding, "gzip"):
		r, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, false
		}
		plain, err = io.ReadAll(io.LimitReader(r, maxDecoded+1))
		return plain, err == nil && len(plain) <= maxDecoded
	}
	return nil, false
}

func isJSON(contentType []byte) bool {
	media, _, _ := strings.Cut(string(contentType), ";")
	media = strings.ToLower(strings.TrimSpace(media))
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

func parseJSON(body []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err = d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err = d.Token(); err != io.EOF {
		return nil, errors.New("there is more behind it")
	}
	return v, nil
}

// ignored reports whether a path may differ.
func (c *comparison) ignored(path []string) bool {
	return slices.ContainsFunc(c.ignore, func(pattern []string) bool {
		if len(pattern) != len(path) {
			return false
		}
		for i, segment := range pattern {
			if segment != "*" && segment != path[i] {
				return false
			}
		}
		return true
	})
}

// diff finds the first difference: where it is and of what kind, never the values.
func (c *comparison) diff(path []string, a, b any) string {
	if c.ignored(path) {
		return ""
	}
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			return c.diffObjects(path, x, y)
		}
	case []any:
		if y, ok := b.([]any); ok {
			if len(x) != len(y) {
				return fmt.Sprintf("%s has %d elements, in the copy %d", shown(path), len(x), len(y))
			}
			for i := range x {
				if d := c.diff(append(path, strconv.Itoa(i)), x[i], y[i]); d != "" {
					return d
				}
			}
			return ""
		}
	case json.Number:
		if y, ok := b.(json.Number); ok {
			if sameNumber(x, y) {
				return ""
			}
			return shown(path) + " is another number"
		}
	default:
		if a == b && kindOf(a) == kindOf(b) {
			return ""
		}
	}
	if one, other := kindOf(a), kindOf(b); one != other {
		return fmt.Sprintf("%s is %s, in the copy %s", shown(path), one, other)
	}
	return fmt.Sprintf("%s is another %s", shown(path), strings.TrimPrefix(strings.TrimPrefix(kindOf(a), "a "), "an "))
}

func (c *comparison) diffObjects(path []string, a, b map[string]any) string {
	keys := make([]string, 0, len(a)+len(b))
	for k := range a {
		keys = append(keys, k)
	}
	for k := range b {
		if _, both := a[k]; !both {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	for _, k := range keys {
		at := append(path, k)
		x, inA := a[k]
		y, inB := b[k]
		var d string
		switch {
		case inA && inB:
			d = c.diff(at, x, y)
		case c.ignored(at):
		case inA:
			d = shown(at) + " is missing in the copy"
		default:
			d = shown(at) + " is in the copy alone"
		}
		if d != "" {
			return d
		}
	}
	return ""
}

// sameNumber compares integers digit by digit, and whatever has a fraction or an exponent by its value.
func sameNumber(a, b json.Number) bool {
	if a == b {
		return true
	}
	if !strings.ContainsAny(string(a)+string(b), ".eE") {
		return false
	}
	x, err := a.Float64()
	y, errToo := b.Float64()
	return err == nil && errToo == nil && x == y
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case string:
		return "a text"
	case json.Number:
		return "a number"
	case []any:
		return "a list"
	}
	return "an object"
}

// shown writes a path as parsePath reads it.
func shown(path []string) string {
	if len(path) == 0 {
		return "$"
	}
	return strings.Join(path, ".")
}
