package cluster

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

const (
	// maxWaiting bounds the calls that wait to be sent, maxBatch those that are sent in one go, and maxFlushes those goes.
	maxWaiting = 4096
	maxBatch   = 256
	maxFlushes = 32
)

// call is one that somebody may wait for.
type call struct {
	command
	op     string
	sent   time.Time
	result rueidis.RedisResult
	done   chan struct{} // has room for one
	// given up: nobody waits any more, and it need not be sent.
	givenUp atomic.Bool
	// then is called with the result in the place of done, where nobody waits.
	then func(*call)
}

// ask sends calls in one go and waits for their results, for the timeout at most. Of those that are not there then the error says so;
// they may have been carried out all the same.
func (s *Store) ask(op string, commands ...command) []rueidis.RedisResult {
	if !s.up.Load() {
		return failed(len(commands), errDown)
	}
	results := make([]rueidis.RedisResult, len(commands))
	calls := make([]*call, len(commands))
	sent := time.Now()
	for i := range commands {
		calls[i] = &call{command: commands[i], op: op, sent: sent, done: make(chan struct{}, 1)}
		select {
		case s.queue <- calls[i]:
		default:
			calls[i], results[i] = nil, rueidis.NewErrorResult(errBusy)
		}
	}
	t := time.NewTimer(s.o.Timeout)
	defer t.Stop()
	late := false
	for i, c := range calls {
		switch {
		case c == nil:
			continue
		case late:
			select {
			case <-c.done:
				results[i] = c.result
			default:
				c.givenUp.Store(true)
				results[i] = rueidis.NewErrorResult(errLate)
			}
			continue
		}
		select {
		case <-c.done:
			results[i] = c.result
		case <-t.C:
			late = true
			c.givenUp.Store(true)
			results[i] = rueidis.NewErrorResult(errLate)
		}
	}
	return results
}

// send has a call made that nobody waits for. It tells whether there was room for it.
func (s *Store) send(op string, m command, then func(*call)) bool {
	if !s.up.Load() {
		return false
	}
	select {
	case s.queue <- &call{command: m, op: op, sent: time.Now(), then: then}:
		return true
	default:
		return false
	}
}

// deliver sends what waits, as much as there is in one go.
func (s *Store) deliver() {
	for {
		var batch []*call
		select {
		case <-s.ctx.Done():
			return
		case c := <-s.queue:
			batch = append(batch, c)
		}
		for more := true; more && len(batch) < maxBatch; {
			select {
			case c := <-s.queue:
				batch = append(batch, c)
			default:
				more = false
			}
		}
		select {
		case <-s.ctx.Done():
			return
		case s.flushes <- struct{}{}:
		}
		s.done.Go(func() {
			defer func() { <-s.flushes }()
			s.flush(batch)
		})
	}
}

func (s *Store) flush(batch []*call) {
	ctx, cancel := context.WithTimeout(s.ctx, s.o.Timeout)
	defer cancel()
	if batch = slices.DeleteFunc(batch, func(c *call) bool { return c.givenUp.Load() }); len(batch) == 0 {
		return
	}
	commands := make([]command, len(batch))
	for i, c := range batch {
		commands[i] = c.command
	}
	defer s.watch(time.Now())()
	for i, r := range s.exec(ctx, commands) {
		c := batch[i]
		err := r.Error()
		s.observe(c.op, c.sent, err)
		s.fault(err)
		c.result = r
		if c.then != nil {
			c.then(c)
		} else {
			c.done <- struct{}{}
		}
	}
}
