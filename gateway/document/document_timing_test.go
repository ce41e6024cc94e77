package document

import (
	"fmt"
	"strings"
	"testing"
)

// A list of 100 orders of 250 bytes, of which one member each is renamed.
func BenchmarkRename(b *testing.B) {
	order := `{"id":%d,"customer":{"name":"Ada Lovelace","city":"London"},"total":12.50,"lines":[{"sku":"a-1","count":2},{"sku":"b-2","count":1}],"note":"` + strings.Repeat("x", 100) + `"}`
	var text strings.Builder
	for i := range 100 {
		text.WriteString(map[bool]string{true: "[", false: ","}[i == 0])
		fmt.Fprintf(&text, order, i)
	}
	text.WriteString("]")
	p, in := path(b, "[*].customer.name"), []byte(text.String())
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	var out []byte
	for b.Loop() {
		v, err := Parse(in)
		if err != nil {
			b.Fatal(err)
		}
		v.Rename(p, "full_name")
		out = v.Append(out[:0])
	}
}
