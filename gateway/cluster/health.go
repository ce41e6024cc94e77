package cluster

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// beats says again and again that this instance is there, learns of the others, and finds out whether the store answers.
func (s *Store) beats() {
	t := time.NewTimer(0)
	defer t.Stop()
	for first := true; ; first = false {
		select {
		case <-s.ctx.Done():
			return
		case <-s.wake:
		case <-t.C:
		}
		s.beat()
		if first {
			close(s.first)
		}
		if s.up.Load() {
			t.Reset(beatEvery)
		} else {
			t.Reset(probeEvery)
		}
	}
}

// beat makes one call. Only here is it found that the store is back.
func (s *Store) beat() {
	if s.client.Load() == nil {
		c, err := s.connect()
		if err != nil {
			s.down(err)
			return
		}
		s.client.Store(&c)
	}
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	sent := time.Now()
	defer s.watch(sent)()
	res := s.exec(ctx, []command{{&beatScript, s.key("{instances}"), []string{s.id, strconv.FormatInt(stay.Milliseconds(), 10), "0"}}})[0]
	joined, ids, err := readBeat(res)
	s.observe("beat", sent, err)
	if err != nil {
		s.fault(err)
		return
	}
	s.count(ids)
	if joined {
		s.events.send("joined", "")
	}
	if !s.up.Load() && time.Since(sent) <= s.o.Timeout {
		s.back()
	}
}

func readBeat(res rueidis.RedisResult) (joined bool, ids []string, err error) {
	all, err := res.ToArray()
	if err != nil || len(all) != 2 {
		return false, nil, cmpErr(err)
	}
	n, err := all[0].AsInt64()
	if err != nil {
		return false, nil, err
	}
	ids, err = all[1].AsStrSlice()
	return n == 1, ids, err
}

// maxBeats is how many of the latest beats decide the numbers of instances.
const maxBeats = 4

func (s *Store) count(ids []string) {
	if ids = slices.DeleteFunc(ids, func(id string) bool { return len(id) != idLen }); len(ids) == 0 {
		ids = []string{s.id}
	}
	if s.sizes = append(s.sizes, len(ids)); len(s.sizes) > maxBeats {
		s.sizes = slices.Clone(s.sizes[len(s.sizes)-maxBeats:])
	}
	s.fleet.Store(&fleet{ids: strings.Join(ids, " "), now: len(ids), most: slices.Max(s.sizes), least: slices.Min(s.sizes)})
}

// leave tells the others that this instance is gone.
func (s *Store) leave() {
	s.publish("left", "")
	ctx, cancel := context.WithTimeout(s.ctx, s.o.Timeout)
	defer cancel()
	s.exec(ctx, []command{{&beatScript, s.key("{instances}"), []string{s.id, "1", "1"}}})
}

// hurry has the next beat come at once.
func (s *Store) hurry() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// observe notes how a call has ended.
func (s *Store) observe(op string, sent time.Time, err error) {
	took := time.Since(sent)
	switch {
	case err != nil:
	case took <= s.o.Timeout:
		s.answered.Store(int64(time.Since(s.begun)))
	default:
		// Where there is little to ask, nothing else might be answered before the store counts as gone.
		s.hurry()
	}
	s.o.Observe(op, took, err)
}

// silence is for how many timeouts nothing is answered in time before the store counts as gone. One answer that is late is no reason to leave
// the others: requests that wait give up by themselves, and what is lent lasts for longer.
const silence = 4

// watch takes the store for gone if from a call on nothing is answered in time. ended is called when the call has.
func (s *Store) watch(sent time.Time) (ended func()) {
	unanswered := func() bool { return s.answered.Load() < int64(sent.Sub(s.begun)) }
	t := time.AfterFunc(silence*s.o.Timeout, func() {
		switch {
		case !unanswered():
		case time.Since(sent) > (silence+1)*s.o.Timeout:
			// It was this process that stood still, and the answers may lie unread. To go on alone now would be to do again what the
			// others have done in its place, so the store is asked first.
			s.watch(time.Now())
			s.hurry()
		default:
			s.down(errLate)
		}
	})
	return func() {
		if !unanswered() {
			t.Stop()
		}
	}
}

// fault tells what an error says of the store as a whole.
func (s *Store) fault(err error) {
	if err == nil || errors.Is(err, context.Canceled) && s.ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		return // watch has decided on what is late
	}
	if e, ok := rueidis.IsRedisErr(err); ok {
		word, _, _ := strings.Cut(e.Error(), " ")
		switch word {
		case "LOADING", "READONLY", "OOM", "MISCONF", "NOAUTH", "WRONGPASS", "NOPERM", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS", "BUSY":
		default:
			return // one key is not what it should be
		}
	}
	s.down(err)
}

// down takes the store for gone.
func (s *Store) down(err error) {
	if s.ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.up.Swap(false) {
		s.told = true
		s.o.Log.Warn("the shared store does not answer", "error", describe(err), "instances", s.Instances(), "on_failure", s.o.OnFailure.String())
		s.hurry()
	} else if !s.told {
		s.told = true
		s.o.Log.Warn("the shared store can not be reached; it is looked for again and again", "error", describe(err), "on_failure", s.o.OnFailure.String())
	}
}

// describe puts an error on one line.
func describe(err error) string { return strings.ReplaceAll(err.Error(), "\n", " ") }

// back takes it for there again.
func (s *Store) back() {
	s.mu.Lock()
	s.told = true
	s.up.Store(true)
	f := slices.Clone(s.recovered)
	s.mu.Unlock()
	s.o.Log.Info("the shared store answers", "instances", s.Instances())
	s.limiter.recover()
	for _, f := range f {
		s.done.Go(*f)
	}
}

func (f OnFailure) String() string { return [...]string{"local", "allow", "deny"}[f] }

func cmpErr(err error) error {
	if err == nil {
		return errors.New("the store has answered something else than was asked")
	}
	return err
}
