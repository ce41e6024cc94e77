//go:build linux

package main

import (
	"regexp"
	"strings"
)

var (
	requestLine = regexp.MustCompile("^(?:OPTIONS \\*|[!#$%&'*+.^_`|~0-9A-Za-z-]+ (?:(?i:https?)://[^\\x00- \"#/<>?@\\\\^`{|}\\x7f-\\xff]+(?:[/?][!-\"$-~]*)?|/[!-\"$-~]*)) HTTP/1\\.[01]$")
	statusLine  = regexp.MustCompile(`^HTTP/1\.[01] [1-5][0-9][0-9](?: [\t -~\x80-\xff]*)?$`)
	fieldLine   = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\\t -~\\x80-\\xff]*$")
	hostValue   = regexp.MustCompile(`^(?:[0-9A-Za-z._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?$`)
	lengthValue = regexp.MustCompile(`^[0-9]{1,18}$`)
	chunkLine   = regexp.MustCompile(`^([0-9A-Fa-f]{1,15})(?:[\t ]*;[\t -~\x80-\xff]*)?$`)
)

// ambiguity says what in a message, as it went over the wire, others could
// read in another way (RFC 9112); "" is nothing. Bytes are taken as Latin-1.
func ambiguity(raw string, first *regexp.Regexp) string {
	if first == requestLine {
		raw = strings.TrimPrefix(raw, "\r\n")
	}
	s := latin1(raw)
	head, body, ok := strings.Cut(s, "\r\n\r\n")
	if !ok {
		return "no end of the head"
	}
	lines := strings.Split(head, "\r\n")
	count := make(map[string]int)
	value := make(map[string]string)
	for i, line := range lines {
		switch {
		case strings.Contains(line, "\n"):
			return "bare LF"
		case strings.Contains(line, "\r"):
			return "bare CR"
		case strings.Contains(line, "\x00"):
			return "NUL"
		case i == 0 && !first.MatchString(line):
			return "malformed first line"
		case i > 0 && strings.Trim(line[:1], " \t") == "":
			return "folded field"
		case i > 0 && !fieldLine.MatchString(line):
			return "malformed field"
		case i > 0:
			name, v, _ := strings.Cut(line, ":")
			name = strings.ToLower(name)
			count[name]++
			value[name] = strings.Trim(v, " \t")
		}
	}
	const length, coding = "content-length", "transfer-encoding"
	switch {
	case first == requestLine && count["host"] > 1:
		return "two hosts"
	case first == requestLine && strings.HasSuffix(lines[0], "1.1") && !hostValue.MatchString(value["host"]):
		return "malformed host"
	case count[length] > 0 && count[coding] > 0:
		return "length and coding"
	case count[length] > 1:
		return "two lengths"
	case count[coding] > 1:
		return "two codings"
	case count[length] == 1 && !lengthValue.MatchString(value[length]):
		return "malformed length"
	case count[coding] == 1 && !strings.EqualFold(value[coding], "chunked"):
		return "unknown coding"
	case count[coding] == 1 && strings.HasSuffix(lines[0], "1.0"):
		return "chunked in HTTP/1.0"
	case count[coding] == 1:
		return ambiguousChunks(body)
	}
	return ""
}

func ambiguousChunks(s string) string {
	for {
		line, rest, ok := strings.Cut(s, "\r\n")
		m := chunkLine.FindStringSubmatch(line)
		if !ok || m == nil {
			return "malformed chunk size"
		}
		n := 0
		for _, c := range strings.ToLower(m[1]) {
			n = n<<4 | strings.IndexRune("0123456789abcdef", c)
		}
		if n == 0 {
			s = rest
			break
		}
		r := []rune(rest)
		if n > len(r)-2 || string(r[n:n+2]) != "\r\n" {
			return "malformed end of a chunk"
		}
		s = string(r[n+2:])
	}
	for s != "\r\n" {
		line, rest, ok := strings.Cut(s, "\r\n")
		if !ok || !fieldLine.MatchString(line) {
			return "malformed trailer"
		}
		s = rest
	}
	return ""
}

// latin1 makes each byte a code point, which is what the patterns are of.
func latin1(raw string) string {
	runes := make([]rune, len(raw))
	for i := range len(raw) {
		runes[i] = rune(raw[i])
	}
	return string(runes)
}
