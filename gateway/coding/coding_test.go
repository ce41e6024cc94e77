package coding

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zlib"
)

var all = []Coding{Zstd, Brotli, Gzip}

// encode codes a body in pieces.
func encode(t testing.TB, c Coding, body []byte, piece int, flush bool) []byte {
	t.Helper()
	e := NewEncoder(c)
	defer e.Release()
	var coded []byte
	for {
		n := min(piece, len(body))
		last := n == len(body)
		out, err := e.Encode(body[:n], flush, last)
		if err != nil {
			t.Fatal(err)
		}
		coded = append(coded, out...)
		if last {
			return coded
		}
		body = body[n:]
	}
}

func samples() [][]byte {
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 100_000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	var text strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&text, `{"id":%d,"name":"user %d"},`, i, random.IntN(100))
	}
	return [][]byte{nil, []byte("a"), []byte(text.String()[:1000]), []byte(text.String()), noise, make([]byte, 300_000)}
}

func TestRoundTrip(t *testing.T) {
	for _, c := range all {
		for _, body := range samples() {
			for _, piece := range []int{1 << 20, 16 << 10, 777} {
				for _, flush := range []bool{false, true} {
					coded := encode(t, c, body, piece, flush)
					got, err := Decode([]byte(c.String()), coded, len(body))
					if err != nil || !bytes.Equal(got, body) {
						t.Errorf("%v of %d bytes in pieces of %d, flushed %t: %d bytes, %v", c, len(body), piece, flush, len(got), err)
					}
				}
			}
		}
	}
}

// After a flush a reader has all that was taken; an encoder that was given up
// leaves nothing behind for the next body.
func TestFlush(t *testing.T) {
	for _, c := range all {
		e := NewEncoder(c)
		if out, err := e.Encode([]byte("first piece "), false, false); err != nil || len(out) > 100 {
			t.Error(len(out), err)
		}
		out, err := e.Encode([]byte("and second"), true, false)
		if err != nil || len(out) == 0 {
			t.Errorf("%v: %d bytes, %v", c, len(out), err)
		}
		e.Release()
		if got, err := Decode([]byte(c.String()), encode(t, c, []byte("another body"), 100, false), 100); err != nil || string(got) != "another body" {
			t.Errorf("%v: %q, %v", c, got, err)
		}
	}
}

func TestDecode(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789"), 1000)
	zipped := encode(t, Gzip, body, 1<<20, false)
	both := encode(t, Brotli, zipped, 1<<20, false)
	var framed, bare bytes.Buffer
	z := zlib.NewWriter(&framed)
	_, _ = z.Write(body)
	_ = z.Close()
	d, _ := flate.NewWriter(&bare, 5)
	_, _ = d.Write(body)
	_ = d.Close()
	f := func(field string, src []byte, limit int, want error) {
		t.Helper()
		got, err := Decode([]byte(field), src, limit)
		if err != want || err == nil && !bytes.Equal(got, body) {
			t.Errorf("%q: %d bytes, %v", field, len(got), err)
		}
	}
	f("", body, 1, nil)
	f("identity", body, 1, nil)
	f("GZIP", zipped, len(body), nil)
	f("x-gzip", zipped, len(body), nil)
	f("gzip, br", both, len(body), nil)
	f(" gzip ,, br ", both, len(body), nil)
	f("deflate", framed.Bytes(), len(body), nil)
	f("deflate", bare.Bytes(), len(body), nil)
	f("gzip", zipped, len(body)-1, ErrTooLarge)
	f("gzip, br", both, len(body)-1, ErrTooLarge)
	f("br", zipped, len(body), ErrMalformed)
	f("gzip", zipped[:len(zipped)-1], len(body), ErrMalformed)
	f("compress", zipped, len(body), ErrUnknown)
	f("gzip, gzip, gzip, gzip", zipped, len(body), ErrUnknown)
	for _, c := range all {
		coded := encode(t, c, body, 1<<20, false)
		f(c.String(), coded, len(body)-1, ErrTooLarge)
		f(c.String(), coded[:len(coded)/2], len(body), ErrMalformed)
		f(c.String(), []byte("what is this?"), len(body), ErrMalformed)
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range all {
		f.Add(c.String(), encode(f, c, []byte("something to begin with"), 5, true))
	}
	f.Add("deflate", []byte("x"))
	f.Fuzz(func(t *testing.T, field string, src []byte) {
		if got, err := Decode([]byte(field), src, 1<<16); err == nil && len(got) > max(1<<16, len(src)) {
			t.Error(len(got))
		}
	})
}
