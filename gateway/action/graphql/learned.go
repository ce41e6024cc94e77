package graphql

import (
	"container/list"
	"sync"
)

// What is kept of operations that clients register.
const (
	maxLearned     = 1000
	maxLearnedText = 16 << 10
)

// learned are the operations that clients have registered under their hashes, the latest of them.
type learned struct {
	mu     sync.Mutex
	known  map[string]*list.Element
	latest *list.List
}

type operationText struct{ hash, text string }

func newLearned() *learned {
	return &learned{known: map[string]*list.Element{}, latest: list.New()}
}

func (l *learned) get(hash string) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.known[hash]
	if e == nil {
		return "", false
	}
	l.latest.MoveToFront(e)
	return e.Value.(operationText).text, true
}

func (l *learned) put(hash, text string) {
	if len(text) > maxLearnedText {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known[hash] != nil {
		return
	}
	l.known[hash] = l.latest.PushFront(operationText{hash, text})
	if l.latest.Len() > maxLearned {
		delete(l.known, l.latest.Remove(l.latest.Back()).(operationText).hash)
	}
}
