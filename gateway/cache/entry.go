package cache

import (
	"bytes"
	"iter"
	"sync/atomic"
)

// Entry is a stored response. It never changes once it is made, needs no release and may be read by any number of
// goroutines for as long as they like, also after it has left the store: the garbage collector owns it. Its byte slices
// must not be written to. It comes from a Recorder and is put into one store once.
type Entry struct {
	// What a lookup reads comes first, on as few cache lines as may be. next and hits are the store's and are read without
	// a lock.
	head   []byte                // key, selecting fields, these as they were written, path, tags, header, in this order
	next   atomic.Pointer[Entry] // the next older variant of the same key
	hits   atomic.Uint32
	inMain bool // under the lock of the shard
	Freshness
	about

	body     []byte
	attached any

	// The store's too: hash is set before the entry is published, size when it is made, the links belong to the lock of
	// the shard.
	hash         uint64
	size         int64
	older, newer *Entry
}

// about is what a Recorder knows of an entry before its body.
type about struct {
	selecting       uint32 // where each part of head begins; the key is at 0
	written         uint32
	path            uint32
	tags            uint32
	header          uint32
	etag, etagEnd   uint32
	status          uint16
	hasLastModified bool
	headOnly        bool
	route           string
	epoch           uint64
	lastModified    int64 // unix seconds
	date            int64 // unix seconds
	contentLength   int64
}

// Key is the primary key.
func (e *Entry) Key() []byte { return e.head[:e.selecting:e.selecting] }

// Status is the status code.
func (e *Entry) Status() int { return int(e.status) }

// Path is the host, path and query it was recorded with.
func (e *Entry) Path() []byte { return e.head[e.path:e.tags:e.tags] }

// Route is the name of the route it was recorded on.
func (e *Entry) Route() string { return e.route }

// Header is the stored header as it goes over the wire: lines that end in CRLF, without Age, Content-Length and whatever
// else Response.Keep leaves out, and without the empty line.
func (e *Entry) Header() []byte { return e.head[e.header:] }

// Body is the whole content, nil for an answer to HEAD.
func (e *Entry) Body() []byte { return e.body }

// HeadOnly tells that it answers HEAD only, since it was recorded from one; it needs a key that GET does not use.
func (e *Entry) HeadOnly() bool { return e.headOnly }

// ContentLength is the length of the content in bytes; for an answer to HEAD what the origin said, -1 when it did not.
func (e *Entry) ContentLength() int64 { return e.contentLength }

// ETag is the entity tag, or nil.
func (e *Entry) ETag() []byte {
	if e.etag == e.etagEnd {
		return nil
	}
	return e.head[e.etag:e.etagEnd:e.etagEnd]
}

// Date is when the response was made, in unix seconds: its Date field, else when it arrived.
func (e *Entry) Date() int64 { return e.date }

// Size is what it takes of the store's bound, in bytes.
func (e *Entry) Size() int64 { return e.size }

// All gives the header lines in their order.
func (e *Entry) All() iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for rest := e.Header(); len(rest) > 0; {
			colon := bytes.IndexByte(rest, ':')
			end := bytes.IndexByte(rest, '\r')
			if !yield(rest[:colon:colon], rest[colon+2:end:end]) {
				return
			}
			rest = rest[end+2:]
		}
	}
}

// Value is the first line of a field, without case; nil when there is none.
func (e *Entry) Value(name []byte) []byte {
	for n, v := range e.All() {
		if equalFold(n, name) {
			return v
		}
	}
	return nil
}

// Selected tells whether the request's header selects this variant (RFC 9111 4.1). The key is not compared.
func (e *Entry) Selected(sel Selector) bool {
	return e.selecting == e.written || matches(e.head[e.selecting:e.written], e.head[e.written:e.path], sel)
}

// Tagged tells whether the origin gave it the tag, in Surrogate-Key or Cache-Tag.
func (e *Entry) Tagged(tag []byte) bool {
	tags := e.head[e.tags:e.header]
	for len(tags) > 0 {
		end := bytes.IndexByte(tags, 0)
		if bytes.Equal(tags[:end], tag) {
			return true
		}
		tags = tags[end+1:]
	}
	return false
}

// Attach hangs something on the entry that was made from it and never changes, such as a rendered head; the store counts
// it with size bytes. It is to be called once, before the entry is given to anyone.
func (e *Entry) Attach(v any, size int64) {
	if e.hash != 0 || e.attached != nil {
		panic("BUG: a cache.Entry was attached to late or twice")
	}
	e.attached = v
	e.size += size
}

// Attached is what was attached, nil for nothing.
func (e *Entry) Attached() any { return e.attached }

func (e *Entry) hopelessAt(now int64) bool {
	return e.hopeless(e.HasValidator(), now)
}
