package coding

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	brotli "github.com/molecule-man/go-brrr"
)

// What Decode says of a body that it does not decode.
var (
	ErrUnknown   = errors.New("its content coding is not known")
	ErrTooLarge  = errors.New("it is too large once decoded")
	ErrMalformed = errors.New("it is not in the coding that Content-Encoding names")
)

// Accepted are the codings that Decode reads, as an Accept-Encoding field.
const Accepted = "zstd, br, gzip, deflate"

// maxCodings is how many codings one body may be in.
const maxCodings = 3

// maxWindow is the window of zstd that RFC 8878, section 3.1.1.1.2, asks decoders for.
const maxWindow = 8 << 20

// Decode undoes the codings that a Content-Encoding field names, in the order
// in which they were applied, and returns at most limit bytes. Without any it
// returns src itself.
func Decode(field, src []byte, limit int) ([]byte, error) {
	list := bytes.Split(field, []byte(","))
	if len(list) > maxCodings {
		return nil, ErrUnknown
	}
	for i := len(list) - 1; i >= 0; i-- {
		name := string(bytes.ToLower(bytes.Trim(list[i], " \t")))
		if name == "" || name == "identity" {
			continue
		}
		var err error
		if src, err = decode(name, src, limit); err != nil {
			return nil, err
		}
	}
	return src, nil
}

func decode(name string, src []byte, limit int) (out []byte, err error) {
	var r io.Reader
	in := bytes.NewReader(src)
	switch name {
	case "gzip", "x-gzip":
		z := gzipReaders.Get().(*gzip.Reader)
		defer gzipReaders.Put(z)
		if z.Reset(in) != nil {
			return nil, ErrMalformed
		}
		r = z
	case "br":
		z := brotliReaders.Get().(*brotli.Reader)
		defer brotliReaders.Put(z)
		z.Reset(in)
		r = z
	case "zstd":
		z := zstdReaders.Get().(*zstd.Decoder)
		defer zstdReaders.Put(z)
		if z.Reset(in) != nil {
			return nil, ErrMalformed
		}
		r = z
	case "deflate":
		// That is zlib's format, yet there are servers that leave its frame out.
		if z, err := zlib.NewReader(in); err == nil {
			r = z
		} else {
			in.Reset(src)
			r = flate.NewReader(in)
		}
	default:
		return nil, ErrUnknown
	}
	out, err = io.ReadAll(io.LimitReader(r, int64(limit)+1))
	switch {
	case err != nil:
		return nil, ErrMalformed
	case len(out) > limit:
		return nil, ErrTooLarge
	}
	return out, nil
}

var (
	gzipReaders   = sync.Pool{New: func() any { return new(gzip.Reader) }}
	brotliReaders = sync.Pool{New: func() any { return brotli.NewReader(bytes.NewReader(nil)) }}
	zstdReaders   = sync.Pool{New: func() any {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			panic("BUG: a decoder's settings: " + err.Error())
		}
		return d
	}}
)
