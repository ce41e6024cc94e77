package wsconn

import (
	"testing"
	"unicode/utf8"
)

// Whatever pieces text comes in, it is refused with the first byte that can not belong to any.
func FuzzValidText(f *testing.F) {
	for _, s := range []string{"", "κόσμε", "\xed\xa0\x80", "\xf4\x90\x80\x80", "a\xf0\x9f\x98", "\xce\xce", "\x80", "\U0010ffff\xc0"} {
		f.Add([]byte(s), byte(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, size byte) {
		checked, fine := 0, true
		for end := 0; end < len(b) && fine; {
			end = min(end+int(size)+1, len(b))
			var n int
			n, fine = validText(b[checked:end])
			checked += n
			if fine && end-checked >= utf8.UTFMax {
				t.Fatalf("%x: %d bytes wait", b, end-checked)
			}
		}
		if whole := fine && checked == len(b); whole != utf8.Valid(b) {
			t.Errorf("%x in pieces of %d: valid %v, want %v", b, int(size)+1, whole, !whole)
		}
	})
}
