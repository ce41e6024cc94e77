package cache

import "bytes"

const (
	maxPreferences  = 16
	preferenceBytes = 256
)

// preferences is the value of Accept-Language, Accept-Encoding or Accept-Charset in the form in which equal ones are equal
// (RFC 9111 4.1): in lower case, without the weight of 1, and sorted, since weights and not order tell what is preferred
// (RFC 9110 12.5). A value that is too long for it, or not of that syntax, is compared as any other field is.
type preferences struct {
	n     int
	order [maxPreferences]uint8
	end   [maxPreferences + 1]uint16
	buf   [preferenceBytes]byte
}

func isPreference(name []byte) bool {
	switch string(name) {
	case "Accept-Language", "Accept-Encoding", "Accept-Charset":
		return true
	}
	return false
}

// read reports whether the request has the field and its value fits.
func (p *preferences) read(name []byte, sel Selector) bool {
	p.n = 0
	for i := 0; ; i++ {
		line, ok := sel(name, i)
		if !ok {
			return p.n > 0
		}
		for len(line) > 0 {
			var member []byte
			if i := bytes.IndexByte(line, ','); i >= 0 {
				member, line = trim(line[:i]), line[i+1:]
			} else {
				member, line = trim(line), nil
			}
			if len(member) > 0 && !p.add(member) {
				p.n = 0
				return false
			}
		}
	}
}

func (p *preferences) add(member []byte) bool {
	weight := 1000
	if i := bytes.IndexByte(member, ';'); i >= 0 {
		var ok bool
		if weight, ok = parseWeight(trim(member[i+1:])); !ok {
			return false
		}
		member = trim(member[:i])
	}
	at := int(p.end[p.n])
	if p.n == maxPreferences || len(member) == 0 || at+len(member)+len(";1000") > len(p.buf) {
		return false
	}
	for _, c := range member {
		if c == '"' || c == '=' || c == ' ' || c == '\t' {
			return false
		}
		p.buf[at] = lower(c)
		at++
	}
	if weight < 1000 {
		at += copy(p.buf[at:], []byte{';', byte('0' + weight/100), byte('0' + weight/10%10), byte('0' + weight%10)})
	}
	p.n++
	p.end[p.n] = uint16(at)
	i := p.n - 1
	for ; i > 0 && bytes.Compare(p.member(int(p.order[i-1])), p.member(p.n-1)) > 0; i-- {
		p.order[i] = p.order[i-1]
	}
	p.order[i] = uint8(p.n - 1)
	return true
}

func (p *preferences) member(i int) []byte { return p.buf[p.end[i]:p.end[i+1]] }

// append writes the form behind a zero byte, which no plain value has.
func (p *preferences) append(dst []byte) []byte {
	dst = append(dst, 0)
	for i := range p.n {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, p.member(int(p.order[i]))...)
	}
	return dst
}

// equal compares with what append wrote.
func (p *preferences) equal(stored []byte) bool {
	if len(stored) == 0 || stored[0] != 0 {
		return false
	}
	stored = stored[1:]
	for i := range p.n {
		if i > 0 {
			if len(stored) == 0 || stored[0] != ',' {
				return false
			}
			stored = stored[1:]
		}
		m := p.member(int(p.order[i]))
		if !bytes.HasPrefix(stored, m) {
			return false
		}
		stored = stored[len(m):]
	}
	return len(stored) == 0
}

// parseWeight reads q=0.5 as thousandths (RFC 9110 12.4.2).
func parseWeight(b []byte) (int, bool) {
	if len(b) < 3 || len(b) > 7 || lower(b[0]) != 'q' || b[1] != '=' || b[2] != '0' && b[2] != '1' || len(b) > 3 && b[3] != '.' {
		return 0, false
	}
	n, scale := int(b[2]-'0')*1000, 100
	for i := 4; i < len(b); i++ {
		if !isDigit(b[i]) {
			return 0, false
		}
		n += int(b[i]-'0') * scale
		scale /= 10
	}
	return n, n <= 1000
}
