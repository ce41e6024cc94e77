package config

import (
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
)

// tokenize is the parser's lexer with one mistake mended: in a list inside of {…} it parts
// a text at its first colon, so that {endpoints: [http://a:80]} would hold a block with the
// key "http://a".
func tokenize(text string) token.Tokens {
	tokens := lexer.Tokenize(text)
	var out token.Tokens
	var open []token.Type
	for i := 0; i < len(tokens); i++ {
		tk := tokens[i]
		switch tk.Type {
		case token.SequenceStartType, token.MappingStartType:
			open = append(open, tk.Type)
		case token.SequenceEndType, token.MappingEndType:
			open = open[:max(len(open)-1, 0)]
		case token.MappingValueType:
			inList := len(open) > 0 && open[len(open)-1] == token.SequenceStartType
			if !inList || i == 0 || i+1 == len(tokens) || !isText(tokens[i+1]) || !adjacent(tk, 1, tokens[i+1]) {
				break
			}
			last, next := out[len(out)-1], tokens[i+1]
			if strings.Contains(next.Value, ": ") || strings.HasSuffix(next.Value, ":") {
				break
			}
			switch {
			case isText(last) && adjacent(last, utf8.RuneCountInString(last.Value), tk):
				tk = token.String(last.Value+":"+next.Value, last.Origin+":"+next.Origin, last.Position)
				out = out[:len(out)-1]
			case last.Type == token.SequenceStartType || last.Type == token.CollectEntryType:
				tk = token.String(":"+next.Value, ":"+next.Origin, tk.Position)
			default:
				out = append(out, tk)
				continue
			}
			i++
		}
		out = append(out, tk)
	}
	for i, tk := range out {
		tk.Prev, tk.Next = nil, nil
		if i > 0 {
			tk.Prev, out[i-1].Next = out[i-1], tk
		}
	}
	return out
}

// isText tells an unquoted scalar.
func isText(tk *token.Token) bool {
	switch tk.Type {
	case token.StringType, token.IntegerType, token.BinaryIntegerType, token.OctetIntegerType, token.HexIntegerType,
		token.FloatType, token.InfinityType, token.NanType, token.BoolType, token.NullType:
		return true
	}
	return false
}

func adjacent(tk *token.Token, width int, next *token.Token) bool {
	return tk.Position.Line == next.Position.Line && tk.Position.Column+width == next.Position.Column
}
