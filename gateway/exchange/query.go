package exchange

import "bytes"

// QueryValue returns the decoded value of the first query parameter called
// name, and how many there are. It does not allocate; a value that had to be
// decoded lives as long as the Exchange.
func (x *Exchange) QueryValue(name string) (value []byte, count int) {
	for rest := x.Query; len(rest) > 0; {
		var pair []byte
		pair, rest = cutByte(rest, '&')
		key, raw := cutByte(pair, '=')
		if len(key) == 0 || !equalQuery(key, name) {
			continue
		}
		if count++; count == 1 {
			value = x.decodeQuery(raw)
		}
	}
	return value, count
}

// QueryWithout appends the raw query to dst without the parameters called
// name; all others stay as they were written.
func QueryWithout(dst, query []byte, name string) []byte {
	start := len(dst)
	for rest := query; len(rest) > 0; {
		var pair []byte
		pair, rest = cutByte(rest, '&')
		if key, _ := cutByte(pair, '='); equalQuery(key, name) {
			continue
		}
		if len(dst) > start {
			dst = append(dst, '&')
		}
		dst = append(dst, pair...)
	}
	return dst
}

// QueryNameIs reports whether the raw name of a query parameter stands for name.
func QueryNameIs(raw []byte, name string) bool { return equalQuery(raw, name) }

// AppendQueryEscaped appends v so that it stands for itself as a name or value of a query.
func AppendQueryEscaped[T string | []byte](dst []byte, v T) []byte {
	const upper = "0123456789ABCDEF"
	for i := range len(v) {
		c := v[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~' {
			dst = append(dst, c)
			continue
		}
		dst = append(dst, '%', upper[c>>4], upper[c&15])
	}
	return dst
}

// Cookie returns the value of the first cookie called name (RFC 6265, section
// 4.2.1) without surrounding quotes, nil without one.
func (x *Exchange) Cookie(name string) []byte {
	for rest := x.RequestHeader("Cookie"); len(rest) > 0; {
		var pair []byte
		pair, rest = cutByte(rest, ';')
		key, value := cutByte(bytes.TrimLeft(pair, " \t"), '=')
		if string(key) != name {
			continue
		}
		value = bytes.TrimRight(value, " \t")
		if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
			value = value[1 : n-1]
		}
		return value
	}
	return nil
}

func cutByte(b []byte, c byte) (before, after []byte) {
	if i := bytes.IndexByte(b, c); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

// decodeQuery decodes application/x-www-form-urlencoded text. A broken escape stays as it is.
func (x *Exchange) decodeQuery(raw []byte) []byte {
	if bytes.IndexByte(raw, '%') < 0 && bytes.IndexByte(raw, '+') < 0 {
		return raw
	}
	b := x.Scratch()
	for len(raw) > 0 {
		c, n := queryByte(raw)
		b, raw = append(b, c), raw[n:]
	}
	return x.Keep(b)
}

func equalQuery(raw []byte, name string) bool {
	for i := range len(name) {
		if len(raw) == 0 {
			return false
		}
		c, n := queryByte(raw)
		if c != name[i] {
			return false
		}
		raw = raw[n:]
	}
	return len(raw) == 0
}

// queryByte decodes the first byte of raw, which is not empty, and says how long its text is.
func queryByte(raw []byte) (c byte, n int) {
	switch {
	case raw[0] == '+':
		return ' ', 1
	case raw[0] == '%' && len(raw) >= 3:
		if high, low := unhex(raw[1]), unhex(raw[2]); high < 16 && low < 16 {
			return high<<4 | low, 3
		}
	}
	return raw[0], 1
}

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= lower(c) && lower(c) <= 'f':
		return lower(c) - 'a' + 10
	}
	return 16
}
