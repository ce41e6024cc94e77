package cache

import (
	"bytes"
	"sync"
)

const (
	chunkSize = 16 << 10
	maxHead   = 128 << 10 // bytes of key, selecting fields, path, tags and header together
)

// Draft is what an entry is made from. Everything in it is borrowed and copied by Record, but for Response, which the
// Recorder reads until the last Field.
type Draft struct {
	// Key is the primary key: whatever else than Vary's fields can change the answer is in it, and for a Verdict of scope
	// Owner the caller's identity as well.
	Key []byte

	Response  *Response
	Freshness Freshness // from the Verdict

	// Epoch is what Store.Epoch said before the request was forwarded.
	Epoch uint64

	// Route and Path, which is HOST/PATH with a canonical path and ?QUERY if there is one, are for purging.
	Route string
	Path  []byte

	// Head says that the request is a HEAD.
	Head bool

	// Limit is the largest body in bytes that is recorded.
	Limit int
}

// Recorder makes an entry from a response that streams by, in memory that is pooled until the response turns out to be
// complete. It belongs to one exchange and is gone with Finish or Discard, one of which must be called once.
type Recorder struct {
	res    *Response
	fresh  Freshness
	about  about
	head   []byte
	chunks []*[chunkSize]byte
	n      int // bytes in chunks
	limit  int
	failed bool
}

var (
	recorders = sync.Pool{New: func() any { return new(Recorder) }}
	chunks    = sync.Pool{New: func() any { return new([chunkSize]byte) }}
)

// Record begins an entry for the response to a request with the header that sel reads; a nil sel is one without.
func Record(d *Draft, sel Selector) *Recorder {
	r := recorders.Get().(*Recorder)
	res, e := d.Response, &r.about
	r.res, r.limit, r.fresh = res, d.Limit, d.Freshness
	*e = about{
		route: d.Route, epoch: d.Epoch, headOnly: d.Head, status: uint16(res.Status), contentLength: res.ContentLength,
		date: res.dateOrReceived(), lastModified: res.lastModified, hasLastModified: res.hasLastModified,
	}

	r.head = append(r.head[:0], d.Key...)
	e.selecting = uint32(len(r.head))
	r.head = appendSelecting(r.head, res, sel)
	e.written = uint32(len(r.head))
	r.head = appendWritten(r.head, r.head[e.selecting:e.written], sel)
	e.path = uint32(len(r.head))
	r.head = append(r.head, d.Path...)
	e.tags = uint32(len(r.head))
	r.head = appendTags(r.head, res)
	e.header = uint32(len(r.head))
	if !res.hasDate { // RFC 9110 6.6.1
		r.head = append(r.head, "Date: "...)
		r.head = AppendDate(r.head, e.date)
		r.head = append(r.head, "\r\n"...)
	}
	// What could not be purged or selected as its origin means it is not stored.
	r.failed = !res.selectable() || res.keys.over || res.tags.over || len(r.head) > maxHead ||
		!d.Head && res.ContentLength > int64(d.Limit)
	return r
}

// Field records a header line where Response.Keep says so. It is called for all of them, before the bytes that the
// Response borrows are gone.
func (r *Recorder) Field(name, value []byte) {
	if r.failed || !r.res.Keep(name) || !r.res.hasDate && is(name, "date") {
		return
	}
	if !isToken(name) || bytes.ContainsAny(value, "\r\n\x00") || len(r.head)+len(name)+len(value) > maxHead {
		r.fail()
		return
	}
	value = trim(value)
	r.head = append(append(r.head, name...), ": "...)
	if is(name, "etag") && r.about.etag == r.about.etagEnd {
		r.about.etag = uint32(len(r.head))
		r.about.etagEnd = uint32(len(r.head) + len(value))
	}
	r.head = append(append(r.head, value...), "\r\n"...)
}

// Write records the next bytes of the body. It returns false once the response is not going to be stored; more calls
// then do nothing.
func (r *Recorder) Write(p []byte) bool {
	if r.failed {
		return false
	}
	if len(p) > r.limit-r.n {
		r.fail()
		return false
	}
	for len(p) > 0 {
		used := r.n % chunkSize
		if used == 0 {
			r.chunks = append(r.chunks, chunks.Get().(*[chunkSize]byte))
		}
		n := copy(r.chunks[len(r.chunks)-1][used:], p)
		p = p[n:]
		r.n += n
	}
	return true
}

// Recording tells whether the response may still come to be stored.
func (r *Recorder) Recording() bool { return !r.failed }

// Finish ends a body that arrived whole and returns its entry, or nil when there is none: the body was longer than the
// limit, or not as long as Content-Length said. A body that was cut off is not finished but discarded.
func (r *Recorder) Finish() *Entry {
	defer r.Discard()
	head, length := r.about.headOnly, r.about.contentLength
	if r.failed || head && r.n > 0 || !head && length >= 0 && length != int64(r.n) {
		return nil
	}
	e := &Entry{Freshness: r.fresh, about: r.about}
	if !head {
		e.contentLength = int64(r.n)
	}
	// Appending to nil rounds the capacity up to what the allocator takes, which is what Size counts.
	e.head = append([]byte(nil), r.head...)
	if r.n > 0 {
		e.body = append([]byte(nil), make([]byte, r.n)...)
		for i, c := range r.chunks {
			copy(e.body[i*chunkSize:], c[:])
		}
	}
	e.size = entrySize + indexSize + int64(cap(e.head)+cap(e.body))
	return e
}

// Discard ends a response that is not stored.
func (r *Recorder) Discard() {
	if r.res == nil {
		panic("BUG: a cache.Recorder was used after its end")
	}
	r.fail()
	if cap(r.head) > 64<<10 {
		r.head = nil // rare; not worth keeping
	}
	*r = Recorder{head: r.head[:0], chunks: r.chunks[:0]}
	recorders.Put(r)
}

func (r *Recorder) fail() {
	r.failed = true
	for i, c := range r.chunks {
		chunks.Put(c)
		r.chunks[i] = nil
	}
	r.chunks, r.n = r.chunks[:0], 0
}

// appendTags appends the members of Surrogate-Key, which spaces separate, and of Cache-Tag, which commas do, each ended
// by a zero byte.
func appendTags(dst []byte, r *Response) []byte {
	for _, line := range r.keys.all() {
		for line = trim(line); len(line) > 0; line = trim(line) {
			end := bytes.IndexAny(line, " \t")
			if end < 0 {
				end = len(line)
			}
			dst = append(append(dst, line[:end]...), 0)
			line = line[end:]
		}
	}
	for _, line := range r.tags.all() {
		for len(line) > 0 {
			var tag []byte
			if tag, line, _ = element(line, false); len(tag) > 0 {
				dst = append(append(dst, tag...), 0)
			}
		}
	}
	return dst
}
