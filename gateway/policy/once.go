package policy

import "sync"

// memo is what builds of one generation share.
type memo struct {
	entries sync.Map // name to *memoEntry
}

type memoEntry struct {
	once  sync.Once
	value any
	err   error
}

// Once returns what make returns for this name, which is called at most once in a generation: an index over all consumers
// is the same for every route. Callers of one name want the same T.
func Once[T any](w *World, name string, make func() (T, error)) (T, error) {
	v, _ := w.memo.entries.LoadOrStore(name, new(memoEntry))
	e := v.(*memoEntry)
	e.once.Do(func() { e.value, e.err = make() })
	value, _ := e.value.(T)
	return value, e.err
}
