package action

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// Piece is a part of a text with places for values: a text, or the name that stands between ${ and }.
type Piece struct {
	Text    string
	IsPlace bool
}

// Pieces takes a text with places apart.
func Pieces(text string) (pieces []Piece, err error) {
	for text != "" {
		before, after, found := strings.Cut(text, "${")
		if before != "" {
			pieces = append(pieces, Piece{Text: before})
		}
		if !found {
			break
		}
		name, behind, closed := strings.Cut(after, "}")
		if !closed {
			return pieces, fmt.Errorf("${%s has no closing brace", name)
		}
		pieces, text = append(pieces, Piece{name, true}), behind
	}
	return pieces, nil
}

// PathFault says why a text with places can not be the path of a request; "" if it can.
func PathFault(text string) string {
	pieces, _ := Pieces(text)
	has := func(chars string) bool {
		return slices.ContainsFunc(pieces, func(p Piece) bool { return !p.IsPlace && strings.ContainsAny(p.Text, chars) })
	}
	switch {
	case !strings.HasPrefix(text, "/"):
		return "must begin with a slash"
	case has("?#"):
		return "has no query and no fragment; parameters go into query"
	case has("%\\"):
		return "has an escape; write the characters themselves, the gateway encodes them"
	case LeavesSegment([]byte(text)):
		return "has a segment . or ..; write where it leads to"
	}
	return ""
}

// FitsSegment tells whether a value can be a segment of a path, or a part of one, and neither end it nor be nothing. What the segment
// becomes with it is for LeavesSegment to judge.
func FitsSegment(value []byte) bool {
	return len(value) > 0 && !slices.ContainsFunc(value, func(c byte) bool { return c == '/' || c == '\\' || c < ' ' || c == 0x7f })
}

// LeavesSegment tells whether a segment of the path is one that leads elsewhere, also for those who cut parameters off.
func LeavesSegment(path []byte) bool {
	for segment := range bytes.SplitSeq(path, []byte("/")) {
		if name, _, _ := bytes.Cut(segment, []byte(";")); string(name) == "." || string(name) == ".." {
			return true
		}
	}
	return false
}
