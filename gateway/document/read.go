package document

import "iter"

// All yields what the value holds, in its order: members with their names, elements with none. They are for reading.
func (v *Value) All() iter.Seq2[string, *Value] {
	return func(yield func(name string, at *Value) bool) {
		n := v.children()
		if n == nil {
			return
		}
		for i := range n.elements {
			e := &n.elements[i]
			name := ""
			if n.object {
				name = unquote(e.name)
			}
			if !yield(name, &e.Value) {
				return
			}
		}
	}
}

const hexDigits = "0123456789abcdef"

// AppendString appends s, which is in UTF-8, as a JSON string.
func AppendString[T string | []byte](dst []byte, s T) []byte {
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\t':
			dst = append(dst, '\\', 't')
		case c < ' ' || c == 0x7f:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}
