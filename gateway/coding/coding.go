// Package coding has the content codings that the gateway speaks (RFC 9110,
// section 8.4.1): zstd, br and gzip, and deflate for reading alone. Encoders
// belong to one body at a time and are pooled with their memory; what a decoder
// gives is bounded by its caller. It alone imports the libraries: those of
// klauspost, and the brotli that fasthttp brings.
package coding

import (
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	brotli "github.com/molecule-man/go-brrr"
)

// Coding is a content coding that bodies are put in.
type Coding uint8

// The codings, Identity being none.
const (
	Identity Coding = iota
	Zstd
	Brotli
	Gzip
	// Count is how many there are.
	Count
)

var names = [Count]string{"identity", "zstd", "br", "gzip"}

func (c Coding) String() string { return names[c] }

// Named returns the coding of a name in lower case.
func Named(name string) (c Coding, ok bool) {
	for i, n := range names {
		if n == name || n == "gzip" && name == "x-gzip" {
			return Coding(i), true
		}
	}
	return Identity, false
}

// The levels are those at which a processor keeps up with a fast network; the
// windows bound what an encoder holds to a few hundred KiB.
const (
	gzipLevel    = 5
	brotliLevel  = 4
	brotliWindow = 18 // as a power of two
	zstdWindow   = 256 << 10
)

// writer is what the libraries' encoders have in common.
type writer interface {
	io.WriteCloser
	Flush() error
	Reset(w io.Writer)
}

// Encoder puts one body into a coding. It comes from NewEncoder and goes with Release.
type Encoder struct {
	w      writer
	out    []byte
	coding Coding
}

var encoders = [Count]sync.Pool{
	Zstd: {New: func() any {
		w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true))
		return encoder(Zstd, w, err)
	}},
	Brotli: {New: func() any {
		w, err := brotli.NewWriterOptions(io.Discard, brotliLevel, brotli.WriterOptions{LGWin: brotliWindow})
		return encoder(Brotli, w, err)
	}},
	Gzip: {New: func() any {
		w, err := gzip.NewWriterLevel(io.Discard, gzipLevel)
		return encoder(Gzip, w, err)
	}},
}

func encoder(c Coding, w writer, err error) *Encoder {
	if err != nil {
		panic("BUG: an encoder's settings: " + err.Error())
	}
	return &Encoder{w: w, coding: c}
}

// NewEncoder returns an encoder for a body; c is not Identity.
func NewEncoder(c Coding) *Encoder {
	e := encoders[c].Get().(*Encoder)
	e.w.Reset((*sink)(e))
	return e
}

// sink receives what the library writes.
type sink Encoder

func (s *sink) Write(p []byte) (int, error) {
	s.out = append(s.out, p...)
	return len(p), nil
}

// Encode takes the next bytes of the body and returns what there is of the
// coded one, which may be nothing and is good until the next call. With flush it
// is all that a reader needs for what was taken so far; last ends the body.
func (e *Encoder) Encode(p []byte, flush, last bool) ([]byte, error) {
	e.out = e.out[:0]
	if len(p) > 0 {
		if _, err := e.w.Write(p); err != nil {
			return nil, err
		}
	}
	var err error
	switch {
	case last:
		err = e.w.Close()
	case flush:
		err = e.w.Flush()
	}
	return e.out, err
}

// maxKept is how large a buffer stays with an idle encoder.
const maxKept = 128 << 10

// Release gives the encoder back, whether the body came to its end or not.
// Nothing that Encode returned is good any more.
func (e *Encoder) Release() {
	if cap(e.out) > maxKept {
		e.out = nil
	}
	encoders[e.coding].Put(e)
}
