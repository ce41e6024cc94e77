package compression

import (
	"bytes"
	"errors"
	"strings"

	"sluice/gateway/exchange"
)

// mediaType is a pattern of media types in lower case: a star stands for any
// text in its place.
type mediaType struct {
	prefix, suffix string
	star           bool
}

var (
	errType  = errors.New("is no media type; write application/json, text/* or application/*+json")
	errNever = errors.New("is never compressed: its messages must not wait for each other")
)

func parseType(text string) (t mediaType, err error) {
	text = strings.ToLower(text)
	family, kind, ok := strings.Cut(text, "/")
	if !ok || family == "" || kind == "" || !exchange.IsToken(family) || !exchange.IsToken(kind) || strings.Contains(family, "*") || strings.Count(kind, "*") > 1 {
		return t, errType
	}
	t.prefix, t.suffix, t.star = strings.Cut(text, "*")
	if !t.star && never([]byte(text)) {
		return t, errNever
	}
	return t, nil
}

// never reports whether a media type is one of messages that stand for themselves.
func never(t []byte) bool {
	const grpc = "application/grpc"
	return exchange.EqualFold(t, "text/event-stream") || len(t) >= len(grpc) && exchange.EqualFold(t[:len(grpc)], grpc) ||
		exchange.EqualFold(t, "multipart/x-mixed-replace")
}

// matches reports whether a Content-Type is one of the patterns'.
func matches(patterns []mediaType, contentType []byte) bool {
	t := contentType
	if i := bytes.IndexByte(t, ';'); i >= 0 {
		t = t[:i]
	}
	if t = exchange.TrimOWS(t); len(t) == 0 || never(t) {
		return false
	}
	for i := range patterns {
		p := &patterns[i]
		if len(t) < len(p.prefix)+len(p.suffix) || !p.star && len(t) != len(p.prefix) {
			continue
		}
		if exchange.EqualFold(t[:len(p.prefix)], p.prefix) && exchange.EqualFold(t[len(t)-len(p.suffix):], p.suffix) {
			return true
		}
	}
	return false
}
