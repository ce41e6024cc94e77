package cluster

import (
	"context"
	_ "embed"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

//go:embed purge.lua
var purgeText string

var purgeScript = newScript(purgeText)

const (
	// keptPurges is how many purges an instance may miss and still hear of each.
	keptPurges = 1000
	// maxEvents bounds the messages that wait to be sent, and those that wait to be read.
	maxEvents = 4096
	// maxBreaker bounds the name of a circuit breaker that others are told of, in bytes.
	maxBreaker = 1024
	// everything is what is purged where it is not known what was missed.
	everything = ""
)

// events are what instances tell each other. A message may get lost: one that asks for tokens is sent again, one that a cache is purged
// stands in a log too.
type events struct {
	store *Store
	out   chan string
	in    chan string

	mu      sync.Mutex
	purge   func(what string)
	breaker func(service, endpoint string)
	pending []string // purges that nobody could be told of
	books   map[*Book]struct{}

	// run's own.
	known int64 // number of the last purge that was carried out; 0: the log was empty, -1: it was not read yet
}

func newEvents(s *Store) *events {
	return &events{store: s, out: make(chan string, maxEvents), in: make(chan string, maxEvents), known: -1}
}

// OnPurge has f called for each purge that another instance has asked for, and with "" where purges were missed and it is not known
// which. It is called by one goroutine.
func (s *Store) OnPurge(f func(what string)) {
	s.events.mu.Lock()
	s.events.purge = f
	s.events.mu.Unlock()
}

// OnBreaker has f called when another instance says that a circuit breaker has opened there, that of an endpoint or, with "", of the
// service. It is hearsay: the names are whatever was sent, of a bounded length. It is called by the goroutine of OnPurge.
func (s *Store) OnBreaker(f func(service, endpoint string)) {
	s.events.mu.Lock()
	s.events.breaker = f
	s.events.mu.Unlock()
}

// BreakerOpened tells the other instances that a circuit breaker has opened here. It does not wait, and may get lost.
func (s *Store) BreakerOpened(service, endpoint string) {
	if text := service + "\n" + endpoint; len(text) <= maxBreaker {
		s.events.send("breaker", text)
	}
}

// errPending says that the others are told later.
var errPending = errors.New("the shared store does not answer; the other instances are told when it does")

// Purge tells the other instances what to purge. With an error they are told later.
func (s *Store) Purge(what string) error {
	r := s.ask("purge", s.purgeOf(what))[0]
	n, err := r.AsInt64()
	if err != nil {
		s.events.mu.Lock()
		defer s.events.mu.Unlock()
		if len(s.events.pending) >= keptPurges {
			s.events.pending = []string{everything}
		} else if !slices.Contains(s.events.pending, what) {
			s.events.pending = append(s.events.pending, what)
		}
		return errPending
	}
	s.events.send("purge", number(n)+" "+what)
	return nil
}

func (s *Store) purgeOf(what string) command {
	return command{&purgeScript, s.key("purges"), []string{what, strconv.Itoa(keptPurges)}}
}

// send sends a message when there is time; it is dropped where too many wait.
func (e *events) send(kind, text string) {
	select {
	case e.out <- kind + "\n" + e.store.id + "\n" + text:
	default:
	}
}

// tell sends what is to be told.
func (e *events) tell() {
	for {
		select {
		case <-e.store.ctx.Done():
			return
		case m := <-e.out:
			if e.store.up.Load() {
				e.store.publishRaw(m)
			}
		}
	}
}

func (s *Store) publish(kind, text string) { s.publishRaw(kind + "\n" + s.id + "\n" + text) }

func (s *Store) publishRaw(message string) {
	c := s.client.Load()
	if c == nil {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	sent := time.Now()
	err := (*c).Do(ctx, (*c).B().Publish().Channel(s.key("events")).Message(message).Build()).Error()
	s.observe("publish", sent, err)
}

// run listens, and reads the log of purges whenever it has begun to listen anew.
func (e *events) run() {
	e.store.done.Go(e.listen)
	pending := time.NewTicker(time.Second)
	defer pending.Stop()
	for {
		select {
		case <-e.store.ctx.Done():
			return
		case m := <-e.in:
			e.handle(m)
		case <-pending.C:
			e.retell()
		}
	}
}

// again, in the place of a message, has the log read.
const again = "again"

func (e *events) listen() {
	s := e.store
	note := func(m string) {
		select {
		case e.in <- m:
		default: // what is lost of purges is noticed by their numbers
		}
	}
	for s.ctx.Err() == nil {
		if c := s.client.Load(); c != nil {
			ctx := rueidis.WithOnSubscriptionHook(s.ctx, func(m rueidis.PubSubSubscription) {
				if m.Kind == "subscribe" {
					note(again)
				}
			})
			_ = (*c).Receive(ctx, (*c).B().Subscribe().Channel(s.key("events")).Build(), func(m rueidis.PubSubMessage) { note(m.Message) })
		}
		select {
		case <-s.ctx.Done():
		case <-time.After(probeEvery):
		}
	}
}

func (e *events) handle(message string) {
	if message == again {
		e.catchUp()
		return
	}
	parts := strings.SplitN(message, "\n", 3)
	if len(parts) != 3 {
		return
	}
	kind, from, text := parts[0], parts[1], parts[2]
	mine := from == e.store.id
	switch {
	case kind == "purge":
		number, what, _ := strings.Cut(text, " ")
		n, err := strconv.ParseInt(number, 10, 64)
		switch {
		case err != nil || e.known < 0 || n <= e.known:
		case e.known == 0 || n == e.known+1:
			e.known = n
			if !mine {
				e.carryOut(what)
			}
		default:
			e.catchUp()
		}
	case mine:
	case kind == "joined", kind == "left":
		e.store.hurry()
	case kind == "book":
		e.mu.Lock()
		for b := range e.books {
			if b.name == text {
				b.rouse()
			}
		}
		e.mu.Unlock()
	case kind == "breaker":
		service, endpoint, ok := strings.Cut(text, "\n")
		e.mu.Lock()
		f := e.breaker
		e.mu.Unlock()
		if ok && f != nil && len(text) <= maxBreaker {
			f(service, endpoint)
		}
	case kind == "recall":
		if id, name, ok := strings.Cut(text, "\n"); ok {
			e.store.limiter.recalled(id, name)
		}
	}
}

// follow rouses a book when others have written in it, until leave. A book may be open more than once.
func (e *events) follow(b *Book) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.books == nil {
		e.books = make(map[*Book]struct{})
	}
	e.books[b] = struct{}{}
}

func (e *events) leave(b *Book) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.books, b)
}

func (e *events) carryOut(what string) {
	e.mu.Lock()
	f := e.purge
	e.mu.Unlock()
	if f != nil {
		f(what)
	}
}

// catchUp carries out what the log has of purges that were not heard of.
func (e *events) catchUp() {
	c := e.store.client.Load()
	if c == nil {
		return
	}
	ctx, cancel := context.WithTimeout(e.store.ctx, patience)
	defer cancel()
	log, err := (*c).Do(ctx, (*c).B().Lrange().Key(e.store.key("purges")).Start(0).Stop(keptPurges-1).Build()).AsStrSlice()
	if err != nil {
		return // the next message, or the next time that listening begins, tells
	}
	known := e.known
	e.known = 0
	var missed []string
	first := int64(0)
	for i, line := range log {
		number, what, _ := strings.Cut(line, " ")
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			continue
		}
		if i == 0 {
			e.known = n
		}
		if n > known {
			missed, first = append(missed, what), n
		}
	}
	switch {
	case known < 0:
		// This instance has just begun: its cache is empty.
	case known > 0 && (e.known < known || len(missed) > 0 && first != known+1):
		e.store.o.Log.Warn("purges of the cache were missed, and it is not known which; all of it is purged")
		e.carryOut(everything)
	default:
		slices.Reverse(missed)
		for _, what := range missed {
			e.carryOut(what)
		}
	}
}

// retell tells of purges that nobody could be told of.
func (e *events) retell() {
	if !e.store.up.Load() {
		return
	}
	e.mu.Lock()
	pending := e.pending
	e.pending = nil
	e.mu.Unlock()
	for _, what := range pending {
		_ = e.store.Purge(what) // what fails is pending again
	}
}
