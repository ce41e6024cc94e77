package apiversion

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/gateway/exchange"
)

// number is a version that can be compared: a date, or a number of up to three parts.
type number struct {
	date  bool
	parts []int
}

// parseVersion reads 2024-10-01, 2, v2 or 1.4.2.
func parseVersion(text string) (n number, err error) {
	plain := canonical(text)
	if day, err := time.Parse(time.DateOnly, plain); err == nil {
		return number{date: true, parts: []int{day.Year(), int(day.Month()), day.Day()}}, nil
	}
	for part := range strings.SplitSeq(plain, ".") {
		i, err := strconv.Atoi(part)
		if err != nil || i < 0 || strconv.Itoa(i) != part || len(n.parts) == 3 {
			return number{}, fmt.Errorf("%q is no version; write a date as 2024-10-01, or a number as 2 or 1.4", text)
		}
		n.parts = append(n.parts, i)
	}
	return n, nil
}

// compare orders versions; 1 and 1.0 are the same.
func (n number) compare(o number) int {
	if n.date != o.date {
		return cmp.Compare(fmt.Sprint(n.date), fmt.Sprint(o.date))
	}
	return slices.Compare(trimmed(n.parts), trimmed(o.parts))
}

func trimmed(parts []int) []int {
	for len(parts) > 1 && parts[len(parts)-1] == 0 {
		parts = parts[:len(parts)-1]
	}
	return parts
}

// canonical is a version without its v.
func canonical[T string | []byte](text T) T {
	if len(text) > 1 && text[0]|0x20 == 'v' && isDigit(text[1]) {
		return text[1:]
	}
	return text
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// pathTemplate is a path that begins with the version. The zero value is none.
type pathTemplate struct {
	before  string // up to the version
	segment int    // where the slash of the version's segment is
}

func parsePathTemplate(text string) (pathTemplate, error) {
	before, after, found := strings.Cut(text, "{version}")
	if !found || !strings.HasPrefix(before, "/") || strings.ContainsAny(before, "{}") || after != "" && after != "/" {
		return pathTemplate{}, errors.New("must begin with a slash and end with {version}, as /v{version} or /api/v{version}")
	}
	return pathTemplate{before, strings.LastIndexByte(before, '/')}, nil
}

// find returns what stands for the version and the part of the path that is its segment; nil where the path has none. What does not
// begin with a digit is another segment that happens to begin alike, as /videos does with /v.
func (t *pathTemplate) find(path []byte) (version []byte, from, to int) {
	if t.before == "" || len(path) <= len(t.before) || string(path[:len(t.before)]) != t.before {
		return nil, 0, 0
	}
	version = path[len(t.before):]
	if end := bytes.IndexByte(version, '/'); end >= 0 {
		version = version[:end]
	}
	if plain := canonical(version); len(plain) == 0 || !isDigit(plain[0]) {
		return nil, 0, 0
	}
	return version, t.segment, len(t.before) + len(version)
}

// found is what a request says about its version.
type found struct {
	version int
	source  string // the place that named it
	from    int    // the part of the path that names it
	to      int
}

// find looks for the version of a request. It changes nothing.
func (p *api) find(x *exchange.Exchange) (f found, ok bool) {
	f.version, f.source = p.byDefault, "default"
	named, from, to := p.fromPath.find(x.Path)
	if named != nil {
		f.source, f.from, f.to = "path", from, to
		return p.known(f, named)
	}
	if p.fromHeader != "" {
		value, n := fieldOf(x, p.fromHeader)
		if n > 0 {
			f.source = "header"
			if n > 1 {
				return f, false
			}
			return p.known(f, value)
		}
	}
	if p.fromQuery != "" {
		if value, n := x.QueryValue(p.fromQuery); n > 0 {
			f.source = "query"
			if n > 1 {
				return f, false
			}
			return p.known(f, value)
		}
	}
	if c := x.Identity.Consumer; c != nil {
		if pin, ok := p.pins[c.Name]; ok {
			f.version, f.source = pin, "consumer"
		}
	}
	return f, true
}

func (p *api) known(f found, named []byte) (found, bool) {
	i, ok := p.index[string(canonical(bytes.TrimSpace(named)))]
	f.version = i
	return f, ok
}

// fieldOf returns the first value of a header and how many there are.
func fieldOf(x *exchange.Exchange, name string) (value []byte, n int) {
	for i := range x.Fields {
		if f := &x.Fields[i]; exchange.EqualFold(f.Name, name) {
			if n++; n == 1 {
				value = f.Value
			}
		}
	}
	return value, n
}

// isGone tells whether the version is refused by now.
func (v *version) isGone(now time.Time) bool { return !v.sunset.IsZero() && !now.Before(v.sunset) }
