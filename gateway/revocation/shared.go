package revocation

import (
	"encoding/json"
	"slices"
	"time"
)

// Book is what tells other instances of entries, by their ids.
type Book = interface{ Write(id, value string) }

// doubt is by how much clocks of instances may differ. An entry that has ended here may be in force elsewhere, and is taken out of the books only
// when it has ended everywhere.
const doubt = 24 * time.Hour

// sharing is what a List tells other instances. Its writing guards it.
type sharing struct {
	books []Book
	over  []end // what is to be taken out of the books
	full  bool  // it was said that there are too many
}

// end is when an entry has ended.
type end struct {
	id string
	at time.Time
}

// Share has what is revoked told through the book that open returns, which asks Learn and All. Nothing is revoked between its opening and the
// first that it is told. There may be several, as while a configuration takes the place of another.
func (l *List) Share(open func() Book) {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.books = append(l.books, open())
}

// Unshare ends that.
func (l *List) Unshare(b Book) {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.books = slices.DeleteFunc(l.books, func(o Book) bool { return o == b })
}

// tell tells other instances of an entry. l.writing is held.
func (l *List) tell(e *Entry) {
	for _, b := range l.books {
		b.Write(e.ID, text(e))
	}
}

// tellEnded takes entries out of the books, when it is time for that. l.writing is held.
func (l *List) tellEnded(ended []*Entry, now time.Time) {
	if len(l.books) == 0 {
		l.over = nil // who reads them in a book takes them out
		return
	}
	for _, e := range ended {
		l.over = append(l.over, end{e.ID, e.Until.Add(doubt)})
	}
	left := l.over[:0]
	for i, o := range l.over {
		if now.Before(o.at) && len(l.over)-i <= MaxEntries {
			left = append(left, o)
			continue
		}
		if _, again := l.Get(o.id); !again {
			for _, b := range l.books {
				b.Write(o.id, "")
			}
		}
	}
	l.over = left
}

// All yields all entries as other instances are told of them.
func (l *List) All(yield func(id, value string) bool) {
	for _, e := range l.Entries() {
		if !yield(e.ID, text(&e)) {
			return
		}
	}
}

// Learn takes up what another instance says of an entry, "" where it has ended, and returns what is to be said of it. In whichever order
// instances hear of entries, they come to the same. What is no entry, or one more than there may be, stays as it is: it is not this instance's
// to take away. The file has it a moment later.
func (l *List) Learn(id, value string) string {
	now := l.o.Now()
	var e Entry
	if value != "" {
		if json.Unmarshal([]byte(value), &e) != nil || e.check() != nil || e.ID != id || e.Until.Sub(now) > Furthest+doubt {
			return value
		}
		if e.Until.Add(doubt).Before(now) {
			value = "" // whoever had it has forgotten to take it out
		} else if !l.put(e, 2*MaxEntries, true) {
			l.tooMany()
			return value
		}
	}
	have, ok := l.Get(id)
	if !ok || value != "" && have == e {
		return value
	}
	return text(&have)
}

func (l *List) tooMany() {
	l.writing.Lock()
	defer l.writing.Unlock()
	if !l.full {
		l.full = true
		l.o.Log.Error("other instances have revoked more than this one can hold; what is beyond that passes here", "most", 2*MaxEntries)
	}
}

func text(e *Entry) string {
	b, err := json.Marshal(e)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return string(b)
}
