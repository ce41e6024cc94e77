//go:build linux

package main

import (
	"bytes"
	"strconv"
	"strings"
)

// message is an HTTP message, read as leniently as it can be: every line may
// end with a bare LF, and what is malformed is left as it is.
type message struct {
	raw      string
	line     string   // the first
	fields   []string // lines, folded ones separate
	body     string   // without its framing
	trailers []string
	// framed: the message says where it ends. Otherwise body has what there is.
	framed bool
}

// parse reads a message at the start of b; size is 0 where it is not whole.
// bodiless tells of a head whether its message ends with it.
func parse(b []byte, bodiless func(m *message) bool) (m message, size int) {
	at := 0
	for at < len(b) && (b[at] == '\r' || b[at] == '\n') {
		at++
	}
	for first := true; ; first = false {
		line, n := lineAt(b[at:])
		if n == 0 {
			return m, 0
		}
		at += n
		switch {
		case first:
			m.line = line
		case line == "":
			return m.parseBody(b, at, bodiless(&m))
		default:
			m.fields = append(m.fields, line)
		}
	}
}

func (m *message) parseBody(b []byte, at int, bodiless bool) (message, int) {
	length, sized := m.field("content-length")
	coding, coded := m.field("transfer-encoding")
	m.framed = true
	switch {
	case bodiless:
	case coded && strings.Contains(strings.ToLower(coding), "chunked"):
		n, ok := m.parseChunks(b[at:])
		if !ok {
			return *m, 0
		}
		at += n
	case sized:
		n := leadingNumber(length)
		if len(b)-at < n {
			m.body = string(b[at:])
			return *m, 0
		}
		m.body = string(b[at : at+n])
		at += n
	default:
		m.framed = false
	}
	m.raw = string(b[:at])
	return *m, at
}

func (m *message) parseChunks(b []byte) (size int, ok bool) {
	at := 0
	for {
		line, n := lineAt(b[at:])
		if n == 0 {
			return 0, false
		}
		at += n
		digits, _, _ := strings.Cut(line, ";")
		length, err := strconv.ParseUint(strings.TrimSpace(digits), 16, 31)
		if err != nil || length == 0 {
			break
		}
		data := b[at:min(at+int(length), len(b))]
		m.body += string(data)
		at += len(data)
		if _, n = lineAt(b[at:]); n == 0 {
			return 0, false
		}
		at += n
	}
	for {
		line, n := lineAt(b[at:])
		if n == 0 {
			return 0, false
		}
		at += n
		if line == "" {
			return at, true
		}
		m.trailers = append(m.trailers, line)
	}
}

// lineAt is the line at the start of b, and how many bytes it takes with its
// end; 0: it has none yet.
func lineAt(b []byte) (string, int) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return "", 0
	}
	return strings.TrimSuffix(string(b[:i]), "\r"), i + 1
}

func leadingNumber(s string) int {
	n := 0
	for _, c := range strings.TrimLeft(s, " \t+") {
		if c < '0' || c > '9' || n > 1<<30 {
			break
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// field is the first value of a field, whatever is around its name.
func (m *message) field(name string) (string, bool) {
	for _, line := range m.fields {
		if n, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(strings.TrimSpace(n), name) {
			return strings.TrimSpace(v), true
		}
	}
	return "", false
}

// word is a word of the first line.
func (m *message) word(i int) string {
	if f := strings.Fields(m.line); i < len(f) {
		return f[i]
	}
	return ""
}

// status is that of an answer, 0 for none.
func (m *message) status() int {
	if !strings.HasPrefix(m.line, "HTTP/") {
		return 0
	}
	n, _ := strconv.Atoi(m.word(1))
	return n
}

// A request without framing has no body.
func requestAt(b []byte) (message, int) {
	return parse(b, func(*message) bool { return false })
}

// answerAt reads an answer to a request of the method. One without framing goes
// on to the end of the connection, and so is never whole before.
func answerAt(b []byte, method string, ended bool) (message, int) {
	m, size := parse(b, func(m *message) bool {
		s := m.status()
		return method == "HEAD" || s == 204 || s == 304 || s >= 100 && s < 200
	})
	if size > 0 && !m.framed {
		m.body = string(b[size:])
		if !ended {
			return m, 0
		}
		m.raw, size = string(b), len(b)
	}
	return m, size
}
