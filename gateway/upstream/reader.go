package upstream

import (
	"bufio"
	"bytes"
	"io"
	"sync"
	"sync/atomic"

	"github.com/valyala/fasthttp"

	"sluice/gateway/stripe"
)

// reader is the buffer of a backend connection while a call uses it. A head and
// a body that fit into it are handed on without a copy. The request is put
// together in it, too: what is sent is done with before anything comes.
type reader struct {
	src  io.Reader
	buf  []byte
	r, w int   // what has come and was not taken yet is buf[r:w]
	err  error // what src has said behind that
	room [readerSize]byte
}

// readerSize makes a reader 16 KiB.
const readerSize = 16<<10 - 128

// maxResponseHead bounds a response head, and all interim responses before it.
const maxResponseHead = 64 << 10

var readers = sync.Pool{New: func() any {
	r := new(reader)
	r.buf = r.room[:]
	return r
}}

// lastReaders are, for each core, the reader that was given back there last. A
// call that takes it finds it in the core's cache.
var lastReaders [stripe.Max]struct {
	atomic.Pointer[reader]
	_ [128 - 8]byte
}

func takeReader() *reader {
	if r := lastReaders[stripe.Mine()].Swap(nil); r != nil {
		return r
	}
	return readers.Get().(*reader)
}

func (r *reader) giveBack() {
	if len(r.buf) != readerSize {
		return
	}
	r.src, r.err, r.r, r.w = nil, nil, 0, 0
	if !lastReaders[stripe.Mine()].CompareAndSwap(nil, r) {
		readers.Put(r)
	}
}

// newReader returns a reader of another size; it is not kept.
func newReader(src io.Reader, size int) *reader {
	return &reader{src: src, buf: make([]byte, size)}
}

// Bytes is what has come. It is valid until more is awaited.
func (r *reader) Bytes() []byte { return r.buf[r.r:r.w] }

// Buffered is how much has come.
func (r *reader) Buffered() int { return r.w - r.r }

// Size is how much may come before some of it is taken.
func (r *reader) Size() int { return len(r.buf) }

// free is the part of the buffer behind what has come.
func (r *reader) free() []byte { return r.buf[r.w:r.w] }

// fill reads once. There is room.
func (r *reader) fill() error {
	if r.r > 0 {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	if r.err == nil {
		var n int
		if n, r.err = r.src.Read(r.buf[r.w:]); n > 0 {
			r.w += n
			return nil
		}
	}
	err := r.err
	if r.err = nil; err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// Peek returns the next n bytes and leaves them there.
func (r *reader) Peek(n int) ([]byte, error) {
	for r.w-r.r < n {
		if n > len(r.buf) {
			return r.Bytes(), bufio.ErrBufferFull
		}
		if err := r.fill(); err != nil {
			return r.Bytes(), err
		}
	}
	return r.buf[r.r : r.r+n], nil
}

// Discard takes n bytes that have come.
func (r *reader) Discard(n int) { r.r += n }

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if r.r == r.w {
		if r.err == nil && len(p) >= len(r.buf) {
			return r.src.Read(p)
		}
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.buf[r.r:r.w])
	r.r += n
	return n, nil
}

// ReadSlice takes what comes up to the first end, with it. It is valid until more is awaited.
func (r *reader) ReadSlice(end byte) ([]byte, error) {
	for searched := 0; ; {
		b := r.Bytes()
		if i := bytes.IndexByte(b[searched:], end); i >= 0 {
			r.r += searched + i + 1
			return b[:searched+i+1], nil
		}
		if len(b) == len(r.buf) {
			return b, bufio.ErrBufferFull
		}
		searched = len(b)
		if err := r.fill(); err != nil {
			r.r = r.w
			return b, err
		}
	}
}

// parser has fasthttp read a head that has come.
type parser struct {
	head bytes.Reader
	br   *bufio.Reader
}

var parsers = sync.Pool{New: func() any {
	p := new(parser)
	p.br = bufio.NewReaderSize(&p.head, 4<<10)
	return p
}}

// readInto reads a whole head into h.
func readInto(h *fasthttp.ResponseHeader, head []byte) error {
	p := parsers.Get().(*parser)
	p.head.Reset(head)
	br := p.br
	if len(head) > br.Size() {
		br = bufio.NewReaderSize(&p.head, len(head))
	} else {
		br.Reset(&p.head)
	}
	err := h.Read(br)
	p.head.Reset(nil)
	parsers.Put(p)
	return err
}
