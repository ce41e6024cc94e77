package load

import (
	"bytes"
	"errors"
	"fmt"
)

var (
	blankLine     = []byte("\r\n\r\n")
	contentLength = []byte("content-length:")
)

// head is what has to be known of a message before its body.
type head struct {
	size   int // of the head itself, with its blank line; 0: not complete yet
	body   int // Content-Length
	status int // of an answer
}

var errFraming = errors.New("an answer without Content-Length")

// answerHead reads the head of an answer at the start of b.
func answerHead(b []byte) (head, error) {
	end := bytes.Index(b, blankLine)
	if end < 0 {
		return head{}, nil
	}
	if end < len("HTTP/1.1 200") || !bytes.HasPrefix(b, []byte("HTTP/1.")) {
		return head{}, fmt.Errorf("not an answer: %q", b[:min(end, 40)])
	}
	h := head{size: end + len(blankLine), status: int(b[9]-'0')*100 + int(b[10]-'0')*10 + int(b[11]-'0')}
	var ok bool
	if h.body, ok = length(b[:end]); !ok {
		return h, errFraming
	}
	return h, nil
}

// length is the Content-Length among the lines of a head.
func length(b []byte) (int, bool) {
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			return 0, false
		}
		b = b[i+1:]
		if len(b) < len(contentLength) || b[0]|0x20 != 'c' || b[len(contentLength)-1] != ':' ||
			!bytes.EqualFold(b[:len(contentLength)], contentLength) {
			continue
		}
		n, digits := 0, 0
		for _, c := range b[len(contentLength):] {
			if c == ' ' && digits == 0 {
				continue
			}
			if c < '0' || c > '9' || n > 1<<40 {
				break
			}
			n, digits = n*10+int(c-'0'), digits+1
		}
		return n, digits > 0
	}
}
