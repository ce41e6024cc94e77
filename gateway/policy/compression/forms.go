package compression

import (
	"sync"
	"sync/atomic"
	"weak"

	"sluice/gateway/coding"
	"sluice/gateway/exchange"
)

// forms bounds the compressed forms of stored responses. A form hangs on its
// response and goes with it; one that was used since it was last looked at stays
// a round longer than one that was not.
type forms struct {
	mu    sync.Mutex
	limit int64
	size  int64
	queue []form // the oldest first, from head on
	head  int
}

// form is a place in the queue. It keeps neither the response nor its form.
type form struct {
	of     weak.Pointer[exchange.Reply]
	coding coding.Coding
	size   int64
}

// formSize is what a form takes beside its bytes, about.
const formSize = 128

// kept is what all forms of the process take, in bytes.
var kept atomic.Int64

func newForms() (*forms, error) { return &forms{}, nil }

// Close implements io.Closer: what is kept counts no longer.
func (f *forms) Close() error {
	f.bound(0)
	return nil
}

// bound sets the limit in bytes.
func (f *forms) bound(limit int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limit = limit
	f.shrink()
}

// keep hangs a copy of coded on the response. One that saves nothing is kept as
// nothing, so that it is not tried again.
func (f *forms) keep(r *exchange.Reply, c coding.Coding, coded []byte) {
	made := &exchange.Coded{}
	if len(coded) < len(r.Body) {
		made.Body = append([]byte(nil), coded...)
	}
	size := formSize + int64(cap(made.Body))
	f.mu.Lock()
	defer f.mu.Unlock()
	if size > f.limit || !r.Coded[c].CompareAndSwap(nil, made) {
		return
	}
	f.queue = append(f.queue, form{weak.Make(r), c, size})
	f.add(size)
	f.shrink()
}

func (f *forms) add(size int64) {
	f.size += size
	kept.Add(size)
}

// shrink lets go of the oldest until the limit is kept.
func (f *forms) shrink() {
	for f.size > f.limit && f.head < len(f.queue) {
		oldest := f.queue[f.head]
		f.queue[f.head] = form{}
		f.head++
		if r := oldest.of.Value(); r != nil {
			made := r.Coded[oldest.coding].Load()
			if made.Used.Swap(false) && f.limit > 0 {
				f.queue = append(f.queue, oldest)
				continue
			}
			r.Coded[oldest.coding].Store(nil)
		}
		f.add(-oldest.size)
	}
	if f.head > len(f.queue)/2 {
		f.queue = append(f.queue[:0], f.queue[f.head:]...)
		f.head = 0
	}
}
